package ton

import (
	"bytes"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

func TestComment(t *testing.T) {
	op := func(n uint64) *cell.Builder { return cell.BeginCell().MustStoreUInt(n, 32) }
	deep := cell.BeginCell().EndCell()
	for range 1000 {
		deep = cell.BeginCell().MustStoreRef(deep).EndCell()
	}
	long := strings.Repeat("x", CommentMax)
	for name, c := range map[string]struct {
		body *cell.Cell
		want string
	}{
		"text":                {body("hello, Welt ä"), "hello, Welt ä"},
		"none":                {cell.BeginCell().EndCell(), ""},
		"only the number":     {op(0).EndCell(), ""},
		"in many cells":       {body(long), long},
		"too long":            {body(long + "x"), ""},
		"encrypted":           {op(0x2167da4b).MustStoreSlice([]byte("abc"), 24).EndCell(), ""},
		"binary":              {op(7).MustStoreSlice([]byte("abc"), 24).EndCell(), ""},
		"not UTF-8":           {op(0).MustStoreSlice([]byte{0xff, 0xfe}, 16).EndCell(), ""},
		"half a byte":         {op(0).MustStoreSlice([]byte("abc"), 20).EndCell(), ""},
		"two references":      {op(0).MustStoreRef(body("a")).MustStoreRef(body("b")).EndCell(), ""},
		"deep and empty":      {op(0).MustStoreRef(deep).EndCell(), ""},
		"special":             {pruneBelow(body("x"), nil), ""},
		"special in the tail": {pruneBelow(body(long), []int{0}), ""},
	} {
		if got := comment(c.body); got != c.want {
			t.Errorf("%s: %.40q", name, got)
		}
	}
}

// hostile gives a message with all that is odd in it.
func hostile() *cell.Cell {
	b := cell.BeginCell().EndCell()
	for range 500 {
		b = cell.BeginCell().MustStoreRef(b).MustStoreRef(b).EndCell() // 2^500 cells as a tree
	}
	return b
}

// TestHostileBodies: bodies of any form go through the whole way, and cost no more than what they take on the wire.
func TestHostileBodies(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	c := k.client()
	who := someone("gateway")
	for _, b := range []*cell.Cell{hostile(), nil, cell.BeginCell().MustStoreUInt(0, 31).EndCell()} {
		if err := k.Inject(&tlb.InternalMessage{
			IHRDisabled: true, SrcAddr: someone("x").Std(), DstAddr: who.Std(), Amount: coins(5), Body: b,
		}); err != nil {
			t.Fatal(err)
		}
	}
	k.mine()
	s := k.state(c, who)
	if all := checkAll(t, c, s, Cursor{}, 10); len(all) != 3 || all[0].In.Comment != "" || all[1].In.Body == nil {
		t.Errorf("%+v", all)
	}
}

func TestAmounts(t *testing.T) {
	huge := new(big.Int).Lsh(big.NewInt(1), 63)
	for _, c := range []struct {
		n    *big.Int
		want nanoton.Amount
		err  error
	}{
		{nil, 0, nil},
		{big.NewInt(5), 5, nil},
		{new(big.Int).Sub(huge, big.NewInt(1)), 1<<63 - 1, nil},
		{huge, 0, ErrAmount},
		{big.NewInt(-1), 0, ErrAmount},
		{new(big.Int).Lsh(huge, 50), 0, ErrAmount},
	} {
		if got, err := amountOf(c.n); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%v: %v, %v", c.n, got, err)
		}
	}
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	who := someone("rich")
	for range 2 { // each of them fits
		if err := k.Faucet(who.Std(), tlb.FromNanoTONU(6e18), ""); err != nil {
			t.Fatal(err)
		}
	}
	k.mine()
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := c.Account(t.Context(), h, who); !errors.Is(err, ErrAmount) || errors.Is(err, ErrUnreachable) || s.Balance != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	x := Transaction{Fees: 1, Out: []Message{{Amount: 1<<63 - 1}}}
	if err := x.checkSum(); !errors.Is(err, ErrAmount) {
		t.Errorf("a sum beyond the range: %v", err)
	}
}

// TestDeepAnswer: a liteserver's bag of cells that is deeper than the chain allows does no harm.
func TestDeepAnswer(t *testing.T) {
	const n = 60000
	// A chain of cells by hand: the library's builder would refuse to make it.
	var cells bytes.Buffer
	for i := range n {
		refs := byte(1)
		if i == n-1 {
			refs = 0
		}
		cells.Write([]byte{refs, 0})
		if refs == 1 {
			cells.Write([]byte{byte((i + 1) >> 8), byte(i + 1)})
		}
	}
	head := []byte{0xb5, 0xee, 0x9c, 0x72, 2, 3, n >> 8, n & 0xff, 0, 1, 0, 0}
	size := cells.Len()
	boc := append(append(head, byte(size>>16), byte(size>>8), byte(size), 0, 0), cells.Bytes()...)
	began := time.Now()
	root, err := cell.FromBOC(boc)
	if err == nil {
		if x, err := parseTransaction(root, someone("x")); err == nil {
			t.Errorf("%+v", x)
		}
	}
	t.Logf("%v after %v", err, time.Since(began))
}

func FuzzTransaction(f *testing.F) {
	root, err := tlb.ToCell(&tlb.Transaction{
		AccountAddr: make([]byte, 32), PrevTxHash: make([]byte, 32), LT: 5, OrigStatus: tlb.AccountStatusActive,
		EndStatus: tlb.AccountStatusActive, StateUpdate: tlb.HashUpdate{OldHash: make([]byte, 32), NewHash: make([]byte, 32)},
		Description: tlb.TransactionDescriptionStorage{StoragePhase: tlb.StoragePhase{
			StatusChange: tlb.AccStatusChange{Type: tlb.AccStatusChangeUnchanged},
		}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(root.ToBOC())
	f.Add(body("x").ToBOC())
	f.Fuzz(func(t *testing.T, boc []byte) {
		root, err := cell.FromBOC(boc)
		if err != nil {
			return
		}
		x, err := parseTransaction(root, Address{})
		if (x == nil) == (err == nil) {
			t.Fatalf("%+v, %v", x, err)
		}
		if x != nil {
			_ = x.Change()
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range []any{
		&tlb.InternalMessage{
			IHRDisabled: true, SrcAddr: someone("a").Std(), DstAddr: someone("b").Std(), Amount: coins(5), Body: body("hello"),
		},
		&tlb.ExternalMessage{DstAddr: someone("b").Std(), Body: body("hello")},
	} {
		root, err := tlb.ToCell(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(root.ToBOC())
	}
	f.Add(body("x").ToBOC())
	f.Fuzz(func(t *testing.T, boc []byte) {
		root, err := cell.FromBOC(boc)
		if err != nil {
			return
		}
		if text := comment(root); len(text) > CommentMax {
			t.Fatal(len(text))
		}
		_ = checkExternal(boc)
		s, err := root.BeginParse()
		if err != nil {
			return
		}
		var m tlb.Message
		if m.LoadFromCell(s) != nil {
			return
		}
		out, err := parseMessage(&m)
		if err == nil && (out.Body == nil || out.Amount < 0 || out.Fee < 0 || len(out.Comment) > CommentMax) {
			t.Fatalf("%+v", out)
		}
	})
}
