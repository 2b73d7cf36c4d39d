// Package tab is the client of the tab contract: an escrow that its owner fills, that one payee is paid from by signed
// vouchers, and that the owner can close alone after a delay.
package tab

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
	"cocoon/internal/nanoton"
)

// Errors that callers branch on.
var (
	// ErrTerms marks terms that no tab may have.
	ErrTerms = errors.New("impossible terms of a tab")
	// ErrUndeployed says that there is no contract at the address yet: nothing was drawn, and the terms hold.
	ErrUndeployed = errors.New("the tab is not deployed yet")
	// ErrForeign says that the account is not a tab: its code or data are something else.
	ErrForeign = errors.New("not a tab")
	// ErrVoucher marks a voucher that cannot be read, is not signed by the right key, or says what no tab would do.
	ErrVoucher = errors.New("not a good voucher")
	// ErrKit marks a recovery kit that cannot be read or does not fit together.
	ErrKit = errors.New("not a good recovery kit")
)

// CloseDelayMax bounds the time that an owner waits for his money. It also keeps the contract's 32-bit time from
// overflowing, which would lock the owner out.
const CloseDelayMax = 366 * 24 * time.Hour

// Terms are what a tab is about. They never change, but for the limit, which the owner may raise; and they give its
// address.
type Terms struct {
	Owner, Payee ton.Address       // both of the basechain
	Signer       ed25519.PublicKey // of the vouchers
	Salt         uint64            // tells tabs of one owner apart, and networks: a voucher names nothing but the address
	CloseDelay   time.Duration     // between the owner's close and his money; whole seconds, up to CloseDelayMax
	Base, Rate   nanoton.Amount    // the limit of all draws together: Base + Rate for each second after Since
	Since        time.Time         // whole seconds; may be zero if Rate is
}

// check returns ErrTerms.
func (t Terms) check() error {
	switch {
	case t.Owner.IsZero() || t.Payee.IsZero() || t.Owner.Workchain != 0 || t.Payee.Workchain != 0:
		return fmt.Errorf("%w: owner and payee have to be accounts of the basechain", ErrTerms)
	case len(t.Signer) != ed25519.PublicKeySize || bytes.Equal(t.Signer, make([]byte, ed25519.PublicKeySize)):
		return fmt.Errorf("%w: signer is not an Ed25519 key", ErrTerms)
	case t.CloseDelay < time.Second || t.CloseDelay > CloseDelayMax || t.CloseDelay%time.Second != 0:
		return fmt.Errorf("%w: close delay %v", ErrTerms, t.CloseDelay)
	case t.Base < 0 || t.Rate < 0:
		return fmt.Errorf("%w: limit below zero", ErrTerms)
	case !fits(t.Since) || t.Since.IsZero() && t.Rate != 0:
		return fmt.Errorf("%w: limit counted since %v", ErrTerms, t.Since)
	}
	return nil
}

// LimitAt is what all draws together may come to at that time. It is MaxInt64 where it is more.
func (t Terms) LimitAt(at time.Time) nanoton.Amount {
	seconds := max(int64(stamp(at))-int64(stamp(t.Since)), 0)
	sum := new(big.Int).Mul(big.NewInt(int64(t.Rate)), big.NewInt(seconds))
	return clip(sum.Add(sum, big.NewInt(int64(t.Base))))
}

// Init returns the state that the contract is deployed with. The error is ErrTerms.
func (t Terms) Init() (*tlb.StateInit, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	code, err := contracts.Tab()
	if err != nil {
		return nil, err
	}
	return &tlb.StateInit{Code: code, Data: t.data()}, nil
}

// data is the contract's first state.
func (t Terms) data() *cell.Cell {
	parties := cell.BeginCell().
		MustStoreSlice(t.Owner.Hash[:], 256).
		MustStoreSlice(t.Payee.Hash[:], 256).
		MustStoreSlice(t.Signer, 256).
		MustStoreUInt(t.Salt, 64).
		MustStoreUInt(uint64(t.CloseDelay/time.Second), 32).
		EndCell()
	b := cell.BeginCell().MustStoreBigCoins(new(big.Int)).MustStoreUInt(0, 32)
	storeLimit(b, t.Base, t.Rate, t.Since)
	return b.MustStoreSlice(make([]byte, 32), 256).MustStoreRef(parties).EndCell()
}

// Address returns where the tab is or will be: money may be sent there before it is deployed, if the message is not marked
// as bounceable. The error is ErrTerms.
func (t Terms) Address() (ton.Address, error) {
	init, err := t.Init()
	if err != nil {
		return ton.Address{}, err
	}
	c, err := tlb.ToCell(init)
	if err != nil {
		return ton.Address{}, fmt.Errorf("packing a tab's state: %w", err)
	}
	return ton.Address{Hash: [32]byte(c.Hash())}, nil
}

// storeLimit stores a limit as the contract has it. Amounts below zero are zero.
func storeLimit(b *cell.Builder, base, rate nanoton.Amount, since time.Time) {
	b.MustStoreBigCoins(big.NewInt(int64(max(base, 0)))).
		MustStoreBigCoins(big.NewInt(int64(max(rate, 0)))).
		MustStoreUInt(uint64(stamp(since)), 32)
}

// fits tells whether a time can be given in the contract's 32 bits; the zero time can, as 0.
func fits(t time.Time) bool {
	return t.IsZero() || t.Nanosecond() == 0 && t.Unix() > 0 && t.Unix() <= math.MaxUint32
}

// stamp is a time as the contract has it; what is out of its range becomes its end.
func stamp(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// moment inverts stamp.
func moment(u uint64) time.Time {
	if u == 0 {
		return time.Time{}
	}
	return time.Unix(int64(u), 0).UTC()
}

// clip makes an amount of what is not negative; what is more than fits is MaxInt64.
func clip(n *big.Int) nanoton.Amount {
	if !n.IsInt64() {
		return math.MaxInt64
	}
	return nanoton.Amount(n.Int64())
}
