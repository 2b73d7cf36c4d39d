package offer

import (
	"errors"
	"fmt"
	"math/bits"

	"cocoon/internal/nanoton"
)

// TokensMax bounds each count of a Usage: no request has a trillion tokens, and the cost of so many at PriceMax fits an
// Amount.
const TokensMax = 1 << 40

// perMTok is what prices are for: so many tokens.
const perMTok = 1_000_000

// ErrUsage marks counts of tokens that can't be.
var ErrUsage = errors.New("impossible usage")

// Usage is what a request took, tokens. In counts Cached too, and Out counts Reasoning.
type Usage struct {
	In, Cached, Out, Reasoning int64
}

// Validate checks that each count is between zero and TokensMax, and that no part is more than its whole.
func (u Usage) Validate() error {
	for _, n := range []int64{u.In, u.Cached, u.Out, u.Reasoning} {
		if n < 0 || n > TokensMax {
			return fmt.Errorf("%w: %d tokens, want 0 to %d", ErrUsage, n, int64(TokensMax))
		}
	}
	if u.Cached > u.In {
		return fmt.Errorf("%w: %d tokens cached of %d read", ErrUsage, u.Cached, u.In)
	}
	if u.Reasoning > u.Out {
		return fmt.Errorf("%w: %d tokens of reasoning among %d made", ErrUsage, u.Reasoning, u.Out)
	}
	return nil
}

// Cost is what the usage costs at this price, rounded up once: ((In-Cached)*p.In + Cached*p.Cached + Out*p.Out) / 10^6.
// It is exact for every valid price and usage, and fails for others.
func (p Price) Cost(u Usage) (nanoton.Amount, error) {
	if err := p.Validate(); err != nil {
		return 0, err
	}
	if err := u.Validate(); err != nil {
		return 0, err
	}
	high, low := uint64(0), uint64(perMTok-1) // so that the division rounds up
	for _, part := range [][2]uint64{
		{uint64(u.In - u.Cached), uint64(p.In)}, {uint64(u.Cached), uint64(p.Cached)}, {uint64(u.Out), uint64(p.Out)},
	} {
		h, l := bits.Mul64(part[0], part[1])
		var carry uint64
		low, carry = bits.Add64(low, l, 0)
		high, _ = bits.Add64(high, h, carry) // three products of 80 bits
	}
	cost, _ := bits.Div64(high, low, perMTok) // at most 2*TokensMax*PriceMax/perMTok: a quarter of an Amount's range
	return nanoton.Amount(cost), nil
}

// FeeMax bounds a gateway's fee, parts per million of the worker's price: as much again.
const FeeMax = 1_000_000

// WithFee is the price with a gateway's share on top, parts per million, each part rounded up to a whole nanoTON per
// million tokens: what customers see and pay. It never goes beyond PriceMax, and never below the price itself.
func (p Price) WithFee(ppm int64) Price {
	ppm = min(max(ppm, 0), FeeMax)
	part := func(a nanoton.Amount) nanoton.Amount { // at most 2e18: fits
		fee := (int64(a)*ppm + 999_999) / 1_000_000
		return max(a, min(a+nanoton.Amount(fee), PriceMax))
	}
	return Price{part(p.In), part(p.Cached), part(p.Out)}
}

// Ceiling is the most that a request can cost with at most in tokens to read and out to make.
func (p Price) Ceiling(in, out int64) (nanoton.Amount, error) {
	p.In = max(p.In, p.Cached) // whichever of them the prompt is billed as
	return p.Cost(Usage{In: in, Out: out})
}

// Affords is how many tokens of answer an amount pays for after in tokens to read; negative if not even those.
func (p Price) Affords(amount nanoton.Amount, in int64) int64 {
	whole, err := p.Ceiling(in, 0)
	if err != nil || amount < whole {
		return -1
	}
	if p.Out == 0 {
		return TokensMax
	}
	// The part of a nanoTON that rounding up may have added is not counted on.
	high, low := bits.Mul64(uint64(amount-whole), perMTok)
	if high >= uint64(p.Out) {
		return TokensMax
	}
	n, _ := bits.Div64(high, low, uint64(p.Out))
	return int64(min(n, TokensMax))
}
