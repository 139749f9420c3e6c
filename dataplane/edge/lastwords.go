package edge

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// lastWords writes requests in such a way that an answer is read though the other side takes no more.
//
// Who refuses a request may answer and close before its body is there. net/http would report that the body could not
// be written, and the answer, which has arrived, would be lost. If there is none, the reader finds that out.
// The first write of a request fails as ever: then nothing was sent, and the request may be sent once more.
type lastWords struct{ sent atomic.Bool }

// begin is called before each request that a connection carries.
func (w *lastWords) begin() { w.sent.Store(false) }

func (w *lastWords) write(conn net.Conn, p []byte) (int, error) {
	n, err := conn.Write(p)
	return w.heard(n, len(p), err)
}

// heard says what a write of size bytes shall have come to; nil believes what it came to.
func (w *lastWords) heard(n, size int, err error) (int, error) {
	switch {
	case w == nil:
	case err == nil:
		w.sent.Store(true)
	case w.sent.Load() && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)):
		return size, nil
	}
	return n, err
}
