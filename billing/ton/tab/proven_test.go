package tab

import (
	"errors"
	"testing"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// The way of the program: state, prices and transactions proven, vouchers sent as messages.
func TestProven(t *testing.T) {
	c := newChain(t, today)
	network, err := c.n.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	client, err := ton.Open(t.Context(), ton.Config{Network: network, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	p := newParty(t, c, 1, "app")
	p.fund(t, p.at, 5*mega, nil)

	head := func() ton.Head {
		h, err := client.Next(t.Context(), c.n.Seqno()-1)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	account := func(a ton.Address) ton.State {
		s, err := client.Account(t.Context(), head(), a)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, err := ParseState(account(p.at)); !errors.Is(err, ErrUndeployed) {
		t.Errorf("before the first voucher: %v", err)
	}
	fees, err := client.Fees(t.Context(), head())
	if err != nil {
		t.Fatal(err)
	}
	if got := CostsAt(fees); got != p.costs {
		t.Errorf("costs %+v, want %+v", got, p.costs)
	}
	var drawn nanoton.Amount
	for i := range 3 {
		drawn += mega
		v := p.voucher(drawn)
		message, err := Message(p.terms, i > 0, p.sign(t, v))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Send(t.Context(), message); err != nil {
			t.Fatal(err)
		}
		c.mine(t)
		if err := client.Send(t.Context(), message); !errors.Is(err, ton.ErrRefused) {
			t.Errorf("sent again: %v", err)
		}
		st, err := ParseState(account(p.at))
		if err != nil {
			t.Fatal(err)
		}
		if st.Drawn != drawn || st.Root != v.Root || st.Balance != c.balance(p.at) || st.Owner != p.terms.Owner {
			t.Errorf("state %+v", st)
		}
	}
	// the payee's side
	s := account(p.terms.Payee)
	list, err := client.Transactions(t.Context(), s, ton.Cursor{}, 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("%d transactions, %v", len(list), err)
	}
	for i, tx := range list {
		n, ok := ParseNotice(*tx.In)
		want := nanoton.Amount(i+1) * mega
		if !ok || n != (Notice{Cumulative: want, Root: p.voucher(want).Root}) || tx.In.From != p.at || tx.In.Amount != mega {
			t.Errorf("notice %+v, %v, with %v", n, ok, tx.In.Amount)
		}
	}
	if _, err := ParseState(account(p.at)); err != nil {
		t.Error(err)
	}
	other := account(p.at)
	other.Code = p.init.Data
	if _, err := ParseState(other); !errors.Is(err, ErrForeign) {
		t.Errorf("other code: %v", err)
	}
	other = account(p.at)
	other.Data = p.init.Code
	if _, err := ParseState(other); !errors.Is(err, ErrForeign) {
		t.Errorf("other data: %v", err)
	}
}
