package devnet

import (
	"crypto/sha256"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// begin makes the blocks that every chain starts with: the zero states, and block 1, the only key block.
func (n *Network) begin(h header) error {
	n.secret = h.Secret
	for _, s := range []*shard{n.bc, n.mc} {
		var extra *cell.Cell
		var err error
		if s.wc == master {
			if extra, err = n.mcStateExtra(nil, nil, false); err != nil {
				return err
			}
		}
		b := &block{utime: h.Genesis}
		if b.state, err = shardState(s, b, extra); err != nil {
			return err
		}
		fh := sha256.Sum256(b.state.ToBOC())
		b.id = &ton.BlockIDExt{Workchain: s.wc, Shard: shardInt(), RootHash: b.state.Hash(), FileHash: fh[:]}
		s.head = b
		n.bySeqno[s.wc] = []*block{nil} // they are states, not blocks
	}
	n.zero = &ton.ZeroStateIDExt{Workchain: master, RootHash: n.mc.head.id.RootHash, FileHash: n.mc.head.id.FileHash}
	if err := n.notePrevious(n.mc.head); err != nil {
		return err
	}
	if err := n.mineAt(h.Genesis); err != nil {
		return err
	}
	n.first = n.mc.head
	n.publish()
	return nil
}

func shardInt() int64 { return -1 << 63 }

// mineLocked makes the next two blocks, has them on disk, and then lets everybody see them.
func (n *Network) mineLocked() error {
	if n.err != nil {
		return n.err
	}
	before := n.mc.head.utime
	now := max(n.unix(), before)
	skew := n.skew.Load()
	err := n.mineAt(now)
	if err == nil && n.journal != nil {
		err = n.journal.block(now-before, skew, n.mc.head.id.RootHash)
	}
	if err != nil {
		n.err = fmt.Errorf("making block %d: %w", n.mc.head.id.SeqNo, err)
		n.log.Error("the chain stands still", "err", n.err)
		close(n.newBlk) // those who wait hear of it
		n.newBlk = make(chan struct{})
		return n.err
	}
	n.publish()
	return nil
}

// publish lets everybody see the newest blocks.
func (n *Network) publish() {
	n.stats.Blocks++
	n.head.Store(n.mc.head)
	close(n.newBlk)
	n.newBlk = make(chan struct{})
	for _, landed := range n.landed {
		landed <- n.mc.head.id.SeqNo // it has room
	}
	n.landed = nil
	if len(n.pool)+len(n.mc.queue)+len(n.bc.queue) > 0 {
		n.kickLocked()
	}
}

// mineAt makes a basechain block and the masterchain block that includes it. What comes of it depends on nothing but
// the chain so far, the messages that wait, and the time.
func (n *Network) mineAt(now uint32) error {
	startLT, seqno := nextLT(n.mc.head, n.bc.head), n.mc.head.id.SeqNo+1
	n.minted, n.pending = 0, 0
	top, err := n.produce(n.bc, &block{utime: now, startLT: startLT, mcSeqno: seqno})
	if err != nil {
		return fmt.Errorf("basechain: %w", err)
	}
	_, err = n.produce(n.mc, &block{utime: now, startLT: startLT, mcSeqno: seqno, key: seqno == 1, shardTop: top})
	if err != nil {
		return fmt.Errorf("masterchain: %w", err)
	}
	return nil
}

// produce executes what waits for a shard and makes b its next block.
func (n *Network) produce(s *shard, b *block) (*block, error) {
	c, err := n.collate(s, b.utime, b.startLT)
	if err != nil {
		return nil, err
	}
	prev := s.head
	b.txs, b.endLT = c.list, c.endLT
	b.id = &ton.BlockIDExt{Workchain: s.wc, Shard: shardInt(), SeqNo: prev.id.SeqNo + 1}
	var inState, inBlock *cell.Cell
	if s.wc == master {
		if inState, err = n.mcStateExtra(b.shardTop, n.first, prev.key); err != nil {
			return nil, err
		}
		if inBlock, err = n.mcBlockExtra(b); err != nil {
			return nil, err
		}
	}
	if b.state, err = shardState(s, b, inState); err != nil {
		return nil, err
	}
	if b.root, err = n.blockCell(b, prev, c.accs, inBlock); err != nil {
		return nil, err
	}
	fh := sha256.Sum256(b.root.ToBOC())
	b.id.RootHash, b.id.FileHash = b.root.Hash(), fh[:]
	s.head = b
	n.blocks[string(b.id.RootHash)] = b
	n.bySeqno[s.wc] = append(n.bySeqno[s.wc], b)
	for _, t := range b.txs {
		t.block = b
		n.txs[t.hash] = t
	}
	if s.wc == master {
		err = n.notePrevious(b)
	}
	return b, err
}

// blockCell is a Block.
func (n *Network) blockCell(b, prev *block, accs map[[32]byte]*accountBlock, mcExtra *cell.Cell) (*cell.Cell, error) {
	info, err := n.blockInfo(b, prev)
	if err != nil {
		return nil, err
	}
	update, err := stateUpdate(prev.state, b.state)
	if err != nil {
		return nil, err
	}
	accounts, err := accountBlocks(accs)
	if err != nil {
		return nil, err
	}
	// Both message dictionaries are empty (HashmapAugE with its extra): no client reads them.
	in := noMoney(cell.BeginCell().MustStoreUInt(0, 1).MustStoreUInt(0, 4)).EndCell()
	out := noMoney(cell.BeginCell().MustStoreUInt(0, 1)).EndCell()
	none := make([]byte, 32) // rand_seed, created_by
	extra := cell.BeginCell().MustStoreUInt(0x4a33f6fd, 32).MustStoreRef(in).MustStoreRef(out).MustStoreRef(accounts).
		MustStoreSlice(none, 256).MustStoreSlice(none, 256).MustStoreMaybeRef(mcExtra).EndCell()
	flow4 := func() *cell.Cell { return noMoney(noMoney(noMoney(noMoney(cell.BeginCell())))).EndCell() }
	flow := noMoney(cell.BeginCell().MustStoreUInt(0xb8e48dfb, 32).MustStoreRef(flow4())).MustStoreRef(flow4()).EndCell()
	return cell.BeginCell().MustStoreUInt(0x11ef55aa, 32).MustStoreInt(int64(GlobalID), 32).
		MustStoreRef(info).MustStoreRef(flow).MustStoreRef(update).MustStoreRef(extra).EndCell(), nil
}

// blockInfo is a BlockInfo.
func (n *Network) blockInfo(b, prev *block) (*cell.Cell, error) {
	h := tlb.BlockHeader{}
	h.NotMaster = b.id.Workchain != master
	h.KeyBlock = b.key
	h.Flags = 1 // it names its software
	h.SeqNo = b.id.SeqNo
	h.Shard = tlb.ShardIdent{WorkchainID: b.id.Workchain}
	h.GenUtime = b.utime
	h.StartLt, h.EndLt = b.startLT, b.endLT
	h.GenValidatorListHashShort = n.valHash
	h.GenSoftware = &n.version
	if !h.NotMaster && !b.key {
		h.PrevKeyBlockSeqno = 1
	}
	ref := func(b *block) tlb.ExtBlkRef {
		return tlb.ExtBlkRef{EndLt: b.endLT, SeqNo: b.id.SeqNo, RootHash: b.id.RootHash, FileHash: b.id.FileHash}
	}
	if h.NotMaster {
		m := ref(n.mc.head)
		h.MasterRef = &m
	}
	h.PrevRef.Prev1 = ref(prev)
	return h.ToCell()
}

// accountBlocks is ShardAccountBlocks.
func accountBlocks(accs map[[32]byte]*accountBlock) (*cell.Cell, error) {
	d, err := tlb.NewShardAccountBlocksAugDict()
	if err != nil {
		return nil, err
	}
	for key, a := range accs {
		inline, err := a.txs.InlineCell()
		if err != nil {
			return nil, err
		}
		update := cell.BeginCell().MustStoreUInt(0x72, 8).MustStoreSlice(a.old, 256).MustStoreSlice(a.now, 256).EndCell()
		v := cell.BeginCell().MustStoreUInt(5, 4).MustStoreSlice(key[:], 256).
			MustStoreBuilder(inline.ToBuilder()).MustStoreRef(update)
		if err := d.SetBuilder(keyCell(key), v); err != nil {
			return nil, fmt.Errorf("account blocks: %w", err)
		}
	}
	return d.ToCell()
}

// shardState is ShardStateUnsplit after block b.
func shardState(s *shard, b *block, mcExtra *cell.Cell) (*cell.Cell, error) {
	accounts, err := s.dict.ToCell()
	if err != nil {
		return nil, err
	}
	seqno := uint32(0)
	if b.id != nil { // not the zero state
		seqno = b.id.SeqNo
	}
	// out_queue (empty), proc_info (empty), no extra
	queue := cell.BeginCell().MustStoreUInt(0, 1).MustStoreUInt(0, 64).MustStoreUInt(0, 1).MustStoreUInt(0, 1).EndCell()
	stats := noMoney(noMoney(cell.BeginCell().MustStoreUInt(0, 64).MustStoreUInt(0, 64))).
		MustStoreUInt(0, 1). // libraries
		MustStoreUInt(0, 1). // master_ref
		EndCell()
	out := shardIdent(cell.BeginCell().MustStoreUInt(0x9023afe2, 32).MustStoreInt(int64(GlobalID), 32), s.wc).
		MustStoreUInt(uint64(seqno), 32).MustStoreUInt(0, 32).
		MustStoreUInt(uint64(b.utime), 32).MustStoreUInt(b.endLT, 64).MustStoreUInt(0, 32).
		MustStoreRef(queue).MustStoreUInt(0, 1).MustStoreRef(accounts).MustStoreRef(stats)
	return out.MustStoreMaybeRef(mcExtra).EndCell(), nil
}

// mcStateExtra is McStateExtra.
func (n *Network) mcStateExtra(top, lastKey *block, afterKey bool) (*cell.Cell, error) {
	shards, err := shardHashes(top)
	if err != nil {
		return nil, err
	}
	prev, err := n.prevMC.ToCell()
	if err != nil {
		return nil, err
	}
	info := cell.BeginCell().MustStoreUInt(0, 16).MustStoreUInt(uint64(n.valHash), 32).MustStoreUInt(0, 32).
		MustStoreUInt(0, 1).MustStoreBuilder(prev.ToBuilder()).MustStoreBoolBit(afterKey)
	if lastKey == nil {
		info.MustStoreUInt(0, 1)
	} else {
		blockRef(info.MustStoreUInt(1, 1), lastKey)
	}
	// The global balance is like the mainnet's: @ton/core reads a bit too many before it, and gets by only where the
	// number has 8 bytes.
	return cell.BeginCell().MustStoreUInt(0xcc26, 16).MustStoreDict(shards).
		MustStoreSlice(n.cfgAddr, 256).MustStoreRef(n.cfgRoot).MustStoreRef(info.EndCell()).
		MustStoreBigCoins(big.NewInt(5_000_000_000_000_000_000)).MustStoreUInt(0, 1).EndCell(), nil
}

// mcBlockExtra is McBlockExtra.
func (n *Network) mcBlockExtra(b *block) (*cell.Cell, error) {
	shards, err := shardHashes(b.shardTop)
	if err != nil {
		return nil, err
	}
	c := cell.BeginCell().MustStoreUInt(0xcca5, 16).MustStoreBoolBit(b.key).MustStoreDict(shards).
		MustStoreUInt(0, 1).MustStoreBuilder(noMoney(noMoney(cell.BeginCell()))). // shard_fees: empty
		MustStoreRef(cell.BeginCell().MustStoreUInt(0, 3).EndCell())
	if b.key {
		c.MustStoreSlice(n.cfgAddr, 256).MustStoreRef(n.cfgRoot)
	}
	return c.EndCell(), nil
}

// shardHashes is ShardHashes with the one shard of the basechain.
func shardHashes(top *block) (*cell.Dictionary, error) {
	d := cell.NewDict(32)
	if top == nil {
		return d, nil
	}
	leaf := cell.BeginCell().
		MustStoreUInt(0, 1). // bt_leaf$0
		MustStoreUInt(0xa, 4).MustStoreUInt(uint64(top.id.SeqNo), 32).MustStoreUInt(uint64(top.mcSeqno), 32).
		MustStoreUInt(top.startLT, 64).MustStoreUInt(top.endLT, 64).
		MustStoreSlice(top.id.RootHash, 256).MustStoreSlice(top.id.FileHash, 256).
		MustStoreUInt(0, 5+3).MustStoreUInt(0, 32).MustStoreUInt(shardPrefix, 64).
		MustStoreUInt(0, 32).MustStoreUInt(uint64(top.utime), 32).
		MustStoreUInt(0, 1). // fsm_none
		MustStoreRef(noMoney(noMoney(cell.BeginCell())).EndCell()).EndCell()
	err := d.SetIntKey(big.NewInt(0), cell.BeginCell().MustStoreRef(leaf).EndCell())
	return d, err
}

// stateUpdate is a MERKLE_UPDATE with both sides pruned: it commits to the states' hashes, but can't be applied.
func stateUpdate(from, to *cell.Cell) (*cell.Cell, error) {
	a, err := prunedBranch(from)
	if err != nil {
		return nil, err
	}
	b, err := prunedBranch(to)
	if err != nil {
		return nil, err
	}
	return cell.CreateMerkleUpdate(a, b)
}

func prunedBranch(c *cell.Cell) (*cell.Cell, error) {
	return cell.BeginCell().MustStoreUInt(1, 8).MustStoreUInt(1, 8).
		MustStoreSlice(c.Hash(0), 256).MustStoreUInt(uint64(c.Depth(0)), 16).EndCellSpecial(true)
}

// noMoney stores a CurrencyCollection of 0.
func noMoney(b *cell.Builder) *cell.Builder { return b.MustStoreUInt(0, 5) }

func shardIdent(b *cell.Builder, wc int32) *cell.Builder {
	return b.MustStoreUInt(0, 2).MustStoreUInt(0, 6).MustStoreInt(int64(wc), 32).MustStoreUInt(0, 64)
}

// blockRef stores an ExtBlkRef.
func blockRef(to *cell.Builder, b *block) *cell.Builder {
	return to.MustStoreUInt(b.endLT, 64).MustStoreUInt(uint64(b.id.SeqNo), 32).
		MustStoreSlice(b.id.RootHash, 256).MustStoreSlice(b.id.FileHash, 256)
}

// notePrevious takes a masterchain block into OldMcBlocksInfo of the states to come.
func (n *Network) notePrevious(b *block) error {
	v := blockRef(cell.BeginCell().MustStoreBoolBit(b.key), b).EndCell()
	return n.prevMC.Set(cell.BeginCell().MustStoreUInt(uint64(b.id.SeqNo), 32).EndCell(), v)
}

// oldMcBlocksAug is the augmentation of OldMcBlocksInfo: KeyMaxLt, whether there is a key block and the last lt.
type oldMcBlocksAug struct{}

// SkipExtra reads over a KeyMaxLt.
func (oldMcBlocksAug) SkipExtra(s *cell.Slice) error {
	_, err := s.LoadSlice(65)
	return err
}

// EmptyExtra is the KeyMaxLt of no block.
func (oldMcBlocksAug) EmptyExtra() (*cell.Cell, error) { return keyMaxLT(false, 0), nil }

// LeafExtra is the KeyMaxLt of one block.
func (oldMcBlocksAug) LeafExtra(v *cell.Slice) (*cell.Cell, error) {
	key, lt, err := loadKeyMaxLT(v.Copy())
	return keyMaxLT(key, lt), err
}

// CombineExtra is the KeyMaxLt of two sides.
func (oldMcBlocksAug) CombineExtra(l, r *cell.Slice) (*cell.Cell, error) {
	lk, ll, err := loadKeyMaxLT(l)
	if err != nil {
		return nil, err
	}
	rk, rl, err := loadKeyMaxLT(r)
	return keyMaxLT(lk || rk, max(ll, rl)), err
}

func keyMaxLT(key bool, lt uint64) *cell.Cell {
	return cell.BeginCell().MustStoreBoolBit(key).MustStoreUInt(lt, 64).EndCell()
}

func loadKeyMaxLT(s *cell.Slice) (key bool, lt uint64, err error) {
	if key, err = s.LoadBoolBit(); err != nil {
		return false, 0, err
	}
	lt, err = s.LoadUInt(64)
	return key, lt, err
}
