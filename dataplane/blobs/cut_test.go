package blobs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"
)

func noise(seed uint64, size int) []byte {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(content)
	return content
}

func cutAll(t testing.TB, source io.Reader) [][]byte {
	t.Helper()
	cuts := &cutter{source: source}
	var runs [][]byte
	for {
		run, err := cuts.next()
		if errors.Is(err, io.EOF) {
			return runs
		}
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
}

func TestRunsAreAllThatWasRead(t *testing.T) {
	for _, size := range []int{0, 1, pageBytes - 1, pageBytes, pageBytes + 1, 3<<20 + 77} {
		content := noise(1, size)

		runs := cutAll(t, iotest.HalfReader(bytes.NewReader(content)))

		if !bytes.Equal(bytes.Join(runs, nil), content) {
			t.Errorf("%d bytes came out differently", size)
		}
		for i, run := range runs {
			if len(run) == 0 || len(run) > MaxRun || (i < len(runs)-1 && len(run)%pageBytes != 0) {
				t.Errorf("run %d of %d has %d bytes", i, len(runs), len(run))
			}
		}
	}
}

func TestRunsHave32KilobytesInTheMean(t *testing.T) {
	runs := cutAll(t, bytes.NewReader(noise(2, 32<<20)))

	mean := (32 << 20) / len(runs)
	if mean < 28<<10 || mean > 36<<10 {
		t.Errorf("%d bytes in the mean", mean)
	}
}

func TestEmptyPagesAreCutAtTheLongestOnly(t *testing.T) {
	for _, run := range cutAll(t, bytes.NewReader(make([]byte, 4*MaxRun))) {
		if len(run) != MaxRun {
			t.Errorf("a run of %d empty bytes", len(run))
		}
	}
}

func TestWhatFollowsAnInsertedPageIsCutAsBefore(t *testing.T) {
	before := noise(3, 16<<20)
	after := slices.Concat(before[:5*pageBytes], noise(4, pageBytes), before[5*pageBytes:])
	known := map[Sum]bool{}
	for _, run := range cutAll(t, bytes.NewReader(before)) {
		known[sha256.Sum256(run)] = true
	}

	fresh := 0
	for _, run := range cutAll(t, bytes.NewReader(after)) {
		if !known[sha256.Sum256(run)] {
			fresh += len(run)
		}
	}

	if fresh > 2*MaxRun {
		t.Errorf("%d bytes are new for one page", fresh)
	}
}

func TestAReaderThatFailsIsNotTakenForItsEnd(t *testing.T) {
	broken := errors.New("broken")
	cuts := &cutter{source: io.MultiReader(bytes.NewReader(make([]byte, pageBytes)), iotest.ErrReader(broken))}

	if run, err := cuts.next(); !errors.Is(err, broken) {
		t.Errorf("%d bytes and %v", len(run), err)
	}
}
