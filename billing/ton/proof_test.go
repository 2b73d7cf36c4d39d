package ton

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"cocoon/billing/ton/devnet"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
)

// A proof says the same as the chain, by itself; of accounts that exist and of those that don't, in both chains.
func TestProof(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	rich, nobody := Address{Hash: [32]byte{1}}, Address{Hash: [32]byte{2}}
	k.fund(rich, 7_000_000_000, "")
	k.mine()
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []Address{rich, nobody, {Workchain: -1, Hash: [32]byte{3}}} {
		want, err := c.Account(t.Context(), h, a)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Prove(t.Context(), k.network(), h, a, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParseProof(k.network(), text)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range []State{p.State, q.State} {
			if got.Balance != want.Balance || got.Exists != want.Exists || got.Last != want.Last || got.Address != a ||
				got.At.Seqno != h.Seqno || !got.At.Time.Equal(h.Time) {
				t.Errorf("%s: %+v, want %+v", a.Raw(), got, want)
			}
		}
		again, err := q.Encode()
		if err != nil || !bytes.Equal(again, text) {
			t.Errorf("encoded again it is another: %v", err)
		}
		k.mine()
		next, err := c.Next(t.Context(), h.Seqno)
		if err != nil {
			t.Fatal(err)
		}
		if later, err := c.Prove(t.Context(), k.network(), next, a, q); err != nil || later.State.At.Seqno != next.Seqno {
			t.Errorf("a later one: %+v, %v", later, err)
		}
	}
}

// Changed proofs, and those of other networks, are refused, or say the same.
func TestProofForged(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	a := Address{Hash: [32]byte{1}}
	k.fund(a, 7_000_000_000, "")
	k.mine()
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Prove(t.Context(), k.network(), h, a, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	other := newChain(t, devnet.Options{Seed: 5}, 1)
	if _, err := ParseProof(other.network(), text); !errors.Is(err, ErrProof) {
		t.Errorf("another network's: %v", err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		bad := bytes.Clone(text)
		for range 1 + random.IntN(3) {
			bad[random.IntN(len(bad))] ^= 1 << random.IntN(8)
		}
		q, err := ParseProof(k.network(), bad)
		if err == nil && (q.State.Balance != p.State.Balance || q.State.Address != a || q.State.At.Seqno != h.Seqno) {
			t.Fatalf("%+v", q.State)
		}
		if err != nil && !errors.Is(err, ErrProof) {
			t.Fatal(err)
		}
	}
	late := strings.Replace(string(text), `"seqno":`, `"seqno":1`, 1)
	if _, err := ParseProof(k.network(), []byte(late)); !errors.Is(err, ErrProof) {
		t.Errorf("another number: %v", err)
	}
}

// A liteserver can't have a proof made of what is not so.
func TestProveLied(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	c := k.client()
	a, b := Address{Hash: [32]byte{1}}, Address{Hash: [32]byte{2}}
	k.fund(a, 7_000_000_000, "")
	k.fund(b, 9_000_000_000, "")
	k.mine()
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k.Faults().Hook(func(q tl.Serializable) (tl.Serializable, bool) {
		g, ok := q.(ton.GetAccountState)
		if !ok || !bytes.Equal(g.Account.ID, a.Hash[:]) {
			return nil, false
		}
		var answer tl.Serializable
		g.Account.ID = b.Hash[:]
		if err := k.pool.QueryLiteserver(t.Context(), g, &answer); err != nil {
			return nil, true
		}
		return answer, true
	})
	if p, err := c.Prove(t.Context(), k.network(), h, a, nil); !errors.Is(err, ErrProof) {
		t.Errorf("another account's state: %v, %v", p != nil, err)
	}
	if _, err := c.Prove(t.Context(), k.network(), h, b, nil); err != nil {
		t.Error(err)
	}
}

func FuzzParseProof(f *testing.F) {
	k := newChain(f, devnet.Options{}, 1)
	c := k.client()
	a := Address{Hash: [32]byte{1}}
	k.fund(a, 7_000_000_000, "")
	k.mine()
	h, err := c.Head(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	p, err := c.Prove(f.Context(), k.network(), h, a, nil)
	if err != nil {
		f.Fatal(err)
	}
	text, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	network := k.network()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := ParseProof(network, text)
		if err == nil && q.State.At.Seqno == h.Seqno && q.State.Address == a && q.State.Balance != p.State.Balance {
			t.Fatalf("%+v", q.State)
		}
	})
}
