package billing

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// ways are the two that a Desk spends in: alone, and from allotments.
var ways = []string{"", "g1"}

// payout is a post for Withdraw.
func payout(l Ledger, from ledger.Account, amount nanoton.Amount) func(context.Context) error {
	t := ledger.Transfer{
		ID: testID(), Kind: "payout", At: time.Now(),
		Legs: []ledger.Leg{{Account: from, Amount: -amount}, {Account: "payouts", Amount: amount}},
	}
	return func(ctx context.Context) error { return l.Post(ctx, []ledger.Transfer{t}) }
}

func withdraw(d *Desk, amount nanoton.Amount) error {
	return d.Withdraw(context.Background(), alice, amount, payout(d.c.Ledger, alice, amount))
}

// wantShort sees that a withdrawal is refused with the numbers.
func wantShort(t *testing.T, d *Desk, want FundsError) {
	t.Helper()
	want.Account = alice
	err := withdraw(d, want.Needed)
	funds, ok := errors.AsType[*FundsError](err)
	if !ok || !errors.Is(err, want.kind()) || *funds != want {
		t.Fatalf("got %v, want %v", err, &want)
	}
}

// What is held or settled can't be withdrawn, what is withdrawn can't be held, and money that comes in can be both.
func TestWithdraw(t *testing.T) {
	for _, gateway := range ways {
		f := newFake()
		f.deposit(alice, 100)
		d := desk(t, Config{Ledger: f, Gateway: gateway})
		if err := withdraw(d, 5); err != nil { // of an account that is not in memory
			t.Fatal(err)
		}
		settle(t, d, hold(t, d, 50), 9, 1)
		last := hold(t, d, 60)
		wantShort(t, d, FundsError{Balance: 85, Held: 60, Needed: 26})
		if err := withdraw(d, 25); err != nil {
			t.Fatal(err)
		}
		wantShort(t, d, FundsError{Balance: 60, Held: 60, Needed: 1})
		err := d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 1})
		if !errors.Is(err, ErrFunds) {
			t.Fatalf("held what was withdrawn: %v", err)
		}
		f.deposit(alice, 4)
		hold(t, d, 1)
		if err := withdraw(d, 3); err != nil {
			t.Fatal(err)
		}
		settle(t, d, last, 60, 0)
		post(t, d)
		if f.balance("payouts") != 33 || f.balance(workerA) != 69 || d.Stats().Stuck != 0 {
			t.Errorf("paid out %v, the worker has %v, %+v", f.balance("payouts"), f.balance(workerA), d.Stats())
		}
		for _, bad := range []struct {
			account ledger.Account
			amount  nanoton.Amount
		}{{alice, 0}, {alice, -1}, {workerA, 1}, {"fees", 1}, {"customer:", 1}} {
			if err := d.Withdraw(t.Context(), bad.account, bad.amount, nil); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
	}
}

// While post runs, requests go on with the rest, and one that needs more than that waits for the outcome.
func TestHoldDuringWithdraw(t *testing.T) {
	for _, gateway := range ways {
		for _, fate := range []error{nil, ledger.ErrChanged} {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.deposit(alice, 100)
				d := desk(t, Config{Ledger: f, Gateway: gateway})
				hold(t, d, 10)
				var late error
				done := make(chan struct{})
				err := d.Withdraw(t.Context(), alice, 60, func(ctx context.Context) error {
					if gateway == "" { // else what is not in the allotment has to be asked for
						hold(t, d, 20)
					}
					go func() {
						defer close(done)
						late = d.Hold(t.Context(), Hold{Request: testID(), Account: alice, Ceiling: 50})
					}()
					synctest.Wait()
					select {
					case <-done:
						t.Errorf("a hold of what is being withdrawn did not wait: %v", late)
					default:
					}
					if fate != nil {
						return fate
					}
					return payout(f, alice, 60)(ctx)
				})
				<-done
				if !errors.Is(err, fate) {
					t.Fatal(err)
				}
				if fate == nil && !errors.Is(late, ErrFunds) || fate != nil && late != nil {
					t.Errorf("%q, with %v: %v", gateway, fate, late)
				}
				_ = d.Close()
			})
		}
	}
}

// A post of which nobody knows whether it took place: what it may have taken can't be held, and nobody is told that the
// money is not there, until it is clear.
func TestWithdrawWithoutReply(t *testing.T) {
	for _, posted := range []bool{false, true} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.deposit(alice, 100)
			d := desk(t, Config{Ledger: f, Dir: dir})
			stop := run(t, d)
			hold(t, d, 10)
			pay := payout(f, alice, 60)
			err := d.Withdraw(t.Context(), alice, 60, func(ctx context.Context) error {
				if posted {
					_ = pay(ctx)
				}
				return errDown
			})
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			h := Hold{Request: testID(), Account: alice, Ceiling: 50}
			if err := d.Hold(t.Context(), h); !errors.Is(err, ErrUnavailable) {
				t.Errorf("posted %v: hold: %v", posted, err)
			}
			if err := withdraw(d, 50); !errors.Is(err, ErrUnavailable) {
				t.Errorf("posted %v: withdraw: %v", posted, err)
			}
			if !posted {
				hold(t, d, 30)
			}
			time.Sleep(postMax + 2*tick)
			err = withdraw(d, 45)
			if posted != errors.Is(err, ErrFunds) || !posted && err != nil {
				t.Errorf("posted %v: later: %v", posted, err)
			}
			stop()
			_ = d.Close()
		})
	}
}

// Money in another gateway's allotment is elsewhere until it goes back.
func TestWithdrawElsewhere(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	one := desk(t, Config{Ledger: f, Gateway: "one"})
	two := desk(t, Config{Ledger: f, Gateway: "two"})
	id := hold(t, one, 30)
	has := f.balance("allotment:one:alice")
	wantShort(t, two, FundsError{Needed: 100, Balance: 100 - has, Elsewhere: has}) // elsewhere
	wantShort(t, two, FundsError{Needed: 101, Balance: 100 - has, Elsewhere: has}) // nowhere
	settle(t, one, id, 1, 0)
	post(t, one)
	wantShort(t, two, FundsError{Needed: 99, Balance: 100 - has, Elsewhere: has - 1})
	if err := withdraw(one, 9); err != nil { // its own, which is idle
		t.Fatal(err)
	}
	one.giveBack(t.Context(), 0)
	if err := withdraw(two, 90); err != nil {
		t.Fatal(err)
	}
}

// Another gateway takes the money between the question and the post: it is asked for again.
func TestWithdrawRaces(t *testing.T) {
	for _, gateway := range ways {
		f := newFake()
		f.deposit(alice, 100)
		d := desk(t, Config{Ledger: f, Gateway: gateway})
		pay, calls := payout(f, alice, 60), 0
		err := d.Withdraw(t.Context(), alice, 60, func(ctx context.Context) error {
			if calls++; calls == 1 {
				f.set(func() { f.move(alice, "allotment:other:alice", 50) })
			}
			return pay(ctx)
		})
		if want := map[string]error{"": ErrFunds, "g1": ErrElsewhere}[gateway]; calls != 1 || !errors.Is(err, want) {
			t.Errorf("%q: %d calls, %v", gateway, calls, err)
		}
		calls = 0
		err = d.Withdraw(t.Context(), alice, 60, func(ctx context.Context) error {
			calls++
			return pay(ctx)
		})
		if calls != 0 || err == nil {
			t.Errorf("%q: %d calls, %v", gateway, calls, err)
		}
		calls = 0
		err = d.Withdraw(t.Context(), alice, 50, func(context.Context) error {
			calls++
			return &ledger.Refusal{Reason: ledger.ErrOverdrawn, Account: alice}
		})
		if calls != withdrawTries || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: %d calls, %v", gateway, calls, err)
		}
		hold(t, d, 50)
	}
}

// When the lease has ended and others took the allotment back, what it held for requests is still not to be withdrawn.
func TestWithdrawAfterLease(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.deposit(alice, 100)
		d := desk(t, Config{Ledger: f, Dir: dir, Gateway: "g1"})
		id := hold(t, d, 70)
		time.Sleep(DefaultLease + time.Second)
		f.kill("g1")
		wantShort(t, d, FundsError{Balance: 100, Held: 70, Needed: 31})
		if err := withdraw(d, 30); err != nil {
			t.Fatal(err)
		}
		settle(t, d, id, 70, 0)
		post(t, d)
		if f.balance(workerA) != 70 || d.Stats().Stuck != 0 {
			t.Errorf("the worker has %v, %+v", f.balance(workerA), d.Stats())
		}
		_ = d.Close()
	})
}

func TestWithdrawLedgerDown(t *testing.T) {
	for _, gateway := range ways {
		f := newFake()
		f.deposit(alice, 100)
		d := desk(t, Config{Ledger: f, Gateway: gateway})
		hold(t, d, 10)
		f.set(func() { f.down = true })
		if err := withdraw(d, 10); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%q: %v", gateway, err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Withdraw(gone, alice, 10, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", gateway, err)
		}
		f.set(func() { f.down = false })
		if err := withdraw(d, 90); err != nil {
			t.Errorf("%q: %v", gateway, err)
		}
	}
}

// What came in shows within a tick, whether something is held or not.
func TestCredited(t *testing.T) {
	for _, held := range []nanoton.Amount{0, 10} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			f.deposit(alice, 100)
			d := desk(t, Config{Ledger: f, Dir: dir})
			stop := run(t, d)
			settle(t, d, hold(t, d, held), 0, 0)
			hold(t, d, held)
			f.deposit(alice, 7)
			d.Credited(alice)
			d.Credited("customer:nobody")
			if balance, _, ok := d.Balance(alice); ok != (held != 0) || ok && balance != 100 {
				t.Errorf("balance %v, %v", balance, ok)
			}
			time.Sleep(2 * tick)
			if balance, _, ok := d.Balance(alice); !ok || balance != 107 {
				t.Errorf("balance %v, %v", balance, ok)
			}
			stop()
			_ = d.Close()
		})
	}
}

// Gateways, withdrawals and deposits at the same time, on a real ledger: no account goes below zero, no settlement is
// refused, and every withdrawal that went well is paid.
func TestWithdrawConcurrently(t *testing.T) {
	for _, gateways := range [][]string{{""}, {"g1", "g2"}} {
		l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		s := &spree{l: l}
		s.deposit(t, 400)
		var desks []*Desk
		var stops []func()
		for _, g := range gateways {
			d := desk(t, Config{Ledger: l, Gateway: g})
			desks, stops = append(desks, d), append(stops, run(t, d))
		}
		var wg sync.WaitGroup
		for n := range 6 {
			d := desks[n%len(desks)]
			wg.Go(func() {
				for range 40 {
					s.spend(t, d)
				}
			})
		}
		for n := range 3 {
			d := desks[n%len(desks)]
			wg.Go(func() {
				for range 15 {
					s.withdraw(t, d)
					s.deposit(t, nanoton.Amount(rand.IntN(40)))
				}
			})
		}
		wg.Wait()
		for _, stop := range stops {
			stop()
		}
		s.compare(t, desks)
		_ = l.Close()
	}
}

// spree spends one account's money from many goroutines.
type spree struct {
	l                *ledger.Ledger
	mu               sync.Mutex
	in, out, settled nanoton.Amount // guarded by mu
}

func (s *spree) deposit(t *testing.T, amount nanoton.Amount) {
	in := ledger.Transfer{
		ID: testID(), Kind: "deposit", At: time.Now(),
		Legs: []ledger.Leg{{Account: "chain", Amount: -amount}, {Account: alice, Amount: amount}},
	}
	if err := s.l.Post(t.Context(), []ledger.Transfer{in}); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in += amount
}

func (s *spree) spend(t *testing.T, d *Desk) {
	id, ceiling := testID(), nanoton.Amount(rand.IntN(30))
	err := d.Hold(t.Context(), Hold{Request: id, Account: alice, Ceiling: ceiling})
	if errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) || errors.Is(err, ErrUnavailable) {
		return
	}
	cost := rand.N(ceiling + 1)
	if err = errors.Join(err, d.Settle(t.Context(), charge(id, workerA, cost, cost, 0))); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled += cost
}

func (s *spree) withdraw(t *testing.T, d *Desk) {
	amount := 1 + nanoton.Amount(rand.IntN(60))
	err := withdraw(d, amount)
	if errors.Is(err, ErrFunds) || errors.Is(err, ErrElsewhere) || errors.Is(err, ErrUnavailable) {
		return
	}
	if err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out += amount
}

func (s *spree) compare(t *testing.T, desks []*Desk) {
	t.Helper()
	for _, d := range desks {
		if stats := d.Stats(); stats.Stuck+stats.Conflicts+stats.Unposted+stats.Open != 0 {
			t.Errorf("%+v", stats)
		}
	}
	for account, want := range map[ledger.Account]nanoton.Amount{
		alice: s.in - s.out - s.settled, "payouts": s.out, workerA: s.settled, "chain": -s.in,
	} {
		if got, err := s.l.Balance(t.Context(), account); err != nil || got != want {
			t.Errorf("%s has %v, want %v, %v", account, got, want, err)
		}
	}
	if s.out == 0 || s.settled == 0 {
		t.Errorf("withdrawn %v, settled %v", s.out, s.settled)
	}
	if report, err := s.l.Audit(t.Context()); err != nil || !report.OK() {
		t.Errorf("%+v, %v", report, err)
	}
}
