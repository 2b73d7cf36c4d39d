package billing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cocoon/billing/ledger"
)

const hasBatch = 1000 // transfers that the ledger is asked for at once

// replayed is what the journal says, as far as it has been read.
type replayed struct {
	d       *Desk
	batches map[ledger.ID]*record      // by their IDs
	order   []ledger.ID                // of the batches
	open    map[ledger.ID]Hold         // by request
	in      map[ledger.ID]ledger.ID    // by request: the batch that it is in
	settled map[ledger.ID]*replayedOne // by request
}

// replayedOne is a settlement of the journal.
type replayedOne struct {
	account    ledger.Account
	settlement Settlement
	at         time.Time
}

// recover brings memory to where the journal says that it was.
func (d *Desk) recover(ctx context.Context) error {
	p := &replayed{
		d: d, batches: map[ledger.ID]*record{}, open: map[ledger.ID]Hold{}, in: map[ledger.ID]ledger.ID{},
		settled: map[ledger.ID]*replayedOne{},
	}
	err := d.journal.Replay(func(seq uint64, b []byte) error {
		rec, err := parseRecord(b)
		if err == nil {
			err = p.take(&rec)
		}
		if err != nil {
			return fmt.Errorf("record %d of the journal: %w", seq, err)
		}
		return nil
	})
	if err == nil {
		err = p.finish(ctx)
	}
	if err != nil {
		return err
	}
	deadline := time.Now().Add(d.c.Deadline)
	for id, h := range p.open {
		r := &request{id: id, state: open, account: d.account(h.Account), ceiling: h.Ceiling, note: h.Note}
		r.account.held += r.ceiling
		d.left[id] = left{r, deadline}
		d.put(r)
	}
	return d.join(ctx)
}

// take takes one record. Records that trimming wrote again come twice; the beginning of a request may be gone.
func (p *replayed) take(rec *record) error {
	id := rec.hold.Request
	_, held := p.open[id]
	one := p.settled[id]
	hash := p.d.hash(id)
	sh := p.d.at(hash)
	was, closed := sh.closed.recall(hash)
	switch rec.kind {
	case holdRecord:
		// Another one's write failed, but persisted, and its caller was told so; or a name is used again that was
		// forgotten.
		sh.closed.forget(hash)
		p.open[id] = rec.hold
		delete(p.settled, id)
		delete(p.in, id)
		return nil
	case voidRecord:
		if one != nil || closed && was != voided {
			break
		}
		delete(p.open, id)
		sh.remember(closing{hash, voided})
		return nil
	case settleRecord, carriedRecord:
		if one != nil && one.settlement != rec.settlement || one == nil && !held && closed {
			break
		}
		delete(p.open, id)
		p.settled[id] = &replayedOne{rec.hold.Account, rec.settlement, rec.at}
		if _, ok := p.in[id]; !ok && rec.kind == carriedRecord {
			p.in[id] = rec.batch
		}
		return nil
	case batchRecord:
		return p.takeBatch(rec)
	}
	return fmt.Errorf("%w: %c of request %s, which is closed otherwise", errRecord, rec.kind, id)
}

func (p *replayed) takeBatch(rec *record) error {
	if was := p.batches[rec.batch]; was != nil {
		if was.source != rec.source || !was.at.Equal(rec.at) || !slices.Equal(was.requests, rec.requests) {
			return fmt.Errorf("%w: batch %s is there with other content", errRecord, rec.batch)
		}
		return nil
	}
	p.batches[rec.batch] = rec
	p.order = append(p.order, rec.batch)
	for _, id := range rec.requests {
		if other := p.in[id]; other != rec.batch && p.batches[other] != nil {
			return fmt.Errorf("%w: request %s is in the batches %s and %s", errRecord, id, other, rec.batch)
		}
		p.in[id] = rec.batch
	}
	return nil
}

// finish sorts settlements into those that the ledger has and those that are to be posted.
func (p *replayed) finish(ctx context.Context) error {
	asked := map[ledger.ID]bool{} // batches that are known, or at least named
	for id := range p.batches {
		asked[id] = true
	}
	for _, id := range p.in {
		asked[id] = true
	}
	has := map[ledger.ID]bool{}
	for ids := range slices.Chunk(slices.Collect(maps.Keys(asked)), hasBatch) {
		answers, err := p.d.c.Ledger.Has(ctx, ids...)
		if err != nil {
			return fmt.Errorf("comparing journal and ledger: %w", err)
		}
		for i, id := range ids {
			has[id] = answers[i]
		}
	}
	for id, one := range p.settled {
		batch, in := p.in[id]
		switch {
		case in && has[batch] || one.settlement.empty():
			hash := p.d.hash(id)
			p.d.at(hash).remember(closing{hash, p.d.outcome(&one.settlement)})
		case in && p.batches[batch] != nil: // below
		default: // in no batch, or in one whose record never reached the disk: nobody can have posted it
			r := p.restore(one)
			p.d.enqueue([]queued{{r, r.account}})
		}
	}
	for _, id := range p.order {
		if has[id] {
			continue
		}
		if err := p.restoreBatch(p.batches[id]); err != nil {
			return err
		}
	}
	return nil
}

// restore puts a settlement that is not posted into memory.
func (p *replayed) restore(one *replayedOne) *request {
	d := p.d
	r := &request{id: one.settlement.Request, account: d.account(one.account)}
	r.settle(&one.settlement, one.at)
	r.account.unposted += r.cost
	d.put(r)
	return r
}

// put puts a request into memory, while nobody else uses the Desk.
func (d *Desk) put(r *request) {
	hash := d.hash(r.id)
	d.at(hash).requests[hash] = r
	d.live.Add(1)
}

// restoreBatch puts a batch that is not posted into memory.
func (p *replayed) restoreBatch(rec *record) error {
	d := p.d
	b := &batch{id: rec.batch, at: rec.at, account: d.account(rec.hold.Account), written: true}
	if b.account.source != rec.source {
		const format = "batch %s is still to be posted from %s, and this gateway posts from %s: start it with its old name once"
		return fmt.Errorf(format, rec.batch, rec.source, b.account.source)
	}
	for _, id := range rec.requests {
		one := p.settled[id]
		if one == nil || one.account != rec.hold.Account {
			return fmt.Errorf("%w: batch %s is not posted, and the settlement of request %s is gone", errRecord, rec.batch, id)
		}
		d.unposted.Add(1)
		b.requests = append(b.requests, p.restore(one))
	}
	d.seal(b)
	d.batches[b.id] = b
	d.recovered = append(d.recovered, b)
	return nil
}

// join begins the lease of a gateway and reads what is allotted to it.
func (d *Desk) join(ctx context.Context) error {
	if d.c.Gateway == "" {
		return nil
	}
	lease := time.Since(d.start) + d.c.Lease
	err := d.c.Ledger.Heartbeat(ctx, d.c.Gateway, time.Now().Add(d.c.Lease))
	if errors.Is(err, ledger.ErrReclaimed) {
		return nil // the first hold asks and begins a new lease
	}
	if err != nil {
		return fmt.Errorf("beginning the lease: %w", err)
	}
	prefix := "allotment:" + d.c.Gateway + ":"
	all, err := d.c.Ledger.Balances(ctx, prefix)
	if err != nil {
		return fmt.Errorf("reading allotments: %w", err)
	}
	for name, balance := range all {
		a := d.account("customer:" + name[len(prefix):])
		a.base, a.known = balance, true
	}
	d.renewed(lease)
	return nil
}
