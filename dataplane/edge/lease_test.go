package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAPortThatNobodyServesIsNotOpen(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	began := time.Now()

	status, body := s.get("/", 3000)

	if status != http.StatusBadGateway ||
		body != `{"sandboxId":"`+s.id+`","message":"The sandbox is running but port is not open","port":3000,"code":502}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestAPortThatOpensSoonIsWaitedFor(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	time.AfterFunc(300*time.Millisecond, func() {
		s.serve(3000, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	})

	if status, body := s.get("/", 3000); status != http.StatusOK || body != "hello" {
		t.Errorf("%d %s", status, body)
	}
}

// tunnels is guestd's private port: it connects to ports "on loopback", which here are on another address.
func (s *sandbox) tunnels(inside string) {
	s.serve(privatePort, func(w http.ResponseWriter, r *http.Request) {
		host, port, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || host != "127.0.0.1" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", net.JoinHostPort(inside, port))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(to, buffered); to.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(from, to)
	})
}

func TestAProgramOnLoopbackIsReachedThroughGuestd(t *testing.T) {
	h := newHome(t)
	s, inside := h.newSandbox(), h.newSandbox()
	inside.serve(3000, echo)
	inside.serve(3001, upgradeEcho)
	s.tunnels(inside.address)

	status, body := h.do(s.request(http.MethodPost, "/", 3000, strings.NewReader("through")))
	if status != http.StatusOK || body != "through" {
		t.Errorf("%d %s", status, body)
	}
	_, conn, reader := s.upgrade(3001, webSocket)
	_, _ = io.WriteString(conn, "frame")
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(reader); err != nil || string(got) != "framebye" {
		t.Errorf("%q %v", got, err)
	}
	h.forget(s.id)
}

func TestAHostileGuestdGivesNoTunnel(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.TunnelTime = 100 * time.Millisecond; c.Limits.ConnectPauses = nil })
	for name, answer := range map[string]string{
		"silence":       "",
		"endless":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 10_000),
		"no HTTP":       "220 smtp\r\n\r\n",
		"refused":       "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"other success": "HTTP/1.1 204 No Content\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := h.newSandbox()
			listener := s.listen(privatePort)
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, answer)
					defer conn.Close()
				}
			}()
			status, body := s.get("/", 3000)
			if status != http.StatusBadGateway && status != http.StatusGatewayTimeout {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

func TestWhatAProgramSaysFirstIsNotLost(t *testing.T) {
	limits := testLimits()
	here, there := net.Pipe()
	defer here.Close()
	l := newLease(someID, answer{address: netip.MustParseAddr("127.0.0.1")}, &limits)
	defer l.end()
	go func() {
		_, _ = there.Read(make([]byte, 4096))
		_, _ = io.WriteString(there, "HTTP/1.1 200 OK\r\n\r\nSSH-2.0")
		_, _ = io.WriteString(there, "-x")
		there.Close()
	}()

	conn, err := l.openTunnel(here, 22)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "SSH-2.0-x" {
		t.Errorf("%q %v", got, err)
	}
}

func TestASandboxThatHangsIsGivenUp(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.ConnectTime = 200 * time.Millisecond })
	s := h.newSandbox()
	// A full queue: the kernel drops what tries to connect, as a sentry that hangs does.
	listener := s.listen(3000)
	fill(t, listener)

	status, body := s.get("/", 3000)

	if status != http.StatusGatewayTimeout || !strings.Contains(body, "accepted no connection in time") {
		t.Errorf("%d %s", status, body)
	}
	// And to forget it does not have to wait for it.
	h.edge.config.Limits.ConnectTime = time.Minute
	gone := make(chan int, 1)
	go func() { status, _ := s.get("/", 3000); gone <- status }()
	eventually(t, "a request under way", func() bool { return h.inFlight(s.id) == 1 })
	h.control.remove(s.id)
	began := time.Now()
	h.forget(s.id)
	if took := time.Since(began); took > time.Second {
		t.Errorf("forgetting took %s", took)
	}
	if status := within(t, "the answer", gone); status != http.StatusBadGateway {
		t.Errorf("%d", status)
	}
}

// fill connects to a listener that accepts nothing until its queue is full.
func fill(t *testing.T, listener net.Listener) {
	t.Helper()
	raw, err := listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { shorten(t, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
}

func TestIdleConnectionsAreBoundedAndUsedAgain(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) })
	_, first := s.get("/", daemonPort)
	_, second := s.get("/", daemonPort)

	if first != second {
		t.Errorf("%s, then %s", first, second)
	}
}

func shorten(t *testing.T, fd int) {
	if err := syscall.Listen(fd, 1); err != nil {
		t.Error(err)
	}
}
