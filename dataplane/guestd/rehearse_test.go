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

// rehearsing has the shell of the rehearsal run a script, which shows that it ran.
func rehearsing(t *testing.T, script string, waits bool) func(*guestv1.Configuration) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(c *guestv1.Configuration) {
		c.Waits = waits
		c.Env["BASH_ENV"] = path
	}
}

func TestWhatIsToWaitRunsACommandOfWhichNothingTells(t *testing.T) {
	d := start(t, "127.0.0.1")
	ran := filepath.Join(t.TempDir(), "ran")
	if err := d.configure(1, rehearsing(t, "touch "+ran, false)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Fatal("what somebody waits for rehearsed")
	}

	if err := d.configure(2, rehearsing(t, "touch "+ran, true)); err != nil {
		t.Fatal(err)
	}

	if _, err := os.Stat(ran); err != nil {
		t.Errorf("nothing ran: %v", err)
	}
	journal, err := d.guest().ReadJournal(context.Background(), connect.NewRequest(&guestv1.ReadJournalRequest{SandboxId: "i0"}))
	if err != nil || len(journal.Msg.GetLines()) != 0 {
		t.Errorf("the journal has %q, %v", journal.Msg.GetLines(), err)
	}
	list := connect.NewRequest(&process.ListRequest{})
	list.Header().Set("X-Access-Token", token)
	commands, err := d.processes().List(context.Background(), list)
	if err != nil || len(commands.Msg.GetProcesses()) != 0 {
		t.Errorf("the list has %v, %v", commands, err)
	}
}

func TestARehearsalThatHangsIsEndedAndTheMachineWaits(t *testing.T) {
	d := start(t, "127.0.0.1")
	said := filepath.Join(t.TempDir(), "pid")
	begun := time.Now()

	if err := d.configure(1, rehearsing(t, "echo $$ > "+said+"; exec sleep 1000", true)); err != nil {
		t.Fatal(err)
	}

	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	pid := strings.TrimSpace(content(t, said))
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("process %s lives on", pid)
		}
	}
}
