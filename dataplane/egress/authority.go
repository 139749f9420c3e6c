package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

const (
	// certificateLife is short: making one costs a millisecond, and whoever trusted it is gone in a day.
	certificateLife = 7 * 24 * time.Hour
	// certificateRest is what a certificate that is shown holds at least.
	certificateRest = 2 * 24 * time.Hour
	// certificateBefore is how far a sandbox's clock may be behind.
	certificateBefore = time.Hour
)

// Authority signs certificates for names of rules. Only sandboxes that have rules trust it; its key is in a file of the
// home, and never in a sandbox.
type Authority struct {
	path string
	most int
	key  *ecdsa.PrivateKey

	mu      sync.Mutex
	changed time.Time
	size    int64
	signer  *tls.Certificate
	made    map[string]*tls.Certificate
}

// LoadAuthority reads an authority's certificate and key from one file, and keeps so many certificates.
func LoadAuthority(path string, most int) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{path: path, most: most, key: key}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a, a.readLocked()
}

// readLocked reads the file again when it was replaced: what it signed before goes with it.
func (a *Authority) readLocked() error {
	info, err := os.Stat(a.path)
	if err != nil {
		return err
	}
	if a.signer != nil && info.ModTime().Equal(a.changed) && info.Size() == a.size {
		return nil
	}
	loaded, err := tls.LoadX509KeyPair(a.path, a.path)
	if err != nil {
		return fmt.Errorf("%s: %w", a.path, err)
	}
	if !loaded.Leaf.IsCA {
		return errors.New(a.path + ": not an authority's certificate")
	}
	a.changed, a.size, a.signer, a.made = info.ModTime(), info.Size(), &loaded, map[string]*tls.Certificate{}
	return nil
}

// certificate returns one for a name.
func (a *Authority) certificate(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.readLocked(); err != nil {
		return nil, err
	}
	now := time.Now()
	if found := a.made[name]; found != nil && found.Leaf.NotAfter.Sub(now) > certificateRest {
		return found, nil
	}
	if len(a.made) >= a.most {
		clear(a.made)
	}
	made, err := a.sign(name, now)
	if err != nil {
		return nil, err
	}
	a.made[name] = made
	return made, nil
}

func (a *Authority) sign(name string, now time.Time) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The name itself may be too long for it.
		Subject:               pkix.Name{CommonName: "Atoll egress"},
		DNSNames:              []string{name},
		NotBefore:             now.Add(-certificateBefore),
		NotAfter:              now.Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.signer.Leaf, a.key.Public(), a.signer.PrivateKey)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key, Leaf: leaf}, nil
}
