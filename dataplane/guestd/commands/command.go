package commands

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// Command is one program that a caller started, with everything that descends from it.
type Command struct {
	pid     int
	config  *process.ProcessConfig
	tag     *string
	group   *Group
	reaper  *Reaper
	outputs fanout
	input   input
	started time.Time
	tty     *os.File // the master side; nil without a terminal

	pumps   sync.WaitGroup // output up to the command's end
	exited  chan struct{}  // closed when the main process has been reaped
	expired atomic.Bool    // the timeout ended it
	killed  atomic.Pointer[string]
	ended   time.Time // guarded by the table
}

// PID is the main process'.
func (c *Command) PID() int { return c.pid }

// Expired reports whether the command was ended by its timeout.
func (c *Command) Expired() bool { return c.expired.Load() }

// Subscribe adds a reader: start, if it asks what was printed lately, what is printed from now on, the end.
func (c *Command) Subscribe(again bool, onCut func()) (*Subscription, error) {
	return c.outputs.subscribe(startEvent(c.pid), again, onCut)
}

// Kill ends the command with all its descendants.
func (c *Command) Kill() error { return c.group.Kill() }

// Terminate asks the main process to end.
func (c *Command) Terminate() error { return c.reaper.Signal(c.pid, syscall.SIGTERM) }

// Resize sets the size of the terminal.
func (c *Command) Resize(size *pty.Winsize) error {
	if c.tty == nil {
		return errNoTerminal
	}
	return pty.Setsize(c.tty, size)
}

// watch waits for the command's end. It owns the command's group.
func (c *Command) watch(status <-chan syscall.WaitStatus, timeout time.Duration, readers []*os.File, onEnd func(*process.ProcessEvent_EndEvent)) {
	code := c.await(status, timeout)
	close(c.exited)
	c.input.close()
	// The main process has written all it will. Whoever still holds its pipe gets a moment.
	until := time.Now().Add(limits.OutputDrain)
	for _, f := range readers {
		_ = f.SetReadDeadline(until)
	}
	c.pumps.Wait()
	end := endEvent(code, c.killed.Load())
	onEnd(end.GetEnd())
	c.outputs.finish(end)
	c.group.Close() // After the end was told: nobody waits for this.
	c.group.all.Prepare()
}

// await returns the wait status, and kills everything when the timeout has passed.
// The timeout is counted in steps: time that a paused sandbox did not live through passes at once when it goes on,
// and with it at most one step.
func (c *Command) await(status <-chan syscall.WaitStatus, timeout time.Duration) syscall.WaitStatus {
	if timeout <= 0 {
		return <-status
	}
	step := max(min(timeout/limits.DeadlineSteps, limits.LongestDeadlineStep), time.Millisecond)
	timer := time.NewTimer(min(step, timeout))
	defer timer.Stop()
	for {
		select {
		case code := <-status:
			return code
		case <-timer.C:
		}
		if timeout -= step; timeout > 0 {
			timer.Reset(min(step, timeout))
			continue
		}
		c.expired.Store(true)
		_ = c.Kill() // It cannot fail in a way that waiting for the status would not show.
		return <-status
	}
}

// pump reads one output until its end, or until the command's end and a moment more.
func (c *Command) pump(f *os.File, chunk int, wrap func([]byte) *process.ProcessEvent) {
	err := c.forward(f, chunk, wrap)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.drain(f, chunk, wrap)
		c.pumps.Done()
		// What was left running may go on writing, and must not die of it.
		discard(f)
	} else {
		c.pumps.Done()
	}
	_ = f.Close()
}

// chunks are shared by all pumps: most commands print little, and guestd's heap is small.
var chunks = sync.Pool{New: func() any { return new([limits.OutputChunk]byte) }}

func (c *Command) forward(f *os.File, chunk int, wrap func([]byte) *process.ProcessEvent) error {
	held := chunks.Get().(*[limits.OutputChunk]byte)
	defer chunks.Put(held)
	buffer := held[:chunk]
	for {
		n, err := f.Read(buffer)
		if n > 0 {
			c.outputs.publish(wrap(append([]byte(nil), buffer[:n]...)), n)
		}
		if err != nil {
			return err
		}
	}
}

// drain takes what is in the pipe now without waiting for more: all that the main process wrote is there.
func (c *Command) drain(f *os.File, chunk int, wrap func([]byte) *process.ProcessEvent) {
	if f.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	buffer := make([]byte, chunk)
	for total := 0; total < limits.DrainBytes; {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), buffer)
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		c.outputs.publish(wrap(append([]byte(nil), buffer[:n]...)), n)
		total += n
	}
}

func discard(f *os.File) {
	if f.SetReadDeadline(time.Time{}) != nil {
		return
	}
	buffer := make([]byte, limits.DiscardChunk)
	for {
		if _, err := f.Read(buffer); err != nil {
			return
		}
	}
}
