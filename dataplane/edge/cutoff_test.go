package edge

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// stalling is a program that keeps so many calls until they are cut off, and answers those after them.
type stalling struct {
	most  int64
	calls atomic.Int64
	came  chan struct{}
	// then is what the server says of the sandbox from then on; "" what it said before, and "gone" that there is none.
	then string
}

func (p *stalling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if p.calls.Add(1) <= p.most {
		p.came <- struct{}{}
		<-r.Context().Done()
		return
	}
	_, _ = io.WriteString(w, "hello")
}

// cutOff answers a request whose sandbox's route is forgotten while the program works on it.
func (s *sandbox) cutOff(t *testing.T, program *stalling, method, body string) (int, string, http.Header) {
	t.Helper()
	program.came = make(chan struct{})
	s.serve(3000, program.ServeHTTP)
	type said struct {
		status int
		body   string
		header http.Header
	}
	answered := make(chan said, 1)
	go func() {
		var sent io.Reader
		if body != "" {
			sent = strings.NewReader(body)
		}
		answer, err := s.home.client.Do(s.request(method, "/", 3000, sent))
		if err != nil {
			t.Error(err)
			answered <- said{}
			return
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		answered <- said{answer.StatusCode, string(text), answer.Header}
	}()
	for range program.most {
		within(t, "the call", program.came)
		switch program.then {
		case "":
		case "gone":
			s.home.control.remove(s.id)
		default:
			s.home.control.set(s.id, "", program.then)
		}
		s.home.askAgain(s.id)
		s.home.forget(s.id)
	}
	told := within(t, "an answer", answered)
	return told.status, told.body, told.header
}

func TestAReadThatAPauseCutsOffIsSentToWhoComesBack(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		s := newHome(t).newSandbox()
		program := &stalling{most: 1}

		status, text, _ := s.cutOff(t, program, method, "")

		want := "hello"
		if method == http.MethodHead {
			want = ""
		}
		if status != http.StatusOK || text != want {
			t.Errorf("%s: %d %s", method, status, text)
		}
		if calls := program.calls.Load(); calls != 2 {
			t.Errorf("%s: the program was called %d times", method, calls)
		}
	}
}

func TestWhatMayHaveHadEffectIsNotSentAgainNorWakesTheSandbox(t *testing.T) {
	for method, body := range map[string]string{
		http.MethodPost: "x", http.MethodDelete: "", http.MethodPut: "x", http.MethodGet: "x",
	} {
		h := newHome(t)
		s := h.newSandbox()
		program := &stalling{most: 1}

		status, text, header := s.cutOff(t, program, method, body)

		if status != http.StatusBadGateway || !strings.Contains(text, "was not found any more: it was paused or ended") {
			t.Errorf("%s: %d %s", method, status, text)
		}
		if header.Get("Should-Retry") != "false" {
			t.Errorf("%s: Should-Retry is %q", method, header.Get("Should-Retry"))
		}
		if asked, calls := h.control.asked.Load(), program.calls.Load(); asked != 1 || calls != 1 {
			t.Errorf("%s: the server was asked %d times, the program %d times", method, asked, calls)
		}
	}
}

func TestAReadIsSentAgainOnce(t *testing.T) {
	s := newHome(t).newSandbox()

	status, text, _ := s.cutOff(t, &stalling{most: 2}, http.MethodGet, "")

	if status != http.StatusBadGateway || !strings.Contains(text, "it was paused or ended") {
		t.Errorf("%d %s", status, text)
	}
}

func TestAReadOfWhatDoesNotComeBackHearsThatItWasCutOff(t *testing.T) {
	for _, then := range []string{"gone", "pausing"} {
		s := newHome(t).newSandbox()

		status, text, _ := s.cutOff(t, &stalling{most: 1, then: then}, http.MethodGet, "")

		if status != http.StatusBadGateway || !strings.Contains(text, "it was paused or ended") {
			t.Errorf("%s: %d %s", then, status, text)
		}
	}
}
