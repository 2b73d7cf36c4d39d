package sim

import (
	"math"
	"slices"
)

// Attack is what a liar got out of its lie, and what it did to the others' clients.
type Attack struct {
	// Share is the tokens that it made, by the mean of its honest equals; Revenue the same for money. Tries is the part of all
	// attempts that went to it.
	Share, Revenue, Tries float64
	// First99 and End99 are the clients' p99 by what they are without the lie. Failed is the part of requests that broke, Shed
	// of those that nobody took; Cost is the mean request's, by what it is without.
	First99, End99, Failed, Shed, Cost float64
}

// MeanAttack is the mean of several.
func MeanAttack(all []Attack) (m Attack) {
	n := float64(len(all))
	for _, a := range all {
		m.Share += a.Share / n
		m.Revenue += a.Revenue / n
		m.Tries += a.Tries / n
		m.First99 += a.First99 / n
		m.End99 += a.End99 / n
		m.Failed += a.Failed / n
		m.Shed += a.Shed / n
		m.Cost += a.Cost / n
	}
	return m
}

// attackers is how the market of the attacks looks: equal GPUs at equal prices, so that nobody deserves more.
const (
	equals       = 12
	identities   = 8
	attackLoad   = 0.6
	attackTime   = 260.0
	attackBefore = 100.0
)

// AttackConfig is the market in which one of twelve equal workers lies. With two gateways neither knows all that goes on:
// the worker's own word counts for something.
func AttackConfig(seed uint64, capacity float64) Config {
	return Config{
		Seed: seed, Policy: Ours, Workers: equals, Equal: true, Gateways: 2, Spread: true, Seconds: attackTime, Warm: attackBefore,
		Load: LoadAt(seed, capacity, attackLoad),
	}
}

// Attacked runs a market with and without a lie. Capacity is that of twelve equal workers.
func Attacked(lie Lie, seed uint64, capacity float64) (a Attack, err error) {
	c := AttackConfig(seed, capacity)
	honest, err := Run(c)
	if err != nil {
		return a, err
	}
	c.Liars = []Liar{{Worker: 0, Lie: lie, Count: identities}}
	lied, err := Run(c)
	if err != nil {
		return a, err
	}
	var tokens, revenue, won, all float64
	for i, s := range lied.Shares {
		mine := i == 0 || i >= equals // more identities of the same machine come last
		all += float64(s.Won)
		if mine {
			tokens += float64(s.Tokens)
			revenue += s.Revenue
			won += float64(s.Won)
			continue
		}
		a.Share += float64(s.Tokens) / (equals - 1)
		a.Revenue += s.Revenue / (equals - 1)
	}
	a.Share, a.Revenue, a.Tries = tokens/a.Share, revenue/a.Revenue, won/all
	was, is := honest.Summarize(nil), lied.Summarize(nil)
	a.First99, a.End99, a.Cost = is.First99/was.First99, is.Total99/was.Total99, is.Cost/was.Cost
	a.Failed, a.Shed = is.Failed, is.Shed
	return a, nil
}

// The slow-down: at slowAt the busiest of the workers becomes slowFactor times slower. Recovery is looked at in windows.
const (
	SlowAt     = 200.0
	SlowFactor = 6.0
	// SlowGrace is how long the router may take.
	SlowGrace  = 5.0
	SlowWindow = 30.0
)

// Slowed is a market of which one worker becomes slower, or fails in another way: what Slowed's step says.
func Slowed(c Config, s Step) (*Result, error) {
	c.Seconds, c.Warm = SlowAt+2*SlowWindow, SlowAt/2
	c.Script = []Step{s}
	return Run(c)
}

// Busiest is the worker that makes the most tokens.
func (s *Result) Busiest() int32 {
	most := slices.MaxFunc(s.Shares, func(a, b Share) int { return int(a.Tokens - b.Tokens) })
	return int32(slices.IndexFunc(s.Shares, func(a Share) bool { return a == most }))
}

// Window is the p99 of the time to the first token, and of a whole answer, of what came between two moments.
func Window(results []*Result, from, to float64) (first, end float64) {
	var a, b []float64
	for _, r := range results {
		for i := range r.Samples {
			if x := &r.Samples[i]; float64(x.At) >= from && float64(x.At) < to {
				a, b = append(a, float64(x.First)), append(b, float64(x.Total))
			}
		}
	}
	slices.Sort(a)
	slices.Sort(b)
	if len(a) == 0 {
		return math.NaN(), math.NaN()
	}
	return Quantile(a, 0.99), Quantile(b, 0.99)
}
