package treasury

import (
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/wallet"
)

// A message that the network holds back counts until the last moment at which it could be executed, and not longer.
func TestExpiry(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	c := &recorder{Client: s.client}
	x.c.Chain = c
	for _, id := range []string{"late", "lost"} {
		if err := x.Ask(t.Context(), Payout{ID: id, Account: "fees", To: someone(id), Amount: tonCoin}); err != nil {
			t.Fatal(err)
		}
		s.net.Faults().DropExternals(1 << 20)
		if st := step(t, x); st.Batched != 1 {
			t.Fatalf("%s: %+v", id, st)
		}
		message, query := c.messages[len(c.messages)-1], find(t, l, id).Query
		expires := time.Unix(x.books.batches[query].Expires, 0)
		to := func(at time.Time) {
			s.skew(at.Sub(s.net.BlockTime()))
			step(t, x)
		}
		if to(expires.Add(-time.Minute)); find(t, l, id).Query != query || find(t, l, id).State != Batched {
			t.Fatalf("%s was given up too early: %+v", id, find(t, l, id))
		}
		if id == "late" {
			s.net.Faults().DropExternals(0)
			if err := s.net.SendExternal(message); err != nil {
				t.Fatal(err)
			}
			s.run(x)
		} else {
			if to(expires.Add(margin - 10*time.Second)); find(t, l, id).Query != query {
				t.Fatalf("%s was given up too early: %+v", id, find(t, l, id))
			}
			if to(expires.Add(margin + 10*time.Second)); find(t, l, id).Query <= query {
				t.Fatalf("%s was not given up: %+v", id, find(t, l, id))
			}
			s.net.Faults().DropExternals(0)
			if err := s.net.SendExternal(message); err == nil {
				t.Error("the network takes what has expired")
			}
			s.run(x)
		}
		if got := s.got(id); got != tonCoin || find(t, l, id).State != Paid {
			t.Errorf("%s got %v", id, got)
		}
	}
	s.books(l)
}

// Somebody with the key uses our query number, and our payout's ID for another address: that pays nobody.
func TestForgedBatch(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	for _, id := range []string{"one", "two"} {
		if err := x.Ask(ctx, Payout{ID: id, Account: "fees", To: someone(id), Amount: tonCoin}); err != nil {
			t.Fatal(err)
		}
	}
	s.net.Faults().DropExternals(1)
	step(t, x)
	forged, err := s.wallet.Batch(ctx, 1, s.wallet.CreatedAt(s.net.BlockTime()), []wallet.Transfer{
		{To: someone("thief"), Amount: tonCoin, Comment: "one"}, {To: someone("two"), Amount: tonCoin + 1, Comment: "two"},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.net.SendExternal(forged); err != nil {
		t.Fatal(err)
	}
	s.mine()
	if st := step(t, x); st.Unmatched != 2 || st.Queued != 2 || st.Stopped == "" || st.Difference != 0 {
		t.Errorf("status: %+v", st)
	}
	if left, err := Repair(ctx, l); err != nil || len(left) != 2 {
		t.Errorf("repair: %v, %v", left, err)
	}
	s.books(l)
}
