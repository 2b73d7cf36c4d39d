package tabs

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
)

// rent is what a wallet may have paid for its place on the chain.
const rent = 100

// payday does what the treasury is asked for.
func (w *world) payday() {
	w.t.Helper()
	for id, o := range w.asked {
		if w.done[id] {
			continue
		}
		w.done[id] = true
		w.post(o.Account, "payouts", o.Amount)
		w.post("payouts", "chain", o.Amount)
		terms := w.terms(o.To)
		w.net.deploy(w.t, w.treasury, terms, o.Amount)
	}
}

func (w *world) terms(a ton.Address) tab.Terms {
	w.t.Helper()
	for _, t := range w.keeper.tabs {
		if t.Address == a {
			terms, err := tab.FromWire(t.Terms)
			if err != nil {
				w.t.Fatal(err)
			}
			return terms
		}
	}
	w.t.Fatal("no tab at", a)
	return tab.Terms{}
}

// pledge gives a worker collateral.
func (w *world) pledge(amount nanoton.Amount) ton.Address {
	w.t.Helper()
	a, err := w.keeper.Collateral(context.Background(), worker, addressFor("worker"), amount)
	if err != nil {
		w.t.Fatal(err)
	}
	w.turn()
	w.payday()
	w.turn()
	return a
}

func (w *world) voucher() *receipt.Voucher {
	w.t.Helper()
	v, err := w.keeper.Voucher(context.Background(), worker)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// claim brings a voucher to the chain, as a worker does.
func (w *world) claim(v *receipt.Voucher) error {
	w.t.Helper()
	terms, err := tab.FromWire(v.Terms)
	if err != nil {
		w.t.Fatal(err)
	}
	message, err := tab.Message(terms, true, v.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.net.client.Send(context.Background(), message)
}

func (w *world) route(amount nanoton.Amount) Order {
	w.t.Helper()
	o, ok, err := w.keeper.Route(context.Background(), worker, addressFor("worker"), amount)
	if err != nil || !ok {
		w.t.Fatal(ok, err)
	}
	return o
}

// pay does a payout through the tab, as the treasury would that set the money aside.
func (w *world) pay(o Order) {
	w.t.Helper()
	w.post("payouts", "chain", o.Amount)
	paid := o.Amount
	for !bytes.Equal(tab.PayBody(paid).ToBOC(), o.Body) { // the body as a cell: it says somewhat less than the amount
		paid -= 1
		if o.Amount-paid > perTON/10 {
			w.t.Fatal("the body of the payout is another one")
		}
	}
	w.net.send(w.t, w.treasury, o.To, o.Amount, tab.PayBody(paid))
}

// TestWorkerTab goes through collateral, vouchers, a payout through the tab, a claim, and the way back.
func TestWorkerTab(t *testing.T) {
	w := newWorld(t)
	if w.voucher() != nil {
		t.Error("a voucher without a tab")
	}
	address := w.pledge(5 * perTON)
	w.sound()
	r := w.record(CollateralKind, string(worker)[7:])
	if !r.Active || r.Funded != 5*perTON || len(w.asked) != 1 || w.has(transit) != 0 || w.has("network") != r.Balance-5*perTON {
		t.Fatalf("%+v, transit %v", r, w.has(transit))
	}
	if again := w.pledge(5 * perTON); again != address || len(w.asked) != 1 {
		t.Errorf("asked again: %v", w.asked)
	}
	if w.voucher() != nil {
		t.Error("a voucher for nothing")
	}

	w.post("chain", worker, 2*perTON) // earned
	first := w.voucher()
	if first == nil || w.record(CollateralKind, string(worker)[7:]).Signed != 2*perTON {
		t.Fatalf("%+v", first)
	}
	o := w.route(2 * perTON)
	w.post(o.Account, "payouts", o.Amount)
	w.pay(o)
	w.turn()
	w.sound()
	r = w.record(CollateralKind, string(worker)[7:])
	got := w.net.balance(addressFor("worker"))
	if near(got, r.Drawn) > rent || got < 199*perTON/100 || w.has(worker) != 2*perTON-r.Drawn {
		t.Fatalf("through the tab: got %v, %+v, owed %v", got, r, w.has(worker))
	}
	if err := w.claim(first); !errors.Is(err, ton.ErrRefused) {
		t.Errorf("paid, and claimed: %v", err) // but for what the tab kept of it, which is too little
	}

	w.post("chain", worker, 3*perTON)
	w.net.SkewClock(voucherEvery)
	w.turn()
	second := w.voucher()
	if bytes.Equal(second.Body, first.Body) {
		t.Fatal("the same voucher for more")
	}
	owed := w.has(worker)
	if err := w.claim(second); err != nil {
		t.Fatal(err)
	}
	w.turn()
	w.sound()
	if r = w.record(CollateralKind, string(worker)[7:]); w.has(worker) != 0 || near(w.net.balance(addressFor("worker")), got+owed) > rent || r.Advance != 0 {
		t.Fatalf("claimed: owed %v, got %v, %+v", w.has(worker), w.net.balance(addressFor("worker")), r)
	}
	if w.has("fees") != 0 {
		t.Errorf("fees %v", w.has("fees"))
	}

	w.net.send(t, w.treasury, address, perTON/20, tab.CloseBody())
	w.net.mine(t)
	w.net.SkewClock(WorkerDelay + time.Minute)
	before := w.net.balance(w.treasury)
	w.net.send(t, w.treasury, address, perTON/20, tab.FinishBody())
	w.turn()
	w.sound()
	if back := w.net.balance(w.treasury) - before; -w.has(transit) != back-perTON/10 || back < 19*perTON/10 {
		t.Fatalf("back %v, transit %v", back, w.has(transit))
	}
}

// TestClaimAndPayout pays a worker twice, who claims while a payout is on its way: what was too much is kept back.
func TestClaimAndPayout(t *testing.T) {
	w := newWorld(t)
	w.pledge(5 * perTON)
	w.post("chain", worker, 2*perTON)
	v := w.voucher()
	o := w.route(2 * perTON)
	w.post(o.Account, "payouts", o.Amount) // the treasury has it in a batch
	if err := w.claim(v); err != nil {
		t.Fatal(err)
	}
	w.net.mine(t)
	w.pay(o)
	w.turn()
	w.sound()
	r := w.record(CollateralKind, string(worker)[7:])
	if got := w.net.balance(addressFor("worker")); near(got, r.Drawn) > rent || got < 399*perTON/100 || r.Advance < 199*perTON/100 || w.has("fees") != -r.Advance {
		t.Fatalf("got %v, fees %v, %+v", got, w.has("fees"), r)
	}
	w.post("chain", worker, 3*perTON)
	w.turn()
	w.sound()
	r = w.record(CollateralKind, string(worker)[7:])
	if got := w.net.balance(addressFor("worker")); r.Advance != 0 || w.has("fees") != 0 || near(got+w.has(worker), 5*perTON) > rent {
		t.Fatalf("got %v, owed %v, fees %v, %+v", got, w.has(worker), w.has("fees"), r)
	}
}

// TestFailedPush gives a worker back what did not reach him.
func TestFailedPush(t *testing.T) {
	w := newWorld(t)
	address := w.pledge(5 * perTON)
	w.post("chain", worker, 2*perTON)
	w.post(worker, "chain", perTON)
	w.net.send(t, w.treasury, address, perTON, tab.PayBody(perTON)) // nothing for the fees: refused
	w.turn()
	w.sound()
	if w.has(worker) != 2*perTON || w.net.balance(addressFor("worker")) != 0 {
		t.Fatalf("owed %v, got %v", w.has(worker), w.net.balance(addressFor("worker")))
	}
}

// TestPay brings the voucher for the worker.
func TestPay(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	if paid, err := w.keeper.Pay(ctx, worker); err != nil || paid {
		t.Error(paid, err)
	}
	w.pledge(5 * perTON)
	w.post("chain", worker, 2*perTON)
	if paid, err := w.keeper.Pay(ctx, worker); err != nil || !paid {
		t.Fatal(paid, err)
	}
	w.turn()
	w.sound()
	if got := w.net.balance(addressFor("worker")); near(got, 2*perTON) > rent || w.has(worker) != 0 {
		t.Fatalf("got %v, owed %v", got, w.has(worker))
	}
	if paid, err := w.keeper.Pay(ctx, worker); err != nil || paid {
		t.Error("again", paid, err)
	}
	if _, err := w.keeper.Collateral(ctx, worker, addressFor("another"), perTON); !errors.Is(err, ErrPayee) {
		t.Errorf("another address: %v", err)
	}
	if _, err := w.keeper.Collateral(ctx, worker, addressFor("worker"), 5*perTON); err != nil {
		t.Fatal(err)
	}
	w.turn()
	w.payday()
	w.turn()
	if p, err := w.keeper.Pledge(ctx, worker); err != nil || p.Balance < 499*perTON/100 || len(w.asked) != 2 {
		t.Errorf("filled up: %+v, %v, %v", p, err, w.asked)
	}
}

// TestGift and other money that comes and goes.
func TestGift(t *testing.T) {
	w := newWorld(t)
	address := w.pledge(5 * perTON)
	fees := w.has("fees")
	w.net.send(t, addressFor("somebody"), address, perTON, nil)
	w.net.send(t, addressFor("somebody"), address, perTON, tab.CloseBody()) // not his: it does not come back, for it is not bounceable
	w.turn()
	w.sound()
	if got := w.has("fees") - fees; got != 2*perTON {
		t.Errorf("fees %v", got)
	}
}
