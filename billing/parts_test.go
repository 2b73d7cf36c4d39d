package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"cocoon/billing/ledger"
)

// deaf is a ledger that takes every post and does nothing with it.
type deaf struct{ *fake }

func (deaf) Post(context.Context, []ledger.Transfer) error { return nil }

// threadTime is what this thread has used of the processor.
func threadTime() time.Duration {
	const thread = 1
	var u syscall.Rusage
	_ = syscall.Getrusage(thread, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDeskParts is the Desk's own part of a request, by step, in processor time: no disk, no ledger. Rate is in
// requests a second, 0: as many as there can be; there the steps' own times are too short for the system's clock.
func BenchmarkDeskParts(b *testing.B) {
	for _, rate := range []int{0, 10_000} {
		for _, customers := range []int{1, 64, 2000} {
			b.Run(fmt.Sprintf("rate=%d/customers=%d", rate, customers), func(b *testing.B) { benchParts(b, rate, customers) })
		}
	}
}

func benchParts(b *testing.B, rate, customers int) {
	const burst, once, second = 100, 500, 10_000
	f := newFake()
	names := make([]ledger.Account, customers)
	for i := range names {
		names[i] = ledger.Account(fmt.Sprintf("customer:c%d", i))
		f.deposit(names[i], 100000*rich)
	}
	d := desk(b, Config{Ledger: deaf{f}})
	d.noDisk()
	p := newPoster(d)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	note := make([]byte, 250)
	var all []Settlement
	line := Line{Key: "0123456789ab", Item: "llama3.2:3b", Counts: [4]int64{100, 0, 50, 0}}
	step := func(n uint64, holds, settles, posts *time.Duration) {
		began := threadTime()
		for range burst {
			n++
			var id ledger.ID
			for i := 0; i < 32; i += 8 {
				binary.LittleEndian.PutUint64(id[i:], rand.Uint64())
			}
			err := d.Hold(b.Context(), Hold{Request: id, Account: names[n%uint64(customers)], Ceiling: 1000, Note: note})
			if err != nil {
				b.Fatal(err)
			}
			s := charge(id, workerA, 100, 95, 5)
			s.Line, s.Receipt = line, id
			all = append(all, s)
		}
		*holds += threadTime() - began
		if n%once == 0 {
			began = threadTime()
			for _, err := range d.SettleAll(b.Context(), all) {
				if err != nil {
					b.Fatal(err)
				}
			}
			*settles += threadTime() - began
			all = all[:0]
		}
		if n%second == 0 {
			began = threadTime()
			if err := p.post(b.Context()); err != nil {
				b.Fatal(err)
			}
			*posts += threadTime() - began
		}
	}
	var n uint64
	var holds, settles, posts time.Duration
	for n < 400_000 {
		step(n, &holds, &settles, &posts)
		n += burst
	}
	holds, settles, posts, n = 0, 0, 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	total, began := cpuTime(), time.Now()
	for n < uint64(b.N) {
		step(n, &holds, &settles, &posts)
		n += burst
		if rate > 0 {
			time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		}
	}
	total = cpuTime() - total
	b.StopTimer()
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(n) }
	b.ReportMetric(per(holds), "hold-ns")
	b.ReportMetric(per(settles), "settle-ns")
	b.ReportMetric(per(posts), "post-ns")
	b.ReportMetric(per(total), "all-ns")
}
