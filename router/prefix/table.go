package prefix

import "sync/atomic"

const (
	// ways is how many slots a set has, and how many holders a slot: each fills a cache line of 64 bytes.
	ways = 8
	// A tag is the part of a block's hash that its slot keeps, and the slot's age is beside it. The set is 32 other bits
	// of it, in part. A block is taken for another with a chance of 8 in 2^40.
	ageBits = 24
	ageMask = 1<<ageBits - 1
	// turnover is how many ages pass, at least half of that, while as many blocks come as there are slots. Ages are
	// finer than that by nothing that matters, and wrap around after some thousand turnovers.
	turnover = 1 << 12
	// busy is the tag of a slot that is being emptied. No block has it.
	busy = 1
	// tries is how often a block looks for a slot while others take them away. Then it goes without.
	tries = 2
)

// line is a cache line: the tags of a set, or the holders of a slot, filled up from the first.
type line [ways]atomic.Uint64

// tagOf is a block's tag, in its place in a word; never 0.
func tagOf(b Block) uint64 { return max(uint64(b)&^ageMask, 1<<ageBits) }

// set is the number of a block's set.
func (x *Index) set(b Block) int {
	return int(uint64(uint32(b)) * uint64(len(x.tags)) >> 32)
}

// lookup is the number of a block's slot, -1 if it has none.
func (x *Index) lookup(b Block) int {
	set, tag := x.set(b), tagOf(b)
	tags := &x.tags[set]
	for i := range tags {
		if tags[i].Load()^tag <= ageMask {
			return set*ways + i
		}
	}
	return -1
}

// tag is a slot's tag and age.
func (x *Index) tag(slot int) *atomic.Uint64 { return &x.tags[slot/ways][slot%ways] }

// is tells whether a slot is a block's still.
func (x *Index) is(slot int, b Block) bool { return x.tag(slot).Load()&^ageMask == tagOf(b) }

// crowded tells whether a slot has all the holders that can be remembered, and all have the block still.
func (x *Index) crowded(slot int) bool {
	l := &x.ways[slot]
	for i := ways - 1; i >= 0; i-- { // from the place that fills up last
		if w := word(l[i].Load()); w == 0 || !x.holder(w.holder()).has(w) {
			return false
		}
	}
	return true
}

// put names a holder for a block. The slot's age becomes what is given, if that is younger.
func (x *Index) put(b Block, w word, age uint64) {
	for range tries {
		slot := x.lookup(b)
		if slot < 0 {
			if x.install(b, w, age) {
				return
			}
			continue
		}
		if t := x.tag(slot).Load(); t&^ageMask == tagOf(b) && older(t&ageMask, age) {
			x.tag(slot).CompareAndSwap(t, tagOf(b)|age) // another's age is as good
		}
		x.name(slot, b, w)
		return
	}
}

// older tells whether an age is before another, on their circle.
func older(a, b uint64) bool { return a != b && (b-a)&ageMask < 1<<(ageBits-1) }

// install gives a block a slot: an empty one, or else the one of its set that was not used for longest. It fails if
// another goroutine took that in the meantime.
func (x *Index) install(b Block, w word, age uint64) bool {
	set := x.set(b)
	way, was := victim(&x.tags[set])
	if way < 0 || !x.tags[set][way].CompareAndSwap(was, busy) {
		return false
	}
	l := &x.ways[set*ways+way]
	l[0].Store(uint64(w))
	for i := 1; i < ways; i++ {
		l[i].Store(0)
	}
	x.tags[set][way].Store(tagOf(b) | age)
	return true
}

// victim is the way of a set that a new block takes, and its tag; -1 if all change hands right now.
func victim(tags *line) (way int, was uint64) {
	way = -1
	for i := range tags {
		t := tags[i].Load()
		if t == 0 {
			return i, 0
		}
		if t != busy && (way < 0 || older(t&ageMask, was&ageMask)) {
			way, was = i, t
		}
	}
	return way, was
}

// name puts a holder's word in a slot: over its last one, or in the first empty place, or else over who lost the block
// or will lose it first.
func (x *Index) name(slot int, b Block, w word) {
	l := &x.ways[slot]
	place, was := l.placeOf(w.holder())
	if was == 0 {
		place, was = l.free(place)
	}
	if place < 0 {
		place, was = x.mostWorn(l)
	}
	if was == w || !l[place].CompareAndSwap(uint64(was), uint64(w)) {
		return
	}
	if !x.is(slot, b) { // the slot went to another block before the word came
		l[place].CompareAndSwap(uint64(w), uint64(gone))
	}
}

// unname takes a word out of a slot, if it is there as it was put.
func (x *Index) unname(slot int, w word) {
	l := &x.ways[slot]
	for i := range l {
		if l[i].CompareAndSwap(uint64(w), uint64(gone)) {
			return
		}
	}
}

// placeOf is where a holder's word is in a slot, or else the first empty place, and what is there; -1 if all are others'.
func (l *line) placeOf(h Holder) (place int, is word) {
	for i := range l {
		if w := word(l[i].Load()); w == 0 || w.holder() == h {
			return i, w
		}
	}
	return -1, 0
}

// free is a place of a word that was taken back, or else the given empty one.
func (l *line) free(empty int) (place int, is word) {
	for i := range l {
		if w := word(l[i].Load()); w == gone {
			return i, w
		} else if w == 0 {
			break
		}
	}
	return empty, 0
}

// mostWorn is the place of a full slot whose holder lost the block, or will lose it first.
func (x *Index) mostWorn(l *line) (place int, is word) {
	worst := uint64(0)
	for i := range l {
		w := word(l[i].Load())
		if wear := x.wear(w); i == 0 || wear > worst {
			place, is, worst = i, w, wear
		}
	}
	return place, is
}

// wear is how far a word's block is on its way out of the holder's cache, in 2^20ths.
func (x *Index) wear(w word) uint64 {
	o := x.holder(w.holder())
	if o == nil {
		return 1 << stampBits
	}
	size := max(o.size.Load(), 1)
	if place := o.place(w); place < size {
		return place << 20 / size
	}
	return 1 << 20
}
