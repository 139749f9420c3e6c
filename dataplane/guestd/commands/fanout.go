package commands

import (
	"errors"
	"sync"
	"time"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// errTooManyReaders refuses a reader beyond limits.Subscribers.
var errTooManyReaders = errors.New("too many readers of this command's output")

// fanout hands a command's events to its readers.
//
// Policy: a reader that is behind holds the command up through its pipe, as a slow terminal would, so that a reader
// who keeps reading loses nothing. A reader whose queue stays full for limits.SubscriberStall is cut off, and the
// command goes on. Without readers output is discarded. So memory is bounded by readers × queue × chunk, and no
// reader, slow or vanished, holds a command up for ever.
//
// What was handed out last is held in recent, for readers who come back and ask for it.
type fanout struct {
	mu      sync.Mutex
	subs    []*Subscription
	end     *process.ProcessEvent
	recent  *recent // of all commands; nil: nothing is held
	history history
}

// Subscription is one reader of a command's events.
type Subscription struct {
	// Backlog comes before all that Events yields; whoever reads owns it.
	Backlog []*process.ProcessEvent
	// Recent is how many bytes of output the backlog has, and Lost how many were printed before them.
	Recent, Lost uint64

	events chan *process.ProcessEvent
	left   chan struct{}
	leave  sync.Once
	cut    chan struct{}
	cutOff sync.Once
	onCut  func()
	owner  *fanout
}

// Events yields what the backlog does not have: start, output and the end, in this order; it is never closed.
func (s *Subscription) Events() <-chan *process.ProcessEvent { return s.events }

// Cut is closed when the reader was too slow.
func (s *Subscription) Cut() <-chan struct{} { return s.cut }

// Left is closed when the reader gave the subscription up.
func (s *Subscription) Left() <-chan struct{} { return s.left }

// Leave gives the subscription up; a command that waits for this reader goes on.
func (s *Subscription) Leave() {
	s.leave.Do(func() {
		close(s.left)
		s.owner.remove(s)
	})
}

// subscribe adds a reader whose first event is start; then comes what was printed lately, if it is asked for, and what is
// printed from now on, without a gap and nothing twice: publish holds an event and finds its readers in one step, and
// this is the other one. onCut is called when it is cut off: it has to unblock a write
// that the reader's stream may hang in.
func (f *fanout) subscribe(start *process.ProcessEvent, again bool, onCut func()) (*Subscription, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.subs) >= limits.Subscribers {
		return nil, errTooManyReaders
	}
	s := &Subscription{
		events: make(chan *process.ProcessEvent, limits.SubscriberQueue),
		left:   make(chan struct{}),
		cut:    make(chan struct{}),
		onCut:  onCut,
		owner:  f,
	}
	if again && f.recent != nil {
		var events []*process.ProcessEvent
		events, s.Recent, s.Lost = f.recent.of(&f.history)
		s.Backlog = append(s.Backlog, start)
		s.Backlog = append(s.Backlog, events...)
	} else if start != nil {
		s.events <- start
	}
	if f.end != nil {
		s.events <- f.end
		return s, nil
	}
	f.subs = append(f.subs, s)
	return s, nil
}

func (f *fanout) remove(s *Subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = without(f.subs, s)
}

// without returns a new slice: publishers walk the old one without the lock.
func without(subs []*Subscription, s *Subscription) []*Subscription {
	kept := make([]*Subscription, 0, len(subs))
	for _, other := range subs {
		if other != s {
			kept = append(kept, other)
		}
	}
	return kept
}

// hold keeps an event for readers to come, and returns those of now.
func (f *fanout) hold(event *process.ProcessEvent, bytes int) []*Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.recent != nil {
		f.recent.add(&f.history, event, bytes)
	}
	return f.readersLocked()
}

func (f *fanout) readersLocked() []*Subscription { return f.subs[:len(f.subs):len(f.subs)] }

// forget lets go of what is held for readers to come.
func (f *fanout) forget() {
	if f.recent != nil {
		f.recent.forget(&f.history)
	}
}

// publish hands an event with so many bytes of output to every reader. It blocks for limits.SubscriberStall at most, however many are stuck:
// they all have the same time to make room.
func (f *fanout) publish(event *process.ProcessEvent, bytes int) {
	offer(f.hold(event, bytes), event)
}

// finish hands out the last event; who subscribes later gets it at once.
func (f *fanout) finish(end *process.ProcessEvent) {
	f.mu.Lock()
	f.end = end
	subs := f.subs
	f.subs = nil
	f.mu.Unlock()
	offer(subs, end)
}

func offer(subs []*Subscription, event *process.ProcessEvent) {
	var patience <-chan time.Time
	for _, s := range subs {
		if s.takes(event) {
			continue
		}
		if patience == nil {
			stall := time.NewTimer(limits.SubscriberStall)
			defer stall.Stop()
			patience = stall.C
		}
		select {
		case s.events <- event:
		case <-s.left:
		case <-s.cut:
		case <-patience:
			patience = expired
			s.cutOffNow()
		}
	}
}

// expired is the patience left for the others when one reader has used it up.
var expired = func() <-chan time.Time {
	over := make(chan time.Time)
	close(over)
	return over
}()

// takes hands the event over if that needs no waiting, or if nobody waits for it any more.
func (s *Subscription) takes(event *process.ProcessEvent) bool {
	select {
	case s.events <- event:
		return true
	case <-s.left:
		return true
	case <-s.cut:
		return true
	default:
		return false
	}
}

func (s *Subscription) cutOffNow() {
	s.cutOff.Do(func() {
		close(s.cut)
		s.owner.remove(s)
		if s.onCut != nil {
			s.onCut()
		}
	})
}
