package commands

import (
	"container/list"
	"sync"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// recent holds the last output of all commands, for callers who come back and ask for it.
//
// Each command has at most limits.RecentBytes in it and all together limits.RecentTotal; the oldest output goes first.
type recent struct {
	mu     sync.Mutex
	chunks list.List // of *chunk, oldest first
	size   int
}

// history is one command's part of recent, which guards it.
type history struct {
	chunks  list.List // of *chunk, oldest first
	size    int
	printed uint64
	gone    bool // nothing is kept any more
}

// chunk is one event that is held.
type chunk struct {
	event *process.ProcessEvent
	size  int
	bytes uint64
	owner *history
	// Its places in both lists.
	among, own *list.Element
}

// add holds an event of a command; events are not changed by anybody.
func (r *recent) add(h *history, event *process.ProcessEvent, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.printed += uint64(bytes)
	if h.gone {
		return
	}
	held := &chunk{event: event, size: bytes + limits.RecentOverhead, bytes: uint64(bytes), owner: h}
	held.among = r.chunks.PushBack(held)
	held.own = h.chunks.PushBack(held)
	r.size += held.size
	h.size += held.size
	for h.size > limits.RecentBytes {
		r.dropLocked(h.chunks.Front().Value.(*chunk))
	}
	for r.size > limits.RecentTotal {
		r.dropLocked(r.chunks.Front().Value.(*chunk))
	}
}

func (r *recent) dropLocked(held *chunk) {
	r.chunks.Remove(held.among)
	held.owner.chunks.Remove(held.own)
	r.size -= held.size
	held.owner.size -= held.size
}

// of returns what is held of a command, oldest first, and how many bytes that are and how many were printed before.
func (r *recent) of(h *history) (events []*process.ProcessEvent, bytes, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events = make([]*process.ProcessEvent, 0, h.chunks.Len()+2)
	for element := h.chunks.Front(); element != nil; element = element.Next() {
		held := element.Value.(*chunk)
		events = append(events, held.event)
		bytes += held.bytes
	}
	return events, bytes, h.printed - bytes
}

// forget lets go of what is held of a command.
func (r *recent) forget(h *history) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.gone = true
	for h.chunks.Len() > 0 {
		r.dropLocked(h.chunks.Front().Value.(*chunk))
	}
}
