package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// spendPeriod is how often what a key has spent is read from the ledger: so long another gateway's spending does not
	// count against a budget.
	spendPeriod = 10 * time.Second
	// spendStale is how old that may be for a key that was not in use; then its next request waits for the ledger.
	spendStale = time.Minute
	// spendTimeout bounds one such question.
	spendTimeout = 5 * time.Second
	// spendRetry bounds how often a ledger that does not answer is asked by requests.
	spendRetry = time.Second
	// spendQuiet is when all that a key has spent is surely in the ledger, after the last of it. Then the ledger's count
	// replaces this one, so that no difference stays: a request that ended at midnight may be in either day.
	spendQuiet = 10 * time.Minute
	// reservedMax bounds what all requests of a key may cost, so that sums do not overflow.
	reservedMax = nanoton.Amount(math.MaxInt64 / 4)
)

// ErrUnread says that what a key has spent could not be read from the ledger, so that its budget may be used up.
var ErrUnread = errors.New("what this key has spent can't be read now")

// BudgetError says that a request does not fit a key's budget.
type BudgetError struct {
	Budget   nanoton.Amount
	Spent    nanoton.Amount // since the budget's last reset
	Reserved nanoton.Amount // by requests that run
	Needed   nanoton.Amount // by this one, at most
	Resets   time.Time      // when the budget starts anew; zero: never
}

// Error names the amounts.
func (e *BudgetError) Error() string {
	text := fmt.Sprintf("this key's budget is %v, of which %v are spent and %v reserved by running requests; this request may cost %v",
		e.Budget, e.Spent, e.Reserved, e.Needed)
	if !e.Resets.IsZero() {
		text += "; the budget starts anew at " + e.Resets.Format(time.RFC3339)
	}
	return text
}

// Budget is how a key's budget stands.
type Budget struct {
	Limit    nanoton.Amount // 0: none
	Reset    string
	Spent    nanoton.Amount // since the last reset; of a key without a budget: since the gateway started
	Reserved nanoton.Amount
	Resets   time.Time // zero: never
}

// budget counts what a key spends. Money itself is held at the Desk: this only bounds what one key may take of it.
//
// spent is at least what the ledger's usage lines say, and at least what it was plus what was released since. With one
// gateway that is exact. What another gateway spends counts when it is next read.
type budget struct {
	reading sync.Mutex // held by the one that asks the ledger

	mu       sync.Mutex
	limit    nanoton.Amount // 0: none
	reset    string
	window   window
	spent    nanoton.Amount // in the window
	reserved nanoton.Amount
	known    bool      // the ledger was asked in this window
	tried    time.Time // when it was last asked
	used     time.Time // the last Reserve
	released time.Time // the last Release

	closed   nanoton.Amount // what the window's days before yesterday sum up to, which change no more
	closedOn string         // the day on which that was read
}

// window is the time that a count is for, by a kind of reset; a zero end is none.
type window struct {
	reset      string
	start, end time.Time
}

// windowAt gives the window that a moment is in.
func windowAt(reset string, now time.Time) window {
	y, m, d := now.UTC().Date()
	day := time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	switch reset {
	case ResetDaily:
		return window{reset, day, day.AddDate(0, 0, 1)}
	case ResetWeekly:
		monday := day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
		return window{reset, monday, monday.AddDate(0, 0, 7)}
	case ResetMonthly:
		first := time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
		return window{reset, first, first.AddDate(0, 1, 0)}
	}
	return window{reset: reset}
}

func (w window) has(now time.Time) bool {
	return w.end.IsZero() || !now.Before(w.start) && now.Before(w.end)
}

// change sets the budget.
func (b *budget) change(limit nanoton.Amount, reset string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit, b.reset = limit, cmp.Or(reset, ResetNone)
}

// roll starts a new count where the time or the kind of reset asks for one. mu is held.
func (b *budget) roll(now time.Time) {
	if b.window.reset != b.reset || !b.window.has(now) {
		b.window = windowAt(b.reset, now)
		b.spent, b.known, b.tried, b.closed, b.closedOn = 0, false, time.Time{}, 0, ""
	}
}

// Reserve takes the most that a request can cost from what is left of the key's budget. The error is a *BudgetError,
// ErrUnread or ErrInvalid; then nothing is reserved, or else Release must be called. It waits for the ledger only where
// that was not asked for a while.
func (k *Key) Reserve(amount nanoton.Amount) error {
	b := &k.budget
	if amount < 0 || amount > amountMax {
		return fmt.Errorf("cost of a request %w: %v", ErrInvalid, amount)
	}
	if err := k.freshen(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.limit > 0 && amount > b.limit-b.spent-b.reserved:
		return &BudgetError{Budget: b.limit, Spent: b.spent, Reserved: b.reserved, Needed: amount, Resets: b.window.end}
	case b.reserved > reservedMax-amount:
		return fmt.Errorf("what this key's requests may cost %w: above %v", ErrInvalid, reservedMax)
	}
	b.reserved += amount
	return nil
}

// Release gives back what Reserve took for a request, which cost so much in the end.
func (k *Key) Release(reserved, spent nanoton.Amount) {
	b := &k.budget
	now := k.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.roll(now)
	b.reserved -= reserved
	b.spent += spent
	if spent > 0 {
		b.released = now
	}
}

// Budget says how the budget stands, as far as this gateway knows.
func (k *Key) Budget() Budget {
	_ = k.freshen() // what is known is shown
	b := &k.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	return Budget{Limit: b.limit, Reset: b.reset, Spent: b.spent, Reserved: b.reserved, Resets: b.window.end}
}

// freshen sees to it that the count is of this window and not stale. What was known stays where the ledger does not
// answer; where nothing was, it is ErrUnread.
func (k *Key) freshen() error {
	b := &k.budget
	now := k.now()
	b.mu.Lock()
	b.roll(now)
	b.used = now
	stale := b.limit > 0 && (!b.known || now.Sub(b.tried) > spendStale)
	b.mu.Unlock()
	if !stale {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), spendTimeout)
	defer cancel()
	err := k.read(ctx, spendRetry)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.known {
		return errors.Join(ErrUnread, err)
	}
	return nil
}

// read asks the ledger what was spent in this window, unless that was tried less than so long ago.
func (k *Key) read(ctx context.Context, since time.Duration) error {
	b := &k.budget
	b.reading.Lock()
	defer b.reading.Unlock()
	now := k.now()
	b.mu.Lock()
	b.roll(now)
	w, closed, closedOn := b.window, b.closed, b.closedOn
	fresh := !b.tried.IsZero() && now.Sub(b.tried) < since
	b.mu.Unlock()
	if fresh {
		return nil
	}
	sum, closed, closedOn, err := k.sums(ctx, w, closed, closedOn)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.window != w {
		return nil // midnight passed: the next request asks
	}
	b.tried = now
	if err != nil {
		return err
	}
	if now.Sub(b.released) < spendQuiet {
		sum = max(sum, b.spent) // what was released lately may not be in the ledger
	}
	b.spent, b.known, b.closed, b.closedOn = sum, true, closed, closedOn
	return nil
}

// sums asks for the days of a window: all of them once a day, else yesterday and today.
func (k *Key) sums(ctx context.Context, w window, closed nanoton.Amount, closedOn string) (nanoton.Amount, nanoton.Amount, string, error) {
	now := k.now().UTC()
	today, yesterday := now.Format(time.DateOnly), now.AddDate(0, 0, -1)
	from := ""
	if !w.end.IsZero() {
		from = w.start.Format(time.DateOnly)
	}
	if closedOn != today {
		closed = 0
		if before := yesterday.AddDate(0, 0, -1).Format(time.DateOnly); from <= before {
			var err error
			if closed, err = k.sum(ctx, k.query(from, before)); err != nil {
				return 0, 0, "", err
			}
		}
	}
	recent, err := k.sum(ctx, k.query(max(from, yesterday.Format(time.DateOnly)), ""))
	return closed + recent, closed, today, err
}

func (k *Key) query(from, to string) ledger.UsageQuery {
	return ledger.UsageQuery{Customer: k.Account(), Key: k.ID, From: from, To: to}
}

// sum adds up what usage lines cost.
func (b *Book) sum(ctx context.Context, q ledger.UsageQuery) (sum nanoton.Amount, err error) {
	err = b.store.Usage(ctx, q, func(l ledger.UsageLine) error {
		sum += l.Cost
		return nil
	})
	return sum, err
}

// readSpending reads what the keys have spent that have a budget and are in use.
func (b *Book) readSpending(ctx context.Context) {
	failed := 0
	for _, k := range b.Keys("") {
		k.budget.mu.Lock()
		due := k.budget.limit > 0 && b.now().Sub(k.budget.used) < spendStale
		k.budget.mu.Unlock()
		if !due || ctx.Err() != nil {
			continue
		}
		one, cancel := context.WithTimeout(ctx, spendTimeout)
		if k.read(one, 0) != nil {
			failed++
		}
		cancel()
	}
	if failed > 0 && ctx.Err() == nil {
		b.log.Warn("reading what keys have spent failed; what this gateway knows counts", "keys", failed)
	}
}
