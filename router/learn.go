package router

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// What is learned is learned from what the gateway measures itself: a worker's own word on its speed counts for nothing.
const (
	// fadeAfter is the time after which an e-th of a sample's weight remains.
	fadeAfter = 15 * time.Second
	// A quotient moves at once to the last moments when these differ from it by turnFactor for turnAfter: a GPU that another
	// tenant shares is several times slower from one moment to the next.
	turnAfter  = 1500 * time.Millisecond
	turnFactor = 2.0
	// failKeep is what remains of failures with each request, failFade the time after which an e-th remains.
	failKeep = 0.97
	failFade = 30 * time.Second
	// enough is how many samples a quotient needs before others are compared with it.
	enough = 5

	// What a table begins with, before anything was measured.
	firstRate  = 4000.0 // prompt tokens a second
	firstStep  = 0.02   // seconds a token
	firstBase  = 0.05   // seconds before anything is read
	firstSlope = 0.03   // by how much a request beside it slows another down
	// slopeMax is that of an engine that serves one request after the other's token, and slopeMin of one that hardly minds.
	slopeMin, slopeMax = 0.002, 2.0
	// ridge holds the slope to firstSlope until samples at different loads weigh more, in tokens; slopeKeep is what remains of
	// it with each sample. Reading prompts slows streams down too, and comes with load: it must not pass for the slope.
	ridge     = 100_000
	slopeKeep = 0.998
	// fitKeep is what remains of what is known of first tokens with each sample, fitRidge holds the rate to the prior's, as
	// much as ten samples that differ by 1,000 tokens, and fitRange bounds it to so many times as fast.
	fitKeep  = 0.97
	fitRidge = 10 * 1000 * 1000
	fitRange = 20
	// ages are the classes of how old blocks are in a worker's cache: each is twice as old as the one before.
	ages = 14
	// hitWeight is how much it takes to learn that promised blocks are gone, tokens.
	hitWeight = 500
	// warmMost bounds how much more than promised may be found: the answer of the turn before is in the cache too, and the
	// last block that is not whole.
	warmMost = 1.5
)

// quotient is a ratio of two sums that fade with time. It is right where a mean of ratios is not: a long prompt says more
// than a short one.
type quotient struct {
	num, den   float64
	with       float64 // den times the load that each sample came with
	recent     [3]float64
	at, astray time.Duration // of the last sample; since when the last moments differ, 0: they don't
	samples    int
}

// begin sets what is taken for true before there are samples; it weighs as much as one of this size.
func (q *quotient) begin(num, den float64) {
	*q = quotient{num: num, den: den, recent: [3]float64{num, den}}
}

// add takes a sample in, that came with a load. It is true when the quotient has turned: what was known before is void.
func (q *quotient) add(now time.Duration, num, den, load float64) (turned bool) {
	gap := float64(max(now-q.at, 0))
	q.at = now
	q.samples++
	k, r := math.Exp(-gap/float64(fadeAfter)), math.Exp(-gap/float64(turnAfter))
	q.num, q.den, q.with = q.num*k+num, q.den*k+den, q.with*k+den*load
	q.recent = [3]float64{q.recent[0]*r + num, q.recent[1]*r + den, q.recent[2]*r + den*load}
	if ratio := q.recent[0] / q.recent[1] / q.value(); ratio < turnFactor && ratio > 1/turnFactor {
		q.astray = 0
		return false
	}
	if q.astray == 0 {
		q.astray = now
	}
	if now-q.astray < turnAfter {
		return false
	}
	q.num, q.den, q.with, q.astray = q.recent[0], q.recent[1], q.recent[2], 0
	return true
}

func (q *quotient) value() float64 { return q.num / q.den }

// speed is what is learned of one model on one machine.
type speed struct {
	// What every pick reads: pairs of float32 in one word each.
	pace atomic.Uint64       // seconds a token of the prompt, and of the answer
	way  atomic.Uint64       // slope; toll, what failures multiply the score by
	base atomic.Uint64       // float64: seconds before anything is read, the way there and back among them
	open atomic.Int64        // the breaker: 0 closed, else open until then (time.Duration)
	warm [ages]atomic.Uint64 // float64: how much of what the prefix index promises is found, by its age
	old  atomic.Bool         // few or no fresh samples
	// hides tells that its engine has prompts cached, by the times that it takes, and never says so: they are billed in full.
	hides atomic.Bool
	// dearer is a float64: what it bills for the mean request by what that would be if cached tokens were billed as usual.
	dearer atomic.Uint64
	// limit is the capacity to go by, requests on the machine.
	limit atomic.Int64

	holder uint32 // its number in the prefix index
	demand demand

	mu   sync.Mutex // of what follows; a request's samples, never a pick's
	rate quotient   // seconds by prompt tokens: only to notice that the machine is another one now
	fit  fit        // seconds to the first token over prompt tokens
	cold fit        // the same of prompts alone that nothing was promised of: how much of them was read is certain
	step quotient   // seconds by tokens of an answer
	line line       // the same over requests beside it
	hits [ages]quotient
	told bool     // its engine said that tokens were cached, once at least
	bill quotient // tokens that it said were cached by those that were promised
	fail quotient // failures by requests
	trip trip
	room capacity
}

// offers sets the capacity on offer.
func (s *speed) offers(capacity int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.offered = capacity
	s.limit.Store(s.room.limit(s.room.full))
}

// line fits seconds a token over the requests in flight.
type line struct{ w, x, y, xx, xy float64 }

// add takes a sample of so many tokens in.
func (l *line) add(tokens, inflight, perToken float64) {
	l.w = l.w*slopeKeep + tokens
	l.x = l.x*slopeKeep + tokens*inflight
	l.y = l.y*slopeKeep + tokens*perToken
	l.xx = l.xx*slopeKeep + tokens*inflight*inflight
	l.xy = l.xy*slopeKeep + tokens*inflight*perToken
}

// slope is by how much one request more slows a token down, relative to a machine with none.
func (l *line) slope() float64 {
	if l.w == 0 {
		return firstSlope
	}
	x, y := l.x/l.w, l.y/l.w
	prior := firstSlope * y / (1 + firstSlope*x)
	b := (l.xy - l.w*x*y + ridge*prior) / (l.xx - l.w*x*x + ridge)
	a := max(y-b*x, y/(1+slopeMax*(x+1)))
	return min(max(b/a, slopeMin), slopeMax)
}

// fit fits the seconds to a first token over the prompt tokens that are read before it.
type fit struct{ n, x, y, xx, xy, prior float64 }

// add takes a sample in. Its relative error counts, so that one busy moment does not drown the rest.
func (f *fit) add(tokens, seconds float64) {
	w := 1 / (firstBase + seconds)
	f.n = f.n*fitKeep + w
	f.x = f.x*fitKeep + w*tokens
	f.y = f.y*fitKeep + w*seconds
	f.xx = f.xx*fitKeep + w*tokens*tokens
	f.xy = f.xy*fitKeep + w*tokens*seconds
}

// line is the seconds without any token, and those for each.
func (f *fit) line() (base, perToken float64) {
	if f.n == 0 {
		return firstBase, f.prior
	}
	x, y := f.x/f.n, f.y/f.n
	perToken = (f.xy - f.n*x*y + fitRidge*f.prior) / (f.xx - f.n*x*x + fitRidge)
	perToken = max(perToken, f.prior/fitRange)
	if base = y - perToken*x; base > 0 {
		return base, perToken
	}
	return 0, max(y/max(x, 1), f.prior/fitRange)
}

// newSpeed begins with what is typical for the model.
func newSpeed(holder uint32, rate, step float64) *speed {
	s := &speed{holder: holder, room: capacity{learned: math.Inf(1)}}
	s.rate.begin(1000/rate, 1000)
	s.fit.prior, s.cold.prior = 1/rate, 1/rate
	s.step.begin(100*step, 100)
	s.fail.begin(0, 5)
	s.bill.begin(hitWeight, hitWeight)
	for i := range s.hits {
		s.hits[i].begin(hitWeight, hitWeight)
		s.warm[i].Store(math.Float64bits(1))
	}
	s.old.Store(true)
	s.dearer.Store(math.Float64bits(1))
	s.publish()
	return s
}

// firstToken learns from a request whose first token took so long, with work tokens before and in it. Certain is whether none
// of them was taken for cached.
func (s *speed) firstToken(now time.Duration, work, seconds float64, certain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rate.add(now, seconds, max(work, 1), 0) {
		s.fit, s.cold = fit{prior: s.fit.prior}, fit{prior: s.cold.prior}
	}
	s.fit.add(work, seconds)
	if certain {
		s.cold.add(work, seconds)
	}
	s.publish()
}

// saved is how many tokens of a request's work need not have been read, by when its first token came. It is held against
// requests of which all was read: by the predictions, in which what is taken for cached is left out, they would prove
// themselves. NaN is not known.
func (s *speed) saved(work, seconds float64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cold.n == 0 {
		return math.NaN()
	}
	base, perToken := s.cold.line()
	return max(work-max(seconds-base, 0)/perToken, 0)
}

// tokens learns from a stream that made n tokens in so many seconds, with others in flight.
func (s *speed) tokens(now time.Duration, n, seconds, inflight float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.add(n, inflight, seconds/n)
	s.step.add(now, seconds, n, inflight)
	s.publish()
}

// perToken is the seconds a token of an answer takes that has the machine to itself. The caller holds mu.
func (s *speed) perToken() float64 { return s.step.num / (s.step.den + s.line.slope()*s.step.with) }

// ended learns from how a request ended, and whether its worker is to blame. The caller holds mu.
func (s *speed) ended(now time.Duration, failed bool) {
	n := 0.0
	if failed {
		n = 1
	}
	k := failKeep * math.Exp(-float64(max(now-s.fail.at, 0))/float64(failFade))
	s.fail.num, s.fail.den, s.fail.at = s.fail.num*k+n, s.fail.den*k+1, now
}

// found learns how much of a promised prefix the engine had, that was so old, and says what it takes for true. That is what the
// engine told; of one that never told anything what the first token's time says, NaN if that is not known.
func (s *speed) found(now time.Duration, age int, promised, told, timed float64) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bill.add(now, told, promised, 0)
	cached := told
	if s.told = s.told || told > 0; s.told {
		s.hides.Store(false)
	} else if !math.IsNaN(timed) {
		s.hides.Store(true)
		cached = timed
	} else if s.hides.Load() {
		return told // neither its word nor this request says anything
	}
	cached = min(cached, warmMost*promised)
	i := ageOf(age)
	s.hits[i].add(now, cached, promised, 0)
	s.warm[i].Store(math.Float64bits(min(max(s.hits[i].value(), 0), warmMost)))
	return cached
}

// ageOf is the class of an age in blocks.
func ageOf(age int) int { return min(bits.Len(uint(age)>>2), ages-1) }

// settle lets failures fade while nothing is asked of the worker, and says what is known of it. Called from time to time.
func (s *speed) settle(now time.Duration) (rate, step, told float64, sampled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sampled = s.rate.samples >= enough && s.step.samples >= enough
	s.old.Store(s.rate.samples < enough || now-max(s.rate.at, s.step.at) > 2*fadeAfter)
	s.limit.Store(s.room.limit(now))
	s.publishFaded(now)
	_, perToken := s.fit.line()
	if told = s.bill.value(); now-s.bill.at > 2*fadeAfter {
		told = 1 // nobody came back of late: who was thought to bill much gets another chance
	}
	return 1 / perToken, s.perToken(), told, sampled
}

func (s *speed) publish() { s.publishFaded(s.fail.at) }

// publishFaded shows picks what is known. The caller holds mu.
func (s *speed) publishFaded(now time.Duration) {
	base, perToken := s.fit.line()
	s.pace.Store(pack(perToken, s.perToken()))
	s.base.Store(math.Float64bits(base))
	k := math.Exp(-float64(max(now-s.fail.at, 0)) / float64(failFade))
	err := min(s.fail.num*k/(s.fail.den*k+1), 0.98)
	s.way.Store(pack(s.line.slope(), math.Pow(1-err, -1.5)))
}

// pack puts two numbers into a word, so that they are read together.
func pack(a, b float64) uint64 {
	return uint64(math.Float32bits(float32(a)))<<32 | uint64(math.Float32bits(float32(b)))
}

func unpack(w uint64) (a, b float64) {
	return float64(math.Float32frombits(uint32(w >> 32))), float64(math.Float32frombits(uint32(w)))
}
