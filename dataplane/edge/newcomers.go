package edge

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"path"
	"sync"
)

// newcomers prepares for the first request to a sandbox while its client still reads that it has been created:
// asks where it is, connects, and has guestd answer once. It takes 4 ms, nearly all of them while nobody waits.
type newcomers struct {
	routes *routes
	limits *Limits
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

func newNewcomers(routes *routes, limits *Limits) *newcomers {
	ctx, cancel := context.WithCancel(context.Background())
	return &newcomers{routes: routes, limits: limits, ctx: ctx, cancel: cancel}
}

// saw looks at an answer of the API. What has been created is named by Location (RFC 9110, 15.3.2).
func (n *newcomers) saw(response *http.Response) {
	if response.StatusCode != http.StatusCreated {
		return
	}
	id := path.Base(response.Header.Get("Location"))
	if found := sandboxID.FindStringSubmatch(id); found == nil || found[1] != id {
		return
	}
	n.tasks.Go(func() { n.greet(id) })
}

// greet may fail: the first request then finds out why.
func (n *newcomers) greet(id string) {
	ctx, cancel := context.WithTimeout(n.ctx, n.limits.GreetTime)
	defer cancel()
	found, err := n.routes.get(ctx, id)
	if err != nil {
		return
	}
	ctx, done, err := found.begin(ctx)
	if err != nil {
		return
	}
	defer done()
	url := "http://" + netip.AddrPortFrom(found.address, daemonPort).String() + "/health"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	answer, err := found.daemon.RoundTrip(request)
	if err != nil {
		return
	}
	defer answer.Body.Close()
	// guestd answers nothing; whoever may be in its place is not listened to.
	_, _ = io.CopyN(io.Discard, answer.Body, 1)
}

// stop ends all greetings.
func (n *newcomers) stop() {
	n.cancel()
	n.tasks.Wait()
}
