package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// seeds is how many runs each assertion is the mean of.
const seeds = 5

// market is the one of the tests: small, so that the race detector gets through it.
func market(seed uint64) Config { return Config{Seed: seed, Workers: 16, Seconds: 240, Warm: 100} }

// capacities are what the tests' markets make at most, measured once.
var capacities struct {
	sync.Mutex
	known map[capacityKey]float64
}

// capacityKey is what a capacity depends on.
type capacityKey struct {
	seed    uint64
	workers int
	equal   bool
}

func capacityOf(t testing.TB, c Config) float64 {
	t.Helper()
	capacities.Lock()
	defer capacities.Unlock()
	key := capacityKey{c.Seed, c.Workers, c.Equal}
	if x := capacities.known[key]; x > 0 {
		return x
	}
	x, err := Capacity(c)
	if err != nil {
		t.Fatal(err)
	}
	if capacities.known == nil {
		capacities.known = map[capacityKey]float64{}
	}
	capacities.known[key] = x
	return x
}

// runs are a policy's runs at a load, one for each seed.
func runs(t testing.TB, policy string, load float64) []*Result {
	t.Helper()
	return runsOf(t, policy, load, market(0).Workers)
}

// runsOf are those of a market of so many workers.
func runsOf(t testing.TB, policy string, load float64, workers int) []*Result {
	t.Helper()
	var all []*Result
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Workers = workers
		c.Policy = policy
		c.Load = LoadAt(c.Seed, capacityOf(t, c), load)
		r, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func summaries(all []*Result) (s []Summary) {
	for _, r := range all {
		s = append(s, r.Summarize(nil))
	}
	return s
}

func long(t *testing.T) {
	t.Helper()
	if testing.Short() || raced {
		t.Skip("runs markets for many simulated minutes: go test ./router/sim does")
	}
}

// TestMustHold compares with the policies of others at 60 % of the capacity of a market of 32; make sim does at more loads, with
// more workers. In a market of a dozen the router finds less that is cheap: docs/routing.md has the figures.
func TestMustHold(t *testing.T) {
	long(t)
	means := map[string]Summary{}
	for _, name := range append([]string{Ours, OursFloor, OursNitro}, Others()...) {
		means[name] = Mean(summaries(runsOf(t, name, 0.6, 32)))
		s := means[name]
		t.Logf("%-24s TTFT %.3f %.2f, end %.2f %.1f, cost %.3f, hit %.2f, J %.2f", name, s.First50, s.First99, s.Total50, s.Total99,
			s.Cost, s.Hit, s.J)
	}
	for _, v := range Judge(func(policy string) Summary { return means[policy] }) {
		if !v.Holds() {
			t.Errorf("%s: %.2f, at most %.2f", v.Name, v.Value, v.Limit)
		}
	}
}

// overload is the load at which clients ask for a fifth more than there is: who waits longer asks less often.
const overload = 1.6

// TestOverload: with more requests than fit, as many are answered in time as with just enough.
func TestOverload(t *testing.T) {
	long(t)
	good, asked, capacity, shed := 0.0, 0.0, 0.0, 0.0
	for _, r := range runs(t, Ours, overload) {
		good += r.Goodput
		asked += r.Demanded
		capacity += capacityOf(t, r.Config)
		shed += float64(r.Shed) / float64(r.Offered) / seeds
	}
	t.Logf("asked for %.1f %% of the capacity, goodput %.1f %%, %.1f %% of the requests shed", 100*asked/capacity, 100*good/capacity,
		100*shed)
	if asked < 1.15*capacity {
		t.Errorf("only %.1f %% of the capacity was asked for", 100*asked/capacity)
	}
	if good < 0.95*capacity {
		t.Errorf("goodput at 120 %% load is %.1f %% of the capacity, want 95 %%", 100*good/capacity)
	}
}

// recovery runs a market in which something happens to the busiest worker. From five seconds after on p99 must be about
// what it is in a market to which that happened long ago: with less to go round, it can't be what it was.
func recovery(t *testing.T, act Act) (all []*Result) {
	t.Helper()
	long(t)
	var settled []*Result
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Policy = Ours
		c.Load = LoadAt(c.Seed, capacityOf(t, c), 0.5)
		plain, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []float64{SlowAt, SlowAt - 150} {
			r, err := Slowed(c, Step{At: at, Act: act, Worker: plain.Busiest(), Factor: SlowFactor})
			if err != nil {
				t.Fatal(err)
			}
			if at == SlowAt {
				all = append(all, r)
			} else {
				settled = append(settled, r)
			}
		}
	}
	firstBefore, endBefore := Window(all, SlowAt-2*SlowWindow, SlowAt)
	firstIn, endIn := Window(all, SlowAt, SlowAt+SlowGrace)
	first, end := Window(all, SlowAt+SlowGrace, SlowAt+SlowGrace+SlowWindow)
	firstLong, endLong := Window(settled, SlowAt+SlowGrace, SlowAt+SlowGrace+SlowWindow)
	t.Logf("p99 before, in the first five seconds, then, and long after: TTFT %.2f %.2f %.2f %.2f, end %.1f %.1f %.1f %.1f",
		firstBefore, firstIn, first, firstLong, endBefore, endIn, end, endLong)
	if first > recoveryLimit*firstLong {
		t.Errorf("TTFT p99 is %.2f s five seconds later, %.2f s when it happened long ago", first, firstLong)
	}
	if end > wholeLimit*endLong {
		t.Errorf("p99 of whole answers is %.1f s five seconds later, %.1f s when it happened long ago", end, endLong)
	}
	return all
}

// recoveryLimit is the noise of a p99 of half a minute in five runs.
const recoveryLimit = 1.25

// wholeLimit is that of whole answers: the longest few of some two thousand decide.
const wholeLimit = 1.4

func TestSlowWorker(t *testing.T) { recovery(t, ActSlow) }

// failures is the part of the requests that broke.
func failures(all []*Result) float64 {
	failed, offered := 0, 0
	for _, r := range all {
		failed += r.Failed
		offered += r.Offered
	}
	return float64(failed) / float64(offered)
}

// What was streaming when a worker broke is lost; nothing else may be.
const lostLimit = 0.01

func TestWorkerFails(t *testing.T) {
	if f := failures(recovery(t, ActFail)); f > lostLimit {
		t.Errorf("%.2f %% of the requests broke", 100*f)
	}
}

func TestWorkerHangs(t *testing.T) {
	if f := failures(recovery(t, ActHang)); f > lostLimit {
		t.Errorf("%.2f %% of the requests broke", 100*f)
	}
}

func TestWorkerStartsFailingFast(t *testing.T) {
	if f := failures(recovery(t, ActFailFast)); f > lostLimit {
		t.Errorf("%.2f %% of the requests broke", 100*f)
	}
}

// attacked is the mean over the seeds of what a liar gets.
func attacked(t *testing.T, lie Lie) (mean Attack) {
	t.Helper()
	long(t)
	var all []Attack
	for seed := range uint64(seeds) {
		capacity := capacityOf(t, Config{Seed: 1, Workers: equals, Equal: true})
		a, err := Attacked(lie, seed+1, capacity)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	mean = MeanAttack(all)
	t.Logf("the liar made %.2f times its equals' tokens, %.2f their money, got %.3f of the attempts; clients: TTFT p99 x %.2f, "+
		"end p99 x %.2f, cost x %.2f, %.4f failed, %.4f shed", mean.Share, mean.Revenue, mean.Tries, mean.First99,
		mean.End99, mean.Cost,
		mean.Failed, mean.Shed)
	return mean
}

// What a lie may bring and do: the noise between equal workers.
const (
	gainLimit   = 1.25
	harmLimit   = 1.25
	failedLimit = 0.002
)

func checkAttack(t *testing.T, a Attack) {
	t.Helper()
	if a.Share > gainLimit || a.Revenue > gainLimit {
		t.Errorf("the lie pays: %.2f times the tokens, %.2f the money", a.Share, a.Revenue)
	}
	if a.First99 > harmLimit || a.End99 > harmLimit {
		t.Errorf("the lie harms others' clients: TTFT p99 x %.2f, whole answers x %.2f", a.First99, a.End99)
	}
	if a.Failed > failedLimit {
		t.Errorf("%.2f %% of the requests broke", 100*a.Failed)
	}
}

func TestLiarLoad(t *testing.T) { checkAttack(t, attacked(t, LieLoad)) }

func TestLiarCapacity(t *testing.T) { checkAttack(t, attacked(t, LieCapacity)) }

func TestManyIdentities(t *testing.T) { checkAttack(t, attacked(t, LieIdentities)) }

// TestFailFast: a worker that answers everything with an error at once looks fast and idle. It gets probes only.
func TestFailFast(t *testing.T) {
	a := attacked(t, LieFailFast)
	checkAttack(t, a)
	if a.Tries > 0.01 {
		t.Errorf("%.1f %% of the attempts went to a worker that only fails", 100*a.Tries)
	}
}

// TestBaitAndSwitch: a worker that raises its price as soon as it has won is paid what it asked when it won. So it earns
// no more than with one of its prices, and its clients pay no more.
func TestBaitAndSwitch(t *testing.T) {
	dear, bait := attacked(t, LieNoneButDear), attacked(t, LieBait)
	if most := max(1, dear.Revenue); bait.Revenue > 1.1*most {
		t.Errorf("the bait earns %.2f times what its equals earn; an honest worker at its higher price %.2f",
			bait.Revenue, dear.Revenue)
	}
	if most := max(1, dear.Cost); bait.Cost > 1.02*most {
		t.Errorf("the bait costs clients %.2f times as much, an honest worker at its higher price %.2f", bait.Cost, dear.Cost)
	}
	if bait.First99 > harmLimit || bait.End99 > harmLimit || bait.Failed > 0 {
		t.Errorf("the bait harms clients: TTFT p99 x %.2f, end p99 x %.2f, %.4f failed", bait.First99, bait.End99, bait.Failed)
	}
}

// TestOverchargingDoesNotPay: who asks more than its equals gets so much less that it earns less, also from conversations
// whose prompts it has.
func TestOverchargingDoesNotPay(t *testing.T) {
	long(t)
	const greedy = 5
	earned := func(factor float64) (sum float64) {
		for seed := range uint64(seeds) {
			c := market(seed + 1)
			c.Equal, c.Policy = true, Ours
			c.Load = LoadAt(c.Seed, capacityOf(t, Config{Seed: 1, Workers: c.Workers, Equal: true}), 0.6)
			c.Script = []Step{{At: c.Warm / 2, Act: ActAsk, Worker: greedy, Factor: factor}}
			r, err := Run(c)
			if err != nil {
				t.Fatal(err)
			}
			sum += r.Shares[greedy].Revenue
		}
		return sum
	}
	fair := earned(1)
	for _, factor := range []float64{1.25, 1.5, 2, 3, 5} {
		e := earned(factor)
		t.Logf("asking %.2f times as much earns %.2f times as much", factor, e/fair)
		if most := map[bool]float64{true: 1.2, false: 1}[factor < 1.5]; e > most*fair {
			t.Errorf("asking %.2f times as much earns %.2f times as much", factor, e/fair)
		}
	}
}

// TestHidingDoesNotPay: who does not tell what it had cached, so that it is billed as if it had been read, earns no more than
// who tells; nor does who asks as much for cached tokens as for others.
func TestHidingDoesNotPay(t *testing.T) {
	long(t)
	const liar = 5
	earned := func(lies ...Lie) (sum float64) {
		for seed := range uint64(seeds) {
			c := market(seed + 1)
			c.Equal, c.Policy = true, Ours
			c.Load = LoadAt(c.Seed, capacityOf(t, Config{Seed: 1, Workers: c.Workers, Equal: true}), 0.6)
			for _, l := range lies {
				c.Liars = append(c.Liars, Liar{Worker: liar, Lie: l})
			}
			r, err := Run(c)
			if err != nil {
				t.Fatal(err)
			}
			sum += r.Shares[liar].Revenue
		}
		return sum
	}
	fair := earned()
	for name, lie := range map[string]Lie{
		"tells of no cached token": LieCached, "tells of half": LieCachedHalf, "asks the full price for them": LieNoneButFull,
	} {
		e := earned(lie)
		t.Logf("who %s earns %.2f times as much", name, e/fair)
		if e > gainLimit*fair {
			t.Errorf("who %s earns %.2f times as much", name, e/fair)
		}
	}
}

// engines runs markets whose engines are not as others.
func engines(t *testing.T, change func(*Config)) Summary {
	t.Helper()
	var all []Summary
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Load = LoadAt(c.Seed, capacityOf(t, c), 0.6)
		change(&c)
		r, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r.Summarize(nil))
	}
	return Mean(all)
}

// TestMuteEngines: where no engine tells what it had cached, conversations stay where their prompts are as they do elsewhere.
func TestMuteEngines(t *testing.T) {
	long(t)
	tell := engines(t, func(*Config) {})
	mute := engines(t, func(c *Config) { c.Mute = true })
	t.Logf("cached %.2f of the prompts, %.2f where engines don't tell; end p50 %.2f and %.2f, TTFT p99 %.2f and %.2f", tell.Hit, mute.Hit,
		tell.Total50, mute.Total50, tell.First99, mute.First99)
	if mute.Hit < 0.95*tell.Hit || mute.Total50 > 1.1*tell.Total50 || mute.First99 > 1.25*tell.First99 {
		t.Error("engines that don't tell what they have cached are served worse")
	}
}

// TestCachelessEngines: of engines that keep no prompts none is expected, so that it costs no detours to go back to them.
func TestCachelessEngines(t *testing.T) {
	long(t)
	lazy := func(c *Config) { c.Uncached, c.Load = true, c.Load/2 }
	s, best := engines(t, lazy), engines(t, func(c *Config) { lazy(c); c.Policy = LMetricRate })
	t.Logf("expected to be cached: %.3f of the prompts; J %.2f, of LMetric / rate %.2f", s.Promised, s.J, best.J)
	if s.Promised > 0.25 { // the noise of first tokens
		t.Errorf("%.2f of the prompts are still taken for cached", s.Promised)
	}
	if s.J > best.J {
		t.Errorf("J is %.2f, of LMetric / rate %.2f", s.J, best.J)
	}
}

// TestEqualsShare: of workers that are equal none starves.
func TestEqualsShare(t *testing.T) {
	long(t)
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Equal, c.Seconds = true, 600
		c.Load = LoadAt(c.Seed, capacityOf(t, Config{Seed: 1, Workers: c.Workers, Equal: true}), 0.3)
		r, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		if s := r.Summarize(nil); s.Jain < 0.9 || s.Starved > 0 {
			t.Errorf("seed %d: Jain's index %.2f, %.0f %% starve", seed+1, s.Jain, 100*s.Starved)
		}
	}
}

// TestJoin: a new worker gets its share soon, and clients don't notice.
func TestJoin(t *testing.T) {
	long(t)
	share := 0.0
	var with []*Result
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Equal = true
		c.Load = LoadAt(c.Seed, capacityOf(t, Config{Seed: 1, Workers: c.Workers, Equal: true}), 0.6)
		c.Script = []Step{{At: c.Warm - 30, Act: ActJoin, Worker: 3}}
		r, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		with = append(with, r)
		others := 0.0
		for i, s := range r.Shares {
			if i != 3 {
				others += float64(s.Tokens) / float64(len(r.Shares)-1)
			}
		}
		share += float64(r.Shares[3].Tokens) / others / seeds
	}
	t.Logf("from 30 s after it came a new worker made %.2f times its equals' tokens", share)
	if share < 0.7 {
		t.Errorf("a new worker gets %.2f of its equals' share", share)
	}
	if f := failures(with); f > 0 {
		t.Errorf("%.3f of the requests broke", f)
	}
}

// TestManyGateways: four gateways with a quarter of the tenants each, and nothing in common but the workers' reports, do
// about as well as one.
func TestManyGateways(t *testing.T) {
	long(t)
	var one, pinned, spread []Summary
	for seed := range uint64(seeds) {
		c := market(seed + 1)
		c.Load = LoadAt(c.Seed, capacityOf(t, c), 0.6)
		for _, m := range []struct {
			gateways int
			spread   bool
			to       *[]Summary
		}{{1, false, &one}, {4, false, &pinned}, {4, true, &spread}} {
			c.Gateways, c.Spread = m.gateways, m.spread
			r, err := Run(c)
			if err != nil {
				t.Fatal(err)
			}
			*m.to = append(*m.to, r.Summarize(nil))
		}
	}
	a, b, s := Mean(one), Mean(pinned), Mean(spread)
	t.Logf("one, four with tenants pinned, four without: TTFT p99 %.2f %.2f %.2f, end p50 %.2f %.2f %.2f, hits %.2f %.2f %.2f",
		a.First99, b.First99, s.First99, a.Total50, b.Total50, s.Total50, a.Hit, b.Hit, s.Hit)
	if b.First99 > 1.5*a.First99 || b.Total50 > 1.2*a.Total50 || b.Hit < 0.9*a.Hit {
		t.Errorf("four gateways do worse: TTFT p99 %.2f, was %.2f; end p50 %.2f, was %.2f; hits %.2f, was %.2f", b.First99, a.First99,
			b.Total50, a.Total50, b.Hit, a.Hit)
	}
}

// TestDrain: a worker that drains finishes what it has and gets nothing new.
func TestDrain(t *testing.T) {
	c := market(1)
	c.Seconds, c.Warm, c.Load = 100, 10, 5
	plain, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	busiest := plain.Busiest()
	c.Script = []Step{{At: 40, Act: ActDrain, Worker: busiest}}
	r, err := Run(c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Failed > 0 || r.Shed > 0 {
		t.Errorf("%d requests broke, %d were shed", r.Failed, r.Shed)
	}
	before := 0
	for _, s := range r.Samples {
		switch {
		case s.Worker != busiest:
		case s.At < 40:
			before++
		case s.At > 40.5:
			t.Errorf("a request of second %.1f went to a worker that drains", s.At)
		}
	}
	if before == 0 {
		t.Error("the worker had nothing before it drained")
	}
}

// TestDeterministic: the same seed gives the same run, to the last request.
func TestDeterministic(t *testing.T) {
	for _, policy := range []string{Ours, LMetricRate, P2C, Oracle} {
		c := market(7)
		c.Policy, c.Seconds, c.Warm, c.Load, c.Gateways, c.Spread, c.Mixed = policy, 60, 20, 6, 3, true, true
		a, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Run(c)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Samples) == 0 || !slices.Equal(a.Samples, b.Samples) || !slices.Equal(a.Shares, b.Shares) {
			t.Errorf("%s: two runs of one seed differ (%d and %d requests)", policy, len(a.Samples), len(b.Samples))
		}
	}
}

// TestNothingLeaks: when all sessions are over no lease is left, no engine has work, and all memory is free.
func TestNothingLeaks(t *testing.T) {
	c := market(3)
	c.Policy, c.Seconds, c.Warm, c.Load, c.Gateways, c.Mixed = Ours, 90, 20, 12, 2, true
	c.Script = []Step{
		{At: 30, Act: ActSlow, Worker: 2, Factor: 6},
		{At: 35, Act: ActFail, Worker: 8},
		{At: 40, Act: ActFailFast, Worker: 5},
		{At: 45, Act: ActHang, Worker: 11},
		{At: 50, Act: ActBack, Worker: 8},
		{At: 80, Act: ActBack, Worker: 11},
	}
	c.defaults()
	w, err := newWorld(c)
	if err != nil {
		t.Fatal(err)
	}
	w.until(math.Inf(1))
	for g := range w.gateways {
		if _, n := w.gateways[g].policy.(*ours).table.Workers(); n != 0 {
			t.Errorf("gateway %d: %d leases are left", g, n)
		}
	}
	for i := range w.engines {
		if e := &w.engines[i]; len(e.run) > 0 || e.waiting > 0 || e.used != 0 || e.making != 0 || math.Abs(e.context) > 1e-6 {
			t.Errorf("engine %d: %d run, %d wait, %d tokens of memory, %d make tokens, context %f", i, len(e.run), e.waiting, e.used,
				e.making, e.context)
		}
	}
	if n := len(w.res.Samples); n == 0 || w.res.Failed == 0 {
		t.Errorf("%d requests answered, %d failed: nothing was tried", n, w.res.Failed)
	}
}

// TestEngineSteps compares an engine that takes runs of equal steps at once with one that takes each by itself.
func TestEngineSteps(t *testing.T) {
	type job struct{ at, first, done float64 }
	simulate := func(single bool) []job {
		w := &world{cfg: Config{Gateways: 1}, ways: []float64{0}, res: newResult(Config{})}
		w.engines = []engine{{speed: 0.7, slowdown: 1, slots: 6, kv: 30_000, room: 100, cache: newLRU()}}
		w.workers = make([]worker, 1)
		rng := rand.New(rand.NewPCG(1, 2))
		jobs := make([]job, 200)
		at := 0.0
		for i := range jobs {
			at += rng.ExpFloat64() / 2
			ri, r := w.requests.add()
			*r = request{session: int32(i), group: int32(i), prompt: 100 + int32(rng.IntN(6000)), out: 1 + int32(rng.IntN(400))}
			_, a := w.attempts.add()
			*a = attempt{req: ri}
			jobs[i].at = at
			w.q.push(at, evArrive, int32(i), 0)
		}
		for len(w.q.heap) > 0 {
			e := w.q.pop()
			w.now = e.at
			switch e.kind {
			case evArrive:
				if !w.accept(0, e.who) {
					t.Fatal("no room")
				}
			case evStep:
				if w.engines[0].gen == e.gen {
					w.finish(0)
				}
			case evFirst:
				jobs[e.who].first = w.now
			case evDone:
				jobs[e.who].done = w.now
			}
			if single {
				w.cut(0)
			}
		}
		return jobs
	}
	whole, single := simulate(false), simulate(true)
	for i := range whole {
		if whole[i].done == 0 || math.Abs(whole[i].first-single[i].first) > 1e-6 || math.Abs(whole[i].done-single[i].done) > 1e-6 {
			t.Fatalf("job %d: %+v at once, %+v step by step", i, whole[i], single[i])
		}
	}
}

// TestLRU compares the cache with a list that is searched.
func TestLRU(t *testing.T) {
	type entry struct{ key, tokens int32 }
	rng := rand.New(rand.NewPCG(3, 4))
	l := newLRU()
	var want []entry // the most recent last
	for range 20_000 {
		key, tokens := int32(rng.IntN(50)), 1+int32(rng.IntN(300))
		l.put(key, tokens, 2000, nil)
		want = slices.DeleteFunc(want, func(e entry) bool { return e.key == key })
		want = append(want, entry{key, tokens})
		sum := 0
		for _, e := range want {
			sum += int(e.tokens)
		}
		for ; sum > 2000; want = want[1:] {
			sum -= int(want[0].tokens)
		}
		if sum != l.tokens || len(want) != len(l.at) {
			t.Fatalf("%d tokens of %d keys, want %d of %d", l.tokens, len(l.at), sum, len(want))
		}
		for _, e := range want {
			if l.get(e.key) != e.tokens {
				t.Fatalf("key %d has %d tokens, want %d", e.key, l.get(e.key), e.tokens)
			}
		}
	}
}

// TestUnknownPolicy: a name that is none is an error.
func TestUnknownPolicy(t *testing.T) {
	if _, err := Run(Config{Policy: "by feeling"}); err == nil {
		t.Error("no error")
	}
}

// BenchmarkHour is a simulated hour of 64 workers and 20 requests a second.
func BenchmarkHour(b *testing.B) {
	for _, policy := range []string{Ours, LMetricRate} {
		b.Run(policy, func(b *testing.B) {
			for b.Loop() {
				r, err := Run(Config{Seed: 1, Workers: 64, Policy: policy, Seconds: 3600, Load: 20 / 4.4})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.Offered)/(3600-180), "requests/s")
				b.ReportMetric(float64(r.Events)/r.Took.Seconds(), "events/s")
			}
		})
	}
}

// BenchmarkSizes is a simulated minute of markets of all sizes at a quarter of what they can do.
func BenchmarkSizes(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				r, err := Run(Config{Seed: 1, Workers: n, Policy: Ours, Seconds: 60, Warm: 20, Load: 0.2 * float64(n)})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.Offered)/40, "requests/s")
				b.ReportMetric(float64(r.Took.Nanoseconds())/float64(len(r.Samples)), "ns/request")
			}
		})
	}
}
