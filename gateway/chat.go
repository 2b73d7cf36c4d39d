package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/internal/h1"
	"cocoon/internal/openai"
	"cocoon/internal/tunnel"
	"cocoon/router"
)

// call is one chat completion on its way through the gateway. It belongs to the request's goroutine alone.
//
// While a stream is relayed the stack holds few and small frames, so that it fits 8 KiB: thousands of streams wait
// there. That is why an attempt leaves its state in up and returns before the relay begins.
type call struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	id    string
	start time.Time
	key   *accounts.Key // nil until the request is accepted
	guess int64         // tokens that the key's limit was charged for the prompt, before anybody counted them

	body  body
	head  openai.Head
	want  router.Request // what the router is asked for, with the workers that failed already
	last  *failure       // the last attempt's
	model *modelMetrics  // nil until a worker that offers the model was leased
	up    upstream
	bill  *clerk.Bill // the attempt's hold; nil without billing
	terms string      // the line of the header that tells the worker about it, with the line end before it

	attempts int  // before the one at hand
	dear     bool // some worker was passed over because it asks too much

	sent      time.Time // the request went to the worker
	headed    bool      // status and headers went to the client
	delivered bool      // content went to the client: from here on no other worker can take over
	usage     openai.Usage
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
func (s *Server) chat(w http.ResponseWriter, r *http.Request) {
	c := &call{s: s, w: w, r: r, id: w.Header()[headerRequestID][0], start: time.Now()}
	s.metrics.inflight.Inc()
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
	if !key.Allows(c.head.Model) {
		c.s.refuse(c.w, errNotAllowed(c.head.Model))
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
	c.stream.close(c)
	c.body.close(&c.s.memory)
	if c.key != nil {
		c.key.Used(c.usage.Prompt+c.usage.Completion, c.guess)
		c.key.Leave()
	}
	c.s.metrics.inflight.Dec()
}

// readHead reads what the gateway needs of the body, and has the engine count tokens.
func (c *call) readHead() *openai.Error {
	head, err := openai.ReadHead(c.body.bytes())
	if err != nil {
		if e, ok := errors.AsType[*openai.Error](err); ok {
			return e
		}
		return openai.BadRequest("", "%v", err)
	}
	c.head = head
	c.want.Model = head.Model
	c.body.set(head.WithUsage(c.body.bytes()))
	return nil
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
		if f == nil || f.final || c.delivered || n == attemptsMax {
			return f
		}
		if !c.s.retries.take() {
			c.s.metrics.noBudget.Inc()
			return f
		}
		c.s.metrics.retries.Inc()
		c.attempts++
	}
}

// attempt leases an endpoint, holds the money, sends the request and waits for the head of the answer.
func (c *call) attempt() *failure {
	lease, err := c.pick()
	if err != nil {
		return c.noLease(err)
	}
	c.up = upstream{held: true, lease: lease}
	if c.model == nil {
		c.model = c.s.metrics.model(c.head.Model)
	}
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

// pick leases the best endpoint that does not ask more than the key pays.
func (c *call) pick() (router.Lease[*member], error) {
	for {
		lease, err := c.s.table.Pick(&c.want)
		if err != nil || c.key.Pays(lease.Offer.Price.WithFee(c.s.money.fee)) {
			return lease, err
		}
		lease.Release(c.s.clock(), router.Done{Outcome: router.Unused})
		c.want.Tried = append(c.want.Tried, lease.Worker)
		c.dear = true
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
	c.closeBill(f)
	outcome := router.Served
	if f != nil {
		outcome = f.outcome
		c.last = f
		c.want.Tried = append(c.want.Tried, c.up.lease.Worker)
		c.s.metrics.refused.WithLabelValues(f.reason).Inc()
		c.logFailure(f, c.up.lease.Worker)
	}
	c.up.lease.Release(c.s.clock(), router.Done{Outcome: outcome, In: c.usage.Prompt, Cached: c.usage.Cached, Out: c.usage.Completion})
	c.up.held = false
	c.model.outcomes[outcome].Inc()
}

// giveBack returns the connection to its worker's pool.
func (c *call) giveBack() {
	if c.up.conn == nil {
		return
	}
	if !c.up.keep() {
		_ = c.up.conn.Net().Close() // or else a connection that is being closed could go back to the pool
	}
	c.up.lease.Handle.Give(c.up.conn)
	c.up.conn, c.up.resp = nil, nil
}

func (c *call) noLease(err error) *failure {
	f := &failure{outcome: router.Served, reason: "no_worker", final: true}
	switch {
	case c.last != nil:
		f = new(*c.last) // every worker was tried
		f.final = true
	case errors.Is(err, router.ErrUnknownModel):
		f.err = c.s.noModel(c.head.Model)
	case c.dear && errors.Is(err, router.ErrExhausted):
		f.err = errTooDear(c.head.Model)
	default:
		f.err = errBusy()
	}
	return f
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
	c.up.keep = context.AfterFunc(c.r.Context(), func() { _ = conn.Net().Close() })
	c.sent = time.Now()
	if !c.headed {
		c.s.metrics.overhead.Observe(c.sent.Sub(c.start).Seconds())
		h := c.w.Header() // after a sign of life it is the first worker's
		h[headerWorker] = []string{c.up.lease.Worker.String()}
		h[headerMode] = []string{c.s.mode(c.up.lease.Handle)}
		if c.bill != nil {
			h[headerReceipt] = []string{c.attemptID()}
		}
	}
	c.stream.reset(c)
	if f := c.ask(); f != nil {
		return f
	}
	return c.checkHead()
}

// ask sends the request and waits for the head of its answer.
func (c *call) ask() *failure {
	conn := c.up.conn
	err := conn.Net().SetDeadline(c.stream.wake(c))
	if err == nil && len(c.body.bytes()) > blockingMax { // a shorter one is written without waiting
		err = conn.Net().SetWriteDeadline(c.sent.Add(c.s.cfg.Limits.FirstByteTimeout))
	}
	if err != nil {
		return c.broken(err)
	}
	header := "Content-Type: application/json\r\nCocoon-Request: " + c.attemptID() + c.terms + "\r\n"
	if n := c.up.lease.Handle.Lack(); n > 0 {
		header += tunnel.LackHeader + ": " + strconv.Itoa(n) + "\r\n"
	}
	c.up.asked = true
	c.up.resp, err = conn.Do(&h1.Request{
		Method: http.MethodPost, Path: chatPath, Host: "worker", Header: header, Body: c.body.bytes(),
	})
	for err != nil {
		if f := c.waited(err); f != nil {
			return f
		}
		c.up.resp, err = conn.Resume()
	}
	return nil
}

// end is what remains when the last attempt is over.
func (c *call) end(f *failure) {
	now := time.Now()
	if c.model != nil {
		c.model.duration.Observe(now.Sub(c.start).Seconds())
		c.model.usage(c.usage)
	}
	switch {
	case f == nil:
		c.s.metrics.answered(http.StatusOK)
	case f.outcome == router.ClientGone:
		c.s.metrics.answered(statusClientGone)
	case c.headed:
		c.s.metrics.answered(http.StatusOK) // the status that the client saw
		c.stream.breakOff(c, f.err)
	default:
		c.s.refuse(c.w, f.err)
	}
}

func (c *call) logFailure(f *failure, worker router.ID) {
	if f.outcome == router.ClientGone || f.outcome == router.Served {
		return
	}
	c.s.log.Warn("attempt failed", "request", c.id, "worker", worker.String(), "model", c.head.Model, "reason", f.reason, "cause", f.cause)
}
