package guestd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/limits"
	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

// launchTag is how clients find the start command among the others, as they do elsewhere.
const launchTag = "startCmd"

// Launch runs the template's start command, and answers when its probe ends with 0.
// The command runs on whatever happens to the call: the host ends a sandbox that did not get ready.
func (g *guestService) Launch(ctx context.Context, req *connect.Request[guestv1.LaunchRequest]) (*connect.Response[guestv1.LaunchResponse], error) {
	timeout := time.Duration(req.Msg.GetTimeoutSeconds()) * time.Second
	if err := checkLaunch(req.Msg, timeout); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	current := g.server.settings.Get()
	if current == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the sandbox has not been configured yet"))
	}
	who, err := caller(current, "")
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	if err := g.endLaunched(); err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("the start command that runs: %w", err))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	service, err := follow(g.server.table, who, req.Msg.GetCommand(), launchTag, 0)
	if err != nil {
		return nil, fmt.Errorf("start command: %w", err)
	}
	defer service.leave()
	g.mu.Lock()
	g.launched = service.command
	g.mu.Unlock()
	if err := g.awaitReady(ctx, who, req.Msg.GetReady(), service); err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.LaunchResponse{}), nil
}

// endLaunched ends the start command that was launched before, with all that it left running; a no-op without one.
func (g *guestService) endLaunched() error {
	g.mu.Lock()
	earlier := g.launched
	g.launched = nil
	g.mu.Unlock()
	if earlier == nil {
		return nil
	}
	return earlier.Kill()
}

func checkLaunch(m *guestv1.LaunchRequest, timeout time.Duration) error {
	if timeout <= 0 || timeout > limits.LaunchTimeout {
		return fmt.Errorf("timeout_seconds is from 1 to %d", limits.LaunchTimeout/time.Second)
	}
	for _, line := range []string{m.GetCommand(), m.GetReady()} {
		if line == "" || len(line) > limits.LaunchCommandBytes || strings.ContainsRune(line, 0) {
			return fmt.Errorf("command and ready are from 1 to %d bytes without NUL", limits.LaunchCommandBytes)
		}
	}
	return nil
}

// awaitReady probes until a probe succeeds, the service fails or ctx ends.
func (g *guestService) awaitReady(ctx context.Context, who *accounts.Caller, line string, service *followed) error {
	said := ""
	for pause := limits.LaunchPause; ; pause = min(2*pause, limits.LaunchPauseMost) {
		probe, err := follow(g.server.table, who, line, "", time.Until(deadline(ctx)))
		if err != nil {
			return fmt.Errorf("readiness probe: %w", err)
		}
		select {
		case <-probe.ended:
		case <-service.failed:
		case <-ctx.Done():
		}
		probe.leave()
		if probe.succeeded() {
			return nil
		}
		if output := probe.output(); output != "" {
			said = output
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-service.failed:
			timer.Stop()
			return connect.NewError(connect.CodeFailedPrecondition,
				fmt.Errorf("the template's start command ended (%s): %s", service.status(), service.output()))
		case <-ctx.Done():
			timer.Stop()
			return connect.NewError(connect.CodeDeadlineExceeded,
				fmt.Errorf("the template's start command was not ready in time; it said: %s; its probe: %s", service.output(), said))
		}
	}
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline() // Launch sets one.
	return at
}

// followed is a command whose end, and the end of whose output, somebody waits for.
type followed struct {
	command *commands.Command

	sub    *commands.Subscription
	ended  chan struct{} // closed at its end
	failed chan struct{} // closed at its end, unless that was a success

	mu   sync.Mutex
	tail []byte
	code int32
	how  string
}

// follow starts a shell's line and reads what it says until it ends, or until leave.
func follow(table *commands.Table, who *accounts.Caller, line, tag string, timeout time.Duration) (*followed, error) {
	spec, err := commands.ShellSpec(who, line, tag, timeout)
	if err != nil {
		return nil, err
	}
	command, sub, err := table.Start(spec, func() {})
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	f := &followed{command: command, sub: sub, ended: make(chan struct{}), failed: make(chan struct{})}
	go f.read()
	return f, nil
}

func (f *followed) read() {
	for {
		select {
		case event := <-f.sub.Events():
			data := event.GetData()
			f.keep(data.GetStdout())
			f.keep(data.GetStderr())
			if end := event.GetEnd(); end != nil {
				f.finish(end.GetExitCode(), end.GetStatus())
				return
			}
		case <-f.sub.Left():
			return
		}
	}
}

func (f *followed) keep(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail = append(f.tail, data...)
	if over := len(f.tail) - limits.LaunchOutput; over > 0 {
		f.tail = append(f.tail[:0], f.tail[over:]...)
	}
}

func (f *followed) finish(code int32, how string) {
	f.mu.Lock()
	f.code, f.how = code, how
	f.mu.Unlock()
	close(f.ended)
	if code != 0 {
		close(f.failed)
	}
}

func (f *followed) leave() { f.sub.Leave() }

func (f *followed) succeeded() bool {
	select {
	case <-f.ended:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.code == 0
	default:
		return false
	}
}

func (f *followed) status() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.how
}

func (f *followed) output() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(f.tail)), "?")
}
