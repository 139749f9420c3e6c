package files

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
)

func TestCodingIsGzipOnlyForWhoAsks(t *testing.T) {
	for accept, want := range map[string]string{
		"": "", "gzip": "gzip", "identity": "", "*": "", "br": "", "gzip;q=0": "", "gzip, identity": "gzip",
		"gzip;q=0.5, identity;q=0.8": "", "gzip;q=0.8, identity;q=0.5": "gzip", "identity;q=0, *;q=0": "406",
		"identity;q=0": "406", "identity;q=0, gzip": "gzip", "*;q=0": "406", "GZIP": "gzip", "gzip;q=7": "",
	} {
		coding, ok := chooseCoding(http.Header{"Accept-Encoding": {accept}})
		if !ok {
			coding = "406"
		}
		if coding != want {
			t.Errorf("%q: %q, not %q", accept, coding, want)
		}
	}
	if coding, _ := chooseCoding(http.Header{"Accept-Encoding": {"gzip"}, "Range": {"bytes=0-1"}}); coding != "" {
		t.Error("a range was compressed")
	}
}

func FuzzChooseCoding(f *testing.F) {
	f.Add("gzip;q=0.5, identity;q=0.8")
	f.Add("*;q=0")
	f.Fuzz(func(t *testing.T, accept string) {
		coding, _ := chooseCoding(http.Header{"Accept-Encoding": {accept}})
		if coding != "" && (coding != "gzip" || !strings.Contains(accept, "*") && !strings.Contains(strings.ToLower(accept), "gzip")) {
			t.Errorf("%q got %q", accept, coding)
		}
	})
}

func TestMetadataIsCheckedBeforeAnythingIsWritten(t *testing.T) {
	good, err := metadataOf(http.Header{"X-Metadata-My-Key": {"v"}, "Other": {"x"}})
	if err != nil || len(good) != 1 || good["my-key"] != "v" {
		t.Errorf("%v %v", good, err)
	}
	for name, header := range map[string]http.Header{
		"no key":    {"X-Metadata-": {"v"}},
		"long key":  {"X-Metadata-" + strings.Repeat("k", limits.MetadataKeyBytes+1): {"v"}},
		"not ASCII": {"X-Metadata-K": {"\xc3\xa9"}},
		"control":   {"X-Metadata-K": {"a\x01"}},
		"too much":  {"X-Metadata-K": {strings.Repeat("v", limits.MetadataBytes)}},
	} {
		if _, err := metadataOf(header); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestPermissionsAreShownAsLsShowsThem(t *testing.T) {
	for want, mode := range map[string]fs.FileMode{
		"-rw-r--r--": 0o644, "drwxr-xr-x": fs.ModeDir | 0o755, "lrwxrwxrwx": fs.ModeSymlink | 0o777,
		"-rwsr-sr-x": fs.ModeSetuid | fs.ModeSetgid | 0o755, "-rwSr--r--": fs.ModeSetuid | 0o644,
		"drwxrwxrwt": fs.ModeDir | fs.ModeSticky | 0o777, "crw-------": fs.ModeDevice | fs.ModeCharDevice | 0o600,
		"brw-rw----": fs.ModeDevice | 0o660, "prw-r--r--": fs.ModeNamedPipe | 0o644, "srwxr-xr-x": fs.ModeSocket | 0o755,
	} {
		if got := permissions(mode); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestComposingChecksEverySourceFirst(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "A")
	write("b", "B")
	write("out", "old")
	root, err := accounts.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	caller := &accounts.Caller{User: root, Settings: &settings.Settings{Workdir: dir}}
	read := func(name string) string {
		content, _ := os.ReadFile(filepath.Join(dir, name))
		return string(content)
	}

	for _, sources := range [][]string{{"a", "missing"}, {"a", "."}, {"a", "out"}, {}} {
		if _, err := compose(caller, &composeRequest{SourcePaths: sources, Destination: "out"}); err == nil {
			t.Errorf("%v was composed", sources)
		}
	}
	if read("out") != "old" || read("a") != "A" {
		t.Errorf("a refused composition changed %q %q", read("out"), read("a"))
	}

	if _, err := compose(caller, &composeRequest{SourcePaths: []string{"a", "b"}, Destination: "out"}); err != nil {
		t.Fatal(err)
	}
	if read("out") != "AB" {
		t.Errorf("composed %q", read("out"))
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("a source is still there")
	}
}

func TestAFileWithoutRoomIsRefusedBeforeItIsTouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new/huge")

	err := roomFor(path, 1<<60)

	p, ok := err.(*problem)
	if !ok || p.code != http.StatusInsufficientStorage {
		t.Errorf("got %v", err)
	}
	if err := roomFor(path, 1); err != nil {
		t.Errorf("one byte: %v", err)
	}
}

func TestAFileThatCannotBeReadIsRefusedBeforeItsAnswerBegins(t *testing.T) {
	root, err := accounts.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	caller := &accounts.Caller{User: root, Settings: &settings.Settings{}}
	for _, coding := range []string{"identity", "gzip"} {
		request := httptest.NewRequest(http.MethodGet, "/files?path=/proc/self/mem", nil)
		request.Header.Set("Accept-Encoding", coding)
		answer := httptest.NewRecorder()

		Download(answer, request, caller)

		if answer.Code != http.StatusBadRequest || !strings.Contains(answer.Body.String(), "cannot be read") || answer.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: %d %s %v", coding, answer.Code, answer.Body, answer.Header())
		}
	}
}

func TestAFileThatSaysItIsEmptyIsReadToItsEnd(t *testing.T) {
	root, err := accounts.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/proc/version")
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()

	Download(answer, httptest.NewRequest(http.MethodGet, "/files?path=/proc/version", nil), &accounts.Caller{User: root, Settings: &settings.Settings{}})

	if answer.Code != http.StatusOK || answer.Body.String() != string(want) {
		t.Errorf("%d %q", answer.Code, answer.Body)
	}
}
