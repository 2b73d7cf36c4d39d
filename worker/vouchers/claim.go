package vouchers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

// Chain is what a claim needs of *ton.Client.
type Chain interface {
	Head(ctx context.Context) (ton.Head, error)
	Next(ctx context.Context, after uint32) (ton.Head, error)
	Account(ctx context.Context, h ton.Head, a ton.Address) (ton.State, error)
	Send(ctx context.Context, message []byte) error
	Fees(ctx context.Context, h ton.Head) (ton.Fees, error)
}

// Outlook is what a voucher is worth on the chain at a block.
type Outlook struct {
	Balance  nanoton.Amount // in the tab
	Drawn    nanoton.Amount // paid to the worker's address so far, in all
	Claim    nanoton.Amount // what the voucher would have paid now
	CloseAt  time.Time      // the gateway is closing the tab: claim before; zero: it is open
	Expired  bool           // by the chain's clock
	Deployed bool
	Why      string // why nothing can be claimed; empty if something can
}

// Look asks the chain what a voucher is worth.
func Look(ctx context.Context, c Chain, k Kept) (Outlook, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return Outlook{}, fmt.Errorf("asking for the newest block: %w", err)
	}
	return look(ctx, c, k, head)
}

func look(ctx context.Context, c Chain, k Kept, head ton.Head) (Outlook, error) {
	s, err := c.Account(ctx, head, k.Voucher.Tab)
	if err != nil {
		return Outlook{}, fmt.Errorf("asking for the tab: %w", err)
	}
	fees, err := c.Fees(ctx, head)
	if err != nil {
		return Outlook{}, fmt.Errorf("asking for the network's prices: %w", err)
	}
	costs := tab.CostsAt(fees)
	st, err := tab.ParseState(s)
	if errors.Is(err, tab.ErrUndeployed) {
		st, err = tab.State{Terms: k.Terms, Balance: s.Balance}, nil
	}
	if err != nil {
		return Outlook{}, err
	}
	o := Outlook{
		Balance: s.Balance, Drawn: st.Drawn, CloseAt: st.CloseAt, Deployed: s.Active,
		Expired: head.Time.After(k.Voucher.ValidUntil),
		Claim:   st.Payable(k.Voucher.Cumulative, s.Balance-costs.Reserve, head.Time),
	}
	switch {
	case o.Expired:
		o.Claim, o.Why = 0, "the voucher was valid until "+k.Voucher.ValidUntil.UTC().Format(time.RFC3339)
	case !o.CloseAt.IsZero() && head.Time.After(o.CloseAt):
		o.Claim, o.Why = 0, "the gateway closed the tab, which takes no voucher since "+o.CloseAt.UTC().Format(time.RFC3339)
	case k.Voucher.Cumulative <= o.Drawn:
		o.Why = "all of it was paid already"
	case o.Claim < costs.Least && o.Balance-costs.Reserve < costs.Least:
		o.Claim, o.Why = 0, fmt.Sprintf("the tab holds %v only", o.Balance)
	case o.Claim < costs.Least:
		o.Claim, o.Why = 0, fmt.Sprintf("the contract pays no less than %v at once", costs.Least)
	}
	return o, nil
}

// Claim brings a voucher to the chain and waits until it was paid or ctx ends, after which it may still be paid: claim again.
// It gives what was paid. The message is sent with each block, which is harmless: the contract pays once.
func Claim(ctx context.Context, c Chain, k Kept) (paid nanoton.Amount, err error) {
	head, err := c.Head(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the newest block: %w", err)
	}
	o, err := look(ctx, c, k, head)
	if err != nil {
		return 0, err
	}
	if o.Why != "" {
		return 0, fmt.Errorf("%w: %s", ErrVoucher, o.Why)
	}
	before := o.Drawn
	for {
		message, err := tab.Message(k.Terms, o.Deployed, k.Body)
		if err != nil {
			return 0, err
		}
		if err := c.Send(ctx, message); err != nil && !errors.Is(err, ton.ErrRefused) { // refused: it may have been paid just now
			return 0, fmt.Errorf("sending the voucher: %w", err)
		}
		if head, err = c.Next(ctx, head.Seqno); err != nil {
			return 0, fmt.Errorf("waiting for the next block: %w", err)
		}
		if o, err = look(ctx, c, k, head); err != nil {
			return 0, err
		}
		if o.Drawn > before {
			return o.Drawn - before, nil
		}
		if o.Why != "" {
			return 0, fmt.Errorf("%w: %s", ErrVoucher, o.Why)
		}
	}
}
