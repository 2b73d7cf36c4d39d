package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"cocoon/internal/nanoton"
)

// openCheck is how many of the newest transfers Open recomputes: enough to see what a crash or a half-restored backup
// does, in well under a second. Audit does them all.
const openCheck = 10_000

// Report says what an audit found.
type Report struct {
	Accounts   int    // how many there are
	Transfers  int    // how many there are
	Legs       int    // how many there are
	Difference string // the first thing that is wrong, in words; empty if all of it holds
}

// OK says whether all of it holds.
func (r Report) OK() bool { return r.Difference == "" }

// differenceError ends an audit: its text is the difference.
type differenceError string

func (e differenceError) Error() string { return string(e) }

func difference(format string, args ...any) error {
	return differenceError(fmt.Sprintf(format, args...))
}

// Audit recomputes the ledger from its transfers, on a snapshot: each transfer is as it was posted and sums to zero,
// each balance is the sum of the account's legs and not below zero where it must not be, and all balances sum to zero.
// An error says that the audit could not be done, which for a file that can't be read is [ErrCorrupt].
func (l *Ledger) Audit(ctx context.Context) (Report, error) {
	a := audit{sums: map[Account]*big.Int{}}
	err := l.db.view(ctx, func(tx *sql.Tx) error {
		if err := l.checkPages(ctx, tx); err != nil {
			return err
		}
		if err := a.transfers(ctx, tx, 0); err != nil {
			return err
		}
		return a.accounts(ctx, tx, true)
	})
	if wrong, ok := errors.AsType[differenceError](err); ok {
		a.report.Difference, err = string(wrong), nil
	}
	if err != nil {
		return a.report, fmt.Errorf("auditing the ledger: %w", err)
	}
	return a.report, nil
}

// check is the part of the audit that is quick: all balances, and the newest transfers.
func (l *Ledger) check(ctx context.Context) error {
	a := audit{sums: map[Account]*big.Int{}}
	err := l.db.view(ctx, func(tx *sql.Tx) error {
		var newest int64
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) FROM transfers`).Scan(&newest); err != nil {
			return err
		}
		if err := a.transfers(ctx, tx, newest-openCheck); err != nil {
			return err
		}
		return a.accounts(ctx, tx, false)
	})
	if wrong, ok := errors.AsType[differenceError](err); ok {
		return fmt.Errorf("%w: %w", ErrCorrupt, wrong)
	}
	return err
}

// checkPages lets SQLite check its own structures: an index that lost a row hides it from everything else.
func (l *Ledger) checkPages(ctx context.Context, tx *sql.Tx) error {
	if l.db.postgres {
		return nil
	}
	var result string
	if err := tx.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&result); err != nil {
		return err
	}
	if result != "ok" {
		return difference("SQLite finds the file damaged: %s", result)
	}
	return nil
}

// audit is one pass over the ledger.
type audit struct {
	report  Report
	sums    map[Account]*big.Int // of the legs seen so far
	current Transfer             // its legs so far
	row     legRow               // the last row of the current transfer
}

// transfers recomputes the transfers after a number; legs of transfers that don't exist are looked for as well.
func (a *audit) transfers(ctx context.Context, tx *sql.Tx, after int64) error {
	rows, err := tx.QueryContext(ctx, selectLegs+` WHERE t.seq > $1 ORDER BY t.seq, l.n`, after)
	if err != nil {
		return err
	}
	if err := eachLeg(rows, a.leg); err != nil {
		return err
	}
	if err := a.finish(); err != nil {
		return err
	}
	var legs int
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM legs WHERE transfer > $1`, after).Scan(&legs); err != nil {
		return err
	}
	if legs != a.report.Legs {
		return difference("%d legs belong to no transfer", legs-a.report.Legs)
	}
	return nil
}

// leg takes the next row.
func (a *audit) leg(r legRow) error {
	if r.seq != a.row.seq {
		if err := a.finish(); err != nil {
			return err
		}
		a.report.Transfers++
		a.current = r.transfer()
		a.current.Legs = make([]Leg, 0, 4)
	}
	a.row = r
	switch {
	case !r.n.Valid:
		return difference("transfer %s has no legs", a.current.ID)
	case !r.account.Valid:
		return difference("transfer %s, leg %d: there is no such account", a.current.ID, r.n.Int64)
	case r.n.Int64 != int64(len(a.current.Legs)):
		return difference("transfer %s: leg %d is not there", a.current.ID, len(a.current.Legs))
	case r.t2.Int64 != r.at:
		return difference("transfer %s, leg %d: its time is not that of the transfer", a.current.ID, r.n.Int64)
	}
	leg := Leg{Account(r.account.String), nanoton.Amount(r.amount.Int64)}
	a.current.Legs = append(a.current.Legs, leg)
	a.report.Legs++
	sum := a.sums[leg.Account]
	if sum == nil {
		sum = new(big.Int)
		a.sums[leg.Account] = sum
	}
	sum.Add(sum, big.NewInt(int64(leg.Amount)))
	return nil
}

// finish checks the current transfer, whose legs are complete.
func (a *audit) finish() error {
	if a.row.seq == 0 {
		return nil
	}
	if err := a.current.Check(); err != nil {
		return difference("%v", err)
	}
	if a.current.digest() != [32]byte(a.row.digest) {
		return difference("transfer %s is not as it was posted: its digest differs", a.current.ID)
	}
	return nil
}

// accounts checks the balances, against the sums of the legs if those are all known.
func (a *audit) accounts(ctx context.Context, tx *sql.Tx, sums bool) error {
	rows, err := tx.QueryContext(ctx, `SELECT name, balance FROM accounts ORDER BY name`)
	if err != nil {
		return err
	}
	total := new(big.Int)
	err = each(rows, func() error {
		var name Account
		var amount int64
		if err := rows.Scan(&name, &amount); err != nil {
			return err
		}
		a.report.Accounts++
		total.Add(total, big.NewInt(amount))
		sum := a.sums[name]
		delete(a.sums, name)
		switch {
		case sums && sum == nil && amount != 0 || sums && sum != nil && sum.Cmp(big.NewInt(amount)) != 0:
			if sum == nil {
				sum = new(big.Int)
			}
			return difference("account %s has a balance of %d nanoTON, its legs sum to %s", name, amount, sum)
		case amount < 0 && !name.mayOwe():
			return difference("account %s is below zero: %d nanoTON", name, amount)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if total.Sign() != 0 {
		return difference("all balances sum to %s nanoTON, want 0", total)
	}
	if len(a.sums) > 0 {
		return difference("account %s has legs and no balance", slices.Sorted(maps.Keys(a.sums))[0])
	}
	return nil
}
