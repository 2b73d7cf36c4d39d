package billing

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// kindRelease is the kind of a transfer from an allotment back to its customer, as the ledger's own are.
	kindRelease = "release"
	// withdrawTries bounds how often a withdrawal begins anew because others moved the customer's money meanwhile.
	withdrawTries = 3
)

// Withdraw takes an amount from a customer's free money while post runs, which takes it from the customer's account in
// the ledger, as one transaction, or fails. It is for what leaves a customer's account beside requests: payouts.
//
// The error is a *FundsError (ErrFunds, ErrElsewhere) if less is free: what is held, or settled and not posted, is not.
// ErrUnavailable says that the ledger could not be asked; ErrInvalid that the amount is not above zero or the account is
// no customer's. In these cases nothing has moved. Else it is what post returned. If that is a *ledger.Refusal,
// ledger.ErrChanged or ledger.ErrInvalid, nothing has moved either, and a refusal for lack of money has post called
// again before it is believed. Any other error of post leaves the outcome open: the caller looks into the ledger
// whether it was posted, before it comes again with the same. For half a minute the amount can't be held then, and who
// lacks it gets ErrUnavailable.
//
// Balances are not read while post runs, so it must be short, and must not use the Desk.
func (d *Desk) Withdraw(
	ctx context.Context, account ledger.Account, amount nanoton.Amount, post func(context.Context) error,
) error {
	if err := account.Check(); err != nil || account.Kind() != "customer" || amount <= 0 {
		return fmt.Errorf("%w: withdrawal of %d nanoTON from %.80q", ErrInvalid, int64(amount), string(account))
	}
	if err := d.acquire(ctx); err != nil {
		return err
	}
	defer d.release()
	a := d.account(account) // it stays in memory: only who has sql removes it
	var err error
	for range withdrawTries {
		if d.c.Gateway == "" {
			err = d.withdraw(ctx, a, amount, post)
		} else {
			err = d.withdrawAllotted(ctx, a, amount, post)
		}
		refusal, refused := errors.AsType[*ledger.Refusal](err)
		if !refused || !errors.Is(err, ledger.ErrOverdrawn) || refusal.Account != a.name && refusal.Account != a.source {
			return err
		}
	}
	return fmt.Errorf("%w: the money of %s moves: %w", ErrUnavailable, account, err)
}

// withdraw takes an amount from an account that this Desk alone spends from. The caller has sql.
func (d *Desk) withdraw(ctx context.Context, a *account, amount nanoton.Amount, post func(context.Context) error) error {
	if err := d.refresh(ctx, a, 0); err != nil {
		return unavailable(ctx, err)
	}
	e := &FundsError{Account: a.name, Needed: amount}
	a.mu.Lock()
	enough := a.free() >= amount
	if enough {
		a.leaving += amount
	}
	e.Balance, e.Held = a.base-a.unposted, a.held
	a.mu.Unlock()
	if !enough {
		return d.refuse(a, e)
	}
	return d.leaves(ctx, a, amount, post)
}

// withdrawAllotted takes an amount from a customer whose money several gateways spend: from what is in no allotment, and
// what is idle in this gateway's goes back for it. The caller has sql.
func (d *Desk) withdrawAllotted(
	ctx context.Context, a *account, amount nanoton.Amount, post func(context.Context) error,
) error {
	in, err := d.askAll(ctx, a)
	if err != nil {
		return unavailable(ctx, err)
	}
	lacks := max(0, amount-in.customer) // the allotment gives this back
	e := &FundsError{Account: a.name, Needed: amount, Elsewhere: in.others}
	a.mu.Lock()
	// What is held may be more than the allotment: it was taken back, or was filled for a crash's holds before.
	e.Balance, e.Held = in.customer+in.own-a.unposted, a.held
	enough := minus(e.Balance, a.held)-a.unsure >= amount
	if enough {
		a.leaving += lacks
	}
	a.drained = false // whatever comes of it, what the customer has changes
	a.mu.Unlock()
	if !enough {
		return d.refuse(a, e)
	}
	if lacks > 0 {
		back := ledger.Transfer{
			Kind: kindRelease, At: time.Now(),
			Legs: []ledger.Leg{{Account: a.source, Amount: -lacks}, {Account: a.name, Amount: lacks}},
		}
		_, _ = rand.Read(back.ID[:]) // never fails
		err := d.leaves(ctx, a, lacks, func(ctx context.Context) error {
			return d.c.Ledger.Post(ctx, []ledger.Transfer{back})
		})
		if _, refused := errors.AsType[*ledger.Refusal](err); refused {
			return err
		}
		if err != nil {
			return unavailable(ctx, err)
		}
	}
	// It is in no allotment now. A gateway that asks for it meanwhile gets it, and then post is refused, or does not.
	ctx, cancel := context.WithTimeout(ctx, postMax)
	defer cancel()
	return post(ctx)
}

// refuse gives the error of a withdrawal, or that it is not sure. The caller has sql.
func (d *Desk) refuse(a *account, e *FundsError) error {
	if d.uncertain { // what failed to post may be counted twice
		return fmt.Errorf("%w: the last post failed", ErrUnavailable)
	}
	if a.limbo() {
		return fmt.Errorf("%w: whether a withdrawal took place is not known", ErrUnavailable)
	}
	return e
}

// whereabouts is where a customer's money is.
type whereabouts struct {
	customer, own, others nanoton.Amount // in no allotment, in this gateway's, in those of others
}

// askAll asks the ledger where a customer's money is. What moves meanwhile may be counted twice, but is not missed.
func (d *Desk) askAll(ctx context.Context, a *account) (in whereabouts, err error) {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	before, err := d.others(ctx, a)
	if err != nil {
		return in, err
	}
	if in.own, err = d.c.Ledger.Balance(ctx, a.source); err != nil {
		return in, err
	}
	if in.customer, err = d.c.Ledger.Balance(ctx, a.name); err != nil {
		return in, err
	}
	after, err := d.others(ctx, a) // again: it may have moved either way
	in.others = max(before, after)
	return in, err
}

// others asks the ledger what other gateways have of a customer's money.
func (d *Desk) others(ctx context.Context, a *account) (sum nanoton.Amount, err error) {
	all, err := d.c.Ledger.Allotted(ctx, a.name)
	delete(all, a.source)
	for _, amount := range all {
		sum += amount
	}
	return sum, err
}

// leaves has post take an amount that is counted as leaving, and then counts it as gone or not.
func (d *Desk) leaves(ctx context.Context, a *account, amount nanoton.Amount, post func(context.Context) error) error {
	posting, cancel := context.WithTimeout(ctx, postMax)
	defer cancel()
	err := post(posting)
	_, refused := errors.AsType[*ledger.Refusal](err)
	refused = refused || errors.Is(err, ledger.ErrChanged) || errors.Is(err, ledger.ErrInvalid)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving -= amount
	switch {
	case err == nil && a.known:
		a.base -= amount
	case err != nil && !refused:
		a.unsure += amount
		a.sureAt = time.Now().Add(postMax) // the database may still be at it
	}
	return err
}

// limbo says whether it is not known what a withdrawal took.
func (a *account) limbo() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unsure != 0
}

// letGo forgets withdrawals whose outcome was not known, when the ledger must know it, and has it asked. The account's
// lock is held.
func (a *account) letGo(now time.Time) {
	if a.unsure != 0 && !now.Before(a.sureAt) {
		a.unsure, a.known = 0, false
	}
}

// Credited has the Desk see money that came into an account, where it might show an older balance for some seconds. To
// hold it needs no such call.
func (d *Desk) Credited(name ledger.Account) {
	a := d.accounts.load(name)
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.credited, a.drained = true, false
}
