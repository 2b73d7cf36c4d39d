package tally

import (
	"fmt"
	"runtime"
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

// batches is receipts as the gateway's clerk has them: 1024 share a signature, so that each has a path of ten hashes.
func batches(b *testing.B, from, n int) []*receipt.Signed {
	var list []*receipt.Signed
	var rs []receipt.Receipt
	for i := range n {
		r := signed(0).Receipt
		r.Request, r.Tokens.Out = fmt.Sprintf("req_%032x", from+i), int64(from+i)
		if rs = append(rs, r); len(rs) < 1024 && i < n-1 {
			continue
		}
		more, err := receipt.SignBatch(rs, key(9))
		if err != nil {
			b.Fatal(err)
		}
		list, rs = append(list, more...), rs[:0]
	}
	return list
}

// BenchmarkBatch appends receipts as the clerk does, to a log that has some; its CPU is that of the whole process, the
// kernel's part too, while it does so.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{16, 256, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := open(b, config(b))
			b.ReportAllocs()
			var user, system int64
			var list []*receipt.Signed
			for i := range b.N {
				if b.StopTimer(); len(list) == 0 {
					list = batches(b, i*size, max(size, 1024))
					runtime.GC() // not while Append is at work
				}
				b.StartTimer()
				u, s := cpu()
				if _, err := l.Append(list[:size]...); err != nil {
					b.Fatal(err)
				}
				u2, s2 := cpu()
				user, system = user+u2-u, system+s2-s
				list = list[size:]
			}
			b.StopTimer()
			n := float64(b.N * size)
			b.ReportMetric(float64(user)/1000/n, "user-us/receipt")
			b.ReportMetric(float64(system)/1000/n, "system-us/receipt")
			b.ReportMetric(float64(user+system)/1000/n, "cpu-us/receipt")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/receipt")
		})
	}
}

// cpu is what the process used of it, nanoseconds.
func cpu() (user, system int64) {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano(), u.Stime.Nano()
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
