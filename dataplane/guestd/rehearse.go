package guestd

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
	"atoll.dev/dataplane/internal/gen/process/processconnect"
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

// rehearseCommand runs a command that changes nothing the way clients do, after a restore: what the kernel, the shell and we
// touch for it is slow once. Its table is its own, so that no list and no journal tells of it. A machine without a shell
// has nothing to rehearse.
func (s *Server) rehearseCommand(ctx context.Context, current *settings.Settings) {
	table := commands.NewTable(s.options.Reaper, s.options.Groups, new(journal.Journal))
	_, handler := processconnect.NewProcessHandler(commands.NewService(table), handlerOptions()...)
	ctx, cancel := context.WithTimeout(ctx, limits.RehearsalTimeout)
	defer cancel()
	// No profile: that is the template's own, and may do anything.
	message := `{"process":{"cmd":"/bin/bash","args":["-c",":"]},"stdin":false}`
	request, err := http.NewRequestWithContext(context.WithValue(ctx, settingsKey{}, current), http.MethodPost,
		"http://localhost/process.Process/Start", strings.NewReader(envelope(message)))
	if err != nil {
		return
	}
	request.Header.Set("Content-Type", "application/connect+json")
	request.Header.Set("Connect-Protocol-Version", "1")
	request.Header.Set(tokenHeader, current.AccessToken)
	request.Header.Set(commands.TimeoutHeader, strconv.FormatInt(limits.RehearsalTimeout.Milliseconds(), 10))
	s.rpc(handler).ServeHTTP(&nobody{header: http.Header{}}, request)
	// The template's environment has a shell run what it likes (BASH_ENV): nothing of that is to be in somebody's sandbox.
	if command := table.RunningOrEnded(func(*commands.Command) bool { return true }); command != nil {
		_ = command.Kill() // It fails where processes outlive SIGKILL; a template that has those goes on as it is.
	}
}

// envelope puts a message into a frame of Connect's streams.
func envelope(message string) string {
	head := []byte{0}
	return string(binary.BigEndian.AppendUint32(head, uint32(len(message)))) + message
}

// nobody hears an answer.
type nobody struct{ header http.Header }

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Flush()                      {}
