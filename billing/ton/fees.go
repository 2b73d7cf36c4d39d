package ton

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"

	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm"
)

// config is the network's configuration as of a key block.
type config struct {
	key      uint32
	params   tlb.BlockchainConfig
	prepared *tvm.PreparedBlockchainConfig
}

// configAt gives the proven configuration that holds after a block. It is kept until another key block comes.
func (c *Client) configAt(ctx context.Context, h Head) (*config, error) {
	if h.id == nil {
		return nil, errors.New("config: there is no head")
	}
	c.mu.Lock()
	got := c.config
	c.mu.Unlock()
	if got != nil && got.key == h.key {
		return got, nil
	}
	err := c.ask(ctx, "config", func(s *server) error {
		params, err := s.api.WaitForBlock(h.Seqno).GetBlockchainConfig(ctx, h.id)
		if err != nil {
			return proofError(err)
		}
		prepared, err := tvm.PrepareBlockchainConfig(params.Root)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		got = &config{h.key, *params, prepared}
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config == nil || c.config.key < got.key {
		c.config = got
	}
	return got, nil
}

// Fees are the network's prices as of a proven block: of the basechain, if nothing else is said.
type Fees struct {
	gas     [2]tlb.ConfigGasLimitsPrices
	forward [2]tlb.ConfigMsgForwardPrices
	storage tlb.ConfigStoragePrices
	master  int // 1: the masterchain
}

// Fees reads the prices from the network's proven configuration. They change: in 2026 they fell to a sixth in a day. So
// ask for each calculation, and keep distance. Error: ErrUnreachable.
func (c *Client) Fees(ctx context.Context, h Head) (Fees, error) {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return Fees{}, err
	}
	defer done()
	got, err := c.configAt(ctx, h)
	if err != nil {
		return Fees{}, err
	}
	return parseFees(got.params, h.Time)
}

func parseFees(params tlb.BlockchainConfig, at time.Time) (Fees, error) {
	var f Fees
	for i, master := range []bool{false, true} {
		gas, err1 := params.GetGasPrices(master)
		forward, err2 := params.GetMsgForwardPrices(master)
		if err := errors.Join(err1, err2); err != nil {
			return Fees{}, fmt.Errorf("prices in the config: %w", err)
		}
		f.gas[i], f.forward[i] = *gas, *forward
	}
	storage, err := params.GetStoragePrices(uint32(at.Unix()))
	if err != nil {
		return Fees{}, fmt.Errorf("prices in the config: %w", err)
	}
	f.storage = *storage
	return f, nil
}

// Masterchain are the prices of the masterchain, which are higher.
func (f Fees) Masterchain() Fees {
	f.master = 1
	return f
}

// Gas is what so many units of gas cost.
func (f Fees) Gas(units uint64) nanoton.Amount { return clamp(f.gas[f.master].ComputeGasPrice(units)) }

// Forward is what sending a message costs that has so many bits and cells, not counting its first cell: both what the
// sending transaction has in its fees and what leaves with the message. A message between the two chains costs what one
// within the masterchain does.
func (f Fees) Forward(bits, cells uint64) nanoton.Amount {
	return clamp(f.forward[f.master].ComputeForwardFee(cells, bits))
}

// Storage is what keeping an account of so many bits and cells for so long costs, of whole seconds, at today's prices.
func (f Fees) Storage(bits, cells uint64, d time.Duration) nanoton.Amount {
	return clamp(f.storage.ComputeStorageFee(f.master == 1, uint64(max(0, d/time.Second)), bits, cells))
}

// clamp keeps a price in range: nobody pays what is beyond.
func clamp(n *big.Int) nanoton.Amount {
	if !n.IsInt64() {
		return math.MaxInt64
	}
	return nanoton.Amount(n.Int64())
}
