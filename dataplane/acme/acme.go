// Package acme has an authority on the network sign the certificate of a domain, and renews it (RFC 8555).
//
// The certificate is a wildcard's, for which authorities want the challenge dns-01: a TXT record of the domain. Whoever
// answers names of the domain is handed the records (Records). Everything that must outlive us is in one directory:
// account, key, certificate. certmagic decides when to try, to renew, and how long to wait after a failure.
package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	protocol "github.com/mholt/acmez/v3/acme"
)

// loadTime bounds how long Start waits for a certificate that is on the disk, a few kilobytes.
const loadTime = 5 * time.Second

// closeTime bounds how long Close takes for what is under way; it is cancelled.
const closeTime = 2 * time.Second

// Records holds the values of TXT records at _acme-challenge.<domain>.
type Records interface {
	AddChallenge(value string)
	RemoveChallenge(value string)
}

// Config is what a Manager is told.
type Config struct {
	// Domain is without a star; the certificate is for every name directly below it.
	Domain string
	// Directory is the address of the authority; Email is told to it, and stands for having agreed to its terms.
	Directory, Email string
	// Storage is a directory of ours alone.
	Storage string
	// Roots are trusted when the authority is called; nil: the host's.
	Roots   *x509.CertPool
	Records Records
	// RenewCheck is the time between two looks at whether the certificate is to be renewed.
	RenewCheck time.Duration
	Log        *slog.Logger
}

// Manager keeps one certificate.
type Manager struct {
	config Config
	cache  *certmagic.Cache
	cancel context.CancelFunc
	// loaded is closed when there is a certificate to show.
	loaded     chan struct{}
	loadedOnce sync.Once

	mu     sync.Mutex
	failed Failure
}

// Failure is the last try to get a certificate, if it failed.
type Failure struct {
	Message string
	At      time.Time
}

// Start uses the certificate that is there from its return on, and gets one, or a younger one, in the background.
func Start(config Config) (*Manager, error) {
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{config: config, cancel: cancel, loaded: make(chan struct{})}
	logger := newLogger(config.Log)
	var magic *certmagic.Config
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil },
		RenewCheckInterval: config.RenewCheck,
		Logger:             logger,
	})
	magic = certmagic.New(m.cache, certmagic.Config{
		Storage: &certmagic.FileStorage{Path: config.Storage},
		// It would have us call whomever a certificate names.
		OCSP:    certmagic.OCSPConfig{DisableStapling: true},
		OnEvent: m.note,
		Logger:  logger,
	})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, certmagic.ACMEIssuer{
		CA: config.Directory, TestCA: config.Directory, Email: config.Email, Agreed: true,
		DisableHTTPChallenge: true, DisableTLSALPNChallenge: true,
		DNS01Solver: solver{config.Records}, TrustedRoots: config.Roots, Logger: logger,
	})}
	name := "*." + config.Domain
	if err := magic.ManageAsync(ctx, []string{name}); err != nil {
		m.Close()
		return nil, err
	}
	if magic.Storage.Exists(ctx, certmagic.StorageKeys.SiteCert(magic.Issuers[0].IssuerKey(), name)) {
		// It is read in the background: who comes first must not be shown another one.
		select {
		case <-m.loaded:
		case <-time.After(loadTime):
			config.Log.Warn("the certificate on the disk was not read in time", "domain", config.Domain)
		}
	}
	return m, nil
}

// Certificate returns what to show clients; nil until there is one. One that has ended is better than none.
func (m *Manager) Certificate() *tls.Certificate {
	var youngest *tls.Certificate
	for _, found := range m.cache.AllMatchingCertificates("any." + m.config.Domain) {
		if youngest == nil || found.Leaf.NotAfter.After(youngest.Leaf.NotAfter) {
			youngest = &found.Certificate
		}
	}
	return youngest
}

// Failure returns the last failure; nothing when the last try succeeded.
func (m *Manager) Failure() Failure {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// Close ends what is under way.
func (m *Manager) Close() {
	m.cancel()
	m.cache.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	// The next of us need not wait until they are stale.
	certmagic.CleanUpOwnLocks(ctx, newLogger(m.config.Log))
}

// note is told by certmagic what happens.
func (m *Manager) note(_ context.Context, event string, data map[string]any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch event {
	case "cached_managed_cert":
		m.loadedOnce.Do(func() { close(m.loaded) })
	case "cert_obtained":
		m.failed = Failure{}
		m.config.Log.Info("certificate signed", "domain", m.config.Domain, "directory", m.config.Directory, "renewal", data["renewal"])
	case "cert_failed":
		err, _ := data["error"].(error)
		if err == nil {
			return nil
		}
		m.failed = Failure{Message: err.Error(), At: time.Now().UTC()}
		m.config.Log.Error("certificate not signed; tried again later", "domain", m.config.Domain, "directory", m.config.Directory, "error", err)
	}
	return nil
}

// solver shows the authority that the domain is ours.
type solver struct{ records Records }

func (s solver) Present(_ context.Context, challenge protocol.Challenge) error {
	s.records.AddChallenge(challenge.DNS01KeyAuthorization())
	return nil
}

func (s solver) CleanUp(_ context.Context, challenge protocol.Challenge) error {
	s.records.RemoveChallenge(challenge.DNS01KeyAuthorization())
	return nil
}
