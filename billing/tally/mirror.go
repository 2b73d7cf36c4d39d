package tally

import (
	"errors"
	"fmt"
	"io"

	"cocoon/internal/recordfile"
)

// mirrorMax is the largest table that is kept in memory, bytes: that of 500,000 receipts. What is larger is read and
// written in place, at some microseconds of system calls a receipt.
const mirrorMax = 16 << 20

// pageSize is what a mirror writes at once at least.
const pageSize = 4096

// mirror is a table's file in memory. What is written to it comes to the file with Sync.
type mirror struct {
	recordfile.Disk
	mem   []byte
	dirty []bool // by page
}

// mirrored puts a mirror before a file, if it is not too large. An empty file need not be read.
func mirrored(disk recordfile.Disk, size int64, empty bool) (recordfile.Disk, error) {
	if size > mirrorMax {
		return disk, nil
	}
	m := &mirror{disk, make([]byte, size), make([]bool, (size+pageSize-1)/pageSize)}
	if empty {
		return m, nil
	}
	if _, err := disk.ReadAt(m.mem, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a table: %w", err)
	}
	return m, nil
}

// ReadAt reads what was written last.
func (m *mirror) ReadAt(b []byte, at int64) (int, error) {
	if at < 0 || at >= int64(len(m.mem)) {
		return 0, io.EOF
	}
	n := copy(b, m.mem[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes into memory.
func (m *mirror) WriteAt(b []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(b)) > int64(len(m.mem)) {
		return 0, fmt.Errorf("writing %d bytes at %d of a table of %d", len(b), at, len(m.mem))
	}
	copy(m.mem[at:], b)
	for p := at / pageSize; p <= (at+int64(len(b))-1)/pageSize; p++ {
		m.dirty[p] = true
	}
	return len(b), nil
}

// Sync brings all of it to the disk. What failed is written again the next time.
func (m *mirror) Sync() error {
	for p := 0; p < len(m.dirty); p++ {
		from := p
		for p < len(m.dirty) && m.dirty[p] {
			p++
		}
		if p == from {
			continue
		}
		if _, err := m.Disk.WriteAt(m.mem[from*pageSize:min(p*pageSize, len(m.mem))], int64(from)*pageSize); err != nil {
			return fmt.Errorf("writing a table: %w", err)
		}
		clear(m.dirty[from:p])
	}
	if err := m.Disk.Sync(); err != nil { // what the kernel dropped is not known
		for p := range m.dirty {
			m.dirty[p] = true
		}
		return err
	}
	return nil
}
