package prefix

import "sync/atomic"

const (
	// holderBits bounds the holders' numbers, stampBits their stamps: together they are a word.
	holderBits = 24
	stampBits  = 64 - holderBits
	stampMask  = 1<<stampBits - 1
	// unit is how far a clock goes on for a block. The parts of it are for the shares of blocks that are had already.
	unit = 1 << 4
	// sizeMax bounds a cache: 4 GiB of text, a thousand million tokens. Clocks jump by as much when a holder forgets
	// everything. So a stamp is mistaken for a new one only after 16384 restarts, or after 64 TiB of prompts, and only if
	// nothing took its place in all that time.
	sizeMax = 1 << 22
	// chunkLen is how many holders come into being at once: 16 KiB of memory.
	chunkLen = 1 << 10
)

// holder is what is known of one holder's cache. Both are in units, so a unit of them is a sixteenth of a block.
type holder struct {
	clock atomic.Uint64
	size  atomic.Uint64
}

// chunk is some holders with numbers one after the other.
type chunk [chunkLen]holder

// word is a holder of a block, with the stamp of its clock. 0 is nobody, and nobody comes after it in its slot.
type word uint64

// gone is a word that was taken back. Its holder is above HolderMax: there is none.
const gone = word((1<<holderBits - 1) << stampBits)

func pack(h Holder, stamp uint64) word { return word(uint64(h+1)<<stampBits | stamp&stampMask) }

func (w word) holder() Holder { return Holder(w>>stampBits) - 1 }

// place is how far behind the front of the cache the word's block is. A word must be read before the clock is: then the
// clock is not behind it. It may have wrapped around.
func (o *holder) place(w word) uint64 { return (o.clock.Load() - uint64(w)) & stampMask }

// has tells whether the holder has the word's block still.
func (o *holder) has(w word) bool { return o != nil && o.place(w) < o.size.Load() }

// holder is the holder of that number; nil if nothing was ever said of it.
func (x *Index) holder(h Holder) *holder {
	chunks := *x.holders.Load()
	if i := int(h / chunkLen); i < len(chunks) && chunks[i] != nil {
		return &chunks[i][h%chunkLen]
	}
	return nil
}

// grow is the holder of that number, which comes into being if it must; nil if it is beyond HolderMax. Readers see the
// old list of chunks or the new one; neither changes.
func (x *Index) grow(h Holder) *holder {
	if h > HolderMax {
		return nil
	}
	if o := x.holder(h); o != nil {
		return o
	}
	x.growing.Lock()
	defer x.growing.Unlock()
	if o := x.holder(h); o != nil {
		return o
	}
	old, i := *x.holders.Load(), int(h/chunkLen)
	chunks := make([]*chunk, max(len(old), i+1))
	copy(chunks, old)
	chunks[i] = new(chunk)
	x.holders.Store(&chunks)
	return &chunks[i][h%chunkLen]
}
