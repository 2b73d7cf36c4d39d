package tally

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// offsetSize is the size of a number in the file of offsets.
const offsetSize = 8

// stateForm is the file that says how much of the index is durable: receipts, and where in their file they end; and how
// many receipts there were at least, also while the index is made anew.
const stateForm = "cocoon-tally-state/v1\n%d %d %d\n"

// state is what that file says.
type state struct {
	n, offset int64 // receipts whose index is durable, and where they end
	floor     int64 // receipts that were durable then
}

// index is what stands beside the receipts: all of it follows from them. Who adds to it holds Log.writing; others read.
type index struct {
	dir      string
	hashes   recordfile.Disk // tlog's stored hashes, one after the other
	offsets  recordfile.Disk // where each receipt begins, 8 bytes each, little-endian
	ids      *table
	requests *table
	edge     edge
	n        atomic.Int64 // receipts in it
	offset   int64        // where they end
	saved    int64        // receipts whose index is durable
	found    state        // when it was opened
}

// openIndex opens an index as far as it is durable. One that is damaged to the eye begins anew, and so does any if
// it shall.
func openIndex(c Config, anew bool) (*index, error) {
	x := &index{dir: c.Dir, found: readState(c.Dir)}
	if anew {
		x.found.n, x.found.offset = 0, 0
		if err := x.writeState(0, 0); err != nil { // what is on disk of the index counts no more
			return nil, err
		}
	}
	if err := x.open(c); err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

func (x *index) open(c Config) (err error) {
	n := x.found.n
	if x.hashes, err = openSized(c, hashesName, tlog.StoredHashCount(n)*tlog.HashSize); err != nil {
		return err
	}
	if x.offsets, err = openSized(c, offsetsName, n*offsetSize); err != nil {
		return err
	}
	if x.ids, err = openTable(c, idsName, n); err != nil {
		return err
	}
	if x.requests, err = openTable(c, requestsName, n); err != nil {
		return err
	}
	if x.edge, err = edgeOf(n, x); err != nil {
		return err
	}
	x.n.Store(n)
	x.saved, x.offset = n, x.found.offset
	return nil
}

// readState reads how much is durable. What can't be read is nothing.
func readState(dir string) (s state) {
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return state{}
	}
	_, err = fmt.Sscanf(string(text), stateForm, &s.n, &s.offset, &s.floor)
	if err != nil || s.n < 0 || s.n > s.floor || s.offset < 0 || s.String() != string(text) {
		return state{}
	}
	return s
}

func (s state) String() string { return fmt.Sprintf(stateForm, s.n, s.offset, s.floor) }

func (x *index) writeState(n, offset int64) error {
	s := state{n, offset, max(n, x.found.floor)}
	return durable.Replace(filepath.Join(x.dir, stateName), []byte(s.String()))
}

// openSized opens a file of at least a size. A shorter one is an error that says so.
func openSized(c Config, name string, size int64) (recordfile.Disk, error) {
	path := filepath.Join(c.Dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = fmt.Errorf("%s has %d bytes, want %d", path, info.Size(), size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c.Wrap(f), nil
}

// size is how many receipts are in the index.
func (x *index) size() int64 { return x.n.Load() }

// placed is a receipt in its file.
type placed struct {
	id      receipt.Digest
	request string
	hash    tlog.Hash // of its leaf
	offset  int64
	end     int64
}

func place(r *receipt.Signed, record []byte, offset int64) placed {
	end := offset + recordfile.FrameSize + int64(len(record))
	return placed{r.ID(), r.Request, tlog.RecordHash(record), offset, end}
}

// addRecord adds the next receipt as it is on disk.
func (x *index) addRecord(offset int64, record []byte) error {
	r, err := receipt.Parse(record)
	if err != nil {
		return fmt.Errorf("%w at %d: %w", recordfile.ErrDamaged, offset, err)
	}
	return x.add([]placed{place(r, record, offset)})
}

// add adds the next receipts, all or none; what it wrote of none is written again.
func (x *index) add(list []placed) error {
	n, edge := x.n.Load(), x.edge
	hashes, offsets := make([]byte, 0, 2*len(list)*tlog.HashSize), make([]byte, 0, len(list)*offsetSize)
	for i, p := range list {
		hashes = edge.add(hashes, n+int64(i), p.hash)
		offsets = binary.LittleEndian.AppendUint64(offsets, uint64(p.offset))
	}
	if _, err := x.hashes.WriteAt(hashes, tlog.StoredHashIndex(0, n)*tlog.HashSize); err != nil {
		return fmt.Errorf("writing hashes: %w", err)
	}
	if _, err := x.offsets.WriteAt(offsets, n*offsetSize); err != nil {
		return fmt.Errorf("writing offsets: %w", err)
	}
	for i, p := range list {
		err := x.ids.insert(prefix(p.id), n+int64(i))
		if err == nil {
			err = x.requests.insert(prefix(requestKey(p.request)), n+int64(i))
		}
		if err != nil {
			return err
		}
		x.offset = p.end
	}
	x.edge = edge
	x.n.Store(n + int64(len(list)))
	return nil
}

// ReadHashes reads stored hashes, for package tlog.
func (x *index) ReadHashes(at []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(at))
	for i, n := range at {
		if _, err := x.hashes.ReadAt(hashes[i][:], n*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("reading a hash: %w", err)
		}
	}
	return hashes, nil
}

func (x *index) offsetOf(n int64) (int64, error) {
	var b [offsetSize]byte
	if _, err := x.offsets.ReadAt(b[:], n*offsetSize); err != nil {
		return 0, fmt.Errorf("reading an offset: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}

// save makes the index durable, and says so on disk.
func (x *index) save() error {
	if x.n.Load() == x.saved {
		return nil
	}
	if err := errors.Join(x.hashes.Sync(), x.offsets.Sync(), x.ids.sync(), x.requests.sync()); err != nil {
		return err
	}
	n := x.n.Load()
	if err := x.writeState(n, x.offset); err != nil {
		return err
	}
	x.saved = n
	return nil
}

func (x *index) close() error {
	var err error
	for _, d := range []recordfile.Disk{x.hashes, x.offsets} {
		if d != nil {
			err = errors.Join(err, d.Close())
		}
	}
	for _, t := range []*table{x.ids, x.requests} {
		if t != nil {
			err = errors.Join(err, t.close())
		}
	}
	return err
}

// edge is the hashes of the whole subtrees at the right edge of a tree of n leaves, by level: those of n's bits.
type edge [64]tlog.Hash

// edgeOf reads the edge of a tree.
func edgeOf(n int64, r tlog.HashReader) (e edge, err error) {
	for level := range e {
		if n>>level&1 == 0 {
			continue
		}
		h, err := r.ReadHashes([]int64{tlog.StoredHashIndex(level, n>>level-1)})
		if err != nil {
			return e, err
		}
		e[level] = h[0]
	}
	return e, nil
}

// add adds leaf n, and appends to b the hashes that tlog stores for it: its own, and those of the subtrees that it
// completes.
func (e *edge) add(b []byte, n int64, h tlog.Hash) []byte {
	b = append(b, h[:]...)
	level := 0
	for ; n>>level&1 == 1; level++ {
		h = tlog.NodeHash(e[level], h)
		b = append(b, h[:]...)
	}
	e[level] = h
	return b
}

// root is the hash of the tree of n leaves, of which there is one at least.
func (e *edge) root(n int64) (h tlog.Hash) {
	first := true
	for level := range e {
		switch {
		case n>>level&1 == 0:
		case first:
			h, first = e[level], false
		default:
			h = tlog.NodeHash(e[level], h)
		}
	}
	return h
}
