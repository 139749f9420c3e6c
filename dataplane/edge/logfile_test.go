package edge

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// logTo opens a log as the program does: on a descriptor that led elsewhere before.
func logTo(t *testing.T, path string, most int64, kept int) (*LogFile, *os.File) {
	t.Helper()
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	log, err := OpenLogFile(out, path, most, kept)
	if err != nil {
		t.Fatal(err)
	}
	return log, out
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAFullLogIsRenamedAndOnlySoManyAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	log, _ := logTo(t, path, 20, 2)

	for n := range 9 {
		fmt.Fprintf(log, "line %d...\n", n) // 10 bytes
	}

	if got := content(t, path) + content(t, path+".1") + content(t, path+".2"); got !=
		"line 8...\nline 6...\nline 7...\nline 4...\nline 5...\n" {
		t.Fatalf("got %q", got)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 3 {
		t.Fatalf("there are %v", entries)
	}
}

func TestALogGoesOnBehindWhatIsThereAndCountsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 15)), 0o600); err != nil {
		t.Fatal(err)
	}
	log, _ := logTo(t, path, 20, 1)

	fmt.Fprint(log, "1234\n")
	if got := content(t, path); got != strings.Repeat("x", 15)+"1234\n" {
		t.Fatalf("got %q", got)
	}
	fmt.Fprint(log, "5\n")
	if got := content(t, path); got != "5\n" {
		t.Fatalf("got %q", got)
	}
}

func TestTheDescriptorItselfLeadsToTheNewestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	log, out := logTo(t, path, 8, 1)
	fmt.Fprint(log, "before\n")
	fmt.Fprint(log, "after\n")

	// What the runtime does when the program panics.
	fmt.Fprint(out, "panic\n")

	if got := content(t, path); got != "after\npanic\n" {
		t.Fatalf("got %q", got)
	}
}

func TestALogThatCannotBeRenamedIsEmptiedInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	log, _ := logTo(t, path, 8, 1)
	// A directory with something in it is in the way.
	if err := os.MkdirAll(filepath.Join(path+".1", "x"), 0o700); err != nil {
		t.Fatal(err)
	}

	for n := range 5 {
		fmt.Fprintf(log, "line %d\n", n)
	}

	if got := content(t, path); got != "line 4\n" {
		t.Fatalf("got %q", got)
	}
}

func TestALineLongerThanTheBoundIsWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	log, _ := logTo(t, path, 4, 0)

	fmt.Fprint(log, "long line\n")
	fmt.Fprint(log, "other one\n")

	if got := content(t, path); got != "other one\n" {
		t.Fatalf("got %q", got)
	}
}

func TestManyMayWriteAtOnceAndNoLineIsTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge.log")
	log, _ := logTo(t, path, 1000, 20)
	line := []byte(strings.Repeat("x", 49) + "\n")
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 40 {
				if _, err := log.Write(line); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()

	files, _ := filepath.Glob(path + "*")
	lines := 0
	for _, file := range files {
		text := []byte(content(t, file))
		if len(text) > 1000 {
			t.Fatalf("%s has %d bytes", file, len(text))
		}
		lines += bytes.Count(text, line)
	}
	if lines != 320 {
		t.Fatalf("%d of 320 lines are there", lines)
	}
}

func TestALogWithoutRoomIsRefused(t *testing.T) {
	for _, bounds := range [][2]int{{0, 1}, {-1, 1}, {10, -1}} {
		if _, err := OpenLogFile(os.Stderr, filepath.Join(t.TempDir(), "l"), int64(bounds[0]), bounds[1]); err == nil {
			t.Fatalf("%v was taken", bounds)
		}
	}
}
