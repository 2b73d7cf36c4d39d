package router

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/router/offer"
	"cocoon/router/prefix"
)

func TestPickRefuses(t *testing.T) {
	table := New[int](Config{})
	one := selling(1, 1000, "m")
	one.Sheet.Offers[0].Slots, one.Sheet.Offers[0].Capacity = 1, 1
	table.Update(0, one)
	if _, err := table.Pick(&Request{Model: "x"}); !errors.Is(err, ErrUnknownModel) {
		t.Errorf("unknown model: %v", err)
	}
	l := pick(t, table, Request{Model: "m"})
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrBusy) {
		t.Errorf("at capacity: %v", err)
	}
	l.Release(0, Done{Outcome: Served})
	if _, err := table.Pick(&Request{Model: "m", Tried: []ID{id(1)}}); !errors.Is(err, ErrExhausted) {
		t.Errorf("tried: %v", err)
	}
	table.Update(0, Worker[int]{ID: one.ID, Handle: 1, Sheet: &offer.Sheet{Draining: true, Offers: one.Sheet.Offers}})
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrUnknownModel) {
		t.Errorf("draining: %v", err)
	}
}

func TestTiesRotate(t *testing.T) {
	for _, n := range []int{2, 8, 64} {
		table := marketOf(n)
		count := map[int]int{}
		for i := range 100 * n {
			l := pick(t, table, Request{Model: "m", Now: at(float64(i)), Bytes: 400})
			count[l.Handle]++
			l.Release(at(float64(i)), Done{Outcome: Unused})
		}
		for h := range n {
			if count[h] < 60 || count[h] > 150 {
				t.Errorf("of %d equal workers, %d got %d of %d requests, want about 100", n, h, count[h], 100*n)
			}
		}
	}
}

// TestWishes has each wish leave out whom it says, and Explain name the same.
func TestWishes(t *testing.T) {
	table := New[int](Config{FeePPM: 100_000})
	for n := range 3 {
		w := selling(n, 1000*(1+3*int64ToAmount(n)), "m")
		w.Trust = Trust(n)
		w.Sheet.Offers[0].Quantization = []string{"", "fp8", "int4"}[n]
		if n == 2 {
			w.Sheet.Offers[0].Features = []string{offer.FeatureChat, offer.FeatureLogprobs}
		}
		table.Update(0, w)
	}
	hex := id(1).String()
	wish := func(change func(*Wish)) *Wish {
		w := NoWish()
		change(&w)
		return &w
	}
	for _, c := range []struct {
		name   string
		req    Request
		want   []int // who may be picked
		reason Reason
		gone   int
	}{
		{"nothing", Request{}, []int{0, 1, 2}, 0, 0},
		{"only by name", Request{Wish: wish(func(w *Wish) { w.Only = []string{"w2"} })}, []int{2}, RemovedOnly, 2},
		{"only by ID", Request{Wish: wish(func(w *Wish) { w.Only = []string{hex} })}, []int{1}, RemovedOnly, 2},
		{"ignore", Request{Wish: wish(func(w *Wish) { w.Ignore = []string{"w0", hex} })}, []int{2}, RemovedIgnored, 2},
		{"order and nobody else", Request{Wish: wish(func(w *Wish) { w.Order, w.NoFallbacks = []string{"w1"}, true })}, []int{1}, RemovedFallback, 2},
		{"order", Request{Wish: wish(func(w *Wish) { w.Order = []string{"w2", "w1"} })}, []int{2}, 0, 0},
		{"trust", Request{Wish: wish(func(w *Wish) { w.MinTrust = Gateway })}, []int{2}, RemovedTrust, 2},
		{"tools", Request{Needs: NeedTools}, []int{0, 1}, 0, 0},
		{"tools, of one that names none", Request{Needs: NeedTools, Wish: wish(func(w *Wish) { w.Only = []string{"w2"} })}, []int{2}, RemovedOnly, 2},
		{"tools, required", Request{Needs: NeedTools, Wish: wish(func(w *Wish) { w.RequireParameters = true })}, []int{0, 1}, RemovedFeatures, 1},
		{"logprobs, not required", Request{Needs: NeedLogprobs}, []int{0, 1, 2}, 0, 0},
		{"logprobs", Request{Needs: NeedLogprobs, Wish: wish(func(w *Wish) { w.RequireParameters = true })}, []int{2}, RemovedFeatures, 2},
		{"quantization", Request{Wish: wish(func(w *Wish) { w.Quantizations = []string{"fp8", "unknown"} })}, []int{0, 1}, RemovedQuantization, 1},
		{"price with the fee", Request{Wish: wish(func(w *Wish) { w.MaxPrice.In = 1100 })}, []int{0}, RemovedPrice, 2},
		{"price below the fee", Request{Wish: wish(func(w *Wish) { w.MaxPrice.Out = 3299 })}, nil, RemovedPrice, 3},
		{"too long", Request{Bytes: 8192*8 + 1}, nil, RemovedContext, 3},
		{"nobody", Request{Wish: wish(func(w *Wish) { w.Only = []string{"nobody"} })}, nil, RemovedOnly, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Model = "m"
			got := map[int]bool{}
			for range 50 {
				l, err := table.Pick(&c.req)
				if err != nil {
					if !errors.Is(err, ErrNoMatch) || c.want != nil {
						t.Fatal(err)
					}
					break
				}
				got[l.Handle] = true
				if int(l.Why.Removed[c.reason]) != c.gone && c.gone > 0 {
					t.Errorf("%d removed by %s, want %d", l.Why.Removed[c.reason], c.reason, c.gone)
				}
				l.Release(0, Done{Outcome: Unused})
			}
			for h := range got {
				if !contains(c.want, h) {
					t.Errorf("picked %d, want one of %v", h, c.want)
				}
			}
			if x := table.Explain(&c.req); c.gone > 0 && (x.Counts[c.reason] != c.gone || len(x.Removed[c.reason]) != c.gone || x.Candidates != 3) {
				t.Errorf("explained %+v, want %d by %s", x, c.gone, c.reason)
			}
		})
	}
}

// TestSoftWishes puts those behind that are predicted not to meet them, and no further.
func TestSoftWishes(t *testing.T) {
	table := marketOf(2)
	for i := range 20 {
		now := at(float64(i))
		w := NoWish()
		w.Only = []string{fmt.Sprintf("w%d", i%2)}
		l := pick(t, table, Request{Model: "m", Now: now, Bytes: 4000, Wish: &w})
		if i%2 == 0 {
			serve(l, now, 0.9, 0.01, 100) // slow to begin, then fast
		} else {
			serve(l, now, 0.1, 0.1, 100)
		}
	}
	w := NoWish()
	w.MaxLatency = at(0.5)
	if l := pick(t, table, Request{Model: "m", Now: at(30), Bytes: 4000, Wish: &w}); l.Handle != 1 {
		t.Errorf("wants the first token soon, picked %d", l.Handle)
	}
	w = NoWish()
	w.MinThroughput = 50
	if l := pick(t, table, Request{Model: "m", Now: at(30), Bytes: 4000, Wish: &w}); l.Handle != 0 {
		t.Errorf("wants 50 tokens a second, picked %d", l.Handle)
	}
	w.Only = []string{"w1"}
	pick(t, table, Request{Model: "m", Now: at(30), Bytes: 4000, Wish: &w}) // better than nothing
}

// TestPriceIsBound has a worker raise its price after it was picked.
func TestPriceIsBound(t *testing.T) {
	table := New[int](Config{FeePPM: 50_000})
	table.Update(0, selling(1, 1000, "m"))
	l := pick(t, table, Request{Model: "m"})
	table.Update(0, selling(1, 900_000, "m"))
	if want := (offer.Price{In: 1050, Cached: 263, Out: 3150}); l.Price != want || l.Offer.Price.In != 1000 {
		t.Errorf("leased at %+v, want %+v", l.Price, want)
	}
}

// TestMachineCountsOnce has many workers say to be one machine.
func TestMachineCountsOnce(t *testing.T) {
	table := New[int](Config{Seed: 3})
	for n := range 10 {
		w := selling(n, 1000, "m")
		if n > 0 {
			w.Machine = "one chip"
		}
		table.Update(0, w)
	}
	got := map[bool]int{}
	for i := range 16 {
		l := pick(t, table, Request{Model: "m", Now: at(float64(i)), Bytes: 4000})
		got[l.Handle == 0]++
	}
	if got[true] < 6 {
		t.Errorf("of 16 requests at once %d went to the worker that is alone, %d to nine names of one machine", got[true], got[false])
	}
	for range 40 {
		l, err := table.Pick(&Request{Model: "m", Now: at(60), Bytes: 40})
		if err != nil {
			break
		}
		got[l.Handle == 0]++
	}
	if got[false] > 16 {
		t.Errorf("one machine of capacity 16 has %d requests under its nine names", got[false])
	}
}

// TestBreaker fails three times, waits, probes once, and comes back.
func TestBreaker(t *testing.T) {
	table := marketOf(2)
	w := NoWish()
	w.Only = []string{"w0"}
	for i := range 3 {
		l := pick(t, table, Request{Model: "m", Now: at(float64(i) / 10), Wish: &w})
		l.Release(at(float64(i)/10), Done{Outcome: WorkerFault})
	}
	for i := range 20 {
		l := pick(t, table, Request{Model: "m", Now: at(0.5)})
		if l.Handle == 0 {
			t.Fatalf("pick %d went to a worker that failed three times in a row", i)
		}
		l.Release(at(0.5), Done{Outcome: Unused})
	}
	// It is all there is: better to try than to refuse.
	l := pick(t, table, Request{Model: "m", Now: at(0.6), Wish: &w})
	l.Release(at(0.6), Done{Outcome: ClientGone})
	table.Tend(at(300))
	probe := pick(t, table, Request{Model: "m", Now: at(300), Wish: &w})
	probe.First(at(300.01))
	probe.Release(at(301), Done{Outcome: Served, In: 10, Out: 10})
	got := map[int]int{}
	for i := range 100 {
		l := pick(t, table, Request{Model: "m", Now: at(302 + float64(i))})
		got[l.Handle]++
		l.Release(at(302+float64(i)), Done{Outcome: Unused})
	}
	if got[0] == 0 {
		t.Error("a worker whose probe succeeded gets nothing")
	}
}

// TestOneProbe lets one request try, while others wait for what becomes of it.
func TestOneProbe(t *testing.T) {
	table := marketOf(1)
	for i := range 3 {
		l := pick(t, table, Request{Model: "m", Now: at(float64(i) / 10)})
		l.Release(at(float64(i)/10), Done{Outcome: WorkerFault})
	}
	table.Update(at(1), selling(9, 100_000, "m")) // dear: only good enough if the other one is not to be had
	got := map[int]int{}
	for range 10 {
		l := pick(t, table, Request{Model: "m", Now: at(60)})
		got[l.Handle]++
	}
	if got[0] != 1 {
		t.Errorf("%d requests probed, want 1", got[0])
	}
}

// TestClientsAreNoFault has clients leave and workers stay in favour.
func TestClientsAreNoFault(t *testing.T) {
	table := marketOf(2)
	w := NoWish()
	w.Only = []string{"w0"}
	for i := range 50 {
		l := pick(t, table, Request{Model: "m", Now: at(float64(i)), Wish: &w})
		l.Release(at(float64(i)), Done{Outcome: ClientGone})
	}
	got := map[int]int{}
	for i := range 100 {
		l := pick(t, table, Request{Model: "m", Now: at(50 + float64(i))})
		got[l.Handle]++
		l.Release(at(50+float64(i)), Done{Outcome: Unused})
	}
	if got[0] < 30 {
		t.Errorf("a worker whose clients left got %d of 100 requests", got[0])
	}
}

// TestLearnedCapacity has a worker say that it is full below what it offers.
func TestLearnedCapacity(t *testing.T) {
	table := marketOf(1)
	var held []Lease[int]
	for range 8 {
		held = append(held, pick(t, table, Request{Model: "m"}))
	}
	held[7].Release(0, Done{Outcome: WorkerBusy})
	held = held[:7]
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrBusy) {
		t.Fatalf("beyond the capacity that was learned: %v", err)
	}
	now := time.Duration(0)
	for range 200 { // it serves: more is tried again
		l := held[0]
		held = held[1:]
		now += at(1)
		serve(l, now, 0.1, 0.01, 10)
		for {
			l, err := table.Pick(&Request{Model: "m", Now: now})
			if err != nil {
				break
			}
			held = append(held, l)
		}
	}
	if len(held) < 14 {
		t.Errorf("after 200 served requests it gets %d at once, want nearly the 16 on offer", len(held))
	}
}

// TestPrefixWins sends a conversation back to who has it, and away when that one is loaded.
func TestPrefixWins(t *testing.T) {
	table := marketOf(8)
	text := []byte(strings.Repeat("a conversation that goes on. ", 1000))
	prefix := table.Index().Hash(nil, 7, text)
	first := pick(t, table, Request{Model: "m", Tenant: 7, Bytes: int64(len(text)), Prefix: prefix})
	first.First(at(1))
	first.Release(at(2), Done{Outcome: Served, In: 7000, Out: 10})
	for i := range 20 {
		l := pick(t, table, Request{Model: "m", Tenant: 7, Bytes: int64(len(text)), Prefix: prefix, Now: at(3)})
		if l.Handle != first.Handle {
			t.Fatalf("turn %d went to %d, the conversation is at %d", i, l.Handle, first.Handle)
		}
		l.Release(at(3), Done{Outcome: Unused})
	}
	other := table.Index().Hash(nil, 8, text)
	l := pick(t, table, Request{Model: "m", Tenant: 8, Bytes: int64(len(text)), Prefix: other, Now: at(4)})
	if l.Why.Top[0].Cached != 0 {
		t.Error("another tenant's prompt counts as cached")
	}
}

// TestHomeIsShared has two gateways that know nothing of each other send a conversation to the same worker.
func TestHomeIsShared(t *testing.T) {
	for _, n := range []int{8, 200} {
		a, b := New[int](Config{Seed: 1, Shared: true}), New[int](Config{Seed: 2, Shared: true})
		for i := range n {
			a.Update(0, selling(i, 1000, "m"))
			b.Update(0, selling(i, 1000, "m"))
		}
		same := 0
		for c := range 100 {
			r := Request{Model: "m", Home: prefix.Mix(uint64(c)), History: true, Bytes: 20_000, Now: at(float64(c))}
			x, y := pick(t, a, r), pick(t, b, r)
			if x.Worker == y.Worker {
				same++
			}
			x.Release(r.Now, Done{Outcome: Unused})
			y.Release(r.Now, Done{Outcome: Unused})
		}
		if same < 95 {
			t.Errorf("of %d workers two gateways chose the same for %d of 100 conversations", n, same)
		}
	}
}

// TestLoadOfOthers has a worker report requests of other gateways.
func TestLoadOfOthers(t *testing.T) {
	table := marketOf(2)
	w := selling(0, 1000, "m")
	w.Sheet.Load = offer.Load{Running: 8, Queued: 4}
	table.Update(0, w)
	for i := range 4 {
		if l := pick(t, table, Request{Model: "m", Bytes: 4000}); l.Handle != 1 {
			t.Errorf("pick %d went to the worker that others keep busy", i)
		}
	}
}

// TestLargeMarket finds the cheap, the fast and the wished-for among ten thousand.
func TestLargeMarket(t *testing.T) {
	table := New[int](Config{Seed: 5})
	for i := range 3000 {
		price := int64ToAmount(1000 + i%7)
		if i == 1234 {
			price = 10
		}
		table.Update(0, selling(i, price, "m"))
	}
	table.Tend(0)
	l := pick(t, table, Request{Model: "m", Bytes: 4000})
	if l.Handle != 1234 {
		t.Errorf("the one cheap worker among 3,000 was not found: %+v", l.Why.Top)
	}
	w := NoWish()
	w.Only = []string{"w2222"}
	if l := pick(t, table, Request{Model: "m", Wish: &w}); l.Handle != 2222 {
		t.Errorf("picked %d, want the only one wished for", l.Handle)
	}
	table.Remove(0, id(1234), 1234)
	for range 100 {
		if l := pick(t, table, Request{Model: "m", Bytes: 4000}); l.Handle == 1234 {
			t.Fatal("picked a worker that has left")
		}
	}
}

// TestInflightNeverDrifts plays random lives of workers and leases; afterwards nothing is left over.
func TestInflightNeverDrifts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		table := New[int](Config{Seed: rapid.Uint64().Draw(rt, "seed"), Shared: rapid.Bool().Draw(rt, "shared")})
		var held []Lease[int]
		now := time.Duration(0)
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			now += time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond
			n := rapid.IntRange(0, 5).Draw(rt, "worker")
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				table.Update(now, selling(n, 1000, "m"))
			case 1:
				table.Remove(now, id(n), n)
			case 2:
				table.Tend(now)
			case 3, 4:
				if l, err := table.Pick(&Request{Model: "m", Now: now, Bytes: int64(rapid.IntRange(0, 9000).Draw(rt, "bytes"))}); err == nil {
					held = append(held, l)
				}
			case 5:
				if len(held) > 0 {
					l := held[0]
					held = held[1:]
					if rapid.Bool().Draw(rt, "first") {
						l.First(now)
						l.Progress(now+time.Second, int64(rapid.IntRange(0, 99).Draw(rt, "tokens")))
					}
					l.Release(now, Done{Outcome: Outcome(rapid.IntRange(0, int(Outcomes)-1).Draw(rt, "outcome")), In: 100, Out: 5})
				}
			}
		}
		for i := range held {
			held[i].Release(now, Done{Outcome: ClientGone})
		}
		for _, m := range table.machines {
			if m.inflight.Load() != 0 || m.pending.Load() != 0 || m.streams.Load() != 0 {
				rt.Fatalf("left over: %d leases, %d tokens, %d streams", m.inflight.Load(), m.pending.Load(), m.streams.Load())
			}
		}
	})
}

// TestFullModel has a worker be full for one of its models: that says nothing of the other one, and is forgotten.
func TestFullModel(t *testing.T) {
	table := New[int](Config{})
	table.Update(0, selling(1, 1000, "m", "other"))
	for range 5 {
		l, err := table.Pick(&Request{Model: "m"})
		if err != nil {
			t.Fatal(err)
		}
		l.Release(0, Done{Outcome: WorkerBusy})
	}
	a := pick(t, table, Request{Model: "m"})
	if _, err := table.Pick(&Request{Model: "m"}); !errors.Is(err, ErrBusy) {
		t.Errorf("two at once of a model that takes one: %v", err)
	}
	a.Release(0, Done{Outcome: Unused})
	for range 10 {
		pick(t, table, Request{Model: "other"})
	}
	table.Tend(at(60))
	pick(t, table, Request{Model: "m", Now: at(60)})
	pick(t, table, Request{Model: "m", Now: at(60)})
}
