package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

const (
	ringName = "recent"
	// ringSize is what can wait to be given to the system in one piece: more than 1,000 requests a second make between two
	// fsyncs, and small enough to stay in a processor's cache.
	ringSize = 256 << 10
)

// ring is the end of what was written to the active segment, in memory that outlives the process: a file that is mapped.
// Each byte lies at its offset in the segment modulo the ring's size.
//
// There is no head, and nothing in it is ever said to be valid: what counts is a good record, by a checksum that starts
// from its segment's, at the place and with the number that are due where the segment's file ends. Open makes the file
// anew after it has read it, so what was cut from a segment can't come back from there.
type ring struct {
	data []byte // nil: there is none
}

// open makes the ring's file anew and maps it. Where there is no room, or files can't be mapped, the journal does without.
// A ring of before that can't be removed for good is an error.
func (r *ring) open(dir string, size int) error {
	if err := removeRing(dir); err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	if size < 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dir, ringName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // the mapping stays
	// Zeros are written, not only allocated: a store into the mapping has little left to do then.
	if _, err = f.Write(make([]byte, size)); err == nil {
		r.data, err = syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	}
	if err != nil {
		return removeRing(dir)
	}
	return nil
}

// unmap ends the mapping. The file stays.
func (r *ring) unmap() {
	if r.data != nil {
		_ = syscall.Munmap(r.data) // of a mapping of ours: it can't fail
		r.data = nil
	}
}

// removeRing removes the ring's file, if there is one, so that a power cut does not bring it back.
func removeRing(dir string) error {
	err := os.Remove(filepath.Join(dir, ringName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

// at gives the two parts of the ring where size bytes from an offset on lie.
func (r *ring) at(off, size int64) (a, b []byte) {
	i := int(off % int64(len(r.data)))
	j := i + int(size)
	return r.data[i:min(j, len(r.data))], r.data[:max(j-len(r.data), 0)]
}

// store copies p, whose place in the segment is off, into the ring. It is false if the system could not give one of the
// ring's pages: its disk is full or bad, or the file was cut. Then some of p may have been copied.
func (r *ring) store(p []byte, off int64) (ok bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if !ok {
			_ = recover() // the fault
		}
	}()
	a, b := r.at(off, int64(len(p)))
	copy(b, p[copy(a, p):])
	return true
}

// readRing reads the ring of the journal in dir: nil if it has none. Whoever reads a segment with it reads it first: what
// leaves the ring is in the segment then.
func readRing(dir string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, ringName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading journal: %w", err)
	}
	return data, nil
}

// extend gives what is in the last segment, up to size bytes, from its file and from the ring. Of damage it leaves all as
// it is.
func (s segment) extend(dir string, data, recent []byte, size int64) []byte {
	if len(recent) == 0 {
		return data
	}
	end, next, err := tail(dir, s, data, func(uint64, []byte) error { return nil })
	if err != nil {
		return data
	}
	i, more, seed := end%len(recent), []byte(nil), s.seed()
	if binary.LittleEndian.Uint64(around(recent, i+8, 8)) != next {
		return data // the usual case: all of it is in the file
	}
	for line := around(recent, i, len(recent)); ; next++ {
		r, ok := parseRecord(line[len(more):], seed)
		if !ok || r.seq != next || int64(end+len(more)+r.size) > size {
			break
		}
		more = line[:len(more)+r.size]
	}
	if len(more) == 0 {
		return data // with its torn end
	}
	return append(data[:end:end], more...)
}

// around copies size bytes of a ring from a place on.
func around(recent []byte, from, size int) []byte {
	got := make([]byte, size)
	for n := 0; n < size; {
		n += copy(got[n:], recent[(from+n)%len(recent):])
	}
	return got
}
