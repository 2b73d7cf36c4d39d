package router

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// What is learned is learned from what the gateway measures itself: a worker's own word on its speed counts for nothing.
const (
	// keep is what remains of a sum with each sample, and fadeAfter the time after which an e-th remains.
	keep      = 0.97
	fadeAfter = 30 * time.Second
	// A quotient moves at once to the last few samples when turnSamples in a row differ from it by turnFactor: a GPU that
	// another tenant shares is several times slower from one moment to the next.
	turnSamples = 3
	turnFactor  = 2
	recentKeep  = 0.5
	// enough is how many samples a quotient needs before others are compared with it.
	enough = 5
	// setupTokens is what a request costs before its first token beside its prompt, in tokens of prompt.
	setupTokens = 150

	// What a table begins with, before anything was measured.
	firstRate  = 4000.0 // prompt tokens a second
	firstStep  = 0.02   // seconds a token
	firstSlope = 0.03   // by how much a request beside it slows another down
	slopeMax   = 2.0
	// ridge holds the slope to firstSlope until samples at different loads weigh more, in tokens.
	ridge = 400
)

// quotient is a ratio of two sums that fade with each sample and with time. It is right where a mean of ratios is not:
// a long prompt says more than a short one.
type quotient struct {
	num, den       float64
	rnum, rden     float64 // of the last few samples
	at             time.Duration
	samples, turns int
}

// begin sets what is taken for true before there are samples; it weighs as much as one of this size.
func (q *quotient) begin(num, den float64) {
	*q = quotient{num: num, den: den, rnum: num, rden: den}
}

// add takes a sample in. It is true when the quotient has turned: what was known before is void.
func (q *quotient) add(now time.Duration, num, den float64) (turned bool) {
	k := keep * math.Exp(-float64(max(now-q.at, 0))/float64(fadeAfter))
	q.at = now
	q.samples++
	q.num, q.den = q.num*k+num, q.den*k+den
	q.rnum, q.rden = q.rnum*recentKeep+num, q.rden*recentKeep+den
	if sample, mean := num/den, q.value(); sample < mean*turnFactor && sample > mean/turnFactor {
		q.turns = 0
		return false
	}
	if q.turns++; q.turns < turnSamples {
		return false
	}
	q.num, q.den, q.turns = q.rnum, q.rden, 0
	return true
}

func (q *quotient) value() float64 { return q.num / q.den }

// speed is what is learned of one model on one machine.
type speed struct {
	// What every pick reads: pairs of float32 in one word each.
	pace atomic.Uint64 // seconds a token of the prompt, and of the answer
	way  atomic.Uint64 // slope; toll, what failures multiply the score by
	warm atomic.Uint64 // float64: how much of what the prefix index promises is found
	open atomic.Int64  // the breaker: 0 closed, else open until then (time.Duration)
	old  atomic.Bool   // few or no fresh samples

	model  string
	holder uint32 // its number in the prefix index

	demand demand

	mu   sync.Mutex // of what follows; a request's samples, never a pick's
	rate quotient   // prompt tokens by seconds
	step quotient   // seconds by tokens, each weighed with 1 + slope * requests beside it
	hits quotient   // tokens found by tokens promised
	fail quotient   // failures by requests
	line line
	trip trip
}

// line fits seconds a token over the requests in flight.
type line struct{ w, x, y, xx, xy float64 }

// add takes a sample of so many tokens in.
func (l *line) add(tokens, inflight, perToken float64) {
	const k = 0.99
	l.w = l.w*k + tokens
	l.x = l.x*k + tokens*inflight
	l.y = l.y*k + tokens*perToken
	l.xx = l.xx*k + tokens*inflight*inflight
	l.xy = l.xy*k + tokens*inflight*perToken
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
	return min(max(b/a, 0.002), slopeMax)
}

// newSpeed begins with what is typical for the model.
func newSpeed(model string, holder uint32, rate, step float64) *speed {
	s := &speed{model: model, holder: holder}
	s.rate.begin(1000, 1000/rate)
	s.step.begin(100*step, 100)
	s.hits.begin(1, 1)
	s.fail.begin(0, 5)
	s.warm.Store(math.Float64bits(1))
	s.old.Store(true)
	s.publish()
	return s
}

// firstToken learns from a request whose first token took so long, with work tokens before and in it.
func (s *speed) firstToken(now time.Duration, work, seconds float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate.add(now, work, max(seconds, 1e-4))
	s.publish()
}

// tokens learns from a stream that made n tokens in so many seconds, with others in flight.
func (s *speed) tokens(now time.Duration, n, seconds, inflight float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line.add(n, inflight, seconds/n)
	if s.step.add(now, seconds, n*(1+s.line.slope()*inflight)) {
		s.line = line{}
	}
	s.publish()
}

// ended learns from how a request ended, and whether its worker is to blame.
func (s *speed) ended(now time.Duration, failed bool) {
	n := 0.0
	if failed {
		n = 1
	}
	k := keep * math.Exp(-float64(max(now-s.fail.at, 0))/float64(fadeAfter))
	s.fail.num, s.fail.den, s.fail.at = s.fail.num*k+n, s.fail.den*k+1, now
}

// found learns how much of a promised prefix the engine had.
func (s *speed) found(now time.Duration, promised, cached float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits.add(now, min(cached, promised), promised)
	s.warm.Store(math.Float64bits(min(max(s.hits.value(), 0), 1)))
}

// settle lets failures fade while nothing is asked of the worker. Called from time to time.
func (s *speed) settle(now time.Duration) (rate, step float64, sampled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sampled = s.rate.samples >= enough && s.step.samples >= enough
	s.old.Store(!sampled || now-s.rate.at > fadeAfter)
	s.publishFaded(now)
	return s.rate.value(), s.step.value(), sampled
}

func (s *speed) publish() { s.publishFaded(s.fail.at) }

// publishFaded shows picks what is known. The caller holds mu.
func (s *speed) publishFaded(now time.Duration) {
	s.pace.Store(pack(1/s.rate.value(), s.step.value()))
	k := math.Exp(-float64(max(now-s.fail.at, 0)) / float64(fadeAfter))
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
