package files

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/wire"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

// watchers counts all watchers and keeps those of clients that poll.
//
// A stream ends with its client. A client that polls may be gone without a word: its watcher stays until another
// needs the room, so that nothing has to look for it in an idle guest.
type watchers struct {
	mu     sync.Mutex
	count  int
	polled map[string]*polledWatcher
}

func (w *watchers) reserve() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= limits.Watchers && !w.evictLocked() {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("a sandbox has at most %d watchers", limits.Watchers))
	}
	w.count++
	return nil
}

func (w *watchers) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count--
}

// add keeps the watcher of a client that polls; its room was reserved.
func (w *watchers) add(id string, p *polledWatcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.asked = time.Now()
	w.polled[id] = p
}

// get finds a watcher for its client, who is still there.
func (w *watchers) get(id string) (*polledWatcher, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.polled[id]
	if !ok {
		return nil, noSuchWatcher(id)
	}
	p.asked = time.Now()
	return p, nil
}

func (w *watchers) remove(id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.polled[id]; !ok {
		return noSuchWatcher(id)
	}
	w.removeLocked(id)
	return nil
}

// removeLocked stops a watcher and gives its room back.
func (w *watchers) removeLocked(id string) {
	w.polled[id].cancel()
	delete(w.polled, id)
	w.count--
}

// evictLocked removes the watcher that was not asked for longest, if that is long enough for its client to be gone.
func (w *watchers) evictLocked() bool {
	oldest, since := "", time.Now().Add(-limits.WatcherUnasked)
	for id, p := range w.polled {
		if p.asked.Before(since) {
			oldest, since = id, p.asked
		}
	}
	if oldest == "" {
		return false
	}
	w.removeLocked(oldest)
	return true
}

func noSuchWatcher(id string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("watcher with id %s not found", id))
}

// WatchDir streams what happens in a directory.
func (s *Service) WatchDir(ctx context.Context, req *connect.Request[filesystem.WatchDirRequest], stream *connect.ServerStream[filesystem.WatchDirResponse]) error {
	if err := s.watchers.reserve(); err != nil {
		return err
	}
	defer s.watchers.release()
	watch, err := newWatch(ctx, req.Msg)
	if err != nil {
		return err
	}
	start := &filesystem.WatchDirResponse_Start{Start: &filesystem.WatchDirResponse_StartEvent{}}
	if err := stream.Send(&filesystem.WatchDirResponse{Event: start}); err != nil {
		watch.close()
		return err
	}
	return streamEvents(ctx, watch, wire.KeepAlive(req.Header()), stream)
}

func streamEvents(ctx context.Context, watch *watch, silence time.Duration, stream *connect.ServerStream[filesystem.WatchDirResponse]) error {
	emit := func(event *filesystem.FilesystemEvent) error {
		return stream.Send(&filesystem.WatchDirResponse{Event: &filesystem.WatchDirResponse_Filesystem{Filesystem: event}})
	}
	alive := func() error {
		alive := &filesystem.WatchDirResponse_Keepalive{Keepalive: &filesystem.WatchDirResponse_KeepAlive{}}
		return stream.Send(&filesystem.WatchDirResponse{Event: alive})
	}
	return watch.run(ctx, emit, silence, alive)
}

// polledWatcher keeps the latest events for a client that asks for them.
type polledWatcher struct {
	cancel context.CancelFunc
	asked  time.Time // when its client was last heard of; the lock of all watchers guards it
	mu     sync.Mutex
	events []*filesystem.FilesystemEvent
	lost   bool // events, since it asked last
	err    error
}

func (p *polledWatcher) put(event *filesystem.FilesystemEvent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) >= limits.WatcherEvents {
		p.events = append(p.events[:0], p.events[1:]...)
		p.lost = true
	}
	p.events = append(p.events, event)
	return nil
}

// take hands the events out. If some were lost, it says that first, once, and keeps the others for the next call.
func (p *polledWatcher) take() ([]*filesystem.FilesystemEvent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost {
		p.lost = false
		return nil, eventsLost(fmt.Errorf("more than %d waited; the next call has the latest", limits.WatcherEvents))
	}
	events := p.events
	p.events = nil
	if len(events) > 0 {
		return events, nil
	}
	return nil, p.err
}

func (p *polledWatcher) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// CreateWatcher starts to collect events for a client that polls.
func (s *Service) CreateWatcher(ctx context.Context, req *connect.Request[filesystem.CreateWatcherRequest]) (*connect.Response[filesystem.CreateWatcherResponse], error) {
	if err := s.watchers.reserve(); err != nil {
		return nil, err
	}
	watch, err := newWatch(ctx, req.Msg)
	if err != nil {
		s.watchers.release()
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background()) // It outlives this request.
	id := rand.Text()
	p := &polledWatcher{cancel: cancel}
	s.watchers.add(id, p)
	go func() {
		// It keeps its room, so that its client hears of a failure.
		if err := watch.run(running, p.put, 0, nil); err != nil && !errors.Is(err, context.Canceled) {
			p.fail(err)
		}
	}()
	return connect.NewResponse(&filesystem.CreateWatcherResponse{WatcherId: id}), nil
}

// GetWatcherEvents hands out what was collected since the last call.
func (s *Service) GetWatcherEvents(_ context.Context, req *connect.Request[filesystem.GetWatcherEventsRequest]) (*connect.Response[filesystem.GetWatcherEventsResponse], error) {
	p, err := s.watchers.get(req.Msg.GetWatcherId())
	if err != nil {
		return nil, err
	}
	events, err := p.take()
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.GetWatcherEventsResponse{Events: events}), nil
}

// RemoveWatcher stops collecting.
func (s *Service) RemoveWatcher(_ context.Context, req *connect.Request[filesystem.RemoveWatcherRequest]) (*connect.Response[filesystem.RemoveWatcherResponse], error) {
	if err := s.watchers.remove(req.Msg.GetWatcherId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.RemoveWatcherResponse{}), nil
}
