package files

import (
	"context"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

func addPolled(t *testing.T, w *watchers, id string, asked time.Time) (ended context.Context) {
	t.Helper()
	if err := w.reserve(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	w.add(id, &polledWatcher{cancel: cancel})
	w.polled[id].asked = asked
	return ended
}

func TestAVanishedClientsWatcherMakesRoomForTheNext(t *testing.T) {
	w := &watchers{polled: map[string]*polledWatcher{}}
	now := time.Now()
	vanished := addPolled(t, w, "vanished", now.Add(-2*limits.WatcherUnasked))
	older := addPolled(t, w, "longer gone", now.Add(-3*limits.WatcherUnasked))
	for w.count < limits.Watchers {
		addPolled(t, w, time.Now().String(), now)
	}

	if err := w.reserve(); err != nil || older.Err() == nil || vanished.Err() != nil {
		t.Errorf("%v; the longest gone %v, the other %v", err, older.Err(), vanished.Err())
	}
	if _, err := w.get("longer gone"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("asked for: %v", err)
	}
	if _, err := w.get("vanished"); err != nil { // Now it is back.
		t.Error(err)
	}
	if err := w.reserve(); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a watcher of a client that is there was taken: %v", err)
	}
	if w.count != limits.Watchers {
		t.Errorf("%d are counted", w.count)
	}
}

func TestAWatcherGivesItsRoomBackOnce(t *testing.T) {
	w := &watchers{polled: map[string]*polledWatcher{}}
	addPolled(t, w, "a", time.Now())
	if err := w.remove("a"); err != nil || w.count != 0 {
		t.Errorf("%v, %d are counted", err, w.count)
	}
	if err := w.remove("a"); connect.CodeOf(err) != connect.CodeNotFound || w.count != 0 {
		t.Errorf("again: %v, %d are counted", err, w.count)
	}
}

func TestATreeThatIsTooLargeToWatchIsNoQuestionOfTime(t *testing.T) {
	if err := watchFailure("/", errTooManyDirectories); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("%v", err)
	}
}

func TestAClientThatPollsIsToldOnceThatEventsWereLost(t *testing.T) {
	p := &polledWatcher{}
	for n := range limits.WatcherEvents + 2 {
		if err := p.put(&filesystem.FilesystemEvent{Name: strconv.Itoa(n)}); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := p.take(); connect.CodeOf(err) != connect.CodeDataLoss {
		t.Errorf("%v", err)
	}
	events, err := p.take()
	if err != nil || len(events) != limits.WatcherEvents || events[0].GetName() != "2" {
		t.Errorf("%v, %d events", err, len(events))
	}
	if events, err := p.take(); err != nil || len(events) != 0 {
		t.Errorf("then: %v %v", events, err)
	}
}
