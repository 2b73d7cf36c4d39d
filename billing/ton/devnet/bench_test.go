package devnet

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
)

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		n, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		n.Close()
	}
}

// A block pair with nothing in it, and what it takes in memory.
func BenchmarkEmptyBlock(b *testing.B) {
	n, err := New(Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		if err := n.Mine(); err != nil {
			b.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(b.N), "kept-B/op")
}

// BenchmarkReplayDay is the start of a network that stood idle for a day, with a block each 10 s.
func BenchmarkReplayDay(b *testing.B) {
	dir := b.TempDir()
	at := time.Unix(1_790_000_000, 0)
	o := Options{Dir: dir, Clock: func() time.Time { return at }}
	n, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	const blocks = 24 * 3600 / 10
	for range blocks {
		at = at.Add(10 * time.Second)
		if err := n.Mine(); err != nil {
			b.Fatal(err)
		}
	}
	n.Close()
	for b.Loop() {
		n, err := New(o)
		if err != nil {
			b.Fatal(err)
		}
		n.Close()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/blocks, "ns/block")
}

// funded is a network with k wallets that have 2 TON each.
func funded(b *testing.B, k int) (*Network, []*wallet.Wallet) {
	b.Helper()
	n := newNetwork(b, Options{MaxTxPerBlock: 1 << 20})
	ws := make([]*wallet.Wallet, k)
	for i := range ws {
		ws[i] = v5(b, nil, fmt.Sprint("c", i))
		if err := n.Faucet(ws[i].WalletAddress(), tlb.MustFromTON("2"), ""); err != nil {
			b.Fatal(err)
		}
	}
	mine(b, n, 1)
	return n, ws
}

// BenchmarkFaucet is a block that credits 1000 accounts.
func BenchmarkFaucet(b *testing.B) {
	n := newNetwork(b, Options{})
	const k = 1000
	for b.Loop() {
		for i := range k {
			if err := n.Faucet(stranger(fmt.Sprint(i)), tlb.MustFromTON("2"), ""); err != nil {
				b.Fatal(err)
			}
		}
		mine(b, n, 1)
	}
	b.ReportMetric(float64(b.N)*k/b.Elapsed().Seconds(), "tx/s")
}

// BenchmarkTransfers is a block in which 1000 wallets are deployed and pay somebody: two transactions each.
func BenchmarkTransfers(b *testing.B) {
	const k = 1000
	for b.Loop() {
		b.StopTimer()
		n, ws := funded(b, k)
		messages := make([][]byte, k)
		for i, w := range ws {
			messages[i] = v5Message(b, w, 0, stranger("gateway"), "0.5")
		}
		b.StartTimer()
		for _, m := range messages {
			if err := n.SendExternal(m); err != nil {
				b.Fatal(err)
			}
		}
		mine(b, n, 1)
		if got := n.Stats().Transactions; got != 3*k {
			b.Fatal(got)
		}
	}
	b.ReportMetric(float64(b.N)*2*k/b.Elapsed().Seconds(), "tx/s")
}

// BenchmarkAccount is a proven state, over TCP.
func BenchmarkAccount(b *testing.B) {
	e := start(b, Options{}, ton.ProofCheckPolicyFast)
	fund(b, e.n, stranger("a"), "1")
	head := must(e.api.GetMasterchainInfo(e.ctx))
	for b.Loop() {
		must(e.api.GetAccount(e.ctx, head, stranger("a")))
	}
}
