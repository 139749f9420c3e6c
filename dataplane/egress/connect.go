package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// connect resolves a name and connects to the first of its addresses that may be and that answers.
func (p *Proxy) connect(ctx context.Context, found *grant, name string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Limits.ConnectTime)
	defer cancel()
	defer context.AfterFunc(found.ctx, cancel)()
	addresses, err := p.Resolve(ctx, name, found.DNSServers)
	if err != nil {
		return nil, err
	}
	return p.firstOf(ctx, addresses, func(address netip.Addr) (net.Conn, error) {
		if !found.Allows(name) && !found.AllowsAddress(address) {
			return nil, fmt.Errorf("%w: %s", errDenied, address)
		}
		return p.dial(ctx, found, netip.AddrPortFrom(address, port))
	})
}

// firstOf tries a name's addresses one after the other; the error is the last one's.
func (p *Proxy) firstOf(
	ctx context.Context, addresses []netip.Addr, dial func(netip.Addr) (net.Conn, error),
) (net.Conn, error) {
	err := errNoAddress
	for i, address := range addresses {
		if i >= p.Limits.Addresses || ctx.Err() != nil {
			break
		}
		conn, dialErr := dial(address)
		if dialErr == nil {
			return conn, nil
		}
		err = dialErr
	}
	return nil, err
}

// connectTo connects to an address that the sandbox named.
func (p *Proxy) connectTo(ctx context.Context, found *grant, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Limits.ConnectTime)
	defer cancel()
	defer context.AfterFunc(found.ctx, cancel)()
	if !found.AllowsAddress(to.Addr()) {
		return nil, fmt.Errorf("%w: %s", errDenied, to.Addr())
	}
	return p.dial(ctx, found, to)
}

// dial connects to an address of the world, through the proxy if there is one.
func (p *Proxy) dial(ctx context.Context, found *grant, to netip.AddrPort) (conn net.Conn, err error) {
	if p.Closed(to.Addr()) {
		return nil, fmt.Errorf("%w: %s", errClosed, to.Addr())
	}
	if found.Proxy != nil {
		conn, err = p.dialThrough(ctx, found.Proxy, to)
	} else {
		conn, err = p.Dial(ctx, "tcp", to.String())
	}
	if err != nil {
		return nil, err
	}
	kept := &upstreamConn{Conn: conn, grant: found}
	if !found.hold(kept) {
		conn.Close()
		return nil, errForgotten
	}
	return kept, nil
}
