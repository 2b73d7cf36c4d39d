package devnet

import (
	"math/big"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// touch loads a traced cell and everything below it, so that all of that stays in the proof.
func touch(c *cell.Cell) error {
	s, err := c.BeginParse()
	if err != nil {
		return err
	}
	for s.RefsNum() > 0 {
		r, err := s.LoadRefCell()
		if err != nil {
			return err
		}
		if err = touch(r); err != nil {
			return err
		}
	}
	return nil
}

// refs loads a traced cell and returns its (traced) references.
func refs(c *cell.Cell) ([]*cell.Cell, error) {
	s, err := c.BeginParse()
	if err != nil {
		return nil, err
	}
	var out []*cell.Cell
	for s.RefsNum() > 0 {
		r, err := s.LoadRefCell()
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// headerProof is the block proof with the header and the state update.
func (b *block) headerProof() (*cell.Cell, error) {
	p := cell.NewMerkleProofBuilder(b.root)
	if _, err := openHeader(p); err != nil {
		return nil, err
	}
	return p.CreateProof()
}

// openHeader opens the header and the state update, whose two children stay pruned, and gives the block's parts.
func openHeader(p *cell.MerkleProofBuilder) ([]*cell.Cell, error) {
	r, err := refs(p.Root())
	if err != nil {
		return nil, err
	}
	if err := touch(r[0]); err != nil {
		return nil, err
	}
	_, err = r[2].BeginParse()
	return r, err
}

// extraProof is a block proof that opens extra as well; fn walks it.
func (b *block) extraProof(fn func(extra []*cell.Cell) error) (*cell.Cell, error) {
	p := cell.NewMerkleProofBuilder(b.root)
	r, err := openHeader(p)
	if err != nil {
		return nil, err
	}
	extra, err := refs(r[3])
	if err != nil {
		return nil, err
	}
	if err = fn(extra); err != nil {
		return nil, err
	}
	return p.CreateProof()
}

// stateProof is a proof over the state root; fn touches what must stay.
func (b *block) stateProof(fn func(root *cell.Cell) error) (*cell.Cell, error) {
	p := cell.NewMerkleProofBuilder(b.state)
	if err := fn(p.Root()); err != nil {
		return nil, err
	}
	return p.CreateProof()
}

// accountProof proves what an account is, or that there is none; then it gives nil.
func (b *block) accountProof(key [32]byte) (*cell.Cell, *tlb.ShardAccount, error) {
	var sa *tlb.ShardAccount
	p, err := b.stateProof(func(root *cell.Cell) error {
		var st tlb.ShardStateUnsplit
		if err := tlb.Parse(&st, root); err != nil {
			return err
		}
		v, _, err := st.Accounts.ShardAccounts.LoadValueExtra(keyCell(key))
		if err != nil {
			return nil // absent: the path stays in the proof
		}
		sa = &tlb.ShardAccount{}
		return tlb.LoadFromCell(sa, v)
	})
	if err != nil || sa == nil {
		return p, nil, err
	}
	var st tlb.ShardStateUnsplit
	if err = tlb.Parse(&st, b.state); err != nil {
		return nil, nil, err
	}
	v, _, err := st.Accounts.ShardAccounts.LoadValueExtra(keyCell(key))
	if err != nil {
		return nil, nil, err
	}
	sa = &tlb.ShardAccount{} // untraced
	return p, sa, tlb.LoadFromCell(sa, v)
}

// mcExtra is the traced references of McStateExtra: shard_hashes, config, info. (The zero state has no shard_hashes, and
// is never asked.)
func mcExtra(root *cell.Cell) ([]*cell.Cell, error) {
	r, err := refs(root)
	if err != nil {
		return nil, err
	}
	return refs(r[3])
}

// shardProof: masterchain block header + state with the shard description.
func (b *block) shardProof() ([]*cell.Cell, error) {
	hp, err := b.headerProof()
	if err != nil {
		return nil, err
	}
	sp, err := b.stateProof(func(root *cell.Cell) error {
		e, err := mcExtra(root)
		if err != nil {
			return err
		}
		return touch(e[0])
	})
	return []*cell.Cell{hp, sp}, err
}

// configProof: header + state with all config params or only the given ones.
func (b *block) configProof(params []int32) ([]*cell.Cell, error) {
	hp, err := b.headerProof()
	if err != nil {
		return nil, err
	}
	sp, err := b.stateProof(func(root *cell.Cell) error {
		e, err := mcExtra(root)
		if err != nil {
			return err
		}
		cfg := e[1]
		if params == nil {
			return touch(cfg)
		}
		d := cfg.AsDict(32)
		for _, id := range params {
			v, err := d.LoadValueByIntKey(big.NewInt(int64(id)))
			if err != nil {
				continue // proof of absence
			}
			c, err := v.LoadRefCell()
			if err != nil {
				return err
			}
			if err = touch(c); err != nil {
				return err
			}
		}
		return nil
	})
	return []*cell.Cell{hp, sp}, err
}

// txProof proves that transactions are in the block.
func (b *block) txProof(list []*txRef) (*cell.Cell, error) {
	return b.extraProof(func(extra []*cell.Cell) error {
		s, err := extra[2].BeginParse()
		if err != nil {
			return err
		}
		var d tlb.ShardAccountBlocksAugDict
		if err = d.LoadFromCell(s); err != nil {
			return err
		}
		for _, t := range list {
			v, _, err := d.LoadValueExtra(keyCell(t.acc))
			if err != nil {
				return err
			}
			var ab tlb.AccountBlock
			if err = tlb.LoadFromCell(&ab, v); err != nil {
				return err
			}
			tv, _, err := ab.Transactions.LoadValueExtra(cell.BeginCell().MustStoreUInt(t.lt, 64).EndCell())
			if err != nil {
				return err
			}
			if _, err = tv.LoadRefCell(); err != nil {
				return err
			}
		}
		return nil
	})
}

func boc(c *cell.Cell) []byte { return c.ToBOCWithOptions(cell.BOCSerializeOptions{}) }

// blockProof is the way from a known block to another: back to the key block, then one step forward, which is signed.
func (n *Network) blockProof(known, target *block) (*ton.PartialBlockProof, error) {
	out := &ton.PartialBlockProof{Complete: true, From: known.id, To: target.id, Steps: []any{}}
	if known == target {
		return out, nil
	}
	if target.id.SeqNo < known.id.SeqNo {
		step, err := linkBack(known, target)
		out.Steps = append(out.Steps, step)
		return out, err
	}
	if known != n.first {
		step, err := linkBack(known, n.first)
		if err != nil {
			return nil, err
		}
		out.Steps = append(out.Steps, step)
	}
	if target == n.first {
		return out, nil
	}
	step, err := n.linkForward(target)
	out.Steps = append(out.Steps, step)
	return out, err
}

// linkBack proves that a block is among those before another, by the other's state.
func linkBack(from, to *block) (step ton.BlockLinkBackward, err error) {
	dest, err := to.headerProof()
	if err != nil {
		return step, err
	}
	hp, err := from.headerProof()
	if err != nil {
		return step, err
	}
	sp, err := from.stateProof(func(root *cell.Cell) error {
		e, err := mcExtra(root)
		if err != nil {
			return err
		}
		s, err := e[2].BeginParse()
		if err != nil {
			return err
		}
		var info tlb.McStateExtraBlockInfo
		if err = info.LoadFromCellAsProof(s); err != nil {
			return err
		}
		_, _, err = info.PrevBlocks.LoadValueExtraByIntKey(big.NewInt(int64(to.id.SeqNo)))
		return err
	})
	if err != nil {
		return step, err
	}
	return ton.BlockLinkBackward{
		ToKeyBlock: to.key, From: from.id, To: to.id, DestProof: boc(dest), Proof: boc(hp), StateProof: boc(sp),
	}, nil
}

// linkForward proves a block by the validator's signature, and the validator by the key block.
func (n *Network) linkForward(target *block) (step ton.BlockLinkForward, err error) {
	cp, err := n.first.extraProof(func(extra []*cell.Cell) error { // the config
		e, err := refs(extra[3])
		if err != nil {
			return err
		}
		return touch(e[len(e)-1])
	})
	if err != nil {
		return step, err
	}
	dp, err := target.headerProof()
	if err != nil {
		return step, err
	}
	id, err := n.validatorID()
	if err != nil {
		return step, err
	}
	signature, err := n.sign(target.id)
	if err != nil {
		return step, err
	}
	return ton.BlockLinkForward{
		ToKeyBlock: target.key, From: n.first.id, To: target.id, DestProof: boc(dp), ConfigProof: boc(cp),
		SignatureSet: ton.SignatureSetOrdinary{
			ValidatorSetHash: int32(n.valHash), CatchainSeqno: 0,
			Signatures: []ton.Signature{{NodeIDShort: id, Signature: signature}},
		},
	}, nil
}
