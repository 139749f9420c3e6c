package acme_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"atoll.dev/dataplane/edge"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

const (
	domain   = "sbx.test"
	patience = 40 * time.Second
)

// authority is Let's Encrypt's own authority for tests, in this process. It asks our name server about the domain.
type authority struct {
	directory string
	roots     *x509.CertPool
	// transport is what its own certificate is signed by, in a file.
	transport string
	close     func()
}

func newAuthority(t *testing.T, resolver string, validSeconds uint64, blocked ...string) *authority {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	rows := db.NewMemoryStore()
	for _, name := range blocked {
		if err := rows.AddBlockedDomain(name); err != nil {
			t.Fatal(err)
		}
	}
	profiles := map[string]ca.Profile{"default": {Description: "of the test", ValidityPeriod: validSeconds}}
	signer := ca.New(quiet, rows, "", "ecdsa", 0, 1, profiles)
	front := wfe.New(quiet, rows, va.New(quiet, 1, 1, true, resolver, rows), signer, []string{domain}, true, false, 0, 1)
	server := httptest.NewTLSServer(front.Handler())
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(signer.GetRootCert(0).PEM())
	file := filepath.Join(t.TempDir(), "authority.pem")
	written := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, written, 0o600); err != nil {
		t.Fatal(err)
	}
	return &authority{directory: server.URL + "/dir", roots: roots, transport: file, close: server.Close}
}

// home is an edge whose first certificate nobody trusts.
type home struct {
	*edge.Edge
	t      *testing.T
	config edge.Config
	stop   func()
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"*." + domain}, NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: signed})
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: private})
	file := filepath.Join(dir, "server.pem")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	limits := edge.DefaultLimits()
	limits.StopTime, limits.ACMECheck = 100*time.Millisecond, 200*time.Millisecond
	return &home{t: t, config: edge.Config{
		Listen: []string{"127.0.0.1:0"}, TLSListen: []string{"127.0.0.1:0"}, TLSCert: file, TLSKey: file, Domain: domain,
		API: filepath.Join(dir, "api.sock"), Control: filepath.Join(dir, "control.sock"), Admin: filepath.Join(dir, "edge.sock"),
		Range: netip.MustParsePrefix("127.0.0.0/8"), PublicZoneListen: freeAddress(t), ZoneAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		ACMEEmail: "who@sbx.test", ACMEStorage: filepath.Join(dir, "acme"), Limits: limits,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := packets.LocalAddr().String()
		packets.Close()
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

func (h *home) start(of *authority) {
	h.t.Helper()
	h.config.ACMEDirectory, h.config.ACMERoots = of.directory, of.transport
	running, err := edge.Start(context.Background(), h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.Wait(ctx) }()
	h.Edge = running
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
	h.t.Cleanup(func() { h.stop() })
}

// connect shakes hands as a client does that knows the domain, and trusts whom it is told to.
func (h *home) connect(roots *x509.CertPool) (*tls.Conn, error) {
	return tls.Dial("tcp", h.TLSAddresses()[0], &tls.Config{
		ServerName: "3000-i0123456789abcdefghij." + domain, RootCAs: roots, InsecureSkipVerify: roots == nil,
	})
}

func (h *home) await(what string, there func() bool) {
	h.t.Helper()
	for end := time.Now().Add(patience); !there(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatal("not within patience: ", what)
		}
	}
}

func (h *home) trusted(roots *x509.CertPool) *big.Int {
	conn, err := h.connect(roots)
	if err != nil {
		h.t.Log("no handshake: ", err)
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber
}

// answers says whether a connection is of use: nobody is behind the edge, which says so.
func answers(t *testing.T, conn *tls.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: nobody.sbx.test\r\n\r\n")
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal("the connection ended: ", err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	response.Body.Close()
}

type shown struct {
	Certificate struct {
		Signed  bool
		EndsAt  time.Time `json:"ends_at"`
		Failure string
	}
}

func (h *home) status() (found shown) {
	h.t.Helper()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", h.config.Admin)
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("http://edge/v1/status")
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		h.t.Fatal(err)
	}
	return found
}

func TestAnAuthorityOnTheNetworkSignsWhatIsShownAndKept(t *testing.T) {
	h := newHome(t)
	of := newAuthority(t, h.config.PublicZoneListen, 86400)
	h.start(of)
	before, err := h.connect(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	h.await("a certificate", func() bool { return h.trusted(of.roots) != nil })
	answers(t, before)
	if found := h.status().Certificate; !found.Signed || found.Failure != "" || time.Until(found.EndsAt) > 25*time.Hour {
		t.Errorf("%+v", found)
	}
	reply, err := dns.Exchange(new(dns.Msg).SetQuestion("_acme-challenge.sbx.test.", dns.TypeTXT), h.config.PublicZoneListen)
	if err != nil || len(reply.Answer) != 0 {
		t.Errorf("what was for the authority is still there: %v, %v", reply, err)
	}
	keys := 0
	_ = filepath.WalkDir(h.config.ACMEStorage, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return err
		}
		info, err := entry.Info()
		if err != nil || info.Mode()&0o077 != 0 {
			t.Errorf("%s is for others too: %v %v", path, info.Mode(), err)
		}
		if strings.HasSuffix(path, ".key") {
			keys++
		}
		return nil
	})
	if keys != 2 {
		t.Errorf("%d keys: the account's and the certificate's are expected", keys)
	}

	// The authority is away when we start again.
	serial := h.trusted(of.roots)
	h.stop()
	of.close()
	h.start(of)
	if again := h.trusted(of.roots); again == nil || again.Cmp(serial) != 0 {
		t.Errorf("after a restart %v is shown, and before %v", again, serial)
	}
}

func TestACertificateIsRenewedBeforeItEndsAndConnectionsGoOn(t *testing.T) {
	h := newHome(t)
	of := newAuthority(t, h.config.PublicZoneListen, 12)
	h.start(of)
	h.await("a certificate", func() bool { return h.trusted(of.roots) != nil })
	first := h.trusted(of.roots)
	kept, err := h.connect(of.roots)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	h.await("another certificate", func() bool {
		now := h.trusted(of.roots)
		if now == nil {
			t.Fatal("for a while nothing was shown that holds")
		}
		return now.Cmp(first) != 0
	})
	answers(t, kept)
}

func TestWhatIsRefusedIsToldAndTriedAgainAfterAStart(t *testing.T) {
	h := newHome(t)
	of := newAuthority(t, h.config.PublicZoneListen, 86400, domain)
	h.start(of)
	h.await("a failure", func() bool { return h.status().Certificate.Failure != "" })
	found := h.status().Certificate
	if found.Signed || !strings.Contains(found.Failure, "rejectedIdentifier") {
		t.Errorf("%+v", found)
	}
	if conn, err := h.connect(nil); err != nil {
		t.Error("nothing is shown meanwhile: ", err)
	} else {
		conn.Close()
	}
	h.stop()
	better := newAuthority(t, h.config.PublicZoneListen, 86400)
	h.start(better)
	h.await("a certificate", func() bool { return h.trusted(better.roots) != nil })
	if found := h.status().Certificate; !found.Signed || found.Failure != "" {
		t.Errorf("%+v", found)
	}
}

func TestAnAuthorityThatFindsNothingAtTheDomainSaysSo(t *testing.T) {
	h := newHome(t)
	// The domain leads to somebody else's name server.
	other := newHome(t)
	other.config.ACMEDirectory = ""
	running, err := edge.Start(context.Background(), other.config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- running.Wait(ctx) }()
	defer func() { cancel(); <-ended }()
	h.start(newAuthority(t, other.config.PublicZoneListen, 86400))
	h.await("a failure", func() bool {
		return strings.Contains(h.status().Certificate.Failure, "_acme-challenge.sbx.test") || strings.Contains(h.status().Certificate.Failure, "unauthorized")
	})
}
