package blobs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// newPrefix begins the names of directories with runs that are not on the disk for certain.
const newPrefix = ".new-"

// directory is a store in a directory: <two digits>/<SHA-256>.
type directory struct {
	path    string
	codec   *codec
	reserve int64

	mutex   sync.Mutex
	fresh   string
	pending []Sum
}

// openDirectory makes a store of a directory, which need not be there; reserve: free bytes that it leaves.
func openDirectory(path string, codec *codec, reserve int64) (*directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, storeError(err)
	}
	return &directory{path: path, codec: codec, reserve: reserve}, nil
}

func (d *directory) AtOnce() int { return 4 }

func (d *directory) place(name Sum) string {
	text := name.String()
	return filepath.Join(d.path, text[:2], text)
}

// Has reads it: a run that was damaged since would else damage all that come to rely on it.
func (d *directory) Has(ctx context.Context, run Run) (bool, error) {
	compressed, err := d.Get(ctx, run.Sum)
	if errors.Is(err, ErrMissing) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = d.codec.open(run, compressed)
	return err == nil, nil
}

func (d *directory) Put(_ context.Context, name Sum, compressed []byte) error {
	if err := d.room(); err != nil {
		return err
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.fresh == "" {
		fresh, err := os.MkdirTemp(d.path, newPrefix)
		if err != nil {
			return storeError(err)
		}
		d.fresh = fresh
	}
	if err := os.WriteFile(filepath.Join(d.fresh, name.String()), compressed, 0o600); err != nil {
		return storeError(err)
	}
	d.pending = append(d.pending, name)
	return nil
}

func (d *directory) room() error {
	var found unix.Statfs_t
	if err := unix.Statfs(d.path, &found); err != nil {
		return storeError(err)
	}
	if free := int64(found.Bavail) * found.Bsize; free < d.reserve {
		return failed(ErrFull, "%d bytes are free at %s, and %d stay free", free, d.path, d.reserve)
	}
	return nil
}

// Flush renames what is on the disk, so that a name never stands for what a power failure took.
func (d *directory) Flush() error {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if len(d.pending) == 0 {
		return nil
	}
	if err := d.sync(); err != nil {
		return err
	}
	for _, name := range d.pending {
		place := d.place(name)
		from := filepath.Join(d.fresh, name.String())
		err := os.Rename(from, place)
		if errors.Is(err, fs.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(place), 0o700); err == nil {
				err = os.Rename(from, place)
			}
		}
		if err != nil {
			return storeError(err)
		}
	}
	d.pending = d.pending[:0]
	return d.sync()
}

func (d *directory) sync() error {
	root, err := os.Open(d.path)
	if err != nil {
		return storeError(err)
	}
	defer func() { _ = root.Close() }()
	// One call for hundreds of files.
	return storeError(unix.Syncfs(int(root.Fd())))
}

func (d *directory) Get(_ context.Context, name Sum) ([]byte, error) {
	file, err := os.Open(d.place(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failed(ErrMissing, "run %s", name)
	}
	if err != nil {
		return nil, storeError(err)
	}
	defer func() { _ = file.Close() }()
	content, err := readBounded(file, mostCompressed)
	return content, storeError(err)
}

func (d *directory) Each(ctx context.Context, found func(Sum, int64) error) error {
	shelves, err := os.ReadDir(d.path)
	if err != nil {
		return storeError(err)
	}
	for _, shelf := range shelves {
		if len(shelf.Name()) != 2 || !shelf.IsDir() {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(d.path, shelf.Name()))
		if err != nil {
			return storeError(err)
		}
		for _, entry := range entries {
			name, ok := parseSum(entry.Name())
			info, err := entry.Info()
			if !ok || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return storeError(err)
			}
			if err := found(name, diskBytes(info)); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// diskBytes is what a file takes, which for small ones is more than it holds.
func diskBytes(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Blocks * 512
	}
	return info.Size()
}

func (d *directory) Delete(ctx context.Context, names []Sum) error {
	for _, name := range names {
		if err := os.Remove(d.place(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storeError(err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (d *directory) Leftovers() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return storeError(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), newPrefix) {
			if err := os.RemoveAll(filepath.Join(d.path, entry.Name())); err != nil {
				return storeError(err)
			}
		}
	}
	return nil
}

// storeError says of what kind an error of the file system is.
func storeError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return failed(ErrFull, "%s", err)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		return failed(ErrDenied, "%s", err)
	}
	return failed(ErrUnavailable, "%s", err)
}
