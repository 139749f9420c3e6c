package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/net/proxy"
)

// Upstream is a SOCKS5 proxy that a sandbox's TCP goes through. Its credentials are in no error and no log.
type Upstream struct {
	// Address is "host:port"; the host is resolved for each connection, by the host's resolvers.
	Address  string `json:"address"`
	Username string `json:"username"`
	Password string `json:"password"`
	// TLS is how the proxy is spoken to; nil: in the clear.
	TLS *UpstreamTLS `json:"tls"`
}

// UpstreamTLS says whom a proxy must prove to be.
type UpstreamTLS struct {
	// ServerName is the name in its certificate; empty: the host of its address.
	ServerName string `json:"server_name"`
	// CACert are the authorities that may have signed it, in PEM form; empty: the host's.
	CACert string `json:"ca_cert"`
}

var (
	errProxyClosed = errors.New("the proxy's address is one that no sandbox reaches")
	errProxyTLS    = errors.New("the proxy's authorities are no certificates")
)

// dialThrough connects to an address through a proxy: never past it.
func (p *Proxy) dialThrough(ctx context.Context, upstream *Upstream, to netip.AddrPort) (net.Conn, error) {
	hop, err := p.dialUpstream(ctx, upstream)
	if err != nil {
		return nil, fmt.Errorf("the proxy cannot be reached: %w", err)
	}
	var auth *proxy.Auth
	if upstream.Username != "" {
		auth = &proxy.Auth{User: upstream.Username, Password: upstream.Password}
	}
	socks, err := proxy.SOCKS5("tcp", upstream.Address, auth, nil)
	if err == nil {
		// It speaks on a connection of ours, which can say that no more comes; its own cannot.
		speaker := socks.(interface {
			DialWithConn(ctx context.Context, conn net.Conn, network, address string) (net.Addr, error)
		})
		_, err = speaker.DialWithConn(ctx, hop, "tcp", to.String())
	}
	if err != nil {
		hop.Close()
		return nil, fmt.Errorf("the proxy refuses: %w", err)
	}
	return hop, nil
}

func (p *Proxy) dialUpstream(ctx context.Context, upstream *Upstream) (net.Conn, error) {
	host, port, err := net.SplitHostPort(upstream.Address)
	if err != nil {
		return nil, err
	}
	conn, err := p.dialHost(ctx, host, port)
	if err != nil || upstream.TLS == nil {
		return conn, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: upstream.TLS.ServerName}
	if config.ServerName == "" {
		config.ServerName = host
	}
	if upstream.TLS.CACert != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(upstream.TLS.CACert)) {
			conn.Close()
			return nil, errProxyTLS
		}
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// dialHost connects to the first address of a proxy that may be one and that answers.
func (p *Proxy) dialHost(ctx context.Context, host, port string) (net.Conn, error) {
	addresses, err := p.UpstreamAddresses(ctx, host)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	return p.firstOf(ctx, addresses, func(address netip.Addr) (net.Conn, error) {
		dial := p.Dial
		if containedIn(address, p.ProxyNetworks) {
			dial = p.DialProxy
		}
		return dial(ctx, "tcp", netip.AddrPortFrom(address, uint16(number)).String())
	})
}

// UpstreamAddresses returns the addresses of a proxy's host that proxies may have, or why there is none.
func (p *Proxy) UpstreamAddresses(ctx context.Context, host string) ([]netip.Addr, error) {
	var found []netip.Addr
	if address, err := netip.ParseAddr(host); err == nil {
		found = []netip.Addr{address}
	} else {
		name, ok := plainName(host)
		if !ok {
			return nil, fmt.Errorf("%s is no name", quoted(host))
		}
		if found, err = p.Resolve(ctx, name, nil); err != nil {
			return nil, err
		}
	}
	var fit []netip.Addr
	refusal := errNoAddress
	for _, address := range found {
		address = address.Unmap()
		if p.Closed(address) && !containedIn(address, p.ProxyNetworks) {
			refusal = fmt.Errorf("%w: %s", errProxyClosed, address)
			continue
		}
		fit = append(fit, address)
	}
	if len(fit) == 0 {
		return nil, refusal
	}
	return fit, nil
}
