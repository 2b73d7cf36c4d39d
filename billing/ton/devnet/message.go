package devnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/internal/nanoton"
)

// messageMax bounds a message, bytes, as mainnet's liteservers do for external ones.
const messageMax = 65535

// pendingMax bounds the messages from outside that wait for one block, bytes: they are written at once.
const pendingMax = 32 << 20

// SendExternal puts an external message, a BoC, into the pool, after the check that a liteserver makes: would its
// contract accept it now? ErrNotAccepted, ErrMessage.
func (n *Network) SendExternal(boc []byte) error { return n.send(boc, &n.faults) }

func (n *Network) send(boc []byte, faults ...*Faults) error {
	m, err := parseExternal(boc)
	if err != nil {
		return err
	}
	n.mx.Lock()
	defer n.mx.Unlock()
	if n.err != nil {
		return n.err
	}
	n.stats.ExternalsIn++
	if n.pending+len(boc) > pendingMax {
		return fmt.Errorf("%w: too many for one block", ErrNotAccepted)
	}
	acc, err := n.accountAt(m.dst)
	if err != nil {
		return err
	}
	bctx, err := n.blockContext(n.unix(), nextLT(n.shardOf(m.dst.Workchain()).head))
	if err != nil {
		return err
	}
	accepted := false
	err = guard(func() (err error) {
		accepted, err = n.machine.CheckExternalMessageAccepted(bctx, acc.prepared, m.msg, tvm.TransactionOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAccepted, err)
	}
	if !accepted {
		return ErrNotAccepted
	}
	for _, f := range faults {
		if f.lose(m.msg.Cell().Hash()) {
			n.stats.ExternalsDropped++
			return nil // the liteserver said yes
		}
	}
	n.pool = append(n.pool, m)
	n.note(kindExternal, boc)
	n.kickLocked()
	return nil
}

// parseExternal reads a stranger's message.
func parseExternal(boc []byte) (*pooled, error) {
	if len(boc) > messageMax {
		return nil, fmt.Errorf("%w: external message too large, rejecting", ErrMessage)
	}
	var m *pooled
	err := guard(func() error {
		c, err := cell.FromBOC(boc)
		if err != nil {
			return err
		}
		pm, err := tvm.PrepareMessage(c)
		if err != nil {
			return err
		}
		if pm.Message().MsgType != tlb.MsgTypeExternalIn {
			return fmt.Errorf("an %s message, want an external one", pm.Message().MsgType)
		}
		m = &pooled{msg: pm, dst: pm.Message().AsExternalIn().DstAddr}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if !housed(m.dst) {
		return nil, fmt.Errorf("%w: no such account can be here", ErrMessage)
	}
	return m, nil
}

// guard has a panic of the virtual machine, or of a parser, be an error: they are given what strangers wrote.
func guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the virtual machine gave up: %v", p)
		}
	}()
	return f()
}

func (n *Network) kickLocked() {
	if n.opts.AutoMine {
		select {
		case n.kick <- struct{}{}:
		default:
		}
	}
}

// Faucet has an account get money from nowhere (-1:00..00) with a comment, in the next block.
func (n *Network) Faucet(to *address.Address, amount tlb.Coins, comment string) error {
	m, err := gift(to, amount, comment)
	if err != nil {
		return err
	}
	return n.Inject(m)
}

// Pay has an account get money from nowhere, as Faucet does, and waits until a block has it: its masterchain seqno. The
// address may be in any form, a comment has 900 bytes at most. Somebody must mine: see Start. ErrMessage.
func (n *Network) Pay(ctx context.Context, to string, amount nanoton.Amount, comment string) (uint32, error) {
	a, err := ParseAddress(to)
	if err != nil {
		return 0, err
	}
	if amount <= 0 || len(comment) > 900 {
		return 0, fmt.Errorf("%w: an amount of %d, a comment of %d bytes", ErrMessage, amount, len(comment))
	}
	m, err := gift(a, tlb.FromNanoTON(big.NewInt(int64(amount))), comment)
	if err != nil {
		return 0, err
	}
	landed := make(chan uint32, 1)
	if err := n.inject(m, landed); err != nil {
		return 0, err
	}
	select {
	case seqno := <-landed:
		return seqno, nil
	case <-n.stop:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ParseAddress reads an account's address: in one of the forms for people, or as workchain:hex. ErrMessage.
func ParseAddress(text string) (*address.Address, error) {
	a, err := address.ParseAddr(text)
	if err != nil {
		if a, err = address.ParseRawAddr(text); err != nil {
			return nil, fmt.Errorf("%w: not an address", ErrMessage)
		}
	}
	if !housed(a) {
		return nil, fmt.Errorf("%w: a workchain of %d", ErrMessage, a.Workchain())
	}
	return a, nil
}

func gift(to *address.Address, amount tlb.Coins, comment string) (*tlb.InternalMessage, error) {
	var body *cell.Cell
	if comment != "" {
		b := cell.BeginCell().MustStoreUInt(0, 32)
		if err := b.StoreStringSnake(comment); err != nil {
			return nil, fmt.Errorf("writing the comment: %w", err)
		}
		body = b.EndCell()
	}
	return &tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: address.NewAddress(0, 255, make([]byte, 32)), DstAddr: to, Amount: amount, Body: body,
	}, nil
}

// Inject has an internal message arrive in the next block, as if another shard had sent it: a bounced one, say. It sets
// the message's CreatedLT and CreatedAt. ErrMessage.
func (n *Network) Inject(m *tlb.InternalMessage) error { return n.inject(m, nil) }

func (n *Network) inject(m *tlb.InternalMessage, landed chan uint32) error {
	if !housed(m.DstAddr) {
		return fmt.Errorf("%w: no such account can be here", ErrMessage)
	}
	n.mx.Lock()
	defer n.mx.Unlock()
	if n.err != nil {
		return n.err
	}
	head := n.shardOf(m.DstAddr.Workchain()).head
	if m.CreatedLT = head.endLT + n.minted + 1; m.CreatedLT >= nextLT(head) { // no two alike
		return fmt.Errorf("%w: too many for one block", ErrMessage)
	}
	n.minted++
	m.CreatedAt = n.unix()
	c, err := tlb.ToCell(m)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	boc := c.ToBOC()
	if len(boc) > messageMax {
		return fmt.Errorf("%w: %d bytes", ErrMessage, len(boc))
	}
	if n.pending+len(boc) > pendingMax {
		return fmt.Errorf("%w: too many for one block", ErrMessage)
	}
	if err := n.enqueue(boc); err != nil {
		return err
	}
	if landed != nil {
		n.awaited[[32]byte(c.Hash())] = append(n.awaited[[32]byte(c.Hash())], landed)
	}
	n.note(kindInternal, boc)
	n.kickLocked()
	return nil
}

// enqueue queues an internal message from nowhere.
func (n *Network) enqueue(boc []byte) error {
	c, err := cell.FromBOC(boc)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	pm, err := tvm.PrepareMessage(c)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if pm.Message().MsgType != tlb.MsgTypeInternal || !housed(pm.Message().AsInternal().DstAddr) {
		return fmt.Errorf("%w: no internal one", ErrMessage)
	}
	s := n.shardOf(pm.Message().AsInternal().DstAddr.Workchain())
	s.queue = append(s.queue, tvm.OutMessage{Cell: c, Msg: pm.Message()})
	n.stats.Minted++
	return nil
}

// nextLT is where the logical times of the block after these begin.
func nextLT(heads ...*block) uint64 {
	last := uint64(0)
	for _, h := range heads {
		last = max(last, h.endLT)
	}
	return last/ltStep*ltStep + ltStep
}

func seedOf(startLT uint64, seed int64) []byte {
	return binary.LittleEndian.AppendUint64(nil, startLT+uint64(seed))
}
