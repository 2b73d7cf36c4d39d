package billing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
)

const hasBatch = 1000 // transfers that the ledger is asked for at once

// recover brings memory to where the journal says that it was.
func (d *Desk) recover(ctx context.Context) error {
	var settlements []*request
	err := d.journal.Replay(func(seq uint64, b []byte) error {
		rec, err := parseRecord(b)
		if err == nil {
			var r *request
			if r, err = d.replay(rec); r != nil {
				settlements = append(settlements, r)
			}
		}
		if err != nil {
			return fmt.Errorf("record %d of the journal: %w", seq, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for len(settlements) > 0 {
		n := min(hasBatch, len(settlements))
		if err := d.replaySettled(ctx, settlements[:n]); err != nil {
			return err
		}
		settlements = settlements[n:]
	}
	deadline := time.Now().Add(d.c.Deadline)
	for i := range d.shard {
		for id, r := range d.shard[i].requests {
			if r.state == open {
				r.account = d.account(r.hold.Account)
				r.account.held += r.hold.Ceiling
				d.live.Add(1)
				d.left[id] = left{r, deadline}
			}
		}
	}
	return d.join(ctx)
}

// replay takes one record. It returns a request that is settled by it. Records that trimming wrote again come twice;
// the beginning of a request may be gone.
func (d *Desk) replay(rec record) (*request, error) {
	id := rec.hold.Request
	r := d.at(id).requests[id]
	if r == nil {
		if rec.kind == voidRecord { // its hold is trimmed
			return nil, nil
		}
		r = &request{}
		d.at(id).requests[id] = r
	}
	switch {
	case rec.kind == holdRecord && (r.state == fresh || r.state == open):
		// Another content: the first one's write failed, but persisted, and its caller was told so.
		r.state, r.hold = open, rec.hold
	case rec.kind == holdRecord: // one name used twice, after it was forgotten
		d.at(id).requests[id] = &request{state: open, hold: rec.hold}
	case rec.kind == voidRecord && r.state == open:
		d.retire(r, voided)
	case rec.kind == voidRecord && r.state == voided:
	case rec.kind == settleRecord && (r.state == fresh || r.state == open):
		r.state, r.hold = settled, Hold{Request: id, Account: rec.hold.Account}
		r.settlement, r.at = rec.settlement, rec.at
		return r, nil
	case rec.kind == settleRecord && r.state == settled && r.settlement == rec.settlement:
	default:
		return nil, fmt.Errorf("%w: %c of request %s, which is closed otherwise", errRecord, rec.kind, id)
	}
	return nil, nil
}

// replaySettled sorts settlements into those that the ledger has and those that are to be posted.
func (d *Desk) replaySettled(ctx context.Context, batch []*request) error {
	ids := make([]ledger.ID, len(batch))
	for i, r := range batch {
		ids[i] = TransferID(kindSettle, r.settlement.Request)
	}
	has, err := d.c.Ledger.Has(ctx, ids...)
	if err != nil {
		return fmt.Errorf("comparing journal and ledger: %w", err)
	}
	for i, r := range batch {
		if has[i] {
			d.retire(r, posted)
			continue
		}
		if r.settlement.Cost > 0 {
			r.account = d.account(r.hold.Account)
			r.account.unposted += r.settlement.Cost
		}
		d.live.Add(1)
		d.settle(r, r.settlement, r.at)
	}
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
