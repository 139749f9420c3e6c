package edge

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// zoneHome is an edge that knows sbx.test, and asks the given resolver about everything else.
func zoneHome(t *testing.T, resolver string, addresses ...string) (*home, string) {
	t.Helper()
	h, _ := namesHome(t, func(config *Config) {
		config.Domain, config.ZoneListen = "Sbx.test", freeAddress(t, "127.0.0.1")
		for _, address := range addresses {
			config.ZoneAddresses = append(config.ZoneAddresses, netip.MustParseAddr(address))
		}
	}, resolver)
	return h, h.edge.zone.address()
}

func lookUp(t *testing.T, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	var last *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		reply, _, err := (&dns.Client{Net: network}).Exchange(new(dns.Msg).SetQuestion(name, kind), server)
		if err != nil {
			t.Fatalf("%s over %s: %v", name, network, err)
		}
		last = reply
	}
	return last
}

func TestEveryNameDirectlyBelowTheDomainHasItsAddress(t *testing.T) {
	_, server := zoneHome(t, "127.0.0.1", "127.0.0.1", "::1")
	for _, name := range []string{"sbx.test.", "api.sbx.test.", "3000-i0123456789abcdefghij.sbx.test.", "aPi.SBX.tEST."} {
		for kind, want := range map[uint16]string{dns.TypeA: "127.0.0.1", dns.TypeAAAA: "::1"} {
			reply := lookUp(t, server, name, kind)
			if reply.Rcode != dns.RcodeSuccess || !reply.Authoritative || len(reply.Answer) != 1 {
				t.Fatalf("%s: %v", name, reply)
			}
			// As it was asked: resolvers that vary the case as a protection compare.
			if got := reply.Answer[0]; got.Header().Name != name || !strings.HasSuffix(got.String(), want) {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

func TestWhatTheDomainDoesNotHaveIsSaidSoWithItsAuthority(t *testing.T) {
	_, server := zoneHome(t, "127.0.0.1", "127.0.0.1")
	for _, one := range []struct {
		name  string
		kind  uint16
		rcode int
	}{
		{"api.sbx.test.", dns.TypeAAAA, dns.RcodeSuccess}, {"api.sbx.test.", dns.TypeMX, dns.RcodeSuccess},
		{"sbx.test.", dns.TypeHTTPS, dns.RcodeSuccess}, {"a.b.sbx.test.", dns.TypeA, dns.RcodeNameError},
		{"_acme-challenge.x.sbx.test.", dns.TypeTXT, dns.RcodeNameError},
	} {
		reply := lookUp(t, server, one.name, one.kind)
		if reply.Rcode != one.rcode || len(reply.Answer) != 0 || len(reply.Ns) != 1 || reply.Ns[0].Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s %s: %v", one.name, dns.TypeToString[one.kind], reply)
		}
	}
	if reply := lookUp(t, server, "sbx.test.", dns.TypeSOA); len(reply.Answer) != 1 {
		t.Errorf("%v", reply)
	}
	if reply := lookUp(t, server, "sbx.test.", dns.TypeNS); len(reply.Answer) != 1 {
		t.Errorf("%v", reply)
	}
}

func TestOtherNamesAreAskedForBehindUs(t *testing.T) {
	upstream := newResolver(t, texts(1))
	h, server := zoneHome(t, "127.0.0.1", "127.0.0.1")
	h.edge.zone.hosts.mu.Lock()
	h.edge.zone.hosts.path = "/dev/null"
	h.edge.zone.hosts.mu.Unlock()
	if _, err := h.edge.zone.hosts.list(); err != nil {
		t.Fatal(err)
	}
	h.edge.zone.hosts.mu.Lock()
	h.edge.zone.hosts.servers = []string{upstream.address}
	h.edge.zone.hosts.mu.Unlock()
	for _, name := range []string{"example.org.", "evilsbx.test.", "test."} {
		if reply := lookUp(t, server, name, dns.TypeTXT); len(reply.Answer) != 1 || reply.Authoritative {
			t.Errorf("%s: %v", name, reply)
		}
	}
	asked := upstream.asked.Load()
	lookUp(t, server, "api.sbx.test.", dns.TypeTXT)
	if upstream.asked.Load() != asked {
		t.Error("our own name was asked for elsewhere")
	}
}

// Two homes in one file: the first asks the second, the second asks who is behind it, and nobody asks in a circle.
func TestOnlyServersBehindOurOwnAreAsked(t *testing.T) {
	file := t.TempDir() + "/resolv.conf"
	writeResolvers(t, file, "127.9.9.1", "127.9.9.2", "192.0.2.1")
	for ours, want := range map[string][]string{
		"":          {"127.9.9.1:53", "127.9.9.2:53", "192.0.2.1:53"},
		"127.9.9.1": {"127.9.9.2:53", "192.0.2.1:53"},
		"127.9.9.2": {"192.0.2.1:53"},
		"192.0.2.1": {},
		"127.9.9.3": {"127.9.9.1:53", "127.9.9.2:53", "192.0.2.1:53"},
	} {
		got, err := (&resolvers{path: file, ours: ours}).list()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", ours, got, err)
		}
	}
}

func TestOneProgramMayAskAllAtOnce(t *testing.T) {
	_, server := zoneHome(t, "127.0.0.1", "127.0.0.1")
	limits := DefaultLimits()
	failed := make(chan error, 2*limits.NameConnectionsPerSandbox)
	for i := range cap(failed) {
		go func() {
			name := fmt.Sprintf("%d-i0123456789abcdefghij.sbx.test.", i+1)
			_, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server)
			failed <- err
		}()
	}
	for range cap(failed) {
		if err := within(t, "an answer", failed); err != nil {
			t.Error(err)
		}
	}
}

func TestNobodyElseOnTheNetworkIsAnswered(t *testing.T) {
	h, server := zoneHome(t, "127.0.0.1", "127.0.0.1")
	h.edge.zone.allowed = peers{netip.MustParsePrefix("127.200.0.0/16")}
	conn, err := net.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := (&dns.Client{Net: "tcp"}).ExchangeWithConn(new(dns.Msg).SetQuestion("api.sbx.test.", dns.TypeA), &dns.Conn{Conn: conn}); err == nil {
		t.Error("answered")
	}
}
