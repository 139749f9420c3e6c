package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func (h *home) retire(id string, idle time.Duration) (left time.Duration) {
	h.t.Helper()
	body := strings.NewReader(fmt.Sprintf(`{"idle_ms":%d}`, idle.Milliseconds()))
	answer, err := h.admin.Post("http://edge/v1/routes/"+id+"/retire", "application/json", body)
	if err != nil {
		h.t.Fatal(err)
	}
	defer answer.Body.Close()
	var found struct {
		Left int64 `json:"left_ms"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil || answer.StatusCode != http.StatusOK {
		h.t.Fatal(answer.Status, err)
	}
	return time.Duration(found.Left) * time.Millisecond
}

func TestWhoIsCalledDoesNotIdleAndWhoIsNotIsForgotten(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	arrived, release := make(chan struct{}), make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.(http.Flusher).Flush()
			close(arrived)
			<-release
		}
	})
	if status, _ := s.get("/", 3000); status != http.StatusOK {
		t.Fatal(status)
	}
	if left := h.retire(s.id, time.Hour); left <= time.Hour-time.Minute || left > time.Hour {
		t.Errorf("%s left after a request", left)
	}
	streamed := make(chan struct{})
	go func() { defer close(streamed); s.get("/stream", 3000) }()
	<-arrived
	time.Sleep(20 * time.Millisecond)
	if left := h.retire(s.id, 10*time.Millisecond); left != 10*time.Millisecond {
		t.Errorf("%s left with a stream open", left)
	}
	close(release)
	<-streamed
	time.Sleep(20 * time.Millisecond)

	if left := h.retire(s.id, 10*time.Millisecond); left != 0 {
		t.Errorf("%s left after nobody called", left)
	}

	if n := h.edge.routes.count(); n != 0 {
		t.Errorf("%d routes", n)
	}
	asked := h.control.asked.Load()
	if status, _ := s.get("/", 3000); status != http.StatusOK || h.control.asked.Load() != asked+1 {
		t.Errorf("%d, asked %d times", status, h.control.asked.Load()-asked)
	}
}

func TestWhatWasBeforeTheEdgeStartedIsNotKnown(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	if left := h.retire(s.id, time.Hour); left <= time.Hour-time.Minute {
		t.Errorf("%s left", left)
	}
	time.Sleep(20 * time.Millisecond)
	if left := h.retire(s.id, 10*time.Millisecond); left != 0 {
		t.Errorf("%s left", left)
	}
}

func TestAWrongIdleTimeIsRefused(t *testing.T) {
	h := newHome(t)
	for _, body := range []string{"", "{}", `{"idle_ms":-1}`} {
		answer, err := h.admin.Post("http://edge/v1/routes/x/retire", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", body, answer.Status)
		}
	}
}

func TestRequestsAndRetirementsTakeTurns(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	var callers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		callers.Go(func() {
			for range 50 {
				time.Sleep(6 * time.Millisecond)
				if status, body := s.get("/", 3000); status != http.StatusOK || body != "here" {
					t.Errorf("%d %q", status, body)
				}
			}
		})
	}
	go func() { callers.Wait(); close(stop) }()
	for {
		select {
		case <-stop:
			return
		default:
			h.retire(s.id, 5*time.Millisecond)
		}
	}
}
