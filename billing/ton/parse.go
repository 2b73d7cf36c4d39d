package ton

import (
	"errors"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// CommentMax is how many bytes of text a comment may have. A longer one is none: no memo is as long, and whoever writes a
// book into a message does not mean us.
const CommentMax = 1024

// commentCells bounds the cells of a comment, which may be nearly empty ones: a cell takes up to 127 bytes.
const commentCells = 64

// outMax bounds a transaction's messages. The network's own limit is 255 actions, and one for what bounces.
const outMax = 256

// parseTransaction reads a transaction of an account. What it says is to be believed as its hash is; what is in the bodies
// of its messages was written by anybody.
func parseTransaction(root *cell.Cell, of Address) (t *Transaction, err error) {
	defer func() {
		if p := recover(); p != nil { // the library's parser may take the form of a cell for granted
			t, err = nil, fmt.Errorf("transaction: it cannot be parsed: %s", clip(fmt.Sprint(p)))
		}
	}()
	var x tlb.Transaction
	if err := tlb.Parse(&x, root); err != nil {
		return nil, fmt.Errorf("transaction: %s", clip(err.Error()))
	}
	if [32]byte(x.AccountAddr) != of.Hash {
		return nil, errors.New("transaction: it is of another account")
	}
	t = &Transaction{
		Cursor: Cursor{LT: x.LT, Hash: root.HashKey()}, Prev: Cursor{LT: x.PrevTxLT, Hash: [32]byte(x.PrevTxHash)},
		At: time.Unix(int64(x.Now), 0).UTC(),
	}
	if t.Fees, err = amount(x.TotalFees.Coins); err != nil {
		return nil, fmt.Errorf("fees: %w", err)
	}
	t.Aborted, t.Exit = outcome(x.Description)
	if x.IO.In != nil {
		m, err := parseMessage(x.IO.In)
		if err != nil {
			return nil, fmt.Errorf("incoming message: %w", err)
		}
		m.Fee = 0 // the sender's
		t.In = &m
	}
	if t.Out, err = parseOut(x.IO.Out); err != nil {
		return nil, err
	}
	return t, t.checkSum()
}

func parseOut(list *tlb.MessagesList) ([]Message, error) {
	if list == nil || list.List == nil || list.List.IsEmpty() {
		return nil, nil
	}
	all, err := list.ToSlice()
	if err != nil {
		return nil, fmt.Errorf("outgoing messages: %s", clip(err.Error()))
	}
	if len(all) > outMax {
		return nil, fmt.Errorf("outgoing messages: %d of them", len(all))
	}
	out := make([]Message, len(all))
	for i := range all {
		if out[i], err = parseMessage(&all[i]); err != nil {
			return nil, fmt.Errorf("outgoing message %d: %w", i, err)
		}
	}
	return out, nil
}

// checkSum makes sure that Change does not overflow.
func (t *Transaction) checkSum() error {
	var left int64 = math.MaxInt64
	for _, a := range append(t.flows(), t.Fees) {
		if int64(a) > left {
			return fmt.Errorf("%w: of the messages together", ErrAmount)
		}
		left -= int64(a)
	}
	return nil
}

// flows are all amounts that leave the account, but the transaction's fees.
func (t *Transaction) flows() []nanoton.Amount {
	var all []nanoton.Amount
	for i := range t.Out {
		all = append(all, t.Out[i].Amount, t.Out[i].Fee)
	}
	return all
}

// outcome says how a transaction ended.
func outcome(description any) (aborted bool, exit int32) {
	var compute tlb.ComputePhase
	var action *tlb.ActionPhase
	switch d := description.(type) {
	case tlb.TransactionDescriptionOrdinary:
		aborted, compute, action = d.Aborted, d.ComputePhase, d.ActionPhase
	case tlb.TransactionDescriptionTickTock:
		aborted, compute, action = d.Aborted, d.ComputePhase, d.ActionPhase
	default: // it ran no code
		return false, 0
	}
	if vm, ok := compute.Phase.(tlb.ComputePhaseVM); ok {
		exit = vm.Details.ExitCode
	}
	if (exit == 0 || exit == 1) && action != nil && action.ResultCode != 0 {
		exit = action.ResultCode
	}
	return aborted, exit
}

func parseMessage(m *tlb.Message) (Message, error) {
	switch x := m.Msg.(type) {
	case *tlb.InternalMessage:
		out := Message{From: party(x.SrcAddr), To: party(x.DstAddr), Bounced: x.Bounced, Body: x.Body, LT: x.CreatedLT}
		var err1, err2 error
		// The field once was the fee of a kind of routing that never came, and now holds flags: it is no money.
		_ = x.IHRFee
		out.Amount, err1 = amount(x.Amount)
		out.Fee, err2 = amount(x.FwdFee)
		return out.finish(), errors.Join(err1, err2)
	case *tlb.ExternalMessage:
		return Message{To: party(x.DstAddr), External: true, Body: x.Body}.finish(), nil
	case *tlb.ExternalMessageOut:
		return Message{From: party(x.SrcAddr), External: true, Body: x.Body, LT: x.CreatedLT}.finish(), nil
	}
	return Message{}, errors.New("it is of no known kind")
}

func (m Message) finish() Message {
	if m.Body == nil {
		m.Body = cell.BeginCell().EndCell()
	}
	if !m.External && !m.Bounced {
		m.Comment = comment(m.Body)
	}
	return m
}

// party is an account's address, or none for what is not one.
func party(a *address.Address) Address {
	out, err := FromStd(a)
	if err != nil {
		return Address{}
	}
	return out
}

// comment reads the text of a message's body: 32 zero bits, then bytes that go on in the first reference. Anything else,
// which means binary, encrypted (another number in front), too long, or not UTF-8, is no comment.
func comment(body *cell.Cell) string {
	var text []byte
	for n := 0; ; n++ {
		if body.IsSpecial() {
			return ""
		}
		s, err := body.BeginParse()
		if err != nil {
			return ""
		}
		if n == 0 {
			if op, err := s.LoadUInt(32); err != nil || op != 0 {
				return ""
			}
		}
		bits := s.BitsLeft()
		if bits%8 != 0 || body.RefsNum() > 1 || n == commentCells || len(text)+int(bits/8) > CommentMax {
			return ""
		}
		b, err := s.LoadSlice(bits)
		if err != nil {
			return ""
		}
		text = append(text, b...)
		if body.RefsNum() == 0 {
			break
		}
		if body, err = body.PeekRef(0); err != nil {
			return ""
		}
	}
	if !utf8.Valid(text) {
		return ""
	}
	return string(text)
}

// BodyHash names what a message carries.
func (m *Message) BodyHash() (h [32]byte) {
	if m.Body != nil {
		copy(h[:], m.Body.Hash())
	}
	return h
}
