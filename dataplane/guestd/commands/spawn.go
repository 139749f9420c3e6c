package commands

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/internal/gen/process"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Spec is what a caller wants to run. It has been checked.
type Spec struct {
	Config  *process.ProcessConfig // as the caller sent it; List shows it
	Env     map[string]string
	Dir     string // absolute
	User    *accounts.User
	Tag     *string
	Stdin   bool
	Size    *pty.Winsize  // of its terminal; nil: no terminal
	Timeout time.Duration // 0: none
}

// end is the command's end of a file: a bare descriptor, because nobody here reads or writes it.
type end struct {
	fd     int
	shared bool // with other commands; stays open
}

// streams are a command's ends of its files, and ours.
type streams struct {
	child   []end // descriptors 0, 1 and 2 of the command
	input   *os.File
	outputs []*os.File // stdout and stderr, or the terminal
	tty     *os.File
}

func (s *streams) closeChild() {
	for _, theirs := range s.child {
		if !theirs.shared {
			_ = unix.Close(theirs.fd)
		}
	}
}

func (s *streams) closeAll() {
	s.closeChild()
	if s.input != nil {
		_ = s.input.Close()
	}
	for _, f := range s.outputs {
		_ = f.Close()
	}
}

func openStreams(spec *Spec) (*streams, error) {
	s := &streams{}
	err := s.open(spec)
	if err != nil {
		s.closeAll()
		return nil, err
	}
	return s, nil
}

func (s *streams) open(spec *Spec) error {
	if spec.Size != nil {
		return s.openTerminal(spec)
	}
	if err := s.openInput(spec.Stdin); err != nil {
		return err
	}
	for _, name := range []string{"stdout", "stderr"} {
		ours, theirs, err := pipe()
		if err != nil {
			return err
		}
		s.child = append(s.child, end{fd: theirs})
		s.outputs = append(s.outputs, own(ours, name))
	}
	return nil
}

// nullInput is the input of every command that gets none: one for all, held open.
var nullInput struct {
	sync.Mutex
	fd int // 0: not opened yet; it cannot be 0, which Ready takes
}

func (s *streams) openInput(wanted bool) error {
	if wanted {
		theirs, ours, err := pipe()
		if err != nil {
			return err
		}
		s.child = append(s.child, end{fd: theirs})
		s.input = own(ours, "stdin")
		return nil
	}
	nullInput.Lock()
	defer nullInput.Unlock()
	if nullInput.fd == 0 {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: os.DevNull, Err: err}
		}
		nullInput.fd = fd
	}
	s.child = append(s.child, end{fd: nullInput.fd, shared: true})
	return nil
}

// pipe makes one whose ends are blocking, as programs expect theirs. os.Pipe would register both ends with the
// poller and take the command's out again: ten calls more, and two threads woken for nothing.
func pipe() (read, write int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, os.NewSyscallError("pipe2", err)
	}
	return ends[0], ends[1], nil
}

// own makes our end of a pipe a file whose reads and writes can be given up.
func own(fd int, name string) *os.File {
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK) // Of an open pipe it does not fail.
	return os.NewFile(uintptr(fd), name)
}

func (s *streams) openTerminal(spec *Spec) error {
	master, tty, err := pty.Open()
	if err != nil {
		return err
	}
	defer tty.Close()
	s.input, s.outputs, s.tty = master, []*os.File{master}, master
	for range 3 {
		fd, err := unix.FcntlInt(tty.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		s.child = append(s.child, end{fd: fd})
	}
	// Programs open their terminal by name (ssh, gpg, tmux): it has to be the user's.
	return errors.Join(pty.Setsize(master, spec.Size), tty.Chown(int(spec.User.UID), -1), tty.Chmod(0o620))
}

// files are the child's descriptors 0, 1 and 2.
func (s *streams) files() []uintptr {
	files := make([]uintptr, 0, len(s.child))
	for _, theirs := range s.child {
		files = append(files, uintptr(theirs.fd))
	}
	return files
}

func attributes(spec *Spec, s *streams, group *Group) *syscall.ProcAttr {
	return &syscall.ProcAttr{
		Dir:   spec.Dir,
		Env:   environ(spec.Env),
		Files: s.files(),
		Sys: &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: spec.User.UID, Gid: spec.User.GID, Groups: spec.User.Groups},
			Setsid:      true,
			Setctty:     s.tty != nil,
			UseCgroupFD: true,
			CgroupFD:    group.FD(),
		},
	}
}

func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, key := range slices.Sorted(maps.Keys(env)) {
		list = append(list, key+"="+env[key])
	}
	return list
}

// findProgram looks a name without a slash up in the command's own PATH.
// A name with one is taken from the command's directory, as a shell would.
func findProgram(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, entry := range filepath.SplitList(path) {
		if entry == "" {
			entry = "."
		}
		if !filepath.IsAbs(entry) {
			entry = filepath.Join(dir, entry)
		}
		candidate := filepath.Join(entry, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("%w in PATH", os.ErrNotExist)
}
