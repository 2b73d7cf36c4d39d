package treasury

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"cocoon/billing/ledger"
)

// lostMax is how many payouts of a worker a lost life of the ledger may have made for Repair to find them.
const lostMax = 64

// readSuspense reads one from its document.
func readSuspense(d ledger.Document) (s Suspense, err error) {
	err = decode(d, &s)
	s.version = d.Version
	return s, err
}

// Unsettled lists what came and went without the ledger knowing why, and is not settled, oldest first.
func Unsettled(ctx context.Context, l Documents) ([]Suspense, error) {
	var all []Suspense
	err := l.DocumentsOf(ctx, kindSuspense, 0, func(d ledger.Document) error {
		if d.Body == nil {
			return nil
		}
		s, err := readSuspense(d)
		if err == nil && s.Done == "" {
			all = append(all, s)
		}
		return err
	})
	slices.SortStableFunc(all, func(a, b Suspense) int { return a.At.Compare(b.At) })
	return all, err
}

// Refund sends a deposit from nobody known back to its sender, once, and gives the payout that does. The network's fees
// are ours. ErrUnknown, or ErrFinal if it is settled already.
func Refund(ctx context.Context, l Documents, id string) (payout string, err error) {
	p := Payout{ID: PayoutID("refund", id), Account: accountSuspense, Reason: "refund", State: Queued}
	err = edit(ctx, l, kindSuspense, id, func(s *Suspense, version int64) ([]ledger.Transfer, []ledger.Document, error) {
		if err := s.open(id, version); err != nil {
			return nil, nil, err
		}
		if s.Out || s.Peer.IsZero() {
			return nil, nil, fmt.Errorf("refunding %s: %w: nobody sent it", id, ErrInvalid)
		}
		s.Done = "refunded by payout " + p.ID
		p.To, p.Amount, p.Asked = s.Peer, s.Amount, s.At
		d, err := p.document()
		return []ledger.Transfer{p.aside()}, []ledger.Document{d}, err
	})
	return p.ID, err
}

// open says whether there is something to settle.
func (s *Suspense) open(id string, version int64) error {
	if version == 0 {
		return fmt.Errorf("sum in suspense %.80q: %w", id, ErrUnknown)
	}
	if s.Done != "" {
		return fmt.Errorf("sum in suspense %s: %w: %s", id, ErrFinal, s.Done)
	}
	return nil
}

// move is the transfer that settles it with an account: what came in goes there, what went out is taken from there.
func (s *Suspense) move(account ledger.Account) ledger.Transfer {
	amount := s.Amount
	if s.Out {
		amount = -amount
	}
	return ledger.Transfer{
		ID: sha256.Sum256([]byte("cocoon/suspense/v1\x00" + s.ID)), Kind: "suspense", At: s.At, Ref: "suspense " + s.ID,
		Legs: []ledger.Leg{{Account: accountSuspense, Amount: -amount}, {Account: account, Amount: amount}},
	}
}

// Settle says by hand whose a sum in suspense is: what came in is credited to the account, what went out is taken from it.
// "network" is the operator's own pocket. ErrUnknown, ErrFinal, or what the ledger says of the account.
func Settle(ctx context.Context, l Documents, id string, account ledger.Account) error {
	switch account.Kind() {
	case "customer", "worker", "fees", "network", "cold":
	default:
		return fmt.Errorf("account %w: %.100q is not for that", ErrInvalid, string(account))
	}
	return edit(ctx, l, kindSuspense, id, func(s *Suspense, version int64) ([]ledger.Transfer, []ledger.Document, error) {
		if err := s.open(id, version); err != nil {
			return nil, nil, err
		}
		s.Done = "settled with " + string(account)
		return []ledger.Transfer{s.move(account)}, nil, nil
	})
}

// Repair applies payments that the chain shows and the ledger does not know, as after the ledger was restored from an older
// backup: where the payment's comment is the ID of a payout that the ledger still has open, or of the next ones of a
// worker, and address, amount and balance fit. It gives what it could not place, for [Settle]. Payouts go on once there is
// nothing of that and the messages of the lost ledger have expired.
func Repair(ctx context.Context, l Documents) (left []Suspense, err error) {
	all, err := Unsettled(ctx, l)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s Suspense) bool { return !s.Out })
	if len(all) == 0 {
		return nil, nil
	}
	lost, err := lostEarnings(ctx, l)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		done, err := match(ctx, l, &s, lost)
		if err != nil {
			return nil, fmt.Errorf("repairing %s: %w", s.ID, err)
		}
		if !done {
			left = append(left, s)
		}
	}
	return left, nil
}

// lostPayout is a payout of a worker's earnings that the ledger does not have, but may have had.
type lostPayout struct {
	worker string
	number int64
	payee  Payee
}

// lostEarnings gives those by their IDs.
func lostEarnings(ctx context.Context, l Documents) (map[string]lostPayout, error) {
	days := map[string]payday{}
	err := l.DocumentsOf(ctx, kindPayday, 0, func(d ledger.Document) error { return takeInto(days, d) })
	if err != nil {
		return nil, err
	}
	payees, err := Payees(ctx, l)
	if err != nil {
		return nil, err
	}
	lost := map[string]lostPayout{}
	for worker, payee := range payees {
		for number := days[worker].Number; number < days[worker].Number+lostMax; number++ {
			lost[earningsID(worker, number)] = lostPayout{worker, number, payee}
		}
	}
	return lost, nil
}

// errLeft says that a payment does not fit.
var errLeft = errors.New("does not fit")

// match finds the payout that a payment was, if it can.
func match(ctx context.Context, l Documents, s *Suspense, lost map[string]lostPayout) (done bool, err error) {
	p, err := Find(ctx, l, s.Comment)
	switch {
	case err == nil:
		err = settlePayout(ctx, l, s, &p)
	case errors.Is(err, ErrUnknown) || errors.Is(err, ledger.ErrInvalid):
		if e, ok := lost[s.Comment]; ok {
			err = settleEarnings(ctx, l, s, e)
		} else {
			err = errLeft
		}
	}
	if errors.Is(err, errLeft) || errors.Is(err, ledger.ErrOverdrawn) || errors.Is(err, ErrFinal) {
		return false, nil
	}
	return err == nil, err
}

// settlePayout has an open payout be what was paid.
func settlePayout(ctx context.Context, l Documents, s *Suspense, p *Payout) error {
	if p.To != s.Peer || p.Amount != s.Amount {
		return errLeft
	}
	source := accountPayouts
	switch {
	case p.State == Asked: // its money is still there
		source = p.Account
	case p.State != Queued: // paid twice, or it may be any moment
		return errLeft
	case p.sweep():
		source = accountCold
	}
	p.State, p.Why, p.Query, p.Hash = Paid, "found on the chain", s.Query, s.transaction()
	made, err := p.document()
	if err != nil {
		return err
	}
	s.Done = "was payout " + p.ID
	return s.commit(ctx, l, s.move(source), made)
}

// settleEarnings makes the payout that a lost life of the ledger made of a worker's earnings.
func settleEarnings(ctx context.Context, l Documents, s *Suspense, e lostPayout) error {
	if e.payee.Address != s.Peer {
		return errLeft
	}
	account := ledger.Account(workerPrefix + e.worker)
	p := Payout{
		ID: s.Comment, Account: account, To: s.Peer, Amount: s.Amount, Reason: "earnings", State: Paid, Why: "found on the chain",
		Asked: s.At, Query: s.Query, Hash: s.transaction(),
	}
	day := payday{}
	d, err := l.Document(ctx, kindPayday, e.worker)
	if err == nil {
		err = decode(d, &day)
	} else if errors.Is(err, ledger.ErrNoDocument) {
		err = nil
	}
	if err != nil {
		return err
	}
	day.Number, day.At = max(day.Number, e.number+1), max(day.At, s.At.Unix())
	next, err := document(kindPayday, e.worker, d.Version, day)
	if err != nil {
		return err
	}
	made, err := p.document()
	if err != nil {
		return err
	}
	s.Done = "was payout " + p.ID
	return s.commit(ctx, l, s.move(account), made, next)
}

// commit settles it, and changes documents with it.
func (s *Suspense) commit(ctx context.Context, l Documents, moved ledger.Transfer, documents ...ledger.Document) error {
	settled, err := document(kindSuspense, s.ID, s.version, s)
	if err != nil {
		return err
	}
	_, err = l.Commit(ctx, []ledger.Transfer{moved}, append(documents, settled))
	return err
}

// transaction gives the hash of the transaction that it is from.
func (s *Suspense) transaction() string { return s.ID[:min(len(s.ID), 64)] }
