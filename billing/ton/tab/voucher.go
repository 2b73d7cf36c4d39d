package tab

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// VoucherMax bounds a voucher's BoC, bytes; one takes about 220.
const VoucherMax = 1024

// opSettle begins a voucher, so that no other thing that the key signs can be taken for one.
const opSettle = 0x7ab5e771

// Voucher says what the payee is to have. Anyone may bring it to the contract, which pays what it can: the newest is worth
// what all before it are worth. It cannot bring money to the owner, who has to close and wait.
type Voucher struct {
	Tab        ton.Address
	ValidUntil time.Time      // by the chain's clock, that second included
	Cumulative nanoton.Amount // all that is due to the payee since the tab's beginning
	Root       [32]byte       // of the log of receipts that justifies Cumulative
}

// check returns ErrVoucher.
func (v Voucher) check() error {
	switch {
	case v.Tab.IsZero() || v.Tab.Workchain != 0:
		return fmt.Errorf("%w: no tab", ErrVoucher)
	case v.ValidUntil.IsZero() || !fits(v.ValidUntil):
		return fmt.Errorf("%w: valid until %v", ErrVoucher, v.ValidUntil)
	case v.Cumulative <= 0:
		return fmt.Errorf("%w: cumulative %v", ErrVoucher, v.Cumulative)
	}
	return nil
}

// cell is what is signed.
func (v Voucher) cell() *cell.Cell {
	return cell.BeginCell().
		MustStoreUInt(opSettle, 32).
		MustStoreAddr(v.Tab.Std()).
		MustStoreUInt(uint64(stamp(v.ValidUntil)), 32).
		MustStoreBigCoins(big.NewInt(int64(v.Cumulative))).
		MustStoreSlice(v.Root[:], 256).
		EndCell()
}

// Sign signs a voucher, and returns the BoC that Message and ParseVoucher take. The error is ErrVoucher, or the signer's.
func Sign(ctx context.Context, s wallet.Signer, v Voucher) ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	c := v.cell()
	signature, err := s.Sign(ctx, c.Hash())
	if err != nil {
		return nil, fmt.Errorf("signing a voucher: %w", err)
	}
	if !verify(s.Public(), c, signature) {
		return nil, fmt.Errorf("%w: the signer's signature is wrong", ErrVoucher)
	}
	return cell.BeginCell().MustStoreSlice(signature, 512).MustStoreRef(c).EndCell().ToBOC(), nil
}

// ParseVoucher reads a voucher and checks its signature. It takes exactly what Sign makes. The error is ErrVoucher.
func ParseVoucher(body []byte, signer ed25519.PublicKey) (Voucher, error) {
	root, err := parseBOC(body, VoucherMax)
	if err != nil {
		return Voucher{}, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	v, err := parseVoucher(root, signer)
	if err != nil {
		return Voucher{}, err
	}
	return v, v.check()
}

func parseVoucher(root *cell.Cell, signer ed25519.PublicKey) (Voucher, error) {
	r := reader{}
	r.open(root)
	first, second := r.hash(), r.hash()
	c := r.ref()
	r.end()
	r.open(c)
	op := r.uint(32)
	v := Voucher{Tab: r.address()}
	v.ValidUntil = moment(r.uint(32))
	v.Cumulative, v.Root = r.coins(), r.hash()
	r.end()
	if r.err != nil {
		return Voucher{}, fmt.Errorf("%w: %w", ErrVoucher, r.err)
	}
	if op != opSettle || [32]byte(v.cell().Hash()) != [32]byte(c.Hash()) { // some other way to write the same
		return Voucher{}, fmt.Errorf("%w: it is something else", ErrVoucher)
	}
	if !verify(signer, c, append(first[:], second[:]...)) {
		return Voucher{}, fmt.Errorf("%w: signature", ErrVoucher)
	}
	return v, nil
}

// verify does not panic, whatever the key is.
func verify(key ed25519.PublicKey, c *cell.Cell, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, c.Hash(), signature)
}

func (r *reader) address() ton.Address {
	if r.err != nil {
		return ton.Address{}
	}
	std, err := r.s.LoadAddr()
	if err != nil {
		r.err = err
		return ton.Address{}
	}
	a, err := ton.FromStd(std)
	r.err = err
	return a
}

// parseBOC reads a BoC of one root, two cells, and a bounded size.
func parseBOC(boc []byte, most int) (*cell.Cell, error) {
	if len(boc) > most {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(boc), most)
	}
	roots, err := cell.FromBOCMultiRootWithOptions(boc, cell.BOCParseOptions{MaxCells: 2})
	if err != nil {
		return nil, err
	}
	if len(roots) != 1 {
		return nil, fmt.Errorf("%d roots", len(roots))
	}
	return roots[0], nil
}

// Message makes the external message that brings a voucher to its tab, and deploys the tab if it is not. Anyone may send
// it. The terms of a deployed tab may be its State's: of them, only the signer counts. Errors: ErrTerms, ErrVoucher.
func Message(t Terms, deployed bool, body []byte) ([]byte, error) {
	var init *tlb.StateInit
	var at ton.Address
	if !deployed {
		var err error
		if init, err = t.Init(); err != nil {
			return nil, err
		}
		if at, err = t.Address(); err != nil {
			return nil, err
		}
	}
	v, err := ParseVoucher(body, t.Signer)
	if err != nil {
		return nil, err
	}
	if !deployed && v.Tab != at {
		return nil, fmt.Errorf("%w: it is for the tab %s, not %s", ErrVoucher, v.Tab, at)
	}
	root, err := parseBOC(body, VoucherMax)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVoucher, err)
	}
	return ton.ExternalTo(v.Tab, init, root)
}
