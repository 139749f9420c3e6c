package edge

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const someTrafficToken = "0123456789abcdef"

// setIngress changes what the server says about a sandbox.
func (s *sandbox) setIngress(policy ingress) {
	body, err := json.Marshal(map[string]any{
		"sandbox_id": s.id, "address": s.address, "status": "running", "traffic_token": policy.TrafficToken,
		"mask_host": policy.MaskHost, "https_ports": policy.HTTPSPorts,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.home.control.mu.Lock()
	defer s.home.control.mu.Unlock()
	s.home.control.routes[s.id] = string(body)
}

// tell answers with what the program sees.
func tell(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, "host=%s forwarded=%s token=%q", r.Host, r.Header.Get("X-Forwarded-Host"), r.Header.Values(trafficHeader))
}

func TestPortsThatAreNotPublicWantTheTrafficToken(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.setIngress(ingress{TrafficToken: someTrafficToken})
	s.serve(3000, tell)
	s.serve(daemonPort, tell)
	for _, one := range []struct {
		port   int
		shown  []string
		status int
		says   string
	}{
		{3000, nil, http.StatusForbidden, "is missing"},
		{3000, []string{""}, http.StatusForbidden, "is invalid"},
		{3000, []string{someTrafficToken + "x"}, http.StatusForbidden, "is invalid"},
		{3000, []string{"x", someTrafficToken}, http.StatusForbidden, "is invalid"},
		{3000, []string{someTrafficToken}, http.StatusOK, "token=[]"},
		{4000, nil, http.StatusForbidden, "is missing"},
		{daemonPort, nil, http.StatusOK, "token=[]"},
	} {
		r := s.request(http.MethodPost, "/", one.port, strings.NewReader("body"))
		for _, value := range one.shown {
			r.Header.Add(trafficHeader, value)
		}
		if status, body := h.do(r); status != one.status || !strings.Contains(body, one.says) {
			t.Errorf("port %d, shown %q: %d %s", one.port, one.shown, status, body)
		}
	}
}

func TestAnUpgradeWantsTheTrafficTokenToo(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.setIngress(ingress{TrafficToken: someTrafficToken})
	s.serve(3000, tell)
	r := s.request(http.MethodGet, "/", 3000, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")

	if status, body := h.do(r); status != http.StatusForbidden {
		t.Errorf("%d %s", status, body)
	}
}

func TestProgramsSeeTheMaskAsHost(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.setIngress(ingress{MaskHost: "localhost:${PORT}"})
	s.serve(3000, tell)
	s.serve(daemonPort, tell)
	_, own, _ := strings.Cut(h.url, "//")

	if _, body := s.get("/", 3000); body != "host=localhost:3000 forwarded="+own+" token=[]" {
		t.Error(body)
	}
	if _, body := s.get("/", daemonPort); !strings.HasPrefix(body, "host="+own) {
		t.Error(body)
	}
}

func TestAProgramMaySpeakHTTPS(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.setIngress(ingress{HTTPSPorts: []int{8443}})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "tls=%t %s", r.TLS != nil, body)
	}))
	server.Listener.Close()
	server.Listener = s.listen(8443)
	server.StartTLS()
	t.Cleanup(server.Close)

	r := s.request(http.MethodPost, "/", 8443, strings.NewReader("hello"))
	if status, body := h.do(r); status != http.StatusOK || body != "tls=true hello" {
		t.Errorf("%d %s", status, body)
	}
}

func TestAPortThatSpeaksNoTLSAnswersWithAnError(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.setIngress(ingress{HTTPSPorts: []int{8443}})
	s.serve(8443, tell)

	if status, body := s.get("/", 8443); status != http.StatusBadGateway {
		t.Errorf("%d %s", status, body)
	}
}

func TestTheConnectionBeneathTLSIsFound(t *testing.T) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if beneath(tls.Client(one, &tls.Config{InsecureSkipVerify: true})) != one || beneath(one) != one {
		t.Error("another connection")
	}
}
