// Package accounts knows the sandbox's users and how they spell paths.
// /etc/passwd and /etc/group are read anew whenever they have changed: commands change them.
package accounts

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
)

// User is somebody who can run commands and own files.
type User struct {
	Name   string
	Home   string
	UID    uint32
	GID    uint32
	Groups []uint32
}

// UnknownError says that the sandbox has no such user.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string { return fmt.Sprintf("invalid username: '%s'", e.Name) }

// Lookup finds a user by name. The only error is *UnknownError. Nobody changes what it returns.
func Lookup(name string) (*User, error) {
	stamp := currentStamp()
	if u := found.get(name, stamp); u != nil {
		return u, nil
	}
	u, err := lookup(name)
	if err == nil {
		found.put(name, stamp, u)
	}
	return u, err
}

func lookup(name string) (*User, error) {
	if name == "" || len(name) > limits.NameBytes || strings.ContainsAny(name, ":\n\x00") {
		return nil, &UnknownError{Name: name}
	}
	entry, err := read(name)
	if err != nil {
		if name == "root" { // An image without /etc/passwd still has one.
			return &User{Name: name, Home: "/root", Groups: []uint32{0}}, nil
		}
		return nil, &UnknownError{Name: name}
	}
	uid, uidErr := strconv.ParseUint(entry.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(entry.Gid, 10, 32)
	if uidErr != nil || gidErr != nil {
		return nil, &UnknownError{Name: name}
	}
	u := &User{Name: name, Home: entry.HomeDir, UID: uint32(uid), GID: uint32(gid)}
	if !strings.HasPrefix(u.Home, "/") {
		u.Home = "/"
	}
	ids, err := entry.GroupIds()
	if err != nil { // No readable /etc/group: the primary group is all there is.
		ids = []string{entry.Gid}
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			u.Groups = append(u.Groups, uint32(n))
		}
	}
	return u, nil
}

// read looks a user up in files that are files: root can put a FIFO there, and whoever reads that waits for ever.
func read(name string) (*user.User, error) {
	for _, path := range files {
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, &UnknownError{Name: name}
		}
	}
	return user.Lookup(name)
}

// PathError says why a path from a caller is not one.
type PathError struct{ Reason string }

func (e *PathError) Error() string { return e.Reason }

// Resolve makes path absolute: "~" is the user's home, a relative path starts in workdir, or in the home.
// The only error is *PathError.
func (u *User) Resolve(path, workdir string) (string, error) {
	if strings.ContainsRune(path, 0) {
		return "", &PathError{Reason: "path contains a NUL byte"}
	}
	if len(path) > limits.PathBytes {
		return "", &PathError{Reason: fmt.Sprintf("path is longer than %d bytes", limits.PathBytes)}
	}
	switch {
	case path == "~" || strings.HasPrefix(path, "~/"):
		return filepath.Join(u.Home, path[1:]), nil
	case strings.HasPrefix(path, "~"):
		return "", &PathError{Reason: fmt.Sprintf("only '~' and '~/' are expanded, not another user's home: '%s'", path)}
	case filepath.IsAbs(path):
		return filepath.Clean(path), nil
	}
	base := u.Home
	if workdir != "" {
		expanded, err := u.Resolve(workdir, "")
		if err != nil {
			return "", err
		}
		base = expanded
	}
	return filepath.Join(base, path), nil
}

// Names turns ids into names, each looked up once. Not for concurrent use.
type Names struct {
	users  map[uint32]string
	groups map[uint32]string
}

// NewNames returns an empty cache, good for one answer.
func NewNames() *Names {
	return &Names{users: map[uint32]string{}, groups: map[uint32]string{}}
}

// User returns the name of uid, or its digits.
func (n *Names) User(uid uint32) string {
	return cached(n.users, uid, func(id string) (string, bool) {
		found, err := user.LookupId(id)
		if err != nil {
			return "", false
		}
		return found.Username, true
	})
}

// Group returns the name of gid, or its digits.
func (n *Names) Group(gid uint32) string {
	return cached(n.groups, gid, func(id string) (string, bool) {
		found, err := user.LookupGroupId(id)
		if err != nil {
			return "", false
		}
		return found.Name, true
	})
}

func cached(names map[uint32]string, id uint32, lookup func(string) (string, bool)) string {
	if name, ok := names[id]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(id), 10)
	if found, ok := lookup(name); ok {
		name = found
	}
	names[id] = name
	return name
}

// Caller is who asks, under the configuration that was in force when the request came.
type Caller struct {
	User     *User
	Settings *settings.Settings
}

// Resolve makes a path of the caller's absolute.
func (c *Caller) Resolve(path string) (string, error) {
	return c.User.Resolve(path, c.Settings.Workdir)
}

type callerKey struct{}

// WithCaller remembers who asks.
func WithCaller(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom returns who asks. Precondition: the request came through guestd's authentication.
func CallerFrom(ctx context.Context) *Caller {
	return ctx.Value(callerKey{}).(*Caller)
}
