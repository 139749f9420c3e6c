package journal

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"atoll.dev/dataplane/guestd/limits"
)

type read struct {
	N       uint64         `json:"n"`
	T       int64          `json:"t"`
	Level   string         `json:"level"`
	Message string         `json:"message"`
	Fields  map[string]any `json:"fields"`
}

func parse(t *testing.T, text []byte) []read {
	t.Helper()
	var lines []read
	for one := range bytes.Lines(text) {
		if !utf8.Valid(one) {
			t.Fatalf("not UTF-8: %q", one)
		}
		var line read
		if err := json.Unmarshal(one, &line); err != nil {
			t.Fatalf("%q: %s", one, err)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestLinesAreReadOnceAndInOrder(t *testing.T) {
	var j Journal
	j.Add(Info, "one", Field{"pid", 7}, Field{"args", []string{"a", "b"}})
	j.Add(Warn, "two")

	text, more := j.Read(0)
	lines := parse(t, text)
	rest, _ := j.Read(lines[1].N)

	if more || len(rest) != 0 || len(lines) != 2 {
		t.Fatalf("%v %q %v", more, rest, lines)
	}
	if lines[0].Message != "one" || lines[0].Fields["args"] != "a b" || lines[0].Fields["pid"] != 7.0 || lines[0].N != 1 {
		t.Fatalf("%+v", lines[0])
	}
	if lines[1].Level != "warn" || lines[1].T < lines[0].T {
		t.Fatalf("%+v", lines[1])
	}
}

func TestOldLinesGiveWayAndTheirNumbersAreMissing(t *testing.T) {
	var j Journal
	for range limits.JournalLines + 5 {
		j.Add(Info, "line")
	}

	text, _ := j.Read(0)

	lines := parse(t, text)
	if first := lines[0].N; first != 6 {
		t.Fatalf("the first is %d", first)
	}
}

func TestReadingIsBoundedAndGoesOn(t *testing.T) {
	var j Journal
	for range limits.JournalLines {
		j.Add(Info, "line", Field{"long", strings.Repeat("ü", limits.JournalText)})
	}
	seen, after := 0, uint64(0)
	for {
		text, more := j.Read(after)
		if len(text) > limits.JournalRead {
			t.Fatalf("%d bytes", len(text))
		}
		lines := parse(t, text)
		if len(lines) == 0 {
			t.Fatal("no progress")
		}
		seen += len(lines)
		after = lines[len(lines)-1].N
		if !more {
			break
		}
	}
	if seen != limits.JournalLines {
		t.Fatalf("%d lines", seen)
	}
}

func TestTextIsShortAndValid(t *testing.T) {
	for _, text := range []string{"\xff\xfe", strings.Repeat("日", 10_000), "a\x00\x1b[31m\n"} {
		var j Journal
		j.Add(Info, text)
		words, _ := j.Read(0)
		if lines := parse(t, words); len(lines) != 1 || len(lines[0].Message) > limits.JournalText+3 {
			t.Fatalf("%q", words)
		}
	}
}

func TestResetBeginsAnew(t *testing.T) {
	var j Journal
	j.Add(Info, "before")
	j.Reset()
	j.Add(Info, "after")

	text, _ := j.Read(0)

	if lines := parse(t, text); len(lines) != 1 || lines[0].Message != "after" || lines[0].N != 1 {
		t.Fatalf("%q", text)
	}
}

func TestManyWritersAndReaders(t *testing.T) {
	var j Journal
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 2 * limits.JournalLines {
				j.Add(Info, "line", Field{"pid", 1})
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	after := uint64(0)
	for {
		text, _ := j.Read(after)
		for _, line := range parse(t, text) {
			if line.N <= after {
				t.Errorf("%d after %d", line.N, after)
			}
			after = line.N
		}
		select {
		case <-done:
			if text, _ := j.Read(after); len(text) == 0 {
				return
			}
		default:
		}
	}
}
