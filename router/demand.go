package router

import (
	"math"
	"sync/atomic"
	"time"
)

// demandMask samples picks: one in 32, by chance.
const demandMask = 31

// demandSteps are the prices that Demand tells of, parts per million of the present one.
const demandSteps = 14

// steps are those prices, rising.
func steps() [demandSteps]int64 {
	return [demandSteps]int64{
		300_000, 400_000, 500_000, 600_000, 700_000, 800_000, 900_000, 950_000, 1_000_000, 1_050_000, 1_100_000, 1_250_000, 1_500_000, 2_000_000,
	}
}

// DemandWindow is the time that a Demand tells of: between once and twice this.
const DemandWindow = 5 * time.Minute

// demand counts sampled picks in which an endpoint was a candidate.
type demand struct {
	now, before counts
	from        atomic.Int64
}

// counts has in most[i] the picks that would have been won at prices up to that step, and no higher one.
type counts struct {
	considered, won atomic.Int64
	most            [demandSteps]atomic.Int64
}

// Demand is a worker's place in a market. Counts are of a sample, one pick in 32.
type Demand struct {
	Model string
	// Considered counts the requests for which the worker was a candidate, Won those that it got.
	Considered, Won int64
	// At is what it would have got at other prices, all else equal.
	At []PricePoint
	// TTFT is what the gateway predicts for a prompt of 1,000 tokens now, Speed the tokens a second of one stream; Typical* the
	// same of the market's median. Zero: nothing was measured yet.
	TTFT, TypicalTTFT   time.Duration
	Speed, TypicalSpeed float64
}

// PricePoint says how many requests would have been won at a price.
type PricePoint struct {
	// PPM is the price, parts per million of the present one.
	PPM int64
	Won int64
}

// demand counts a pick: for each candidate the highest price at which it would have won.
func (s *scan) demand(place int) {
	rival := [2]float64{s.bids[place].score} // whom others have to beat, and whom the winner had to
	for i := range min(s.best.n, 2) {
		if i != place {
			rival[1] = s.bids[i].score
		}
	}
	winner := s.at(place)
	all := s.market.endpoints
	if len(all) <= scanMax {
		for i := range all {
			s.weigh(int32(i), winner, &s.bids[place], rival)
		}
		return
	}
	for _, at := range s.lookat[:s.nlook] {
		s.weigh(at, winner, &s.bids[place], rival)
	}
}

// weigh counts one candidate, which would have had to beat a rival's score.
func (s *scan) weigh(at int32, winner *endpoint, won *bid, rival [2]float64) {
	e := &s.market.endpoints[at]
	d := &e.speed.demand.now
	if e == winner {
		d.considered.Add(1)
		d.won.Add(1)
		if rival[1] == 0 { // nobody else: any price would have done
			d.most[demandSteps-1].Add(1)
			return
		}
		rival[0] = rival[1]
	} else if reason, out := s.removes(e); out {
		if reason == RemovedPrice {
			d.considered.Add(1)
		}
		return
	} else {
		d.considered.Add(1)
	}
	var b bid
	if s.promise(e, at, &b); e == winner {
		b = *won // before it was claimed
	}
	if s.refer <= 0 || b.price <= 0 || s.weight.Price <= 0 {
		return
	}
	// The score is (part + rest) * toll * over: the highest price is looked for at which it meets the best other one.
	_, toll := unpack(e.speed.way.Load())
	part := b.part * toll
	rest := b.score/s.over(b.worth) - part
	all := steps()
	for i := demandSteps - 1; i >= 0; i-- {
		if f := float64(all[i]) / 1e6; (rest+part*f)*s.over(b.worth*f) <= rival[0] {
			d.most[i].Add(1)
			return
		}
	}
}

// fade begins a new window when the present one is over.
func (d *demand) fade(now time.Duration) {
	if now-time.Duration(d.from.Load()) < DemandWindow {
		return
	}
	d.from.Store(int64(now))
	d.before.considered.Store(d.now.considered.Swap(0))
	d.before.won.Store(d.now.won.Swap(0))
	for i := range d.now.most {
		d.before.most[i].Store(d.now.most[i].Swap(0))
	}
}

// Demand tells a worker's place in the market of each of its models.
func (t *table) Demand(id ID) []Demand {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.workers[id]
	if w == nil {
		return nil
	}
	var list []Demand
	for i := range w.sheet.Offers {
		name := w.sheet.Offers[i].Model
		m, s := (*t.models.Load())[name], w.live.speeds[name]
		if m == nil || s == nil {
			continue
		}
		list = append(list, s.tell(name, m.priors.Load()))
	}
	return list
}

// tell puts a model's demand into words.
func (s *speed) tell(name string, priors uint64) Demand {
	perToken, step := unpack(s.pace.Load())
	usualRate, usualStep := unpack(priors)
	d := Demand{Model: name}
	first, stream := s.measured()
	if first {
		d.TTFT = seconds(typicalIn*perToken + math.Float64frombits(s.base.Load()))
	}
	if stream {
		d.Speed = 1 / step
	}
	if priors != pack(firstRate, firstStep) {
		d.TypicalTTFT, d.TypicalSpeed = seconds(typicalIn/usualRate), 1/usualStep
	}
	sum := int64(0)
	at := steps()
	d.At = make([]PricePoint, demandSteps)
	for i := demandSteps - 1; i >= 0; i-- {
		sum += s.demand.now.most[i].Load() + s.demand.before.most[i].Load()
		d.At[i] = PricePoint{at[i], sum}
	}
	d.Considered = s.demand.now.considered.Load() + s.demand.before.considered.Load()
	d.Won = s.demand.now.won.Load() + s.demand.before.won.Load()
	return d
}

// measured tells whether a first token and a stream were ever timed.
func (s *speed) measured() (first, stream bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rate.samples > 0, s.step.samples > 0
}
