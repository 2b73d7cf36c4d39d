package billing

import (
	"context"
	"maps"
	"slices"
	"time"

	"cocoon/billing/ledger"
)

// trim shortens a journal that is large: it writes again what is open or not posted, and takes the segments before out.
//
// A request that is in memory before the mark is read, or comes into it later, has its record written again here or for
// the first time after the mark. Its lock keeps the order: nothing of it is written meanwhile.
//
// A settlement that is in a batch is written with the batch's name. Should the batch be posted while this goes on, and
// so not be written again, the name says at the next Open that the ledger has it. A batch is in memory before it is
// written to the journal, and until all of its requests have left memory.
func (d *Desk) trim(ctx context.Context) error {
	if d.journal.Size() < d.trimAt {
		return nil
	}
	mark := d.journal.Last()
	if err := d.carryRequests(ctx); err != nil {
		return err
	}
	d.batchMu.Lock()
	batches := slices.Collect(maps.Values(d.batches))
	d.batchMu.Unlock()
	for _, b := range batches {
		if err := d.append(ctx, b.appendRecord(nil)); err != nil {
			return err
		}
	}
	if err := d.journal.Trim(mark); err != nil {
		return err
	}
	d.trimAt = max(d.trimAt, 2*d.journal.Size()) // much may be open: do not do it over and over
	if d.journal.Size() < journalMax/2 {
		d.trimAt = min(d.trimAt, journalMax)
	}
	return nil
}

// all returns the requests of a shard, in the order of their IDs.
func (sh *shard) all() []*request {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	all := make([]*request, 0, len(sh.requests))
	for _, r := range sh.requests {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *request) int { return a.id.Compare(b.id) })
	return all
}

// carriedOnce is how many requests are written again at once: they can't be settled meanwhile.
const carriedOnce = 256

// carryRequests writes the last records of all requests in memory again.
func (d *Desk) carryRequests(ctx context.Context) error {
	for i := range d.shard {
		for requests := range slices.Chunk(d.shard[i].all(), carriedOnce) {
			if err := d.carry(ctx, requests); err != nil {
				return err
			}
		}
	}
	return nil
}

// carry writes the last records of some requests again. Whoever locks several requests does so in the order of their
// IDs.
func (d *Desk) carry(ctx context.Context, requests []*request) error {
	var records [][]byte
	for _, r := range requests {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch r.state {
		case open:
			h := r.asked()
			records = append(records, appendHold(nil, &h))
		case settled:
			var batch ledger.ID
			if r.batch != nil {
				batch = r.batch.id
			}
			s, at := r.settlement()
			records = append(records, appendSettle(nil, r.account.name, &s, at, batch))
		}
	}
	return d.append(ctx, records...)
}

// pruneEvery is how often the archive is looked through.
const pruneEvery = time.Hour

// prune removes what has been in the archive for too long.
func (d *Desk) prune() {
	if d.c.Keep < 0 {
		return
	}
	if err := d.journal.Prune(time.Now().Add(-d.c.Keep)); err != nil {
		d.log.Error("removing old parts of the journal failed, trying again", "error", err)
	}
}
