package gateway

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/internal/sse"
	"cocoon/router"
)

// Limits of an answer.
const (
	answerMax    = 64 << 20         // bytes of an answer that is not streamed
	streamBuffer = 2 << 10          // first buffer of a stream, all that an idle one holds; events are a few hundred bytes
	earlyEvents  = 64               // events without content that are held back before the stream counts as begun
	earlyMax     = 256 << 10        // bytes of them
	stallMax     = 60 * time.Second // a client that takes no byte for so long is gone
	costRoom     = 48               // bytes that the cost adds to an answer
	drainMax     = time.Second      // for the end of a stream after its [DONE]
	blockingMax  = 64 << 10         // an answer up to this size fits the socket's buffer: writing it can't block long

	progressEvery = time.Second / 2 // the router hears how fast a stream is
	textToken     = 4               // bytes of text that count as a token there; of all workers alike
)

const (
	doneData   = "[DONE]"
	doneEvent  = "data: [DONE]\n\n"
	keepAlive  = ": keep-alive\n" // no blank line: some SDKs take that for an empty event
	dataPrefix = "data: "
)

// stream is the state of a streamed answer. Across attempts only what the client saw stays.
type stream struct {
	events    *sse.Reader
	buf       *[]byte // what events began with
	out       *[]byte // events for the client; nil when there are none
	early     int     // events held back before the first content
	begun     bool    // this attempt's worker sent an event
	content   bool    // and some of its events are to be sent
	finishes  int     // choices that ended
	relayed   int     // events with content that went into the output
	bytes     int64   // of events in the output
	text      int64   // bytes that the worker's events say, since the first content was sent
	heard     time.Time
	wrote     time.Time
	told      time.Time     // the router, of progress
	patience  time.Duration // how long the first content may take before another worker is looked for; 0: no bound
	stallFrom time.Time     // when the write deadline was set
}

// open begins to read events from the worker.
func (st *stream) open(c *call) *sse.Reader {
	st.shut(c)
	st.buf = c.s.memory.get(streamBuffer)
	st.events = sse.NewReader(c.up.resp, *st.buf)
	return st.events
}

// shut gives back what open took.
func (st *stream) shut(c *call) {
	if st.events == nil {
		return
	}
	*st.buf = st.events.Buffer()
	c.s.memory.put(st.buf)
	st.events, st.buf = nil, nil
}

// reset begins an attempt: what an earlier worker sent without content is forgotten.
func (st *stream) reset(c *call) {
	if st.out != nil {
		*st.out = (*st.out)[:0]
	}
	st.early, st.begun, st.content, st.finishes, st.relayed, st.bytes, st.text = 0, false, false, 0, 0, 0, 0
	c.usage, c.why = openai.Usage{}, ""
	st.heard, st.patience = c.sent, c.patience()
	if st.wrote.IsZero() {
		st.wrote = c.sent
	}
}

// limit is how long the worker may be silent now.
func (st *stream) limit(c *call) time.Duration {
	if st.begun {
		return c.s.cfg.Limits.IdleTimeout
	}
	return c.s.cfg.Limits.FirstByteTimeout
}

// wake is when a read from the worker returns at the latest: to give up, to look for another worker, or to send a sign of
// life, for which there is no place in an answer that is not streamed.
func (st *stream) wake(c *call) time.Time {
	at := st.heard.Add(st.limit(c))
	if st.patience > 0 && !st.content {
		if look := c.sent.Add(st.patience); look.Before(at) {
			at = look
		}
	}
	if sign := st.wrote.Add(c.s.cfg.Limits.KeepAlive); c.head.Stream && sign.Before(at) {
		return sign
	}
	return at
}

// waited handles an error of a read from the worker: nil to read on, if it was only time for a sign of life, or to look for
// another worker. The deadline is moved only here, so that reads in time cost nothing; therefore it may come early, which is
// no harm.
func (c *call) waited(err error) *failure {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return c.broken(err)
	}
	if c.lost() {
		return errHedged()
	}
	now, st := time.Now(), &c.stream
	if now.Sub(st.heard) >= st.limit(c) {
		return c.tooLate()
	}
	if st.patience > 0 && !st.content && now.Sub(c.sent) >= st.patience {
		if f := c.elsewhere(now); f != nil {
			return f
		}
	}
	if c.head.Stream && now.Sub(st.wrote) >= c.s.cfg.Limits.KeepAlive {
		if f := c.signOfLife(now); f != nil {
			return f
		}
	}
	if err := c.rearm(); err != nil {
		return c.broken(err)
	}
	return nil
}

// signOfLife sends a comment, so that neither client nor proxies give up. The first one commits the status.
func (c *call) signOfLife(now time.Time) *failure {
	c.sendHead(now)
	return c.write([]byte(keepAlive), now)
}

// relayStream passes events on until the stream's end.
func (c *call) relayStream() *failure {
	c.stream.open(c)
	return c.pass(nil)
}

// pass passes on the events that came already, and then those that come.
func (c *call) pass(early [][]byte) *failure {
	events := c.stream.events
	for {
		var data []byte
		if len(early) > 0 {
			data, early = early[0], early[1:]
		} else {
			var err error
			if data, err = events.Next(); err != nil {
				if f := c.ended(err); f != nil {
					return f
				}
				continue
			}
		}
		if string(data) == doneData {
			return c.finish()
		}
		if f := c.event(data); f != nil {
			return f
		}
		if c.stream.content && len(early) == 0 && !events.Buffered() {
			if f := c.stream.flush(c); f != nil {
				return f
			}
		}
	}
}

// cost is what the request costs the customer, once the worker's final receipt is here.
func (c *call) cost() (nanoton.Amount, bool) {
	if c.bill == nil {
		return 0, false
	}
	cost, _, ok := c.bill.Final()
	return cost, ok
}

// ended handles what Next returned instead of an event: nil to go on.
func (c *call) ended(err error) *failure {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		if c.r.Context().Err() == nil {
			return errFault("no_finish", err)
		}
	}
	return c.waited(err)
}

// event takes one event: into the output, unless the client has not asked for it.
func (c *call) event(data []byte) *failure {
	st := &c.stream
	if receipt.Is(data) {
		return c.takeReceipt(data)
	}
	chunk, err := openai.ReadChunk(data)
	switch {
	case err != nil:
		return errFault("invalid_event", nil)
	case chunk.Error:
		return c.reported(openai.ParseError(http.StatusBadGateway, data))
	}
	if !st.begun {
		st.begun = true
		st.heard = time.Now()
		_ = c.rearm() // the limit is another one now; a dead connection says so when read
	}
	st.finishes += chunk.Finishes
	c.why = cmp.Or(chunk.Finish, c.why)
	if chunk.HasUsage {
		c.usage = chunk.Usage
		if chunk.NoChoices && !c.head.IncludeUsage {
			return nil
		}
	}
	if st.out == nil {
		st.out = c.s.memory.get(streamBuffer)
	}
	*st.out = append(*st.out, dataPrefix...)
	if cost, ok := c.cost(); ok && chunk.HasUsage {
		*st.out = chunk.AppendCost(*st.out, data, int64(cost))
	} else {
		*st.out = append(*st.out, data...)
	}
	*st.out = append(*st.out, '\n', '\n')
	if chunk.Content {
		st.relayed++
	}
	st.bytes += int64(len(data))
	st.text += int64(chunk.Text)
	st.early++
	st.content = st.content || chunk.Content || chunk.Finishes > 0 || st.early > earlyEvents || len(*st.out) > earlyMax
	return nil
}

// finish ends a stream that said [DONE], and leaves the connection ready for the next request.
func (c *call) finish() *failure {
	st := &c.stream
	if int64(st.finishes) < c.head.N {
		return errFault("no_finish", nil)
	}
	if c.usage == (openai.Usage{}) {
		c.s.metrics.noUsage.Inc()
	}
	if st.out == nil {
		st.out = c.s.memory.get(streamBuffer)
	}
	*st.out = append(*st.out, doneEvent...)
	if f := st.flush(c); f != nil {
		return f
	}
	c.up.lease.Progress(c.s.clock(), st.text/textToken) // most streams are short: this is all that is learned of them
	if c.up.conn.Net().SetReadDeadline(time.Now().Add(drainMax)) == nil {
		_, _ = st.events.Next() // the clean end, or else the connection is not reusable
	}
	return nil
}

// sendHead sends status and headers of a stream, once.
func (c *call) sendHead(now time.Time) {
	if c.headed {
		return
	}
	c.headed = true
	h := c.w.Header()
	c.lines.set(h, "Content-Type", "text/event-stream; charset=utf-8")
	c.lines.set(h, "Cache-Control", "no-cache")
	c.lines.set(h, "X-Accel-Buffering", "no")
	c.lines.set(h, headerTime, strconv.FormatInt(now.Sub(c.start).Milliseconds(), 10))
	c.w.WriteHeader(http.StatusOK)
}

// flush sends what is there to the client.
func (st *stream) flush(c *call) *failure {
	if st.out == nil || len(*st.out) == 0 {
		return nil
	}
	now := time.Now()
	st.heard = now
	c.sendHead(now)
	if !c.delivered { // from here on the answer is this worker's, and nobody needs the request any more
		c.delivered = true
		if c.parked != nil {
			c.drop(c.outrun(now))
		}
		c.body.close(&c.s.memory)
		c.first = now.Sub(c.start)
		c.model.ttft.Observe(c.first.Seconds())
		c.trail.first(c.s, &c.up.lease.Grant)
		c.up.lease.First(c.s.clock())
		st.told, st.text = now, 0
	} else if now.Sub(st.told) >= progressEvery {
		st.told = now
		c.up.lease.Progress(c.s.clock(), st.text/textToken)
	}
	f := c.write(*st.out, now)
	c.s.memory.put(st.out)
	st.out = nil
	return f
}

// write sends bytes of a stream at once; a client that takes none for stallMax counts as gone.
func (c *call) write(b []byte, now time.Time) *failure {
	st := &c.stream
	if now.Sub(st.stallFrom) > stallMax/2 {
		st.stallFrom = now
		_ = http.NewResponseController(c.w).SetWriteDeadline(now.Add(stallMax)) // fails only on a dead connection
	}
	if _, err := c.w.Write(b); err != nil {
		return errClientGone()
	}
	if fl, ok := c.w.(http.Flusher); ok {
		fl.Flush()
	}
	st.wrote = now
	return nil
}

// breakOff ends a stream that failed after its headers: an error event in the form that SDKs detect, then the end.
func (st *stream) breakOff(c *call, e *openai.Error) {
	var b []byte
	if st.out != nil && st.content {
		b = append(b, *st.out...)
	}
	b = append(e.Append(append(b, dataPrefix...)), "\n\n"+doneEvent...)
	c.write(b, time.Now())
}

// close gives back what the stream holds, and lifts the write deadline for the connection's next request.
func (st *stream) close(c *call) {
	st.shut(c)
	if st.out != nil {
		c.s.memory.put(st.out)
		st.out = nil
	}
	if !st.stallFrom.IsZero() {
		_ = http.NewResponseController(c.w).SetWriteDeadline(time.Time{})
	}
}

// relayAnswer passes on an answer that is not streamed, once it is whole and right.
func (c *call) relayAnswer() *failure {
	c.stream.patience = 0 // it answers
	var b body
	defer b.close(&c.s.memory)
	if f := c.readAnswer(&b); f != nil {
		return f
	}
	answer, wire := receipt.Split(b.bytes())
	a, err := openai.ReadAnswer(answer)
	switch {
	case err != nil:
		return errFault("invalid_answer", nil)
	case a.Error:
		return c.reported(openai.ParseError(http.StatusBadGateway, answer))
	case int64(a.Finishes) < c.head.N:
		return errFault("no_finish", nil)
	}
	if wire != nil {
		if f := c.takeReceipt(wire); f != nil {
			return f
		}
	}
	c.why = a.Finish
	if c.usage = a.Usage; !a.HasUsage {
		c.s.metrics.noUsage.Inc()
	}
	c.stream.bytes = int64(len(answer))
	h := c.w.Header()
	if cost, ok := c.cost(); ok {
		priced := c.s.memory.get(len(answer) + costRoom)
		*priced = a.AppendCost(*priced, answer, int64(cost))
		c.s.memory.put(b.buf)
		b.buf, answer = priced, *priced
		c.lines.set(h, headerCost, strconv.FormatInt(int64(cost), 10))
	}
	return c.sendAnswer(answer)
}

// sendAnswer sends a whole answer.
func (c *call) sendAnswer(answer []byte) *failure {
	h := c.w.Header()
	c.lines.set(h, "Content-Type", "application/json")
	c.lines.set(h, "Content-Length", strconv.Itoa(len(answer)))
	c.lines.set(h, headerTime, strconv.FormatInt(time.Since(c.start).Milliseconds(), 10))
	c.headed, c.delivered = true, true
	if len(answer) > blockingMax {
		c.stream.stallFrom = time.Now()
		_ = http.NewResponseController(c.w).SetWriteDeadline(c.stream.stallFrom.Add(stallMax))
	}
	if _, err := c.w.Write(answer); err != nil {
		return errClientGone()
	}
	return nil
}

// readAnswer reads the whole answer into a pooled buffer, within the limits of size and memory.
func (c *call) readAnswer(b *body) *failure {
	resp := c.up.resp
	size := int(resp.ContentLength)
	if resp.ContentLength > answerMax {
		return errFault("too_long", nil)
	}
	b.buf = c.s.memory.get(max(size, bodySpare) + 1) // one more, so that the end is seen without growing
	for {
		text := b.grown(&c.s.memory)
		n, err := resp.Read(text[len(text):cap(text)])
		*b.buf = text[:len(text)+n]
		switch {
		case len(*b.buf) > answerMax:
			return errFault("too_long", nil)
		case !b.charge(c, n):
			return &failure{outcome: router.Served, reason: "memory", err: errMemory(), final: true}
		case err == io.EOF: //nolint:errorlint // the contract of io.Reader
			return nil
		case err != nil:
			if f := c.waited(err); f != nil {
				return f
			}
		}
	}
}

func isEventStream(contentType string) bool {
	return strings.HasPrefix(contentType, "text/event-stream")
}
