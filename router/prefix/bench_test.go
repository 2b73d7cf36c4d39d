package prefix_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"cocoon/router/prefix"
)

// text is n bytes of nothing.
func text(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func BenchmarkHash(b *testing.B) {
	for _, kib := range []int{1, 32, 400} {
		b.Run(fmt.Sprintf("%dKiB", kib), func(b *testing.B) {
			size := kib << 10
			x, t, dst := prefix.New(prefix.Config{}), text(1, size), make([]prefix.Block, 0, 400)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				dst = x.Hash(dst[:0], 1, t)
			}
		})
	}
}

// market is an index as it is after a while: 64 holders with caches of 2000 blocks that are full of conversations of
// a system prompt in common and a history of their own. It returns the conversations, each of blocks' length.
func market(x *prefix.Index, blocks int) [][]prefix.Block {
	rnd := rand.New(rand.NewPCG(1, 2))
	for h := range prefix.Holder(64) {
		x.Resize(h, 2000)
	}
	system := x.Hash(nil, 1, text(0, 4<<10))
	talks := make([][]prefix.Block, max(64*2000/blocks/2, 128))
	for i := range talks {
		talk := append([]prefix.Block(nil), system...)
		for len(talk) < blocks {
			talk = append(talk, prefix.Block(rnd.Uint64()))
		}
		h := prefix.Holder(i % 64)
		x.Add((h+1)%64, talk[:blocks*5/8])
		x.Add(h, talk)
		talks[i] = talk
	}
	return talks
}

func BenchmarkFind(b *testing.B) {
	for _, blocks := range []int{8, 400} {
		name := strconv.Itoa(blocks)
		x := prefix.New(prefix.Config{Slots: 1 << 18})
		talks := market(x, blocks)
		var hits [8]prefix.Hit
		find := func(b *testing.B, of func(i int) []prefix.Block, want int) {
			b.ReportAllocs()
			i, n := 0, 0
			for b.Loop() {
				n += min(x.Find(of(i), hits[:]), want)
				i++
			}
			if n < want*i*9/10 {
				b.Errorf("%d holders in %d searches", n, i)
			}
		}
		// Two holders and no more: one conversation, over and over, and in turns with others'.
		two := x.Hash(nil, 2, text(2, blocks<<10))
		x.Add(1, two)
		x.Add(2, two[:blocks*5/8])
		b.Run(name, func(b *testing.B) { find(b, func(int) []prefix.Block { return two }, 2) })
		b.Run(name+"/market", func(b *testing.B) {
			find(b, func(i int) []prefix.Block { return talks[i*7919%len(talks)] }, 2)
		})
		cold := make([]prefix.Block, 1<<20)
		rnd := rand.New(rand.NewPCG(3, 4))
		for i := range cold {
			cold[i] = prefix.Block(rnd.Uint64())
		}
		b.Run(name+"/cold", func(b *testing.B) {
			find(b, func(i int) []prefix.Block {
				at := i * blocks % (len(cold) - blocks)
				return cold[at : at+blocks]
			}, 0)
		})
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, blocks := range []int{8, 400} {
		name := strconv.Itoa(blocks)
		x := prefix.New(prefix.Config{Slots: 1 << 18})
		talks := market(x, blocks)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				x.Add(0, talks[0])
			}
		})
		b.Run(name+"/market", func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				x.Add(prefix.Holder(i*31%64), talks[i*7919%len(talks)])
				i++
			}
		})
		b.Run(name+"/new", func(b *testing.B) {
			b.ReportAllocs()
			rnd, talk := rand.New(rand.NewPCG(5, 6)), make([]prefix.Block, blocks)
			i := 0
			for b.Loop() {
				for j := range talk {
					talk[j] = prefix.Block(rnd.Uint64())
				}
				x.Add(prefix.Holder(i%64), talk)
				i++
			}
		})
	}
}
