package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

// names answers sandboxes' DNS questions by asking the host's resolvers.
//
// Whoever asks is hostile: only the home's addresses are answered, each within its share, and what cannot be answered
// now is dropped or refused, never queued.
type names struct {
	limits  *Limits
	allowed netip.Prefix
	log     *slog.Logger
	servers []*dns.Server
	hosts   *resolvers
	slots   chan struct{}

	mu      sync.Mutex
	sources map[netip.Addr]*source
}

// source is one sandbox's share.
type source struct {
	asking  int
	limiter *rate.Limiter
}

var (
	errNoResolvers = errors.New("the host names no resolver")
	errOtherAnswer = errors.New("the resolver answered another question")
)

// startNames listens over UDP and TCP; the address need not be on any interface yet.
func startNames(ctx context.Context, config Config, failed chan<- error) (*names, error) {
	path := config.Resolvers
	if path == "" {
		path = "/etc/resolv.conf"
	}
	n := &names{
		limits: &config.Limits, allowed: config.Range.Masked(), log: config.Log, hosts: &resolvers{path: path},
		slots: make(chan struct{}, config.Limits.NameQuestions), sources: map[netip.Addr]*source{},
	}
	packets, err := listenConfig().ListenPacket(ctx, "udp", config.NamesListen)
	if err != nil {
		return nil, err
	}
	listener, err := listenConfig().Listen(ctx, "tcp", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return nil, err
	}
	n.servers = []*dns.Server{
		{PacketConn: packets, Handler: n, UDPSize: dns.DefaultMsgSize, MsgAcceptFunc: acceptQuestion},
		{Listener: newNameDoor(listener, n.allowed, n.limits), Handler: n, MaxTCPQueries: 128, MsgAcceptFunc: acceptQuestion,
			ReadTimeout: config.Limits.NameTotal, WriteTimeout: config.Limits.NameTotal},
	}
	for _, server := range n.servers {
		listening := make(chan struct{})
		server.NotifyStartedFunc = func() { close(listening) }
		go func() {
			if err := server.ActivateAndServe(); err != nil {
				failed <- err
			}
		}()
		<-listening
	}
	return n, nil
}

func (n *names) address() string { return n.servers[0].PacketConn.LocalAddr().String() }

func (n *names) close() {
	ctx, cancel := context.WithTimeout(context.Background(), n.limits.StopTime)
	defer cancel()
	for _, server := range n.servers {
		// Its socket is closed even if a question outlives this.
		_ = server.ShutdownContext(ctx)
	}
}

// acceptQuestion judges a message by its header: only plain questions are read any further.
func acceptQuestion(header dns.Header) dns.MsgAcceptAction {
	const response = 1 << 15
	switch opcode := int(header.Bits>>11) & 0xF; {
	case header.Bits&response != 0:
		return dns.MsgIgnore
	case opcode != dns.OpcodeQuery:
		return dns.MsgRejectNotImplemented
	case header.Qdcount != 1 || header.Ancount != 0 || header.Nscount != 0 || header.Arcount > 2:
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// ServeDNS answers one question, or drops it.
func (n *names) ServeDNS(w dns.ResponseWriter, question *dns.Msg) {
	from, ok := addressOf(w.RemoteAddr())
	if !ok || !n.allowed.Contains(from) || !n.admit(from) {
		w.Close()
		return
	}
	defer n.leave(from)
	reply, err := n.answer(question)
	if err != nil {
		n.log.Error("name not resolved", "sandbox_address", from, "error", err)
		reply = new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if edns := question.IsEdns0(); edns != nil {
			size = max(size, int(edns.UDPSize()))
		}
		// What does not fit is asked again over TCP.
		reply.Truncate(size)
	}
	if err := w.WriteMsg(reply); err != nil {
		// The sandbox is gone, or does not read.
		w.Close()
	}
}

// admit takes a place for a question, if this sandbox and all together have one.
func (n *names) admit(from netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := n.sources[from]
	if found == nil {
		if len(n.sources) >= n.limits.NameSources {
			n.dropRested()
		}
		found = &source{limiter: rate.NewLimiter(rate.Limit(n.limits.NameRate), n.limits.NameBurst)}
		n.sources[from] = found
	}
	if found.asking >= n.limits.NameQuestionsPerSandbox || !found.limiter.Allow() {
		return false
	}
	select {
	case n.slots <- struct{}{}:
		found.asking++
		return true
	default:
		return false
	}
}

// dropRested forgets the shares that are whole again, and so say nothing.
func (n *names) dropRested() {
	for address, found := range n.sources {
		if found.asking == 0 && found.limiter.Tokens() >= float64(n.limits.NameBurst) {
			delete(n.sources, address)
		}
	}
}

func (n *names) leave(from netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sources[from].asking--
	<-n.slots
}

// answer asks the host's resolvers, one after the other.
func (n *names) answer(question *dns.Msg) (*dns.Msg, error) {
	switch question.Question[0].Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		return new(dns.Msg).SetRcode(question, dns.RcodeRefused), nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.limits.NameTotal)
	defer cancel()
	servers, err := n.hosts.list()
	if err != nil {
		return nil, err
	}
	failures := []error{errNoResolvers}
	for _, server := range servers {
		reply, err := n.ask(ctx, server, question)
		if err == nil {
			reply.Id = question.Id
			return reply, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failures) > 1 {
		failures = failures[1:]
	}
	return nil, errors.Join(failures...)
}

// ask asks one resolver, over TCP where the answer is too long for UDP.
func (n *names) ask(ctx context.Context, server string, question *dns.Msg) (*dns.Msg, error) {
	// A number of our own: the sandbox's is not secret from the sandbox, and an answer must be ours.
	ours := question.Copy()
	ours.Id = dns.Id()
	reply, err := n.exchange(ctx, "udp", server, ours)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	if err != nil && !errors.Is(err, dns.ErrBuf) {
		return nil, err
	}
	full, tcpErr := n.exchange(ctx, "tcp", server, ours)
	if tcpErr != nil && err == nil {
		// Truncated is better than nothing.
		return reply, nil
	}
	return full, tcpErr
}

func (n *names) exchange(ctx context.Context, network, server string, question *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, n.limits.NameTime)
	defer cancel()
	client := dns.Client{Net: network, Timeout: n.limits.NameTime, UDPSize: dns.DefaultMsgSize}
	reply, _, err := client.ExchangeContext(ctx, question, server)
	if err != nil {
		return nil, err
	}
	if len(reply.Question) > 0 && reply.Question[0] != question.Question[0] {
		return nil, errOtherAnswer
	}
	return reply, nil
}

func addressOf(address net.Addr) (netip.Addr, bool) {
	parsed, err := netip.ParseAddrPort(address.String())
	return parsed.Addr().Unmap(), err == nil
}

// resolvers reads the host's resolvers, again whenever their file has changed.
type resolvers struct {
	path string

	mu      sync.Mutex
	read    time.Time
	size    int64
	servers []string
}

// list returns "address:port" of each. The file's time and size are looked at for each question: no clock ticks.
func (r *resolvers) list() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.path)
	if err != nil {
		return nil, err
	}
	if r.servers != nil && info.ModTime().Equal(r.read) && info.Size() == r.size {
		return r.servers, nil
	}
	config, err := dns.ClientConfigFromFile(r.path)
	if err != nil {
		return nil, err
	}
	servers := make([]string, 0, len(config.Servers))
	for _, server := range config.Servers {
		servers = append(servers, net.JoinHostPort(server, config.Port))
	}
	r.read, r.size, r.servers = info.ModTime(), info.Size(), slices.Compact(servers)
	return r.servers, nil
}
