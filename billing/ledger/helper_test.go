package ledger

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"cocoon/billing/ledger/ledgertest"
	"cocoon/internal/nanoton"
)

// childEnv makes the test binary a process that does something to a ledger and may be killed: see child_test.go.
const childEnv = "COCOON_LEDGER_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		os.Exit(child(job))
	}
	flag.Parse()
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		_ = flag.Set("rapid.checks", "12") // each is some forty transactions
	}
	code := m.Run()
	cluster.Stop()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var cluster ledgertest.Postgres

// backends are what the contract must hold on; each gives the URL of a new empty database.
var backends = []struct {
	name string
	url  func(testing.TB) string
}{
	{"sqlite", func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "ledger.db") }},
	{"postgres", cluster.Schema},
}

// onBoth runs a test on an empty ledger of each kind.
func onBoth(t *testing.T, test func(t *testing.T, url string)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { test(t, b.url(t)) })
	}
}

// fataler is the part of a test that rapid has too.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func mustOpen(t testing.TB, url string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustPost(t fataler, l *Ledger, transfers ...Transfer) {
	t.Helper()
	if err := l.Post(context.Background(), transfers); err != nil {
		t.Fatal(err)
	}
}

// wantBalances compares the balances that are not zero.
func wantBalances(t fataler, l *Ledger, want map[Account]nanoton.Amount) {
	t.Helper()
	got, err := l.Balances(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, amount := range got {
		if amount == 0 {
			delete(got, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("balances (-want +got):\n%s", diff)
	}
}

func wantSound(t fataler, l *Ledger) Report {
	t.Helper()
	report, err := l.Audit(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !report.OK() {
		t.Fatalf("audit: %s", report.Difference)
	}
	return report
}

func idOf(s string) ID { return sha256.Sum256([]byte(s)) }

// epoch is the time of what has no other.
var epoch = time.Unix(1_700_000_000, 123_456_789)

// pay is a transfer whose ID comes from its name.
func pay(name string, from, to Account, amount nanoton.Amount) Transfer {
	return Transfer{ID: idOf(name), Kind: "test", At: epoch, Ref: name, Legs: []Leg{{from, -amount}, {to, amount}}}
}

func workerAccount(n int) Account {
	return Account("worker:" + idOf("worker"+strconv.Itoa(n)).String())
}

// sqlitePath is the file behind a URL.
func sqlitePath(url string) string { return strings.TrimPrefix(url, "sqlite:") }

// change runs a statement past all rules.
func change(t testing.TB, l *Ledger, statement string) {
	t.Helper()
	result, err := l.db.write.ExecContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 && strings.HasPrefix(statement, "UPDATE") {
		t.Fatalf("%s: changed nothing", statement)
	}
}

// wipe makes a ledger as new.
func wipe(t testing.TB, l *Ledger) {
	t.Helper()
	for _, table := range []string{"legs", "transfers", "accounts", "leases", "usage", "usage_days", "documents"} {
		change(t, l, "DELETE FROM "+table)
	}
}
