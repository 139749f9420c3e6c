package commands

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"
)

var (
	errNoStdin    = errors.New("stdin not enabled or closed")
	errNoTerminal = errors.New("tty not assigned to process")
)

// input is the writing end of a command's standard input, or of its terminal.
type input struct {
	turn     chan struct{} // holds one token: writers take turns, so that their bytes do not mix
	mu       sync.Mutex
	file     *os.File // nil: none, or closed
	terminal bool
}

func newInput(file *os.File, terminal bool) input {
	return input{turn: make(chan struct{}, 1), file: file, terminal: terminal}
}

func (i *input) current() *os.File {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.file
}

// write gives data to the command. A command that does not read holds the caller up until ctx ends.
func (i *input) write(ctx context.Context, data []byte) error {
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	file := i.current()
	if file == nil {
		return errNoStdin
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	_, err := file.Write(data)
	if !stop() {
		_ = file.SetWriteDeadline(time.Time{})
		if err != nil {
			return ctx.Err()
		}
	}
	return err
}

// close ends the command's input. A terminal's master stays open: it is the output too.
func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.file != nil && !i.terminal {
		_ = i.file.Close()
	}
	i.file = nil
}
