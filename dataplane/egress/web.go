package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
)

var (
	errNoAuthority = errors.New("there is no authority to show a name with")
	errMisdirected = errors.New("the request is for another host than TLS")
	errClear       = errors.New("secrets and tokens are sent over TLS only")
	errMethod      = errors.New("a method that shows headers, or leads past them")
	// What a sandbox is told instead of what the log says: proxies and secrets are none of its business.
	errHeaders = errors.New("what is to be put into the request is not known now")
	errProxied = errors.New("the server was not reached")
)

// forwardedHeaders are the sandbox's own: a proxy that nobody sees adds and removes none.
var forwardedHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// webConn is a sandbox's connection to port 80, or to port 443 where TLS ends here.
type webConn struct {
	net.Conn
	grant *grant
	to    netip.AddrPort
	// name is TLS's; empty: no TLS.
	name string
}

// Close closes it and takes it off the grant's list.
func (c *webConn) Close() error {
	held := c.Conn
	if ahead, ok := held.(*replayed); ok {
		held = ahead.Conn
	}
	c.grant.drop(held)
	return c.Conn.Close()
}

type webConnKey struct{}

// course is where a request goes, and what it carries there.
type course struct {
	scheme, host string
	headers      []Header
	// name is that of the rule's request; empty: no rule is concerned.
	name string
}

type courseKey struct{}

func courseOf(r *http.Request) *course { return r.Context().Value(courseKey{}).(*course) }

// webServer judges each request by itself: the second on a connection may ask for another host than the first.
func (p *Proxy) webServer() *http.Server {
	quiet := slog.NewLogLogger(p.Log.Handler(), slog.LevelDebug)
	proxy := &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      transportOfGrant{p},
		FlushInterval:  -1,
		ModifyResponse: stayHere,
		ErrorHandler:   p.answerFailure,
		ErrorLog:       quiet,
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from := r.Context().Value(webConnKey{}).(*webConn)
			found, refusal := p.judge(r, from)
			if refusal != nil {
				p.refuse(from.grant, from.to, quoted(r.Host), refusal.why)
				refusal.answer(w)
				return
			}
			// What the sandbox still sends is carried while the server answers already.
			_ = http.NewResponseController(w).EnableFullDuplex()
			proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), courseKey{}, found)))
		}),
		Protocols: protocols,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if secure, ok := conn.(*tls.Conn); ok {
				conn = secure.NetConn()
			}
			return context.WithValue(ctx, webConnKey{}, conn)
		},
		MaxHeaderBytes:    p.Limits.HeaderBytes,
		ReadHeaderTimeout: p.Limits.HelloTime,
		IdleTimeout:       p.Limits.Idle,
		ErrorLog:          quiet,
	}
}

// refusal is why a request goes nowhere, and what its sender is told; 0: nothing, the connection ends.
type refusal struct {
	why    error
	status int
	// told is what the sender hears; nil: why.
	told error
}

func (r *refusal) answer(w http.ResponseWriter) {
	if r.status == 0 {
		panic(http.ErrAbortHandler)
	}
	answerProblem(w, r.status, cmp.Or(r.told, r.why))
}

// answerProblem tells a program in the sandbox what is wrong. Nothing in here is a header's value.
func answerProblem(w http.ResponseWriter, status int, why error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	fmt.Fprintf(w, "Atoll's network rules: %s\n", why)
}

// judge says where a request goes.
func (p *Proxy) judge(r *http.Request, from *webConn) (*course, *refusal) {
	scheme, port := "http", "80"
	if from.name != "" {
		scheme, port = "https", "443"
	}
	name, ok := hostOf(r.Host, port)
	if from.name != "" && name != from.name {
		return nil, &refusal{why: errMisdirected, status: http.StatusMisdirectedRequest}
	}
	if ok {
		if rule := from.grant.RuleFor(name); rule != nil {
			return p.judgeByRule(r, from, rule, scheme, name)
		}
	}
	switch {
	case r.Method == http.MethodConnect:
		return nil, &refusal{why: errNotAllowed}
	case from.grant.AllowsAddress(from.to.Addr()):
		return &course{scheme: scheme, host: from.to.String()}, nil
	case !ok || !from.grant.Allows(name):
		return nil, &refusal{why: errNotAllowed}
	}
	return &course{scheme: scheme, host: name}, nil
}

func (p *Proxy) judgeByRule(r *http.Request, from *webConn, rule *Rule, scheme, name string) (*course, *refusal) {
	if r.Method == http.MethodConnect || r.Method == http.MethodTrace {
		return nil, &refusal{why: errMethod, status: http.StatusMethodNotAllowed}
	}
	if scheme == "http" && len(rule.Placeholders) > 0 {
		return nil, &refusal{why: errClear, status: http.StatusForbidden}
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		// Other protocols would carry requests that nobody looks at.
		r.Header.Del("Upgrade")
	}
	headers, err := p.headers(r.Context(), from.grant, rule)
	if err != nil {
		return nil, &refusal{why: err, status: http.StatusBadGateway, told: errHeaders}
	}
	return &course{scheme: scheme, host: name, headers: headers, name: name}, nil
}

// answerFailure tells why a server was not reached: in words where a rule is concerned, else by closing.
func (p *Proxy) answerFailure(w http.ResponseWriter, r *http.Request, err error) {
	from := r.Context().Value(webConnKey{}).(*webConn)
	p.refuse(from.grant, from.to, quoted(r.Host), err)
	if courseOf(r).name == "" {
		panic(http.ErrAbortHandler)
	}
	if from.grant.Proxy != nil {
		err = errProxied
	}
	answerProblem(w, http.StatusBadGateway, err)
}

// stayHere hides the ways around that a server offers: over them nothing would be put into requests.
func stayHere(response *http.Response) error {
	if courseOf(response.Request).name != "" {
		response.Header.Del("Alt-Svc")
	}
	return nil
}

func rewrite(pr *httputil.ProxyRequest) {
	to := courseOf(pr.In)
	pr.Out.URL.Scheme = to.scheme
	pr.Out.URL.Host = to.host
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	pr.Out.Host = pr.In.Host
	for _, header := range forwardedHeaders {
		if values, ok := pr.In.Header[header]; ok {
			pr.Out.Header[header] = values
		}
	}
	// Last, and in place of what the sandbox sent under the same name.
	for _, header := range to.headers {
		pr.Out.Header.Set(header.Name, header.Value)
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
				return p.connectByURL(ctx, found, address)
			},
			// Servers prove their name, always.
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.Roots},
			TLSHandshakeTimeout:    p.Limits.ConnectTime,
			ForceAttemptHTTP2:      true,
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

// connectByURL connects to the host of a course: an address that the sandbox named, or a name.
func (p *Proxy) connectByURL(ctx context.Context, found *grant, address string) (net.Conn, error) {
	if to, err := netip.ParseAddrPort(address); err == nil {
		return p.connectTo(ctx, found, to)
	}
	name, port, err := net.SplitHostPort(address)
	switch {
	case err != nil:
		return nil, err
	case port == "443":
		return p.connect(ctx, found, name, tlsPort)
	}
	return p.connect(ctx, found, name, webPort)
}
