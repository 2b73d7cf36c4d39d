package sim

import "math"

// Verdict is one of the things that must hold: Value is at most Limit.
type Verdict struct {
	Name         string
	Value, Limit float64
}

// Holds tells whether it does.
func (v Verdict) Holds() bool { return v.Value <= v.Limit }

// What must hold against the policies of others, as factors of the best of them.
const (
	endLimit   = 1.05 // whole answers, median and p99
	firstLimit = 1.15 // TTFT p99
	costLimit  = 0.90 // cost, of those whose answers come about as soon
	similar    = 1.15 // that is: median and p99 of whole answers at most so much later
	floorLimit = 1.10 // cost of :floor
	nitroLimit = 1.05 // whole answers of :nitro, median and p99
)

// Judge compares the router with the policies of others at one load; of gives each policy's means over the seeds.
func Judge(of func(policy string) Summary) []Verdict {
	us, floor, nitro := of(Ours), of(OursFloor), of(OursNitro)
	best := func(f func(*Summary) float64) float64 {
		least := math.Inf(1)
		for _, name := range Others() {
			s := of(name)
			least = min(least, f(&s))
		}
		return least
	}
	end50 := best(func(s *Summary) float64 { return s.Total50 })
	end99 := best(func(s *Summary) float64 { return s.Total99 })
	first99 := best(func(s *Summary) float64 { return s.First99 })
	cheapest := best(func(s *Summary) float64 { return s.Cost })
	alike := best(func(s *Summary) float64 {
		if s.Total50 > similar*us.Total50 || s.Total99 > similar*us.Total99 {
			return math.Inf(1)
		}
		return s.Cost
	})
	price := "default: cost by the cheapest other's of similar latency"
	if math.IsInf(alike, 1) {
		price += " (none is)"
	}
	return []Verdict{
		{"default: end-to-end p50 by the best other's", us.Total50 / end50, endLimit},
		{"default: end-to-end p99 by the best other's", us.Total99 / end99, endLimit},
		{"default: TTFT p99 by the best other's", us.First99 / first99, firstLimit},
		{price, us.Cost / alike, costLimit},
		{":floor: cost by the cheapest other's", floor.Cost / cheapest, floorLimit},
		{":floor: TTFT p99, seconds", floor.First99, goodFirst},
		{":nitro: end-to-end p50 by the best other's", nitro.Total50 / end50, nitroLimit},
		{":nitro: end-to-end p99 by the best other's", nitro.Total99 / end99, nitroLimit},
	}
}
