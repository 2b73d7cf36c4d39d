package tab

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
	"cocoon/internal/nanoton"
)

// State is a deployed tab, as of a block.
type State struct {
	// Terms hold the limit as it is now (of what an owner raised beyond MaxInt64, that).
	Terms
	// Address is the account's. It is not Terms.Address, which follows from the first limit.
	Address ton.Address
	// Balance is all that is in the tab; what can leave it is Costs.Reserve less.
	Balance nanoton.Amount
	// Drawn is all that was ever paid to the payee.
	Drawn nanoton.Amount
	// CloseAt is until when vouchers are taken, if the owner closes it; after it anyone may finish. Zero: it is open.
	CloseAt time.Time
	// Root is of the log of receipts that the last voucher committed to. Zero: none was.
	Root [32]byte
}

// ParseState reads a tab's state, which must be proven. It knows a tab by its code, and cannot know what it was deployed
// with: only ask about addresses that Terms gave. Errors: ErrUndeployed, ErrForeign.
func ParseState(s ton.State) (State, error) {
	if !s.Active {
		return State{}, ErrUndeployed
	}
	if s.Code == nil || s.Data == nil || hex.EncodeToString(s.Code.Hash()) != contracts.TabHash {
		return State{}, fmt.Errorf("%w: %s has other code", ErrForeign, s.Address)
	}
	st := State{Address: s.Address, Balance: s.Balance}
	if err := st.parse(s.Data); err != nil {
		return State{}, fmt.Errorf("%w: state of %s: %w", ErrForeign, s.Address, err)
	}
	return st, nil
}

func (s *State) parse(data *cell.Cell) error {
	r := reader{}
	r.open(data)
	s.Drawn = r.coins()
	s.CloseAt = moment(r.uint(32))
	s.Base, s.Rate = r.limit(), r.limit()
	s.Since = moment(r.uint(32))
	s.Root = r.hash()
	parties := r.ref()
	r.end()
	r.open(parties)
	s.Owner.Hash, s.Payee.Hash = r.hash(), r.hash()
	key := r.hash()
	s.Signer = ed25519.PublicKey(key[:])
	s.Salt = r.uint(64)
	s.CloseDelay = time.Duration(r.uint(32)) * time.Second
	r.end()
	return r.err
}

// Payable is what the contract pays for a voucher of that total at that time, if so much is free: its balance less
// Costs.Reserve. It takes no voucher for less than Costs.Least.
func (s State) Payable(cumulative, free nanoton.Amount, at time.Time) nanoton.Amount {
	return max(min(min(cumulative, s.LimitAt(at))-s.Drawn, free), 0)
}

// reader reads cells; after the first error it gives zeros.
type reader struct {
	s   *cell.Slice
	err error
}

func (r *reader) open(c *cell.Cell) {
	if r.err == nil {
		r.s, r.err = c.BeginParse()
	}
}

func (r *reader) uint(bits uint) uint64 {
	if r.err != nil {
		return 0
	}
	var v uint64
	v, r.err = r.s.LoadUInt(bits)
	return v
}

func (r *reader) hash() (h [32]byte) {
	if r.err != nil {
		return h
	}
	var b []byte
	if b, r.err = r.s.LoadSlice(256); r.err == nil {
		copy(h[:], b)
	}
	return h
}

// limit reads coins; more than an Amount holds is MaxInt64, for the owner sets limits.
func (r *reader) limit() nanoton.Amount {
	if r.err != nil {
		return 0
	}
	v, err := r.s.LoadBigCoins()
	if err != nil {
		r.err = err
		return 0
	}
	return clip(v)
}

// coins reads coins that must fit an Amount.
func (r *reader) coins() nanoton.Amount {
	if r.err != nil {
		return 0
	}
	v, err := r.s.LoadBigCoins()
	if err == nil && !v.IsInt64() {
		err = ton.ErrAmount
	}
	if err != nil {
		r.err = err
		return 0
	}
	return nanoton.Amount(v.Int64())
}

func (r *reader) ref() *cell.Cell {
	if r.err != nil {
		return nil
	}
	var c *cell.Cell
	c, r.err = r.s.LoadRefCell()
	return c
}

// end wants nothing to be left.
func (r *reader) end() {
	if r.err == nil && (r.s.BitsLeft() != 0 || r.s.RefsNum() != 0) {
		r.err = fmt.Errorf("%d bits and %d references too many", r.s.BitsLeft(), r.s.RefsNum())
	}
}
