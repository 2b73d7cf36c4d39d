package billing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
)

const (
	idleAfter  = 10 * time.Second // an allotment that nothing was held from goes back; others may need it
	evictAfter = 10 * time.Minute // an account without allotment that is not used leaves memory
	reread     = 10 * time.Second // how old the balance of an account in use may be
	flushMax   = 10 * time.Second // for what is left to post when Run ends
)

// Run posts settlements, renews the lease, refills and returns allotments, reclaims those of dead gateways, voids what
// a crash left over when its time is up, and trims the journal. It returns nil when the context is done, after it tried
// to post the rest, or journal.ErrBroken soon after an fsync failed: start anew then. Call it once.
func (d *Desk) Run(ctx context.Context) error {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newPoster(d)
	var wg sync.WaitGroup
	wg.Go(func() { p.run(running) })
	wg.Go(func() { d.keep(running) })
	var err error
	select {
	case <-ctx.Done():
	case <-d.broken:
		err = fmt.Errorf("running the desk: %w", journal.ErrBroken)
	}
	cancel()
	wg.Wait()
	flush, done := context.WithTimeout(context.WithoutCancel(ctx), flushMax)
	defer done()
	p.again()
	if failed := p.post(flush); failed != nil {
		d.log.Error("the rest of the journal is posted after the next start", "error", failed, "unposted", d.unposted.Load())
	} else {
		d.giveBack(flush, 0)
	}
	return err
}

// keep does what comes with time.
func (d *Desk) keep(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var beat, reclaimed, pruned time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-d.refills:
			d.fill(ctx, a)
			continue
		case <-ticker.C:
		}
		if d.c.Gateway != "" && time.Since(beat) >= d.c.Lease/3 {
			if d.heartbeat(ctx) {
				beat = time.Now()
			}
		}
		if d.c.Gateway != "" && time.Since(reclaimed) >= d.c.Lease/2 {
			d.reclaim(ctx)
			reclaimed = time.Now()
		}
		_ = d.noticed(d.journal.Broken()) // by an fsync that nobody waited for
		d.expire(ctx)
		d.rereadBalances(ctx)
		d.giveBack(ctx, idleAfter)
		if err := d.trim(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("trimming the journal failed, trying again", "error", err)
		}
		if time.Since(pruned) >= pruneEvery {
			d.prune()
			pruned = time.Now()
		}
	}
}

// fill refills an allotment.
func (d *Desk) fill(ctx context.Context, a *account) {
	err := d.acquire(ctx)
	if err == nil {
		a.mu.Lock()
		skip := a.gone || a.free() >= a.ahead()
		a.mu.Unlock()
		if !skip {
			err = d.refresh(ctx, a, 0)
		}
		d.release()
	}
	a.mu.Lock()
	a.filling = false
	a.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		d.log.Warn("refilling an allotment failed", "account", string(a.name), "error", err)
	}
}

// heartbeat renews the lease and says whether it could.
func (d *Desk) heartbeat(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	lease := time.Since(d.start) + d.c.Lease
	err := d.c.Ledger.Heartbeat(ctx, d.c.Gateway, time.Now().Add(d.c.Lease))
	switch {
	case err == nil:
		d.renewed(lease)
	case errors.Is(err, ledger.ErrReclaimed):
		d.lease.Store(0) // the next hold forgets all balances and asks
		d.log.Warn("the lease had ended, allotments were taken back")
	default:
		d.log.Warn("renewing the lease failed", "error", err)
	}
	return err == nil
}

// reclaim takes back what dead gateways had.
func (d *Desk) reclaim(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, postMax)
	defer cancel()
	back, err := d.c.Ledger.Reclaim(ctx, time.Now())
	if err != nil {
		d.log.Warn("reclaiming allotments failed", "error", err)
	}
	for _, b := range back {
		d.log.Info("reclaimed an allotment", "gateway", b.Gateway, "account", string(b.Customer), "nanoton", int64(b.Amount))
	}
}

// expire voids the holds that nobody settled in time.
func (d *Desk) expire(ctx context.Context) {
	now := time.Now()
	var due []*request
	d.leftMu.Lock()
	for id, l := range d.left {
		if !now.Before(l.deadline) {
			due = append(due, l.r)
			delete(d.left, id) // a void that fails puts it back
		}
	}
	d.leftMu.Unlock()
	for _, r := range due {
		r.mu.Lock()
		if r.state == open {
			if err := d.void(ctx, r); err != nil {
				d.log.Error("voiding a hold that was left over failed", "request", r.id.String(), "error", err)
			} else {
				d.log.Warn("voided a hold that was left over", "request", r.id.String())
			}
		}
		r.mu.Unlock()
	}
}

// rereadBalances reads the balances of accounts in use, which others may have changed. With allotments nobody may.
func (d *Desk) rereadBalances(ctx context.Context) {
	now := time.Now()
	for a := range d.accounts.all {
		a.mu.Lock()
		a.demand /= 2
		a.letGo(now)
		inUse := now.Sub(a.usedUntil()) < reread
		stale := a.credited || now.Sub(a.checked) >= reread && inUse
		old := d.c.Gateway == "" && a.known && stale
		a.mu.Unlock()
		if !old || d.acquire(ctx) != nil {
			continue
		}
		if !d.uncertain {
			if err := d.refresh(ctx, a, 0); err != nil && ctx.Err() == nil {
				d.log.Warn("reading a balance failed", "account", string(a.name), "error", err)
			}
		}
		d.release()
	}
}

// giveBack returns the allotments that have been idle that long, and forgets accounts that nothing is held of.
func (d *Desk) giveBack(ctx context.Context, idle time.Duration) {
	for a := range d.accounts.all {
		after := idle
		if d.c.Gateway == "" {
			after = max(idle, evictAfter)
		}
		a.mu.Lock()
		quiet := a.quiet(after)
		a.mu.Unlock()
		if !quiet {
			continue
		}
		if d.acquire(ctx) != nil {
			return
		}
		err := d.giveBackOne(ctx, a, after)
		d.release()
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("releasing an allotment failed", "account", string(a.name), "error", err)
			}
			return // the next tick tries again
		}
	}
}

// quiet says whether nothing of the account is in use and nothing was for that long. The lock is held.
func (a *account) quiet(idle time.Duration) bool {
	return a.held == 0 && a.unposted == 0 && a.leaving == 0 && a.unsure == 0 && time.Since(a.usedUntil()) >= idle
}

// giveBackOne releases and forgets one account, if it is still quiet. From when it is not known any more, holds wait
// for sql, which the caller has; then they find it gone.
func (d *Desk) giveBackOne(ctx context.Context, a *account, idle time.Duration) error {
	a.mu.Lock()
	quiet := a.quiet(idle) && !a.gone
	if quiet {
		a.base, a.known = 0, false
	}
	a.mu.Unlock()
	if !quiet {
		return nil
	}
	if d.c.Gateway != "" {
		ctx, cancel := context.WithTimeout(ctx, askMax)
		defer cancel()
		if err := d.c.Ledger.Release(ctx, d.c.Gateway, a.name); err != nil {
			return err
		}
	}
	a.mu.Lock()
	a.gone = true
	a.mu.Unlock()
	d.accounts.remove(a.name)
	return nil
}
