package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	// errPortClosed: nobody listens on the port, on loopback neither.
	errPortClosed = errors.New("the port is not open")
	// errUnreachable: the sandbox neither accepts nor refuses.
	errUnreachable = errors.New("the sandbox accepts no connection")
	// errBusy: the sandbox has as many requests as it may.
	errBusy = errors.New("too many requests in flight")
)

// lease is the right to connect to a sandbox's address, and all that was made with it.
//
// It ends once, for good: then its connections are cut, its requests are cancelled, and no attempt to connect is
// under way. A sandbox that is found again gets a new one, so that nothing old can reach a new owner of the address.
type lease struct {
	id      string
	address netip.Addr
	ingress ingress
	limits  *Limits

	ctx    context.Context
	cancel context.CancelFunc

	// One transport each: guestd keeps unused connections longer than strangers' programs do, and only gRPC
	// speaks HTTP/2 without being asked.
	daemon, ports, grpc *http.Transport

	// complain tells the server of a silent guestd; complaining is set while it does.
	complain    func(context.Context, string) error
	complaining atomic.Bool

	// checking guards checked, when the server was last asked whether this still holds.
	checking sync.Mutex
	checked  time.Time

	mu       sync.Mutex
	closed   bool
	requests int
	// used is when the last request ended, or the lease began.
	used  time.Time
	conns map[*sandboxConn]struct{}
	dials sync.WaitGroup
}

func newLease(id string, found answer, limits *Limits) *lease {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lease{
		id: id, address: found.address, ingress: found.ingress, limits: limits, ctx: ctx, cancel: cancel, checked: time.Now(), used: time.Now(),
		conns: map[*sandboxConn]struct{}{},
	}
	l.daemon = l.transport(limits.DaemonIdle)
	l.ports = l.transport(limits.PortIdle)
	l.grpc = l.transport(limits.PortIdle)
	l.grpc.Protocols = new(http.Protocols)
	l.grpc.Protocols.SetUnencryptedHTTP2(true)
	return l
}

func (l *lease) transport(idle time.Duration) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			number, err := strconv.Atoi(port)
			if err != nil {
				return nil, err
			}
			return l.dial(ctx, number)
		},
		// What the client did not ask for, the sandbox must not be asked for.
		DisableCompression:  true,
		MaxIdleConns:        l.limits.IdlePerSandbox,
		MaxIdleConnsPerHost: l.limits.IdlePerSandbox,
		IdleConnTimeout:     idle,
		// Programs in sandboxes have certificates of their own making, and who made the sandbox is at home in it.
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    l.limits.ConnectTime,
		MaxResponseHeaderBytes: l.limits.AnswerHeaderBytes,
		// A program that knows nothing of "Expect: 100-continue" costs this once; curl waits as long.
		ExpectContinueTimeout: time.Second,
		ReadBufferSize:        bufferBytes,
		WriteBufferSize:       bufferBytes,
	}
}

// begin counts a request in and ties it to the lease: its context ends with either.
func (l *lease) begin(ctx context.Context) (context.Context, func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, errForgotten
	}
	if l.requests >= l.limits.SandboxRequests {
		return nil, nil, errBusy
	}
	l.requests++
	tied, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.ctx, func() { cancel(errForgotten) })
	return tied, func() {
		stop()
		cancel(nil)
		l.mu.Lock()
		l.requests--
		l.used = time.Now()
		l.mu.Unlock()
	}, nil
}

// retire closes a lease that had no request for so long, which is still to be ended; it returns how long that takes at
// least, 0 if it is closed.
func (l *lease) retire(idle time.Duration) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.requests > 0 {
		return idle
	}
	if left := idle - time.Since(l.used); left > 0 {
		return left
	}
	l.closed = true
	return 0
}

// closeUnused closes a lease that has no request, which is still to be ended.
func (l *lease) closeUnused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = l.closed || l.requests == 0
	return l.closed
}

func (l *lease) isUsed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests > 0
}

func (l *lease) ended() bool { return l.ctx.Err() != nil }

// end cuts everything and returns when no attempt to connect is left. Twice does nothing, but waits as well.
func (l *lease) end() {
	l.mu.Lock()
	l.closed = true
	conns := l.conns
	l.conns = map[*sandboxConn]struct{}{}
	l.mu.Unlock()
	l.cancel()
	for conn := range conns {
		conn.cut()
	}
	// Attempts under way were cancelled, and close what they get.
	l.dials.Wait()
}

// dial connects to a port of the sandbox. A program that listens on loopback only is reached through guestd;
// one that does not listen yet gets a second to do so.
func (l *lease) dial(ctx context.Context, port int) (net.Conn, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errForgotten
	}
	l.dials.Add(1)
	l.mu.Unlock()
	defer l.dials.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()

	conn, err := l.connect(ctx, port)
	for _, pause := range l.limits.ConnectPauses {
		// guestd listened before the server called the sandbox running: if it does not now, waiting is no help.
		if port == daemonPort || !errors.Is(err, errPortClosed) || wait(ctx, pause) != nil {
			break
		}
		conn, err = l.connect(ctx, port)
	}
	if err != nil {
		if l.ended() {
			return nil, errForgotten
		}
		return nil, err
	}
	return l.keep(conn)
}

// connect tries the port, and the same port on loopback if it is refused.
func (l *lease) connect(ctx context.Context, port int) (net.Conn, error) {
	conn, err := l.connectOnce(ctx, port)
	if errors.Is(err, errPortClosed) && port != daemonPort {
		return l.tunnel(ctx, port)
	}
	return conn, err
}

func (l *lease) connectOnce(ctx context.Context, port int) (net.Conn, error) {
	// No keep-alive probes: each would wake an idle sandbox. It is on this machine, and its end is told.
	dialer := net.Dialer{Timeout: l.limits.ConnectTime, KeepAlive: -1}
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(l.address, uint16(port)).String())
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: %w", errPortClosed, err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
}

// tunnel reaches a loopback port through guestd's private one.
func (l *lease) tunnel(ctx context.Context, port int) (net.Conn, error) {
	conn, err := l.connectOnce(ctx, privatePort)
	if err != nil {
		return nil, err
	}
	// Closing wakes whoever reads or writes when the request ends first.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	tunnelled, err := l.openTunnel(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return tunnelled, nil
}

func (l *lease) openTunnel(conn net.Conn, port int) (net.Conn, error) {
	if err := conn.SetDeadline(time.Now().Add(l.limits.TunnelTime)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", port, port); err != nil {
		return nil, fmt.Errorf("%w: tunnel: %w", errUnreachable, err)
	}
	// Whoever answers may be the guest's root instead of guestd: bounded.
	bounded := &io.LimitedReader{R: conn, N: 8 << 10}
	reader := bufio.NewReaderSize(bounded, 4<<10)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("%w: tunnel: %w", errUnreachable, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: tunnel: %s", errPortClosed, response.Status)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	if reader.Buffered() == 0 {
		return conn, nil
	}
	// The program spoke first.
	head, err := reader.Peek(reader.Buffered())
	if err != nil {
		return nil, err
	}
	return &headedConn{Conn: conn, head: head}, nil
}

// keep writes a connection down, so that it is cut with the lease.
func (l *lease) keep(conn net.Conn) (net.Conn, error) {
	kept := &sandboxConn{Conn: conn, lease: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		kept.cut()
		return nil, errForgotten
	}
	l.conns[kept] = struct{}{}
	return kept, nil
}

// sandboxConn is a connection to a sandbox.
type sandboxConn struct {
	net.Conn
	lease *lease
	words lastWords
	lift  atomic.Pointer[lift]
	// user is the request that uses the connection; the lease's lock guards it.
	user *exchange
}

func (c *sandboxConn) Write(p []byte) (int, error) { return c.words.write(c.Conn, p) }

func (c *sandboxConn) Read(p []byte) (int, error) {
	if l := c.lift.Load(); l.isFor(p) {
		return l.take(len(p))
	}
	return c.Conn.Read(p)
}

// ReadFrom sends a request's body, from the client's connection where it can.
func (c *sandboxConn) ReadFrom(from io.Reader) (int64, error) {
	c.lease.mu.Lock()
	user := c.user
	c.lease.mu.Unlock()
	sized, ok := from.(*io.LimitedReader)
	if !ok || sized.N < liftedBytes || user == nil || user.answer == nil || c.tcp() == nil {
		return copyPieces(c, from)
	}
	client := user.answer.client
	l := user.lifts.begin(client.TCPConn, c.tcp())
	if l == nil {
		return copyPieces(c, from)
	}
	defer user.lifts.end(l)
	client.lift.Store(l)
	defer client.lift.CompareAndSwap(l, nil)
	return l.copyTo(c, &c.words, from)
}

// tcp returns nil where there is more to the connection.
func (c *sandboxConn) tcp() *net.TCPConn {
	tcp, _ := c.Conn.(*net.TCPConn)
	return tcp
}

// tell has the end of the connection told to its present user.
func (c *sandboxConn) tell(user *exchange) {
	c.words.begin()
	c.lease.mu.Lock()
	defer c.lease.mu.Unlock()
	c.user = user
}

// Close closes the connection and takes it off the lease's list. Its user reads from the client no more, unless an
// answer has begun: then the client is let finish, or it would be reset and see nothing of the answer.
func (c *sandboxConn) Close() error {
	c.lease.mu.Lock()
	delete(c.lease.conns, c)
	user := c.user
	c.user = nil
	c.lease.mu.Unlock()
	if user != nil && !user.answered.Load() {
		user.body.interrupt()
	}
	return c.Conn.Close()
}

// CloseWrite tells the sandbox that no more comes, and goes on reading.
func (c *sandboxConn) CloseWrite() error { return closeWrite(c.Conn) }

// cut ends the connection at once. Without a reset the kernel would go on sending to the address, whose next owner
// is another sandbox.
func (c *sandboxConn) cut() {
	raw := c.Conn
	if headed, ok := raw.(*headedConn); ok {
		raw = headed.Conn
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		// Closing is all that is left if this fails.
		_ = tcp.SetLinger(0)
	}
	c.Conn.Close()
}

// headedConn is a connection of which the first bytes were read already.
type headedConn struct {
	net.Conn
	head []byte
}

func (c *headedConn) Read(p []byte) (int, error) {
	if len(c.head) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.head)
	c.head = c.head[n:]
	return n, nil
}

func (c *headedConn) CloseWrite() error { return closeWrite(c.Conn) }

func closeWrite(conn net.Conn) error {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return conn.Close()
}
