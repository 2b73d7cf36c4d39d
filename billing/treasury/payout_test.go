package treasury

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

// funded is a scene whose wallet has capital, with an open treasury.
func funded(t *testing.T, w *chainWorld, change func(*Config)) (*scene, *ledger.Ledger, *Treasury) {
	t.Helper()
	s := w.scene(t)
	s.config.PayoutMin = tonCoin / 100
	if change != nil {
		change(&s.config)
	}
	l := s.open()
	x := s.treasury(l, s.client)
	step(t, x)
	s.give("operator", 100*tonCoin, MemoCapital)
	s.mine()
	step(t, x)
	return s, l, x
}

func find(t testing.TB, l Documents, id string) Payout {
	t.Helper()
	p, err := Find(t.Context(), l, id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPayouts(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	s.give("a", 5*tonCoin, ton.Memo("alice"))
	s.mine()
	step(t, x)
	home := someone("home of alice")
	ask := Payout{ID: PayoutID("alice", "1"), Account: "customer:alice", To: home, Amount: 2 * tonCoin, Reason: "withdrawal"}
	for range 2 {
		if err := x.Ask(ctx, ask); err != nil {
			t.Fatal(err)
		}
	}
	other := ask
	other.Amount++
	if err := x.Ask(ctx, other); !errors.Is(err, ErrTaken) {
		t.Errorf("another payout of the same ID: %v", err)
	}
	other = ask
	other.ID, other.Amount = "toomuch", 4*tonCoin // 3 are left
	if err := x.Ask(ctx, other); err != nil {
		t.Fatal(err)
	}
	other.ID, other.Amount = "tiny", tonCoin/100-1
	if err := x.Ask(ctx, other); !errors.Is(err, ErrTooSmall) {
		t.Errorf("too small: %v", err)
	}
	for name, p := range map[string]Payout{
		"self":     {ID: "a", Account: "fees", To: s.wallet.Address(), Amount: tonCoin},
		"nowhere":  {ID: "a", Account: "fees", Amount: tonCoin},
		"suspense": {ID: "a", Account: "suspense", To: home, Amount: tonCoin},
		"ID":       {ID: "A", Account: "fees", To: home, Amount: tonCoin},
		"long":     {ID: ask.ID + "a", Account: "fees", To: home, Amount: tonCoin},
		"negative": {ID: "a", Account: "fees", To: home, Amount: -1},
		"reason":   {ID: "a", Account: "fees", To: home, Amount: tonCoin, Reason: "a\nb"},
		"cold":     {ID: "a", Account: "cold", To: home, Amount: tonCoin},
	} {
		if err := x.Ask(ctx, p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.run(x)
	if p := find(t, l, ask.ID); p.State != Paid || p.Hash == "" || p.LT == 0 {
		t.Errorf("payout: %+v", p)
	}
	if p := find(t, l, "toomuch"); p.State != Refused {
		t.Errorf("too large: %+v", p)
	}
	if got := s.balance(home); got != 2*tonCoin {
		t.Errorf("paid %v", got)
	}
	if got := s.books(l)["customer:alice"]; got != 3*tonCoin {
		t.Errorf("alice has %v", got)
	}
	// A batch is forgotten when it is settled, and nothing of it is sent again.
	before := s.net.Stats().ExternalsIn
	for range 2 * resendHeads {
		s.mine()
		step(t, x)
	}
	if got := s.net.Stats().ExternalsIn; got != before || len(x.books.batches) != 0 {
		t.Errorf("sent again: %d, batches %d", got-before, len(x.books.batches))
	}
}

// Batches of several sizes: what they cost, and that all are paid.
func TestBatchSizes(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	for _, n := range []int{1, 10, 100, 250, 600} {
		if raced && n > 100 {
			break
		}
		before := s.balance(s.wallet.Address())
		for i := range n {
			id := PayoutID("sizes", fmt.Sprint(n), fmt.Sprint(i))
			if err := x.Ask(t.Context(), Payout{ID: id, Account: "fees", To: someone(id), Amount: tonCoin / 100}); err != nil {
				t.Fatal(err)
			}
		}
		blocks := s.net.Seqno()
		s.run(x)
		for i := range n {
			id := PayoutID("sizes", fmt.Sprint(n), fmt.Sprint(i))
			if p := find(t, l, id); p.State != Paid || s.balance(p.To) != p.Amount {
				t.Fatalf("payout %+v: %d", p, s.balance(p.To))
			}
		}
		fee := before - s.balance(s.wallet.Address()) - nanoton.Amount(n)*tonCoin/100
		t.Logf("%d payouts: %v in all, %v each, %d blocks", n, fee, fee/nanoton.Amount(n), s.net.Seqno()-blocks)
		if fee/nanoton.Amount(n) > tonCoin/500 {
			t.Errorf("%v each", fee/nanoton.Amount(n))
		}
		s.books(l)
	}
}

func TestEarnings(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	rich, poor, late := workerHex("rich"), workerHex("poor"), workerHex("late")
	for _, w := range []string{rich, poor, late} {
		payee(t, l, w, Payee{Address: someone(w), Min: tonCoin, Every: 3600})
		earn(t, l, w, tonCoin/2)
	}
	if _, err := l.PutDocument(ctx, ledger.Document{Kind: kindPayee, ID: "broken", Body: []byte(`{"addr`)}); err != nil {
		t.Fatal(err)
	}
	earn(t, l, rich, 2*tonCoin)
	earn(t, l, workerHex("nobody"), 9*tonCoin)
	s.run(x)
	if got := s.got(rich); got != tonCoin*5/2 {
		t.Errorf("paid %v", got)
	}
	earn(t, l, rich, 3*tonCoin) // not for an hour
	s.run(x)
	if got := s.got(rich); got != tonCoin*5/2 {
		t.Errorf("paid %v before its time", got)
	}
	s.skew(time.Hour)
	s.run(x)
	if got := s.got(rich); got != tonCoin*11/2 {
		t.Errorf("paid %v after an hour", got)
	}
	if got := s.got(poor); got != 0 {
		t.Errorf("paid %v below the minimum", got)
	}
	if err := RunNow(ctx, l, poor); err != nil {
		t.Fatal(err)
	}
	if err := RunNow(ctx, l, rich); err != nil { // has nothing
		t.Fatal(err)
	}
	if err := RunNow(ctx, l, workerHex("nobody")); !errors.Is(err, ErrUnknown) {
		t.Errorf("a worker without an address: %v", err)
	}
	s.run(x)
	if got := s.got(poor); got != tonCoin/2 {
		t.Errorf("paid %v by hand", got)
	}
	if day := x.books.paydays[rich]; day.Now || day.Number != 2 {
		t.Errorf("payday: %+v", day)
	}
	if err := RunAllNow(ctx, l); err != nil {
		t.Fatal(err)
	}
	s.run(x)
	if got := s.got(late); got != tonCoin/2 {
		t.Errorf("paid %v", got)
	}
	s.books(l)
}

func TestHolds(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	for _, id := range []string{"one", "two", "three"} {
		if err := x.Ask(ctx, Payout{ID: id, Account: "fees", To: someone(id), Amount: tonCoin}); err != nil {
			t.Fatal(err)
		}
	}
	if err := Hold(ctx, l, "one", "looks odd"); err != nil {
		t.Fatal(err)
	}
	if err := HoldAll(ctx, l, "at lunch"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if st := step(t, x); st.Stopped != "held: at lunch" {
			t.Fatalf("status: %+v", st)
		}
		s.mine()
	}
	if s.got("two") != 0 {
		t.Error("paid while held")
	}
	if err := errors.Join(ReleaseAll(ctx, l), Cancel(ctx, l, "three", "not wanted")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		step(t, x)
		s.mine()
	}
	if st := step(t, x); s.got("two") != tonCoin || s.got("one") != 0 || st.Held != 1 {
		t.Errorf("status: %+v", st)
	}
	if err := Release(ctx, l, "one"); err != nil {
		t.Fatal(err)
	}
	s.run(x)
	if s.got("one") != tonCoin || s.got("three") != 0 {
		t.Error("not paid after the release, or paid though taken back")
	}
	for _, err := range []error{
		Hold(ctx, l, "one", "late"), Cancel(ctx, l, "one", "late"), Release(ctx, l, "three"),
	} {
		if !errors.Is(err, ErrFinal) {
			t.Errorf("too late: %v", err)
		}
	}
	if err := Hold(ctx, l, "none", "x"); !errors.Is(err, ErrUnknown) {
		t.Errorf("unknown: %v", err)
	}
	s.books(l)
}

// Cancel of what is queued gives the money back.
func TestCancelQueued(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	worker := workerHex("w")
	earn(t, l, worker, 1000*tonCoin) // more than there is
	payee(t, l, worker, Payee{Address: someone("w")})
	st := step(t, x)
	if st.Queued != 1 || st.Waiting == "" || st.Owed != 1000*tonCoin {
		t.Errorf("status: %+v", st)
	}
	all, err := Payouts(ctx, l, Filter{Account: ledger.Account("worker:" + worker)})
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	if err := Cancel(ctx, l, all[0].ID, "too much"); err != nil {
		t.Fatal(err)
	}
	if got := s.books(l)[ledger.Account("worker:"+worker)]; got != 1000*tonCoin {
		t.Errorf("the worker has %v", got)
	}
}

func TestOutflowAndSweep(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), func(c *Config) {
		c.OutflowMax, c.HotMax, c.Cold = 5*tonCoin, 40*tonCoin, someone("cold")
	})
	ctx := t.Context()
	for i := range 4 {
		id := fmt.Sprint("out", i)
		if err := x.Ask(ctx, Payout{ID: id, Account: "fees", To: someone(id), Amount: 2 * tonCoin}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Ask(ctx, Payout{ID: "large", Account: "fees", To: someone("large"), Amount: 6 * tonCoin}); err != nil {
		t.Fatal(err)
	}
	var st Status
	for range 8 {
		st = step(t, x)
		s.mine()
	}
	paid := func() (n int) {
		for i := range 4 {
			n += int(s.got(fmt.Sprint("out", i)) / (2 * tonCoin))
		}
		return n
	}
	if paid() != 2 || st.Waiting == "" || st.Queued != 3 {
		t.Errorf("paid %d in the hour, status %+v", paid(), st)
	}
	// The wallet keeps what it owes and HotMax.
	swept := s.got("cold")
	if left := s.balance(s.wallet.Address()); left > 40*tonCoin+10*tonCoin || swept < 40*tonCoin {
		t.Errorf("left %v, swept %v", left, swept)
	}
	s.skew(70 * time.Minute)
	for range 6 {
		st = step(t, x)
		s.mine()
	}
	if paid() != 4 {
		t.Errorf("paid %d after the hour", paid())
	}
	s.skew(70 * time.Minute)
	for range 6 {
		st = step(t, x)
		s.mine()
	}
	if s.got("large") != 0 || st.Queued != 1 {
		t.Errorf("paid more than an hour's limit at once: %+v", st)
	}
	if got := -s.books(l)["cold"]; got != s.got("cold") {
		t.Errorf("the ledger says %v at the cold address", got)
	}
}

// The first transaction of a batch was executed, the balance did not cover the second: nothing was paid, and all of it is
// paid by another batch.
func TestNotSent(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	for _, id := range []string{"one", "two"} {
		if err := x.Ask(ctx, Payout{ID: id, Account: "fees", To: someone(id), Amount: 45 * tonCoin}); err != nil {
			t.Fatal(err)
		}
	}
	s.net.Faults().DropExternals(1)
	if st := step(t, x); st.Batched != 2 {
		t.Fatalf("status: %+v", st)
	}
	// Meanwhile somebody with the key empties the wallet.
	b := x.books.batches[1]
	s.emptyWallet(t)
	for range resendHeads {
		s.mine()
	}
	if err := x.Step(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Send(ctx, b.Message); err != nil {
		t.Fatal(err)
	}
	s.mine()
	st := step(t, x)
	if st.Unmatched != 1 || st.Stopped == "" || st.Queued != 2 || st.Difference != 0 {
		t.Fatalf("status: %+v", st)
	}
	s.give("operator", 200*tonCoin, MemoCapital)
	s.mine()
	open, err := Unsettled(ctx, l)
	if err != nil || len(open) != 1 || !open[0].Out {
		t.Fatal(open, err)
	}
	if err := Settle(ctx, l, open[0].ID, "network"); err != nil {
		t.Fatal(err)
	}
	if st = step(t, x); st.Quiet.IsZero() {
		t.Fatalf("status: %+v", st)
	}
	s.skew(2 * time.Hour)
	s.run(x)
	for _, id := range []string{"one", "two"} {
		if got := s.got(id); got != 45*tonCoin {
			t.Errorf("%s got %v", id, got)
		}
	}
	s.books(l)
}
