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
// ready; it belongs to the call's goroutine. A call that runs holds nothing of it but for attempts that failed.
type trail struct {
	kept    *market.Generation // nil before the first attempt is over
	started time.Duration      // of the attempt at hand, on the router's clock
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

// left notes how an attempt ended, before its lease is released. Since is when the request came.
func (t *trail) left(s *Server, since time.Time, l *router.Grant, end attempted) {
	now, came := s.clock(), since.Sub(s.began)
	outcome := router.Served
	if t.kept == nil {
		t.kept = s.market.kept.Begin()
	}
	a := t.kept.Attempt()
	a.Worker, a.Model, a.Why = l.Worker, l.Offer.Model, l.Why
	a.Started, a.Ended = t.started-came, now-came
	if end.failed != nil {
		outcome, a.Reason = end.failed.outcome, end.failed.reason
	}
	a.Outcome = outcome
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

// ended is how a request ended, after its last attempt.
type ended struct {
	id      string // the request's name
	account ledger.Account
	asked   string // the model
	mode    string // Cocoon-Mode that the client saw; empty without an attempt
	finish  string // finish_reason, empty if not known
	since   time.Time
	// first is from since to the first content that the client was sent, 0 if there was none or it was not streamed.
	first    time.Duration
	streamed bool
	failed   *failure // nil: the client has its whole answer
	status   int      // that the client saw, 499 if it left
	// offered is the model that was asked for last, as some worker offers it; empty if none does. It is counted under that.
	offered string
}

// end keeps the request and counts it. It comes once, at the request's end, for each request that got as far as the first
// pick.
func (t *trail) end(s *Server, e *ended) {
	now := s.clock()
	total := now - e.since.Sub(s.began)
	r := &t.served
	o := market.Observation{
		Model: r.model, Worker: r.worker, Result: resultOf(e.failed), Streamed: e.streamed, TTFT: e.first, Total: total,
		In: r.usage.Prompt, Cached: r.usage.Cached, Out: r.usage.Completion, Cost: r.cost,
	}
	if o.Model == "" {
		o.Model = e.offered
	}
	if o.Model != "" { // names that nobody offers are the client's
		s.market.stats.Observe(now, &o)
	}
	g := t.kept
	if g == nil {
		g = s.market.kept.Begin()
	}
	t.kept = nil
	if id, err := clerk.RequestID(e.id); err == nil { // it is ours
		g.ID = market.RequestID(id[:len(g.ID)])
	}
	g.Account, g.Asked, g.Served = string(e.account), e.asked, r.model
	g.Mode, g.Finish, g.Created, g.TTFT, g.Total = e.mode, e.finish, e.since, e.first, total
	g.In, g.Cached, g.Out, g.Reasoning = r.usage.Prompt, r.usage.Cached, r.usage.Completion, r.usage.Reasoning
	g.Price, g.Cost, g.Priced = r.price, r.cost, r.priced
	g.Status, g.Streamed = e.status, e.streamed
	if e.failed != nil {
		g.Error = e.failed.reason
		if e.failed.err != nil && g.Error != "bad_request" { // that one is in the engine's words
			g.Error = cmp.Or(e.failed.err.Code, g.Error)
		}
	}
	s.market.kept.Keep(g)
}

// drop gives back what the trail holds of a call that came to no end, after a panic.
func (t *trail) drop(s *Server) {
	if t.kept != nil {
		s.market.kept.Drop(t.kept)
		t.kept = nil
	}
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
