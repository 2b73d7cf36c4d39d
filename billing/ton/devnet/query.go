package devnet

import (
	"bytes"
	"errors"
	"fmt"
	"sort"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

const (
	// transactionsMax and blockPageMax bound an answer's transactions, as the mainnet's liteservers do.
	transactionsMax = 16
	blockPageMax    = 256
	// paramsMax bounds the parameters of a query.
	paramsMax = 256
	// versionNumber and capabilities are what the mainnet's liteservers say.
	versionNumber = 0x101
	capabilities  = 7
)

// Bits of queries' modes.
const (
	lookupSeqno    = 1 << 0
	lookupLT       = 1 << 1
	lookupTime     = 1 << 2
	targetGiven    = 1 << 0
	listWithProof  = 1 << 5
	listAfterGiven = 1 << 7
)

// view is what a liteserver knows: one that lags, or has forgotten, knows less than there is.
type view struct {
	*Network
	head    *block
	history uint32
}

func (n *Network) view(faults ...*Faults) *view {
	v := &view{Network: n, head: n.head.Load(), history: n.opts.HistoryBlocks}
	lag := uint32(0)
	for _, f := range faults {
		l, h := f.view()
		lag = max(lag, l)
		if h > 0 && (v.history == 0 || h < v.history) {
			v.history = h
		}
	}
	if lag == 0 {
		return v
	}
	n.mx.Lock()
	defer n.mx.Unlock()
	if v.head.id.SeqNo > lag {
		v.head = n.bySeqno[master][v.head.id.SeqNo-lag]
	} else {
		v.head = n.first
	}
	return v
}

func failed(code int32, format string, a ...any) error {
	return ton.LSError{Code: code, Text: fmt.Sprintf(format, a...)}
}

// query answers a query. What makes the library panic is a bad query.
func (v *view) query(q tl.Serializable) (resp tl.Serializable, err error) {
	err = guard(func() (err error) {
		resp, err = v.dispatch(q)
		return err
	})
	return resp, err
}

func (v *view) dispatch(q tl.Serializable) (tl.Serializable, error) {
	switch q := q.(type) {
	case ton.GetMasterchainInf:
		return ton.MasterchainInfo{Last: v.head.id, StateRootHash: v.head.state.Hash(), Init: v.zero}, nil
	case ton.GetMasterchainInfoExt:
		return ton.MasterchainInfoExt{
			Version: versionNumber, Capabilities: capabilities, Last: v.head.id, LastUTime: v.head.utime,
			Now: v.unix(), StateRootHash: v.head.state.Hash(), Init: v.zero,
		}, nil
	case ton.GetTime:
		return ton.CurrentTime{Now: v.unix()}, nil
	case ton.GetVersion:
		return ton.Version{Version: versionNumber, Capabilities: capabilities, Now: v.unix()}, nil
	case ton.GetBlockData:
		b, err := v.find(q.ID)
		if err != nil {
			return nil, err
		}
		return ton.BlockData{ID: b.id, Payload: b.root.ToBOC()}, nil
	case ton.GetBlockHeader:
		b, err := v.find(q.ID)
		if err != nil {
			return nil, err
		}
		return blockHeader(b, q.Mode)
	case ton.LookupBlock:
		return v.lookup(q)
	case ton.GetAllShardsInfo:
		return v.allShards(q.ID)
	case ton.GetConfigAll:
		return v.config(q.BlockID, nil, q.Mode)
	case ton.GetConfigParams:
		if len(q.Params) > paramsMax {
			return nil, failed(-400, "too many parameters")
		}
		return v.config(q.BlockID, append([]int32{}, q.Params...), q.Mode)
	case ton.GetLibraries:
		return ton.LibraryResult{Result: []*ton.LibraryEntry{}}, nil
	case ton.GetBlockProof:
		return v.proof(q)
	}
	return v.dispatchAccounts(q)
}

// dispatchAccounts answers what is about accounts and their transactions.
func (v *view) dispatchAccounts(q tl.Serializable) (tl.Serializable, error) {
	switch q := q.(type) {
	case ton.GetAccountState:
		return v.accountState(q.ID, q.Account)
	case ton.RunSmcMethod:
		return v.runMethod(q)
	case ton.GetTransactions:
		return v.transactions(q)
	case ton.GetOneTransaction:
		return v.oneTransaction(q)
	case ton.ListBlockTransactions:
		return v.listBlock(q)
	case ton.ListBlockTransactionsExt:
		return v.listBlockExt(q)
	}
	return nil, failed(-400, "unsupported query %T", q)
}

// find is a block that is known here.
func (v *view) find(id *ton.BlockIDExt) (*block, error) {
	if id == nil {
		return nil, failed(-400, "no block")
	}
	v.mx.Lock()
	b := v.blocks[string(id.RootHash)]
	v.mx.Unlock()
	if b == nil || b.mcSeqno > v.head.id.SeqNo || b.id.SeqNo != id.SeqNo || b.id.Workchain != id.Workchain ||
		!bytes.Equal(b.id.FileHash, id.FileHash) {
		return nil, failed(651, "block (%d,%x,%d) is not in db", id.Workchain, uint64(id.Shard), id.SeqNo)
	}
	return b, nil
}

func blockHeader(b *block, mode uint32) (tl.Serializable, error) {
	p, err := b.headerProof()
	if err != nil {
		return nil, err
	}
	return ton.BlockHeader{ID: b.id, Mode: mode, HeaderProof: boc(p)}, nil
}

func (v *view) lookup(q ton.LookupBlock) (tl.Serializable, error) {
	if q.ID == nil {
		return nil, failed(-400, "no block")
	}
	v.mx.Lock()
	list := v.bySeqno[q.ID.Workchain]
	v.mx.Unlock()
	at := len(list)
	switch {
	case q.Mode&lookupSeqno != 0:
		at = int(uint32(q.ID.Seqno))
	case q.Mode&(lookupLT|lookupTime) != 0 && len(list) > 0: // the first that is not before it
		at = 1 + sort.Search(len(list)-1, func(i int) bool {
			b := list[i+1]
			return q.Mode&lookupLT != 0 && b.endLT >= q.LT || q.Mode&lookupTime != 0 && b.utime >= q.UTime
		})
	}
	if at < 1 || at >= len(list) || list[at].mcSeqno > v.head.id.SeqNo {
		return nil, failed(651, "block is not in db")
	}
	return blockHeader(list[at], q.Mode)
}

// resolve is the block whose state has a workchain's accounts, as of a block, and the proof that they belong together.
func (v *view) resolve(id *ton.BlockIDExt, wc int32) (ref, st *block, shardProof []*cell.Cell, err error) {
	if ref, err = v.find(id); err != nil {
		return nil, nil, nil, err
	}
	switch {
	case wc == ref.id.Workchain:
		return ref, ref, nil, nil
	case wc == base:
		shardProof, err = ref.shardProof()
		return ref, ref.shardTop, shardProof, err
	}
	return nil, nil, nil, failed(-400, "no accounts of workchain %d there", wc)
}

func (v *view) accountState(id *ton.BlockIDExt, acc ton.AccountID) (tl.Serializable, error) {
	ref, st, shardProof, err := v.resolve(id, acc.Workchain)
	if err != nil {
		return nil, err
	}
	hp, err := st.headerProof()
	if err != nil {
		return nil, err
	}
	sp, sa, err := st.accountProof([32]byte(acc.ID))
	if err != nil {
		return nil, err
	}
	out := ton.AccountState{ID: ref.id, Shard: st.id, ShardProof: shardProof, Proof: []*cell.Cell{hp, sp}}
	if sa != nil {
		out.State = sa.Account
	}
	return out, nil
}

// forgotten tells whether a block's transactions are too old to be known.
func (v *view) forgotten(b *block) bool {
	return v.history > 0 && b.mcSeqno+v.history < v.head.id.SeqNo
}

func (v *view) transactions(q ton.GetTransactions) (tl.Serializable, error) {
	if q.AccID == nil {
		return nil, failed(-400, "no account")
	}
	v.mx.Lock()
	defer v.mx.Unlock()
	h, lt := [32]byte(q.TxHash), uint64(q.LT)
	var cells []*cell.Cell
	out := ton.TransactionList{IDs: []*ton.BlockIDExt{}}
	for len(cells) < min(int(q.Limit), transactionsMax) && lt != 0 {
		t := v.txs[h]
		var err error
		switch {
		case t == nil || t.lt != lt || !bytes.Equal(t.acc[:], q.AccID.ID) || t.block.id.Workchain != q.AccID.Workchain:
			err = failed(0, "transaction hash mismatch")
		case v.forgotten(t.block) || t.block.mcSeqno > v.head.id.SeqNo:
			err = failed(-400, "cannot compute block with specified transaction: lt not in db")
		}
		if err != nil && len(cells) == 0 {
			return nil, err
		}
		if err != nil { // the list ends there
			break
		}
		cells = append(cells, t.cell)
		out.IDs = append(out.IDs, t.block.id)
		h, lt = t.prevHash, t.prevLT
	}
	if len(cells) > 0 {
		out.Transactions = cell.ToBOCWithOptions(cells, cell.BOCSerializeOptions{})
	}
	return out, nil
}

func (v *view) oneTransaction(q ton.GetOneTransaction) (tl.Serializable, error) {
	b, err := v.find(q.ID)
	if err != nil {
		return nil, err
	}
	if q.AccID == nil {
		return nil, failed(-400, "no account")
	}
	for _, t := range b.txs {
		if t.lt == uint64(q.LT) && bytes.Equal(t.acc[:], q.AccID.ID) {
			p, err := b.txProof([]*txRef{t})
			if err != nil {
				return nil, err
			}
			return ton.TransactionInfo{ID: b.id, Proof: boc(p), Transaction: boc(t.cell)}, nil
		}
	}
	return ton.TransactionInfo{ID: b.id}, nil
}

// page is the transactions of a block after one, and whether there are more.
func (b *block) page(mode, count uint32, after *ton.TransactionID3) (list []*txRef, more bool) {
	list = b.txs
	if mode&listAfterGiven != 0 && after != nil {
		i := sort.Search(len(list), func(i int) bool {
			c := bytes.Compare(list[i].acc[:], after.Account)
			return c > 0 || c == 0 && list[i].lt > after.LT
		})
		list = list[i:]
	}
	count = min(count, blockPageMax)
	if uint32(len(list)) > count {
		return list[:count], true
	}
	return list, false
}

func (v *view) listBlock(q ton.ListBlockTransactions) (tl.Serializable, error) {
	b, err := v.find(q.ID)
	if err != nil {
		return nil, err
	}
	list, more := b.page(q.Mode, q.Count, q.After)
	out := ton.BlockTransactions{
		ID: b.id, ReqCount: int32(q.Count), Incomplete: more, TransactionIds: []ton.TransactionID{},
	}
	for _, t := range list {
		out.TransactionIds = append(out.TransactionIds, ton.TransactionID{
			Flags: 7, Account: t.acc[:], LT: t.lt, Hash: t.hash[:],
		})
	}
	if q.Mode&listWithProof != 0 {
		out.Proof, err = b.txProof(list)
	}
	return out, err
}

func (v *view) listBlockExt(q ton.ListBlockTransactionsExt) (tl.Serializable, error) {
	b, err := v.find(q.ID)
	if err != nil {
		return nil, err
	}
	list, more := b.page(q.Mode, q.Count, q.After)
	out := ton.BlockTransactionsExt{ID: b.id, ReqCount: int32(q.Count), Incomplete: more}
	for _, t := range list {
		out.Transactions = append(out.Transactions, t.cell)
	}
	if q.Mode&listWithProof != 0 {
		p, err := b.txProof(list)
		if err != nil {
			return nil, err
		}
		out.Proof = boc(p)
	}
	return out, nil
}

func (v *view) allShards(id *ton.BlockIDExt) (tl.Serializable, error) {
	b, err := v.find(id)
	if err != nil {
		return nil, err
	}
	if b.id.Workchain != master {
		return nil, failed(-400, "not a masterchain block")
	}
	shards, err := shardHashes(b.shardTop)
	if err != nil {
		return nil, err
	}
	p, err := b.extraProof(func(extra []*cell.Cell) error {
		_, err := refs(extra[3])
		return err
	})
	if err != nil {
		return nil, err
	}
	data := cell.BeginCell().MustStoreDict(shards).EndCell()
	return ton.AllShardsInfo{ID: b.id, Proof: []*cell.Cell{p}, Data: data}, nil
}

func (v *view) config(id *ton.BlockIDExt, params []int32, mode int32) (tl.Serializable, error) {
	b, err := v.find(id)
	if err != nil {
		return nil, err
	}
	if b.id.Workchain != master {
		return nil, failed(-400, "not a masterchain block")
	}
	p, err := b.configProof(params)
	if err != nil {
		return nil, err
	}
	return ton.ConfigAll{Mode: int(mode), ID: b.id, StateProof: boc(p[0]), ConfigProof: boc(p[1])}, nil
}

func (v *view) proof(q ton.GetBlockProof) (tl.Serializable, error) {
	known, err := v.find(q.KnownBlock)
	if err != nil {
		return nil, err
	}
	target := v.head
	if q.Mode&targetGiven != 0 {
		if target, err = v.find(q.TargetBlock); err != nil {
			return nil, err
		}
	}
	if known.id.Workchain != master || target.id.Workchain != master {
		return nil, failed(-400, "not a masterchain block")
	}
	p, err := v.blockProof(known, target)
	if err != nil {
		return nil, err
	}
	return *p, nil
}

// sendMessage takes an external message, as SendExternal does.
func (s *Server) sendMessage(q ton.SendMessage) (tl.Serializable, error) {
	err := s.n.send(q.Body, &s.n.faults, &s.faults)
	switch {
	case errors.Is(err, ErrMessage):
		return nil, failed(0, "cannot deserialize external message: %v", err)
	case err != nil:
		return nil, failed(0, "cannot apply external message to current state : %v", err)
	}
	return ton.SendMessageStatus{Status: 1}, nil
}
