package devnet

import (
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"github.com/xssnick/tonutils-go/tvm/tuple"
	"github.com/xssnick/tonutils-go/tvm/vm"
)

// methodGas bounds a get-method, as the mainnet's liteservers do.
const methodGas = 1_000_000

// What a get-method's query asks for.
const (
	methodWithProof  = 1 << 0
	methodWithState  = 1 << 1
	methodWithResult = 1 << 2
)

func (v *view) runMethod(q ton.RunSmcMethod) (tl.Serializable, error) {
	ref, st, shardProof, err := v.resolve(q.ID, q.Account.Workchain)
	if err != nil {
		return nil, err
	}
	sp, sa, err := st.accountProof([32]byte(q.Account.ID))
	if err != nil {
		return nil, err
	}
	var acc tlb.AccountState
	if sa != nil {
		if err := tlb.Parse(&acc, sa.Account); err != nil {
			return nil, err
		}
	}
	if acc.Status != tlb.AccountStatusActive {
		return nil, failed(-256, "contract is not initialized")
	}
	stack, err := methodStack(q)
	if err != nil {
		return nil, err
	}
	c7, err := v.methodContext(ref, st, &acc, q.Account)
	if err != nil {
		return nil, err
	}
	res, err := v.machine.ExecuteGetMethod(nil, nil, c7, vm.GasWithLimit(methodGas), stack,
		tvm.ExecutionConfig{AccountRoot: sa.Account, Config: v.cfg})
	if err != nil {
		return nil, err
	}
	out := ton.RunMethodResult{Mode: q.Mode, ID: ref.id, ShardBlock: st.id, ExitCode: int32(res.ExitCode)}
	if q.Mode&methodWithProof != 0 {
		hp, err := st.headerProof()
		if err != nil {
			return nil, err
		}
		out.ShardProof, out.Proof = shardProof, []*cell.Cell{hp, sp}
	}
	if q.Mode&methodWithState != 0 {
		out.StateProof = res.Proof
	}
	if q.Mode&methodWithResult != 0 && (res.ExitCode == 0 || res.ExitCode == 1) {
		s, err := tlb.NewStackFromVM(res.Stack)
		if err != nil {
			return nil, err
		}
		if out.Result, err = s.ToCell(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// methodStack is the arguments of a get-method, and its number.
func methodStack(q ton.RunSmcMethod) (*vm.Stack, error) {
	params, err := cell.FromBOC(q.Params)
	if err != nil {
		return nil, err
	}
	var in tlb.Stack
	if err = tlb.Parse(&in, params); err != nil {
		return nil, err
	}
	stack := vm.NewStack()
	for in.Depth() > 0 {
		x, err := in.Pop()
		if err != nil {
			return nil, err
		}
		if err = stack.PushHostValue(x); err != nil {
			return nil, err
		}
	}
	return stack, stack.PushInt(new(big.Int).SetUint64(q.MethodID))
}

// methodContext is register c7: what a contract can ask of the world.
func (v *view) methodContext(ref, st *block, acc *tlb.AccountState, id ton.AccountID) (tuple.Tuple, error) {
	bctx, err := v.blockContext(st.utime, st.startLT)
	if err != nil {
		return tuple.Tuple{}, err
	}
	var unpacked any
	if t, ok := bctx.UnpackedConfig(); ok {
		unpacked = t
	}
	addr := address.NewAddress(0, byte(id.Workchain), id.ID)
	return tuple.NewTupleValue(tuple.NewTupleValue(
		big.NewInt(0x076ef1ea), big.NewInt(0), big.NewInt(0),
		big.NewInt(int64(st.utime)), new(big.Int).SetUint64(st.startLT), new(big.Int).SetUint64(st.endLT),
		new(big.Int).SetBytes(ref.id.RootHash),
		tuple.NewTupleValue(acc.Balance.Nano(), nil),
		cell.BeginCell().MustStoreAddr(addr).ToSlice(), v.cfgRoot, acc.StateInit.Code,
		tuple.NewTupleValue(big.NewInt(0), nil), big.NewInt(0), nil, unpacked, big.NewInt(0), nil, nil,
	)), nil
}
