package commands

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/guestd/limits"
)

func TestAReaderWhoLeavesHoldsNobodyUp(t *testing.T) {
	var f fanout
	s, err := f.subscribe(startEvent(1), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	published := make(chan struct{})
	go func() {
		defer close(published)
		for range 10 * limits.SubscriberQueue {
			f.publish(stdoutEvent([]byte("x")), 1)
		}
	}()

	s.Leave()

	select {
	case <-published:
	case <-time.After(5 * time.Second):
		t.Fatal("the command waits for a reader who left")
	}
}

func TestAReaderWhoReadsLosesNothing(t *testing.T) {
	var f fanout
	s, err := f.subscribe(startEvent(1), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	const events = 20 * limits.SubscriberQueue
	go func() {
		for i := range events {
			f.publish(stdoutEvent([]byte{byte(i)}), 1)
		}
		f.finish(endEvent(0, nil))
	}()

	<-s.Events() // start
	for i := range events {
		if got := (<-s.Events()).GetData().GetStdout(); len(got) != 1 || got[0] != byte(i) {
			t.Fatalf("event %d is %v", i, got)
		}
	}
	if (<-s.Events()).GetEnd() == nil {
		t.Error("the end is not the last")
	}
}

func TestReadersWhoAreStuckHoldACommandUpOnceAndNotOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f fanout
		cut := 0
		for range limits.Subscribers {
			if _, err := f.subscribe(nil, false, func() { cut++ }); err != nil {
				t.Fatal(err)
			}
		}
		started := time.Now()
		for range limits.SubscriberQueue {
			f.publish(stdoutEvent([]byte("x")), 1)
		}
		// One of them wakes up in time.
		reads := f.readersLocked()[10]
		go func() {
			time.Sleep(limits.SubscriberStall / 2)
			<-reads.Events()
		}()

		f.publish(stdoutEvent([]byte("x")), 1)

		if took := time.Since(started); took != limits.SubscriberStall {
			t.Errorf("the command was held up for %s", took)
		}
		if left := f.readersLocked(); cut != limits.Subscribers-1 || len(left) != 1 || left[0] != reads {
			t.Errorf("%d were cut off, %d are left", cut, len(left))
		}
	})
}

func TestReadersAreBounded(t *testing.T) {
	var f fanout
	for range limits.Subscribers {
		if _, err := f.subscribe(nil, false, nil); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := f.subscribe(nil, false, nil); !errors.Is(err, errTooManyReaders) {
		t.Errorf("got %v", err)
	}
}

func TestTheGreediestIsFoundAndNeverOurselves(t *testing.T) {
	proc := t.TempDir()
	for pid, pages := range map[int]int{1: 9000, 7: 8000, 20: 10, 21: 500, 22: 499} {
		dir := filepath.Join(proc, fmt.Sprint(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "statm"), fmt.Appendf(nil, "%d %d 0 0 0 0 0\n", pages*2, pages), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(proc, "30"), 0o755); err != nil { // It has just ended.
		t.Fatal(err)
	}

	found, err := greediest(proc, 7)

	if err != nil || len(found) != 3 || found[0].PID != 21 || found[0].Resident != 500*uint64(os.Getpagesize()) || found[2].PID != 20 {
		t.Errorf("%v %v", found, err)
	}
}

func TestAKilledProcessThatStillHoldsMemoryIsNotKilledAgainButCounts(t *testing.T) {
	var d dying
	d.add(21)
	d.killed[22] = time.Now().Add(-2 * dyingFor) // The number is another's by now.

	alive, held := d.sort([]*Victim{{PID: 21, Resident: 5}, {PID: 22, Resident: 4}, {PID: 23, Resident: 3}})

	if held != 5 || len(alive) != 2 || alive[0].PID != 22 || alive[1].PID != 23 {
		t.Errorf("%v %v", alive, held)
	}
}

func TestAsManyAreKilledAsHoldTheExcess(t *testing.T) {
	var commands []*exec.Cmd
	for range 4 {
		command := exec.Command("sleep", "60")
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, command)
		t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	}
	table := NewTable(nil, &Groups{path: "/nobody"}, &journal.Journal{})
	var victims []*Victim
	for _, command := range commands {
		bytes := uint64(0)
		for bytes == 0 { // It has its memory when it has been executed.
			bytes, _ = resident("/proc", command.Process.Pid)
		}
		victims = append(victims, &Victim{PID: command.Process.Pid, Resident: 100})
	}

	killed, err := table.killUntil(victims, 250)

	if err != nil || len(killed) != 3 {
		t.Errorf("%v %v", killed, err)
	}
	if killed, err = table.killUntil(victims, 250); err != nil || len(killed) != 0 {
		t.Errorf("killed again: %v %v", killed, err)
	}
}

func TestAKilledProcessIsToldOfOnlyInAnEndThatFailed(t *testing.T) {
	why := "killed: out of memory"
	const exit137, exit0, killed = 137 << 8, 0, 9 // as wait4 encodes them

	for status, want := range map[int]string{exit137: why, exit0: "", killed: why} {
		if got := endEvent(syscall.WaitStatus(status), &why).GetEnd().GetError(); got != want {
			t.Errorf("%d: %q", status, got)
		}
	}
	if got := endEvent(syscall.WaitStatus(killed), nil).GetEnd(); got.GetError() != "signal: killed" || got.GetExitCode() != -1 {
		t.Errorf("%v", got)
	}
}

func TestAProgramIsFoundInThePathOfItsCommand(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	found, err := findProgram("tool", "/", "/nowhere:"+dir)
	if err != nil || found != filepath.Join(dir, "tool") {
		t.Errorf("%q %v", found, err)
	}
	if _, err := findProgram("data", "/", dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that cannot be run was found: %v", err)
	}
}

func TestAnErrorRepeatsTheBeginningOfALongNameOnly(t *testing.T) {
	name := strings.Repeat("ö", 1<<20)

	for _, err := range []error{
		&StartError{Program: name, Reason: os.ErrNotExist},
		classify("/"+name, syscall.ENAMETOOLONG),
	} {
		if text := err.Error(); len(text) > 1024 || !utf8.ValidString(text) || !strings.Contains(text, "ööö") {
			t.Errorf("%d bytes: %.300q", len(text), text)
		}
	}
}

func FuzzCheckEnv(f *testing.F) {
	f.Add("A", "b")
	f.Add("", "")
	f.Add("A=B", "\x00")
	f.Fuzz(func(t *testing.T, key, value string) {
		ok := CheckEnv(map[string]string{key: value}) == nil
		entry := environ(map[string]string{key: value})[0]
		name, rest, found := strings.Cut(entry, "=")
		if ok && (!found || name != key || rest != value || strings.ContainsRune(entry, 0)) {
			t.Errorf("%q=%q would arrive as %q=%q", key, value, name, rest)
		}
	})
}
