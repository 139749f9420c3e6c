package egress

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
)

// forwardedHeaders are the sandbox's own: a proxy that nobody sees adds and removes none.
var forwardedHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// webConn is a sandbox's connection to port 80.
type webConn struct {
	net.Conn
	grant *grant
	to    netip.AddrPort
}

// Close closes it and takes it off the grant's list.
func (c *webConn) Close() error {
	c.grant.drop(c.Conn)
	return c.Conn.Close()
}

type webConnKey struct{}

// webServer judges each request by itself: the second on a connection may ask for another host than the first.
func (p *Proxy) webServer() *http.Server {
	quiet := slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)
	proxy := &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     transportOfGrant{p},
		FlushInterval: -1,
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			from := r.Context().Value(webConnKey{}).(*webConn)
			p.refuse(from.grant, from.to, quoted(r.Host), err)
			panic(http.ErrAbortHandler)
		},
		ErrorLog: quiet,
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from := r.Context().Value(webConnKey{}).(*webConn)
			name, ok := hostOf(r.Host, "80")
			if !ok || r.Method == http.MethodConnect || !from.grant.Allows(name) {
				p.refuse(from.grant, from.to, quoted(r.Host), errNotAllowed)
				panic(http.ErrAbortHandler)
			}
			proxy.ServeHTTP(w, r)
		}),
		Protocols: protocols,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, webConnKey{}, conn)
		},
		MaxHeaderBytes:    p.Limits.HeaderBytes,
		ReadHeaderTimeout: p.Limits.HelloTime,
		IdleTimeout:       p.Limits.Idle,
		ErrorLog:          quiet,
	}
}

func rewrite(pr *httputil.ProxyRequest) {
	name, _ := hostOf(pr.In.Host, "80")
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = name
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	pr.Out.Host = pr.In.Host
	for _, header := range forwardedHeaders {
		if values, ok := pr.In.Header[header]; ok {
			pr.Out.Header[header] = values
		}
	}
}

// transportOfGrant sends requests over connections that belong to one sandbox.
type transportOfGrant struct{ proxy *Proxy }

func (t transportOfGrant) RoundTrip(r *http.Request) (*http.Response, error) {
	from := r.Context().Value(webConnKey{}).(*webConn)
	transport, err := t.proxy.transport(from.grant)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(r)
}

func (p *Proxy) transport(found *grant) (*http.Transport, error) {
	found.mu.Lock()
	defer found.mu.Unlock()
	if found.closed {
		return nil, errForgotten
	}
	if found.web == nil {
		found.web = &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				name, _, err := net.SplitHostPort(address)
				if err != nil {
					return nil, err
				}
				return p.connect(ctx, found, name, webPort)
			},
			DisableCompression:     true,
			MaxIdleConns:           p.Limits.IdlePerSandbox,
			MaxIdleConnsPerHost:    p.Limits.IdlePerSandbox,
			IdleConnTimeout:        p.Limits.Idle,
			MaxResponseHeaderBytes: int64(p.Limits.HeaderBytes),
			ExpectContinueTimeout:  p.Limits.HelloTime,
		}
	}
	return found.web, nil
}

// feed is a listener whose connections are given to it.
type feed struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	ended   chan struct{}
}

func newFeed(address net.Addr) *feed {
	return &feed{address: address, conns: make(chan net.Conn), ended: make(chan struct{})}
}

// give hands a connection over; false: nobody takes it any more.
func (f *feed) give(conn net.Conn) bool {
	select {
	case f.conns <- conn:
		return true
	case <-f.ended:
		return false
	}
}

// Accept waits for a connection.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}

// Close ends it.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.ended) })
	return nil
}

// Addr returns where the connections came to.
func (f *feed) Addr() net.Addr { return f.address }
