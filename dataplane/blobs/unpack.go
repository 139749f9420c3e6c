package blobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// unpackingPrefix begins the names of files that are not complete.
const unpackingPrefix = ".unpacking-"

// Unpacked is what an unpack wrote.
type Unpacked struct {
	Bytes int64 `json:"bytes"`
}

// Unpack writes files of a checkpoint again, from its index; each is there as a whole or not at all.
//
// What is not what was written, run or whole, is ErrDamaged, what is not there ErrMissing, both with its name.
func Unpack(ctx context.Context, store Store, codec *codec, directory string, names []string) (Unpacked, error) {
	index, err := readIndex(filepath.Join(directory, IndexName))
	if err != nil {
		return Unpacked{}, err
	}
	var done Unpacked
	for _, name := range names {
		at := slices.IndexFunc(index.Files, func(file File) bool { return file.Name == name })
		if at < 0 {
			return Unpacked{}, failed(ErrMissing, "%s is not in the index", name)
		}
		if err := unpackFile(ctx, store, codec, directory, index.Files[at]); err != nil {
			return Unpacked{}, err
		}
		done.Bytes += index.Files[at].Size
	}
	return done, nil
}

func readIndex(path string) (Index, error) {
	file, err := os.Open(path)
	if err != nil {
		return Index{}, sourceError(err)
	}
	defer func() { _ = file.Close() }()
	content, err := readBounded(file, mostIndex)
	if err != nil {
		return Index{}, sourceError(err)
	}
	index, err := ParseIndex(content)
	if err != nil {
		return Index{}, failed(ErrDamaged, "%s: %s", path, err)
	}
	return index, nil
}

func unpackFile(ctx context.Context, store Store, codec *codec, directory string, file File) (err error) {
	path := filepath.Join(directory, unpackingPrefix+file.Name)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return sourceError(err)
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err == nil {
			err = sourceError(os.Rename(path, filepath.Join(directory, file.Name)))
		}
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	whole := sha256.New()
	for content, err := range inOrder(ctx, store, codec, file.Runs) {
		if err != nil {
			return fmt.Errorf("%w, in %s", err, file.Name)
		}
		if _, err := out.Write(content); err != nil {
			return sourceError(err)
		}
		_, _ = whole.Write(content)
	}
	if Sum(whole.Sum(nil)) != file.Sum {
		return failed(ErrDamaged, "%s is not what was written: its checksum differs", file.Name)
	}
	return nil
}

type fetched struct {
	content []byte
	err     error
}

// inOrder fetches runs, several at once, and yields them one behind the other; it ends with the first error.
func inOrder(ctx context.Context, store Store, codec *codec, runs []Run) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var fetching sync.WaitGroup
		// Whoever stops listening closes the codec next.
		defer fetching.Wait()
		defer cancel()
		// One is being waited for, so many others are fetched meanwhile.
		waiting := make(chan chan fetched, store.AtOnce())
		fetching.Go(func() {
			defer close(waiting)
			for _, run := range runs {
				one := make(chan fetched, 1)
				select {
				case waiting <- one:
				case <-ctx.Done():
					return
				}
				fetching.Go(func() { one <- fetch(ctx, store, codec, run) })
			}
		})
		for one := range waiting {
			found := <-one
			if !yield(found.content, found.err) || found.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

func fetch(ctx context.Context, store Store, codec *codec, run Run) fetched {
	compressed, err := store.Get(ctx, run.Sum)
	if err != nil {
		return fetched{err: err}
	}
	content, err := codec.open(run, compressed)
	return fetched{content: content, err: err}
}
