package sim

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"cocoon/internal/nanoton"
	"cocoon/router"
	"cocoon/router/offer"
)

// policy is what decides at one gateway. Its calls come in the order in which a gateway makes them.
type policy interface {
	// update: a worker's sheet is new.
	update(w *world, worker int32)
	// tend: a quarter of a second is over.
	tend(w *world)
	pick(w *world, r *request) (choice, error)
	// patience is how long to wait for a first token, seconds.
	patience(a *attempt) float64
	first(w *world, a *attempt)
	progress(w *world, a *attempt)
	release(w *world, a *attempt, o router.Outcome)
}

// choice is a worker that was picked.
type choice struct {
	worker int32
	lease  int32 // the policy's number of it
	price  offer.Price
	first  float64 // the time to the first token that it promises, seconds

	// What ours promised beside that, to be compared with what came: seconds to the last token, tokens that are cached, and
	// tokens of the answer.
	whole, cached, out float64
	// What the policies of others keep: tokens to read, those and all before them, requests there.
	fresh, ahead, beside float64
}

// errBusy means that no worker takes the request.
var errBusy = errors.New("no worker takes the request")

// The policies by name.
const (
	Ours          = "ours"
	OursFloor     = "ours :floor"
	OursNitro     = "ours :nitro"
	Oracle        = "oracle"
	RoundRobin    = "round robin"
	LeastInflight = "least in-flight"
	P2C           = "P2C latency (PeakEWMA)"
	InverseSquare = "inverse-square price"
	LMetric       = "LMetric"
	LMetricRate   = "LMetric / rate"
	LLMD          = "llm-d"
	LowestPrice   = "lowest price"
	LowestLatency = "lowest average latency"
)

// Others are the policies to compare with.
func Others() []string {
	return []string{
		RoundRobin, LeastInflight, P2C, InverseSquare, LMetric, LMetricRate, LLMD, LowestPrice, LowestLatency,
	}
}

// Policies are all of them.
func Policies() []string { return append([]string{Ours, OursFloor, OursNitro, Oracle}, Others()...) }

func newPolicy(w *world, gateway int) (policy, error) {
	switch name := w.cfg.Policy; {
	case name == Ours || name == OursFloor || name == OursNitro:
		return newOurs(w, gateway), nil
	case name == Oracle:
		return &oracle{}, nil
	case slices.Contains(Others(), name):
		b := &baseline{
			name: name, gateway: gateway, views: make([]view, len(w.workers)),
			rng: rand.New(rand.NewPCG(w.cfg.Seed, uint64(gateway)+0x626173)),
		}
		for i := range b.views {
			b.views[i].cache = newLRU()
		}
		return b, nil
	default:
		return nil, fmt.Errorf("no policy %q", name)
	}
}

func amount(n int64) nanoton.Amount { return nanoton.Amount(n) }

// view is what a gateway knows of a worker, for the policies of others: what they are published to keep, and a breaker.
type view struct {
	known, draining bool
	price           offer.Price
	capacity        int32
	inflight        int32
	reported, since int32   // the worker's own count, and what was sent after
	pending         float64 // tokens to read that were sent and have no first token yet
	work, took      float64 // decayed sums: tokens read, seconds
	samples         int
	latency         float64 // peak EWMA of whole answers, seconds
	perToken        float64 // EWMA of seconds a token, first token and all
	firstToken      float64 // EWMA, seconds
	faults          int
	openUntil       float64
	backoff         float64
	cache           lru
}

// Priors and constants of the baselines.
const (
	rateGuess  = 8000.0
	firstGuess = 0.5
	wholeGuess = 5.0
	extraWork  = 150
	faultsMost = 3
	backoffMin = 1.0
	backoffMax = 30.0
)

func (v *view) rate() float64 {
	if v.samples < 3 {
		return rateGuess
	}
	return v.work / v.took
}

// baseline is a policy of somebody else, over what our gateways know too.
type baseline struct {
	name    string
	gateway int
	views   []view
	rng     *rand.Rand
	turn    int
	free    []int32
	scores  []float64
}

func (b *baseline) update(w *world, i int32) {
	v, x := &b.views[i], &w.workers[i]
	o := &x.sheet.Offers[0]
	v.known, v.draining, v.price, v.capacity = true, x.sheet.Draining, o.Price, int32(o.Capacity)
	v.reported, v.since = int32(x.sheet.Load.Running+x.sheet.Load.Queued), 0
}

func (b *baseline) tend(*world) {}

// load is how many requests a worker has: with other gateways its own count matters.
func (b *baseline) load(w *world, v *view) int32 {
	if w.cfg.Gateways > 1 {
		return max(v.inflight, v.reported+v.since)
	}
	return v.inflight
}

// fresh is how many tokens of the prompt a worker has to read, as far as this gateway knows.
func (b *baseline) fresh(v *view, r *request) float64 {
	c := int32(0)
	if v.cache.get(^r.group) > 0 {
		c = r.sys
	}
	if r.hist > 0 {
		c = max(c, min(v.cache.get(r.session), r.hist))
	}
	return float64(r.prompt - c)
}

func (b *baseline) pick(w *world, r *request) (choice, error) {
	b.free = b.free[:0]
	for i := range b.views {
		v := &b.views[i]
		if v.known && !v.draining && v.openUntil <= w.now && b.load(w, v) < v.capacity && !r.wasAt(int32(i)) {
			b.free = append(b.free, int32(i))
		}
	}
	if len(b.free) == 0 {
		return choice{}, errBusy
	}
	i := b.choose(w, r)
	v := &b.views[i]
	c := choice{worker: i, price: v.price, first: v.firstToken, fresh: b.fresh(v, r)}
	if v.firstToken == 0 {
		c.first = firstGuess
	}
	v.inflight++
	v.since++
	v.pending += c.fresh
	c.ahead, c.beside = v.pending, float64(v.inflight)
	room := int(w.engines[w.workers[i].engine].kv)
	v.cache.put(^r.group, r.sys, room, nil)
	v.cache.put(r.session, r.prompt, room, nil)
	return c, nil
}

// choose is the policies themselves.
func (b *baseline) choose(w *world, r *request) int32 {
	switch b.name {
	case RoundRobin:
		b.turn++
		return b.free[b.turn%len(b.free)]
	case P2C:
		x, y := b.free[b.rng.IntN(len(b.free))], b.free[b.rng.IntN(len(b.free))]
		if b.peak(y) < b.peak(x) {
			return y
		}
		return x
	case InverseSquare:
		return b.sample(func(v *view) float64 { return math.Pow(float64(v.price.In+v.price.Out), -2) })
	case LeastInflight:
		return b.least(func(v *view) float64 { return float64(b.load(w, v)) })
	case LMetric:
		return b.least(func(v *view) float64 { return (v.pending + b.fresh(v, r)) * float64(b.load(w, v)+1) })
	case LMetricRate:
		return b.least(func(v *view) float64 { return (v.pending + b.fresh(v, r)) * float64(b.load(w, v)+1) / v.rate() })
	case LowestPrice:
		return b.least(func(v *view) float64 { return float64(v.price.In + v.price.Out) })
	case LowestLatency:
		return b.least(func(v *view) float64 { return v.perToken })
	default:
		return b.llmd(w, r)
	}
}

// peak is what PeakEWMA compares.
func (b *baseline) peak(i int32) float64 {
	v := &b.views[i]
	l := v.latency
	if l == 0 {
		l = wholeGuess
	}
	return l * float64(v.inflight+1)
}

// llmd is llm-d's default: queue 2, KV memory 2, prefix 3. Memory isn't reported here; the batch stands for it.
func (b *baseline) llmd(w *world, r *request) int32 {
	low, high := int32(math.MaxInt32), int32(0)
	for _, i := range b.free {
		n := b.load(w, &b.views[i])
		low, high = min(low, n), max(high, n)
	}
	return b.least(func(v *view) float64 {
		n, queue := b.load(w, v), 1.0
		if high > low {
			queue = float64(high-n) / float64(high-low)
		}
		memory := 1 - float64(n)/float64(v.capacity)
		return -(2*queue + 2*memory + 3*(1-b.fresh(v, r)/float64(r.prompt)))
	})
}

// least is the free worker of the lowest score; equal ones by chance.
func (b *baseline) least(score func(*view) float64) int32 {
	best, low, equal := b.free[0], math.Inf(1), 0
	for _, i := range b.free {
		s := score(&b.views[i])
		if s < low {
			best, low, equal = i, s, 1
		} else if s == low {
			if equal++; b.rng.IntN(equal) == 0 {
				best = i
			}
		}
	}
	return best
}

// sample is a free worker by chance, by weight.
func (b *baseline) sample(weight func(*view) float64) int32 {
	b.scores = b.scores[:0]
	sum := 0.0
	for _, i := range b.free {
		s := weight(&b.views[i])
		b.scores = append(b.scores, s)
		sum += s
	}
	x := b.rng.Float64() * sum
	for k, s := range b.scores {
		if x -= s; x < 0 {
			return b.free[k]
		}
	}
	return b.free[len(b.free)-1]
}

func (b *baseline) patience(a *attempt) float64 {
	v := &b.views[a.worker]
	return max(patienceFactor*v.firstToken, patienceLeast)
}

func (b *baseline) first(w *world, a *attempt) {
	v := &b.views[a.worker]
	v.pending -= a.choice.fresh
	const keep = 0.97
	took := w.now - a.sentAt
	v.work, v.took = v.work*keep+a.choice.ahead+extraWork, v.took*keep+took
	v.samples++
	ewma(&v.firstToken, took, 0.2)
}

func ewma(v *float64, x, part float64) {
	if *v == 0 {
		*v = x
	}
	*v += part * (x - *v)
}

func (b *baseline) progress(*world, *attempt) {}

func (b *baseline) release(w *world, a *attempt, o router.Outcome) {
	v, r := &b.views[a.worker], w.requests.at(a.req)
	v.inflight--
	if a.firstAt == 0 {
		v.pending -= a.choice.fresh
	}
	switch o {
	case router.Served:
		v.faults, v.backoff = 0, 0
		whole := w.now - a.sentAt
		part := 0.2
		if whole > v.latency {
			part = 0.5
		}
		ewma(&v.latency, whole, part)
		ewma(&v.perToken, whole/float64(r.out), 0.2)
		v.cache.put(r.session, r.prompt+r.out, int(w.engines[a.engine].kv), nil)
	case router.WorkerFault, router.WorkerSlow:
		if v.faults++; v.faults >= faultsMost {
			v.backoff = min(max(2*v.backoff, backoffMin), backoffMax)
			v.openUntil, v.faults = w.now+v.backoff, faultsMost-1
		}
	}
}

// oracle knows each engine's queue, cache and speed, and the length of the answer. It takes the least J of now: it does
// not know who comes next.
type oracle struct {
	left []int64
}

// The weights of the measure J, those of the router's default.
const (
	perSecond   = 0.7
	firstWeight = 3.0
)

func (o *oracle) update(*world, int32)                     {}
func (o *oracle) tend(*world)                              {}
func (o *oracle) patience(*attempt) float64                { return math.Inf(1) }
func (o *oracle) first(*world, *attempt)                   {}
func (o *oracle) progress(*world, *attempt)                {}
func (o *oracle) release(*world, *attempt, router.Outcome) {}

func (o *oracle) pick(w *world, r *request) (choice, error) {
	best, low := choice{worker: -1}, math.Inf(1)
	for i := range w.workers {
		x := &w.workers[i]
		e := &w.engines[x.engine]
		if !x.present || x.down || x.failFast || x.draining || e.hung || e.load() >= e.room || r.wasAt(int32(i)) {
			continue
		}
		fresh := float64(max(r.prompt-e.cached(r), 1))
		first, rest, imposed := o.times(w, e, r, fresh)
		first += 2 * w.ways[int(r.gateway)*len(w.workers)+i]
		price := cost(x.price, fresh, float64(r.prompt)-fresh, float64(r.out))
		if j := price/r.reference + perSecond*(firstWeight*first+rest+imposed); j < low {
			low, best = j, choice{worker: int32(i), price: x.price, first: first}
		}
	}
	if best.worker < 0 {
		return best, errBusy
	}
	return best, nil
}

// times are the seconds to the first token, from there to the last, and those that others there lose.
func (o *oracle) times(w *world, e *engine, r *request, fresh float64) (first, rest, imposed float64) {
	speed := e.speed / e.slowdown
	queued := 0.0
	for i := range e.run {
		queued += float64(e.run[i].need-e.run[i].read) * b2f(e.run[i].end == 0)
	}
	for _, a := range e.wait[e.head:] {
		if t := w.attempts.at(a); t.state == atWorker {
			q := w.requests.at(t.req)
			queued += float64(q.prompt - e.cached(q))
		}
	}
	n := float64(min(e.load()+1, e.slots))
	step := (stepBase + float64(e.making)*perRequest + e.context*perContext) / speed
	o.left = e.remaining(o.left[:0])
	if over := int(e.load() + 1 - e.slots); over > 0 {
		k := min(over, len(o.left)) - 1
		first += float64(o.left[k]) * step
		if over > len(o.left) {
			first += float64(over-len(o.left)) * step * outMedian
		}
	}
	reads := (queued + fresh) * perRead / speed
	first += reads + math.Ceil((queued+fresh)/chunk)*step
	if e.busy {
		first += step / 2
	}
	size := float64(r.prompt) + float64(r.out)/2
	rest = float64(r.out) * (stepBase + n*perRequest + (e.context+size)*perContext) / speed
	mine := (perRequest + size*perContext) / speed
	for _, l := range o.left {
		imposed += fresh*perRead/speed + float64(min(l, int64(r.out)))*mine
	}
	imposed += firstWeight * float64(e.waiting) * fresh * perRead / speed
	return first, rest, imposed
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
