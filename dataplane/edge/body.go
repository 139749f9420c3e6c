package edge

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// clientBody is a request's body, and what must be known about it afterwards.
type clientBody struct {
	io.ReadCloser
	in, out *http.Request
	control *http.ResponseController
	limits  *Limits
	// whenRead is called once, when all has been read.
	whenRead func()

	// closing: the connection ends with the answer anyway.
	closing bool
	// content is the whole of it, once readWhole has been called.
	content []byte

	mu          sync.Mutex
	ended       bool
	interrupted bool
	broken      error
	// closed: whoever forwards it has done with it.
	closed bool
}

// openBody makes request and answer independent: the answer may begin and end while the client still sends.
func openBody(w http.ResponseWriter, r *http.Request, limits *Limits) *clientBody {
	control := http.NewResponseController(w)
	// Always so in HTTP/2, where this says that it is not supported.
	_ = control.EnableFullDuplex()
	return &clientBody{ReadCloser: r.Body, in: r, control: control, limits: limits, ended: !hasBody(r)}
}

func hasBody(r *http.Request) bool { return r.Body != nil && r.Body != http.NoBody }

// readWhole reads all of a body of the size, so that whole can tell it.
func (b *clientBody) readWhole(size int64) error {
	if b.content != nil {
		return nil
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(b, content); err != nil {
		return err
	}
	// Its end has to be read, too: only then the client may send the next request.
	if _, err := io.Copy(io.Discard, b); err != nil {
		return err
	}
	b.content = content
	return nil
}

// whole returns a body that net/http sends in one packet with the headers, which it does only with what it knows to be
// in memory: inside of a sandbox each packet wakes the one who reads it, which costs half a millisecond.
// It is nil before readWhole.
func (b *clientBody) whole() io.ReadCloser {
	if b.content == nil {
		return nil
	}
	return io.NopCloser(bytes.NewReader(b.content))
}

func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

// Close lets go of the body, which leave reads on: net/http's own Close would have the connection reset while the
// client sends, and with it goes an answer that the client has not read.
func (b *clientBody) Close() error {
	if b.in.ProtoMajor != 1 {
		return b.ReadCloser.Close()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

func (b *clientBody) read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	b.mu.Lock()
	first := !b.ended && err == io.EOF
	b.ended = b.ended || err == io.EOF
	if b.broken == nil && err != io.EOF {
		b.broken = err
	}
	b.mu.Unlock()
	if first {
		b.finish()
	}
	return n, err
}

// finish hands on the trailers, which are known only now, and only those that were announced.
func (b *clientBody) finish() {
	if b.out != nil {
		for name := range b.out.Trailer {
			b.out.Trailer[name] = b.in.Trailer[name]
		}
	}
	if b.whenRead != nil {
		b.whenRead()
	}
}

func (b *clientBody) sendTrailersWith(out *http.Request) { b.out = out }

// interrupt ends a read that waits for the client: there is nobody to read for any more.
func (b *clientBody) interrupt() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || b.interrupted || b.broken != nil {
		return
	}
	b.interrupted = true
	// Long ago, but not what net/http calls long ago. Fails only where there is no connection any more.
	_ = b.control.SetReadDeadline(aborted.Add(time.Second))
}

// wasInterrupted says that reading ended by our doing, so that the client may still be there to be answered.
func (b *clientBody) wasInterrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.interrupted
}

// failure returns why reading ended before the end of the body; nil if it did not.
func (b *clientBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// unreadable says that the client's bytes were no body, or ended before it did.
func (b *clientBody) unreadable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken != nil && !b.interrupted && !errors.Is(b.broken, os.ErrDeadlineExceeded)
}

// closeAfter has the connection closed after the answer, which has not begun: nobody knows where the next request
// begins, and net/http would take what follows for it.
func (b *clientBody) closeAfter(w http.ResponseWriter) {
	if b.in.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	b.closing = true
}

// leave reads what the client still sends after the answer, for a bounded time: many clients read an answer when they
// have sent all, or are reset. What is not read to its end then ends the connection: net/http would read a little more,
// for as long, and take what follows for the next request.
func (b *clientBody) leave() {
	if b.in.ProtoMajor != 1 {
		return
	}
	b.mu.Lock()
	unread := !b.ended && b.broken == nil && !b.interrupted
	b.mu.Unlock()
	if unread {
		// Both fail only where there is no connection any more.
		_ = b.control.SetReadDeadline(time.Now().Add(b.limits.LeftoverTime))
		_ = b.control.Flush()
		_, _ = io.CopyN(io.Discard, readerFunc(b.read), leftoverBytes) // How reading ended is noted.
	}
	b.mu.Lock()
	lost := !b.ended && !b.closing
	b.mu.Unlock()
	if lost {
		_ = b.control.Flush()
		panic(http.ErrAbortHandler)
	}
}

// leftoverBytes is how much of a body is read after the answer.
const leftoverBytes = 64 << 20

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
