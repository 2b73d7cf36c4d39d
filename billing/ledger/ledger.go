// Package ledger keeps who owns how many nanoTON: double entry, immutable transfers whose makers chose the IDs, on
// SQLite or PostgreSQL.
//
// A transfer has legs that sum to zero, so all accounts together always sum to zero. Each account's balance is kept in
// the transaction that writes the legs; [Open] checks what is quick to check and [Ledger.Audit] recomputes everything.
// A transfer that is posted twice counts once, so a caller that does not know whether a post took effect (the
// connection broke, the process died) posts again. Accounts of customers, workers and allotments never go below zero.
//
// Beside the money it keeps what the transfers were for, as sums ([Ledger.Usage]), and small records that the gateways
// of one ledger share ([Ledger.Documents]). [Ledger.Commit] changes both as one.
//
// Several gateways may share one PostgreSQL. Each spends from allotments: money of a customer that the ledger has moved
// to an account of that gateway, under a lease. See [Ledger.Allot] and [Ledger.Reclaim].
//
// Locks, on PostgreSQL, in this order and no other: the row of a lease; rows of accounts that are new, by name; rows of
// accounts, by name; then new transfers; then rows of usage, by customer and day; then the one row with the version of
// the documents, which whoever changes documents takes last. SQLite has one writer at a time. What the database still
// finds to be a deadlock or a failed serialization is tried again, a bounded number of times.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"cocoon/internal/nanoton"
)

// What callers branch on. What concerns one transfer comes as a [*Refusal] around one of the first three.
var (
	// ErrConflict marks a transfer whose ID is that of a posted one with other content.
	ErrConflict = errors.New("the ID is taken by a transfer with other content")
	// ErrOverdrawn marks a transfer that would take an account below zero that must not go there.
	ErrOverdrawn = errors.New("not enough money")
	// ErrOverflow marks a transfer that would take a balance past what 64 bits hold.
	ErrOverflow = errors.New("the balance would overflow")
	// ErrInvalid marks what breaks a rule of its type: an account's name, legs that do not sum to zero, and so on.
	ErrInvalid = errors.New("not valid")
	// ErrNewer marks a database that a newer program wrote; this one leaves it alone.
	ErrNewer = errors.New("the ledger was written by a newer version of this program")
	// ErrCorrupt marks a database whose numbers do not add up or that cannot be read as one.
	ErrCorrupt = errors.New("the ledger is damaged")
	// ErrReclaimed tells a gateway that its lease had ended and its allotments went back to their customers.
	ErrReclaimed = errors.New("the lease ended and the allotments were taken back")
)

// Refusal is the error of a transfer that was not posted because of what it is. Nothing of its batch was posted.
type Refusal struct {
	Reason  error          // ErrConflict, ErrOverdrawn or ErrOverflow
	ID      ID             // of the transfer
	Account Account        // what would be overdrawn or overflow; empty for a conflict
	Balance nanoton.Amount // of the account at that point of the batch
	Change  nanoton.Amount // what the transfer would add to it
}

// Error says which transfer and which account, in nanoTON.
func (r *Refusal) Error() string {
	if r.Account == "" {
		return fmt.Sprintf("transfer %s: %v", r.ID, r.Reason)
	}
	return fmt.Sprintf("transfer %s: %v: account %s has %d nanoTON, the change is %d nanoTON",
		r.ID, r.Reason, r.Account, int64(r.Balance), int64(r.Change))
}

// Unwrap gives the reason.
func (r *Refusal) Unwrap() error { return r.Reason }

// Ledger is an open ledger. Its methods may be called from many goroutines; several processes may have it open.
type Ledger struct {
	db *store

	watchMu sync.Mutex
	watch   map[string]watched // guarded by watchMu; by gateway: what Reclaim has seen of its lease
}

// Open opens the ledger at a URL, creates it where there is none, and brings an older schema up to date. The URL is
// "sqlite:/path/ledger.db", or "postgres://..." as libpq has it (a search_path in it picks the schema). A newer schema
// is [ErrNewer]; balances that do not sum to zero, or a broken transfer among the newest, are [ErrCorrupt].
func Open(ctx context.Context, url string) (*Ledger, error) {
	db, err := openStore(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	l, err := newLedger(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	return l, nil
}

// newLedger migrates and checks what db holds; on an error db is closed.
func newLedger(ctx context.Context, db *store) (*Ledger, error) {
	l := &Ledger{db: db, watch: map[string]watched{}}
	err := l.db.migrate(ctx)
	if err == nil {
		err = l.check(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close closes the database. Calls in progress fail.
func (l *Ledger) Close() error { return l.db.close() }

// Balance gives what an account holds; one that no transfer named holds nothing.
func (l *Ledger) Balance(ctx context.Context, account Account) (nanoton.Amount, error) {
	if err := account.Check(); err != nil {
		return 0, err
	}
	var balance nanoton.Amount
	err := l.db.read.QueryRowContext(ctx, `SELECT balance FROM accounts WHERE name = $1`, string(account)).Scan(&balance)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, fmt.Errorf("reading a balance: %w", classify(err))
	}
	return balance, nil
}

// Balances gives the accounts whose names start with prefix, those at zero too.
func (l *Ledger) Balances(ctx context.Context, prefix string) (map[Account]nanoton.Amount, error) {
	all, err := l.balances(ctx, `SELECT name, balance FROM accounts WHERE name >= $1 AND name < $2`, prefix, prefix+nameEnd)
	if err != nil {
		return nil, fmt.Errorf("reading balances: %w", classify(err))
	}
	return all, nil
}

// balances reads what a query has of names and balances.
func (l *Ledger) balances(ctx context.Context, query string, args ...any) (map[Account]nanoton.Amount, error) {
	rows, err := l.db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	all := map[Account]nanoton.Amount{}
	err = each(rows, func() error {
		var name Account
		var balance nanoton.Amount
		if err := rows.Scan(&name, &balance); err != nil {
			return err
		}
		all[name] = balance
		return nil
	})
	return all, err
}

// Has says of each ID whether its transfer is posted.
func (l *Ledger) Has(ctx context.Context, ids ...ID) ([]bool, error) {
	known, err := l.db.digests(ctx, l.db.read, ids)
	if err != nil {
		return nil, fmt.Errorf("looking up transfers: %w", classify(err))
	}
	has := make([]bool, len(ids))
	for i, id := range ids {
		_, has[i] = known[id]
	}
	return has, nil
}

// Transfers gives those of the transfers that are posted, in any order, without their usage.
func (l *Ledger) Transfers(ctx context.Context, ids ...ID) ([]Transfer, error) {
	var all []Transfer
	err := l.db.view(ctx, func(tx *sql.Tx) error {
		for chunk := range slices.Chunk(ids, chunkRows) {
			entries, err := l.db.seqs(ctx, tx, chunk)
			if err == nil {
				err = l.db.readTransfers(ctx, tx, entries)
			}
			if err != nil {
				return err
			}
			for i := range entries {
				all = append(all, entries[i].Transfer)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading transfers: %w", classify(err))
	}
	return all, nil
}

// IDs calls f with the IDs of the transfers of a kind that have a leg on an account whose name starts with prefix, in
// any order, until f returns an error, which it returns. f does not use the ledger.
func (l *Ledger) IDs(ctx context.Context, kind, prefix string, f func(ID) error) error {
	var given error
	err := l.db.view(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT DISTINCT t.id FROM accounts a JOIN legs l ON l.account = a.id
			JOIN transfers t ON t.seq = l.transfer WHERE a.name >= $1 AND a.name < $2 AND t.kind = $3`, prefix, prefix+nameEnd, kind)
		if err != nil {
			return err
		}
		return each(rows, func() error {
			var id sql.RawBytes
			if err := rows.Scan(&id); err != nil {
				return err
			}
			if len(id) != len(ID{}) {
				return fmt.Errorf("%w: an ID of another length", ErrCorrupt)
			}
			given = f(ID(id))
			return given
		})
	})
	if given != nil {
		return given
	}
	if err != nil {
		return fmt.Errorf("reading transfers: %w", classify(err))
	}
	return nil
}

// Each calls f with every transfer that has a leg on the account and is from that time or later, by time and then in
// the order of posting, until f returns an error, which it returns. f may use the ledger. A transfer that is posted
// meanwhile may or may not come.
func (l *Ledger) Each(ctx context.Context, account Account, from time.Time, f func(Transfer) error) error {
	if err := account.Check(); err != nil {
		return err
	}
	at, seq := clampNano(from), int64(0)
	for {
		page, err := l.page(ctx, account, at, seq)
		if err != nil {
			return fmt.Errorf("reading transfers: %w", classify(err))
		}
		for _, t := range page {
			if err := f(t.Transfer); err != nil {
				return err
			}
			at, seq = t.At.UnixNano(), t.seq
		}
		if len(page) < pageRows {
			return nil
		}
	}
}
