// Package prefix is the index of what endpoints have in their prefix caches, as far as the router knows.
//
// An engine keeps what it computed for a prompt, and a later prompt with the same beginning costs it less. The index
// knows prompts by keyed hashes of their beginnings only, apart for each tenant: nobody learns from where a request
// goes, or from what it costs, what others asked. It is a heuristic: what it says is a good guess, never a promise.
//
// What is approximated:
//   - A holder's cache is taken as one LRU of Resize's blocks, the tail of a prompt going before its beginning, as
//     engines do. See [Index.Add] for how exact that is.
//   - A block is remembered with up to eight holders, and up to Config.Slots blocks are remembered. What falls out is
//     not found, though its holder has it.
//   - [Index.Find] searches and does not scan: where blocks in the middle fell out, it may find less than is known.
//   - Add and Find may run at once, on all processors. They take no lock. What races can be lost, and in the moment in
//     which a block gives its slot to another, a holder may be named for the other; the one who wrote it takes it back.
package prefix

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

// BlockBytes is the size of a block: about 250 tokens, some of an engine's own blocks (16 to 64 tokens, mostly).
// What is shared beyond the last whole block is not worth the memory.
const BlockBytes = 1 << 10

// BlocksMax is how many blocks of a prompt are looked at. That is 4 MiB of text, a million tokens: what long contexts
// take. It bounds what one request costs us: 0.4 ms for its hashes, a sixteenth of the default table.
const BlocksMax = 4096

// SlotsDefault is how many blocks are remembered where Config does not say: 4.5 MiB of memory, for 64 MiB of prompts.
const SlotsDefault = 1 << 16

// SlotsMax bounds Config.Slots: 1.1 GiB of memory.
const SlotsMax = 1 << 24

// HolderMax is the highest holder there can be. Higher ones have nothing, whatever is added.
const HolderMax = Holder(1<<holderBits - 3)

// Block is a keyed hash of a prompt from its beginning up to and with one block.
type Block uint64

// Holder is an endpoint, numbered by the router from 0 without large gaps.
type Holder uint32

// Hit says that a holder has so many blocks of a prompt, counted from its beginning.
type Hit struct {
	Holder Holder
	Blocks int
	// Age is how many blocks came to the front of the holder's cache since these were there.
	Age int
}

// Config is how large an index is.
type Config struct {
	// Slots is how many blocks are remembered at most, over all holders; each takes 72 bytes, from the start. 0 is
	// SlotsDefault. It is taken down to a multiple of eight, and to SlotsMax. Blocks that many holders have in common
	// take one slot. Measured with conversations: with as many slots as there are cached blocks (the sum of all Resize)
	// Find knows of 97 % of them, with half as many again of 99.7 %, with half as many of 67 %: what was used last.
	Slots int
}

// Index knows which holder has which blocks. All methods may be called at once from many goroutines.
type Index struct {
	seed    maphash.Seed
	salt    uint64
	tags    []line // of a set each: what its ways are about
	ways    []line // the holders, ways lines for each set
	shift   uint   // from installs to ages
	holders atomic.Pointer[[]*chunk]
	growing sync.Mutex // held while holders is replaced

	_ [64]byte // what Add writes lies apart from what all read
	// installs counts the blocks that got a slot. It is the clock by which slots age, and all that Adds of different
	// holders and prompts share: one addition for each.
	installs atomic.Uint64
	_        [64]byte
}

// New is an empty index with a seed of its own: hashes of two indexes have nothing to do with each other.
func New(c Config) *Index {
	slots := c.Slots
	if slots <= 0 {
		slots = SlotsDefault
	}
	sets := max(1, min(slots, SlotsMax)/ways)
	x := &Index{seed: maphash.MakeSeed(), tags: make([]line, sets), ways: make([]line, sets*ways)}
	x.salt = maphash.String(x.seed, "tenants")
	for sets*ways>>x.shift > turnover {
		x.shift++
	}
	x.installs.Store(1 << 32) // ages are counted back from here
	x.holders.Store(new([]*chunk))
	return x
}

// Hash appends the hashes of the text's whole blocks, at most BlocksMax, to dst and returns it. A block's hash stands
// for the tenant and for all of the text up to the block's end: hashes of a text that goes on begin with the text's.
// The same text gets other hashes for each tenant, always; other texts get others but for one chance in 2^64. Only
// this index can compute or use them. It allocates only where dst has no room.
func (x *Index) Hash(dst []Block, tenant uint64, text []byte) []Block {
	n := min(len(text)/BlockBytes, BlocksMax)
	dst = slices.Grow(dst, n)
	// Each step is a bijection of h for a given block. So tenants that start apart stay apart.
	h := Mix(tenant ^ x.salt)
	for i := range n {
		h = Mix(h ^ maphash.Bytes(x.seed, text[i*BlockBytes:(i+1)*BlockBytes]))
		dst = append(dst, Block(h))
	}
	return dst
}

// Mix is a bijection in which each bit depends on all bits: a step of SplitMix64, whose last part is Stafford's variant 13.
func Mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Find fills hits with distinct holders that have a beginning of the prompt of these blocks, and says how many it
// found. Those with the most blocks come first; holders beyond len(hits) are left out. Add gives a prompt's earlier
// blocks younger stamps than its later ones. So who is thought to have a block is thought to have all before it as
// well: a gap among these is one of our memory, and not of the holder's.
func (x *Index) Find(blocks []Block, hits []Hit) int {
	n, end := 0, min(len(blocks), BlocksMax)
	for n < len(hits) && end > 0 {
		if n > 0 {
			if more, sure := x.others(blocks[0], hits[:n]); !more && sure {
				break
			}
		}
		last := x.deepest(blocks[:end], hits[:n])
		if last < 0 {
			break
		}
		n = x.collect(blocks[last], last+1, hits, n)
		end = last
	}
	return n
}

// collect appends the holders of a block that are not among the first n hits yet, as far as there is room, and says how
// many hits there are then.
func (x *Index) collect(b Block, depth int, hits []Hit, n int) int {
	slot := x.lookup(b)
	if slot < 0 {
		return n
	}
	l, before := &x.ways[slot], n
	for i := range l {
		w := word(l[i].Load())
		if w == 0 || n == len(hits) {
			break
		}
		if x.fresh(w, hits[:n]) {
			hits[n] = Hit{w.holder(), depth, int(x.holder(w.holder()).place(w) / unit)}
			n++
		}
	}
	if !x.is(slot, b) { // it went to another block just now
		return before
	}
	return n
}

// deepest is the last block that has a holder which is not found yet; -1 if there is none. Holders of a block have all
// before it too. So it gallops down from the end, where the history of a conversation ends, and then halves.
func (x *Index) deepest(blocks []Block, found []Hit) int {
	no, yes := len(blocks), -1
	for step := 1; no > 0; step *= 2 {
		i := max(len(blocks)-step, 0)
		if more, _ := x.others(blocks[i], found); more {
			yes = i
			break
		}
		no = i
	}
	if yes < 0 {
		return -1
	}
	for no-yes > 1 {
		i := int(uint(yes+no) / 2)
		if more, _ := x.others(blocks[i], found); more {
			yes = i
		} else {
			no = i
		}
	}
	return yes
}

// others tells of a block whether it has a holder which is not found yet, and if not whether that is certain: a block that is
// not remembered may have any, and a full slot may have lost some.
func (x *Index) others(b Block, found []Hit) (more, sure bool) {
	slot := x.lookup(b)
	if slot < 0 {
		return false, false
	}
	l := &x.ways[slot]
	for i := range l {
		w := word(l[i].Load())
		if w == 0 {
			return false, true
		}
		if x.fresh(w, found) {
			return true, true
		}
	}
	return false, false
}

// fresh tells whether a word names a holder that has the block still and that is not found yet.
func (x *Index) fresh(w word, found []Hit) bool {
	h := w.holder()
	for i := range found {
		if found[i].Holder == h {
			return false
		}
	}
	return x.holder(h).has(w)
}

// Mark is what an Add noted, for TakeBack. The zero Mark is nothing.
type Mark struct {
	stamp uint64
	had   int // how many of the blocks h had before
}

// Add says that h computed the prompt of these blocks, or will: they are in its cache now, and are its youngest. It
// takes all blocks from the prompt's first, as Hash gives them. What is beyond the size of h's cache is left out, and so
// is everything while h has no size.
//
// A holder's clock counts blocks. A block is stamped with its place in the LRU, and it falls out when the clock is
// ahead of its stamp by the size of the cache. A block that h did not have pushes all others back by one: the clock
// goes on by one. A block that it had and that comes to the front pushes back only those that were before it. One clock
// can't say whom, so it goes on by their share of the cache. This is right on the average: a cache that is visited in
// turns falls out exactly when a round of turns is larger than the cache, and a beginning that all prompts share pushes
// nobody. A clock that stands still then would keep what is long gone; one that goes on by one would lose it early.
func (x *Index) Add(h Holder, blocks []Block) Mark {
	o := x.holder(h)
	if o == nil {
		return Mark{}
	}
	size := o.size.Load()
	blocks = blocks[:min(len(blocks), BlocksMax, int(size/unit))]
	if len(blocks) == 0 {
		return Mark{}
	}
	advance, missing, had := x.survey(h, o, size, blocks)
	stamp := o.clock.Add(advance)
	install := x.installs.Load()
	if missing > 0 {
		install = x.installs.Add(missing)
	}
	for i, b := range blocks {
		x.put(b, pack(h, stamp-uint64(i)*unit), (install-uint64(i))>>x.shift&ageMask)
	}
	return Mark{stamp, had}
}

// TakeBack says that h did not compute the prompt after all that an Add of these blocks told of. What it had before stays, and
// so does what another Add told of since. The clock is not put back: a few of h's oldest blocks may be missed.
func (x *Index) TakeBack(h Holder, blocks []Block, m Mark) {
	if m.stamp == 0 {
		return
	}
	for i := m.had; i < min(len(blocks), BlocksMax); i++ {
		if slot := x.lookup(blocks[i]); slot >= 0 {
			x.unname(slot, pack(h, m.stamp-uint64(i)*unit))
		}
	}
}

// survey says by how much h's clock goes on when it gets the blocks, how many of them have no slot yet, and how many h has.
// size is h's, and not 0.
func (x *Index) survey(h Holder, o *holder, size uint64, blocks []Block) (advance, missing uint64, had int) {
	added, pushed := uint64(0), uint64(0)
	known, place := false, uint64(0) // of the block behind: who has that one has this one too, and younger
	for i := len(blocks) - 1; i >= 0; i-- {
		slot := x.lookup(blocks[i])
		if slot < 0 {
			missing++
		} else if _, w := x.ways[slot].placeOf(h); w != 0 {
			if at := o.place(w); at < size {
				known, place, had = true, at, max(had, i+1)
			}
		}
		switch {
		case known:
			pushed += place
		case slot < 0 || !x.crowded(slot):
			added++
		default:
			// h fell out of the slot, or was never in it. So popular a block is new to h once and old to it ever after.
			// So it counts as one that is used all the time, which pushes nobody.
		}
	}
	return added*unit + pushed*unit/size, missing, had
}

// Resize says how many blocks h's cache keeps. Older ones don't count any more. It is 0 until it is said. A size that
// grows brings back what a smaller one left out, if it is remembered: it corrects what we know of h's cache, it does
// not change the cache.
func (x *Index) Resize(h Holder, blocks int) {
	if o := x.grow(h); o != nil {
		o.size.Store(uint64(min(max(blocks, 0), sizeMax)) * unit)
	}
}

// Forget says that h has nothing: it restarted, or its number goes to another. Its size stays.
func (x *Index) Forget(h Holder) {
	if o := x.holder(h); o != nil {
		o.clock.Add(sizeMax * unit)
	}
}
