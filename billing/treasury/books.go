package treasury

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cocoon/billing/ledger"
)

// books is what is open, in memory: what the documents say.
type books struct {
	chain     record
	version   int64            // of the chain document; 0: there is none
	seen      map[string]int64 // by kind: up to which version documents were read
	payouts   map[string]*Payout
	batches   map[uint32]*batch
	payees    map[string]Payee
	paydays   map[string]payday
	unmatched map[string]bool // payments that the ledger does not know
	unsettled map[string]bool // sums in suspense that came in
}

func newBooks() *books {
	return &books{
		seen: map[string]int64{}, payouts: map[string]*Payout{}, batches: map[uint32]*batch{}, payees: map[string]Payee{},
		paydays: map[string]payday{}, unmatched: map[string]bool{}, unsettled: map[string]bool{},
	}
}

// refresh reads what was changed in the ledger. The chain document comes first: whoever changes it after that makes
// every commit of ours fail that goes by it, so the others are as new as it or newer.
func (t *Treasury) refresh(ctx context.Context) error {
	d, err := t.c.Ledger.Document(ctx, kindChain, chainID)
	switch {
	case errors.Is(err, ledger.ErrNoDocument):
		d = ledger.Document{Kind: kindChain, ID: chainID}
	case err != nil:
		return err
	}
	if d.Version < t.books.version {
		t.log.Error("the ledger went back in time: an older backup was put in its place while the gateway ran")
		t.books, t.opened, t.backup = newBooks(), false, true
	}
	if err := t.books.take(d); err != nil {
		return err
	}
	if t.books.version != 0 && t.books.chain.Wallet != t.address {
		return fmt.Errorf("%w: %v", ErrWallet, t.books.chain.Wallet)
	}
	for _, kind := range []string{kindPayout, kindBatch, kindSuspense, kindPayee, kindPayday} {
		after := t.books.seen[kind]
		if kind == kindPayout {
			after = max(after, t.books.chain.Settled)
		}
		err := t.c.Ledger.DocumentsOf(ctx, kind, after, func(d ledger.Document) error {
			t.books.seen[kind] = d.Version
			err := t.books.take(d)
			if err != nil && kind == kindPayee { // nobody else has to wait for it
				t.log.Error("a worker is not paid, its document can't be read", "worker", d.ID, "error", err)
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// take has the books say what a document says.
func (b *books) take(d ledger.Document) error {
	switch d.Kind {
	case kindChain:
		b.version, b.chain = d.Version, record{}
		if d.Version == 0 {
			return nil
		}
		return decode(d, &b.chain)
	case kindPayout:
		return b.takePayout(d)
	case kindBatch:
		return b.takeBatch(d)
	case kindSuspense:
		return b.takeSuspense(d)
	case kindPayee:
		return takeInto(b.payees, d)
	case kindPayday:
		if err := takeInto(b.paydays, d); err != nil || d.Body == nil {
			return err
		}
		day := b.paydays[d.ID]
		day.version = d.Version
		b.paydays[d.ID] = day
	}
	return nil
}

func takeInto[T any](m map[string]T, d ledger.Document) error {
	if d.Body == nil {
		delete(m, d.ID)
		return nil
	}
	var v T
	if err := decode(d, &v); err != nil {
		delete(m, d.ID)
		return err
	}
	m[d.ID] = v
	return nil
}

func (b *books) takePayout(d ledger.Document) error {
	delete(b.payouts, d.ID)
	if d.Body == nil {
		return nil
	}
	p, err := readPayout(d)
	if err == nil && !p.final() {
		b.payouts[d.ID] = &p
	}
	return err
}

func (b *books) takeBatch(d ledger.Document) error {
	if d.Body == nil {
		for query := range b.batches {
			if batchID(query) == d.ID {
				delete(b.batches, query)
			}
		}
		return nil
	}
	v := batch{version: d.Version}
	if err := decode(d, &v); err != nil {
		return err
	}
	b.batches[v.Query] = &v
	return nil
}

func (b *books) takeSuspense(d ledger.Document) error {
	delete(b.unmatched, d.ID)
	delete(b.unsettled, d.ID)
	if d.Body != nil {
		v, err := readSuspense(d)
		if err != nil {
			return err
		}
		switch {
		case v.Done != "":
		case v.Out:
			b.unmatched[d.ID] = true
		default:
			b.unsettled[d.ID] = true
		}
	}
	return nil
}

// settled gives the version up to which all payouts' documents are final.
func (b *books) settled() int64 {
	settled := max(b.seen[kindPayout], b.chain.Settled)
	for _, p := range b.payouts {
		settled = min(settled, p.version-1)
	}
	return settled
}

// due gives the payouts that wait for what becomes of a batch, by their marks.
func (b *books) due(of *batch) map[string]*Payout {
	due := map[string]*Payout{}
	for _, id := range of.Payouts {
		if p := b.payouts[id]; p != nil && p.State == Batched && p.Query == of.Query {
			due[p.mark()] = p
		}
	}
	return due
}

// queue gives the payouts of a state that are not held, oldest first.
func (b *books) queue(state State) []*Payout {
	var all []*Payout
	for _, p := range b.payouts {
		if p.State == state && p.Held == "" {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(p, q *Payout) int { return older(*p, *q) })
	return all
}
