package blobs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// deletedAtOnce is how many runs are deleted with one call: what S3 takes at the most.
const deletedAtOnce = 1000

// Swept is what a store holds, and what of it no checkpoint names. Sizes in bytes, as they are kept.
type Swept struct {
	KeptRuns   int   `json:"kept_runs"`
	KeptBytes  int64 `json:"kept_bytes"`
	FreedRuns  int   `json:"freed_runs"`
	FreedBytes int64 `json:"freed_bytes"`
}

// Sweep deletes the runs that no index below a directory of checkpoints names. With dry, it only counts them.
//
// Nobody packs meanwhile: see lock. An index that cannot be read is ErrDamaged, and then nothing is deleted, since
// nobody knows what it needs.
func Sweep(ctx context.Context, store Store, checkpoints string, dry bool) (Swept, error) {
	named, err := mark(checkpoints)
	if err != nil {
		return Swept{}, err
	}
	var swept Swept
	var going []Sum
	err = store.Each(ctx, func(name Sum, size int64) error {
		if named[name] {
			swept.KeptRuns++
			swept.KeptBytes += size
			return nil
		}
		swept.FreedRuns++
		swept.FreedBytes += size
		going = append(going, name)
		return nil
	})
	if err != nil || dry {
		return swept, err
	}
	for len(going) > 0 {
		some := going[:min(len(going), deletedAtOnce)]
		if err := store.Delete(ctx, some); err != nil {
			return Swept{}, err
		}
		going = going[len(some):]
	}
	return swept, store.Leftovers()
}

// mark lists the runs that checkpoints name. One that is being removed has a hidden name, and needs nothing more.
func mark(checkpoints string) (map[Sum]bool, error) {
	named := map[Sum]bool{}
	entries, err := os.ReadDir(checkpoints)
	if err != nil {
		return nil, sourceError(err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || !entry.IsDir() {
			continue
		}
		index, err := readIndex(filepath.Join(checkpoints, entry.Name(), IndexName))
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, file := range index.Files {
			for _, run := range file.Runs {
				named[run.Sum] = true
			}
		}
	}
	return named, nil
}
