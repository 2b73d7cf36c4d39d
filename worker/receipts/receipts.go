// Package receipts keeps a worker's receipts on disk until a gateway has acknowledged them: each is a claim to money.
//
// Sign returns when the receipt is on disk, so that it is there before anybody sees it. What a crash can cost is what
// the worker had not yet signed for: the tokens since a request's last receipt. Of each request only the last receipt
// is kept, since counts are cumulative. What is acknowledged goes.
//
// The store is bounded. When it is full it takes no interim receipts, and gives the room of the oldest interim ones to
// final ones. A final receipt is never dropped: when there are nothing but final ones, Sign fails, and the worker has
// to stop working for gateways that do not acknowledge.
package receipts

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"cocoon/internal/durable"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// Sizes, bytes.
const (
	// DefaultMax is room for 150,000 receipts or more: those of days without any gateway.
	DefaultMax = 256 << 20
	// MinMax is the least that a store can be bounded to: a few receipts.
	MinMax = 16 << 10
	// compactMin is how much of the file may be of no use before the file is written anew, whatever the rest is.
	compactMin = 1 << 20
	// copyMax is how much is copied at once when it is.
	copyMax = 1 << 20
)

// Forms in the file. A receipt begins with its own head, an acknowledgement with ackHead, and IDs follow.
const (
	magic   = "cocoon-worker-receipts/v1\n"
	ackHead = "ack\n"
	ackMax  = (recordfile.RecordMax - len(ackHead)) / len(receipt.Digest{}) // IDs in one record
)

// Names in the folder.
const (
	fileName = "receipts"
	newName  = "receipts.new"
	lockName = "receipts.lock"
)

// Errors that callers tell apart.
var (
	// ErrFull means that there is no room: gateways have to acknowledge first.
	ErrFull = errors.New("the store of receipts is full of unacknowledged ones")
	// ErrLate marks a receipt of a request that has a later one, or its final one, in the store.
	ErrLate = errors.New("the request has a later receipt in the store")
	// ErrAbsent means that a receipt to be signed again is not kept, or is of another keyset.
	ErrAbsent = errors.New("not all of these receipts are kept")
)

// Config is a store's.
type Config struct {
	// Dir is the folder, which is made if it is missing. One process uses it.
	Dir string
	// Max bounds the receipts that are kept, bytes; 0 is DefaultMax. The file is at most about twice as long.
	Max int64
	// Log hears of what mends itself: a torn tail, a compaction that failed. Nil: nobody does.
	Log *slog.Logger
	// Wrap comes between the store and its disk, in tests.
	Wrap func(*os.File) recordfile.Disk
}

// entry is a receipt that is kept.
type entry struct {
	id      receipt.Digest
	request string
	keyset  receipt.Digest
	seq     uint64
	final   bool
	cost    nanoton.Amount
	end     int64 // milliseconds since 1970
	offset  int64 // in the file: in the order of time
	size    int64
	round   uint64 // of Countersign in which it was seen
}

// Store is an open store. Its methods may be called at the same time; the receipts of one request come one by one.
type Store struct {
	c    Config
	lock *os.File

	// appending is read-locked by who appends to the file, and locked by who replaces it.
	appending sync.RWMutex
	file      *recordfile.File // locked by appending
	unsynced  atomic.Bool      // the file's name is not durable yet

	signing sync.Mutex // held by the one who signs and writes
	joining sync.Mutex
	next    *group // locked by joining: what is signed next; nil: nobody has begun one

	mu        sync.Mutex
	entries   map[receipt.Digest]*entry
	requests  map[string]*entry
	round     uint64 // of Countersign
	live      int64  // bytes of entries
	slack     int64  // compactMin, but in tests
	compactAt int64  // the least size of the file at which compaction is tried: it failed before
	closed    bool
}

// Open opens a folder's store.
func Open(c Config) (*Store, error) {
	if c.Max == 0 {
		c.Max = DefaultMax
	}
	if c.Max < MinMax {
		return nil, fmt.Errorf("a store of receipts of %d bytes, want at least %d", c.Max, MinMax)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of receipts: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(c.Dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("opening the store of receipts: %w", err)
	}
	s := &Store{c: c, lock: lock, slack: compactMin, entries: map[receipt.Digest]*entry{}, requests: map[string]*entry{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store of receipts: %w", err), lock.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := os.Remove(s.path(newName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.file, err = recordfile.Open(s.path(fileName), recordfile.Options{Magic: magic, Each: s.replay, Wrap: s.c.Wrap})
	if err != nil {
		return err
	}
	if n := s.file.Cut(); n > 0 {
		s.c.Log.Warn("the end of the file of receipts was torn and is cut off", "bytes", n)
	}
	return nil
}

func (s *Store) path(name string) string { return filepath.Join(s.c.Dir, name) }

// replay takes over a record of the file.
func (s *Store) replay(offset int64, record []byte) error {
	if ids, ok := bytes.CutPrefix(record, []byte(ackHead)); ok {
		if len(ids)%len(receipt.Digest{}) != 0 {
			return fmt.Errorf("%w at %d: an acknowledgement of half an ID", recordfile.ErrDamaged, offset)
		}
		for id := range slices.Chunk(ids, len(receipt.Digest{})) {
			s.remove(s.entries[receipt.Digest(id)])
		}
		return nil
	}
	r, err := receipt.Parse(record)
	if err != nil {
		return fmt.Errorf("%w at %d: %w", recordfile.ErrDamaged, offset, err)
	}
	if s.admit(&r.Receipt, r.ID()) == nil {
		s.put(r, offset, int64(len(record)))
	}
	return nil
}

// admit tells whether a receipt fits those that are there; errKept if it is one of them.
func (s *Store) admit(r *receipt.Receipt, id receipt.Digest) error {
	last := s.requests[r.Request]
	switch {
	case last == nil:
		return nil
	case last.id == id:
		return errKept
	case last.final || r.Seq <= last.seq:
		return fmt.Errorf("%w: seq %d after %d", ErrLate, r.Seq, last.seq)
	}
	return nil
}

// errKept is admit's answer to a receipt that is in the store.
var errKept = errors.New("the receipt is in the store")

// put keeps a receipt that is on disk, in place of the request's last one.
func (s *Store) put(r *receipt.Signed, offset, size int64) {
	s.remove(s.requests[r.Request])
	e := &entry{
		id: r.ID(), request: r.Request, keyset: r.Keyset, seq: r.Seq, final: r.Kind == receipt.Final, cost: r.Cost, end: r.End,
		offset: offset, size: size,
	}
	s.entries[e.id], s.requests[e.request] = e, e
	s.live += size
}

func (s *Store) remove(e *entry) {
	if e == nil {
		return
	}
	delete(s.entries, e.id)
	delete(s.requests, e.request)
	s.live -= e.size
}

// sorted is the entries, oldest first.
func (s *Store) sorted() []*entry {
	return slices.SortedFunc(maps.Values(s.entries), func(a, b *entry) int { return cmp.Compare(a.offset, b.offset) })
}

// append writes records, and then has done change the maps.
func (s *Store) append(records [][]byte, done func(offsets []int64)) error {
	s.appending.RLock()
	defer s.appending.RUnlock()
	if errors.Is(s.file.Err(), recordfile.ErrPoisoned) {
		if err := s.file.Recover(); err != nil {
			return err
		}
	}
	if err := s.syncName(); err != nil {
		return err
	}
	offsets, err := s.file.Append(records...)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done(offsets)
	return nil
}

func ackRecords(ids []receipt.Digest) [][]byte {
	var records [][]byte
	for part := range slices.Chunk(ids, ackMax) {
		b := []byte(ackHead)
		for _, id := range part {
			b = append(b, id[:]...)
		}
		records = append(records, b)
	}
	return records
}

// Ack lets receipts go that a gateway has. IDs that are not there are ignored. It returns when that is on disk; after
// an error they are still there, and will be presented again, which does no harm.
func (s *Store) Ack(ids ...receipt.Digest) error {
	s.mu.Lock()
	ids = slices.DeleteFunc(slices.Clone(ids), func(id receipt.Digest) bool { return s.entries[id] == nil })
	s.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	err := s.append(ackRecords(ids), func([]int64) {
		for _, id := range ids {
			s.remove(s.entries[id])
		}
	})
	if err != nil {
		return fmt.Errorf("letting acknowledged receipts go: %w", err)
	}
	s.tidy()
	return nil
}

// Unacknowledged are the receipts that are kept when it is called, oldest first: the last one of each request. Those
// that go meanwhile are left out. An error ends it.
func (s *Store) Unacknowledged() iter.Seq2[*receipt.Signed, error] {
	s.mu.Lock()
	list := s.sorted()
	s.mu.Unlock()
	return func(yield func(*receipt.Signed, error) bool) {
		for _, e := range list {
			r, err := s.read(e)
			if r == nil && err == nil {
				continue
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// read reads a receipt; nil if it has gone.
func (s *Store) read(e *entry) (*receipt.Signed, error) {
	s.appending.RLock()
	defer s.appending.RUnlock()
	s.mu.Lock()
	kept := s.entries[e.id]
	s.mu.Unlock()
	if kept == nil {
		return nil, nil
	}
	record, err := s.file.Read(kept.offset)
	if err != nil {
		return nil, fmt.Errorf("reading a receipt: %w", err)
	}
	r, err := receipt.Parse(record)
	if err != nil {
		return nil, fmt.Errorf("reading a receipt: %w", err)
	}
	return r, nil
}

// tidy writes the file anew if most of it is of no use. If that fails, the file stays as it is, until it has grown
// more.
func (s *Store) tidy() {
	if !s.untidy() {
		return
	}
	s.appending.Lock()
	defer s.appending.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wasteful() || s.closed {
		return
	}
	if err := s.compact(); err != nil {
		s.c.Log.Warn("writing the file of receipts anew failed", "error", err)
		s.compactAt = s.file.Size() + max(compactMin, s.file.Size()/4)
		return
	}
	s.compactAt = 0
}

// untidy is cheap, and holds nobody up.
func (s *Store) untidy() bool {
	s.appending.RLock()
	defer s.appending.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wasteful()
}

// wasteful: most of the file is of no use.
func (s *Store) wasteful() bool { return s.file.Size() >= max(s.compactAt, 2*s.live+s.slack) }

// compact writes what is kept to a new file, which takes the place of the old one.
func (s *Store) compact() (err error) {
	if err := os.Remove(s.path(newName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := recordfile.Open(s.path(newName), recordfile.Options{Magic: magic, Wrap: s.c.Wrap})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(s.path(newName)))
		}
	}()
	list := s.sorted()
	offsets, err := s.copy(file, list)
	if err != nil {
		return err
	}
	if err := os.Rename(s.path(newName), s.path(fileName)); err != nil {
		return err
	}
	for i, e := range list {
		e.offset = offsets[i]
	}
	s.unsynced.Store(true)
	old := s.file
	s.file = file
	if err := errors.Join(s.syncName(), old.Close()); err != nil {
		s.c.Log.Warn("after the file of receipts was written anew", "error", err)
	}
	return nil
}

// syncName makes the new file's name durable, if that isn't done: until then a crash brings back the old file. That
// holds all that was kept when the new one was made, and none of what came later.
func (s *Store) syncName() error {
	if !s.unsynced.Load() {
		return nil
	}
	if err := durable.SyncDir(s.c.Dir); err != nil {
		return err
	}
	s.unsynced.Store(false)
	return nil
}

// copy appends the entries to a file, and gives their offsets there.
func (s *Store) copy(to *recordfile.File, list []*entry) (offsets []int64, err error) {
	var records [][]byte
	size := 0
	flush := func() error {
		more, err := to.Append(records...)
		offsets, records, size = append(offsets, more...), nil, 0
		return err
	}
	for _, e := range list {
		record, err := s.file.Read(e.offset)
		if err != nil {
			return nil, err
		}
		records, size = append(records, record), size+len(record)
		if size >= copyMax {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return offsets, flush()
}

// Stats are a store's.
type Stats struct {
	Receipts, Finals int   // that are kept
	Live, File, Max  int64 // bytes of them, of the file, and the bound of the former
	// Cost is the sum of their costs, or the most that an amount can be.
	Cost nanoton.Amount
	// Oldest is when the oldest one was signed, milliseconds since 1970; 0 if there is none.
	Oldest int64
}

// Stats counts what is kept.
func (s *Store) Stats() Stats {
	s.appending.RLock()
	defer s.appending.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Stats{Receipts: len(s.entries), Live: s.live, File: s.file.Size(), Max: s.c.Max}
	for _, e := range s.entries {
		if e.final {
			t.Finals++
		}
		t.Cost += min(e.cost, math.MaxInt64-t.Cost)
		if t.Oldest == 0 || e.end < t.Oldest {
			t.Oldest = e.end
		}
	}
	return t
}

// Close closes the store. What was added is on disk.
func (s *Store) Close() error {
	s.appending.Lock()
	defer s.appending.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.file.Close(), s.lock.Close())
}
