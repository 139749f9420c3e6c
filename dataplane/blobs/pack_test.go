package blobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type world struct {
	t           *testing.T
	codec       *codec
	store       *directory
	checkpoints string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	codec, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(codec.close)
	root := t.TempDir()
	store, err := openDirectory(filepath.Join(root, "blobs"), codec, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, codec: codec, store: store, checkpoints: filepath.Join(root, "checkpoints")}
	return w
}

// write makes a checkpoint's files.
func (w *world) write(name string, files map[string][]byte) []Expected {
	w.t.Helper()
	directory := filepath.Join(w.checkpoints, name)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		w.t.Fatal(err)
	}
	var expected []Expected
	for file, content := range files {
		if err := os.WriteFile(filepath.Join(directory, file), content, 0o600); err != nil {
			w.t.Fatal(err)
		}
		expected = append(expected, Expected{Name: file, Size: int64(len(content))})
	}
	slices.SortFunc(expected, func(a, b Expected) int { return strings.Compare(a.Name, b.Name) })
	return expected
}

func (w *world) pack(store Store, name string, files []Expected) (Packed, error) {
	return Pack(context.Background(), store, w.codec, filepath.Join(w.checkpoints, name), files)
}

func (w *world) drop(name string, files []Expected) {
	for _, file := range files {
		_ = os.Remove(filepath.Join(w.checkpoints, name, file.Name))
	}
}

func (w *world) unpack(store Store, name string, files []Expected) error {
	var names []string
	for _, file := range files {
		names = append(names, file.Name)
	}
	_, err := Unpack(context.Background(), store, w.codec, filepath.Join(w.checkpoints, name), names)
	return err
}

func (w *world) holds(name string, files map[string][]byte) {
	w.t.Helper()
	for file, content := range files {
		found, err := os.ReadFile(filepath.Join(w.checkpoints, name, file))
		if err != nil || !bytes.Equal(found, content) {
			w.t.Errorf("%s of %s is not what was written: %v", file, name, err)
		}
	}
}

// runs lists the files of the store.
func (w *world) runs() []string {
	found, err := filepath.Glob(filepath.Join(w.store.path, "??", "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func some() map[string][]byte {
	return map[string][]byte{
		"checkpoint.img": noise(10, 200_001),
		"empty.img":      {},
		"pages.img":      slices.Concat(noise(11, 3<<20), make([]byte, 2<<20), bytes.Repeat([]byte("atoll"), 1<<18)),
	}
}

func TestWhatIsPackedIsUnpackedAsItWas(t *testing.T) {
	w := newWorld(t)
	expected := w.write("one", some())

	packed, err := w.pack(w.store, "one", expected)
	if err != nil {
		t.Fatal(err)
	}
	w.drop("one", expected)
	if err := w.unpack(w.store, "one", expected); err != nil {
		t.Fatal(err)
	}

	w.holds("one", some())
	if packed.NewRuns != len(w.runs()) || packed.Runs <= packed.NewRuns || packed.PutBytes >= packed.NewBytes {
		t.Errorf("%+v with %d files", packed, len(w.runs()))
	}
	for i, file := range packed.Files {
		if sum := sha256.Sum256(some()[file.Name]); file.Sum != Sum(sum).String() || file.Name != expected[i].Name {
			t.Errorf("%+v", file)
		}
	}
}

func TestWhatTwoHaveInCommonIsKeptOnce(t *testing.T) {
	w := newWorld(t)
	files := some()
	if _, err := w.pack(w.store, "one", w.write("one", files)); err != nil {
		t.Fatal(err)
	}
	before := len(w.runs())
	files["pages.img"] = slices.Concat(noise(12, pageBytes), files["pages.img"])

	packed, err := w.pack(w.store, "two", w.write("two", files))

	if err != nil || packed.NewBytes > 2*MaxRun || len(w.runs()) != before+packed.NewRuns {
		t.Errorf("%+v, %d files before, %d now: %v", packed, before, len(w.runs()), err)
	}
}

func TestWhatIsDamagedIsRefusedByNameAndHealedByWhoHasIt(t *testing.T) {
	w := newWorld(t)
	expected := w.write("one", some())
	if _, err := w.pack(w.store, "one", expected); err != nil {
		t.Fatal(err)
	}
	w.drop("one", expected)
	// Each is tried in each way by some: all of them take minutes on a slow disk.
	for _, run := range w.runs()[:2] {
		content, err := os.ReadFile(run)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(content)
		flipped[len(flipped)/2] ^= 1
		for kind, damaged := range map[string][]byte{
			"flipped": flipped, "cut": content[:len(content)-1], "empty": {}, "more": append(bytes.Clone(content), 1),
			"missing": nil, "another": w.codec.seal(noise(99, len(content))),
		} {
			wanted := ErrDamaged
			_ = os.Remove(run)
			if damaged == nil {
				wanted = ErrMissing
			} else if err := os.WriteFile(run, damaged, 0o600); err != nil {
				t.Fatal(err)
			}

			err := w.unpack(w.store, "one", expected)

			if !errors.Is(err, wanted) || !strings.Contains(err.Error(), filepath.Base(run)) {
				t.Errorf("%s: %v", kind, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(w.checkpoints, "one", unpackingPrefix+"*")); left != nil {
			t.Errorf("left: %v", left)
		}
		w.write("two", some())
		if _, err := w.pack(w.store, "two", expected); err != nil {
			t.Fatal(err)
		}
		w.drop("one", expected)
		if err := w.unpack(w.store, "one", expected); err != nil {
			t.Errorf("not healed: %v", err)
		}
		w.drop("one", expected)
	}
}

func TestADamagedFileIsNotPacked(t *testing.T) {
	w := newWorld(t)
	expected := w.write("one", some())
	for name, change := range map[string]func(*Expected){
		"shorter": func(e *Expected) { e.Size++ },
		"longer":  func(e *Expected) { e.Size-- },
		"other":   func(e *Expected) { e.Sum = Sum{}.String() },
		"outside": func(e *Expected) { e.Name = "../one/pages.img" },
	} {
		wrong := slices.Clone(expected)
		change(&wrong[2])

		if _, err := w.pack(w.store, "one", wrong); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(w.checkpoints, "one", IndexName)); err == nil {
			t.Errorf("%s: an index is there", name)
		}
	}
	gone := slices.Concat(expected, []Expected{{Name: "gone.img", Size: 1}})
	if _, err := w.pack(w.store, "one", gone); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

func TestASweepFreesWhatNobodyNamesAndNothingElse(t *testing.T) {
	w := newWorld(t)
	files := some()
	one := w.write("one", files)
	if _, err := w.pack(w.store, "one", one); err != nil {
		t.Fatal(err)
	}
	kept := w.runs()
	files["pages.img"] = slices.Concat(noise(13, 1<<20), files["pages.img"])
	if _, err := w.pack(w.store, "two", w.write("two", files)); err != nil {
		t.Fatal(err)
	}
	all := w.runs()
	// As who removes one does first.
	if err := os.Rename(filepath.Join(w.checkpoints, "two"), filepath.Join(w.checkpoints, ".half-two")); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(w.store.path, newPrefix+"killed")
	if err := os.MkdirAll(leftover, 0o700); err != nil {
		t.Fatal(err)
	}

	dry, err := Sweep(context.Background(), w.store, w.checkpoints, true)
	if err != nil || dry.FreedRuns != len(all)-len(kept) || dry.FreedBytes < 1<<20 || !slices.Equal(w.runs(), all) {
		t.Errorf("%+v %v", dry, err)
	}
	swept, err := Sweep(context.Background(), w.store, w.checkpoints, false)

	if err != nil || swept != dry || !slices.Equal(w.runs(), kept) {
		t.Errorf("%+v, not %+v: %v", swept, dry, err)
	}
	if _, err := os.Stat(leftover); err == nil {
		t.Error("what a killed writer left is there")
	}
	w.drop("one", one)
	if err := w.unpack(w.store, "one", one); err != nil {
		t.Error(err)
	}
	w.holds("one", some())
}

func TestNothingIsSweptWhileAnIndexCannotBeRead(t *testing.T) {
	w := newWorld(t)
	if _, err := w.pack(w.store, "one", w.write("one", some())); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.checkpoints, "one", IndexName), []byte("no index"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.runs()

	_, err := Sweep(context.Background(), w.store, w.checkpoints, false)

	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "one") || !slices.Equal(w.runs(), before) {
		t.Error(err)
	}
}

// dying is a store whose process is killed at one of its calls: from there on nothing has any effect.
type dying struct {
	Store
	left int
}

var errKilled = errors.New("killed")

func (d *dying) step() error {
	if d.left--; d.left < 0 {
		return errKilled
	}
	return nil
}

func (d *dying) AtOnce() int { return 1 }

func (d *dying) Has(ctx context.Context, run Run) (bool, error) {
	if err := d.step(); err != nil {
		return false, err
	}
	return d.Store.Has(ctx, run)
}

func (d *dying) Put(ctx context.Context, name Sum, compressed []byte) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.Store.Put(ctx, name, compressed)
}

func (d *dying) Flush() error {
	if err := d.step(); err != nil {
		return err
	}
	return d.Store.Flush()
}

func TestAPackThatDiesAtAnyCallLeavesWhatTheNextOneFinishes(t *testing.T) {
	little := map[string][]byte{"checkpoint.img": noise(10, 50_001), "pages.img": noise(11, 600_000)}
	for calls := 0; ; calls++ {
		w := newWorld(t)
		expected := w.write("one", little)
		_, err := w.pack(&dying{Store: w.store, left: calls}, "one", expected)
		if err == nil {
			if calls < 15 {
				t.Errorf("only %d calls", calls)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		w.holds("one", little)
		if _, err := os.Stat(filepath.Join(w.checkpoints, "one", IndexName)); err == nil {
			t.Errorf("after %d calls an index is there", calls)
		}
		next, err := openDirectory(w.store.path, w.codec, 0)
		if err != nil {
			t.Fatal(err)
		}
		if calls%2 == 0 {
			if _, err := Sweep(context.Background(), next, w.checkpoints, false); err != nil || len(w.runs()) > 0 {
				t.Errorf("%d runs are left: %v", len(w.runs()), err)
			}
		}
		if _, err := w.pack(next, "one", expected); err != nil {
			t.Fatal(err)
		}
		w.drop("one", expected)
		if err := w.unpack(next, "one", expected); err != nil {
			t.Error(err)
		}
		w.holds("one", little)
	}
}

func TestAPackLeavesTheReserveFree(t *testing.T) {
	w := newWorld(t)
	careful, err := openDirectory(w.store.path, w.codec, 1<<62)
	if err != nil {
		t.Fatal(err)
	}

	_, err = w.pack(careful, "one", w.write("one", some()))

	if !errors.Is(err, ErrFull) || len(w.runs()) != 0 {
		t.Errorf("%v, %d runs", err, len(w.runs()))
	}
}

func TestNobodySweepsWhileSomebodyPacks(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".lock")
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	for range 2 {
		packing, err := lock(ctx, path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = packing.Close() }()
	}

	if _, err := lock(ctx, path, true); !errors.Is(err, ErrBusy) {
		t.Error(err)
	}
}

func TestStoppedWorkSaysSo(t *testing.T) {
	w := newWorld(t)
	expected := w.write("one", some())
	stopped, stop := context.WithCancel(context.Background())
	stop()

	_, err := Pack(stopped, w.store, w.codec, filepath.Join(w.checkpoints, "one"), expected)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := w.pack(w.store, "one", expected); err != nil {
		t.Fatal(err)
	}
	_, err = Unpack(stopped, w.store, w.codec, filepath.Join(w.checkpoints, "one"), []string{"pages.img"})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// slow is a store that gives no other run before the damaged one, and none at once: not even to who stops.
type slow struct {
	Store
	damaged Sum
	others  atomic.Int32
}

func (s *slow) AtOnce() int { return 4 }

func (s *slow) Get(ctx context.Context, name Sum) ([]byte, error) {
	if name == s.damaged {
		return nil, nil
	}
	s.others.Add(1)
	defer s.others.Add(-1)
	time.Sleep(50 * time.Millisecond)
	return s.Store.Get(context.WithoutCancel(ctx), name)
}

func TestAnUnpackThatFailsLeavesNothingUnderWay(t *testing.T) {
	w := newWorld(t)
	expected := w.write("one", some())
	if _, err := w.pack(w.store, "one", expected); err != nil {
		t.Fatal(err)
	}
	index, err := readIndex(filepath.Join(w.checkpoints, "one", IndexName))
	if err != nil {
		t.Fatal(err)
	}
	store := &slow{Store: w.store, damaged: index.Files[2].Runs[1].Sum}

	err = w.unpack(store, "one", expected)

	if left := store.others.Load(); !errors.Is(err, ErrDamaged) || left != 0 {
		t.Errorf("%d are fetched still: %v", left, err)
	}
}
