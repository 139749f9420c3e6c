// Package blobs keeps checkpoints as runs of pages: cut by content, named by their SHA-256, compressed, and
// kept once in a store that all checkpoints of a home share. The server has it pack, unpack and sweep by starting
// the program atoll-blobs for each; nothing here knows what a checkpoint is for.
package blobs

import (
	"context"
	"errors"
	"fmt"
)

// Store keeps what is under the name of its content. Its methods may be called at the same time.
type Store interface {
	// Has says whether a run is there, so that it can be relied on: what is there and is not what its name says,
	// is not there.
	Has(ctx context.Context, run Run) (bool, error)
	// Put keeps a compressed run; it is there for certain once Flush has returned.
	Put(ctx context.Context, name Sum, compressed []byte) error
	// Flush has all that was put on the disk, and visible.
	Flush() error
	// Get returns what was put; ErrMissing when nothing was.
	Get(ctx context.Context, name Sum) ([]byte, error)
	// Each calls back with every run that is kept, and its length there.
	Each(ctx context.Context, found func(name Sum, size int64) error) error
	// Delete removes runs; what is not there is no error.
	Delete(ctx context.Context, names []Sum) error
	// AtOnce is how many calls at the same time are of use.
	AtOnce() int
	// Leftovers removes what killed writers left.
	Leftovers() error
}

// What can be wrong, as far as callers do different things then.
var (
	// ErrDamaged: what is kept is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrMissing: what should be kept is not there.
	ErrMissing = errors.New("missing")
	// ErrFull: there is no room.
	ErrFull = errors.New("full")
	// ErrGone: what was to be packed or unpacked is not there, or not any more.
	ErrGone = errors.New("gone")
	// ErrUnavailable: the store does not answer.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied: the store does not let us.
	ErrDenied = errors.New("denied")
	// ErrBusy: others work in the store, and did not end in time.
	ErrBusy = errors.New("busy")
)

func failed(kind error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))
}
