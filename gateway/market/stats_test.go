package market

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/router"
)

// worst is how far a percentile may be off: 2^(1/8).
const worst = 1.0906

func close2(got, want float64) bool { return got <= want*worst && want <= got*worst }

func workerID(n int) (id router.ID) {
	id[0], id[1], id[31] = byte(n), byte(n>>8), 1
	return id
}

// percentile is the smallest value that so many percent don't exceed.
func percentile(list []float64, p int) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[(len(list)*p+99)/100-1]
}

func checkSpread(t interface{ Errorf(string, ...any) }, what string, got Spread, list []float64) {
	if got.N != int64(len(list)) {
		t.Errorf("%s: %d values, want %d", what, got.N, len(list))
	}
	for p, v := range map[int]float64{50: got.P50, 75: got.P75, 90: got.P90, 95: got.P95, 99: got.P99} {
		if want := percentile(list, p); !close2(v, want) {
			t.Errorf("%s: p%d is %g, want %g", what, p, v, want)
		}
	}
}

// event is an observation and when it was.
type event struct {
	at time.Duration
	o  Observation
}

// TestAgainstOracle compares with the sums and percentiles of a plain list.
func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewStats()
		now := time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(t, "start"))
		var list []event
		steps := []time.Duration{0, time.Millisecond, time.Second, 29 * time.Second, 30 * time.Second, 3 * time.Minute, 16 * time.Minute, time.Hour, 25 * time.Hour}
		for range rapid.IntRange(1, 80).Draw(t, "n") {
			now += rapid.SampledFrom(steps).Draw(t, "step")
			ttft := time.Duration(rapid.Int64Range(int64(2*time.Millisecond), int64(time.Minute)).Draw(t, "ttft"))
			o := Observation{
				Model: "m", Worker: workerID(rapid.IntRange(1, 4).Draw(t, "worker")), Result: Result(rapid.IntRange(0, int(results)-1).Draw(t, "result")),
				Streamed: rapid.Bool().Draw(t, "streamed"), TTFT: ttft,
				Total: ttft + time.Duration(rapid.Int64Range(int64(10*time.Millisecond), int64(10*time.Minute)).Draw(t, "rest")),
				In:    rapid.Int64Range(0, 1e6).Draw(t, "in"), Out: rapid.Int64Range(0, 1e4).Draw(t, "out"), Cost: 5,
			}
			o.Cached = o.In / 3
			s.Observe(now, &o)
			list = append(list, event{now, o})
		}
		m, ok := s.Model(now, "m")
		if !ok {
			t.Fatal("the model is not known")
		}
		for name, c := range map[string]struct {
			got          Window
			length, slot time.Duration
		}{"short": {m.Short, Short, shortSlot}, "medium": {m.Medium, Medium, mediumSlot}, "long": {m.Long, Long, longSlot}} {
			checkWindow(t, name, c.got, within(list, now/c.slot-c.length/c.slot, c.slot))
		}
		checkWorkers(t, m, within(list, now/mediumSlot-Medium/mediumSlot, mediumSlot))
	})
}

// within is what happened from a slot on.
func within(list []event, from, slot time.Duration) (part []event) {
	for _, e := range list {
		if e.at/slot >= from {
			part = append(part, e)
		}
	}
	return part
}

func checkWindow(t *rapid.T, name string, got Window, list []event) {
	var want Window
	var ttft, total, rate []float64
	for _, e := range list {
		o := &e.o
		*map[Result]*int64{Served: &want.Served, Busy: &want.Busy, Fault: &want.Fault, Gone: &want.Gone, Refused: &want.Refused}[o.Result]++
		want.In, want.Cached, want.Out, want.Cost = want.In+o.In, want.Cached+o.Cached, want.Out+o.Out, want.Cost+o.Cost
		if o.Streamed {
			ttft = append(ttft, o.TTFT.Seconds())
		}
		if o.Result == Served {
			total = append(total, o.Total.Seconds())
			if v := float64(o.Out-1) / (o.Total - o.TTFT).Seconds(); o.Streamed && o.Out > RateTokensMin {
				rate = append(rate, min(max(v, 1./16), 1<<18)) // where the range ends
			}
		}
	}
	checkSpread(t, name+" TTFT", got.TTFT, ttft)
	checkSpread(t, name+" total", got.Total, total)
	checkSpread(t, name+" rate", got.Rate, rate)
	got.TTFT, got.Total, got.Rate = Spread{}, Spread{}, Spread{}
	if got != want {
		t.Errorf("%s: %+v, want %+v", name, got, want)
	}
	if n := got.Requests(); n > 0 && math.Abs(got.Success()-float64(want.Served)/float64(n)) > 1e-9 {
		t.Errorf("%s: success %g", name, got.Success())
	}
}

func checkWorkers(t *rapid.T, m Model, list []event) {
	want := map[router.ID]int64{}
	for _, e := range list {
		if e.o.Result == Served {
			want[e.o.Worker]++
		}
	}
	share := 0.0
	for _, w := range m.Workers {
		if w.Served != want[w.ID] {
			t.Errorf("worker %s served %d, want %d", w.ID, w.Served, want[w.ID])
		}
		share += w.Share
		delete(want, w.ID)
	}
	if len(want) > 0 || m.Others != 0 || m.Medium.Served > 0 && math.Abs(share-1) > 1e-9 {
		t.Errorf("workers %+v, others %d, lacking %v", m.Workers, m.Others, want)
	}
}

// TestBorders: a request counts from its slot's first moment on, and until the window has left that slot.
func TestBorders(t *testing.T) {
	for name, c := range map[string]struct {
		length, slot time.Duration
		window       func(Model) Window
	}{
		"5m":  {Short, shortSlot, func(m Model) Window { return m.Short }},
		"30m": {Medium, mediumSlot, func(m Model) Window { return m.Medium }},
		"24h": {Long, longSlot, func(m Model) Window { return m.Long }},
	} {
		for _, at := range []time.Duration{1000 * time.Hour, 1000*time.Hour + 1, 1001*time.Hour - 1} {
			s := NewStats()
			s.Observe(at, &Observation{Model: "m", Result: Served})
			end := at.Truncate(c.slot) + c.length + c.slot // first moment that does not reach it
			for now, want := range map[time.Duration]int64{at: 1, at + c.length: 1, end - 1: 1, end: 0, end + 1000*time.Hour: 0, at - time.Minute: 1} {
				one := NewStats()
				one.Observe(at, &Observation{Model: "m", Result: Served})
				if m, _ := one.Model(now, "m"); c.window(m).Served != want {
					t.Errorf("%s: a request at %v is counted %d times at %v, want %d", name, at, c.window(m).Served, now, want)
				}
			}
			// Looking on the way changes nothing.
			for now := at; now < end; now += c.slot / 3 {
				if m, _ := s.Model(now, "m"); c.window(m).Served != 1 {
					t.Errorf("%s: lost at %v of %v", name, now, end)
				}
			}
			if m, _ := s.Model(end, "m"); c.window(m).Served != 0 {
				t.Errorf("%s: still there at %v", name, end)
			}
		}
	}
}

// TestTimeDoesNotGoBack: requests that end at the same time come in any order.
func TestTimeDoesNotGoBack(t *testing.T) {
	s := NewStats()
	s.Observe(time.Hour, &Observation{Model: "m"})
	s.Observe(time.Hour-time.Minute, &Observation{Model: "m"})
	s.Observe(-time.Hour, &Observation{Model: "m"})
	if m, _ := s.Model(time.Hour, "m"); m.Short.Served != 3 || m.Long.Served != 3 {
		t.Errorf("%+v, want 3 in all", m)
	}
}

// TestHostileNumbers: what a worker makes up stays within bounds.
func TestHostileNumbers(t *testing.T) {
	s := NewStats()
	for range 1000 {
		s.Observe(0, &Observation{
			Model: "m", Worker: workerID(1), Streamed: true, TTFT: 1, Total: math.MaxInt64, In: math.MinInt64, Cached: math.MaxInt64, Out: math.MaxInt64,
			Cost: math.MaxInt64, Result: 200,
		})
		s.Observe(0, &Observation{Model: "m", Worker: workerID(1), Streamed: true, TTFT: 1, Total: 2, Out: math.MaxInt64, Cost: math.MinInt64})
		s.Observe(0, &Observation{Model: "m", Worker: workerID(1), Streamed: true, TTFT: -1, Total: -2, Out: -1})
	}
	m, _ := s.Model(0, "m")
	w := m.Long
	if w.In != 0 || w.Cached != 0 || w.Out <= 0 || w.Cost <= 0 || w.Served != 2000 || w.Refused != 1000 {
		t.Errorf("%+v", w)
	}
	if w.TTFT.N != 2000 || w.TTFT.P99 > .0011 || w.Rate.N != 1000 || w.Rate.P50 < 2e5 || w.Rate.P50 > 3e5 {
		t.Errorf("TTFT %+v, rate %+v", w.TTFT, w.Rate)
	}
}

// TestManyModels: names that workers make up push out what is not asked for, and nothing else.
func TestManyModels(t *testing.T) {
	s := NewStats()
	for i := range ModelsMax + 100 {
		now := time.Duration(i) * time.Millisecond
		s.Observe(now, &Observation{Model: "used", Worker: workerID(1)})
		s.Observe(now, &Observation{Model: strconv.Itoa(i), Worker: workerID(i)})
	}
	list := s.Models(time.Hour)
	if len(list) != ModelsMax {
		t.Errorf("%d models, want %d", len(list), ModelsMax)
	}
	if m, ok := s.Model(time.Hour, "used"); !ok || m.Long.Served != ModelsMax+100 {
		t.Errorf("the model in use: %v, %d requests", ok, m.Long.Served)
	}
	if _, ok := s.Model(time.Hour, "0"); ok {
		t.Error("the oldest is still there")
	}
	if n := s.workers.Load(); n != ModelsMax {
		t.Errorf("%d records of workers, want %d", n, ModelsMax)
	}
}

// TestManyWorkers: who is beyond the bound is among the others, and gets a place when another serves nothing any more.
func TestManyWorkers(t *testing.T) {
	s := NewStats()
	for i := range WorkersMax + 50 {
		s.Observe(0, &Observation{Model: "m", Worker: workerID(i)})
		s.Failed(0, "m", workerID(i))
	}
	m, _ := s.Model(0, "m")
	if len(m.Workers) != WorkersMax || m.Others != 50 {
		t.Errorf("%d workers and %d of others, want %d and 50", len(m.Workers), m.Others, WorkersMax)
	}
	if up, ok := m.Workers[0].Uptime(); !ok || up != .5 {
		t.Errorf("uptime %v %v", up, ok)
	}
	later := Medium + 2*mediumSlot
	s.Observe(later, &Observation{Model: "m", Worker: workerID(9999), Result: Fault})
	s.Observe(later, &Observation{Model: "m", Worker: workerID(9999)})
	s.Failed(later, "m", workerID(9999))
	m, _ = s.Model(later, "m")
	if len(m.Workers) != 1 || m.Workers[0].ID != workerID(9999) || m.Workers[0].Served != 1 || m.Workers[0].Failed != 1 || m.Others != 0 {
		t.Errorf("later: %+v, others %d", m.Workers, m.Others)
	}
	if n := s.workers.Load(); n != 1 {
		t.Errorf("%d records of workers, want 1", n)
	}
	// The bound over all models.
	for i := range 2 * WorkersAll {
		s.Observe(later, &Observation{Model: fmt.Sprint("n", i/WorkersMax), Worker: workerID(i)})
	}
	if n := s.workers.Load(); n != WorkersAll {
		t.Errorf("%d records of workers, want %d", n, WorkersAll)
	}
}

// TestConcurrent: nothing is lost while others look.
func TestConcurrent(t *testing.T) {
	s := NewStats()
	var all sync.WaitGroup
	const each, routines = 2000, 8
	for r := range routines {
		all.Go(func() {
			for i := range each {
				now := time.Duration(i) * 20 * time.Millisecond
				o := Observation{
					Model: strconv.Itoa(i % 3), Worker: workerID(r), Streamed: true, TTFT: time.Millisecond * 20, Total: time.Second, In: 10, Out: 20,
				}
				s.Observe(now, &o)
				if i%7 == 0 {
					s.Failed(now, o.Model, o.Worker)
				}
				if i%100 == 0 {
					s.Models(now)
				}
			}
		})
	}
	all.Wait()
	var served, in, workers int64
	for _, m := range s.Models(each * 20 * time.Millisecond) {
		served, in = served+m.Long.Served, in+m.Long.In
		for _, w := range m.Workers {
			workers += w.Served
		}
	}
	if served != each*routines || in != 10*each*routines || workers != served {
		t.Errorf("served %d, tokens %d, by workers %d; want %d", served, in, workers, each*routines)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	s := NewStats()
	now := time.Hour
	o := Observation{Model: "m", Worker: workerID(1), Streamed: true, TTFT: time.Second, Total: time.Minute, Out: 100}
	s.Observe(now, &o)
	if n := testing.AllocsPerRun(1000, func() {
		now += 10 * time.Second
		s.Observe(now, &o)
		s.Failed(now, o.Model, o.Worker)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	s := NewStats()
	o := Observation{Model: "m", Worker: workerID(1), Streamed: true, TTFT: time.Second, Total: time.Minute, Out: 100}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Observe(time.Hour, &o)
		}
	})
}

func BenchmarkModel(b *testing.B) {
	for _, workers := range []int{1, WorkersMax} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			s := NewStats()
			for i := range workers {
				s.Observe(0, &Observation{Model: "m", Worker: workerID(i), Streamed: true, TTFT: time.Second, Total: time.Minute, Out: 100})
			}
			for b.Loop() {
				s.Model(0, "m")
			}
		})
	}
}
