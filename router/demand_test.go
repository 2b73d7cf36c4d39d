package router

import "testing"

// TestDemand tells a worker what it would have got at other prices, and holds that against what it then gets.
func TestDemand(t *testing.T) {
	// share plays requests between one that asks 1,000 and one that asks another price.
	share := func(price int) (won float64, dear Demand) {
		table := New[int](Config{Seed: 7})
		table.Update(0, selling(1, 1000, "m"))
		table.Update(0, selling(2, int64ToAmount(price), "m"))
		const n = 20_000
		for i := range n {
			now := at(float64(i) / 100)
			l := pick(t, table, Request{Model: "m", Now: now, Bytes: int64(400 + i%7000)})
			if l.Handle == 2 {
				won++
			}
			l.Release(now, Done{Outcome: Unused})
		}
		return won / n, table.Demand(id(2))[0]
	}
	won, d := share(2000)
	if won > 0.02 || d.Considered < 300 || d.Won > d.Considered/50 {
		t.Fatalf("who asks twice as much won %.2f of the requests, %d of %d in the sample", won, d.Won, d.Considered)
	}
	for i := range d.At[1:] {
		if d.At[i].PPM >= d.At[i+1].PPM || d.At[i].Won < d.At[i+1].Won {
			t.Errorf("at %d ppm %d requests, at %d ppm %d", d.At[i].PPM, d.At[i].Won, d.At[i+1].PPM, d.At[i+1].Won)
		}
	}
	for _, p := range d.At {
		got, _ := share(int(2000 * p.PPM / 1e6))
		foretold := float64(p.Won) / float64(d.Considered)
		if got > 0.1 && got < 0.9 { // equals take turns, which no price foretells
			continue
		}
		if foretold-got > 0.1 || got-foretold > 0.1 {
			t.Errorf("at %d ppm of its price it was to win %.2f of the requests, and won %.2f", p.PPM, foretold, got)
		}
	}
	if list := New[int](Config{}).Demand(id(9)); list != nil {
		t.Errorf("a worker that is not there: %v", list)
	}
}

// TestNothingMeasured: what a worker and its market were never measured at is not told, least of all what a table begins with.
func TestNothingMeasured(t *testing.T) {
	table := marketOf(1)
	table.Tend(at(1))
	d := table.Demand(id(0))[0]
	if d.TTFT != 0 || d.Speed != 0 || d.TypicalTTFT != 0 || d.TypicalSpeed != 0 {
		t.Errorf("before any request: %+v", d)
	}
	for i := range 2 * enough {
		now := at(2 + 2*float64(i))
		serve(pick(t, table, Request{Now: now, Model: "m", Bytes: 4000}), now, 0.2, 0.01, 50)
	}
	table.Tend(at(30))
	if d = table.Demand(id(0))[0]; d.TTFT == 0 || d.Speed == 0 || d.TypicalTTFT == 0 || d.TypicalSpeed == 0 {
		t.Errorf("after some: %+v", d)
	}
}
