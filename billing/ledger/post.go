package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"time"

	"cocoon/internal/nanoton"
)

// entry is a checked transfer on its way into the database.
type entry struct {
	Transfer
	digest [sha256.Size]byte
	seq    int64 // the database's own number of it, once written or read
}

// balance is the row of an account in a transaction that holds its lock.
type balance struct {
	id     int64
	amount nanoton.Amount
	dirty  bool
}

// querier is what reads: the database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Post posts transfers, all or none, as if one after the other. One that is posted already with the same content has no
// effect and is no error. A [*Refusal] around [ErrConflict], [ErrOverdrawn] or [ErrOverflow] names the first that can't
// be; [ErrInvalid] one that breaks the rules. After any other error they may or may not be posted: post them again.
func (l *Ledger) Post(ctx context.Context, transfers []Transfer) error {
	_, err := l.Commit(ctx, transfers, nil)
	return err
}

// postLocked takes the locks of a batch and posts what of it is not posted.
func (s *store) postLocked(ctx context.Context, tx *sql.Tx, batch []entry) error {
	if len(batch) == 0 {
		return nil
	}
	// First the locks, so that whoever posts the same waits here and then finds it posted.
	accounts, err := s.lock(ctx, tx, names(batch))
	if err != nil {
		return err
	}
	fresh, err := s.unposted(ctx, tx, batch)
	if err != nil {
		return err
	}
	return s.post(ctx, tx, accounts, fresh)
}

// prepare checks transfers and drops repetitions.
func prepare(transfers []Transfer) ([]entry, error) {
	if len(transfers) > BatchMax {
		return nil, fmt.Errorf("batch %w: %d transfers, at most %d", ErrInvalid, len(transfers), BatchMax)
	}
	batch := make([]entry, 0, len(transfers))
	seen := make(map[ID][sha256.Size]byte, len(transfers))
	for _, t := range transfers {
		if err := t.Check(); err != nil {
			return nil, err
		}
		digest := t.digest()
		before, twice := seen[t.ID]
		if twice && before != digest {
			return nil, &Refusal{Reason: ErrConflict, ID: t.ID}
		}
		if !twice {
			seen[t.ID] = digest
			batch = append(batch, entry{Transfer: t, digest: digest})
		}
	}
	return batch, nil
}

// names gives the accounts of the batch, sorted, each once.
func names(batch []entry) []Account {
	set := map[Account]bool{}
	for _, e := range batch {
		for _, leg := range e.Legs {
			set[leg.Account] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// unposted drops what is posted already. The transaction has the locks of all accounts of the batch.
func (s *store) unposted(ctx context.Context, tx *sql.Tx, batch []entry) ([]entry, error) {
	ids := make([]ID, len(batch))
	for i, e := range batch {
		ids[i] = e.ID
	}
	known, err := s.digests(ctx, tx, ids)
	if err != nil || len(known) == 0 {
		return batch, err
	}
	fresh := batch[:0:0]
	for _, e := range batch {
		digest, posted := known[e.ID]
		if posted && digest != e.digest {
			return nil, &Refusal{Reason: ErrConflict, ID: e.ID}
		}
		if !posted {
			fresh = append(fresh, e)
		}
	}
	return fresh, nil
}

// digests gives the digests of those transfers that are posted.
func (s *store) digests(ctx context.Context, q querier, ids []ID) (map[ID][sha256.Size]byte, error) {
	known := map[ID][sha256.Size]byte{}
	for chunk := range slices.Chunk(ids, chunkRows) {
		args := make([]any, len(chunk))
		for i := range chunk {
			args[i] = chunk[i][:]
		}
		rows, err := q.QueryContext(ctx, `SELECT id, digest FROM transfers WHERE id IN `+s.params(1, len(chunk)), args...)
		if err != nil {
			return nil, err
		}
		err = each(rows, func() error {
			var id, digest sql.RawBytes
			if err := rows.Scan(&id, &digest); err != nil {
				return err
			}
			if len(id) != len(ID{}) || len(digest) != sha256.Size {
				return fmt.Errorf("%w: an ID or digest of another length", ErrCorrupt)
			}
			known[ID(id)] = [sha256.Size]byte(digest)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return known, nil
}

// lock gives the rows of the accounts, whose names are sorted, and makes those that are missing. Until the transaction
// ends nobody else changes them.
func (s *store) lock(ctx context.Context, tx *sql.Tx, accounts []Account) (map[Account]*balance, error) {
	found, err := s.find(ctx, tx, accounts, "")
	if err != nil {
		return nil, err
	}
	var missing []any
	for _, account := range accounts {
		if found[account] == nil {
			missing = append(missing, string(account))
		}
	}
	for chunk := range slices.Chunk(missing, chunkRows) {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO accounts (name) VALUES `+s.params(len(chunk), 1)+` ON CONFLICT (name) DO NOTHING`, chunk...)
		if err != nil {
			return nil, err
		}
	}
	if len(missing) == 0 && !s.postgres {
		return found, nil
	}
	return s.find(ctx, tx, accounts, s.forUpdate())
}

// find reads the rows of accounts, in the order of their names.
func (s *store) find(ctx context.Context, tx *sql.Tx, accounts []Account, forUpdate string) (map[Account]*balance, error) {
	found := make(map[Account]*balance, len(accounts))
	for chunk := range slices.Chunk(accounts, chunkRows) {
		args := make([]any, len(chunk))
		for i := range chunk {
			args[i] = string(chunk[i])
		}
		rows, err := tx.QueryContext(ctx, `SELECT id, name, balance FROM accounts WHERE name IN `+s.params(1, len(chunk))+
			` ORDER BY name`+forUpdate, args...)
		if err != nil {
			return nil, err
		}
		err = each(rows, func() error {
			var name Account
			var b balance
			if err := rows.Scan(&b.id, &name, &b.amount); err != nil {
				return err
			}
			found[name] = &b
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// post applies transfers that are not posted to accounts that are locked, and writes both.
func (s *store) post(ctx context.Context, tx *sql.Tx, accounts map[Account]*balance, batch []entry) error {
	for i := range batch {
		if err := apply(accounts, batch[i].Transfer); err != nil {
			return err
		}
	}
	if err := s.writeTransfers(ctx, tx, batch); err != nil {
		return err
	}
	if err := s.writeLegs(ctx, tx, accounts, batch); err != nil {
		return err
	}
	if err := s.writeBalances(ctx, tx, accounts); err != nil {
		return err
	}
	return s.addUsage(ctx, tx, batch)
}

// apply changes the balances by one transfer, or says why it can't be.
func apply(accounts map[Account]*balance, t Transfer) error {
	before := make(map[Account]nanoton.Amount, len(t.Legs))
	for _, leg := range t.Legs {
		b := accounts[leg.Account]
		if _, ok := before[leg.Account]; !ok {
			before[leg.Account] = b.amount
		}
		sum, ok := add(b.amount, leg.Amount)
		if !ok {
			return &Refusal{ErrOverflow, t.ID, leg.Account, b.amount, leg.Amount}
		}
		b.amount, b.dirty = sum, true
	}
	for _, leg := range t.Legs {
		if sum := accounts[leg.Account].amount; sum < 0 && !leg.Account.mayOwe() {
			return &Refusal{ErrOverdrawn, t.ID, leg.Account, before[leg.Account], sum - before[leg.Account]}
		}
	}
	return nil
}

// writeTransfers inserts the transfers and takes note of the numbers that the database gives them.
func (s *store) writeTransfers(ctx context.Context, tx *sql.Tx, batch []entry) error {
	for chunk := range slices.Chunk(batch, chunkRows) {
		args := make([]any, 0, 5*len(chunk))
		for i := range chunk {
			e := &chunk[i]
			args = append(args, e.ID[:], e.digest[:], e.Kind, e.At.UnixNano(), e.Ref)
		}
		rows, err := tx.QueryContext(ctx, `INSERT INTO transfers (id, digest, kind, at, ref) VALUES `+
			s.params(len(chunk), 5)+` ON CONFLICT (id) DO NOTHING RETURNING seq, id`, args...)
		if err != nil {
			return err
		}
		seqs := make(map[ID]int64, len(chunk))
		err = each(rows, func() error {
			var seq int64
			var id sql.RawBytes
			if err := rows.Scan(&seq, &id); err != nil {
				return err
			}
			seqs[ID(id)] = seq
			return nil
		})
		if err != nil {
			return err
		}
		for i := range chunk {
			chunk[i].seq = seqs[chunk[i].ID]
		}
		if len(seqs) < len(chunk) {
			return errRaced // the same ID on other accounts: the next attempt sees which
		}
	}
	return nil
}

func (s *store) writeLegs(ctx context.Context, tx *sql.Tx, accounts map[Account]*balance, batch []entry) error {
	const columns = 5
	args := make([]any, 0, columns*chunkRows)
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO legs (transfer, n, account, amount, at) VALUES `+s.params(len(args)/columns, columns), args...)
		args = args[:0]
		return err
	}
	for _, e := range batch {
		for n, leg := range e.Legs {
			args = append(args, e.seq, n, accounts[leg.Account].id, int64(leg.Amount), e.At.UnixNano())
			if len(args) == columns*chunkRows {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

func (s *store) writeBalances(ctx context.Context, tx *sql.Tx, accounts map[Account]*balance) error {
	var dirty []*balance
	for _, b := range accounts {
		if b.dirty {
			dirty = append(dirty, b)
		}
	}
	for chunk := range slices.Chunk(dirty, chunkRows) {
		args := make([]any, 0, 2*len(chunk))
		for _, b := range chunk {
			args = append(args, b.id, int64(b.amount))
		}
		// The first row is nobody's: it gives the columns their type.
		_, err := tx.ExecContext(ctx, `UPDATE accounts SET balance = v.column2 FROM
			(VALUES (CAST(0 AS BIGINT), CAST(0 AS BIGINT)), `+s.params(len(chunk), 2)+`) AS v WHERE id = v.column1`, args...)
		if err != nil {
			return err
		}
	}
	return nil
}

// page reads transfers of an account that are after (at, seq), with all their legs.
func (l *Ledger) page(ctx context.Context, account Account, at, seq int64) ([]entry, error) {
	var page []entry
	err := l.db.view(ctx, func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT DISTINCT l.at, l.transfer FROM legs l JOIN accounts a ON a.id = l.account
			WHERE a.name = $1 AND (l.at, l.transfer) > ($2, $3) ORDER BY l.at, l.transfer LIMIT $4`,
			string(account), at, seq, pageRows)
		if err != nil {
			return err
		}
		err = each(rows, func() error {
			var e entry
			var nano int64
			if err := rows.Scan(&nano, &e.seq); err != nil {
				return err
			}
			page = append(page, e)
			return nil
		})
		if err != nil {
			return err
		}
		return l.db.readTransfers(ctx, tx, page)
	})
	return page, err
}

// seqs gives the database's numbers of those transfers that are posted.
func (s *store) seqs(ctx context.Context, tx *sql.Tx, ids []ID) ([]entry, error) {
	args := make([]any, len(ids))
	for i := range ids {
		args[i] = ids[i][:]
	}
	rows, err := tx.QueryContext(ctx, `SELECT seq FROM transfers WHERE id IN `+s.params(1, len(ids)), args...)
	if err != nil {
		return nil, err
	}
	var entries []entry
	err = each(rows, func() error {
		var e entry
		err := rows.Scan(&e.seq)
		entries = append(entries, e)
		return err
	})
	return entries, err
}

// readTransfers fills in what the entries' numbers stand for.
func (s *store) readTransfers(ctx context.Context, tx *sql.Tx, entries []entry) error {
	for chunk := range slices.Chunk(entries, chunkRows) {
		index := make(map[int64]*entry, len(chunk))
		args := make([]any, len(chunk))
		for i := range chunk {
			args[i], index[chunk[i].seq] = chunk[i].seq, &chunk[i]
		}
		rows, err := tx.QueryContext(ctx, selectLegs+` WHERE t.seq IN `+s.params(1, len(chunk))+` ORDER BY t.seq, l.n`, args...)
		if err != nil {
			return err
		}
		err = eachLeg(rows, func(r legRow) error {
			e := index[r.seq]
			if e.Legs == nil {
				e.Transfer = r.transfer()
			}
			e.Legs = append(e.Legs, Leg{Account(r.account.String), nanoton.Amount(r.amount.Int64)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// selectLegs reads transfers with their legs; where the database is damaged, parts may be missing.
const selectLegs = `SELECT t.seq, t.id, t.digest, t.kind, t.at, t.ref, l.n, a.name, l.amount, l.at FROM transfers t
	LEFT JOIN legs l ON l.transfer = t.seq LEFT JOIN accounts a ON a.id = l.account`

// legRow is one row of selectLegs.
type legRow struct {
	seq, at       int64
	id, digest    []byte
	kind, ref     string
	n, amount, t2 sql.NullInt64 // t2 is the leg's copy of the time
	account       sql.NullString
}

func eachLeg(rows *sql.Rows, f func(legRow) error) error {
	return each(rows, func() error {
		var r legRow
		err := rows.Scan(&r.seq, &r.id, &r.digest, &r.kind, &r.at, &r.ref, &r.n, &r.account, &r.amount, &r.t2)
		if err != nil {
			return err
		}
		if len(r.id) != len(ID{}) || len(r.digest) != sha256.Size {
			return fmt.Errorf("%w: transfer number %d has an ID or digest of another length", ErrCorrupt, r.seq)
		}
		return f(r)
	})
}

func (r legRow) transfer() Transfer {
	return Transfer{ID: ID(r.id), Kind: r.kind, At: time.Unix(0, r.at).UTC(), Ref: r.ref}
}
