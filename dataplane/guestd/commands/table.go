// Package commands runs commands for callers: it starts them as a user, carries their input and output,
// ends them with all their descendants, and serves E2B's process service over all that.
//
// One goroutine per output reads the pipe and hands chunks to the readers (fanout.go has the policy), one per command
// waits for its end. Nothing here wakes up while commands are silent.
package commands

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// Table knows the commands that run, and for a while those that ended.
type Table struct {
	reaper *Reaper
	groups *Groups
	events *journal.Journal
	recent recent
	dying  dying

	mu       sync.Mutex
	starting int
	running  []*Command // in the order of their start
	retained []*Command // in the order of their end
}

// NewTable returns an empty one, which tells events of its commands' lives.
func NewTable(reaper *Reaper, groups *Groups, events *journal.Journal) *Table {
	return &Table{reaper: reaper, groups: groups, events: events}
}

// BusyError says that no more commands can be started now.
type BusyError struct{ Reason string }

func (e *BusyError) Error() string { return e.Reason }

// StartError says why a program could not be started; it is the caller's to mend.
type StartError struct {
	Program string
	Reason  error
}

func (e *StartError) Error() string {
	program := e.Program
	if len(program) > limits.ToldBytes {
		program = strings.ToValidUTF8(program[:limits.ToldBytes], "") + "…"
	}
	return fmt.Sprintf("error starting process '%s': %s", program, e.Reason)
}

func (e *StartError) Unwrap() error { return e.Reason }

// Start runs a command; the subscription gets every event of it.
// Errors: *StartError, *BusyError, anything else is internal.
func (t *Table) Start(spec *Spec, onCut func()) (*Command, *Subscription, error) {
	if err := t.reserve(); err != nil {
		return nil, nil, err
	}
	c, status, files, err := t.spawn(spec)
	t.mu.Lock()
	t.starting--
	if err == nil {
		t.running = append(t.running, c)
	}
	t.mu.Unlock()
	if err != nil {
		t.tellRefused(spec, err)
		return nil, nil, err
	}
	t.tellStarted(c, spec)
	sub, err := c.Subscribe(false, onCut) // Before the pumps run: the first byte finds its reader.
	c.follow(spec, status, files, func(end *process.ProcessEvent_EndEvent) {
		t.tellEnded(c, end)
		t.retire(c)
	})
	return c, sub, err
}

func (t *Table) reserve() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.running)+t.starting >= limits.Commands {
		return &BusyError{Reason: fmt.Sprintf("%d commands run already, which is the limit", limits.Commands)}
	}
	t.starting++
	return nil
}

func (t *Table) spawn(spec *Spec) (*Command, <-chan syscall.WaitStatus, *streams, error) {
	name := spec.Config.GetCmd()
	program, err := findProgram(name, spec.Dir, spec.Env["PATH"])
	if err != nil {
		return nil, nil, nil, &StartError{Program: name, Reason: err}
	}
	group, err := t.groups.New()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("no cgroup for the command: %w", err)
	}
	files, err := openStreams(spec)
	if err != nil {
		group.Close()
		return nil, nil, nil, fmt.Errorf("no files for the command: %w", err)
	}
	argv := append([]string{name}, spec.Config.GetArgs()...)
	pid, status, err := t.reaper.Start(program, argv, attributes(spec, files, group))
	if err != nil {
		files.closeAll()
		group.Close()
		return nil, nil, nil, classify(name, err)
	}
	files.closeChild()
	c := &Command{
		outputs: fanout{recent: &t.recent},
		pid:     pid, config: spec.Config, tag: spec.Tag, group: group, reaper: t.reaper,
		input: newInput(files.input, files.tty != nil), tty: files.tty, exited: make(chan struct{}),
		started: time.Now(),
	}
	return c, status, files, nil
}

func (c *Command) follow(spec *Spec, status <-chan syscall.WaitStatus, files *streams, onEnd func(*process.ProcessEvent_EndEvent)) {
	c.pumps.Add(len(files.outputs))
	if files.tty != nil {
		go c.pump(files.tty, limits.TerminalChunk, terminalEvent)
	} else {
		go c.pump(files.outputs[0], limits.OutputChunk, stdoutEvent)
		go c.pump(files.outputs[1], limits.OutputChunk, stderrEvent)
	}
	go c.watch(status, spec.Timeout, files.outputs, onEnd)
}

func classify(name string, err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return &BusyError{Reason: fmt.Sprintf("the sandbox cannot start another process (%s): its limit of processes or memory is reached", err)}
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EBUSY):
		return err
	}
	return &StartError{Program: name, Reason: err}
}

// retire moves a command that ended to those that can still be connected to.
func (t *Table) retire(c *Command) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.ended = time.Now()
	t.running = slices.DeleteFunc(t.running, func(other *Command) bool { return other == c })
	t.retained = append(t.retained, c)
	t.expireLocked()
	for len(t.retained) > limits.RetainedCommands {
		t.retained[0].outputs.forget()
		t.retained = slices.Delete(t.retained, 0, 1)
	}
}

// expireLocked forgets who ended too long ago. It runs when somebody asks: an idle guest has no timer for it.
func (t *Table) expireLocked() {
	t.retained = slices.DeleteFunc(t.retained, func(c *Command) bool {
		over := time.Since(c.ended) > limits.Retained
		if over {
			c.outputs.forget()
		}
		return over
	})
}

// List returns the commands that run.
func (t *Table) List() []*process.ProcessInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	infos := make([]*process.ProcessInfo, 0, len(t.running))
	for _, c := range t.running {
		infos = append(infos, &process.ProcessInfo{Config: c.config, Pid: uint32(c.pid), Tag: c.tag})
	}
	return infos
}

// Running finds a command that runs; of several with one tag, the newest.
func (t *Table) Running(matches func(*Command) bool) *Command {
	t.mu.Lock()
	defer t.mu.Unlock()
	return newest(t.running, matches)
}

// RunningOrEnded finds one that ended lately, too.
func (t *Table) RunningOrEnded(matches func(*Command) bool) *Command {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := newest(t.running, matches); c != nil {
		return c
	}
	t.expireLocked()
	return newest(t.retained, matches)
}

func newest(commands []*Command, matches func(*Command) bool) *Command {
	for _, c := range slices.Backward(commands) {
		if matches(c) {
			return c
		}
	}
	return nil
}

// markKilled notes why a process of the group was killed, for the end of its command.
func (t *Table) markKilled(group, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.running {
		if c.group.Name() == group {
			c.killed.Store(&reason)
		}
	}
}
