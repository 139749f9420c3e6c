package edge

import (
	"io"
	"net/http"
	"testing"
)

// create has the API answer that something was created at location.
func create(h *home, status int, location string) {
	h.t.Helper()
	stop := serveUnix(h.t, h.config.API, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(status)
	}))
	defer stop()
	response, err := h.client.Post(h.url+"/sandboxes", "application/json", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	response.Body.Close()
}

func TestANewSandboxIsGreetedBeforeItsFirstRequest(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	greeted := make(chan string, 1)
	s.serve(daemonPort, func(_ http.ResponseWriter, r *http.Request) { greeted <- r.URL.Path })

	create(h, http.StatusCreated, "/v1/sandboxes/"+s.id)

	if path := within(t, "a greeting", greeted); path != "/health" {
		t.Error(path)
	}
	eventually(t, "the route", func() bool { return h.edge.routes.count() == 1 })
}

func TestNobodyElseIsGreeted(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	for _, answer := range []struct {
		status   int
		location string
	}{
		{http.StatusOK, "/v1/sandboxes/" + s.id}, {http.StatusCreated, "/v1/templates/base"}, {http.StatusCreated, ""},
		{http.StatusCreated, "/v1/sandboxes/" + s.id + "-x"},
	} {
		create(h, answer.status, answer.location)
	}
	h.edge.newcomers.tasks.Wait()
	if asked := h.control.asked.Load(); asked != 0 {
		t.Errorf("%d questions", asked)
	}
}

func TestASandboxThatDoesNotAnswerItsGreetingHoldsNothingUp(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	arrived := make(chan struct{}, 1)
	s.serve(daemonPort, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			arrived <- struct{}{}
			<-r.Context().Done()
		}
	})

	create(h, http.StatusCreated, "/v1/sandboxes/"+s.id)
	within(t, "the greeting", arrived)

	if status, _ := s.get("/list", daemonPort); status != http.StatusOK {
		t.Error(status)
	}
	h.forget(s.id)
	within(t, "the greeting's end", func() chan struct{} {
		done := make(chan struct{})
		go func() { h.edge.newcomers.tasks.Wait(); close(done) }()
		return done
	}())
}

func TestAGreetingIsNotListenedToForLong(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	ended := make(chan struct{})
	s.serve(daemonPort, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		for {
			if _, err := io.WriteString(w, "endless "); err != nil {
				return
			}
		}
	})

	create(h, http.StatusCreated, "/v1/sandboxes/"+s.id)

	within(t, "the end of an endless answer", ended)
}
