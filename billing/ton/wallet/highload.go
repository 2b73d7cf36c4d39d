package wallet

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	tonwallet "github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
)

// BatchMax is how many transfers one batch takes. Up to 253 fit one action list, which is the cheapest; a longer batch
// would nest.
const BatchMax = 250

// Queries is how many query numbers there are: 0 to Queries-1, then 0 again. A number may come again once its batch has
// expired twice over, which the contract forgets by.
const Queries = 8192 * queryBits

// queryBits is how many queries share a cell of the contract's memory: bit 1023 of 0 to 1023 is illegal.
const queryBits = 1023

// DefaultTimeout is how long a signed batch can be executed. It is long enough for a congested network; a batch that was lost
// can be paid anew only after it.
const DefaultTimeout = time.Hour

// Backdate is how far before the chain's time a batch is made: servers check it against the last block's time, which may be
// older than the one that we saw.
const Backdate = 30 * time.Second

const (
	subwallet    = 0x10ad     // the highload wallet's authors' choice
	opTransfer   = 0xae42e5a4 // the wallet's message to itself, which carries the action list
	timeoutRange = 1 << 22    // seconds; the contract keeps 22 bits
	timeoutLeast = time.Minute
)

// What a batch's two transactions may cost at most besides what goes by its size, nanoTON: gas, and the rent of some years.
const (
	firstMax  nanoton.Amount = 100_000_000
	secondMax nanoton.Amount = 20_000_000
)

// HighloadOptions are what a highload wallet's address depends on besides its key.
type HighloadOptions struct {
	// Timeout is how long a signed batch can be executed, in whole seconds, a minute to 48 days; zero: DefaultTimeout. It is
	// part of the wallet's address: never change it while the wallet holds money.
	Timeout time.Duration
}

// Highload is a highload wallet v3: it sends up to BatchMax transfers with one signed message, which can be sent any number
// of times and is executed once. The contract has two transactions for it: the first spends the query number and has the
// wallet send a message to itself, with all that the batch may need; the second sends the transfers. If the balance does not
// cover that message, the query number is spent and nothing is paid.
type Highload struct {
	signer  Signer
	timeout time.Duration
	address ton.Address
	init    *tlb.StateInit
	err     error // of impossible options
}

// Check says what is wrong with the options.
func (o HighloadOptions) Check() error {
	if o.Timeout != 0 && o.Timeout < timeoutLeast || o.Timeout >= timeoutRange*time.Second || o.Timeout%time.Second != 0 {
		return fmt.Errorf("a highload wallet's timeout of %v: want whole seconds, a minute to 48 days", o.Timeout)
	}
	return nil
}

// NewHighload makes a highload wallet of a key. If the options are impossible it has no address, and Batch says so.
func NewHighload(s Signer, o HighloadOptions) *Highload {
	h := &Highload{signer: s, timeout: o.Timeout, err: o.Check()}
	if h.err != nil {
		return h
	}
	if h.timeout == 0 {
		h.timeout = DefaultTimeout
	}
	version := tonwallet.ConfigHighloadV3{MessageTTL: uint32(h.timeout / time.Second)}
	if h.init, h.err = tonwallet.GetStateInit(s.Public(), version, subwallet); h.err == nil {
		h.address, h.err = addressOf(h.init)
	}
	return h
}

// addressOf is where a state comes to be, in the basechain.
func addressOf(init *tlb.StateInit) (ton.Address, error) {
	c, err := tlb.ToCell(init)
	if err != nil {
		return ton.Address{}, fmt.Errorf("making the wallet's address: %w", err)
	}
	return ton.Address{Hash: c.HashKey()}, nil
}

// Address is the wallet's.
func (h *Highload) Address() ton.Address { return h.address }

// Timeout is how long after its creation a batch can be executed.
func (h *Highload) Timeout() time.Duration { return h.timeout }

// CreatedAt is the creation time to give a batch, by the chain's time: Backdate before it.
func (h *Highload) CreatedAt(chain time.Time) time.Time {
	return chain.Add(-Backdate).Truncate(time.Second)
}

// Expires is the first moment of the chain's time at which a batch can never be executed any more. (A transaction's time is
// its shard block's: wait for a proven block a minute later before the batch counts as expired.)
func (h *Highload) Expires(createdAt time.Time) time.Time { return createdAt.Add(h.timeout) }

// Batch makes the signed external message that has the wallet send 1 to BatchMax transfers, by an action list even if it
// is one. Persist it before it is sent, and never make another one for the same transfers before this one has expired by the
// chain's time. The query number is below Queries and belongs to this batch alone; createdAt is CreatedAt of the chain's
// time. The first batch deploys the wallet if it is not deployed yet. The transfers are left alone. ErrTransfer, ErrTooLarge.
func (h *Highload) Batch(ctx context.Context, query uint32, createdAt time.Time, t []Transfer, deployed bool) ([]byte, error) {
	if h.err != nil {
		return nil, h.err
	}
	if query >= Queries {
		return nil, fmt.Errorf("query %d: want less than %d", query, Queries)
	}
	if createdAt.Unix() <= 0 {
		return nil, fmt.Errorf("a batch made at %v", createdAt)
	}
	p, err := pack(h.address, t, BatchMax)
	if err != nil {
		return nil, err
	}
	id := queryID(query)
	self, err := h.self(p, id)
	if err != nil {
		return nil, err
	}
	payload := cell.BeginCell().MustStoreUInt(subwallet, 32).MustStoreRef(self).MustStoreUInt(modeEach, 8).
		MustStoreUInt(id, 23).MustStoreUInt(uint64(createdAt.Unix()), 64).
		MustStoreUInt(uint64(h.timeout/time.Second), 22).EndCell()
	signature, err := sign(ctx, h.signer, payload)
	if err != nil {
		return nil, err
	}
	var init *tlb.StateInit
	if !deployed {
		init = h.init
	}
	return external(h.address, init, cell.BeginCell().MustStoreSlice(signature, 512).MustStoreRef(payload).EndCell())
}

// self is the wallet's message to itself: the action list, and all the money that it may need, so that either the balance
// covers the whole batch or nothing is sent.
func (h *Highload) self(p packed, id uint64) (*cell.Cell, error) {
	c, err := tlb.ToCell(&tlb.InternalMessage{
		IHRDisabled: true, DstAddr: h.address.Std(), Amount: coins(p.attached()),
		Body: cell.BeginCell().MustStoreUInt(opTransfer, 32).MustStoreUInt(id, 64).MustStoreRef(p.list).EndCell(),
	})
	if err != nil {
		return nil, fmt.Errorf("building the batch: %w", err)
	}
	return c, nil
}

// attached is the money that goes along with the action list.
func (p packed) attached() nanoton.Amount { return p.amount + p.forward + secondMax }

// Need is the balance with which all transfers are sent for sure, whatever the network's fees are within reason. Fees of
// the first transaction vary with the network and with time, so it is more than the least that does: that is what
// Attached says, and those fees. What is not used stays in the wallet. It is the greatest amount there is, which no wallet
// has, if Batch would refuse the transfers.
func (h *Highload) Need(t []Transfer) nanoton.Amount {
	p, err := pack(h.address, t, BatchMax)
	if err != nil {
		return math.MaxInt64
	}
	return p.attached() + firstMax + 2*p.size.forwardMax() // the list is paid for as part of the external message, and again
}

// Attached is what the wallet must be able to send itself after the first transaction's fees so that the transfers are sent:
// all of them then, and with one nanoTON less none. As Need it is the greatest amount there is for impossible transfers.
func (h *Highload) Attached(t []Transfer) nanoton.Amount {
	p, err := pack(h.address, t, BatchMax)
	if err != nil {
		return math.MaxInt64
	}
	return p.attached()
}

// Report says what became of a batch, by a transaction of the wallet: which messages were really sent. It is not ok for
// transactions that don't settle a batch: those with the outside, and the first of a batch's two if the second follows.
// A batch is settled by the second, or by the first if it spent the query number and sent nothing, which then is for good:
// the balance was too low. Compare what was sent with what was asked for, by receiver, amount and comment: a message may
// have been left out.
func (h *Highload) Report(tx *ton.Transaction) (query uint32, sent []ton.Message, ok bool) {
	if tx == nil || tx.In == nil || tx.In.Body == nil || tx.In.To != h.address {
		return 0, nil, false
	}
	if tx.In.External {
		// An aborted one spent no query number: it may be executed again, and pay then. A batch ends by its time in that case.
		query, ok = parseExternal(tx.In.Body)
		return query, nil, ok && !tx.Aborted && len(tx.Out) == 0
	}
	if tx.In.Bounced || tx.In.From != h.address {
		return 0, nil, false
	}
	if query, ok = parseSelf(tx.In.Body); !ok {
		return 0, nil, false
	}
	sent = slices.Clone(tx.Out)
	return query, slices.DeleteFunc(sent, func(m ton.Message) bool { return m.External }), true
}

// parseExternal reads the query number from the body of a signed message.
func parseExternal(body *cell.Cell) (uint32, bool) {
	ref, err := body.PeekRef(0)
	if err != nil || body.BitsSize() != 512 {
		return 0, false
	}
	s, err := ref.BeginParse()
	if err != nil {
		return 0, false
	}
	if wallet, err := s.LoadUInt(32); err != nil || wallet != subwallet {
		return 0, false
	}
	if _, err := s.LoadUInt(8); err != nil { // the send mode
		return 0, false
	}
	id, err := s.LoadUInt(23)
	if err != nil {
		return 0, false
	}
	return queryOf(id)
}

// parseSelf reads the query number from the body of the wallet's message to itself.
func parseSelf(body *cell.Cell) (uint32, bool) {
	s, err := body.BeginParse()
	if err != nil {
		return 0, false
	}
	if op, err := s.LoadUInt(32); err != nil || op != opTransfer {
		return 0, false
	}
	id, err := s.LoadUInt(64)
	if err != nil {
		return 0, false
	}
	return queryOf(id)
}

// queryID is a query number as the contract has it: 13 bits of a cell's number, 10 of a bit's in it.
func queryID(query uint32) uint64 { return uint64(query/queryBits<<10 | query%queryBits) }

// queryOf is the inverse of queryID, for what may be none.
func queryOf(id uint64) (uint32, bool) {
	if id >= 1<<23 || id&1023 >= queryBits {
		return 0, false
	}
	return uint32(id>>10)*queryBits + uint32(id&1023), true
}
