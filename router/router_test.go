package router

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"cocoon/router/offer"
)

func sheet(capacity int, models ...string) *offer.Sheet {
	s := &offer.Sheet{V: offer.Version, Version: 1, Name: "w"}
	for _, m := range models {
		s.Offers = append(s.Offers, offer.Offer{Model: m, ContextTokens: 4096, Slots: 1, Capacity: capacity})
	}
	return s
}

func id(n byte) ID { return ID{n} }

func TestPickLeastInFlight(t *testing.T) {
	table := NewTable[string]()
	table.Update(id(1), "a", sheet(10, "m"))
	table.Update(id(2), "b", sheet(10, "m"))
	var got []string
	for range 4 {
		l, err := table.Pick(&Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Handle)
	}
	slices.Sort(got)
	if want := []string{"a", "a", "b", "b"}; !slices.Equal(got, want) {
		t.Errorf("4 picks went to %v, want %v", got, want)
	}
}

func TestTiesRotate(t *testing.T) {
	table := NewTable[byte]()
	for n := range byte(4) {
		table.Update(id(n), n, sheet(10, "m"))
	}
	count := map[byte]int{}
	for range 400 {
		l, err := table.Pick(&Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		count[l.Handle]++
		l.Release(Served)
	}
	for n := range byte(4) {
		if count[n] != 100 {
			t.Errorf("worker %d got %d of 400 requests, want 100", n, count[n])
		}
	}
}

func TestPickRefuses(t *testing.T) {
	table := NewTable[string]()
	table.Update(id(1), "a", sheet(1, "m"))
	if _, err := table.Pick(&Request{Model: "x"}); !errors.Is(err, ErrUnknownModel) {
		t.Errorf("unknown model: %v", err)
	}
	l, err := table.Pick(&Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrBusy) {
		t.Errorf("at capacity: %v", err)
	}
	l.Release(Served)
	if _, err := table.Pick(&Request{Model: "m", Tried: []ID{id(1)}}); !errors.Is(err, ErrExhausted) {
		t.Errorf("tried: %v", err)
	}
	table.Update(id(1), "a", &offer.Sheet{Draining: true, Offers: sheet(1, "m").Offers})
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrUnknownModel) {
		t.Errorf("draining: %v", err)
	}
	table.Remove(id(1), "an older connection")
	if n, _ := table.Workers(); n != 1 {
		t.Errorf("%d workers after Remove by a handle that was replaced, want 1", n)
	}
	table.Remove(id(1), "a")
	if n, _ := table.Workers(); n != 0 {
		t.Errorf("%d workers after Remove", n)
	}
}

func TestUpdateKeepsLeases(t *testing.T) {
	table := NewTable[string]()
	table.Update(id(1), "a", sheet(1, "m"))
	l, err := table.Pick(&Request{Model: "m"})
	if err != nil {
		t.Fatal(err)
	}
	table.Update(id(1), "a2", sheet(1, "m", "n"))
	if _, err := table.Pick(&Request{Model: "n"}); !errors.Is(err, ErrBusy) {
		t.Errorf("after an update the running lease was forgotten: %v", err)
	}
	l.Release(Served)
	l, err = table.Pick(&Request{Model: "n"})
	if err != nil || l.Handle != "a2" {
		t.Errorf("Pick = %q, %v, want the new handle", l.Handle, err)
	}
}

// TestCapacityHolds checks that no interleaving of picks leases more than a worker's capacity, and that
// every lease that was released is free again.
func TestCapacityHolds(t *testing.T) {
	table := NewTable[int]()
	table.Update(id(1), 1, sheet(3, "m"))
	table.Update(id(2), 2, sheet(5, "m"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				l, err := table.Pick(&Request{Model: "m"})
				if err != nil {
					continue
				}
				if n := l.state.inflight.Load(); n > int64(l.Offer.Capacity) {
					t.Errorf("%d in flight, capacity %d", n, l.Offer.Capacity)
				}
				l.Release(Served)
			}
		})
	}
	wg.Wait()
	if _, inflight := table.Workers(); inflight != 0 {
		t.Errorf("%d leases left over", inflight)
	}
}

// TestTableModel compares the table with a plain map through random joins, leaves, picks and releases.
func TestTableModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, want := NewTable[byte](), map[byte]int{}
		var held []Lease[byte]
		inflight := map[byte]int{}
		t.Repeat(map[string]func(*rapid.T){
			"join": func(t *rapid.T) {
				n, c := rapid.ByteRange(0, 5).Draw(t, "worker"), rapid.IntRange(1, 4).Draw(t, "capacity")
				if _, here := want[n]; !here {
					inflight[n] = 0
				}
				want[n] = c
				table.Update(id(n), n, sheet(c, "m"))
			},
			"pick": func(t *rapid.T) {
				l, err := table.Pick(&Request{Model: "m"})
				least, any := 1<<30, false
				for n, c := range want {
					if inflight[n] < c {
						least, any = min(least, inflight[n]), true
					}
				}
				if any != (err == nil) {
					t.Fatalf("Pick: %v, model says free = %v", err, any)
				}
				if err != nil {
					return
				}
				if inflight[l.Handle] != least {
					t.Fatalf("picked a worker with %d in flight, the least is %d", inflight[l.Handle], least)
				}
				inflight[l.Handle]++
				held = append(held, l)
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "lease")
				held[i].Release(Served)
				inflight[held[i].Handle]--
				held = slices.Delete(held, i, i+1)
			},
		})
	})
}

func BenchmarkPick(b *testing.B) {
	table := NewTable[byte]()
	for n := range byte(64) {
		table.Update(id(n), n, sheet(1000, "m"))
	}
	r := &Request{Model: "m"}
	b.ReportAllocs()
	for b.Loop() {
		l, err := table.Pick(r)
		if err != nil {
			b.Fatal(err)
		}
		l.Release(Served)
	}
}
