package guestd_test

import (
	"context"
	"fmt"
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

func TestNothingOfARehearsalRunsOnInTheMachineThatWaits(t *testing.T) {
	for name, script := range map[string]string{
		"it hangs":             "echo $$ > %s; exec sleep 1000",
		"it leaves a child":    "sleep 1000 & echo $! > %s",
		"it leaves a daemon":   "setsid -f sh -c 'echo $$ > \"$0\"; exec sleep 1000' %[1]s > /dev/null 2>&1; until test -s %[1]s; do :; done",
		"it leaves one behind": "sh -c 'trap \"\" TERM HUP; echo $$ > \"$0\"; while :; do echo y; done' %[1]s & until test -s %[1]s; do :; done",
		"it prints for ever":   "echo $$ > %s; while :; do echo y; done",
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "127.0.0.1")
			said := filepath.Join(t.TempDir(), "pid")
			begun := time.Now()

			if err := d.configure(1, rehearsing(t, fmt.Sprintf(script, said), true)); err != nil {
				t.Fatal(err)
			}

			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			pid := strings.TrimSpace(content(t, said))
			if runs(t, pid) {
				t.Errorf("process %s lives on", pid)
			}
		})
	}
}

// runs reports whether a process has not ended; who has, may wait to be reaped.
func runs(t *testing.T, pid string) bool {
	t.Helper()
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}
