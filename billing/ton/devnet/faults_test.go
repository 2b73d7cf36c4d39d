package devnet

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
)

// codeOf is a liteserver error's code; 1 if it's none.
func codeOf(err error) int32 {
	if e, ok := errors.AsType[ton.LSError](err); ok {
		return e.Code
	}
	return 1
}

// Lost messages: their sender is told that all is well, and sends again.
func TestLostExternals(t *testing.T) {
	n := newNetwork(t, Options{})
	w := v5(t, nil, "alice")
	fund(t, n, w.WalletAddress(), "10")
	boc := v5Message(t, w, 0, stranger("x"), "1")
	send := func(want int64) {
		t.Helper()
		if err := n.SendExternal(boc); err != nil {
			t.Fatal(err)
		}
		mine(t, n, 1)
		if b := n.Balance(stranger("x")).Int64(); b != want*1e9 {
			t.Errorf("x has %d, want %d TON", b, want)
		}
	}
	n.Faults().DropExternals(2)
	send(0)
	send(0)
	n.Faults().LoseFirst(true)
	send(0)
	send(1)
	boc = v5Message(t, w, 1, stranger("x"), "1")
	send(1)
	n.Faults().LoseFirst(false)
	send(2)
	if s := n.Stats(); s.ExternalsDropped != 4 {
		t.Errorf("%+v", s)
	}
}

// A liteserver that lags is as good as any for what is older, and knows nothing of what is newer. No proof shows it.
func TestLag(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicySecure)
	gw := stranger("gateway")
	fund(t, e.n, gw, "1")
	mine(t, e.n, 5)
	newest := e.n.head.Load().id
	e.n.Faults().Lag(20)
	fund(t, e.n, gw, "1")
	if m := must(e.api.GetMasterchainInfo(e.ctx)); m.SeqNo != 1 {
		t.Errorf("block %d of a chain that is shorter than its lag", m.SeqNo)
	}
	mine(t, e.n, 17)
	m := must(e.api.GetMasterchainInfo(e.ctx))
	acc := must(e.api.GetAccount(e.ctx, m, gw))
	if m.SeqNo != e.n.Seqno()-20 || acc.State.Balance.String() != "1" {
		t.Errorf("block %d of %d, a balance of %s", m.SeqNo, e.n.Seqno(), acc.State.Balance)
	}
	if _, err := e.api.GetAccount(e.ctx, e.n.head.Load().id, gw); codeOf(err) != 651 {
		t.Errorf("a block that it can't know: %v", err)
	}
	if _, err := e.api.LookupBlock(e.ctx, -1, shardInt(), e.n.Seqno()); !errors.Is(err, ton.ErrBlockNotFound) {
		t.Errorf("a block that it can't know: %v", err)
	}
	e.n.Faults().Lag(0)
	must(e.api.GetAccount(e.ctx, newest, gw))
}

func TestHistory(t *testing.T) {
	e := start(t, Options{HistoryBlocks: 20}, ton.ProofCheckPolicyFast)
	a := stranger("a")
	fund(t, e.n, a, "1")
	acc := must(e.api.GetAccount(e.ctx, must(e.api.GetMasterchainInfo(e.ctx)), a))
	list := func() error {
		_, err := e.api.ListTransactions(e.ctx, a, 10, acc.LastTxLT, acc.LastTxHash)
		return err
	}
	mine(t, e.n, 10)
	if err := list(); err != nil {
		t.Error(err)
	}
	e.n.Servers()[0].Faults().History(5)
	if err := list(); codeOf(err) != -400 || !strings.Contains(err.Error(), "lt not in db") {
		t.Errorf("the server's own: %v", err)
	}
	e.n.Servers()[0].Faults().History(0)
	mine(t, e.n, 11)
	if err := list(); codeOf(err) != -400 || !strings.Contains(err.Error(), "lt not in db") {
		t.Errorf("the network's: %v", err)
	}
}

// The same seed fails the same queries.
func TestFailRandomly(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	run := func(rate float64, seed uint64) (text string) {
		e.n.Faults().FailRandomly(rate, seed)
		for range 200 {
			_, err := e.api.GetTime(e.ctx)
			text += string('a' + rune(max(-1, codeOf(err))%25+1))
		}
		return text
	}
	first := run(0.25, 7)
	if failures := 200 - strings.Count(first, "c"); failures < 25 || failures > 75 {
		t.Errorf("%d of 200 fail", failures)
	}
	if run(0.25, 7) != first || run(0.25, 8) == first {
		t.Error("the seed doesn't decide")
	}
	if run(0, 7) != strings.Repeat("c", 200) {
		t.Error("failures at a rate of 0")
	}
}

// No answer, and a late one.
func TestMuteAndDelay(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	ask := func() error {
		ctx, cancel := context.WithTimeout(e.ctx, 50*time.Millisecond)
		defer cancel()
		_, err := e.api.GetTime(ctx)
		return err
	}
	e.n.Faults().Mute(true)
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("mute: %v", err)
	}
	e.n.Faults().Mute(false)
	e.n.Faults().Delay(time.Hour)
	if err := ask(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: %v", err)
	}
	e.n.Faults().Delay(time.Millisecond)
	if _, err := e.api.GetTime(e.ctx); err != nil {
		t.Error(err)
	}
}

// A client that checks proofs refuses each lie; what isn't proven it can't.
func TestLies(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(f *Faults)
		fast string // the error of a client that trusts the head; empty: it's taken in
	}{
		"balance":   {func(f *Faults) { f.LieBalance(true) }, "proof hash not match"},
		"state":     {func(f *Faults) { f.LieState(true) }, "hash"},
		"signature": {func(f *Faults) { f.LieSignature(true) }, ""},
	} {
		for _, p := range []ton.ProofCheckPolicy{ton.ProofCheckPolicyFast, ton.ProofCheckPolicySecure} {
			t.Run(name+"/"+policyName(p), func(t *testing.T) {
				e := start(t, Options{}, p)
				fund(t, e.n, stranger("a"), "10")
				c.lie(e.n.Faults())
				m, err := e.api.GetMasterchainInfo(e.ctx)
				if name == "signature" && p == ton.ProofCheckPolicySecure {
					if err == nil || !strings.Contains(err.Error(), "incorrect signature") {
						t.Fatalf("a forged signature: %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				_, err = e.api.GetAccount(e.ctx, m, stranger("a"))
				if c.fast == "" && err != nil || c.fast != "" && (err == nil || !strings.Contains(err.Error(), c.fast)) {
					t.Errorf("%v, want %q", err, c.fast)
				}
			})
		}
	}
}

// The result of a get-method is the liteserver's word, proofs or not.
func TestLieMethod(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicySecure)
	w := e.v5(t, "alice")
	fund(t, e.n, w.WalletAddress(), "10")
	if err := e.n.SendExternal(v5Message(t, w, 0, stranger("x"), "1")); err != nil {
		t.Fatal(err)
	}
	mine(t, e.n, 1)
	m := must(e.api.GetMasterchainInfo(e.ctx))
	for _, want := range []int64{1, 31337} {
		r, err := e.api.RunGetMethod(e.ctx, m, w.WalletAddress(), "seqno")
		if err != nil || r.MustInt(0).Int64() != want {
			t.Errorf("%v, %v, want %d", r, err, want)
		}
		e.n.Faults().LieMethod(true)
	}
}

// A list with a gap doesn't fit together.
func TestLieHistory(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicySecure)
	for range 4 {
		fund(t, e.n, stranger("a"), "1")
	}
	acc := must(e.api.GetAccount(e.ctx, must(e.api.GetMasterchainInfo(e.ctx)), stranger("a")))
	for _, want := range []string{"", "incorrect transaction hash"} {
		list, err := e.api.ListTransactions(e.ctx, stranger("a"), 10, acc.LastTxLT, acc.LastTxHash)
		if want == "" && (err != nil || len(list) != 4) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d, %v, want %q", len(list), err, want)
		}
		e.n.Faults().LieHistory(true)
	}
}

func TestHooks(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	e.n.Faults().Hook(func(q tl.Serializable) (tl.Serializable, bool) {
		_, ok := q.(ton.GetTime)
		return ton.LSError{Code: 77}, ok
	})
	if _, err := e.api.GetTime(e.ctx); codeOf(err) != 77 {
		t.Error(err)
	}
	e.n.Faults().Hook(nil)
	e.n.Faults().Alter(func(_, resp tl.Serializable) tl.Serializable {
		if at, ok := resp.(ton.CurrentTime); ok {
			at.Now = 42
			return at
		}
		return resp
	})
	if at, err := e.api.GetTime(e.ctx); err != nil || at != 42 {
		t.Error(at, err)
	}
}

// Of two liteservers of one network each has faults of its own, and may come and go.
func TestTwoServers(t *testing.T) {
	n := newNetwork(t, Options{})
	apis := make([]*ton.APIClient, 2)
	for i := range apis {
		s, err := n.Serve("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pool := liteclient.NewConnectionPool()
		t.Cleanup(pool.Stop)
		if err := pool.AddConnectionsFromConfig(deadline(t), n.ConfigOf(s)); err != nil {
			t.Fatal(err)
		}
		apis[i] = ton.NewAPIClient(pool, ton.ProofCheckPolicySecure)
		apis[i].SetTrustedBlockFromConfig(n.Config())
	}
	servers := n.Servers()
	if len(n.Config().Liteservers) != 2 || bytes.Equal(servers[0].Key(), servers[1].Key()) {
		t.Fatalf("%+v", n.Config().Liteservers)
	}
	fund(t, n, stranger("a"), "3")
	servers[0].Faults().LieBalance(true)
	for i, want := range []bool{false, true} {
		acc, err := apis[i].GetAccount(deadline(t), must(apis[i].GetMasterchainInfo(deadline(t))), stranger("a"))
		if (err == nil) != want || want && acc.State.Balance.String() != "3" {
			t.Errorf("server %d: %v", i, err)
		}
	}
	servers[1].Stop()
	if _, err := client(t, n, ton.ProofCheckPolicyFast).GetTime(deadline(t)); err != nil {
		t.Errorf("with one of two: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := apis[1].GetTime(short); err == nil {
		t.Error("a stopped server answers")
	}
	addr := servers[1].Addr()
	if err := servers[1].Resume(); err != nil || servers[1].Addr() != addr {
		t.Fatalf("%v, %v", err, servers[1].Addr())
	}
	pool := liteclient.NewConnectionPool()
	t.Cleanup(pool.Stop)
	if err := pool.AddConnectionsFromConfig(deadline(t), n.ConfigOf(servers[1])); err != nil {
		t.Fatal(err)
	}
	if _, err := ton.NewAPIClient(pool, ton.ProofCheckPolicyFast).GetTime(deadline(t)); err != nil {
		t.Errorf("resumed: %v", err)
	}
	if err := n.Listen(addr.String()); err == nil {
		t.Error("two on one port")
	}
	for _, bad := range []string{"", "localhost:1", "[::1]:0", "127.0.0.1"} {
		if err := n.Listen(bad); err == nil {
			t.Errorf("%q is taken for an address", bad)
		}
	}
}

// Queries beyond the bound are told to come again; those that wait go when the server does.
func TestQueriesAreBounded(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	s := e.n.Servers()[0]
	for range queriesMax {
		s.slots <- struct{}{}
	}
	if _, err := e.api.GetTime(e.ctx); codeOf(err) != 228 {
		t.Error(err)
	}
	for range queriesMax {
		<-s.slots
	}
	for range 10 {
		go func() { _, _ = e.api.WaitForBlock(1_000_000).GetMasterchainInfo(e.ctx) }()
	}
	for len(s.slots) < 10 {
		time.Sleep(time.Millisecond)
	}
	s.Stop() // it would hang
	if len(s.slots) != 0 {
		t.Errorf("%d queries are left", len(s.slots))
	}
}

// A message that the chain has is one for everybody.
func TestSendThroughServers(t *testing.T) {
	e := start(t, Options{}, ton.ProofCheckPolicyUnsafe)
	w := e.v5(t, "alice")
	fund(t, e.n, w.WalletAddress(), "10")
	s := e.n.Servers()[0]
	s.Faults().DropExternals(1)
	boc := v5Message(t, w, 0, stranger("x"), "1")
	for _, want := range []string{"0", "1"} {
		resp, err := s.sendMessage(ton.SendMessage{Body: boc})
		if st, ok := resp.(ton.SendMessageStatus); err != nil || !ok || st.Status != 1 {
			t.Fatal(resp, err)
		}
		mine(t, e.n, 1)
		if b := tlb.FromNanoTON(e.n.Balance(stranger("x"))); b.String() != want {
			t.Errorf("x has %s, want %s", b, want)
		}
	}
	if _, err := s.sendMessage(ton.SendMessage{Body: boc}); codeOf(err) != 0 {
		t.Errorf("not accepted: %v", err)
	}
	if _, err := s.sendMessage(ton.SendMessage{Body: []byte("x")}); codeOf(err) != 0 {
		t.Errorf("noise: %v", err)
	}
}
