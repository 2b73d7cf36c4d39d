package recordfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// errReadOnly is why a reader's file takes nothing.
var errReadOnly = errors.New("the file is open to be read")

// OpenReader opens a file that another process may be writing to, and changes nothing: a torn batch is left out, and
// Append fails. Of the options only Magic, From and Each count.
func OpenReader(path string, o Options) (*File, error) {
	disk, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{path: path, disk: disk, magic: int64(len(o.Magic)), err: errReadOnly}
	head := make([]byte, f.magic)
	if _, err = io.ReadFull(io.NewSectionReader(disk, 0, f.magic), head); err == nil && string(head) != o.Magic {
		err = fmt.Errorf("%w: want %q first", ErrFormat, o.Magic)
	}
	f.size = max(o.From, f.magic)
	if err == nil {
		err = f.Refresh(o.Each)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), disk.Close())
	}
	return f, nil
}

// Refresh has a reader see what was written since, and calls each, if it is not nil, for it.
func (f *File) Refresh(each func(offset int64, record []byte) error) error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if info.Size() < f.Size() {
		return fmt.Errorf("%s: %w: it has %d bytes, and had %d", f.path, ErrDamaged, info.Size(), f.Size())
	}
	end, err := f.scan(f.Size(), info.Size(), each)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = end
	return nil
}

// Each calls each for all records that are there. The record is only lent.
func (f *File) Each(each func(offset int64, record []byte) error) error {
	end, err := f.scan(f.magic, f.Size(), each)
	if err == nil && end < f.Size() {
		err = fmt.Errorf("%s: %w at %d", f.path, ErrDamaged, end)
	}
	return err
}
