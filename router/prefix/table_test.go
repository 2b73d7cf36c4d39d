package prefix

import "testing"

// A goroutine found a block's slot, and stood still while the slot went to another block: it takes its word back.
func TestTakenBack(t *testing.T) {
	x := New(Config{Slots: ways})
	for h := range Holder(3) {
		x.Resize(h, 100)
	}
	old, next := Block(1<<40), Block(2<<40)
	x.Add(0, []Block{old})
	slot := x.lookup(old)
	for b := next; x.lookup(old) >= 0; b += 1 << 40 {
		x.Add(1, []Block{b})
		if x.lookup(b) == slot {
			next = b
		}
	}
	var hits [3]Hit
	x.name(slot, old, pack(2, x.holder(2).clock.Load()))
	if n := x.Find([]Block{next}, hits[:]); n != 1 || hits[0].Holder != 1 || hits[0].Blocks != 1 {
		t.Errorf("found %v", hits[:n])
	}
	// The word that was taken back is nobody's, and the first that another takes in a full slot.
	for h := range Holder(3) {
		x.Add(h, []Block{next})
	}
	if n := x.Find([]Block{next}, hits[:]); n != 3 {
		t.Errorf("found %v", hits[:n])
	}
	// While the slot changes hands, it is no block's.
	x.tag(slot).Store(busy)
	x.name(slot, next, pack(0, 1))
	if n := x.Find([]Block{next}, hits[:]); n != 0 {
		t.Errorf("found %v in a slot that changes hands", hits[:n])
	}
	// Where all slots do, a block goes without.
	for slot := range ways {
		x.tag(slot).Store(busy)
	}
	x.Add(0, []Block{old, next})
	if x.lookup(old) >= 0 || x.lookup(next) >= 0 {
		t.Error("a slot that changes hands was taken")
	}
}

// Tails give up their slots before beginnings do.
func TestTailsFirst(t *testing.T) {
	x := New(Config{Slots: ways})
	x.Resize(0, 100)
	var a, b []Block
	for i := range Block(ways) {
		a, b = append(a, (i+1)<<40), append(b, (i+100)<<40)
	}
	x.Add(0, a)
	var hits [3]Hit
	for n := range ways {
		x.Add(0, b[n:n+1])
		if found := x.Find(a, hits[:]); n < ways-1 && (found != 1 || hits[0].Blocks != ways-1-n) {
			t.Errorf("found %v after %d others came", hits[:found], n+1)
		}
	}
}
