package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate writes key and certificate for *.sbx.test into one file, in the place of what is there.
func writeCertificate(t *testing.T, path string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "sbx.test"}, DNSNames: []string{"sbx.test", "*.sbx.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
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
	if err := os.WriteFile(path+".new", text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// newSecureHome starts an edge that speaks TLS too; trusted holds its first certificate.
func newSecureHome(t *testing.T) (h *home, file string, trusted *x509.CertPool) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "server.pem")
	trusted = x509.NewCertPool()
	trusted.AddCert(writeCertificate(t, file, 1))
	h = newHome(t, func(config *Config) {
		config.TLSListen, config.TLSCert, config.TLSKey = []string{"127.0.0.1:0"}, file, file
	})
	return h, file, trusted
}

// secureClient resolves every name to the edge.
func (h *home) secureClient(trusted *x509.CertPool, http2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{
		Protocols: protocols, TLSClientConfig: &tls.Config{RootCAs: trusted}, DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, h.edge.TLSAddresses()[0])
		},
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestTLSCarriesLargeBodiesOverBothVersions(t *testing.T) {
	h, _, trusted := newSecureHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Seen-Proto", r.Header.Get("X-Forwarded-Proto"))
		_, _ = io.Copy(w, r.Body)
	})
	body := make([]byte, 8<<20)
	_, _ = rand.Read(body)
	for version, http2 := range map[int]bool{1: false, 2: true} {
		response, err := h.secureClient(trusted, http2).Post(
			fmt.Sprintf("https://3000-%s.sbx.test/", s.id), "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || crc32.ChecksumIEEE(got) != crc32.ChecksumIEEE(body) || len(got) != len(body) {
			t.Errorf("HTTP/%d: %d bytes came back, %v", version, len(got), err)
		}
		if response.ProtoMajor != version || response.Header.Get("Seen-Proto") != "https" {
			t.Errorf("HTTP/%d and %q", response.ProtoMajor, response.Header.Get("Seen-Proto"))
		}
	}
}

func TestTLSReachesTheAPIAndRoutesByHeaders(t *testing.T) {
	h, _, trusted := newSecureHome(t)
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "api at "+r.Host)
	}))
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "sandbox at "+r.Host) })
	client := h.secureClient(trusted, true)
	for url, want := range map[string]string{
		"https://api.sbx.test:8443/x":     "api at api.sbx.test:8443",
		"https://sandbox.sbx.test:8443/x": "sandbox at sandbox.sbx.test:8443",
	} {
		r, _ := http.NewRequest(http.MethodGet, url, nil)
		if strings.HasPrefix(want, "sandbox") {
			r.Header.Set(idHeader, s.id)
			r.Header.Set(portHeader, "3000")
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(got) != want {
			t.Errorf("%s: %q", url, got)
		}
	}
}

func TestWebSocketsPassOverTLSAndEndOneSideFirst(t *testing.T) {
	h, _, trusted := newSecureHome(t)
	s := h.newSandbox()
	s.serve(3000, upgradeEcho)
	name := fmt.Sprintf("3000-%s.sbx.test", s.id)
	conn, err := tls.Dial("tcp", h.edge.TLSAddresses()[0], &tls.Config{RootCAs: trusted, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n%s\r\n", name, webSocket)
	reader := bufio.NewReader(conn)
	if first, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(first, "HTTP/1.1 101") {
		t.Fatalf("%q, %v", first, err)
	}
	_, _ = io.WriteString(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(reader); err != nil || !strings.HasSuffix(string(rest), "hellobye") {
		t.Errorf("%q, %v", rest, err)
	}
}

func TestAReplacedCertificateIsShownToTheNextClientAndCutsNobody(t *testing.T) {
	h, file, trusted := newSecureHome(t)
	s := h.newSandbox()
	s.serve(3000, upgradeEcho)
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp", h.edge.TLSAddresses()[0], &tls.Config{RootCAs: trusted, ServerName: "api.sbx.test"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return conn
	}
	serial := func(conn *tls.Conn) int64 { return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() }
	old := dial()
	fmt.Fprintf(old, "GET / HTTP/1.1\r\nHost: 3000-%s.sbx.test\r\n%s\r\n", s.id, webSocket)
	head := make([]byte, 12)
	if _, err := io.ReadFull(old, head); err != nil {
		t.Fatal(err)
	}

	trusted.AddCert(writeCertificate(t, file, 2))
	if got := serial(dial()); got != 2 {
		t.Errorf("certificate %d is shown", got)
	}
	// Half a file, as a careless copy leaves it for a moment.
	if err := os.WriteFile(file, []byte("-----BEGIN CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(dial()); got != 2 {
		t.Errorf("certificate %d is shown", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := serial(dial()); got != 2 {
		t.Errorf("certificate %d is shown", got)
	}
	trusted.AddCert(writeCertificate(t, file, 3))
	if got := serial(dial()); got != 3 {
		t.Errorf("certificate %d is shown", got)
	}

	_, _ = io.WriteString(old, "still here")
	_ = old.CloseWrite()
	if rest, err := io.ReadAll(old); err != nil || !strings.HasSuffix(string(rest), "still herebye") {
		t.Errorf("the old connection: %q, %v", rest, err)
	}
}

func TestAClientThatNeverShakesHandsIsCutOff(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.pem")
	writeCertificate(t, file, 1)
	h := newHome(t, func(config *Config) {
		config.TLSListen, config.TLSCert, config.TLSKey = []string{"127.0.0.1:0"}, file, file
		config.Limits.HeaderTime = 50 * time.Millisecond
	})
	conn, err := net.Dial("tcp", h.edge.TLSAddresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if n, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestAnEdgeWithoutItsCertificateDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(context.Background(), Config{
		Admin: filepath.Join(dir, "edge.sock"), Limits: testLimits(), Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		TLSListen: []string{"127.0.0.1:0"}, TLSCert: filepath.Join(dir, "no.pem"), TLSKey: filepath.Join(dir, "no.pem"),
	})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("%v", err)
	}
}
