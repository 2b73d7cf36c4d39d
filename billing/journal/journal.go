// Package journal is one gateway's request journal: an append-only file of small records that are on disk when Append
// returns.
//
// # Files
//
// A folder holds segments, named by the sequence number of their first record, and a lock file; its folder "archive"
// holds those that were trimmed. All integers are little-endian, all checksums CRC-32C.
//
//	segment = magic[8] | version u32 | first u64 | salt[8] | checksum u32 of the 28 bytes before | records
//	record  = checksum u32 | size u32 | seq u64 | index u32 | payload[size]
//
// A record's checksum starts from that of its segment's head, whose salt is random, and covers all that follows it: no
// payload can pass for a record. Sequence numbers have no gaps. The index is the record's place in its batch, the
// records that one fsync made durable: a record with index i proves that all up to seq-i-1 were durable before it.
//
// A segment is made whole under another name, synced, renamed and its folder synced: a head is never torn. Segments
// are not allocated ahead: measured, it saves a third of a millisecond per fsync, out of the 5 that a batch may take.
//
// # Recovery
//
// Open and Replay know three cases.
//
//  1. The last segment ends in bytes that are no good record, and no record after them proves that they were durable:
//     a torn tail, which nobody was told is on disk. It is cut.
//  2. Any other bytes that are no good record, a gap, a missing segment: a DamageError, which names file and offset.
//     Nothing is changed. (Damage to the very last batch looks like a torn tail; no journal can tell them apart.)
//  3. A version that this program does not know: ErrNewer.
//
// Open writes the last segment anew and syncs it before it trusts it: after an fsync that failed, or a process killed
// before its fsync, the kernel shows bytes that may be on no disk.
//
// # Failures
//
// An Append that failed is not in the journal, unless the fsync itself failed or the process died; then it may be there
// after the next Open, and nothing was accepted after it. A failed write (disk full, read-only) is undone before
// the next one; the journal goes on when the disk does. A failed fsync breaks the journal until it is opened again.
package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// RecordMax is the largest record in bytes: a hold is a few hundred; more is a caller's mistake.
	RecordMax = 64 << 10
	// AppendMax is how many bytes wait for one fsync, the records' heads included; beyond that callers wait for the next.
	// It bounds the records of one call too.
	AppendMax = 1 << 20
	// DefaultSegmentBytes is the size at which a segment is closed: small enough to be read at once and written anew at
	// open, large enough for 100,000 records.
	DefaultSegmentBytes = 16 << 20
	// DefaultEvery is the least time between the starts of two fsyncs: 200 a second cost a core next to nothing.
	DefaultEvery = 5 * time.Millisecond

	spares     = 2        // buffers that are kept: one is written while the other is filled
	bufferMin  = 64 << 10 // bytes that a buffer begins with
	segmentMax = 64 << 20 // bound of Options.SegmentBytes, and of what Open reads into memory
)

var (
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("journal: in use by another process")
	// ErrNewer says that a newer program wrote the journal.
	ErrNewer = errors.New("journal: written by a newer version")
	// ErrBroken says that an fsync failed: what is on disk is unknown until the journal is opened again.
	ErrBroken = errors.New("journal: broken by a failed fsync, open it again")
	// ErrClosed says that the journal is closed.
	ErrClosed = errors.New("journal: closed")
	// ErrSize says that a record is empty or larger than RecordMax, or that records together are larger than AppendMax.
	ErrSize = errors.New("journal: record is empty or too large")
)

// DamageError says where a journal is damaged.
type DamageError struct {
	File   string // path of the segment
	Offset int64  // bytes from its start
	Reason string // what is wrong there
}

// Error says what is damaged and where.
func (e *DamageError) Error() string {
	return fmt.Sprintf("journal: %s is damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

// Options tune a journal. The zero value is right for a gateway.
type Options struct {
	// SegmentBytes is the size at which a segment is closed, up to 64 MiB; a segment holds at least one batch. Zero:
	// DefaultSegmentBytes.
	SegmentBytes int64
	// Archive keeps what Trim removes, in the folder "archive" of the journal's. Prune shortens it.
	Archive bool
	// Every is the least time between the starts of two fsyncs. Zero: DefaultEvery. Negative: no pause.
	Every time.Duration

	wrap func(file) file // tests: puts faults before the disk
}

// file is what the journal does to the segment that it writes: the edge to the disk, where tests put faults.
type file interface {
	WriteAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	dir  string
	o    Options
	lock *os.File

	mu       sync.Mutex
	segments []segment // all, in order; the last one is written to
	size     int64     // bytes of the last segment that are on disk
	next     uint64    // sequence number of the next record
	closed   bool
	broken   error
	batch    *batch        // takes records, nil if none waits
	tail     chan struct{} // closed when the latest batch is done
	spare    [][]byte      // buffers for the next batches

	// Owned by whoever commits: one batch at a time, in order. It also may read size, next and broken without mu, which
	// only it writes.
	active file
	at     segment   // what active is
	dirty  bool      // a failed write may have left bytes behind size
	synced time.Time // when the last fsync started
}

// batch is the records that wait for one fsync. Its first caller commits it.
type batch struct {
	before chan struct{} // closed when the batch before it is done
	done   chan struct{} // closed when it is on disk or has failed
	buf    []byte        // records, not numbered yet; guarded by Journal.mu until taken
	err    error         // set before done is closed
}

// Open opens or makes the journal in dir and recovers it. The errors are ErrLocked, ErrNewer, a *DamageError, or the
// system's.
func Open(dir string, o Options) (*Journal, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.SegmentBytes < 0 || o.SegmentBytes > segmentMax {
		return nil, fmt.Errorf("journal: segments of %d bytes: want up to %d", o.SegmentBytes, segmentMax)
	}
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, o: o, lock: lock, tail: make(chan struct{})}
	close(j.tail)
	if err := j.recover(); err != nil {
		_ = lock.Close() // nothing was written through it
		return nil, err
	}
	return j, nil
}

// Append writes records and returns when they are on disk. Records that wait at the same time share one fsync, and are
// in the journal in the order in which they came; those of one call lie side by side. After a crash in the middle of it
// the first ones may be there without the others. The context counts only until the records have their place: from then
// on the disk decides. After an error see "Failures" above: none of them is in the journal, or that is not known.
func (j *Journal) Append(ctx context.Context, records ...[]byte) error {
	size := 0
	for _, record := range records {
		if len(record) == 0 || len(record) > RecordMax {
			return fmt.Errorf("%w: %d bytes", ErrSize, len(record))
		}
		size += recordHead + len(record)
	}
	if size > AppendMax {
		return fmt.Errorf("%w: %d records with %d bytes", ErrSize, len(records), size)
	}
	if err := ctx.Err(); err != nil || size == 0 {
		return err
	}
	b, first, err := j.join(ctx, records, size)
	if err != nil {
		return err
	}
	if first {
		j.lead(b)
	}
	<-b.done
	return b.err
}

// join puts records into the batch that takes records, or into a new one, which its first caller has to lead. It waits
// while the batch is full.
func (j *Journal) join(ctx context.Context, records [][]byte, size int) (b *batch, first bool, err error) {
	for {
		j.mu.Lock()
		if j.closed || j.broken != nil {
			err := j.broken
			if j.closed {
				err = ErrClosed
			}
			j.mu.Unlock()
			return nil, false, err
		}
		if j.batch == nil {
			j.batch = &batch{before: j.tail, done: make(chan struct{}), buf: j.buffer(size)}
			j.tail, first = j.batch.done, true
		}
		if b = j.batch; first || len(b.buf)+size <= AppendMax {
			for _, record := range records {
				b.buf = appendRecord(b.buf, record)
			}
			j.mu.Unlock()
			return b, first, nil
		}
		j.mu.Unlock()
		select {
		case <-b.done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// buffer gives one with room for some bytes at least. The lock is held.
func (j *Journal) buffer(size int) []byte {
	if n := len(j.spare); n > 0 {
		b := j.spare[n-1]
		j.spare = j.spare[:n-1]
		return b
	}
	return make([]byte, 0, max(size, bufferMin))
}

// lead commits a batch when it is its turn.
func (j *Journal) lead(b *batch) {
	<-b.before
	if wait := j.o.Every - time.Since(j.synced); j.o.Every > 0 && wait > 0 && !j.synced.IsZero() {
		time.Sleep(min(wait, j.o.Every)) // min: a clock that jumped must not stall anybody
	}
	j.mu.Lock()
	j.batch = nil // whoever comes now is in the next one
	j.mu.Unlock()
	b.err = j.commit(b.buf)
	j.mu.Lock()
	if len(j.spare) < spares {
		j.spare = append(j.spare, b.buf[:0])
	}
	j.mu.Unlock()
	close(b.done)
}

// commit numbers, writes and syncs a batch.
func (j *Journal) commit(buf []byte) error {
	if j.broken != nil {
		return j.broken
	}
	if j.size > headSize && j.size+int64(len(buf)) > j.o.SegmentBytes {
		if err := j.roll(); err != nil {
			return err
		}
	}
	j.synced = time.Now()
	count := j.at.number(buf, j.next)
	if err := j.write(buf); err != nil {
		return err
	}
	if err := j.active.Sync(); err != nil {
		return j.breakUp(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.size += int64(len(buf))
	j.next += count
	return nil
}

// write puts buf behind the durable bytes, after it undid what a failed write left there.
func (j *Journal) write(buf []byte) error {
	if err := j.undo(); err != nil {
		return fmt.Errorf("writing %s: undoing a failed write: %w", j.at.path(j.dir), err)
	}
	if n, err := j.active.WriteAt(buf, j.size); err != nil {
		j.dirty = n != 0
		// A tail that stays here goes before the next write or at the next open.
		return fmt.Errorf("writing %s: %w", j.at.path(j.dir), errors.Join(err, j.undo()))
	}
	return nil
}

// undo cuts what a failed write left behind the durable bytes.
func (j *Journal) undo() error {
	if !j.dirty {
		return nil
	}
	if err := j.active.Truncate(j.size); err != nil {
		return err
	}
	j.dirty = false
	return nil
}

// roll starts a new segment.
func (j *Journal) roll() error {
	if err := j.undo(); err != nil { // a closed segment ends with its last record
		return fmt.Errorf("closing a segment: %w", err)
	}
	s := newSegment(j.next)
	f, err := j.create(s, s.head())
	if err != nil {
		if errors.Is(err, errSync) {
			return j.breakUp(err)
		}
		return err
	}
	_ = j.active.Close() // all of it was synced
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments[len(j.segments)-1].size = j.size
	j.active, j.at, j.size = f, s, headSize
	j.segments = append(j.segments, s)
	return nil
}

// breakUp ends the journal's life after an fsync that failed.
func (j *Journal) breakUp(cause error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = fmt.Errorf("%w: %w", ErrBroken, cause)
	return j.broken
}

// Last returns the sequence number of the last record on disk, 0 if there has never been one.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Size returns how many bytes the journal's segments hold together, give or take the last one's unfinished batch.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	size := j.size
	for _, s := range j.segments[:len(j.segments)-1] {
		size += s.size
	}
	return size
}

// Trim removes the segments all of whose records have a sequence number up to seq, or moves them to the archive. The
// last segment stays.
func (j *Journal) Trim(seq uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.segments) > 1 && j.segments[1].first-1 <= seq {
		if err := j.drop(j.segments[0]); err != nil { // one by one: a crash leaves no gap
			return fmt.Errorf("trimming journal: %w", err)
		}
		j.segments = slices.Clone(j.segments[1:])
	}
	return nil
}

// drop takes a segment out of the journal's folder. It may be gone already: a crash came before the folder was synced,
// or the last attempt failed there.
func (j *Journal) drop(s segment) error {
	from, archive := s.path(j.dir), archiveDir(j.dir)
	if !j.o.Archive {
		if err := os.Remove(from); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return syncDir(j.dir)
	}
	if err := os.Mkdir(archive, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.Rename(from, s.path(archive)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(archive); err != nil { // there first: what is in both places is found
		return err
	}
	return syncDir(j.dir)
}

// Prune removes the segments of the archive that were last written to before a time, by the clock of the file system.
func (j *Journal) Prune(before time.Time) error {
	archive := archiveDir(j.dir)
	firsts, _, err := names(archive)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for i := 0; i < len(firsts) && err == nil; i++ {
		path := segment{first: firsts[i]}.path(archive)
		var info os.FileInfo
		if info, err = os.Stat(path); err == nil {
			if !info.ModTime().Before(before) {
				return nil // later ones are newer
			}
			err = os.Remove(path)
		}
	}
	if err != nil {
		return fmt.Errorf("pruning the archive of the journal: %w", err)
	}
	return nil
}

// Close waits for what is being written and closes the journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	tail := j.tail
	j.mu.Unlock()
	<-tail
	return errors.Join(j.active.Close(), j.lock.Close())
}

// appendRecord appends a record whose sequence number is not known yet.
func appendRecord(buf, record []byte) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(record)))
	var rest [recordHead - 8]byte
	buf = append(buf, rest[:]...)
	return append(buf, record...)
}
