package router

import (
	"time"

	"cocoon/router/prefix"
)

// The breaker of an endpoint opens after tripRow failures in a row, or when more than tripShare of at least tripLeast requests
// within tripWindow failed; for openFirst, twice as long each time, openMax at most, and a bit more so that many don't
// come back at once. Then one request may try; probeMax is how long others wait for what becomes of it.
const (
	tripRow    = 3
	tripShare  = 0.2
	tripLeast  = 10
	tripWindow = 10 * time.Second
	openFirst  = time.Second
	openMax    = 30 * time.Second
	probeMax   = 30 * time.Second
)

// trip is what a breaker remembers.
type trip struct {
	row          int // failures since the last success
	opened       int // times in a row
	from         time.Duration
	total, fails int // since from
	jitter       uint64
}

// breaks takes an outcome in, and says for how long the breaker is to open; zero if not.
func (t *trip) breaks(now time.Duration, failed bool) time.Duration {
	if now-t.from > tripWindow {
		t.from, t.total, t.fails = now, 0, 0
	}
	t.total++
	if !failed {
		t.row, t.opened = 0, 0
		return 0
	}
	t.row++
	t.fails++
	if t.row < tripRow && t.opened == 0 && (t.total < tripLeast || float64(t.fails) <= tripShare*float64(t.total)) {
		return 0
	}
	d := min(openFirst<<min(t.opened, 10), openMax)
	t.opened++
	t.total, t.fails = 0, 0
	t.jitter = prefix.Mix(t.jitter + uint64(now))
	return d + time.Duration(t.jitter%uint64(d/4))
}

// busy takes in how a lease ended, with so many requests on the machine.
func (s *speed) busy(now time.Duration, o Outcome, inflight int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.ended(now, o, inflight)
	s.limit.Store(s.room.limit(now))
}

// outcome takes in how a lease ended, for whose end the worker may be to blame.
func (s *speed) outcome(now time.Duration, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended(now, failed)
	switch d := s.trip.breaks(now, failed); {
	case d > 0:
		s.open.Store(int64(now + d))
	case !failed && s.open.Swap(0) != 0: // a probe that succeeded: what was before counts half
		s.fail.num /= 2
	}
	s.publish()
}

// unprobed gives back a probe that came to nothing: the next pick may try. If the breaker closed or opened since, it stays.
func (s *speed) unprobed(now, probe time.Duration) {
	s.open.CompareAndSwap(int64(probe), int64(max(now, 1)))
}

// Breakers counts the endpoints by what their breakers do: closed ones take requests, open ones none, and half-open ones
// one, to see what becomes of it.
func (t *table) Breakers(now time.Duration) (closed, open, half int) {
	for _, m := range *t.models.Load() {
		all := m.market.Load().endpoints
		for i := range all {
			switch until := all[i].speed.open.Load(); {
			case until == 0:
				closed++
			case until > int64(now):
				open++
			default:
				half++
			}
		}
	}
	return closed, open, half
}
