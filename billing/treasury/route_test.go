package treasury

import (
	"bytes"
	"context"
	"testing"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

// TestRoute pays two workers through contracts: the messages carry bodies in place of the payouts' IDs, and are known by
// them. Two that look alike go in two batches, one after the other.
func TestRoute(t *testing.T) {
	body := cell.BeginCell().MustStoreUInt(0x7ab50004, 32).EndCell().ToBOC()
	contract := someone("contract")
	s, l, x := funded(t, newWorld(t, devnet.Options{}), func(c *Config) {
		c.Route = func(_ context.Context, worker ledger.Account, to ton.Address, _ nanoton.Amount) (ton.Address, []byte, bool, error) {
			return contract, body, worker != "worker:"+ledger.Account(workerHex("direct")), nil
		}
	})
	for _, w := range []string{"one", "two", "direct"} {
		payee(t, l, workerHex(w), Payee{Address: someone(w)})
		earn(t, l, workerHex(w), 2*tonCoin)
	}
	s.run(x)
	if got := s.balance(contract); got != 4*tonCoin {
		t.Errorf("the contract got %v", got)
	}
	if got := s.got("direct"); got != 2*tonCoin {
		t.Errorf("the worker without one got %v", got)
	}
	list, err := Payouts(t.Context(), l, Filter{})
	if err != nil || len(list) != 3 {
		t.Fatalf("%d payouts, %v", len(list), err)
	}
	places := map[uint64]int{}
	for i := range list {
		p := &list[i]
		if p.State != Paid || p.To == contract != bytes.Equal(p.Body, body) {
			t.Errorf("payout %+v", p)
		}
		if p.To == contract {
			places[p.LT]++
		}
	}
	if len(places) != 2 {
		t.Errorf("payouts that look alike were paid by %d transactions", len(places))
	}
	if books := s.books(l); books[accountPayouts] != 0 {
		t.Errorf("%v in payouts", books[accountPayouts])
	}
	if err := x.Ask(t.Context(), Payout{ID: "x", Account: "fees", To: contract, Amount: tonCoin, Body: []byte("no cells")}); err == nil {
		t.Error("a body that is none was taken")
	}
}

// TestOwnPocket pays the operator what is his, and no nanoTON of the customers'.
func TestOwnPocket(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	s.give("rich customer", 500*tonCoin, ton.Memo("alice"))
	s.mine()
	step(t, x)
	move(t, l, "spent", "customer:alice", accountFees, 3*tonCoin)
	books := s.books(l)
	own := books[accountFees] + books[accountNetwork]
	ask := func(id string, amount nanoton.Amount) Payout {
		if err := Ask(t.Context(), l, Payout{ID: id, Account: accountFees, To: someone(id), Amount: amount}); err != nil {
			t.Fatal(err)
		}
		s.run(x)
		return find(t, l, id)
	}
	if p := ask("much", own+1); p.State != Refused {
		t.Errorf("more than his own: %+v", p)
	}
	locked := accountCollateral + ledger.Account(workerHex("one"))
	move(t, l, "earned, and locked for a worker", locked, accountFees, tonCoin/2)
	if p := ask("backing", own+tonCoin/4); p.State != Refused {
		t.Errorf("what backs a worker: %+v", p)
	}
	move(t, l, "unlocked", accountFees, locked, tonCoin/2)
	if p := ask("some", own-tonCoin); p.State != Paid || s.got("some") < own-tonCoin {
		t.Errorf("his own: %+v", p)
	}
	if p := ask("again", tonCoin); p.State != Refused { // fees took from it
		t.Errorf("what he had already: %+v", p)
	}
	if books := s.books(l); books["customer:alice"] != 497*tonCoin {
		t.Errorf("the customer has %v", books["customer:alice"])
	}
}
