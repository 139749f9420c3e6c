package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

// watch turns the kernel's events about a directory into the wire's.
// Whoever runs it may be slow: events then wait in the kernel's queue, which is bounded and says when it overflowed.
type watch struct {
	top       string
	recursive bool
	entries   bool
	notify    *fsnotify.Watcher
	emit      func(*filesystem.FilesystemEvent) error
	added     int
	// scanned are paths that were told of when their new directory was read; the kernel may tell of them again.
	scanned map[string]struct{}
}

// errTooManyDirectories ends a recursive watcher that would need more than its share of the kernel's memory.
var errTooManyDirectories = fmt.Errorf("a watcher takes at most %d directories", limits.WatchedDirectories)

type watchRequest interface {
	GetPath() string
	GetRecursive() bool
	GetIncludeEntry() bool
	GetAllowNetworkMounts() bool
}

// newWatch starts to collect events. The caller runs it, or closes it.
func newWatch(ctx context.Context, req watchRequest) (*watch, error) {
	path, err := resolve(ctx, req.GetPath())
	if err != nil {
		return nil, err
	}
	top, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, failure(path, err)
	}
	info, err := os.Stat(top)
	if err != nil {
		return nil, failure(path, err)
	}
	if !info.IsDir() {
		return nil, invalid("path is not a directory: %s", path)
	}
	if !req.GetAllowNetworkMounts() && onNetwork(top) {
		return nil, invalid("path is on a network mount, where changes made elsewhere are not seen: %s", path)
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("error creating watcher: %w", err))
	}
	w := &watch{
		top: top, recursive: req.GetRecursive(), entries: req.GetIncludeEntry(), notify: notify,
		scanned: map[string]struct{}{},
	}
	if err := w.addTree(top, nil); err != nil {
		w.close()
		return nil, watchFailure(path, err)
	}
	return w, nil
}

func watchFailure(path string, err error) error {
	if errors.Is(err, errTooManyDirectories) || errors.Is(err, unix.ENOSPC) {
		// Not resource_exhausted, which clients take for a rate limit: later it is as large.
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("error watching '%s': %w", path, err))
	}
	return failure(path, err)
}

func eventsLost(reason error) error {
	return connect.NewError(connect.CodeDataLoss, fmt.Errorf("events were lost: %w", reason))
}

// onNetwork reports whether path is on a filesystem that others change behind our kernel's back.
func onNetwork(path string) bool {
	var stat unix.Statfs_t
	if unix.Statfs(path, &stat) != nil {
		return false
	}
	switch uint32(stat.Type) {
	case unix.NFS_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		return true
	}
	return false
}

func (w *watch) close() { _ = w.notify.Close() }

// addTree watches dir, and in recursive mode all directories below it. found is told of everything below.
func (w *watch) addTree(dir string, found func(path string) error) error {
	if w.added >= limits.WatchedDirectories {
		return errTooManyDirectories
	}
	if err := w.notify.Add(dir); err != nil {
		return err
	}
	w.added++
	if !w.recursive {
		return nil
	}
	children, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, child := range children {
		path := filepath.Join(dir, child.Name())
		if found != nil {
			if err := found(path); err != nil {
				return err
			}
		}
		if !child.IsDir() {
			continue
		}
		if err := w.addTree(path, found); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// run emits events until ctx ends, the watcher is closed or emit fails. It closes the watcher.
// alive is called after each silence of that length, if silence is not 0.
func (w *watch) run(ctx context.Context, emit func(*filesystem.FilesystemEvent) error, silence time.Duration, alive func() error) error {
	defer w.close()
	w.emit = emit
	timer := &time.Timer{} // Its channel is nil: it never fires.
	if silence > 0 {
		timer = time.NewTimer(silence)
		defer timer.Stop()
	}
	for {
		var err error
		select {
		case event, ok := <-w.notify.Events:
			if !ok {
				return nil
			}
			err = w.handle(event)
		case lost, ok := <-w.notify.Errors:
			if !ok {
				return nil
			}
			err = eventsLost(lost)
		case <-timer.C:
			err = alive()
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if silence > 0 {
			timer.Reset(silence)
		}
	}
}

var kinds = []struct {
	op   fsnotify.Op
	kind filesystem.EventType
}{
	{fsnotify.Create, filesystem.EventType_EVENT_TYPE_CREATE},
	{fsnotify.Rename, filesystem.EventType_EVENT_TYPE_RENAME},
	{fsnotify.Chmod, filesystem.EventType_EVENT_TYPE_CHMOD},
	{fsnotify.Write, filesystem.EventType_EVENT_TYPE_WRITE},
	{fsnotify.Remove, filesystem.EventType_EVENT_TYPE_REMOVE},
}

func (w *watch) handle(event fsnotify.Event) error {
	for _, k := range kinds {
		if !event.Has(k.op) {
			continue
		}
		if k.op == fsnotify.Create {
			if err := w.created(event.Name); err != nil {
				return err
			}
			continue
		}
		if k.op == fsnotify.Remove || k.op == fsnotify.Rename {
			delete(w.scanned, event.Name)
		}
		if err := w.tell(event.Name, k.kind); err != nil {
			return err
		}
	}
	return nil
}

// created tells of a new path. What is in a new directory may have come before its watch: it is told of too.
func (w *watch) created(path string) error {
	if _, told := w.scanned[path]; told {
		delete(w.scanned, path)
		return nil
	}
	if err := w.tell(path, filesystem.EventType_EVENT_TYPE_CREATE); err != nil {
		return err
	}
	if !w.recursive {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return nil
	}
	err = w.addTree(path, func(found string) error {
		if len(w.scanned) >= limits.WatcherEvents {
			clear(w.scanned) // Then something may be told of twice.
		}
		w.scanned[found] = struct{}{}
		return w.tell(found, filesystem.EventType_EVENT_TYPE_CREATE)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var refused *connect.Error
	if err == nil || errors.As(err, &refused) {
		return err
	}
	return watchFailure(path, err)
}

func (w *watch) tell(path string, kind filesystem.EventType) error {
	name := strings.TrimPrefix(strings.TrimPrefix(path, w.top), "/")
	event := &filesystem.FilesystemEvent{Name: valid(name), Type: kind}
	gone := kind == filesystem.EventType_EVENT_TYPE_REMOVE || kind == filesystem.EventType_EVENT_TYPE_RENAME
	if w.entries && !gone {
		if e, err := entry(path, accounts.NewNames()); err == nil {
			event.Entry = e
		}
	}
	return w.emit(event)
}
