// Package market is the gateway's memory of its market: how each model was served lately, and why each request went where.
//
// Stats holds live statistics of each model, Generations what is kept of each request. Both are in memory, bounded, and lost
// when the process ends. Neither holds anything of what was asked or answered. "Now" is the caller's: the time since some
// moment that stays; what comes with an earlier now than the last counts as of the last.
package market

import "time"

// Limits of what is kept.
const (
	// ModelsMax bounds the models that are counted, about 55 KB each: workers choose the names. A model more takes the place
	// of the one that was asked for longest ago.
	ModelsMax = 512
	// WorkersMax bounds the workers that are told apart in one model, and WorkersAll in all together, about 2.5 KB each. What
	// workers beyond serve counts as the others', until some that serve nothing are forgotten.
	WorkersMax = 256
	WorkersAll = 8192
	// RateTokensMin is how many tokens must follow the first for a stream's speed to count: what comes in one write has none.
	RateTokensMin = 8
	// tokensMax bounds the tokens of one request that are believed, and costMax what it costs, nanoTON.
	tokensMax = 1 << 40
	costMax   = 1 << 50
)

// The windows, and the slots that they move by. A window has the running slot and as many before it as fill its length: it
// reaches back its length and up to one slot more.
const (
	Short  = 5 * time.Minute
	Medium = 30 * time.Minute
	Long   = 24 * time.Hour

	shortSlot  = 30 * time.Second
	mediumSlot = 3 * time.Minute // a whole number of short ones
	longSlot   = time.Hour       // a whole number of medium ones
	speedSlot  = 15 * time.Minute
)

// Result is how a request ended.
type Result uint8

// The results. Only the first three say something about the market.
const (
	// Served: the client got its whole answer.
	Served Result = iota
	// Busy: it got none because every worker was at its capacity, or shed.
	Busy
	// Fault: workers failed, and no other made up for it.
	Fault
	// Gone: the client left before the end.
	Gone
	// Refused: it asked what can't be had, had no money, or was over its limits; or the gateway could not book it.
	Refused

	results
)

// ring is slots of time; the newest is at index at, counted from the caller's moment.
type ring[T any] struct {
	slots []T
	at    int64
}

func newRing[T any](n int, at int64) ring[T] { return ring[T]{make([]T, n), at} }

// slot is that of an index, which must be one of the last len(slots) up to at.
func (r *ring[T]) slot(index int64) *T { return &r.slots[uint64(index)%uint64(len(r.slots))] }

// now is the running slot.
func (r *ring[T]) now() *T { return r.slot(r.at) }

// move goes on to the slot of an index; those in between are empty. There is no way back.
func (r *ring[T]) move(to int64) {
	for i := max(r.at+1, to-int64(len(r.slots))+1); i <= to; i++ {
		*r.slot(i) = *new(T)
	}
	r.at = max(r.at, to)
}
