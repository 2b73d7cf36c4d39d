package tally

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
	"cocoon/internal/treeproof"
)

// Reader reads a log that a gateway may be writing to, and changes nothing. It has one user at a time.
type Reader struct {
	dir     string
	file    *recordfile.File
	n       int64 // receipts before the tail: their index is durable
	offsets *os.File
	hashes  *os.File
	runs    []*run
	tail    []int64 // offsets of the receipts after them
	tailIDs map[receipt.Digest]int64
}

// OpenReader opens a folder's log to read.
func OpenReader(dir string) (*Reader, error) {
	r := &Reader{dir: dir, tailIDs: map[receipt.Digest]int64{}}
	s := r.openIndex()
	var err error
	r.file, err = recordfile.OpenReader(filepath.Join(dir, receiptsName), recordfile.Options{
		Magic: magic, From: s.offset, Each: r.add,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the log of receipts: %w", err), r.closeIndex())
	}
	return r, nil
}

// indexTries is how often a reader opens an index that its writer replaces.
const indexTries = 10

// openIndex opens the index, as the state that it gives says. If that can't be, since it is being made anew or damaged,
// there is none: the receipts say it all.
func (r *Reader) openIndex() state {
	for range indexTries {
		s := readState(r.dir)
		if s.n == 0 || r.openFiles(s) == nil {
			r.n = s.n
			return s
		}
		_ = r.closeIndex()
		if readState(r.dir).n == s.n {
			break
		}
	}
	return state{}
}

func (r *Reader) openFiles(s state) (err error) {
	for name, f := range map[string]**os.File{offsetsName: &r.offsets, hashesName: &r.hashes} {
		if *f, err = os.Open(filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	r.runs, err = openRuns(r.dir, s.ends)
	return err
}

func (r *Reader) closeIndex() error {
	err := closeRuns(r.runs)
	for _, f := range []*os.File{r.offsets, r.hashes} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	r.runs, r.offsets, r.hashes = nil, nil, nil
	return err
}

// Close closes the files.
func (r *Reader) Close() error { return errors.Join(r.file.Close(), r.closeIndex()) }

// add adds a receipt to the tail.
func (r *Reader) add(offset int64, record []byte) error {
	s, err := receipt.ParseRecord(record)
	if err != nil {
		return fmt.Errorf("%w at %d: %w", recordfile.ErrDamaged, offset, err)
	}
	r.tailIDs[s.ID()] = r.n + int64(len(r.tail))
	r.tail = append(r.tail, offset)
	return nil
}

// Find is the receipt with an ID; ErrAbsent if there is none. It sees what was added after the log was opened.
func (r *Reader) Find(id receipt.Digest) (*receipt.Signed, error) {
	at, err := r.find(id)
	if errors.Is(err, ErrAbsent) {
		if err := r.file.Refresh(r.add); err != nil {
			return nil, err
		}
		at, err = r.find(id)
	}
	if err != nil {
		return nil, err
	}
	return r.get(at)
}

func (r *Reader) find(id receipt.Digest) (int64, error) {
	if at, ok := r.tailIDs[id]; ok {
		return at, nil
	}
	for _, run := range r.runs {
		found, err := run.find(ids, prefix(id), nil)
		if err != nil {
			return 0, err
		}
		for _, at := range found {
			if at >= r.n {
				return 0, fmt.Errorf("%w: a key of receipt %d, of %d", errRun, at, r.n)
			}
			if s, err := r.get(at); err != nil || s.ID() == id {
				return at, err
			}
		}
	}
	return 0, ErrAbsent
}

func (r *Reader) get(at int64) (*receipt.Signed, error) {
	var offset int64
	if at < r.n {
		var err error
		if offset, err = readOffset(r.offsets, at); err != nil {
			return nil, err
		}
	} else {
		offset = r.tail[at-r.n]
	}
	record, err := r.file.Read(offset)
	if err != nil {
		return nil, err
	}
	return receipt.ParseRecord(record)
}

// Report is what an audit found.
type Report struct {
	Receipts int64 // in the log
	Signed   int64 // of these: under the last tree head
}

// Audit reads all of the log: each receipt is whole and adds up, each is found by its ID and no two have one, the
// hashes beside them are theirs, and the tree over them is the one that was signed. The signature is not checked if
// there is no verifier. f, which may be nil, sees each receipt. The error says what the first difference is.
func (r *Reader) Audit(ctx context.Context, v note.Verifier, f func(at int64, s *receipt.Signed) error) (Report, error) {
	var report Report
	head, text, err := r.head(v)
	if err != nil {
		return report, err
	}
	floor := max(head.Tree.N, readState(r.dir).floor)
	if err := r.file.Refresh(r.add); err != nil {
		return report, err
	}
	a := &audit{r: r, head: head, text: text}
	err = r.file.Each(func(offset int64, record []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := a.receipt(offset, record)
		if err != nil {
			return fmt.Errorf("receipt %d: %w", a.n, err)
		}
		if f != nil {
			if err := f(a.n, s); err != nil {
				return fmt.Errorf("receipt %d: %w", a.n, err)
			}
		}
		a.n++
		return a.signed()
	})
	report = Report{Receipts: a.n, Signed: head.Tree.N}
	if err == nil && a.n < floor {
		err = fmt.Errorf("%w: it has %d receipts, and there were %d", ErrRewritten, a.n, floor)
	}
	return report, err
}

// head reads the last tree head.
func (r *Reader) head(v note.Verifier) (treeproof.Head, []byte, error) {
	text, err := os.ReadFile(filepath.Join(r.dir, headName))
	if errors.Is(err, fs.ErrNotExist) { // none was ever signed
		return treeproof.Head{}, nil, nil
	}
	if err != nil {
		return treeproof.Head{}, nil, err
	}
	h, err := treeproof.ParseHead(text, v)
	if err != nil {
		err = fmt.Errorf("reading the last tree head: %w", err)
	}
	return h, text, err
}

// audit is a walk over all receipts.
type audit struct {
	r    *Reader
	n    int64
	edge edge
	head treeproof.Head
	text []byte
}

// receipt checks the next one.
func (a *audit) receipt(offset int64, record []byte) (*receipt.Signed, error) {
	s, err := receipt.ParseRecord(record)
	if err == nil {
		err = s.Arithmetic()
	}
	if err != nil {
		return nil, err
	}
	hashes := a.edge.add(nil, a.n, leaf(s))
	if found, err := a.r.find(s.ID()); err != nil || found != a.n {
		return nil, fmt.Errorf("by its ID %v is found %d: %w", s.ID(), found, errors.Join(err, ErrRewritten))
	}
	if a.n >= a.r.n {
		return s, nil
	}
	got := make([]byte, len(hashes))
	if _, err := a.r.hashes.ReadAt(got, tlog.StoredHashIndex(0, a.n)*tlog.HashSize); err != nil {
		return nil, fmt.Errorf("reading its hashes: %w", err)
	}
	if !bytes.Equal(got, hashes) {
		return nil, fmt.Errorf("%w: the hashes beside it are not its own", ErrRewritten)
	}
	if at, err := readOffset(a.r.offsets, a.n); err != nil || at != offset {
		return nil, fmt.Errorf("it is at %d, and beside it stands %d: %w", offset, at, errors.Join(err, ErrRewritten))
	}
	return s, nil
}

// signed compares the tree with the one that was signed, where it has as many leaves.
func (a *audit) signed() error {
	if a.text == nil || a.n != a.head.Tree.N {
		return nil
	}
	if a.edge.root(a.n) != a.head.Tree.Hash {
		return fmt.Errorf("%w: %q", ErrRewritten, a.text)
	}
	return nil
}
