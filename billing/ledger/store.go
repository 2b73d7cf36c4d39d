package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

const (
	// chunkRows is how many rows one statement writes or looks up: few round trips, far below the limits on parameters
	// (32,766 on SQLite).
	chunkRows = 200
	// pageRows is how many transfers Each holds in memory.
	pageRows = 500
	// readConns is how many reads of a SQLite file run at once; they don't wait for the writer.
	readConns = 4
	// postgresConns bounds connections of one process to PostgreSQL, whose default is 100 for all.
	postgresConns = 8
	// busyTimeout is how long SQLite waits for another process that writes; a batch takes well under a second.
	busyTimeout = 10 * time.Second
	// cacheKiB is the memory of the connection that writes to SQLite: a large batch touches that many pages.
	cacheKiB = 32 << 10
	// attemptsMax bounds how often a transaction is tried that lost against another one.
	attemptsMax = 10
	// backoffMax bounds the wait between them.
	backoffMax = 200 * time.Millisecond
)

//go:embed migrations
var migrations embed.FS

// errRaced marks a transaction that met the unfinished work of another one and must start again.
var errRaced = errors.New("another writer was faster")

// store is the database: SQLite with one connection that writes and some that read, or PostgreSQL with one pool.
type store struct {
	write, read *sql.DB
	postgres    bool
}

// openStore prepares connections to what a URL names; the path of a new SQLite file is made.
func openStore(ctx context.Context, location string) (*store, error) {
	if path, ok := strings.CutPrefix(location, "sqlite:"); ok {
		return openSQLite(path)
	}
	if strings.HasPrefix(location, "postgres://") || strings.HasPrefix(location, "postgresql://") {
		return openPostgres(ctx, location)
	}
	return nil, fmt.Errorf("URL %w: want sqlite:/path/ledger.db or postgres://host/database", ErrInvalid)
}

func openSQLite(path string) (*store, error) {
	if path == "" || strings.HasPrefix(path, ":") {
		return nil, fmt.Errorf("URL %w: sqlite: wants the path of a file", ErrInvalid)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := touch(path); err != nil {
		return nil, err
	}
	writer, err := sqlite.NewConnector(writerDSN(path))
	if err != nil {
		return nil, err
	}
	reader, err := sqlite.NewConnector(sqliteDSN(path, "query_only(1)"))
	if err != nil {
		return nil, err
	}
	write, read := sql.OpenDB(writer), sql.OpenDB(reader)
	write.SetMaxOpenConns(1)
	read.SetMaxOpenConns(readConns)
	read.SetMaxIdleConns(readConns)
	return &store{write: write, read: read}, nil
}

// writerDSN names a file for the connection that writes: what it has committed is on disk.
func writerDSN(path string) string {
	return sqliteDSN(path, "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		fmt.Sprintf("cache_size(-%d)", cacheKiB), "temp_store(MEMORY)") // what a statement may have to undo goes there
}

// sqliteDSN names a file and the settings of each connection to it. Transactions that write take the lock at once.
func sqliteDSN(path string, pragmas ...string) string {
	query := url.Values{"_txlock": {"immediate"}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}
	query["_pragma"] = append(query["_pragma"], pragmas...)
	return (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
}

// touch makes the file, readable by the owner alone, and its name durable. SQLite gives its other files the same mode.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func openPostgres(ctx context.Context, location string) (*store, error) {
	config, err := pgx.ParseConfig(location)
	if err != nil {
		// Not wrapped: what pgx says may quote a part of the password.
		return nil, fmt.Errorf("PostgreSQL URL %w", ErrInvalid)
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(postgresConns)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to PostgreSQL: %w", err), db.Close())
	}
	return &store{write: db, read: db, postgres: true}, nil
}

func (s *store) close() error {
	if s.read == s.write {
		return s.write.Close()
	}
	return errors.Join(s.read.Close(), s.write.Close())
}

// update runs f in a transaction that writes, again if it lost against another one. f must not have other effects. On
// PostgreSQL, whoever waited for a lock sees what its last holder committed.
func (s *store) update(ctx context.Context, f func(*sql.Tx) error) error {
	var err error
	for attempt := range attemptsMax {
		err = once(ctx, s.write, &sql.TxOptions{Isolation: sql.LevelReadCommitted}, f)
		if !lost(err) {
			return classify(err)
		}
		wait := min(backoffMax, time.Millisecond<<attempt)
		select {
		case <-time.After(rand.N(wait) + wait/2):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("other writers were faster %d times: %w", attemptsMax, err)
}

// view runs f on a snapshot.
func (s *store) view(ctx context.Context, f func(*sql.Tx) error) error {
	return classify(once(ctx, s.read, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, f))
}

func once(ctx context.Context, db *sql.DB, options *sql.TxOptions, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, options)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // the connection goes if this fails, and the transaction with it
		return err
	}
	return tx.Commit()
}

// lost says whether a transaction had no effect and may do better when tried again.
func lost(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		// serialization_failure, deadlock_detected; and what two first openers of one database can meet:
		// unique_violation, duplicate_table, duplicate_object.
		switch pg.Code {
		case "40001", "40P01", "23505", "42P07", "42710":
			return true
		}
	}
	return errors.Is(err, errRaced)
}

// classify adds ErrCorrupt to what SQLite says of a damaged file.
func classify(err error) error {
	if lite, ok := errors.AsType[*sqlite.Error](err); ok {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return err
}

// forUpdate is what a SELECT ends with that locks the rows it finds.
func (s *store) forUpdate() string {
	if s.postgres {
		return " FOR UPDATE"
	}
	return ""
}

// migrate brings the schema to this program's version, one file and one transaction for each step.
func (s *store) migrate(ctx context.Context) error {
	folder := "migrations/sqlite"
	if s.postgres {
		folder = "migrations/postgres"
	}
	files, err := fs.ReadDir(migrations, folder)
	if err != nil {
		return err
	}
	// A refused database stays as it is, so look before making the table.
	var version int
	err = s.write.QueryRowContext(ctx, `SELECT version FROM ledger_schema`).Scan(&version)
	if err == nil && version == len(files) {
		return nil
	}
	if err != nil {
		if err := s.update(ctx, makeVersion(ctx)); err != nil {
			return err
		}
	}
	for { // each turn goes up by one or ends
		done := false
		err := s.update(ctx, func(tx *sql.Tx) error {
			if err := tx.QueryRowContext(ctx, `SELECT version FROM ledger_schema`+s.forUpdate()).Scan(&version); err != nil {
				return err
			}
			if version > len(files) {
				return fmt.Errorf("%w: its schema is %d, this program knows up to %d", ErrNewer, version, len(files))
			}
			if done = version == len(files); done {
				return nil
			}
			step, err := fs.ReadFile(migrations, folder+"/"+files[version].Name())
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, string(step)); err != nil {
				return fmt.Errorf("migration %s: %w", files[version].Name(), err)
			}
			_, err = tx.ExecContext(ctx, `UPDATE ledger_schema SET version = $1`, version+1)
			return err
		})
		if done || err != nil {
			return err
		}
	}
}

// makeVersion makes the table that holds the version of the schema, in its one row.
func makeVersion(ctx context.Context) func(*sql.Tx) error {
	return func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS ledger_schema (one INTEGER PRIMARY KEY CHECK (one = 1),
			version INTEGER NOT NULL)`)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO ledger_schema VALUES (1, 0) ON CONFLICT DO NOTHING`)
		return err
	}
}

// params gives "($1, $2), ($3, $4)" for two rows of two columns. SQLite gets question marks: it looks names up in a
// list, which for hundreds of them takes most of a statement's time.
func (s *store) params(rows, columns int) string {
	b := make([]byte, 0, rows*columns*6)
	for i := range rows * columns {
		switch {
		case i == 0:
			b = append(b, '(')
		case i%columns == 0:
			b = append(b, "), ("...)
		default:
			b = append(b, ", "...)
		}
		if s.postgres {
			b = strconv.AppendInt(append(b, '$'), int64(i+1), 10)
		} else {
			b = append(b, '?')
		}
	}
	return string(append(b, ')'))
}

// each calls f for every row and closes them.
func each(rows *sql.Rows, f func() error) error {
	defer rows.Close()
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}
