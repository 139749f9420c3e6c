package edge

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func shortSilence(c *Config) { c.Limits.GuestSilence = 50 * time.Millisecond }

func (c *fakeControl) complaints(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent[id]
}

func TestTheServerIsToldOfAGuestdThatOwesAnAnswer(t *testing.T) {
	h := newHome(t, shortSilence)
	s := h.newSandbox()
	end := make(chan struct{})
	s.serve(daemonPort, func(http.ResponseWriter, *http.Request) { <-end })
	answered := make(chan int, 1)
	go func() {
		response, err := h.client.Do(s.request(http.MethodPost, "/process.Process/List", daemonPort, strings.NewReader("{}")))
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		response.Body.Close()
		answered <- response.StatusCode
	}()

	eventually(t, "a complaint", func() bool { return h.control.complaints(s.id) == 1 })

	// The server ends the sandbox: who waits is told.
	h.control.remove(s.id)
	h.forget(s.id)
	if status := within(t, "an answer", answered); status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	close(end)
	if again := h.control.complaints(s.id); again != 1 {
		t.Errorf("%d complaints", again)
	}
}

func TestTheServerIsNotToldOfWhatTakesLongElsewhere(t *testing.T) {
	h := newHome(t, shortSilence)
	s := h.newSandbox()
	slow := func(w http.ResponseWriter, _ *http.Request) { time.Sleep(150 * time.Millisecond) }
	s.serve(8000, slow)
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) {
		// A stream that has begun may rest as long as it likes.
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		slow(w, r)
	})

	for _, port := range []int{8000, daemonPort} {
		if status, _ := s.get("/", port); status != http.StatusOK {
			t.Errorf("port %d: %d", port, status)
		}
	}

	if complaints := h.control.complaints(s.id); complaints != 0 {
		t.Errorf("%d complaints", complaints)
	}
}
