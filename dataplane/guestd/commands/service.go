package commands

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/wire"
	"atoll.dev/dataplane/internal/gen/process"
	"atoll.dev/dataplane/internal/gen/process/processconnect"
)

// TimeoutHeader is where Start's caller says how long the command may run, in milliseconds.
const TimeoutHeader = "Connect-Timeout-Ms"

// StartTimeoutHeader is where guestd keeps it from the RPC library, which would count the time of a pause too.
const StartTimeoutHeader = "Atoll-Start-Timeout-Ms"

// RecentHeader asks Connect for what was printed lately, before what is printed from now on: "true". E2B's clients never
// send it, and get what E2B gives: nothing of the past.
const RecentHeader = "Atoll-Recent-Output"

// What Connect's answer then says: how many bytes of output come from the past, and how many before them are lost.
const (
	recentBytesHeader = "Atoll-Recent-Bytes"
	lostBytesHeader   = "Atoll-Lost-Bytes"
)

// Service serves process.Process.
type Service struct {
	processconnect.UnimplementedProcessHandler
	table *Table
}

// NewService serves the commands of table.
func NewService(table *Table) *Service { return &Service{table: table} }

// List returns the commands that run.
func (s *Service) List(context.Context, *connect.Request[process.ListRequest]) (*connect.Response[process.ListResponse], error) {
	return connect.NewResponse(&process.ListResponse{Processes: s.table.List()}), nil
}

// Start runs a command and streams its events. A client that goes away does not end it; its timeout does.
func (s *Service) Start(ctx context.Context, req *connect.Request[process.StartRequest], stream *connect.ServerStream[process.StartResponse]) error {
	timeout, err := startTimeout(ctx, req.Header())
	if err != nil {
		return err
	}
	spec, err := newSpec(accounts.CallerFrom(ctx), req.Msg, timeout)
	if err != nil {
		return err
	}
	command, sub, err := s.table.Start(spec, abort(ctx))
	if err != nil {
		return startError(err)
	}
	defer sub.Leave()
	send := func(event *process.ProcessEvent) error {
		return stream.Send(&process.StartResponse{Event: event})
	}
	return forward(ctx, command, sub, wire.KeepAlive(req.Header()), send)
}

// Connect streams the events of a command from now on; before them, if the caller asks, what was printed lately.
func (s *Service) Connect(ctx context.Context, req *connect.Request[process.ConnectRequest], stream *connect.ServerStream[process.ConnectResponse]) error {
	matches, err := selector(req.Msg.GetProcess())
	if err != nil {
		return err
	}
	command := s.table.RunningOrEnded(matches)
	if command == nil {
		return notFound(req.Msg.GetProcess())
	}
	again, err := wantsRecent(req.Header())
	if err != nil {
		return err
	}
	sub, err := command.Subscribe(again, abort(ctx))
	if err != nil {
		return connect.NewError(connect.CodeResourceExhausted, err)
	}
	defer sub.Leave()
	if again {
		stream.ResponseHeader().Set(recentBytesHeader, strconv.FormatUint(sub.Recent, 10))
		stream.ResponseHeader().Set(lostBytesHeader, strconv.FormatUint(sub.Lost, 10))
	}
	send := func(event *process.ProcessEvent) error {
		return stream.Send(&process.ConnectResponse{Event: event})
	}
	return forward(ctx, nil, sub, wire.KeepAlive(req.Header()), send)
}

// forward sends events until the end. owned is the command whose timeout is this stream's, nil for none.
func forward(ctx context.Context, owned *Command, sub *Subscription, silence time.Duration, send func(*process.ProcessEvent) error) error {
	if err := sendBacklog(ctx, sub, send); err != nil {
		return err
	}
	timer := time.NewTimer(silence)
	defer timer.Stop()
	for {
		var event *process.ProcessEvent
		select {
		case event = <-sub.Events():
			timer.Reset(silence)
		case <-timer.C:
			event = keepAliveEvent()
			timer.Reset(silence)
		case <-sub.Cut():
			return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("output was not read for %s", limits.SubscriberStall))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if event.GetEnd() != nil && owned != nil && owned.Expired() {
			return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
		}
		if event.GetEnd() != nil {
			endWithNext(ctx)
		}
		if err := send(event); err != nil {
			return err
		}
		if event.GetEnd() != nil {
			return nil
		}
	}
}

// sendBacklog sends what came before the subscription, unless the reader is cut off or goes away meanwhile.
func sendBacklog(ctx context.Context, sub *Subscription, send func(*process.ProcessEvent) error) error {
	for _, event := range sub.Backlog {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := send(event); err != nil {
			return err
		}
	}
	sub.Backlog = nil
	return nil
}

func wantsRecent(header http.Header) (bool, error) {
	switch text := header.Get(RecentHeader); text {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, invalid("%s is neither true nor false", RecentHeader)
	}
}

// startTimeout reads how long the command may run; 0 for ever.
func startTimeout(ctx context.Context, header http.Header) (time.Duration, error) {
	if text := header.Get(StartTimeoutHeader); text != "" {
		ms, err := strconv.ParseUint(text, 10, 63)
		if err != nil || len(text) > 10 { // Connect's own bound: ten digits.
			return 0, invalid("invalid timeout '%s'", text)
		}
		return time.Duration(ms) * time.Millisecond, nil
	}
	if deadline, ok := ctx.Deadline(); ok { // gRPC clients say it otherwise.
		return max(time.Until(deadline), time.Millisecond), nil
	}
	return 0, nil
}

func selector(s *process.ProcessSelector) (func(*Command) bool, error) {
	switch which := s.GetSelector().(type) {
	case *process.ProcessSelector_Pid:
		return func(c *Command) bool { return uint64(c.pid) == uint64(which.Pid) }, nil
	case *process.ProcessSelector_Tag:
		return func(c *Command) bool { return c.tag != nil && *c.tag == which.Tag }, nil
	}
	return nil, invalid("a process is selected by pid or tag")
}

func notFound(s *process.ProcessSelector) error {
	if which, ok := s.GetSelector().(*process.ProcessSelector_Tag); ok {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("process with tag %s not found", which.Tag))
	}
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("process with pid %d not found", s.GetPid()))
}

func (s *Service) running(which *process.ProcessSelector) (*Command, error) {
	matches, err := selector(which)
	if err != nil {
		return nil, err
	}
	command := s.table.Running(matches)
	if command == nil {
		return nil, notFound(which)
	}
	return command, nil
}

// Update resizes a terminal.
func (s *Service) Update(_ context.Context, req *connect.Request[process.UpdateRequest]) (*connect.Response[process.UpdateResponse], error) {
	command, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetPty() != nil {
		size, err := terminalSize(req.Msg.GetPty())
		if err != nil {
			return nil, err
		}
		if err := command.Resize(size); err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("error resizing tty: %w", err))
		}
	}
	return connect.NewResponse(&process.UpdateResponse{}), nil
}

// SendInput writes to a command once.
func (s *Service) SendInput(ctx context.Context, req *connect.Request[process.SendInputRequest]) (*connect.Response[process.SendInputResponse], error) {
	command, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if err := command.send(ctx, req.Msg.GetInput()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&process.SendInputResponse{}), nil
}

// StreamInput writes to a command, many messages on one request; the first selects it.
func (s *Service) StreamInput(ctx context.Context, stream *connect.ClientStream[process.StreamInputRequest]) (*connect.Response[process.StreamInputResponse], error) {
	var command *Command
	for stream.Receive() {
		switch event := stream.Msg().GetEvent().(type) {
		case *process.StreamInputRequest_Start:
			found, err := s.running(event.Start.GetProcess())
			if err != nil {
				return nil, err
			}
			command = found
		case *process.StreamInputRequest_Data:
			if command == nil {
				return nil, invalid("the first message has to be 'start'")
			}
			if err := command.send(ctx, event.Data.GetInput()); err != nil {
				return nil, err
			}
		case *process.StreamInputRequest_Keepalive:
		default:
			return nil, connect.NewError(connect.CodeUnimplemented, errors.New("unknown message"))
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	return connect.NewResponse(&process.StreamInputResponse{}), nil
}

func (c *Command) send(ctx context.Context, message *process.ProcessInput) error {
	var err error
	switch data := message.GetInput().(type) {
	case *process.ProcessInput_Stdin:
		if c.tty != nil {
			return connect.NewError(connect.CodeInternal, errors.New("error writing to stdin: tty assigned to process, use pty input"))
		}
		err = wrapWrite("stdin", c.input.write(ctx, data.Stdin))
	case *process.ProcessInput_Pty:
		if c.tty == nil {
			return connect.NewError(connect.CodeInternal, fmt.Errorf("error writing to tty: %w", errNoTerminal))
		}
		err = wrapWrite("tty", c.input.write(ctx, data.Pty))
	default:
		return connect.NewError(connect.CodeUnimplemented, errors.New("input is neither stdin nor pty"))
	}
	return err
}

func wrapWrite(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return connect.NewError(connect.CodeInternal, fmt.Errorf("error writing to %s: %w", what, err))
}

// SendSignal asks the main process to end, or ends the command with all its descendants.
func (s *Service) SendSignal(_ context.Context, req *connect.Request[process.SendSignalRequest]) (*connect.Response[process.SendSignalResponse], error) {
	command, err := s.signalled(req.Msg)
	if err != nil {
		return nil, err
	}
	switch req.Msg.GetSignal() {
	case process.Signal_SIGNAL_SIGKILL:
		err = command.Kill()
	case process.Signal_SIGNAL_SIGTERM:
		err = command.Terminate()
	default:
		return nil, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("invalid signal: %s", req.Msg.GetSignal()))
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil, notFound(req.Msg.GetProcess())
	}
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("error sending signal: %w", err))
	}
	return connect.NewResponse(&process.SendSignalResponse{}), nil
}

// signalled finds who gets a signal: a command that runs, or for SIGKILL also one that ended and left somebody running.
func (s *Service) signalled(req *process.SendSignalRequest) (*Command, error) {
	command, err := s.running(req.GetProcess())
	if err == nil || req.GetSignal() != process.Signal_SIGNAL_SIGKILL {
		return command, err
	}
	matches, selectErr := selector(req.GetProcess())
	if selectErr != nil {
		return nil, selectErr
	}
	if ended := s.table.RunningOrEnded(matches); ended != nil && ended.group.Inhabited() {
		return ended, nil
	}
	return nil, err
}

// CloseStdin ends a command's standard input.
func (s *Service) CloseStdin(_ context.Context, req *connect.Request[process.CloseStdinRequest]) (*connect.Response[process.CloseStdinResponse], error) {
	command, err := s.running(req.Msg.GetProcess())
	if err != nil {
		return nil, err
	}
	if command.tty != nil {
		return nil, connect.NewError(connect.CodeUnknown, errors.New("cannot close stdin for PTY process: send Ctrl+D (0x04) instead"))
	}
	command.input.close()
	return connect.NewResponse(&process.CloseStdinResponse{}), nil
}
