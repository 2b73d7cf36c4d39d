package devnet

import (
	"context"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// obedient is a contract that accepts every external message and executes its body.
func obedient() *tlb.StateInit {
	return &tlb.StateInit{
		// SETCP0 DROP ACCEPT BLESS EXECUTE
		Code: cell.BeginCell().MustStoreSlice([]byte{0xff, 0x00, 0x30, 0xf8, 0x00, 0xed, 0x1e, 0xd8}, 64).EndCell(),
		Data: cell.BeginCell().EndCell(),
	}
}

func external(t testing.TB, to *address.Address, init *tlb.StateInit, body *cell.Cell) []byte {
	t.Helper()
	c, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: to, StateInit: init, Body: body})
	if err != nil {
		t.Fatal(err)
	}
	return c.ToBOC()
}

// obedientNetwork is a network where such a contract has money.
func obedientNetwork(t testing.TB) (*Network, *address.Address) {
	t.Helper()
	n, err := New(Options{Clock: still})
	if err != nil {
		t.Fatal(err)
	}
	to := address.NewAddress(0, 0, must(tlb.ToCell(obedient())).Hash())
	if err := n.Faucet(to, tlb.MustFromTON("10"), ""); err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
	if err := n.SendExternal(external(t, to, obedient(), cell.BeginCell().EndCell())); err != nil {
		t.Fatal(err)
	}
	mine(t, n, 1)
	return n, to
}

// goesOn checks that what came before hasn't ended the chain.
func goesOn(t testing.TB, n *Network) {
	t.Helper()
	before := n.Seqno()
	mine(t, n, 2)
	if n.Seqno() != before+2 || n.Err() != nil {
		t.Fatalf("block %d after %d, %v", n.Seqno(), before, n.Err())
	}
}

func FuzzExternal(f *testing.F) {
	n, to := obedientNetwork(f)
	n.Close()
	w := v5(f, nil, "alice")
	f.Add(v5Message(f, w, 0, stranger("x"), "1"))
	f.Add(external(f, to, nil, cell.BeginCell().EndCell()))
	f.Add(external(f, to, obedient(), cell.BeginCell().EndCell()))
	f.Add(external(f, address.NewAddress(0, 255, make([]byte, 32)), nil, cell.BeginCell().EndCell()))
	f.Add(external(f, address.NewAddress(0, 5, make([]byte, 32)), nil, cell.BeginCell().EndCell()))
	f.Add([]byte{})
	n, _ = obedientNetwork(f)
	f.Fuzz(func(t *testing.T, boc []byte) {
		if n.Seqno() > 2000 { // it grows
			n.Close()
			n, _ = obedientNetwork(t)
		}
		_ = n.SendExternal(boc)
		goesOn(t, n)
	})
}

// FuzzContract has a contract execute arbitrary code with a cell at hand, such as a message that it sends.
func FuzzContract(f *testing.F) {
	send := []byte{0x88, 0x73, 0xfb, 0x00} // PUSHREF 3 SENDRAWMSG
	n, to := obedientNetwork(f)
	for _, m := range []*tlb.InternalMessage{
		{IHRDisabled: true, DstAddr: stranger("x"), Amount: tlb.MustFromTON("1")},
		{IHRDisabled: true, Bounce: true, DstAddr: to, Amount: tlb.MustFromTON("1")},
		{DstAddr: address.NewAddress(0, 255, make([]byte, 32)), Amount: tlb.MustFromTON("0.1")},
		{DstAddr: address.NewAddress(0, 7, make([]byte, 32)), Amount: tlb.MustFromTON("0.1")},
	} {
		f.Add(send, bytesOf(must(tlb.ToCell(m))))
	}
	f.Add([]byte{0x88, 0xfb, 0x04}, []byte{0xff}) // PUSHREF SETCODE
	f.Add([]byte{0x88, 0xed, 0x54}, []byte{0xff}) // PUSHREF POPROOT
	f.Fuzz(func(t *testing.T, code, data []byte) {
		if len(code) > 127 || len(data) > 127 {
			return
		}
		if n.Seqno() > 4 && n.Balance(to).Cmp(big.NewInt(1e9)) < 0 || n.Seqno() > 2000 { // it's poor, or grows
			n.Close()
			n, _ = obedientNetwork(t)
		}
		body := cell.BeginCell().MustStoreSlice(code, uint(len(code))*8).
			MustStoreRef(cell.BeginCell().MustStoreSlice(data, uint(len(data))*8).EndCell()).EndCell()
		_ = n.SendExternal(external(t, to, nil, body))
		goesOn(t, n)
	})
}

// bytesOf is a cell's data in whole bytes.
func bytesOf(c *cell.Cell) []byte {
	s := must(c.BeginParse())
	bits := s.BitsLeft() / 8 * 8
	return must(s.LoadSlice(bits))
}

func FuzzServe(f *testing.F) {
	n, to := obedientNetwork(f)
	f.Cleanup(n.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		f.Fatal(err)
	}
	acc := ton.AccountID{ID: to.Data()}
	head, shard := n.head.Load().id, n.head.Load().shardTop.id
	last := n.head.Load().shardTop.txs[0]
	params := must(tlb.NewStack().ToCell()).ToBOC()
	for _, q := range []tl.Serializable{
		ton.GetMasterchainInf{},
		ton.GetMasterchainInfoExt{},
		ton.GetTime{},
		ton.GetVersion{},
		ton.GetBlockData{ID: head},
		ton.GetBlockHeader{ID: shard},
		ton.GetAllShardsInfo{ID: head},
		ton.GetAllShardsInfo{ID: shard},
		ton.GetConfigAll{BlockID: head},
		ton.GetConfigAll{BlockID: shard},
		ton.GetConfigParams{BlockID: head, Params: []int32{21, 999}},
		ton.LookupBlock{Mode: 1, ID: &ton.BlockInfoShort{Workchain: -1, Shard: shardInt(), Seqno: 2}},
		ton.LookupBlock{Mode: 2, ID: &ton.BlockInfoShort{Workchain: 0, Shard: shardInt()}, LT: last.lt},
		ton.LookupBlock{Mode: 4, ID: &ton.BlockInfoShort{Workchain: 9, Shard: shardInt()}, UTime: 5},
		ton.GetAccountState{ID: head, Account: acc},
		ton.GetAccountState{ID: shard, Account: acc},
		ton.GetAccountState{ID: shard, Account: ton.AccountID{Workchain: -1, ID: acc.ID}},
		ton.RunSmcMethod{Mode: 7, ID: head, Account: acc, MethodID: 85143, Params: params},
		ton.GetTransactions{Limit: 16, AccID: &acc, LT: int64(last.lt), TxHash: last.hash[:]},
		ton.GetOneTransaction{ID: shard, AccID: &acc, LT: int64(last.lt)},
		ton.ListBlockTransactions{ID: shard, Mode: 1<<5 | 7, Count: 100, WantProof: &ton.True{}},
		ton.ListBlockTransactionsExt{ID: shard, Mode: 1 << 5, Count: 100, WantProof: &ton.True{}},
		ton.GetBlockProof{KnownBlock: n.first.id},
		ton.GetBlockProof{Mode: 1, KnownBlock: head, TargetBlock: n.first.id},
		ton.GetBlockProof{Mode: 1, KnownBlock: shard, TargetBlock: shard},
		ton.SendMessage{Body: external(f, to, nil, cell.BeginCell().EndCell())},
		[]tl.Serializable{ton.WaitMasterchainSeqno{Seqno: 1, Timeout: 1}, ton.GetTime{}},
		[]tl.Serializable{ton.WaitMasterchainSeqno{Seqno: -1, Timeout: 1}, ton.GetTime{}},
	} {
		text, err := tl.Serialize(q, true)
		if err != nil {
			f.Fatalf("%T: %v", q, err)
		}
		f.Add(text)
	}
	s := n.Servers()[0]
	f.Fuzz(func(t *testing.T, text []byte) {
		var q tl.Serializable
		if _, err := tl.Parse(&q, text, true); err != nil || q == nil {
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it won't wait
		if resp := s.answer(ctx, q); resp != nil {
			if _, err := tl.Serialize(resp, true); err != nil {
				t.Fatalf("%T can't be sent: %v", resp, err)
			}
		}
	})
}

// FuzzChain opens arbitrary files.
func FuzzChain(f *testing.F) {
	dir := f.TempDir()
	live(f, Options{Dir: dir, Clock: still})
	whole, err := os.ReadFile(filepath.Join(dir, chainName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, chainName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := New(Options{Dir: dir, Clock: still})
		if err != nil {
			return
		}
		defer n.Close()
		goesOn(t, n)
	})
}
