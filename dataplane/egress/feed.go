package egress

import (
	"net"
	"sync"
)

// feed is a listener whose connections are given to it.
type feed struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	ended   chan struct{}
}

func newFeed(address net.Addr) *feed {
	return &feed{address: address, conns: make(chan net.Conn), ended: make(chan struct{})}
}

// give hands a connection over; false: nobody takes it any more.
func (f *feed) give(conn net.Conn) bool {
	select {
	case f.conns <- conn:
		return true
	case <-f.ended:
		return false
	}
}

// Accept waits for a connection.
func (f *feed) Accept() (net.Conn, error) {
	select {
	case conn := <-f.conns:
		return conn, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}

// Close ends it.
func (f *feed) Close() error {
	f.once.Do(func() { close(f.ended) })
	return nil
}

// Addr returns where the connections came to.
func (f *feed) Addr() net.Addr { return f.address }
