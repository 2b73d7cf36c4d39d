package tally

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"cocoon/internal/receipt"
)

// The keys that receipts are found by.
const (
	ids      = iota // their IDs
	requests        // hashes of their requests' names
	kinds
)

// keySize is the size of a key on disk: the first 8 bytes of the hash, and the receipt's index.
const keySize = 16

// entry is one, and whose it is.
type entry struct {
	hash uint64
	n    int64
}

// prefix is what is kept of a hash.
func prefix(id receipt.Digest) uint64 { return binary.BigEndian.Uint64(id[:]) }

// requestKey is the hash of a request's name.
func requestKey(request string) receipt.Digest {
	b := make([]byte, 0, 64) // on the stack
	return sha256.Sum256(append(b, request...))
}

// part is the index of the last receipts, which is in memory alone.
type part struct {
	first   int64  // the index of the first
	base    int64  // that of the first of its stored hashes
	end     int64  // where the receipts end in their file
	hashes  []byte // tlog's stored hashes, one after the other
	offsets []int64
	tables  [kinds]table
}

// begin empties a part, for receipts from one on, which begins at an offset. There is room for as many as usual: memory
// that is not used yet costs nothing, and to grow step by step costs more than all else that is done with a receipt here.
func (p *part) begin(first, offset, usual int64) {
	p.first, p.base, p.end = first, tlog.StoredHashIndex(0, first), offset
	p.hashes = slices.Grow(p.hashes[:0], int(2*usual*tlog.HashSize))
	p.offsets = slices.Grow(p.offsets[:0], int(usual))
	for k := range p.tables {
		t := &p.tables[k]
		t.hashes = slices.Grow(t.hashes[:0], int(usual))
		if clear(t.slots); t.slots == nil {
			t.slots = make([]uint32, max(slotsMin, 1<<bits.Len64(uint64(2*usual))))
		}
	}
}

func (p *part) count() int64 { return int64(len(p.offsets)) }

// find appends the indexes of receipts with a key, in their order.
func (p *part) find(kind int, hash uint64, found []int64) []int64 {
	t := &p.tables[kind]
	if len(t.slots) == 0 {
		return found
	}
	for at := t.home(hash); t.slots[at] != 0; at = (at + 1) % len(t.slots) {
		if i := t.slots[at] - 1; t.hashes[i] == hash {
			found = append(found, p.first+int64(i))
		}
	}
	return found
}

// sorted is the keys as a run has them. The table has them almost so.
func (p *part) sorted(kind int) []byte {
	t := &p.tables[kind]
	keys, wrapped := make([]entry, 0, len(t.hashes)), []entry(nil)
	for at, place := range t.slots {
		if place == 0 {
			continue
		}
		e := entry{t.hashes[place-1], p.first + int64(place-1)}
		if t.home(e.hash) > at {
			wrapped = append(wrapped, e)
		} else {
			keys = append(keys, e)
		}
	}
	keys = append(keys, wrapped...)
	b := make([]byte, 0, len(keys)*keySize)
	for i, e := range keys {
		for ; i > 0 && keys[i-1].hash > e.hash; i-- {
			keys[i], keys[i-1] = keys[i-1], e
		}
	}
	for _, e := range keys {
		b = e.append(b)
	}
	return b
}

func (e entry) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, e.hash), uint64(e.n))
}

// table is a hash table in memory. The first bits of a hash say where to look; who collides goes to the next free slot.
type table struct {
	hashes []uint64 // in the order of the receipts
	slots  []uint32 // 1 + the place there; 0: free. A power of two, of which at most half are taken.
}

// slotsMin is the size of a table to begin with.
const slotsMin = 1 << 8

func (t *table) home(hash uint64) int {
	return int(hash >> (64 - bits.TrailingZeros(uint(len(t.slots)))))
}

// add adds the next receipt's key.
func (t *table) add(hash uint64) {
	t.hashes = append(t.hashes, hash)
	if 2*len(t.hashes) <= len(t.slots) {
		t.put(len(t.hashes))
		return
	}
	t.slots = make([]uint32, max(slotsMin, 2*len(t.slots)))
	for i := range t.hashes {
		t.put(i + 1)
	}
}

func (t *table) put(place int) {
	at := t.home(t.hashes[place-1])
	for t.slots[at] != 0 {
		at = (at + 1) % len(t.slots)
	}
	t.slots[at] = uint32(place)
}
