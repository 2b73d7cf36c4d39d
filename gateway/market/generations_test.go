package market

import (
	"encoding/binary"
	"sync"
	"testing"
	"unsafe"

	"cocoon/router"
)

func requestID(n int) (id RequestID) {
	binary.LittleEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint32(id[8:], uint32(n)<<4)
	return id
}

func (g *Generations) put(n int) {
	r := Generation{ID: requestID(n), Account: "customer:a", Asked: "m", Served: "m", In: int64(n)}
	r.Last.Worker, r.Last.Why.Candidates = workerID(n), 3
	g.Keep(&r)
}

func TestGenerations(t *testing.T) {
	g := NewGenerations()
	if _, ok := g.Find(requestID(1)); ok {
		t.Error("found before anything was kept")
	}
	if _, ok := g.Find(RequestID{}); ok {
		t.Error("found the name of none")
	}
	g.put(1)
	r, ok := g.Find(requestID(1))
	if !ok || r.In != 1 || r.Account != "customer:a" || r.Last.Worker != workerID(1) {
		t.Errorf("found %v %+v", ok, r)
	}
	second := requestID(1)
	second[15] |= 2
	if r, ok := g.Find(second); !ok || r.In != 1 {
		t.Error("not found by the name of its third attempt")
	}
}

// TestGenerationsWrap: the newest are there, each shard's own, and nothing older.
func TestGenerationsWrap(t *testing.T) {
	g := NewGenerations()
	const all = 3 * GenerationsMax / 2
	for n := 1; n <= all; n++ {
		g.put(n)
	}
	perShardSeen := [generationShards]int{}
	kept := 0
	for n := all; n >= 1; n-- {
		i := requestID(n)[0] % generationShards
		perShardSeen[i]++
		r, ok := g.Find(requestID(n))
		if want := perShardSeen[i] <= perShard; ok != want || ok && r.In != int64(n) {
			t.Fatalf("request %d: found %v, want %v: %d", n, ok, want, r.In)
		}
		if ok {
			kept++
		}
	}
	if kept != GenerationsMax {
		t.Errorf("%d are kept, want %d", kept, GenerationsMax)
	}
	if size := unsafe.Sizeof(Generation{}) * GenerationsMax; size > 12<<20 {
		t.Errorf("all together take %d MiB", size>>20)
	} else {
		t.Logf("a record has %d bytes, all %d MiB", unsafe.Sizeof(Generation{}), size>>20)
	}
}

func TestGenerationsConcurrent(t *testing.T) {
	g := NewGenerations()
	var all sync.WaitGroup
	for r := range 8 {
		all.Go(func() {
			for n := range 500 {
				id := r*10_000 + n + 1
				g.put(id)
				if got, ok := g.Find(requestID(id)); ok && (got.In != int64(id) || got.Last.Worker != workerID(id)) {
					t.Errorf("request %d is mixed up with %d", id, got.In)
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkKeep(b *testing.B) {
	g := NewGenerations()
	for n := range 2 * GenerationsMax {
		g.put(n + 1)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		r := Generation{ID: requestID(n), Asked: "m", Served: "m"}
		r.Last.Outcome = router.Served
		g.Keep(&r)
	}
}
