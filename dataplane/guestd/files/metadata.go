package files

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/limits"
)

const (
	metadataHeader    = "X-Metadata-"
	metadataAttribute = "user.e2b."
)

// metadataOf reads the metadata that an upload comes with. Header names have no case: keys are lower case.
func metadataOf(header http.Header) (map[string]string, error) {
	metadata := map[string]string{}
	total := 0
	for name, values := range header {
		if len(name) < len(metadataHeader) || !strings.EqualFold(name[:len(metadataHeader)], metadataHeader) {
			continue
		}
		key := strings.ToLower(name[len(metadataHeader):])
		if key == "" || len(key) > limits.MetadataKeyBytes || !printable(key) {
			return nil, fmt.Errorf("metadata key '%s' is empty, not ASCII or longer than %d bytes", key, limits.MetadataKeyBytes)
		}
		value := strings.Join(values, ",")
		if !printable(value) {
			return nil, fmt.Errorf("metadata value of '%s' is not printable ASCII", key)
		}
		if total += len(key) + len(value); total > limits.MetadataBytes {
			return nil, fmt.Errorf("metadata is larger than %d bytes", limits.MetadataBytes)
		}
		metadata[key] = value
	}
	return metadata, nil
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return false
		}
	}
	return true
}

// readMetadata returns what is kept with a file, nil for nothing or where the filesystem keeps none.
func readMetadata(path string) map[string]string {
	size, err := unix.Llistxattr(path, nil)
	if err != nil || size <= 0 {
		return nil
	}
	list := make([]byte, size)
	if size, err = unix.Llistxattr(path, list); err != nil {
		return nil
	}
	var metadata map[string]string
	value := make([]byte, limits.MetadataBytes)
	for name := range bytes.SplitSeq(list[:size], []byte{0}) {
		key, ok := strings.CutPrefix(string(name), metadataAttribute)
		if !ok || key == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			continue // It went between, or is larger than anything we wrote.
		}
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[valid(key)] = valid(string(value[:n]))
	}
	return metadata
}

// replaceMetadata keeps exactly metadata with the file and returns what is kept:
// nothing where the filesystem cannot.
func replaceMetadata(file *os.File, metadata map[string]string) (map[string]string, error) {
	old := readMetadata(file.Name())
	fd := int(file.Fd())
	for key := range old {
		if _, stays := metadata[key]; !stays {
			if err := unix.Fremovexattr(fd, metadataAttribute+key); err != nil && !errors.Is(err, unix.ENODATA) {
				return nil, err
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		err := unix.Fsetxattr(fd, metadataAttribute+key, []byte(metadata[key]), 0)
		if errors.Is(err, unix.ENOTSUP) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return metadata, nil
}
