// Package tally is the gateway's log of receipts: a Merkle tree that only grows, so that a bill can't be rewritten
// later. It proves that a receipt is in the log, and that the log of today continues that of yesterday.
//
// The truth is one file of receipts, in their wire form, each of which is a leaf (RFC 6962 hashing; docs/protocol.md,
// section 6). Append returns when they are in it on disk. Beside it, and made anew from it when they are missing or
// behind, are the tree's hashes (package tlog's stored hashes, of which its tiles are made), the receipts' offsets, and
// hash tables of their IDs and of their requests. Before a tree head leaves this package it is kept on disk: a log that
// is found to hold less than what was signed, or something else, does not open.
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
	magic        = "cocoon-tally/v1\n"
	receiptsName = "receipts"
	hashesName   = "hashes"
	offsetsName  = "offsets"
	idsName      = "ids"
	requestsName = "requests"
	stateName    = "state"
	headName     = "head"
	lockName     = "lock"
)

// TileHeight is that of the tiles: 256 hashes each, as C2SP's tlog-tiles have it.
const TileHeight = 8

// stateEvery is after how many receipts the files beside the receipts are made durable: what has to be indexed again
// after a crash is at most that, a fraction of a second's work.
const stateEvery = 4096

// bufferMax bounds the buffer that is kept from one batch to the next, bytes: of a thousand receipts.
const bufferMax = 2 << 20

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
}

// Log is an open log. Its methods may be called at the same time.
type Log struct {
	c        Config
	verifier note.Verifier
	lock     *os.File
	file     *recordfile.File

	queue sync.Mutex // of the batch that is being filled
	next  *batch

	writing sync.Mutex // held by who appends
	index   *index     // written by who holds writing
	buf     []byte     // of who holds writing: receipts on their way to the file

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
	if len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("opening the log of receipts: no key")
	}
	l := &Log{c: c}
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
		Magic: magic, From: l.index.offset, Each: l.index.addRecord, Cut: l.enough, Wrap: l.c.Wrap,
	})
	if err != nil {
		return err
	}
	l.index.offset = l.file.Size()
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
	if b.err = l.catchUp(); b.err != nil {
		return
	}
	b.indexes, b.err = l.append(b.receipts)
}

// catchUp mends what a failed write left behind: the receipts' file may be poisoned, or ahead of what is beside it.
func (l *Log) catchUp() error {
	if l.file.Err() != nil {
		if err := l.file.Recover(); err != nil {
			return err
		}
	}
	for l.index.offset < l.file.Size() {
		record, err := l.file.Read(l.index.offset)
		if err == nil {
			err = l.index.addRecord(l.index.offset, record)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// append adds those receipts that are not in the log.
func (l *Log) append(receipts []*receipt.Signed) ([]int64, error) {
	indexes := make([]int64, len(receipts))
	fresh := make(map[receipt.Digest]int64, len(receipts))
	records, list := make([][]byte, 0, len(receipts)), make([]placed, 0, len(receipts))
	buf := l.buf[:0]
	for i, r := range receipts {
		if at, ok := fresh[r.ID()]; ok {
			indexes[i] = at
			continue
		}
		at, err := l.Find(r.ID())
		if errors.Is(err, ErrAbsent) {
			at, err = l.index.size()+int64(len(records)), nil
			fresh[r.ID()] = at
			from := len(buf)
			buf = r.Append(buf)
			record := buf[from:] // stays as it is when buf moves
			records, list = append(records, record), append(list, place(r, record, 0))
		}
		if err != nil {
			return nil, err
		}
		indexes[i] = at
	}
	if l.buf = buf; cap(buf) > bufferMax {
		l.buf = nil
	}
	if len(records) == 0 {
		return indexes, nil
	}
	offsets, err := l.file.Append(records...)
	if err != nil {
		return nil, err
	}
	for i, at := range offsets {
		list[i].offset, list[i].end = at, list[i].end+at
	}
	if err := l.index.add(list); err != nil {
		return nil, err
	}
	if l.index.size()-l.index.saved >= stateEvery {
		if err := l.index.save(); err != nil {
			l.c.Log.Warn("making the log's index durable failed: it will be made anew if need be", "error", err)
		}
	}
	return indexes, nil
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
	hashes, err := l.index.ReadHashes([]int64{tlog.StoredHashIndex(0, at)})
	if err != nil {
		return nil, err
	}
	if hashes[0] != tlog.RecordHash(record) {
		return nil, fmt.Errorf("%w: the receipt at index %d is not its leaf", ErrRewritten, at)
	}
	return receipt.Parse(record)
}

// Find is the index of the receipt with an ID; ErrAbsent if there is none.
func (l *Log) Find(id receipt.Digest) (int64, error) {
	return l.find(l.index.ids, id, func(r *receipt.Signed) bool { return r.ID() == id })
}

// FindRequest is the index of the first receipt in the log of a request; ErrAbsent if there is none.
func (l *Log) FindRequest(request string) (int64, error) {
	return l.find(l.index.requests, requestKey(request), func(r *receipt.Signed) bool { return r.Request == request })
}

func (l *Log) find(t *table, key receipt.Digest, is func(*receipt.Signed) bool) (int64, error) {
	return t.find(prefix(key), func(at int64) (bool, error) {
		if at >= l.index.size() { // of a batch that a crash took back
			return false, nil
		}
		r, err := l.Get(at)
		return err == nil && is(r), err
	})
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
