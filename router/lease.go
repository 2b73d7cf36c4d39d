package router

import (
	"math"
	"time"

	"cocoon/router/offer"
	"cocoon/router/prefix"
)

// Outcome says how a lease ended. Only a worker's fault speaks against the worker.
type Outcome uint8

// The outcomes of a lease.
const (
	// Served: the worker answered in full, or refused a bad request rightly.
	Served Outcome = iota
	// ClientGone: the client left before the end.
	ClientGone
	// WorkerBusy: the worker said that it takes no more right now.
	WorkerBusy
	// WorkerFault: the worker or its engine broke, lied or fell silent.
	WorkerFault
	// WorkerSlow: it was left at the end of Patience.
	WorkerSlow
	// Unused: nothing was sent to it.
	Unused
	// Outcomes is how many there are.
	Outcomes
)

const (
	// patienceFactor times the expected wait for the first token is how long a worker may take, patienceMin at least; and
	// patienceNew where too little is known to expect anything.
	patienceFactor = 4
	patienceMin    = 2 * time.Second
	patienceNew    = 30 * time.Second
	// sampleMin is the least time, and sampleTokens the fewest tokens, that say something about a stream's speed.
	sampleMin    = 50 * time.Millisecond
	sampleTokens = 4
	// promisedMin is the least promise of cached tokens that is held against what was found.
	promisedMin = 128
)

// Lease is one request's claim on an endpoint. It must be released exactly once, and belongs to one goroutine.
type Lease[W comparable] struct {
	// Handle is the caller's way to the worker.
	Handle W
	Grant
}

// Grant is what a lease says and does, whatever the handle is.
type Grant struct {
	// Worker is the worker's ID, Offer what it sells, and Price what the customer pays, nanoTON per million tokens: whatever
	// the worker asks later, this request is billed at that.
	Worker ID
	Offer  *offer.Offer
	Price  offer.Price
	// Why is why this worker was picked.
	Why Why

	handle   any
	table    *table
	model    *model
	live     *machine
	speed    *speed
	sent     time.Duration
	first    time.Duration // when the first token came; 0: not yet
	last     time.Duration // of the last Progress
	counted  int64         // tokens at last
	work     float64       // prompt tokens before the request and in it, but for those that are taken for cached
	cold     float64       // all of them
	timed    float64       // of its own how many were cached, by the time to the first token; NaN: not known
	fresh    int64         // prompt tokens counted as pending
	ttft     float64
	total    float64
	promised float64 // tokens that the prefix index said were cached, and their age
	age      int
	blocks   []prefix.Block // the request's, and what was noted of them
	mark     prefix.Mark
	tenant   uint64
	bytes    int64
	beside   int64         // requests beside it when it began
	queued   bool          // it had to wait for a slot
	probe    time.Duration // until when others wait for what becomes of it, if it is a probe
}

// Done is what a request came to. Tokens are those of the receipt, or of the engine's usage; In 0: not known.
type Done struct {
	Outcome         Outcome
	In, Cached, Out int64
}

// Patience is how long to wait for the first token before another worker is asked, from when the lease was taken.
func (l *Grant) Patience() time.Duration {
	p := max(patienceMin, seconds(patienceFactor*l.ttft))
	if l.speed.old.Load() {
		p = max(p, patienceNew)
	}
	return p
}

// Expected is when the first token and the whole answer are expected, from when the lease was taken.
func (l *Grant) Expected() (first, whole time.Duration) { return seconds(l.ttft), seconds(l.total) }

// First tells that the first content of the answer came.
func (l *Grant) First(now time.Duration) {
	if l.first != 0 {
		return
	}
	l.first, l.last = now, now
	l.live.pending.Add(-l.fresh)
	l.live.streams.Add(1)
	l.live.heard.Store(int64(now))
	if !l.queued { // else it waited for others' answers, which says nothing of the rate
		took := (now - l.sent).Seconds()
		l.timed = l.speed.saved(l.cold, took)
		l.speed.firstToken(now, l.work, took, l.work == l.cold && l.promised == 0)
	}
}

// Progress tells how many tokens the caller has counted since First. Twice a second is often enough.
func (l *Grant) Progress(now time.Duration, tokens int64) {
	if l.first == 0 {
		return
	}
	n, d := tokens-l.counted, now-l.last
	if n < sampleTokens || d < sampleMin {
		return
	}
	l.counted, l.last = tokens, now
	l.live.heard.Store(int64(now))
	beside := float64(l.live.inflight.Load()+l.live.others.Load()-1) / 2
	l.speed.tokens(now, float64(n)*math.Float64frombits(l.model.words.Load()), d.Seconds(), max(beside+float64(l.beside)/2, 0))
	l.beside = l.live.inflight.Load() - 1
}

// Release ends the lease.
func (l *Grant) Release(now time.Duration, d Done) {
	inflight := l.live.inflight.Add(-1) + 1
	if l.first == 0 {
		l.live.pending.Add(-l.fresh)
	} else {
		l.live.streams.Add(-1)
	}
	if l.first == 0 && d.Outcome != Served && d.Outcome != ClientGone { // nothing says that the prompt was read
		l.table.index.TakeBack(prefix.Holder(l.speed.holder), l.blocks, l.mark)
	}
	l.live.ended(d.Outcome)
	if d.Outcome == Served || d.Outcome == WorkerBusy {
		l.speed.busy(now, d.Outcome, inflight)
	}
	switch d.Outcome {
	case Served:
		l.speed.outcome(now, false)
		l.learn(now, d)
	case WorkerSlow:
		l.speed.firstToken(now, l.work, (now - l.sent).Seconds(), false) // at best
		l.speed.outcome(now, true)
	case WorkerFault:
		l.speed.outcome(now, true)
	default:
		if l.probe != 0 {
			l.speed.unprobed(now, l.probe)
		}
	}
}

// learn takes in what a whole answer tells of the model, and of the worker's cache.
func (l *Grant) learn(now time.Duration, d Done) {
	n := float64(l.model.whole.Add(1) + meanFirst)
	keep := min(meanKeep, (n-1)/n) // the first answers say more than what a model begins with
	if d.Out > 0 {
		if l.first > 0 && l.counted >= sampleTokens {
			fold(&l.model.words, keep, min(max(float64(d.Out)/float64(l.counted), wordsLeast), wordsMost))
		}
		mean := math.Float64frombits(l.model.out.Load())
		l.table.lengths.learn(l.tenant, l.model.seed, float64(d.Out), mean)
		fold(&l.model.out, keep, float64(d.Out))
	}
	if d.In <= 0 || l.bytes <= 0 {
		return
	}
	fold(&l.model.ratio, keep, min(max(float64(l.bytes)/float64(d.In), bytesLeast), bytesMost))
	cached := float64(d.Cached)
	if l.promised >= promisedMin {
		cached = l.speed.found(now, l.age, l.promised, cached, l.timed)
	}
	fold(&l.model.prompt, keep, max(float64(d.In)-cached, 0))
	fold(&l.model.cached, keep, min(max(cached, 0), float64(d.In)))
	if l.first == 0 && d.Out >= sampleTokens { // not streamed: all that is known is when it was whole
		if whole := (now - l.sent).Seconds() - l.ttft; whole > 0 {
			l.speed.tokens(now, float64(d.Out), whole, float64(max(l.beside, 0)))
		}
	}
}
