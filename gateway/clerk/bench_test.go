package clerk

import (
	"context"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/tally"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// stubDesk takes everything and costs nothing.
type stubDesk struct{}

func (stubDesk) Hold(context.Context, billing.Hold) error { return nil }
func (stubDesk) Void(context.Context, ledger.ID) error    { return nil }
func (stubDesk) Lookup(ledger.ID) (billing.Hold, bool)    { return billing.Hold{}, false }
func (stubDesk) Recovered() []billing.Recovered           { return nil }
func (stubDesk) SettleAll(_ context.Context, s []billing.Settlement) (errs []error) {
	return make([]error, len(s))
}

// BenchmarkRequest is all of the clerk's work for a request, the log of receipts with it, the Desk's not: CPU of the
// whole process, the kernel's part too, at some 2,000 requests a second.
func BenchmarkRequest(b *testing.B) {
	w := newWorker(b, 1)
	log, err := tally.Open(tally.Config{Dir: b.TempDir(), Origin: "test/receipts", Key: key(99)})
	if err != nil {
		b.Fatal(err)
	}
	c, err := Open(Config{Desk: stubDesk{}, Log: log, Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	w.meet(c)
	const batch, pace = 20, 10 * time.Millisecond
	terms, wires := make([]*Terms, b.N), make([][]byte, 0, b.N+batch)
	for i := 0; i < b.N; i += batch {
		var rs []receipt.Receipt
		for n := i; n < min(i+batch, b.N); n++ {
			terms[n] = w.terms(n)
			r := w.job(terms[n]).next
			r.Kind, r.Tokens, r.Cost = receipt.Final, offer.Usage{In: 10, Out: 7}, 31
			rs = append(rs, r)
		}
		made, err := receipt.SignBatch(rs, w.key)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range made {
			wires = append(wires, r.Wire())
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	for n := range b.N {
		bill, err := c.Hold(ctx, terms[n], 5200)
		if err == nil {
			err = bill.Take(wires[n])
		}
		if err != nil {
			b.Fatal(err)
		}
		bill.Close(Done)
		if n%batch == batch-1 {
			time.Sleep(pace)
		}
	}
	stop()
	wg.Wait()
	b.ReportMetric(float64(cpu()-before)/1000/float64(b.N), "cpu-us/req")
	if s := c.Stats(); int(s.Settled) != b.N || log.Size() != int64(b.N) {
		b.Errorf("%+v", s)
	}
	_ = log.Close()
}

// cpu is what the process used of it, nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
