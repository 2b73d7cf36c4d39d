package tab

import (
	"math/big"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// Bodies that begin so are the contract's.
const (
	opClose    = 0x7ab50001
	opFinish   = 0x7ab50002
	opLimit    = 0x7ab50003
	opPay      = 0x7ab50004
	opPaid     = 0x7ab5a1d0
	opRefunded = 0x7ab5a1d1
)

// CloseBody is the owner's message that begins to close the tab: after the delay he, or anyone, may finish.
func CloseBody() *cell.Cell { return cell.BeginCell().MustStoreUInt(opClose, 32).EndCell() }

// FinishBody is the message, anyone's, that gives all that is left to the owner, what came with it too. The tab is open
// again then.
func FinishBody() *cell.Cell { return cell.BeginCell().MustStoreUInt(opFinish, 32).EndCell() }

// LimitBody is the owner's message that raises the limit; one that is lower at any time from now on is refused.
func LimitBody(base, rate nanoton.Amount, since time.Time) *cell.Cell {
	b := cell.BeginCell().MustStoreUInt(opLimit, 32)
	storeLimit(b, base, rate, since)
	return b.EndCell()
}

// PayBody is the owner's message that pays the payee through the tab, so that the amount counts as drawn. It must come with
// Costs.PushValue above the amount, what is left of which stays in the tab; an amount that is not above zero is refused.
func PayBody(amount nanoton.Amount) *cell.Cell {
	return cell.BeginCell().MustStoreUInt(opPay, 32).MustStoreBigCoins(big.NewInt(int64(max(amount, 0)))).EndCell()
}

// Notice is what a tab says with the money that it pays: to the payee, or to the owner when it is finished.
type Notice struct {
	Cumulative nanoton.Amount // all that was ever paid to the payee, this included
	Root       [32]byte       // the last voucher's
	Refund     bool           // to the owner: all that was left
}

// ParseNotice reads the notice of a message; false: it has none. Anyone can send such a message: m.From must be a tab that
// is known.
func ParseNotice(m ton.Message) (Notice, bool) {
	if m.Body == nil || m.Bounced || m.External {
		return Notice{}, false
	}
	r := reader{}
	r.open(m.Body)
	op := r.uint(32)
	n := Notice{Cumulative: r.coins(), Root: r.hash(), Refund: op == opRefunded}
	r.end()
	if r.err != nil || op != opPaid && op != opRefunded {
		return Notice{}, false
	}
	return n, true
}
