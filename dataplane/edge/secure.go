package edge

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	"atoll.dev/dataplane/acme"
)

// startACME shows what an authority on the network signed, as soon as there is something.
func (e *Edge) startACME() error {
	if e.config.ACMEDirectory == "" {
		return nil
	}
	roots, err := rootsWith(e.config.ACMERoots)
	if err != nil {
		return fmt.Errorf("authorities of %s: %w", e.config.ACMEDirectory, err)
	}
	manager, err := acme.Start(acme.Config{
		Domain: e.config.Domain, Directory: e.config.ACMEDirectory, Email: e.config.ACMEEmail,
		Storage: e.config.ACMEStorage, Roots: roots, Records: e.known,
		RenewCheck: e.config.Limits.ACMECheck, Log: e.config.Log,
	})
	if err != nil {
		return fmt.Errorf("certificate by ACME: %w", err)
	}
	e.acme.Store(manager)
	e.shown.Load().setSigned(manager.Certificate)
	return nil
}

// rootsWith returns the host's authorities and those in a file; nil: the host's.
func rootsWith(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	more, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(more) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return roots, nil
}

// loadShown reads the certificate of the files; it is shown where no authority on the network signed another.
func (e *Edge) loadShown() error {
	if len(e.config.TLSListen) == 0 {
		return nil
	}
	shown, err := loadCertificate(e.config.TLSCert, e.config.TLSKey, e.config.Log)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	e.shown.Store(shown)
	e.secure.TLSConfig = shown.config()
	return nil
}

func (e *Edge) listenTLS(ctx context.Context, free chan struct{}) error {
	for _, address := range e.config.TLSListen {
		listener, err := listenTCP(ctx, address)
		if err != nil {
			return err
		}
		e.tlsAddresses = append(e.tlsAddresses, listener.Addr().String())
		door := newDoor(listener, free, &e.open)
		e.serving.Go(func() {
			// The files are read by the configuration, not here.
			if err := e.secure.ServeTLS(door, "", ""); !errors.Is(err, http.ErrServerClosed) {
				e.failed <- err
			}
		})
	}
	return nil
}

// secureServer speaks what the client chooses by ALPN.
func (e *Edge) secureServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return e.clientServer(protocols)
}
