package guestd_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
	"atoll.dev/dataplane/internal/gen/process"
)

// lean is a daemon whose login shells read nobody's own settings.
func lean(t *testing.T) *daemon {
	t.Helper()
	d := start(t, "127.0.0.1")
	home := t.TempDir()
	if err := d.configure(1, func(c *guestv1.Configuration) { c.Env["HOME"] = home }); err != nil {
		t.Fatal(err)
	}
	return d
}

func launch(d *daemon, command, ready string, seconds uint32) error {
	_, err := d.guest().Launch(context.Background(), connect.NewRequest(&guestv1.LaunchRequest{
		Command: command, Ready: ready, TimeoutSeconds: seconds,
	}))
	return err
}

func TestLaunchAnswersWhenTheProbeSucceedsAndTheCommandRunsOn(t *testing.T) {
	d := lean(t)
	flag := filepath.Join(t.TempDir(), "ready")

	if err := launch(d, "sleep 0.3; echo $A > "+flag+"; exec sleep 1000", "test -s "+flag, 30); err != nil {
		t.Fatal(err)
	}

	if content, err := os.ReadFile(flag); err != nil || string(content) != "b\n" {
		t.Errorf("ready before the probe could succeed, or without the sandbox's variables: %q, %v", content, err)
	}
	list := connect.NewRequest(&process.ListRequest{})
	list.Header().Set("X-Access-Token", token)
	answer, err := d.processes().List(context.Background(), list)
	if err != nil {
		t.Fatal(err)
	}
	found := answer.Msg.GetProcesses()
	if len(found) != 1 || found[0].GetTag() != "startCmd" {
		t.Fatalf("the start command is not the one that runs: %v", found)
	}
	kill := connect.NewRequest(&process.SendSignalRequest{
		Process: &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: "startCmd"}},
		Signal:  process.Signal_SIGNAL_SIGKILL,
	})
	kill.Header().Set("X-Access-Token", token)
	if _, err := d.processes().SendSignal(context.Background(), kill); err != nil {
		t.Error(err)
	}
}

func TestAStartCommandThatEndsWithZeroMayGetReadyLater(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "ready")
	if err := launch(lean(t), "(sleep 0.5; touch "+flag+") &", "test -e "+flag, 30); err != nil {
		t.Error(err)
	}
}

func TestAStartCommandThatFailsIsToldAtOnceWithWhatItSaid(t *testing.T) {
	begun := time.Now()
	err := launch(lean(t), "echo no port for me >&2; exit 3", "false", 60)

	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("error %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no port for me") {
		t.Errorf("it does not say what happened: %v", err)
	}
	if time.Since(begun) > 20*time.Second {
		t.Errorf("it took %s", time.Since(begun))
	}
}

func TestAStartCommandThatIsNeverReadyIsToldInTime(t *testing.T) {
	for name, probe := range map[string]string{"a probe that fails": "echo not yet; false", "a probe that hangs": "echo not yet; sleep 1000"} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			err := launch(lean(t), "head -c 100000 /dev/zero | tr '\\0' x; echo still trying; sleep 8", probe, 3)

			if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
				t.Fatalf("error %v", err)
			}
			if !strings.Contains(err.Error(), "still trying") || !strings.Contains(err.Error(), "not yet") || len(err.Error()) > 2048 {
				t.Errorf("it does not say what happened, or too much: %.3000v", err)
			}
			if time.Since(begun) > 15*time.Second {
				t.Errorf("it took %s", time.Since(begun))
			}
		})
	}
}

func TestALaunchThatCannotBeIsRefused(t *testing.T) {
	d := lean(t)
	for _, wrong := range []struct {
		command, ready string
		seconds        uint32
	}{
		{"", "true", 1},
		{"true", "", 1},
		{"true", "true", 0},
		{"true", "true", 100000},
		{"a\x00b", "true", 1},
		{strings.Repeat("x", 100000), "true", 1},
	} {
		if err := launch(d, wrong.command, wrong.ready, wrong.seconds); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%.40q, %q, %d: error %.200v", wrong.command, wrong.ready, wrong.seconds, err)
		}
	}
	if err := launch(start(t, "127.0.0.1"), "true", "true", 1); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("before the configuration: error %v", err)
	}
}

func TestLaunchingAgainEndsWhatRanFirst(t *testing.T) {
	d := lean(t)
	dir := t.TempDir()
	line := func(name string) string {
		return "sleep 1000 & echo $! > " + filepath.Join(dir, name) + "; exec sleep 1001"
	}
	if err := launch(d, line("first"), "test -s "+filepath.Join(dir, "first"), 30); err != nil {
		t.Fatal(err)
	}
	if err := launch(d, line("second"), "test -s "+filepath.Join(dir, "second"), 30); err != nil {
		t.Fatal(err)
	}

	for name, lives := range map[string]bool{"first": false, "second": true} {
		pid, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if runs := err == nil && !strings.Contains(string(stat), ") Z "); runs != lives {
			t.Errorf("%s: %q, %v", name, stat, err)
		}
	}
	if err := launch(d, "exit 0", "true", 30); err != nil { // Ends the second one, too.
		t.Error(err)
	}
}
