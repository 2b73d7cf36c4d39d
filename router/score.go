package router

import (
	"math"
	"time"
)

// Weight is what one sort of caller cares about. The score of an endpoint is, lower is better,
//
//	J = [Price * P/P_ref * dearer + Second * (First*ttft + decode + Imposed*imposed + Anew*anew)] / (1 - failures)^1.5
//
//	ttft    = base + wait + (queued + new) / rate
//	decode  = out * step * (1 + slope*(beside+1))
//	imposed = beside * (new/rate + out*step*slope/2)          seconds that it costs the others there
//	anew    = new / typical rate                              seconds of some machine, and of what its cache held
//	P       = new*in + cached*cached_price + out*out_price    P_ref: the same at the market's median prices
//	dearer  = what it bills for the mean request, by what that would be if it billed cached tokens as the median worker does
//
// wait is for prompts before it, and for a slot, beside the requests that run there. anew is what keeps conversations where they are: a prompt that
// is read a second time elsewhere costs its place in a second cache, and whoever had that place reads anew in turn. Under
// load that decides between two states that both last, one with warm caches and one without.
type Weight struct {
	// Price weighs the price, in units of what the median worker asks for the same.
	Price float64
	// Second is what a second is worth in those units; First multiplies those before the first token, Imposed those that
	// others wait longer, Anew those that it takes to read what another worker may have.
	Second, First, Imposed, Anew float64
	// Room is the share of a worker's capacity that the sort may use: when workers are full those that pay least are sent
	// away first.
	Room float64
}

// Weights has one Weight for each Sort.
type Weights [sorts]Weight

// DefaultWeights are those that the simulator was tuned with: see docs/routing.md.
func DefaultWeights() Weights {
	return Weights{
		Balanced:   {Price: 1, Second: 1.4, First: 3, Imposed: 3, Anew: 50, Room: 0.95},
		Price:      {Price: 1, Second: 0.05, First: 10, Imposed: 3, Anew: 50, Room: 0.8},
		Throughput: {Price: 0.001, Second: 0.7, First: 3, Imposed: 3, Anew: 50, Room: 1},
		Latency:    {Price: 0.001, Second: 0.7, First: 10, Imposed: 3, Anew: 50, Room: 1},
	}
}

const (
	// rankStep is above any score: who has a worse rank comes after all with a better one.
	rankStep = 1e9
	// homeWarm is how much of a conversation's history its home is taken to have, and homeDraw what a new conversation's
	// score is multiplied by there: it is where other gateways will look for it.
	homeWarm = 0.8
	homeDraw = 0.97
	// fair is how many times what its speed is worth a worker may ask before the rest counts as a premium, and premiumPart how
	// much of the premium multiplies the score: so much that asking 1.5 times what equals ask earns less than asking the same.
	fair        = 1.1
	premiumPart = 0.5
)

// query is one pick's question, the same for all endpoints.
type query struct {
	*Request
	wish    *Wish
	model   *model
	market  *market
	now     time.Duration
	sort    Sort
	weight  Weight
	tokens  float64 // of the prompt, estimated
	out     float64 // of the answer, expected
	service float64 // mean answer's tokens, for those who wait before us
	refer   float64 // what the median asks, nanoTON; 0: all is free
	pricing float64 // what a nanoTON adds to the score
	worth   float64 // tokens a second at the median worker
	anew    float64 // what a token adds to the seconds that is read anew
}

// bid is what an endpoint promises for a request.
type bid struct {
	score  float64
	price  float64 // nanoTON
	part   float64 // of the score, for the price
	wait   float64 // seconds until those before it are read and a slot is free
	ttft   float64 // seconds, the wait among them
	total  float64 // seconds, to the last token
	work   float64 // prompt tokens before and in the request
	cached float64 // tokens
	worth  float64 // what is asked by what the machine's speed is worth, both by the median worker's
}

// reference works out what the median worker asks for the request.
func (q *query) reference() {
	q.service = math.Float64frombits(q.model.out.Load())
	q.refer = q.tokens*q.market.in + q.out*q.market.out
	rate, step := unpack(q.model.priors.Load())
	q.anew, q.worth = q.weight.Anew/rate, 1/step
	if q.refer > 0 {
		q.pricing = q.weight.Price / q.refer
	}
}

// bid works out what an endpoint promises, that has so many tokens of the prompt already. It is the hot path's inner
// loop: a few loads and some 40 operations.
func (q *query) bid(e *endpoint, cached float64, b *bid) {
	perToken, step := unpack(e.speed.pace.Load())
	slope, toll := unpack(e.speed.way.Load())
	inflight := float64(e.live.inflight.Load() + e.live.others.Load())
	fresh := q.tokens - cached
	prefill := fresh * perToken
	ahead := float64(e.live.pending.Load() + e.live.ahead.Load())
	b.cached, b.work = cached, ahead+fresh
	beside := inflight
	b.wait = ahead * perToken
	if inflight >= e.slots { // one before us has to end for each that is ahead
		b.wait += (inflight - e.slots + 1) / e.slots * q.service * step * (1 + slope*e.slots)
		beside = e.slots - 1
	}
	b.ttft = math.Float64frombits(e.speed.base.Load()) + b.wait + prefill
	b.price = fresh*e.in + q.out*e.out
	dearer := math.Float64frombits(e.speed.dearer.Load())
	b.worth = e.dear * dearer * min(1, step*q.worth)
	if cached > 0 {
		if e.speed.hides.Load() {
			b.price += cached * e.in
		} else {
			b.price += cached * e.cached
		}
	}
	answer := q.out * step
	decode := answer * (1 + slope*(beside+1))
	b.total = b.ttft + decode
	imposed := beside * (prefill + answer*slope/2)
	seconds := q.weight.First*b.ttft + decode + q.weight.Imposed*imposed + q.anew*fresh
	b.part = q.pricing * b.price * dearer
	b.score = (q.weight.Second*seconds + b.part) * toll
	b.score *= q.over(b.worth)
	if e.live.silent.Load() {
		b.score *= silenceToll
	}
}

// over is what the score is multiplied by for a price that is so many times what the machine's speed is worth: one that is
// twice as fast may ask twice the median. What is asked beyond multiplies, or else conversations would pay any price to stay
// where their prompts are cached.
func (q *query) over(worth float64) float64 {
	if worth <= fair {
		return 1
	}
	return 1 + q.weight.Price*(worth/fair-1)*premiumPart
}

// rank puts endpoints behind all others: 0 is the best.
func (q *query) rank(e *endpoint, b *bid) (rank float64) {
	if e.live.inflight.Load()+e.live.others.Load() >= e.live.soft.Load() {
		rank++
	}
	if int64(q.tokens+q.out) > e.context {
		rank++
	}
	if q.Needs&featuresHard&^e.features != 0 {
		rank++
	}
	if q.wish == nil {
		return rank
	}
	if len(q.wish.Order) > 0 { // each step of the caller's order weighs more than all else
		at := place(q.wish.Order, e.worker.id, e.worker.name)
		if at < 0 {
			at = len(q.wish.Order)
		}
		rank += 8 * float64(at)
	}
	if q.wish.MaxLatency > 0 && b.ttft > q.wish.MaxLatency.Seconds() {
		rank++
	}
	if q.wish.MinThroughput > 0 && b.total-b.ttft > q.out/q.wish.MinThroughput {
		rank++
	}
	return rank
}
