package edge

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestTheAPIIsServedOnTheSamePort(t *testing.T) {
	h := newHome(t)
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Next-Token", "n")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, "%s %s %s %s %s|%s", r.Method, r.Host, r.RequestURI, r.Header.Get("X-Api-Key"), body, r.Header.Get("X-Forwarded-For"))
	}))
	request, _ := http.NewRequest(http.MethodPost, h.url+"/v2/sandboxes?metadata=a%3Db;c", io.MultiReader(strings.NewReader("{}")))
	request.Host = "api.sbx.test:8443"
	request.Header.Set("X-Api-Key", "key")
	request.Header.Set("X-Forwarded-For", "6.6.6.6")

	status, body := h.do(request)

	if status != http.StatusCreated || body != "POST api.sbx.test:8443 /v2/sandboxes?metadata=a%3Db;c key {}|127.0.0.1" {
		t.Errorf("%d %s", status, body)
	}
}

func TestRequestsWaitWhileTheServerRestarts(t *testing.T) {
	h := newHome(t)
	var served atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
		served.Add(1)
	})
	stop := serveUnix(t, h.config.API, handler)
	ask := func(method string, body io.Reader) int {
		request, _ := http.NewRequest(method, h.url+"/sandboxes", body)
		status, _ := h.do(request)
		return status
	}
	ask(http.MethodGet, nil)

	for range 3 {
		stop()
		restarted := make(chan func(), 1)
		time.AfterFunc(200*time.Millisecond, func() { restarted <- serveUnix(t, h.config.API, handler) })
		if status := ask(http.MethodPost, strings.NewReader("{}")); status != http.StatusOK {
			t.Errorf("POST: %d", status)
		}
		stop = <-restarted
		if status := ask(http.MethodGet, nil); status != http.StatusOK {
			t.Errorf("GET: %d", status)
		}
	}
	if served.Load() != 7 {
		t.Errorf("%d requests reached the server, 7 were made", served.Load())
	}
}

func TestRequestsDoNotWaitForEver(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.ServerAway = 200 * time.Millisecond })
	response, err := h.client.Get(h.url + "/sandboxes")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" ||
		string(body) != `{"code":503,"message":"The server does not answer: it is starting, or has ended. Please try again later."}`+"\n" {
		t.Errorf("%s %v %s", response.Status, response.Header, body)
	}
}

func TestARequestThatMayHaveBeenActedOnIsNotSentAgain(t *testing.T) {
	h := newHome(t)
	var served atomic.Int64
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		panic(http.ErrAbortHandler)
	}))
	for method, retry := range map[string]string{http.MethodPost: "false", http.MethodDelete: "false"} {
		served.Store(0)
		request, _ := http.NewRequest(method, h.url+"/sandboxes", nil)
		request.Header.Set("Idempotency-Key", "one")
		response, err := h.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusBadGateway || response.Header.Get("Should-Retry") != retry || served.Load() != 1 {
			t.Errorf("%s: %s, served %d times", method, response.Status, served.Load())
		}
	}
}

func TestASlowBodyOfAnAPIRequestIsCutOff(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.APIBodyTime = 100 * time.Millisecond })
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	conn, err := net.Dial("tcp", h.edge.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "POST /sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")

	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
		t.Errorf("%q %v", answer, err)
	}
}

func TestAnAnswerMayTakeLongerThanTheBodyMay(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.APIBodyTime = 100 * time.Millisecond })
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(300 * time.Millisecond)
		_, _ = io.WriteString(w, "done")
	}))
	for name, client := range map[string]*http.Client{"HTTP/1.1": h.client, "HTTP/2": h2Client(t)} {
		response, err := client.Post(h.url+"/sandboxes", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(body) != "done" {
			t.Errorf("%s: %q %v", name, body, err)
		}
	}
}

func TestCONNECTIsNotServed(t *testing.T) {
	h := newHome(t)
	conn, err := net.Dial("tcp", h.edge.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 405 ") {
		t.Errorf("%q %v", answer, err)
	}
}

// A server that refuses a request need not read its body first.
func TestAnAnswerBeforeTheBodyIsReadArrives(t *testing.T) {
	h := newHome(t)
	listener, err := net.Listen("unix", h.config.API)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				// The first bytes only; what is left unread breaks the connection when it is closed.
				if _, err := io.ReadFull(conn, make([]byte, 16)); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
				}
			}()
		}
	}()
	for _, size := range []int{10, 200 << 10} {
		for range 200 {
			request, _ := http.NewRequest(http.MethodPost, h.url+"/sandboxes", bytes.NewReader(make([]byte, size)))
			if status, body := h.do(request); status != http.StatusUnauthorized || body != "no" {
				t.Fatalf("%d bytes: %d %s", size, status, body)
			}
		}
	}
}
