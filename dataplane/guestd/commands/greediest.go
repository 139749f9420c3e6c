package commands

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/journal"
)

// Victim is a process that was killed for its memory.
type Victim struct {
	PID      int
	Command  string
	Resident uint64 // bytes
}

// mostVictims bounds one call: who asks looks at the memory between two.
const mostVictims = 64

// KillGreediest kills the process that holds most memory, then the next, until those killed held excess bytes; never
// guestd. One at a time would not do: ten that are greedy at once take memory faster than a call frees it.
// Those killed before that still hold theirs count for the excess, and are not killed again: an end takes its time.
// The command it belonged to says so in its end. Those that were killed are returned with an error too.
func (t *Table) KillGreediest(excess uint64) ([]*Victim, error) {
	candidates, err := greediest("/proc", os.Getpid())
	if err != nil {
		return nil, err
	}
	return t.killUntil(candidates, excess)
}

func (t *Table) killUntil(candidates []*Victim, excess uint64) ([]*Victim, error) {
	alive, held := t.dying.sort(candidates)
	var killed []*Victim
	var failed error
	for _, victim := range alive {
		if len(killed) == mostVictims || held >= max(excess, 1) {
			break
		}
		switch err := t.killForMemory(victim); {
		case errors.Is(err, errGone):
		case err != nil:
			failed = err
		default:
			killed = append(killed, victim)
			t.dying.add(victim.PID)
			held += victim.Resident
		}
	}
	return killed, failed
}

// dyingFor bounds how long a killed process is waited for: its number may be another's by then.
const dyingFor = 2 * time.Second

// dying are the processes that were killed for memory and may not have ended yet.
type dying struct {
	mu     sync.Mutex
	killed map[int]time.Time
}

func (d *dying) add(pid int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.killed == nil {
		d.killed = make(map[int]time.Time)
	}
	d.killed[pid] = time.Now()
}

// sort returns those that were not killed yet, and how many bytes the others still hold.
func (d *dying) sort(candidates []*Victim) (alive []*Victim, held uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.killed, func(_ int, at time.Time) bool { return time.Since(at) > dyingFor })
	for _, victim := range candidates {
		if _, ok := d.killed[victim.PID]; ok {
			held += victim.Resident
		} else {
			alive = append(alive, victim)
		}
	}
	return alive, held
}

// errGone says that a process ended by itself.
var errGone = errors.New("gone")

func (t *Table) killForMemory(victim *Victim) error {
	// The pid may have gone to somebody else since: the descriptor is of who has it now, and is asked again.
	fd, err := unix.PidfdOpen(victim.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", victim.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if now, err := resident("/proc", victim.PID); err != nil || now == 0 {
		return errGone
	}
	victim.Command = commandName(victim.PID)
	// Noted before: the end may be told before we get to run again.
	t.markKilled(t.groups.Of(victim.PID), victim.reason())
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return errGone
		}
		return fmt.Errorf("process %d: %w", victim.PID, err)
	}
	t.events.Add(journal.Warn, "process killed: the sandbox was out of memory", logger,
		journal.Field{Name: "pid", Value: victim.PID}, journal.Field{Name: "command", Value: victim.Command},
		journal.Field{Name: "resident_bytes", Value: victim.Resident})
	return nil
}

func (v *Victim) reason() string {
	return fmt.Sprintf("killed: out of memory (%s, pid %d, held %d MiB)", v.Command, v.PID, v.Resident>>20)
}

// greediest lists the processes that hold memory, the greediest first.
func greediest(proc string, self int) ([]*Victim, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var candidates []*Victim
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == self || pid == 1 {
			continue
		}
		if bytes, err := resident(proc, pid); err == nil && bytes > 0 {
			candidates = append(candidates, &Victim{PID: pid, Resident: bytes})
		}
	}
	slices.SortFunc(candidates, func(a, b *Victim) int { return cmp.Compare(b.Resident, a.Resident) })
	return candidates, nil
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
