package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
)

// bufferBytes is the size of the pieces in which bodies are carried: few system calls for a large file, and little
// memory for many streams.
const bufferBytes = 64 << 10

// forwarder carries requests to sandboxes.
type forwarder struct {
	routes *routes
	limits *Limits
	lifts  *lifts
	log    *slog.Logger
	proxy  *httputil.ReverseProxy
}

func newForwarder(routes *routes, limits *Limits, log *slog.Logger) *forwarder {
	f := &forwarder{routes: routes, limits: limits, lifts: newLifts(limits.Lifts), log: log}
	f.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      transportOfLease{},
		FlushInterval:  -1,
		BufferPool:     buffers,
		ModifyResponse: prepareAnswer,
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			// Nothing has been answered yet: the caller of the proxy decides what to say.
			exchangeOf(r.Context()).err = err
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return f
}

// exchange is one request on its way through a lease.
type exchange struct {
	lease *lease
	to    target
	body  *clientBody
	// answer is nil where nothing can be lifted.
	answer *answerWriter
	lifts  *lifts
	// conn is the connection to the sandbox, once there is one; other requests share a multiplexed one.
	conn        net.Conn
	multiplexed bool
	// answered: an answer has begun, which is none that announces another.
	answered atomic.Bool
	// err is why there is no answer.
	err error
}

// use is called when there is a connection. HTTP/2 has many users at once, and does not wait for the client.
func (e *exchange) use(info httptrace.GotConnInfo) {
	e.conn = info.Conn
	if conn, ok := beneath(e.conn).(*sandboxConn); ok && !e.multiplexed {
		conn.tell(e)
	}
}

func (e *exchange) release() {
	if conn, ok := beneath(e.conn).(*sandboxConn); ok && !e.multiplexed {
		conn.tell(nil)
	}
}

// beneath returns the connection that TLS runs over.
func beneath(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func (f *forwarder) serve(w http.ResponseWriter, r *http.Request, to target) {
	body := openBody(w, r, f.limits)
	defer body.leave()
	refuseUpgrades(r, to)

	// Once more if the route turned out to be old before anything was sent, or if a read was cut off: it wakes a paused
	// sandbox as one does that comes a moment later. At most once, so that a sandbox that comes and goes keeps nobody
	// for long.
	failure := f.try(w, r, to, body)
	switch {
	case errors.Is(failure, errForgotten) && !body.wasInterrupted():
		failure = f.try(w, r, to, body)
	case errors.Is(failure, errCutOff) && isRead(r) && r.Context().Err() == nil:
		if failure = f.try(w, r, to, body); isAsleep(failure) {
			failure = errCutOff
		}
	}
	switch {
	case failure == nil:
	case r.Context().Err() == nil && body.unreadable():
		body.closeAfter(w)
		badBody(to).write(w, r)
	case r.Context().Err() == nil || body.wasInterrupted():
		if body.wasInterrupted() {
			body.closeAfter(w)
		}
		f.explain(failure, to).write(w, r)
	default:
		// The client is gone. Returning would be an answer of 200.
		panic(http.ErrAbortHandler)
	}
}

// try forwards once. An error means that the client has been told nothing yet.
func (f *forwarder) try(w http.ResponseWriter, r *http.Request, to target, body *clientBody) error {
	found, err := f.routes.get(r.Context(), to.id)
	if err != nil {
		return err
	}
	ctx, done, err := found.begin(r.Context())
	if err != nil {
		return err
	}
	defer done()
	if refused := found.ingress.refuse(r, to); refused != nil {
		refused.write(w, r)
		return nil
	}
	under := &exchange{lease: found, to: to, body: body, answer: answerWriterFor(w, r), lifts: f.lifts}
	under.multiplexed = isGRPC(r) && to.port != daemonPort && !found.ingress.isHTTPS(to)
	ctx = context.WithValue(ctx, exchangeKey{}, under)
	watch := watchSilence(found, to)
	defer watch.stop()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:      under.use,
		WroteRequest: watch.wrote,
		GotFirstResponseByte: func() {
			watch.stop()
			under.answered.Store(true)
		},
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			under.answered.Store(false)
			return nil
		},
	})
	// The transport does not return while it reads from the client, however dead the sandbox is.
	defer context.AfterFunc(ctx, body.interrupt)()
	defer under.release()
	forwarded := r.WithContext(ctx)
	switch {
	case isSmallCall(r, to, f.limits):
		if under.err = body.readWhole(r.ContentLength); under.err != nil {
			return f.judge(r.Context(), under)
		}
	case hasBody(r):
		forwarded.Body = body
	}
	if under.answer != nil {
		w = under.answer
	}
	f.proxy.ServeHTTP(w, forwarded)
	return f.judge(r.Context(), under)
}

// isAsleep: there is nobody to send a request to, and nothing more to say about that.
func isAsleep(failure error) bool {
	return errors.Is(failure, errNotFound) || errors.Is(failure, errForgotten) || errors.Is(failure, errInTransition)
}

// isRead: it asks for nothing to be done, so that it may be sent twice.
func isRead(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return !hasBody(r)
	default:
		return false
	}
}

// isSmallCall: guestd answers a call when it has read all of it. Other programs may answer sooner.
func isSmallCall(r *http.Request, to target, limits *Limits) bool {
	return to.port == daemonPort && r.ContentLength > 0 && r.ContentLength <= limits.SmallCall && r.Header.Get("Expect") == ""
}

// judge says what a failure means: errForgotten only if nothing was sent, errCutOff where something may have been.
// A sandbox that cannot be connected to may have moved or ended.
func (f *forwarder) judge(ctx context.Context, under *exchange) error {
	err := under.err
	switch {
	case err == nil:
		return nil
	case under.lease.ended() && under.conn != nil:
		return errCutOff
	case under.lease.ended():
		return errForgotten
	case ctx.Err() != nil:
		return err
	}
	if errors.Is(err, errUnreachable) && under.to.port == daemonPort {
		under.lease.tellSilence()
	}
	if errors.Is(err, errUnreachable) || (errors.Is(err, errPortClosed) && under.to.port == daemonPort) {
		valid, checkErr := f.routes.check(ctx, under.lease)
		if checkErr != nil {
			return checkErr
		}
		if valid != under.lease {
			return errForgotten
		}
	}
	return err
}

func (f *forwarder) explain(err error, to target) *problem {
	var refused *serverRefusal
	switch {
	case errors.Is(err, errNotFound), errors.Is(err, errForgotten), errors.Is(err, errOutOfRange):
		return notFound(to.id)
	case errors.Is(err, errCutOff):
		return cutOff(to.id)
	case errors.Is(err, errInTransition):
		return inTransition(to.id)
	case errors.As(err, &refused):
		return refusedBy(refused, to.id)
	case errors.Is(err, errServerAway):
		return serverAwayFor(to.id)
	case errors.Is(err, errBusy):
		return tooManyRequests(to)
	case errors.Is(err, errPortClosed):
		return portClosed(to)
	case errors.Is(err, errUnreachable), errors.Is(err, context.DeadlineExceeded):
		return noConnection(to)
	default:
		return badAnswer(to, err)
	}
}

// rewrite makes the request for the sandbox: as the client sent it, but for what is between the client and us.
func rewrite(pr *httputil.ProxyRequest) {
	under := exchangeOf(pr.In.Context())
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = netip.AddrPortFrom(under.lease.address, uint16(under.to.port)).String()
	// The proxy drops what it cannot parse from queries; programs may parse otherwise.
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	pr.Out.Host = pr.In.Host
	pr.Out.Header.Del("X-Real-Ip")
	pr.SetXForwarded()
	under.lease.ingress.apply(pr.Out, under.to)
	if whole := under.body.whole(); whole != nil {
		pr.Out.Body = whole
	}
	under.body.sendTrailersWith(pr.Out)
}

// refuseUpgrades drops upgrades that would carry requests past us.
// HTTP/2 in the clear by upgrade was taken out of HTTP/2 itself; a server may ignore it, and we do:
// forwarded, it would let a client ask guestd for any path. guestd has nothing to upgrade to.
func refuseUpgrades(r *http.Request, to target) {
	for _, protocol := range r.Header.Values("Upgrade") {
		if to.port == daemonPort || hasBody(r) || strings.Contains(strings.ToLower(protocol), "h2c") {
			r.Header.Del("Upgrade")
			break
		}
	}
	r.Header.Del("Http2-Settings")
}

// transportOfLease sends a request over the connections of its lease.
type transportOfLease struct{}

func (transportOfLease) RoundTrip(r *http.Request) (*http.Response, error) {
	under := exchangeOf(r.Context())
	switch {
	case under.to.port == daemonPort:
		return under.lease.daemon.RoundTrip(r)
	case under.multiplexed:
		return under.lease.grpc.RoundTrip(r)
	default:
		return under.lease.ports.RoundTrip(r)
	}
}

// isGRPC: gRPC needs HTTP/2 all the way; most other programs do not speak it.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

func prepareAnswer(response *http.Response) error {
	if response.StatusCode == http.StatusSwitchingProtocols {
		return openBothWays(response)
	}
	liftAnswer(response)
	return nil
}

// openBothWays lets one side of an upgraded connection end while the other goes on.
func openBothWays(response *http.Response) error {
	stream, ok := response.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the answer to an upgrade cannot be written to")
	}
	response.Body = &upgraded{ReadWriteCloser: stream, conn: exchangeOf(response.Request.Context()).conn}
	return nil
}

type upgraded struct {
	io.ReadWriteCloser
	conn net.Conn
}

// CloseWrite is what the proxy calls when the client has sent all.
func (u *upgraded) CloseWrite() error { return closeWrite(u.conn) }

// buffers are shared by all bodies under way.
var buffers = &bufferPool{pool: sync.Pool{New: func() any { return new([bufferBytes]byte) }}}

type bufferPool struct{ pool sync.Pool }

func (b *bufferPool) Get() []byte  { return b.pool.Get().(*[bufferBytes]byte)[:] }
func (b *bufferPool) Put(p []byte) { b.pool.Put((*[bufferBytes]byte)(p)) }
