package billing

const (
	pastMax   = remembered / shards
	pastSlots = 2 * pastMax // half of them are free: most are found where they are looked for first

	pastPlace    = 12 // bits of a slot that say where in kept, from 1 on; the others are of the hash
	pastPlaceMax = 1<<pastPlace - 1
)

// past remembers what became of the last pastMax closed requests of a shard, by their hashes. It has no pointers for the
// garbage collector, and the slots are small: a look for what is not there, as each hold is, is one at a line of them.
type past struct {
	slots [pastSlots]uint32 // each from where its hash says on, in the next that is 0, which is free
	kept  [pastMax]closing  // as they came, around; hash 0: none
	next  int               // in kept: the oldest
}

// closing is what became of a request.
type closing struct {
	hash uint64
	as   outcome
}

// find gives the slot of a hash, or the free one where it would be, and what is kept of it or nil.
func (p *past) find(hash uint64) (slot uint64, was *closing) {
	for i := hash % pastSlots; ; i = (i + 1) % pastSlots {
		is := p.slots[i]
		if is == 0 {
			return i, nil
		}
		if is>>pastPlace == uint32(hash<<pastPlace)>>pastPlace {
			if was = &p.kept[is&pastPlaceMax-1]; was.hash == hash {
				return i, was
			}
		}
	}
}

// recall gives what became of a closed request, if that is remembered.
func (p *past) recall(hash uint64) (as outcome, ok bool) {
	if p != nil {
		if _, was := p.find(hash); was != nil {
			return was.as, true
		}
	}
	return 0, false
}

// remember keeps what became of a request, in the place of the oldest one.
func (p *past) remember(one closing) {
	slot, was := p.find(one.hash)
	if was != nil {
		*was = one
		return
	}
	p.slots[slot] = uint32(one.hash)<<pastPlace | uint32(p.next+1)
	oldest := &p.kept[p.next]
	if oldest.hash != 0 {
		slot, _ = p.find(oldest.hash)
		p.free(slot)
	}
	*oldest = one
	p.next = (p.next + 1) % pastMax
}

// forget has a request not be remembered any more.
func (p *past) forget(hash uint64) {
	if p == nil {
		return
	}
	if slot, was := p.find(hash); was != nil {
		p.free(slot)
		*was = closing{}
	}
}

// free frees a slot, and moves those up that had to go on beyond it.
func (p *past) free(slot uint64) {
	for i := (slot + 1) % pastSlots; p.slots[i] != 0; i = (i + 1) % pastSlots {
		if from := uint64(p.slots[i] >> pastPlace); (i-from)%pastSlots >= (i-slot)%pastSlots {
			p.slots[slot], slot = p.slots[i], i
		}
	}
	p.slots[slot] = 0
}
