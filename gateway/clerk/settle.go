package clerk

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

const (
	// gather is how long decisions come together before they go to the disk, and settleEvery how long it is between two
	// batches at least: a sync of the disk costs some tenths of a millisecond of CPU. Nobody waits for them, but who needs
	// the money; then they go at once. What a crash takes back the workers present again.
	gather      = 25 * time.Millisecond
	settleEvery = time.Second
	hurryAt     = 4096                   // decisions, which do not wait for that any longer: a few megabytes
	batchMax    = 2048                   // of them at once: one write to the log
	hurryMax    = 2 * time.Second        // that somebody waits for them
	voidsMax    = 256                    // voids that wait for the journal at once: they share its writes
	backoffMin  = 100 * time.Millisecond // before what failed is tried again; doubled up to backoffMax
	backoffMax  = 5 * time.Second
	flushMax    = 10 * time.Second // for what is left when Run ends: the rest is found again after a restart
)

// entry is a decision about a bill.
type entry struct {
	b    *Bill
	paid *receipt.Signed // what settles it; nil: it is voided
	// refused is the receipt that is refused with it, and why the reason; nil: none is.
	refused *receipt.Signed
	why     Reason
	cost    nanoton.Amount
	usage   offer.Usage
	// vouched: the signature of paid verified. Of receipts that came in band it is not looked at before that: see vouch.
	vouched bool
}

// settle decides that a receipt settles a bill. The lock is held if the bill waits.
func (c *Clerk) settle(b *Bill, r *receipt.Signed) *entry {
	c.decided(b)
	b.end = entry{b: b, paid: r, cost: b.cost(r)}
	if b.billed(r) {
		b.end.usage = r.Tokens
	}
	return &b.end
}

// billed tells whether a request counts in its account's usage.
func (b *Bill) billed(r *receipt.Signed) bool { return b.how != Failed && r.Status != receipt.Error }

// void decides that a bill is void, and that a receipt, if any, is refused. The lock is held if the bill waits.
func (c *Clerk) void(b *Bill, why Reason, refused *receipt.Signed) *entry {
	c.decided(b)
	b.end = entry{b: b, refused: refused, why: why}
	return &b.end
}

// decided takes a bill out of those that wait, if it does; then the lock is held.
func (c *Clerk) decided(b *Bill) {
	if b.state.Load() == waiting {
		delete(c.worker(b.t.Worker).waiting, b.id)
		c.waiting.Add(-1)
	}
	b.state.Store(queued)
}

// await has a bill wait for a receipt. The lock is held.
func (c *Clerk) await(b *Bill) {
	b.found = true
	b.state.Store(waiting)
	c.worker(b.t.Worker).waiting[b.id] = b
	c.waiting.Add(1)
}

// enqueue sends a decision, if there is one, on its way to the disk.
func (c *Clerk) enqueue(e *entry) {
	if e == nil {
		return
	}
	n := c.pipe.queued.Add(1)
	sh, closed, cost, usage := c.shard(e.b.id), e.b.t.Closed, e.cost, e.usage
	sh.mu.Lock()
	sh.queue = append(sh.queue, e) // from here on the bill is the pipeline's
	sh.mu.Unlock()
	c.pipe.wake(n >= hurryAt)
	if closed != nil {
		closed(cost, usage)
	}
}

// batch is decisions that go to the disk together.
type batch struct {
	entries []*entry
	done    chan struct{} // closed when they are there, or given up
}

// pipeline leads the decisions, which wait in the shards, to the disk.
type pipeline struct {
	queued atomic.Int64  // decisions that are not there yet
	kicked atomic.Bool   // kick was signalled for those that wait
	kick   chan struct{} // there are some
	hurry  chan struct{} // somebody waits for them

	mu      sync.Mutex
	current *batch // with the disk; nil: none
	next    *batch // what takes those that wait now
}

func newPipeline() pipeline {
	return pipeline{kick: make(chan struct{}, 1), hurry: make(chan struct{}, 1), next: newBatch()}
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// signal sends to a channel that has room for one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wake says that a decision waits.
func (p *pipeline) wake(hurry bool) {
	if hurry {
		signal(p.hurry)
	}
	if !p.kicked.Load() && p.kicked.CompareAndSwap(false, true) { // a look is cheaper than the channel that all share
		signal(p.kick)
	}
}

// take takes what has come.
func (c *Clerk) take() *batch {
	p := &c.pipe
	p.mu.Lock()
	b := p.next
	p.current, p.next = b, newBatch()
	p.mu.Unlock()
	p.kicked.Store(false) // before the look: what comes behind it signals again
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		b.entries = append(b.entries, sh.queue...)
		clear(sh.queue)
		sh.queue = sh.queue[:0]
		sh.mu.Unlock()
	}
	return b
}

// end ends the batch at hand.
func (p *pipeline) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued.Add(-int64(len(p.current.entries)))
	close(p.current.done)
	p.current = nil
}

// flush waits for what is on its way now, if there is anything, and tells whether there was.
func (p *pipeline) flush(ctx context.Context) (was bool) {
	if p.queued.Load() == 0 {
		return false
	}
	p.mu.Lock()
	list := []*batch{p.current, p.next}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, hurryMax)
	defer cancel()
	for _, b := range list {
		if b == nil {
			continue
		}
		signal(p.hurry)
		signal(p.kick)
		select {
		case <-b.done:
		case <-ctx.Done():
		}
	}
	return true
}

// settleAll takes decisions to the disk until the context is done, and then what is left, within flushMax.
func (c *Clerk) settleAll(ctx context.Context) {
	timer := time.NewTimer(gather)
	defer timer.Stop()
	var began time.Time // the last batch
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-c.pipe.kick:
			timer.Reset(max(gather, settleEvery-time.Since(began)))
			select {
			case <-timer.C:
			case <-c.pipe.hurry:
			case <-ctx.Done():
			}
			began = time.Now()
			c.batch(ctx)
		}
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushMax)
	defer cancel()
	c.batch(late)
}

// batch takes to the disk what has come.
func (c *Clerk) batch(ctx context.Context) {
	b := c.take()
	defer c.pipe.end()
	c.vouch(ctx, b.entries)
	var voids, paid []*entry
	for _, e := range b.entries {
		if e.paid != nil {
			paid = append(paid, e)
		} else {
			voids = append(voids, e)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for part := range slices.Chunk(voids, voidsMax) {
			c.retry(ctx, part, c.voidOnce)
		}
	})
	for part := range slices.Chunk(paid, batchMax) {
		c.retry(ctx, part, c.settleOnce)
	}
	wg.Wait()
}

// retry does what may fail until it is done for all entries, or the context is.
func (c *Clerk) retry(ctx context.Context, list []*entry, once func(context.Context, []*entry) ([]*entry, error)) {
	for wait := backoffMin; ; wait = min(2*wait, backoffMax) {
		left, err := once(ctx, list)
		if len(left) == 0 {
			return
		}
		if ctx.Err() != nil {
			c.log.Error("requests could not be settled; they are found again after the next start", "requests", len(left), "error", err)
			return
		}
		c.counts.retry()
		c.log.Error("settling failed, trying again", "requests", len(left), "error", err, "wait", wait)
		pause(ctx, wait)
		list = left
	}
}

// settleOnce puts receipts into the log and settles; it returns what has to be tried again. The holds are on disk before:
// what the log has is paid.
func (c *Clerk) settleOnce(ctx context.Context, list []*entry) (left []*entry, err error) {
	if err := c.c.Desk.Sync(ctx); err != nil {
		return list, err
	}
	receipts, settlements := make([]*receipt.Signed, len(list)), make([]billing.Settlement, len(list))
	for i, e := range list {
		receipts[i], settlements[i] = e.paid, e.settlement()
	}
	if _, err := c.c.Log.Append(receipts...); err != nil {
		return list, err
	}
	done := make([]*entry, 0, len(list))
	for i, failed := range c.c.Desk.SettleAll(ctx, settlements) {
		e := list[i]
		switch {
		case failed == nil:
		case hopeless(failed): // the Desk's deadline came first, or somebody settled behind our back
			c.log.Error("the Desk refuses a settlement", "request", e.b.t.Request, "error", failed)
			e.refused, e.paid, e.why = e.paid, nil, NoHold
		default:
			left, err = append(left, e), failed
			continue
		}
		done = append(done, e)
	}
	c.over(done)
	return left, err
}

// settlement is what the Desk is told.
func (e *entry) settlement() billing.Settlement {
	r, t := e.paid, &e.b.t
	s := billing.Settlement{
		Request: e.b.id, Cost: e.cost, Share: r.Cost, Fee: e.cost - r.Cost, Receipt: r.ID(),
	}
	if r.Cost > 0 {
		if k := e.b.keyset; k != nil { // whose name costs nothing
			s.Worker = k.account
		} else {
			s.Worker = workerAccount(r.Worker)
		}
	}
	if e.b.billed(r) {
		u := r.Tokens
		s.Line = billing.Line{Key: t.Key, Item: t.Model, User: t.User, Counts: [4]int64{u.In, u.Cached, u.Out, u.Reasoning}}
	}
	return s
}

// workerAccount is where a worker's earnings go.
func workerAccount(worker receipt.Digest) ledger.Account {
	return ledger.Account("worker:" + worker.String())
}

// voidOnce voids; it returns what has to be tried again.
func (c *Clerk) voidOnce(ctx context.Context, list []*entry) (left []*entry, err error) {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, e := range list {
		wg.Go(func() { errs[i] = c.c.Desk.Void(ctx, e.b.id) })
	}
	wg.Wait()
	var done []*entry
	for i, e := range list {
		switch failed := errs[i]; {
		case failed == nil, errors.Is(failed, billing.ErrUnknown):
			done = append(done, e)
		case hopeless(failed):
			c.log.Error("the Desk refuses a void", "request", e.b.t.Request, "error", failed)
			done = append(done, e)
		default:
			left, err = append(left, e), failed
		}
	}
	c.over(done)
	return left, err
}

// hopeless tells whether trying again would give the same.
func hopeless(err error) bool {
	for _, e := range []error{billing.ErrUnknown, billing.ErrConflict, billing.ErrCeiling, billing.ErrInvalid} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// over forgets bills that are closed on disk, and lets the workers know.
func (c *Clerk) over(list []*entry) {
	c.counts.over(list)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range list {
		w := c.worker(e.b.t.Worker)
		if e.paid != nil {
			c.count(w, e)
		}
		switch {
		case e.paid != nil && w.peer != nil: // else it presents the receipt again when it is back
			w.peer.settled(e.paid.ID())
		case e.refused != nil:
			c.refuse(w, e.refused, e.why, nil)
		}
		c.forget(e.b) // the last that is known of e
	}
}

// count counts what a worker was paid for. The lock is held.
func (c *Clerk) count(w *worker, e *entry) {
	w.stats.Settled++
	b, r := e.b, e.paid
	if b.how != Done {
		return
	}
	w.stats.Tokens += r.Tokens.Out - r.Tokens.Reasoning
	w.stats.Events += int64(b.events)
	w.stats.Bytes += b.bytes
	if !b.implausible(r) {
		return
	}
	w.stats.Implausible++
	if w.mayLog() {
		c.log.Warn("a receipt counts more tokens than its answer can have", "worker", r.Worker.String(),
			"request", r.Request, "out", r.Tokens.Out, "reasoning", r.Tokens.Reasoning, "events", b.events, "bytes", b.bytes)
	}
}

// pause waits, or until the context is done.
func pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
