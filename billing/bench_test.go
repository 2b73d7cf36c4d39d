package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// sqlite opens a real ledger with rich customers.
func sqlite(tb testing.TB, customers int) *ledger.Ledger {
	tb.Helper()
	l, err := ledger.Open(context.Background(), "sqlite:"+filepath.Join(tb.TempDir(), "ledger.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	var deposits []ledger.Transfer
	for i := range customers {
		a := ledger.Account(fmt.Sprintf("customer:c%d", i))
		legs := []ledger.Leg{{Account: "test", Amount: -1000 * rich}, {Account: a, Amount: 1000 * rich}}
		deposits = append(deposits, ledger.Transfer{ID: testID(), Kind: "deposit", At: time.Now(), Legs: legs})
	}
	if err := l.Post(context.Background(), deposits); err != nil {
		tb.Fatal(err)
	}
	return l
}

const benchCustomers = 256

// BenchmarkDesk holds and settles through the whole Desk on SQLite, every fsync on. "posted" counts the time until the
// ledger has all of it, "answered" until the last caller has its answer and the poster runs beside.
func BenchmarkDesk(b *testing.B) {
	for _, callers := range []int{1, 128, 2048} {
		for _, until := range []string{"answered", "posted"} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, until), func(b *testing.B) {
				benchDesk(b, callers, until == "posted")
			})
		}
	}
}

func benchDesk(b *testing.B, callers int, posted bool) {
	l := sqlite(b, benchCustomers)
	d, err := Open(b.Context(), Config{Ledger: l, Dir: b.TempDir(), Backlog: 10_000_000})
	if err != nil {
		b.Fatal(err)
	}
	stop := run(b, d)
	names := make([]ledger.Account, benchCustomers)
	for i := range names {
		names[i] = ledger.Account(fmt.Sprintf("customer:c%d", i))
	}
	var next atomic.Uint64
	b.ReportAllocs()
	b.SetParallelism(max(1, callers/2))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		ctx := context.Background()
		for p.Next() {
			n := next.Add(1)
			var id ledger.ID
			binary.LittleEndian.PutUint64(id[:], n*0x9E3779B97F4A7C15)
			if err := d.Hold(ctx, Hold{Request: id, Account: names[n%benchCustomers], Ceiling: 1000}); err != nil {
				b.Error(err)
				return
			}
			share := nanoton.Amount(95 + n%7)
			if err := d.Settle(ctx, Settlement{id, workerA, share + 5, share, 5}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	for posted && d.unposted.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	stop()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDeskMemory is the Desk's own part of a request: no disk, no ledger.
func BenchmarkDeskMemory(b *testing.B) {
	f := newFake()
	for i := range benchCustomers {
		f.deposit(ledger.Account(fmt.Sprintf("customer:c%d", i)), 1000*rich)
	}
	d := desk(b, Config{Ledger: f})
	d.write = func(context.Context, []byte) error { return nil }
	var next atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		name := ledger.Account(fmt.Sprintf("customer:c%d", next.Add(1)%benchCustomers))
		for p.Next() {
			n := next.Add(1)
			var id ledger.ID
			binary.LittleEndian.PutUint64(id[:], n*0x9E3779B97F4A7C15)
			if err := d.Hold(context.Background(), Hold{Request: id, Account: name, Ceiling: 1000}); err != nil {
				b.Error(err)
				return
			}
			if err := d.Settle(context.Background(), Settlement{Request: id, Worker: workerA}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
