// Package recordfile is a file of records that only grows, and whose records are on disk when their writer is told so.
//
// The file begins with the owner's magic line. A record stands behind a frame of three numbers of 4 bytes each,
// little-endian: its length; how far back the batch that it was written with begins; and the CRC-32C of those two and
// of its bytes. Many writers share one fsync: who finds none at work becomes the one that writes for all who come
// while the disk is busy. Such a batch is one write.
//
// After a crash the file may end in a batch that nobody was told of, of which any part may be on disk. Open cuts that
// off from the first record that is not whole, and says how much. A batch begins only when the one before is on disk,
// so damage before the last batch is no crash's doing, and Open refuses. Damage in the last batch it can't tell from a
// crash: an owner who knows how many records there must be compares.
package recordfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"cocoon/internal/durable"
)

// RecordMax bounds a record, bytes: more than any that we write, and little enough to read into memory.
const RecordMax = 1 << 20

// tailMax bounds what Open may cut off, bytes: a batch has a record of each of its writers.
const tailMax = 64 << 20

// spareMax bounds the buffer that is kept from one batch to the next, bytes: twice that of a thousand receipts.
const spareMax = 4 << 20

// FrameSize is what stands before each record, bytes.
const FrameSize = 12

// Errors that callers tell apart.
var (
	// ErrPoisoned marks a file whose state on disk is not known since an fsync failed. It takes no more until Recover.
	ErrPoisoned = errors.New("the file's state on disk is unknown")
	// ErrDamaged marks a record that is not as it was written.
	ErrDamaged = errors.New("damaged record")
	// ErrClosed marks a file that is closed.
	ErrClosed = errors.New("the file is closed")
	// ErrFormat marks a file of another kind, or of a newer version.
	ErrFormat = errors.New("not a file of this kind and version")
)

// Disk is what a file does that can fail; os.File does it.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Options are the owner's.
type Options struct {
	// Magic is the first line of the file, with its line break. It names kind and version.
	Magic string
	// From is the offset of the record where Open begins to read; what is before is taken for good. 0: the first.
	From int64
	// Each is called by Open for each record from there. The record is only lent. An error ends Open. May be nil.
	Each func(offset int64, record []byte) error
	// Cut is called by Open before it cuts off a torn batch. An error ends Open, with the file as it was. May be nil.
	Cut func() error
	// Wrap comes between the file and its disk, in tests. May be nil.
	Wrap func(*os.File) Disk
}

// File is an open file of records. Its methods may be called at the same time.
type File struct {
	path  string
	disk  Disk
	magic int64
	cut   int64

	writing sync.Mutex // held by the one that writes
	mu      sync.Mutex
	next    *batch // what is written next; nil: nobody has begun one
	spare   []byte // a buffer for it
	size    int64  // of what is on disk
	err     error  // why the file takes nothing any more
}

// batch is records that go to disk together.
type batch struct {
	Batch
	base int64 // its offset in the file; known when done
	done chan struct{}
	err  error
}

// Batch is records on their way to a file, laid out as they will stand there, so that nothing is copied once more. The
// zero value is empty. It has one user at a time.
type Batch struct {
	buf []byte
}

// Len is the size of all in it, bytes: where the next record begins, counted from where the batch will.
func (b *Batch) Len() int64 { return int64(len(b.buf)) }

// Reset empties it. Its memory is kept, unless that is more than some MiB.
func (b *Batch) Reset() {
	if b.buf = b.buf[:0]; cap(b.buf) > spareMax {
		b.buf = nil
	}
}

// Add adds the record that r appends.
func (b *Batch) Add(r interface{ AppendRecord(b []byte) []byte }) error {
	at := len(b.buf)
	b.buf = r.AppendRecord(append(b.buf, make([]byte, FrameSize)...))
	if n := len(b.buf) - at - FrameSize; n == 0 || n > RecordMax {
		b.buf = b.buf[:at]
		return errSize(n)
	}
	b.frame(at)
	return nil
}

func errSize(n int) error { return fmt.Errorf("a record of %d bytes, want 1 to %d", n, RecordMax) }

func (b *Batch) add(record []byte) {
	at := len(b.buf)
	b.buf = append(append(b.buf, make([]byte, FrameSize)...), record...)
	b.frame(at)
}

// frame fills in the frame of the last record, which begins at an offset.
func (b *Batch) frame(at int) {
	frame, record := b.buf[at:at+FrameSize], b.buf[at+FrameSize:]
	binary.LittleEndian.PutUint32(frame, uint32(len(record)))
	binary.LittleEndian.PutUint32(frame[4:], uint32(at))
	binary.LittleEndian.PutUint32(frame[8:], checksum(frame, record))
}

// Open opens the file, or makes it. It must have no other user: the owner keeps a lock.
func Open(path string, o Options) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	r := &File{path: path, disk: f, magic: int64(len(o.Magic))}
	if o.Wrap != nil {
		r.disk = o.Wrap(f)
	}
	info, err := f.Stat()
	if err == nil {
		err = r.load(info.Size(), &o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), r.disk.Close())
	}
	return r, nil
}

// load checks the magic line, reads the records and cuts a torn batch.
func (f *File) load(size int64, o *Options) error {
	head := make([]byte, min(size, f.magic))
	if _, err := f.disk.ReadAt(head, 0); err != nil && len(head) > 0 {
		return err
	}
	if string(head) != o.Magic[:len(head)] {
		return fmt.Errorf("%w: want %q first", ErrFormat, o.Magic)
	}
	if o.From != 0 && (o.From < f.magic || o.From > size) {
		return fmt.Errorf("%w: it has %d bytes, and a record was to begin at %d", ErrDamaged, size, o.From)
	}
	if size < f.magic { // new, or its making was cut short
		return f.create(o.Magic)
	}
	end, err := f.scan(max(o.From, f.magic), size, o.Each)
	if err != nil {
		return err
	}
	f.size = end
	if f.cut = size - end; f.cut == 0 {
		if f.size <= max(o.From, f.magic) {
			return nil
		}
		return f.disk.Sync() // of what was read, the last may have been written and not been synced
	}
	if o.Cut != nil {
		if err := o.Cut(); err != nil {
			return err
		}
	}
	if err := f.disk.Truncate(end); err != nil {
		return fmt.Errorf("cutting off a torn batch: %w", err)
	}
	return f.disk.Sync()
}

func (f *File) create(magic string) error {
	if _, err := f.disk.WriteAt([]byte(magic), 0); err != nil {
		return err
	}
	if err := f.disk.Sync(); err != nil {
		return err
	}
	f.size = f.magic
	return durable.SyncDir(filepath.Dir(f.path))
}

// scan reads records from an offset up to the end, or to where a torn batch is no record.
func (f *File) scan(at, size int64, each func(int64, []byte) error) (end int64, err error) {
	var buf []byte
	for at < size {
		record, err := f.read(at, size, buf)
		if errors.Is(err, ErrDamaged) {
			return at, f.checkTorn(at, size)
		}
		if err != nil {
			return 0, err
		}
		if each != nil {
			if err := each(at, record); err != nil {
				return 0, err
			}
		}
		at += FrameSize + int64(len(record))
		buf = record[:0]
	}
	return at, nil
}

// checkTorn tells a torn batch from damage: no whole record of a batch that began after it may be in what would be cut.
func (f *File) checkTorn(at, size int64) error {
	if size-at > tailMax {
		return fmt.Errorf("%w at %d, with %d bytes after it: no crash leaves that much", ErrDamaged, at, size-at)
	}
	tail := make([]byte, size-at)
	if _, err := f.disk.ReadAt(tail, at); err != nil {
		return err
	}
	for i := 1; i+FrameSize < len(tail); i++ {
		n, back := int(binary.LittleEndian.Uint32(tail[i:])), int(binary.LittleEndian.Uint32(tail[i+4:]))
		if n == 0 || n > RecordMax || n > len(tail)-i-FrameSize || back >= i {
			continue
		}
		if checksum(tail[i:], tail[i+FrameSize:i+FrameSize+n]) == binary.LittleEndian.Uint32(tail[i+8:]) {
			return fmt.Errorf("%w at %d, and a whole one written later at %d: no crash does that", ErrDamaged, at, at+int64(i))
		}
	}
	return nil
}

// checksum is of a frame's first two numbers and the record.
func checksum(frame, record []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(frame[:8], table), table, record)
}

// read reads the record at an offset, into buf if it fits. A record is never empty: a run of zeros, which crashes
// leave, is none.
func (f *File) read(at, size int64, buf []byte) ([]byte, error) {
	var frame [FrameSize]byte
	if size-at < FrameSize {
		return nil, fmt.Errorf("%w at %d: cut off", ErrDamaged, at)
	}
	if _, err := f.disk.ReadAt(frame[:], at); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(frame[:]))
	if n == 0 || n > RecordMax || n > size-at-FrameSize {
		return nil, fmt.Errorf("%w at %d: a length of %d", ErrDamaged, at, n)
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := f.disk.ReadAt(buf, at+FrameSize); err != nil {
		return nil, err
	}
	if checksum(frame[:], buf) != binary.LittleEndian.Uint32(frame[8:]) {
		return nil, fmt.Errorf("%w at %d: its checksum is off", ErrDamaged, at)
	}
	return buf, nil
}

// Read reads the record at an offset that Open or Append gave.
func (f *File) Read(offset int64) ([]byte, error) {
	if offset < f.magic || offset >= f.Size() {
		return nil, fmt.Errorf("%s: %w: no record at %d", f.path, ErrDamaged, offset)
	}
	record, err := f.read(offset, f.Size(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return record, nil
}

// Append writes records side by side, and returns when they are on disk, with their offsets. If it fails, none of them
// is there; only after ErrPoisoned some may turn out to be.
func (f *File) Append(records ...[]byte) ([]int64, error) {
	for _, r := range records {
		if len(r) == 0 || len(r) > RecordMax {
			return nil, errSize(len(r))
		}
	}
	offsets := make([]int64, len(records))
	f.mu.Lock()
	if f.err != nil {
		defer f.mu.Unlock()
		return nil, f.err
	}
	b, first := f.next, f.next == nil
	if first {
		b = &batch{Batch: Batch{f.spare}, done: make(chan struct{})}
		f.next, f.spare = b, nil
	}
	size := 0
	for _, r := range records {
		size += FrameSize + len(r)
	}
	b.buf = slices.Grow(b.buf, size)
	for i, r := range records {
		offsets[i] = int64(len(b.buf))
		b.add(r)
	}
	f.mu.Unlock()
	if first {
		f.write(b)
	}
	<-b.done
	for i := range offsets {
		offsets[i] += b.base
	}
	return offsets, b.err
}

// AppendBatch writes a batch, and returns when it is on disk, with the offset where it begins there. An error is as
// Append's. The batch stays as it is.
func (f *File) AppendBatch(b *Batch) (base int64, err error) {
	f.writing.Lock()
	defer f.writing.Unlock()
	return f.put(b.buf)
}

// write puts a batch on disk. While it waits for the one before, others join the batch.
func (f *File) write(b *batch) {
	f.writing.Lock()
	defer f.writing.Unlock()
	defer close(b.done)
	f.mu.Lock()
	f.next = nil
	f.mu.Unlock()
	b.base, b.err = f.put(b.buf)
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(b.buf) <= spareMax { // nobody reads it any more
		f.spare = b.buf[:0]
	}
}

// put puts what a batch is laid out as on disk: one write, one fsync. Who calls it holds writing.
func (f *File) put(buf []byte) (base int64, err error) {
	f.mu.Lock()
	base, err = f.size, f.err
	f.mu.Unlock()
	if err != nil || len(buf) == 0 {
		return base, err
	}
	size, poisoned := base, error(nil)
	if _, err = f.disk.WriteAt(buf, base); err != nil { // the disk is full: nothing may stay of it
		err = fmt.Errorf("writing to %s: %w", f.path, err)
		if err := f.disk.Truncate(base); err != nil {
			poisoned = fmt.Errorf("%w: undoing a failed write: %w", ErrPoisoned, err)
		}
	} else if err = f.disk.Sync(); err != nil {
		poisoned = fmt.Errorf("%w: syncing %s: %w", ErrPoisoned, f.path, err)
		err = poisoned
	} else {
		size += int64(len(buf))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.size = size
	if f.err == nil {
		f.err = poisoned
	}
	return base, err
}

// Size is the length of what is on disk, bytes.
func (f *File) Size() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size
}

// Err is why the file takes nothing any more; nil if it does.
func (f *File) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Recover ends ErrPoisoned: it takes back what nobody was told to be on disk, and waits until that is so. A kernel may
// take pages that it could not write for written; what is written anew it will write.
func (f *File) Recover() error {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !errors.Is(f.err, ErrPoisoned) {
		return f.err
	}
	if err := f.disk.Truncate(f.size); err != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	}
	if err := f.disk.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrPoisoned, err)
	}
	f.err = nil
	return nil
}

// Cut is how many bytes of a torn batch Open cut off.
func (f *File) Cut() int64 { return f.cut }

// Close waits for what is being written and closes the file.
func (f *File) Close() error {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	closed := errors.Is(f.err, ErrClosed)
	f.err = ErrClosed
	f.mu.Unlock()
	if closed {
		return nil
	}
	return f.disk.Close()
}
