package blobs

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockAgain is the pause between two tries.
const lockAgain = 50 * time.Millisecond

// lock keeps packs and sweeps apart, also those of a server that was killed; the kernel lets go of it when its
// holder ends. Packs share it.
func lock(ctx context.Context, path string, exclusive bool) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, storeError(err)
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return file, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, errors.Join(storeError(err), file.Close())
		}
		select {
		case <-time.After(lockAgain):
		case <-ctx.Done():
			return nil, errors.Join(failed(ErrBusy, "%s is held by another process", path), file.Close())
		}
	}
}
