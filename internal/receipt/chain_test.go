package receipt

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"cocoon/router/offer"
)

// follow is a receipt after s, with more tokens.
func follow(t testing.TB, s *Signed, kind Kind, change func(*Receipt)) *Signed {
	t.Helper()
	r := s.Receipt
	r.Seq, r.Prev, r.Kind = s.Seq+1, s.ID(), kind
	if kind == Interim {
		r.Status = OK
	}
	r.Tokens.Out += 256
	r.End += 2000
	if change != nil {
		change(&r)
	}
	r.Cost, _ = r.Price.Cost(r.Tokens)
	return mustSign(t, r)
}

func first(t testing.TB) *Signed {
	t.Helper()
	r := sample()
	r.Kind = Interim
	return mustSign(t, r)
}

func TestChain(t *testing.T) {
	a := first(t)
	b := follow(t, a, Interim, nil)
	c := follow(t, b, Interim, nil)
	d := follow(t, c, Final, func(r *Receipt) { r.Status = Length })
	var chain Chain
	for _, s := range []*Signed{a, b, c, d} {
		if err := chain.Add(s); err != nil || chain.Last() != s {
			t.Fatal(err)
		}
		again, err := Parse(s.Wire())
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.Add(again); !errors.Is(err, ErrDuplicate) {
			t.Errorf("duplicate: %v", err)
		}
	}
	for _, s := range []*Signed{a, b, c, follow(t, d, Final, nil), follow(t, d, Interim, nil)} {
		if err := chain.Jump(s); !errors.Is(err, ErrLate) {
			t.Errorf("late: %v", err)
		}
	}
	if chain.Last() != d {
		t.Error("a late receipt changed the chain")
	}
}

func TestChainGaps(t *testing.T) {
	a := first(t)
	b := follow(t, a, Interim, nil)
	c := follow(t, b, Final, nil)
	var chain Chain
	if err := chain.Add(c); !errors.Is(err, ErrGap) || chain.Last() != nil {
		t.Errorf("begins in the middle: %v", err)
	}
	if err := chain.Add(a); err != nil {
		t.Fatal(err)
	}
	if err := chain.Add(c); !errors.Is(err, ErrGap) || chain.Last() != a {
		t.Errorf("gap: %v", err)
	}
	if err := chain.Jump(c); err != nil {
		t.Errorf("jump: %v", err)
	}
	if err := chain.Jump(b); !errors.Is(err, ErrLate) {
		t.Errorf("what was missing comes late: %v", err)
	}
	if err := new(Chain).Jump(c); err != nil {
		t.Errorf("jump to the end: %v", err)
	}
	backwards := follow(t, b, Final, func(r *Receipt) { r.Tokens.Out = 1; r.Tokens.Reasoning = 0 })
	chain = Chain{last: a}
	if err := chain.Jump(backwards); !errors.Is(err, ErrFork) {
		t.Errorf("fewer tokens after a gap: %v", err)
	}
}

func TestChainForks(t *testing.T) {
	a := first(t)
	b := follow(t, a, Interim, nil)
	for name, change := range map[string]func(*Receipt){
		"request":          func(r *Receipt) { r.Request = "req_0b0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a" },
		"route":            func(r *Receipt) { r.Route = sum(99) },
		"worker":           func(r *Receipt) { r.Worker = sum(99) },
		"epoch":            func(r *Receipt) { r.Epoch++ },
		"keyset":           func(r *Receipt) { r.Keyset = sum(99) },
		"model":            func(r *Receipt) { r.Model = "other" },
		"weights":          func(r *Receipt) { r.Weights = sum(99) },
		"engine":           func(r *Receipt) { r.Engine = sum(99) },
		"mode":             func(r *Receipt) { r.Mode = Sealed },
		"price":            func(r *Receipt) { r.Price.In++ },
		"prev":             func(r *Receipt) { r.Prev = sum(99) },
		"prev of a":        func(r *Receipt) { r.Prev = a.ID() },
		"req":              func(r *Receipt) { r.Req = sum(99) },
		"start":            func(r *Receipt) { r.Start++ },
		"end":              func(r *Receipt) { r.End = b.End - 1 },
		"ttft":             func(r *Receipt) { r.TTFT++ },
		"tokens in":        func(r *Receipt) { r.Tokens.In-- },
		"tokens cached":    func(r *Receipt) { r.Tokens.Cached-- },
		"tokens out":       func(r *Receipt) { r.Tokens.Out = b.Tokens.Out - 1 },
		"tokens reasoning": func(r *Receipt) { r.Tokens.Reasoning-- },
	} {
		chain := Chain{last: b}
		if err := chain.Jump(follow(t, b, Final, change)); !errors.Is(err, ErrFork) || chain.Last() != b {
			t.Errorf("%s: %v", name, err)
		}
	}
	chain := Chain{last: b}
	if err := chain.Jump(follow(t, a, Interim, func(r *Receipt) { r.Tokens.Out++ })); !errors.Is(err, ErrFork) {
		t.Errorf("another of the same seq: %v", err)
	}
	if err := chain.Add(follow(t, b, Final, func(r *Receipt) { r.Status, r.Tokens = Error, offer.Usage{} })); err != nil {
		t.Errorf("an error in the end: %v", err)
	}
}

// Whatever order receipts come in, the chain only moves forward, and ends at the final one if that came.
func TestChainOrder(t *testing.T) {
	all := []*Signed{first(t)}
	for range 5 {
		all = append(all, follow(t, all[len(all)-1], Interim, nil))
	}
	all = append(all, follow(t, all[len(all)-1], Final, nil))
	rapid.Check(t, func(t *rapid.T) {
		var chain Chain
		highest := -1
		for _, i := range rapid.SliceOf(rapid.IntRange(0, len(all)-1)).Draw(t, "order") {
			err := chain.Jump(all[i])
			switch {
			case i > highest && err != nil, i == highest && !errors.Is(err, ErrDuplicate), i < highest && !errors.Is(err, ErrLate):
				t.Fatalf("%d after %d: %v", i, highest, err)
			}
			highest = max(highest, i)
			if chain.Last() != all[highest] {
				t.Fatalf("the last is not %d", highest)
			}
		}
	})
}
