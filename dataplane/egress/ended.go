package egress

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
)

// replayed is a connection whose first bytes were read already.
type replayed struct {
	net.Conn
	read []byte
}

// Read returns those bytes first.
func (c *replayed) Read(p []byte) (int, error) {
	if len(c.read) > 0 {
		n := copy(p, c.read)
		c.read = c.read[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// NetConn returns the connection below.
func (c *replayed) NetConn() net.Conn { return c.Conn }

// endTLS answers a sandbox in the place of the server that it asks for by the name of a rule.
func (p *Proxy) endTLS(found *grant, conn *replayed, to netip.AddrPort, name string) (given bool) {
	if p.Authority == nil {
		p.refuse(found, to, name, errNoAuthority)
		return false
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// For this name only, whatever the second hello of a handshake says.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Authority.certificate(name) },
		// Nothing is resumed that was agreed for another policy.
		SessionTicketsDisabled: true,
	}
	asked := &webConn{Conn: conn, grant: found, to: to, name: name}
	return p.secureRequests.give(tls.Server(asked, config))
}

// secureServer answers what came over TLS that ends here.
func (p *Proxy) secureServer() *http.Server {
	server := p.webServer()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	server.Protocols = protocols
	// Each connection has its own; this one only says that HTTP/2 is spoken.
	server.TLSConfig = &tls.Config{NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
	return server
}
