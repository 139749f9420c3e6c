package edge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
)

// LogFile keeps what goes to a descriptor in a file of bounded length: a full one is renamed to path.1, path.1
// to path.2, and so on; the last is replaced. The descriptor itself (standard error) always leads to the newest
// file, so that a crash's last words stand there too.
type LogFile struct {
	path string
	most int64
	kept int

	turn sync.Mutex
	out  *os.File
	size int64
}

// OpenLogFile leads a descriptor to a file, behind what is there.
// The file gets up to most bytes, and kept older ones stay beside it.
func OpenLogFile(out *os.File, path string, most int64, kept int) (*LogFile, error) {
	if most < 1 || kept < 0 {
		return nil, fmt.Errorf("a log of %d bytes with %d files before it makes no sense", most, kept)
	}
	l := &LogFile{path: path, most: most, kept: kept, out: out}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Write adds one line, to the next file if this one has no room for it.
func (l *LogFile) Write(line []byte) (int, error) {
	l.turn.Lock()
	defer l.turn.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.most {
		l.next()
	}
	n, err := l.out.Write(line)
	l.size += int64(n)
	return n, err
}

// next begins a new file. Where that fails, the bound holds all the same: the old one is emptied.
func (l *LogFile) next() {
	err := l.rename()
	if err == nil {
		err = l.open()
	}
	if err != nil {
		_ = syscall.Ftruncate(int(l.out.Fd()), 0)
		l.size = 0
	}
}

func (l *LogFile) rename() error {
	if l.kept == 0 {
		return unlessMissing(os.Remove(l.path))
	}
	for n := l.kept; n > 0; n-- {
		if err := unlessMissing(os.Rename(l.name(n-1), l.name(n))); err != nil {
			return err
		}
	}
	return nil
}

// name of the file that is so many before the newest.
func (l *LogFile) name(n int) string {
	if n == 0 {
		return l.path
	}
	return fmt.Sprintf("%s.%d", l.path, n)
}

func unlessMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (l *LogFile) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	if err := syscall.Dup3(int(file.Fd()), int(l.out.Fd()), syscall.O_CLOEXEC); err != nil {
		return err
	}
	l.size = stat.Size()
	return nil
}
