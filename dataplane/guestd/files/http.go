package files

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/wire"
)

// Written is one uploaded file, as the wire shows it.
type Written struct {
	Name     string            `json:"name"`
	Path     string            `json:"path"`
	Type     string            `json:"type"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// problem is an error with its HTTP status.
type problem struct {
	code    int
	message string
}

func (p *problem) Error() string { return p.message }

func problemf(code int, format string, args ...any) error {
	return &problem{code: code, message: fmt.Sprintf(format, args...)}
}

// answer writes err with the status it has.
func answer(w http.ResponseWriter, err error) {
	var p *problem
	var path *accounts.PathError
	switch {
	case errors.As(err, &p):
		wire.Error(w, p.code, p.message)
	case errors.As(err, &path):
		wire.Error(w, http.StatusBadRequest, path.Error())
	case noSpace(err):
		wire.Error(w, http.StatusInsufficientStorage, "not enough disk space available")
	case errors.Is(err, errNotDirectory), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ELOOP):
		wire.Error(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS), errors.Is(err, unix.ETXTBSY):
		wire.Error(w, http.StatusForbidden, err.Error())
	default:
		wire.Error(w, http.StatusInternalServerError, err.Error())
	}
}

// openRegular opens a file for reading. A pipe does not hold the caller up, and is refused like every device.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, problemf(http.StatusNotFound, "path '%s' does not exist", path)
	}
	if errors.Is(err, unix.ENXIO) {
		return nil, nil, problemf(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil {
		err = mustBeRegular(path, info)
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

func mustBeRegular(path string, info fs.FileInfo) error {
	if info.IsDir() {
		return problemf(http.StatusBadRequest, "path '%s' is a directory", path)
	}
	if !info.Mode().IsRegular() {
		return problemf(http.StatusBadRequest, "path '%s' is not a regular file", path)
	}
	return nil
}

// output is a file that is being written for a caller. It keeps the inode of the one it replaces.
type output struct {
	file *os.File
	made bool // by us: a failure removes it again
}

func openOutput(path string, user *accounts.User) (*output, error) {
	info, err := os.Stat(path)
	if err == nil {
		if err := mustBeRegular(path, info); err != nil {
			return nil, err
		}
	} else if err := makeParents(filepath.Dir(path), user); err != nil {
		return nil, err
	}
	// The check and this are two moments: O_NONBLOCK keeps a pipe put there in between from holding us up.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NONBLOCK, 0o666)
	if errors.Is(err, unix.EISDIR) {
		return nil, problemf(http.StatusBadRequest, "path '%s' is a directory", path)
	}
	if err != nil {
		return nil, err
	}
	o := &output{file: file, made: info == nil}
	if err := file.Chown(int(user.UID), int(user.GID)); err != nil {
		o.abandon()
		return nil, err
	}
	return o, nil
}

// abandon closes the file, and removes it if it was not there before.
func (o *output) abandon() {
	_ = o.file.Close()
	if o.made {
		_ = os.Remove(o.file.Name())
	}
}

var buffers = sync.Pool{New: func() any {
	buffer := make([]byte, limits.CopyBuffer)
	return &buffer
}}

// copyTo copies without the library's smaller buffers.
func copyTo(to io.Writer, from io.Reader) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buffer)
	return err
}

// roomFor refuses what cannot fit before anything is overwritten.
func roomFor(path string, size int64) error {
	if size <= 0 {
		return nil
	}
	if info, err := os.Stat(path); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			size -= stat.Blocks * 512
		}
	}
	dir := filepath.Dir(path)
	var stat unix.Statfs_t
	for unix.Statfs(dir, &stat) != nil {
		if dir == "/" || dir == "." {
			return nil
		}
		dir = filepath.Dir(dir)
	}
	if stat.Blocks == 0 { // A filesystem without a size.
		return nil
	}
	if free := int64(stat.Bavail) * stat.Bsize; size > free {
		return problemf(http.StatusInsufficientStorage, "not enough disk space available: %d bytes required, %d bytes free", size, free)
	}
	return nil
}

// composeRequest is the body of POST /files/compose.
type composeRequest struct {
	SourcePaths []string `json:"source_paths"`
	Destination string   `json:"destination"`
	Username    string   `json:"username"`
}

// ComposeUser reads the body of POST /files/compose: who it is for, and what answers the request then.
func ComposeUser(w http.ResponseWriter, r *http.Request) (user string, perform func(*accounts.Caller), err error) {
	var req composeRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, limits.RequestBytes)).Decode(&req); err != nil {
		return "", nil, fmt.Errorf("invalid JSON body: %w", err)
	}
	return req.Username, func(caller *accounts.Caller) {
		written, err := compose(caller, &req)
		if err != nil {
			answer(w, err)
			return
		}
		wire.JSON(w, http.StatusOK, written)
	}, nil
}

// compose concatenates the sources into the destination and removes them.
func compose(caller *accounts.Caller, req *composeRequest) (*Written, error) {
	if len(req.SourcePaths) == 0 || len(req.SourcePaths) > limits.ComposeSources {
		return nil, problemf(http.StatusBadRequest, "source_paths takes 1 to %d paths", limits.ComposeSources)
	}
	destination, err := caller.Resolve(req.Destination)
	if err != nil {
		return nil, err
	}
	sources, err := composeSources(caller, req.SourcePaths, destination)
	if err != nil {
		return nil, err
	}
	out, err := openOutput(destination, caller.User)
	if err != nil {
		return nil, err
	}
	for _, source := range sources {
		if err := appendFile(out.file, source); err != nil {
			out.abandon()
			return nil, err
		}
	}
	if err := out.file.Close(); err != nil {
		return nil, err
	}
	for _, source := range sources {
		if err := os.Remove(source); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &Written{Name: filepath.Base(destination), Path: destination, Type: "file"}, nil
}

// composeSources checks every source before the destination is touched.
func composeSources(caller *accounts.Caller, paths []string, destination string) ([]string, error) {
	old, _ := os.Stat(destination)
	sources := make([]string, 0, len(paths))
	for _, path := range paths {
		source, err := caller.Resolve(path)
		if err != nil {
			return nil, err
		}
		file, info, err := openRegular(source)
		if err != nil {
			return nil, err
		}
		_ = file.Close()
		if old != nil && os.SameFile(old, info) {
			return nil, problemf(http.StatusBadRequest, "destination '%s' is one of the sources", destination)
		}
		sources = append(sources, source)
	}
	return sources, nil
}

func appendFile(to *os.File, path string) error {
	from, _, err := openRegular(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	return copyTo(to, from)
}
