package tabs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

// suspense holds what is locked of customers' money, beside what the treasury keeps there.
const suspense ledger.Account = "suspense"

// transit is what left a tab and has not arrived, or the other way round.
const transit ledger.Account = "transit"

// sourceMax is how long the treasury waits for the ledger.
const sourceMax = 5 * time.Second

// Tab is a customer's tab as he may see it.
type Tab struct {
	Address ton.Address // whoever sends money there tops it up; not marked as bounceable
	Kit     tab.Kit     // what the owner needs to leave without us
	Terms   tab.Terms
	Balance nanoton.Amount
	Drawn   nanoton.Amount
	Locked  nanoton.Amount // of the balance: not to be spent, for the limit, the reserve or closing
	CloseAt time.Time      // zero: it is not closing
	Stopped string         // why it is left alone; empty if it is not
}

// Open makes a customer's tab, or finds it: then base and rate are what it was made with, and only its owner can raise them
// on the chain. The gateway may draw base in all, and rate more each second from now. An owner must be a wallet of the
// basechain that the customer, and nobody else, signs for. Errors: ErrOwner, tab.ErrTerms.
func (k *Keeper) Open(ctx context.Context, customer ledger.Account, owner ton.Address, base, rate nanoton.Amount) (Tab, error) {
	name, err := keyOf(TabKind, customer)
	if err == nil && owner == k.c.Treasury {
		err = fmt.Errorf("%w: the treasury can't be one", ErrOwner)
	}
	if err != nil {
		return Tab{}, err
	}
	head, err := k.c.Chain.Head(ctx)
	if err != nil {
		return Tab{}, fmt.Errorf("asking for the newest block: %w", err)
	}
	terms := tab.Terms{
		Owner: owner, Payee: k.c.Treasury, Signer: k.c.Signer.Public(), Salt: saltOf(k.c.Name, name),
		CloseDelay: CustomerDelay, Base: base, Rate: rate,
	}
	if rate != 0 {
		terms.Since = head.Time.UTC()
	}
	t, err := k.make(ctx, name, terms, head)
	if err != nil {
		return Tab{}, err
	}
	if is, err := ton.ParseAddress(t.Terms.Owner); err != nil || is != owner {
		return Tab{}, fmt.Errorf("%s: %w: %s", customer, ErrOwner, t.Terms.Owner)
	}
	return k.show(t)
}

// make writes the document of a new tab, or reads the one that is there.
func (k *Keeper) make(ctx context.Context, name key, terms tab.Terms, head ton.Head) (*pot, error) {
	address, err := terms.Address()
	if err != nil {
		return nil, err
	}
	for {
		t, err := k.read(ctx, name)
		if !errors.Is(err, ErrNone) {
			return t, err
		}
		t = &pot{key: name, record: record{V: recordVersion, Terms: terms.Wire(), Address: address, DrawnAt: head.Time.Unix()}}
		t.Base, t.Rate, t.Since = terms.Base, terms.Rate, t.Terms.Since
		if err = k.commit(ctx, t); err == nil {
			return t, nil
		}
		if !errors.Is(err, ledger.ErrChanged) {
			return nil, err
		}
	}
}

// Tab gives what is known of a customer's tab; ErrNone if there is none.
func (k *Keeper) Tab(ctx context.Context, customer ledger.Account) (Tab, error) {
	name, err := keyOf(TabKind, customer)
	if err != nil {
		return Tab{}, err
	}
	t, err := k.read(ctx, name)
	if err != nil {
		return Tab{}, err
	}
	return k.show(t)
}

func (k *Keeper) show(t *pot) (Tab, error) {
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return Tab{}, err
	}
	kit, err := tab.NewKit(terms)
	if err != nil {
		return Tab{}, err
	}
	out := Tab{Address: t.Address, Kit: kit, Terms: terms, Balance: t.Balance, Drawn: t.Drawn, Locked: t.Locked}
	if t.CloseAt != 0 {
		out.CloseAt = time.Unix(t.CloseAt, 0).UTC()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.tabs[t.key]; known != nil {
		out.Stopped = known.stopped
	}
	return out, nil
}

// Source says through which account money from an address came, if it is a tab's. The treasury asks it. An address that is
// not known is looked for in the ledger: another gateway may have made the tab.
func (k *Keeper) Source(from ton.Address) (ledger.Account, bool) {
	if k.knows(from) {
		return transit, true
	}
	ctx, cancel := context.WithTimeout(context.Background(), sourceMax)
	defer cancel()
	if err := k.refresh(ctx); err != nil {
		k.log.Warn("looking for a tab failed", "address", from.String(), "error", err)
	}
	return transit, k.knows(from)
}

func (k *Keeper) knows(address ton.Address) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.tabs {
		if t.Address == address {
			return true
		}
	}
	return false
}

// applyCustomer posts a transaction of a customer's tab.
func (u *turn) applyCustomer(ctx context.Context, t *pot, f flow, post poster) error {
	unexplained, err := u.unexplained(ctx, t, f)
	if err != nil {
		return err
	}
	// What the transaction needs of the customer's account is what no lock covers.
	want := max(-(f.change+f.paid)-(t.Locked-t.Unexplained), 0)
	if unexplained > 0 {
		u.k.log.Error("a tab was drawn for more than the ledger knows of: is it an older copy?",
			"tab", string(t.account()), "unknown", unexplained.String(), "drawn", f.drawn.String(), "signed", t.Signed.String())
		want += unexplained
	}
	if want == 0 {
		err = post(ctx, func(n *pot) []ledger.Leg { return u.bookCustomer(n, f, 0, 0) })
	} else {
		err = u.take(ctx, t, want, func(ctx context.Context, got nanoton.Amount) error {
			return post(ctx, func(n *pot) []ledger.Leg { return u.bookCustomer(n, f, got, unexplained) })
		})
	}
	return err
}

// poster commits a transaction's transfer, whose legs come of a copy of the tab that is changed on the way.
type poster func(ctx context.Context, legs func(n *pot) []ledger.Leg) error

// bookCustomer makes the legs of a transaction. got is what may be taken of the customer's account.
func (u *turn) bookCustomer(n *pot, f flow, got, unexplained nanoton.Amount) []ledger.Leg {
	var customer, locked, fees nanoton.Amount
	net := f.change + f.paid // the customer's side
	if net >= 0 {
		fees = min(net, n.Owed)
		locked = min(max(u.target(n, f)-n.Locked, 0), net-fees)
		customer = net - fees - locked
	} else {
		locked = -min(-net, n.Locked-n.Unexplained)
		customer = -min(locked-net, got)
		fees = net - locked - customer
		got += customer
	}
	n.Owed -= fees
	extra := min(unexplained, got)
	n.Unexplained += extra
	n.Locked += locked + extra
	n.Signed = max(n.Signed, f.drawn)
	legs := []ledger.Leg{{Account: n.account(), Amount: -f.change}, {Account: n.party(), Amount: customer - extra}}
	return some(legs, ledger.Leg{Account: transit, Amount: -f.paid}, ledger.Leg{Account: suspense, Amount: locked + extra},
		ledger.Leg{Account: "fees", Amount: fees})
}

// some appends those legs that move something.
func some(legs []ledger.Leg, more ...ledger.Leg) []ledger.Leg {
	for _, leg := range more {
		if leg.Amount != 0 {
			legs = append(legs, leg)
		}
	}
	return legs
}

// target is what shall be locked of a tab, whose balance is that after a transaction.
func (u *turn) target(t *pot, f flow) nanoton.Amount {
	keep := t.Balance
	if t.CloseAt == 0 {
		drawable := max(t.limit(u.head.Time)-max(t.Drawn, f.drawn), 0)
		keep = min(keep, max(t.Balance-drawable, reserves*u.costs.Reserve))
	}
	return max(keep, 0) + t.Unexplained
}

// reserves is how many times what the contract keeps back is locked: it keeps that back before it pays a draw's fees.
const reserves = 2

// unexplained is how much of a draw the ledger knows no reason for.
func (u *turn) unexplained(ctx context.Context, t *pot, f flow) (nanoton.Amount, error) {
	if !f.signed || f.drawn <= max(t.Signed, t.Drawn) {
		return 0, nil
	}
	if now, err := u.k.read(ctx, t.key); err != nil || now.version != t.version { // another gateway may have signed since
		return 0, errors.Join(err, ledger.ErrChanged)
	}
	undrawn, err := u.undrawn(ctx, t)
	if err != nil {
		return 0, err
	}
	return max(f.drawn-max(t.Signed, t.Drawn+undrawn), 0), nil
}

// undrawn is what the customer spent of the tab's money and what was not drawn.
func (u *turn) undrawn(ctx context.Context, t *pot) (nanoton.Amount, error) {
	spent, err := u.spent(ctx, t)
	return max(spent, 0), err
}

// spent is the same, below zero if the customer has other money beside the tab's.
func (u *turn) spent(ctx context.Context, t *pot) (nanoton.Amount, error) {
	have, err := u.has(ctx, t.party())
	return t.Balance - (t.Locked - t.Unexplained) - have, err
}

// has is what a customer has, allotments included. These move while it is read: it is asked until two answers agree.
func (u *turn) has(ctx context.Context, customer ledger.Account) (nanoton.Amount, error) {
	last := nanoton.Amount(math.MinInt64)
	for range attemptsMax {
		sum, err := u.k.c.Ledger.Balance(ctx, customer)
		if err != nil {
			return 0, err
		}
		allotted, err := u.k.c.Ledger.Allotted(ctx, customer)
		if err != nil {
			return 0, err
		}
		for _, amount := range allotted {
			sum += amount
		}
		if len(allotted) == 0 || sum == last {
			return sum, nil
		}
		last = sum
	}
	return 0, fmt.Errorf("%w: the balance of %s does not hold still", ledger.ErrChanged, customer)
}

// take has post take what is free of a customer's money, up to an amount: nothing if the Desk can't be asked.
func (u *turn) take(ctx context.Context, t *pot, want nanoton.Amount, post func(context.Context, nanoton.Amount) error) error {
	if u.k.c.Withdraw == nil {
		have, err := u.k.c.Ledger.Balance(ctx, t.party())
		if err != nil {
			return err
		}
		return post(ctx, min(want, max(have, 0)))
	}
	for want > 0 {
		var posted error
		ran := false
		err := u.k.c.Withdraw(ctx, t.party(), want, func(ctx context.Context) error {
			ran = true
			posted = post(ctx, want)
			return posted
		})
		if ran {
			return errors.Join(posted, err)
		}
		funds, ok := errors.AsType[*billing.FundsError](err)
		if !ok {
			break
		}
		want = min(want-1, max(funds.Balance-funds.Held, 0))
	}
	return post(ctx, 0)
}

// keepCustomer moves what may be spent, and draws.
func (u *turn) keepCustomer(ctx context.Context, t *pot) error {
	if t.CloseAt != 0 && u.k.c.Closing != nil {
		u.k.c.Closing(t.party(), time.Unix(t.CloseAt, 0).UTC())
	}
	before := t.version
	defer func() {
		if t.version != before { // not while the Desk waits for us
			u.k.c.Credited(t.party())
		}
	}()
	if err := u.explain(ctx, t); err != nil {
		return err
	}
	if err := u.collect(ctx, t); err != nil {
		return err
	}
	if err := u.lock(ctx, t); err != nil {
		return err
	}
	undrawn, err := u.undrawn(ctx, t)
	if err != nil {
		return err
	}
	u.status.Undrawn += undrawn
	return u.draw(ctx, t, undrawn)
}

// explain gives back what was locked because of a draw that the ledger had no spending for, as far as it has it now.
func (u *turn) explain(ctx context.Context, t *pot) error {
	if t.Unexplained == 0 {
		return nil
	}
	undrawn, err := u.undrawn(ctx, t)
	if err != nil {
		return err
	}
	amount := min(undrawn, t.Unexplained)
	if amount == 0 {
		return nil
	}
	n := t.clone()
	n.Unexplained -= amount
	n.Locked -= amount
	return u.put(ctx, t, n, "explained", ledger.Leg{Account: suspense, Amount: -amount},
		ledger.Leg{Account: t.party(), Amount: amount})
}

// put commits a change of a tab that has no transaction on the chain.
func (u *turn) put(ctx context.Context, t, n *pot, what string, legs ...ledger.Leg) error {
	err := u.k.commit(ctx, n, ledger.Transfer{
		ID: transferID(t.key, what, uint64(t.version), [32]byte{}), Kind: t.kind, At: u.head.Time, Ref: what, Legs: legs,
	})
	if err == nil {
		*t = *n
	}
	return err
}

// collect takes what the customer owes to fees.
func (u *turn) collect(ctx context.Context, t *pot) error {
	if t.Owed == 0 {
		return nil
	}
	return u.take(ctx, t, t.Owed, func(ctx context.Context, got nanoton.Amount) error {
		if got == 0 {
			return nil
		}
		n := t.clone()
		n.Owed -= got
		return u.put(ctx, t, n, "collected", ledger.Leg{Account: t.party(), Amount: -got}, ledger.Leg{Account: "fees", Amount: got})
	})
}

// lock moves money between the customer's account and what is locked of it.
func (u *turn) lock(ctx context.Context, t *pot) error {
	more := u.target(t, flow{}) - t.Locked
	move := func(ctx context.Context, amount nanoton.Amount) error {
		if amount == 0 {
			return nil
		}
		n := t.clone()
		n.Locked += amount
		return u.put(ctx, t, n, "locked", ledger.Leg{Account: t.party(), Amount: -amount},
			ledger.Leg{Account: suspense, Amount: amount})
	}
	switch {
	case more > 0 && (t.CloseAt != 0 || more > u.costs.Reserve/2):
		return u.take(ctx, t, more, move)
	case -more >= moveMin:
		return move(ctx, more)
	}
	return nil
}

// draw sends the voucher that is under way, or signs one if it is time.
func (u *turn) draw(ctx context.Context, t *pot, undrawn nanoton.Amount) error {
	now := u.head.Time
	if t.CloseAt != 0 && now.Unix() > t.CloseAt {
		return nil // it takes no voucher any more, and anyone can finish it
	}
	v := t.Voucher
	if v == nil || v.Cumulative <= t.Drawn || v.Until < now.Unix() {
		amount := u.payable(t, t.Drawn+undrawn)
		if !u.due(t, amount) {
			return nil
		}
		n := t.clone()
		if err := u.k.sign(ctx, n, t.Drawn+amount, now, DrawValidity); err != nil {
			return err
		}
		if err := u.k.commit(ctx, n); err != nil { // before it is sent: what is not written was not signed
			return err
		}
		*t = *n
		v = t.Voucher
	}
	if u.payable(t, v.Cumulative) < u.costs.Least {
		return nil
	}
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return err
	}
	message, err := tab.Message(terms, t.Active, v.Body)
	if err != nil {
		return err
	}
	if err := u.k.c.Chain.Send(ctx, message); err != nil && !errors.Is(err, ton.ErrRefused) { // refused: it may be there already
		return fmt.Errorf("sending a voucher: %w", err)
	}
	return nil
}

// payable is what the contract would pay for a voucher now.
func (u *turn) payable(t *pot, cumulative nanoton.Amount) nanoton.Amount {
	return max(min(min(cumulative, t.limit(u.head.Time))-t.Drawn, t.Balance-u.costs.Reserve), 0)
}

// due tells whether it is time for a draw of an amount.
func (u *turn) due(t *pot, amount nanoton.Amount) bool {
	if amount < u.costs.Least {
		return false
	}
	if t.CloseAt != 0 {
		return true
	}
	cost := u.costs.Draw
	if !t.Active {
		cost = u.costs.Deploy
	}
	if cost > amount/FeePart {
		return false
	}
	return amount > max(DrawMax, t.Balance/DrawPart) || u.head.Time.Sub(time.Unix(t.DrawnAt, 0)) >= DrawEvery
}

// sign signs a voucher into the document.
func (k *Keeper) sign(ctx context.Context, t *pot, cumulative nanoton.Amount, now time.Time, valid time.Duration) error {
	until := now.Add(valid).Truncate(time.Second)
	root, err := k.c.Root()
	if err != nil {
		return fmt.Errorf("asking for the root of the log of receipts: %w", err)
	}
	v := tab.Voucher{Tab: t.Address, ValidUntil: until, Cumulative: cumulative, Root: root}
	body, err := tab.Sign(ctx, k.c.Signer, v)
	if err != nil {
		return err
	}
	t.Signed = max(t.Signed, cumulative)
	t.Voucher = &voucher{Body: body, Cumulative: cumulative, At: now.Unix(), Until: until.Unix()}
	return nil
}
