package guestd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/wire"
)

// Ports of guestd.
const (
	PublicPort  = 49983
	PrivatePort = 49982
)

// tunnel answers CONNECT 127.0.0.1:<port>: the edge's way to programs that listen on loopback only.
type tunnel struct {
	slots chan struct{}
	dial  func(ctx context.Context, address string) (net.Conn, error)
}

func newTunnel() *tunnel {
	dialer := net.Dialer{Timeout: limits.TunnelDial, KeepAlive: -1}
	return &tunnel{
		slots: make(chan struct{}, limits.Tunnels),
		dial: func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		},
	}
}

// loopbackPort returns the port of a tunnel's target, which names 127.0.0.1 or it is refused.
func loopbackPort(target string) (uint16, error) {
	text, ok := strings.CutPrefix(target, "127.0.0.1:")
	if !ok {
		return 0, errors.New("a tunnel leads to 127.0.0.1:<port>")
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || text != strconv.FormatUint(port, 10) {
		return 0, errors.New("a port is a number from 1 to 65535")
	}
	if port == PrivatePort {
		return 0, errors.New("this port is private")
	}
	return uint16(port), nil
}

func (t *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	port, err := loopbackPort(r.Host)
	if err != nil {
		wire.Error(w, http.StatusForbidden, err.Error())
		return
	}
	if r.ProtoMajor != 1 {
		wire.Error(w, http.StatusHTTPVersionNotSupported, "a tunnel is made over HTTP/1.1")
		return
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	default:
		wire.Error(w, http.StatusServiceUnavailable, fmt.Sprintf("%d tunnels are open, which is the limit", limits.Tunnels))
		return
	}
	inside, err := t.reach(r.Context(), port)
	if err != nil {
		wire.Error(w, http.StatusBadGateway, fmt.Sprintf("port %d is not open", port))
		return
	}
	defer func() { _ = inside.Close() }()
	t.join(w, inside)
}

// reach connects over IPv4, or over IPv6 where the program listens only there.
func (t *tunnel) reach(ctx context.Context, port uint16) (net.Conn, error) {
	conn, err := t.dial(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
	if err == nil {
		return conn, nil
	}
	conn, errSix := t.dial(ctx, netip.AddrPortFrom(netip.IPv6Loopback(), port).String())
	if errSix != nil {
		return nil, err
	}
	return conn, nil
}

func (t *tunnel) join(w http.ResponseWriter, inside net.Conn) {
	outside, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		wire.Error(w, http.StatusInternalServerError, "this connection cannot become a tunnel")
		return
	}
	defer func() { _ = outside.Close() }()
	if _, err := io.WriteString(outside, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What the client sent right behind its request is in the buffer.
		pipe(inside, outside, io.LimitReader(buffered, int64(buffered.Reader.Buffered())))
	}()
	pipe(outside, inside, nil)
	<-done
}

// pipe copies one direction and passes its end on. An error ends both directions.
func pipe(to, from net.Conn, first io.Reader) {
	var err error
	if first != nil {
		_, err = io.Copy(to, first)
	}
	if err == nil {
		_, err = io.Copy(to, from) // The kernel splices where it can.
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	_ = to.Close()
	_ = from.Close()
}
