package ton

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"github.com/xssnick/tonutils-go/tvm/tuple"
	"github.com/xssnick/tonutils-go/tvm/vm"
)

// getGas is how much gas a get-method may use: what liteservers give.
const getGas = 1_000_000

// Get runs a get-method of a contract here, on its proven code and data, at the time of the state's block: what a liteserver
// answers for one is not proven. Arguments are int, int64, uint32, uint64, *big.Int, *cell.Cell, *cell.Slice, Address, and
// nil. Results come in the order that the method returns them: *big.Int, *cell.Cell, *cell.Slice, []any, and nil; false is 0
// and true is -1. The error is ErrMethod if the account has no code, if it has not got the method (exit code 11), or if
// the method fails. Code in libraries is not supported.
func (c *Client) Get(ctx context.Context, s State, method string, args ...any) ([]any, error) {
	ctx, done, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if !s.Active {
		return nil, fmt.Errorf("%w: %s of %s: the account has no code", ErrMethod, clip(method), s.Address)
	}
	conf, err := c.configAt(ctx, s.At)
	if err != nil {
		return nil, err
	}
	out, err := run(conf, s, method, args)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", clip(method), s.Address, err)
	}
	return out, nil
}

func run(conf *config, s State, method string, args []any) (out []any, err error) {
	defer func() {
		if p := recover(); p != nil { // the contract is anybody's
			out, err = nil, fmt.Errorf("%w: the machine broke: %s", ErrMethod, clip(fmt.Sprint(p)))
		}
	}()
	stack := vm.NewStack()
	for i, a := range append(args[:len(args):len(args)], new(big.Int).SetUint64(tlb.MethodNameHash(method))) {
		v, err := hostValue(a)
		if err == nil {
			err = stack.PushHostValue(v)
		}
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i, err)
		}
	}
	registers, err := c7(conf, s)
	if err != nil {
		return nil, err
	}
	r, err := tvm.NewTVM().ExecuteGetMethod(s.Code, s.Data, registers, vm.GasWithLimit(getGas), stack,
		tvm.ExecutionConfig{Config: conf.prepared})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrMethod, clip(err.Error()))
	}
	if r.ExitCode != 0 && r.ExitCode != 1 {
		return nil, fmt.Errorf("%w: exit code %d", ErrMethod, r.ExitCode)
	}
	for i := r.Stack.Len() - 1; i >= 0; i-- {
		v, err := r.Stack.Get(i)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMethod, err)
		}
		if v, err = plain(v, 0); err != nil {
			return nil, fmt.Errorf("%w: result: %w", ErrMethod, err)
		}
		out = append(out, v)
	}
	return out, nil
}

// hostValue is an argument as the machine has it.
func hostValue(a any) (any, error) {
	switch a := a.(type) {
	case int:
		return big.NewInt(int64(a)), nil
	case int64:
		return big.NewInt(a), nil
	case uint32:
		return big.NewInt(int64(a)), nil
	case uint64:
		return new(big.Int).SetUint64(a), nil
	case Address:
		return cell.BeginCell().MustStoreAddr(a.Std()).ToSlice(), nil
	case *big.Int, *cell.Cell, *cell.Slice, nil:
		return a, nil
	}
	return nil, fmt.Errorf("a %T", a)
}

// tupleDepth bounds results that hold themselves many times over.
const tupleDepth = 16

// plain is a result as the caller gets it.
func plain(v any, depth int) (any, error) {
	switch v := v.(type) {
	case *big.Int, *cell.Cell, *cell.Slice, nil:
		return v, nil
	case tuple.Tuple:
		if depth == tupleDepth {
			return nil, errors.New("tuples in tuples")
		}
		all := make([]any, v.Len())
		for i := range all {
			x, err := v.Index(i)
			if err == nil {
				all[i], err = plain(x, depth+1)
			}
			if err != nil {
				return nil, err
			}
		}
		return all, nil
	}
	return nil, fmt.Errorf("a %T", v)
}

// c7 is what a contract can ask its surroundings for.
func c7(conf *config, s State) (tuple.Tuple, error) {
	now := uint32(s.At.Time.Unix())
	block, err := conf.prepared.NewBlockContext(tvm.BlockOptions{
		Now: now, BlockLT: int64(s.Last.LT), RandSeed: make([]byte, 32), PrevBlocks: tuple.Tuple{},
	})
	if err != nil {
		return tuple.Tuple{}, fmt.Errorf("config: %w", err)
	}
	var unpacked any
	if t, ok := block.UnpackedConfig(); ok {
		unpacked = t
	}
	return tuple.NewTupleValue(tuple.NewTupleValue(
		big.NewInt(0x076ef1ea), big.NewInt(0), big.NewInt(0), // magic, actions, messages sent
		big.NewInt(int64(now)), new(big.Int).SetUint64(s.Last.LT), new(big.Int).SetUint64(s.Last.LT),
		big.NewInt(0), // no chance: a result has to be the same each time
		tuple.NewTupleValue(big.NewInt(int64(s.Balance)), nil),
		cell.BeginCell().MustStoreAddr(s.Address.Std()).ToSlice(), conf.params.Root, s.Code,
		tuple.NewTupleValue(big.NewInt(0), nil), big.NewInt(0), nil, unpacked, big.NewInt(int64(s.Due)), nil, nil,
	)), nil
}
