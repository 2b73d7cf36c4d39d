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

// index is what stands beside the receipts: all of it follows from them. Who adds to it holds Log.writing; others read.
type index struct {
	dir     string
	hashes  recordfile.Disk // tlog's stored hashes, one after the other
	offsets recordfile.Disk // where each receipt begins, 8 bytes each, little-endian
	ids     *table
	n       atomic.Int64 // receipts in it
	offset  int64        // where they end
	saved   int64        // receipts whose index is durable
	from    int64        // saved, as it was found
	floor   int64        // receipts that were durable then
}

// openIndex opens an index as far as it is durable. One that is damaged to the eye begins anew, and so does any if
// it shall.
func openIndex(c Config, anew bool) (*index, error) {
	x := &index{dir: c.Dir}
	x.readState()
	if anew {
		x.from, x.offset = 0, 0
		if err := x.writeState(0, 0); err != nil { // what is on disk of the index counts no more
			return nil, err
		}
	}
	hashes, err := openSized(filepath.Join(c.Dir, hashesName), tlog.StoredHashCount(x.from)*tlog.HashSize)
	if err != nil {
		return nil, err
	}
	x.hashes = c.Wrap(hashes)
	offsets, err := openSized(filepath.Join(c.Dir, offsetsName), x.from*offsetSize)
	if err != nil {
		return nil, errors.Join(err, x.hashes.Close())
	}
	x.offsets = c.Wrap(offsets)
	if x.ids, err = openTable(filepath.Join(c.Dir, idsName), c.Wrap, x.from); err != nil {
		return nil, errors.Join(err, x.hashes.Close(), x.offsets.Close())
	}
	x.n.Store(x.from)
	x.saved = x.from
	return x, nil
}

// readState reads how much is durable. What can't be read is nothing.
func (x *index) readState() {
	text, err := os.ReadFile(filepath.Join(x.dir, stateName))
	if err != nil {
		return
	}
	var n, offset, floor int64
	_, err = fmt.Sscanf(string(text), stateForm, &n, &offset, &floor)
	if err == nil && n >= 0 && n <= floor && offset >= 0 && fmt.Sprintf(stateForm, n, offset, floor) == string(text) {
		x.from, x.offset, x.floor = n, offset, floor
	}
}

func (x *index) writeState(n, offset int64) error {
	text := fmt.Appendf(nil, stateForm, n, offset, max(n, x.floor))
	return durable.Replace(filepath.Join(x.dir, stateName), text)
}

// openSized opens a file of at least a size. A shorter one is an error that says so.
func openSized(path string, size int64) (*os.File, error) {
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
	return f, nil
}

// size is how many receipts are in the index.
func (x *index) size() int64 { return x.n.Load() }

// add adds the next receipt.
func (x *index) add(offset int64, record []byte) error {
	r, err := receipt.Parse(record)
	if err != nil {
		return fmt.Errorf("%w at %d: %w", recordfile.ErrDamaged, offset, err)
	}
	n := x.n.Load()
	hashes, err := tlog.StoredHashes(n, record, x)
	if err != nil {
		return fmt.Errorf("hashing: %w", err)
	}
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	if _, err := x.hashes.WriteAt(b, tlog.StoredHashIndex(0, n)*tlog.HashSize); err != nil {
		return fmt.Errorf("writing hashes: %w", err)
	}
	if _, err := x.offsets.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(offset)), n*offsetSize); err != nil {
		return fmt.Errorf("writing offsets: %w", err)
	}
	if err := x.ids.insert(r.ID(), n); err != nil {
		return err
	}
	x.offset = offset + recordfile.FrameSize + int64(len(record))
	x.n.Store(n + 1)
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
	if err := errors.Join(x.hashes.Sync(), x.offsets.Sync(), x.ids.sync()); err != nil {
		return err
	}
	n := x.n.Load()
	if err := x.writeState(n, x.offset); err != nil {
		return err
	}
	x.saved = n
	return nil
}

func (x *index) close() error { return errors.Join(x.hashes.Close(), x.offsets.Close(), x.ids.close()) }
