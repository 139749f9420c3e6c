package volumes

import "time"

// Limits bound what clients of volumes can use.
type Limits struct {
	// Requests at once: each holds a few descriptors, whatever guests made, and a buffer.
	Requests int
	// Entries in one answer to a listing, and Depth of the directories in it.
	Entries, Depth int
	// Stall is how long a client may send or take nothing.
	Stall time.Duration
}

// DefaultLimits fits machines of any size.
func DefaultLimits() Limits {
	return Limits{Requests: 64, Entries: 10_000, Depth: 64, Stall: 60 * time.Second}
}
