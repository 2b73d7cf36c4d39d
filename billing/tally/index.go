package tally

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// offsetSize is the size of a number in the file of offsets.
const offsetSize = 8

// stateForm is the beginning of the file that says how much of the index is on disk: receipts, and where in their file
// they end; and how many receipts there were at least, also while the index is made anew. A line for each run follows:
// before which receipt it ends.
const stateForm = "cocoon-tally-state/v2\n%d %d %d\n"

// state is what that file says.
type state struct {
	n, offset int64   // receipts whose index is durable, and where they end
	floor     int64   // receipts that were durable then
	ends      []int64 // of the runs
}

// index is what stands beside the receipts: all of it follows from them. It is in files but for the last receipts, whose
// part is in memory: when that has every receipts it is written, by a goroutine of its own, and another takes its place.
// Who adds to the index holds Log.writing; others read.
type index struct {
	c       Config
	hashes  recordfile.Disk // tlog's stored hashes, one after the other
	offsets recordfile.Disk // where each receipt begins, 8 bytes each, little-endian
	found   state           // when it was opened
	n       atomic.Int64    // receipts in it

	// Of who adds to it.
	edge  edge
	spare *part
	under *flush // the one that is under way; nil: none

	mu    sync.RWMutex // held to change what follows, and to read it
	runs  []*run
	old   *part // what is being written; nil: nothing
	young *part
}

// flush is a part on its way to the disk.
type flush struct {
	done chan struct{}
	runs []*run // with it
	gone []*run // that are in one of these
	err  error
}

// openIndex opens an index as far as it is durable. One that is damaged to the eye begins anew, and so does any if
// it shall.
func openIndex(c Config, anew bool) (*index, error) {
	x := &index{c: c, found: readState(c.Dir), young: new(part), spare: new(part)}
	if anew {
		x.found = state{floor: x.found.floor}
		if err := x.writeState(x.found); err != nil { // what is on disk of the index counts no more
			return nil, err
		}
	}
	if err := x.open(); err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

func (x *index) open() (err error) {
	n := x.found.n
	if x.hashes, err = openSized(x.c, hashesName, tlog.StoredHashCount(n)*tlog.HashSize); err != nil {
		return err
	}
	if x.offsets, err = openSized(x.c, offsetsName, n*offsetSize); err != nil {
		return err
	}
	if err := x.tidy(); err != nil {
		return err
	}
	if x.runs, err = openRuns(x.c.Dir, x.found.ends); err != nil {
		return err
	}
	x.young.begin(n, x.found.offset, x.c.every)
	if x.edge, err = edgeOf(n, x); err != nil {
		return err
	}
	x.n.Store(n)
	return nil
}

// tidy removes runs that a crash left over.
func (x *index) tidy() error {
	names, err := filepath.Glob(filepath.Join(x.c.Dir, keysName+"-*"))
	from := int64(0)
	for _, to := range x.found.ends {
		names = slices.DeleteFunc(names, func(name string) bool { return filepath.Base(name) == runName(from, to) })
		from = to
	}
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// readState reads how much is durable. What can't be read is nothing.
func readState(dir string) (s state) {
	text, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return state{}
	}
	_, err = fmt.Sscanf(string(text), stateForm, &s.n, &s.offset, &s.floor)
	if err != nil || s.n < 0 || s.n > s.floor || s.offset < 0 {
		return state{}
	}
	last := int64(0)
	lines, _ := strings.CutPrefix(string(text), s.String())
	for line := range strings.Lines(lines) {
		end, err := strconv.ParseInt(strings.TrimSuffix(line, "\n"), 10, 64)
		if err != nil || end <= last {
			return state{}
		}
		last, s.ends = end, append(s.ends, end)
	}
	if last != s.n || s.String() != string(text) {
		return state{}
	}
	return s
}

func (s state) String() string {
	b := fmt.Appendf(nil, stateForm, s.n, s.offset, s.floor)
	for _, end := range s.ends {
		b = fmt.Appendf(b, "%d\n", end)
	}
	return string(b)
}

func (x *index) writeState(s state) error {
	return durable.Replace(filepath.Join(x.c.Dir, stateName), []byte(s.String()))
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
	keys   [kinds]uint64
	hash   tlog.Hash // of its leaf
	offset int64
}

// place is a receipt whose record begins at an offset.
func place(r *receipt.Signed, offset int64) placed {
	keys := [kinds]uint64{ids: prefix(r.ID()), requests: prefix(requestKey(r.Request))}
	return placed{keys, leaf(r), offset}
}

// leaf is the hash of a receipt's leaf in the tree, which is its ID.
func leaf(r *receipt.Signed) tlog.Hash {
	id := r.ID()
	return tlog.RecordHash(id[:])
}

// addRecord adds the next receipt as it is on disk.
func (x *index) addRecord(offset int64, record []byte) error {
	r, err := receipt.ParseRecord(record)
	if err != nil {
		return fmt.Errorf("%w at %d: %w", recordfile.ErrDamaged, offset, err)
	}
	if err := x.room(); err != nil {
		return err
	}
	x.add([]placed{place(r, 0)}, offset, offset+recordfile.FrameSize+int64(len(record)))
	return nil
}

// add adds the next receipts, whose offsets are counted from base, and which end at an offset.
func (x *index) add(list []placed, base, end int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n, p := x.n.Load(), x.young
	for i := range list {
		r := &list[i]
		p.hashes = x.edge.add(p.hashes, n+int64(i), r.hash)
		p.offsets = append(p.offsets, base+r.offset)
		for kind := range p.tables {
			p.tables[kind].add(r.keys[kind])
		}
	}
	p.end = end
	x.n.Store(n + int64(len(list)))
}

// room has what is in memory written when there is enough of it. The error is that of what could not be written, if
// there is so much of it that no more fits.
func (x *index) room() error {
	if x.young.count() < x.c.every && x.under == nil {
		return nil
	}
	if err := x.finish(x.full()); err != nil {
		x.c.Log.Warn("writing the log's index failed, and is tried again", "error", err)
	}
	if x.young.count() >= x.c.every {
		x.start()
	}
	if !x.full() {
		return nil
	}
	if err := x.finish(true); err != nil { // of the second try: what is full has to wait for it
		return err
	}
	x.start()
	return nil
}

// full tells whether no more may be added before what is in memory is on its way.
func (x *index) full() bool { return x.young.count() >= 2*x.c.every }

// start begins to write what is in memory, unless something is on its way.
func (x *index) start() {
	if x.under != nil {
		return
	}
	if x.old == nil {
		x.spare.begin(x.n.Load(), x.young.end, x.c.every)
		x.mu.Lock()
		x.old, x.young, x.spare = x.young, x.spare, nil
		x.mu.Unlock()
	}
	f := &flush{done: make(chan struct{})}
	x.under = f
	go func(p *part, runs []*run) {
		defer close(f.done)
		f.err = x.write(f, p, runs)
	}(x.old, x.runs)
}

// finish takes over what was written, if it is done; it waits for it if it shall. After an error it is to be started
// again.
func (x *index) finish(wait bool) error {
	f := x.under
	if f == nil {
		return nil
	}
	if !wait {
		select {
		case <-f.done:
		default:
			return nil
		}
	}
	<-f.done
	x.under = nil
	if f.err != nil {
		return fmt.Errorf("writing what stands beside the receipts: %w", f.err)
	}
	x.mu.Lock()
	x.runs, x.spare, x.old = f.runs, x.old, nil
	shed(x.runs)
	x.mu.Unlock()
	for _, r := range f.gone { // a reader that has it open keeps it
		if err := errors.Join(r.close(), os.Remove(filepath.Join(x.c.Dir, runName(r.from, r.to)))); err != nil {
			x.c.Log.Warn("removing an old file beside the receipts failed", "error", err)
		}
	}
	return nil
}

// write writes a part, and says so on disk when all of it is durable.
func (x *index) write(f *flush, p *part, runs []*run) error {
	if _, err := x.hashes.WriteAt(p.hashes, p.base*tlog.HashSize); err != nil {
		return fmt.Errorf("writing hashes: %w", err)
	}
	offsets := make([]byte, 0, len(p.offsets)*offsetSize)
	for _, o := range p.offsets {
		offsets = binary.LittleEndian.AppendUint64(offsets, uint64(o))
	}
	if _, err := x.offsets.WriteAt(offsets, p.first*offsetSize); err != nil {
		return fmt.Errorf("writing offsets: %w", err)
	}
	if err := errors.Join(x.hashes.Sync(), x.offsets.Sync()); err != nil {
		return err
	}
	left := len(runs) - absorbed(runs, x.c.every, p.count())
	r, err := writeRun(&x.c, runs[left:], p)
	if err != nil {
		return err
	}
	f.runs, f.gone = append(slices.Clone(runs[:left]), r), runs[left:]
	s := state{n: r.to, offset: p.end, floor: max(r.to, x.found.floor)}
	for _, r := range f.runs {
		s.ends = append(s.ends, r.to)
	}
	if err = durable.SyncDir(x.c.Dir); err == nil {
		err = x.writeState(s)
	}
	if err != nil { // the state may be on disk all the same: what it names stays
		return errors.Join(err, r.close())
	}
	return nil
}

// find appends the indexes of receipts with a key, in their order.
func (x *index) find(kind int, hash uint64, found []int64) (_ []int64, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, r := range x.runs {
		if found, err = r.find(kind, hash, found); err != nil {
			return nil, err
		}
	}
	if x.old != nil {
		found = x.old.find(kind, hash, found)
	}
	return x.young.find(kind, hash, found), nil
}

// ReadHashes reads stored hashes, for package tlog.
func (x *index) ReadHashes(at []int64) ([]tlog.Hash, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	hashes := make([]tlog.Hash, len(at))
	for i, n := range at {
		switch {
		case n >= x.young.base && n < x.young.base+int64(len(x.young.hashes)/tlog.HashSize):
			copy(hashes[i][:], x.young.hashes[(n-x.young.base)*tlog.HashSize:])
		case x.old != nil && n >= x.old.base:
			copy(hashes[i][:], x.old.hashes[(n-x.old.base)*tlog.HashSize:])
		default:
			if _, err := x.hashes.ReadAt(hashes[i][:], n*tlog.HashSize); err != nil {
				return nil, fmt.Errorf("reading a hash: %w", err)
			}
		}
	}
	return hashes, nil
}

// offsetOf is where receipt n begins.
func (x *index) offsetOf(n int64) (int64, error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	switch {
	case n >= x.young.first:
		return x.young.offsets[n-x.young.first], nil
	case x.old != nil && n >= x.old.first:
		return x.old.offsets[n-x.old.first], nil
	}
	return readOffset(x.offsets, n)
}

// readOffset reads one from the file of offsets.
func readOffset(offsets io.ReaderAt, n int64) (int64, error) {
	var b [offsetSize]byte
	if _, err := offsets.ReadAt(b[:], n*offsetSize); err != nil {
		return 0, fmt.Errorf("reading an offset: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}

// save makes the index durable, and says so on disk.
func (x *index) save() error {
	err := x.finish(true)
	for err == nil && (x.old != nil || x.young.count() > 0) {
		x.start()
		err = x.finish(true)
	}
	return err
}

func (x *index) close() error {
	_ = x.finish(true) // save says what fails
	err := closeRuns(x.runs)
	for _, d := range []recordfile.Disk{x.hashes, x.offsets} {
		if d != nil {
			err = errors.Join(err, d.Close())
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
