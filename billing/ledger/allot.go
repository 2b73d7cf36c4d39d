package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoon/internal/nanoton"
)

const (
	// ReclaimGrace is how long a lease must be seen to end unrenewed before its allotments go back. In that time a
	// restarted gateway, or whoever has its journal, posts what it had settled. It is short because the customer can't
	// spend that money elsewhere meanwhile; it is many times what a restart takes.
	ReclaimGrace = 2 * time.Minute
	// LeaseMax is how long a lease is believed that nobody renews, whatever end its gateway's clock wrote into it.
	LeaseMax = 10 * time.Minute

	kindAllot   = "allot"   // customer to allotment
	kindRelease = "release" // back, by its gateway
	kindReclaim = "reclaim" // back, because the gateway's lease ended
)

// Allotment asks for money that a gateway may spend without asking.
type Allotment struct {
	ID       ID             // of the transfer: the same again has no effect twice
	Gateway  string         // its name, unique among the gateways on this ledger
	Customer Account        // of kind customer
	Want     nanoton.Amount // at most so much is moved, on top of what is there; 0 only renews the lease
	Until    time.Time      // the end of the gateway's lease, by its own clock
}

// Reclaimed is what Reclaim gave back to one customer.
type Reclaimed struct {
	Gateway  string
	Customer Account
	Amount   nanoton.Amount
}

// watched is what this process has seen of a lease.
type watched struct {
	beats int64     // how often it had been renewed
	since time.Time // when that number was new, by the caller's clock
}

// Allot moves up to a.Want from the customer to the gateway's allotment of it, never more than there is, renews the
// gateway's lease, and gives what the allotment holds now. The gateway spends it by posting transfers from the account
// that [AllotmentAccount] names. It must stop spending when its lease has ended by its own monotonic clock, and call
// Allot then only after it has forgotten what its allotments held: they may have been reclaimed, and Allot makes the
// lease good again.
func (l *Ledger) Allot(ctx context.Context, a Allotment) (nanoton.Amount, error) {
	allotment, err := AllotmentAccount(a.Gateway, a.Customer)
	if err != nil {
		return 0, err
	}
	if a.Want < 0 || a.ID == (ID{}) {
		return 0, fmt.Errorf("allotment %w: it wants less than nothing or has no ID", ErrInvalid)
	}
	var has nanoton.Amount
	err = l.db.update(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO leases (gateway, until, beats, reclaimed) VALUES ($1, $2, 1, 0)
			ON CONFLICT (gateway) DO UPDATE SET until = excluded.until, beats = leases.beats + 1, reclaimed = 0`,
			a.Gateway, clampNano(a.Until))
		if err != nil {
			return err
		}
		accounts, err := l.db.lock(ctx, tx, []Account{allotment, a.Customer}) // sorted: a before c
		if err != nil {
			return err
		}
		again, err := l.db.allottedBefore(ctx, tx, a.ID, allotment, a.Customer)
		if err != nil {
			return err
		}
		if amount := min(a.Want, accounts[a.Customer].amount); amount > 0 && !again {
			t := move(a.ID, kindAllot, a.Customer, allotment, amount)
			if err := l.db.post(ctx, tx, accounts, []entry{t}); err != nil {
				return err
			}
		}
		has = accounts[allotment].amount
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("allotting: %w", err)
	}
	return has, nil
}

// allottedBefore says whether the transfer of an allotment is posted; another one with its ID is a conflict.
func (s *store) allottedBefore(ctx context.Context, tx *sql.Tx, id ID, allotment, customer Account) (bool, error) {
	found := []entry{{}}
	err := tx.QueryRowContext(ctx, `SELECT seq FROM transfers WHERE id = $1`, id[:]).Scan(&found[0].seq)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := s.readTransfers(ctx, tx, found); err != nil {
		return false, err
	}
	t := found[0].Transfer
	if t.Kind != kindAllot || len(t.Legs) != 2 || t.Legs[0].Account != customer || t.Legs[1].Account != allotment {
		return false, &Refusal{Reason: ErrConflict, ID: id}
	}
	return true, nil
}

// move is a transfer of the ledger's own.
func move(id ID, kind string, from, to Account, amount nanoton.Amount) entry {
	t := Transfer{ID: id, Kind: kind, At: time.Now(), Legs: []Leg{{from, -amount}, {to, amount}}}
	return entry{Transfer: t, digest: t.digest()}
}

// Allotted gives what gateways have of a customer's money, by the names of the allotments.
func (l *Ledger) Allotted(ctx context.Context, customer Account) (map[Account]nanoton.Amount, error) {
	if customer.Kind() != "customer" || customer.Check() != nil {
		return nil, fmt.Errorf("account of allotments %w: %.200q is no customer's", ErrInvalid, string(customer))
	}
	all, err := l.balances(ctx, `SELECT name, balance FROM leases JOIN accounts ON name = 'allotment:' || gateway || ':' || $1`,
		strings.TrimPrefix(string(customer), "customer:"))
	if err != nil {
		return nil, fmt.Errorf("reading allotments: %w", classify(err))
	}
	return all, nil
}

// Release moves all that a gateway's allotment of a customer holds back to the customer. The gateway has posted what it
// has spent of it, and spends no more.
func (l *Ledger) Release(ctx context.Context, gateway string, customer Account) error {
	allotment, err := AllotmentAccount(gateway, customer)
	if err != nil {
		return err
	}
	err = l.db.update(ctx, func(tx *sql.Tx) error {
		accounts, err := l.db.lock(ctx, tx, []Account{allotment, customer})
		if err != nil {
			return err
		}
		amount := accounts[allotment].amount
		if amount == 0 {
			return nil
		}
		return l.db.post(ctx, tx, accounts, []entry{move(newID(), kindRelease, allotment, customer, amount)})
	})
	if err != nil {
		return fmt.Errorf("releasing an allotment: %w", err)
	}
	return nil
}

// Heartbeat renews a gateway's lease, or begins it. [ErrReclaimed] says that its allotments were taken back: the lease
// is not renewed, and stays so until the gateway, which now knows that they are empty, calls [Ledger.Allot].
func (l *Ledger) Heartbeat(ctx context.Context, gateway string, until time.Time) error {
	if !isName(gateway) {
		return fmt.Errorf("gateway name %w: %.200q", ErrInvalid, gateway)
	}
	err := l.db.update(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `INSERT INTO leases (gateway, until, beats, reclaimed) VALUES ($1, $2, 1, 0)
			ON CONFLICT (gateway) DO UPDATE SET until = excluded.until, beats = leases.beats + 1 WHERE leases.reclaimed = 0`,
			gateway, clampNano(until))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(ErrReclaimed, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("renewing the lease of gateway %s: %w", gateway, err)
	}
	return nil
}

// lease is a row of the table.
type lease struct {
	gateway      string
	until, beats int64
}

// Reclaim gives the allotments of gateways back to their customers whose leases have ended, and says which. Call it
// regularly, with the present: a lease has ended when now is past its end (or [LeaseMax] has passed) and this process
// has seen it unrenewed for [ReclaimGrace]. So the first call after a gateway's death only takes note of it. That a
// gateway lives is seen without comparing clocks of two machines, and with times that carry a monotonic reading a wall
// clock that jumps does no harm: a gateway that renews its lease is never taken for dead.
//
// What a gateway had settled but not posted when its allotment was taken is refused with [ErrOverdrawn] when it comes
// after all; its maker then asks for the amount with Allot and posts again. So the customer still pays it, unless the
// money is gone by then.
func (l *Ledger) Reclaim(ctx context.Context, now time.Time) ([]Reclaimed, error) {
	var leases []lease
	rows, err := l.db.read.QueryContext(ctx, `SELECT gateway, until, beats FROM leases WHERE reclaimed = 0 ORDER BY gateway`)
	if err == nil {
		err = each(rows, func() error {
			var one lease
			if err := rows.Scan(&one.gateway, &one.until, &one.beats); err != nil {
				return err
			}
			leases = append(leases, one)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", classify(err))
	}
	var all []Reclaimed
	for _, ended := range l.ended(leases, now) {
		var back []Reclaimed
		err := l.db.update(ctx, func(tx *sql.Tx) (err error) {
			back, err = l.reclaim(ctx, tx, ended)
			return err
		})
		if err != nil {
			return all, fmt.Errorf("reclaiming the allotments of gateway %s: %w", ended.gateway, err)
		}
		all = append(all, back...)
	}
	return all, nil
}

// ended picks the leases that have ended and takes note of the others.
func (l *Ledger) ended(leases []lease, now time.Time) []lease {
	l.watchMu.Lock()
	defer l.watchMu.Unlock()
	var ended []lease
	watch := make(map[string]watched, len(leases))
	for _, one := range leases {
		seen, ok := l.watch[one.gateway]
		if !ok || seen.beats != one.beats {
			seen = watched{beats: one.beats, since: now}
		}
		watch[one.gateway] = seen
		unrenewed := now.Sub(seen.since)
		if unrenewed >= ReclaimGrace && (clampNano(now) > one.until || unrenewed >= LeaseMax) {
			ended = append(ended, one)
		}
	}
	l.watch = watch
	return ended
}

// reclaim moves everything of a gateway back, unless its lease was renewed meanwhile.
func (l *Ledger) reclaim(ctx context.Context, tx *sql.Tx, ended lease) ([]Reclaimed, error) {
	result, err := tx.ExecContext(ctx, `UPDATE leases SET reclaimed = 1 WHERE gateway = $1 AND beats = $2 AND reclaimed = 0`,
		ended.gateway, ended.beats)
	if err != nil {
		return nil, err
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		return nil, err
	}
	prefix := allotmentsOf(ended.gateway)
	rows, err := tx.QueryContext(ctx, `SELECT name FROM accounts WHERE name >= $1 AND name < $2 AND balance > 0 ORDER BY name`,
		prefix, prefix+nameEnd)
	if err != nil {
		return nil, err
	}
	var allotments, customers []Account
	err = each(rows, func() error {
		var name Account
		if err := rows.Scan(&name); err != nil {
			return err
		}
		allotments = append(allotments, name)
		customers = append(customers, Account("customer:"+strings.TrimPrefix(string(name), prefix)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Both are sorted, and every allotment is before every customer.
	accounts, err := l.db.lock(ctx, tx, append(allotments[:len(allotments):len(allotments)], customers...))
	if err != nil {
		return nil, err
	}
	var back []Reclaimed
	var batch []entry
	for i, customer := range customers {
		if amount := accounts[allotments[i]].amount; amount > 0 { // it may have been spent before it was locked
			batch = append(batch, move(newID(), kindReclaim, allotments[i], customer, amount))
			back = append(back, Reclaimed{ended.gateway, customer, amount})
		}
	}
	return back, l.db.post(ctx, tx, accounts, batch)
}
