package commands

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// collect reads everything up to the end, the backlog first.
func collect(t *testing.T, s *Subscription) (output []byte, starts int) {
	t.Helper()
	take := func(event *process.ProcessEvent) bool {
		if event.GetStart() != nil {
			starts++
		}
		output = append(output, event.GetData().GetStdout()...)
		return event.GetEnd() == nil
	}
	for _, event := range s.Backlog {
		take(event)
	}
	for {
		select {
		case event := <-s.Events():
			if !take(event) {
				return output, starts
			}
		case <-time.After(20 * time.Second):
			t.Error("no end")
			return output, starts
		}
	}
}

func TestWhoComesBackSeesNoGapAndNothingTwice(t *testing.T) {
	const events, readers = 20_000, 40
	var held recent
	f := fanout{recent: &held}
	var all []byte
	for i := range events {
		all = binary.BigEndian.AppendUint32(all, uint32(i))
	}
	begin := make(chan struct{})
	var done sync.WaitGroup
	for range readers {
		done.Go(func() {
			<-begin
			time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
			s, err := f.subscribe(startEvent(1), true, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Leave()
			output, starts := collect(t, s)
			if starts != 1 {
				t.Errorf("%d starts", starts)
			}
			if uint64(len(output))+s.Lost != uint64(len(all)) || !bytes.HasSuffix(all, output) {
				t.Errorf("%d bytes, %d from the past and %d lost, of %d", len(output), s.Recent, s.Lost, len(all))
			}
		})
	}
	close(begin)
	for i := range events {
		f.publish(stdoutEvent(all[4*i:4*i+4]), 4)
		if i%1000 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	f.finish(endEvent(0, nil))
	done.Wait()
}

func TestWhoDoesNotAskGetsNothingOfThePast(t *testing.T) {
	var held recent
	f := fanout{recent: &held}
	f.publish(stdoutEvent([]byte("past")), 4)
	f.finish(endEvent(0, nil))

	s, err := f.subscribe(startEvent(1), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if output, starts := collect(t, s); len(output) != 0 || starts != 1 {
		t.Fatalf("%q after %d starts", output, starts)
	}
}

func TestOneCommandHoldsABoundedPartTheNewest(t *testing.T) {
	var held recent
	f := fanout{recent: &held}
	for i := range 100 {
		f.publish(stdoutEvent(bytes.Repeat([]byte{byte(i)}, limits.OutputChunk)), limits.OutputChunk)
		if f.history.size > limits.RecentBytes || held.size != f.history.size {
			t.Fatalf("%d bytes of one command, %d of all", f.history.size, held.size)
		}
	}
	for range 10_000 {
		f.publish(stdoutEvent([]byte("x")), 1)
	}
	events, size, lost := held.of(&f.history)
	if len(events) > limits.RecentBytes/limits.RecentOverhead || size == 0 || size+lost != 100*limits.OutputChunk+10_000 {
		t.Fatalf("%d events, %d bytes, %d lost", len(events), size, lost)
	}
}

func TestAllCommandsTogetherHoldABoundedPart(t *testing.T) {
	var held recent
	commands := make([]fanout, 200)
	for i := range commands {
		commands[i].recent = &held
		for range 3 {
			commands[i].publish(stdoutEvent(make([]byte, limits.OutputChunk)), limits.OutputChunk)
		}
		if held.size > limits.RecentTotal {
			t.Fatalf("%d bytes", held.size)
		}
	}
	if _, size, lost := held.of(&commands[0].history); size != 0 || lost != 3*limits.OutputChunk {
		t.Fatalf("the oldest holds %d, lost %d", size, lost)
	}
	if _, size, _ := held.of(&commands[199].history); size != 3*limits.OutputChunk {
		t.Fatalf("the newest holds %d", size)
	}
	for i := range commands {
		commands[i].forget()
	}
	if held.size != 0 || held.chunks.Len() != 0 {
		t.Fatalf("%d bytes are left of nobody", held.size)
	}
	commands[3].publish(stdoutEvent([]byte("late")), 4)
	if held.size != 0 {
		t.Fatal("a forgotten command holds output")
	}
}

func TestCommandsThatPrintAtOnceDoNotHarmEachOther(t *testing.T) {
	var held recent
	var done sync.WaitGroup
	for range 16 {
		done.Go(func() {
			f := fanout{recent: &held}
			for range 500 {
				f.publish(stdoutEvent(make([]byte, 1024)), 1024)
			}
			f.finish(endEvent(0, nil))
			s, err := f.subscribe(startEvent(1), true, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if output, _ := collect(t, s); uint64(len(output))+s.Lost != 500*1024 {
				t.Errorf("%d bytes and %d lost", len(output), s.Lost)
			}
			f.forget()
		})
	}
	done.Wait()
	if held.size != 0 {
		t.Fatalf("%d bytes are left", held.size)
	}
}

func BenchmarkPublishWithNobodyReading(b *testing.B) {
	for _, name := range []string{"held", "not held"} {
		b.Run(name, func(b *testing.B) {
			var f fanout
			if name == "held" {
				f.recent = new(recent)
			}
			for b.Loop() {
				f.publish(stdoutEvent([]byte("hello")), 5)
			}
		})
	}
}
