package egress

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// errForgotten: the server took back what was known while it was asked for.
var errForgotten = errors.New("the policy was forgotten")

// Policy is what the server says about a sandbox.
type Policy struct {
	SandboxID string `json:"sandbox_id"`
	// Fingerprint tells policies apart.
	Fingerprint string `json:"fingerprint"`
	// Domains are the names that it reaches, and "*.name" for all below a name.
	Domains []string `json:"domains"`
	// DNSServers are addresses of the resolvers that it chose; none: the host's.
	DNSServers []string `json:"dns_servers"`
	// Allowed wins over Denied; what is neither is reached if Open.
	Allowed []netip.Prefix `json:"allowed"`
	Denied  []netip.Prefix `json:"denied"`
	Open    bool           `json:"open"`
	// Rules say which requests get headers. Proxy is what all TCP goes through; nil: nothing.
	Rules []Rule    `json:"rules"`
	Proxy *Upstream `json:"proxy"`
}

// Rule has headers put into requests for a name, or for all below it.
type Rule struct {
	Domain  string   `json:"domain"`
	Headers []Header `json:"headers"`
	// Placeholders are what stands between "${e2b." and "}" in the values.
	Placeholders []string `json:"placeholders"`
}

// Header is a name and a value, in which "${e2b.secrets.NAME}" stands for a secret, and "${e2b.identity.tokens.NAME}"
// for a token of the sandbox.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Allows says whether a name, in lower case, is one that the sandbox reaches.
func (p *Policy) Allows(name string) bool {
	for _, domain := range p.Domains {
		if matches(name, domain) {
			return true
		}
	}
	return false
}

// AllowsAddress says whether an address is one that the sandbox reaches, whatever its name.
func (p *Policy) AllowsAddress(address netip.Addr) bool {
	address = address.Unmap()
	if containedIn(address, p.Allowed) {
		return true
	}
	return p.Open && !containedIn(address, p.Denied)
}

// RuleFor returns the rule of a name, in lower case: its own, or of the longest name above it; nil: none.
func (p *Policy) RuleFor(name string) *Rule {
	var found *Rule
	for i := range p.Rules {
		rule := &p.Rules[i]
		if rule.Domain == name {
			return rule
		}
		if matches(name, rule.Domain) && (found == nil || len(rule.Domain) > len(found.Domain)) {
			found = rule
		}
	}
	return found
}

// readsNames says whether what a connection asks for decides about it.
func (p *Policy) readsNames() bool { return len(p.Domains) > 0 || len(p.Rules) > 0 }

func containedIn(address netip.Addr, networks []netip.Prefix) bool {
	for _, network := range networks {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// Policies remembers what the server said, by the sandboxes' addresses, until it is told to forget.
type Policies struct {
	ask func(context.Context, netip.Addr) (Policy, error)

	mu     sync.Mutex
	grants map[netip.Addr]*grant
	// forgotten counts; an answer to a question that is older than the last forgetting is not kept.
	forgotten uint64
}

// NewPolicies remembers what ask returns.
func NewPolicies(ask func(context.Context, netip.Addr) (Policy, error)) *Policies {
	return &Policies{ask: ask, grants: map[netip.Addr]*grant{}}
}

// DNSServers returns the resolvers that the sandbox at an address chose.
func (p *Policies) DNSServers(ctx context.Context, address netip.Addr) ([]string, error) {
	found, err := p.get(ctx, address)
	if err != nil {
		return nil, err
	}
	return found.DNSServers, nil
}

func (p *Policies) get(ctx context.Context, address netip.Addr) (*grant, error) {
	// Somebody else's sandbox may be forgotten meanwhile; more than a few in a row are not waited for.
	for range 3 {
		p.mu.Lock()
		found, since := p.grants[address], p.forgotten
		p.mu.Unlock()
		if found != nil {
			return found, nil
		}
		policy, err := p.ask(ctx, address)
		if err != nil {
			return nil, err
		}
		if kept := p.keep(address, policy, since); kept != nil {
			return kept, nil
		}
	}
	return nil, errForgotten
}

func (p *Policies) keep(address netip.Addr, policy Policy, since uint64) *grant {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgotten != since {
		return nil
	}
	if found := p.grants[address]; found != nil {
		return found
	}
	ctx, cancel := context.WithCancel(context.Background())
	made := &grant{Policy: policy, address: address, ctx: ctx, cancel: cancel, conns: map[net.Conn]struct{}{}}
	p.grants[address] = made
	return made
}

// Forget drops what is known about a sandbox, and cuts what is carried for it; nothing happens to a policy with the
// fingerprint that it may keep.
func (p *Policies) Forget(id, unless string) {
	p.forget(func(found *grant) bool {
		return found.SandboxID == id && (unless == "" || found.Fingerprint != unless)
	})
}

// ForgetAll drops everything.
func (p *Policies) ForgetAll() {
	p.forget(func(*grant) bool { return true })
}

func (p *Policies) forget(which func(*grant) bool) {
	var ended []*grant
	p.mu.Lock()
	p.forgotten++
	for address, found := range p.grants {
		if which(found) {
			delete(p.grants, address)
			ended = append(ended, found)
		}
	}
	p.mu.Unlock()
	for _, found := range ended {
		found.end()
	}
}

// grant is a policy, and all that is carried under it. It ends once, for good.
type grant struct {
	Policy
	address netip.Addr
	ctx     context.Context
	cancel  context.CancelFunc
	values  valueCache

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	web    *http.Transport
}

// hold has a connection cut with the grant; false: it has ended.
func (g *grant) hold(conn net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.conns[conn] = struct{}{}
	return true
}

func (g *grant) drop(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, conn)
}

func (g *grant) end() {
	g.cancel()
	g.mu.Lock()
	g.closed = true
	conns, web := g.conns, g.web
	g.conns = nil
	g.mu.Unlock()
	for conn := range conns {
		conn.Close()
	}
	if web != nil {
		web.CloseIdleConnections()
	}
}
