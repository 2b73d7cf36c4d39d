package tabs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
)

// collateralLimit is that of workers' tabs: the treasury gives what it is ready to lose to a stolen metering key, no more.
const collateralLimit nanoton.Amount = math.MaxInt64 / 2

// Collateral has a worker's tab hold an amount, from the treasury: it is a promise that the worker can claim what he earned
// without us. The document comes first, and Step asks the treasury. Less than what is there changes nothing. A worker with
// another payout address needs another tab: ErrPayee.
func (k *Keeper) Collateral(
	ctx context.Context, worker ledger.Account, payee ton.Address, amount nanoton.Amount,
) (ton.Address, error) {
	name, err := keyOf(CollateralKind, worker)
	if err == nil && payee == k.c.Treasury {
		err = fmt.Errorf("%w: it is the treasury's", ErrPayee)
	}
	if err != nil {
		return ton.Address{}, err
	}
	head, err := k.c.Chain.Head(ctx)
	if err != nil {
		return ton.Address{}, fmt.Errorf("asking for the newest block: %w", err)
	}
	t, err := k.make(ctx, name, tab.Terms{
		Owner: k.c.Treasury, Payee: payee, Signer: k.c.Signer.Public(), Salt: saltOf(k.c.Name, name),
		CloseDelay: WorkerDelay, Base: collateralLimit,
	}, head)
	if err != nil {
		return ton.Address{}, err
	}
	if is, err := ton.ParseAddress(t.Terms.Payee); err != nil || is != payee {
		return ton.Address{}, fmt.Errorf("%s: %w: %s", worker, ErrPayee, t.Terms.Payee)
	}
	_, err = k.change(ctx, name, func(t *pot) ([]ledger.Transfer, error) {
		lacks := amount - t.Balance
		if t.Asked > t.Funded || lacks < voucherMin {
			return nil, errDone // one order at a time
		}
		t.Order, t.Orders = lacks, t.Orders+1
		t.Asked += lacks
		return nil, nil
	})
	return t.Address, err
}

// order is what the treasury is asked for now; false: nothing.
func (t *pot) order() (Order, bool, error) {
	if t.Asked <= t.Funded {
		return Order{}, false, nil
	}
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return Order{}, false, err
	}
	kit, err := tab.NewKit(terms) // it has the state that deploys the contract
	if err != nil {
		return Order{}, false, err
	}
	id := transferID(t.key, "order", uint64(t.Orders), [32]byte{})
	return Order{
		ID: id.String()[:24], Account: transit, To: t.Address, Amount: t.Order, Init: kit.Init,
		Reason: "collateral",
	}, true, nil
}

// Route says how a payout reaches a worker through his tab, so that it counts as drawn and no voucher pays it again: the
// treasury takes the amount from the worker's account as always, and sends it with this body to the tab, not marked as
// bounceable. The tab passes on a little less, for its fees; what it keeps of that is the worker's again. False: pay the
// worker directly, he has no tab, or it is not deployed, or he has another payout address by now.
func (k *Keeper) Route(
	ctx context.Context, worker ledger.Account, payee ton.Address, amount nanoton.Amount,
) (Order, bool, error) {
	name, err := keyOf(CollateralKind, worker)
	if err != nil {
		return Order{}, false, err
	}
	t, err := k.read(ctx, name)
	if errors.Is(err, ErrNone) {
		return Order{}, false, nil
	}
	if err != nil {
		return Order{}, false, err
	}
	if is, err := ton.ParseAddress(t.Terms.Payee); err != nil || is != payee || !t.Active {
		return Order{}, false, err
	}
	head, err := k.c.Chain.Head(ctx)
	if err != nil {
		return Order{}, false, fmt.Errorf("asking for the newest block: %w", err)
	}
	fees, err := k.c.Chain.Fees(ctx, head)
	if err != nil {
		return Order{}, false, fmt.Errorf("asking for the network's prices: %w", err)
	}
	paid := amount - tab.CostsAt(fees).PushValue
	if paid <= 0 {
		return Order{}, false, nil
	}
	return Order{Account: worker, To: t.Address, Amount: amount, Body: tab.PayBody(paid).ToBOC()}, true, nil
}

// Voucher gives a worker's newest voucher, as it goes to him with acknowledgements; nil if he has no tab, or nothing was
// ever signed. It is signed anew when more is owed, once a minute at most, and when the old one is half over. It may be called
// often: mostly it answers from memory.
func (k *Keeper) Voucher(ctx context.Context, worker ledger.Account) (*receipt.Voucher, error) {
	name, err := keyOf(CollateralKind, worker)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	t, now := k.tabs[name], k.status.At
	k.mu.Unlock()
	switch {
	case t == nil || now.IsZero():
		return nil, nil
	case t.Voucher != nil && now.Sub(time.Unix(t.Voucher.At, 0)) < voucherEvery:
		return t.given(), nil
	}
	t, err = k.change(ctx, name, func(t *pot) ([]ledger.Transfer, error) {
		cumulative, err := k.promised(ctx, t)
		if err != nil {
			return nil, err
		}
		if cumulative = max(t.Signed, cumulative); t.Balance <= 0 || cumulative <= t.Drawn {
			return nil, errDone
		}
		if v := t.Voucher; v != nil && now.Add(VoucherValidity/2).Unix() < v.Until && cumulative < v.Cumulative+voucherMin {
			return nil, errDone
		}
		return nil, k.sign(ctx, t, cumulative, now, VoucherValidity)
	})
	if err != nil {
		return nil, err
	}
	k.keep(t)
	return t.given(), nil
}

// Pay brings a worker's newest voucher to the chain for him: what is owed is paid from his tab, as far as it holds it. It is
// the other way of a regular payout: refill the tab with Collateral, then Pay. It needs no message of the treasury to the
// worker, and nothing is paid twice, whoever else brings the voucher. False: there is too little to pay. Step sees what came
// of it.
func (k *Keeper) Pay(ctx context.Context, worker ledger.Account) (bool, error) {
	v, err := k.Voucher(ctx, worker)
	if err != nil || v == nil {
		return false, err
	}
	t, err := k.read(ctx, key{CollateralKind, string(worker)[len("worker:"):]})
	if err != nil {
		return false, err
	}
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return false, err
	}
	head, err := k.c.Chain.Head(ctx)
	if err != nil {
		return false, fmt.Errorf("asking for the newest block: %w", err)
	}
	fees, err := k.c.Chain.Fees(ctx, head)
	if err != nil {
		return false, fmt.Errorf("asking for the network's prices: %w", err)
	}
	costs := tab.CostsAt(fees)
	if min(t.Signed-t.Drawn, t.Balance-costs.Reserve) < costs.Least {
		return false, nil
	}
	message, err := tab.Message(terms, t.Active, v.Body)
	if err != nil {
		return false, err
	}
	if err := k.c.Chain.Send(ctx, message); err != nil {
		return false, fmt.Errorf("sending a voucher: %w", err)
	}
	return true, nil
}

// given is the voucher as a worker gets it.
func (t *pot) given() *receipt.Voucher {
	if t.Voucher == nil {
		return nil
	}
	return &receipt.Voucher{Body: t.Voucher.Body, Terms: t.Terms}
}

// promised is what the ledger says that a worker's tab has to pay in all.
func (k *Keeper) promised(ctx context.Context, t *pot) (nanoton.Amount, error) {
	owed, err := k.c.Ledger.Balance(ctx, t.party())
	return t.Drawn + owed + t.Lost - t.Advance, err
}

// Presented takes a voucher that a worker shows. One that is signed by our key and says more than the ledger knows proves
// that the ledger is an older copy: the amount is never signed below again, and the error is ErrOlder, with how much is
// unknown. The worker can claim it; an operator may credit it (Credit). Errors: ErrNone, ErrVoucher, ErrOlder.
func (k *Keeper) Presented(ctx context.Context, worker ledger.Account, body []byte) error {
	name, err := keyOf(CollateralKind, worker)
	if err != nil {
		return err
	}
	var unknown nanoton.Amount
	_, err = k.change(ctx, name, func(t *pot) ([]ledger.Transfer, error) {
		v, err := tab.ParseVoucher(body, k.c.Signer.Public())
		if err != nil || v.Tab != t.Address {
			return nil, fmt.Errorf("%s: %w", worker, errors.Join(ErrVoucher, err))
		}
		known, err := k.promised(ctx, t)
		if err != nil {
			return nil, err
		}
		if unknown = v.Cumulative - max(t.Signed, known); unknown <= 0 {
			return nil, errDone
		}
		t.Signed = v.Cumulative
		t.Lost += unknown
		return nil, nil
	})
	if err != nil || unknown <= 0 {
		return err
	}
	k.log.Error("a worker shows a voucher of this gateway that the ledger knows nothing of: is it an older copy?",
		"worker", string(worker), "unknown", unknown.String())
	return fmt.Errorf("%s: %w: it says %v more", worker, ErrOlder, unknown)
}

// Credit pays a worker, from fees, what vouchers of ours promised him and what the ledger lost. It gives the amount.
func (k *Keeper) Credit(ctx context.Context, worker ledger.Account) (amount nanoton.Amount, err error) {
	name, err := keyOf(CollateralKind, worker)
	if err != nil {
		return 0, err
	}
	_, err = k.change(ctx, name, func(t *pot) ([]ledger.Transfer, error) {
		if amount = t.Lost; amount == 0 {
			return nil, errDone
		}
		t.Lost = 0
		return []ledger.Transfer{{
			ID: transferID(name, "credited", uint64(t.version), [32]byte{}), Kind: CollateralKind, At: time.Now(),
			Ref:  "lost and promised",
			Legs: []ledger.Leg{{Account: worker, Amount: amount}, {Account: "fees", Amount: -amount}},
		}}, nil
	})
	return amount, err
}

// applyWorker posts a transaction of a worker's tab.
func (u *turn) applyWorker(ctx context.Context, t *pot, f flow, post poster) error {
	owed := nanoton.Amount(0)
	if f.paid > 0 && !f.push {
		var err error
		if owed, err = u.k.c.Ledger.Balance(ctx, t.party()); err != nil {
			return err
		}
	}
	lost := t.Lost
	err := post(ctx, func(n *pot) []ledger.Leg { return bookWorker(n, f, owed) })
	if err == nil && t.Lost > lost {
		u.k.log.Error("a worker claimed more than the ledger knows of: is it an older copy?", "worker", string(t.party()),
			"unknown", (t.Lost - lost).String())
	}
	return err
}

// bookWorker makes the legs of a transaction. owed is what the worker's account has.
func bookWorker(n *pot, f flow, owed nanoton.Amount) []ledger.Leg {
	moving, fees, worker := -f.back, -f.other, nanoton.Amount(0)
	switch {
	case f.push: // the treasury took it from the worker's account
		worker = f.in
	case f.owner:
		moving += f.in
		n.Funded += f.in
	default:
		fees += f.in // a gift
	}
	if f.paid > 0 && f.push {
		worker -= f.paid
	} else if f.paid > 0 {
		n.claim(f, min(owed, f.paid))
		worker -= min(owed, f.paid)
		fees -= f.paid - min(owed, f.paid)
	}
	legs := []ledger.Leg{{Account: n.account(), Amount: -f.change}, {Account: "network", Amount: -f.fees}}
	return some(legs, ledger.Leg{Account: transit, Amount: moving}, ledger.Leg{Account: "fees", Amount: fees},
		ledger.Leg{Account: n.party(), Amount: worker})
}

// claim notes a draw with a voucher, of which the worker's account covers a part.
func (t *pot) claim(f flow, covered nanoton.Amount) {
	if unknown := f.drawn - max(t.Signed, t.Drawn); unknown > 0 {
		t.Lost += unknown
		t.Signed = f.drawn
	}
	lacks := f.paid - covered
	lost := min(lacks, t.Lost)
	t.Lost -= lost
	t.Advance += lacks - lost
}

// keepWorker asks for collateral that did not come, and keeps back what was paid in advance.
func (u *turn) keepWorker(ctx context.Context, t *pot) error {
	if t.Advance > 0 {
		owed, err := u.k.c.Ledger.Balance(ctx, t.party())
		if err != nil {
			return err
		}
		if back := min(owed, t.Advance); back > 0 {
			n := t.clone()
			n.Advance -= back
			err := u.put(ctx, t, n, "advance", ledger.Leg{Account: t.party(), Amount: -back}, ledger.Leg{Account: "fees", Amount: back})
			if err != nil {
				return err
			}
		}
	}
	order, ok, err := t.order()
	if err != nil || !ok || u.k.c.Ask == nil {
		return err
	}
	if err := u.k.c.Ask(ctx, order); err != nil {
		return fmt.Errorf("asking for collateral: %w", err)
	}
	return nil
}

// Pledge is a worker's tab as an operator may see it.
type Pledge struct {
	Address  ton.Address
	Payee    ton.Address
	Balance  nanoton.Amount
	Drawn    nanoton.Amount // claims, and payouts through the tab
	Promised nanoton.Amount // by the highest voucher, in all; what is above Drawn can be claimed
	Until    time.Time      // the newest voucher is valid; zero: there is none
	Advance  nanoton.Amount // paid and not owed
	Lost     nanoton.Amount // promised, though the ledger does not know why
}

// Pledge gives what is known of a worker's tab; ErrNone if there is none.
func (k *Keeper) Pledge(ctx context.Context, worker ledger.Account) (Pledge, error) {
	name, err := keyOf(CollateralKind, worker)
	if err != nil {
		return Pledge{}, err
	}
	t, err := k.read(ctx, name)
	if err != nil {
		return Pledge{}, err
	}
	terms, err := tab.FromWire(t.Terms)
	if err != nil {
		return Pledge{}, err
	}
	p := Pledge{
		Address: t.Address, Payee: terms.Payee, Balance: t.Balance, Drawn: t.Drawn, Promised: t.Signed,
		Advance: t.Advance, Lost: t.Lost,
	}
	if t.Voucher != nil {
		p.Until = time.Unix(t.Voucher.Until, 0).UTC()
	}
	return p, nil
}
