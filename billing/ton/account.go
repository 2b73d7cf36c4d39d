package ton

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Account is the account's state as of the block, proven. An account that does not exist there is no error: what does not
// exist is proven, too. Errors: ErrAmount if it has more than fits, ErrUnreachable.
func (c *Client) Account(ctx context.Context, h Head, a Address) (State, error) {
	if h.id == nil {
		return State{}, errors.New("account: there is no head")
	}
	if a.IsZero() {
		return State{}, fmt.Errorf("account: %w: none", ErrAddress)
	}
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return State{}, err
	}
	defer done()
	var st State
	err = c.ask(ctx, "account", func(s *server) (err error) {
		st, err = s.account(ctx, h, a)
		return err
	})
	return st, err
}

func (s *server) account(ctx context.Context, h Head, a Address) (State, error) {
	answer, err := s.ask(ctx, h.Seqno, ton.GetAccountState{
		ID: h.id, Account: ton.AccountID{Workchain: int32(a.Workchain), ID: a.Hash[:]},
	})
	if err != nil {
		return State{}, err
	}
	r, ok := answer.(ton.AccountState)
	if !ok {
		return State{}, errOther
	}
	return accountAt(&r, h, a)
}

// accountAt checks a liteserver's word on an account against a proven block.
func accountAt(r *ton.AccountState, h Head, a Address) (State, error) {
	block := h.id
	if a.Workchain != -1 {
		if err := ton.CheckShardInMasterProofForAccount(h.id, r.ShardProof, r.Shard, a.Std()); err != nil {
			return State{}, proofError(err)
		}
		block = r.Shard
	}
	entry, extra, err := lookup(r.Proof, block.RootHash, a)
	st := State{Address: a, At: h}
	if errors.Is(err, cell.ErrNoSuchKeyInDict) {
		if r.State != nil {
			return State{}, fmt.Errorf("%w: a state of an account that does not exist", ErrProof)
		}
		return st, nil
	}
	if err != nil {
		return State{}, fmt.Errorf("%w: %s", ErrProof, clip(err.Error()))
	}
	var shard tlb.ShardAccount
	var depth tlb.DepthBalanceInfo
	if err := errors.Join(tlb.LoadFromCell(&shard, entry), tlb.LoadFromCell(&depth, extra)); err != nil {
		return State{}, fmt.Errorf("%w: %s", ErrProof, clip(err.Error()))
	}
	if r.State == nil || r.State.HashKey() != shard.Account.HashKey(0) {
		return State{}, fmt.Errorf("%w: the state is not the one of the proof", ErrProof)
	}
	st.Last = Cursor{LT: shard.LastTransLT, Hash: [32]byte(shard.LastTransHash)}
	return st, st.fill(r.State)
}

// lookup finds an account in the proof of a block's state. The library's own look-up takes a branch that the proof leaves
// out for one without the account, so a liteserver could hide any account from it; here only ErrNoSuchKeyInDict means
// that it is proven not to exist.
func lookup(proof []*cell.Cell, block []byte, a Address) (entry, extra *cell.Slice, err error) {
	state, err := ton.CheckBlockShardStateProof(proof, block)
	if err != nil {
		return nil, nil, err
	}
	accounts := state.Accounts.ShardAccounts
	if accounts == nil {
		return nil, nil, errors.New("the proof has no accounts")
	}
	if accounts.IsEmpty() {
		if err := trulyEmpty(proof[1]); err != nil {
			return nil, nil, err
		}
		return nil, nil, cell.ErrNoSuchKeyInDict
	}
	return accounts.LoadValueExtra(cell.BeginCell().MustStoreSlice(a.Hash[:], 256).EndCell())
}

// trulyEmpty checks that a state's accounts are in its proof, and none.
func trulyEmpty(proof *cell.Cell) error {
	state, err := proof.PeekRef(0)
	if err != nil {
		return err
	}
	accounts, err := state.PeekRef(1)
	if err != nil {
		return err
	}
	if accounts.IsSpecial() || accounts.RefsNum() != 0 {
		return errors.New("the proof leaves the accounts out")
	}
	return nil
}

// fill takes over a proven account state.
func (st *State) fill(root *cell.Cell) error {
	var a tlb.AccountState
	if err := tlb.Parse(&a, root); err != nil {
		return fmt.Errorf("account state: %w", err)
	}
	if !a.IsValid {
		return nil
	}
	owner, err := FromStd(a.Address)
	if err != nil || owner != st.Address {
		return fmt.Errorf("%w: the state is of another account", ErrProof)
	}
	st.Exists, st.Active = true, a.Status == tlb.AccountStatusActive
	if st.Balance, err = amount(a.Balance); err != nil {
		return fmt.Errorf("balance of %s: %w", st.Address, err)
	}
	if a.StorageInfo.DuePayment != nil {
		if st.Due, err = amount(*a.StorageInfo.DuePayment); err != nil {
			return fmt.Errorf("debt of %s: %w", st.Address, err)
		}
	}
	if st.Active {
		st.Code, st.Data = a.StateInit.Code, a.StateInit.Data
		if st.Code == nil {
			st.Code = cell.BeginCell().EndCell()
		}
		if st.Data == nil {
			st.Data = cell.BeginCell().EndCell()
		}
	}
	return nil
}

// amount takes over coins of the chain.
func amount(c tlb.Coins) (nanoton.Amount, error) { return amountOf(c.Nano()) }

func amountOf(n *big.Int) (nanoton.Amount, error) {
	if n == nil {
		return 0, nil
	}
	if !n.IsInt64() || n.Sign() < 0 {
		return 0, fmt.Errorf("%w: a number of %d bits", ErrAmount, n.BitLen())
	}
	return nanoton.Amount(n.Int64()), nil
}
