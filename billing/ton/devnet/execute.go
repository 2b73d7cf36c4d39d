package devnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"github.com/xssnick/tonutils-go/tvm/tuple"
)

// errBroken marks an error that leaves a block half made; after others only the message is lost.
var errBroken = errors.New("the block can't be made")

// accountBlock is what a block did to one account.
type accountBlock struct {
	old, now []byte // hashes of its state
	txs      *tlb.AccountTransactionsAugDict
}

// collation is the execution of one block of one shard.
type collation struct {
	n              *Network
	s              *shard
	bctx           *tvm.BlockContext
	startLT, endLT uint64
	list           []*txRef
	accs           map[[32]byte]*accountBlock
}

// accountAt is an account's newest state.
func (n *Network) accountAt(a *address.Address) (*account, error) {
	if acc := n.shardOf(a.Workchain()).accounts[accountKey(a)]; acc != nil {
		return acc, nil
	}
	p, err := tvm.PrepareAccount(&tlb.ShardAccount{
		Account:       cell.BeginCell().MustStoreUInt(0, 1).EndCell(), // account_none$0
		LastTransHash: make([]byte, 32),
	}, a)
	if err != nil {
		return nil, err
	}
	return &account{prepared: p}, nil
}

func (n *Network) blockContext(now uint32, startLT uint64) (*tvm.BlockContext, error) {
	seed := sha256.Sum256(seedOf(startLT, n.opts.Seed))
	return n.cfg.NewBlockContext(tvm.BlockOptions{
		Now: now, BlockLT: int64(startLT), RandSeed: seed[:], PrevBlocks: tuple.Tuple{},
	})
}

// collate executes what waits for a shard: first internal messages from before the block, then external ones, then
// what this block itself sends, unless that takes a block.
func (n *Network) collate(s *shard, now uint32, startLT uint64) (*collation, error) {
	bctx, err := n.blockContext(now, startLT)
	if err != nil {
		return nil, err
	}
	c := &collation{
		n: n, s: s, bctx: bctx, startLT: startLT, endLT: startLT + 1, accs: map[[32]byte]*accountBlock{},
	}
	if err := c.deliver(); err != nil {
		return nil, err
	}
	if err := c.admit(); err != nil {
		return nil, err
	}
	for !n.opts.NextBlockDelivery && len(s.queue) > 0 && !c.full() {
		if err := c.deliver(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(c.list, byAccount)
	return c, nil
}

func (c *collation) full() bool { return len(c.list) >= c.n.opts.MaxTxPerBlock }

// deliver executes the internal messages that wait, by their logical times.
func (c *collation) deliver() error {
	queue := c.s.queue
	c.s.queue = nil
	slices.SortStableFunc(queue, func(a, b tvm.OutMessage) int {
		return int(int64(a.Msg.AsInternal().CreatedLT - b.Msg.AsInternal().CreatedLT)) //nolint:gosec // near each other
	})
	for i, m := range queue {
		if c.full() {
			c.s.queue = append(slices.Clone(queue[i:]), c.s.queue...)
			return nil
		}
		pm, err := tvm.PrepareParsedMessage(m.Cell, m.Msg)
		if err == nil {
			err = c.execute(pm, m.Msg.AsInternal().DstAddr)
		}
		if errors.Is(err, errBroken) {
			return err
		}
		if err != nil {
			c.n.log.Warn("an internal message was dropped", "to", m.Msg.AsInternal().DstAddr.String(), "err", err)
		}
		c.n.land(m.Cell)
	}
	return nil
}

// admit executes the external messages that wait. One that is no longer accepted leaves no trace on chain.
func (c *collation) admit() error {
	var rest []*pooled
	for _, m := range c.n.pool {
		if m.dst.Workchain() != c.s.wc || c.full() {
			rest = append(rest, m)
			continue
		}
		err := c.execute(m.msg, m.dst)
		if errors.Is(err, errBroken) {
			return err
		}
		if err != nil {
			c.n.stats.ExternalsDropped++
		}
	}
	c.n.pool = rest
	return nil
}

// execute makes one transaction.
func (c *collation) execute(pm *tvm.PreparedMessage, dst *address.Address) error {
	acc, err := c.n.accountAt(dst)
	if err != nil {
		return err
	}
	var res *tvm.TransactionExecutionResult
	err = guard(func() (err error) {
		res, err = c.n.machine.EmulateTransaction(c.bctx, acc.prepared, pm, tvm.TransactionOptions{
			// A message that changes nothing of an account that is not there leaves it without a time of its own.
			LogicalTime: int64(max(c.startLT, acc.prepared.ShardAccount().LastTransLT) + 1), AccountStorageStat: acc.stat,
		})
		return err
	})
	if err != nil {
		return err
	}
	if res.TransactionCell == nil {
		return ErrNotAccepted
	}
	if err := c.keep(accountKey(dst), acc, res); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	for _, m := range res.OutMessages {
		if m.Msg.MsgType == tlb.MsgTypeInternal && housed(m.Msg.AsInternal().DstAddr) {
			d := c.n.shardOf(m.Msg.AsInternal().DstAddr.Workchain())
			d.queue = append(d.queue, m)
		}
	}
	c.n.stats.Transactions++
	return nil
}

// keep takes a transaction into the account, the shard's state and the block.
func (c *collation) keep(key [32]byte, before *account, res *tvm.TransactionExecutionResult) error {
	prev, next := before.prepared.ShardAccount(), res.NextAccount.ShardAccount()
	if err := c.s.dict.Set(keyCell(key), res.NextAccount.ShardAccountCell()); err != nil {
		return fmt.Errorf("shard accounts: %w", err)
	}
	c.s.accounts[key] = &account{prepared: res.NextAccount, stat: res.AccountStorageStat}
	ab := c.accs[key]
	if ab == nil {
		txs, err := tlb.NewAccountTransactionsAugDict()
		if err != nil {
			return err
		}
		ab = &accountBlock{old: prev.Account.Hash(), txs: txs}
		c.accs[key] = ab
	}
	ab.now = next.Account.Hash()
	err := ab.txs.SetBuilder(cell.BeginCell().MustStoreUInt(next.LastTransLT, 64).EndCell(),
		cell.BeginCell().MustStoreRef(res.TransactionCell))
	if err != nil {
		return fmt.Errorf("account block: %w", err)
	}
	c.list = append(c.list, &txRef{
		cell: res.TransactionCell, lt: next.LastTransLT, acc: key, hash: [32]byte(res.TransactionCell.Hash()),
		prevLT: prev.LastTransLT, prevHash: [32]byte(prev.LastTransHash),
	})
	c.endLT = max(c.endLT, res.EndLT)
	return nil
}

// land tells those who wait for a message that the block which is being made has it.
func (n *Network) land(message *cell.Cell) {
	if len(n.awaited) == 0 {
		return
	}
	hash := [32]byte(message.Hash())
	n.landed = append(n.landed, n.awaited[hash]...)
	delete(n.awaited, hash)
}

func keyCell(k [32]byte) *cell.Cell { return cell.BeginCell().MustStoreSlice(k[:], 256).EndCell() }
