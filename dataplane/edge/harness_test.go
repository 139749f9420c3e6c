package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// A goroutine that outlives its edge fails the whole run.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// home is an edge with a server's sockets, in a directory of its own.
type home struct {
	t       testing.TB
	config  Config
	edge    *Edge
	url     string
	client  *http.Client
	admin   *http.Client
	control *fakeControl
	// stopControl ends the server's answers to the edge.
	stopControl func()
}

func (h *home) startControl() { h.stopControl = serveUnix(h.t, h.config.Control, h.control) }

// fakeControl answers as the server would.
type fakeControl struct {
	mu     sync.Mutex
	routes map[string]string // id to answer
	// refused: those whose route is refused, with which status.
	refused map[string]int
	proofs  map[string]string // what is shown, as JSON, to id
	silent  map[string]int    // id to complaints
	asked   atomic.Int64
	// suspected counts the sandboxes that the edge could not reach.
	suspected atomic.Int64
	// hold, when set, delays every answer until it is closed.
	hold chan struct{}
	// arrived gets a token for each question.
	arrived chan struct{}
}

func (c *fakeControl) set(id, address, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, _ := json.Marshal(map[string]string{"sandbox_id": id, "address": address, "status": status})
	c.routes[id] = string(body)
	delete(c.refused, id)
}

func (c *fakeControl) remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.routes, id)
	delete(c.refused, id)
}

// refuse answers questions about a sandbox as the server does where it is not woken.
func (c *fakeControl) refuse(id string, status int, body string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.routes[id], c.refused[id] = body, status
}

func (c *fakeControl) setHold(hold chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = hold
}

func (c *fakeControl) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/suspect") {
		c.suspected.Add(1)
		_, _ = io.WriteString(w, "{}")
		return
	}
	if id, is := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/routes/"), "/silent"); is {
		c.mu.Lock()
		c.silent[id]++
		c.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return
	}
	c.asked.Add(1)
	id := strings.TrimPrefix(r.URL.Path, "/v1/routes/")
	shown, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	if r.Method == http.MethodPost {
		id = c.proofs[string(shown)]
	}
	body, found := c.routes[id]
	refused := c.refused[id]
	hold := c.hold
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	if refused != 0 {
		w.WriteHeader(refused)
	}
	if !found {
		w.WriteHeader(http.StatusNotFound)
		body = `{"code":"not_found","message":"no such sandbox"}`
	}
	_, _ = io.WriteString(w, body)
}

func testLimits() Limits {
	limits := DefaultLimits()
	limits.ServerAway = 2 * time.Second
	limits.StopTime = 100 * time.Millisecond
	limits.LogRate = 1000
	return limits
}

// newHome starts an edge whose server is there, unless change says otherwise.
func newHome(t testing.TB, change ...func(*Config)) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{t: t, control: &fakeControl{routes: map[string]string{}, refused: map[string]int{}, silent: map[string]int{}, proofs: map[string]string{}, arrived: make(chan struct{}, 1)}}
	h.config = Config{
		Version: "test",
		Listen:  []string{"127.0.0.1:0"},
		API:     filepath.Join(dir, "api.sock"),
		Control: filepath.Join(dir, "control.sock"),
		Admin:   filepath.Join(dir, "edge.sock"),
		Range:   netip.MustParsePrefix("127.0.0.0/8"),
		Limits:  testLimits(),
		Log:     slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, apply := range change {
		apply(&h.config)
	}
	h.startControl()
	edge, err := Start(context.Background(), h.config)
	if err != nil {
		t.Fatal(err)
	}
	h.edge = edge
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- edge.Wait(ctx) }()
	h.url = "http://" + edge.Addresses()[0]
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 512}
	h.client = &http.Client{Transport: transport, Timeout: time.Minute}
	private := unixTransport(h.config.Admin)
	h.admin = &http.Client{Transport: private, Timeout: patience}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		private.CloseIdleConnections()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the edge broke: %v", err)
			}
		case <-time.After(patience):
			t.Error("the edge does not end")
		}
	})
	return h
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func unixTransport(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
}

// serveUnix serves on a socket until the test ends, or the returned function is called.
func serveUnix(t testing.TB, path string, handler http.Handler) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, listener, handler)
}

func serve(t testing.TB, listener net.Listener, handler http.Handler) (stop func()) {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		server.Close()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

var sandboxes atomic.Uint32

// sandbox is a fake: an address of its own, known to the server.
type sandbox struct {
	t       testing.TB
	home    *home
	id      string
	address string
}

func (h *home) newSandbox() *sandbox {
	number := sandboxes.Add(1)
	s := &sandbox{
		t: h.t, home: h, id: fmt.Sprintf("i%020d", number),
		address: fmt.Sprintf("127.77.%d.%d", number/250, number%250+2),
	}
	h.control.set(s.id, s.address, "running")
	return s
}

// serve runs a program on a port of the sandbox.
func (s *sandbox) serve(port int, handler http.HandlerFunc) (stop func()) {
	s.t.Helper()
	return serve(s.t, s.listen(port), handler)
}

func (s *sandbox) listen(port int) net.Listener {
	s.t.Helper()
	return listenAt(s.t, fmt.Sprintf("%s:%d", s.address, port))
}

func listenAt(t testing.TB, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// request makes a request to a port of the sandbox, routed by headers.
func (s *sandbox) request(method, path string, port int, body io.Reader) *http.Request {
	s.t.Helper()
	r, err := http.NewRequest(method, s.home.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set(idHeader, s.id)
	r.Header.Set(portHeader, fmt.Sprint(port))
	return r
}

func (s *sandbox) get(path string, port int) (int, string) {
	s.t.Helper()
	return s.home.do(s.request(http.MethodGet, path, port, nil))
}

func (h *home) do(r *http.Request) (int, string) {
	h.t.Helper()
	response, err := h.client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// forget tells the edge as the server does, and fails the test if it takes long.
func (h *home) forget(id string) {
	h.t.Helper()
	r, err := http.NewRequest(http.MethodDelete, "http://edge/v1/routes/"+id, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	response, err := h.admin.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		h.t.Fatalf("forget: %s", response.Status)
	}
}

// eventually waits for a condition that nothing can be awaited for.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// within fails the test if a channel stays silent.
func within[T any](t testing.TB, what string, channel <-chan T) T {
	t.Helper()
	select {
	case got := <-channel:
		return got
	case <-time.After(patience):
		t.Fatalf("never: %s", what)
		panic("unreachable")
	}
}
