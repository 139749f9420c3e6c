package guestd

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/signals"
)

// CgroupMounts are where the cgroup2 hierarchy may be; guestd mounts it at the last if it is at none.
var CgroupMounts = []string{"/sys/fs/cgroup", "/run/atoll/cgroup"}

// commandsCgroup is the directory of all commands in the hierarchy.
const commandsCgroup = "atoll"

const (
	// garbagePercent trades a little CPU for a smaller idle guestd: there is one in every sandbox.
	garbagePercent = 100
	// heapSoft makes the collector work harder before guestd takes its sandbox's memory.
	heapSoft = 96 << 20
)

// Boot makes this process fit to be PID 1 and returns what it runs commands with.
func Boot() (*commands.Reaper, *commands.Groups, error) {
	debug.SetGCPercent(garbagePercent)
	debug.SetMemoryLimit(heapSoft)
	signals.Take()
	unix.Umask(0o022)
	if err := os.Chdir("/"); err != nil {
		return nil, nil, err
	}
	// Where we are not PID 1 (tests), orphans come to us all the same.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("orphans cannot be reaped: %w", err)
	}
	groups, err := commands.NewGroups(commandsCgroup, CgroupMounts...)
	if err != nil {
		return nil, nil, err
	}
	return commands.NewReaper(groups.Sweep), groups, nil
}

// Ready tells the runtime that both ports listen, and lets go of the files it gave us.
func Ready(out io.Writer) error {
	if _, err := io.WriteString(out, "ready\n"); err != nil {
		return fmt.Errorf("nobody hears that guestd is ready: %w", err)
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(null, fd, 0); err != nil {
			return err
		}
	}
	return unix.Close(null)
}
