package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
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
			if err := d.Settle(ctx, charge(id, workerA, share+5, share, 5)); err != nil {
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

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDeskCPU is what the gateway does with the Desk, at full load and at rates below it: many callers hold one by
// one, one goroutine settles in batches of about 20, the poster posts to SQLite, until all of it is posted. It reports
// the processor time of all of that for one request.
func BenchmarkDeskCPU(b *testing.B) {
	for _, rate := range []int{0, 1000, 5000} { // requests a second; 0: as many as there can be
		for _, customers := range []int{1, benchCustomers} {
			name := fmt.Sprintf("rate=%d/customers=%d", rate, customers)
			b.Run(name, func(b *testing.B) { benchCPU(b, rate, customers) })
		}
	}
}

func benchCPU(b *testing.B, rate, customers int) {
	l := sqlite(b, customers)
	d, err := Open(b.Context(), Config{Ledger: l, Dir: b.TempDir(), Backlog: 10_000_000})
	if err != nil {
		b.Fatal(err)
	}
	stop := run(b, d)
	names := make([]ledger.Account, customers)
	for i := range names {
		names[i] = ledger.Account(fmt.Sprintf("customer:c%d", i))
	}
	note := make([]byte, 250)
	work, done := make(chan uint64, 256), make(chan Settlement, 4096)
	var holders, settler sync.WaitGroup
	for range 1024 {
		holders.Go(func() {
			for n := range work {
				var id ledger.ID
				binary.LittleEndian.PutUint64(id[:], n*0x9E3779B97F4A7C15)
				h := Hold{Request: id, Account: names[n%uint64(customers)], Ceiling: 1000, Note: note}
				if err := d.Hold(b.Context(), h); err != nil {
					b.Error(err)
				}
				s := charge(id, workerA, 100, 95, 5)
				s.Line = Line{Key: "0123456789ab", Item: "llama3.2:3b", Counts: [4]int64{100, 0, 50, 0}}
				done <- s
			}
		})
	}
	settler.Go(func() { settleBatches(b, d, done) })
	b.ReportAllocs()
	b.ResetTimer()
	before, began, n := cpuTime(), time.Now(), uint64(0)
	for b.Loop() {
		n++
		work <- n
		if rate > 0 && n%64 == 0 {
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		}
	}
	close(work)
	holders.Wait()
	close(done)
	settler.Wait()
	for d.unposted.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(n), "cpu-µs/req")
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "requests/s")
	stop()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}

// settleBatches settles what comes: 20 at once, or what comes in 20 ms.
func settleBatches(b *testing.B, d *Desk, done <-chan Settlement) {
	var settlers sync.WaitGroup
	defer settlers.Wait()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var batch []Settlement
	for open := true; open; {
		var s Settlement
		late := false
		select {
		case s, open = <-done:
			if open {
				batch = append(batch, s)
			}
		case <-ticker.C:
			late = true
		}
		if all := batch; len(all) == 20 || len(all) > 0 && (late || !open) {
			batch = make([]Settlement, 0, 20)
			settlers.Go(func() {
				for _, err := range d.SettleAll(context.Background(), all) {
					if err != nil {
						b.Error(err)
					}
				}
			})
		}
	}
}
