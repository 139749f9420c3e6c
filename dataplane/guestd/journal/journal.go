// Package journal keeps the last lines about what happened in a sandbox, until the host reads them.
//
// Adding is cheap: a line is put into words when it is read. Lines are bounded in number and size; what nobody reads
// in time gives way to what comes after it, and the reader sees from the numbers that lines are missing.
package journal

import (
	"encoding/json"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"atoll.dev/dataplane/guestd/limits"
)

// Level says how much a line matters.
type Level string

// The levels, as E2B's clients know them.
const (
	Info Level = "info"
	Warn Level = "warn"
)

// Field is a named fact of a line; the value is a string, an integer or a list of strings.
type Field struct {
	Name  string
	Value any
}

type line struct {
	number  uint64
	at      time.Time
	level   Level
	message string
	fields  []Field
}

// Journal is ready to use when it is zero.
type Journal struct {
	mu    sync.Mutex
	last  uint64 // the newest line's number; the first is 1
	lines []line // a ring once it is full: the line with number n is at n % limits.JournalLines
}

// Add keeps a line; of long texts their beginnings.
func (j *Journal) Add(level Level, message string, fields ...Field) {
	now := time.Now()
	for i := range fields {
		switch value := fields[i].Value.(type) {
		case string:
			fields[i].Value = short(value)
		case []string:
			fields[i].Value = joined(value)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines == nil {
		j.lines = make([]line, limits.JournalLines)
	}
	j.last++
	j.lines[j.last%limits.JournalLines] = line{number: j.last, at: now, level: level, message: short(message), fields: fields}
}

// Reset forgets all lines, for when the guest becomes another sandbox; numbers begin anew.
func (j *Journal) Reset() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines, j.last = nil, 0
}

// Read returns lines with numbers after a number, oldest first, each as JSON with a line's end, and whether there are
// more than limits.JournalRead bytes of them.
func (j *Journal) Read(after uint64) ([]byte, bool) {
	var text []byte
	for {
		next, ok := j.after(after)
		if !ok {
			return text, false
		}
		after = next.number
		words := next.words()
		if len(text)+len(words) > limits.JournalRead {
			return text, true
		}
		text = append(text, words...)
	}
}

// after finds the oldest line there is with a number after another's.
func (j *Journal) after(number uint64) (line, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if number >= j.last {
		return line{}, false
	}
	if oldest := max(j.last, limits.JournalLines) - limits.JournalLines; number < oldest {
		number = oldest
	}
	return j.lines[(number+1)%limits.JournalLines], true
}

func (l *line) words() []byte {
	fields := make(map[string]any, len(l.fields))
	for _, field := range l.fields {
		fields[field.Name] = field.Value
	}
	words, err := json.Marshal(map[string]any{
		"n": l.number, "t": l.at.UnixMilli(), "level": l.level, "message": l.message, "fields": fields,
	})
	if err != nil { // no value that is put in can cause it
		words = []byte("{}")
	}
	return append(words, '\n')
}

// joined puts words into one text, as far as it is kept.
func joined(words []string) string {
	var text strings.Builder
	for i, word := range words {
		if i > 0 {
			text.WriteByte(' ')
		}
		if text.Len() > limits.JournalText {
			break
		}
		text.WriteString(word[:min(len(word), limits.JournalText+1)])
	}
	return short(text.String())
}

// short cuts text to limits.JournalText bytes, between two characters, and does not hold on to the rest.
func short(text string) string {
	if len(text) <= limits.JournalText {
		return strings.ToValidUTF8(text, "?")
	}
	end := limits.JournalText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.ToValidUTF8(text[:end], "?") + "…"
}
