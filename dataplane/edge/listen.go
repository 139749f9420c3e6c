package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// door is a listener that lets in so many clients at once. The others wait in the kernel's queue.
// netutil.LimitListener does the same, but hides CloseWrite, which one-sided ends of streams need.
type door struct {
	net.Listener
	free  chan struct{}
	open  *atomic.Int64
	close sync.Once
	ended chan struct{}
}

func newDoor(listener net.Listener, free chan struct{}, open *atomic.Int64) *door {
	return &door{Listener: listener, free: free, open: open, ended: make(chan struct{})}
}

// Accept waits for a client, and for room for one.
func (d *door) Accept() (net.Conn, error) {
	select {
	case d.free <- struct{}{}:
	case <-d.ended:
		return nil, net.ErrClosed
	}
	conn, err := d.Listener.Accept()
	if err != nil {
		<-d.free
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		conn.Close()
		<-d.free
		return nil, fmt.Errorf("%T is no TCP connection", conn)
	}
	d.open.Add(1)
	return &client{TCPConn: tcp, leave: func() { d.open.Add(-1); <-d.free }}, nil
}

// Close stops listening.
func (d *door) Close() error {
	d.close.Do(func() { close(d.ended) })
	return d.Listener.Close()
}

// client is a client's connection.
type client struct {
	*net.TCPConn
	once  sync.Once
	leave func()
	lift  atomic.Pointer[lift]

	mu       sync.Mutex
	deadline time.Time
	spoiled  bool
}

// aborted is the deadline by which net/http ends a read of its own, to use the connection further.
var aborted = time.Unix(1, 0)

// errSpoiled: what comes next on the connection is the rest of something that we stopped reading.
var errSpoiled = errors.New("the connection's place is lost")

// Read reads until a deadline passes; then never again. A body that was given up half-way is followed by its other
// half, and net/http, once its answer may be independent of the request, would take that for the next request.
func (c *client) Read(p []byte) (int, error) {
	c.mu.Lock()
	spoiled := c.spoiled
	c.mu.Unlock()
	if spoiled {
		return 0, errSpoiled
	}
	n, err := c.read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		c.spoiled = !c.deadline.Equal(aborted)
		c.mu.Unlock()
	}
	return n, err
}

func (c *client) read(p []byte) (int, error) {
	if l := c.lift.Load(); l.isFor(p) {
		return l.take(len(p))
	}
	return c.TCPConn.Read(p)
}

// ReadFrom sends an answer, from the sandbox's connection where it can.
func (c *client) ReadFrom(from io.Reader) (int64, error) {
	if rest, ok := from.(*rest); ok {
		return rest.copyTo(c.TCPConn)
	}
	return c.TCPConn.ReadFrom(from)
}

// clientKey finds the client's connection in a request's context, unless it is encrypted.
type clientKey struct{}

func withClient(ctx context.Context, conn net.Conn) context.Context {
	if client, ok := conn.(*client); ok {
		return context.WithValue(ctx, clientKey{}, client)
	}
	return ctx
}

// SetReadDeadline bounds reading.
func (c *client) SetReadDeadline(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = deadline
	return c.TCPConn.SetReadDeadline(deadline)
}

// SetDeadline bounds reading and writing.
func (c *client) SetDeadline(deadline time.Time) error {
	return errors.Join(c.SetReadDeadline(deadline), c.SetWriteDeadline(deadline))
}

// Close makes room for the next client.
func (c *client) Close() error {
	defer c.once.Do(c.leave)
	return c.TCPConn.Close()
}

// listenPrivately listens on a socket that only we may open. A socket that nobody answers on is replaced.
func listenPrivately(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: somebody answers there already", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The mode must be right from the start: afterwards is too late.
	mask := syscall.Umask(0o177)
	defer syscall.Umask(mask)
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Removing it at the end could remove our successor's.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	return listener, nil
}

// anyAddress lets a socket have an address that no interface carries yet: the gateway's comes with the first slot.
func anyAddress(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_FREEBIND, 1)
	})
	return errors.Join(err, failed)
}

func listenConfig() *net.ListenConfig { return &net.ListenConfig{Control: anyAddress} }

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
}
