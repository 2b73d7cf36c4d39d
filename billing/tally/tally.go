// Package tally is the gateway's log of receipts: a Merkle tree that only grows, so that a bill can't be rewritten
// later. It proves that a receipt is in the log, and that the log of today continues that of yesterday.
//
// The truth is one file of receipts, in their record form; the ID of each is a leaf (RFC 6962 hashing; docs/protocol.md,
// section 6). Append returns when they are in it on disk: one write and one fsync a batch. Beside it, and made anew from
// it when they are missing or behind, are the tree's hashes (package tlog's stored hashes, of which its tiles are made),
// the receipts' offsets, and their IDs and requests, sorted in runs that are merged as they become many. Of the last
// receipts these are in memory alone, and are written now and then, together. Before a tree head leaves this package it
// is kept on disk: a log that is found to hold less than what was signed, or something else, does not open.
//
// In memory are the index of the last receipts, mostly stateEvery, 4*stateEvery and two batches at most, of 160 bytes
// each; filters that say of an ID that it is new, 2 bytes a receipt, filtersMax at most; while runs are merged, the
// filter of the new one, as much at most; and a batch.
//
// The log holds hashes of requests and answers: whoever reads it can test a guess at a short one. It is for the
// operator, and for proofs of one receipt to the one whose it is; not to be published whole.
package tally

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
	"cocoon/internal/treeproof"
)

// Names in the folder, and the magic line of the receipts.
const (
	magic        = "cocoon-tally/v2\n"
	receiptsName = "receipts"
	hashesName   = "hashes"
	offsetsName  = "offsets"
	keysName     = "keys" // and which receipts' they are
	stateName    = "state"
	headName     = "head"
	lockName     = "lock"
)

// TileHeight is that of the tiles: 256 hashes each, as C2SP's tlog-tiles have it.
const TileHeight = 8

// stateEvery is after how many receipts what is beside them is written: what has to be indexed again after a crash is
// mostly that, and four times that and two batches if the disk is slow: half a second's work.
const stateEvery = 16 << 10

// spareMax bounds the receipts of a batch whose memory is kept for the next.
const spareMax = 4 << 10

// Errors that callers tell apart.
var (
	// ErrRewritten marks a log that does not hold what its own tree head says.
	ErrRewritten = errors.New("the log is not the one whose tree head was signed")
	// ErrAbsent marks a receipt that is not in the log.
	ErrAbsent = errors.New("the receipt is not in the log")
)

// Config is a log's.
type Config struct {
	// Dir is the folder, which is made if it is missing. One process uses it.
	Dir string
	// Origin is the log's name, such as gateway.example.com/receipts: no blanks, no '+'.
	Origin string
	// Key signs the tree heads.
	Key ed25519.PrivateKey
	// Log hears of what mends itself. Nil: nobody does.
	Log *slog.Logger
	// Wrap comes between the log and its disk, in tests.
	Wrap func(*os.File) recordfile.Disk

	every int64 // stateEvery, but in tests
}

// Log is an open log. Its methods may be called at the same time.
type Log struct {
	c        Config
	verifier note.Verifier
	lock     *os.File
	file     *recordfile.File

	queue sync.Mutex // of the batch that is being filled
	next  *batch

	writing sync.Mutex               // held by who appends
	index   *index                   // written by who holds writing
	fresh   map[receipt.Digest]int64 // of who holds writing, as are the next: the indexes of those in the batch
	list    []placed
	records recordfile.Batch

	heads sync.Mutex // held by who signs
	floor int64      // as many receipts were durable when the log was opened
	head  treeproof.Head
	note  []byte // the head, signed; nil: none was ever
}

// batch is receipts that go to disk together.
type batch struct {
	receipts []*receipt.Signed
	indexes  []int64
	err      error
	done     chan struct{}
}

// Open opens a folder's log, or begins one.
func Open(c Config) (*Log, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Wrap == nil {
		c.Wrap = func(f *os.File) recordfile.Disk { return f }
	}
	if c.every == 0 {
		c.every = stateEvery
	}
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("opening the log of receipts: no key")
	}
	l := &Log{c: c, fresh: map[receipt.Digest]int64{}}
	var err error
	if l.verifier, err = treeproof.NewVerifier(c.Origin, c.Key.Public().(ed25519.PublicKey)); err != nil {
		return nil, fmt.Errorf("opening the log of receipts: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the log of receipts: %w", err)
	}
	if l.lock, err = durable.Lock(l.path(lockName)); err != nil {
		return nil, fmt.Errorf("opening the log of receipts: %w", err)
	}
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the log of receipts: %w", err), l.close())
	}
	return l, nil
}

func (l *Log) path(name string) string { return filepath.Join(l.c.Dir, name) }

func (l *Log) open() error {
	if err := l.loadHead(); err != nil {
		return err
	}
	l.floor = l.head.Tree.N
	err := l.load(false)
	if err == nil || l.index != nil && l.index.found.n == 0 {
		return err
	}
	l.c.Log.Warn("the files beside the log of receipts do not fit it and are made anew", "error", err)
	if l.file != nil {
		_ = l.file.Close() // it was only read
	}
	if l.index != nil {
		_ = l.index.close()
	}
	l.file, l.index = nil, nil
	return l.load(true)
}

// loadHead reads the last tree head that was signed.
func (l *Log) loadHead() error {
	text, err := os.ReadFile(l.path(headName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.head, err = treeproof.ParseHead(text, l.verifier); err != nil {
		return fmt.Errorf("reading the last tree head: %w; is it another gateway's log, or key?", err)
	}
	l.note = text
	return nil
}

// load opens the files, brings those beside the receipts up to them, and checks that what was signed is there.
func (l *Log) load(anew bool) (err error) {
	if l.index, err = openIndex(l.c, anew); err != nil {
		return err
	}
	l.floor = max(l.floor, l.index.found.floor)
	l.file, err = recordfile.Open(l.path(receiptsName), recordfile.Options{
		Magic: magic, From: l.index.found.offset, Each: l.index.addRecord, Cut: l.enough, Wrap: l.c.Wrap,
	})
	if err != nil {
		return err
	}
	if n := l.file.Cut(); n > 0 {
		l.c.Log.Warn("the end of the log of receipts was torn and is cut off", "bytes", n)
	}
	if err := l.matches(); err != nil {
		return err
	}
	return l.index.save()
}

// enough checks that no receipt is missing of those that were durable.
func (l *Log) enough() error {
	if l.index.size() < l.floor {
		return fmt.Errorf("%w: it has %d receipts, and there were %d", ErrRewritten, l.index.size(), l.floor)
	}
	return nil
}

// matches checks that what was signed is there.
func (l *Log) matches() error {
	if err := l.enough(); err != nil || l.note == nil {
		return err
	}
	root, err := tlog.TreeHash(l.head.Tree.N, l.index)
	if err != nil {
		return err
	}
	if root != l.head.Tree.Hash {
		return fmt.Errorf("%w: of its first %d receipts some are others", ErrRewritten, l.head.Tree.N)
	}
	return nil
}

// Append adds receipts, whose signatures the caller checked, and returns when they are on disk, with their indexes. One
// that is in the log already keeps its index and is not added again. After an error some may be in the log; to append
// them again is right.
func (l *Log) Append(receipts ...*receipt.Signed) ([]int64, error) {
	l.queue.Lock()
	b, first := l.next, l.next == nil
	if first {
		b = &batch{done: make(chan struct{})}
		l.next = b
	}
	at := len(b.receipts)
	b.receipts = append(b.receipts, receipts...)
	l.queue.Unlock()
	if first {
		l.write(b)
	}
	<-b.done
	if b.err != nil {
		return nil, fmt.Errorf("appending to the log of receipts: %w", b.err)
	}
	return b.indexes[at : at+len(receipts)], nil
}

// write appends a batch. While it waits for the one before, others join the batch.
func (l *Log) write(b *batch) {
	l.writing.Lock()
	defer l.writing.Unlock()
	defer close(b.done)
	l.queue.Lock()
	l.next = nil
	l.queue.Unlock()
	if b.err = l.ready(); b.err != nil {
		return
	}
	b.indexes, b.err = l.append(b.receipts)
}

// ready mends what a failed write left behind, and makes room in memory.
func (l *Log) ready() error {
	if l.file.Err() != nil {
		if err := l.file.Recover(); err != nil {
			return err
		}
	}
	return l.index.room()
}

// append adds those receipts that are not in the log.
func (l *Log) append(receipts []*receipt.Signed) ([]int64, error) {
	l.records.Reset()
	if clear(l.fresh); cap(l.list) > spareMax {
		l.fresh, l.list = map[receipt.Digest]int64{}, nil
	}
	l.list = l.list[:0]
	indexes := make([]int64, len(receipts))
	for i, r := range receipts {
		id := r.ID()
		at, ok := l.fresh[id]
		if !ok {
			var err error
			if at, err = l.Find(id); errors.Is(err, ErrAbsent) {
				at, err = l.add(r)
			}
			if err != nil {
				return nil, err
			}
		}
		indexes[i] = at
	}
	if len(l.list) == 0 {
		return indexes, nil
	}
	base, err := l.file.AppendBatch(&l.records)
	if err != nil {
		return nil, err
	}
	l.index.add(l.list, base, base+l.records.Len())
	return indexes, nil
}

// add adds a receipt to the batch, and gives the index that it will have.
func (l *Log) add(r *receipt.Signed) (int64, error) {
	at, offset := l.index.size()+int64(len(l.list)), l.records.Len()
	if err := l.records.Add(r); err != nil {
		return 0, err
	}
	l.list = append(l.list, place(r, offset))
	l.fresh[r.ID()] = at
	return at, nil
}

// Size is how many receipts the log has.
func (l *Log) Size() int64 { return l.index.size() }

// Get is the receipt at an index.
func (l *Log) Get(at int64) (*receipt.Signed, error) {
	if at < 0 || at >= l.index.size() {
		return nil, fmt.Errorf("%w: index %d of %d", ErrAbsent, at, l.index.size())
	}
	offset, err := l.index.offsetOf(at)
	if err != nil {
		return nil, err
	}
	record, err := l.file.Read(offset)
	if err != nil {
		return nil, err
	}
	r, err := receipt.ParseRecord(record)
	if err != nil {
		return nil, err
	}
	hashes, err := l.index.ReadHashes([]int64{tlog.StoredHashIndex(0, at)})
	if err != nil {
		return nil, err
	}
	if hashes[0] != leaf(r) {
		return nil, fmt.Errorf("%w: the receipt at index %d is not its leaf", ErrRewritten, at)
	}
	return r, nil
}

// Find is the index of the receipt with an ID; ErrAbsent if there is none.
func (l *Log) Find(id receipt.Digest) (int64, error) {
	return l.find(ids, id, func(r *receipt.Signed) bool { return r.ID() == id })
}

// FindRequest is the index of the first receipt in the log of a request; ErrAbsent if there is none.
func (l *Log) FindRequest(request string) (int64, error) {
	return l.find(requests, requestKey(request), func(r *receipt.Signed) bool { return r.Request == request })
}

func (l *Log) find(kind int, key receipt.Digest, is func(*receipt.Signed) bool) (int64, error) {
	found, err := l.index.find(kind, prefix(key), make([]int64, 0, 4)) // on the stack
	if err != nil {
		return 0, err
	}
	for _, at := range found {
		r, err := l.Get(at)
		if err != nil {
			return 0, err
		}
		if is(r) {
			return at, nil
		}
	}
	return 0, ErrAbsent
}

// Head is the log's tree head now, as a signed note.
func (l *Log) Head() ([]byte, error) { return l.headOf(l.index.size()) }

// Root is the hash of the log's tree now, which is signed and on disk before it is given: what a payment commits to.
func (l *Log) Root() ([32]byte, error) {
	if _, err := l.Head(); err != nil {
		return [32]byte{}, err
	}
	l.heads.Lock()
	defer l.heads.Unlock()
	return l.head.Tree.Hash, nil // or of a later one
}

// headOf is a signed head of at least a size.
func (l *Log) headOf(least int64) ([]byte, error) {
	l.heads.Lock()
	defer l.heads.Unlock()
	if l.note != nil && l.head.Tree.N >= least {
		return l.note, nil
	}
	n := l.index.size()
	h := treeproof.Head{Origin: l.c.Origin, Tree: tlog.Tree{N: n}}
	var err error
	if h.Tree.Hash, err = tlog.TreeHash(n, l.index); err != nil {
		return nil, err
	}
	text, err := h.Sign(l.c.Key)
	if err != nil {
		return nil, err
	}
	if err := durable.Replace(l.path(headName), text); err != nil {
		return nil, fmt.Errorf("keeping a tree head: %w", err)
	}
	l.head, l.note = h, text
	return text, nil
}

// Prove is the proof that the receipt with an ID is in the log; ErrAbsent if it is not.
func (l *Log) Prove(id receipt.Digest) (*treeproof.Proof, error) {
	at, err := l.Find(id)
	if err != nil {
		return nil, err
	}
	text, err := l.headOf(at + 1)
	if err != nil {
		return nil, err
	}
	h, err := treeproof.ParseHead(text, l.verifier)
	if err != nil {
		return nil, err
	}
	path, err := tlog.ProveRecord(h.Tree.N, at, l.index)
	if err != nil {
		return nil, err
	}
	return &treeproof.Proof{Index: at, Path: path, Head: text}, nil
}

// ProveGrowth is the proof that the log of a size continues the one of a smaller size, which is at least 1.
func (l *Log) ProveGrowth(size, from int64) (tlog.TreeProof, error) {
	if from < 1 || from > size || size > l.index.size() {
		return nil, fmt.Errorf("%w: no growth from %d to %d receipts in a log of %d", ErrAbsent, from, size, l.index.size())
	}
	return tlog.ProveTree(size, from, l.index)
}

// Tile is the hashes of a tile, of TileHeight and with level 0 or more.
func (l *Log) Tile(t tlog.Tile) ([]byte, error) {
	const most = 1 << 40 // tiles of a level: more than there will be
	if t.H != TileHeight || t.L < 0 || t.L > 63/TileHeight || t.W < 1 || t.W > 1<<TileHeight || t.N < 0 || t.N > most ||
		t.N<<TileHeight+int64(t.W) > l.index.size()>>(TileHeight*t.L) {
		return nil, fmt.Errorf("%w: no such tile", ErrAbsent)
	}
	return tlog.ReadTileData(t, l.index)
}

// Close makes the index durable and closes the log. What was appended is on disk.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if errors.Is(l.file.Err(), recordfile.ErrClosed) {
		return nil
	}
	if err := l.index.save(); err != nil {
		l.c.Log.Warn("making the log's index durable failed: it will be made anew if need be", "error", err)
	}
	return l.close()
}

func (l *Log) close() error {
	var err error
	if l.file != nil {
		err = l.file.Close()
	}
	if l.index != nil {
		err = errors.Join(err, l.index.close())
	}
	return errors.Join(err, l.lock.Close())
}
