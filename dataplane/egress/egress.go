// Package egress carries sandboxes' connections to the world by name.
//
// The fence leads a sandbox's TCP to ports 80 and 443 here when its policy allows domains. The name in TLS's hello, or
// in each HTTP request, is compared with them, resolved here, and connected to: what the sandbox has resolved itself
// counts for nothing. Everything else is refused by closing, with a line in the log that says why.
package egress

import (
	"context"
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
	// HelloTime is how long a sandbox may take to send its hello, or a request's headers.
	HelloTime time.Duration
	// HeaderBytes bounds a request's line and headers.
	HeaderBytes int
	// ConnectTime bounds resolving a name and connecting to it.
	ConnectTime time.Duration
	// Addresses is how many addresses of one name are tried.
	Addresses int
	// Idle is how long an unused HTTP connection is kept, on both sides; IdlePerSandbox how many to the world.
	Idle           time.Duration
	IdlePerSandbox int
	// StopTime is how long requests under way may go on at the end.
	StopTime time.Duration
}

// DefaultLimits returns what a proxy runs with.
func DefaultLimits() Limits {
	return Limits{
		HelloBytes: 32 << 10, HelloTime: 10 * time.Second, HeaderBytes: 60 << 10, ConnectTime: 10 * time.Second,
		Addresses: 8, Idle: 60 * time.Second, IdlePerSandbox: 16, StopTime: time.Second,
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
	// Dial connects.
	Dial   func(ctx context.Context, network, address string) (net.Conn, error)
	Limits Limits
	Log    *slog.Logger
}

// Proxy is a running proxy.
type Proxy struct {
	Config
	listener net.Listener
	web      *http.Server
	requests *feed
	serving  sync.WaitGroup
}

// Start serves what the listener accepts.
func Start(listener net.Listener, config Config) *Proxy {
	p := &Proxy{Config: config, listener: listener, requests: newFeed(listener.Addr())}
	p.web = p.webServer()
	p.serving.Go(func() { _ = p.web.Serve(p.requests) })
	p.serving.Go(p.accept)
	return p
}

// Close cuts everything and returns when nothing is left.
func (p *Proxy) Close() {
	// Whatever these say, nothing more is accepted.
	_ = p.listener.Close()
	_ = p.requests.Close()
	p.Policies.ForgetAll()
	_ = p.web.Close()
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
	switch {
	case err == nil && to.Port() == tlsPort:
		p.carryTLS(found, conn, to)
	case err == nil && to.Port() == webPort && p.requests.give(&webConn{Conn: conn, grant: found, to: to}):
		// Closed and dropped there.
		return
	case err != nil:
		p.Log.Error("egress refused: not led here by the fence", "sandbox_id", found.SandboxID, "error", err)
	}
	found.drop(conn)
	conn.Close()
}

// refuse says why a connection ends.
func (p *Proxy) refuse(found *grant, to netip.AddrPort, name string, why error) {
	p.Log.Warn("egress refused", "sandbox_id", found.SandboxID, "to", to, "name", name, "why", why)
}

var (
	errNotAllowed = errors.New("the name is not among the allowed domains")
	errClosed     = errors.New("the name leads to an address that no sandbox reaches")
	errNoAddress  = errors.New("the name has no address")
)

func (p *Proxy) carryTLS(found *grant, conn net.Conn, to netip.AddrPort) {
	_ = conn.SetReadDeadline(time.Now().Add(p.Limits.HelloTime))
	claimed, read, err := serverName(conn, p.Limits.HelloBytes)
	if err != nil {
		p.refuse(found, to, "", err)
		return
	}
	name, ok := plainName(claimed)
	if !ok || !found.Allows(name) {
		p.refuse(found, to, quoted(claimed), errNotAllowed)
		return
	}
	upstream, err := p.connect(found.ctx, found, name, tlsPort)
	if err != nil {
		p.refuse(found, to, name, err)
		return
	}
	defer upstream.Close()
	_ = conn.SetReadDeadline(time.Time{})
	if _, err := upstream.Write(read); err == nil {
		splice(conn, upstream)
	}
}

// connect resolves a name and connects to the first of its addresses that may be and that answers.
func (p *Proxy) connect(ctx context.Context, found *grant, name string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Limits.ConnectTime)
	defer cancel()
	defer context.AfterFunc(found.ctx, cancel)()
	addresses, err := p.Resolve(ctx, name, found.DNSServers)
	if err != nil {
		return nil, err
	}
	err = errNoAddress
	for i, address := range addresses {
		if i >= p.Limits.Addresses || ctx.Err() != nil {
			break
		}
		if p.Closed(address) {
			err = fmt.Errorf("%w: %s", errClosed, address)
			continue
		}
		conn, dialErr := p.Dial(ctx, "tcp", net.JoinHostPort(address.String(), strconv.Itoa(int(port))))
		if dialErr != nil {
			err = dialErr
			continue
		}
		kept := &upstreamConn{Conn: conn, grant: found}
		if !found.hold(kept) {
			conn.Close()
			return nil, errForgotten
		}
		return kept, nil
	}
	return nil, err
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
