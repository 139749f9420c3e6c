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
	"syscall"
	"time"

	"github.com/creack/pty"

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

// streams are a command's ends of its files, and ours.
type streams struct {
	child   [3]*os.File
	input   *os.File
	outputs []*os.File // stdout and stderr, or the terminal
	tty     *os.File
}

func (s *streams) closeChild() {
	for _, f := range s.child {
		if f != nil {
			_ = f.Close()
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
	if spec.Size != nil {
		return openTerminal(spec)
	}
	s := &streams{}
	if err := s.openPipes(spec.Stdin); err != nil {
		s.closeAll()
		return nil, err
	}
	return s, nil
}

func (s *streams) openPipes(stdin bool) (err error) {
	if stdin {
		s.child[0], s.input, err = os.Pipe()
	} else {
		s.child[0], err = os.Open(os.DevNull)
	}
	for i := 1; i < len(s.child) && err == nil; i++ {
		var ours *os.File
		if ours, s.child[i], err = os.Pipe(); err == nil {
			s.outputs = append(s.outputs, ours)
		}
	}
	return err
}

func openTerminal(spec *Spec) (*streams, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, err
	}
	s := &streams{child: [3]*os.File{tty, nil, nil}, input: master, outputs: []*os.File{master}, tty: master}
	// Programs open their terminal by name (ssh, gpg, tmux): it has to be the user's.
	if err := errors.Join(pty.Setsize(master, spec.Size), tty.Chown(int(spec.User.UID), -1), tty.Chmod(0o620)); err != nil {
		s.closeAll()
		return nil, err
	}
	return s, nil
}

// files are the child's descriptors 0, 1 and 2. Fd makes each of them blocking, as programs expect theirs.
func (s *streams) files() []uintptr {
	if s.tty != nil {
		fd := s.child[0].Fd()
		return []uintptr{fd, fd, fd}
	}
	return []uintptr{s.child[0].Fd(), s.child[1].Fd(), s.child[2].Fd()}
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
