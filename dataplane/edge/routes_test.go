package edge

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTheServerIsAskedOnceHoweverManyWait(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	hold := make(chan struct{})
	h.control.setHold(hold)

	var waiting sync.WaitGroup
	for range 50 {
		waiting.Go(func() {
			if status, body := s.get("/", 3000); status != http.StatusOK {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	eventually(t, "50 requests wait", func() bool { return h.edge.open.Load() == 50 })
	close(hold)
	waiting.Wait()
	s.get("/", 3000)

	if asked := h.control.asked.Load(); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestWhatIsNotFoundIsAskedAgain(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	h.control.remove(s.id)

	status, body := s.get("/", 3000)
	if status != http.StatusBadGateway || body != `{"sandboxId":"`+s.id+`","message":"The sandbox was not found","code":502}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	h.control.set(s.id, s.address, "running")
	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestOneInTransitionIsAskedAgain(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	h.control.set(s.id, "", "creating")

	if status, body := s.get("/", 3000); status != http.StatusConflict {
		t.Errorf("%d %s", status, body)
	}
	h.control.set(s.id, s.address, "running")
	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestNoAddressOutsideOfTheRangeIsConnectedTo(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Range = netip.MustParsePrefix("127.77.0.0/16") })
	s := h.newSandbox()
	outside := listenAt(t, "127.66.0.1:3000")
	connected := make(chan struct{}, 1)
	serve(t, outside, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { connected <- struct{}{} }))

	for _, address := range []string{"127.66.0.1", "::1", "::ffff:127.66.0.1"} {
		h.control.set(s.id, address, "running")
		if status, body := s.get("/", 3000); status != http.StatusBadGateway {
			t.Errorf("%s: %d %s", address, status, body)
		}
	}
	if len(connected) > 0 {
		t.Error("connected")
	}
}

func TestNonsenseFromTheServerIsNoRoute(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":     "<html>",
		"other id":    `{"sandbox_id":"iaaaaaaaaaaaaaaaaaaaa","address":"127.0.0.1","status":"running"}`,
		"no address":  `{"sandbox_id":"` + someID + `","status":"running"}`,
		"host name":   `{"sandbox_id":"` + someID + `","address":"localhost","status":"running"}`,
		"with a port": `{"sandbox_id":"` + someID + `","address":"127.0.0.1:80","status":"running"}`,
	} {
		if found, err := parseAnswer(someID, []byte(body)); err == nil {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

// blockingAsk answers when told to, so that a test can act in between.
type blockingAsk struct {
	arrived chan context.Context
	answers chan answer
}

func (b *blockingAsk) ask(ctx context.Context, _ string) (answer, error) {
	b.arrived <- ctx
	// As a server that does not notice that nobody listens any more.
	found := <-b.answers
	if !found.address.IsValid() {
		return answer{}, errNotFound
	}
	return found, nil
}

func TestForgettingBeatsALookupUnderWay(t *testing.T) {
	limits := testLimits()
	server := &blockingAsk{arrived: make(chan context.Context), answers: make(chan answer)}
	table := newRoutes(server.ask, netip.MustParsePrefix("127.0.0.0/8"), &limits, NewLog(testWriter{t}, limits))
	type result struct {
		lease *lease
		err   error
	}
	got := make(chan result, 1)
	go func() {
		found, err := table.get(context.Background(), someID)
		got <- result{found, err}
	}()
	first := within(t, "first question", server.arrived)

	table.forget(someID)
	if first.Err() == nil {
		t.Error("the question goes on")
	}
	// The old answer arrives too late; whoever waits asks again and gets the new one.
	server.answers <- answer{address: netip.MustParseAddr("127.0.0.1"), status: statusRunning}
	within(t, "second question", server.arrived)
	server.answers <- answer{address: netip.MustParseAddr("127.0.0.2"), status: statusRunning}

	found := within(t, "an answer", got)
	if found.err != nil || found.lease.address.String() != "127.0.0.2" {
		t.Errorf("%+v", found)
	}
	if table.count() != 1 {
		t.Errorf("%d routes", table.count())
	}
	table.forgetAll()
	if table.count() != 0 {
		t.Errorf("%d routes", table.count())
	}
}

func TestOneThatIsForgottenAgainAndAgainIsNotFound(t *testing.T) {
	limits := testLimits()
	server := &blockingAsk{arrived: make(chan context.Context), answers: make(chan answer)}
	table := newRoutes(server.ask, netip.MustParsePrefix("127.0.0.0/8"), &limits, NewLog(testWriter{t}, limits))
	got := make(chan error, 1)
	go func() {
		_, err := table.get(context.Background(), someID)
		got <- err
	}()
	for range mostLookups {
		within(t, "a question", server.arrived)
		table.forget(someID)
		server.answers <- answer{address: netip.MustParseAddr("127.0.0.1"), status: statusRunning}
	}

	if err := within(t, "an answer", got); !errors.Is(err, errNotFound) {
		t.Error(err)
	}
}

func TestForgettingWhileEverythingHappens(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 100_000)) })

	stop := make(chan struct{})
	var working sync.WaitGroup
	for range 8 {
		working.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
				if err == nil {
					response.Body.Close()
				}
			}
		})
	}
	for range 200 {
		h.forget(s.id)
	}
	close(stop)
	working.Wait()
	h.control.remove(s.id)
	h.forget(s.id)

	if status, body := s.get("/", 3000); status != http.StatusBadGateway {
		t.Errorf("%d %s", status, body)
	}
	if count := h.edge.routes.count(); count != 0 {
		t.Errorf("%d routes", count)
	}
}

func TestKnownRoutesServeWhileTheServerIsAway(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	s.get("/", 3000)

	h.stopControl()

	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestAnUnknownRouteWaitsForTheServer(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	h.stopControl()
	time.AfterFunc(300*time.Millisecond, h.startControl)

	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestAnUnknownRouteWaitsNotForEver(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.ServerAway = 200 * time.Millisecond })
	s := h.newSandbox()
	h.stopControl()

	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
		t.Errorf("%s %v", response.Status, response.Header)
	}
}

func TestARefusalToWakeIsAnsweredAtOnce(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	for _, one := range []struct {
		said, status int
		code         string
	}{
		{http.StatusTooManyRequests, http.StatusTooManyRequests, "resource_exhausted"},
		{http.StatusForbidden, http.StatusForbidden, "permission_denied"},
		// To clients 409 says that it is in transition, or that a directory exists.
		{http.StatusConflict, http.StatusForbidden, "failed_precondition"},
		{http.StatusInsufficientStorage, http.StatusInsufficientStorage, "resource_exhausted"},
		{http.StatusGatewayTimeout, http.StatusGatewayTimeout, "deadline_exceeded"},
		{http.StatusInternalServerError, http.StatusInternalServerError, "internal"},
	} {
		h.control.refuse(s.id, one.said, `{"code":"`+one.code+`","message":"not <now>"}`)
		asked := h.control.asked.Load()

		response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()

		var told problem
		if err := json.Unmarshal(body, &told); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != one.status || told.Code != one.status || told.SandboxID != s.id || told.Message != "not <now>" {
			t.Errorf("%d: %s %s", one.said, response.Status, body)
		}
		if hint := response.Header.Get("Should-Retry"); hint != "false" {
			t.Errorf("%d: Should-Retry %q", one.said, hint)
		}
		if questions := h.control.asked.Load() - asked; questions != 1 {
			t.Errorf("%d: asked %d times", one.said, questions)
		}
	}
}

func TestARefusalIsNotRemembered(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	h.control.refuse(s.id, http.StatusTooManyRequests, `{"message":"too many"}`)
	if status, body := s.get("/", 3000); status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, body)
	}

	h.control.set(s.id, s.address, "running")

	if status, body := s.get("/", 3000); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestWhatTheServerCannotDoNowIsTriedAgain(t *testing.T) {
	h := newHome(t)
	s := h.newSandbox()
	s.serve(3000, func(w http.ResponseWriter, _ *http.Request) {})
	h.control.refuse(s.id, http.StatusServiceUnavailable, `{"code":"unavailable","message":"the server is starting"}`)
	answered := make(chan int, 1)
	go func() {
		status, _ := s.get("/", 3000)
		answered <- status
	}()
	eventually(t, "the server is asked again", func() bool { return h.control.asked.Load() > 1 })

	h.control.set(s.id, s.address, "running")

	if status := within(t, "an answer", answered); status != http.StatusOK {
		t.Error(status)
	}
}

func TestWhyTheServerCannotIsToldInItsWords(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.ServerAway = 50 * time.Millisecond })
	s := h.newSandbox()
	h.control.refuse(s.id, http.StatusServiceUnavailable, `{"code":"unavailable","message":"its machine ended"}`)

	response, err := h.client.Do(s.request(http.MethodGet, "/", 3000, nil))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()

	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" ||
		response.Header.Get("Should-Retry") != "" || !strings.Contains(string(body), `"message":"its machine ended"`) {
		t.Errorf("%s %v %s", response.Status, response.Header, body)
	}
}

func TestARouteStaysWhereTheServerFailsWhenAskedAgain(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.RouteCheck = 0 })
	s := h.newSandbox()
	stop := s.serve(daemonPort, func(w http.ResponseWriter, _ *http.Request) {})
	s.get("/health", daemonPort)
	stop()

	h.control.refuse(s.id, http.StatusInternalServerError, `{"code":"internal","message":"our fault"}`)
	if status, body := s.get("/health", daemonPort); status != http.StatusBadGateway || !strings.Contains(body, "port is not open") {
		t.Errorf("%d %s", status, body)
	}
	if count := h.edge.routes.count(); count != 1 {
		t.Errorf("%d routes", count)
	}
	h.control.refuse(s.id, http.StatusTooManyRequests, `{"code":"resource_exhausted","message":"too many"}`)
	if status, body := s.get("/health", daemonPort); status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, body)
	}
	if count := h.edge.routes.count(); count != 0 {
		t.Errorf("%d routes", count)
	}
}

func TestADeadSandboxThatTheServerNoLongerKnowsIsForgotten(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.RouteCheck = 0 })
	s := h.newSandbox()
	stop := s.serve(daemonPort, func(w http.ResponseWriter, _ *http.Request) {})
	s.get("/health", daemonPort)
	stop()

	// Still known: then it runs, and its daemon does not answer.
	if status, body := s.get("/health", daemonPort); status != http.StatusBadGateway ||
		body != `{"sandboxId":"`+s.id+`","message":"The sandbox is running but port is not open","port":49983,"code":502}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if suspected := h.control.suspected.Load(); suspected != 1 {
		t.Errorf("the server was told %d times", suspected)
	}
	h.control.remove(s.id)
	if status, body := s.get("/health", daemonPort); status != http.StatusBadGateway ||
		body != `{"sandboxId":"`+s.id+`","message":"The sandbox was not found","code":502}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if count := h.edge.routes.count(); count != 0 {
		t.Errorf("%d routes", count)
	}
}

func TestASandboxThatMovedIsFoundAgainWithoutTheClientNoticing(t *testing.T) {
	h := newHome(t, func(c *Config) { c.Limits.RouteCheck = 0 })
	s := h.newSandbox()
	stop := s.serve(daemonPort, func(w http.ResponseWriter, _ *http.Request) {})
	s.get("/health", daemonPort)
	stop()
	moved := h.newSandbox()
	moved.serve(daemonPort, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("moved")) })
	h.control.set(s.id, moved.address, "running")

	if status, body := s.get("/health", daemonPort); status != http.StatusOK || body != "moved" {
		t.Errorf("%d %s", status, body)
	}
}
