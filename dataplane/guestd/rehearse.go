package guestd

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// rehearse goes through what the first calls will need, with calls that change nothing: each page of the program and
// each directory is slow once, and the host has something to do between the word that we are ready and its first call.
func (s *Server) rehearse() {
	_ = os.MkdirAll(filepath.Join(s.options.Root, "run/e2b"), 0o755)
	for _, name := range []string{"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"} {
		_, _ = os.Stat(filepath.Join(s.options.Root, name))
	}
	const stream = "application/connect+json"
	for _, call := range []struct {
		handler          http.Handler
		path, kind, body string
	}{
		{s.private.Handler, "/atoll.guest.v1.GuestService/Configure", "application/json", `{"configuration":{"version":0,"env":{"A":"B"}}}`},
		{s.public.Handler, "/process.Process/Start", stream, "\x00\x00\x00\x00\x01{"},
	} {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://localhost"+call.path, bytes.NewBufferString(call.body))
		if err != nil {
			return
		}
		request.Header.Set("Content-Type", call.kind)
		request.Header.Set("Connect-Protocol-Version", "1")
		call.handler.ServeHTTP(&nobody{header: http.Header{}}, request)
	}
	conn, err := net.DialTimeout("tcp", "127.0.0.1:49983", time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("GET /health HTTP/1.0\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = conn.Read(make([]byte, 512))
}

// nobody hears an answer.
type nobody struct{ header http.Header }

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Flush()                      {}
