package billing

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
)

const (
	postBatches = 500                    // transfers in one post: large enough to share a transaction's cost, 20 ms of SQL
	gather      = 10 * time.Millisecond  // how long the poster lets settlements come together
	postEvery   = time.Second            // between two posts at least: one costs 2 ms, and a microsecond a request
	backoffMin  = 100 * time.Millisecond // before a failed post is tried again; doubled up to backoffMax
	backoffMax  = 5 * time.Second
	stuckEvery  = 10 * time.Second // how often a refused transfer is tried again
)

// poster is what folds settlements into the ledger. It is owned by one goroutine.
type poster struct {
	d       *Desk
	pending []*batch // in the order of posting
	stuck   []*batch // refused by the ledger
	backoff time.Duration
	began   time.Time // when the last post did
	buf     []byte    // for records on their way to the journal, which copies them
	spare   []queued  // for the Desk's queue
}

// newPoster starts with what the journal had in batches that the ledger lacks.
func newPoster(d *Desk) *poster {
	p := &poster{d: d, pending: d.recovered}
	d.recovered = nil
	return p
}

// run posts until the context is done.
func (p *poster) run(ctx context.Context) {
	stuck := time.NewTicker(stuckEvery)
	defer stuck.Stop()
	for ctx.Err() == nil {
		if err := p.post(ctx); err != nil && ctx.Err() == nil {
			p.backoff = min(max(2*p.backoff, backoffMin), backoffMax)
			p.d.log.Error("posting to the ledger failed, trying again",
				"error", err, "unposted", p.d.unposted.Load(), "wait", p.backoff)
			pause(ctx, p.backoff)
			continue
		}
		p.backoff = 0
		select {
		case <-p.d.kick:
			p.d.kicked.Store(false)
			pause(ctx, max(gather, postEvery-time.Since(p.began)))
		case <-stuck.C:
			p.again()
		case <-ctx.Done():
		}
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
	p.began = time.Now()
	p.collect()
	if err := p.write(ctx); err != nil {
		return fmt.Errorf("writing what is to be posted to the journal: %w", err)
	}
	for len(p.pending) > 0 {
		n := min(len(p.pending), postBatches)
		left, err := p.some(ctx, slices.Clone(p.pending[:n]))
		p.pending = append(left, p.pending[n:]...)
		if err != nil {
			return err
		}
	}
	p.pending = nil
	return nil
}

// collect makes batches of the settlements that are queued.
func (p *poster) collect() {
	d := p.d
	d.queueMu.Lock()
	queue := d.queue
	d.queue = p.spare[:0]
	d.queueMu.Unlock()
	var accounts []*account
	for _, q := range queue {
		if q.a.waiting++; q.a.waiting == 1 {
			accounts = append(accounts, q.a)
		}
	}
	for _, q := range queue {
		if q.a.queue == nil {
			q.a.queue = make([]*request, 0, q.a.waiting)
		}
		q.a.queue = append(q.a.queue, q.r)
	}
	clear(queue)
	p.spare = queue
	for _, a := range accounts {
		for requests := range slices.Chunk(a.queue, batchRequests) {
			b := d.newBatch(a, requests)
			d.batchMu.Lock()
			d.batches[b.id] = b // before it is in the journal: see trim
			d.batchMu.Unlock()
			p.pending = append(p.pending, b)
		}
		a.queue, a.waiting = nil, 0 // it is the batches' now
	}
}

// write writes the batches to the journal that are not in it.
func (p *poster) write(ctx context.Context) error {
	var batches []*batch
	var records [][]byte
	p.buf = p.buf[:0]
	flush := func() error {
		if len(records) == 0 {
			return nil
		}
		if err := p.d.append(ctx, records...); err != nil {
			return err
		}
		for _, b := range batches {
			b.written = true
		}
		batches, records, p.buf = batches[:0], records[:0], p.buf[:0]
		return nil
	}
	for _, b := range p.pending {
		if b.written {
			continue
		}
		if len(p.buf)+b.recordSize() > journal.AppendMax/2 { // half: their heads need room too
			if err := flush(); err != nil {
				return err
			}
		}
		from := len(p.buf)
		p.buf = b.appendRecord(p.buf)
		batches, records = append(batches, b), append(records, p.buf[from:])
	}
	return flush()
}

// some posts some batches, without those that the ledger refuses. It returns what is left to do.
func (p *poster) some(ctx context.Context, batches []*batch) ([]*batch, error) {
	d := p.d
	if err := d.acquire(ctx); err != nil {
		return batches, err
	}
	defer d.release()
	retried := map[*account]bool{}
	for len(batches) > 0 {
		err := d.postOnce(ctx, batches)
		if err == nil {
			for _, b := range batches {
				d.posted(b, d.uncertain)
			}
			d.uncertain = false
			return nil, nil
		}
		refusal, ok := errors.AsType[*ledger.Refusal](err)
		i := -1
		if ok {
			i = slices.IndexFunc(batches, func(b *batch) bool { return b.id == refusal.ID })
		}
		if i < 0 {
			d.uncertain = true
			return batches, err
		}
		b := batches[i]
		if errors.Is(refusal, ledger.ErrOverdrawn) && d.c.Gateway != "" && !retried[b.account] {
			retried[b.account] = true
			if err := d.cover(ctx, b.account); err != nil {
				return batches, err
			}
			continue
		}
		p.refused(b, refusal)
		batches = slices.Delete(batches, i, i+1)
	}
	d.uncertain = false // all of it is refused: none of it was posted before
	return nil, nil
}

func (d *Desk) postOnce(ctx context.Context, batches []*batch) error {
	ctx, cancel := context.WithTimeout(ctx, postMax)
	defer cancel()
	transfers := make([]ledger.Transfer, len(batches))
	for i, b := range batches {
		transfers[i] = b.transfer
	}
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

// posted closes the settlements of a batch that is in the ledger. If it was not sure of an earlier attempt, the balance
// that is known may be from before or after it, and has to be asked for again.
func (d *Desk) posted(b *batch, unsure bool) {
	for i, r := range b.requests {
		r.mu.Lock()
		d.retire(r, b.closings[i])
		r.mu.Unlock()
	}
	a := b.account
	a.mu.Lock()
	a.unposted -= b.cost
	if a.known {
		a.base -= b.cost
	}
	a.known = a.known && !unsure
	a.mu.Unlock()
	d.live.Add(-int64(len(b.requests)))
	d.unposted.Add(-int64(len(b.requests)))
	d.batchMu.Lock()
	delete(d.batches, b.id)
	d.batchMu.Unlock()
}

// refused takes a batch out of the line that the ledger refuses. A conflict says that the ledger has a transfer of that
// name with other content: it must not be charged twice, so these settlements are dropped. Another one is tried again
// later: a customer's money was moved behind the Desk's back.
func (p *poster) refused(b *batch, why *ledger.Refusal) {
	d, id := p.d, b.id.String()
	if errors.Is(why, ledger.ErrConflict) {
		d.conflicts.Add(int64(len(b.requests)))
		d.log.Error("dropped settlements: the ledger has their transfer with other content",
			"transfer", id, "requests", len(b.requests))
		d.posted(b, true)
		b.account.forget()
		return
	}
	b.account.forget()
	d.stuck.Add(int64(len(b.requests)))
	p.stuck = append(p.stuck, b)
	d.log.Error("the ledger refuses settlements, trying again later",
		"transfer", id, "requests", len(b.requests), "error", why)
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
