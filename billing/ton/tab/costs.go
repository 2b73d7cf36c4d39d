package tab

import (
	"time"

	"cocoon/internal/nanoton"
)

// What the contract reckons with, as in tab.tolk.
const (
	messageGas  = 7000
	noticeBits  = 512
	noticeCells = 1
	stateBits   = 10_000
	stateCells  = 20
	keptRent    = 3 * 365 * 24 * time.Hour
	drawWorth   = 20
)

// Costs are what a tab's operations cost at the network's prices, without what a sender's wallet costs. All but Reserve,
// Least and PushValue are estimates from above.
type Costs struct {
	Draw      nanoton.Amount // paid by the tab: a voucher that is brought
	Deploy    nanoton.Amount // the same for the first voucher
	Push      nanoton.Amount // paid by the owner: a payment through the tab
	Call      nanoton.Amount // paid by the caller: close, finish, limit
	Reserve   nanoton.Amount // what stays in the tab, whatever is paid
	Least     nanoton.Amount // the least that a voucher is taken for
	PushValue nanoton.Amount // what PayBody has to come with beside the amount
	Rent      nanoton.Amount // for a year
}

// Prices are the network's, of the basechain: a ton.Fees.
type Prices interface {
	// Gas is the price of so many units of gas.
	Gas(units uint64) nanoton.Amount
	// Forward is the price of a message of so many bits and cells, its root not counted.
	Forward(bits, cells uint64) nanoton.Amount
	// Storage is the rent of so many bits and cells for that long.
	Storage(bits, cells uint64, d time.Duration) nanoton.Amount
}

// CostsAt reckons with the prices of a block.
func CostsAt(f Prices) Costs {
	fees := f.Gas(messageGas) + f.Forward(noticeBits, noticeCells)
	return Costs{
		Draw:      fees + f.Forward(voucherBits, voucherCells),
		Deploy:    fees + f.Forward(voucherBits+stateBits, voucherCells+stateCells),
		Push:      fees,
		Call:      fees,
		Reserve:   fees + f.Storage(stateBits, stateCells, keptRent),
		Least:     drawWorth * fees,
		PushValue: fees,
		Rent:      f.Storage(stateBits, stateCells, keptRent/3),
	}
}

// A voucher's message, its root not counted.
const (
	voucherBits  = 1536
	voucherCells = 2
)
