package guestd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

func hook(t *testing.T, root, name, script string) {
	t.Helper()
	path := filepath.Join(root, "etc/atoll/restored.d", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestHooksHaveRunWhenANewGenerationIsAnswered(t *testing.T) {
	d := start(t, "127.0.0.1")
	said := filepath.Join(t.TempDir(), "said")
	hook(t, d.root, "1-fails", "echo one $ATOLL_GENERATION >> "+said+"; exit 1")
	hook(t, d.root, "2-follows", "sleep 0.2; echo two $ATOLL_GENERATION $(cat "+d.root+"/run/atoll/generation) >> "+said)
	if err := os.WriteFile(filepath.Join(d.root, "etc/atoll/restored.d/README"), []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}

	if err := d.configure(1, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(said); err == nil {
		t.Error("a first start is no restore, and ran the hooks")
	}
	if got := content(t, filepath.Join(d.root, "run/atoll/generation")); got != "1\n" {
		t.Errorf("generation %q", got)
	}

	if err := d.configure(7, nil); err != nil {
		t.Fatal(err)
	}
	if got := content(t, said); got != "one 7\ntwo 7 7\n" {
		t.Errorf("the hooks said %q", got)
	}

	if err := d.configure(8, func(c *guestv1.Configuration) { c.Claimed = true }); err != nil {
		t.Fatal(err)
	}
	if got := content(t, said); got != "one 7\ntwo 7 7\n" {
		t.Errorf("a claim is no restore, and ran the hooks: %q", got)
	}
	if got := content(t, filepath.Join(d.root, "run/atoll/generation")); got != "8\n" {
		t.Errorf("generation %q", got)
	}
}

func TestAHookThatHangsKeepsNoSandboxFromComingBack(t *testing.T) {
	d := start(t, "127.0.0.1")
	hook(t, d.root, "hangs", "exec sleep 1000")
	if err := d.configure(1, nil); err != nil {
		t.Fatal(err)
	}

	begun := time.Now()
	if err := d.configure(2, func(c *guestv1.Configuration) { c.Env["B"] = "c" }); err != nil {
		t.Fatal(err)
	}

	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestAClaimWritesWhatIsNewAndNothingElse(t *testing.T) {
	d := start(t, "127.0.0.1")
	named := func(team, servers string, claimed bool) func(*guestv1.Configuration) {
		return func(c *guestv1.Configuration) {
			c.Claimed = claimed
			c.Identity.TeamId, c.Identity.Hostname, c.Identity.MachineId = team, "i0", strings.Repeat("f0", 16)
			c.Network = &guestv1.Network{DnsServers: []string{servers}}
		}
	}
	if err := d.configure(1, named("", "10.0.0.1", false)); err != nil {
		t.Fatal(err)
	}
	before := map[string]os.FileInfo{}
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/machine-id", "run/e2b/.E2B_SANDBOX_ID"} {
		before[name], _ = os.Stat(filepath.Join(d.root, name))
	}

	if err := d.configure(2, named("mine", "10.0.0.2", true)); err != nil {
		t.Fatal(err)
	}
	for name, was := range before {
		if is, err := os.Stat(filepath.Join(d.root, name)); err != nil || !os.SameFile(was, is) || !is.ModTime().Equal(was.ModTime()) {
			t.Errorf("%s was written again: %v", name, err)
		}
	}
	if got := content(t, filepath.Join(d.root, "run/e2b/.E2B_TEAM_ID")); got != "mine" {
		t.Errorf("team %q", got)
	}
	if got := content(t, filepath.Join(d.root, "etc/resolv.conf")); got != "nameserver 10.0.0.2\n" {
		t.Errorf("name servers %q", got)
	}

	// After a restore everything is written: whoever was root inside may have changed it.
	if err := os.WriteFile(filepath.Join(d.root, "etc/machine-id"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.configure(3, named("mine", "10.0.0.2", false)); err != nil {
		t.Fatal(err)
	}
	if got := content(t, filepath.Join(d.root, "etc/machine-id")); got != strings.Repeat("f0", 16)+"\n" {
		t.Errorf("machine id %q", got)
	}
}
