package prefix_test

import (
	"bytes"
	"slices"
	"testing"

	"cocoon/router/prefix"
)

// find is what the index says of a prompt, in a slice of its own.
func find(x *prefix.Index, blocks []prefix.Block, room int) []prefix.Hit {
	hits := make([]prefix.Hit, room)
	hits = hits[:x.Find(blocks, hits)]
	for i := range hits {
		hits[i].Age = 0 // see TestAge
	}
	return hits
}

// TestAge has a prompt grow old: by each block that is new to its holder, and not by those of others.
func TestAge(t *testing.T) {
	x := prefix.New(prefix.Config{})
	x.Resize(1, 1000)
	x.Resize(2, 1000)
	old := x.Hash(nil, 1, make([]byte, 4*prefix.BlockBytes))
	x.Add(1, old)
	for i := range uint64(5) {
		x.Add(2, x.Hash(nil, 100+i, make([]byte, 9*prefix.BlockBytes)))
	}
	var hits [1]prefix.Hit
	if x.Find(old, hits[:]); hits[0].Age > 4 {
		t.Errorf("new: age %d, want that of the prompt itself at most", hits[0].Age)
	}
	for i := range uint64(10) {
		x.Add(1, x.Hash(nil, 2+i, make([]byte, 5*prefix.BlockBytes)))
	}
	if x.Find(old, hits[:]); hits[0].Age < 50 || hits[0].Age > 54 {
		t.Errorf("after 50 blocks: age %d", hits[0].Age)
	}
}

// has is how many blocks of a prompt the index gives to a holder.
func has(x *prefix.Index, h prefix.Holder, blocks []prefix.Block) int {
	for _, hit := range find(x, blocks, 64) {
		if hit.Holder == h {
			return hit.Blocks
		}
	}
	return 0
}

func equal(t *testing.T, got, want []prefix.Hit) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

func TestHashWholeBlocks(t *testing.T) {
	x := prefix.New(prefix.Config{})
	for size, want := range map[int]int{
		0: 0, 1: 0, prefix.BlockBytes - 1: 0, prefix.BlockBytes: 1, prefix.BlockBytes + 1: 1, 5*prefix.BlockBytes - 1: 4,
		prefix.BlocksMax * prefix.BlockBytes: prefix.BlocksMax, (prefix.BlocksMax + 3) * prefix.BlockBytes: prefix.BlocksMax,
	} {
		if got := len(x.Hash(nil, 1, make([]byte, size))); got != want {
			t.Errorf("%d bytes: %d blocks, want %d", size, got, want)
		}
	}
	// It appends, and leaves alone what is there.
	dst := x.Hash(x.Hash(nil, 1, text(1, 2048)), 1, text(2, 1024))
	if want := append(x.Hash(nil, 1, text(1, 2048)), x.Hash(nil, 1, text(2, 1024))...); !slices.Equal(dst, want) {
		t.Errorf("appended: %x, want %x", dst, want)
	}
}

// A block's hash stands for all that is before it, too: one changed byte changes it and all after it.
func TestHashChain(t *testing.T) {
	x := prefix.New(prefix.Config{})
	a := text(1, 16<<10)
	b := bytes.Clone(a)
	b[5<<10] ^= 1
	ha, hb := x.Hash(nil, 1, a), x.Hash(nil, 1, b)
	for i := range ha {
		if (ha[i] == hb[i]) != (i < 5) {
			t.Errorf("block %d: %x and %x", i, ha[i], hb[i])
		}
	}
	// Equal blocks at other places, too.
	seen := map[prefix.Block]bool{}
	for _, h := range x.Hash(nil, 1, make([]byte, 4<<20)) {
		if seen[h] {
			t.Fatal("two blocks of one text have the same hash")
		}
		seen[h] = true
	}
}

// Nobody finds out what others asked: the same text is another for each tenant, and for each process.
func TestTenantsApart(t *testing.T) {
	x := prefix.New(prefix.Config{})
	whose := map[prefix.Block]uint64{}
	texts := [][]byte{make([]byte, 8<<10), text(1, 8<<10), text(2, 64<<10)}
	for tenant := range uint64(1000) {
		for _, text := range texts {
			for i, h := range x.Hash(nil, tenant*0x0101010101, text) {
				if other, ok := whose[h]; ok && other != tenant {
					t.Fatalf("block %d: tenants %d and %d have the same hash", i, tenant, other)
				}
				whose[h] = tenant
			}
		}
	}
	x.Resize(1, 100)
	x.Add(1, x.Hash(nil, 7, texts[2]))
	equal(t, find(x, x.Hash(nil, 7, texts[2]), 8), []prefix.Hit{{Holder: 1, Blocks: 64}})
	equal(t, find(x, x.Hash(nil, 8, texts[2]), 8), nil)
	equal(t, find(x, prefix.New(prefix.Config{}).Hash(nil, 7, texts[2]), 8), nil)
}

// What a conversation looks like: each turn is the one before and more.
func TestConversation(t *testing.T) {
	x := prefix.New(prefix.Config{})
	talk := text(1, 40<<10)
	for h := range prefix.Holder(3) {
		x.Resize(h, 1000)
	}
	equal(t, find(x, x.Hash(nil, 1, talk), 8), nil)
	x.Add(2, x.Hash(nil, 1, talk[:9000]))
	equal(t, find(x, x.Hash(nil, 1, talk[:700]), 8), nil) // less than a block
	equal(t, find(x, x.Hash(nil, 1, talk[:2048]), 8), []prefix.Hit{{Holder: 2, Blocks: 2}})
	equal(t, find(x, x.Hash(nil, 1, talk), 8), []prefix.Hit{{Holder: 2, Blocks: 8}})
	x.Add(0, x.Hash(nil, 1, talk[:20000]))
	x.Add(1, x.Hash(nil, 1, append(bytes.Clone(talk[:4096]), text(2, 9999)...)))
	all := []prefix.Hit{{Holder: 0, Blocks: 19}, {Holder: 2, Blocks: 8}, {Holder: 1, Blocks: 4}}
	for room := range 5 {
		equal(t, find(x, x.Hash(nil, 1, talk), room), all[:min(room, 3)])
	}
}

func TestForget(t *testing.T) {
	x := prefix.New(prefix.Config{})
	a, b := x.Hash(nil, 1, text(1, 8<<10)), x.Hash(nil, 1, text(2, 8<<10))
	x.Forget(1) // never heard of
	x.Resize(1, 100)
	x.Resize(2, 100)
	for range 5 {
		x.Add(1, a)
		x.Add(2, a)
		x.Add(1, b)
		x.Forget(1)
		equal(t, find(x, a, 8), []prefix.Hit{{Holder: 2, Blocks: 8}})
		equal(t, find(x, b, 8), nil)
		x.Resize(1, 1<<30) // as large as can be: what is forgotten stays so
		equal(t, find(x, b, 8), nil)
		x.Resize(1, 100)
	}
	x.Add(1, b[:3]) // its size is still known
	equal(t, find(x, b, 8), []prefix.Hit{{Holder: 1, Blocks: 3}})
}

func TestResize(t *testing.T) {
	x := prefix.New(prefix.Config{})
	a, b := x.Hash(nil, 1, text(1, 8<<10)), x.Hash(nil, 1, text(2, 8<<10))
	x.Add(1, a) // no cache yet
	equal(t, find(x, a, 8), nil)
	x.Resize(1, 12)
	x.Add(1, a)
	x.Add(1, b) // the tail of a falls out first
	equal(t, find(x, b, 8), []prefix.Hit{{Holder: 1, Blocks: 8}})
	equal(t, find(x, a, 8), []prefix.Hit{{Holder: 1, Blocks: 4}})
	x.Resize(1, 3)
	equal(t, find(x, b, 8), []prefix.Hit{{Holder: 1, Blocks: 3}})
	equal(t, find(x, a, 8), nil)
	x.Resize(1, 16) // a correction: all of it was there
	equal(t, find(x, a, 8), []prefix.Hit{{Holder: 1, Blocks: 8}})
	x.Resize(1, 5)
	x.Add(1, x.Hash(nil, 1, text(3, 8<<10))) // more than fits
	equal(t, find(x, x.Hash(nil, 1, text(3, 8<<10)), 8), []prefix.Hit{{Holder: 1, Blocks: 5}})
	for _, size := range []int{0, -1, -1 << 62} {
		x.Resize(1, size)
		x.Add(1, a)
		equal(t, find(x, a, 8), nil)
	}
}

// Holders come in any order and number; those beyond the last have nothing.
func TestHolders(t *testing.T) {
	x := prefix.New(prefix.Config{})
	a := x.Hash(nil, 1, text(1, 4<<10))
	for i, h := range []prefix.Holder{0, 100_000, 1023, 1024, 77, prefix.HolderMax} {
		x.Resize(h, 100)
		x.Add(h, a[:4-min(i, 3)])
		if got := has(x, h, a); got != 4-min(i, 3) {
			t.Errorf("holder %d has %d blocks", h, got)
		}
	}
	for _, h := range []prefix.Holder{prefix.HolderMax + 1, prefix.HolderMax + 2, 1<<32 - 1} {
		x.Resize(h, 100)
		x.Add(h, a)
		x.Forget(h)
	}
	// None of them is lost when more come.
	if hits := find(x, a, 64); len(hits) != 6 || hits[0] != (prefix.Hit{Holder: 0, Blocks: 4}) {
		t.Errorf("found %v", hits)
	}
}

// More holders of a block than can be remembered: the last ones are, and what goes on beyond it is still found.
func TestCrowd(t *testing.T) {
	x := prefix.New(prefix.Config{Slots: 1 << 18})
	system := text(0, 4<<10)
	talk := func(h prefix.Holder, turn uint64) []prefix.Block {
		return x.Hash(nil, 1, append(bytes.Clone(system), text(uint64(h)<<8+turn, 4<<10)...))
	}
	const crowd, turns = 64, 20
	for h := range prefix.Holder(crowd) {
		x.Resize(h, 4+4*turns+10) // a bit more than it gets: less than a twice counted system prompt each turn
	}
	for turn := range uint64(turns) {
		for h := range prefix.Holder(crowd) {
			x.Add(h, talk(h, turn))
		}
	}
	if n := len(find(x, x.Hash(nil, 1, system), 64)); n != 8 {
		t.Errorf("the block in common has %d holders", n)
	}
	// The system prompt was new to each holder once. So nothing fell out, though the index forgot that they had it.
	for turn := range uint64(turns) {
		for h := range prefix.Holder(crowd) {
			if got := has(x, h, talk(h, turn)); got != 8 {
				t.Fatalf("holder %d: %d blocks of its talk %d", h, got, turn)
			}
		}
	}
}

// In a full slot, who lost the block gives way first, and then who will lose it first.
func TestGiveWay(t *testing.T) {
	x := prefix.New(prefix.Config{})
	a, other := x.Hash(nil, 1, text(1, 6<<10)), x.Hash(nil, 1, text(2, 4<<10))
	for h := range prefix.Holder(12) {
		x.Resize(h, 100)
	}
	for h := range prefix.Holder(8) {
		x.Add(h, a)
	}
	there := func(gone ...prefix.Holder) {
		t.Helper()
		for h := range prefix.Holder(12) {
			if want := !slices.Contains(gone, h); (has(x, h, a) > 0) != want {
				t.Errorf("holder %d: %v, want %v", h, !want, want)
			}
		}
	}
	there(8, 9, 10, 11)
	x.Forget(5)
	x.Add(8, a)
	there(5, 9, 10, 11)
	x.Add(3, other)
	x.Add(9, a)
	there(3, 5, 10, 11)
	// Another pushes 6 out of all blocks but the last two, and is pushed out of the first. All eight of that are found
	// before it is; it is found nevertheless.
	x.Add(6, other)
	x.Resize(10, 8)
	x.Add(10, a[:4])
	x.Add(10, other)
	x.Add(6, a[:1])
	there(3, 5, 11)
}

// A full table loses what was not used for longest.
func TestEviction(t *testing.T) {
	const slots, length = 1024, 8
	x := prefix.New(prefix.Config{Slots: slots})
	x.Resize(0, 1<<20)
	x.Resize(1, 1<<20)
	used := x.Hash(nil, 1, text(0, length<<10))
	unused := x.Hash(nil, 1, text(1, length<<10))
	x.Add(0, unused)
	x.Add(1, used)
	lost := 0
	var talks [][]prefix.Block
	for i := range uint64(6 * slots / length) {
		talk := x.Hash(nil, 2, text(i, length<<10))
		x.Add(0, talk)
		if i%16 == 0 {
			for b := range used {
				if i > 0 && has(x, 1, used[b:b+1]) == 0 {
					lost++
				}
			}
			x.Add(1, used)
		}
		talks = append(talks, talk)
	}
	if got := has(x, 0, unused); got != 0 {
		t.Errorf("of what was not: %d blocks", got)
	}
	if lost > 2 {
		t.Errorf("of what is used all the time, %d blocks fell out", lost)
	}
	kept := 0
	lost = 0
	for i, talk := range talks {
		for i := range talk {
			kept += len(find(x, talk[i:i+1], 1)) // each by itself
		}
		// Half of what there is room for has come since: most of that is there.
		if i >= len(talks)-slots/length/2 && has(x, 0, talk) == 0 {
			lost++
		}
	}
	if kept > slots || kept < slots*9/10 {
		t.Errorf("%d blocks in %d slots", kept, slots)
	}
	if lost > 2 {
		t.Errorf("%d of the last conversations are lost", lost)
	}
}

// The smallest tables and the oddest calls.
func TestOddities(t *testing.T) {
	for _, slots := range []int{-1, 1, 7, 8, 9, 100} {
		x := prefix.New(prefix.Config{Slots: slots})
		x.Resize(1, 1<<30)
		x.Add(1, nil)
		long := x.Hash(nil, 1, make([]byte, 5<<20))
		x.Add(1, long)
		x.Add(1, append(long, long...))
		x.Find(append(long, long...), make([]prefix.Hit, 3))
		equal(t, find(x, nil, 8), nil)
		equal(t, find(x, long, 0), nil)
		x.Add(1, []prefix.Block{0, 0, 1, 1 << 63, 0}) // no hashes of ours
		x.Find([]prefix.Block{0, 0, 1, 1 << 63, 0}, make([]prefix.Hit, 3))
	}
}

func TestAllocates(t *testing.T) {
	x := prefix.New(prefix.Config{})
	for h := range prefix.Holder(64) {
		x.Resize(h, 1000)
	}
	prompt, i := text(1, 40<<10), 0
	blocks := x.Hash(nil, 1, prompt)
	var hits [8]prefix.Hit
	for name, f := range map[string]func(){
		"Hash":   func() { blocks = x.Hash(blocks[:0], 1, prompt) },
		"Add":    func() { i++; x.Add(prefix.Holder(i%64), blocks) },
		"Find":   func() { x.Find(blocks, hits[:]) },
		"Resize": func() { x.Resize(7, 900) },
		"Forget": func() { x.Forget(7) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func FuzzHash(f *testing.F) {
	f.Add(uint64(0), uint64(1), []byte(""), []byte(""))
	f.Add(uint64(1), uint64(1<<63), make([]byte, 3000), make([]byte, 1096))
	f.Add(uint64(1), uint64(2), text(1, 1024), text(2, 5000))
	x := prefix.New(prefix.Config{})
	f.Fuzz(func(t *testing.T, tenant, other uint64, begin, more []byte) {
		all := slices.Concat(begin, more)
		short, long := x.Hash(nil, tenant, begin), x.Hash(make([]prefix.Block, 0, 9), tenant, all)
		if len(short) != min(len(begin)/prefix.BlockBytes, prefix.BlocksMax) ||
			len(long) != min(len(all)/prefix.BlockBytes, prefix.BlocksMax) {
			t.Fatalf("%d and %d blocks of %d and %d bytes", len(short), len(long), len(begin), len(all))
		}
		if !slices.Equal(short, long[:len(short)]) {
			t.Fatalf("%x goes on as %x", short, long)
		}
		if tenant == other {
			return
		}
		for i, h := range x.Hash(nil, other, all) {
			if h == long[i] {
				t.Fatalf("block %d is the same for two tenants", i)
			}
		}
	})
}

// TestTakeBack: what an Add told of is gone again, but for what the holder had before, or was told to have since.
func TestTakeBack(t *testing.T) {
	x := prefix.New(prefix.Config{Slots: 1 << 10})
	x.Resize(1, 100)
	blocks := x.Hash(nil, 0, make([]byte, 8*prefix.BlockBytes))
	has := func() int {
		var hits [4]prefix.Hit
		if x.Find(blocks, hits[:]) == 0 {
			return 0
		}
		return hits[0].Blocks
	}
	x.TakeBack(1, blocks, prefix.Mark{})
	m := x.Add(1, blocks)
	if x.TakeBack(1, blocks, m); has() != 0 {
		t.Errorf("%d blocks are left", has())
	}
	x.Add(1, blocks[:3])
	m = x.Add(1, blocks)
	if x.TakeBack(1, blocks, m); has() != 3 {
		t.Errorf("%d blocks are left of those from before, want 3", has())
	}
	m = x.Add(1, blocks)
	x.Add(1, blocks[:6])
	if x.TakeBack(1, blocks, m); has() != 6 {
		t.Errorf("%d blocks are left of those that were told of since, want 6", has())
	}
	if x.TakeBack(1, blocks, m); has() != 6 {
		t.Errorf("%d blocks are left after it was taken back twice", has())
	}
	m = x.Add(1, blocks)
	x.Forget(1)
	x.TakeBack(1, blocks, m)
	x.TakeBack(9, blocks, m)
	if m := x.Add(9, blocks); m != (prefix.Mark{}) || has() != 0 {
		t.Errorf("a holder without a size has %v", m)
	}
}
