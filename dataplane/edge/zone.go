package edge

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// zoneTTL is how long resolvers may keep an answer, in seconds: the address changes only when the home starts anew.
const zoneTTL = 60

// challengeLabel is where an authority on the network looks for what it gave us (RFC 8555).
const challengeLabel = "_acme-challenge"

// zone answers for one domain: its own name and every name directly below it have the addresses of the listener, since
// a sandbox may come to any of them; deeper names do not exist, as no certificate is for them either.
type zone struct {
	// domain in canonical form: lower case, with a dot at its end.
	domain    string
	addresses []netip.Addr

	mu sync.Mutex
	// challenges are the texts at challengeLabel.
	challenges []string
}

func newZone(domain string, addresses []netip.Addr) *zone {
	return &zone{domain: dns.CanonicalName(domain), addresses: addresses}
}

// AddChallenge has an authority find a text.
func (z *zone) AddChallenge(value string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.challenges = append(z.challenges, value)
}

// RemoveChallenge is for when it has looked.
func (z *zone) RemoveChallenge(value string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if place := slices.Index(z.challenges, value); place >= 0 {
		z.challenges = slices.Delete(z.challenges, place, place+1)
	}
}

// covers says whether a question is ours to answer.
func (z *zone) covers(question dns.Question) bool {
	return dns.IsSubDomain(z.domain, dns.CanonicalName(question.Name))
}

// answer answers a question that the zone covers.
func (z *zone) answer(question *dns.Msg) *dns.Msg {
	reply := new(dns.Msg).SetReply(question)
	reply.Authoritative = true
	asked := question.Question[0]
	if asked.Qclass != dns.ClassINET && asked.Qclass != dns.ClassANY {
		return reply.SetRcode(question, dns.RcodeRefused)
	}
	label, below := strings.CutSuffix(dns.CanonicalName(asked.Name), "."+z.domain)
	switch {
	case below && strings.Contains(label, "."):
		reply.Rcode = dns.RcodeNameError
	case below:
		z.addAddresses(reply, asked)
		if label == challengeLabel {
			z.addChallenges(reply, asked)
		}
	default:
		z.addAddresses(reply, asked)
		z.addApex(reply, asked)
	}
	if len(reply.Answer) == 0 {
		// No such name, or nothing of that type: this says for how long that holds.
		authority := z.authority()
		if label == challengeLabel {
			// What is not there now may be in a second, and who keeps that there is nothing fails us.
			authority.Hdr.Ttl, authority.Minttl = 0, 0
		}
		reply.Ns = []dns.RR{authority}
	}
	if edns := question.IsEdns0(); edns != nil {
		reply.SetEdns0(dns.DefaultMsgSize, edns.Do())
	}
	return reply
}

func (z *zone) addAddresses(reply *dns.Msg, asked dns.Question) {
	for _, address := range z.addresses {
		switch {
		case address.Is4() && (asked.Qtype == dns.TypeA || asked.Qtype == dns.TypeANY):
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header(asked.Name, dns.TypeA), A: address.AsSlice()})
		case address.Is6() && (asked.Qtype == dns.TypeAAAA || asked.Qtype == dns.TypeANY):
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: header(asked.Name, dns.TypeAAAA), AAAA: address.AsSlice()})
		}
	}
}

func (z *zone) addChallenges(reply *dns.Msg, asked dns.Question) {
	if asked.Qtype != dns.TypeTXT {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, value := range z.challenges {
		text := &dns.TXT{Hdr: header(asked.Name, dns.TypeTXT), Txt: []string{value}}
		// The next one comes at once.
		text.Hdr.Ttl = 0
		reply.Answer = append(reply.Answer, text)
	}
}

func (z *zone) addApex(reply *dns.Msg, asked dns.Question) {
	if asked.Qtype == dns.TypeSOA || asked.Qtype == dns.TypeANY {
		reply.Answer = append(reply.Answer, z.authority())
	}
	if asked.Qtype == dns.TypeNS || asked.Qtype == dns.TypeANY {
		reply.Answer = append(reply.Answer, &dns.NS{Hdr: header(z.domain, dns.TypeNS), Ns: "ns." + z.domain})
	}
}

func (z *zone) authority() *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.domain, dns.TypeSOA), Ns: "ns." + z.domain, Mbox: "hostmaster." + z.domain,
		// Nobody copies this zone, so its number need not change; the last is how long "there is none" holds.
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: zoneTTL,
	}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: zoneTTL}
}
