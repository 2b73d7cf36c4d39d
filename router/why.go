package router

import (
	"slices"
	"strings"
	"time"
)

// Reason is why an endpoint was not considered for a request.
type Reason uint8

// The reasons, in the order in which they are looked at.
const (
	RemovedTried        Reason = iota // it failed this request already
	RemovedOnly                       // the caller names others only
	RemovedIgnored                    // the caller will not have it
	RemovedFallback                   // the caller wants no fallback
	RemovedTrust                      // it is not proved as well as the caller wants
	RemovedFeatures                   // it can't do what the request needs
	RemovedQuantization               // its weights are of another kind
	RemovedPrice                      // it asks more than the caller pays
	RemovedContext                    // the prompt does not fit its context
	RemovedBroken                     // it failed lately
	RemovedBusy                       // it is at its capacity
	Reasons                           // how many there are
)

// String is the reason's word, as in Explanations and metrics.
func (r Reason) String() string {
	return [Reasons]string{
		"tried", "only", "ignore", "fallback", "attestation", "features", "quantization", "price", "context", "broken", "busy",
	}[r]
}

// ChoicesMax is how many candidates a Why tells of: the best.
const ChoicesMax = 3

// Choice is what one candidate promised.
type Choice struct {
	Worker ID
	// Score decides, lower is better. One above 1e9 was put behind others: a preference not met, a new worker's slow start.
	Score float64
	// Price is what the request was expected to cost, nanoTON; TTFT and Total, seconds, when the first and the last token were
	// expected; Cached the tokens of the prompt that it was taken to have.
	Price, TTFT, Total, Cached float64
	// Inflight is how many requests it had.
	Inflight int64
}

// Why is why a worker was picked. It has no pointers, so that it can be copied and kept.
type Why struct {
	// Candidates is how many workers offer the model, Considered how many promised something.
	Candidates, Considered int
	// Removed counts those that were not considered. Of more than 64 candidates only some are looked at.
	Removed [Reasons]uint16
	// Top has the best, best first, Tops of them.
	Top  [ChoicesMax]Choice
	Tops int
	// Picked is the chosen one's place in Top, or -1 for one behind them.
	Picked int
	// Explored tells that a worker was tried to learn about it.
	Explored bool
	Sort     Sort
	// Tokens is the estimate of the prompt's tokens, Out of the answer's; Reference what the median worker asks for it, nanoTON.
	Tokens, Out, Reference float64
}

// Explanation says who was left out of a request's pick, and by what.
type Explanation struct {
	Candidates int
	// Removed has for each reason the names of who it removed, the first namesMax, and Counts how many.
	Removed [Reasons][]string
	Counts  [Reasons]int
	// Cheapest is the lowest price of an answer's tokens on offer, nanoTON per million tokens, whoever it is of.
	Cheapest Cap
}

// namesMax is how many names an Explanation has for each reason.
const namesMax = 5

// Explain looks at all who offer the model, slowly.
func (t *table) Explain(r *Request) Explanation {
	var x Explanation
	m := (*t.models.Load())[r.Model]
	if m == nil {
		return x
	}
	q := t.query(r, m)
	x.Candidates = len(q.market.endpoints)
	for i := range q.market.endpoints {
		e := &q.market.endpoints[i]
		if i == 0 || e.price.Out < x.Cheapest.Out {
			x.Cheapest = Cap{e.price.In, e.price.Cached, e.price.Out}
		}
		reason, out := q.removes(e)
		if !out {
			continue
		}
		x.Counts[reason]++
		if len(x.Removed[reason]) < namesMax {
			x.Removed[reason] = append(x.Removed[reason], e.worker.sheet.Name)
		}
	}
	return x
}

// removes tells whether an endpoint is out of the question, and why.
func (q *query) removes(e *endpoint) (reason Reason, out bool) {
	if len(q.Tried) > 0 && slices.Contains(q.Tried, e.worker.id) {
		return RemovedTried, true
	}
	if w := q.wish; w != nil {
		if reason, out = w.removes(e.worker.id, e.worker.name, e.trust); out {
			return reason, true
		}
		if w.RequireParameters && q.Needs&^e.features != 0 {
			return RemovedFeatures, true
		}
		if len(w.Quantizations) > 0 && !slices.Contains(w.Quantizations, orUnknown(e.offer.Quantization)) {
			return RemovedQuantization, true
		}
		if over(w.MaxPrice.In, e.price.In) || over(w.MaxPrice.Cached, e.price.Cached) || over(w.MaxPrice.Out, e.price.Out) {
			return RemovedPrice, true
		}
	}
	switch {
	case q.Bytes > e.context*bytesMost: // more than any tokenizer packs into it
		return RemovedContext, true
	case e.speed.open.Load() > int64(q.now):
		return RemovedBroken, true
	}
	if n := e.live.inflight.Load(); n > 0 && float64(n) >= q.room(e) || e.speed.limit.Load() == 0 {
		return RemovedBusy, true
	}
	return 0, false
}

// room is how many requests of this sort a machine may have.
func (q *query) room(e *endpoint) float64 {
	limit := float64(e.speed.limit.Load())
	return max(limit*q.weight.Room+0.999, 1) // rounded up when compared with a whole number
}

func over[T ~int64](most, price T) bool { return most >= 0 && price > most }

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// removes tells whether the caller will not have a worker.
func (w *Wish) removes(id ID, name string, trust Trust) (Reason, bool) {
	switch {
	case len(w.Only) > 0 && place(w.Only, id, name) < 0:
		return RemovedOnly, true
	case len(w.Ignore) > 0 && place(w.Ignore, id, name) >= 0:
		return RemovedIgnored, true
	case w.NoFallbacks && len(w.Order) > 0 && place(w.Order, id, name) < 0:
		return RemovedFallback, true
	case trust < w.MinTrust:
		return RemovedTrust, true
	}
	return 0, false
}

// place is where a list names a worker, by ID or name; -1 if nowhere.
func place(list []string, id ID, name string) int {
	return slices.IndexFunc(list, func(s string) bool {
		return s == name || len(s) == 2*len(id) && strings.EqualFold(s, id.String())
	})
}

// seconds is a number of seconds as a duration.
func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e9) * float64(time.Second))
}
