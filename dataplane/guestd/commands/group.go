package commands

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/limits"
)

// Group is the cgroup of one command.
type Group struct {
	all  *Groups
	name string
	dir  *os.File

	mu       sync.Mutex
	passedOn bool // to another command: its processes are none of ours
}

// Name is the group's directory, its own among the commands that run.
func (g *Group) Name() string { return g.name }

// FD is what clone3 takes to start a process in the group.
func (g *Group) FD() int { return int(g.dir.Fd()) }

// Kill ends every process of the group and returns when none is left.
// The kernel kills a whole tree at once, forks under way included; what is waited for is their end.
func (g *Group) Kill() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.passedOn {
		return nil
	}
	for try := range limits.KillTries {
		if err := writeControl(g.all.dir, g.name+"/cgroup.kill", "1"); err != nil {
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // The group is gone, so nobody is in it.
			}
			return err
		}
		members, err := g.all.dir.ReadFile(g.name + "/cgroup.procs")
		if err != nil || len(members) == 0 {
			return nil
		}
		time.Sleep(min(time.Duration(try+1)*limits.KillPause, limits.KillPauseMost))
	}
	return errors.New("processes do not end after SIGKILL")
}

// Close gives the group back: to the next command when it is empty, which costs a third of making one,
// and to Sweep when a command left somebody running in it.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.passedOn = g.all.reuse(g.name, g.dir); g.passedOn {
		return
	}
	_ = g.dir.Close()
	if g.all.remove(g.name) {
		return
	}
	g.all.mu.Lock()
	defer g.all.mu.Unlock()
	g.all.leftovers[g.name] = struct{}{}
}

// Inhabited reports whether somebody runs in the group of a command that has ended. An empty one is removed.
func (g *Group) Inhabited() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.passedOn && !g.all.remove(g.name)
}
