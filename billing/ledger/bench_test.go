package ledger

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"
)

// settlements makes transfers as the Desk does: one customer of many, one worker of some, the fee.
func settlements(serial *uint64, n int) []Transfer {
	batch := make([]Transfer, n)
	for i := range batch {
		*serial++
		var id ID
		binary.BigEndian.PutUint64(id[:], *serial*0x9E3779B97F4A7C15) // spread, as hashes are
		batch[i] = Transfer{
			ID: id, Kind: "settle", At: epoch.Add(time.Duration(*serial) * time.Millisecond), Ref: id.String(),
			Legs: []Leg{
				{Account(fmt.Sprintf("customer:c%d", *serial%500)), -100}, {workerAccount(int(*serial % 20)), 90}, {"fees", 10},
			},
		}
	}
	return batch
}

func benchmarkLedger(b *testing.B, url string) (*Ledger, *uint64) {
	l := mustOpen(b, url)
	for i := range 500 {
		mustPost(b, l, pay(fmt.Sprint("in", i), "chain", Account(fmt.Sprintf("customer:c%d", i)), 1e12))
	}
	return l, new(uint64)
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPost(b *testing.B) {
	for _, backend := range backends {
		for _, n := range []int{1, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", backend.name, n), func(b *testing.B) {
				l, serial := benchmarkLedger(b, backend.url(b))
				b.ReportAllocs()
				before := cpuTime()
				for b.Loop() {
					mustPost(b, l, settlements(serial, n)...)
				}
				transfers := float64(b.N) * float64(n)
				b.ReportMetric(transfers/b.Elapsed().Seconds(), "transfers/s")
				b.ReportMetric(float64((cpuTime()-before).Microseconds())/transfers, "cpu-µs/transfer") // without the server
			})
		}
	}
}

func BenchmarkAudit(b *testing.B) {
	for _, backend := range backends {
		b.Run(backend.name, func(b *testing.B) {
			l, serial := benchmarkLedger(b, backend.url(b))
			for range 20 {
				mustPost(b, l, settlements(serial, 1000)...)
			}
			for b.Loop() {
				wantSound(b, l)
			}
			b.ReportMetric(float64(b.N)*20_500/b.Elapsed().Seconds(), "transfers/s")
		})
	}
}
