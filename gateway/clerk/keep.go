package clerk

import (
	"context"
	"errors"
	"sync"
	"time"

	"cocoon/billing"
	"cocoon/billing/tally"
	"cocoon/internal/receipt"
)

// lookEvery is how often it is looked whether the Desk still holds what a crash left over.
const lookEvery = 10 * time.Second

// Run settles, talks with workers, and ends what waited too long. It returns nil when the context is done and what was
// decided is on disk, or flushMax has passed. Call it once.
func (c *Clerk) Run(ctx context.Context) error {
	c.reconcile()
	var wg sync.WaitGroup
	peers, stop := context.WithCancel(ctx)
	wg.Go(func() { c.settleAll(ctx) })
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var looked time.Time
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-c.kick:
			for _, p := range c.attached() {
				wg.Go(func() { p.run(peers) })
			}
		case now := <-ticker.C:
			c.expire(now)
			if now.Sub(looked) >= lookEvery {
				c.lookUp()
				looked = now
			}
		}
	}
	stop()
	wg.Wait()
	return nil
}

// attached takes the workers that came since the last time.
func (c *Clerk) attached() []*peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.fresh
	c.fresh = nil
	return list
}

// recover takes the holds that a crash left over.
func (c *Clerk) recover() {
	for _, r := range c.c.Desk.Recovered() {
		c.adopt(r.Hold)
	}
}

// adopt makes a bill of a hold that nobody has. It is nil if the note can't be read: then the Desk's deadline ends it.
func (c *Clerk) adopt(h billing.Hold) *Bill {
	t, err := parseNote(h.Request, h.Account, h.Note)
	if err != nil {
		c.log.Error("a hold is left over that can't be read; it is voided at its deadline", "request", h.Request.String(), "error", err)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	sh := c.shard(h.Request)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b := sh.bills[h.Request]; b != nil {
		return b
	}
	b := &Bill{c: c, t: *t, id: h.Request, ceiling: h.Ceiling, how: orphaned, since: time.Now()}
	sh.bills[h.Request] = b
	c.await(b)
	return b
}

// reconcile settles what a crash left over with its receipt in the log.
func (c *Clerk) reconcile() {
	for _, b := range c.orphans() {
		at, err := c.c.Log.FindRequest(b.t.Request)
		var r *receipt.Signed
		if err == nil {
			r, err = c.c.Log.Get(at)
		}
		if errors.Is(err, tally.ErrAbsent) {
			continue
		}
		var k *keyset
		if err == nil {
			k, err = c.keysets.get(r.Keyset)
		}
		if err == nil {
			c.mu.Lock()
			var e *entry
			if err = b.check(k, &r.Receipt); err == nil && b.state.Load() == waiting {
				e = c.settle(b, r)
				e.vouched = true // what is in the log was
			}
			c.mu.Unlock()
			c.enqueue(e)
		}
		if err != nil {
			c.log.Error("a receipt that is in the log does not settle its hold", "request", b.t.Request, "error", err)
		}
	}
}

// orphans are the bills that a crash left over.
func (c *Clerk) orphans() (list []*Bill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.workers {
		for _, b := range w.waiting {
			if b.how == orphaned {
				list = append(list, b)
			}
		}
	}
	return list
}

// lookUp forgets the bills that the Desk has voided at their deadline.
func (c *Clerk) lookUp() {
	for _, b := range c.orphans() {
		if _, ok := c.c.Desk.Lookup(b.id); ok {
			continue
		}
		c.mu.Lock()
		if b.state.Load() == waiting {
			c.decided(b)
			c.forget(b)
			c.counts.over([]*entry{{b: b, why: Patience}})
		}
		c.mu.Unlock()
	}
}

// expire ends what waited too long. After a crash that is the Desk's.
func (c *Clerk) expire(now time.Time) {
	var due []*Bill
	c.mu.Lock()
	for _, w := range c.workers {
		for _, b := range w.waiting {
			if b.how != orphaned && now.Sub(b.since) >= c.c.Patience {
				due = append(due, b)
			}
		}
	}
	c.mu.Unlock()
	for _, b := range due {
		c.enqueue(c.giveUp(b))
	}
}

// giveUp decides about a bill whose worker stays away. What the client caused before it left by itself is paid by the
// last interim receipt.
func (c *Clerk) giveUp(b *Bill) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.state.Load() != waiting {
		return nil
	}
	r := b.chain.Last()
	if b.how == Left && r != nil {
		if err := b.keyset.verifier.Verify(r); err == nil {
			e := c.settle(b, r)
			e.vouched = true
			return e
		}
		c.counts.refuse(BadSignature)
	}
	return c.void(b, Patience, nil)
}
