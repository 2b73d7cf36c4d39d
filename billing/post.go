package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
)

const (
	postBatch  = 2000                   // transfers in one post: large enough to share a transaction's cost, 50 ms of SQL
	gather     = 10 * time.Millisecond  // how long the poster lets settlements come together
	backoffMin = 100 * time.Millisecond // before a failed post is tried again; doubled up to backoffMax
	backoffMax = 5 * time.Second
	stuckEvery = 10 * time.Second // how often a refused transfer is tried again
)

// poster is what folds settlements into the ledger. It is owned by one goroutine.
type poster struct {
	d       *Desk
	pending []*request // in the order of posting
	stuck   []*request // refused by the ledger
	backoff time.Duration
}

// run posts until the context is done.
func (p *poster) run(ctx context.Context) {
	stuck := time.NewTicker(stuckEvery)
	defer stuck.Stop()
	for ctx.Err() == nil {
		wait := gather
		if err := p.post(ctx); err != nil && ctx.Err() == nil {
			p.backoff = min(max(2*p.backoff, backoffMin), backoffMax)
			wait = p.backoff
			p.d.log.Error("posting to the ledger failed, trying again", "error", err, "pending", len(p.pending), "wait", wait)
		} else if p.backoff = 0; len(p.pending) == 0 {
			select {
			case <-p.d.kick:
				p.d.kicked.Store(false)
			case <-stuck.C:
				p.again()
			case <-ctx.Done():
			}
		}
		pause(ctx, wait)
	}
}

// again puts the refused transfers back into the line.
func (p *poster) again() {
	p.pending = append(p.pending, p.stuck...)
	p.d.stuck.Store(0)
	p.stuck = nil
}

// post posts all that is settled, or returns what kept it.
func (p *poster) post(ctx context.Context) error {
	for i := range p.d.shard {
		sh := &p.d.shard[i]
		sh.mu.Lock()
		p.pending = append(p.pending, sh.queue...)
		clear(sh.queue)
		sh.queue = sh.queue[:0]
		sh.mu.Unlock()
	}
	for len(p.pending) > 0 {
		n := min(len(p.pending), postBatch)
		left, err := p.batch(ctx, p.pending[:n:n])
		p.pending = append(left, p.pending[n:]...)
		if err != nil {
			return err
		}
	}
	p.pending = nil
	return nil
}

// batch posts some settlements, without those that the ledger refuses. It returns what is left to do.
func (p *poster) batch(ctx context.Context, batch []*request) ([]*request, error) {
	d := p.d
	if err := d.acquire(ctx); err != nil {
		return batch, err
	}
	defer d.release()
	retried := map[*account]bool{}
	transfers := make([]ledger.Transfer, 0, len(batch))
	for _, r := range batch {
		transfers = append(transfers, transfer(r.account.source, r.settlement, r.at))
	}
	for len(batch) > 0 {
		err := d.postOnce(ctx, transfers)
		if err == nil {
			for _, r := range batch {
				p.posted(r, d.uncertain)
			}
			d.uncertain = false
			return nil, nil
		}
		refusal, ok := errors.AsType[*ledger.Refusal](err)
		i := -1
		if ok {
			i = find(transfers, refusal.ID)
		}
		if i < 0 {
			d.uncertain = true
			return batch, err
		}
		r := batch[i]
		if errors.Is(refusal, ledger.ErrOverdrawn) && d.c.Gateway != "" && !retried[r.account] {
			retried[r.account] = true
			if err := d.cover(ctx, r.account); err != nil {
				return batch, err
			}
			continue
		}
		p.refused(r, refusal)
		batch = append(batch[:i:i], batch[i+1:]...)
		transfers = append(transfers[:i:i], transfers[i+1:]...)
	}
	d.uncertain = false // all of it is refused: none of it was posted before
	return nil, nil
}

func find(transfers []ledger.Transfer, id ledger.ID) int {
	for i := range transfers {
		if transfers[i].ID == id {
			return i
		}
	}
	return -1
}

func (d *Desk) postOnce(ctx context.Context, transfers []ledger.Transfer) error {
	ctx, cancel := context.WithTimeout(ctx, postMax)
	defer cancel()
	return d.c.Ledger.Post(ctx, transfers)
}

// cover asks for what an allotment lacks that was taken back before all of it was posted. The caller has sql.
func (d *Desk) cover(ctx context.Context, a *account) error {
	a.forget()
	if err := d.refresh(ctx, a, 0); err != nil {
		return fmt.Errorf("asking for the allotment of %s: %w", a.name, err)
	}
	return nil
}

// posted closes a settlement that is in the ledger. If it was not sure of an earlier attempt, the balance that is known
// may be from before or after it, and has to be asked for again.
func (p *poster) posted(r *request, unsure bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.account
	a.mu.Lock()
	a.unposted -= r.settlement.Cost
	if a.known {
		a.base -= r.settlement.Cost
	}
	a.known = a.known && !unsure
	a.mu.Unlock()
	p.d.live.Add(-1)
	p.d.unposted.Add(-1)
	p.d.retire(r, posted)
}

// refused takes a transfer out of the line that the ledger refuses. A conflict says that the request is settled there
// with other content: it must not be charged twice, so this settlement is dropped. Another one is tried again later: a
// customer's money was moved behind the Desk's back.
func (p *poster) refused(r *request, why *ledger.Refusal) {
	d, id := p.d, r.settlement.Request.String()
	if errors.Is(why, ledger.ErrConflict) {
		d.conflicts.Add(1)
		d.log.Error("dropped a settlement: the ledger has the request settled otherwise", "request", id)
		a := r.account
		p.posted(r, true)
		a.forget()
		return
	}
	r.account.forget()
	d.stuck.Add(1)
	p.stuck = append(p.stuck, r)
	d.log.Error("the ledger refuses a settlement, trying again later", "request", id, "error", why)
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
