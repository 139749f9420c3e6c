package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// upgradeEcho switches protocols and answers with what it gets, until the client has sent all; then it says "bye".
func upgradeEcho(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	if _, err := io.Copy(conn, buffered); err == nil {
		_, _ = io.WriteString(conn, "bye")
	}
}

// upgrade asks for another protocol, and returns the first line of the answer and the stream.
func (s *sandbox) upgrade(port int, extra string) (string, net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.home.edge.Addresses()[0])
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /socket HTTP/1.1\r\nHost: %d-%s.localhost\r\n%s\r\n", port, s.id, extra)
	reader := bufio.NewReader(conn)
	first, err := reader.ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			s.t.Fatal(err)
		}
		if line == "\r\n" {
			return strings.TrimSpace(first), conn, reader
		}
	}
}

const webSocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

func TestWebSocketsPassBothWays(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, upgradeEcho)
	var talking sync.WaitGroup
	for range 20 {
		talking.Go(func() {
			first, conn, reader := s.upgrade(3000, webSocket)
			if first != "HTTP/1.1 101 Switching Protocols" {
				t.Error(first)
				return
			}
			for i := range 100 {
				message := fmt.Sprintf("frame %d\n", i)
				_, _ = io.WriteString(conn, message)
				if got, err := reader.ReadString('\n'); err != nil || got != message {
					t.Errorf("%q %v", got, err)
					return
				}
			}
		})
	}
	talking.Wait()
}

func TestOneSideOfAnUpgradedStreamMayEndFirst(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, upgradeEcho)
	_, conn, reader := s.upgrade(3000, "Connection: Upgrade\r\nUpgrade: tcp\r\n")
	_, _ = io.WriteString(conn, "all of it, ")

	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}

	if got, err := io.ReadAll(reader); err != nil || string(got) != "all of it, bye" {
		t.Errorf("%q %v", got, err)
	}
	eventually(t, "the request ends", func() bool { return h.inFlight(s.id) == 0 })
}

func TestAClientThatVanishesEndsItsUpgradedStream(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	ended := make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) { upgradeEcho(w, r); close(ended) })
	_, conn, _ := s.upgrade(3000, webSocket)
	_ = conn.(*net.TCPConn).SetLinger(0)

	conn.Close()

	within(t, "the end inside", ended)
	eventually(t, "the request ends", func() bool { return h.inFlight(s.id) == 0 })
}

func TestAnUpgradeThatTheProgramDeclinesIsAnOrdinaryAnswer(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

	if first, _, _ := s.upgrade(3000, webSocket); first != "HTTP/1.1 418 I'm a teapot" {
		t.Error(first)
	}
}

func TestNothingIsUpgradedThatWouldPassUsBy(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	seen := make(chan string, 1)
	handler := func(_ http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Upgrade") + r.Header.Get("Http2-Settings")
	}
	s.serve(3000, handler)
	s.serve(daemonPort, handler)
	const h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
	for name, test := range map[string]struct {
		port  int
		extra string
	}{
		"h2c":                 {3000, h2c},
		"h2c among others":    {3000, "Connection: Upgrade\r\nUpgrade: websocket, H2C\r\n"},
		"h2c to the daemon":   {daemonPort, h2c},
		"any to the daemon":   {daemonPort, webSocket},
		"one that has a body": {3000, webSocket + "Content-Length: 1\r\n\r\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			first, _, _ := s.upgrade(test.port, test.extra)
			if first != "HTTP/1.1 200 OK" {
				t.Error(first)
			}
			if got := within(t, "the request inside", seen); got != "" {
				t.Errorf("%q was forwarded", got)
			}
		})
	}
}

func TestForgettingCutsEverything(t *testing.T) {
	h := newHome(t)
	s, other := h.newSandbox(), h.newSandbox()
	program := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			upgradeEcho(w, r)
			return
		}
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "begun\n")
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	s.serve(3000, program)
	other.serve(3000, program)
	_, socket, socketReader := s.upgrade(3000, webSocket)
	_, otherSocket, otherReader := other.upgrade(3000, webSocket)
	stream, err := h.client.Do(s.request(http.MethodGet, "/stream", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	// An upload that is not answered yet.
	body, upload := io.Pipe()
	defer upload.Close()
	uploaded := make(chan int, 1)
	go func() {
		response, err := h.client.Do(s.request(http.MethodPost, "/upload", 3000, body))
		if err != nil {
			uploaded <- 0
			return
		}
		response.Body.Close()
		uploaded <- response.StatusCode
	}()
	eventually(t, "three under way", func() bool { return h.inFlight(s.id) == 3 })
	found, _ := h.edge.routes.find(s.id)
	eventually(t, "three connections", func() bool {
		found.mu.Lock()
		defer found.mu.Unlock()
		return len(found.conns) == 3
	})

	h.control.remove(s.id)
	h.forget(s.id)

	// At once, not at some time: when forget has answered, nothing is connected any more.
	found.mu.Lock()
	left := len(found.conns)
	found.mu.Unlock()
	if left != 0 {
		t.Errorf("%d connections are left", left)
	}
	if _, err := found.dial(t.Context(), 3000); err == nil {
		t.Error("an ended lease connects")
	}
	_ = socket.SetReadDeadline(time.Now().Add(patience))
	if _, err := socketReader.ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the socket lives: %v", err)
	}
	if rest, err := io.ReadAll(stream.Body); err == nil {
		t.Errorf("the stream ended well: %q", rest)
	}
	if status := within(t, "the upload's end", uploaded); status != http.StatusBadGateway && status != 0 {
		t.Errorf("upload: %d", status)
	}
	eventually(t, "requests end", func() bool {
		found.mu.Lock()
		defer found.mu.Unlock()
		return found.requests == 0
	})
	// The neighbour noticed nothing.
	_, _ = io.WriteString(otherSocket, "still there\n")
	if line, err := otherReader.ReadString('\n'); err != nil || line != "still there\n" {
		t.Errorf("%q %v", line, err)
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

func TestAProgramThatDiesIsNoticedWhileTheClientSends(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		// As the kernel does for a program that dies.
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		conn.Close()
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.client, "HTTP/2": h2Client(t)} {
		theirs, ours := io.Pipe()
		defer ours.Close()
		go func() { _, _ = io.WriteString(ours, "x") }()
		began := time.Now()
		response, err := client.Do(s.request(http.MethodPost, "/", 3000, theirs))
		if err != nil {
			t.Fatal(name, err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusBadGateway || time.Since(began) > patience/2 {
			t.Errorf("%s: %s after %s", name, response.Status, time.Since(began))
		}
	}
}
