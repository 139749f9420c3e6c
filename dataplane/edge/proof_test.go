package edge

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// proves lets the server know a sandbox by what is shown.
func (s *sandbox) proves(shown string) {
	s.home.control.mu.Lock()
	defer s.home.control.mu.Unlock()
	s.home.control.proofs[shown] = s.id
}

// echo is a guestd that says what it was asked.
func (s *sandbox) echo() {
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
	})
}

// bare makes a request that names no sandbox.
func (h *home) bare(method, path string, header map[string]string) (int, string) {
	h.t.Helper()
	r, err := http.NewRequest(method, h.url+path, strings.NewReader("body"))
	if err != nil {
		h.t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	return h.do(r)
}

func TestASandboxIsFoundByItsToken(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.echo()
	s.proves(`{"access_token":"tok"}`)

	for _, path := range []string{"/files?path=/a", "/process.Process/List", "/filesystem.Filesystem/Stat", "/envs"} {
		status, body := h.bare(http.MethodPost, path, map[string]string{tokenHeader: "tok"})
		if status != http.StatusOK || body != "POST "+path+" body" {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestASandboxIsFoundByASignature(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.echo()
	query := url.Values{"path": {"/a b"}, "username": {"user"}, "signature": {"v1_x"}, "signature_expiration": {"5"}}
	s.proves(`{"path":"/a b","operation":"read","user":"user","expires":"5","signature":"v1_x"}`)

	status, body := h.bare(http.MethodGet, "/files?"+query.Encode(), nil)
	if status != http.StatusOK || body != "GET /files?"+query.Encode()+" body" {
		t.Errorf("%d %s", status, body)
	}
	status, body = h.bare(http.MethodPost, "/files?"+query.Encode(), nil)
	if status != http.StatusUnauthorized || body != `{"code":401,"message":"invalid signature"}`+"\n" {
		t.Errorf("a signature for reading is none for writing: %d %s", status, body)
	}
}

func TestAStrangersProofIsRefusedAsGuestdWould(t *testing.T) {
	h := newHome(t)
	status, body := h.bare(http.MethodPost, "/files?path=/a", map[string]string{tokenHeader: "stranger"})
	if status != http.StatusUnauthorized || !strings.Contains(body, "please provide a valid access token") {
		t.Errorf("%d %s", status, body)
	}
}

func TestWhatShowsNothingOrIsNoCallOfGuestdGoesToTheAPI(t *testing.T) {
	h := newHome(t)
	serveUnix(t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "API") }))
	long := strings.Repeat("x", proofBytes+1)
	for path, token := range map[string]string{
		"/files?path=/a": "", "/sandboxes": "tok", "/files/other": "tok", "/metrics": "tok", "/files": long,
		"/files?path=/a&signature=" + long: "",
	} {
		header := map[string]string{}
		if token != "" {
			header[tokenHeader] = token
		}
		if status, body := h.bare(http.MethodPost, path, header); status != http.StatusOK || body != "API" {
			t.Errorf("%.30s: %d %s", path, status, body)
		}
	}
	if asked := h.control.asked.Load(); asked != 0 {
		t.Errorf("%d questions", asked)
	}
}

func TestAProofIsNotLostWhileTheServerRestarts(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.echo()
	s.proves(`{"access_token":"tok"}`)
	h.stopControl()
	answered := make(chan int, 1)
	go func() {
		status, _ := h.bare(http.MethodPost, "/envs", map[string]string{tokenHeader: "tok"})
		answered <- status
	}()
	h.startControl()
	if status := within(t, "an answer", answered); status != http.StatusOK {
		t.Error(status)
	}
}
