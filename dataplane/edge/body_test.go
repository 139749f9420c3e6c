package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// callOn begins a call of guestd, whose body is to follow.
func callOn(s *sandbox, length int) net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.home.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST /call HTTP/1.1\r\nHost: localhost\r\n%s: %s\r\n%s: %d\r\nContent-Length: %d\r\n\r\n",
		idHeader, s.id, portHeader, daemonPort, length)
	return conn
}

func TestASmallCallReachesGuestdInOnePacket(t *testing.T) {
	s := newHome(t).newSandbox()
	listener := s.listen(daemonPort)
	packets := make(chan []byte, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buffer := make([]byte, 64<<10)
		n, _ := conn.Read(buffer)
		packets <- buffer[:n]
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
	}()
	conn := callOn(s, 8)
	_, _ = io.WriteString(conn, "half")
	time.Sleep(10 * time.Millisecond) // So that it comes in two pieces; one would do for this test, too.
	_, _ = io.WriteString(conn, "half")

	if packet := within(t, "the call", packets); !bytes.HasSuffix(packet, []byte("\r\n\r\nhalfhalf")) {
		t.Errorf("%q", packet)
	}
}

func TestAnAnswerComesForEachOfSeveralSmallCalls(t *testing.T) {
	s := newHome(t).newSandbox()
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
	})
	for _, body := range []string{"one", "two", strings.Repeat("x", 16<<10), strings.Repeat("y", 16<<10+1), "last"} {
		status, answer := s.home.do(s.request(http.MethodPost, "/call", daemonPort, strings.NewReader(body)))
		if status != http.StatusOK || answer != body {
			t.Errorf("%d %.20q", status, answer)
		}
	}
}

func TestASmallCallThatBreaksOffReachesNobody(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(daemonPort, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/call" {
			t.Error("half a call arrived")
		}
	})
	conn := callOn(s, 8)
	_, _ = io.WriteString(conn, "half")
	conn.Close()

	if status, _ := s.get("/next", daemonPort); status != http.StatusOK {
		t.Errorf("%d", status)
	}
}

func TestASmallCallThatIsNotSentEndsWithItsSandbox(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(daemonPort, func(http.ResponseWriter, *http.Request) { t.Error("half a call arrived") })
	conn := callOn(s, 8)
	_, _ = io.WriteString(conn, "half")
	within(t, "the question where the sandbox is", h.control.arrived)
	h.control.remove(s.id)
	h.forget(s.id)

	_ = conn.SetReadDeadline(time.Now().Add(patience))
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); !strings.Contains(string(body), "The sandbox was not found") {
		t.Errorf("%d %s", answer.StatusCode, body)
	}
}
