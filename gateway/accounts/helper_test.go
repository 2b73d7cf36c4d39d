package accounts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that the test sets.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// shelf is a ledger in a file, which several books have open.
type shelf struct {
	t    testing.TB
	url  string
	logs strings.Builder
	c    *clock
}

func newShelf(t testing.TB) *shelf {
	return &shelf{t: t, url: "sqlite:" + filepath.Join(t.TempDir(), "ledger.db"), c: newClock()}
}

func (s *shelf) ledger() *ledger.Ledger {
	s.t.Helper()
	l, err := ledger.Open(context.Background(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := l.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return l
}

func (s *shelf) config(store Store) Config {
	return Config{Store: store, Now: s.c.now, Log: slog.New(slog.NewTextHandler(&s.logs, nil))}
}

func (s *shelf) book() *Book {
	s.t.Helper()
	return s.open(s.config(s.ledger()))
}

func (s *shelf) open(c Config) *Book {
	s.t.Helper()
	b, err := Open(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// key makes a key of the default account.
func (s *shelf) key(b *Book, set Settings) *Key {
	s.t.Helper()
	if set.Name == "" {
		set.Name = "test"
	}
	_, k, err := b.CreateKey(s.t.Context(), DefaultAccount, set)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// spend posts what a key has spent at some gateway, on a day.
func spend(t testing.TB, l *ledger.Ledger, line ledger.UsageLine) {
	t.Helper()
	if line.Requests == 0 {
		line.Requests = 1
	}
	id := sha256.Sum256(fmt.Append(nil, time.Now().UnixNano(), line))
	err := l.Post(context.Background(), []ledger.Transfer{{
		ID: id, Kind: "test", At: time.Now(), Ref: "x", Usage: []ledger.UsageLine{line},
		Legs: []ledger.Leg{{Account: "test", Amount: -line.Cost}, {Account: "fees", Amount: line.Cost}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// broken is a ledger that does not answer as long as it is out.
type broken struct {
	*ledger.Ledger
	out   bool
	asked int
}

var errOut = errors.New("out of order")

func (b *broken) Usage(ctx context.Context, q ledger.UsageQuery, f func(ledger.UsageLine) error) error {
	b.asked++
	if b.out {
		return errOut
	}
	return b.Ledger.Usage(ctx, q, f)
}

func (b *broken) DocumentsOf(ctx context.Context, kind string, after int64, f func(ledger.Document) error) error {
	if b.out {
		return errOut
	}
	return b.Ledger.DocumentsOf(ctx, kind, after, f)
}

const ton = nanoton.PerTON
