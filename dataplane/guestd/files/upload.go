package files

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/wire"
)

// Upload answers POST /files: one file as the body, or several as parts of a form.
func Upload(w http.ResponseWriter, r *http.Request, caller *accounts.Caller) {
	u := &upload{caller: caller, path: r.URL.Query().Get("path"), size: r.ContentLength, seen: map[string]struct{}{}, written: []*Written{}}
	if err := u.receive(r); err != nil {
		answer(w, err)
		return
	}
	wire.JSON(w, http.StatusOK, u.written)
}

type upload struct {
	caller   *accounts.Caller
	path     string // from the query
	size     int64  // of the whole body; -1 unknown
	metadata map[string]string
	seen     map[string]struct{}
	written  []*Written
}

func (u *upload) receive(r *http.Request) error {
	var err error
	if u.metadata, err = metadataOf(r.Header); err != nil {
		return problemf(http.StatusBadRequest, "%s", err)
	}
	body, err := decoded(r)
	if err != nil {
		return err
	}
	kind, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return problemf(http.StatusBadRequest, "invalid Content-Type: %s", err)
	}
	if r.Header.Get("Content-Encoding") != "" {
		u.size = -1
	}
	switch kind {
	case "application/octet-stream":
		if u.path == "" {
			return problemf(http.StatusBadRequest, "path is required for application/octet-stream")
		}
		return u.file(u.path, body)
	case "multipart/form-data":
		if parameters["boundary"] == "" {
			return problemf(http.StatusBadRequest, "invalid Content-Type: no boundary")
		}
		// The form's own buffer is 4 KiB: it shall not be the unit in which the network is read.
		return u.form(multipart.NewReader(bufio.NewReaderSize(body, limits.CopyBuffer), parameters["boundary"]))
	}
	return problemf(http.StatusBadRequest, "unsupported Content-Type '%s': multipart/form-data or application/octet-stream", kind)
}

// decoded returns the body without its compression.
func decoded(r *http.Request) (io.Reader, error) {
	switch coding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); coding {
	case "", "identity":
		return r.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bufio.NewReaderSize(r.Body, limits.CopyBuffer))
		if err != nil {
			return nil, problemf(http.StatusBadRequest, "body is not gzip: %s", err)
		}
		return z, nil
	default:
		return nil, problemf(http.StatusBadRequest, "unsupported Content-Encoding '%s'", coding)
	}
}

func (u *upload) form(form *multipart.Reader) error {
	for range limits.UploadParts {
		// Raw: the bytes are the file's, whatever a part says of its encoding.
		part, err := form.NextRawPart()
		// Bare: wrapped, it says that the form has no end.
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return problemf(http.StatusBadRequest, "invalid multipart body: %s", err)
		}
		if part.FormName() != "file" {
			continue
		}
		path := u.path
		if path == "" {
			path = rawFileName(part)
		} else if len(u.written) > 0 {
			return problemf(http.StatusBadRequest, "several files cannot be uploaded to the one path '%s' of the query", path)
		}
		if path == "" {
			return problemf(http.StatusBadRequest, "a part has no filename, and there is no path in the query")
		}
		if err := u.file(path, part); err != nil {
			return err
		}
	}
	return problemf(http.StatusBadRequest, "more than %d parts", limits.UploadParts)
}

// rawFileName returns the name with its directories, which the library drops.
func rawFileName(part *multipart.Part) string {
	_, parameters, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return parameters["filename"]
}

func (u *upload) file(named string, content io.Reader) error {
	path, err := u.caller.Resolve(named)
	if err != nil {
		return err
	}
	if _, twice := u.seen[path]; twice {
		return problemf(http.StatusBadRequest, "path '%s' is uploaded twice", path)
	}
	if err := roomFor(path, u.size); err != nil {
		return err
	}
	out, err := openOutput(path, u.caller.User)
	if err != nil {
		return err
	}
	if err := copyTo(out.file, content); err != nil {
		out.abandon()
		return received(err)
	}
	kept, err := replaceMetadata(out.file, u.metadata)
	if err != nil {
		out.abandon()
		return err
	}
	if err := out.file.Close(); err != nil {
		return err
	}
	u.seen[path] = struct{}{}
	u.size = -1 // What is left of a form's size is not known.
	u.written = append(u.written, &Written{Name: valid(filepath.Base(path)), Path: valid(path), Type: "file", Metadata: kept})
	return nil
}

// received tells what the caller did wrong from what the disk did.
func received(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.As(err, &corrupt) {
		return problemf(http.StatusBadRequest, "body ended early or is damaged: %s", err)
	}
	return err
}
