package edge

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// askAgain tells the edge as the server does when a pause begins.
func (h *home) askAgain(id string) {
	h.t.Helper()
	answer, err := h.admin.Post("http://edge/v1/routes/"+id+"/ask-again", "", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		h.t.Fatalf("ask again: %s", answer.Status)
	}
}

func TestWhatIsUnderWayGoesOnWhereOthersAskAgain(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	release := make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			w.(http.Flusher).Flush()
			<-release
			_, _ = io.WriteString(w, "whole")
		}
	})
	stream, err := h.client.Do(s.request(http.MethodGet, "/stream", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()

	h.control.set(s.id, "", "pausing")
	h.askAgain(s.id)

	if status, body := s.get("/", 3000); status != http.StatusConflict {
		t.Errorf("%d %s", status, body)
	}
	// The pause failed: it runs on.
	h.control.set(s.id, s.address, "running")
	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if left := h.retire(s.id, time.Millisecond); left != time.Millisecond {
		t.Errorf("%s left with a stream open", left)
	}
	close(release)
	if body, err := io.ReadAll(stream.Body); string(body) != "whole" || err != nil {
		t.Errorf("%q %v", body, err)
	}
}

func TestWhatWentOnIsCutWhenTheRouteIsForgotten(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	gone := make(chan struct{})
	s.serve(3000, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	})
	stream, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()

	h.askAgain(s.id)
	h.askAgain(s.id)
	h.forget(s.id)

	within(t, "the end of the request", gone)
	if _, err := io.ReadAll(stream.Body); err == nil {
		t.Error("the answer ended as if it were whole")
	}
}

func TestARequestInAPauseIsAnsweredByWhoComesBack(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(http.ResponseWriter, *http.Request) {})
	s.get("/", 3000)
	hold := make(chan struct{})
	h.control.setHold(hold)

	h.askAgain(s.id)
	answered := make(chan int, 1)
	go func() {
		status, _ := s.get("/", 3000)
		answered <- status
	}()
	eventually(t, "the server is asked", func() bool { return h.control.asked.Load() == 2 })
	h.forget(s.id)
	close(hold)

	if status := within(t, "an answer", answered); status != http.StatusOK {
		t.Error(status)
	}
}
