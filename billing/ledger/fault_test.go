package ledger

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"

	"cocoon/internal/nanoton"
)

var errFault = errors.New("injected fault")

// How a step towards the database goes wrong.
const (
	fails      = iota + 1 // it has no effect
	persists              // it has its effect, and an error comes back
	disconnect            // the connection breaks before it
	killAfter             // the process dies after it
)

// fault breaks one step, counted from when it is armed.
type fault struct {
	mode int
	step int // which, from 0; steps are begin, each statement and commit
	seen int
}

// around does one step, or not.
func (f *fault) around(conn *faultyConn, do func() error) error {
	mode := 0
	if f.mode != 0 && f.seen == f.step {
		mode = f.mode
	}
	f.seen++
	switch mode {
	case fails:
		return errFault
	case disconnect:
		conn.broken = true
		_ = conn.Conn.Close()
		return errFault
	}
	err := do()
	switch mode {
	case persists:
		return errors.Join(errFault, err)
	case killAfter:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

// hit says whether the armed step was reached.
func (f *fault) hit() bool { return f.seen > f.step }

// faultyConnector makes the connections of the real driver with a fault on their way.
type faultyConnector struct {
	driver.Connector
	fault *fault
}

func (c faultyConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &faultyConn{Conn: conn, fault: c.fault}, nil
}

type faultyConn struct {
	driver.Conn
	fault  *fault
	broken bool
}

func (c *faultyConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (r driver.Result, err error) {
	err = c.fault.around(c, func() (err error) {
		r, err = c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
		return err
	})
	return r, err
}

func (c *faultyConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (r driver.Rows, err error) {
	ran := false
	err = c.fault.around(c, func() (err error) {
		r, err = c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
		ran = err == nil
		return err
	})
	if err != nil {
		if ran {
			_ = r.Close()
		}
		return nil, err
	}
	return r, nil
}

func (c *faultyConn) BeginTx(ctx context.Context, options driver.TxOptions) (tx driver.Tx, err error) {
	begun := false
	err = c.fault.around(c, func() (err error) {
		tx, err = c.Conn.(driver.ConnBeginTx).BeginTx(ctx, options)
		begun = err == nil
		return err
	})
	if err != nil {
		if begun {
			_ = tx.Rollback()
		}
		return nil, err
	}
	return &faultyTx{tx, c}, nil
}

func (c *faultyConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *faultyConn) IsValid() bool { return !c.broken }

func (c *faultyConn) Close() error {
	if c.broken {
		return nil
	}
	return c.Conn.Close()
}

type faultyTx struct {
	driver.Tx
	conn *faultyConn
}

// Commit that does not take place ends the transaction, as the real drivers see to.
func (t *faultyTx) Commit() error {
	ran := false
	err := t.conn.fault.around(t.conn, func() error {
		ran = true
		return t.Tx.Commit()
	})
	if !ran {
		_ = t.Rollback()
	}
	return err
}

func (t *faultyTx) Rollback() error {
	if t.conn.broken {
		return driver.ErrBadConn
	}
	return t.Tx.Rollback()
}

// openFaulty opens a ledger through a fault, which is not armed yet.
func openFaulty(ctx context.Context, url string) (*Ledger, *fault, error) {
	f := new(fault)
	db, err := openStore(ctx, url)
	if err != nil {
		return nil, nil, err
	}
	var connector driver.Connector
	if db.postgres {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			return nil, nil, err
		}
		connector = stdlib.GetConnector(*config)
	} else if connector, err = sqlite.NewConnector(writerDSN(sqlitePath(url)) + "&_pragma=synchronous(OFF)"); err != nil {
		return nil, nil, err
	}
	if err := db.write.Close(); err != nil {
		return nil, nil, err
	}
	faulty := sql.OpenDB(faultyConnector{connector, f})
	faulty.SetMaxOpenConns(1)
	if db.postgres {
		db.read = faulty
	}
	db.write = faulty
	l, err := newLedger(ctx, db)
	return l, f, err
}

// writeOps are all that write, on a ledger where setUp was done; done is what each leaves, however often it is called.
var writeOps = []struct {
	name string
	do   func(ctx context.Context, l *Ledger) error
	done map[Account]nanoton.Amount
}{
	{"post", func(ctx context.Context, l *Ledger) error {
		counted := pay("new", "customer:ann", "network", 5)
		counted.Usage = []UsageLine{{Day: "2026-11-26", Customer: "customer:ann", Key: "k", Requests: 1, Cost: 5}}
		return l.Post(ctx, []Transfer{
			counted, pay("in", "chain", "customer:ann", 100), pay("old", "customer:ann", workerAccount(1), 5),
		})
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 60, "network": 5, workerAccount(1): 5, "allotment:g:ann": 30}},
	{"put", func(ctx context.Context, l *Ledger) error {
		d := Document{Kind: "key", ID: "a", Body: []byte("body")}
		_, err := l.PutDocument(ctx, d)
		if errors.Is(err, ErrChanged) { // by the first attempt
			_, err = l.Document(ctx, d.Kind, d.ID)
		}
		return err
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 70, "allotment:g:ann": 30}},
	{"commit", func(ctx context.Context, l *Ledger) error {
		documents := []Document{{Kind: "key", ID: "a", Body: []byte("body")}, {Kind: "key", ID: "b", Body: []byte("body")}}
		_, err := l.Commit(ctx, []Transfer{pay("both", "chain", "customer:ann", 7)}, documents)
		if errors.Is(err, ErrChanged) { // by the first attempt
			_, err = l.Document(ctx, "key", "b")
		}
		return err
	}, map[Account]nanoton.Amount{"chain": -107, "customer:ann": 77, "allotment:g:ann": 30}},
	{"allot", func(ctx context.Context, l *Ledger) error {
		has, err := l.Allot(ctx, Allotment{ID: idOf("b"), Gateway: "g", Customer: "customer:ann", Want: 20, Until: epoch})
		if err == nil && has != 50 {
			err = fmt.Errorf("allotted %d, want 50", has)
		}
		return err
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 50, "allotment:g:ann": 50}},
	{"release", func(ctx context.Context, l *Ledger) error {
		return l.Release(ctx, "g", "customer:ann")
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 100}},
	{"heartbeat", func(ctx context.Context, l *Ledger) error {
		return l.Heartbeat(ctx, "g", epoch)
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 70, "allotment:g:ann": 30}},
	{"reclaim", func(ctx context.Context, l *Ledger) error {
		_, err := l.Reclaim(ctx, epoch.Add(time.Hour))
		if err == nil {
			_, err = l.Reclaim(ctx, epoch.Add(2*time.Hour))
		}
		return err
	}, map[Account]nanoton.Amount{"chain": -100, "customer:ann": 100}},
}

// setUp posts what writeOps start from.
func setUp(t fataler, l *Ledger) {
	t.Helper()
	mustPost(t, l, pay("in", "chain", "customer:ann", 100))
	_, err := l.Allot(context.Background(), Allotment{ID: idOf("a"), Gateway: "g", Customer: "customer:ann", Want: 30, Until: epoch})
	if err != nil {
		t.Fatal(err)
	}
}

// Every step of every write fails in every way: an error comes out, nothing is half done, and doing it again does it
// once.
func TestFaults(t *testing.T) {
	ways := map[string]int{"fails": fails, "fails but persisted": persists, "disconnects": disconnect}
	for _, backend := range backends {
		t.Run(backend.name, func(t *testing.T) {
			l, f, err := openFaulty(t.Context(), backend.url(t))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for _, op := range writeOps {
				if l.db.postgres && (op.name == "release" || op.name == "heartbeat" || op.name == "put") {
					continue // a reclaim and a commit have all their steps
				}
				for way, mode := range ways {
					if l.db.postgres && mode == fails {
						continue // it is as to disconnect, there
					}
					for step := 0; ; step++ {
						wipe(t, l)
						setUp(t, l)
						*f = fault{mode: mode, step: step}
						err := op.do(t.Context(), l)
						met := f.hit()
						f.mode = 0
						name := fmt.Sprintf("%s, step %d %s", op.name, step, way)
						if met != (err != nil) || err != nil && !errors.Is(err, errFault) {
							t.Fatalf("%s: met %v, error %v", name, met, err)
						}
						doAgain(t, l, name, op.do, op.done)
						if !met && step < 3 { // begin, a statement, commit
							t.Errorf("%s: that is all", name)
						}
						if !met {
							break
						}
					}
				}
			}
		})
	}
}

// doAgain does an op again that failed, and sees that it was done not at all or wholly before, and once after.
func doAgain(t *testing.T, l *Ledger, name string, do func(context.Context, *Ledger) error, done map[Account]nanoton.Amount) {
	t.Helper()
	wantSound(t, l)
	before := map[Account]nanoton.Amount{"chain": -100, "customer:ann": 70, "allotment:g:ann": 30} // by setUp
	after, err := l.Balances(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(after, func(_ Account, amount nanoton.Amount) bool { return amount == 0 })
	if !maps.Equal(after, before) && !maps.Equal(after, done) {
		t.Fatalf("%s: half done: %v", name, after)
	}
	wantTogether(t, l, name)
	if err := do(t.Context(), l); err != nil {
		t.Fatalf("%s, again: %v", name, err)
	}
	wantBalances(t, l, done)
	wantSound(t, l)
	wantTogether(t, l, name)
}

// wantTogether sees that what is counted is counted with its transfer, once or not at all, and that documents are as
// the transfer that they were committed with.
func wantTogether(t *testing.T, l *Ledger, name string) {
	t.Helper()
	has, err := l.Has(t.Context(), idOf("new"), idOf("both"))
	if err != nil {
		t.Fatal(err)
	}
	all := documents(t, l, 0)
	if has[1] != (len(all) == 2) {
		t.Fatalf("%s: the transfer is posted: %v; documents %v", name, has[1], all)
	}
	if used := usage(t, l, UsageQuery{}); has[0] != (len(used) == 1) || len(used) > 0 && used[0].Requests != 1 {
		t.Fatalf("%s: usage is %v", name, used)
	}
	for _, d := range all {
		if string(d.Body) != "body" {
			t.Fatalf("%s: document %v", name, d)
		}
	}
}

// A log of SQLite's that is cut or garbled at its end holds the transfers up to there, whole.
func TestTornWAL(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, "sqlite:"+dir+"/ledger.db")
	const n = 12
	var ends []int64 // of the log after each transfer
	for i := range n {
		mustPost(t, l, pay(fmt.Sprint(i), "chain", "customer:ann", 1), pay(fmt.Sprint(i, "b"), "customer:ann", "fees", 1))
		info, err := os.Stat(dir + "/ledger.db-wal")
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, info.Size())
	}
	db, err := os.ReadFile(dir + "/ledger.db")
	if err != nil {
		t.Fatal(err)
	}
	wal, err := os.ReadFile(dir + "/ledger.db-wal")
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range ends[n-3:] {
		for _, cut := range []int64{-4097, -1000, -1, 0, 1, 24} {
			for _, garble := range []bool{false, true} {
				at := min(end+cut, int64(len(wal)))
				torn := slices.Clone(wal[:at])
				if garble {
					torn = append(torn, make([]byte, int64(len(wal))-at)...)
				}
				copied := t.TempDir()
				if err := errors.Join(os.WriteFile(copied+"/ledger.db", db, 0o600), os.WriteFile(copied+"/ledger.db-wal", torn, 0o600)); err != nil {
					t.Fatal(err)
				}
				whole := 0
				for _, e := range ends {
					if e <= at {
						whole++
					}
				}
				again := mustOpen(t, "sqlite:"+copied+"/ledger.db")
				wantSound(t, again)
				wantBalances(t, again, map[Account]nanoton.Amount{"chain": nanoton.Amount(-whole), "fees": nanoton.Amount(whole)})
				again.Close()
			}
		}
	}
}
