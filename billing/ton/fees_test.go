package ton

import (
	"errors"
	"math"
	"math/big"
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// parsed gives tonutils' view of a transaction, for what ours leaves out.
func (k *chain) parsed(a Address, at Cursor) *tlb.Transaction {
	k.t.Helper()
	list, err := k.api.ListTransactions(k.t.Context(), a.Std(), 1, at.LT, at.Hash[:])
	if err != nil {
		k.t.Fatal(err)
	}
	return list[0]
}

// size counts the different cells below a root, and their bits.
func size(root *cell.Cell) (bits, cells uint64) {
	seen := map[cell.Hash]bool{}
	var count func(*cell.Cell)
	count = func(c *cell.Cell) {
		for i := range int(c.RefsNum()) {
			ref, err := c.PeekRef(i)
			if err != nil {
				panic(err)
			}
			if seen[ref.HashKey()] {
				continue
			}
			seen[ref.HashKey()] = true
			bits, cells = bits+uint64(ref.BitsSize()), cells+1
			count(ref)
		}
	}
	count(root)
	return bits, cells
}

// TestFees: what the formulas say is what the network takes, to the nanoTON.
func TestFees(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	w := k.personal("alice")
	alice := std(t, w.WalletAddress())
	k.fund(alice, 10*nanoton.PerTON, "")
	k.mine()
	k.send(w, transfer(someone("bob"), 5, false, nil))
	start := k.state(c, alice)
	f, err := c.Fees(t.Context(), start.At)
	if err != nil {
		t.Fatal(err)
	}
	long := cell.BeginCell().MustStoreUInt(0, 32).MustStoreSlice(make([]byte, 90), 720).MustStoreRef(body("the rest")).EndCell()
	k.send(w, transfer(someone("bob"), 5, false, long))
	s := k.state(c, alice)
	list, err := c.Transactions(t.Context(), s, start.Last, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d, %v", len(list), err)
	}
	x := k.parsed(alice, list[0].Cursor)
	d := x.Description.(tlb.TransactionDescriptionOrdinary)
	vm := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
	if got, want := f.Gas(vm.Details.GasUsed.Uint64()), nanoton.Amount(vm.GasFees.Nano().Int64()); got != want {
		t.Errorf("gas: %d, the network took %d", got, want)
	}
	out, err := x.IO.Out.ToSlice()
	if err != nil {
		t.Fatal(err)
	}
	root, err := out[0].ToCell()
	if err != nil {
		t.Fatal(err)
	}
	bits, cells := size(root)
	if got, want := f.Forward(bits, cells), nanoton.Amount(d.ActionPhase.TotalFwdFees.Nano().Int64()); got != want || cells < 2 {
		t.Errorf("forward %d bits and %d cells: %d, the network took %d", bits, cells, got, want)
	}
	if part := list[0].Out[0].Fee; part <= 0 || part >= f.Forward(bits, cells) {
		t.Errorf("of it %d leaves with the message", part)
	}

	const year = 365 * 24 * time.Hour
	k.advance(year)
	acc, err := k.api.GetAccount(t.Context(), k.newestBlock(), alice.Std())
	if err != nil {
		t.Fatal(err)
	}
	used := acc.State.StorageInfo.StorageUsed
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	now := k.state(c, alice)
	rent := now.At.Time.Sub(time.Unix(int64(acc.State.StorageInfo.LastPaid), 0))
	x = k.parsed(alice, now.Last)
	taken := nanoton.Amount(x.Description.(tlb.TransactionDescriptionOrdinary).StoragePhase.StorageFeesCollected.Nano().Int64())
	if got := f.Storage(used.BitsUsed.Uint64(), used.CellsUsed.Uint64(), rent); got != taken || taken == 0 {
		t.Errorf("storage of %v bits and %v cells for %v: %d, the network took %d", used.BitsUsed, used.CellsUsed, rent, got, taken)
	}
	if f.Masterchain().Gas(10000) <= f.Gas(10000) || f.Masterchain().Forward(1000, 2) <= f.Forward(1000, 2) ||
		f.Masterchain().Storage(1000, 2, year) <= f.Storage(1000, 2, year) {
		t.Error("the masterchain is not dearer")
	}
	if f.Storage(math.MaxUint64, math.MaxUint64, math.MaxInt64) != math.MaxInt64 || f.Storage(1, 1, -year) != 0 {
		t.Error("out of range")
	}
}

// TestConfig: it is proven, and asked for once.
func TestConfig(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	lie := func(_ tl.Serializable, pass func() tl.Serializable) tl.Serializable {
		answer := pass()
		if conf, ok := answer.(ton.ConfigAll); ok {
			conf.ConfigProof, conf.StateProof = conf.StateProof, conf.ConfigProof
			return conf
		}
		return answer
	}
	k.fronts[0].set(lie)
	k.fronts[1].set(lie)
	c := k.client()
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fees(t.Context(), h); !errors.Is(err, ErrProof) {
		t.Errorf("forged prices: %v", err)
	}
	k.fronts[1].set(nil)
	for range 5 {
		if f, err := c.Fees(t.Context(), h); err != nil || f.Gas(1000000) == 0 {
			t.Fatal(err)
		}
	}
	k.mine()
	before := k.fronts[0].questions() + k.fronts[1].questions()
	h.Seqno++ // no key block since
	if _, err := c.Fees(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if asked := k.fronts[0].questions() + k.fronts[1].questions() - before; asked != 0 {
		t.Errorf("asked %d times again", asked)
	}
	if _, err := c.Fees(t.Context(), Head{}); err == nil {
		t.Error("no head")
	}
}

// TestGet runs get-methods here, whatever liteservers say of their results.
func TestGet(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	k.fronts[0].set(func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
		if _, ok := q.(ton.RunSmcMethod); ok {
			t.Error("a liteserver was asked to run it")
		}
		return pass()
	})
	c := k.client()
	w := k.personal("alice")
	alice := std(t, w.WalletAddress())
	k.fund(alice, 10*nanoton.PerTON, "")
	k.mine()
	s := k.state(c, alice)
	if out, err := c.Get(t.Context(), s, "seqno"); !errors.Is(err, ErrMethod) {
		t.Errorf("no code yet: %v, %v", out, err)
	}
	for i := range 3 {
		k.send(w, transfer(someone("bob"), 5, false, nil))
		s = k.state(c, alice)
		out, err := c.Get(t.Context(), s, "seqno")
		if err != nil || len(out) != 1 || out[0].(*big.Int).Int64() != int64(i+1) {
			t.Errorf("%v, %v", out, err)
		}
	}
	if out, err := c.Get(t.Context(), s, "no_such_method"); !errors.Is(err, ErrMethod) {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := c.Get(t.Context(), s, "seqno", 1.5); err == nil {
		t.Errorf("%v", out)
	}
	h := k.highload("h")
	ha := std(t, h.WalletAddress())
	k.fund(ha, 10*nanoton.PerTON, "")
	k.mine()
	k.send(h, transfer(someone("bob"), 5, false, nil))
	hs := k.state(c, ha)
	for id, want := range map[int]int64{1: -1, 7: 0} { // with two arguments
		out, err := c.Get(t.Context(), hs, "processed?", id, 0)
		if err != nil || len(out) != 1 || out[0].(*big.Int).Int64() != want {
			t.Errorf("query %d: %v, %v", id, out, err)
		}
	}
}

// TestRun: order of arguments and results, kinds of values, and code that does not end.
func TestRun(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	c := k.client()
	s := k.state(c, someone("x"))
	conf, err := c.configAt(t.Context(), s.At)
	if err != nil {
		t.Fatal(err)
	}
	s.Active, s.Data, s.Balance = true, cell.BeginCell().EndCell(), 77
	code := func(hex uint64, bits uint) *cell.Cell { return cell.BeginCell().MustStoreUInt(hex, bits).EndCell() }
	s.Code = code(0x30, 8) // DROP: what is left are the arguments
	out, err := run(conf, s, "m", []any{1, int64(-2), uint64(math.MaxUint64), body("x"), s.Address, nil, big.NewInt(9)})
	if err != nil || len(out) != 7 || out[0].(*big.Int).Int64() != 1 || out[1].(*big.Int).Int64() != -2 ||
		out[2].(*big.Int).Uint64() != math.MaxUint64 || out[3].(*cell.Cell).HashKey() != body("x").HashKey() || out[5] != nil ||
		out[6].(*big.Int).Int64() != 9 {
		t.Errorf("%v, %v", out, err)
	}
	if a, err := out[4].(*cell.Slice).LoadAddr(); err != nil || std(t, a) != s.Address {
		t.Errorf("%v, %v", a, err)
	}
	s.Code = code(0x30f823f827f828, 56) // DROP NOW BALANCE MYADDR
	out, err = run(conf, s, "m", nil)
	if err != nil || len(out) != 3 || out[0].(*big.Int).Int64() != s.At.Time.Unix() ||
		out[1].([]any)[0].(*big.Int).Int64() != 77 {
		t.Errorf("%v, %v", out, err)
	}
	for name, c := range map[string]*cell.Cell{
		"a loop that does not end": code(0x3090ea, 24), // DROP CONT:<{ }> AGAIN
		"a special cell":           pruneBelow(body("x"), nil),
		"no instruction":           code(0xff, 8),
	} {
		s.Code = c
		if out, err := run(conf, s, "m", nil); !errors.Is(err, ErrMethod) {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
	s.Code = nil
	if out, err := run(conf, s, "m", nil); err == nil && len(out) > 1 {
		t.Errorf("no code: %v", out)
	}
}
