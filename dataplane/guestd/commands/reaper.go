package commands

import (
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Reaper starts children and takes the exit status of every one, orphans included.
// One place does both under one lock, so that no status is taken by somebody else, and no signal reaches
// a pid that already belongs to another process.
type Reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
	orphan  func()
}

// NewReaper starts reaping. orphan is called, if not nil, after processes that nobody waits for were reaped.
// There is at most one Reaper in a process, and nothing else in it starts children.
func NewReaper(orphan func()) *Reaper {
	r := &Reaper{waiting: map[int]chan syscall.WaitStatus{}, orphan: orphan}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			r.reap()
		}
	}()
	return r
}

// Start runs a program; its wait status arrives on the channel once.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	exited := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = exited
	return pid, exited, nil
}

// Signal sends sig to a child that has not been reaped, os.ErrProcessDone otherwise.
func (r *Reaper) Signal(pid int, sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; !ok {
		return os.ErrProcessDone
	}
	return syscall.Kill(pid, sig)
}

func (r *Reaper) reap() {
	orphans := false
	for r.reapOne(&orphans) {
	}
	if orphans && r.orphan != nil {
		r.orphan()
	}
}

// reapOne takes one status. The lock is given up between two, so that a storm of orphans does not hold up a start.
func (r *Reaper) reapOne(orphans *bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if exited, ok := r.waiting[pid]; ok {
		delete(r.waiting, pid)
		exited <- status
	} else {
		*orphans = true
	}
	return true
}
