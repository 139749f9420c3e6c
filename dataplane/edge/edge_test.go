package edge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func TestTheStatusTellsWhatIs(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(http.ResponseWriter, *http.Request) {})
	s.get("/", 3000)
	response, err := h.admin.Get("http://edge/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var got status
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.Version != "test" || got.PID != os.Getpid() || got.Routes != 1 || got.Connections != 1 ||
		got.Listen[0] != h.edge.Addresses()[0] || got.Flags.Range != "127.0.0.0/8" || time.Since(got.StartedAt) > time.Minute {
		t.Errorf("%+v", got)
	}
	info, err := os.Stat(h.config.Admin)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestStoppingLetsRequestsEndAndCutsTheRest(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.StopTime = 300 * time.Millisecond })
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/short" {
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(w, "done")
			return
		}
		<-r.Context().Done()
	})
	short, err := h.client.Do(s.request(http.MethodGet, "/short", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	long, err := h.client.Do(s.request(http.MethodGet, "/long", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}

	response, err := h.admin.Post("http://edge/v1/stop", "", nil)
	if err != nil || response.StatusCode != http.StatusAccepted {
		t.Fatal(response, err)
	}
	response.Body.Close()

	if body, err := io.ReadAll(short.Body); err != nil || string(body) != "done" {
		t.Errorf("short: %q %v", body, err)
	}
	if body, err := io.ReadAll(long.Body); err == nil {
		t.Errorf("long ended well: %q", body)
	}
	short.Body.Close()
	long.Body.Close()
}

func TestASecondEdgeOfOneHomeDoesNotStart(t *testing.T) {
	h := newHome(t)
	if second, err := Start(context.Background(), h.config); err == nil {
		t.Errorf("%v", second.Addresses())
	}
	if response, err := h.admin.Get("http://edge/v1/status"); err != nil {
		t.Error(err)
	} else {
		response.Body.Close()
	}
}

func TestASocketLeftBehindIsReplaced(t *testing.T) {
	newHome(t, func(c *Config) {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.Admin, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		listener.Close()
	})
}

func TestMoreClientsThanAllowedWait(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.Connections = 2 })
	serveUnix(t, h.config.API, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	first, second := dialEdge(t, h), dialEdge(t, h)
	askOn(t, first)
	askOn(t, second)
	third := dialEdge(t, h)
	_, _ = io.WriteString(third, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = third.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := third.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("served: %d %v", n, err)
	}

	first.Close()

	_ = third.SetReadDeadline(time.Now().Add(patience))
	if _, err := third.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func dialEdge(t *testing.T, h *home) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", h.edge.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func askOn(t *testing.T, conn net.Conn) {
	t.Helper()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := conn.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
}

func TestTheRestOfABodyIsNeverTakenForARequest(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.LeftoverTime = 100 * time.Millisecond })
	s := h.newSandbox()
	asked := make(chan string, 10)
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.WriteString(w, "enough")
	})
	conn := dialEdge(t, h)
	headers := fmt.Sprintf("Host: x\r\n%s: %s\r\n%s: 3000\r\n", idHeader, s.id, portHeader)
	fmt.Fprintf(conn, "POST /first HTTP/1.1\r\n%sContent-Length: 1000\r\n\r\nx", headers)
	if path := within(t, "the request", asked); path != "/first" {
		t.Error(path)
	}
	// Longer than what is left of the body is waited for.
	time.Sleep(300 * time.Millisecond)

	fmt.Fprintf(conn, "GET /smuggled HTTP/1.1\r\n%s\r\n", headers)

	answer, _ := io.ReadAll(conn)
	if strings.Count(string(answer), "HTTP/1.1") != 1 || len(asked) != 0 {
		t.Errorf("%q", answer)
	}
}

func TestAnAnswerBeforeTheEndOfABodyKeepsTheConnection(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) })
	conn := dialEdge(t, h)
	reader := bufio.NewReader(conn)
	for i := range 3 {
		fmt.Fprintf(conn, "POST /%d HTTP/1.1\r\nHost: x\r\n%s: %s\r\n%s: 3000\r\nContent-Length: 4\r\n\r\nbody", i, idHeader, s.id, portHeader)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != fmt.Sprintf("/%d", i) {
			t.Fatalf("%q %v", body, err)
		}
	}
}

func TestTheLogIsBounded(t *testing.T) {
	limits := DefaultLimits()
	limits.LogRate, limits.LogBurst = 0.0001, 3
	var text bytes.Buffer
	log := NewLog(&text, limits)
	for range 100 {
		log.Error("fault")
	}
	if lines := strings.Count(text.String(), "\n"); lines != 3 {
		t.Errorf("%d lines", lines)
	}
}
