package files

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/settings"
	"atoll.dev/dataplane/internal/gen/filesystem"
)

// asRoot returns a context of root's, whose relative paths start in the directory.
func asRoot(t *testing.T, workdir string) context.Context {
	t.Helper()
	root, err := accounts.Lookup("root")
	if err != nil {
		t.Fatal(err)
	}
	return accounts.WithCaller(t.Context(), &accounts.Caller{User: root, Settings: &settings.Settings{Workdir: workdir}})
}

func TestNothingIsRemovedOrMovedWithoutAPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "home")
	if err := os.MkdirAll(filepath.Join(dir, "kept"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, service := asRoot(t, dir), NewService()

	_, err := service.Remove(ctx, connect.NewRequest(&filesystem.RemoveRequest{}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("remove: %v", err)
	}
	for _, move := range []*filesystem.MoveRequest{{Destination: filepath.Join(dir, "../moved")}, {Source: "kept"}} {
		_, err := service.Move(ctx, connect.NewRequest(move))
		if connect.CodeOf(err) != connect.CodeInvalidArgument || err.Error() != "invalid_argument: path is empty" {
			t.Errorf("move %v: %v", move, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kept")); err != nil {
		t.Error(err)
	}
}

func TestWhatTheSystemHoldsIsRefusedAndNoFaultOfOurs(t *testing.T) {
	err := failure("/", &os.LinkError{Op: "rename", Old: "/", New: "/x", Err: unix.EBUSY})

	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("%v", err)
	}
}
