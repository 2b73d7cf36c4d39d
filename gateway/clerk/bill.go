package clerk

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// Ending is how a request ended, as the gateway saw it.
type Ending uint8

// The endings. Package documentation says what follows from each.
const (
	Done   Ending = iota // the answer is complete
	Failed               // the worker's fault, or nothing was delivered
	Cut                  // something was delivered, then the connection to the worker broke
	Left                 // the client left

	orphaned // a crash of the gateway left it over
)

// What an answer can have, so that a receipt is plausible. Whoever reads a stream sees no tokens, only events and
// bytes; what is beyond is not refused, because engines differ, but the operator hears of it.
const (
	// slackTokens are those that engines count and nobody sees: ends of turns, and calls of tools without arguments.
	slackTokens = 64
	// eventTokens are what one event may have: engines that guess ahead or gather send some at once.
	eventTokens = 8
	// eventBytes is what an event has around its text. What is more is text, of which a token has a byte at least.
	eventBytes = 256
)

// Where a bill is in its life.
const (
	open    = iota // the request runs; its goroutine owns the bill
	waiting        // for a receipt
	queued         // what is to happen is decided, and on its way to the disk
)

// Bill is one request's hold and its receipts. Until Close it belongs to one goroutine. When it is closed for good its
// memory serves another request, unless it waited: somebody may have found it then.
type Bill struct {
	c       *Clerk
	t       Terms
	id      ledger.ID
	keyset  *keyset // nil: it has to be looked up
	ceiling nanoton.Amount
	chain   receipt.Chain
	took    [2]receipt.Signed // with the answer: the chain's last is in one of them
	events  int               // relayed
	bytes   int64             // relayed

	// state leaves open with Close, and waiting with the clerk's mu held, which guards the chain while the bill waits.
	state atomic.Int32
	how   Ending    // from Close on
	found bool      // others may know of it
	since time.Time // of Close
	end   entry     // what is decided
}

// Hold holds the ceiling for a request. The errors are the Desk's, ErrKeyset, ErrBacklog and ErrInvalid.
func (c *Clerk) Hold(ctx context.Context, t *Terms, ceiling nanoton.Amount) (*Bill, error) {
	if n := c.waiting.Load() + c.pipe.queued.Load(); n >= BacklogMax {
		return nil, fmt.Errorf("%w: %d", ErrBacklog, n)
	}
	id, err := RequestID(t.Request)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return nil, err
	}
	k, err := c.keysets.get(t.Keyset)
	if err != nil {
		return nil, err
	}
	if _, ok := k.models[t.Model]; !ok || k.worker != t.Worker {
		return nil, fmt.Errorf("%w: keyset %s of worker %s has no %q", ErrKeyset, t.Keyset, k.worker, t.Model)
	}
	h := billing.Hold{Request: id, Account: t.Account, Ceiling: ceiling, Note: t.note()}
	err = c.c.Desk.Hold(ctx, h)
	if errors.Is(err, billing.ErrFunds) && c.pipe.flush(ctx) { // what the account's last request left over may be coming
		err = c.c.Desk.Hold(ctx, h)
	}
	if err != nil {
		return nil, err
	}
	b := c.newBill(t, id, k, ceiling)
	sh := c.shard(id)
	sh.mu.Lock()
	sh.bills[id] = b
	sh.mu.Unlock()
	return b, nil
}

// newBill makes a bill, or takes one that served before.
func (c *Clerk) newBill(t *Terms, id ledger.ID, k *keyset, ceiling nanoton.Amount) *Bill {
	b, _ := c.spare.Get().(*Bill)
	if b == nil {
		b = &Bill{c: c}
	}
	b.t, b.id, b.keyset, b.ceiling, b.chain = *t, id, k, ceiling, receipt.Chain{}
	b.events, b.bytes, b.how, b.since, b.end = 0, 0, Done, time.Time{}, entry{}
	b.state.Store(open) // who comes too late for the last request looks at this alone
	return b
}

// forget takes a bill out that is closed for good.
func (c *Clerk) forget(b *Bill) {
	sh := c.shard(b.id)
	sh.mu.Lock()
	delete(sh.bills, b.id)
	sh.mu.Unlock()
	if !b.found {
		c.spare.Put(b)
	}
}

// Take takes a receipt that came with the answer, in its wire form with or without its last line feed. An error is the
// worker's fault. Its signature is checked only when it is to be paid: the connection was the worker's.
func (b *Bill) Take(wire []byte) error {
	r := &b.took[0]
	if r == b.chain.Last() {
		r = &b.took[1]
	}
	r.Request, r.Model = b.t.Request, b.t.Model // as they will be
	if err := r.ParseEvent(wire); err != nil {
		return b.refused(BadForm, err)
	}
	if err := b.check(b.keyset, &r.Receipt); err != nil {
		return b.refused(BadTerms, err)
	}
	if err := b.chain.Jump(r); err != nil && !errors.Is(err, receipt.ErrDuplicate) {
		return b.refused(BadChain, err)
	}
	return nil
}

func (b *Bill) refused(why Reason, err error) error {
	b.c.counts.refuse(why)
	return err
}

// check checks that a receipt says what was agreed on, and stays below the caps.
func (b *Bill) check(k *keyset, r *receipt.Receipt) error {
	m, ok := k.models[b.t.Model]
	if !ok {
		return fmt.Errorf("%w: it has no %q", ErrKeyset, b.t.Model)
	}
	err := r.Check(receipt.Terms{
		Request: b.t.Request, Worker: b.t.Worker, Keyset: b.t.Keyset, Epoch: k.epoch, Model: b.t.Model,
		Weights: m.weights, Engine: m.engine, Mode: b.t.Mode, Price: b.t.Ask, InMax: b.t.InMax, OutMax: b.t.OutMax,
		Ceiling: b.ceiling,
	})
	switch {
	case err != nil:
		return err
	case r.Req != b.t.Req:
		return mismatch("req", r.Req, b.t.Req)
	case r.Start < k.from:
		return mismatch("start", stamp(r.Start), "not before the keyset's "+stamp(k.from))
	case r.End > k.to:
		return mismatch("end", stamp(r.End), "not after the keyset's "+stamp(k.to))
	}
	cost, err := b.t.Price.Cost(r.Tokens)
	if err == nil && cost > b.ceiling {
		err = mismatch("cost to the customer", int64(cost), fmt.Sprintf("at most %d", int64(b.ceiling)))
	}
	return err
}

func mismatch(field string, got, want any) error {
	return &receipt.MismatchError{Field: field, Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// final is the final receipt, or nil.
func (b *Bill) final() *receipt.Signed {
	if r := b.chain.Last(); r != nil && r.Kind == receipt.Final {
		return r
	}
	return nil
}

// Final is what the request costs the customer, and took, once the final receipt is in hand and its status is not
// error.
func (b *Bill) Final() (cost nanoton.Amount, u offer.Usage, ok bool) {
	r := b.final()
	if r == nil || r.Status == receipt.Error {
		return 0, offer.Usage{}, false
	}
	return b.cost(r), r.Tokens, true
}

// Receipt is the ID of the final receipt, once it is in hand.
func (b *Bill) Receipt() (id receipt.Digest, ok bool) {
	if r := b.final(); r != nil {
		return r.ID(), true
	}
	return receipt.Digest{}, false
}

// cost is what a receipt that was checked costs the customer.
func (b *Bill) cost(r *receipt.Signed) nanoton.Amount {
	cost, err := b.t.Price.Cost(r.Tokens)
	if err != nil {
		panic("clerk: internal error: " + err.Error()) // check has computed it
	}
	return cost
}

// Relayed adds to what the gateway passed on of the answer: events of a stream, and bytes without the receipts.
func (b *Bill) Relayed(events int, bytes int64) {
	b.events += events
	b.bytes += bytes
}

// implausible tells whether a receipt counts more tokens than what was relayed can have. Reasoning need not be relayed.
func (b *Bill) implausible(r *receipt.Signed) bool {
	text := max(0, b.bytes-int64(b.events)*eventBytes)
	return r.Tokens.Out-r.Tokens.Reasoning > slackTokens+int64(b.events)*eventTokens+text
}

// Close says how the request ended. It is called once, and does not wait for disks. What the request costs may turn out
// later: Terms.Closed tells.
func (b *Bill) Close(how Ending) {
	c, r := b.c, b.final()
	b.how, b.since = how, time.Now()
	switch {
	case how == Failed && r != nil && b.cost(r) == 0, how != Failed && r != nil:
		c.enqueue(c.settle(b, r))
	case how == Failed:
		c.enqueue(c.void(b, WorkerFault, r))
	case how == Done:
		c.enqueue(c.void(b, NoReceipt, nil))
	default:
		c.mu.Lock()
		c.await(b)
		c.mu.Unlock()
	}
}
