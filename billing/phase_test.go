package billing

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"cocoon/billing/ledger"
)

// phase is what a part of the work took.
type phase struct {
	cpu           time.Duration
	allocs, bytes uint64
}

// measure adds what f takes.
func (p *phase) measure(f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime()
	f()
	p.cpu += cpuTime() - cpu
	runtime.ReadMemStats(&after)
	p.allocs += after.Mallocs - before.Mallocs
	p.bytes += after.TotalAlloc - before.TotalAlloc
}

func (p *phase) report(b *testing.B, name string, n int) {
	b.ReportMetric(float64(p.cpu.Nanoseconds())/1000/float64(n), name+"-cpu-µs/req")
	b.ReportMetric(float64(p.allocs)/float64(n), name+"-allocs/req")
	b.ReportMetric(float64(p.bytes)/float64(n), name+"-B/req")
}

// BenchmarkDeskPhases is what a gateway does in a quarter of a second: many holds, one batch of settlements, one post to
// SQLite; each by itself, on a real disk. An operation is one request.
func BenchmarkDeskPhases(b *testing.B) {
	for _, size := range []int{250, 4000} { // at 1,000 a second, and at full load
		for _, customers := range []int{1, 16, benchCustomers} {
			b.Run(fmt.Sprintf("batch=%d/customers=%d", size, customers), func(b *testing.B) { benchPhases(b, size, customers) })
		}
	}
}

func benchPhases(b *testing.B, size, customers int) {
	l := sqlite(b, customers)
	d, err := Open(b.Context(), Config{Ledger: l, Dir: filepath.Join(b.TempDir(), "journal")})
	if err != nil {
		b.Fatal(err)
	}
	p := newPoster(d)
	names := make([]ledger.Account, customers)
	for i := range names {
		names[i] = ledger.Account(fmt.Sprintf("customer:c%d", i))
	}
	var hold, settle, post phase
	var n uint64
	ids, notes, settlements := make([]ledger.ID, size), make([][]byte, size), make([]Settlement, size)
	round := func() {
		for i := range ids {
			n++
			binary.LittleEndian.PutUint64(ids[i][:], n*0x9E3779B97F4A7C15)
			notes[i] = make([]byte, 250)
		}
		hold.measure(func() {
			for i, id := range ids {
				h := Hold{Request: id, Account: names[i%customers], Ceiling: 1000, Note: notes[i]}
				if err := d.Hold(context.Background(), h); err != nil {
					b.Fatal(err)
				}
			}
		})
		for i, id := range ids {
			settlements[i] = charge(id, workerA, 100, 95, 5)
			settlements[i].Line = Line{Key: "0123456789ab", Item: "llama3.2:3b", Counts: [4]int64{100, 0, 50, 0}}
		}
		settle.measure(func() {
			for from := 0; from < size; from += 1024 {
				for _, err := range d.SettleAll(context.Background(), settlements[from:min(size, from+1024)]) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		post.measure(func() {
			if err := p.post(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
		if err := d.trim(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	for range 20 {
		round()
	}
	hold, settle, post, n = phase{}, phase{}, phase{}, 1<<32
	for n < 1<<32+uint64(b.N) {
		round()
	}
	done := int(n - 1<<32)
	hold.report(b, "hold", done)
	settle.report(b, "settle", done)
	post.report(b, "post", done)
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
