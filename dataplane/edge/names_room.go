package edge

import (
	"net"
	"net/netip"
	"sync"
)

// nameDoor lets in so many connections to the name server at once, and so many of one sandbox.
//
// Each is one of our descriptors, also while nobody asks anything: those above are closed at once, since who opens
// that many is no resolver, and a queue would keep the other sandboxes waiting behind him.
type nameDoor struct {
	net.Listener
	limits  *Limits
	allowed netip.Prefix

	mu    sync.Mutex
	all   int
	peers map[netip.Addr]int
}

func newNameDoor(listener net.Listener, allowed netip.Prefix, limits *Limits) *nameDoor {
	return &nameDoor{Listener: listener, limits: limits, allowed: allowed, peers: map[netip.Addr]int{}}
}

// Accept waits for a connection that there is room for.
func (d *nameDoor) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, ok := addressOf(conn.RemoteAddr())
		if ok && d.enter(peer) {
			return &nameConn{Conn: conn, leave: func() { d.leave(peer) }}, nil
		}
		conn.Close()
	}
}

func (d *nameDoor) enter(peer netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.allowed.Contains(peer) || d.all >= d.limits.NameConnections ||
		d.peers[peer] >= d.limits.NameConnectionsPerSandbox {
		return false
	}
	d.all++
	d.peers[peer]++
	return true
}

func (d *nameDoor) leave(peer netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all--
	d.peers[peer]--
	if d.peers[peer] == 0 {
		delete(d.peers, peer)
	}
}

type nameConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close makes room for the next connection.
func (c *nameConn) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}
