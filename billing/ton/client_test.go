package ton

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/durable"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

func TestHeadAndAccount(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	c := k.client()
	who := someone("customer")
	s := k.state(c, who)
	if s.Exists || s.Active || s.Balance != 0 || s.Last != (Cursor{}) || s.Address != who {
		t.Errorf("an account that is not there: %+v", s)
	}
	k.fund(who, 3*nanoton.PerTON, "hello")
	k.mine()
	s = k.state(c, who)
	if !s.Exists || s.Active || s.Balance != 3*nanoton.PerTON || s.Last.LT == 0 || s.At.Seqno != k.Seqno() {
		t.Errorf("%+v", s)
	}
	if age := time.Since(s.At.Time); age < -time.Second || age > time.Minute {
		t.Errorf("the block is of %v", s.At.Time)
	}
	if _, err := c.Account(t.Context(), s.At, Address{}); !errors.Is(err, ErrAddress) {
		t.Errorf("no address: %v", err)
	}
	if _, err := c.Account(t.Context(), Head{}, who); err == nil {
		t.Error("no head")
	}
	// In the masterchain: the block itself has the account.
	master := who
	master.Workchain = -1
	k.fund(master, nanoton.PerTON, "")
	k.mine()
	if s := k.state(c, master); s.Balance != nanoton.PerTON {
		t.Errorf("in the masterchain: %+v", s)
	}
	// A block that is not the newest.
	if old, err := c.Account(t.Context(), s.At, master); err != nil || old.Exists {
		t.Errorf("before it was paid: %+v, %v", old, err)
	}
}

func TestStale(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	c := k.client()
	if _, err := c.Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.skew.Add(int64(time.Minute)) // our clock goes on, the chain does not
	_, err := c.Head(t.Context())
	if !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("an old block: %v", err)
	}
	k.SkewClock(time.Minute)
	k.mine()
	if _, err := c.Head(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNext waits for a block, and says when there is none for too long.
func TestNext(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	conf := k.config()
	conf.MaxAge = 2 * time.Second
	c := k.open(conf)
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Next(t.Context(), h.Seqno-1); err != nil || n.Seqno != h.Seqno {
		t.Errorf("one that is there: %+v, %v", n, err)
	}
	got := make(chan error, 1)
	go func() {
		n, err := c.Next(t.Context(), h.Seqno)
		if err == nil && n.Seqno != h.Seqno+1 {
			err = errors.New("another block")
		}
		got <- err
	}()
	for k.fronts[0].questions() == 0 && k.fronts[1].questions() == 0 {
		time.Sleep(time.Millisecond)
	}
	k.mine()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := c.Next(t.Context(), h.Seqno+1); !errors.Is(err, ErrStale) {
		t.Errorf("no block: %v", err)
	}
}

// TestLagging: a liteserver that is behind what another one had shown is named and passed over.
func TestLagging(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	c := k.client()
	old := k.newestBlock()
	for range 3 {
		k.mine()
	}
	k.fronts[0].set(lagging(old))
	k.fronts[1].set(silent)
	if h, err := c.Head(t.Context()); err != nil || h.Seqno != old.SeqNo {
		t.Fatalf("%+v, %v", h, err) // it is all that there is
	}
	k.fronts[1].set(nil)
	newest := uint32(0)
	for range 20 {
		h, err := c.Head(t.Context())
		if err != nil || h.Seqno < newest {
			t.Fatalf("went back from %d: %+v, %v", newest, h, err)
		}
		newest = h.Seqno
	}
	if newest != k.Seqno() || !k.logs.has("it is behind") || !k.logs.has(k.fronts[0].addr) {
		t.Errorf("block %d of %d; %s", newest, k.Seqno(), k.logs.text.String())
	}
	k.fronts[1].set(silent)
	if h, err := c.Head(t.Context()); !errors.Is(err, ErrStale) {
		t.Errorf("only the one that lags: %+v, %v", h, err)
	}
	k.fronts[1].set(nil)
	k.mine()
	if h, err := c.Next(t.Context(), newest); err != nil || h.Seqno != newest+1 {
		t.Errorf("%+v, %v", h, err)
	}
}

func (k *chain) newestBlock() *ton.BlockIDExt {
	k.t.Helper()
	id, err := k.api.GetMasterchainInfo(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return id
}

// lagging shows an old block as the newest.
func lagging(id *ton.BlockIDExt) func(tl.Serializable, func() tl.Serializable) tl.Serializable {
	return func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
		answer := pass()
		if info, ok := answer.(ton.MasterchainInfo); ok {
			info.Last = id
			return info
		}
		return answer
	}
}

// TestRestart: a client that starts again with the folder of the last one does not believe in older blocks than that one.
func TestRestart(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	conf := k.config()
	conf.Dir = filepath.Join(t.TempDir(), "chain")
	first := k.newestBlock()
	for range 4 {
		k.mine()
	}
	c := k.open(conf)
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), conf); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("the same folder twice: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	k.fronts[0].set(lagging(first))
	c = k.open(conf)
	if _, err := c.Head(t.Context()); !errors.Is(err, ErrStale) {
		t.Errorf("an older block than before: %v", err)
	}
	k.fronts[0].set(nil)
	if again, err := c.Head(t.Context()); err != nil || again.Seqno != h.Seqno || !again.Time.Equal(h.Time) {
		t.Errorf("%+v, %v", again, err)
	}
	k.mine()
	if again, err := c.Head(t.Context()); err != nil || again.Seqno != h.Seqno+1 {
		t.Errorf("%+v, %v", again, err)
	}
	_ = c.Close()

	file := filepath.Join(conf.Dir, headFile)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := newChain(t, devnet.Options{Seed: 7}, 1).config()
	other.Dir = conf.Dir
	if _, err := Open(t.Context(), other); err == nil || !strings.Contains(err.Error(), "another network") {
		t.Errorf("another network: %v", err)
	}
	for _, bad := range []string{
		"", "{}", "[]", string(text[:len(text)/2]), string(text) + "x",
		strings.Replace(string(text), `"time":`, `"time":-`, 1),
		strings.Replace(string(text), `"root_hash":"`, `"root_hash":"zz`, 1),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), conf); err == nil {
			t.Errorf("a damaged file: %q", bad)
		}
	}
}

// TestLies: whatever a liteserver forges is noticed, it is named, and another one is asked.
func TestLies(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	rich, absent := someone("rich"), someone("absent")
	k.fund(rich, 5*nanoton.PerTON, "")
	k.fund(someone("other"), nanoton.PerTON, "")
	k.mine()
	forge := map[string]func(ton.AccountState) ton.AccountState{
		"a richer state": func(a ton.AccountState) ton.AccountState {
			if a.State == nil {
				return a
			}
			var st tlb.AccountState
			if err := tlb.Parse(&st, a.State); err != nil {
				panic(err)
			}
			st.Balance = tlb.MustFromTON("1000000")
			a.State, _ = st.ToCell()
			return a
		},
		"no state":       func(a ton.AccountState) ton.AccountState { a.State = nil; return a },
		"no proof":       func(a ton.AccountState) ton.AccountState { a.Proof = nil; return a },
		"no shard proof": func(a ton.AccountState) ton.AccountState { a.ShardProof = nil; return a },
		"no shard":       func(a ton.AccountState) ton.AccountState { a.Shard = a.ID; return a },
		"proofs swapped": func(a ton.AccountState) ton.AccountState {
			a.Proof, a.ShardProof = a.ShardProof, a.Proof
			return a
		},
		// What the library takes for a proof that the account does not exist.
		"the account's branch left out": func(a ton.AccountState) ton.AccountState {
			a.State, a.Proof = nil, []*cell.Cell{a.Proof[0], prune(a.Proof[1], 1, 0)}
			return a
		},
		"all accounts left out": func(a ton.AccountState) ton.AccountState {
			a.State, a.Proof = nil, []*cell.Cell{a.Proof[0], prune(a.Proof[1], 1)}
			return a
		},
	}
	for name, f := range forge {
		t.Run(name, func(t *testing.T) {
			c := k.client()
			h, err := c.Head(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			lie := func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
				answer := pass()
				if a, ok := answer.(ton.AccountState); ok {
					return f(a)
				}
				return answer
			}
			k.fronts[0].set(lie)
			k.fronts[1].set(nil)
			for range 4 {
				if s, err := c.Account(t.Context(), h, rich); err != nil || s.Balance != 5*nanoton.PerTON {
					t.Errorf("one of two lies: %+v, %v", s, err)
				}
			}
			k.fronts[1].set(lie)
			s, err := c.Account(t.Context(), h, rich)
			if !errors.Is(err, ErrProof) || !errors.Is(err, ErrUnreachable) || s.Balance != 0 {
				t.Errorf("both lie: %+v, %v", s, err)
			} else if !strings.Contains(err.Error(), k.fronts[0].addr) || !strings.Contains(err.Error(), k.fronts[1].addr) {
				t.Errorf("the liars are not named: %v", err)
			}
			k.fronts[0].set(nil)
			k.fronts[1].set(nil)
			if s, err := c.Account(t.Context(), h, absent); err != nil || s.Exists {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// prune leaves out of a Merkle proof what is at the end of a path of references, below the proof's own one.
func prune(proof *cell.Cell, path ...int) *cell.Cell {
	root, err := proof.PeekRef(0)
	if err != nil {
		panic(err)
	}
	out, err := cell.BeginCell().MustStoreUInt(3, 8).MustStoreSlice(root.Hash(0), 256).MustStoreUInt(uint64(root.Depth(0)), 16).
		MustStoreRef(pruneBelow(root, path)).EndCellSpecial(true)
	if err != nil {
		panic(err)
	}
	return out
}

func pruneBelow(c *cell.Cell, path []int) *cell.Cell {
	if len(path) == 0 {
		out, err := cell.BeginCell().MustStoreUInt(1, 8).MustStoreUInt(1, 8).MustStoreSlice(c.Hash(0), 256).
			MustStoreUInt(uint64(c.Depth(0)), 16).EndCellSpecial(true)
		if err != nil {
			panic(err)
		}
		return out
	}
	s, err := c.BeginParse()
	if err != nil {
		panic(err)
	}
	b := cell.BeginCell().MustStoreSlice(s.MustLoadSlice(s.BitsLeft()), c.BitsSize())
	for i := range int(c.RefsNum()) {
		ref, err := c.PeekRef(i)
		if err != nil {
			panic(err)
		}
		if i == path[0] {
			ref = pruneBelow(ref, path[1:])
		}
		b.MustStoreRef(ref)
	}
	return b.EndCell()
}

// TestForgedBlocks: blocks that are not signed, or that are not what they say to be.
func TestForgedBlocks(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	for range 3 {
		k.mine()
	}
	id := k.newestBlock()
	forged := map[string]func(*ton.BlockIDExt){
		"another hash": func(b *ton.BlockIDExt) { b.RootHash[3] ^= 1 },
		"another file": func(b *ton.BlockIDExt) { b.FileHash[3] ^= 1 },
		// Signatures are over the hash only: with this, all true blocks would look old for years.
		"a number of the future": func(b *ton.BlockIDExt) { b.SeqNo += 1000000 },
		"a number of a key":      func(b *ton.BlockIDExt) { b.SeqNo = 1 },
		"another shard":          func(b *ton.BlockIDExt) { b.Shard = 1 },
		"another chain":          func(b *ton.BlockIDExt) { b.Workchain = 0 },
		"a short hash":           func(b *ton.BlockIDExt) { b.Shard = 0 },
	}
	for name, f := range forged {
		t.Run(name, func(t *testing.T) {
			c := k.client()
			fake := id.Copy()
			f(fake)
			k.fronts[0].set(func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
				switch q := q.(type) {
				case ton.GetMasterchainInf:
					return lagging(fake)(q, pass)
				case ton.GetBlockProof: // the proof of the true block, with the forged name on it
					p := k.proof(q.KnownBlock, id)
					if p == nil {
						return ton.LSError{Code: 651, Text: "no proof"}
					}
					p.To = fake
					if last, ok := p.Steps[len(p.Steps)-1].(ton.BlockLinkForward); ok {
						last.To = fake
						p.Steps[len(p.Steps)-1] = last
					}
					return *p
				case ton.GetBlockHeader:
					var answer tl.Serializable
					if k.pool.QueryLiteserver(t.Context(), ton.GetBlockHeader{ID: id}, &answer) != nil {
						return nil
					}
					return answer
				}
				return pass()
			})
			k.fronts[1].set(func(tl.Serializable, func() tl.Serializable) tl.Serializable {
				return ton.LSError{Code: 228, Text: "busy"}
			})
			if h, err := c.Head(t.Context()); err == nil {
				t.Errorf("it is believed: %+v", h)
			}
			k.fronts[1].set(nil)
			if h, err := c.Head(t.Context()); err != nil || h.Seqno != id.SeqNo {
				t.Errorf("the other one is: %+v, %v", h, err)
			}
			if !k.logs.has(k.fronts[0].addr) {
				t.Error("the liar is not named")
			}
		})
	}
}

func (k *chain) proof(from, to *ton.BlockIDExt) *ton.PartialBlockProof {
	p, err := k.api.GetBlockProof(k.t.Context(), from, to)
	if err != nil || len(p.Steps) == 0 {
		return nil
	}
	return p
}

// TestSilent: a liteserver that never answers costs one deadline, and is asked last then.
func TestSilent(t *testing.T) {
	k := newChain(t, devnet.Options{}, 3)
	c := k.client()
	k.fronts[0].set(silent)
	k.fronts[1].set(silent)
	for range 5 {
		k.state(c, someone("x"))
	}
	k.fronts[2].set(silent)
	h, err := c.Head(t.Context())
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), errNoAnswer.Error()) {
		t.Errorf("all silent: %+v, %v", h, err)
	}
}

// TestFlaky: errors at random, of the kinds that liteservers have.
func TestFlaky(t *testing.T) {
	k := newChain(t, devnet.Options{}, 3)
	c := k.client()
	for i, f := range k.fronts {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		f.set(func(_ tl.Serializable, pass func() tl.Serializable) tl.Serializable {
			f.mu.Lock()
			n := r.IntN(8)
			f.mu.Unlock()
			switch n {
			case 0:
				return ton.LSError{Code: 651, Text: "block is not applied"}
			case 1:
				return ton.LSError{Code: -400, Text: "cannot load block"}
			case 2:
				return ton.CurrentTime{Now: 1}
			}
			return pass()
		})
	}
	who := someone("x")
	var after Cursor
	var total nanoton.Amount
	failed := 0
	for i := range 30 {
		k.fund(who, nanoton.Amount(i+1), "")
		k.mine()
		h, err := c.Head(t.Context())
		if err != nil {
			failed++
			continue
		}
		s, err := c.Account(t.Context(), h, who)
		if err != nil {
			failed++
			continue
		}
		list, err := c.Transactions(t.Context(), s, after, 100)
		if err != nil {
			failed++
			continue
		}
		for _, x := range list {
			total += x.Change()
			after = x.Cursor
		}
		if total != s.Balance {
			t.Fatalf("%v of %v", total, s.Balance)
		}
	}
	if failed > 20 {
		t.Errorf("%d of 30 rounds failed", failed)
	}
}

// TestReconnect: connections that break end the questions on them at once, and are made anew.
func TestReconnect(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	conf := k.config()
	conf.Answer = 20 * time.Second
	c := k.open(conf)
	k.state(c, someone("x"))
	k.fronts[0].set(silent)
	got := make(chan error, 1)
	before := k.fronts[0].questions()
	go func() {
		_, err := c.Head(t.Context())
		got <- err
	}()
	for k.fronts[0].questions() == before {
		time.Sleep(time.Millisecond)
	}
	k.fronts[0].stop()
	if err := <-got; !errors.Is(err, errGone) { // long before the deadline
		t.Errorf("%v", err)
	}
	if _, err := c.Head(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("it is gone: %v", err)
	}
	k.fronts[0].set(nil)
	k.fronts[0].start()
	for i := 0; ; i++ {
		_, err := c.Head(t.Context())
		if err == nil {
			break
		}
		if i == 400 {
			t.Fatalf("it does not come back: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestOpen works with one of the liteservers, and says why there is none.
func TestOpen(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	conf := k.config()
	k.fronts[0].stop()
	c := k.open(conf)
	k.state(c, someone("x"))
	k.fronts[1].stop()
	if _, err := Open(t.Context(), conf); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), k.fronts[1].addr) {
		t.Errorf("all gone: %v", err)
	}
	for _, bad := range []string{
		"", "{}", `{"liteservers":[]}`, `{"liteservers":[{"ip":1,"port":1,"id":{"key":"AA=="}}]}`,
		strings.Replace(string(conf.Network), `"root_hash":"`, `"root_hash":"AAAA`, 2),
		strings.Replace(string(conf.Network), `"port":`, `"port":9`, 1),
	} {
		conf.Network = []byte(bad)
		if _, err := Open(t.Context(), conf); err == nil {
			t.Errorf("a network like %.80q", bad)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Head(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestCloseEnds: Close ends what is in progress.
func TestCloseEnds(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	conf := k.config()
	conf.Answer = time.Hour
	c := k.open(conf)
	k.fronts[0].set(silent)
	got := make(chan error, 1)
	before := k.fronts[0].questions()
	go func() {
		_, err := c.Head(t.Context())
		got <- err
	}()
	for k.fronts[0].questions() == before {
		time.Sleep(time.Millisecond)
	}
	_ = c.Close()
	if err := <-got; !errors.Is(err, errClosed) {
		t.Errorf("%v", err)
	}
}
