// Package egress carries sandboxes' connections to the world where more than addresses decides about them.
//
// The fence leads a sandbox's TCP to ports 80 and 443 here when its policy allows domains or has rules, and all of its
// TCP when that goes through a proxy. The name in TLS's hello, or in each HTTP request, is compared with the domains,
// resolved here, and connected to: what the sandbox has resolved itself counts for nothing. What goes to an address
// that the sandbox reaches anyway goes there. Requests for the name of a rule get its headers: TLS ends here for that,
// and begins again towards a server that proves its name. Everything else is refused by closing, with a line in the
// log that says why.
package egress

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	webPort = 80
	tlsPort = 443
)

// Limits are the bounds of a proxy.
type Limits struct {
	// HelloBytes bounds a TLS hello; those with post-quantum keys have 2 KB.
	HelloBytes int64
	// HelloTime is how long a sandbox may take to send its hello, or a request's headers; and how long a server is
	// waited for that a request's body expects the consent of.
	HelloTime time.Duration
	// HeaderBytes bounds the first line and headers of a request, and of its answer.
	HeaderBytes int
	// ConnectTime bounds resolving a name and connecting to it, the handshake of TLS behind that, and each question
	// to our own server.
	ConnectTime time.Duration
	// Addresses is how many addresses of one name are tried.
	Addresses int
	// Idle is how long an unused HTTP connection is kept, on both sides; IdlePerSandbox how many to the world.
	Idle           time.Duration
	IdlePerSandbox int
	// ValueTime is how long what stands for a placeholder is used before it is asked for again.
	ValueTime time.Duration
	// Certificates is how many certificates for names of rules are kept.
	Certificates int
}

// DefaultLimits returns what a proxy runs with.
func DefaultLimits() Limits {
	return Limits{
		HelloBytes: 32 << 10, HelloTime: 10 * time.Second, HeaderBytes: 60 << 10, ConnectTime: 10 * time.Second,
		Addresses: 8, Idle: 60 * time.Second, IdlePerSandbox: 16, ValueTime: 5 * time.Second,
		Certificates: 1024,
	}
}

// Config is what a proxy works with.
type Config struct {
	Policies *Policies
	// Resolve finds a name's addresses, by the given servers or the host's.
	Resolve func(ctx context.Context, name string, servers []string) ([]netip.Addr, error)
	// Original says where a connection was going before it was led here.
	Original func(net.Conn) (netip.AddrPort, error)
	// Closed says which addresses no name may lead to.
	Closed func(netip.Addr) bool
	// Dial connects, and the fence judges it as the sandbox's own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ProxyNetworks are where proxies may be, though Closed says that no sandbox reaches it; DialProxy connects there.
	ProxyNetworks []netip.Prefix
	DialProxy     func(ctx context.Context, network, address string) (net.Conn, error)
	// Authority signs what sandboxes are shown for names of rules; nil: no rule works.
	Authority *Authority
	// Roots are whom servers of such names are signed by; nil: the host's.
	Roots *x509.CertPool
	// Values finds what stands for placeholders, for the sandbox at an address; those that are not there are left out.
	Values func(ctx context.Context, address netip.Addr, names []string) (map[string]string, error)
	Limits Limits
	Log    *slog.Logger
}

// Proxy is a running proxy.
type Proxy struct {
	Config
	listener net.Listener
	web      *http.Server
	requests *feed
	// secure is what comes over TLS that ends here.
	secure         *http.Server
	secureRequests *feed
	serving        sync.WaitGroup
}

// Start serves what the listener accepts.
func Start(listener net.Listener, config Config) *Proxy {
	p := &Proxy{
		Config: config, listener: listener,
		requests: newFeed(listener.Addr()), secureRequests: newFeed(listener.Addr()),
	}
	p.web, p.secure = p.webServer(), p.secureServer()
	p.serving.Go(func() { _ = p.web.Serve(p.requests) })
	p.serving.Go(func() { _ = p.secure.Serve(p.secureRequests) })
	p.serving.Go(p.accept)
	return p
}

// Close cuts everything and returns when nothing is left.
func (p *Proxy) Close() {
	// Whatever these say, nothing more is accepted.
	_ = p.listener.Close()
	_ = p.requests.Close()
	_ = p.secureRequests.Close()
	p.Policies.ForgetAll()
	_ = p.web.Close()
	_ = p.secure.Close()
	p.serving.Wait()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// Out of descriptors, say: some are given back in a moment.
			p.Log.Error("egress: no connection accepted", "error", err)
			time.Sleep(100 * time.Millisecond)
		default:
			p.serving.Go(func() { p.serve(conn) })
		}
	}
}

func (p *Proxy) serve(conn net.Conn) {
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.Limits.ConnectTime)
	found, err := p.Policies.get(ctx, from.Addr().Unmap())
	cancel()
	if err != nil {
		p.Log.Error("egress refused: no policy", "sandbox_address", from.Addr(), "error", err)
		conn.Close()
		return
	}
	if !found.hold(conn) {
		conn.Close()
		return
	}
	to, err := p.Original(conn)
	if err != nil {
		p.Log.Error("egress refused: not led here by the fence", "sandbox_id", found.SandboxID, "error", err)
	} else if p.carry(found, conn, to) {
		// Closed and dropped by whoever has it now.
		return
	}
	found.drop(conn)
	conn.Close()
}

// carry returns when nothing more goes over a connection, or true when somebody else goes on with it.
func (p *Proxy) carry(found *grant, conn net.Conn, to netip.AddrPort) (given bool) {
	switch {
	case found.readsNames() && to.Port() == tlsPort:
		return p.carryTLS(found, conn, to)
	case found.readsNames() && to.Port() == webPort:
		return p.requests.give(&webConn{Conn: conn, grant: found, to: to})
	case found.Proxy != nil:
		p.carryTo(found, conn, to, nil)
	default:
		p.refuse(found, to, "", errNotLed)
	}
	return false
}

// refuse says why a connection ends.
func (p *Proxy) refuse(found *grant, to netip.AddrPort, name string, why error) {
	p.Log.Warn("egress refused", "sandbox_id", found.SandboxID, "to", to, "name", name, "why", why)
}

var (
	errNotLed     = errors.New("nothing in the policy leads here")
	errNotAllowed = errors.New("the name is not among the allowed domains")
	errDenied     = errors.New("the address is denied")
	errClosed     = errors.New("the name leads to an address that no sandbox reaches")
	errNoAddress  = errors.New("the name has no address")
)

func (p *Proxy) carryTLS(found *grant, conn net.Conn, to netip.AddrPort) (given bool) {
	_ = conn.SetReadDeadline(time.Now().Add(p.Limits.HelloTime))
	claimed, read, err := serverName(conn, p.Limits.HelloBytes)
	_ = conn.SetReadDeadline(time.Time{})
	name, ok := plainName(claimed)
	switch {
	case err == nil && ok && found.RuleFor(name) != nil:
		return p.endTLS(found, &replayed{Conn: conn, read: read}, to, name)
	case found.AllowsAddress(to.Addr()):
		// Whatever it is.
		p.carryTo(found, conn, to, read)
	case err != nil:
		p.refuse(found, to, "", err)
	case !ok || !found.Allows(name):
		p.refuse(found, to, quoted(claimed), errNotAllowed)
	default:
		upstream, err := p.connect(found.ctx, found, name, tlsPort)
		if err != nil {
			p.refuse(found, to, name, err)
			return false
		}
		spliceAfter(conn, upstream, read)
	}
	return false
}

// carryTo carries a connection to where it was going.
func (p *Proxy) carryTo(found *grant, conn net.Conn, to netip.AddrPort, read []byte) {
	upstream, err := p.connectTo(found.ctx, found, to)
	if err != nil {
		p.refuse(found, to, "", err)
		return
	}
	spliceAfter(conn, upstream, read)
}

// spliceAfter carries bytes both ways, behind those that were read already, and closes upstream.
func spliceAfter(conn, upstream net.Conn, read []byte) {
	defer upstream.Close()
	if _, err := upstream.Write(read); err == nil {
		splice(conn, upstream)
	}
}

// upstreamConn is a connection to the world.
type upstreamConn struct {
	net.Conn
	grant *grant
}

// Close closes it and takes it off the grant's list.
func (c *upstreamConn) Close() error {
	c.grant.drop(c)
	return c.Conn.Close()
}

// CloseWrite tells the other end that no more comes.
func (c *upstreamConn) CloseWrite() error { return closeWrite(c.Conn) }

// splice carries bytes both ways until both ends are done, or one breaks.
func splice(one, other net.Conn) {
	var both sync.WaitGroup
	carry := func(to, from net.Conn) {
		if _, err := io.Copy(to, from); err != nil {
			to.Close()
			from.Close()
			return
		}
		// The other end sees it by itself if this fails.
		_ = closeWrite(to)
	}
	both.Go(func() { carry(one, other) })
	both.Go(func() { carry(other, one) })
	both.Wait()
}

func closeWrite(conn net.Conn) error {
	for {
		switch beneath := conn.(type) {
		case interface{ CloseWrite() error }:
			return beneath.CloseWrite()
		case interface{ NetConn() net.Conn }:
			conn = beneath.NetConn()
		default:
			return conn.Close()
		}
	}
}

// quoted shortens what a sandbox claims for the log.
func quoted(claimed string) string {
	if len(claimed) > mostName {
		claimed = claimed[:mostName]
	}
	return strconv.QuoteToASCII(claimed)
}

// OriginalDestination asks the kernel where a connection was going before it was redirected.
func OriginalDestination(conn net.Conn) (netip.AddrPort, error) {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = wrapped.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%T is no TCP connection", conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var found *unix.IPv6Mreq
	var failed error
	err = raw.Control(func(fd uintptr) {
		// The kernel writes a sockaddr_in, which has the size of what this call reads.
		found, failed = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST)
	})
	if err := errors.Join(err, failed); err != nil {
		return netip.AddrPort{}, err
	}
	b := found.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}

// Marked returns what marks a socket for the fence; 0: no mark.
func Marked(mark int) func(network, address string, raw syscall.RawConn) error {
	if mark == 0 {
		return nil
	}
	return func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark)
		})
		return errors.Join(err, failed)
	}
}
