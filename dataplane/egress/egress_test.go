package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// lines is a log that is read afterwards.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// world is a proxy, what names lead to, and what listens there.
type world struct {
	t     *testing.T
	proxy *Proxy
	port  atomic.Uint32 // where connections were going
	names map[string][]string
	log   *lines
	asked atomic.Int32
	// dialled are the addresses that were connected to; all of them are the same server.
	dialled  chan string
	policies *Policies
}

func newWorld(t *testing.T, server string, domains ...string) *world {
	t.Helper()
	return newWorldOf(t, server, Policy{Domains: domains}, func(*Config) {})
}

// newWorldOf is for a policy of any kind, in a proxy that differs from the usual one.
func newWorldOf(t *testing.T, server string, policy Policy, differ func(*Config)) *world {
	t.Helper()
	policy.SandboxID, policy.Fingerprint = "i1", "the same"
	w := &world{t: t, log: &lines{}, dialled: make(chan string, 64), names: map[string][]string{
		"allowed.example": {"203.0.113.1"}, "other.example": {"203.0.113.2"}, "a.b.wild.example": {"203.0.113.3"},
		"rebound.example": {"127.0.0.1", "10.0.0.1", "::1", "169.254.169.254"}, "half.example": {"10.0.0.1", "203.0.113.4"},
		"nowhere.example": {}, "wild.example": {"203.0.113.5"}, "xwild.example": {"203.0.113.6"},
	}}
	w.policies = NewPolicies(func(context.Context, netip.Addr) (Policy, error) {
		w.asked.Add(1)
		return policy, nil
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limits := DefaultLimits()
	limits.HelloTime = 500 * time.Millisecond
	config := Config{
		Policies: w.policies, Closed: IsClosed, Limits: limits, Log: slog.New(slog.NewTextHandler(w.log, nil)),
		Original: func(net.Conn) (netip.AddrPort, error) {
			return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.9"), uint16(w.port.Load())), nil
		},
		Resolve: func(_ context.Context, name string, _ []string) ([]netip.Addr, error) {
			addresses, known := w.names[name]
			if !known {
				return nil, errors.New("no such name")
			}
			var found []netip.Addr
			for _, address := range addresses {
				found = append(found, netip.MustParseAddr(address))
			}
			return found, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			w.dialled <- address
			return (&net.Dialer{}).DialContext(ctx, network, server)
		},
	}
	differ(&config)
	w.proxy = Start(listener, config)
	t.Cleanup(w.proxy.Close)
	return w
}

func (w *world) connect(port uint32) net.Conn {
	w.t.Helper()
	w.port.Store(port)
	conn, err := net.Dial("tcp", w.proxy.listener.Addr().String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// isRefused sends and expects to be closed without an answer, and without a connection to anywhere.
func (w *world) isRefused(port uint32, sent, why string) {
	w.t.Helper()
	conn := w.connect(port)
	_, _ = io.WriteString(conn, sent)
	if got, _ := io.ReadAll(conn); len(got) > 0 {
		w.t.Errorf("%.80q was answered: %.200q", sent, got)
	}
	select {
	case address := <-w.dialled:
		w.t.Errorf("%.80q had %s connected to", sent, address)
	default:
	}
	if !strings.Contains(w.log.String(), why) {
		w.t.Errorf("%.80q: the log does not say %q:\n%s", sent, why, w.log)
	}
}

func web(t *testing.T, handler http.HandlerFunc) string {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func hostTeller(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "host=%s uri=%s forwarded=%q", r.Host, r.RequestURI, r.Header["X-Forwarded-For"])
}

func hello(t *testing.T, name string) string {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		_ = tls.Client(theirs, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	defer theirs.Close()
	defer ours.Close()
	buffer := make([]byte, 16<<10)
	n, err := ours.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

func TestAllowedNamesAreCarriedWhereTheyLead(t *testing.T) {
	w := newWorld(t, web(t, hostTeller), "allowed.example", "*.wild.example")
	for host, address := range map[string]string{
		"ALLOWED.example:80": "203.0.113.1:80", "a.b.wild.example": "203.0.113.3:80",
	} {
		conn := w.connect(80)
		fmt.Fprintf(conn, "GET /x?a;b HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
		got, _ := io.ReadAll(conn)
		if !strings.Contains(string(got), "host="+host+" uri=/x?a;b forwarded=[]") {
			t.Errorf("%s: %s", host, got)
		}
		if dialled := <-w.dialled; dialled != address {
			t.Errorf("%s: connected to %s", host, dialled)
		}
	}
}

func TestOtherWebRequestsAreRefused(t *testing.T) {
	w := newWorld(t, web(t, hostTeller), "allowed.example", "*.wild.example", "rebound.example", "nowhere.example", "missing.example")
	for _, one := range []struct{ sent, why string }{
		{"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: wild.example\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: xwild.example\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: 203.0.113.1\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: allowed.example:8080\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: allowed.example@other.example\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: evil.\x00.wild.example\r\n\r\n", ""},
		{"GET http://other.example/ HTTP/1.1\r\nHost: allowed.example\r\n\r\n", "not among"},
		{"GET / HTTP/1.0\r\n\r\n", "not among"},
		{"CONNECT allowed.example:80 HTTP/1.1\r\nHost: allowed.example:80\r\n\r\n", "not among"},
		{"GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "no sandbox reaches"},
		{"GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n", "no address"},
		{"GET / HTTP/1.1\r\nHost: missing.example\r\n\r\n", "no such name"},
	} {
		t.Run(one.sent, func(t *testing.T) {
			conn := w.connect(80)
			_, _ = io.WriteString(conn, one.sent)
			got, _ := io.ReadAll(conn)
			// What is no HTTP at all is told so by net/http.
			if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
				t.Errorf("answered: %q", got)
			}
			if len(w.dialled) > 0 {
				t.Errorf("connected to %s", <-w.dialled)
			}
			if !strings.Contains(w.log.String(), one.why) {
				t.Errorf("the log does not say %q: %s", one.why, w.log)
			}
		})
	}
}

func TestTheSecondRequestIsJudgedAsTheFirst(t *testing.T) {
	w := newWorld(t, web(t, hostTeller), "allowed.example")
	conn := w.connect(80)
	reader := bufio.NewReader(conn)
	for range 2 {
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n")
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
	if _, err := http.ReadResponse(reader, nil); err == nil {
		t.Error("the other host was answered")
	}
	if len(w.dialled) != 1 {
		t.Errorf("%d connections, not one that is kept", len(w.dialled))
	}
}

func TestAnUpgradeGoesThrough(t *testing.T) {
	w := newWorld(t, web(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := both.ReadString('\n')
		_, _ = io.WriteString(conn, line)
	}), "allowed.example")
	conn := w.connect(80)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	reader := bufio.NewReader(conn)
	if response, err := http.ReadResponse(reader, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response, err)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if line, err := reader.ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("%q %v", line, err)
	}
}

func TestTLSIsCarriedByItsName(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(hostTeller))
	t.Cleanup(server.Close)
	w := newWorld(t, server.Listener.Addr().String(), "allowed.example", "half.example")
	for _, name := range []string{"allowed.example", "half.example"} {
		conn := tls.Client(w.connect(443), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name)
		if got, err := io.ReadAll(conn); err != nil || !strings.Contains(string(got), "host="+name) {
			t.Errorf("%s %v", got, err)
		}
		if dialled := <-w.dialled; dialled != w.names[name][len(w.names[name])-1]+":443" {
			t.Error(dialled)
		}
	}
}

func TestOtherTLSIsRefused(t *testing.T) {
	w := newWorld(t, "127.0.0.1:1", "allowed.example", "rebound.example")
	w.isRefused(443, hello(t, "other.example"), "not among")
	w.isRefused(443, hello(t, "rebound.example"), "no sandbox reaches")
	w.isRefused(443, hello(t, ""), "without a server's name")
	w.isRefused(443, "GET / HTTP/1.1\r\nHost: allowed.example\r\n\r\n", "no TLS hello")
	w.isRefused(443, hello(t, "allowed.example")[:40], "no TLS hello")
	w.isRefused(443, strings.Repeat("\x16\x03\x01\x00\x01\x01", 20000), "no TLS hello")
	w.isRefused(8443, hello(t, "allowed.example"), "")
}

func TestForgettingCutsWhatIsCarried(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(hostTeller))
	t.Cleanup(server.Close)
	w := newWorld(t, server.Listener.Addr().String(), "allowed.example")
	conn := tls.Client(w.connect(443), &tls.Config{ServerName: "allowed.example", InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}

	w.policies.Forget("i2", "")
	if asked := w.asked.Load(); asked != 1 {
		t.Fatalf("asked %d times", asked)
	}
	w.policies.Forget("i1", "the same")
	if _, err := w.policies.get(t.Context(), netip.MustParseAddr("127.0.0.1")); err != nil || w.asked.Load() != 1 {
		t.Fatalf("%v, asked %d times", err, w.asked.Load())
	}
	w.policies.Forget("i1", "")

	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not cut: %v", err)
	}
	again := tls.Client(w.connect(443), &tls.Config{ServerName: "allowed.example", InsecureSkipVerify: true})
	if err := again.Handshake(); err != nil || w.asked.Load() != 2 {
		t.Errorf("%v, asked %d times", err, w.asked.Load())
	}
}

func TestAnAnswerThatWasForgottenMeanwhileIsNotKept(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan Policy)
	policies := NewPolicies(func(context.Context, netip.Addr) (Policy, error) {
		asked <- struct{}{}
		return <-answer, nil
	})
	got := make(chan *grant)
	go func() {
		found, _ := policies.get(context.Background(), netip.MustParseAddr("10.0.0.2"))
		got <- found
	}()
	<-asked
	policies.Forget("i1", "")
	answer <- Policy{SandboxID: "i1", Domains: []string{"old.example"}}
	<-asked
	answer <- Policy{SandboxID: "i1", Domains: []string{"new.example"}}
	if found := <-got; !found.Allows("new.example") || found.Allows("old.example") {
		t.Error(found.Domains)
	}
	policies.ForgetAll()
}

func TestClosedAddresses(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "10.1.1.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "169.254.169.254", "64:ff9b::a00:1", "0.0.0.0", "100.100.100.200", "fd00:ec2::254"} {
		if !IsClosed(netip.MustParseAddr(address)) {
			t.Errorf("%s is open", address)
		}
	}
	for _, address := range []string{"1.1.1.1", "203.0.113.1", "2606:4700::1111"} {
		if IsClosed(netip.MustParseAddr(address)) {
			t.Errorf("%s is closed", address)
		}
	}
}

func FuzzServerName(f *testing.F) {
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		name, read, err := serverName(bytes.NewReader(sent), 4096)
		if err == nil && (name == "" || !bytes.HasPrefix(sent, read) || len(read) > 4096) {
			t.Fatalf("%q %d", name, len(read))
		}
	})
}

func FuzzHostOf(f *testing.F) {
	for _, header := range []string{"a.example", "a.example:80", "[::1]:80", "1.2.3.4", "a..b", "A.EXAMPLE.", "a.example:80:80"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		name, ok := hostOf(header, "80")
		if !ok {
			return
		}
		if _, err := netip.ParseAddr(name); err == nil || strings.ContainsAny(name, ":/@[] \x00\r\n") || len(name) > mostName {
			t.Fatalf("%q is taken for the name %q", header, name)
		}
		if again, ok := hostOf(name, "80"); !ok || again != name {
			t.Fatalf("%q becomes %q", name, again)
		}
	})
}
