package files

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"atoll.dev/dataplane/guestd/accounts"
)

// Download answers GET /files: the bytes of one file.
func Download(w http.ResponseWriter, r *http.Request, caller *accounts.Caller) {
	path, err := caller.Resolve(r.URL.Query().Get("path"))
	if err != nil {
		answer(w, err)
		return
	}
	coding, ok := chooseCoding(r.Header)
	if !ok {
		answer(w, problemf(http.StatusNotAcceptable, "no acceptable encoding: identity and gzip are served"))
		return
	}
	file, info, err := openRegular(path)
	if err != nil {
		answer(w, err)
		return
	}
	defer func() { _ = file.Close() }()
	var content io.Reader = file
	if info.Size() == 0 {
		if content, err = begun(path, file); err != nil {
			answer(w, err)
			return
		}
	}
	h := w.Header()
	h.Set("Content-Disposition", disposition(filepath.Base(path)))
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	switch {
	case coding == "gzip":
		compressed(w, r, path, content)
	case info.Size() == 0:
		unsized(w, r, path, content)
	default:
		setContentType(h, path)
		http.ServeContent(w, r, filepath.Base(path), info.ModTime(), file)
	}
}

// begun reads the beginning of a file that says it is empty, before anything is answered: of some in /proc only that
// tells that they cannot be read.
func begun(path string, file *os.File) (io.Reader, error) {
	content := bufio.NewReader(file)
	_, err := content.Peek(1)
	if err == nil || err == io.EOF {
		return content, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	return nil, problemf(http.StatusBadRequest, "path '%s' cannot be read: %s", path, err)
}

func disposition(name string) string {
	if value := mime.FormatMediaType("inline", map[string]string{"filename": name}); value != "" {
		return value
	}
	return "inline"
}

func setContentType(h http.Header, path string) {
	kind := mime.TypeByExtension(filepath.Ext(path))
	if kind == "" {
		kind = "application/octet-stream"
	}
	h.Set("Content-Type", kind)
}

// compressed sends the whole file through gzip. Ranges are of the file, so they are not served compressed.
func compressed(w http.ResponseWriter, r *http.Request, path string, content io.Reader) {
	setContentType(w.Header(), path)
	w.Header().Set("Content-Encoding", "gzip")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return
	}
	if copyTo(z, content) == nil {
		_ = z.Close()
		return
	}
	panic(http.ErrAbortHandler) // The client must not take half a file for a whole one.
}

// unsized sends what can be read of a file that says it is empty: those of /proc do.
func unsized(w http.ResponseWriter, r *http.Request, path string, content io.Reader) {
	setContentType(w.Header(), path)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	if copyTo(w, content) != nil {
		panic(http.ErrAbortHandler)
	}
}

// chooseCoding returns "gzip" only to who asks for it by name and not for a range, "" for the bytes as they are,
// and false when neither will do.
func chooseCoding(header http.Header) (coding string, ok bool) {
	gzipWeight, identityWeight, anyWeight := -1.0, -1.0, -1.0
	for item := range strings.SplitSeq(strings.Join(header.Values("Accept-Encoding"), ","), ",") {
		name, parameters, _ := strings.Cut(item, ";")
		weight, valid := quality(parameters)
		if !valid {
			continue
		}
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "gzip", "x-gzip":
			gzipWeight = weight
		case "identity":
			identityWeight = weight
		case "*":
			anyWeight = weight
		}
	}
	refused := identityWeight == 0 || identityWeight < 0 && anyWeight == 0
	if gzipWeight > 0 && gzipWeight >= identityWeight && header.Get("Range") == "" {
		return "gzip", true
	}
	if refused && anyWeight > 0 && gzipWeight != 0 && header.Get("Range") == "" {
		return "gzip", true
	}
	return "", !refused
}

// quality reads "q=0.5"; without it the weight is 1.
func quality(parameters string) (float64, bool) {
	name, value, found := strings.Cut(strings.TrimSpace(parameters), "=")
	if !found || !strings.EqualFold(strings.TrimSpace(name), "q") {
		return 1, true
	}
	weight, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	return weight, err == nil && weight >= 0 && weight <= 1
}
