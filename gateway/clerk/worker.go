package clerk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/internal/receipt"
)

const (
	askEvery   = time.Second      // while a receipt is awaited, or there is something to tell
	idleEvery  = 10 * time.Second // else
	askTimeout = 30 * time.Second // of one exchange
	// AnswerMax bounds what a worker presents at once, bytes.
	AnswerMax = 1 << 20
	// answerFull is from where on an answer may have left receipts out.
	answerFull = AnswerMax / 2
	// acksKept bounds the acknowledgements that wait for one worker: more than a second's at full load. What is beyond is
	// presented again.
	acksKept = 50_000
	// workersMax bounds the workers that are remembered after they went; one that waits for nothing is forgotten then.
	workersMax = 10_000
	logEvery   = 10 * time.Second // at most one line about a worker
)

// worker is what is known of one. All of it is guarded by the clerk's mu.
type worker struct {
	stats   WorkerStats
	peer    *peer               // nil: it is not there
	waiting map[ledger.ID]*Bill // for its receipts
	alone   time.Time           // until then each of its receipts is verified by its own signature
	logged  time.Time
}

// mayLog tells whether the next line about the worker may be written, so that none can fill the disk.
func (w *worker) mayLog() bool {
	if time.Since(w.logged) < logEvery {
		return false
	}
	w.logged = time.Now()
	return true
}

// worker finds what is known of a worker, or begins it. The lock is held.
func (c *Clerk) worker(id receipt.Digest) *worker {
	if w := c.workers[id]; w != nil {
		return w
	}
	if len(c.workers) >= workersMax {
		for id, w := range c.workers {
			if w.peer == nil && len(w.waiting) == 0 {
				delete(c.workers, id)
				break
			}
		}
	}
	w := &worker{waiting: map[ledger.ID]*Bill{}, logged: time.Now().Add(-logEvery)}
	c.workers[id] = w
	return w
}

// peer is a worker that is there.
type peer struct {
	c        *Clerk
	id       receipt.Digest
	link     Link
	ctx      context.Context // done when it went
	acks     receipt.Acks    // guarded by the clerk's mu
	asked    time.Time       // owned by run
	failures int             // owned by run: in a row
}

// Link is how a worker is spoken to; docs/protocol.md, section 6, says what about.
type Link struct {
	// Exchange sends acknowledgements, and gives the receipts that the worker presents.
	Exchange func(ctx context.Context, acks []byte) ([]byte, error)
	// Countersign sends a keyset and the IDs of receipts, and gives one signature for all of them.
	Countersign func(ctx context.Context, ids []byte) ([]byte, error)
}

// Attach has the clerk exchange acknowledgements and receipts with a worker that was admitted, until detach is called.
// A worker that is attached again before is the newer one.
func (c *Clerk) Attach(id receipt.Digest, l Link) (detach func()) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &peer{c: c, id: id, link: l, ctx: ctx}
	c.mu.Lock()
	c.worker(id).peer = p
	c.fresh = append(c.fresh, p)
	c.mu.Unlock()
	signal(c.kick)
	return func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		if w := c.workers[id]; w != nil && w.peer == p {
			w.peer = nil
		}
	}
}

// run talks with the worker until it goes or the context is done.
func (p *peer) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	for ctx.Err() == nil {
		for p.due() && p.talk(ctx) {
			p.asked = time.Time{} // a whole message waits
		}
		pause(ctx, askEvery)
	}
}

// due tells whether it is time for an exchange.
func (p *peer) due() bool {
	p.c.mu.Lock()
	busy := len(p.acks.Settled)+len(p.acks.Refused)+len(p.c.worker(p.id).waiting) > 0
	p.c.mu.Unlock()
	every := idleEvery
	if busy {
		every = min(idleEvery, askEvery<<min(p.failures, 4))
	}
	return p.asked.IsZero() || time.Since(p.asked) >= every-askEvery/2
}

// talk makes an exchange. It tells whether there is another message's worth to say.
func (p *peer) talk(ctx context.Context) (more bool) {
	acks := p.take()
	p.asked = time.Now()
	if err := p.ask(ctx, acks, p.asked); err != nil {
		p.putBack(acks)
		if p.failures++; p.failures == 1 && ctx.Err() == nil {
			p.c.log.Warn("exchanging receipts with a worker failed, trying again", "worker", p.id.String(), "error", err)
		}
		return false
	}
	p.failures = 0
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return len(p.acks.Settled) >= receipt.AcksMax || len(p.acks.Refused) >= receipt.RefusedMax
}

// take takes as many acknowledgements as one message holds.
func (p *peer) take() (acks receipt.Acks) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	n := min(len(p.acks.Refused), receipt.RefusedMax)
	acks.Refused, p.acks.Refused = p.acks.Refused[:n:n], p.acks.Refused[n:]
	n = min(len(p.acks.Settled), receipt.AcksMax-n)
	acks.Settled, p.acks.Settled = p.acks.Settled[:n:n], p.acks.Settled[n:]
	return acks
}

// putBack keeps acknowledgements that did not get through.
func (p *peer) putBack(acks receipt.Acks) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.acks.Settled = append(acks.Settled, p.acks.Settled...)
	p.acks.Refused = append(acks.Refused, p.acks.Refused...)
}

// settled notes that a receipt is settled. The clerk's lock is held.
func (p *peer) settled(id receipt.Digest) {
	if len(p.acks.Settled) < acksKept {
		p.acks.Settled = append(p.acks.Settled, id)
	}
}

// ask makes one exchange.
func (p *peer) ask(ctx context.Context, acks receipt.Acks, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if p.c.c.Voucher != nil {
		acks.Voucher = p.c.c.Voucher(ctx, p.id)
	}
	text, err := p.link.Exchange(ctx, acks.Marshal())
	if err != nil {
		return err
	}
	if len(text) > AnswerMax {
		return fmt.Errorf("it presents %d bytes of receipts, at most %d", len(text), AnswerMax)
	}
	var items []receipt.Item
	if len(text) > 0 {
		if items, err = receipt.Read(text); err != nil {
			p.c.counts.refuse(BadForm)
			return err
		}
	}
	for i := range items {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.present(items[i].Signed)
	}
	if len(text) < answerFull {
		p.c.silence(p.id, began)
	}
	return nil
}

// silence voids the worker's bills of which it said nothing, though it had the time.
func (c *Clerk) silence(id receipt.Digest, began time.Time) {
	var list []*entry
	c.mu.Lock()
	for _, b := range c.worker(id).waiting {
		if began.Sub(b.since) >= quiet && (b.how != Left || b.chain.Last() == nil) {
			list = append(list, c.void(b, NoWord, nil))
		}
	}
	c.mu.Unlock()
	for _, e := range list {
		c.enqueue(e)
	}
}

// present judges a receipt that the worker presents.
func (p *peer) present(r *receipt.Signed) {
	id, err := RequestID(r.Request)
	if err != nil || [4]byte(id[8:12]) != p.c.c.Tag {
		return // another gateway's
	}
	e, why, err := p.c.judge(p.id, id, r)
	p.c.enqueue(e)
	if err == nil {
		return
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if errors.Is(err, errSettled) {
		p.settled(r.ID())
		return
	}
	if why != "" {
		p.c.refuse(p.c.worker(p.id), r, why, err)
	}
}

// refuse lets a worker know that a receipt is refused. The lock is held.
func (c *Clerk) refuse(w *worker, r *receipt.Signed, why Reason, err error) {
	w.stats.Refused++
	c.counts.refuse(why)
	text := words(why)
	if err != nil {
		text += ": " + err.Error()
	}
	if p := w.peer; p != nil && len(p.acks.Refused) < acksKept {
		p.acks.Refused = append(p.acks.Refused, receipt.Refusal{ID: r.ID(), Why: text[:min(len(text), receipt.WhyMax)]})
	}
	if w.mayLog() {
		c.log.Warn("a worker's receipt is refused", "worker", r.Worker.String(), "request", r.Request, "receipt", r.ID().String(),
			"why", text)
	}
}

// words says a reason to the worker.
func words(why Reason) string {
	switch why {
	case BadSignature:
		return "its signature does not verify"
	case BadKeyset:
		return "this gateway has not attested its keyset"
	case BadTerms:
		return "it is not what was agreed on"
	case BadChain:
		return "it does not fit the request's receipts before it"
	case NotOwn:
		return "it is another worker's"
	case NotFinal:
		return "only a final receipt is paid here, and the request is void"
	case WorkerFault:
		return "the answer was not usable, and the request is void"
	}
	return "there is no hold of the request: it is void, or settled by another receipt"
}

// errSettled says that a receipt is settled already.
var errSettled = errors.New("the receipt is settled")

// judge says what a receipt that a worker presents means: a decision, or an error with why it is refused, or
// errSettled. Neither says that the worker shall keep it for now.
func (c *Clerk) judge(worker receipt.Digest, id ledger.ID, r *receipt.Signed) (*entry, Reason, error) {
	if r.Worker != worker {
		return nil, NotOwn, fmt.Errorf("%s", r.Worker)
	}
	b := c.bill(id)
	if b != nil && b.state.Load() != waiting {
		return nil, "", nil
	}
	if b == nil {
		hold, ok := c.c.Desk.Lookup(id)
		if !ok {
			return c.known(r)
		}
		if b = c.adopt(hold); b == nil {
			return nil, "", nil
		}
	}
	k, err := c.keysets.get(r.Keyset)
	if errors.Is(err, ErrKeyset) {
		return nil, BadKeyset, err
	}
	if err != nil {
		c.log.Error("reading a keyset failed", "keyset", r.Keyset.String(), "error", err)
		return nil, "", nil
	}
	if err := k.verifier.Verify(r); err != nil {
		return nil, BadSignature, err
	}
	e, why, err := c.decide(b, id, k, r)
	if e != nil {
		e.vouched = true
	}
	return e, why, err
}

// known judges a receipt of a request that nothing is held for.
func (c *Clerk) known(r *receipt.Signed) (*entry, Reason, error) {
	_, err := c.c.Log.Find(r.ID())
	switch {
	case err == nil:
		return nil, "", errSettled
	case !errors.Is(err, tally.ErrAbsent):
		c.log.Error("looking for a receipt failed", "receipt", r.ID().String(), "error", err)
		return nil, "", nil
	case r.Cost == 0 && r.Kind == receipt.Final: // nothing is owed
		return nil, "", errSettled
	}
	return nil, NoHold, errors.New("nothing is owed any more")
}

// decide holds a receipt with a good signature against the bill of its request that waits.
func (c *Clerk) decide(b *Bill, id ledger.ID, k *keyset, r *receipt.Signed) (*entry, Reason, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.state.Load() != waiting || b.id != id { // it is another request's by now
		return nil, "", nil
	}
	if err := b.check(k, &r.Receipt); err != nil {
		return nil, BadTerms, err
	}
	if err := b.chain.Jump(r); err != nil && !errors.Is(err, receipt.ErrDuplicate) {
		return nil, BadChain, err
	}
	if r.Kind == receipt.Final || b.how == Left {
		return c.settle(b, r), "", nil
	}
	return c.void(b, NotFinal, r), "", nil
}
