package edge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// certificate is what TLS clients are shown. Its files are read again whenever they have been replaced, so that a
// renewed one is used from the next handshake on, and no connection ends for it.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	// signed returns what an authority on the network signed, which is shown instead when there is one.
	signed atomic.Pointer[func() *tls.Certificate]

	mu      sync.Mutex
	seen    [2]fileMark
	current *tls.Certificate
}

// fileMark tells one content of a file from the next: replacing changes the inode, writing the time.
type fileMark struct {
	changed time.Time
	size    int64
	file    os.FileInfo
}

func (m fileMark) same(other fileMark) bool {
	return m.changed.Equal(other.changed) && m.size == other.size && m.file != nil && os.SameFile(m.file, other.file)
}

// loadCertificate reads both files; one file may hold certificate and key.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	marks, err := c.marks()
	if err != nil {
		return nil, err
	}
	loaded, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", certFile, keyFile, err)
	}
	c.seen, c.current = marks, &loaded
	return c, nil
}

func (c *certificate) marks() (marks [2]fileMark, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, statErr := os.Stat(path)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		marks[i] = fileMark{changed: info.ModTime(), size: info.Size(), file: info}
	}
	return marks, err
}

// get is called for each handshake. What cannot be read, or is half replaced, leaves the one that was.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if ask := c.signed.Load(); ask != nil {
		if signed := (*ask)(); signed != nil {
			return signed, nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	marks, err := c.marks()
	if err != nil || (marks[0].same(c.seen[0]) && marks[1].same(c.seen[1])) {
		return c.current, nil
	}
	// Once for each change, however many clients come meanwhile.
	c.seen = marks
	loaded, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Error("certificate not used: its files do not fit; the one before stays", "error", err)
		return c.current, nil
	}
	c.log.Info("certificate replaced", "expires", loaded.Leaf.NotAfter)
	c.current = &loaded
	return c.current, nil
}

// setSigned has another certificate shown whenever the function returns one.
func (c *certificate) setSigned(signed func() *tls.Certificate) { c.signed.Store(&signed) }

// ends returns when what is shown now does.
func (c *certificate) ends() time.Time {
	shown, _ := c.get(nil)
	return shown.Leaf.NotAfter.UTC()
}

func (c *certificate) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}
