package commands

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/limits"
)

// Groups keeps each command in a cgroup of its own, below one that bounds them all together.
// A process cannot leave its cgroup by a session, a second fork or a changed name, so killing the cgroup
// ends a command with everything it started. guestd itself stays outside.
type Groups struct {
	dir  *os.Root // held open: a guest that unmounts the hierarchy changes nothing for us
	path string   // of dir inside the hierarchy, "/atoll"

	mu        sync.Mutex
	next      uint64
	share     uint32              // processes of one command; 0: not bounded
	leftovers map[string]struct{} // of commands that ended and left somebody running
	spare     *Group              // made when there was time, for the next command
	closed    bool
}

// NewGroups uses the cgroup2 hierarchy at one of the mounts, or mounts one at the last of them.
// name is the directory to make in it.
func NewGroups(name string, mounts ...string) (*Groups, error) {
	hierarchy, err := findHierarchy(mounts)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(hierarchy, name)
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("no cgroup for commands: %w", err)
	}
	enablePids(hierarchy, path)
	_ = os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+pids"), 0) // SetMax says if it is missing.
	dir, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("no cgroup for commands: %w", err)
	}
	return &Groups{dir: dir, path: "/" + name, leftovers: map[string]struct{}{}}, nil
}

func findHierarchy(mounts []string) (string, error) {
	for _, mount := range mounts {
		var stat unix.Statfs_t
		if err := unix.Statfs(mount, &stat); err == nil && int64(stat.Type) == unix.CGROUP2_SUPER_MAGIC {
			return mount, nil
		}
	}
	last := mounts[len(mounts)-1]
	if err := os.MkdirAll(last, 0o700); err != nil {
		return "", fmt.Errorf("no place for a cgroup hierarchy: %w", err)
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("cgroup2", last, "cgroup2", flags, ""); err != nil {
		return "", fmt.Errorf("cgroup v2 is needed (gVisor: --in-sandbox-cgroup=v2) and cannot be mounted: %w", err)
	}
	return last, nil
}

// enablePids gives path a pids controller where the hierarchy has one. A hierarchy that we see only a part of does
// not let its top have both processes and controlled children: then we move to a leaf of our own first.
func enablePids(hierarchy, path string) {
	limit := filepath.Join(path, "pids.max")
	enable := func() bool {
		_ = os.WriteFile(filepath.Join(hierarchy, "cgroup.subtree_control"), []byte("+pids"), 0)
		_, err := os.Stat(limit)
		return err == nil
	}
	controllers, _ := os.ReadFile(filepath.Join(hierarchy, "cgroup.controllers"))
	if !slices.Contains(strings.Fields(string(controllers)), "pids") {
		return // SetMax says so to who wants a limit.
	}
	if _, err := os.Stat(limit); err == nil || enable() {
		return
	}
	leaf := filepath.Join(hierarchy, filepath.Base(path)+"-guestd")
	if os.Mkdir(leaf, 0o755) == nil && os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0) == nil {
		enable()
	}
}

// SetMax bounds the processes and threads of all commands together; 0 lifts the bound.
// One command, from now on, gets less than all: a fork bomb leaves room for the command that looks at it.
func (g *Groups) SetMax(processes uint32) error {
	value := "max"
	if processes > 0 {
		value = strconv.FormatUint(uint64(processes), 10)
	}
	err := writeControl(g.dir, "pids.max", value)
	if processes == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("processes cannot be limited here: %w", err)
	}
	g.mu.Lock()
	g.share = processes - min(processes/limits.ProcessReserve, processes)
	g.mu.Unlock()
	g.dropSpare()
	g.Prepare()
	return nil
}

func writeControl(dir *os.Root, name, value string) error {
	f, err := dir.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// New returns an empty group.
func (g *Groups) New() (*Group, error) {
	g.mu.Lock()
	spare := g.spare
	g.spare = nil
	g.mu.Unlock()
	if spare != nil {
		return spare, nil
	}
	return g.make()
}

// Prepare makes the group of the next command, so that its start does not have to.
func (g *Groups) Prepare() {
	g.mu.Lock()
	needless := g.spare != nil || g.closed
	g.mu.Unlock()
	if needless {
		return
	}
	group, err := g.make()
	if err != nil {
		return // The next start will say why.
	}
	g.mu.Lock()
	unwanted := g.spare
	if g.spare = group; g.closed {
		g.spare, unwanted = nil, group
	}
	g.mu.Unlock()
	if unwanted != nil {
		unwanted.Close()
	}
}

// Close removes what is empty. Commands that run go on; no group is prepared any more.
func (g *Groups) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.dropSpare()
	g.Sweep()
}

// dropSpare removes a group that was made under another limit.
func (g *Groups) dropSpare() {
	g.mu.Lock()
	spare := g.spare
	g.spare = nil
	g.mu.Unlock()
	if spare != nil {
		spare.Close()
	}
}

func (g *Groups) make() (*Group, error) {
	g.mu.Lock()
	g.next++
	name, share := "c"+strconv.FormatUint(g.next, 10), g.share
	g.mu.Unlock()
	if err := g.dir.Mkdir(name, 0o755); err != nil {
		return nil, err
	}
	dir, err := g.dir.Open(name)
	if err == nil && share > 0 {
		err = writeControl(g.dir, name+"/pids.max", strconv.FormatUint(uint64(share), 10))
	}
	if err != nil {
		_ = g.dir.Remove(name)
		return nil, err
	}
	return &Group{all: g, name: name, dir: dir}, nil
}

// reuse keeps the group of a command that ended for the next one, under the limit that a new one would have.
// It reports whether it does: not if somebody runs there still, or if there is one already.
func (g *Groups) reuse(name string, dir *os.File) bool {
	count, err := g.dir.ReadFile(name + "/pids.current")
	if err != nil || strings.TrimSpace(string(count)) != "0" {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.spare != nil || g.closed || g.share == 0 {
		return false
	}
	// A command that was root may have set it lower.
	if writeControl(g.dir, name+"/pids.max", strconv.FormatUint(uint64(g.share), 10)) != nil {
		return false
	}
	g.spare = &Group{all: g, name: name, dir: dir}
	return true
}

func (g *Groups) remove(name string) bool {
	err := g.dir.Remove(name)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// Sweep removes the groups of ended commands whose last process has ended since.
func (g *Groups) Sweep() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.leftovers {
		if g.remove(name) {
			delete(g.leftovers, name)
		}
	}
}

// Of returns the name of the group that the process belongs to, "" when it is nobody's.
func (g *Groups) Of(pid int) string {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(content)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		// Commands may make groups below their own.
		if rest, ok := strings.CutPrefix(path, g.path+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			return name
		}
	}
	return ""
}
