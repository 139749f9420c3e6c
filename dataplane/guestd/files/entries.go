// Package files serves the sandbox's files: E2B's filesystem service, its watchers, and the plain HTTP calls that
// carry contents. It works as root for the caller and gives what it makes to the caller's user; contents are copied
// in pieces and never held in memory.
package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

// entry describes what is at path. A symlink has its target's type and mode, and its own size, owner and time.
func entry(path string, names *accounts.Names) (*filesystem.EntryInfo, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	e := &filesystem.EntryInfo{
		Name:         valid(filepath.Base(path)),
		Path:         valid(path),
		Size:         info.Size(),
		ModifiedTime: timestamppb.New(info.ModTime()),
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		e.Owner, e.Group = names.User(stat.Uid), names.Group(stat.Gid)
	}
	shown := info
	if info.Mode()&fs.ModeSymlink != 0 {
		e.SymlinkTarget = proto.String(valid(target(path)))
		if followed, err := os.Stat(path); err == nil {
			shown = followed
		}
	} else if info.Mode().IsRegular() || info.IsDir() {
		e.Metadata = readMetadata(path)
	}
	e.Type, e.Mode, e.Permissions = kind(shown.Mode()), uint32(shown.Mode().Perm()), permissions(shown.Mode())
	return e, nil
}

// valid makes a name that is not UTF-8 one that the wire can carry.
func valid(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

// target is where a symlink leads in the end, or what it says if that does not exist.
func target(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	said, err := os.Readlink(path)
	if err != nil {
		return path
	}
	return said
}

func kind(mode fs.FileMode) filesystem.FileType {
	switch {
	case mode.IsRegular():
		return filesystem.FileType_FILE_TYPE_FILE
	case mode.IsDir():
		return filesystem.FileType_FILE_TYPE_DIRECTORY
	case mode&fs.ModeSymlink != 0:
		return filesystem.FileType_FILE_TYPE_SYMLINK
	}
	return filesystem.FileType_FILE_TYPE_UNSPECIFIED
}

// permissions shows a mode as ls -l does.
func permissions(mode fs.FileMode) string {
	text := []byte("-" + mode.Perm().String()[1:])
	switch mode.Type() {
	case fs.ModeDir:
		text[0] = 'd'
	case fs.ModeSymlink:
		text[0] = 'l'
	case fs.ModeDevice:
		text[0] = 'b'
	case fs.ModeDevice | fs.ModeCharDevice:
		text[0] = 'c'
	case fs.ModeNamedPipe:
		text[0] = 'p'
	case fs.ModeSocket:
		text[0] = 's'
	}
	special := func(bit fs.FileMode, at int, with, without byte) {
		if mode&bit == 0 {
			return
		}
		if text[at] == 'x' {
			text[at] = with
		} else {
			text[at] = without
		}
	}
	special(fs.ModeSetuid, 3, 's', 'S')
	special(fs.ModeSetgid, 6, 's', 'S')
	special(fs.ModeSticky, 9, 't', 'T')
	return string(text)
}

// errNotDirectory says that something on the way to a new directory is none.
var errNotDirectory = errors.New("is not a directory")

// makeParents makes what is missing of dir, and gives it to the user.
func makeParents(dir string, user *accounts.User) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errNotDirectory}
		}
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: errNotDirectory}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParents(filepath.Dir(dir), user); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) { // Somebody was faster; or a symlink that leads nowhere.
			if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
				return nil
			}
		}
		return err
	}
	return os.Chown(dir, int(user.UID), int(user.GID))
}

// noSpace reports whether a write failed because the disk, its inodes or a quota are used up.
func noSpace(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
