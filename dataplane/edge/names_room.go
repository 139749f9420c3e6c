package edge

import (
	"net"
	"net/netip"
	"sync"
)

// peerDoor lets in so many connections of sandboxes at once, and so many of one sandbox.
//
// Each is one of our descriptors, also while nobody asks anything: those above are closed at once, since who opens
// that many names is no resolver, and a queue would keep the other sandboxes waiting behind him.
type peerDoor struct {
	net.Listener
	allowed peers
	// most and mostOfOne are how many may be open.
	most, mostOfOne int

	mu    sync.Mutex
	all   int
	peers map[netip.Addr]int
}

func newPeerDoor(listener net.Listener, allowed peers, most, mostOfOne int) *peerDoor {
	return &peerDoor{
		Listener: listener, allowed: allowed, most: most, mostOfOne: mostOfOne, peers: map[netip.Addr]int{},
	}
}

// Accept waits for a connection that there is room for.
func (d *peerDoor) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, ok := shareOf(conn.RemoteAddr())
		if ok && d.enter(peer) {
			return &peerConn{Conn: conn, leave: func() { d.leave(peer) }}, nil
		}
		conn.Close()
	}
}

func (d *peerDoor) enter(peer netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.allowed.contains(peer) || d.all >= d.most || d.peers[peer] >= d.mostOfOne {
		return false
	}
	d.all++
	d.peers[peer]++
	return true
}

func (d *peerDoor) leave(peer netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	d.peers[peer]--
	if d.peers[peer] == 0 {
		delete(d.peers, peer)
	}
}

type peerConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close makes room for the next connection.
func (c *peerConn) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}

// NetConn returns the connection itself.
func (c *peerConn) NetConn() net.Conn { return c.Conn }
