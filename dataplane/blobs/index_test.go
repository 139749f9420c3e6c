package blobs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"reflect"
	"testing"
)

func anIndex() Index {
	return Index{Files: []File{
		{Name: "empty", Sum: sha256.Sum256(nil), Runs: []Run{}},
		{Name: "pages.img", Size: 3 * pageBytes, Sum: Sum{1}, Runs: []Run{{Sum{2}, 2 * pageBytes}, {Sum{3}, pageBytes}}},
	}}
}

func TestAnIndexIsReadAsItWasWritten(t *testing.T) {
	read, err := ParseIndex(anIndex().Encode())

	if err != nil || !reflect.DeepEqual(read, anIndex()) {
		t.Errorf("%v %v", read, err)
	}
}

func TestNoDamagedIndexIsRead(t *testing.T) {
	content := anIndex().Encode()
	for at := range content {
		damaged := bytes.Clone(content)
		damaged[at] ^= 1
		if _, err := ParseIndex(damaged); err == nil {
			t.Errorf("byte %d may be anything", at)
		}
		if _, err := ParseIndex(content[:at]); err == nil {
			t.Errorf("%d bytes are enough", at)
		}
	}
}

// resealed gives content the checksum that it should have, as somebody would who makes one up.
func resealed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(bytes.Clone(body), sum[:]...)
}

func TestAnIndexThatMakesNoSenseIsRefusedThoughItsChecksumIsRight(t *testing.T) {
	body := func(index Index) []byte {
		content := index.Encode()
		return content[:len(content)-sha256.Size]
	}
	twice := anIndex()
	twice.Files[0].Name = "pages.img"
	wrongSize := anIndex()
	wrongSize.Files[1].Size++
	tooLong := anIndex()
	tooLong.Files[1].Runs[0].Length = MaxRun + 1
	tooLong.Files[1].Size = MaxRun + 1 + pageBytes
	empty := anIndex()
	empty.Files[1].Runs[1].Length, empty.Files[1].Size = 0, 2*pageBytes
	outside := anIndex()
	outside.Files[1].Name = "../../etc/passwd"
	many := body(anIndex())
	binary.LittleEndian.PutUint32(many[len(indexMagic)+4:], 1<<31)
	newer := body(anIndex())
	newer[len(indexMagic)] = 2
	for name, content := range map[string][]byte{
		"twice": body(twice), "wrong size": body(wrongSize), "too long": body(tooLong), "empty": body(empty),
		"outside": body(outside), "many": many, "newer": newer, "more": append(body(anIndex()), 0),
	} {
		if index, err := ParseIndex(resealed(content)); err == nil {
			t.Errorf("%s: %v", name, index)
		}
	}
}

func FuzzParseIndex(f *testing.F) {
	content := anIndex().Encode()
	f.Add(content[:len(content)-sha256.Size])
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = ParseIndex(body)
		index, err := ParseIndex(resealed(body))
		if err != nil {
			return
		}
		if !bytes.Equal(index.Encode(), resealed(body)) {
			t.Error("it is written differently")
		}
		for _, file := range index.Files {
			if !plainName(file.Name) {
				t.Errorf("%q", file.Name)
			}
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"verb":"pack","directory":"/x","files":[{"name":"a","size":1,"sha256":""}],"store":{"directory":"/y"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		_, _ = ParseRequest(line)
	})
}
