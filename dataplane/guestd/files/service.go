package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/filesystem"
	"atoll.dev/dataplane/internal/gen/filesystem/filesystemconnect"
)

// Service serves filesystem.Filesystem.
type Service struct {
	filesystemconnect.UnimplementedFilesystemHandler
	watchers watchers
}

// NewService returns a service without watchers.
func NewService() *Service {
	return &Service{watchers: watchers{polled: map[string]*polledWatcher{}}}
}

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

func notFound(path string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("path '%s' does not exist", path))
}

// failure gives an error of the kernel the code that the wire has for it.
func failure(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notFound(path)
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ELOOP),
		errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY), errors.Is(err, errNotDirectory):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case noSpace(err):
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("not enough disk space: %w", err))
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return connect.NewError(connect.CodePermissionDenied, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

func resolve(ctx context.Context, path string) (string, error) {
	resolved, err := accounts.CallerFrom(ctx).Resolve(path)
	if err != nil {
		return "", connect.NewError(connect.CodeInvalidArgument, err)
	}
	return resolved, nil
}

// mustBeNamed refuses no path at all: it would be the home, which nobody means to lose.
func mustBeNamed(path string) error {
	if path == "" {
		return invalid("path is empty")
	}
	return nil
}

// described answers with what is at path now.
func described(path string) (*filesystem.EntryInfo, error) {
	e, err := entry(path, accounts.NewNames())
	if err != nil {
		return nil, failure(path, err)
	}
	return e, nil
}

// Stat describes a path.
func (s *Service) Stat(ctx context.Context, req *connect.Request[filesystem.StatRequest]) (*connect.Response[filesystem.StatResponse], error) {
	path, err := resolve(ctx, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	e, err := described(path)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.StatResponse{Entry: e}), nil
}

// MakeDir makes a directory and its parents, all the caller's.
func (s *Service) MakeDir(ctx context.Context, req *connect.Request[filesystem.MakeDirRequest]) (*connect.Response[filesystem.MakeDirResponse], error) {
	path, err := resolve(ctx, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil {
		if info.IsDir() {
			return nil, connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("directory already exists: %s", path))
		}
		return nil, invalid("path already exists but it is not a directory: %s", path)
	}
	if err := makeParents(path, accounts.CallerFrom(ctx).User); err != nil {
		return nil, failure(path, err)
	}
	e, err := described(path)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.MakeDirResponse{Entry: e}), nil
}

// Move renames; it makes the destination's parents.
func (s *Service) Move(ctx context.Context, req *connect.Request[filesystem.MoveRequest]) (*connect.Response[filesystem.MoveResponse], error) {
	for _, path := range []string{req.Msg.GetSource(), req.Msg.GetDestination()} {
		if err := mustBeNamed(path); err != nil {
			return nil, err
		}
	}
	source, err := resolve(ctx, req.Msg.GetSource())
	if err != nil {
		return nil, err
	}
	destination, err := resolve(ctx, req.Msg.GetDestination())
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(source); err != nil {
		return nil, failure(source, err)
	}
	if err := makeParents(filepath.Dir(destination), accounts.CallerFrom(ctx).User); err != nil {
		return nil, failure(destination, err)
	}
	err = os.Rename(source, destination)
	if errors.Is(err, unix.EXDEV) {
		return nil, invalid("'%s' and '%s' are on different filesystems: copy and remove instead", source, destination)
	}
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EISDIR) {
		return nil, invalid("destination '%s' exists and cannot be replaced: %w", destination, err)
	}
	if err != nil {
		return nil, failure(source, err)
	}
	e, err := described(destination)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.MoveResponse{Entry: e}), nil
}

// Remove removes a path and all below it; one that does not exist is removed already.
func (s *Service) Remove(ctx context.Context, req *connect.Request[filesystem.RemoveRequest]) (*connect.Response[filesystem.RemoveResponse], error) {
	if err := mustBeNamed(req.Msg.GetPath()); err != nil {
		return nil, err
	}
	path, err := resolve(ctx, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(path); err != nil {
		return nil, failure(path, err)
	}
	return connect.NewResponse(&filesystem.RemoveResponse{}), nil
}

// ListDir lists a directory, depth levels deep; symlinks below it are listed and not followed.
func (s *Service) ListDir(ctx context.Context, req *connect.Request[filesystem.ListDirRequest]) (*connect.Response[filesystem.ListDirResponse], error) {
	shown, err := resolve(ctx, req.Msg.GetPath())
	if err != nil {
		return nil, err
	}
	top, err := filepath.EvalSymlinks(shown)
	if err != nil {
		return nil, failure(shown, err)
	}
	info, err := os.Stat(top)
	if err != nil {
		return nil, failure(shown, err)
	}
	if !info.IsDir() {
		return nil, invalid("path is not a directory: %s", shown)
	}
	l := &listing{ctx: ctx, top: top, shown: shown, names: accounts.NewNames()}
	if err := l.add(top, max(req.Msg.GetDepth(), 1)); err != nil {
		return nil, err
	}
	return connect.NewResponse(&filesystem.ListDirResponse{Entries: l.entries}), nil
}

type listing struct {
	ctx     context.Context
	top     string // resolved
	shown   string // as the caller named it
	names   *accounts.Names
	entries []*filesystem.EntryInfo
}

func (l *listing) add(dir string, depth uint32) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	children, err := l.read(dir)
	if err != nil {
		if dir == l.top {
			return failure(l.shown, err)
		}
		return keepGoing(err)
	}
	for _, child := range children {
		path := filepath.Join(dir, child.Name())
		e, err := entry(path, l.names)
		if err != nil {
			continue // It went between.
		}
		e.Path = valid(filepath.Join(l.shown, strings.TrimPrefix(path, l.top)))
		l.entries = append(l.entries, e)
		if child.IsDir() && depth > 1 {
			if err := l.add(path, depth-1); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepGoing passes over a directory below the top that went or cannot be read.
func keepGoing(err error) error {
	var refused *connect.Error
	if errors.As(err, &refused) {
		return err
	}
	return nil
}

// read returns the sorted children of a directory, no more than the answer may still take.
func (l *listing) read(dir string) ([]fs.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }()
	room := limits.ListEntries - len(l.entries)
	children, err := d.ReadDir(room + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(children) > room {
		return nil, connect.NewError(connect.CodeResourceExhausted,
			fmt.Errorf("'%s' has more than %d entries: list a part of it, or less deep", l.shown, limits.ListEntries))
	}
	slices.SortFunc(children, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return children, nil
}
