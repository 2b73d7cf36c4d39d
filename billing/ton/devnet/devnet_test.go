package devnet

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// env is a network and a client of it.
type env struct {
	n   *Network
	api *ton.APIClient
	ctx context.Context //nolint:containedctx // a test's
	ids *atomic.Uint32  // of highload wallets' queries
}

func newNetwork(t testing.TB, o Options) *Network {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func start(t testing.TB, o Options, policy ton.ProofCheckPolicy) env {
	t.Helper()
	n := newNetwork(t, o)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.Start()
	return env{n, client(t, n, policy), deadline(t), new(atomic.Uint32)}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func client(t testing.TB, n *Network, policy ton.ProofCheckPolicy) *ton.APIClient {
	t.Helper()
	pool, err := n.Dial(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Stop)
	api := ton.NewAPIClient(pool, policy)
	api.SetTrustedBlockFromConfig(n.Config())
	return api
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func key(s string) ed25519.PrivateKey {
	h := sha256.Sum256([]byte(s))
	return ed25519.NewKeyFromSeed(h[:])
}

// stranger is an address without a contract.
func stranger(s string) *address.Address { return address.NewAddress(0, 0, key(s).Seed()) }

func v5(t testing.TB, api wallet.TonAPI, name string) *wallet.Wallet {
	t.Helper()
	w, err := wallet.FromPrivateKey(api, key(name), wallet.ConfigV5R1Final{NetworkGlobalID: GlobalID})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (e env) v5(t testing.TB, name string) *wallet.Wallet {
	t.Helper()
	return v5(t, e.api, name)
}

// v5Message is a signed transfer of a V5 wallet, made without a network.
func v5Message(t testing.TB, w *wallet.Wallet, seqno uint32, to *address.Address, amount string) []byte {
	t.Helper()
	spec, ok := w.GetSpec().(*wallet.SpecV5R1Final)
	if !ok {
		t.Fatal("no V5")
	}
	spec.SetSeqnoFetcher(func(context.Context, uint32) (uint32, error) { return seqno, nil })
	m, err := w.BuildTransfer(to, tlb.MustFromTON(amount), false, "")
	if err != nil {
		t.Fatal(err)
	}
	x, err := w.PrepareExternalMessageForMany(t.Context(), seqno == 0, []*wallet.Message{m})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlb.ToCell(x)
	if err != nil {
		t.Fatal(err)
	}
	return c.ToBOC()
}

func (e env) highload(t testing.TB, name string) *wallet.Wallet {
	t.Helper()
	w, err := wallet.FromPrivateKey(e.api, key(name), wallet.ConfigHighloadV3{
		MessageTTL: 3600,
		MessageBuilder: func(context.Context, uint32) (uint32, int64, error) {
			i := e.ids.Add(1) // bit number 1023 is not allowed
			return i/1023<<10 | i%1023, e.n.Now().Unix() - 30, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func fund(t testing.TB, n *Network, a *address.Address, amount string) {
	t.Helper()
	if err := n.Faucet(a, tlb.MustFromTON(amount), ""); err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
}

func mine(t testing.TB, n *Network, k int) {
	t.Helper()
	for range k {
		if err := n.Mine(); err != nil {
			t.Fatal(err)
		}
	}
}

func policyName(p ton.ProofCheckPolicy) string {
	return map[ton.ProofCheckPolicy]string{
		ton.ProofCheckPolicyUnsafe: "unsafe", ton.ProofCheckPolicyFast: "fast", ton.ProofCheckPolicySecure: "secure",
	}[p]
}

func eachPolicy(t *testing.T, fn func(t *testing.T, p ton.ProofCheckPolicy)) {
	for _, p := range []ton.ProofCheckPolicy{
		ton.ProofCheckPolicyUnsafe, ton.ProofCheckPolicyFast, ton.ProofCheckPolicySecure,
	} {
		t.Run(policyName(p), func(t *testing.T) { fn(t, p) })
	}
}

// All that an ordinary client asks is answered, with proofs that it takes.
func TestLiteAPI(t *testing.T) {
	eachPolicy(t, func(t *testing.T, p ton.ProofCheckPolicy) {
		e := start(t, Options{}, p)
		w := e.v5(t, "alice")
		fund(t, e.n, w.WalletAddress(), "10")
		mine(t, e.n, 3)
		m := must(e.api.CurrentMasterchainInfo(e.ctx))
		acc := must(e.api.GetAccount(e.ctx, m, w.WalletAddress()))
		if acc.State.Status != tlb.AccountStatusUninit || acc.State.Balance.String() != "10" {
			t.Fatalf("%v %v", acc.State.Status, acc.State.Balance)
		}
		if none := must(e.api.GetAccount(e.ctx, m, stranger("nobody"))); none.IsActive || none.State != nil && none.State.IsValid {
			t.Fatalf("absent: %v", none)
		}
		txs := must(e.api.ListTransactions(e.ctx, w.WalletAddress(), 10, acc.LastTxLT, acc.LastTxHash))
		if len(txs) != 1 {
			t.Fatal(txs)
		}
		shards := must(e.api.GetBlockShardsInfo(e.ctx, m))
		if len(shards) != 1 {
			t.Fatal(shards)
		}
		found := 0
		for s := uint32(1); s <= shards[0].SeqNo; s++ {
			found += transactionsOf(t, e, must(e.api.LookupBlock(e.ctx, 0, shards[0].Shard, s)), txs[0].LT)
		}
		if found != 1 {
			t.Fatalf("%d transactions in blocks", found)
		}
		cfg := must(e.api.GetBlockchainConfig(e.ctx, m))
		if g := must(cfg.GetGasPrices(false)); g.GasPrice != 4369067 {
			t.Errorf("a gas price of %d", g.GasPrice)
		}
		must(e.api.GetBlockchainConfig(e.ctx, m, 21, 25))
		if at := must(e.api.GetTime(e.ctx)); at == 0 {
			t.Error("no time")
		}
		must(e.api.GetBlockDataAsCell(e.ctx, m))
		must(e.api.GetBlockHeader(e.ctx, m))
		waited := make(chan *ton.BlockIDExt)
		go func() { waited <- must(e.api.WaitForBlock(m.SeqNo + 1).GetMasterchainInfo(e.ctx)) }()
		mine(t, e.n, 1)
		if b := <-waited; b.SeqNo <= m.SeqNo {
			t.Errorf("it waited for %d and got %d", m.SeqNo+1, b.SeqNo)
		}
	})
}

// transactionsOf lists a block's transactions in every way there is, and counts them.
func transactionsOf(t *testing.T, e env, b *ton.BlockIDExt, lt uint64) int {
	t.Helper()
	ids, more, err := e.api.GetBlockTransactionsV2(e.ctx, b, 100)
	if err != nil || more {
		t.Fatal(err, more)
	}
	for _, id := range ids {
		tx := must(e.api.GetTransaction(e.ctx, b, address.NewAddress(0, 0, id.Account), id.LT))
		if tx.LT != lt {
			t.Fatal("another transaction")
		}
	}
	if l := must(must(e.api.GetBlockData(e.ctx, b)).ListTransactions()); len(l) != len(ids) {
		t.Fatal(len(l), len(ids))
	}
	must(e.api.GetBlockHeader(e.ctx, b))
	return len(ids)
}

// A wallet's transfer arrives with its comment; what the library makes of it adds up.
func TestTransfer(t *testing.T) {
	eachPolicy(t, func(t *testing.T, p ton.ProofCheckPolicy) {
		e := start(t, Options{BlockInterval: 200 * time.Millisecond, AutoMine: true}, p)
		alice, bob := e.v5(t, "alice"), e.v5(t, "bob")
		fund(t, e.n, alice.WalletAddress(), "10")
		tx, _, err := alice.TransferWaitTransaction(e.ctx, bob.WalletAddress().Bounce(false), tlb.MustFromTON("1.5"), "cust-42")
		if err != nil {
			t.Fatal(err)
		}
		if tx.OutMsgCount != 1 {
			t.Fatalf("%d messages", tx.OutMsgCount)
		}
		acc := must(e.api.GetAccount(e.ctx, must(e.api.GetMasterchainInfo(e.ctx)), bob.WalletAddress()))
		got := must(e.api.ListTransactions(e.ctx, bob.WalletAddress(), 1, acc.LastTxLT, acc.LastTxHash))
		in := got[0].IO.In.AsInternal()
		if in.Amount.String() != "1.5" || in.Comment() != "cust-42" || !in.SrcAddr.Equals(alice.WalletAddress()) {
			t.Errorf("%s %q from %s", in.Amount, in.Comment(), in.SrcAddr)
		}
	})
}

// Money for a contract that isn't there bounces, less the fees, and the sender sees a bounced message.
func TestBounce(t *testing.T) {
	n := newNetwork(t, Options{})
	w := v5(t, nil, "alice")
	fund(t, n, w.WalletAddress(), "10")
	if err := n.SendExternal(v5Message(t, w, 0, stranger("x"), "1")); err != nil { // that deploys it
		t.Fatal(err)
	}
	mine(t, n, 1)
	before := n.Balance(w.WalletAddress())
	err := n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, Bounce: true, SrcAddr: w.WalletAddress(), DstAddr: stranger("y"), Amount: tlb.MustFromTON("1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
	back := new(big.Int).Sub(n.Balance(w.WalletAddress()), before).Int64()
	if back < 999_000_000 || back >= 1_000_000_000 || n.Balance(stranger("y")).Sign() != 0 {
		t.Errorf("%d came back, %v stayed", back, n.Balance(stranger("y")))
	}
	bounced := 0
	for _, ref := range n.mc.head.shardTop.txs {
		var tx tlb.Transaction
		if err := tlb.Parse(&tx, ref.cell); err != nil {
			t.Fatal(err)
		}
		if in := tx.IO.In.AsInternal(); in.Bounced && in.DstAddr.Equals(w.WalletAddress()) {
			bounced++
		}
	}
	if bounced != 1 {
		t.Errorf("%d bounced messages", bounced)
	}
}

// Rent is due with the next transaction, for all the time since the last one.
func TestStorageFee(t *testing.T) {
	n := newNetwork(t, Options{})
	w := v5(t, nil, "alice")
	fund(t, n, w.WalletAddress(), "10")
	if err := n.SendExternal(v5Message(t, w, 0, stranger("x"), "1")); err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
	before := n.Balance(w.WalletAddress())
	n.SkewClock(365 * 24 * time.Hour)
	fund(t, n, w.WalletAddress(), "1")
	got := new(big.Int).Sub(n.Balance(w.WalletAddress()), before).Int64()
	// 0.0014 TON a year for a V5 wallet, at the fees since 2026-04-29; receiving costs next to nothing.
	if rent := 1_000_000_000 - got; rent < 1_200_000 || rent > 1_800_000 {
		t.Errorf("a year's rent of %d nanoTON", rent)
	}
}

// What no contract pays for is refused on arrival; what was accepted and then lost its point leaves no trace.
func TestNotAccepted(t *testing.T) {
	n := newNetwork(t, Options{})
	alice, mallory := v5(t, nil, "alice"), v5(t, nil, "mallory")
	fund(t, n, alice.WalletAddress(), "10")
	first, other := v5Message(t, alice, 0, stranger("x"), "1"), v5Message(t, alice, 0, stranger("y"), "1")
	for _, boc := range [][]byte{first, other} { // both have the number 0
		if err := n.SendExternal(boc); err != nil {
			t.Fatal(err)
		}
	}
	mine(t, n, 1)
	if x, y := n.Balance(stranger("x")).Int64(), n.Balance(stranger("y")).Int64(); x != 1e9 || y != 0 {
		t.Errorf("paid %d and %d", x, y)
	}
	if s := n.Stats(); s.ExternalsDropped != 1 || s.ExternalsIn != 2 || s.Minted != 1 || s.Transactions != 3 {
		t.Errorf("%+v", s)
	}
	if err := n.SendExternal(first); !errors.Is(err, ErrNotAccepted) {
		t.Errorf("sent again: %v", err)
	}
	if err := n.SendExternal(v5Message(t, mallory, 0, stranger("x"), "1")); !errors.Is(err, ErrNotAccepted) {
		t.Errorf("from a wallet without money: %v", err)
	}
	for name, boc := range map[string][]byte{
		"nothing": nil, "noise": []byte("noise"), "a cell": cell.BeginCell().EndCell().ToBOC(), "large": make([]byte, 65536),
	} {
		if err := n.SendExternal(boc); !errors.Is(err, ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Blocks have room for so many transactions, and messages may take a block to arrive: nothing is lost by that.
func TestFullBlocks(t *testing.T) {
	for _, o := range []Options{{MaxTxPerBlock: 7}, {NextBlockDelivery: true}, {MaxTxPerBlock: 3, NextBlockDelivery: true}} {
		n := newNetwork(t, o)
		w := v5(t, nil, "alice")
		fund(t, n, w.WalletAddress(), "100")
		if err := n.SendExternal(v5Message(t, w, 0, stranger("x"), "1")); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := n.Faucet(stranger(fmt.Sprint(i)), tlb.MustFromTON("1"), "same"); err != nil {
				t.Fatal(err)
			}
		}
		blocks := 0
		for ; n.Stats().Transactions < 23 && blocks < 50; blocks++ {
			mine(t, n, 1)
		}
		for i := range 20 {
			if b := n.Balance(stranger(fmt.Sprint(i))).Int64(); b != 1e9 {
				t.Errorf("%+v: %d has %d", o, i, b)
			}
		}
		if n.Balance(stranger("x")).Int64() != 1e9 || blocks < 2 {
			t.Errorf("%+v: after %d blocks %v", o, blocks, n.Balance(stranger("x")))
		}
	}
}

// The clock goes where it's told; blocks never go back.
func TestClock(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	n := newNetwork(t, Options{Clock: func() time.Time { return at }})
	if !n.BlockTime().Equal(at) || !n.Now().Equal(at) {
		t.Errorf("it begins at %v", n.BlockTime())
	}
	n.SkewClock(time.Hour)
	mine(t, n, 1)
	if want := at.Add(time.Hour); !n.BlockTime().Equal(want) {
		t.Errorf("%v, want %v", n.BlockTime(), want)
	}
	n.SetClock(at.Add(-time.Hour))
	mine(t, n, 1)
	if want := at.Add(time.Hour); !n.BlockTime().Equal(want) || !n.Now().Equal(at.Add(-time.Hour)) {
		t.Errorf("%v, want %v", n.BlockTime(), want)
	}
	n.SetClock(at.Add(48 * time.Hour))
	at = at.Add(time.Minute)
	mine(t, n, 1)
	if want := at.Add(48 * time.Hour); !n.BlockTime().Equal(want) {
		t.Errorf("%v, want %v", n.BlockTime(), want)
	}
}

// Pay waits for its block; a closed network makes none.
func TestPay(t *testing.T) {
	n := newNetwork(t, Options{AutoMine: true, NextBlockDelivery: true, MaxTxPerBlock: 2})
	n.Start()
	for i := range 5 {
		to := stranger(fmt.Sprint(i))
		seqno, err := n.Pay(t.Context(), to.StringRaw(), 1_000_000_000, "memo")
		if err != nil || seqno > n.Seqno() || n.Balance(to).Int64() != 1e9 {
			t.Errorf("block %d of %d: %v, %v", seqno, n.Seqno(), n.Balance(to), err)
		}
	}
	for to, amount := range map[string]int64{"": 1, "x": 1, "7:" + fmt.Sprintf("%064d", 1): 1, stranger("x").String(): 0} {
		if _, err := n.Pay(t.Context(), to, 0, ""); !errors.Is(err, ErrMessage) {
			t.Errorf("%d for %q: %v", amount, to, err)
		}
	}
	n.Close()
	n.Close()
	if _, err := n.Pay(t.Context(), stranger("x").String(), 1, ""); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := n.Mine(); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if err := n.Wait(t.Context(), n.Seqno()+1); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// The fees of before 2026-04-29 are there to be tested with, too.
func TestOldConfig(t *testing.T) {
	old := must(readTestdata("mainnet-config-2026-04-17.boc"))
	n := newNetwork(t, Options{ConfigBOC: old})
	w := v5(t, nil, "alice")
	fund(t, n, w.WalletAddress(), "10")
	if err := n.SendExternal(v5Message(t, w, 0, stranger("x"), "1")); err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
	if fee := 9_000_000_000 - n.Balance(w.WalletAddress()).Int64(); fee < 3_000_000 || fee > 8_000_000 {
		t.Errorf("a fee of %d nanoTON", fee)
	}
	if _, err := New(Options{ConfigBOC: []byte("x")}); err == nil {
		t.Error("it took a broken config")
	}
}

// TestNothing sends nothing to nobody, twice in a block: each transaction has a time of its own.
func TestNothing(t *testing.T) {
	n := newNetwork(t, Options{})
	to := address.NewAddress(0, 0, make([]byte, 32))
	for range 3 {
		if err := n.Faucet(to, tlb.MustFromTON("0"), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Mine(); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for _, tx := range n.txs {
		if tx.acc == [32]byte(to.Data()) {
			if seen[tx.lt] || tx.prevLT >= tx.lt {
				t.Errorf("transaction %d after %d", tx.lt, tx.prevLT)
			}
			seen[tx.lt] = true
		}
	}
	if len(seen) != 3 {
		t.Errorf("%d transactions", len(seen))
	}
}
