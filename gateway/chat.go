package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/gateway/wish"
	"cocoon/internal/h1"
	"cocoon/internal/openai"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/prefix"
)

// call is one chat completion on its way through the gateway. It belongs to the request's goroutine alone.
//
// While a stream is relayed the stack holds few and small frames, so that it fits 8 KiB: thousands of streams wait
// there. That is why an attempt leaves its state in up and returns before the relay begins.
//
// Calls are used again, since they are large: nothing may point into one when its request is over.
type call struct {
	s     *Server
	w     http.ResponseWriter
	lines *lines // of the answer's headers
	r     *http.Request
	id    string
	start time.Time
	key   *accounts.Key // nil until the request is accepted
	guess int64         // tokens that the key's limit was charged for the prompt, before anybody counted them

	body   body
	head   openai.Head
	asked  string           // the model, as the client wrote it
	media  bool             // some of the request may be no text
	tenant *tenant          // the key's account
	base   wish.Wish        // what the caller wishes, whatever the model
	wish   wish.Wish        // and for the model at hand
	asks   router.Cap       // the most that the caller pays, but for the key's cap
	turn   int              // which of the models that the client names
	blocks [16]prefix.Block // room for most prompts
	want   router.Request   // what the router is asked for, with the workers that failed already
	last   *failure         // the last attempt's

	model  *modelMetrics // nil until a worker that offers the model was leased
	up     upstream
	next   *router.Lease[*member] // that the next attempt is to go to, in the place of one that is too slow
	parked *parked                // an attempt that goes on beside the one at hand; nil: there is none
	hedged bool                   // there was one
	bill   *clerk.Bill            // the attempt's hold; nil without billing
	terms  string                 // the line of the header that tells the worker about it, with the line end before it

	attempts int // before the one at hand

	sent      time.Time // the request went to the worker
	headed    bool      // status and headers went to the client
	delivered bool      // content went to the client: from here on no other worker can take over
	usage     openai.Usage
	why       string        // why the answer ended; empty: not known
	first     time.Duration // from start to the first content of a stream; 0: there was none
	offered   string        // the model, if the router knows it
	trail     trail
	stream    stream
}

// upstream is the worker of the attempt at hand.
type upstream struct {
	held  bool // the lease is to be released
	asked bool // the request went out, in part at least
	lease router.Lease[*member]
	conn  *h1.Conn
	keep  func() bool // stops the closing of conn when the client goes away; false if that came first
	resp  *h1.Response
}

// failure is how an attempt ended that did not serve the request.
type failure struct {
	outcome router.Outcome
	reason  string        // a label: one of a closed set
	err     *openai.Error // what the client hears if nobody else serves
	final   bool          // another worker would not help
	cause   error         // for the log; holds nothing of the request's content
}

// chat answers POST /v1/chat/completions.
func (s *Server) chat(w http.ResponseWriter, r *http.Request, l *lines) {
	c, ok := s.calls.Get().(*call)
	if !ok {
		c = new(call)
	}
	c.s, c.w, c.lines, c.r, c.id, c.start = s, w, l, r, w.Header()[headerRequestID][0], time.Now()
	c.run()
	*c = call{}
	s.calls.Put(c) // not after a panic
}

// run serves the request.
func (c *call) run() {
	c.s.metrics.inflight.Inc()
	defer c.close()
	if c.accept() {
		c.end(c.serve())
	}
}

// accept checks key, limits and body; false if the request was refused.
func (c *call) accept() bool {
	key, err := c.s.authenticate(c.r, accounts.ScopeInference)
	if err == nil {
		err = c.enter(key)
	}
	if err != nil {
		c.s.refuse(c.w, err)
		return false
	}
	if err := c.body.read(c); err != nil {
		c.body.refuse(c, err)
		return false
	}
	// Or else the server's ReadTimeout would end the request's context while it is served.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{}) // fails only on a dead connection
	if err := c.readHead(); err != nil {
		c.s.refuse(c.w, err)
		return false
	}
	return true
}

// enter counts the request against the key's limits. How many tokens the prompt has is not known before it is read by
// an engine; four bytes each is what English text has.
func (c *call) enter(key *accounts.Key) *openai.Error {
	guess := max(c.r.ContentLength, 0) / 4
	denied := key.Enter(c.start, guess)
	key.Headers(c.w.Header(), c.start)
	if denied != nil {
		return errDenied(denied)
	}
	c.key, c.guess = key, guess
	return nil
}

// close gives back what the call holds, also after a panic.
func (c *call) close() {
	if c.up.held {
		c.leave(errFault("connection", nil))
	}
	if c.parked != nil {
		c.drop(errHedged())
	}
	if c.next != nil {
		c.next.Release(c.s.clock(), router.Done{Outcome: router.Unused})
	}
	c.stream.close(c)
	c.body.close(&c.s.memory)
	if c.key != nil {
		c.key.Used(c.usage.Prompt+c.usage.Completion, c.guess)
		c.key.Leave()
	}
	c.s.metrics.inflight.Dec()
}

// serve tries workers until one serves the request; nil if one did.
func (c *call) serve() *failure {
	c.s.retries.request()
	for n := 1; ; n++ {
		f := c.attempt()
		if f == nil {
			f = c.relay()
		}
		if c.up.held {
			c.leave(f)
		}
		if c.parked != nil && c.next == nil { // the attempt beside it is over
			if f.outcome == router.ClientGone {
				c.drop(errClientGone())
				return f
			}
			f = c.unpark()
			c.leave(f)
		}
		if f == nil || f.final || c.delivered || n == attemptsMax || c.single() {
			return f
		}
		if c.next == nil && !c.s.retries.take() { // a move is paid for already
			c.s.metrics.noBudget.Inc()
			return f
		}
		c.s.metrics.retries.Inc()
		c.attempts++
	}
}

// single tells that the caller wants the first choice or nobody.
func (c *call) single() bool { return c.wish.NoFallbacks && len(c.wish.Order) == 0 }

// attempt leases an endpoint, holds the money, sends the request and waits for the head of the answer.
func (c *call) attempt() *failure {
	if c.next != nil {
		c.up = upstream{held: true, lease: *c.next}
		c.next = nil
	} else {
		lease, err := c.pick()
		if err != nil {
			return c.noLease(err)
		}
		c.up = upstream{held: true, lease: lease}
	}
	c.trail.leased(c.s, &c.up.lease.Grant)
	c.model = c.s.metrics.model(c.want.Model)
	if f := c.hold(); f != nil {
		return f
	}
	for stale := 0; ; stale++ {
		f := c.connect()
		if f == nil || !errors.Is(f.cause, h1.ErrStale) || stale == staleMax {
			return f
		}
		c.giveBack()
	}
}

// relay passes the answer on.
func (c *call) relay() *failure {
	if c.head.Stream {
		return c.relayStream()
	}
	return c.relayAnswer()
}

// leave ends an attempt: connection and lease go back with what became of them.
func (c *call) leave(f *failure) {
	c.giveBack()
	end := attempted{failed: f, usage: c.usage}
	done := c.counted(f)
	end.cost, end.priced = c.closeBill(f)
	now := c.s.clock()
	c.trail.left(c.s, now, &c.up.lease.Grant, &end)
	if f != nil {
		done.Outcome = f.outcome
		c.last = f
		c.want.Tried = append(c.want.Tried, c.up.lease.Worker)
		c.s.metrics.refused.WithLabelValues(f.reason).Inc()
		c.logFailure(f, c.up.lease.Worker)
	}
	c.up.lease.Release(now, done)
	c.up.held = false
	c.model.outcomes[done.Outcome].Inc()
}

// counted is what an attempt that served took: as the receipt says, or else the engine. Of others nothing is known for good.
func (c *call) counted(f *failure) router.Done {
	if f != nil {
		return router.Done{}
	}
	if c.bill != nil {
		if _, u, ok := c.bill.Final(); ok {
			return router.Done{In: u.In, Cached: u.Cached, Out: u.Out}
		}
	}
	return router.Done{In: c.usage.Prompt, Cached: c.usage.Cached, Out: c.usage.Completion}
}

// giveBack returns the connection to its worker's pool.
func (c *call) giveBack() {
	if c.up.conn == nil {
		return
	}
	if c.parked != nil {
		c.parked.against(nil)
	}
	if !c.up.keep() {
		_ = c.up.conn.Net().Close() // or else a connection that is being closed could go back to the pool
	}
	c.up.lease.Handle.Give(c.up.conn)
	c.up.conn, c.up.resp = nil, nil
}

// staleMax is how many pooled connections of one worker may turn out dead before the attempt counts as failed. When
// a worker is gone so is its session, and Take says so.
const staleMax = 1

// connect takes a connection and asks over it. It ends at once when the client goes away: that is how the worker
// learns of it.
func (c *call) connect() *failure {
	conn, err := c.up.lease.Handle.Take(c.r.Context())
	switch {
	case err == nil:
	case c.r.Context().Err() != nil:
		return errClientGone()
	case errors.Is(err, tunnel.ErrNoConn):
		return &failure{outcome: router.WorkerBusy, reason: "no_connection", err: errBusy(), cause: err}
	default:
		return errFault("connection", err)
	}
	c.up.conn = conn
	c.up.keep = afterDone(c.r.Context(), func() { _ = conn.Net().Close() })
	c.sent = time.Now()
	if c.parked != nil && !c.parked.against(conn.Net()) {
		return errHedged()
	}
	if !c.headed { // after a sign of life they are the first worker's
		c.s.metrics.overhead.Observe(c.sent.Sub(c.start).Seconds())
		c.names()
		if c.bill != nil {
			c.lines.set(c.w.Header(), headerReceipt, c.attemptID())
		}
	}
	c.stream.reset(c)
	if f := c.ask(); f != nil {
		return f
	}
	return c.checkHead()
}

// names says in the answer's headers who the worker is.
func (c *call) names() {
	h := c.w.Header()
	h[headerWorker] = c.up.lease.Handle.names
	h[headerMode][0] = c.s.mode(c.up.lease.Handle)
}

// afterDone is [context.AfterFunc]. The contexts that internal/front makes can do the same for a fraction of it.
func afterDone(ctx context.Context, f func()) (stop func() bool) {
	if own, ok := ctx.(interface{ AfterFunc(f func()) func() bool }); ok {
		return own.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}

// ask sends the request and waits for the head of its answer.
func (c *call) ask() *failure {
	conn := c.up.conn
	err := conn.Net().SetDeadline(c.stream.wake(c))
	if err == nil && len(c.body.bytes()) > blockingMax { // a shorter one is written without waiting
		err = conn.Net().SetWriteDeadline(c.sent.Add(c.s.cfg.Limits.FirstByteTimeout))
	}
	if err == nil && c.parked != nil {
		err = c.rearm()
	}
	if err != nil {
		return c.broken(err)
	}
	header := "Content-Type: application/json\r\n" + c.tenant.salt + "Cocoon-Request: " + c.attemptID() + c.terms + "\r\n"
	if n := c.up.lease.Handle.Lack(); n > 0 {
		header += tunnel.LackHeader + ": " + strconv.Itoa(n) + "\r\n"
	}
	c.up.asked = true
	c.up.resp, err = conn.Do(&h1.Request{
		Method: http.MethodPost, Path: chatPath, Host: "worker", Header: header, Body: c.body.bytes(),
	})
	return c.await(err)
}

// await waits for the head of the answer, after an error of the wait so far.
func (c *call) await(err error) *failure {
	for err != nil {
		if f := c.waited(err); f != nil {
			return f
		}
		c.up.resp, err = c.up.conn.Resume()
	}
	return nil
}

// end is what remains when the last attempt is over.
func (c *call) end(f *failure) {
	total := time.Since(c.start)
	if c.model != nil {
		c.model.duration.Observe(total.Seconds())
		c.model.usage(c.usage)
	}
	status := http.StatusOK
	switch {
	case f == nil:
		c.s.metrics.answered(status)
	case f.outcome == router.ClientGone:
		status = statusClientGone
		c.s.metrics.answered(status)
	case c.headed:
		c.s.metrics.answered(status) // the status that the client saw
		c.stream.breakOff(c, f.err)
	default:
		status = f.err.Status
		c.s.refuse(c.w, f.err)
	}
	c.trail.end(c.s, &c.up.lease.Grant, &ended{
		id: c.id, account: c.key.Account(), asked: c.asked, mode: c.w.Header()[headerMode][0], finish: c.why,
		since: c.start, total: total, first: c.first, streamed: c.head.Stream, failed: f, status: status, offered: c.offered,
	})
}

func (c *call) logFailure(f *failure, worker router.ID) {
	if f.outcome == router.ClientGone || f.outcome == router.Served || f.reason == "hedged" {
		return
	}
	c.s.log.Warn("attempt failed", "request", c.id, "worker", worker.String(), "model", c.want.Model, "reason", f.reason, "cause", f.cause)
}
