package egress

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// socks is a SOCKS5 proxy (RFC 1928, 1929) whose connections all lead to one server.
type socks struct {
	address string
	asked   chan string
}

func newSocks(t *testing.T, server, username, password string, secure *tls.Config) *socks {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	s := &socks{address: listener.Addr().String(), asked: make(chan string, 16)}
	if secure != nil {
		listener = tls.NewListener(listener, secure)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if s.greet(conn, username, password) {
					if upstream, err := net.Dial("tcp", server); err == nil {
						defer upstream.Close()
						splice(conn, upstream)
					}
				}
			}()
		}
	}()
	return s
}

func (s *socks) greet(conn net.Conn, username, password string) bool {
	read := func(n int) []byte {
		got := make([]byte, n)
		_, _ = io.ReadFull(conn, got)
		return got
	}
	methods := string(read(int(read(2)[1])))
	method := byte(0)
	if username != "" {
		method = 2
	}
	if !strings.Contains(methods, string(method)) {
		_, _ = conn.Write([]byte{5, 0xff})
		return false
	}
	_, _ = conn.Write([]byte{5, method})
	if method == 2 {
		name := string(read(int(read(2)[1])))
		word := string(read(int(read(1)[0])))
		if name != username || word != password {
			_, _ = conn.Write([]byte{1, 1})
			return false
		}
		_, _ = conn.Write([]byte{1, 0})
	}
	head := read(4)
	if head[1] != 1 || head[3] != 1 {
		_, _ = conn.Write([]byte{5, 7, 0, 1, 0, 0, 0, 0, 0, 0})
		return false
	}
	address := netip.AddrFrom4([4]byte(read(4)))
	s.asked <- netip.AddrPortFrom(address, binary.BigEndian.Uint16(read(2))).String()
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return true
}

// newProxied is a world whose sandboxes go through a proxy; its direct connections fail.
func newProxied(t *testing.T, upstream Upstream, policy Policy, differ func(*Config)) *world {
	t.Helper()
	policy.Proxy = &upstream
	return newWorldOf(t, "127.0.0.1:1", policy, func(config *Config) {
		config.ProxyNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		config.DialProxy = (&net.Dialer{}).DialContext
		if differ != nil {
			differ(config)
		}
	})
}

func (w *world) echoes(port uint32) bool {
	w.t.Helper()
	conn := w.connect(port)
	_, _ = io.WriteString(conn, "SSH-2.0-x\r\n")
	_ = closeWrite(conn)
	got, _ := io.ReadAll(conn)
	return string(got) == "SSH-2.0-x\r\n"
}

func TestAllPortsGoThroughTheProxy(t *testing.T) {
	s := newSocks(t, echo(t), "me", "pa55word", nil)
	w := newProxied(t, Upstream{Address: s.address, Username: "me", Password: "pa55word"}, Policy{Open: true}, nil)
	for port, to := range map[uint32]string{22: "198.51.100.9:22", 80: "198.51.100.9:80", 443: "198.51.100.9:443"} {
		if !w.echoes(port) {
			t.Errorf("port %d is not carried: %s", port, w.log)
			continue
		}
		if asked := <-s.asked; asked != to {
			t.Error(asked)
		}
	}
	if len(w.dialled) > 0 {
		t.Errorf("past the proxy: %s", <-w.dialled)
	}
}

func TestRulesAndDomainsApplyBeforeTheProxy(t *testing.T) {
	s := newSocks(t, web(t, hostTeller), "", "", nil)
	w := newProxied(t, Upstream{Address: s.address}, Policy{Domains: []string{"allowed.example", "rebound.example"}}, nil)
	conn := w.connect(80)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(conn); !strings.Contains(string(got), "host=allowed.example") {
		t.Errorf("%s %s", got, w.log)
	}
	if asked := <-s.asked; asked != "203.0.113.1:80" {
		t.Error(asked)
	}
	w.isRefused(80, "GET / HTTP/1.1\r\nHost: other.example\r\n\r\n", "not among")
	w.isRefused(80, "GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "no sandbox reaches")
	w.isRefused(8080, "hello", "is denied")
	if len(s.asked) > 0 {
		t.Errorf("the proxy was asked for %s", <-s.asked)
	}
}

func TestTheProxyMustProveItself(t *testing.T) {
	authority, _, path := newAuthority(t)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pem := string(content)
	certificate, err := authority.certificate("proxy.example")
	if err != nil {
		t.Fatal(err)
	}
	s := newSocks(t, echo(t), "", "", &tls.Config{Certificates: []tls.Certificate{*certificate}})
	for why, one := range map[string]*UpstreamTLS{
		"":                {ServerName: "proxy.example", CACert: pem},
		"not other":       {ServerName: "other.example", CACert: pem},
		"unknown auth":    {ServerName: "proxy.example"},
		"cannot validate": {CACert: pem},
		"no certificates": {ServerName: "proxy.example", CACert: "none"},
	} {
		w := newProxied(t, Upstream{Address: s.address, TLS: one}, Policy{Open: true}, nil)
		if w.echoes(22) != (why == "") || !strings.Contains(w.log.String(), why) {
			t.Errorf("%q: %s", why, w.log)
		}
	}
}

func TestWithoutItsProxyNothingIsReached(t *testing.T) {
	s := newSocks(t, echo(t), "me", "pa55word", nil)
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	for why, one := range map[string]Upstream{
		"the proxy refuses":           {Address: s.address, Username: "me", Password: "wr0ng"},
		"the proxy refuses: ":         {Address: s.address},
		"cannot be reached":           {Address: gone.Addr().String()},
		"speaks something else":       {Address: echo(t)},
		"no such name":                {Address: "unknown.example:1080"},
		"one that no sandbox reaches": {Address: "rebound.example:1080"},
	} {
		w := newProxied(t, one, Policy{Open: true}, func(config *Config) {
			if why == "one that no sandbox reaches" {
				config.ProxyNetworks = nil
			}
		})
		if w.echoes(22) || len(w.dialled) > 0 {
			t.Errorf("%s: reached, %d past the proxy", why, len(w.dialled))
		}
		text := w.log.String()
		if (why != "speaks something else" && !strings.Contains(text, why)) || strings.Contains(text, "wr0ng") || text == "" {
			t.Errorf("%s: %s", why, text)
		}
	}
}

func TestSandboxesAreNotToldOfTheirProxy(t *testing.T) {
	policy := ruled("allowed.example")
	w := newProxied(t, Upstream{Address: "127.0.0.1:1"}, policy, nil)
	conn := w.connect(80)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: allowed.example\r\nConnection: close\r\n\r\n")
	got, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(got), "HTTP/1.1 502 ") || strings.Contains(string(got), "127.0.0.1") || strings.Contains(string(got), "proxy") {
		t.Errorf("%s", got)
	}
}

func TestWhereAProxyMayBe(t *testing.T) {
	w := newProxied(t, Upstream{}, Policy{}, func(config *Config) {
		config.ProxyNetworks = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	})
	for host, count := range map[string]int{
		"allowed.example": 1, "half.example": 2, "rebound.example": 1, "10.0.0.9": 1, "203.0.113.9": 1,
		"127.0.0.1": 0, "169.254.169.254": 0, "::ffff:127.0.0.1": 0, "nowhere.example": 0, "127.1": 0, "": 0, "unknown.example": 0,
	} {
		found, err := w.proxy.UpstreamAddresses(context.Background(), host)
		if len(found) != count || (err == nil) != (count > 0) {
			t.Errorf("%q: %v %v", host, found, err)
		}
	}
}
