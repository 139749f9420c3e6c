package guestd

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

const (
	hostsBegin = "# atoll: begin"
	hostsEnd   = "# atoll: end"
	// hostsBytes bounds what is kept of a /etc/hosts that the guest has written.
	hostsBytes = 1 << 20
)

// identityEnv is what every command knows of its sandbox; clients' code looks for these names.
func identityEnv(id *guestv1.Identity) map[string]string {
	env := map[string]string{"E2B_SANDBOX": "true"}
	for key, value := range map[string]string{
		"E2B_SANDBOX_ID": id.GetSandboxId(), "E2B_TEMPLATE_ID": id.GetTemplateId(), "E2B_TEAM_ID": id.GetTeamId(),
	} {
		if value != "" {
			env[key] = value
		}
	}
	return env
}

// writeIdentity writes the machine's names into the files below root, but for those that it has from known, which may be
// nil. What cannot be written keeps nothing else from it.
func writeIdentity(root string, c, known *guestv1.Configuration) error {
	var failed []error
	if hostname := c.GetIdentity().GetHostname(); hostname != "" && hostname != known.GetIdentity().GetHostname() {
		failed = append(failed, writeFile(filepath.Join(root, "etc/hostname"), hostname+"\n", 0o644), writeHosts(root, hostname))
	}
	if id := c.GetIdentity().GetMachineId(); id != "" && id != known.GetIdentity().GetMachineId() {
		failed = append(failed, writeFile(filepath.Join(root, "etc/machine-id"), id+"\n", 0o444))
	}
	if servers := c.GetNetwork().GetDnsServers(); len(servers) > 0 && !slices.Equal(servers, known.GetNetwork().GetDnsServers()) {
		text := "nameserver " + strings.Join(servers, "\nnameserver ") + "\n"
		failed = append(failed, writeFile(filepath.Join(root, "etc/resolv.conf"), text, 0o644))
	}
	var there map[string]string
	if known != nil {
		there = identityEnv(known.GetIdentity())
	}
	for key, value := range identityEnv(c.GetIdentity()) {
		if there[key] != value {
			failed = append(failed, writeFile(filepath.Join(root, "run/e2b", "."+key), value, 0o644))
		}
	}
	return errors.Join(failed...)
}

// setHostname gives the kernel the machine's name, where that is another one.
func setHostname(hostname string) error {
	var uts unix.Utsname
	if hostname == "" || unix.Uname(&uts) == nil && unix.ByteSliceToString(uts.Nodename[:]) == hostname {
		return nil
	}
	return unix.Sethostname([]byte(hostname))
}

func writeHosts(root, hostname string) error {
	path := filepath.Join(root, "etc/hosts")
	old, err := readFile(path, hostsBytes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeFile(path, hosts(old, hostname), 0o644)
}

// hosts puts our lines before those that the template or its user wrote.
// sudo asks for the host's name, and would wait for a name server without them.
func hosts(old, hostname string) string {
	text := strings.Join([]string{
		hostsBegin,
		"127.0.0.1\tlocalhost " + hostname,
		"::1\tlocalhost ip6-localhost ip6-loopback",
		hostsEnd, "",
	}, "\n")
	ours := false
	for line := range strings.Lines(old) {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == hostsBegin:
			ours = true
		case trimmed == hostsEnd:
			ours = false
		case !ours:
			text += strings.TrimSuffix(line, "\n") + "\n"
		}
	}
	return text
}

// readFile reads a regular file of at most size bytes; the guest may have put anything in its place.
func readFile(path string, size int64) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fs.ErrNotExist
	}
	content, err := io.ReadAll(io.LimitReader(file, size))
	return string(content), err
}

// writeFile makes a file's content text. It writes in place, since the runtime may have mounted the file, and not at
// all when it says so already: a full disk is no reason to refuse a sandbox that changes nothing.
func writeFile(path, text string, mode fs.FileMode) error {
	if old, err := readFile(path, int64(len(text))+1); err == nil && old == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := openForWriting(path, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, bytes.NewReader([]byte(text)))
	return errors.Join(err, file.Close())
}

// openForWriting empties a regular file, or replaces what is in its place: a link into a directory that is not there,
// a pipe that nobody reads.
func openForWriting(path string, mode fs.FileMode) (*os.File, error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC | unix.O_NONBLOCK | unix.O_NOFOLLOW
	file, err := os.OpenFile(path, flags, mode)
	if err == nil {
		if info, statErr := file.Stat(); statErr == nil && info.Mode().IsRegular() {
			return file, nil
		}
		_ = file.Close()
	}
	if removeErr := os.Remove(path); removeErr != nil {
		return nil, errors.Join(err, removeErr)
	}
	return os.OpenFile(path, flags|os.O_EXCL, mode)
}
