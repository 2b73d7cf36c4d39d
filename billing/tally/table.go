package tally

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"sync"

	"cocoon/internal/durable"
	"cocoon/internal/receipt"
	"cocoon/internal/recordfile"
)

// A table's sizes.
const (
	slotSize = 16      // the first 8 bytes of an ID, and 1 + its index; zeros: free
	slotsMin = 1 << 12 // a file of 64 KiB to begin with
)

// slot is one as it is on disk.
type slot [slotSize]byte

// table is a hash table on disk: from the IDs of receipts, or hashes of their requests' names, to their indexes. The
// first bits of a hash say where to look; who collides goes to the next free slot. At most half of the slots are taken,
// since the file doubles in time. A slot may be of a receipt that a crash took back: who looks compares with the
// receipt.
type table struct {
	path string
	wrap func(*os.File) recordfile.Disk

	mu    sync.RWMutex
	disk  recordfile.Disk
	slots int64 // a power of two
}

// openTable opens the table of so many receipts; for none, a new one.
func openTable(c Config, name string, receipts int64) (*table, error) {
	t := &table{path: filepath.Join(c.Dir, name), wrap: c.Wrap}
	if err := os.Remove(t.path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if receipts == 0 {
		disk, err := t.create(t.path, slotsMin)
		if err != nil {
			return nil, err
		}
		t.disk, t.slots = disk, slotsMin
		return t, nil
	}
	f, err := os.OpenFile(t.path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if t.slots, err = slotsOf(f, receipts); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	disk := c.Wrap(f)
	if t.disk, err = mirrored(disk, t.slots*slotSize, false); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return t, nil
}

// slotsOf is how many slots a table's file has. One that has no room for so many receipts is an error.
func slotsOf(f *os.File, receipts int64) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	n := info.Size() / slotSize
	if n*slotSize != info.Size() || n < slotsMin || n < 2*receipts || bits.OnesCount64(uint64(n)) != 1 {
		return 0, fmt.Errorf("%s has a strange size", f.Name())
	}
	return n, nil
}

// create makes an empty table's file.
func (t *table) create(path string, slots int64) (recordfile.Disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	disk := t.wrap(f)
	if err := disk.Truncate(slots * slotSize); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return mirrored(disk, slots*slotSize, true)
}

// prefix is what a table keeps of a hash.
func prefix(id receipt.Digest) uint64 { return binary.BigEndian.Uint64(id[:]) }

// requestKey is the hash of a request's name.
func requestKey(request string) receipt.Digest {
	b := make([]byte, 0, 64) // on the stack
	return sha256.Sum256(append(b, request...))
}

// walk goes from where an ID belongs until found says so, or to a free slot, and gives that slot. It reads into b.
func walk(disk io.ReaderAt, slots int64, id uint64, b *slot, found func(n int64) (bool, error)) (at int64, ok bool, err error) {
	at = int64(id >> (64 - bits.TrailingZeros64(uint64(slots))))
	for range slots {
		if _, err := disk.ReadAt(b[:], at*slotSize); err != nil {
			return 0, false, fmt.Errorf("reading a table: %w", err)
		}
		n := int64(binary.LittleEndian.Uint64(b[8:]))
		if n == 0 {
			return at, false, nil
		}
		if binary.LittleEndian.Uint64(b[:]) == id {
			if ok, err := found(n - 1); ok || err != nil {
				return at, ok, err
			}
		}
		at = (at + 1) % slots
	}
	return 0, false, errors.New("a table has no free slot")
}

// find is the first index of a hash for which is says yes; ErrAbsent if there is none.
func (t *table) find(id uint64, is func(n int64) (bool, error)) (int64, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	at := int64(-1)
	_, ok, err := walk(t.disk, t.slots, id, new(slot), func(n int64) (bool, error) {
		at = n
		return is(n)
	})
	if err == nil && !ok {
		err = ErrAbsent
	}
	return at, err
}

// insert notes the hash of the receipt n, the last one. One that is there, since before a crash, stays.
func (t *table) insert(id uint64, n int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if 2*(n+1) > t.slots {
		if err := t.grow(); err != nil {
			return fmt.Errorf("growing %s: %w", t.path, err)
		}
	}
	return put(t.disk, t.slots, id, n)
}

func put(disk recordfile.Disk, slots int64, id uint64, n int64) error {
	b := new(slot)
	at, ok, err := walk(disk, slots, id, b, func(m int64) (bool, error) { return m == n, nil })
	if err != nil || ok {
		return err
	}
	binary.LittleEndian.PutUint64(b[:], id)
	binary.LittleEndian.PutUint64(b[8:], uint64(n+1))
	if _, err := disk.WriteAt(b[:], at*slotSize); err != nil {
		return fmt.Errorf("writing a table: %w", err)
	}
	return nil
}

// grow doubles the table. That takes a second for each million receipts, and Append waits; it gets rarer by half each
// time.
func (t *table) grow() (err error) {
	disk, err := t.create(t.path+".new", 2*t.slots)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, disk.Close())
		}
	}()
	r := bufio.NewReaderSize(io.NewSectionReader(t.disk, 0, t.slots*slotSize), 1<<16)
	var b slot
	for range t.slots {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return err
		}
		if n := int64(binary.LittleEndian.Uint64(b[8:])); n != 0 {
			if err := put(disk, 2*t.slots, binary.LittleEndian.Uint64(b[:]), n-1); err != nil {
				return err
			}
		}
	}
	if err := disk.Sync(); err != nil {
		return err
	}
	if err := os.Rename(t.path+".new", t.path); err != nil {
		return err
	}
	old := t.disk
	t.disk, t.slots = disk, 2*t.slots
	_ = old.Close() // nothing in it counts any more
	return durable.SyncDir(filepath.Dir(t.path))
}

func (t *table) sync() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.disk.Sync()
}

func (t *table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.disk.Close()
}
