package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	id    = "v0123456789abcdefghij"
	token = "right"
)

// volume is a served one, beside a secret that nobody may reach.
type volume struct {
	t         *testing.T
	url       string
	directory string
}

func serve(t *testing.T, limits Limits) *volume {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	directory := filepath.Join(outside, "volume")
	if err := os.Mkdir(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	handler := NewHandler(func(_ context.Context, volume, shown string) (string, error) {
		if volume != id || shown != token {
			return "", ErrNotFound
		}
		return directory, nil
	}, limits)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &volume{t: t, url: server.URL, directory: directory}
}

func (v *volume) do(method, kind, query string, body io.Reader) (int, string) {
	v.t.Helper()
	request, err := http.NewRequest(method, v.url+Prefix+id+"/"+kind+"?"+query, body)
	if err != nil {
		v.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

func (v *volume) put(path, content string, more ...string) int {
	v.t.Helper()
	status, _ := v.do(http.MethodPut, "file", strings.Join(append(more, "path="+url.QueryEscape(path)), "&"), strings.NewReader(content))
	return status
}

func (v *volume) inside(name string) string { return filepath.Join(v.directory, name) }

func TestFilesAreWrittenReadListedChangedAndRemoved(t *testing.T) {
	v := serve(t, DefaultLimits())
	if status := v.put("/a/b/c.txt", "x"); status != http.StatusNotFound {
		t.Errorf("a directory that is missing: %d", status)
	}
	if status := v.put("/a/b/c.txt", "hello", "force=true", "mode=384", "uid=7"); status != http.StatusCreated {
		t.Fatalf("write: %d", status)
	}
	if status, content := v.do(http.MethodGet, "file", "path=a/b/c.txt", nil); status != http.StatusOK || content != "hello" {
		t.Errorf("read: %d %q", status, content)
	}
	var found entry
	_, content := v.do(http.MethodGet, "path", "path=/a/b/c.txt", nil)
	if err := json.Unmarshal([]byte(content), &found); err != nil {
		t.Fatal(err)
	}
	if found.Name != "c.txt" || found.Path != "/a/b/c.txt" || found.Type != "file" || found.Size != 5 || found.Mode != 0o600 || found.UID != 7 || found.GID != DefaultOwner {
		t.Errorf("stat: %+v", found)
	}
	if status, content := v.do(http.MethodPatch, "path", "path=/a/b/c.txt", strings.NewReader(`{"mode": 493, "gid": 8}`)); status != http.StatusOK || !strings.Contains(content, `"mode":493`) || !strings.Contains(content, `"gid":8`) {
		t.Errorf("change: %d %s", status, content)
	}
	for depth, wanted := range map[string]int{"": 1, "depth=2": 2, "depth=3": 3} {
		var entries []entry
		_, content := v.do(http.MethodGet, "dir", "path=/&"+depth, nil)
		if err := json.Unmarshal([]byte(content), &entries); err != nil || len(entries) != wanted {
			t.Errorf("list %s: %v %s", depth, err, content)
		}
	}
	if status, _ := v.do(http.MethodDelete, "path", "path=/a", nil); status != http.StatusNoContent {
		t.Errorf("remove: %d", status)
	}
	if status, _ := v.do(http.MethodDelete, "path", "path=/a", nil); status != http.StatusNotFound {
		t.Errorf("remove again: %d", status)
	}
}

func TestDirectoriesAreMadeOnceOrWithForce(t *testing.T) {
	v := serve(t, DefaultLimits())
	for _, step := range []struct {
		query  string
		status int
	}{
		{"path=/d&mode=448", http.StatusCreated}, {"path=/d", http.StatusConflict}, {"path=/d&force=true", http.StatusCreated},
		{"path=/x/y", http.StatusNotFound}, {"path=/x/y&force=true", http.StatusCreated},
		{"path=/d&force=perhaps", http.StatusBadRequest}, {"path=/e&mode=99999", http.StatusBadRequest},
	} {
		if status, content := v.do(http.MethodPost, "dir", step.query, nil); status != step.status {
			t.Errorf("%s: %d %s", step.query, status, content)
		}
	}
	if info, err := os.Stat(v.inside("d")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", info, err)
	}
}

func TestNoPathLeadsOut(t *testing.T) {
	v := serve(t, DefaultLimits())
	for name, target := range map[string]string{"up": "../secret", "far": "/etc/passwd", "updir": "..", "loop": "loop"} {
		if err := os.Symlink(target, v.inside(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"../secret", "/a/../../secret", "up", "far", "updir/secret", "loop", "a%00b"} {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			status, content := v.do(method, "file", "path="+path, strings.NewReader("x"))
			if method == http.MethodPut && (path == "up" || path == "far" || path == "loop") {
				continue // The link itself is replaced: see below.
			}
			if status < 400 || status >= 500 || strings.Contains(content, "root:") {
				t.Errorf("%s %s: %d %s", method, path, status, content)
			}
		}
	}
	if content, err := os.ReadFile(filepath.Join(v.directory, "../secret")); err != nil || string(content) != "secret" {
		t.Errorf("the secret was changed: %q %v", content, err)
	}
	if status, _ := v.do(http.MethodDelete, "path", "path=updir", nil); status != http.StatusNoContent {
		t.Errorf("a link is removed itself: %d", status)
	}
	if _, err := os.Stat(filepath.Join(v.directory, "../secret")); err != nil {
		t.Error(err)
	}
}

// A guest swaps a directory for a link as often as it can.
func TestLinksThatChangeMeanwhileLeadNowhere(t *testing.T) {
	v := serve(t, DefaultLimits())
	if err := os.MkdirAll(v.inside("real"), 0o755); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = os.Symlink("..", v.inside("swapped"))
			_ = os.Remove(v.inside("swapped"))
			_ = os.Rename(v.inside("real"), v.inside("swapped"))
			_ = os.Rename(v.inside("swapped"), v.inside("real"))
		}
	}()
	for range 2000 {
		if _, content := v.do(http.MethodGet, "file", "path=swapped/secret", nil); content == "secret" {
			t.Fatal("it led out")
		}
	}
	for range 200 {
		v.put("swapped/secret", "changed")
	}
	stop.Store(true)
	<-done
	if content, err := os.ReadFile(filepath.Join(v.directory, "../secret")); err != nil || string(content) != "secret" {
		t.Errorf("the secret was changed: %q %v", content, err)
	}
}

func TestWhatIsNoFileHoldsNobodyUp(t *testing.T) {
	v := serve(t, DefaultLimits())
	if err := syscall.Mkfifo(v.inside("pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(v.inside("directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"pipe", "directory", ""} {
		if status, content := v.do(http.MethodGet, "file", "path="+path, nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, status, content)
		}
	}
	if status := v.put("pipe/file", "x"); status != http.StatusNotFound {
		t.Errorf("a pipe as a directory: %d", status)
	}
	if status := v.put("directory", "x"); status != http.StatusBadRequest {
		t.Errorf("a directory as a file: %d", status)
	}
	if status := v.put("pipe", "x"); status != http.StatusCreated {
		t.Errorf("a pipe is replaced: %d", status)
	}
}

func TestAPipeThatIsListedHoldsNobodyUp(t *testing.T) {
	v := serve(t, DefaultLimits())
	if err := syscall.Mkfifo(v.inside("pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(v.inside("directory/in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("directory", v.inside("link")); err != nil {
		t.Fatal(err)
	}
	if status, content := v.do(http.MethodGet, "dir", "path=link", nil); status != http.StatusOK || !strings.Contains(content, `"in"`) {
		t.Errorf("a link to a directory: %d %s", status, content)
	}
	answered := make(chan int, 1)
	go func() {
		status, _ := v.do(http.MethodGet, "dir", "path=pipe", nil)
		answered <- status
	}()
	select {
	case status := <-answered:
		if status != http.StatusNotFound {
			t.Errorf("%d", status)
		}
	case <-time.After(5 * time.Second):
		// Somebody has to write, or the server never ends.
		file, _ := os.OpenFile(v.inside("pipe"), os.O_RDWR, 0)
		defer file.Close()
		t.Error("the listing waits for a writer")
	}
}

func TestWithoutTheTokenThereIsNothing(t *testing.T) {
	v := serve(t, DefaultLimits())
	for name, change := range map[string]func(*http.Request){
		"none":    func(r *http.Request) { r.Header.Del("Authorization") },
		"another": func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") },
		"long":    func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 5000)) },
		"basic":   func(r *http.Request) { r.Header.Set("Authorization", "Basic right") },
		"id":      func(r *http.Request) { r.URL.Path = Prefix + "vzzzzzzzzzzzzzzzzzzzz/path" },
		"no id":   func(r *http.Request) { r.URL.Path = Prefix + "..%2f..%2f/path" },
	} {
		request, _ := http.NewRequest(http.MethodGet, v.url+Prefix+id+"/path?path=/", nil)
		request.Header.Set("Authorization", "Bearer "+token)
		change(request)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized && response.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", name, response.StatusCode)
		}
	}
}

func TestAnUploadThatEndsEarlyLeavesNothing(t *testing.T) {
	v := serve(t, DefaultLimits())
	if status := v.put("kept", "before"); status != http.StatusCreated {
		t.Fatal(status)
	}
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write([]byte("half"))
		_ = writer.CloseWithError(io.ErrClosedPipe)
	}()
	request, _ := http.NewRequest(http.MethodPut, v.url+Prefix+id+"/file?path=kept", reader)
	request.Header.Set("Authorization", "Bearer "+token)
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		names, err := os.ReadDir(v.directory)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", names)
		}
	}
	if content, _ := os.ReadFile(v.inside("kept")); string(content) != "before" {
		t.Errorf("%q", content)
	}
}

func TestListingsAreBounded(t *testing.T) {
	limits := DefaultLimits()
	limits.Entries = 10
	v := serve(t, limits)
	for n := range 11 {
		if status := v.put("f"+strings.Repeat("x", n), ""); status != http.StatusCreated {
			t.Fatal(status)
		}
	}
	if status, content := v.do(http.MethodGet, "dir", "path=/", nil); status != http.StatusBadRequest || !strings.Contains(content, "more entries") {
		t.Errorf("%d %s", status, content)
	}
	for _, depth := range []string{"0", "-1", "65", "x", "%2B1"} {
		if status, _ := v.do(http.MethodGet, "dir", "path=/&depth="+depth, nil); status != http.StatusBadRequest {
			t.Errorf("depth %s: %d", depth, status)
		}
	}
}

func TestAnUploadStaysInTheDirectoryThatItFound(t *testing.T) {
	v := serve(t, DefaultLimits())
	if err := os.Mkdir(v.inside("real"), 0o755); err != nil {
		t.Fatal(err)
	}
	reader, writer := io.Pipe()
	answered := make(chan *http.Response, 1)
	go func() {
		defer close(answered)
		request, _ := http.NewRequest(http.MethodPut, v.url+Prefix+id+"/file?path=real/name", reader)
		request.Header.Set("Authorization", "Bearer "+token)
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			answered <- response
		}
	}()
	_, _ = writer.Write([]byte("content"))
	v.waitForUpload("real")
	for _, err := range []error{os.Rename(v.inside("real"), v.inside("moved")), os.Symlink("..", v.inside("real")), writer.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}

	if response := <-answered; response == nil || response.StatusCode != http.StatusCreated {
		t.Errorf("%v", response)
	}
	names, err := os.ReadDir(v.inside("moved"))
	if err != nil || len(names) != 1 || names[0].Name() != "name" {
		t.Errorf("%v %v", names, err)
	}
}

// waitForUpload returns once an upload into this directory has begun.
func (v *volume) waitForUpload(directory string) {
	v.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		names, err := os.ReadDir(v.inside(directory))
		if err != nil || time.Now().After(deadline) {
			v.t.Fatalf("no upload has begun: %v", err)
		}
		if len(names) > 0 {
			return
		}
	}
}

func TestAnUploadIntoAVolumeThatIsDeletedMeanwhileFails(t *testing.T) {
	directory := t.TempDir()
	var asked atomic.Int32
	server := httptest.NewServer(NewHandler(func(context.Context, string, string) (string, error) {
		if asked.Add(1) > 1 {
			return "", ErrNotFound
		}
		return directory, nil
	}, DefaultLimits()))
	defer server.Close()
	v := &volume{t: t, url: server.URL, directory: directory}

	if status, content := v.do(http.MethodPut, "file", "path=name", strings.NewReader("x")); status != http.StatusNotFound || !strings.Contains(content, "no such volume") {
		t.Errorf("%d %s", status, content)
	}
}

func TestALongNameIsRefusedInWordsOfTheCaller(t *testing.T) {
	v := serve(t, DefaultLimits())
	status, content := v.do(http.MethodPut, "file", "path="+strings.Repeat("x", 256), strings.NewReader("x"))
	if status != http.StatusBadRequest || strings.Contains(content, ".upload-") || !strings.Contains(content, "too long") {
		t.Errorf("%d %s", status, content)
	}
}

func TestErrorsOfTwoPathsAreToldLikeThoseOfOne(t *testing.T) {
	for reason, status := range map[error]int{
		errors.New("path escapes from parent"): http.StatusBadRequest,
		syscall.EIO:                            http.StatusInternalServerError,
	} {
		answer := httptest.NewRecorder()
		explain(answer, &os.LinkError{Op: "renameat", Old: ".upload-x", New: "/host/path", Err: reason}, "name")
		if body := answer.Body.String(); answer.Code != status || strings.Contains(body, ".upload-") || strings.Contains(body, "/host") {
			t.Errorf("%v: %d %s", reason, answer.Code, body)
		}
	}
}

func TestOwnersThatTheKernelTakesForNoneAreRefused(t *testing.T) {
	v := serve(t, DefaultLimits())
	for _, query := range []string{"uid=4294967295", "gid=4294967295", "uid=-1"} {
		if status := v.put("f", "x", query); status != http.StatusBadRequest {
			t.Errorf("%s: %d", query, status)
		}
	}
	if status := v.put("f", "x", "uid=4294967294"); status != http.StatusCreated {
		t.Errorf("the last uid: %d", status)
	}
	for _, body := range []string{`{"uid": 4294967295}`, `{"gid": 4294967295}`} {
		if status, _ := v.do(http.MethodPatch, "path", "path=f", strings.NewReader(body)); status != http.StatusBadRequest {
			t.Errorf("%s: %d", body, status)
		}
	}
}
