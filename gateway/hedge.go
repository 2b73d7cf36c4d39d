package gateway

import (
	"net"
	"net/http"
	"sync"
	"time"

	"cocoon/gateway/clerk"
	"cocoon/internal/openai"
	"cocoon/internal/sse"
	"cocoon/router"
)

// parked is an attempt that is slow to begin, while the request is asked of another worker as well. A goroutine listens to it
// meanwhile; whichever of the two sends content first serves, and the other one is ended.
//
// The customer pays for the one that served only. What the other one has done is not paid to its worker either, as of any
// attempt that did not serve: its bill is void.
//
// Until the goroutine has ended the last fields are its own, and so are the answer and the connection but for its Net.
type parked struct {
	up       upstream
	bill     *clerk.Bill
	terms    string
	receipt  []string // the answer's header
	sent     time.Time
	started  time.Duration // as trail has it
	patience time.Duration // of the lease, from sent
	model    *modelMetrics
	done     chan struct{} // closed when the goroutine has ended

	mu    sync.Mutex
	first bool     // content came: the other one has lost
	rival net.Conn // of the other one, nil if it has none

	events *sse.Reader // nil before the head came
	buf    *[]byte     // what events began with
	early  [][]byte    // events that came
	err    error       // why there is no head
}

// past is a deadline that makes a read return at once.
func past() time.Time { return time.Unix(1, 0) }

// park puts the attempt at hand aside, so that the next one can begin: that one has its lease already.
func (c *call) park() *failure {
	p := &parked{
		up: c.up, bill: c.bill, terms: c.terms, receipt: c.w.Header()[headerReceipt], sent: c.sent, started: c.trail.started,
		patience: c.up.lease.Grant.Patience(), model: c.model, done: make(chan struct{}), events: c.stream.events, buf: c.stream.buf,
	}
	c.want.Tried = append(c.want.Tried, c.up.lease.Worker)
	c.up, c.bill, c.terms = upstream{}, nil, ""
	c.stream.events, c.stream.buf = nil, nil
	c.parked, c.hedged = p, true
	_ = p.up.conn.Net().SetReadDeadline(p.sent.Add(c.s.cfg.Limits.FirstByteTimeout)) // a dead connection says so when read
	go p.listen(&c.s.memory)
	return errHedged()
}

// listen waits for the first content.
func (p *parked) listen(m *memory) {
	defer close(p.done)
	if p.up.resp == nil {
		if p.up.resp, p.err = p.up.conn.Resume(); p.err != nil {
			p.up.resp = nil
			return
		}
	}
	if p.events == nil {
		if p.up.resp.Status != http.StatusOK || !isEventStream(p.up.resp.ContentType) {
			return
		}
		p.buf = m.get(streamBuffer)
		p.events = sse.NewReader(p.up.resp, *p.buf)
	}
	for size := 0; ; {
		data, err := p.events.Next()
		if err != nil {
			return // whoever reads on has it again
		}
		p.early = append(p.early, append([]byte(nil), data...))
		size += len(data)
		chunk, err := openai.ReadChunk(data)
		switch {
		case err != nil || chunk.Error: // also of a receipt, and of the stream's end
			return
		case chunk.Content || chunk.Finishes > 0 || len(p.early) > earlyEvents || size > earlyMax:
			p.won()
			return
		}
	}
}

// won has the other attempt end.
func (p *parked) won() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.first = true
	if p.rival != nil {
		_ = p.rival.SetReadDeadline(past()) // a dead connection says so when read
	}
}

// against says over which connection the other attempt goes, nil for none; false: it has lost already.
func (p *parked) against(rival net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rival = rival
	return !p.first
}

// hasWon tells whether content came.
func (p *parked) hasWon() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

// errHedged is an attempt beside another one that was faster.
func errHedged() *failure {
	return &failure{outcome: router.Unused, reason: "hedged", err: errBusy()}
}

// rearm sets when the next read returns at the latest, unless the other attempt has won.
func (c *call) rearm() error {
	conn := c.up.conn.Net()
	p := c.parked
	if p == nil {
		return conn.SetReadDeadline(c.stream.wake(c))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first {
		return conn.SetReadDeadline(past())
	}
	return conn.SetReadDeadline(c.stream.wake(c))
}

// lost tells whether the attempt at hand goes beside another one, which was faster.
func (c *call) lost() bool { return c.parked != nil && !c.delivered && c.parked.hasWon() }

// unpark goes on with the attempt that was put aside; the one beside it is over.
func (c *call) unpark() *failure {
	p := c.parked
	c.parked = nil
	_ = p.up.conn.Net().SetReadDeadline(past()) // a dead connection says so when read
	<-p.done
	c.up, c.bill, c.terms, c.sent, c.model = p.up, p.bill, p.terms, p.sent, p.model
	c.trail.started = p.started
	c.stream.reset(c)
	c.stream.events, c.stream.buf = p.events, p.buf
	if !c.headed {
		c.names()
		if p.receipt != nil {
			c.w.Header()[headerReceipt] = p.receipt
		}
	}
	if err := c.rearm(); err != nil {
		return c.broken(err)
	}
	if p.up.resp == nil {
		if f := c.await(p.err); f != nil {
			return f
		}
	}
	if c.stream.events == nil {
		if f := c.checkHead(); f != nil {
			return f
		}
		return c.relayStream()
	}
	return c.pass(p.early)
}

// drop ends the attempt that was put aside.
func (c *call) drop(f *failure) {
	p := c.parked
	c.parked = nil
	p.up.keep()
	_ = p.up.conn.Net().Close() // which ends the goroutine
	<-p.done
	if p.events != nil {
		*p.buf = p.events.Buffer()
		c.s.memory.put(p.buf)
	}
	p.up.lease.Handle.Give(p.up.conn)
	if p.bill != nil {
		p.bill.Close(clerk.Failed)
	}
	t := &c.trail
	served, started := t.served, t.started
	t.started = p.started
	now := c.s.clock()
	t.left(c.s, now, &p.up.lease.Grant, &attempted{failed: f, priced: p.bill != nil})
	t.served, t.started = served, started
	c.s.metrics.refused.WithLabelValues(f.reason).Inc()
	p.up.lease.Release(now, router.Done{Outcome: f.outcome})
	p.model.outcomes[f.outcome].Inc()
}

// outrun is why the attempt that was put aside is ended: another worker was faster. That speaks against a worker only if it
// was slower than any caller is patient.
func (c *call) outrun(now time.Time) *failure {
	if p := c.parked; p != nil && now.Sub(p.sent) >= p.patience {
		return c.tooSlow(now.Sub(p.sent))
	}
	return errHedged()
}

// hedge asks another worker as well, if that promises content in less time than was waited already; nil: it does not.
func (c *call) hedge(waited time.Duration) *failure {
	lease := c.faster(waited)
	if lease == nil {
		return nil
	}
	if !c.s.retries.take() {
		lease.Release(c.s.clock(), router.Done{Outcome: router.Unused})
		return nil
	}
	c.next = lease
	return c.park()
}
