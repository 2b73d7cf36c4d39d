package tabs

import (
	"context"
	"errors"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

const (
	ann    = ledger.Account("customer:ann")
	worker = ledger.Account("worker:00000000000000000000000000000000000000000000000000000000000000aa")
)

// TestCustomerTab goes through the life of a tab: money comes, is spent and drawn, and the owner leaves alone.
func TestCustomerTab(t *testing.T) {
	w := newWorld(t)
	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("exchange"), tab1.Address, 10*perTON, nil) // whoever pays: there is no memo
	w.turn()
	w.sound()
	r := w.record(TabKind, "ann")
	if r.Balance != 10*perTON || r.Locked <= 0 || r.Locked > perTON/50 || w.has(ann) != 10*perTON-r.Locked || w.has("suspense") != r.Locked {
		t.Fatalf("%+v, customer %v", r, w.has(ann))
	}

	w.post(ann, worker, perTON) // below the threshold: stays
	w.settle()
	if r = w.record(TabKind, "ann"); r.Drawn != 0 || r.Voucher != nil {
		t.Fatalf("drawn too soon: %+v", r)
	}
	w.post(ann, worker, 2*perTON)
	w.settle()
	w.sound()
	r = w.record(TabKind, "ann")
	if r.Drawn != 3*perTON || !r.Active || w.net.balance(w.treasury) != 3*perTON || w.has(transit) != -3*perTON {
		t.Fatalf("%+v, the treasury got %v, in transit %v", r, w.net.balance(w.treasury), w.has(transit))
	}
	if r.Root() != [32]byte{7} {
		t.Error("the draw commits to no log")
	}
	if got := r.Balance - r.Locked - w.has(ann); got != 0 {
		t.Errorf("after the draw %v are undrawn", got)
	}

	w.post(ann, worker, perTON/2) // small, but a day passes
	w.net.SkewClock(DrawEvery)
	w.settle()
	if r = w.record(TabKind, "ann"); r.Drawn != 3*perTON+perTON/2 {
		t.Fatalf("after a day: %+v", r)
	}

	w.post(ann, worker, perTON/4) // small, but the owner closes
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.CloseBody())
	w.settle()
	w.sound()
	r = w.record(TabKind, "ann")
	if r.CloseAt == 0 || w.closing == 0 || w.has(ann) != 0 || r.Drawn != 3*perTON+3*perTON/4 || r.Locked != r.Balance {
		t.Fatalf("closing: %+v, customer %v", r, w.has(ann))
	}
	w.net.SkewClock(CustomerDelay + time.Minute)
	before := w.net.balance(addressFor("ann"))
	w.net.send(t, addressFor("somebody"), tab1.Address, perTON/20, tab.FinishBody())
	w.settle()
	w.sound()
	r = w.record(TabKind, "ann")
	if got := w.net.balance(addressFor("ann")) - before; got < 6*perTON || r.CloseAt != 0 || r.Locked != r.Balance || w.has(ann) != 0 || w.has("fees") != 0 {
		t.Fatalf("closed: the owner got %v, %+v, customer %v, fees %v", got, r, w.has(ann), w.has("fees"))
	}

	w.net.send(t, addressFor("ann"), tab1.Address, 2*perTON, nil) // the address can be used again
	w.settle()
	w.sound()
	if r = w.record(TabKind, "ann"); w.has(ann) != r.Balance-r.Locked || w.has(ann) < 19*perTON/10 {
		t.Fatalf("again: %+v, customer %v", r, w.has(ann))
	}
}

// Root is that of the last voucher.
func (r *record) Root() [32]byte {
	v, err := tab.ParseVoucher(r.Voucher.Body, keyFor("metering").Public())
	if err != nil {
		return [32]byte{}
	}
	return v.Root
}

func TestOpenTwice(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	first := w.open("ann", perTON, 5)
	if again := w.open("ann", 7*perTON, 0); again.Address != first.Address || again.Terms.Base != perTON {
		t.Errorf("%+v, want %+v", again, first)
	}
	if _, err := w.keeper.Open(ctx, ann, addressFor("bob"), perTON, 5); !errors.Is(err, ErrOwner) {
		t.Errorf("another owner: %v", err)
	}
	if _, err := w.keeper.Open(ctx, "customer:eve", w.treasury, perTON, 5); !errors.Is(err, ErrOwner) {
		t.Errorf("the treasury as owner: %v", err)
	}
	if _, err := w.keeper.Open(ctx, worker, addressFor("bob"), perTON, 5); !errors.Is(err, ledger.ErrInvalid) {
		t.Errorf("a worker: %v", err)
	}
	if bob := w.open("bob", perTON, 5); bob.Address == first.Address || bob.Terms.Salt == first.Terms.Salt {
		t.Error("two customers have one tab")
	}
	if _, err := w.keeper.Tab(ctx, "customer:eve"); !errors.Is(err, ErrNone) {
		t.Errorf("no tab: %v", err)
	}
	if kit := first.Kit; kit.Address != first.Address || kit.Close == "" || kit.Finish == "" || len(kit.Init) == 0 {
		t.Errorf("%+v", kit)
	}
	account, known := w.keeper.Source(first.Address)
	if _, other := w.keeper.Source(addressFor("bob")); !known || account != transit || other {
		t.Errorf("source %s, %v, %v", account, known, other)
	}
}

// TestLimit never serves more than the owner lets us draw.
func TestLimit(t *testing.T) {
	w := newWorld(t)
	tab1 := w.open("ann", 3*perTON, perTON/1000)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.turn()
	near := func(what string, want nanoton.Amount) {
		t.Helper()
		if got := w.has(ann); got < want-perTON/100 || got > want+perTON/100 {
			t.Fatalf("%s: customer %v, want %v", what, got, want)
		}
	}
	near("at first", 3*perTON)
	w.post(ann, worker, 3*perTON-perTON/1000)
	w.net.SkewClock(2000 * time.Second) // 2 TON more
	w.settle()
	near("as time goes by", 2*perTON)
	w.settle()
	if r := w.record(TabKind, "ann"); r.Drawn != 3*perTON-perTON/1000 {
		t.Fatalf("%+v", r)
	}
	near("after the draw", 2*perTON)
	now := w.net.Now()
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/10, tab.LimitBody(50*perTON, perTON/100, now.Truncate(time.Second)))
	w.settle()
	near("when the owner raised it", 7*perTON+perTON/10)
	w.sound()
}

// TestOtherMoney is spent before the tab's.
func TestOtherMoney(t *testing.T) {
	w := newWorld(t)
	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.turn()
	w.post("chain", ann, 5*perTON) // as the treasury does with a deposit
	w.post(ann, worker, 4*perTON)
	w.settle()
	if r := w.record(TabKind, "ann"); r.Drawn != 0 {
		t.Fatalf("drawn %v for what other money paid", r.Drawn)
	}
	w.post(ann, worker, 4*perTON)
	w.settle()
	w.sound()
	r := w.record(TabKind, "ann")
	if want := 3*perTON - r.Locked; r.Drawn > 3*perTON || r.Drawn < want-perTON/50 {
		t.Fatalf("drawn %v, want 3 TON", r.Drawn)
	}
	w.post("chain", ann, 5*perTON)
	have := w.has(ann)
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.CloseBody())
	w.settle()
	if r = w.record(TabKind, "ann"); w.has(ann) < 5*perTON-perTON/50 || w.has(ann) > 5*perTON || r.Locked != r.Balance {
		t.Fatalf("closing leaves the customer %v of %v: %+v", w.has(ann), have, r)
	}
}

// TestClosingHeld takes nothing that a request holds, and the rest when it is free.
func TestClosingHeld(t *testing.T) {
	w := newWorld(t)
	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.turn()
	w.net.deploy(t, addressFor("ann"), tab1.Terms, perTON/20) // an owner can't close what is not there
	w.turn()
	w.desk.held[ann] = 4 * perTON
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.CloseBody())
	w.turn()
	if w.has(ann) != 4*perTON {
		t.Fatalf("customer %v", w.has(ann))
	}
	w.post(ann, worker, 3*perTON) // settled for less than was held
	w.desk.held[ann] = 0
	w.settle()
	w.sound()
	if r := w.record(TabKind, "ann"); w.has(ann) != 0 || r.Drawn != 3*perTON {
		t.Fatalf("customer %v, %+v", w.has(ann), r)
	}
}

// TestGoneTooLong sees that the owner took all before we drew: fees bear it, and it is collected when he comes back.
func TestGoneTooLong(t *testing.T) {
	w := newWorld(t)
	tab1 := w.open("ann", 100*perTON, 0)
	w.net.send(t, addressFor("ann"), tab1.Address, 10*perTON, nil)
	w.turn()
	w.net.deploy(t, addressFor("ann"), tab1.Terms, perTON)
	w.turn()
	w.post(ann, worker, perTON) // not drawn
	w.desk.held[ann] = 2 * perTON
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.CloseBody())
	w.net.mine(t)
	w.net.SkewClock(CustomerDelay + time.Minute)
	w.net.send(t, addressFor("ann"), tab1.Address, perTON/20, tab.FinishBody())
	w.net.mine(t)
	w.desk.down = true // not even that can be asked
	w.turn()
	w.sound()
	w.desk.down = false
	w.turn()
	w.sound()
	r := w.record(TabKind, "ann")
	if w.has(ann) != 2*perTON || r.Owed < 3*perTON-perTON/20 || r.Owed > 3*perTON || w.has("fees") != -r.Owed {
		t.Fatalf("customer %v, fees %v, %+v", w.has(ann), w.has("fees"), r)
	}
	w.post(ann, worker, 2*perTON)
	w.desk.held[ann] = 0
	w.net.send(t, addressFor("ann"), tab1.Address, 5*perTON, nil)
	w.settle()
	w.sound()
	r = w.record(TabKind, "ann")
	if r.Owed != 0 || w.has("fees") != 0 || w.has(ann) > 2*perTON || w.has(ann) < 2*perTON-perTON/20 || r.Drawn < 3*perTON-perTON/20 {
		t.Fatalf("customer %v, fees %v, %+v", w.has(ann), w.has("fees"), r)
	}
}
