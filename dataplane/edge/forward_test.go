package edge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEventsArriveWhenTheyAreSent(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	next := make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/connect+json")
		_ = http.NewResponseController(w).Flush()
		for i := range 3 {
			<-next
			fmt.Fprintf(w, "event %d\n", i)
			_ = http.NewResponseController(w).Flush()
		}
	})

	// The headers arrive before there is any body; each event before the next one is made.
	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range 3 {
		next <- struct{}{}
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("event %d\n", i) {
			t.Fatalf("%q %v", line, err)
		}
	}
}

func TestBothSidesTalkAtOnce(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, echo)
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.client, "HTTP/2": h2Client(t)} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := io.Pipe()
			request := s.request(http.MethodPost, "/", 3000, theirs)
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			lines := bufio.NewReader(response.Body)
			for i := range 5 {
				fmt.Fprintf(ours, "line %d\n", i)
				if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("line %d\n", i) {
					t.Fatalf("%q %v", line, err)
				}
			}
			ours.Close()
			if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
				t.Fatalf("%q %v", rest, err)
			}
		})
	}
}

// echo answers with what it gets, as it gets it.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buffer)
		if _, writeErr := w.Write(buffer[:n]); err != nil || writeErr != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
}

func h2Client(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func TestAnAnswerEndsWhileTheClientStillSends(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.LeftoverTime = 100 * time.Millisecond })
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.WriteString(w, "enough")
	})
	theirs, ours := io.Pipe()
	defer ours.Close()

	status, body := h.do(s.request(http.MethodPost, "/", 3000, theirs))

	if status != http.StatusOK || body != "enough" {
		t.Errorf("%d %s", status, body)
	}
	eventually(t, "the request ends", func() bool { return h.inFlight(s.id) == 0 })
}

func (h *home) inFlight(id string) int {
	found, _ := h.edge.routes.find(id)
	if found == nil {
		return 0
	}
	found.mu.Lock()
	defer found.mu.Unlock()
	return found.requests
}

func TestManyStreamsLoseNoByte(t *testing.T) {
	h := newHome(t)
	const streams, size = 300, 256 << 10
	boxes := []*sandbox{h.newSandbox(), h.newSandbox(), h.newSandbox()}
	for _, s := range boxes {
		s.serve(3000, echo)
	}
	client2 := h2Client(t)
	var working sync.WaitGroup
	for i := range streams {
		working.Go(func() {
			data := make([]byte, size+i)
			_, _ = rand.Read(data)
			client := h.client
			if i%3 == 0 {
				client = client2
			}
			response, err := client.Do(boxes[i%len(boxes)].request(http.MethodPost, "/", 3000, bytes.NewReader(data)))
			if err != nil {
				t.Error(err)
				return
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("stream %d: %d of %d bytes, %v", i, len(got), len(data), err)
			}
		})
	}
	working.Wait()
}

func TestHeadersForTheSandbox(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	got := make(chan *http.Request, 1)
	s.serve(3000, func(_ http.ResponseWriter, r *http.Request) { got <- r })
	request := s.request(http.MethodPost, "/a%2Fb//c?q=%zz&;x&y=1", 3000, strings.NewReader("x"))
	request.Host = "3000-" + s.id + ".sbx.test"
	for name, value := range map[string]string{
		"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "evil", "X-Forwarded-Proto": "https", "Forwarded": "for=6.6.6.6",
		"X-Real-Ip": "6.6.6.6", "Connection": "X-Secret", "X-Secret": "1", "Keep-Alive": "5", "X-Kept": "2",
		"Http2-Settings": "AAMAAABkAAQAAP__",
	} {
		request.Header.Set(name, value)
	}

	h.do(request)

	r := within(t, "the request", got)
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": request.Host, "X-Forwarded-Proto": "http", "Forwarded": "",
		"X-Real-Ip": "", "X-Secret": "", "Keep-Alive": "", "X-Kept": "2", "Http2-Settings": "", "Accept-Encoding": "",
	} {
		if value := r.Header.Get(name); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if r.RequestURI != "/a%2Fb//c?q=%zz&;x&y=1" || r.Host != request.Host {
		t.Errorf("%s %s", r.Host, r.RequestURI)
	}
}

func TestTrailersBothWays(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", r.Trailer.Get("X-Client")+" seen")
		w.Header().Set(http.TrailerPrefix+"X-Late", "unannounced")
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.client, "HTTP/2": h2Client(t)} {
		request := s.request(http.MethodPost, "/", 3000, io.MultiReader(strings.NewReader("x")))
		request.Trailer = http.Header{"X-Client": {"sent"}}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.Trailer.Get("X-Sum") != "sent seen" || response.Trailer.Get("X-Late") != "unannounced" {
			t.Errorf("%s: %v", name, response.Trailer)
		}
	}
}

func TestGRPCSpeaksHTTP2AllTheWay(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(50051, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprint(w, r.Proto)
		w.Header().Set("Grpc-Status", "0")
	})
	request := s.request(http.MethodPost, "/a.B/C", 50051, strings.NewReader("x"))
	request.Header.Set("Content-Type", "application/grpc+proto")
	request.Header.Set("Te", "trailers")
	response, err := h2Client(t).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if string(body) != "HTTP/2.0" || response.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("%s %s %v", response.Status, body, response.Trailer)
	}
}

func TestAClientThatVanishesEndsTheRequestInside(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	began, ended := make(chan struct{}), make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(began)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(context.Background())
	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	within(t, "the request inside", began)

	cancel()

	within(t, "its end", ended)
}

func TestASlowClientSlowsTheSandboxDown(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	const total = 256 << 20
	var mu sync.Mutex
	sent := 0
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {
		piece := make([]byte, 1<<20)
		for range total / len(piece) {
			n, err := w.Write(piece)
			mu.Lock()
			sent += n
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	// Nobody reads: what was sent stands still, far below the whole.
	last := -1
	eventually(t, "standstill", func() bool {
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		still := sent == last
		last = sent
		return still
	})
	if last > total/4 {
		t.Errorf("%d bytes were taken though nobody reads", last)
	}
}

func TestAHostileAnswerHarmsItsOwnRequestOnly(t *testing.T) {
	h := newHome(t)
	good := h.newSandbox()
	good.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	for name, answer := range map[string]string{
		"header bomb":      "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n",
		"many headers":     "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<17) + "\r\n",
		"informational":    strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 1<<15),
		"not HTTP":         "SSH-2.0-OpenSSH_9.2\r\n",
		"nothing":          "",
		"half a line":      "HTTP/1.1 20",
		"status":           "HTTP/1.1 99999 OK\r\n\r\n",
		"two lengths":      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"uninvited switch": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"split header":     "HTTP/1.1 200 OK\r\nX: a\rb\x00c\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := h.newSandbox()
			listener := s.listen(3000)
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 4096))
					_, _ = io.WriteString(conn, answer)
					conn.Close()
				}
			}()
			status, body := s.get("/", 3000)
			if name == "nothing" && !strings.Contains(body, "answer: it closed the connection") {
				t.Errorf("the reason is not said: %s", body)
			}
			if status != http.StatusBadGateway || !strings.Contains(body, "no valid HTTP answer") {
				t.Errorf("%d %s", status, body)
			}
			if status, _ := good.get("/", 3000); status != http.StatusOK {
				t.Errorf("the neighbour: %d", status)
			}
		})
	}
}

func TestABodyThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.client, "HTTP/2": h2Client(t)} {
		response, err := client.Do(s.request(http.MethodGet, "/", 3000, nil))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil {
			t.Errorf("%s: %q passes for whole", name, body)
		}
	}
}

func TestASandboxHasItsShareOfRequests(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.SandboxRequests = 3 })
	greedy, modest := h.newSandbox(), h.newSandbox()
	release, arrived := make(chan struct{}), make(chan struct{}, 3)
	greedy.serve(3000, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	modest.serve(3000, func(http.ResponseWriter, *http.Request) {})
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() { greedy.get("/", 3000) })
		within(t, "a request", arrived)
	}

	if status, body := greedy.get("/", 3000); status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, body)
	}
	if status, body := modest.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	close(release)
	waiting.Wait()
	if status, body := greedy.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.HeaderTime = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", h.edge.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(patience))

	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("not cut off: %v", err)
	}
}

func TestLongHeadersAreRefused(t *testing.T) {
	h := newHome(t)
	request, _ := http.NewRequest(http.MethodGet, h.url, nil)
	request.Header.Set("X", strings.Repeat("a", 80<<10))
	if status, _ := h.do(request); status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d", status)
	}
}

func TestControlRoutesAreNotThere(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s reached the daemon", r.URL) })
	for _, target := range []string{"/init", "//init", "/%69nit", "/./init", "/x/../init", "http://evil/init", "/init?a=/", "/Freeze"} {
		for _, extra := range []string{"", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"} {
			conn, err := net.Dial("tcp", h.edge.Addresses()[0])
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\n%s: %s\r\n%s: 49983\r\nContent-Length: 0\r\n%s\r\n",
				target, idHeader, s.id, portHeader, extra)
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			line, err := bufio.NewReader(conn).ReadString('\n')
			conn.Close()
			if err != nil || !strings.Contains(line, " 404 ") {
				t.Errorf("%s: %q %v", target, line, err)
			}
		}
	}
	if status, _ := s.get("/", privatePort); status != http.StatusBadRequest {
		t.Errorf("the private port: %d", status)
	}
}

func TestAPersonGetsAPage(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	h.control.remove(s.id)
	request := s.request(http.MethodGet, "/", 3000, nil)
	request.Header.Set("Accept", "text/html,application/xhtml+xml")

	status, body := h.do(request)

	if status != http.StatusBadGateway || !strings.Contains(body, "<h1>The sandbox was not found</h1>") {
		t.Errorf("%d %s", status, body)
	}
}

// A program that refuses an upload need not read it first.
func TestAnAnswerBeforeTheBodyIsReadArrivesFromASandboxToo(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	listener := s.listen(3000)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				if _, err := io.ReadFull(conn, make([]byte, 16)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
				}
			}()
		}
	}()
	for _, size := range []int{10, 200 << 10} {
		for range 100 {
			response, err := h.client.Do(s.request(http.MethodPost, "/", 3000, bytes.NewReader(make([]byte, size))))
			if err != nil {
				// As without the edge: a client that still writes when the program closes may not get to read.
				if size == 10 {
					t.Fatal(err)
				}
				continue
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "no" {
				t.Fatalf("%d bytes: %d %s", size, response.StatusCode, body)
			}
		}
	}
}

// Many clients send all of a body before they look for an answer; no reset may take it from them then.
func TestARefusalReachesWhoSendsAllOfABodyFirst(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInsufficientStorage) })
	conn, err := net.Dial("tcp", h.edge.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	answers := bufio.NewReader(conn)
	for range 2 { // The connection goes on.
		const size, piece = 8 << 20, 64 << 10
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: 3000\r\nContent-Length: %d\r\n\r\n", idHeader, s.id, portHeader, size)
		for sent := 0; sent < size; sent += piece {
			if _, err := conn.Write(make([]byte, piece)); err != nil {
				t.Fatalf("after %d bytes: %v", sent, err)
			}
			if sent == 2<<20 {
				time.Sleep(300 * time.Millisecond) // By now the answer is there.
			}
		}

		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusInsufficientStorage || string(body) != "no\n" {
			t.Errorf("%d %q", response.StatusCode, body)
		}
	}
}
