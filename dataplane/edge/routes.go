package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const statusRunning = "running"

// mostLookups of one request: a pause takes two answers back, at its begin and at its end, and the sandbox that the
// request wakes may be paused at once.
const mostLookups = 5

var (
	// errForgotten: the server took the route back; who still wants it must ask again.
	errForgotten = errors.New("the route was forgotten")
	// errCutOff: the route was taken back while the sandbox had the request.
	errCutOff = errors.New("the sandbox was paused or ended")
	// errInTransition: there is such a sandbox, but it is not running.
	errInTransition = errors.New("the sandbox is not running")
	// errOutOfRange: the server named an address that is no sandbox's.
	errOutOfRange = errors.New("the address is outside of the range")
)

// routes remembers where sandboxes are.
//
// Only what the server confirmed is kept, until the server takes it back or says something else when asked again;
// so there are never more routes than running sandboxes, and strangers' ids leave nothing behind.
type routes struct {
	ask         func(context.Context, string) (answer, error)
	suspect     func(context.Context, string) error // nil: nobody is told
	complain    func(context.Context, string) error
	allowed     netip.Prefix
	limits      *Limits
	log         *slog.Logger
	lookupSlots chan struct{}
	started     time.Time

	mu      sync.Mutex
	leases  map[string]*lease
	lookups map[string]*lookup
	// parted leases serve the requests that they have, and no others; they end when the route is forgotten.
	parted map[string][]*lease
}

// lookup is a question under way. Forgetting takes it out of the table, and its answer counts no more.
type lookup struct {
	done   chan struct{}
	cancel context.CancelFunc
	lease  *lease
	err    error
}

func newRoutes(
	ask func(context.Context, string) (answer, error), allowed netip.Prefix, limits *Limits, log *slog.Logger,
) *routes {
	return &routes{
		ask: ask, complain: func(context.Context, string) error { return nil }, allowed: allowed, limits: limits, log: log,
		lookupSlots: make(chan struct{}, limits.Lookups),
		started:     time.Now(),
		leases:      map[string]*lease{},
		lookups:     map[string]*lookup{},
		parted:      map[string][]*lease{},
	}
}

// get returns the lease of a sandbox, asking the server if need be. However many ask, the server is asked once.
func (t *routes) get(ctx context.Context, id string) (*lease, error) {
	// Whose answer was forgotten while it was under way asks again: the sandbox may live on elsewhere.
	// One that is forgotten so often within one request comes and goes; then it is not found.
	for range mostLookups {
		found, pending := t.find(id)
		if found != nil {
			return found, nil
		}
		select {
		case <-pending.done:
			if !errors.Is(pending.err, errForgotten) {
				return pending.lease, pending.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, errNotFound
}

func (t *routes) find(id string) (*lease, *lookup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if found := t.leases[id]; found != nil {
		return found, nil
	}
	pending := t.lookups[id]
	if pending == nil {
		// Not bound to the first asker's request: others wait for the same answer.
		ctx, cancel := context.WithTimeout(context.Background(), t.limits.LookupTime+t.limits.ServerAway)
		pending = &lookup{done: make(chan struct{}), cancel: cancel}
		t.lookups[id] = pending
		go t.look(ctx, id, pending)
	}
	return nil, pending
}

// look asks and, unless the route was forgotten meanwhile, remembers.
func (t *routes) look(ctx context.Context, id string, pending *lookup) {
	defer pending.cancel()
	found, err := t.question(ctx, id)

	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(pending.done)
	if t.lookups[id] != pending {
		pending.err = errForgotten
		return
	}
	delete(t.lookups, id)
	if pending.err = err; err != nil {
		return
	}
	pending.lease = newLease(id, found, t.limits)
	pending.lease.complain = t.complain
	t.leases[id] = pending.lease
}

// question asks the server and judges its answer.
func (t *routes) question(ctx context.Context, id string) (answer, error) {
	select {
	case t.lookupSlots <- struct{}{}:
		defer func() { <-t.lookupSlots }()
	case <-ctx.Done():
		return answer{}, errServerAway
	}
	found, err := t.ask(ctx, id)
	switch {
	case isSettled(err):
		// The server has it in its log.
		return answer{}, err
	case err != nil:
		if ctx.Err() != context.Canceled {
			t.log.Error("route not known: the server does not answer", "sandbox_id", id, "error", err)
		}
		return answer{}, err
	case found.status != statusRunning:
		return answer{}, errInTransition
	case !t.allowed.Contains(found.address):
		t.log.Error("route refused: address outside of the range", "sandbox_id", id, "address", found.address)
		return answer{}, errOutOfRange
	}
	return found, nil
}

// check asks again about a sandbox that cannot be connected to, and returns the lease that is valid now.
func (t *routes) check(ctx context.Context, old *lease) (*lease, error) {
	old.checking.Lock()
	defer old.checking.Unlock()
	if old.ended() {
		return t.get(ctx, old.id)
	}
	if time.Since(old.checked) < t.limits.RouteCheck {
		return old, nil
	}
	if t.suspect != nil {
		if err := t.suspect(ctx, old.id); err != nil {
			t.log.Debug("nobody heard that a sandbox is not reached", "sandbox_id", old.id, "error", err)
		}
	}
	found, err := t.question(ctx, old.id)
	old.checked = time.Now()
	switch {
	case err == nil && found.address == old.address && found.ingress.equal(&old.ingress):
		return old, nil
	case err == nil:
		t.drop(old)
		return t.get(ctx, old.id)
	case errors.Is(err, errServerAway) || isFault(err) || ctx.Err() != nil:
		// Nobody says that the route is wrong.
		return old, nil
	default:
		t.drop(old)
		return nil, err
	}
}

// isFault: the server answered, but not the question. One that it does not wake does not run, and has no route.
func isFault(err error) bool {
	var refused *serverRefusal
	return errors.As(err, &refused) && refused.status == http.StatusInternalServerError
}

// drop ends a lease, but not a younger one of the same sandbox.
func (t *routes) drop(old *lease) {
	t.mu.Lock()
	if t.leases[old.id] == old {
		delete(t.leases, old.id)
	}
	t.mu.Unlock()
	old.end()
}

// forget takes a route back. When it returns, nothing that began before uses the sandbox's address any more.
func (t *routes) forget(id string) {
	t.takeBack(id, func(*lease) bool { return true })
}

// askAgain has requests from now on ask the server where the sandbox is; those under way go on with what they have.
func (t *routes) askAgain(id string) {
	t.takeBack(id, (*lease).closeUnused)
}

// takeBack has nobody find what is known of a sandbox any more, and ends those of its leases that the function says.
func (t *routes) takeBack(id string, ends func(*lease) bool) {
	t.mu.Lock()
	leases, pending := t.parted[id], t.lookups[id]
	if found := t.leases[id]; found != nil {
		leases = append(leases, found)
	}
	delete(t.leases, id)
	delete(t.lookups, id)
	delete(t.parted, id)
	var ending []*lease
	for _, one := range leases {
		if ends(one) {
			ending = append(ending, one)
		} else {
			t.parted[id] = append(t.parted[id], one)
		}
	}
	t.mu.Unlock()
	if pending != nil {
		pending.cancel()
	}
	for _, one := range ending {
		one.end()
	}
}

// retire forgets a route that no request used for so long, and returns how long that takes at least, 0 if it is forgotten.
// What was before we started is not known: it counts as used then.
func (t *routes) retire(id string, idle time.Duration) time.Duration {
	t.mu.Lock()
	if t.lookups[id] != nil || slices.ContainsFunc(t.parted[id], (*lease).isUsed) {
		t.mu.Unlock()
		return idle
	}
	found := t.leases[id]
	if found == nil {
		t.mu.Unlock()
		return max(idle-time.Since(t.started), 0)
	}
	left := found.retire(idle)
	if left == 0 {
		delete(t.leases, id)
	}
	t.mu.Unlock()
	if left == 0 {
		found.end()
	}
	return left
}

// forgetAll ends every lease, for the end of the program.
func (t *routes) forgetAll() {
	t.mu.Lock()
	ids := make([]string, 0, len(t.leases)+len(t.lookups)+len(t.parted))
	for id := range t.leases {
		ids = append(ids, id)
	}
	for id := range t.lookups {
		ids = append(ids, id)
	}
	for id := range t.parted {
		ids = append(ids, id)
	}
	t.mu.Unlock()
	for _, id := range ids {
		t.forget(id)
	}
}

func (t *routes) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.leases)
}
