package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"cocoon/internal/h1"
	"cocoon/internal/openai"
	"cocoon/internal/tunnel"
	"cocoon/router"
)

// call is one chat completion on its way through the gateway. It belongs to the request's goroutine alone.
type call struct {
	s     *Server
	w     http.ResponseWriter
	r     *http.Request
	id    string
	start time.Time

	body  body
	head  openai.Head
	want  router.Request // what the router is asked for, with the workers that failed already
	last  *failure       // the last attempt's
	model *modelMetrics  // nil until a worker that offers the model was leased

	sent    time.Time // the request went to the worker
	headed  bool      // status and headers went to the client
	content bool      // content went to the client: from here on no other worker can take over
	usage   openai.Usage
	stream  stream
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
	defer s.metrics.inflight.Dec()
	key, err := s.authenticate(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	defer key.running.Add(-1)
	if key.running.Add(1) > int64(s.cfg.Limits.ConcurrentPerKey) {
		s.refuse(w, errTooMany(s.cfg.Limits.ConcurrentPerKey))
		return
	}
	defer c.body.close(&s.memory)
	if err := c.body.read(c); err != nil {
		c.body.refuse(c, err)
		return
	}
	// Or else outermost's bound on the body would end the request's context while it is served.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // fails only on a dead connection
	if err := c.readHead(); err != nil {
		s.refuse(w, err)
		return
	}
	c.end(c.serve())
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
		if f == nil || f.final || c.content || n == attemptsMax {
			return f
		}
		if !c.s.retries.take() {
			c.s.metrics.noBudget.Inc()
			return f
		}
		c.s.metrics.retries.Inc()
	}
}

// attempt leases an endpoint and has the request answered there.
func (c *call) attempt() *failure {
	lease, err := c.s.table.Pick(&c.want)
	if err != nil {
		return c.noLease(err)
	}
	if c.model == nil {
		c.model = c.s.metrics.model(c.head.Model)
	}
	outcome := router.Served
	f := c.exchange(&lease)
	if f != nil {
		outcome = f.outcome
		c.last = f
		c.want.Tried = append(c.want.Tried, lease.Worker)
		c.s.metrics.refused.WithLabelValues(f.reason).Inc()
		c.logFailure(f, lease.Worker)
	}
	lease.Release(outcome)
	c.model.outcomes[outcome].Inc()
	return f
}

func (c *call) noLease(err error) *failure {
	f := &failure{outcome: router.Served, reason: "no_worker", final: true}
	switch {
	case c.last != nil:
		return c.last // every worker was tried
	case errors.Is(err, router.ErrUnknownModel):
		f.err = c.s.noModel(c.head.Model)
	default:
		f.err = errBusy()
	}
	return f
}

// staleMax is how many pooled connections of one worker may turn out dead before the attempt counts as failed. When
// a worker is gone so is its session, and Take says so.
const staleMax = 1

// exchange sends the request to the leased endpoint and relays its answer.
func (c *call) exchange(l *router.Lease[*tunnel.Worker]) *failure {
	for stale := 0; ; stale++ {
		conn, err := l.Handle.Take(c.r.Context())
		if err != nil {
			if c.r.Context().Err() != nil {
				return errClientGone()
			}
			if errors.Is(err, tunnel.ErrNoConn) {
				return &failure{outcome: router.WorkerBusy, reason: "no_connection", err: errBusy(), cause: err}
			}
			return errFault("connection", err)
		}
		f := c.over(conn, l)
		if f == nil || !errors.Is(f.cause, h1.ErrStale) || stale == staleMax {
			return f
		}
	}
}

// over runs the request over one connection. The connection ends at once when the client goes away: that is how the
// worker learns of it.
func (c *call) over(conn *h1.Conn, l *router.Lease[*tunnel.Worker]) *failure {
	keep := context.AfterFunc(c.r.Context(), func() { _ = conn.Net().Close() })
	defer func() {
		if !keep() {
			_ = conn.Net().Close() // or else a closed connection could go back to the pool
		}
		l.Handle.Give(conn)
	}()
	c.sent = time.Now()
	if !c.headed {
		c.s.metrics.overhead.Observe(c.sent.Sub(c.start).Seconds())
	}
	resp, f := c.ask(conn, l)
	if f != nil {
		return f
	}
	if f := c.checkHead(resp); f != nil {
		return f
	}
	if c.head.Stream {
		return c.relayStream(conn, resp)
	}
	return c.relayAnswer(resp)
}

// ask sends the request and waits for the head of its answer.
func (c *call) ask(conn *h1.Conn, l *router.Lease[*tunnel.Worker]) (*h1.Response, *failure) {
	if !c.headed { // after a sign of life the headers are out, with the first worker's ID
		c.w.Header()[headerWorker] = []string{l.Worker.String()}
	}
	c.stream.reset(c)
	err := conn.Net().SetWriteDeadline(c.sent.Add(c.s.cfg.Limits.FirstByteTimeout))
	if err == nil {
		err = conn.Net().SetReadDeadline(c.stream.wake(c))
	}
	if err != nil {
		return nil, c.broken(err)
	}
	resp, err := conn.Do(&h1.Request{
		Method: http.MethodPost, Path: "/v1/chat/completions", Host: "worker",
		Header: "Content-Type: application/json\r\nCocoon-Request: " + c.id + "\r\n", Body: c.body.bytes(),
	})
	for err != nil {
		if f := c.waited(conn, err); f != nil {
			return nil, f
		}
		resp, err = conn.Resume()
	}
	return resp, nil
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
	c.stream.close(c)
}

func (c *call) logFailure(f *failure, worker router.ID) {
	if f.outcome == router.ClientGone || f.outcome == router.Served {
		return
	}
	c.s.log.Warn("attempt failed", "request", c.id, "worker", worker.String(), "model", c.head.Model, "reason", f.reason, "cause", f.cause)
}
