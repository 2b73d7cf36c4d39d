// Package ton is the chain client: what liteservers say of the TON blockchain, believed only with proofs.
package ton

import (
	"errors"
	"time"

	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Errors that callers branch on.
var (
	// ErrUnreachable says that no liteserver gave an answer that could be used: all were silent, gone, or wrong.
	ErrUnreachable = errors.New("no liteserver gave a usable answer")
	// ErrStale says that the newest proven block is older than Config.MaxAge, or older than one that was given before.
	ErrStale = errors.New("the chain's newest block is too old")
	// ErrGap says that the chain of an account's transactions does not lead back to the cursor.
	ErrGap = errors.New("the account's transactions do not lead to the cursor")
	// ErrHistory says that every liteserver has thrown away the transactions that were asked for.
	ErrHistory = errors.New("the liteservers do not have such old transactions any more")
	// ErrMany says that more transactions came since the cursor than are walked through: see Client.Transactions.
	ErrMany = errors.New("too many transactions since the cursor")
	// ErrRefused says that the network did not take a message: see Client.Send.
	ErrRefused = errors.New("message was not accepted")
	// ErrAmount says that an amount on the chain does not fit into a nanoton.Amount.
	ErrAmount = errors.New("amount is out of range")
	// ErrProof marks an answer whose proof is wrong. The text names the liteserver.
	ErrProof = errors.New("wrong proof")
	// ErrMethod says that a get-method did not end well. The text has the exit code.
	ErrMethod = errors.New("get-method failed")
)

// Cursor is a place in an account's chain of transactions: one transaction's logical time and hash. The zero Cursor is
// the beginning, before the first one.
type Cursor struct {
	LT   uint64
	Hash [32]byte
}

// Head is a masterchain block that was proven: signed by the validators whom the blocks before it name. Its zero value
// is none; one that a Client gave may be used with that Client only.
type Head struct {
	Seqno uint32
	Time  time.Time // by the chain's clock, in whole seconds
	id    *ton.BlockIDExt
	key   uint32 // number of the newest key block up to this one: the network's config changes in these only
}

// State is an account as of a proven block.
type State struct {
	Address Address
	Balance nanoton.Amount
	Exists  bool   // false: nothing is known of the account at this block, and all that follows is zero
	Active  bool   // has code
	Last    Cursor // its newest transaction
	Due     nanoton.Amount
	Code    *cell.Cell // nil unless Active
	Data    *cell.Cell // nil unless Active
	At      Head
}

// Message is one message of a transaction.
type Message struct {
	From, To Address // the zero Address: none, or not an account
	External bool    // from or to outside of the chain: it carries no money
	Bounced  bool    // an own message that came back
	Amount   nanoton.Amount
	Fee      nanoton.Amount // forward fee that the sender paid in addition, what is not in Transaction.Fees
	Comment  string         // text of at most CommentMax bytes; empty if there is none, or if it is not plain UTF-8 text
	Body     *cell.Cell     // never nil; of any depth and width that the network lets through
	LT       uint64
}

// Transaction is one step of an account, proven by the hash that the next one or the account's state has of it.
type Transaction struct {
	Cursor
	Prev    Cursor // the transaction before it; zero: this is the first
	At      time.Time
	In      *Message  // nil: none, as in a transaction that only charged for storage
	Out     []Message // in order of creation
	Fees    nanoton.Amount
	Aborted bool
	Exit    int32 // of the contract's code, or of its actions if the code ended well; 0 and 1: all went well
}

// Change is what the transaction changed the account's balance by, exact to the nanoTON.
func (t *Transaction) Change() nanoton.Amount {
	sum := -t.Fees
	if t.In != nil {
		sum += t.In.Amount
	}
	for i := range t.Out {
		sum -= t.Out[i].Amount + t.Out[i].Fee
	}
	return sum
}
