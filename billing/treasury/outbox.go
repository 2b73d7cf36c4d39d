package treasury

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

const (
	// openMax is how many signed messages may be on their way at once: one that is lost holds up none of the others.
	openMax = 8
	// resendHeads is after how many blocks a message is sent again: most are executed in the next one or two.
	resendHeads = 3
	// lookMax bounds how many payouts are looked at for one batch.
	lookMax = 20 * wallet.BatchMax
	// sweepPart is the part of Config.HotMax that is swept at least, so that not every deposit makes a sweep.
	sweepPart = 10
)

// expire gives up signed messages that no block can execute any more.
func (t *Treasury) expire(ctx context.Context, now time.Time) error {
	for _, query := range slices.Sorted(maps.Keys(t.books.batches)) {
		b := t.books.batches[query]
		if b.Started || now.Before(time.Unix(b.Expires, 0).Add(margin)) {
			continue
		}
		e := &effect{}
		if err := t.settle(b, t.books.due(b), "its message expired", e); err != nil {
			return err
		}
		r := t.books.chain
		if err := t.write(ctx, &r, now, e.documents); err != nil {
			return fmt.Errorf("giving up batch %d: %w", query, err)
		}
	}
	return nil
}

// setAside moves the money of asked payouts to "payouts", or refuses them.
func (t *Treasury) setAside(ctx context.Context) error {
	for _, p := range t.books.queue(Asked) {
		q := *p
		q.State = Queued
		post := func(ctx context.Context) error {
			d, err := q.document()
			if err != nil {
				return err
			}
			return t.commit(ctx, []ledger.Transfer{q.aside()}, []ledger.Document{d})
		}
		var err error
		switch q.Account.Kind() {
		case "fees", "network":
			var own nanoton.Amount
			if own, err = Own(ctx, t.c.Ledger); err == nil && own < q.Amount {
				err = fmt.Errorf("%w: the operator's own are %v", ledger.ErrOverdrawn, own)
			}
			if err == nil {
				err = post(ctx)
			}
		case "customer":
			if t.c.Withdraw != nil {
				err = t.c.Withdraw(ctx, q.Account, q.Amount, post)
				break
			}
			fallthrough
		default:
			err = post(ctx)
		}
		switch {
		case errors.Is(err, billing.ErrFunds) || errors.Is(err, ledger.ErrOverdrawn):
			q.State, q.Why = Refused, "not enough money"
			d, err := q.document()
			if err != nil {
				return err
			}
			if err := t.commit(ctx, nil, []ledger.Document{d}); err != nil {
				return fmt.Errorf("refusing payout %s: %w", q.ID, err)
			}
		case errors.Is(err, billing.ErrElsewhere) || errors.Is(err, billing.ErrUnavailable):
			t.log.Debug("payout waits for its account", "id", q.ID, "error", err)
		case err != nil:
			return fmt.Errorf("setting the money of payout %s aside: %w", q.ID, err)
		}
	}
	return nil
}

// Own is what the operator has of his own and may take or lock: fees, and what he put in for the network's, less what that
// took and what is locked for workers already, or on its way there. These accounts may be below zero for the ledger, and
// what they lack then is customers'.
func Own(ctx context.Context, l Ledger) (own nanoton.Amount, err error) {
	for _, account := range []ledger.Account{accountFees, accountNetwork} {
		a, err := l.Balance(ctx, account)
		if err != nil {
			return 0, err
		}
		own += a
	}
	locked, err := l.Balances(ctx, accountCollateral)
	if err != nil {
		return 0, err
	}
	for _, a := range locked {
		own += a // assets are negative
	}
	return own, nil
}

// sweep queues a payout to the cold address if the wallet holds more than it may, and none is on its way.
func (t *Treasury) sweep(ctx context.Context, state ton.State) error {
	if t.c.HotMax <= 0 || t.c.Cold.IsZero() || t.c.Cold == t.address {
		return nil
	}
	spare := state.Balance - t.c.HotMax
	for _, p := range t.books.payouts {
		if p.sweep() {
			return nil
		}
		spare -= p.Amount
	}
	if spare <= t.c.HotMax/sweepPart {
		return nil
	}
	p := Payout{
		ID: PayoutID("sweep", t.address.String(), fmt.Sprint(state.Last.LT)), Account: accountCold, To: t.c.Cold, Amount: spare,
		Reason: "sweep", State: Queued, Asked: state.At.Time.UTC(),
	}
	d, err := p.document()
	if err != nil {
		return err
	}
	r := t.books.chain // of two gateways one sweeps
	if err := t.write(ctx, &r, state.At.Time, []ledger.Document{d}); err != nil {
		return fmt.Errorf("queueing a sweep: %w", err)
	}
	return nil
}

// pay signs what is queued and sends what is signed.
func (t *Treasury) pay(ctx context.Context, state ton.State, s *Status) error {
	for len(t.books.batches) < openMax {
		chosen, why := t.choose(state)
		s.Waiting = why
		if len(chosen) == 0 {
			break
		}
		if err := t.sign(ctx, state, chosen); err != nil {
			return err
		}
	}
	return t.send(ctx, state.At)
}

// choose picks the payouts of the next batch, oldest first: what the balance and the hour's limit leave room for. One that
// is too large for either does not hold up those behind it. why says that something had to wait.
func (t *Treasury) choose(state ton.State) (chosen []*Payout, why string) {
	free := state.Balance
	for _, b := range t.books.batches {
		free -= b.Need
	}
	left := t.books.chain.left(t.c.OutflowMax, state.At.Time)
	var sum nanoton.Amount
	marks := map[string]bool{}
	for i, p := range t.books.queue(Queued) {
		if len(chosen) == wallet.BatchMax || i == lookMax {
			break
		}
		mark := p.mark()
		switch limited := t.c.OutflowMax > 0 && !p.sweep(); {
		case marks[mark]:
			why = "two payouts that the chain would not tell apart go one after the other"
		case p.sweep() && p.To != t.c.Cold:
			why = "a sweep to an address that is not the cold one any more: cancel it"
		case p.Amount > free-sum:
			why = "the wallet holds too little"
		case limited && p.Amount > left:
			why = "the hour's limit is reached"
		default:
			chosen, sum = append(chosen, p), sum+p.Amount
			marks[mark] = true
			if limited {
				left -= p.Amount
			}
		}
	}
	// Fees need room too: as many as fit with them.
	for len(chosen) > 0 {
		n := sort.Search(len(chosen), func(n int) bool { return t.c.Wallet.Need(transfers(chosen[:n+1])) > free })
		if n < len(chosen) {
			why = "the wallet holds too little"
		}
		if n > 0 {
			return chosen[:n], why
		}
		chosen = chosen[1:]
	}
	return nil, why
}

// transfers are payouts as the wallet takes them.
func transfers(payouts []*Payout) []wallet.Transfer {
	all := make([]wallet.Transfer, len(payouts))
	for i, p := range payouts {
		all[i], _ = p.transfer() // it was checked when it was asked for; what is impossible the wallet refuses
	}
	return all
}

// sign makes a batch's message and commits it, before anybody may send it.
func (t *Treasury) sign(ctx context.Context, state ton.State, chosen []*Payout) error {
	r, now := t.books.chain, state.At.Time
	if r.Query = max(r.Query, 1); r.Query >= wallet.Queries {
		return errors.New("signing a batch: the wallet's query numbers are used up")
	}
	all, created := transfers(chosen), t.c.Wallet.CreatedAt(now)
	message, err := t.c.Wallet.Batch(ctx, r.Query, created, all, state.Active)
	if err != nil {
		return fmt.Errorf("signing batch %d: %w", r.Query, err)
	}
	b := batch{
		Query: r.Query, Created: created.Unix(), Expires: t.c.Wallet.Expires(created).Unix(), Need: t.c.Wallet.Need(all),
		Message: message,
	}
	var documents []ledger.Document
	var limited nanoton.Amount
	for _, p := range chosen {
		q := *p
		q.State, q.Why, q.Query = Batched, "", b.Query
		d, err := q.document()
		if err != nil {
			return err
		}
		documents, b.Payouts = append(documents, d), append(b.Payouts, p.ID)
		if !p.sweep() {
			limited += p.Amount
		}
	}
	d, err := document(kindBatch, batchID(b.Query), 0, b)
	if err != nil {
		return err
	}
	r.Query++
	if t.c.OutflowMax > 0 && limited > 0 {
		r.spend(limited, now)
	}
	if err := t.write(ctx, &r, now, append(documents, d)); err != nil {
		return fmt.Errorf("committing batch %d: %w", b.Query, err)
	}
	t.log.Info("batch signed", "query", b.Query, "payouts", len(chosen))
	return nil
}

// send sends the signed messages whose end the chain has not shown yet.
func (t *Treasury) send(ctx context.Context, head ton.Head) error {
	var failed error
	for _, query := range slices.Sorted(maps.Keys(t.books.batches)) {
		if before, ok := t.sent[query]; ok && head.Seqno < before+resendHeads {
			continue
		}
		err := t.c.Chain.Send(ctx, t.books.batches[query].Message)
		if errors.Is(err, ton.ErrRefused) { // executed, or expired: the scanner finds out
			t.log.Debug("batch refused", "query", query, "error", err)
			err = nil
		}
		if err != nil {
			failed = fmt.Errorf("sending batch %d: %w", query, err)
			continue
		}
		t.sent[query] = head.Seqno
	}
	return failed
}
