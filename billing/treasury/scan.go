package treasury

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// scan applies the wallet's transactions after the cursor, oldest first, up to a proven state.
func (t *Treasury) scan(ctx context.Context, state ton.State) error {
	for {
		cursor, err := t.books.chain.cursor()
		if err != nil {
			return err
		}
		if state.Last.LT < cursor.LT {
			return fmt.Errorf("%w: its newest transaction is %d, applied is %d", ErrBehind, state.Last.LT, cursor.LT)
		}
		if state.Last == cursor {
			return nil
		}
		page, err := t.c.Chain.Transactions(ctx, state, cursor, pageMax)
		if err != nil {
			return fmt.Errorf("reading the wallet's transactions: %w", err)
		}
		if len(page) == 0 {
			return fmt.Errorf("reading the wallet's transactions after %d: none came: %w", cursor.LT, ton.ErrGap)
		}
		for _, tx := range page {
			if tx.Prev != cursor || tx.LT > state.Last.LT {
				return fmt.Errorf("transaction %d after %d: %w", tx.LT, cursor.LT, ton.ErrGap)
			}
			if err := t.apply(ctx, tx, state); err != nil {
				return fmt.Errorf("applying transaction %d: %w", tx.LT, err)
			}
			cursor = tx.Cursor
		}
	}
}

// effect is what one transaction changes in the ledger.
type effect struct {
	kind      string
	legs      []ledger.Leg
	documents []ledger.Document
	query     uint32         // a query number that it used; 0: none
	foreign   bool           // it did what only somebody with our key and another ledger does
	credited  ledger.Account // the customer who got money
}

// add has an account get an amount.
func (e *effect) add(account ledger.Account, amount nanoton.Amount) {
	for i := range e.legs {
		if e.legs[i].Account == account {
			e.legs[i].Amount += amount
			return
		}
	}
	e.legs = append(e.legs, ledger.Leg{Account: account, Amount: amount})
}

func (e *effect) put(d ledger.Document, err error) error {
	e.documents = append(e.documents, d)
	return err
}

// apply commits what one transaction changes: the money, what became of payouts, and the cursor.
func (t *Treasury) apply(ctx context.Context, tx *ton.Transaction, state ton.State) error {
	e, err := t.read(tx)
	if err != nil {
		return err
	}
	r := t.books.chain
	r.Cursor = placeOf(tx.Cursor)
	if e.foreign {
		r.Quiet = max(r.Quiet, t.quietUntil(tx.At))
	}
	if e.query != 0 {
		r.Query = max(r.Query, e.query+1)
	}
	if err := e.put(t.chainDocument(&r, state.At.Time)); err != nil {
		return err
	}
	err = t.commit(ctx, []ledger.Transfer{{
		ID: transferID(t.address, tx.Cursor), Kind: e.kind, At: tx.At.UTC(),
		Ref: fmt.Sprintf("chain %d %x", tx.LT, tx.Hash), Legs: e.legs,
	}}, e.documents)
	if err != nil {
		return err
	}
	t.log.Info("transaction applied", "lt", tx.LT, "kind", e.kind, "change", tx.Change(), "fees", tx.Fees)
	if e.credited != "" && t.c.Credited != nil {
		t.c.Credited(e.credited)
	}
	return nil
}

// transferID names the transfer of a transaction.
func transferID(a ton.Address, c ton.Cursor) ledger.ID {
	b := append([]byte("cocoon/treasury/transaction/v1\x00"), byte(a.Workchain))
	b = append(b, a.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, c.LT)
	return sha256.Sum256(append(b, c.Hash[:]...))
}

// read says what a transaction changes. The legs are: what came in, to whom it belongs; what went out, from whom it was
// taken; fees, from "network"; and "chain", the other side of all of it.
func (t *Treasury) read(tx *ton.Transaction) (*effect, error) {
	e := &effect{kind: "chain"}
	e.add(accountChain, -tx.Change())
	e.add(accountNetwork, -tx.Fees)
	for i := range tx.Out {
		e.add(accountNetwork, -tx.Out[i].Fee)
	}
	returned := slices.ContainsFunc(tx.Out, func(m ton.Message) bool { return m.Bounced })
	if in := tx.In; in != nil && !in.External {
		switch {
		case returned: // a message that the wallet could not take went back at once
			e.add(accountNetwork, in.Amount)
		case in.From == t.address:
			e.add(accountTransit, in.Amount)
		default:
			if err := t.receive(tx, e); err != nil {
				return nil, err
			}
		}
	}
	return e, t.leave(tx, e)
}

// receive says to whom what came in belongs.
func (t *Treasury) receive(tx *ton.Transaction, e *effect) error {
	in := tx.In
	account, why := t.owner(in)
	e.kind = "deposit"
	if account == "" && in.Amount < t.c.KeepMin {
		account, e.kind = accountNetwork, "dust" // it would not pay for its way back
	}
	if account != "" {
		e.add(account, in.Amount)
		if account.Kind() == "customer" {
			e.credited = account
		}
		return nil
	}
	e.kind = "suspense"
	e.add(accountSuspense, in.Amount)
	s := Suspense{
		ID: fmt.Sprintf("%x", tx.Hash), Peer: in.From, Amount: in.Amount, At: tx.At.UTC(), Why: why, Comment: clean(in.Comment),
	}
	t.log.Info("money from nobody known", "id", s.ID, "from", s.Peer, "amount", s.Amount, "why", why)
	return e.put(document(kindSuspense, s.ID, 0, s))
}

// owner gives the account that money belongs to; none: the reason why not.
func (t *Treasury) owner(in *ton.Message) (account ledger.Account, why string) {
	if t.c.Source != nil {
		if account, ok := t.c.Source(in.From); ok {
			return account, ""
		}
	}
	comment := strings.TrimSpace(in.Comment)
	switch {
	case in.Bounced:
		return "", "a message of the wallet came back"
	case !t.c.Cold.IsZero() && in.From == t.c.Cold:
		return accountCold, ""
	case comment == MemoCapital:
		return accountNetwork, ""
	case comment == "":
		return "", "no memo"
	}
	name, err := ton.ParseMemo(comment)
	if err != nil {
		return "", "the memo is not valid"
	}
	account = ledger.Account("customer:" + name)
	if account.Check() != nil || !t.c.Customer(name) {
		return "", "the memo names no customer"
	}
	return account, ""
}

// leave says from whom what went out was taken.
func (t *Treasury) leave(tx *ton.Transaction, e *effect) error {
	query, _, settled := t.c.Wallet.Report(tx)
	b := t.books.batches[query]
	if e.query = query; query != 0 {
		e.kind, e.foreign = "batch", b == nil
	}
	due := map[string]*Payout{}
	if settled && b != nil {
		due = t.books.due(b)
	}
	for i := range tx.Out {
		out := &tx.Out[i]
		switch {
		case out.External: // carries no money
		case out.Bounced:
			e.add(accountNetwork, -out.Amount)
		case out.To == t.address:
			e.add(accountTransit, -out.Amount)
		case due[markOf(out)] == nil && !t.c.Cold.IsZero() && out.To == t.c.Cold:
			e.foreign = true
			e.add(accountCold, -out.Amount) // a sweep of a lost ledger: ours all the same
		default:
			p := due[markOf(out)]
			if p == nil || p.To != out.To || p.Amount != out.Amount {
				if err := t.unmatched(tx, i, query, e); err != nil {
					return err
				}
				continue
			}
			delete(due, markOf(out))
			if err := t.paid(tx, p, e); err != nil {
				return err
			}
		}
	}
	switch {
	case b == nil:
		return nil
	case settled:
		return t.settle(b, due, "the wallet sent nothing for it", e)
	case tx.Aborted || len(tx.Out) == 0: // it changed nothing and may be executed again
		return nil
	}
	// The first of a batch's two transactions: the second will come, however late.
	c := *b
	c.Started = true
	return e.put(document(kindBatch, batchID(query), b.version, c))
}

// paid has a payout be paid by a transaction.
func (t *Treasury) paid(tx *ton.Transaction, p *Payout, e *effect) error {
	source := accountPayouts
	if p.sweep() {
		source = accountCold
	}
	e.add(source, -p.Amount)
	q := *p
	q.State, q.Why, q.LT, q.Hash = Paid, "", tx.LT, fmt.Sprintf("%x", tx.Hash)
	return e.put(q.document())
}

// settle ends a batch: those of its payouts that did not leave wait for another one.
func (t *Treasury) settle(b *batch, left map[string]*Payout, why string, e *effect) error {
	waiting := map[string]*Payout{}
	for _, p := range left {
		waiting[p.ID] = p
	}
	for _, id := range b.Payouts {
		p := waiting[id]
		if p == nil {
			continue
		}
		q := *p
		q.State, q.Why = Queued, why
		if err := e.put(q.document()); err != nil {
			return err
		}
		t.log.Warn("payout goes back into the queue", "id", id, "batch", b.Query, "why", why)
	}
	delete(t.sent, b.Query)
	return e.put(document(kindBatch, batchID(b.Query), b.version, nil))
}

// unmatched notes a payment that the ledger does not know. It stands against "suspense" until somebody says what it was.
func (t *Treasury) unmatched(tx *ton.Transaction, i int, query uint32, e *effect) error {
	out := &tx.Out[i]
	e.foreign = true
	e.add(accountSuspense, -out.Amount)
	s := Suspense{
		ID: fmt.Sprintf("%x-%d", tx.Hash, i), Out: true, Peer: out.To, Amount: out.Amount, At: tx.At.UTC(),
		Why: "a payment that the ledger does not know", Comment: clean(out.Comment), Query: query,
	}
	t.log.Error("the wallet made a payment that the ledger does not know: payouts stop",
		"id", s.ID, "to", s.Peer, "amount", s.Amount)
	return e.put(document(kindSuspense, s.ID, 0, s))
}
