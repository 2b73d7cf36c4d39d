package gateway

import (
	"cmp"
	"net/http"
	"time"

	"cocoon/billing/ledger"
	"cocoon/gateway/clerk"
	"cocoon/gateway/market"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/router"
	"cocoon/router/offer"
)

// trail is what a call leaves for the market's statistics, and for whoever asks why which worker had it. Its zero value is
// ready; it belongs to the call's goroutine. A call that runs holds little of it but for attempts that failed.
type trail struct {
	past    []market.Attempt // that did not serve
	dropped int              // of them, that are not in past
	started time.Duration    // of the attempt at hand, on the router's clock
	ended   time.Duration    // of the last attempt, if that served
	answer  bool             // it did
	served  offerServed
}

// offerServed is what the last attempt came to.
type offerServed struct {
	model  string // as it is offered
	worker router.ID
	usage  openai.Usage
	price  offer.Price // the customer's
	cost   nanoton.Amount
	priced bool
}

// attempted is how an attempt ended.
type attempted struct {
	failed *failure // nil: it served
	usage  openai.Usage
	// cost is what the customer pays for it, if that is known: 0 of an attempt that failed.
	cost   nanoton.Amount
	priced bool
}

// leased notes that a worker was picked, whose lease has the grant. It comes right after each pick that is used.
func (t *trail) leased(s *Server, l *router.Grant) {
	t.started = s.clock()
	s.market.metrics.picked(l.Offer.Model, &l.Why)
}

// first notes that a stream's first content came.
func (t *trail) first(s *Server, l *router.Grant) {
	expected, _ := l.Expected()
	s.market.metrics.firstToken(expected, s.clock()-t.started)
}

// left notes how an attempt ended, before its lease is released.
func (t *trail) left(s *Server, now time.Duration, l *router.Grant, end *attempted) {
	outcome := router.Served
	if end.failed != nil {
		outcome = end.failed.outcome
		t.failed(now, l, end.failed)
	} else {
		t.ended, t.answer = now, true
	}
	t.served = offerServed{l.Offer.Model, l.Worker, end.usage, l.Price, end.cost, end.priced}
	switch outcome {
	case router.WorkerFault, router.WorkerSlow:
		s.market.stats.Failed(now, l.Offer.Model, l.Worker)
	case router.Served:
		if p := l.Why.Picked; end.failed == nil && end.usage.Prompt > 0 && p >= 0 && p < len(l.Why.Top) {
			s.market.metrics.cached(l.Why.Top[p].Cached, end.usage.Cached)
		}
	}
}

// failed keeps an attempt that did not serve. When there is no room the oldest but for the first goes.
func (t *trail) failed(now time.Duration, l *router.Grant, f *failure) {
	if len(t.past) == market.PastMax {
		t.past = append(t.past[:1], t.past[2:]...)
		t.dropped++
	}
	t.past = append(t.past, attemptOf(l, t.started, now))
	a := &t.past[len(t.past)-1]
	a.Outcome, a.Reason = f.outcome, f.reason
}

// attemptOf is what is kept of an attempt that served.
func attemptOf(l *router.Grant, from, to time.Duration) market.Attempt {
	return market.Attempt{Worker: l.Worker, Model: l.Offer.Model, Why: l.Why, Started: from, Ended: to}
}

// ended is how a request ended, after its last attempt.
type ended struct {
	id      string // the request's name
	account ledger.Account
	asked   string // the model
	mode    string // Cocoon-Mode that the client saw; empty without an attempt
	finish  string // finish_reason, empty if not known
	since   time.Time
	total   time.Duration // from since to the end
	// first is from since to the first content that the client was sent, 0 if there was none or it was not streamed.
	first    time.Duration
	streamed bool
	failed   *failure // nil: the client has its whole answer
	status   int      // that the client saw, 499 if it left
	// offered is the model that was asked for last, as some worker offers it; empty if none does. It is counted under that.
	offered string
}

// end keeps the request and counts it. It comes once, at the request's end, for each request that got as far as the first
// pick. The grant is the last attempt's.
func (t *trail) end(s *Server, l *router.Grant, e *ended) {
	came := e.since.Sub(s.began)
	r := &t.served
	o := market.Observation{
		Model: r.model, Worker: r.worker, Result: resultOf(e.failed), Streamed: e.streamed, TTFT: e.first, Total: e.total,
		In: r.usage.Prompt, Cached: r.usage.Cached, Out: r.usage.Completion, Cost: r.cost,
	}
	if o.Model == "" {
		o.Model = e.offered
	}
	if o.Model != "" { // names that nobody offers are the client's
		s.market.stats.Observe(came+e.total, &o)
	}
	g := market.Generation{
		Account: string(e.account), Asked: e.asked, Served: r.model, Mode: e.mode, Finish: e.finish, Created: e.since,
		TTFT: e.first, Total: e.total,
		In: r.usage.Prompt, Cached: r.usage.Cached, Out: r.usage.Completion, Reasoning: r.usage.Reasoning,
		Price: r.price, Cost: r.cost, Priced: r.priced, Status: e.status, Streamed: e.streamed, Past: t.past, Dropped: t.dropped,
	}
	if id, err := clerk.RequestID(e.id); err == nil { // it is ours
		g.ID = market.RequestID(id[:len(g.ID)])
	}
	for i := range t.past {
		t.past[i].Started, t.past[i].Ended = t.past[i].Started-came, t.past[i].Ended-came
	}
	if t.answer {
		g.Last = attemptOf(l, t.started-came, t.ended-came)
	}
	if e.failed != nil {
		g.Error = e.failed.reason
		if e.failed.err != nil && g.Error != "bad_request" { // that one is in the engine's words
			g.Error = cmp.Or(e.failed.err.Code, g.Error)
		}
	}
	s.market.kept.Keep(&g)
}

// resultOf says what a request's end means for the market.
func resultOf(f *failure) market.Result {
	switch {
	case f == nil:
		return market.Served
	case f.outcome == router.ClientGone:
		return market.Gone
	case f.outcome == router.WorkerBusy, f.outcome == router.Unused:
		return market.Busy
	case f.outcome == router.WorkerFault, f.outcome == router.WorkerSlow:
		return market.Fault
	case f.reason == "no_worker" && f.err != nil && f.err.Status == http.StatusServiceUnavailable:
		return market.Busy
	}
	return market.Refused
}
