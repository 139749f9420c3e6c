package volumes

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const bufferBytes = 256 << 10

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

func (h *Handler) read(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	// Without waiting: a pipe that a guest made has no other end.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errNoFile
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	// No more than was announced, though a guest may write meanwhile; less cuts the connection, which the client sees.
	sent, err := h.copy(w, io.LimitReader(file, info.Size()), func(until time.Time) { _ = control.SetWriteDeadline(until) })
	if err != nil || sent < info.Size() {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (h *Handler) write(w http.ResponseWriter, r *http.Request, root *os.Root, name string) error {
	wanted, err := ownershipOf(r, 0o644)
	if err != nil {
		return err
	}
	if name == "." {
		return errNoFile
	}
	if wanted.force {
		if err := makeParents(root, name); err != nil {
			return err
		}
	}
	// A guest may put a link in the directory's place meanwhile: what is stored stays in the one that was found.
	// With the dot it is opened as a directory only: a pipe would wait for its other end.
	directory, err := root.OpenRoot(path.Dir(name) + "/.")
	if err != nil {
		return err
	}
	defer directory.Close()
	if err := h.replace(w, r, directory, path.Base(name), wanted); err != nil {
		return err
	}
	// Files of a volume that was deleted meanwhile are gone, though this one could still be written.
	if _, err := h.find(r); errors.Is(err, ErrNotFound) {
		return err
	}
	found, err := describe(directory, path.Base(name))
	if err != nil {
		return err
	}
	found.Path = path.Join("/", name)
	answer(w, http.StatusCreated, found)
	return nil
}

// replace stores beside the file, and then in its place: nobody reads half a file, and what was there stays if the
// client goes away.
func (h *Handler) replace(w http.ResponseWriter, r *http.Request, directory *os.Root, name string, wanted *ownership) error {
	info, err := directory.Lstat(name)
	if err == nil && info.IsDir() {
		return syscall.EISDIR
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err // Before all of the body was taken.
	}
	beside := ".upload-" + rand.Text()
	err = h.store(w, r, directory, beside, wanted)
	if err == nil {
		err = directory.Rename(beside, name)
	}
	if err != nil {
		_ = directory.Remove(beside)
	}
	return err
}

func (h *Handler) store(w http.ResponseWriter, r *http.Request, directory *os.Root, name string, wanted *ownership) error {
	file, err := directory.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	control := http.NewResponseController(w)
	if _, err := h.copy(file, r.Body, func(until time.Time) { _ = control.SetReadDeadline(until) }); err != nil {
		var at *fs.PathError
		if !errors.As(err, &at) {
			return &badRequest{"the body ended early"}
		}
		return err
	}
	if err := file.Chown(wanted.uid, wanted.gid); err != nil {
		return err
	}
	if err := file.Chmod(fileMode(wanted.mode)); err != nil {
		return err
	}
	return file.Close()
}

// copy moves bytes, and gives the client a new deadline for each piece.
func (h *Handler) copy(to io.Writer, from io.Reader, deadline func(time.Time)) (int64, error) {
	held := buffers.Get().(*[bufferBytes]byte)
	defer buffers.Put(held)
	var sum int64
	for {
		deadline(time.Now().Add(h.limits.Stall))
		n, err := from.Read(held[:])
		if n > 0 {
			written, err := to.Write(held[:n])
			sum += int64(written)
			if err != nil {
				return sum, err
			}
		}
		if err == io.EOF {
			deadline(time.Time{})
			return sum, nil
		}
		if err != nil {
			return sum, err
		}
	}
}
