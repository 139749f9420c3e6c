package guestd

import (
	"errors"
	"fmt"
	"os"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

// mount binds a volume that the host has put into the sandbox to the path that its user named.
// A volume that is mounted stays: taking one away from a running sandbox is not possible.
func (g *guestService) mount(v *guestv1.Volume) error {
	if source, ok := g.mounted[v.GetPath()]; ok {
		if source != v.GetSource() {
			return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("another volume is mounted at '%s'", v.GetPath()))
		}
		return nil
	}
	if err := bind(v); err != nil {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("volume '%s' at '%s': %w", v.GetName(), v.GetPath(), err))
	}
	if g.mounted == nil {
		g.mounted = map[string]string{}
	}
	g.mounted[v.GetPath()] = v.GetSource()
	return nil
}

func bind(v *guestv1.Volume) error {
	info, err := os.Stat(v.GetSource())
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("the source is not a directory")
	}
	if err := os.MkdirAll(v.GetPath(), 0o755); err != nil {
		return err
	}
	if err := unix.Mount(v.GetSource(), v.GetPath(), "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if !v.GetReadOnly() {
		return nil
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	if err := unix.Mount("", v.GetPath(), "", flags, ""); err != nil {
		return errors.Join(err, unix.Unmount(v.GetPath(), unix.MNT_DETACH))
	}
	return nil
}
