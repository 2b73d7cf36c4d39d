package tally

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"cocoon/internal/receipt"
)

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			l := open(b, config(b))
			list := make([]*receipt.Signed, b.N)
			for i := range list {
				list[i] = signed(i)
			}
			var mu sync.Mutex
			next := 0
			b.SetParallelism(writers)
			b.ReportAllocs()
			b.ResetTimer()
			add := func() {
				mu.Lock()
				r := list[next]
				next++
				mu.Unlock()
				if _, err := l.Append(r); err != nil {
					b.Error(err)
				}
			}
			if writers == 1 {
				for range b.N {
					add()
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					add()
				}
			})
		})
	}
}

// BenchmarkBatch appends receipts as the clerk does; its CPU is that of the whole process, the kernel's part too.
func BenchmarkBatch(b *testing.B) {
	const size = 250
	l := open(b, config(b))
	list := make([]*receipt.Signed, b.N*size)
	for i := range list {
		list[i] = signed(i)
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu()
	for i := range b.N {
		if _, err := l.Append(list[i*size : (i+1)*size]...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu()-before)/1000/float64(b.N*size), "cpu-us/receipt")
}

// cpu is what the process used of it, nanoseconds.
func cpu() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

func BenchmarkProve(b *testing.B) {
	l := open(b, config(b))
	fill(b, l, 0, 10_000)
	id := signed(5000).ID()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Prove(id); err != nil {
			b.Fatal(err)
		}
	}
}
