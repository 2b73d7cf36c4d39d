package ton

import (
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
)

// BenchmarkHeadAndAccount is one round of a watcher: the newest block and an account in it, both with all proofs.
func BenchmarkHeadAndAccount(b *testing.B) {
	k := newChain(b, devnet.Options{}, 0)
	c := k.client()
	who := someone("gateway")
	k.fund(who, 5, "")
	k.mine()
	for b.Loop() {
		b.StopTimer()
		k.mine()
		b.StartTimer()
		k.state(c, who)
	}
}

// BenchmarkHeadKept is a head that is kept in a folder, too.
func BenchmarkHeadKept(b *testing.B) {
	k := newChain(b, devnet.Options{}, 0)
	conf := k.config()
	conf.Dir = b.TempDir()
	c := k.open(conf)
	for b.Loop() {
		b.StopTimer()
		k.mine()
		b.StartTimer()
		if _, err := c.Head(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScan reads an account's transactions.
func BenchmarkScan(b *testing.B) {
	k := newChain(b, devnet.Options{}, 0)
	c := k.client()
	who := someone("gateway")
	const n = 3200
	for range n {
		k.fund(who, 5, "alice-95tk")
	}
	k.mine()
	s := k.state(c, who)
	began, scanned := time.Now(), 0
	for b.Loop() {
		for after := (Cursor{}); after != s.Last; {
			list, err := c.Transactions(b.Context(), s, after, 256)
			if err != nil {
				b.Fatal(err)
			}
			scanned += len(list)
			after = list[len(list)-1].Cursor
		}
	}
	b.ReportMetric(float64(scanned)/time.Since(began).Seconds(), "tx/s")
}
