package files

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

// watchers counts all watchers and keeps those of clients that poll.
type watchers struct {
	mu     sync.Mutex
	count  int
	polled map[string]*polledWatcher
}

func (w *watchers) reserve() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count >= limits.Watchers {
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("a sandbox has at most %d watchers", limits.Watchers))
	}
	w.count++
	return nil
}

func (w *watchers) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count--
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
	return streamEvents(ctx, watch, keepAlive(req.Header()), stream)
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

// keepAlive reads the seconds of silence after which a stream says that it lives.
func keepAlive(header http.Header) time.Duration {
	seconds, err := strconv.ParseUint(header.Get("Keepalive-Ping-Interval"), 10, 31)
	if err != nil || seconds == 0 {
		return limits.KeepAlive
	}
	return max(time.Duration(seconds)*time.Second, limits.KeepAliveLeast)
}

// polledWatcher keeps the latest events for a client that asks for them.
type polledWatcher struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	events []*filesystem.FilesystemEvent
	err    error
}

func (p *polledWatcher) put(event *filesystem.FilesystemEvent) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) >= limits.WatcherEvents {
		p.events = append(p.events[:0], p.events[1:]...)
	}
	p.events = append(p.events, event)
	return nil
}

func (p *polledWatcher) take() ([]*filesystem.FilesystemEvent, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
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
	s.watchers.mu.Lock()
	s.watchers.polled[id] = p
	s.watchers.mu.Unlock()
	go func() {
		defer s.watchers.release()
		if err := watch.run(running, p.put, 0, nil); err != nil && !errors.Is(err, context.Canceled) {
			p.fail(err)
		}
	}()
	return connect.NewResponse(&filesystem.CreateWatcherResponse{WatcherId: id}), nil
}

func (s *Service) watcher(id string) (*polledWatcher, error) {
	s.watchers.mu.Lock()
	defer s.watchers.mu.Unlock()
	if p, ok := s.watchers.polled[id]; ok {
		return p, nil
	}
	return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("watcher with id %s not found", id))
}

// GetWatcherEvents hands out what was collected since the last call.
func (s *Service) GetWatcherEvents(_ context.Context, req *connect.Request[filesystem.GetWatcherEventsRequest]) (*connect.Response[filesystem.GetWatcherEventsResponse], error) {
	p, err := s.watcher(req.Msg.GetWatcherId())
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
	p, err := s.watcher(req.Msg.GetWatcherId())
	if err != nil {
		return nil, err
	}
	s.watchers.mu.Lock()
	delete(s.watchers.polled, req.Msg.GetWatcherId())
	s.watchers.mu.Unlock()
	p.cancel()
	return connect.NewResponse(&filesystem.RemoveWatcherResponse{}), nil
}
