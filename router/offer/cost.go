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
