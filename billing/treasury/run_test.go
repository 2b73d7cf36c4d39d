package treasury

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

func TestMain(m *testing.M) {
	// A schedule takes a tenth of a second: fewer of them than rapid's 100, unless the command line says so.
	checks := "25"
	if raced {
		checks = "4"
	}
	_ = flag.Set("rapid.checks", checks)
	os.Exit(m.Run())
}

// Run sees a deposit, has it be usable, and pays it out, on a chain that goes by itself.
func TestRun(t *testing.T) {
	w := newWorld(t, devnet.Options{BlockInterval: 20 * time.Millisecond})
	s := w.scene(t)
	credited := make(chan ledger.Account, 10)
	s.config.Credited = func(a ledger.Account) { credited <- a }
	l := s.open()
	x := s.treasury(l, s.client)
	s.net.Start()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- x.Run(ctx) }()
	s.give("operator", 5*tonCoin, MemoCapital)
	s.give("a", 2*tonCoin, ton.Memo("alice"))
	if got := <-credited; got != "customer:alice" {
		t.Errorf("credited %s", got)
	}
	if err := x.Ask(t.Context(), Payout{ID: "one", Account: "customer:alice", To: someone("one"), Amount: tonCoin}); err != nil {
		t.Fatal(err)
	}
	for find(t, l, "one").State != Paid {
		if err := s.net.Wait(t.Context(), s.net.Seqno()+1); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if got := s.got("one"); got != tonCoin {
		t.Errorf("paid %v", got)
	}
}

// An empty ledger on a wallet with a past: all of it is scanned, and what it paid stops payouts. If the past is gone, the
// scanner stops and says so.
func TestPast(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{}), nil)
	ctx := t.Context()
	s.give("a", 4*tonCoin, ton.Memo("alice"))
	earn(t, l, workerHex("w"), tonCoin)
	payee(t, l, workerHex("w"), Payee{Address: someone("w")})
	s.run(x)
	for i := range 300 { // pages
		s.give("a", nanoton.Amount(i+1), ton.Memo("bob"))
		if i%7 == 0 {
			s.mine()
		}
	}
	s.mine()
	fresh := s.chainWorld.scene(t)
	fresh.wallet, fresh.config.Wallet = s.wallet, s.wallet
	l2 := fresh.open()
	y := fresh.treasury(l2, s.client)
	s.net.Faults().History(3)
	for range 5 {
		s.mine()
	}
	if err := y.Step(ctx); !errors.Is(err, ton.ErrHistory) {
		t.Errorf("without a past: %v", err)
	}
	if y.Status().Error == "" {
		t.Error("the status does not say so")
	}
	s.net.Faults().History(0)
	st := step(t, y)
	if st.Unmatched != 1 || st.Quiet.IsZero() || st.Difference != 0 || st.Stopped == "" {
		t.Errorf("status: %+v", st)
	}
	all := fresh.books(l2)
	if all["customer:alice"] != 4*tonCoin || all["customer:bob"] != 300*301/2 {
		t.Errorf("alice has %v, bob %d", all["customer:alice"], all["customer:bob"])
	}
}

// A batch whose first transaction was seen does not expire, however late the second comes.
func TestStarted(t *testing.T) {
	s, l, x := funded(t, newWorld(t, devnet.Options{NextBlockDelivery: true}), nil)
	ctx := t.Context()
	if err := x.Ask(ctx, Payout{ID: "one", Account: "fees", To: someone("one"), Amount: tonCoin}); err != nil {
		t.Fatal(err)
	}
	step(t, x)
	s.mine()
	if st := step(t, x); st.Batched != 1 || st.Difference != 0 || len(x.books.batches) != 1 {
		t.Fatalf("status: %+v", st)
	}
	if transit, err := l.Balance(ctx, "transit"); err != nil || transit >= 0 {
		t.Errorf("in transit: %v, %v", transit, err)
	}
	if err := x.expire(ctx, s.net.BlockTime().Add(10*time.Hour)); err != nil || len(x.books.batches) != 1 {
		t.Errorf("expired: %v", err)
	}
	s.run(x)
	s.mine()
	if got := s.got("one"); got != tonCoin {
		t.Errorf("paid %v", got)
	}
	s.books(l)
}

// BenchmarkScan is what a long backlog of deposits takes, each.
func BenchmarkScan(b *testing.B) {
	s := newWorld(b, devnet.Options{}).scene(b)
	for i := range b.N {
		s.give("a", tonCoin/1000, ton.Memo("alice"))
		if i%1000 == 999 {
			s.mine()
		}
	}
	s.mine()
	l := s.open()
	x := s.treasury(l, s.client)
	b.ResetTimer()
	if err := x.Step(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "deposits/s")
}

// BenchmarkPay is what a payout takes from the queue to the chain and back, in full batches.
func BenchmarkPay(b *testing.B) {
	s := newWorld(b, devnet.Options{}).scene(b)
	l := s.open()
	x := s.treasury(l, s.client)
	s.give("operator", nanoton.Amount(b.N)*tonCoin/10+100*tonCoin, MemoCapital)
	s.mine()
	if err := x.Step(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := range b.N {
		id := PayoutID("bench", fmt.Sprint(i))
		if err := x.Ask(b.Context(), Payout{ID: id, Account: "fees", To: someone(id), Amount: tonCoin / 100}); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	for range b.N + 10 {
		if err := x.Step(b.Context()); err != nil {
			b.Fatal(err)
		}
		st := x.Status()
		if st.Asked+st.Queued+st.Batched == 0 {
			break
		}
		s.mine()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "payouts/s")
}

// BenchmarkLatency is how long after its sending a deposit is usable, with blocks every 400 ms.
func BenchmarkLatency(b *testing.B) {
	s := newWorld(b, devnet.Options{BlockInterval: 400 * time.Millisecond}).scene(b)
	credited := make(chan ledger.Account, 1)
	s.config.Credited = func(a ledger.Account) { credited <- a }
	x := s.treasury(s.open(), s.client)
	s.net.Start()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- x.Run(ctx) }()
	var worst time.Duration
	b.ResetTimer()
	for i := range b.N {
		time.Sleep(time.Duration(i*37%400) * time.Millisecond)
		began := time.Now()
		s.give("a", tonCoin, ton.Memo("alice"))
		<-credited
		worst = max(worst, time.Since(began))
	}
	b.ReportMetric(worst.Seconds(), "s-worst")
	cancel()
	<-ended
}
