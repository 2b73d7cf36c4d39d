// Package wallet is what signs on the chain: sealed keys, the treasury's highload wallet, and a person's wallet.
package wallet

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"math/big"
	"unicode/utf8"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// Signer holds a private key, here in memory or elsewhere (a key service, a trusted enclave).
type Signer interface {
	// Public is the key that signatures are checked with.
	Public() ed25519.PublicKey
	// Sign signs a message with Ed25519, 64 bytes. The wallets sign hashes of cells, 32 bytes each.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Transfer is one message that a wallet is to send. It has a comment or a body or neither, not both.
type Transfer struct {
	To      ton.Address
	Amount  nanoton.Amount // above zero; what arrives: the wallet pays fees beside it
	Comment string         // UTF-8, at most CommentMax bytes
	Body    *cell.Cell     // for contracts
	Init    *tlb.StateInit // deploys the receiver's contract
	Bounce  bool           // comes back if the receiver's contract fails; false for people's wallets
}

// CarryMax bounds what [Transfer.Carry] takes, bytes: a tab's initial state has 1 KiB.
const CarryMax = 8 << 10

// Carry gives the transfer a body for a contract, and what deploys the receiver: bags of cells; nil: none. ErrTransfer.
func (t Transfer) Carry(body, init []byte) (Transfer, error) {
	if len(body) > CarryMax || len(init) > CarryMax {
		return t, fmt.Errorf("%w: what it carries is longer than %d bytes", ErrTransfer, CarryMax)
	}
	if body != nil {
		c, err := cell.FromBOC(body)
		if err != nil {
			return t, fmt.Errorf("%w: its body: %w", ErrTransfer, err)
		}
		t.Body = c
	}
	if init != nil {
		c, err := cell.FromBOC(init)
		if err != nil {
			return t, fmt.Errorf("%w: its initial state: %w", ErrTransfer, err)
		}
		t.Init = new(tlb.StateInit)
		if err := tlb.Parse(t.Init, c); err != nil {
			return t, fmt.Errorf("%w: its initial state: %w", ErrTransfer, err)
		}
	}
	return t, nil
}

// CommentMax bounds a comment, bytes: it is an ID or a line of text, and it is paid for by the bit.
const CommentMax = 500

// depthMax is the network's limit of how deep a message's cells nest.
const depthMax = 512

// frameMax is what a message takes beside its body, bytes: addresses, and the state of a wallet that it deploys.
const frameMax = 1024

// cellsMax is the network's limit of cells in one message.
const cellsMax = 8192

// modeEach is the send mode of every message: the wallet pays the fees beside the amount (1), and a message that cannot
// be sent is left out (2). Without the latter the wallet V5 refuses what it has accepted already.
const modeEach = 1 | 2

// actionSend is the tag of an action that sends a message, in an action list.
const actionSend = 0x0ec3c86d

// What a message may cost at most, nanoTON: five times the highest prices that mainnet ever had (before 2026-04-29), thirty
// times those of 2026. What is set aside by these and not needed stays in the wallet.
const (
	lumpMax nanoton.Amount = 2_000_000
	bitMax  nanoton.Amount = 2_000
	cellMax nanoton.Amount = 200_000
)

// Errors that callers tell apart.
var (
	// ErrTransfer marks transfers that no wallet can send: nothing to pay, nowhere to send, too many of them.
	ErrTransfer = errors.New("impossible transfer")
	// ErrTooLarge marks a batch that does not fit a message: send fewer, or shorter comments.
	ErrTooLarge = errors.New("the batch does not fit one message")
	// ErrShort marks a balance that does not cover the transfers and their fees; the error is a *ShortError.
	ErrShort = errors.New("balance too low")
)

// ShortError says how much is missing.
type ShortError struct{ Need, Have nanoton.Amount }

// Error shows both amounts.
func (e *ShortError) Error() string {
	return fmt.Sprintf("%v: have %v, and transfers with their fees may need %v", ErrShort, e.Have, e.Need)
}

// Unwrap is ErrShort.
func (e *ShortError) Unwrap() error { return ErrShort }

// message is the transfer as the wallet's contract is to send it.
func (t *Transfer) message(from ton.Address) (*cell.Cell, error) {
	switch {
	case t.Amount <= 0:
		return nil, fmt.Errorf("%w: an amount of %v", ErrTransfer, t.Amount)
	case t.To.IsZero():
		return nil, fmt.Errorf("%w: no receiver", ErrTransfer)
	case t.To == from:
		return nil, fmt.Errorf("%w: from %v to itself", ErrTransfer, from)
	case t.Comment != "" && t.Body != nil:
		return nil, fmt.Errorf("%w: both a comment and a body", ErrTransfer)
	case len(t.Comment) > CommentMax || !utf8.ValidString(t.Comment):
		return nil, fmt.Errorf("%w: a comment is UTF-8 of at most %d bytes", ErrTransfer, CommentMax)
	}
	body := t.Body
	if t.Comment != "" {
		b := cell.BeginCell().MustStoreUInt(0, 32)
		if err := b.StoreStringSnake(t.Comment); err != nil {
			return nil, fmt.Errorf("storing the comment: %w", err)
		}
		body = b.EndCell()
	}
	c, err := tlb.ToCell(&tlb.InternalMessage{
		IHRDisabled: true, Bounce: t.Bounce, DstAddr: t.To.Std(), Amount: coins(t.Amount), StateInit: t.Init, Body: body,
	})
	if err != nil {
		return nil, fmt.Errorf("building a message: %w", err)
	}
	return c, nil
}

// size counts a message's bits and cells. Cells that are the same count once, as the network counts them.
type size struct{ bits, cells int64 }

func (s *size) add(c *cell.Cell, seen map[[32]byte]struct{}) error {
	if c.Depth() > depthMax {
		return fmt.Errorf("%w: cells nest deeper than %d", ErrTooLarge, depthMax)
	}
	hash := c.HashKey()
	if _, ok := seen[hash]; ok {
		return nil
	}
	if seen[hash] = struct{}{}; len(seen) > cellsMax {
		return fmt.Errorf("%w: more than %d cells", ErrTooLarge, cellsMax)
	}
	s.bits, s.cells = s.bits+int64(c.BitsSize()), s.cells+1
	for i := range int(c.RefsNum()) {
		ref, err := c.PeekRef(i)
		if err != nil {
			return fmt.Errorf("reading a cell: %w", err)
		}
		if err := s.add(ref, seen); err != nil {
			return err
		}
	}
	return nil
}

// slack is what a message grows by when its sender's address, its fees and its time are filled in.
const slackBits, slackCells = 1023, 1

// forwardMax is the most that forwarding a message of this size may cost.
func (s size) forwardMax() nanoton.Amount {
	return lumpMax + nanoton.Amount(s.bits+slackBits)*bitMax + nanoton.Amount(s.cells+slackCells)*cellMax
}

// packed are transfers as an action list, and what they may cost.
type packed struct {
	list    *cell.Cell
	amount  nanoton.Amount // the sum of the transfers
	forward nanoton.Amount // the most that forwarding them may cost
	size    size           // the list's
}

// pack makes an action list of transfers. It does not touch them.
func pack(from ton.Address, transfers []Transfer, limit int) (packed, error) {
	if len(transfers) == 0 || len(transfers) > limit {
		return packed{}, fmt.Errorf("%w: %d at once, want 1 to %d", ErrTransfer, len(transfers), limit)
	}
	p := packed{list: cell.BeginCell().EndCell()}
	for i := range transfers {
		t := transfers[i]
		c, err := t.message(from)
		if err != nil {
			return packed{}, fmt.Errorf("transfer %d of %d: %w", i+1, len(transfers), err)
		}
		var one size
		if err := one.add(c, map[[32]byte]struct{}{}); err != nil {
			return packed{}, fmt.Errorf("transfer %d of %d: %w", i+1, len(transfers), err)
		}
		if p.amount > math.MaxInt64/2-t.Amount {
			return packed{}, fmt.Errorf("%w: more TON than there is", ErrTransfer)
		}
		p.amount, p.forward = p.amount+t.Amount, p.forward+one.forwardMax()
		p.list = cell.BeginCell().MustStoreRef(p.list).MustStoreUInt(actionSend, 32).
			MustStoreUInt(modeEach, 8).MustStoreRef(c).EndCell()
	}
	return p, p.size.add(p.list, map[[32]byte]struct{}{})
}

// coins is an amount, which is never below zero here, as the chain has it.
func coins(a nanoton.Amount) tlb.Coins { return tlb.FromNanoTON(big.NewInt(int64(a))) }

// external makes the signed message to a wallet, or to one that it deploys.
func external(to ton.Address, init *tlb.StateInit, body *cell.Cell) ([]byte, error) {
	if body.Depth() > depthMax-2 { // the message's own cell, and the one that a reference to the body may need
		return nil, fmt.Errorf("%w: cells nest deeper than %d", ErrTooLarge, depthMax)
	}
	if n := len(body.ToBOC()); n > ton.MessageMax-frameMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, ton.MessageMax-frameMax)
	}
	return ton.ExternalTo(to, init, body)
}

// sign has a cell's hash signed, and checks the signature: a wrong one would cost a wait until the message expires.
func sign(ctx context.Context, s Signer, c *cell.Cell) ([]byte, error) {
	hash := c.Hash()
	signature, err := s.Sign(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if !ed25519.Verify(s.Public(), hash, signature) {
		return nil, errors.New("signing: the signer's signature does not fit its public key")
	}
	return signature, nil
}
