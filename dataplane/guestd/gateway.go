package guestd

import (
	"net"
	"net/netip"
	"slices"
)

// filtered is a listener that closes connections from anybody but the gateways before a byte is read.
type filtered struct {
	net.Listener
	gateways []netip.Addr
}

func onlyFrom(listener net.Listener, gateways []netip.Addr) net.Listener {
	return &filtered{Listener: listener, gateways: gateways}
}

func (f *filtered) Accept() (net.Conn, error) {
	for {
		conn, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if f.allowed(conn.RemoteAddr()) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func (f *filtered) allowed(peer net.Addr) bool {
	tcp, ok := peer.(*net.TCPAddr)
	return ok && slices.Contains(f.gateways, tcp.AddrPort().Addr().Unmap())
}
