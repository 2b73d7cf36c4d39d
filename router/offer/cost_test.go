package offer

import (
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"cocoon/internal/nanoton"
)

func TestCost(t *testing.T) {
	for _, c := range []struct {
		name  string
		price Price
		usage Usage
		want  nanoton.Amount
	}{
		{"nothing", Price{10, 1, 30}, Usage{}, 0},
		{"free", Price{}, Usage{1000, 0, 1000, 0}, 0},
		{"one token of the cheapest", Price{1, 0, 0}, Usage{1, 0, 0, 0}, 1},
		{"exact", Price{1000, 100, 3000}, Usage{In: 1000, Out: 1000}, 4},
		{"one above exact", Price{1000, 100, 3000}, Usage{In: 1001, Out: 1000}, 5},
		{"cached is not read", Price{1000, 100, 3000}, Usage{In: 1000, Cached: 1000}, 1},
		{"rounded once, not per part", Price{1, 1, 1}, Usage{In: 2, Cached: 1, Out: 1}, 1},
		{"reasoning is in out", Price{0, 0, 1_000_000}, Usage{Out: 5, Reasoning: 5}, 5},
		{
			"the most",
			Price{PriceMax, PriceMax, PriceMax},
			Usage{In: TokensMax, Cached: 7, Out: TokensMax, Reasoning: TokensMax},
			2 * (TokensMax * 1_000_000),
		},
	} {
		if got, err := c.price.Cost(c.usage); err != nil || got != c.want {
			t.Errorf("%s: %d, %v, want %d", c.name, got, err, c.want)
		}
	}
}

func TestCostRefuses(t *testing.T) {
	one := Price{1, 1, 1}
	for _, u := range []Usage{
		{In: -1},
		{Cached: 1},
		{In: 1, Cached: -1},
		{Out: TokensMax + 1},
		{In: math.MaxInt64},
		{Reasoning: 1},
		{Out: 2, Reasoning: 3},
	} {
		if got, err := one.Cost(u); !errors.Is(err, ErrUsage) {
			t.Errorf("%+v costs %d, %v, want ErrUsage", u, got, err)
		}
	}
	if got, err := (Price{In: -1}).Cost(Usage{}); err == nil {
		t.Errorf("a negative price makes %d", got)
	}
}

func TestCostIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := func(name string) nanoton.Amount {
			return nanoton.Amount(rapid.Int64Range(0, int64(PriceMax)).Draw(t, name))
		}
		p := Price{price("in"), price("cached"), price("out")}
		u := Usage{In: rapid.Int64Range(0, TokensMax).Draw(t, "in"), Out: rapid.Int64Range(0, TokensMax).Draw(t, "out")}
		u.Cached = rapid.Int64Range(0, u.In).Draw(t, "cached")
		sum := new(big.Int)
		for _, part := range [][2]int64{{u.In - u.Cached, int64(p.In)}, {u.Cached, int64(p.Cached)}, {u.Out, int64(p.Out)}} {
			sum.Add(sum, new(big.Int).Mul(big.NewInt(part[0]), big.NewInt(part[1])))
		}
		sum.Add(sum, big.NewInt(perMTok-1)).Div(sum, big.NewInt(perMTok))
		if got, err := p.Cost(u); err != nil || !sum.IsInt64() || int64(got) != sum.Int64() {
			t.Fatalf("%+v of %+v: %d, %v, want %v", p, u, got, err, sum)
		}
	})
}

func TestWithFee(t *testing.T) {
	for _, c := range []struct {
		price Price
		ppm   int64
		want  Price
	}{
		{Price{1000, 100, 3000}, 0, Price{1000, 100, 3000}},
		{Price{1000, 100, 3000}, 50_000, Price{1050, 105, 3150}},
		{Price{1, 0, 7}, 1, Price{2, 0, 8}}, // rounded up, but nothing stays nothing
		{Price{10, 10, 10}, FeeMax, Price{20, 20, 20}},
		{Price{10, 10, 10}, 2 * FeeMax, Price{20, 20, 20}},
		{Price{10, 10, 10}, -1, Price{10, 10, 10}},
		{Price{PriceMax, PriceMax - 1, 0}, FeeMax, Price{PriceMax, PriceMax, 0}},
	} {
		if got := c.price.WithFee(c.ppm); got != c.want || got.Validate() != nil {
			t.Errorf("%+v with %d ppm is %+v, want %+v", c.price, c.ppm, got, c.want)
		}
	}
}

// TestAffords holds what is held against what can be billed: never more than the ceiling, and the ceiling of what an
// amount affords never above it.
func TestAffords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		price := func(name string) nanoton.Amount {
			return nanoton.Amount(rapid.Int64Range(0, int64(PriceMax)).Draw(t, name))
		}
		p := Price{price("in"), price("cached"), price("out")}
		in := rapid.Int64Range(0, 1<<30).Draw(t, "in")
		amount := nanoton.Amount(rapid.Int64Range(0, math.MaxInt64/4).Draw(t, "amount"))
		n := p.Affords(amount, in)
		if n < 0 {
			if least, err := p.Ceiling(in, 0); err != nil || least <= amount {
				t.Fatalf("%+v: %d do not afford %d tokens to read, which cost %d, %v", p, amount, in, least, err)
			}
			return
		}
		ceiling, err := p.Ceiling(in, n)
		if err != nil || ceiling > amount && p.Out > 0 {
			t.Fatalf("%+v: %d afford %d tokens, which cost %d, %v", p, amount, n, ceiling, err)
		}
		u := Usage{In: rapid.Int64Range(0, in).Draw(t, "used"), Out: rapid.Int64Range(0, n).Draw(t, "made")}
		u.Cached = rapid.Int64Range(0, u.In).Draw(t, "cached")
		if cost, err := p.Cost(u); err != nil || cost > ceiling {
			t.Fatalf("%+v: %+v costs %d, %v, more than the ceiling %d", p, u, cost, err, ceiling)
		}
	})
}
