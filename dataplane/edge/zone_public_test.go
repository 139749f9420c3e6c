package edge

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// publicHome is an edge that answers everybody about sbx.test.
func publicHome(t *testing.T, resolver string, change ...func(*Limits)) (*home, string) {
	t.Helper()
	h, _ := namesHome(t, func(config *Config) {
		config.Domain, config.PublicZoneListen = "sbx.test", freeAddress(t, "127.0.0.1")
		config.ZoneAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		for _, apply := range change {
			apply(&config.Limits)
		}
	}, resolver)
	return h, h.edge.publicZone.address()
}

func TestTheWorldIsAnsweredAboutTheDomainOnly(t *testing.T) {
	upstream := newResolver(t, texts(1))
	_, server := publicHome(t, upstream.address)
	reply := lookUp(t, server, "api.sbx.test.", dns.TypeA)
	if len(reply.Answer) != 1 || !reply.Authoritative || reply.RecursionAvailable {
		t.Errorf("%v", reply)
	}
	for _, name := range []string{"example.org.", "evilsbx.test.", "."} {
		if reply := lookUp(t, server, name, dns.TypeTXT); reply.Rcode != dns.RcodeRefused || len(reply.Answer) != 0 {
			t.Errorf("%s: %v", name, reply)
		}
	}
	if upstream.asked.Load() != 0 {
		t.Error("somebody had us ask for him")
	}
}

func TestAChallengeIsThereForAsLongAsItIsAsked(t *testing.T) {
	h, server := publicHome(t, "127.0.0.1")
	ask := func(name string) *dns.Msg { return lookUp(t, server, name, dns.TypeTXT) }
	h.edge.known.AddChallenge("one")
	h.edge.known.AddChallenge("two")
	if reply := ask("_Acme-Challenge.sbx.TEST."); len(reply.Answer) != 2 || reply.Answer[0].Header().Ttl != 0 {
		t.Errorf("%v", reply)
	}
	if reply := ask("api.sbx.test."); len(reply.Answer) != 0 {
		t.Errorf("%v", reply)
	}
	h.edge.known.RemoveChallenge("one")
	h.edge.known.RemoveChallenge("never there")
	if reply := ask("_acme-challenge.sbx.test."); len(reply.Answer) != 1 || reply.Answer[0].(*dns.TXT).Txt[0] != "two" {
		t.Errorf("%v", reply)
	}
	h.edge.known.RemoveChallenge("two")
	reply := ask("_acme-challenge.sbx.test.")
	if len(reply.Answer) != 0 || reply.Rcode != dns.RcodeSuccess {
		t.Errorf("%v", reply)
	}
	// Who asked too early must not keep for a minute that there is nothing.
	if kept := reply.Ns[0].(*dns.SOA); kept.Minttl != 0 || kept.Hdr.Ttl != 0 {
		t.Errorf("%v", kept)
	}
}

func TestOneAddressGetsSoManyAnswersAndTheOthersTheirs(t *testing.T) {
	_, server := publicHome(t, "127.0.0.1", func(limits *Limits) { limits.PublicNameRate, limits.PublicNameBurst = 0.001, 3 })
	answered := func(local string) (count int) {
		for range 6 {
			dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(local)}}
			client := dns.Client{Net: "udp", Dialer: &dialer, Timeout: patience / 50}
			if _, _, err := client.Exchange(new(dns.Msg).SetQuestion("api.sbx.test.", dns.TypeA), server); err == nil {
				count++
			}
		}
		return count
	}
	if first, second := answered("127.0.0.21"), answered("127.0.0.22"); first != 3 || second != 3 {
		t.Errorf("%d and %d answers, 3 each are expected", first, second)
	}
}

func TestMadeUpAddressesFillNoMemory(t *testing.T) {
	h, _ := publicHome(t, "127.0.0.1", func(limits *Limits) { limits.NameSources, limits.PublicNameRate = 10, 0.001 })
	public := h.edge.publicZone
	admitted := 0
	for i := range 1000 {
		if from := netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/250, i%250)); public.admit(from) {
			public.leave(from)
			admitted++
		}
	}
	if len(public.sources) != 10 || admitted != 10 {
		t.Errorf("%d addresses are remembered, %d were answered", len(public.sources), admitted)
	}
}

func TestASharesAddressIsASitesWhereOneHasMany(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7:53": "192.0.2.7", "[::ffff:192.0.2.7]:53": "192.0.2.7", "[2001:db8:1:2:3:4:5:6]:53": "2001:db8:1:2::",
	} {
		got, ok := shareOf(net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		if !ok || got.String() != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}
