package accounts

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

func TestWindows(t *testing.T) {
	day := func(s string) time.Time {
		d, err := time.Parse(time.DateOnly, s)
		must(t, err)
		return d
	}
	for _, tc := range []struct{ reset, at, start, end string }{
		{ResetDaily, "2026-11-26", "2026-11-26", "2026-11-27"},
		{ResetDaily, "2026-12-31", "2026-12-31", "2027-01-01"},
		{ResetWeekly, "2026-11-26", "2026-11-23", "2026-11-30"}, // a Thursday
		{ResetWeekly, "2026-11-23", "2026-11-23", "2026-11-30"},
		{ResetWeekly, "2026-11-29", "2026-11-23", "2026-11-30"}, // a Sunday
		{ResetWeekly, "2027-01-01", "2026-12-28", "2027-01-04"},
		{ResetMonthly, "2026-11-26", "2026-11-01", "2026-12-01"},
		{ResetMonthly, "2028-02-29", "2028-02-01", "2028-03-01"},
		{ResetMonthly, "2026-12-31", "2026-12-01", "2027-01-01"},
	} {
		for _, after := range []time.Duration{0, 24*time.Hour - 1} {
			now := day(tc.at).Add(after).In(time.FixedZone("east", 11*3600))
			w := windowAt(tc.reset, now)
			if !w.start.Equal(day(tc.start)) || !w.end.Equal(day(tc.end)) || !w.has(now) || w.has(w.end) || w.has(w.start.Add(-1)) {
				t.Errorf("%s at %v: %v", tc.reset, now, w)
			}
		}
	}
	if w := windowAt(ResetNone, time.Now()); !w.end.IsZero() || !w.has(time.Now()) {
		t.Errorf("no reset: %v", w)
	}
}

func TestBudget(t *testing.T) {
	s := newShelf(t)
	l := &broken{Ledger: s.ledger()}
	b, ctx := s.open(s.config(l)), t.Context()
	k := s.key(b, Settings{Budget: 10 * ton, Reset: ResetDaily})
	line := ledger.UsageLine{Day: "2026-11-26", Customer: k.Account(), Key: k.ID, Item: "m", Cost: 4 * ton}
	spend(t, l.Ledger, line)
	for _, other := range []ledger.UsageLine{
		{Day: "2026-11-25", Customer: k.Account(), Key: k.ID, Cost: 9 * ton},
		{Day: "2026-11-26", Customer: k.Account(), Key: "other", Cost: 9 * ton},
		{Day: "2026-11-26", Customer: "customer:other", Key: k.ID, Cost: 9 * ton},
	} {
		spend(t, l.Ledger, other)
	}
	must(t, k.Reserve(6*ton))
	var over *BudgetError
	if err := k.Reserve(1); !errors.As(err, &over) {
		t.Fatalf("beyond the budget: %v", err)
	}
	midnight := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	if *over != (BudgetError{Budget: 10 * ton, Spent: 4 * ton, Reserved: 6 * ton, Needed: 1, Resets: midnight}) {
		t.Fatalf("%+v", *over)
	}
	k.Release(6*ton, ton)
	must(t, k.Reserve(5*ton))
	k.Release(5*ton, 0)

	// Another gateway spends: that counts when it is read next.
	line.Cost = 3 * ton
	spend(t, l.Ledger, line) // the ledger has 7 now, of which ours may be 1
	b.readSpending(ctx)
	if got := k.Budget(); got.Spent != 7*ton || got.Reserved != 0 {
		t.Fatalf("after another's spending: %+v", got)
	}
	// Ours comes to the ledger late: it does not count twice, and not less than it did.
	line.Cost = ton
	spend(t, l.Ledger, line)
	b.readSpending(ctx)
	if got := k.Budget(); got.Spent != 8*ton {
		t.Fatalf("after ours was posted: %+v", got)
	}

	// While the ledger is away what is known counts.
	l.out = true
	b.readSpending(ctx)
	s.c.add(2 * time.Minute)
	must(t, k.Reserve(2*ton))
	k.Release(2*ton, 0)
	l.out = false
	s.c.t = midnight
	must(t, k.Reserve(10*ton))
	k.Release(10*ton, 2*ton)
	if got := k.Budget(); got.Spent != 2*ton || !got.Resets.Equal(midnight.AddDate(0, 0, 1)) {
		t.Fatalf("the next day: %+v", got)
	}
	// In a day of which nothing is known a ledger that is away leaves no way but to refuse.
	l.out = true
	s.c.add(24 * time.Hour)
	wantErr(t, k.Reserve(1), ErrUnread)
	asked := l.asked
	wantErr(t, k.Reserve(1), ErrUnread)
	if l.asked != asked {
		t.Fatal("each request waits for a ledger that does not answer")
	}
	l.out = false
	s.c.add(2 * spendRetry)
	must(t, k.Reserve(1))
	if k.Reserve(-1) == nil || k.Reserve(amountMax+1) == nil {
		t.Fatal("nonsense is reserved")
	}
}

// TestBudgetChanges: a budget that is set while requests run counts them, and one that is taken away does not refuse.
func TestBudgetChanges(t *testing.T) {
	s := newShelf(t)
	l := &broken{Ledger: s.ledger()}
	b, ctx := s.open(s.config(l)), t.Context()
	k := s.key(b, Settings{})
	set := func(amount nanoton.Amount, reset string) {
		t.Helper()
		must(t, b.UpdateKey(ctx, k.ID, func(s *Settings) error { s.Budget, s.Reset = amount, reset; return nil }))
	}
	must(t, k.Reserve(3*ton))
	if l.asked != 0 {
		t.Fatal("the ledger is asked for a key without a budget")
	}
	spend(t, l.Ledger, ledger.UsageLine{Day: "2026-11-01", Customer: k.Account(), Key: k.ID, Cost: ton})
	set(4*ton, ResetMonthly)
	if err := k.Reserve(1); err == nil {
		t.Fatal("what was reserved before the budget was set does not count")
	}
	set(4*ton, ResetDaily)
	must(t, k.Reserve(ton))
	k.Release(4*ton, 2*ton)
	set(2*ton, ResetNone)
	spend(t, l.Ledger, ledger.UsageLine{Day: "2026-11-26", Customer: k.Account(), Key: k.ID, Cost: 2 * ton})
	if err := k.Reserve(1); err == nil {
		t.Fatal("a budget without a reset does not count the past")
	}
	set(0, "")
	must(t, k.Reserve(100*ton))
	k.Release(100*ton, 0)
	if k.budget.reserved != 0 {
		t.Fatal("reserved for nobody")
	}
	for range int64(reservedMax) / int64(amountMax) {
		must(t, k.Reserve(amountMax))
	}
	if k.Reserve(amountMax) == nil {
		t.Fatal("sums overflow")
	}
}

// TestSumsReadThePastOnce: days that are over are read once a day.
func TestSumsReadThePastOnce(t *testing.T) {
	s := newShelf(t)
	l := &broken{Ledger: s.ledger()}
	b := s.open(s.config(l))
	for _, reset := range []string{ResetNone, ResetMonthly, ResetWeekly, ResetDaily} {
		k := s.key(b, Settings{Budget: 1000 * ton, Reset: reset})
		want := nanoton.Amount(0)
		for _, day := range []string{"2026-01-05", "2026-11-01", "2026-11-23", "2026-11-24", "2026-11-25", "2026-11-26"} {
			spend(t, l.Ledger, ledger.UsageLine{Day: day, Customer: k.Account(), Key: k.ID, Cost: ton})
			if w := windowAt(reset, s.c.now()); w.end.IsZero() || day >= w.start.Format(time.DateOnly) {
				want += ton
			}
		}
		for i, asks := range []int{2, 1, 1} {
			if reset == ResetDaily {
				asks = 1
			}
			l.asked = 0
			must(t, k.read(t.Context(), 0))
			if got := k.Budget().Spent; got != want || l.asked != asks {
				t.Errorf("%s, read %d: %v in %d questions, want %v in %d", reset, i, got, l.asked, want, asks)
			}
		}
	}
}

// TestBudgetModel: one gateway, whose settlements reach the ledger late, and any order of everything. A request is refused
// exactly when it does not fit.
func TestBudgetModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		posted := map[string]nanoton.Amount{}  // by day
		pending := map[string]nanoton.Amount{} // settled, not posted
		k := &Key{ID: "k", account: "x", now: c.now}
		k.sum = func(_ context.Context, q ledger.UsageQuery) (sum nanoton.Amount, err error) {
			for day, amount := range posted {
				if day >= q.From && (q.To == "" || day <= q.To) {
					sum += amount
				}
			}
			return sum, nil
		}
		limit := nanoton.Amount(rapid.Int64Range(1, 1000).Draw(t, "budget"))
		reset := rapid.SampledFrom([]string{ResetNone, ResetDaily, ResetWeekly, ResetMonthly}).Draw(t, "reset")
		k.apply(&Record{Account: "x", Settings: Settings{Budget: limit, Reset: reset}}, &Account{}, Limits{})
		var open []nanoton.Amount
		var reserved nanoton.Amount
		today := func() string { return c.now().Format(time.DateOnly) }
		spent := func() (sum nanoton.Amount) {
			from := ""
			if w := windowAt(reset, c.now()); !w.end.IsZero() {
				from = w.start.Format(time.DateOnly)
			}
			for _, m := range []map[string]nanoton.Amount{posted, pending} {
				for day, amount := range m {
					if day >= from {
						sum += amount
					}
				}
			}
			return sum
		}
		t.Repeat(map[string]func(*rapid.T){
			"reserve": func(t *rapid.T) {
				amount := nanoton.Amount(rapid.Int64Range(0, 400).Draw(t, "amount"))
				err := k.Reserve(amount)
				fits := spent()+reserved+amount <= limit
				if fits != (err == nil) {
					t.Fatalf("%d with %d spent, %d reserved of %d: %v", amount, spent(), reserved, limit, err)
				}
				if err == nil {
					open, reserved = append(open, amount), reserved+amount
				}
			},
			"release": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip()
				}
				cost := nanoton.Amount(rapid.Int64Range(0, int64(open[0])).Draw(t, "cost"))
				k.Release(open[0], cost)
				pending[today()] += cost
				open, reserved = open[1:], reserved-open[0]
			},
			"post": func(*rapid.T) {
				for day, amount := range pending {
					posted[day] += amount
					delete(pending, day)
				}
			},
			"read": func(t *rapid.T) {
				if err := k.read(context.Background(), 0); err != nil {
					t.Fatal(err)
				}
			},
			"a moment": func(*rapid.T) { c.add(20 * time.Second) },
			"a day": func(t *rapid.T) { // by then all is posted
				for day, amount := range pending {
					posted[day] += amount
					delete(pending, day)
				}
				c.add(time.Duration(rapid.Int64Range(1, 40).Draw(t, "hours")) * time.Hour)
			},
			"": func(t *rapid.T) {
				if got := k.Budget(); got.Spent != spent() || got.Reserved != reserved {
					t.Fatalf("%+v, want %d spent and %d reserved", got, spent(), reserved)
				}
			},
		})
	})
}

// TestBudgetRace: what is reserved at once is never above the budget.
func TestBudgetRace(t *testing.T) {
	s := newShelf(t)
	b := s.book()
	k := s.key(b, Settings{Budget: 100})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if k.Reserve(7) == nil {
					k.budget.mu.Lock()
					if k.budget.reserved+k.budget.spent > 100 {
						t.Error("above the budget")
					}
					k.budget.mu.Unlock()
					k.Release(7, 1)
				}
			}
		})
	}
	for range 20 {
		b.readSpending(t.Context())
		must(t, b.UpdateKey(t.Context(), k.ID, func(s *Settings) error { s.Limits.Concurrent++; return nil }))
	}
	wg.Wait()
	if got := k.Budget(); got.Reserved != 0 || got.Spent < 100-6 || got.Spent > 100 {
		t.Fatalf("%+v", got)
	}
}

func BenchmarkReserve(b *testing.B) {
	for name, s := range map[string]Settings{"none": {}, "daily": {Budget: math.MaxInt64 / 4, Reset: ResetDaily}} {
		b.Run(name, func(b *testing.B) {
			k := loose(newClock(), s, Account{})
			k.sum = func(context.Context, ledger.UsageQuery) (nanoton.Amount, error) { return 0, nil }
			b.ReportAllocs()
			for b.Loop() {
				if err := k.Reserve(10); err != nil {
					b.Fatal(err)
				}
				k.Release(10, 1)
			}
		})
	}
}
