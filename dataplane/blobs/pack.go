package blobs

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// IndexName is the index's, in the directory of the checkpoint.
	IndexName = "runs"
	newIndex  = ".runs.new"
	// A batch of runs is put and then flushed: so many bytes wait in memory and in the cache of the disk.
	batchBytes = 32 << 20
)

// Expected is a file that is to be packed, as its writer knows it.
type Expected struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Sum is its SHA-256, hexadecimal; empty: nobody knows.
	Sum string `json:"sha256"`
}

// Packed is what a pack did. Sizes in bytes; what is new was in no other checkpoint.
type Packed struct {
	Files    []Expected `json:"files"`
	Runs     int        `json:"runs"`
	RawBytes int64      `json:"raw_bytes"`
	NewRuns  int        `json:"new_runs"`
	NewBytes int64      `json:"new_bytes"`
	PutBytes int64      `json:"put_bytes"`
}

// packer packs one checkpoint.
type packer struct {
	store  Store
	codec  *codec
	mutex  sync.Mutex
	seen   map[Sum]bool
	result Packed
}

// Pack puts the files of a directory into a store, and then writes the index beside them.
//
// A file that is not as expected is ErrDamaged, one that is not there ErrGone. What was put before an error stays
// in the store until it is swept.
func Pack(ctx context.Context, store Store, codec *codec, directory string, files []Expected) (Packed, error) {
	// One of the same name that takes its place meanwhile must not get this one's index.
	root, err := os.OpenRoot(directory)
	if err != nil {
		return Packed{}, sourceError(err)
	}
	defer func() { _ = root.Close() }()
	p := &packer{store: store, codec: codec, seen: map[Sum]bool{}}
	var index Index
	for _, expected := range files {
		file, err := p.file(ctx, root, expected)
		if err != nil {
			return Packed{}, err
		}
		index.Files = append(index.Files, file)
		p.result.Files = append(p.result.Files,
			Expected{Name: file.Name, Size: file.Size, Sum: file.Sum.String()})
		p.result.Runs += len(file.Runs)
		p.result.RawBytes += file.Size
	}
	if err := store.Flush(); err != nil {
		return Packed{}, err
	}
	return p.result, publish(root, index)
}

func (p *packer) file(ctx context.Context, root *os.Root, expected Expected) (File, error) {
	if !plainName(expected.Name) || expected.Name == IndexName {
		return File{}, failed(ErrDamaged, "%q is no file's name", expected.Name)
	}
	source, err := root.Open(expected.Name)
	if err != nil {
		return File{}, sourceError(err)
	}
	defer func() { _ = source.Close() }()
	whole := sha256.New()
	cuts := &cutter{source: io.TeeReader(source, whole)}
	file := File{Name: expected.Name}
	for ended := false; !ended; {
		if ended, err = p.batch(ctx, cuts, &file); err != nil {
			return File{}, err
		}
	}
	file.Sum = Sum(whole.Sum(nil))
	if file.Size != expected.Size {
		return File{}, failed(ErrDamaged, "%s has %d bytes instead of %d", file.Name, file.Size, expected.Size)
	}
	if expected.Sum != "" && expected.Sum != file.Sum.String() {
		return File{}, failed(ErrDamaged, "%s is not what was written: its checksum differs", file.Name)
	}
	return file, nil
}

// batch puts runs until they are enough to be flushed; true: they were the last ones of the file.
func (p *packer) batch(ctx context.Context, cuts *cutter, file *File) (bool, error) {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(p.store.AtOnce())
	ended, size := false, 0
	var readError error
	for size < batchBytes && working.Err() == nil {
		content, err := cuts.next()
		if err != nil {
			if ended = errors.Is(err, io.EOF); !ended {
				readError = sourceError(err)
			}
			break
		}
		size += len(content)
		run := Run{Sum: sha256.Sum256(content), Length: uint32(len(content))}
		file.Runs = append(file.Runs, run)
		file.Size += int64(run.Length)
		if p.first(run.Sum) {
			group.Go(func() error { return p.put(working, run, content) })
		}
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	if readError != nil {
		return false, readError
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if ended {
		// Small files are flushed together.
		return true, nil
	}
	return false, p.store.Flush()
}

func (p *packer) first(name Sum) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.seen[name] {
		return false
	}
	p.seen[name] = true
	return true
}

func (p *packer) put(ctx context.Context, run Run, content []byte) error {
	there, err := p.store.Has(ctx, run)
	if err != nil || there {
		return err
	}
	compressed := p.codec.seal(content)
	if err := p.store.Put(ctx, run.Sum, compressed); err != nil {
		return err
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.result.NewRuns++
	p.result.NewBytes += int64(run.Length)
	p.result.PutBytes += int64(len(compressed))
	return nil
}

// publish has an index on the disk, and then visible.
func publish(root *os.Root, index Index) error {
	content := index.Encode()
	if len(content) > mostIndex {
		return failed(ErrFull, "an index of %d bytes is longer than %d", len(content), mostIndex)
	}
	if err := writeSynced(root, newIndex, content); err != nil {
		return sourceError(err)
	}
	if err := root.Rename(newIndex, IndexName); err != nil {
		return sourceError(err)
	}
	directory, err := root.Open(".")
	if err != nil {
		return sourceError(err)
	}
	defer func() { _ = directory.Close() }()
	return sourceError(directory.Sync())
}

func writeSynced(root *os.Root, name string, content []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// sourceError says of what kind an error at the checkpoint's directory is: whoever removes it renames it first.
func sourceError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return failed(ErrGone, "%s", err)
	}
	return storeError(err)
}
