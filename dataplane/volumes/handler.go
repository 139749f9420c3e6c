// Package volumes serves the content of volumes: E2B's content API, over directories of this host.
//
// What is in a volume was put there by guests, who are hostile: a path never leads out of its volume, whatever links
// are on it and whenever they change, and nothing that is no file or directory is opened.
package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
)

// Directory finds a volume's directory, if the token opens it; ErrNotFound otherwise.
type Directory func(ctx context.Context, volume, token string) (string, error)

var (
	// ErrNotFound: there is no such volume, or the token is another's.
	ErrNotFound = errors.New("no such volume, or not with this token")

	// ErrAway: nobody can say now; the same request may do later.
	ErrAway = errors.New("the server does not answer")

	errNoFile = errors.New("not a regular file")
	errTooBig = errors.New("too many entries")
)

// Prefix is what the paths of the content API begin with.
const Prefix = "/volumecontent/"

// DefaultOwner is who files and directories belong to when nobody says: the user of our templates.
const DefaultOwner = 1000

var volumeID = regexp.MustCompile(`^v[a-z0-9]{20}$`)

// Handler answers the content API.
type Handler struct {
	directory Directory
	limits    Limits
	slots     chan struct{}
	mux       *http.ServeMux
}

// NewHandler returns one.
func NewHandler(directory Directory, limits Limits) *Handler {
	h := &Handler{directory: directory, limits: limits, slots: make(chan struct{}, limits.Requests), mux: http.NewServeMux()}
	for route, serve := range map[string]func(http.ResponseWriter, *http.Request, *os.Root, string) error{
		"GET /volumecontent/{id}/path":    h.stat,
		"PATCH /volumecontent/{id}/path":  h.change,
		"DELETE /volumecontent/{id}/path": h.remove,
		"GET /volumecontent/{id}/dir":     h.list,
		"POST /volumecontent/{id}/dir":    h.makeDirectory,
		"GET /volumecontent/{id}/file":    h.read,
		"PUT /volumecontent/{id}/file":    h.write,
	} {
		h.mux.HandleFunc(route, h.within(serve))
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// within opens the volume, and gives the call a path that is relative to it.
func (h *Handler) within(serve func(http.ResponseWriter, *http.Request, *os.Root, string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		default:
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, "resource_exhausted", "too many requests for contents of volumes at once")
			return
		}
		root, err := h.open(r)
		if err != nil {
			explain(w, err, "")
			return
		}
		defer root.Close()
		path := r.URL.Query().Get("path")
		inside, err := relative(path)
		if err == nil {
			err = serve(w, r, root, inside)
		}
		if err != nil {
			explain(w, err, path)
		}
	}
}

func (h *Handler) open(r *http.Request) (*os.Root, error) {
	directory, err := h.find(r)
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(directory)
}

// find returns the directory of the request's volume.
func (h *Handler) find(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return "", errNoToken
	}
	id := r.PathValue("id")
	if !volumeID.MatchString(id) || len(token) > maxToken {
		return "", ErrNotFound
	}
	return h.directory(r.Context(), id, token)
}

var errNoToken = errors.New("the volume's token is missing: Authorization: Bearer <token>")

const (
	maxToken = 256
	// maxPath is the kernel's.
	maxPath = 4096
)

// relative turns a path of the volume into one that os.Root takes; "." is the volume itself.
func relative(path string) (string, error) {
	if strings.ContainsRune(path, 0) || len(path) > maxPath {
		return "", &badRequest{"the path is longer than the kernel takes, or has a NUL in it"}
	}
	parts := []string{}
	for _, part := range strings.Split(path, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", &badRequest{"the path has '..' in it"}
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ".", nil
	}
	return strings.Join(parts, "/"), nil
}

type badRequest struct{ reason string }

func (e *badRequest) Error() string { return e.reason }

// explain answers an error; the form of its body is E2B's for this API.
func explain(w http.ResponseWriter, err error, path string) {
	var bad *badRequest
	switch {
	case errors.As(err, &bad):
		refuse(w, http.StatusBadRequest, "invalid_argument", bad.reason)
	case errors.Is(err, errNoToken):
		refuse(w, http.StatusUnauthorized, "unauthenticated", err.Error())
	case errors.Is(err, ErrNotFound):
		refuse(w, http.StatusNotFound, "not_found", err.Error())
	case errors.Is(err, ErrAway):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "unavailable", "The server does not answer: it is starting, or has ended. Please try again later.")
	case errors.Is(err, context.Canceled):
		panic(http.ErrAbortHandler) // The client is gone.
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		refuse(w, http.StatusNotFound, "not_found", "path "+quoted(path)+" not found")
	case errors.Is(err, fs.ErrExist):
		refuse(w, http.StatusConflict, "already_exists", "path "+quoted(path)+" exists")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		refuse(w, http.StatusInsufficientStorage, "resource_exhausted", "the volume is full")
	case errors.Is(err, errNoFile), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ENXIO):
		refuse(w, http.StatusBadRequest, "invalid_argument", "path "+quoted(path)+": "+bare(err))
	case errors.Is(err, errTooBig):
		refuse(w, http.StatusBadRequest, "resource_exhausted", "path "+quoted(path)+" has more entries than one answer holds: list its directories one by one")
	case isEscape(err):
		refuse(w, http.StatusBadRequest, "invalid_argument", "path "+quoted(path)+" leads out of the volume")
	default:
		refuse(w, http.StatusInternalServerError, "internal", bare(err))
	}
}

// isEscape: os.Root has an error of its own for that, but no name for it.
func isEscape(err error) bool {
	reason := cause(err)
	return reason != nil && strings.Contains(reason.Error(), "escapes")
}

// bare takes the host's paths out of an error.
func bare(err error) string {
	if reason := cause(err); reason != nil {
		return reason.Error()
	}
	return err.Error()
}

// cause is what an error about one path or two says of the reason; nil: it is another.
func cause(err error) error {
	var at *fs.PathError
	var between *os.LinkError
	switch {
	case errors.As(err, &at):
		return at.Err
	case errors.As(err, &between):
		return between.Err
	}
	return nil
}

func quoted(path string) string {
	if len(path) > 200 {
		path = path[:200] + "…"
	}
	return "'" + path + "'"
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]string{"code": code, "message": message})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // The client is gone.
}
