package volumes

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// removalBatch is how many names are read at once: a directory may have any number.
const removalBatch = 256

// removeTree removes what a directory has of this name, with all that is below it. One that is gone is removed already.
//
// Guests make trees as deep as they like, and change them meanwhile. So no more than a few directories are open, and the
// way back up is taken only where it leads to where it came from: otherwise it begins at the top again. Names are
// single ones and links are not followed, so that nothing outside of the tree's own directories is touched.
func removeTree(ctx context.Context, holder *os.File, name string) error {
	for ctx.Err() == nil {
		err := removeEntry(holder, name)
		if !isFull(err) {
			return err
		}
		top, err := openBelow(holder, name)
		if isChanged(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := empty(ctx, top); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// empty removes what is in a directory, and closes it. It gives up where directories are moved: then that was not all.
func empty(ctx context.Context, at *os.File) error {
	defer func() { _ = at.Close() }()
	var above []identity
	for {
		full, err := sweep(ctx, at)
		if err != nil {
			return err
		}
		var next *os.File
		if full != "" {
			next, err = openBelow(at, full)
		} else if len(above) > 0 {
			next, err = openAbove(at, above[len(above)-1])
		}
		if isChanged(err) || err == nil && next == nil {
			return nil
		}
		if err != nil {
			return err
		}
		if full == "" {
			above = above[:len(above)-1]
		} else {
			above = append(above, identify(at))
		}
		_ = at.Close()
		at = next
	}
}

// sweep removes what is in a directory up to the first directory that is not empty, and returns its name.
func sweep(ctx context.Context, at *os.File) (full string, err error) {
	if _, err := at.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		names, err := at.Readdirnames(removalBatch)
		if err == io.EOF {
			return "", nil
		}
		if err != nil {
			return "", err
		}
		for _, name := range names {
			if err := removeEntry(at, name); isFull(err) {
				return name, nil
			} else if err != nil {
				return "", err
			}
		}
	}
}

// removeEntry removes anything but a directory that is not empty: see isFull.
func removeEntry(from *os.File, name string) error {
	err := unix.Unlinkat(int(from.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(int(from.Fd()), name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// isFull: the directory is not empty. ENOTDIR is of one that was replaced meanwhile, and is looked at again.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR)
}

// isChanged: what was a directory is none any more.
func isChanged(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func openBelow(at *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(at.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openAbove returns the directory above, or nil if it is another than the one that was come from.
func openAbove(at *os.File, wanted identity) (*os.File, error) {
	above, err := openBelow(at, "..")
	if err == nil && identify(above) != wanted {
		_ = above.Close()
		return nil, nil
	}
	return above, err
}

// identity tells directories apart as long as they are there.
type identity struct{ device, inode uint64 }

func identify(directory *os.File) identity {
	var stat unix.Stat_t
	if unix.Fstat(int(directory.Fd()), &stat) != nil {
		return identity{} // No directory has it.
	}
	return identity{device: uint64(stat.Dev), inode: stat.Ino}
}
