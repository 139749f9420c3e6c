package egress

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
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newAuthority makes an authority in a file, and the pool of those who trust it.
func newAuthority(t *testing.T) (*Authority, *x509.CertPool, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	content := writeAuthority(t, path)
	authority, err := LoadAuthority(path, 4)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(content)
	return authority, pool, path
}

func writeAuthority(t *testing.T, path string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a test's authority"}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	content = append(content, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return content
}

// rewritten is a world with a server over TLS, and sandboxes whose requests get headers.
type rewritten struct {
	*world
	// sandbox trusts our authority only.
	sandbox *x509.CertPool
	asked   atomic.Int32
	values  map[string]string
}

type rewriting struct {
	policy  Policy
	names   []string // of the server's certificate; none: allowed.example
	handler http.HandlerFunc
	clear   bool // no TLS
	forged  bool // the server's certificate is signed by nobody we know
}

func newRewritten(t *testing.T, r rewriting) *rewritten {
	t.Helper()
	servers, roots, _ := newAuthority(t)
	ours, sandbox, _ := newAuthority(t)
	if r.forged {
		roots = sandbox
	}
	server := httptest.NewUnstartedServer(r.handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if r.clear {
		server.Start()
	} else {
		if r.names == nil {
			r.names = []string{"allowed.example"}
		}
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			for _, name := range r.names {
				if name == hello.ServerName {
					return servers.certificate(name)
				}
			}
			return servers.certificate(r.names[0])
		}}
		server.StartTLS()
	}
	t.Cleanup(server.Close)
	made := &rewritten{sandbox: sandbox}
	made.world = newWorldOf(t, server.Listener.Addr().String(), r.policy, func(config *Config) {
		config.Authority, config.Roots = ours, roots
		config.Values = func(_ context.Context, _ netip.Addr, names []string) (map[string]string, error) {
			made.asked.Add(1)
			if made.values == nil {
				return nil, errors.New("the store is away")
			}
			return made.values, nil
		}
	})
	return made
}

var token = []Header{{"authorization", "Bearer t0ken"}, {"X-Api-Key", "k3y"}}

func ruled(domains ...string) Policy {
	policy := Policy{Open: true}
	for _, domain := range domains {
		policy.Rules = append(policy.Rules, Rule{Domain: domain, Headers: token})
	}
	return policy
}

// client is a program in the sandbox.
func (r *rewritten) client(http2 bool) *http.Client {
	transport := &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			_, port, _ := net.SplitHostPort(address)
			number := 443
			fmt.Sscan(port, &number)
			return r.connect(uint32(number)), nil
		},
		TLSClientConfig:   &tls.Config{RootCAs: r.sandbox},
		ForceAttemptHTTP2: http2,
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func (r *rewritten) get(client *http.Client, url string, differ func(*http.Request)) (int, string) {
	r.t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if differ != nil {
		differ(request)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Error(err)
	}
	return response.StatusCode, string(body)
}

func headerTeller(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Alt-Svc", `h3=":443"`)
	fmt.Fprintf(w, "%s %s%s %q %q", r.Proto, r.Host, r.URL.RequestURI(), r.Header["Authorization"], r.Header["X-Api-Key"])
}

func TestHeadersArePutInPlaceOfTheSandboxesOwn(t *testing.T) {
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), handler: headerTeller})
	for _, http2 := range []bool{false, true} {
		status, told := w.get(w.client(http2), "https://allowed.example/a?b=%2f;c", func(r *http.Request) {
			r.Header["Authorization"] = []string{"mine", "mine too"}
			if !http2 {
				r.Header.Set("Connection", "close, X-Api-Key")
			}
		})
		want := `HTTP/2.0 allowed.example/a?b=%2f;c ["Bearer t0ken"] ["k3y"]`
		if status != http.StatusOK || told != want {
			t.Errorf("http2 %v: %d %s", http2, status, told)
		}
	}
	if dialled := <-w.dialled; dialled != "203.0.113.1:443" {
		t.Errorf("not where the name leads: %s", dialled)
	}
	if strings.Contains(w.log.String(), "t0ken") {
		t.Error("in the log")
	}
}

func TestTheNameOfARuleMayHaveAStar(t *testing.T) {
	policy := ruled("*.wild.example", "*.b.wild.example")
	policy.Rules[1].Headers = []Header{{"X-Api-Key", "the longer"}}
	w := newRewritten(t, rewriting{policy: policy, names: []string{"a.b.wild.example"}, handler: headerTeller})
	if _, told := w.get(w.client(true), "https://A.b.wild.example/", nil); !strings.HasSuffix(told, `[] ["the longer"]`) {
		t.Error(told)
	}
}

func TestServersThatDoNotProveTheirNameGetNothing(t *testing.T) {
	for _, one := range []rewriting{{forged: true}, {names: []string{"other.example"}}} {
		reached := false
		one.policy, one.handler = ruled("allowed.example"), func(http.ResponseWriter, *http.Request) { reached = true }
		w := newRewritten(t, one)
		status, told := w.get(w.client(true), "https://allowed.example/", nil)
		if status != http.StatusBadGateway || !strings.Contains(told, "certificate") || reached {
			t.Errorf("%d %s %v", status, told, reached)
		}
	}
}

func TestARequestForAnotherHostThanTLSIsMisdirected(t *testing.T) {
	names := []string{"allowed.example", "other.example"}
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), names: names, handler: headerTeller})
	for _, http2 := range []bool{false, true} {
		for _, host := range []string{"other.example", "allowed.example:8443", "203.0.113.1", "allowed.example@other.example", "xallowed.example"} {
			status, told := w.get(w.client(http2), "https://allowed.example/", func(r *http.Request) { r.Host = host })
			// What is no host at all is told so by net/http: by the client's, or by ours.
			if strings.Contains(told, "invalid Host") {
				continue
			}
			if status != http.StatusMisdirectedRequest && status != http.StatusBadRequest {
				t.Errorf("http2 %v, host %s: %d %s", http2, host, status, told)
			}
		}
	}
	if len(w.dialled) > 0 {
		t.Errorf("connected to %s", <-w.dialled)
	}
}

func TestMethodsThatShowHeadersOrTunnelAreRefused(t *testing.T) {
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), handler: headerTeller})
	for _, sent := range []string{
		"TRACE / HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n",
		"CONNECT allowed.example:443 HTTP/1.1\r\nHost: allowed.example:443\r\n\r\n",
		"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
		"GET https://other.example/ HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n",
	} {
		for _, port := range []uint32{80, 443} {
			conn := w.connect(port)
			if port == 443 {
				conn = tls.Client(conn, &tls.Config{RootCAs: w.sandbox, ServerName: "allowed.example"})
			}
			_, _ = io.WriteString(conn, sent)
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if strings.Contains(line, " 200") || strings.Contains(line, " 101") {
				t.Errorf("port %d, %.40q: %s", port, sent, line)
			}
			conn.Close()
		}
	}
	for len(w.dialled) > 0 {
		// The absolute form over port 80 names a host without a rule, and goes where the sandbox went.
		if dialled := <-w.dialled; dialled != "198.51.100.9:80" {
			t.Errorf("connected to %s", dialled)
		}
	}
}

func TestWebSocketsPassAndOtherUpgradesDoNot(t *testing.T) {
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), handler: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			headerTeller(w, r)
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.Header().Set("X-Seen", r.Header.Get("X-Api-Key"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := both.ReadString('\n')
		_, _ = io.WriteString(conn, line)
	}})
	for upgrade, status := range map[string]int{"websocket": 101, "h2c": 200} {
		conn := tls.Client(w.connect(443), &tls.Config{RootCAs: w.sandbox, ServerName: "allowed.example"})
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", upgrade)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err != nil || response.StatusCode != status {
			t.Fatal(upgrade, response, err)
		}
		if status == http.StatusSwitchingProtocols {
			if response.Header.Get("X-Seen") != "k3y" {
				t.Error(response.Header)
			}
			_, _ = io.WriteString(conn, "hello\n")
			if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
				t.Errorf("%q %v", line, err)
			}
		} else {
			_, _ = io.Copy(io.Discard, response.Body)
		}
		response.Body.Close()
		conn.Close()
	}
}

func TestBodiesStreamBothWays(t *testing.T) {
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), handler: func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "%s %s\n", lines.Text(), r.Header.Get("X-Api-Key"))
			_ = http.NewResponseController(w).Flush()
		}
	}})
	reading, writing := io.Pipe()
	request, _ := http.NewRequest(http.MethodPost, "https://allowed.example/", reading)
	response, err := w.client(true).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answers := bufio.NewReader(response.Body)
	for i := range 3 {
		fmt.Fprintf(writing, "piece %d\n", i)
		if line, err := answers.ReadString('\n'); err != nil || line != fmt.Sprintf("piece %d k3y\n", i) {
			t.Fatalf("%q %v", line, err)
		}
	}
	writing.Close()
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("%q %v", rest, err)
	}
}

func TestServersOfOtherNamesSeeNoHeaders(t *testing.T) {
	names := []string{"allowed.example", "other.example"}
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), names: names, handler: func(w http.ResponseWriter, r *http.Request) {
		if r.Host == "allowed.example" {
			http.Redirect(w, r, "https://other.example/", http.StatusTemporaryRedirect)
			return
		}
		headerTeller(w, r)
	}})
	client := w.client(true)
	// What has no rule is carried as it is: its own certificate is seen.
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: w.sandbox, DNSName: state.ServerName})
		if (err == nil) != (state.ServerName == "allowed.example") {
			return fmt.Errorf("%s shows the wrong certificate", state.ServerName)
		}
		return nil
	}}
	if _, told := w.get(client, "https://allowed.example/", nil); !strings.HasSuffix(told, "other.example/ [] []") {
		t.Error(told)
	}
	if first, second := <-w.dialled, <-w.dialled; first != "203.0.113.1:443" || second != "198.51.100.9:443" {
		t.Error(first, second)
	}
}

func TestWhatIsNoTLSGoesWhereItWasGoingIfThatIsOpen(t *testing.T) {
	w := newWorldOf(t, echo(t), ruled("allowed.example"), func(*Config) {})
	conn := w.connect(443)
	_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
	got := make([]byte, 11)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "SSH-2.0-x\r\n" {
		t.Errorf("%q %v", got, err)
	}
	if dialled := <-w.dialled; dialled != "198.51.100.9:443" {
		t.Error(dialled)
	}
}

func echo(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
				_ = closeWrite(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func TestARuleOpensNothing(t *testing.T) {
	closed := ruled("allowed.example")
	closed.Open = false
	denied := ruled("allowed.example")
	denied.Denied = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	private := ruled("rebound.example")
	for why, policy := range map[string]Policy{"is denied": closed, "denied: 203.0.113.1": denied, "no sandbox reaches": private} {
		w := newRewritten(t, rewriting{policy: policy, handler: headerTeller})
		for _, url := range []string{"https://" + policy.Rules[0].Domain + "/", "http://" + policy.Rules[0].Domain + "/"} {
			if status, told := w.get(w.client(false), url, nil); status != http.StatusBadGateway {
				t.Errorf("%s: %d %s", why, status, told)
			}
		}
		if len(w.dialled) > 0 || !strings.Contains(w.log.String(), why) {
			t.Errorf("%d connections; %s", len(w.dialled), w.log)
		}
	}
}

func TestAnAllowedDomainWithARuleIsReached(t *testing.T) {
	policy := ruled("allowed.example")
	policy.Open, policy.Domains = false, []string{"allowed.example", "other.example"}
	w := newRewritten(t, rewriting{policy: policy, handler: headerTeller})
	if _, told := w.get(w.client(true), "https://allowed.example/", nil); !strings.Contains(told, "t0ken") {
		t.Error(told)
	}
	<-w.dialled
	w.isRefused(443, hello(t, "nowhere.example"), "not among")
}

func TestRequestsInTheClearGetHeadersButNothingFilledIn(t *testing.T) {
	policy := ruled("allowed.example", "other.example", "token.example")
	policy.Rules[1] = Rule{Domain: "other.example", Headers: []Header{{"X-Api-Key", "${e2b.secrets.a}"}}, Placeholders: []string{"secrets.a"}}
	policy.Rules[2] = Rule{Domain: "token.example", Headers: []Header{{"X-Api-Key", "${e2b.identity.tokens.a}"}}, Placeholders: []string{"identity.tokens.a"}}
	w := newRewritten(t, rewriting{policy: policy, handler: headerTeller, clear: true})
	w.values = map[string]string{"secrets.a": "s3cret", "identity.tokens.a": "t0ken"}
	if _, told := w.get(w.client(false), "http://allowed.example/", nil); told != `HTTP/1.1 allowed.example/ ["Bearer t0ken"] ["k3y"]` {
		t.Error(told)
	}
	if dialled := <-w.dialled; dialled != "203.0.113.1:80" {
		t.Error(dialled)
	}
	for _, url := range []string{"http://other.example/", "http://token.example/"} {
		if status, told := w.get(w.client(false), url, nil); status != http.StatusForbidden || !strings.Contains(told, "TLS only") {
			t.Error(status, told)
		}
	}
	if _, told := w.get(w.client(false), "http://third.example/", nil); !strings.HasSuffix(told, "third.example/ [] []") {
		t.Error(told)
	}
	if dialled := <-w.dialled; dialled != "198.51.100.9:80" || len(w.dialled) > 0 {
		t.Error(dialled)
	}
}

func filledRule() Policy {
	return Policy{Open: true, Rules: []Rule{{
		Domain: "allowed.example", Placeholders: []string{"secrets.a", "identity.tokens.B"},
		Headers: []Header{{"X-Api-Key", "${e2b.secrets.a}:${e2b.identity.tokens.B}:${e2b.secrets.c}"}},
	}}}
}

func TestPlaceholdersAreFilledInOnce(t *testing.T) {
	w := newRewritten(t, rewriting{policy: filledRule(), handler: headerTeller})
	w.values = map[string]string{"secrets.a": "${e2b.identity.tokens.B}", "identity.tokens.B": "bee"}
	client := w.client(true)
	for range 2 {
		if _, told := w.get(client, "https://allowed.example/", nil); !strings.HasSuffix(told, `["${e2b.identity.tokens.B}:bee:${e2b.secrets.c}"]`) {
			t.Error(told)
		}
	}
	if asked := w.asked.Load(); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestWithoutItsValuesARequestIsRefused(t *testing.T) {
	for why, values := range map[string]map[string]string{
		"identity.tokens.B":          {"secrets.a": "hush"},
		"secrets.a":                  {"identity.tokens.B": "hush"},
		"none that HTTP can":         {"secrets.a": "hush\r\nX-More: 1", "identity.tokens.B": "b"},
		"the store is away":          nil,
		"with what is filled in, is": {"secrets.a": "hush\x00", "identity.tokens.B": "b"},
	} {
		w := newRewritten(t, rewriting{policy: filledRule(), handler: headerTeller})
		w.values = values
		status, told := w.get(w.client(true), "https://allowed.example/", nil)
		if status != http.StatusBadGateway || len(w.dialled) > 0 || strings.Contains(told, "hush") {
			t.Errorf("%d %s", status, told)
		}
		if text := w.log.String(); !strings.Contains(text, why) || strings.Contains(text, "hush") {
			t.Error(text)
		}
	}
}

func TestWithoutAnAuthorityNoRuleWorks(t *testing.T) {
	w := newWorldOf(t, "127.0.0.1:1", ruled("allowed.example"), func(*Config) {})
	w.isRefused(443, hello(t, "allowed.example"), "no authority")
}

func TestForgettingCutsWhatWasRewritten(t *testing.T) {
	w := newRewritten(t, rewriting{policy: ruled("allowed.example"), handler: headerTeller})
	conn := tls.Client(w.connect(443), &tls.Config{RootCAs: w.sandbox, ServerName: "allowed.example"})
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
	reader := bufio.NewReader(conn)
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	w.policies.Forget("i1", "")
	_, _ = io.Copy(io.Discard, reader)
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n")); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("not cut")
		}
	}
}

func TestAnAuthorityThatWasReplacedSignsFromThenOn(t *testing.T) {
	authority, pool, path := newAuthority(t)
	first, err := authority.certificate("a.example")
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := authority.certificate("a.example"); again != first {
		t.Error("made twice")
	}
	for i := range 10 {
		if _, err := authority.certificate(fmt.Sprintf("n%d.example", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(authority.made) > authority.most {
		t.Errorf("%d are kept", len(authority.made))
	}
	if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "a.example"}); err != nil {
		t.Error(err)
	}
	content := writeAuthority(t, path)
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	next, err := authority.certificate("a.example")
	if err != nil {
		t.Fatal(err)
	}
	fresh := x509.NewCertPool()
	fresh.AppendCertsFromPEM(content)
	if _, err := next.Leaf.Verify(x509.VerifyOptions{Roots: fresh, DNSName: "a.example"}); err != nil {
		t.Error(err)
	}
}

func FuzzAnyHeaderValueStaysOneHeader(f *testing.F) {
	f.Add("plain", "x")
	f.Add("a\r\nB: c", "${e2b.secrets.a}")
	f.Fuzz(func(t *testing.T, secret, value string) {
		p := &Proxy{Config: Config{Limits: DefaultLimits(), Values: func(context.Context, netip.Addr, []string) (map[string]string, error) {
			return map[string]string{"secrets.a": secret}, nil
		}}}
		rule := &Rule{Domain: "d", Headers: []Header{{"X-A", value + "${e2b.secrets.a}"}}, Placeholders: []string{"secrets.a"}}
		filled, err := p.headers(t.Context(), &grant{}, rule)
		if err != nil {
			return
		}
		var sent bytes.Buffer
		if err := (http.Header{"X-A": {filled[0].Value}}).Write(&sent); err != nil || bytes.Count(sent.Bytes(), []byte("\n")) != 1 {
			t.Fatalf("%q", sent.String())
		}
	})
}
