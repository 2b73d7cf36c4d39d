package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cocoon/internal/durable"
)

// storeMax bounds a state file: a million keys fit.
const storeMax = 256 << 20

// store is a small JSON file that the daemon reads and the operator's commands change while it runs.
// Changes are atomic and durable: written beside, synced, renamed, under a lock that processes share.
type store[T any] struct{ path string }

// load reads the file; a missing one is the zero value.
func (s store[T]) load() (T, error) {
	var v T
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	defer f.Close()
	dec := json.NewDecoder(io.LimitReader(f, storeMax))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return v, fmt.Errorf("reading %s: %w", s.path, err)
	}
	return v, nil
}

// update applies change to what the file holds now and writes the result; an error from change writes nothing.
func (s store[T]) update(change func(*T) error) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(s.path + ".lock")
	if err != nil {
		return fmt.Errorf("locking %s: %w", s.path, err)
	}
	defer unlock()
	v, err := s.load()
	if err != nil {
		return err
	}
	if err := change(&v); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(s.path, append(text, '\n'))
}

// stamp tells one content of the file from another without reading it.
func (s store[T]) stamp() fileStamp { return stampOf(s.path) }

func stampOf(path string) (stamp fileStamp) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp
	}
	stamp.size, stamp.modified = info.Size(), info.ModTime().UnixNano()
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		stamp.inode = sys.Ino
	}
	return stamp
}

type fileStamp struct {
	size, modified int64
	inode          uint64
}

// lockFile takes an exclusive lock that ends with unlock or with the process.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
