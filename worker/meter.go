package worker

import (
	"crypto/sha256"
	"hash"
	"net/http"
	"time"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// When an interim receipt is due: what may be lost if this process dies is bounded by either.
const (
	interimTokens = 256
	interimGap    = 2 * time.Second
)

// meter counts one request, and signs for it. All but a method of till's runs on the request's goroutine.
type meter struct {
	till  *till
	next  receipt.Receipt // what every receipt of the request says
	start time.Time
	resp  hash.Hash // of what was sent so far

	counts offer.Usage   // with what is about to be sent
	sent   offer.Usage   // of what was sent
	first  time.Duration // from the start to the first token; 0 if there was none

	last    *receipt.Signed // nil if there is none
	tried   time.Time       // when an interim one was last begun
	pending chan *receipt.Signed
	ended   bool // the final one is signed
	lost    bool // it could not be
}

// newMeter begins to meter a request with that body, which receipts r will be about.
func newMeter(t *till, r receipt.Receipt, body []byte, start time.Time) (*meter, error) {
	m := &meter{till: t, next: r, start: start, resp: sha256.New(), tried: start}
	m.next.Req = sha256.Sum256(body)
	m.next.Start = start.UnixMilli()
	probe := m.receipt(receipt.Final, receipt.Error)
	if err := probe.Validate(); err != nil {
		return nil, notMet(codeTerms, "The worker can't sign receipts about this request.")
	}
	if err := t.begin(r.Request); err != nil {
		return nil, err
	}
	return m, nil
}

// count takes what the answer took so far. Counts never run backwards, as receipts do not.
func (m *meter) count(u openai.Usage) {
	m.counts = most(m.counts, offer.Usage{
		In: u.Prompt, Cached: u.Cached, Out: u.Completion,
		Reasoning: min(u.Reasoning, u.Completion), // some engines count it apart: then it is not paid
	})
}

// most is the larger of each count.
func most(a, b offer.Usage) offer.Usage {
	return offer.Usage{
		In: max(a.In, b.In), Cached: max(a.Cached, b.Cached), Out: max(a.Out, b.Out), Reasoning: max(a.Reasoning, b.Reasoning),
	}
}

// delivered notes that what was counted is sent, and begins an interim receipt if one is due. It does not wait for it.
func (m *meter) delivered() {
	m.sent = m.counts
	if m.sent.Out == 0 {
		return
	}
	now := time.Now()
	if m.first == 0 {
		m.first = max(now.Sub(m.start), time.Millisecond)
	}
	signed := int64(0)
	if m.last != nil {
		signed = m.last.Tokens.Out
	}
	if m.pending != nil || m.sent.Out == signed || m.sent.Out-signed < interimTokens && now.Sub(m.tried) < interimGap {
		return
	}
	m.tried = now
	r := m.receipt(receipt.Interim, receipt.OK)
	r.Tokens = m.sent
	m.pending = make(chan *receipt.Signed, 1)
	go func(done chan<- *receipt.Signed) {
		s, err := m.till.sign(r)
		if err != nil {
			s = nil // the till says so; the next receipt makes up for it
		}
		done <- s
	}(m.pending)
}

// interim is the interim receipt that was begun, if it is signed by now; nil if not. It is to be sent.
func (m *meter) interim() *receipt.Signed {
	select {
	case s := <-m.pending: // never of nil
		return m.took(s)
	default:
		return nil
	}
}

// wait is interim, once it is signed.
func (m *meter) wait() *receipt.Signed {
	if m.pending == nil {
		return nil
	}
	return m.took(<-m.pending)
}

func (m *meter) took(s *receipt.Signed) *receipt.Signed {
	m.pending = nil
	if s != nil {
		m.last = s
	}
	return s
}

// receipt is the next one, without tokens.
func (m *meter) receipt(k receipt.Kind, s receipt.Status) receipt.Receipt {
	r := m.next
	r.Kind, r.Status = k, s
	r.TTFT = m.first.Milliseconds()
	r.End = r.Start + max(time.Since(m.start).Milliseconds(), r.TTFT)
	m.resp.Sum(r.Resp[:0])
	if m.last != nil {
		r.Seq, r.Prev = m.last.Seq+1, m.last.ID()
	}
	return r
}

// final signs for the whole request. None may be pending.
func (m *meter) final(s receipt.Status, u offer.Usage) (*receipt.Signed, error) {
	r := m.receipt(receipt.Final, s)
	r.Tokens = u
	signed, err := m.till.sign(r)
	if err != nil {
		m.lost = true
		return nil, openai.NewError(http.StatusServiceUnavailable, codeReceipts, "The worker could not keep its receipt.")
	}
	m.last, m.ended = signed, true
	return signed, nil
}

// complete signs for an answer that is whole.
func (m *meter) complete(cut bool) (*receipt.Signed, error) {
	status := receipt.OK
	if cut {
		status = receipt.Length
	}
	if m.first == 0 && m.counts.Out > 0 {
		m.first = max(time.Since(m.start), time.Millisecond) // it did not stream
	}
	return m.final(status, m.counts)
}

// leave ends the metering. A request that did not end by itself gets its final receipt here: ClientAbort if who asked
// went away, for what was sent, with what the engine says of the prompt; Error if the worker broke it off. Why is empty
// for all others.
func (m *meter) leave(why receipt.Status, u openai.Usage) {
	if m == nil {
		return
	}
	m.wait()
	switch {
	case why == "" || m.lost:
	case m.ended:
		m.till.unsent(m.last.ID())
	default:
		tokens := offer.Usage{}
		if why == receipt.ClientAbort && m.sent.Out > 0 {
			tokens = m.sent
			tokens.In = max(tokens.In, u.Prompt)
		}
		_, _ = m.final(why, tokens) // the till says what is wrong; the last interim one is there
	}
	m.till.end(m.next.Request)
}
