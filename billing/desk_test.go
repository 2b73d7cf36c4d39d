package billing

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/billing/journal"
	"cocoon/billing/ledger"
	"cocoon/billing/ledger/ledgertest"
	"cocoon/internal/nanoton"

	"go.uber.org/goleak"
)

const alice = ledger.Account("customer:alice")

// desk opens a Desk without a pause between fsyncs: in a synctest bubble nobody may sleep with a lock.
func desk(t testing.TB, c Config) *Desk {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	c.Journal.Every = -1
	d, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// run starts a Desk's Run and returns what ends it.
func run(t testing.TB, d *Desk) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func hold(t testing.TB, d *Desk, ceiling nanoton.Amount) ledger.ID {
	t.Helper()
	id := testID()
	if err := d.Hold(context.Background(), Hold{Request: id, Account: alice, Ceiling: ceiling}); err != nil {
		t.Fatal(err)
	}
	return id
}

func settle(t testing.TB, d *Desk, id ledger.ID, share, fee nanoton.Amount) Settlement {
	t.Helper()
	s := charge(id, workerA, share+fee, share, fee)
	if err := d.Settle(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func post(t testing.TB, d *Desk) {
	t.Helper()
	if err := newPoster(d).post(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestFundsErrorSaysWhatIsMissing(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	settle(t, d, hold(t, d, 50), 9, 1)
	hold(t, d, 60)
	err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 31})
	funds, ok := errors.AsType[*FundsError](err)
	if !ok || !errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) || *funds != (FundsError{alice, 90, 60, 31, 0}) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"balance 0.00000009 TON", "held 0.00000006 TON", "needed 0.000000031 TON"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	hold(t, d, 30)
	f.deposit(alice, 5) // seen by the next hold
	hold(t, d, 5)
	if balance, held, ok := d.Balance(alice); balance != 95 || held != 95 || !ok {
		t.Errorf("balance %v, held %v, %v", balance, held, ok)
	}
	if _, _, ok := d.Balance("customer:nobody"); ok {
		t.Error("an account that was never used is known")
	}
}

func TestInvalid(t *testing.T) {
	d := desk(t, Config{Ledger: newFake()})
	for _, h := range []Hold{
		{Account: alice},
		{Request: testID(), Account: alice, Ceiling: -1},
		{Request: testID(), Account: workerA},
		{Request: testID(), Account: "customer:"},
		{Request: testID(), Account: "allotment:g:x"},
		{Request: testID(), Account: alice, Note: make([]byte, NoteMax+1)},
	} {
		if err := d.Hold(t.Context(), h); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	const most = nanoton.Amount(1<<63 - 1)
	for _, s := range []Settlement{
		charge(testID(), workerA, 3, 1, 1),
		charge(testID(), workerA, 0, 1, -1),
		charge(testID(), workerA, -2, most, most),
		charge(testID(), alice, 1, 1, 0),
		charge(testID(), "", 1, 1, 0),
		charge(testID(), "fees", 1, 0, 1),
	} {
		if err := d.Settle(t.Context(), s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	_, err := Open(t.Context(), Config{Ledger: newFake(), Dir: t.TempDir(), Gateway: "a:b"})
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("gateway a:b: %v", err)
	}
}

// Requests don't wait for SQL: an account is asked for once, however many holds follow, and a slow ledger slows none.
func TestNoSQLOnTheWay(t *testing.T) {
	for _, gateway := range []string{"", "g1"} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.deposit(alice, 1_000_000)
			d := desk(t, Config{Ledger: f, Dir: dir, Gateway: gateway})
			stop := run(t, d)
			hold(t, d, 10)
			f.set(func() { f.slow = 300 * time.Millisecond })
			start := time.Now()
			for range 100 {
				settle(t, d, hold(t, d, 10), 1, 1)
				time.Sleep(100 * time.Millisecond)
			}
			waited := time.Since(start) - 10*time.Second
			if waited > 0 && gateway == "" || waited > 2*time.Second { // until the first refill is there
				t.Errorf("gateway %q: holds waited %v for the ledger", gateway, waited)
			}
			f.set(func() { f.slow = 0 })
			stop()
			_ = d.Close()
			if got := f.balance(workerA); got != 100 {
				t.Errorf("the worker has %v", got)
			}
		})
	}
}

// Refills come before an allotment is empty: only the first request asks.
func TestRefillAhead(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 1_000_000)
		d := desk(t, Config{Ledger: f, Dir: dir, Gateway: "g1"})
		stop := run(t, d)
		asks := func() uint64 { return d.accounts.load(alice).asks }
		hold(t, d, 10)
		inline := asks()
		for range 200 {
			settle(t, d, hold(t, d, 10), 10, 0)
			time.Sleep(50 * time.Millisecond)
		}
		if inline != 1 || asks() < 3 {
			t.Errorf("%d asks by the first hold, %d in all", inline, asks())
		}
		if got := f.balance(source("g1", alice)); got > 5000 {
			t.Errorf("allotted %v for a demand of 200 a second", got)
		}
		stop()
		_ = d.Close()
	})
}

func TestManyPoorRequestsShareTheQuestion(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.slow = time.Second
		d := desk(t, Config{Ledger: f, Dir: dir})
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() {
				err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 1})
				if !errors.Is(err, ErrFunds) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if f.calls > 3 {
			t.Errorf("%d questions for 500 requests that came together", f.calls)
		}
		if d.Stats() != (Stats{Journal: d.journal.Size()}) {
			t.Errorf("%+v", d.Stats())
		}
		_ = d.Close()
	})
}

// The ledger is away: settlements wait, holds go on until the backlog is full, no 402 is made up; then all is posted.
func TestLedgerDown(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 1000)
		d := desk(t, Config{Ledger: f, Dir: dir, Backlog: 20})
		stop := run(t, d)
		hold(t, d, 10)
		f.set(func() { f.down = true })
		for range 19 {
			settle(t, d, hold(t, d, 10), 4, 1)
		}
		err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 10})
		if !errors.Is(err, ErrBacklog) {
			t.Errorf("beyond the backlog: %v", err)
		}
		time.Sleep(time.Minute)
		if s := d.Stats(); s.Unposted != 19 || s.Open != 1 {
			t.Errorf("%+v", s)
		}
		f.set(func() { f.down = false })
		time.Sleep(2 * backoffMax)
		if s := d.Stats(); s.Unposted != 0 || f.balance(workerA) != 19*4 || f.balance("fees") != 19 {
			t.Errorf("%+v, worker %v", s, f.balance(workerA))
		}
		f.set(func() { f.down = true })
		err = d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 2000})
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrFunds) {
			t.Errorf("lacks money while the ledger is down: %v", err)
		}
		f.set(func() { f.down = false })
		stop()
		_ = d.Close()
	})
}

// A post that failed but persisted, and a balance that was read between: nothing is counted twice in the end.
func TestPostWithoutReply(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	p := newPoster(d)
	settle(t, d, hold(t, d, 50), 20, 0)
	f.persisted = true
	if err := p.post(t.Context()); !errors.Is(err, errDown) {
		t.Fatal(err)
	}
	h := Hold{Request: testID(), Account: alice, Ceiling: 81}
	if err := d.Hold(t.Context(), h); !errors.Is(err, ErrUnavailable) {
		t.Errorf("while it is not known what was posted: %v", err)
	}
	if err := p.post(t.Context()); err != nil {
		t.Fatal(err)
	}
	if balance, _, ok := d.Balance(alice); ok && balance != 80 {
		t.Errorf("the balance is %v", balance)
	}
	h.Ceiling = 80
	if err := d.Hold(t.Context(), h); err != nil || f.balance(workerA) != 20 {
		t.Errorf("%v, worker %v", err, f.balance(workerA))
	}
}

// A lease that could not be renewed: nothing is believed; what was settled is charged after all.
func TestLeaseEnds(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 1000)
		d := desk(t, Config{Ledger: f, Dir: dir, Gateway: "g1"})
		stop := run(t, d)
		f.deposit("customer:bob", 1000)
		bob := Hold{Request: testID(), Account: "customer:bob", Ceiling: 100}
		if err := d.Hold(t.Context(), bob); err != nil {
			t.Fatal(err)
		}
		late := hold(t, d, 100)
		f.set(func() { f.down = true })
		settle(t, d, hold(t, d, 100), 70, 7)
		time.Sleep(DefaultLease + time.Second)
		err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 1})
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("with a lease that has ended: %v", err)
		}
		f.kill("g1")
		f.set(func() { f.down = false })
		time.Sleep(time.Minute)
		if got := f.balance(workerA); got != 70 {
			t.Errorf("the worker has %v after the ledger came back, want 70", got)
		}
		settle(t, d, late, 10, 0)
		settle(t, d, hold(t, d, 100), 5, 0)
		f.set(func() { f.move("customer:bob", "payouts", 950) })
		bob.Request = testID()
		if err := d.Hold(t.Context(), bob); !errors.Is(err, ErrFunds) {
			t.Errorf("an allotment that was taken back is believed: %v", err)
		}
		time.Sleep(time.Minute)
		if got := f.balance(workerA); got != 85 || f.balance(alice) != 1000-92 {
			t.Errorf("the worker has %v, alice %v", got, f.balance(alice))
		}
		stop()
		_ = d.Close()
	})
}

func TestIdleAllotmentGoesBack(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 1000)
		d := desk(t, Config{Ledger: f, Dir: dir, Gateway: "g1"})
		stop := run(t, d)
		id := hold(t, d, 100)
		time.Sleep(3 * idleAfter)
		if f.balance(alice) == 1000 {
			t.Error("an allotment went back under an open hold")
		}
		settle(t, d, id, 100, 0)
		time.Sleep(2 * idleAfter)
		if f.balance(alice) != 900 {
			t.Errorf("alice has %v", f.balance(alice))
		}
		if _, _, ok := d.Balance(alice); ok {
			t.Error("an idle account stays in memory")
		}
		hold(t, d, 900)
		stop()
		_ = d.Close()
	})
}

// TestCrumbsComeTogether has money of which each gateway has too little for a request, and all of them together enough.
func TestCrumbsComeTogether(t *testing.T) {
	f := newFake()
	f.deposit(alice, 90)
	var desks []*Desk
	for _, name := range []string{"one", "two", "three"} {
		d := desk(t, Config{Ledger: f, Gateway: name})
		desks = append(desks, d)
		own := "allotment:" + ledger.Account(name) + ":" + ledger.Account(strings.TrimPrefix(string(alice), "customer:"))
		if err := f.Post(t.Context(), []ledger.Transfer{{
			ID: testID(), Kind: "allot", At: time.Now(), Ref: "test",
			Legs: []ledger.Leg{{Account: alice, Amount: -30}, {Account: own, Amount: 30}},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	h := Hold{Request: testID(), Account: alice, Ceiling: 80}
	for try := 1; ; try++ {
		err := desks[try%len(desks)].Hold(t.Context(), h)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrElsewhere) || try > 2*len(desks) {
			t.Fatalf("try %d: %v", try, err)
		}
	}
}

func TestMoneyElsewhereIsNo402(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	one := desk(t, Config{Ledger: f, Gateway: "one"})
	two := desk(t, Config{Ledger: f, Gateway: "two"})
	id := hold(t, one, 60) // takes all
	h := Hold{Request: testID(), Account: alice, Ceiling: 40}
	if err := two.Hold(t.Context(), h); !errors.Is(err, ErrElsewhere) || errors.Is(err, ErrFunds) {
		t.Fatalf("got %v", err)
	}
	h.Ceiling = 101
	if err := two.Hold(t.Context(), h); !errors.Is(err, ErrFunds) {
		t.Fatalf("got %v", err)
	}
	settle(t, one, id, 1, 0)
	post(t, one)
	one.giveBack(t.Context(), 0)
	hold(t, two, 99)
}

// What a crash left over is reported, and voided when nobody settles it.
func TestLeftOverIsVoided(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 100)
		d := desk(t, Config{Ledger: f, Dir: dir})
		first, second := hold(t, d, 60), hold(t, d, 40)
		_ = d.Close()
		time.Sleep(10 * DefaultDeadline) // while the gateway is down its receipts can't come
		d = desk(t, Config{Ledger: f, Dir: dir})
		stop := run(t, d)
		left := d.Recovered()
		if len(left) != 2 || !left[0].Deadline.Equal(time.Now().Add(DefaultDeadline)) {
			t.Fatalf("%+v", left)
		}
		if err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 1}); !errors.Is(err, ErrFunds) {
			t.Errorf("what is left over is not held: %v", err)
		}
		time.Sleep(DefaultDeadline - time.Minute)
		s := settle(t, d, first, 50, 5)
		time.Sleep(2 * time.Minute)
		if len(d.Recovered()) != 0 || d.Stats().Open != 0 || f.balance(alice) != 45 {
			t.Errorf("%v left, %+v, alice %v", d.Recovered(), d.Stats(), f.balance(alice))
		}
		if err := d.Settle(t.Context(), charge(second, workerA, 1, 1, 0)); !errors.Is(err, ErrConflict) {
			t.Errorf("settled after it was voided: %v", err)
		}
		if err := d.Settle(t.Context(), s); err != nil {
			t.Errorf("a duplicate: %v", err)
		}
		stop()
		_ = d.Close()
	})
}

// Money moved behind the Desk's back: the settlement waits, others don't, and it is posted when money comes.
func TestRefusedSettlementIsTriedAgain(t *testing.T) {
	for _, gateway := range []string{"", "g1"} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.deposit(alice, 100)
			f.deposit("customer:bob", 100)
			d := desk(t, Config{Ledger: f, Dir: dir, Gateway: gateway})
			stop := run(t, d)
			id := hold(t, d, 80)
			f.set(func() { f.move(source(gateway, alice), "payouts", 90) })
			settle(t, d, id, 50, 0)
			bob := testID()
			if err := d.Hold(t.Context(), Hold{Request: bob, Account: "customer:bob", Ceiling: 9}); err != nil {
				t.Fatal(err)
			}
			settle(t, d, bob, 9, 0)
			time.Sleep(2 * postEvery)
			if s := d.Stats(); s.Stuck != 1 || f.balance(workerA) != 9 {
				t.Errorf("%+v, worker %v", s, f.balance(workerA))
			}
			f.deposit(alice, 45)
			time.Sleep(2 * stuckEvery)
			if s := d.Stats(); s.Stuck != 0 || s.Unposted != 0 || f.balance(workerA) != 59 {
				t.Errorf("%+v, worker %v", s, f.balance(workerA))
			}
			hold(t, d, 5)
			stop()
			_ = d.Close()
		})
	}
}

// The ledger has the transfer with other content: it is not charged twice, and the difference is counted.
func TestConflictInTheLedgerIsNotChargedTwice(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	settle(t, d, hold(t, d, 50), 20, 0)
	p := newPoster(d)
	p.collect()
	other := p.pending[0].transfer
	other.Legs = []ledger.Leg{{Account: alice, Amount: -30}, {Account: workerB, Amount: 30}}
	if err := f.Post(t.Context(), []ledger.Transfer{other}); err != nil {
		t.Fatal(err)
	}
	if err := p.post(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := d.Stats(); s.Conflicts != 1 || s.Unposted != 0 || f.balance(alice) != 70 {
		t.Errorf("%+v, alice %v", s, f.balance(alice))
	}
	hold(t, d, 70)
}

// A request that is forgotten is unknown, as one that never was; the ledger is not asked.
func TestForgottenRequest(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	s := settle(t, d, hold(t, d, 50), 20, 0)
	post(t, d)
	f.down = true
	if err := d.Settle(t.Context(), s); err != nil {
		t.Errorf("a duplicate: %v", err)
	}
	hash := d.hash(s.Request)
	d.at(hash).closed.forget(hash)
	if err := d.Settle(t.Context(), s); !errors.Is(err, ErrUnknown) {
		t.Errorf("settled long ago: %v", err)
	}
	for _, id := range []ledger.ID{s.Request, testID()} {
		if err := d.Void(t.Context(), id); !errors.Is(err, ErrUnknown) {
			t.Errorf("void of one that is not known: %v", err)
		}
		if _, ok := d.Lookup(id); ok {
			t.Error("it is known")
		}
	}
}

// noDisk has nothing written.
func (d *Desk) noDisk() {
	d.write = func(context.Context, ...[]byte) error { return nil }
	d.pass = func(...[]byte) error { return nil }
}

// Closed requests are forgotten in their order, so that memory is bounded.
func TestMemoryIsBounded(t *testing.T) {
	f := newFake()
	d := desk(t, Config{Ledger: f})
	d.noDisk()
	for range remembered + 20_000 {
		if err := d.Void(t.Context(), hold(t, d, 0)); err != nil {
			t.Fatal(err)
		}
	}
	sum := 0
	for i := range d.shard {
		sum += len(d.shard[i].requests)
		for _, slot := range d.shard[i].closed.kept {
			if slot.hash != 0 {
				sum++
			}
		}
	}
	if sum > remembered {
		t.Errorf("%d requests in memory, want %d at most", sum, remembered)
	}
}

func TestBrokenJournalEndsRun(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	ended := make(chan error, 1)
	go func() { ended <- d.Run(t.Context()) }()
	id := hold(t, d, 50)
	d.write = func(context.Context, ...[]byte) error { return fmt.Errorf("%w: %w", journal.ErrBroken, syscall.EIO) }
	if err := d.Settle(t.Context(), charge(id, workerA, 1, 1, 0)); !errors.Is(err, syscall.EIO) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, journal.ErrBroken) {
		t.Errorf("Run: %v", err)
	}
}

// An fsync that nobody waited for breaks the journal too, and Run hears of it when nothing else comes. A hold that came
// before is not refused, and Sync is where its loss is told.
func TestBrokenJournalEndsQuietRun(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	hold(t, d, 50)
	if err := d.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	d.pass = func(...[]byte) error { return fmt.Errorf("%w: %w", journal.ErrBroken, syscall.EIO) }
	if err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 1}); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("got %v", err)
	}
	if _, held, _ := d.Balance(alice); held != 50 {
		t.Errorf("%v are held", held)
	}
	if err := d.Run(t.Context()); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("Run: %v", err)
	}
}

// The journal stays small while requests come and go and one stays open all the time; that one survives.
func TestTrim(t *testing.T) {
	dir := t.TempDir()
	f := newFake()
	f.deposit(alice, 1_000_000)
	d := desk(t, Config{Ledger: f, Dir: dir, Journal: journal.Options{SegmentBytes: 4096}})
	d.trimAt = 16_384
	long := hold(t, d, 77)
	for i := range 1000 {
		settle(t, d, hold(t, d, 10), 1, 0)
		if i%100 != 99 {
			continue
		}
		post(t, d)
		if err := d.trim(t.Context()); err != nil {
			t.Fatal(err)
		}
		if size := d.journal.Size(); size > 60_000 {
			t.Fatalf("the journal has %d bytes", size)
		}
	}
	_ = d.Close()
	d = desk(t, Config{Ledger: f, Dir: dir})
	if left := d.Recovered(); len(left) != 1 || left[0].Request != long || left[0].Ceiling != 77 {
		t.Errorf("%+v", left)
	}
	if s := d.Stats(); s.Unposted != 0 || f.balance(workerA) != 1000 {
		t.Errorf("%+v, worker %v", s, f.balance(workerA))
	}
}

// Everything at once on a few requests and accounts: each is settled once with one content, or voided, and all agree.
func TestConcurrent(t *testing.T) {
	f := newFake()
	accounts := []ledger.Account{"customer:a", "customer:b", "customer:c"}
	for _, a := range accounts {
		f.deposit(a, 5000)
	}
	c := Config{Ledger: f, Gateway: "g1"}
	d := desk(t, c)
	d.trimAt = 1
	stop := run(t, d)
	var wg sync.WaitGroup
	settled := make([]int, 300)
	for i := range settled {
		id := testID()
		s := charge(id, workerA, 10, 9, 1)
		var mu sync.Mutex
		for n := range 4 {
			wg.Go(func() {
				h := Hold{Request: id, Account: accounts[i%3], Ceiling: 12}
				if err := d.Hold(t.Context(), h); err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
				var err error
				if n < 3 {
					err = d.Settle(t.Context(), s)
				} else {
					err = d.Void(t.Context(), id)
				}
				if err != nil && !errors.Is(err, ErrConflict) {
					t.Error(err)
				}
				if n < 3 && err == nil {
					mu.Lock()
					settled[i]++
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	stop()
	want := nanoton.Amount(0)
	for _, n := range settled {
		if n != 0 && n != 3 {
			t.Errorf("%d of 3 equal settlements were accepted", n)
		}
		want += 10 * nanoton.Amount(n) / 3
	}
	paid := f.balance(workerA) + f.balance("fees")
	left := f.balance("customer:a") + f.balance("customer:b") + f.balance("customer:c")
	if paid != want || left != 15_000-want {
		t.Errorf("paid %v, want %v; customers have %v", paid, want, left)
	}
}

// What SettleAll gives for each, and that it takes each once; strange text in a line is made plain.
func TestSettleAll(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	a, b := hold(t, d, 10), hold(t, d, 10)
	one := charge(a, workerA, 9, 8, 1)
	one.Line = Line{Key: "k", User: "ü\x00\xff" + strings.Repeat("é", ledger.UsageUserMax), Counts: [4]int64{1}}
	two := charge(b, workerB, 0, 0, 0)
	two.Line.Key = "free"
	other, much := one, charge(hold(t, d, 10), workerA, 11, 11, 0)
	other.Receipt[0] = 1
	negative := charge(testID(), workerA, 0, 0, 0)
	negative.Line.Counts[0] = -1
	errs := d.SettleAll(t.Context(), []Settlement{one, much, two, one, other, charge(testID(), workerA, 1, 1, 0), negative})
	for i, want := range []error{nil, ErrCeiling, nil, nil, ErrConflict, ErrUnknown, ErrInvalid} {
		if !errors.Is(errs[i], want) {
			t.Errorf("%d: %v, want %v", i, errs[i], want)
		}
	}
	if h, ok := d.Lookup(much.Request); !ok || h.Ceiling != 10 {
		t.Errorf("looked up %+v, %v", h, ok)
	}
	if _, ok := d.Lookup(a); ok || len(d.SettleAll(t.Context(), nil)) != 0 {
		t.Error("a settled request is open")
	}
	post(t, d)
	if f.posts != 1 || len(f.done) != 1 || f.balance(workerA) != 8 || f.balance(alice) != 91 || len(f.used) != 2 {
		t.Errorf("%d posts, %d transfers, usage %v", f.posts, len(f.done), f.used)
	}
	for _, u := range f.used {
		if u.Key == "k" && !strings.HasPrefix(u.User, "ü??éé") || u.Requests != 1 || u.Check() != nil {
			t.Errorf("%+v", u)
		}
	}
	if errs := d.SettleAll(t.Context(), []Settlement{one, other}); errs[0] != nil || !errors.Is(errs[1], ErrConflict) {
		t.Errorf("again: %v", errs)
	}
}

// A thousand requests of few accounts are few transfers.
func TestOneTransferForMany(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100_000)
	d := desk(t, Config{Ledger: f})
	d.noDisk()
	for range 1000 {
		settle(t, d, hold(t, d, 10), 9, 1)
	}
	post(t, d)
	if len(f.done) != 2 || f.balance(workerA) != 9000 || d.Stats().Unposted != 0 {
		t.Errorf("%d transfers, %+v", len(f.done), d.Stats())
	}
}

func FuzzRecord(f *testing.F) {
	s := charge(ledger.ID{1}, workerA, 3, 2, 1)
	s.Line, s.Receipt = Line{"key", "model", "user", [4]int64{1, 2, 3, 4}}, [32]byte{5}
	f.Add(appendHold(nil, &Hold{Request: ledger.ID{1}, Account: alice, Ceiling: 5, Note: []byte("n")}))
	f.Add(appendSettle(nil, alice, &s, time.UnixMilli(5), ledger.ID{}))
	f.Add(appendSettle(nil, alice, &s, time.UnixMilli(5), ledger.ID{9}))
	f.Add(appendVoid(nil, ledger.ID{1}))
	f.Add(appendBatch(nil, ledger.ID{9}, time.UnixMilli(6), alice, []ledger.ID{{1}, {2}}))
	f.Add(appendBatch(nil, ledger.ID{9}, time.UnixMilli(6), source("g1", alice), []ledger.ID{{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := parseRecord(b)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("error %v", err)
			}
			return
		}
		var again []byte
		switch rec.kind {
		case holdRecord:
			again = appendHold(nil, &rec.hold)
		case settleRecord, carriedRecord:
			again = appendSettle(nil, rec.hold.Account, &rec.settlement, rec.at, rec.batch)
		case voidRecord:
			again = appendVoid(nil, rec.hold.Request)
		case batchRecord:
			again = appendBatch(nil, rec.batch, rec.at, rec.source, rec.requests)
		}
		if !slices.Equal(again, b) {
			t.Errorf("%x reads as %x", b, again)
		}
	})
}

var cluster ledgertest.Postgres

func TestMain(m *testing.M) {
	if child() {
		return
	}
	flag.Parse()
	code := m.Run()
	cluster.Stop()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
