package billing

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// auditOnce is how many batches the ledger is asked for at once.
	auditOnce = 500
	// auditClosed bounds the closed requests and batches that an audit remembers, to find those that are closed twice:
	// days of traffic, some hundred MB. A request that is settled again after twice as many others is not found here.
	auditClosed = 8 << 20
)

// AuditConfig says what Audit compares.
type AuditConfig struct {
	Dir     string // folder of the journal
	Gateway string // that of the Desk's Config
	// Check is asked of every settlement whose hold is known, for what the caller knows of it, such as its receipt. Its
	// error is the difference. Nil: nothing more is checked.
	Check func(Hold, Settlement) error
}

// AuditReport says what an audit found.
type AuditReport struct {
	Holds, Settled, Voided int
	Open                   int // holds that are neither settled nor voided
	Unbatched              int // settlements that are on their way into a batch
	Batches                int // of settlements, that are in the ledger as they should be
	Pending                int // batches that are on their way to the ledger
	// Unheld are settlements whose hold, and Incomplete batches of which a settlement, is from before the archive begins:
	// not checked against it. Both are 0 if it was never pruned.
	Unheld, Incomplete int
	Cost, Share, Fee   nanoton.Amount // of all that is settled
	Difference         string         // the first thing that is wrong, in words; empty if all of it holds
}

// OK says whether all of it holds.
func (r AuditReport) OK() bool { return r.Difference == "" }

// differenceError ends an audit: its text is the difference.
type differenceError string

func (e differenceError) Error() string { return string(e) }

func difference(format string, args ...any) error {
	return differenceError(fmt.Sprintf(format, args...))
}

// Audit reads the archive and the journal of a Desk, which may be running, and compares them with the ledger. No
// request is closed twice, none costs more than was held, and every batch of settlements is in the ledger with exactly
// what its requests add up to, or on its way there. Unless the archive was pruned, the ledger has no other settlements
// of this gateway. An error says that the audit could not be done.
func Audit(ctx context.Context, l *ledger.Ledger, c AuditConfig) (AuditReport, error) {
	a := &audit{
		c: c, l: l, requests: map[ledger.ID]*audited{}, missing: map[ledger.ID]*auditedBatch{},
		closed: newMemory(), batches: newMemory(), posted: map[ledger.ID]bool{},
	}
	err := a.run(ctx)
	if wrong, ok := errors.AsType[differenceError](err); ok {
		a.report.Difference, err = string(wrong), nil
	}
	if err != nil {
		return a.report, fmt.Errorf("auditing the journal: %w", err)
	}
	return a.report, nil
}

// audited is a request on its way through an audit.
type audited struct {
	account ledger.Account
	hold    *Hold // nil: it is from before the archive
	record  *record
}

// auditedBatch is a batch that was not found in the ledger yet.
type auditedBatch struct {
	transfer ledger.Transfer // zero: not all of its settlements are known
	live     bool            // it is in the journal, not in the archive alone
}

// audit is one pass over a journal.
type audit struct {
	c      AuditConfig
	l      *ledger.Ledger
	report AuditReport
	seq    uint64 // of the record that is looked at
	whole  bool   // the archive begins with the first record

	requests map[ledger.ID]*audited // open, or in no batch yet
	closed   *memory                // of the other requests
	batches  *memory                // of the batches
	missing  map[ledger.ID]*auditedBatch
	asking   []ledger.ID        // of missing: not asked for yet
	posted   map[ledger.ID]bool // this gateway's settlements that the ledger had at the beginning and the journal not yet
}

func (a *audit) run(ctx context.Context) error {
	// First what the ledger has: everything of it is in the journal by now.
	err := a.l.IDs(ctx, kindSettle, string(source(a.c.Gateway, "customer:")), func(id ledger.ID) error {
		a.posted[id] = true
		return nil
	})
	if err != nil {
		return err
	}
	first := true
	err = journal.Scan(a.c.Dir, func(s journal.Scanned) error {
		if a.seq = s.Seq; first {
			a.whole, first = s.Seq == 1, false
		}
		rec, err := parseRecord(s.Record)
		if err != nil {
			return difference("record %d of the journal: %v", s.Seq, err)
		}
		if err := a.take(ctx, &rec, !s.Archived); err != nil {
			return err
		}
		return ctx.Err()
	})
	if damage, ok := errors.AsType[*journal.DamageError](err); ok {
		return difference("%v", damage)
	}
	if err != nil {
		return err
	}
	return a.finish(ctx)
}

// finish asks for the last batches and counts what is left.
func (a *audit) finish(ctx context.Context) error {
	a.asking = a.asking[:0]
	for id := range a.missing { // what was not there before may be now
		a.asking = append(a.asking, id)
	}
	for ids := range slices.Chunk(slices.Clone(a.asking), auditOnce) {
		a.asking = ids
		if err := a.ask(ctx); err != nil {
			return err
		}
	}
	for id, b := range a.missing {
		if !b.live {
			return difference("batch %s is in the archive of the journal, and its transfer is not in the ledger", id)
		}
		a.report.Pending++
	}
	for id := range a.posted {
		if a.whole {
			return difference("transfer %s is in the ledger, and no batch of the journal", id)
		}
	}
	for _, r := range a.requests {
		if r.record == nil {
			a.report.Open++
		} else if r.record.settlement.Cost > 0 || r.record.settlement.Line != (Line{}) {
			a.report.Unbatched++
		}
	}
	return nil
}

// take looks at one record. Trimming writes records again.
func (a *audit) take(ctx context.Context, rec *record, live bool) error {
	id := rec.hold.Request
	r := a.requests[id]
	switch rec.kind {
	case holdRecord:
		return a.hold(rec, r)
	case settleRecord, carriedRecord:
		return a.settle(rec, r)
	case voidRecord:
		switch {
		case r != nil && r.record != nil:
			return difference("record %d of the journal: request %s is voided after it was settled", a.seq, id)
		case r == nil && a.closed.has(id):
			return difference("record %d of the journal: request %s is voided after it was closed", a.seq, id)
		case r == nil && a.whole:
			return difference("record %d of the journal: request %s is voided and was never held", a.seq, id)
		}
		a.report.Voided++
		delete(a.requests, id)
		a.closed.add(id)
		return nil
	default:
		return a.batch(ctx, rec, live)
	}
}

func (a *audit) hold(rec *record, r *audited) error {
	id := rec.hold.Request
	if r != nil && r.record != nil || r == nil && a.closed.has(id) {
		return difference("record %d of the journal: request %s is held after it was closed", a.seq, id)
	}
	if r == nil {
		a.report.Holds++
	}
	a.requests[id] = &audited{account: rec.hold.Account, hold: &rec.hold}
	return nil
}

func (a *audit) settle(rec *record, r *audited) error {
	s := &rec.settlement
	switch {
	case r == nil && a.closed.has(s.Request):
		if rec.kind == carriedRecord && a.batches.has(rec.batch) {
			return nil // written again, between its batch and its way into the ledger
		}
		return difference("record %d of the journal: request %s is settled after it was closed", a.seq, s.Request)
	case r == nil && a.whole:
		return difference("record %d of the journal: request %s is settled and was never held", a.seq, s.Request)
	case r == nil:
		a.report.Unheld++
		r = &audited{account: rec.hold.Account}
		a.requests[s.Request] = r
	case r.record != nil:
		if r.record.settlement != *s || r.account != rec.hold.Account {
			return difference("record %d of the journal: request %s is settled twice, with different content", a.seq, s.Request)
		}
		return nil
	case r.account != rec.hold.Account:
		return difference("record %d of the journal: request %s is held on %s and settled on %s",
			a.seq, s.Request, r.account, rec.hold.Account)
	case s.Cost > r.hold.Ceiling:
		return difference("record %d of the journal: request %s costs %d nanoTON, and %d were held",
			a.seq, s.Request, int64(s.Cost), int64(r.hold.Ceiling))
	}
	if r.hold != nil && a.c.Check != nil {
		if err := a.c.Check(*r.hold, *s); err != nil {
			return difference("request %s: %v", s.Request, err)
		}
	}
	a.report.Settled++
	a.report.Cost += s.Cost
	a.report.Share += s.Share
	a.report.Fee += s.Fee
	r.record, r.hold = rec, nil
	if s.Cost == 0 && s.Line == (Line{}) { // it goes into no batch
		delete(a.requests, s.Request)
		a.closed.add(s.Request)
	}
	return nil
}

// batch looks at a batch, whose settlements came before it.
func (a *audit) batch(ctx context.Context, rec *record, live bool) error {
	if a.batches.has(rec.batch) { // written again
		if b := a.missing[rec.batch]; b != nil {
			b.live = b.live || live
		}
		return nil
	}
	a.batches.add(rec.batch)
	delete(a.posted, rec.batch)
	sums, complete := newSums(rec.hold.Account), true
	for _, id := range rec.requests {
		r := a.requests[id]
		switch {
		case r != nil && r.record != nil && r.account == rec.hold.Account:
			sums.add(&r.record.settlement, r.record.at)
			delete(a.requests, id)
		case r == nil && !a.whole && !a.closed.has(id):
			complete = false
		default:
			const format = "record %d of the journal: batch %s has request %s, which is not settled on %s, or in another batch"
			return difference(format, a.seq, rec.batch, id, rec.hold.Account)
		}
		a.closed.add(id)
	}
	b := &auditedBatch{live: live}
	if complete {
		b.transfer = transfer(rec.batch, rec.at, rec.source, sums)
	} else {
		a.report.Incomplete++
	}
	a.missing[rec.batch] = b
	if a.asking = append(a.asking, rec.batch); len(a.asking) < auditOnce {
		return nil
	}
	return a.ask(ctx)
}

// ask compares batches with the ledger, and forgets those that are there.
func (a *audit) ask(ctx context.Context) error {
	has, err := a.l.Transfers(ctx, a.asking...)
	if err != nil {
		return err
	}
	a.asking = a.asking[:0]
	for _, t := range has {
		want := a.missing[t.ID].transfer
		same := t.Kind == want.Kind && t.At.Equal(want.At) && t.Ref == want.Ref && slices.Equal(t.Legs, want.Legs)
		if want.Legs != nil && !same {
			return difference("transfer %s is not what its requests add up to: the ledger has %v of %s, the journal %v of %s",
				t.ID, t.Legs, t.Ref, want.Legs, want.Ref)
		}
		delete(a.missing, t.ID)
		a.report.Batches++
	}
	return nil
}

// memory is a set of IDs, of which it forgets the oldest. It keeps hashes of 64 bits, with a seed that nobody can know:
// that one of some millions is taken for another is less likely than that the machine fails.
type memory struct {
	seed     maphash.Seed
	now, old map[uint64]struct{}
}

func newMemory() *memory { return &memory{seed: maphash.MakeSeed(), now: map[uint64]struct{}{}} }

func (m *memory) add(id ledger.ID) {
	if len(m.now) >= auditClosed {
		m.old, m.now = m.now, map[uint64]struct{}{}
	}
	m.now[maphash.Bytes(m.seed, id[:])] = struct{}{}
}

func (m *memory) has(id ledger.ID) bool {
	h := maphash.Bytes(m.seed, id[:])
	_, ok := m.now[h]
	if !ok {
		_, ok = m.old[h]
	}
	return ok
}
