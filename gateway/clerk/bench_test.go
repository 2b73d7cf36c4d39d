package clerk

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// BenchmarkRequest is all of metering a request: holding, the receipt, its signature with others', the log of receipts,
// settling, and posting to the ledger, on a real disk: CPU of the whole process, the kernel's part too, at so many
// requests a second. The worker's countersignature is in it.
func BenchmarkRequest(b *testing.B) {
	for _, rate := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(rate), func(b *testing.B) { benchmarkRequest(b, rate) })
	}
}

func benchmarkRequest(b *testing.B, rate int) {
	w := newWorker(b, 1)
	o := newOffice(b, 1<<50)
	w.meet(o.clerk)
	ctx := b.Context()
	defer o.clerk.Attach(w.id, Link{
		Exchange: func(context.Context, []byte) ([]byte, error) { return nil, nil },
		Countersign: func(_ context.Context, ask []byte) ([]byte, error) {
			var ids []receipt.Digest
			for part := range slices.Chunk(ask[len(w.keyset):], len(w.keyset)) {
				ids = append(ids, receipt.Digest(part))
			}
			signature, err := receipt.SignIDs(ids, w.key)
			return signature[:], err
		},
	})()
	const pace = 10 * time.Millisecond
	burst := rate / 100
	runtime.LockOSThread() // so that the worker's part can be left out
	defer runtime.UnlockOSThread()
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(syscall.RUSAGE_SELF)
	var workers int64
	for n := 0; n < b.N; n += burst {
		began := cpu(syscall.RUSAGE_THREAD)
		terms, wires := signBurst(b, w, n, min(burst, b.N-n))
		workers += cpu(syscall.RUSAGE_THREAD) - began
		for i, t := range terms {
			bill, err := o.clerk.Hold(ctx, t, 5200)
			if err == nil {
				err = bill.Take(wires[i])
			}
			if err != nil {
				b.Fatal(err)
			}
			bill.Close(Done)
		}
		time.Sleep(pace)
	}
	for int(o.clerk.Stats().Settled) != b.N || o.desk.Stats().Unposted != 0 {
		time.Sleep(pace)
	}
	b.ReportMetric(float64(cpu(syscall.RUSAGE_SELF)-before-workers)/1000/float64(b.N), "cpu-us/req")
	if s := o.clerk.Stats(); o.log.Size() != int64(b.N) {
		b.Errorf("%+v", s)
	}
	o.close()
}

// signBurst makes the terms of requests from n on, and their receipts, each with its own signature.
func signBurst(b *testing.B, w *fakeWorker, n, requests int) (terms []*Terms, wires [][]byte) {
	for i := range requests {
		t := w.terms(n + i)
		t.User = ""
		r := w.job(t).next
		r.Kind, r.Tokens, r.Cost = receipt.Final, offer.Usage{In: 10, Out: 7}, 31
		signed, err := receipt.Sign(r, w.key)
		if err != nil {
			b.Fatal(err)
		}
		terms, wires = append(terms, t), append(wires, signed.Wire())
	}
	return terms, wires
}

// cpu is what the process, or this thread, used of it, nanoseconds.
func cpu(who int) int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
