package edge

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// liftedBytes is the size from which on a body is lifted: below, a pipe costs more than it saves.
	liftedBytes = 1 << 20
	// liftRoom is how much of a body a lift holds at most, in the kernel.
	liftRoom = 256 << 10
)

// lift carries a large body from one connection to another inside of the kernel, for less than half of the processor
// time that it takes to read and write it.
//
// net/http is asked for the body all the same, since it counts what it reads, and knows where it ends. It reads into
// room; the connection knows that piece of memory, and moves what came into a pipe instead. Bytes that come from
// net/http's own buffer do lie in room.
type lift struct {
	room         []byte
	in, out      int
	source, sink syscall.RawConn
	held         int
	// broken: what is in the pipe will never be read.
	broken bool
}

func newLift(source, sink *net.TCPConn) (*lift, error) {
	l := &lift{}
	var err error
	if l.source, err = source.SyscallConn(); err != nil {
		return nil, err
	}
	if l.sink, err = sink.SyscallConn(); err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	l.out, l.in = pipe[0], pipe[1]
	if _, err := unix.FcntlInt(uintptr(l.in), unix.F_SETPIPE_SZ, liftRoom); err != nil {
		l.close()
		return nil, err
	}
	l.room = make([]byte, liftRoom)
	return l, nil
}

// close throws away what is held.
func (l *lift) close() {
	_ = unix.Close(l.in)
	_ = unix.Close(l.out)
}

// isFor says whether a read is one for us.
func (l *lift) isFor(p []byte) bool {
	return l != nil && len(p) > 0 && &p[0] == &l.room[0] && l.held == 0 && !l.broken
}

// take is a read from the source, of at most size bytes, which are held then.
func (l *lift) take(size int) (int, error) {
	var n int
	var failed error
	err := l.source.Read(func(fd uintptr) bool {
		n, failed = splice(int(fd), l.in, size)
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, os.NewSyscallError("splice", failed)
	case n == 0:
		return 0, io.EOF
	}
	l.held = n
	return n, nil
}

// give writes what is held to the sink.
func (l *lift) give() (int, error) {
	given := 0
	for l.held > 0 {
		var n int
		var failed error
		err := l.sink.Write(func(fd uintptr) bool {
			n, failed = splice(l.out, int(fd), l.held)
			return !errors.Is(failed, unix.EAGAIN)
		})
		if err == nil {
			err = os.NewSyscallError("splice", failed)
		}
		if err != nil {
			l.held, l.broken = 0, true
			return given, err
		}
		given += n
		l.held -= n
	}
	return given, nil
}

func splice(from, to, size int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, size, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return max(int(n), 0), err
		}
	}
}

// copyTo reads a body of the source to its end, and writes all of it. What the words say of a failed write counts.
func (l *lift) copyTo(to io.Writer, words *lastWords, body io.Reader) (int64, error) {
	var total int64
	for {
		n, err := body.Read(l.room)
		var failed error
		switch {
		case l.held == 0:
			if n > 0 {
				n, failed = to.Write(l.room[:n])
			}
		case l.held == n:
			given, giving := l.give()
			n, failed = words.heard(given, n, giving)
		default:
			failed = fmt.Errorf("read %d bytes of a body, %d bytes of its connection", n, l.held)
		}
		total += int64(n)
		switch {
		case failed != nil:
			return total, failed
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// lifts bounds how many there are at once.
type lifts struct{ free chan struct{} }

func newLifts(most int) *lifts { return &lifts{free: make(chan struct{}, most)} }

// begin returns nil where bytes have to be read and written instead; otherwise end has to be called.
func (a *lifts) begin(source, sink *net.TCPConn) *lift {
	select {
	case a.free <- struct{}{}:
	default:
		return nil
	}
	l, err := newLift(source, sink)
	if err != nil {
		<-a.free
		return nil
	}
	return l
}

func (a *lifts) end(l *lift) {
	l.close()
	<-a.free
}

// copyPieces reads and writes.
func copyPieces(to io.Writer, from io.Reader) (int64, error) {
	piece := buffers.Get()
	defer buffers.Put(piece)
	return io.CopyBuffer(struct{ io.Writer }{to}, from, piece)
}
