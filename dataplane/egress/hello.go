package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

var (
	errNoTLS  = errors.New("no TLS hello")
	errNoName = errors.New("a TLS hello without a server's name")
	// errRead ends the handshake once the hello is read.
	errRead = errors.New("the hello is read")
)

// serverName reads a TLS hello, and returns the name that it asks for and all bytes that were read, also where it is no
// hello. At most so many bytes are read. crypto/tls does the reading; nothing is answered.
func serverName(from io.Reader, most int64) (name string, read []byte, err error) {
	var seen bytes.Buffer
	found := false
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		found, name = true, hello.ServerName
		return nil, errRead
	}}
	peek := readOnly{io.TeeReader(io.LimitReader(from, most), &seen)}
	// It fails always: by errRead, or since there is no hello.
	err = tls.Server(peek, config).HandshakeContext(context.Background())
	switch {
	case !found:
		return "", seen.Bytes(), errors.Join(errNoTLS, err)
	case name == "":
		return "", seen.Bytes(), errNoName
	}
	return name, seen.Bytes(), nil
}

// readOnly is a connection that takes what is written and sends none of it.
type readOnly struct{ io.Reader }

func (readOnly) Write(p []byte) (int, error)      { return len(p), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }
