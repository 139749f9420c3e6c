package commands

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/journal"
)

// Victim is a process that was killed for its memory.
type Victim struct {
	PID      int
	Command  string
	Resident uint64 // bytes
}

// ErrNothingToKill says that no process but guestd holds memory.
var ErrNothingToKill = errors.New("nothing to kill")

// KillGreediest kills the process that holds most memory, never guestd.
// The command it belonged to says so in its end.
func (t *Table) KillGreediest() (*Victim, error) {
	victim, err := greediest("/proc", os.Getpid())
	if err != nil {
		return nil, err
	}
	// The pid may have gone to somebody else since: the descriptor is of who has it now, and is asked again.
	fd, err := unix.PidfdOpen(victim.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", victim.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := resident("/proc", victim.PID); err != nil || now == 0 {
		return nil, ErrNothingToKill
	}
	victim.Command = commandName(victim.PID)
	// Noted before: the end may be told before we get to run again.
	t.markKilled(t.groups.Of(victim.PID), victim.reason())
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return nil, fmt.Errorf("process %d: %w", victim.PID, err)
	}
	t.events.Add(journal.Warn, "process killed: the sandbox was out of memory", logger,
		journal.Field{Name: "pid", Value: victim.PID}, journal.Field{Name: "command", Value: victim.Command},
		journal.Field{Name: "resident_bytes", Value: victim.Resident})
	return victim, nil
}

func (v *Victim) reason() string {
	return fmt.Sprintf("killed: out of memory (%s, pid %d, held %d MiB)", v.Command, v.PID, v.Resident>>20)
}

func greediest(proc string, self int) (*Victim, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	worst := &Victim{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == self || pid == 1 {
			continue
		}
		if bytes, err := resident(proc, pid); err == nil && bytes > worst.Resident {
			worst.PID, worst.Resident = pid, bytes
		}
	}
	if worst.PID == 0 {
		return nil, ErrNothingToKill
	}
	return worst, nil
}

// resident returns the bytes that a process has in memory, as /proc/PID/statm counts them.
func resident(proc string, pid int) (uint64, error) {
	content, err := os.ReadFile(fmt.Sprintf("%s/%d/statm", proc, pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0, fs.ErrInvalid
	}
	pages, err := strconv.ParseUint(fields[1], 10, 40)
	if err != nil {
		return 0, err
	}
	return pages * uint64(os.Getpagesize()), nil
}

func commandName(pid int) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "?"
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(content)), "?")
}
