package blobs

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// An index says which runs make up the files of one checkpoint:
//
//	"atollrun" · format, 4 bytes · number of files, 4
//	each file: length of its name, 2 · name · its size, 8 · its SHA-256, 32 · number of runs, 4
//	each run: its SHA-256, 32 · its length, 4
//	SHA-256 of all of that
//
// Numbers are little-endian.

const (
	indexMagic  = "atollrun"
	indexFormat = 1
	// mostIndex holds the runs of some 100 GB.
	mostIndex = 64 << 20
	mostName  = 255
	runBytes  = sha256.Size + 4
	fileBytes = 2 + 8 + sha256.Size + 4
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// parseSum reads what String wrote.
func parseSum(text string) (Sum, bool) {
	var sum Sum
	if len(text) != hex.EncodedLen(len(sum)) || strings.ToLower(text) != text {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(text))
	return sum, err == nil
}

// Run is one run of pages: its name, and its length.
type Run struct {
	Sum    Sum
	Length uint32
}

// File is one file, as the runs that it is made of.
type File struct {
	Name string
	Size int64
	Sum  Sum
	Runs []Run
}

// Index is the files of one checkpoint.
type Index struct{ Files []File }

// Encode writes an index.
func (x Index) Encode() []byte {
	out := []byte(indexMagic)
	out = binary.LittleEndian.AppendUint32(out, indexFormat)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(x.Files)))
	for _, file := range x.Files {
		out = binary.LittleEndian.AppendUint16(out, uint16(len(file.Name)))
		out = append(out, file.Name...)
		out = binary.LittleEndian.AppendUint64(out, uint64(file.Size))
		out = append(out, file.Sum[:]...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(file.Runs)))
		for _, run := range file.Runs {
			out = append(out, run.Sum[:]...)
			out = binary.LittleEndian.AppendUint32(out, run.Length)
		}
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

var errIndex = errors.New("it is no index of runs")

// ParseIndex reads an index; whatever it is given, it takes no more memory than that.
func ParseIndex(content []byte) (Index, error) {
	body := len(content) - sha256.Size
	if body < len(indexMagic)+8 || len(content) > mostIndex || string(content[:len(indexMagic)]) != indexMagic {
		return Index{}, errIndex
	}
	if sha256.Sum256(content[:body]) != [sha256.Size]byte(content[body:]) {
		return Index{}, errors.New("its checksum differs")
	}
	rest := reader{content: content[len(indexMagic):body]}
	if format := rest.uint32(); format != indexFormat {
		return Index{}, fmt.Errorf("format %d is not known, only %d", format, indexFormat)
	}
	count := rest.uint32()
	if int64(count) > int64(len(rest.content)/fileBytes) {
		return Index{}, errIndex
	}
	index := Index{Files: make([]File, 0, count)}
	seen := map[string]bool{}
	for range count {
		file, ok := rest.file()
		if !ok || seen[file.Name] {
			return Index{}, errIndex
		}
		seen[file.Name] = true
		index.Files = append(index.Files, file)
	}
	if len(rest.content) != 0 {
		return Index{}, errIndex
	}
	return index, nil
}

type reader struct {
	content []byte
	short   bool
}

func (r *reader) take(count int) []byte {
	if len(r.content) < count {
		r.short, r.content = true, nil
		return make([]byte, count)
	}
	taken := r.content[:count]
	r.content = r.content[count:]
	return taken
}

func (r *reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }

func (r *reader) file() (File, bool) {
	name := string(r.take(int(binary.LittleEndian.Uint16(r.take(2)))))
	file := File{Name: name, Size: int64(binary.LittleEndian.Uint64(r.take(8))), Sum: Sum(r.take(sha256.Size))}
	count := r.uint32()
	if r.short || !plainName(name) || int64(count) > int64(len(r.content)/runBytes) {
		return File{}, false
	}
	file.Runs = make([]Run, count)
	var size int64
	for i := range file.Runs {
		file.Runs[i] = Run{Sum: Sum(r.take(sha256.Size)), Length: r.uint32()}
		if length := file.Runs[i].Length; length == 0 || length > MaxRun {
			return File{}, false
		}
		size += int64(file.Runs[i].Length)
	}
	return file, !r.short && size == file.Size
}

// plainName says whether this can be a file of a checkpoint: no path, and not hidden.
func plainName(name string) bool {
	return name != "" && len(name) <= mostName && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
