package guestd_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

func named(c *guestv1.Configuration) {
	c.Identity.Hostname, c.Identity.MachineId = "i0", strings.Repeat("f0", 16)
	c.Network = &guestv1.Network{DnsServers: []string{"10.0.0.1"}}
}

func (d *daemon) journal(t *testing.T) string {
	t.Helper()
	answer, err := d.guest().ReadJournal(context.Background(), connect.NewRequest(&guestv1.ReadJournalRequest{SandboxId: "i0"}))
	if err != nil {
		t.Fatal(err)
	}
	return string(answer.Msg.GetLines())
}

func TestWhatCannotBeWrittenKeepsNoSandboxFromComingBack(t *testing.T) {
	for _, name := range []string{
		"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf", "run/e2b/.E2B_SANDBOX_ID", "run/atoll/generation",
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "127.0.0.1")
			if err := d.configure(1, named); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.root, name)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(path, "full"), 0o755); err != nil {
				t.Fatal(err)
			}

			if err := d.configure(2, named); err != nil {
				t.Fatal(err)
			}

			if said := d.journal(t); !strings.Contains(said, "/"+name) {
				t.Errorf("the journal does not name it: %s", said)
			}
			for _, other := range []string{"etc/machine-id", "run/atoll/generation"} {
				if other != name && content(t, filepath.Join(d.root, other)) == "" {
					t.Errorf("%s was not written", other)
				}
			}
		})
	}
}

func TestHooksThatAreAPipeKeepNoSandboxFromComingBack(t *testing.T) {
	d := configured(t)
	hooks := filepath.Join(d.root, "etc/atoll/restored.d")
	if err := os.MkdirAll(filepath.Dir(hooks), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(hooks, 0o600); err != nil {
		t.Fatal(err)
	}

	done := make(chan error, 1)
	go func() { done <- d.configure(2, nil) }()

	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		// Let it go, or nothing here ends.
		if pipe, err := os.OpenFile(hooks, os.O_RDWR, 0); err == nil {
			_ = pipe.Close()
		}
		t.Fatal("it waits for somebody who writes into the pipe")
	}
}

func TestAuthoritiesThatCannotBeWrittenKeepNoSandboxFromComingBack(t *testing.T) {
	d := configured(t)
	if err := os.MkdirAll(filepath.Join(d.root, "usr/local/share/ca-certificates/atoll-egress.crt/full"), 0o755); err != nil {
		t.Fatal(err)
	}

	if err := d.trust(certificate); err != nil {
		t.Fatal(err)
	}

	if said := d.journal(t); !strings.Contains(said, "atoll-egress.crt") {
		t.Errorf("the journal does not name it: %s", said)
	}
}
