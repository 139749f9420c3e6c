package volumes

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
)

// chain makes directories in one another, deeper than a path can say.
func chain(t *testing.T, top string, levels int) {
	t.Helper()
	if err := os.MkdirAll(top, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Open(top, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	for n := 0; err == nil && n < levels; n++ {
		var below int
		if err = syscall.Mkdirat(at, "d", 0o755); err == nil {
			below, err = syscall.Openat(at, "d", syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
			_ = syscall.Close(at)
			at = below
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Close(at)
}

// fewDescriptors leaves the process no more than so many until the test ends.
func fewDescriptors(t *testing.T, most uint64) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
}

func TestATreeOfAnyDepthIsRemovedWithFewDescriptors(t *testing.T) {
	v := serve(t, DefaultLimits())
	chain(t, v.inside("deep/a"), 400)
	chain(t, v.inside("deep/b"), 400)
	fewDescriptors(t, 100)

	if status, content := v.do(http.MethodDelete, "path", "path=deep", nil); status != http.StatusNoContent {
		t.Errorf("%d %s", status, content)
	}
	if names, err := os.ReadDir(v.directory); err != nil || len(names) != 0 {
		t.Errorf("left: %v %v", names, err)
	}
}

func TestAWideTreeIsRemovedAndLinksInItAreNotFollowed(t *testing.T) {
	v := serve(t, DefaultLimits())
	for n := range 300 {
		inside := v.inside("wide/" + strconv.Itoa(n) + "/below")
		if err := os.MkdirAll(inside, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string]string{"out": filepath.Dir(v.directory), "kept": "../../../kept"} {
			if err := os.Symlink(target, filepath.Join(inside, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for n := range 2000 {
		if err := os.WriteFile(v.inside("wide/f"+strconv.Itoa(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(v.inside("kept/file"), 0o755); err != nil {
		t.Fatal(err)
	}

	if status, content := v.do(http.MethodDelete, "path", "path=wide", nil); status != http.StatusNoContent {
		t.Errorf("%d %s", status, content)
	}
	names, err := os.ReadDir(v.directory)
	if err != nil || len(names) != 1 {
		t.Errorf("left: %v %v", names, err)
	}
	for _, name := range []string{"kept/file", "../secret"} {
		if _, err := os.Lstat(v.inside(name)); err != nil {
			t.Error(err)
		}
	}
}

func TestARemovalEndsWithItsRequest(t *testing.T) {
	top := t.TempDir()
	chain(t, filepath.Join(top, "tree"), 100)
	holder, err := os.Open(top)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	if err := removeTree(ctx, holder, "tree"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(top, "tree")); err != nil {
		t.Error(err)
	}
}

// A guest moves a directory up and down while what is in it is removed: the way back up is another then.
func TestARemovalStaysInsideWhileDirectoriesMove(t *testing.T) {
	v := serve(t, DefaultLimits())
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			_ = os.Rename(v.inside("tree/a/b"), v.inside("moved"))
			_ = os.Rename(v.inside("moved"), v.inside("tree/a/b"))
		}
	}()
	for range 100 {
		_ = os.MkdirAll(v.inside("tree/a/b/c/d/e/f/g/h"), 0o755) // Or a part of it: they are moved meanwhile.
		if status, content := v.do(http.MethodDelete, "path", "path=tree", nil); status != http.StatusNoContent && status != http.StatusNotFound {
			t.Errorf("%d %s", status, content)
		}
	}
	stop.Store(true)
	<-done
	if content, err := os.ReadFile(v.inside("../secret")); err != nil || string(content) != "secret" {
		t.Errorf("the secret was changed: %q %v", content, err)
	}
}
