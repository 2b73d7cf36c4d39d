package prefix_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cocoon/router/prefix"
)

// cache is one holder's cache as it really is: a list of blocks, youngest first, of at most size.
type cache struct {
	size  int
	lru   []prefix.Block
	added int                           // blocks that ever came, also those that were there
	fresh int                           // blocks that came for the first time ever
	seen  map[prefix.Block]int          // added, when the block came last
	first map[prefix.Block]int          // fresh, when the block came last
	share func(place, size int64) int64 // by what a block that is there sets the clock on, times size
	clock int64                         // in sixteenths
	stamp map[prefix.Block]int64
}

func newCache(size int) *cache {
	return &cache{
		size: size, seen: map[prefix.Block]int{}, first: map[prefix.Block]int{}, stamp: map[prefix.Block]int64{},
		share: func(place, _ int64) int64 { return place }, // as Index.Add has it
	}
}

// add brings the blocks to the front, the first of them foremost, and says how many were there: from the first on.
func (c *cache) add(blocks []prefix.Block) (hit int) {
	blocks = blocks[:min(len(blocks), c.size)]
	hit = c.has(blocks)
	c.tick(blocks)
	for _, b := range blocks {
		if c.seen[b] == 0 {
			c.fresh++
		}
	}
	c.added += len(blocks)
	for i, b := range slices.Backward(blocks) {
		if at := slices.Index(c.lru, b); at >= 0 {
			c.lru = slices.Delete(c.lru, at, at+1)
		}
		c.lru = slices.Insert(c.lru, 0, b)
		c.seen[b] = c.added - i
		c.first[b] = c.fresh - i
	}
	c.lru = c.lru[:min(len(c.lru), c.size)]
	return hit
}

// tick sets the clock on and stamps the blocks, without the list.
func (c *cache) tick(blocks []prefix.Block) {
	var added, pushed int64
	for _, b := range blocks {
		if place := c.place(b); place < int64(c.size)*16 {
			pushed += c.share(place, int64(c.size))
		} else {
			added++
		}
	}
	c.clock += added*16 + pushed/int64(max(c.size, 1))
	for i, b := range blocks {
		c.stamp[b] = c.clock - int64(i)*16
	}
}

// place is how far behind the front the index puts a block, in sixteenths.
func (c *cache) place(b prefix.Block) int64 {
	s, ok := c.stamp[b]
	if !ok {
		return 1 << 60
	}
	return c.clock - s
}

// has is how many blocks of a prompt are in the cache, told is how many the index must say there are.
func (c *cache) has(blocks []prefix.Block) int {
	return count(blocks, func(b prefix.Block) bool { return slices.Contains(c.lru, b) })
}

func (c *cache) told(blocks []prefix.Block) int {
	return count(blocks, func(b prefix.Block) bool { return c.place(b) < int64(c.size)*16 })
}

// least and most are what no clock may go below and above: a block is there if fewer blocks came since than fit, each
// counted as often as it came; and it is not if as many came that had never been there.
func (c *cache) least(blocks []prefix.Block) int {
	return count(blocks, func(b prefix.Block) bool { return c.seen[b] > 0 && c.added-c.seen[b] < c.size })
}

func (c *cache) most(blocks []prefix.Block) int {
	return count(blocks, func(b prefix.Block) bool { return c.seen[b] > 0 && c.fresh-c.first[b] < c.size })
}

func (c *cache) forget() {
	*c = *newCache(c.size)
}

// count is how many blocks in a row are so, from the first.
func count(blocks []prefix.Block, is func(prefix.Block) bool) int {
	for i, b := range blocks {
		if !is(b) {
			return i
		}
	}
	return len(blocks)
}

// With room for all, Find is exactly what a map of stamps says, and within the bounds of a true LRU.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := prefix.New(prefix.Config{Slots: 1 << 13})
		holders := make([]*cache, rapid.IntRange(1, 7).Draw(t, "holders"))
		for h := range holders {
			holders[h] = newCache(rapid.IntRange(0, 40).Draw(t, "size"))
			x.Resize(prefix.Holder(h), holders[h].size)
		}
		// Prompts branch: each goes on from a place in an earlier one.
		prompts := [][]prefix.Block{{}}
		next := prefix.Block(0)
		prompt := func(t *rapid.T) []prefix.Block {
			p := rapid.SampledFrom(prompts).Draw(t, "prompt")
			p = p[:rapid.IntRange(0, len(p)).Draw(t, "length")]
			if len(prompts) < 12 && rapid.Bool().Draw(t, "more") {
				p = slices.Clone(p)
				for range rapid.IntRange(1, 15).Draw(t, "blocks") {
					next++
					p = append(p, next*0x9e3779b97f4a7c15)
				}
				prompts = append(prompts, p)
			}
			return p
		}
		holder := func(t *rapid.T) (prefix.Holder, *cache) {
			h := rapid.IntRange(0, len(holders)-1).Draw(t, "holder")
			return prefix.Holder(h), holders[h]
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				h, c := holder(t)
				p := prompt(t)
				x.Add(h, p)
				c.add(p)
			},
			"forget": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "dice") > 0 {
					t.Skip()
				}
				h, c := holder(t)
				x.Forget(h)
				c.forget()
			},
			"": func(t *rapid.T) {
				for _, p := range prompts {
					agree(t, x, holders, p)
				}
			},
		})
	})
}

// agree compares what the index says of a prompt with what the caches' models say.
func agree(t *rapid.T, x *prefix.Index, holders []*cache, p []prefix.Block) {
	hits := find(x, p, 8)
	got := map[prefix.Holder]int{}
	for i, hit := range hits {
		if i > 0 && hit.Blocks > hits[i-1].Blocks {
			t.Fatalf("not in order: %v", hits)
		}
		if got[hit.Holder] != 0 || hit.Blocks == 0 {
			t.Fatalf("twice, or with nothing: %v", hits)
		}
		got[hit.Holder] = hit.Blocks
	}
	for h, c := range holders {
		n := got[prefix.Holder(h)]
		if want := c.told(p); n != want {
			t.Fatalf("holder %d has %d blocks, %d by its stamps", h, n, want)
		}
		if n < c.least(p) || n > c.most(p) {
			t.Fatalf("holder %d has %d blocks, must be %d to %d", h, n, c.least(p), c.most(p))
		}
	}
	for room := range len(hits) {
		few := find(x, p, room)
		for i, hit := range few {
			if len(few) != room || hit.Blocks != hits[i].Blocks || got[hit.Holder] != hit.Blocks {
				t.Fatalf("with room for %d: %v of %v", room, few, hits)
			}
		}
	}
}

// Where nothing comes twice, the clock is a true LRU.
func TestNewOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, c := prefix.New(prefix.Config{Slots: 1 << 15}), newCache(rapid.IntRange(1, 300).Draw(t, "size"))
		x.Resize(3, c.size)
		var prompts [][]prefix.Block
		next := prefix.Block(0)
		for range rapid.IntRange(1, 40).Draw(t, "prompts") {
			var p []prefix.Block
			for range rapid.IntRange(0, 40).Draw(t, "blocks") {
				next++
				p = append(p, next*0x9e3779b97f4a7c15)
			}
			prompts = append(prompts, p)
			x.Add(3, p)
			c.add(p)
		}
		for i, p := range prompts {
			if got, want := has(x, 3, p), c.has(p); got != want {
				t.Fatalf("prompt %d: %d blocks, want %d", i, got, want)
			}
		}
	})
}

// A holder visited by conversations as they are, with a beginning in common: what the index thinks a request finds
// there, what it finds in a true LRU, and what simpler clocks would have said.
func TestLRU(t *testing.T) {
	for name, talks := range map[string]int{"all fits": 10, "nearly": 22, "not quite": 30, "thrashing": 75} {
		t.Run(name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, uint64(talks)))
			x, c := prefix.New(prefix.Config{}), newCache(500)
			x.Resize(0, c.size)
			still, always := newCache(c.size), newCache(c.size)
			still.share = func(_, _ int64) int64 { return 0 }
			always.share = func(_, size int64) int64 { return 16 * size }
			fresh := func(p []prefix.Block, n int) []prefix.Block {
				for range n {
					p = append(p, prefix.Block(rnd.Uint64()))
				}
				return p
			}
			system := fresh(nil, 8)
			open := make([][]prefix.Block, talks)
			var requests, real, wrong, wrongStill, wrongAlways int
			for range 1200 {
				i := rnd.IntN(talks)
				if len(open[i]) == 0 || rnd.IntN(12) == 0 {
					open[i] = fresh(slices.Clone(system), 2+rnd.IntN(6)) // it begins again
				} else {
					open[i] = fresh(open[i], 1+rnd.IntN(4))
				}
				p := open[i]
				hit, told := c.has(p), has(x, 0, p)
				requests += len(p)
				real += hit
				wrong += max(told-hit, hit-told)
				wrongStill += max(still.told(p)-hit, hit-still.told(p))
				wrongAlways += max(always.told(p)-hit, hit-always.told(p))
				x.Add(0, p)
				c.add(p)
				still.tick(p)
				always.tick(p)
			}
			percent := func(n int) float64 { return 100 * float64(n) / float64(requests) }
			t.Logf("%.1f %% of the blocks were there; told wrong: %.2f %%, %.2f %% by a clock that stands still for a "+
				"block that is there, %.2f %% by one that goes on", percent(real), percent(wrong), percent(wrongStill),
				percent(wrongAlways))
			if wrong*20 > requests {
				t.Error("more than 5 % were told wrong")
			}
			if slack := requests / 100; wrong > wrongStill+slack || wrong > wrongAlways+slack {
				t.Error("a simpler clock is better")
			}
		})
	}
}
