package edge

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const largeBody = 6<<20 + 7

func randomBytes(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size)}).Read(content)
	return content
}

// serveLarge answers a GET with what it is given, and anything else with the sum of the body.
func serveLarge(s *sandbox, content []byte) {
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = w.Write(content)
			return
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	})
}

func sums(content []byte) string {
	return fmt.Sprintf("%d %x <nil>", len(content), sha256.Sum256(content))
}

func TestLargeBodiesArriveByteForByte(t *testing.T) {
	for name, most := range map[string]int{"lifted": 8, "copied, as all lifts are taken": 0} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t, func(c *Config) { c.Limits.Lifts = most })
			for _, size := range []int{liftedBytes - 1, liftedBytes, liftedBytes + 1, largeBody} {
				s := h.newSandbox()
				content := randomBytes(size)
				serveLarge(s, content)
				// All on one connection, each of which has to end where it ends for the next to be understood.
				for range 3 {
					status, body := h.do(s.request(http.MethodGet, "/", 3000, nil))
					if status != http.StatusOK || !bytes.Equal([]byte(body), content) {
						t.Fatalf("%d bytes down: %d, %d bytes", size, status, len(body))
					}
					status, body = h.do(s.request(http.MethodPost, "/", 3000, bytes.NewReader(content)))
					if status != http.StatusOK || body != sums(content) {
						t.Fatalf("%d bytes up: %d %s", size, status, body)
					}
				}
			}
		})
	}
}

func TestWhatComesOfALargeAnswerIsHandedOnAtOnce(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	more := make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(largeBody))
		for _, piece := range [][]byte{[]byte("first"), make([]byte, largeBody-5-4), []byte("last")} {
			_, _ = w.Write(piece)
			_ = http.NewResponseController(w).Flush()
			<-more
		}
	})
	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()

	for _, size := range []int{5, largeBody - 5 - 4, 4} {
		if _, err := io.ReadFull(response.Body, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if taken := len(h.edge.forward.lifts.free); size != 4 && taken != 1 {
			t.Fatalf("%d lifts", taken)
		}
		more <- struct{}{}
	}
}

// As with small ones: a program that refuses an upload need not read it first.
func TestAnAnswerToALargeBodyArrivesThoughItIsNotRead(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	listener := s.listen(3000)
	refused := make(chan struct{}, 1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			// What is left unread breaks the connection when it is closed.
			_, _ = io.CopyN(io.Discard, conn, liftedBytes)
			_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			conn.Close()
			refused <- struct{}{}
		}
	}()
	for range 50 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: 3000\r\nContent-Length: %d\r\n\r\n", idHeader, s.id, portHeader, largeBody)
		_, _ = conn.Write(make([]byte, liftedBytes+liftRoom))
		within(t, "a refusal", refused)
		_, _ = conn.Write(make([]byte, 10))

		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		conn.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "no" {
			t.Fatalf("%d %s", response.StatusCode, body)
		}
	}
}

func TestALargeBodyIsLiftedUp(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	content := randomBytes(largeBody)
	serveLarge(s, content)
	reader, writer := io.Pipe()
	request := s.request(http.MethodPost, "/", 3000, reader)
	request.ContentLength = largeBody
	answered := make(chan string, 1)
	go func() {
		_, body := h.do(request)
		answered <- body
	}()
	// Half of it, and then nothing for as long as we look.
	if _, err := writer.Write(content[:largeBody/2]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a lift", func() bool { return len(h.edge.forward.lifts.free) == 1 })
	if _, err := writer.Write(content[largeBody/2:]); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if body := within(t, "an answer", answered); body != sums(content) {
		t.Error(body)
	}
}

func TestALargeAnswerThatBreaksOffIsNoWholeOne(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	listener := s.listen(3000)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", largeBody)
		_, _ = conn.Write(make([]byte, largeBody/2))
	}()
	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if n, err := io.Copy(io.Discard, response.Body); err == nil || n != largeBody/2 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestNothingIsLeftOfALiftWhoseClientOrSandboxGoes(t *testing.T) {
	before := pipes(t)
	h := newHome(t)
	s := h.newSandbox()
	entered := make(chan struct{}, 1)
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			_, _ = io.CopyN(io.Discard, r.Body, largeBody/2)
			entered <- struct{}{}
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(largeBody))
		_, _ = w.Write(make([]byte, largeBody/2))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	half := func(method string) net.Conn {
		conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "%s / HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: 3000\r\n", method, idHeader, s.id, portHeader)
		if method == http.MethodGet {
			fmt.Fprint(conn, "\r\n")
			_, _ = io.CopyN(io.Discard, conn, largeBody/2)
			return conn
		}
		fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n", largeBody)
		_, _ = conn.Write(make([]byte, largeBody/2))
		<-entered
		return conn
	}
	free := func() bool { return len(h.edge.forward.lifts.free) == 0 }
	taken := func() bool { return len(h.edge.forward.lifts.free) == 1 }

	for _, method := range []string{http.MethodGet, http.MethodPost} {
		conn := half(method)
		eventually(t, "a lift", taken)
		conn.Close()
		eventually(t, "its end", free)

		conn = half(method)
		eventually(t, "a lift", taken)
		h.forget(s.id)
		eventually(t, "its end", free)
		if _, err := io.Copy(io.Discard, conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: %v", method, err)
		}
	}
	eventually(t, "pipes closed", func() bool { return pipes(t) == before })
}

// pipes counts ours.
func pipes(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.HasPrefix(target, "pipe:") {
			count++
		}
	}
	return count
}
