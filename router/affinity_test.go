package router

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"cocoon/router/prefix"
)

// chats is a market of three equal workers and what became of the conversations there.
type chats struct {
	table         *Table[int]
	caches, tells bool
	whole         bool           // answers do not stream
	had           map[[2]int]int // tokens of a conversation that a worker has, by both
	now           time.Duration
}

// turn sends a conversation's next request, and says who got it and what was expected.
func (c *chats) turn(t *testing.T, talk int, text string) (worker int, was Choice) {
	t.Helper()
	const perSecond = 1000.0
	l := pick(t, c.table, Request{
		Now: c.now, Model: "m", Tenant: 1, Bytes: int64(len(text)), Prefix: c.table.Index().Hash(nil, 1, []byte(text)), History: true,
	})
	was = l.Why.Top[max(l.Why.Picked, 0)]
	tokens := len(text) / 4
	key := [2]int{talk, l.Handle}
	cached := c.had[key]
	if c.caches {
		c.had[key] = tokens
	}
	c.now += at(0.05 + float64(tokens-cached)/perSecond)
	if !c.whole {
		l.First(c.now)
	}
	c.now += at(0.5)
	l.Progress(c.now, 25)
	d := Done{Outcome: Served, In: int64(tokens), Out: 25}
	if c.tells {
		d.Cached = int64(cached)
	}
	l.Release(c.now, d)
	c.now += at(0.5)
	c.table.Tend(c.now)
	return l.Handle, was
}

// talk has four conversations at once, again and again, and says what part of the second half's later turns stayed where
// the turn before was, what part of their prompts was expected to be cached, and what they were expected to cost.
func (c *chats) talk(t *testing.T) (stayed, expected, price float64) {
	t.Helper()
	const rounds, turns = 12, 6
	n := 0.0
	for round := range rounds {
		texts, last := [4]string{}, [4]int{}
		for turn := range turns {
			for i := range texts {
				talk := 4*round + i
				size := 600
				if turn == 0 {
					size = 6000
				}
				texts[i] += strings.Repeat(fmt.Sprintf("%3d %4d ", talk, turn), size/9)
				worker, was := c.turn(t, talk, texts[i])
				if round >= rounds/2 && turn > 0 {
					n++
					if worker == last[i] {
						stayed++
					}
					tokens := float64(len(texts[i]) / 4)
					expected += was.Cached / tokens
					price += was.Price / (tokens + 3*25) // by that of a prompt which is read
				}
				last[i] = worker
			}
		}
	}
	return stayed / n, expected / n, price * 1e6 / 1000 / n
}

// TestAffinity: conversations stay where their prompts are cached, whether the engine tells of that or not, and leave it out
// where nothing is. What is not told is not expected to be cheap either.
func TestAffinity(t *testing.T) {
	for _, c := range []struct {
		caches, tells, whole bool
		stay, cached         [2]float64 // least and most
		price                [2]float64
	}{
		{caches: true, tells: true, stay: [2]float64{0.95, 1}, cached: [2]float64{0.7, 1}, price: [2]float64{0.3, 0.6}},
		{caches: true, stay: [2]float64{0.95, 1}, cached: [2]float64{0.7, 1}, price: [2]float64{0.95, 1.05}},
		{stay: [2]float64{0, 0.7}, cached: [2]float64{0, 0.05}, price: [2]float64{0.95, 1.05}},
		// Of answers that don't stream nothing says what was cached, so it is what the engine tells: none.
		{caches: true, whole: true, stay: [2]float64{0, 0.7}, cached: [2]float64{0, 0.05}, price: [2]float64{0.95, 1.05}},
	} {
		m := chats{table: marketOf(3), caches: c.caches, tells: c.tells, whole: c.whole, had: map[[2]int]int{}}
		stayed, cached, price := m.talk(t)
		in := func(what string, is float64, want [2]float64) {
			t.Helper()
			if !(is >= want[0] && is <= want[1]) {
				t.Errorf("caches %v, tells %v, whole %v: %s %.2f, want %.2f to %.2f", c.caches, c.tells, c.whole, what, is, want[0], want[1])
			}
		}
		in("stayed", stayed, c.stay)
		in("expected cached", cached, c.cached)
		in("expected price", price, c.price)
	}
}

// TestEngineLearnsToTell: once an engine tells of cached tokens its word counts, and only that.
func TestEngineLearnsToTell(t *testing.T) {
	m := chats{table: marketOf(3), caches: true, had: map[[2]int]int{}}
	m.talk(t)
	m.tells, m.had = true, map[[2]int]int{}
	if _, _, price := m.talk(t); price > 0.6 {
		t.Errorf("expected price %.2f of what it would be if all were read", price)
	}
	m.tells, m.had = false, map[[2]int]int{}
	if _, cached, price := m.talk(t); cached > 0.1 || price < 0.95 {
		t.Errorf("of engines that hide what they told of before %.2f of a prompt is expected to be cached, at %.2f of the price",
			cached, price)
	}
}

// TestHidingIsDear: who bills cached tokens in full is as dear as it is, to new conversations too.
func TestHidingIsDear(t *testing.T) {
	table := marketOf(3)
	m := (*table.models.Load())["m"]
	m.cached.Store(math.Float64bits(3000))
	liar := &m.market.Load().endpoints[1]
	liar.speed.bill.begin(0, hitWeight)
	table.Tend(at(1))
	l := pick(t, table, Request{Now: at(1), Model: "m", Bytes: 4000})
	for i, c := range l.Why.Top {
		if liar.worker.id == c.Worker && i != 2 {
			t.Errorf("the liar is number %d of three equals", i+1)
		}
	}
	if dear := math.Float64frombits(liar.speed.dearer.Load()); dear < 1.5 {
		t.Errorf("it counts as %.2f times as dear", dear)
	}
}

// TestGivenBack: a prompt counts as cached from when it is sent, so that those that come beside it see where it went; if it is
// given back before there was any content it does not any more.
func TestGivenBack(t *testing.T) {
	text := strings.Repeat("words of it ", 1000)
	for _, c := range []struct {
		end         Outcome
		first, stay bool
	}{
		{WorkerSlow, false, false},
		{WorkerFault, false, false},
		{WorkerBusy, false, false},
		{Unused, false, false},
		{ClientGone, false, true},
		{Served, false, true},
		{WorkerFault, true, true},
		{ClientGone, true, true},
	} {
		table := marketOf(2)
		r := Request{Now: at(1), Model: "m", Bytes: int64(len(text)), Prefix: table.Index().Hash(nil, 0, []byte(text))}
		l := pick(t, table, r)
		cached := func() bool {
			var hits [2]prefix.Hit
			n := table.index.Find(r.Prefix, hits[:])
			return n == 1 && hits[0].Holder == prefix.Holder(l.speed.holder) && hits[0].Blocks == len(r.Prefix)
		}
		if !cached() {
			t.Error("a request beside it does not see where it went")
		}
		if c.first {
			l.First(at(2))
		}
		if l.Release(at(3), Done{Outcome: c.end}); cached() != c.stay {
			t.Errorf("outcome %d, content %v: taken for cached: %v", c.end, c.first, !c.stay)
		}
	}
}

// TestClientsMayLeave: that a client left, or that nothing was sent, is no failure: the worker takes as many as before.
func TestClientsMayLeave(t *testing.T) {
	for _, end := range []Outcome{ClientGone, Unused} {
		table := marketOf(1)
		l := pick(t, table, Request{Now: at(1), Model: "m"})
		l.Release(at(2), Done{Outcome: end})
		for range 3 {
			pick(t, table, Request{Now: at(3), Model: "m"})
		}
		if closed, _, _ := table.Breakers(at(3)); closed != 1 {
			t.Errorf("outcome %d: the breaker is not closed", end)
		}
	}
}

// TestCapacityLowered: a sheet with a lower capacity counts at once for a new worker's slow start.
func TestCapacityLowered(t *testing.T) {
	table := New[int](Config{Seed: 1})
	w := selling(1, 1000, "m")
	w.Sheet.Offers[0].Capacity = 200
	table.Update(0, w)
	soft := &table.workers[w.ID].live.soft
	if got := soft.Load(); got != 20 {
		t.Fatalf("slow start allows %d of 200", got)
	}
	w = selling(1, 1000, "m")
	w.Sheet.Offers[0].Capacity = 50
	if table.Update(0, w); soft.Load() != 5 {
		t.Errorf("slow start allows %d of 50", soft.Load())
	}
}
