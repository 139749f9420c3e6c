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

	"atoll.dev/dataplane/egress"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

// names answers DNS questions: sandboxes' by asking the host's resolvers, this machine's also from the home's own zone.
//
// Whoever asks is hostile: only the addresses that are meant are answered, each within its share, and what cannot be
// answered now is dropped or refused, never queued.
type names struct {
	limits  *Limits
	allowed peers
	log     *slog.Logger
	servers []*dns.Server
	hosts   *resolvers
	// zone is the part of all names that we know ourselves; nil for none.
	zone *zone
	// zoneOnly: whoever asks for other names is refused, for he may be anybody.
	zoneOnly bool
	slots    chan struct{}
	// chosen are the resolvers that a sandbox chose, nil: nobody chooses; mark is put on what is sent to them.
	chosen func(context.Context, netip.Addr) ([]string, error)
	mark   int

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

// startNames serves sandboxes.
func startNames(
	ctx context.Context, config *Config, chosen func(context.Context, netip.Addr) ([]string, error), failed chan<- error,
) (*names, error) {
	n := newNames(config, peers{config.Range.Masked()}, &config.Limits)
	n.chosen, n.mark = chosen, config.EgressMark
	return n, n.listen(ctx, config.NamesListen, failed)
}

func newNames(config *Config, allowed peers, limits *Limits) *names {
	path := config.Resolvers
	if path == "" {
		path = "/etc/resolv.conf"
	}
	ours, _, _ := net.SplitHostPort(config.ZoneListen)
	return &names{
		limits: limits, allowed: allowed, log: config.Log, hosts: &resolvers{path: path, ours: ours},
		slots: make(chan struct{}, limits.NameQuestions), sources: map[netip.Addr]*source{},
	}
}

// listen serves over UDP and TCP; the address need not be on any interface yet.
func (n *names) listen(ctx context.Context, address string, failed chan<- error) error {
	packets, err := listenConfig().ListenPacket(ctx, "udp", address)
	if err != nil {
		return err
	}
	listener, err := listenConfig().Listen(ctx, "tcp", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return err
	}
	n.servers = []*dns.Server{
		{PacketConn: packets, Handler: n, UDPSize: dns.DefaultMsgSize, MsgAcceptFunc: acceptQuestion},
		{Listener: newPeerDoor(listener, n.allowed, n.limits.NameConnections, n.limits.NameConnectionsPerSandbox), Handler: n, MaxTCPQueries: 128, MsgAcceptFunc: acceptQuestion,
			ReadTimeout: n.limits.NameTotal, WriteTimeout: n.limits.NameTotal},
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
	return nil
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
	from, ok := shareOf(w.RemoteAddr())
	if !ok || !n.allowed.contains(from) || !n.admit(from) {
		w.Close()
		return
	}
	defer n.leave(from)
	reply, err := n.answer(context.Background(), question, n.chosenBy(from))
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
		if len(n.sources) >= n.limits.NameSources {
			// Senders' addresses can be made up: those that are known come first.
			return false
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

// chosenBy returns the resolvers that a sandbox chose. While the server is away, those of the host serve.
func (n *names) chosenBy(from netip.Addr) []string {
	if n.chosen == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.limits.NameTime)
	defer cancel()
	servers, err := n.chosen(ctx, from)
	if err != nil {
		n.log.Warn("name servers of a sandbox not known, the host's serve", "sandbox_address", from, "error", err)
	}
	return servers
}

// lookup returns the addresses of a name, of IPv4 where it has any.
func (n *names) lookup(ctx context.Context, name string, chosen []string) ([]netip.Addr, error) {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		reply, err := n.answer(ctx, new(dns.Msg).SetQuestion(dns.Fqdn(name), kind), chosen)
		if err != nil || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
		if found := addressesIn(reply); len(found) > 0 {
			return found, nil
		}
	}
	return nil, nil
}

func addressesIn(reply *dns.Msg) []netip.Addr {
	var found []netip.Addr
	for _, record := range reply.Answer {
		var address net.IP
		switch typed := record.(type) {
		case *dns.A:
			address = typed.A
		case *dns.AAAA:
			address = typed.AAAA
		}
		if parsed, ok := netip.AddrFromSlice(address); ok {
			found = append(found, parsed.Unmap())
		}
	}
	return found
}

// answer knows, or asks resolvers, one after the other: those that the sandbox chose, or the host's.
func (n *names) answer(ctx context.Context, question *dns.Msg, chosen []string) (*dns.Msg, error) {
	if n.zone != nil && n.zone.covers(question.Question[0]) {
		reply := n.zone.answer(question)
		reply.RecursionAvailable = !n.zoneOnly
		return reply, nil
	}
	if n.zoneOnly {
		return new(dns.Msg).SetRcode(question, dns.RcodeRefused), nil
	}
	switch question.Question[0].Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		return new(dns.Msg).SetRcode(question, dns.RcodeRefused), nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.limits.NameTotal)
	defer cancel()
	servers, mark := make([]string, 0, len(chosen)), n.mark
	for _, address := range chosen {
		servers = append(servers, net.JoinHostPort(address, "53"))
	}
	if len(servers) == 0 {
		var err error
		if servers, err = n.hosts.list(); err != nil {
			return nil, err
		}
		// The host's own may be anywhere.
		mark = 0
	}
	failures := []error{errNoResolvers}
	for _, server := range servers {
		reply, err := n.ask(ctx, server, mark, question)
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
func (n *names) ask(ctx context.Context, server string, mark int, question *dns.Msg) (*dns.Msg, error) {
	// A number of our own: the sandbox's is not secret from the sandbox, and an answer must be ours.
	ours := question.Copy()
	ours.Id = dns.Id()
	reply, err := n.exchange(ctx, "udp", server, mark, ours)
	if err == nil && !reply.Truncated {
		return reply, nil
	}
	if err != nil && !errors.Is(err, dns.ErrBuf) {
		return nil, err
	}
	full, tcpErr := n.exchange(ctx, "tcp", server, mark, ours)
	if tcpErr != nil && err == nil {
		// Truncated is better than nothing.
		return reply, nil
	}
	return full, tcpErr
}

func (n *names) exchange(ctx context.Context, network, server string, mark int, question *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, n.limits.NameTime)
	defer cancel()
	client := dns.Client{
		Net: network, Timeout: n.limits.NameTime, UDPSize: dns.DefaultMsgSize,
		Dialer: &net.Dialer{Timeout: n.limits.NameTime, Control: egress.Marked(mark)},
	}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// Who waits for an answer there hears of the deadline only.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reply, _, err := client.ExchangeWithConnContext(ctx, question, conn)
	if err != nil {
		return nil, errors.Join(ctx.Err(), err)
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
	// ours is an address of this edge, which the file may name; empty for none.
	ours string

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
	named := config.Servers
	// Only those behind ours: asking ourselves would go round in a circle, and so would asking another home that stands
	// before us and asks us.
	if place := slices.Index(named, r.ours); r.ours != "" && place >= 0 {
		named = named[place+1:]
	}
	servers := make([]string, 0, len(named))
	for _, server := range named {
		servers = append(servers, net.JoinHostPort(server, config.Port))
	}
	r.read, r.size, r.servers = info.ModTime(), info.Size(), slices.Compact(servers)
	return r.servers, nil
}
