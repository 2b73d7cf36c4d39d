package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

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
	cluster.stop()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// postgres is a server for the tests of one run: a given one, or one of our own that is started when first needed.
type postgres struct {
	ready  bool
	url    string
	reason string // why there is none
	dir    string // of our own
	bin    string
	serial atomic.Int64
}

var cluster postgres

// start gives the URL of the server, or skips.
func (p *postgres) start(t testing.TB) string {
	t.Helper()
	if !p.ready {
		p.ready = true
		if p.url = os.Getenv("COCOON_TEST_POSTGRES"); p.url == "" {
			if err := p.create(); err != nil {
				p.reason = err.Error()
			}
		}
	}
	if p.reason != "" {
		t.Skip("no PostgreSQL: " + p.reason)
	}
	return p.url
}

func (p *postgres) create() error {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return errors.New("initdb is not on this machine and COCOON_TEST_POSTGRES names no server")
	}
	initdb, err := filepath.EvalSymlinks(found[0])
	if err != nil {
		return err
	}
	p.bin = filepath.Dir(initdb)
	if p.dir, err = os.MkdirTemp("", "ledger-pg-"); err != nil {
		return err
	}
	if os.Getuid() == 0 {
		if err := os.Chown(p.dir, nobody, nobody); err != nil {
			return err
		}
	}
	if err := p.run("initdb", "-D", p.dir+"/data", "-U", "cocoon", "--auth=trust", "-E", "UTF8"); err != nil {
		return err
	}
	p.url = "postgres://cocoon@/postgres?host=" + url.QueryEscape(p.dir)
	return p.ctl("start")
}

// nobody is the user and group that the server runs as when the tests run as root, which it refuses.
const nobody = 65534

func (p *postgres) ctl(args ...string) error {
	settings := "-k " + p.dir + " -c listen_addresses= -c max_connections=200"
	if flag.Lookup("test.bench").Value.String() == "" {
		settings += " -c fsync=off" // the tests kill processes, not the machine
	}
	return p.run("pg_ctl", append(args, "-w", "-D", p.dir+"/data", "-l", p.dir+"/log", "-o", settings)...)
}

func (p *postgres) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	// The server inherits a file, not a pipe that would keep Run waiting for it.
	out, err := os.Create(filepath.Join(p.dir, name+".out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", name, err, said)
	}
	return nil
}

func (p *postgres) stop() {
	if p.dir != "" {
		_ = p.ctl("stop", "-m", "immediate")
		_ = os.RemoveAll(p.dir)
	}
}

// backends are what the contract must hold on; each gives the URL of a new empty database.
var backends = []struct {
	name string
	url  func(testing.TB) string
}{
	{"sqlite", func(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "ledger.db") }},
	{"postgres", func(t testing.TB) string {
		server := cluster.start(t)
		db, err := openPostgres(t.Context(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer db.close()
		schema := fmt.Sprintf("t%d_%d", os.Getpid(), cluster.serial.Add(1))
		if _, err := db.write.ExecContext(t.Context(), "CREATE SCHEMA "+schema); err != nil {
			t.Fatal(err)
		}
		return server + "&search_path=" + schema
	}},
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
	for _, table := range []string{"legs", "transfers", "accounts", "leases"} {
		change(t, l, "DELETE FROM "+table)
	}
}
