package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

// fakeResolver is the host's resolver, over UDP and TCP.
type fakeResolver struct {
	address string
	asked   atomic.Int64
	overTCP atomic.Int64
	answer  func(*dns.Msg) *dns.Msg
}

func (f *fakeResolver) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	f.asked.Add(1)
	reply := f.answer(question)
	if w.LocalAddr().Network() == "tcp" {
		f.overTCP.Add(1)
	} else {
		size := dns.MinMsgSize
		if edns := question.IsEdns0(); edns != nil {
			size = int(edns.UDPSize())
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply)
}

func newResolver(t *testing.T, answer func(*dns.Msg) *dns.Msg) *fakeResolver {
	t.Helper()
	f := &fakeResolver{answer: answer}
	f.address = freeAddress(t, "127.0.0.1")
	packets, err := net.ListenPacket("udp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: f}, {Listener: listener, Handler: f}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		within(t, "the resolver", started)
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return f
}

// freeAddress finds a port that is free for UDP and for TCP.
func freeAddress(t *testing.T, host string) string {
	t.Helper()
	for range 100 {
		listener, err := net.Listen("tcp", host+":0")
		if err != nil {
			t.Fatal(err)
		}
		address := listener.Addr().String()
		packets, err := net.ListenPacket("udp", address)
		listener.Close()
		if err == nil {
			packets.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// texts answers with so many TXT records.
func texts(count int) func(*dns.Msg) *dns.Msg {
	return func(question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg).SetReply(question)
		for i := range count {
			record, _ := dns.NewRR(fmt.Sprintf(`%s 60 IN TXT "record %d %s"`, question.Question[0].Name, i, strings.Repeat("x", 50)))
			reply.Answer = append(reply.Answer, record)
		}
		if edns := question.IsEdns0(); edns != nil {
			reply.SetEdns0(4096, edns.Do())
		}
		return reply
	}
}

// namesHome is an edge that asks the given resolvers.
func namesHome(t *testing.T, change func(*Config), addresses ...string) (*home, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	h := newHome(t, func(c *Config) {
		c.NamesListen = freeAddress(t, "127.0.0.1")
		c.Resolvers = file
		writeResolvers(t, file, addresses...)
		if change != nil {
			change(c)
		}
	})
	return h, h.edge.names.address()
}

// The file knows no ports; what the test's resolvers listen on is put in behind its back.
func writeResolvers(t *testing.T, file string, addresses ...string) {
	t.Helper()
	text := "options ndots:0\n"
	for _, address := range addresses {
		text += "nameserver " + address + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// point has the edge ask these addresses, with ports.
func (h *home) point(addresses ...string) {
	hosts := h.edge.names.hosts
	if _, err := hosts.list(); err != nil {
		h.t.Fatal(err)
	}
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	hosts.servers = addresses
}

func ask(t *testing.T, network, server string, change func(*dns.Msg)) (*dns.Msg, error) {
	t.Helper()
	question := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT)
	if change != nil {
		change(question)
	}
	client := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: dns.DefaultMsgSize}
	reply, _, err := client.Exchange(question, server)
	return reply, err
}

func TestNamesAreAnsweredOverUDPAndTCP(t *testing.T) {
	resolver := newResolver(t, texts(2))
	h, server := namesHome(t, nil, "127.0.0.1")
	h.point(resolver.address)
	for _, network := range []string{"udp", "tcp"} {
		reply, err := ask(t, network, server, nil)
		if err != nil || len(reply.Answer) != 2 || reply.Rcode != dns.RcodeSuccess {
			t.Errorf("%s: %v %v", network, reply, err)
		}
	}
}

func TestWhatIsTooLongForUDPIsAskedOverTCP(t *testing.T) {
	resolver := newResolver(t, texts(100))
	h, server := namesHome(t, nil, "127.0.0.1")
	h.point(resolver.address)

	short, err := ask(t, "udp", server, nil)
	if err != nil || !short.Truncated || len(short.Answer) >= 100 {
		t.Errorf("%v %v", short, err)
	}
	whole, err := ask(t, "tcp", server, nil)
	if err != nil || len(whole.Answer) != 100 {
		t.Errorf("%v %v", whole, err)
	}
	if resolver.overTCP.Load() == 0 {
		t.Error("the resolver was not asked over TCP")
	}
}

func TestEDNSPassesThrough(t *testing.T) {
	resolver := newResolver(t, texts(20))
	h, server := namesHome(t, nil, "127.0.0.1")
	h.point(resolver.address)

	reply, err := ask(t, "udp", server, func(q *dns.Msg) { q.SetEdns0(4000, true) })

	if err != nil || reply.Truncated || len(reply.Answer) != 20 || reply.IsEdns0() == nil || !reply.IsEdns0().Do() {
		t.Errorf("%v %v", reply, err)
	}
}

func TestTheNextResolverIsAskedWhenOneIsDead(t *testing.T) {
	resolver := newResolver(t, texts(1))
	h, server := namesHome(t, func(c *Config) { c.Limits.NameTime = 200 * time.Millisecond }, "127.0.0.1")
	h.point("127.0.0.1:9", resolver.address)

	if reply, err := ask(t, "udp", server, nil); err != nil || len(reply.Answer) != 1 {
		t.Errorf("%v %v", reply, err)
	}
}

func TestWithoutAResolverTheAnswerIsServerFailure(t *testing.T) {
	for name, addresses := range map[string][]string{"none": {}, "dead": {"127.0.0.1:9"}} {
		h, server := namesHome(t, func(c *Config) { c.Limits.NameTime = 100 * time.Millisecond }, "127.0.0.1")
		h.point(addresses...)
		if reply, err := ask(t, "udp", server, nil); err != nil || reply.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v %v", name, reply, err)
		}
	}
}

func TestALookupEndsWithWhoWantsIt(t *testing.T) {
	asked, hold := make(chan struct{}), make(chan struct{})
	resolver := newResolver(t, func(question *dns.Msg) *dns.Msg {
		asked <- struct{}{}
		<-hold
		return new(dns.Msg).SetReply(question)
	})
	// Before the resolver is shut down, which waits for its answers.
	t.Cleanup(func() { close(hold) })
	h, _ := namesHome(t, func(c *Config) {
		c.Limits.NameTime, c.Limits.NameTotal = time.Minute, time.Minute
	}, "127.0.0.1")
	h.point(resolver.address)
	ctx, cancel := context.WithCancel(t.Context())
	outcome := make(chan error)
	go func() {
		_, err := h.edge.names.lookup(ctx, "example.org", nil)
		outcome <- err
	}()
	within(t, "the question", asked)

	cancel()

	if err := within(t, "the lookup's end", outcome); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestResolversAreReadAgainWhenTheirFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	hosts := &resolvers{path: file}
	for i, addresses := range [][]string{{"127.0.0.1"}, {"127.0.0.2", "127.0.0.3"}, {"::1"}} {
		writeResolvers(t, file, addresses...)
		changed := time.Unix(int64(1_000_000+i), 0)
		if err := os.Chtimes(file, changed, changed); err != nil {
			t.Fatal(err)
		}
		got, err := hosts.list()
		want := []string{}
		for _, address := range addresses {
			want = append(want, net.JoinHostPort(address, "53"))
		}
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%v %v", got, err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got, err := hosts.list(); err == nil {
		t.Errorf("no file, but %v", got)
	}
}

func TestStrangersAreNotAnswered(t *testing.T) {
	resolver := newResolver(t, texts(1))
	h, server := namesHome(t, func(c *Config) { c.Range = netip.MustParsePrefix("127.77.0.0/16") }, "127.0.0.1")
	h.point(resolver.address)
	question := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT)
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: 300 * time.Millisecond}
		if reply, _, err := client.Exchange(question, server); err == nil {
			t.Errorf("%s: %v", network, reply)
		}
	}
	if resolver.asked.Load() != 0 {
		t.Error("asked for a stranger")
	}
}

func TestOneSandboxCannotTakeAllQuestions(t *testing.T) {
	hold := make(chan struct{})
	resolver := newResolver(t, func(question *dns.Msg) *dns.Msg { <-hold; return texts(1)(question) })
	h, server := namesHome(t, func(c *Config) {
		c.NamesListen = freeAddress(t, "0.0.0.0")
		c.Limits.NameQuestionsPerSandbox = 3
	}, "127.0.0.1")
	h.point(resolver.address)
	_, port, _ := net.SplitHostPort(server)
	from := func(source string, timeout time.Duration) (*dns.Msg, error) {
		local, _ := net.ResolveUDPAddr("udp", source+":0")
		client := dns.Client{Dialer: &net.Dialer{LocalAddr: local}, Timeout: timeout}
		reply, _, err := client.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT), "127.0.0.1:"+port)
		return reply, err
	}
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			if reply, err := from("127.77.0.1", patience); err != nil || len(reply.Answer) != 1 {
				t.Errorf("%v %v", reply, err)
			}
		})
	}
	eventually(t, "three questions", func() bool { return resolver.asked.Load() == 3 })

	if reply, err := from("127.77.0.1", 300*time.Millisecond); err == nil {
		t.Errorf("a fourth is answered: %v", reply)
	}
	waiting.Go(func() {
		if reply, err := from("127.77.0.2", patience); err != nil || len(reply.Answer) != 1 {
			t.Errorf("the neighbour: %v %v", reply, err)
		}
	})
	eventually(t, "the neighbour's question", func() bool { return resolver.asked.Load() == 4 })
	close(hold)
	waiting.Wait()
}

func TestOneSandboxHasItsRateOfQuestions(t *testing.T) {
	limits := testLimits()
	limits.NameRate, limits.NameBurst, limits.NameSources = 0.001, 5, 2
	n := &names{limits: &limits, slots: make(chan struct{}, 100), sources: map[netip.Addr]*source{}}
	first := netip.MustParseAddr("10.0.0.1")
	for i := range 6 {
		if admitted := n.admit(first); admitted != (i < 5) {
			t.Errorf("question %d: %v", i, admitted)
		} else if admitted {
			n.leave(first)
		}
	}
	// However many ask: those at rest are forgotten, but who spent his share does not get it back by that.
	for i := range 100 {
		other := netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})
		n.sources[other] = &source{limiter: rate.NewLimiter(rate.Limit(limits.NameRate), limits.NameBurst)}
	}
	if !n.admit(netip.MustParseAddr("10.0.2.1")) || len(n.sources) != 2 {
		t.Errorf("%d are remembered", len(n.sources))
	}
	if n.admit(first) {
		t.Error("admitted again")
	}
}

func TestOddQuestionsAreRefused(t *testing.T) {
	resolver := newResolver(t, texts(1))
	h, server := namesHome(t, nil, "127.0.0.1")
	h.point(resolver.address)
	for name, test := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"zone transfer": {func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		"update":        {func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"no question":   {func(q *dns.Msg) { q.Question = nil }, dns.RcodeFormatError},
		"two questions": {func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, dns.RcodeFormatError},
	} {
		reply, err := ask(t, "tcp", server, test.change)
		if err != nil || reply.Rcode != test.want {
			t.Errorf("%s: %v %v", name, reply, err)
		}
	}
	if resolver.asked.Load() != 0 {
		t.Error("the resolver was asked")
	}
	// Nonsense is dropped, and changes nothing.
	conn, err := net.Dial("udp", server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, nonsense := range []string{"", "x", strings.Repeat("\xff", 600)} {
		_, _ = conn.Write([]byte(nonsense))
	}
	if reply, err := ask(t, "udp", server, nil); err != nil || len(reply.Answer) != 1 {
		t.Errorf("%v %v", reply, err)
	}
}

func TestTheAddressNeedNotExistYet(t *testing.T) {
	// TEST-NET-3: on no interface of any machine.
	packets, err := listenConfig().ListenPacket(t.Context(), "udp", "203.0.113.53:0")
	if err != nil {
		t.Fatal(err)
	}
	packets.Close()
}
