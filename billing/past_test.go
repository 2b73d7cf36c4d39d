package billing

import (
	"testing"

	"pgregory.net/rapid"
)

// What is remembered is what came last, whatever shares its place; what is forgotten leaves all else.
func TestPast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, has, order := &past{}, map[uint64]outcome{}, []uint64{}
		// few places, around the end of the slots too
		place := rapid.Custom(func(t *rapid.T) uint64 {
			n := rapid.Uint64Range(0, 40).Draw(t, "place")
			return (n-20)%pastSlots + rapid.Uint64Range(1, 60).Draw(t, "round")*pastSlots
		})
		for range pastMax - 50 { // nearly full
			hash := uint64(len(order)+1) * 0x9E3779B97F4A7C15
			p.remember(closing{hash, 7})
			has[hash], order = 7, append(order, hash)
		}
		steps := 0
		t.Repeat(map[string]func(*rapid.T){
			"remember": func(t *rapid.T) {
				for range 20 {
					hash, as := place.Draw(t, "hash"), outcome(rapid.Uint64Range(0, 3).Draw(t, "as"))
					p.remember(closing{hash, as})
					if _, ok := has[hash]; !ok {
						order = append(order, hash)
					}
					if has[hash] = as; len(order) > pastMax {
						delete(has, order[0])
						order = order[1:]
					}
				}
			},
			"forget": func(t *rapid.T) {
				hash := place.Draw(t, "hash")
				p.forget(hash)
				if _, ok := has[hash]; ok {
					delete(has, hash)
					for i := range order {
						if order[i] == hash {
							order[i] = 0 // its turn comes as if it were there
						}
					}
				}
			},
			"": func(t *rapid.T) {
				if steps++; steps%8 != 0 { // there is much to look at
					return
				}
				sum := 0
				for _, slot := range p.kept {
					if slot.hash != 0 {
						sum++
					}
				}
				if sum != len(has) {
					t.Fatalf("%d are remembered, want %d", sum, len(has))
				}
				for hash, as := range has {
					if got, ok := p.recall(hash); !ok || got != as {
						t.Fatalf("%x is %v %v, want %v", hash, got, ok, as)
					}
				}
			},
		})
	})
	var none *past
	if _, ok := none.recall(1); ok {
		t.Error("nothing is remembered, and something is found")
	}
}
