// Package journal is one gateway's request journal: an append-only file of small records. Append returns when they are on
// disk. Write returns when the system has them: they survive the process at once, and the machine a moment later.
//
// # Files
//
// A folder holds segments, named by the sequence number of their first record, a lock file, and while it is open, or after
// its process died, a ring, "recent"; its folder "archive" holds the segments that were trimmed. All integers are
// little-endian, all checksums CRC-32C.
//
//	segment = magic[8] | version u32 | first u64 | salt[8] | checksum u32 of the 28 bytes before | records
//	record  = checksum u32 | size u32 | seq u64 | index u32 | payload[size]
//
// A record's checksum starts from that of its segment's head, whose salt is random, and covers all that follows it: no
// payload can pass for a record. Sequence numbers have no gaps. The index is how many records before it in the segment
// were not known to be on disk when it was written: one with index i proves that all up to seq-i-1 were durable before it.
//
// A segment is made whole under another name, synced, renamed and its folder synced: a head is never torn. All of it is on
// disk before the next one begins, so what a power cut can take lies in the last one.
//
// # The ring
//
// Write makes no call of the system: it copies into a file that is mapped, the ring, which outlives the process as any file
// does. It holds the end of the active segment, each byte at its offset there modulo the ring's size. An fsync, or a ring
// that is full, gives what is new in it to the segment in one piece. Nothing waits for the ring's own pages to reach a disk:
// they stay as they are, where the pages of a segment would cost a fault for each 15 records (measured: 15 µs, and another 5
// to 10 in the fsync, which is as much as a call of the system for each record).
//
// Room in the segment is allocated on the disk, behind the file's end, before a record goes into the ring: a full disk is an
// error of Write, and never one of the fsync that comes later. When a segment ends, the room that is left is given back.
// Where there is no ring or no room ahead (another system than Linux, a file system that can't, a disk that is nearly full),
// Write calls the system for each record.
//
// # Recovery
//
// Open and Replay know three cases.
//
//  1. The last segment ends in bytes that are no good record, and no record after them proves that they were durable:
//     a torn tail, which nobody was told is on disk. It is cut, with what comes after it: of several writes that waited
//     for one fsync any part may have reached the disk. What is left has no gap.
//  2. Any other bytes that are no good record, a gap, a missing segment: a DamageError, which names file and offset.
//     Nothing is changed. (Damage to what the very last fsync was for looks like a torn tail; no journal can tell them
//     apart.)
//  3. A version that this program does not know: ErrNewer.
//
// What follows the good records of the last segment is looked for in the ring: what counts there is a record with a good
// checksum and the number that is due. It is nothing that repairs damage: a DamageError comes first. Whoever reads beside
// the process reads the ring first, then the segment, and so sees all that was written before.
//
// Open writes the last segment anew and syncs it before it trusts it: after an fsync that failed, or a process killed
// before its fsync, the kernel shows bytes that may be on no disk. Then it makes the ring anew: what was cut must not come
// back out of an old one. So what Write had accepted is there after a process died, whole; after the machine did, some of
// the last of it may be gone, always from a record on: the order stays, and nothing is on disk without what was written
// before it.
//
// # Failures
//
// A Write or an Append that failed is not in the journal, unless the fsync itself failed or the process died; then it may
// be there after the next Open. A failed write (disk full, read-only) is undone before the next one; the journal goes on
// when the disk does. A failed fsync, whoever it was for, breaks the journal until it is opened again: nothing is accepted
// after it, and what Write accepted since the last good one may be gone, as after a power cut. So does a ring that can't be
// read any more, because somebody cut it or its disk is bad, if records were in it alone; if none were, the journal goes on
// without it.
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
	// AppendMax bounds the records of one call together, bytes with their heads. What waits for an fsync is bounded by a
	// segment's size.
	AppendMax = 1 << 20
	// DefaultSegmentBytes is the size at which a segment is closed: small enough to be read at once and written anew at
	// open, large enough for 100,000 records.
	DefaultSegmentBytes = 16 << 20
	// DefaultEvery is the least time between the starts of two fsyncs: 200 a second cost a core next to nothing.
	DefaultEvery = 5 * time.Millisecond
	// DefaultLazy is when the fsync of a written record begins at the latest: 5 a second cost a thousandth of a core.
	DefaultLazy = 200 * time.Millisecond

	segmentMax = 64 << 20 // bound of Options.SegmentBytes, and of what Open reads into memory
)

var (
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("journal: in use by another process")
	// ErrNewer says that a newer program wrote the journal.
	ErrNewer = errors.New("journal: written by a newer version")
	// ErrBroken says that an fsync failed, or what comes before it: what is on disk is unknown until the journal is opened
	// again.
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
	// Lazy is when an fsync begins at the latest after a Write. Zero: DefaultLazy. Negative: with the next Append, Sync,
	// segment or Close.
	Lazy time.Duration

	wrap func(file) file // tests: puts faults before the disk
	ring int             // tests: bytes of the ring; negative: none, as where files can't be mapped
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
	ring *ring // of the active segment, under what guards that

	// disk holds one token: who has it syncs, or begins a segment. It is taken before mu.
	disk   chan struct{}
	synced time.Time // when the last fsync started; owned by who has the token

	// mu is held over a write, and over the beginning of a segment, which is rare, never over another fsync.
	mu      sync.Mutex
	active  file    // guarded by mu, as all up to lazies; changed only by who has the token too
	at      segment // what active is
	seed    uint32  // of its checksums
	size    int64   // bytes of it that are written
	next    uint64  // sequence number of the next record
	durable uint64  // sequence number of the last record that is known to be on disk
	buf     []byte  // of the write at hand
	dirty   bool    // a failed write may have left bytes behind size
	closed  bool
	broken  error
	flush   *flush         // takes who waits for an fsync, nil if nobody does
	timer   *time.Timer    // of what nobody waits for
	armed   bool           // the timer runs
	lazies  sync.WaitGroup // that it runs, or what it started

	listMu   sync.Mutex // after mu
	segments []segment  // guarded by listMu: all, in order; the last one is written to
}

// flush is one fsync that callers wait for. The first of them does it.
type flush struct {
	done chan struct{} // closed when all that was written before it began is on disk, or that failed
	err  error         // set before done is closed
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
	if o.Lazy == 0 {
		o.Lazy = DefaultLazy
	}
	if o.ring == 0 {
		o.ring = ringSize
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, o: o, lock: lock, ring: &ring{}, disk: make(chan struct{}, 1)}
	j.disk <- struct{}{}
	if err := j.recover(); err != nil {
		_ = lock.Close() // nothing was written through it
		return nil, err
	}
	return j, nil
}

// Append writes records and returns when they are on disk. Callers that wait at the same time share one fsync. Records are
// in the journal in the order in which calls of Append and Write came; those of one call lie side by side. After a crash
// in the middle of it the first ones may be there without the others. The context counts only until the records are
// written: from then on the disk decides. After an error see "Failures" above: none of them is in the journal, or that is
// not known.
func (j *Journal) Append(ctx context.Context, records ...[]byte) error {
	size, err := sizeOf(records)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil || size == 0 {
		return err
	}
	j.mu.Lock()
	if err := j.put(records, size); err != nil {
		j.mu.Unlock()
		return err
	}
	fl, first := j.join()
	j.mu.Unlock()
	if first {
		j.lead(fl)
	}
	<-fl.done
	return fl.err
}

// Write writes records, in the order and under the rules of Append, and returns when the system has them: they survive
// this process from then on, and the machine once a Sync or an Append that began later has returned, or Options.Lazy and
// the time of an fsync have passed. It waits for a disk only where a segment ends. After an error none of them is in the
// journal, but a process that dies then may leave them there.
func (j *Journal) Write(records ...[]byte) error {
	size, err := sizeOf(records)
	if err != nil || size == 0 {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.put(records, size); err != nil {
		return err
	}
	j.arm()
	return nil
}

// Sync returns when all that was written before the call is on disk. It is free if that is so already. The context ends
// the wait for an fsync that another caller does. The error is ErrBroken if the fsync fails or one has failed before.
func (j *Journal) Sync(ctx context.Context) error {
	j.mu.Lock()
	switch {
	case j.broken != nil, j.durable == j.next-1:
		defer j.mu.Unlock()
		return j.broken
	case j.closed:
		defer j.mu.Unlock()
		return ErrClosed
	}
	fl, first := j.join()
	j.mu.Unlock()
	if first {
		j.lead(fl)
	}
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Broken is the ErrBroken of a journal whose fsync failed, else nil: nobody may be there whom it could be told.
func (j *Journal) Broken() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// sizeOf is what the records of one call take together.
func sizeOf(records [][]byte) (size int, err error) {
	for _, record := range records {
		if len(record) == 0 || len(record) > RecordMax {
			return 0, fmt.Errorf("%w: %d bytes", ErrSize, len(record))
		}
		size += recordHead + len(record)
	}
	if size > AppendMax {
		return 0, fmt.Errorf("%w: %d records with %d bytes", ErrSize, len(records), size)
	}
	return size, nil
}

// put writes records of that size together, in a new segment if there is no room in this one. The lock is held, and given
// up while it waits for the disk.
func (j *Journal) put(records [][]byte, size int) error {
	for {
		switch {
		case j.closed:
			return ErrClosed
		case j.broken != nil:
			return j.broken
		case j.size == headSize || j.size+int64(size) <= j.o.SegmentBytes:
			return j.write(records)
		}
		if err := j.roll(); err != nil {
			return err
		}
	}
}

// write puts records behind those that are written, after it undid what a failed write left there. The lock is held.
func (j *Journal) write(records [][]byte) error {
	if err := j.undo(); err != nil {
		return fmt.Errorf("writing %s: undoing a failed write: %w", j.at.path(j.dir), err)
	}
	buf := j.buf[:0]
	for i, record := range records {
		seq := j.next + uint64(i)
		buf = appendRecord(buf, j.seed, seq, uint32(seq-j.durable-1), record)
	}
	j.buf = buf // AppendMax bounds it
	if n, err := j.active.WriteAt(buf, j.size); err != nil {
		j.dirty = n != 0
		if errors.Is(err, errLost) {
			return j.ended(0, err)
		}
		// A tail that stays here goes before the next write or at the next open.
		return fmt.Errorf("writing %s: %w", j.at.path(j.dir), errors.Join(err, j.undo()))
	}
	j.size += int64(len(buf))
	j.next += uint64(len(records))
	return nil
}

// undo cuts what a failed write left behind the written bytes. The lock is held.
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

// join gives the fsync that takes who waits for one; the first of them has to lead it. The lock is held.
func (j *Journal) join() (fl *flush, first bool) {
	if j.flush != nil {
		return j.flush, false
	}
	j.flush = &flush{done: make(chan struct{})}
	return j.flush, true
}

// lead syncs when it is its turn.
func (j *Journal) lead(fl *flush) {
	<-j.disk
	if wait := j.o.Every - time.Since(j.synced); j.o.Every > 0 && wait > 0 && !j.synced.IsZero() {
		time.Sleep(min(wait, j.o.Every)) // min: a clock that jumped must not stall anybody
	}
	j.mu.Lock()
	j.flush = nil // whoever comes now waits for the next one
	j.mu.Unlock()
	fl.err = j.sync()
	j.disk <- struct{}{}
	close(fl.done)
}

// sync puts on disk what is written when it begins. The caller has the token.
func (j *Journal) sync() error {
	j.mu.Lock()
	f, last := j.active, j.next-1
	if j.broken != nil || j.durable == last {
		defer j.mu.Unlock()
		return j.broken
	}
	j.mu.Unlock()
	j.synced = time.Now()
	err := f.Sync()
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.ended(last, err)
}

// ended notes that an fsync of all up to a record has ended, or can't be any more. The lock is held.
func (j *Journal) ended(last uint64, err error) error {
	if err != nil {
		j.broken = fmt.Errorf("%w: %w", ErrBroken, err)
		return j.broken
	}
	j.durable = last
	return nil
}

// arm sees to it that what was written is synced, if nobody asks for it. The lock is held.
func (j *Journal) arm() {
	if j.armed || j.o.Lazy < 0 {
		return
	}
	j.armed = true
	j.lazies.Add(1)
	if j.timer == nil {
		j.timer = time.AfterFunc(j.o.Lazy, j.lazily)
		return
	}
	j.timer.Reset(j.o.Lazy)
}

// lazily syncs what nobody has asked for.
func (j *Journal) lazily() {
	defer j.lazies.Done()
	j.mu.Lock()
	j.armed = false // what is written from now on arms it again
	if j.closed || j.broken != nil || j.durable == j.next-1 {
		j.mu.Unlock()
		return
	}
	fl, first := j.join()
	j.mu.Unlock()
	if first {
		j.lead(fl) // its error is the journal's: whoever comes next gets it
	}
}

// roll starts a new segment when all of this one is on disk, unless another caller did. The lock is held, and given up
// while it waits for the disk.
func (j *Journal) roll() error {
	full := j.at.first
	j.mu.Unlock()
	<-j.disk
	j.mu.Lock()
	defer func() { j.disk <- struct{}{} }()
	if j.closed || j.broken != nil || j.at.first != full {
		return nil // the caller looks again
	}
	if err := j.undo(); err != nil { // a closed segment ends with its last record
		return fmt.Errorf("closing a segment: %w", err)
	}
	if last := j.next - 1; j.durable != last {
		j.synced = time.Now()
		if err := j.ended(last, j.active.Sync()); err != nil {
			return err
		}
	}
	s := newSegment(j.next)
	f, err := j.create(s, s.head())
	if err != nil {
		if errors.Is(err, errSync) {
			return j.ended(0, err)
		}
		return err
	}
	_ = j.active.Close() // all of it was synced
	j.listMu.Lock()
	defer j.listMu.Unlock()
	j.segments[len(j.segments)-1].size = j.size
	j.segments = append(j.segments, s)
	j.active, j.at, j.seed, j.size = f, s, s.seed(), headSize
	return nil
}

// Last returns the sequence number of the last record that was written, 0 if there has never been one.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.next - 1
}

// Size returns how many bytes the journal's segments hold together.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	size := j.size
	j.listMu.Lock()
	defer j.listMu.Unlock()
	j.mu.Unlock()
	for _, s := range j.segments[:len(j.segments)-1] {
		size += s.size
	}
	return size
}

// Trim removes the segments all of whose records have a sequence number up to seq, or moves them to the archive. The
// last segment stays.
func (j *Journal) Trim(seq uint64) error {
	j.listMu.Lock()
	defer j.listMu.Unlock()
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

// Close puts on disk what is written and closes the journal. An error says that the last of it may be gone after a power
// cut.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	fl, was := j.flush, j.broken
	if j.armed && j.timer.Stop() {
		j.armed = false
		j.lazies.Done()
	}
	j.mu.Unlock()
	j.lazies.Wait()
	if fl != nil {
		<-fl.done
	}
	<-j.disk
	defer func() { j.disk <- struct{}{} }() // who waits to begin a segment finds it closed
	err := j.sync()
	closing := j.active.Close()
	if j.ring.unmap(); err == nil {
		_ = removeRing(j.dir) // all of it is in the segment; if it stays, that is known too
	}
	if was != nil {
		err = nil // it has been told
	}
	return errors.Join(err, closing, j.lock.Close())
}

// appendRecord appends a record with its head.
func appendRecord(buf []byte, seed uint32, seq uint64, index uint32, payload []byte) []byte {
	from := len(buf)
	buf = binary.LittleEndian.AppendUint32(buf, 0)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	buf = binary.LittleEndian.AppendUint64(buf, seq)
	buf = binary.LittleEndian.AppendUint32(buf, index)
	buf = append(buf, payload...)
	binary.LittleEndian.PutUint32(buf[from:], checksum(seed, buf[from+4:]))
	return buf
}
