package tab

import (
	"fmt"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// What each operation costs, with the prices of today and of before 2026-04-29. Run it with -v. The contract's own
// reckoning must be above all of it.
func TestCosts(t *testing.T) {
	for _, config := range []string{today, before} {
		c := newChain(t, config)
		p := newParty(t, c, 1, "app")
		most := map[string]nanoton.Amount{}
		note := func(what string, s step, bound nanoton.Amount) {
			t.Helper()
			if s.exit != 0 || s.action != 0 {
				t.Fatalf("%s: exit %d, actions %d", what, s.exit, s.action)
			}
			cost := s.fees - s.storage
			if cost > bound || s.gas > messageGas {
				t.Errorf("%s costs %v, reckoned with %v; %d gas", what, cost, bound, s.gas)
			}
			t.Logf("%-34s %-32s %-16v %5d gas", config, what, cost, s.gas)
			most[what] = cost
		}
		t.Logf("%-34s reckoned: %+v", config, p.costs)
		p.fund(t, p.at, 1000*mega, nil)
		note("first draw, deploys", p.draw(t, p.voucher(mega)), p.costs.Deploy)
		p.init = nil
		note("draw", p.draw(t, p.voucher(2*mega)), p.costs.Draw)
		note("limit", p.send(t, p.terms.Owner, p.at, mega, LimitBody(1<<62, 1<<62, c.now())), p.costs.Call)
		note("payment by the owner", p.send(t, p.terms.Owner, p.at, 2*mega, PayBody(mega)), p.costs.Push)
		p.fund(t, p.at, 1<<60, nil)
		note("large draw", p.draw(t, p.voucher(1<<59)), p.costs.Draw)
		note("owner closes", p.send(t, p.terms.Owner, p.at, mega, CloseBody()), p.costs.Call)
		u := c.raw(t, p.at).State.StorageInfo.StorageUsed
		if bits, cells := u.BitsUsed.Uint64(), u.CellsUsed.Uint64(); bits > stateBits || cells > stateCells {
			t.Errorf("the state has %d bits in %d cells, reckoned with %d in %d", bits, cells, stateBits, stateCells)
		} else {
			rent := c.prices.Storage(bits, cells, 365*day)
			t.Logf("%-34s %-32s %v, %d bits, %d cells", config, "rent for a year", rent, bits, cells)
		}
		p.wait(day + time.Second)
		note("anyone finishes", p.send(t, account("x"), p.at, mega, FinishBody()), p.costs.Call)
		if config == today {
			if d := most["draw"]; d > mega*2/1000 {
				t.Errorf("a draw costs %v", d)
			}
			pushed(t, c)
		}
		if most["first draw, deploys"] <= most["draw"] || most["payment by the owner"] >= most["draw"] {
			t.Errorf("not in the order that is known: %v", most)
		}
	}
}

// pushed measures payments through workers' tabs, a batch of the treasury's.
func pushed(t *testing.T, c *chain) {
	treasury := wallet.NewHighload(newKey("treasury"), wallet.HighloadOptions{Timeout: time.Hour})
	c.fund(t, treasury.Address(), 10_000*mega, nil)
	const workers = 100
	var direct, through []wallet.Transfer
	var tabs []ton.Address
	for i := range workers {
		p := newParty(t, c, uint64(i), fmt.Sprint("worker ", i))
		p.terms.Owner = treasury.Address()
		p.seal(t)
		p.fund(t, p.at, mega, p.init)
		tabs = append(tabs, p.at)
		direct = append(direct, wallet.Transfer{To: p.terms.Payee, Amount: mega / 2})
		through = append(through, wallet.Transfer{
			To: p.at, Amount: mega/2 + p.costs.PushValue, Body: PayBody(mega / 2), Bounce: true,
		})
	}
	ours := func() nanoton.Amount {
		sum := c.balance(treasury.Address())
		for _, a := range tabs {
			sum += c.balance(a)
		}
		return sum
	}
	for i, batch := range [][]wallet.Transfer{direct[:1], direct, through} { // the first deploys the wallet
		before := ours()
		message, err := treasury.Batch(t.Context(), uint32(i), c.now().Add(-time.Minute), batch, i > 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.n.SendExternal(message); err != nil {
			t.Fatal(err)
		}
		c.mine(t)
		k := nanoton.Amount(len(batch))
		cost := (before-ours())/k - mega/2
		what := []string{"wallet's deployment", "payout, of a batch of 100", "payment through a tab, of 100"}[i]
		t.Logf("%-34s %-32s %v", today, what, cost)
		if cost <= 0 || cost > mega*2/1000 {
			t.Errorf("batch %d: %v each", i, cost)
		}
	}
	if st := c.tab(t, tabs[5]); st.Drawn != mega/2 {
		t.Errorf("drawn %v", st.Drawn)
	}
}
