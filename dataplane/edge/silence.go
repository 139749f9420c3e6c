package edge

import (
	"net/http/httptrace"
	"sync"
	"time"
)

// A guestd that was stopped, or hangs, accepts connections still: the guest's kernel does that. Nobody asks a guest that
// nobody calls; who calls one and gets no answer makes the edge tell the server, which asks guestd itself and ends the
// sandbox if it has no answer, either. Then the request is cut with the lease.

// silence watches one request to guestd, from when all of it was sent until the first byte comes back.
type silence struct {
	lease *lease
	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

// watchSilence returns a watch that does nothing for other programs: they may think as long as they like.
func watchSilence(l *lease, to target) *silence {
	return &silence{lease: l, over: to.port != daemonPort}
}

func (s *silence) wrote(info httptrace.WroteRequestInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || info.Err != nil {
		return
	}
	if s.timer != nil {
		// Sent once more, over another connection.
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(s.lease.limits.GuestSilence, s.lease.tellSilence)
}

// stop ends the watch; twice does nothing.
func (s *silence) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// tellSilence tells the server, once at a time for each sandbox. It returns at once.
func (l *lease) tellSilence() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Who does not listen just now is told by the next one that gets no answer.
	if l.closed || !l.complaining.CompareAndSwap(false, true) {
		return
	}
	l.dials.Add(1)
	go func() {
		defer l.dials.Done()
		defer l.complaining.Store(false)
		_ = l.complain(l.ctx, l.id)
	}()
}
