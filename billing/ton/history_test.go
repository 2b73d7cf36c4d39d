package ton

import (
	"errors"
	"fmt"
	"testing"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// checkAll reads an account's transactions in steps, and checks that they are complete and lead to its balance.
func checkAll(t *testing.T, c *Client, s State, after Cursor, step int) (all []*Transaction) {
	t.Helper()
	for after != s.Last {
		list, err := c.Transactions(t.Context(), s, after, step)
		if err != nil || len(list) == 0 || len(list) > step {
			t.Fatalf("%d transactions, %v", len(list), err)
		}
		for _, x := range list {
			if x.Prev != after {
				t.Fatalf("after %v comes one after %v", after, x.Prev)
			}
			after = x.Cursor
		}
		all = append(all, list...)
	}
	return all
}

func sum(all []*Transaction) (total nanoton.Amount) {
	for _, x := range all {
		total += x.Change()
	}
	return total
}

// TestTransactions reads deposits, several in a block, in steps of any size, beginning anywhere.
func TestTransactions(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	who := someone("gateway")
	const n = 100
	for i := range n {
		k.fund(who, nanoton.Amount(1000+i), fmt.Sprint("memo ", i))
		if i%7 == 0 || i == n-1 {
			k.mine()
		}
	}
	s := k.state(c, who)
	var cursors []Cursor
	for _, step := range []int{1000, 1, 3, 16, 17, 99} {
		all := checkAll(t, c, s, Cursor{}, step)
		if len(all) != n || sum(all) != s.Balance {
			t.Fatalf("%d transactions make %v, not %v", len(all), sum(all), s.Balance)
		}
		cursors = nil
		for i, x := range all {
			if x.In == nil || x.In.Comment != fmt.Sprint("memo ", i) || x.In.Amount != nanoton.Amount(1000+i) || x.In.To != who ||
				len(x.Out) != 0 {
				t.Fatalf("transaction %d: %+v", i, x)
			}
			cursors = append(cursors, x.Cursor)
		}
	}
	for i := 0; i < n; i += 9 {
		if all := checkAll(t, k.client(), s, cursors[i], 20); len(all) != n-1-i {
			t.Errorf("after %d: %d", i, len(all))
		}
	}
	if list, err := c.Transactions(t.Context(), s, s.Last, 10); err != nil || len(list) != 0 {
		t.Errorf("after the last: %v, %v", list, err)
	}
	// More comes between two steps: the walk goes on where it was.
	first, err := c.Transactions(t.Context(), s, Cursor{}, 10)
	if err != nil || len(first) != 10 {
		t.Fatal(err)
	}
	for range 40 {
		k.fund(who, 7, "")
	}
	k.mine()
	s = k.state(c, who)
	before := k.fronts[0].questions()
	rest := checkAll(t, c, s, first[9].Cursor, 1000)
	if len(rest) != n+40-10 || sum(first)+sum(rest) != s.Balance {
		t.Errorf("%d more", len(rest))
	}
	if asked := k.fronts[0].questions() - before; asked > 14 {
		t.Errorf("%d questions for 130 transactions of which the walk back of 100 was known", asked)
	}
}

// TestBacklog: a walk back over many pages is made once, not for each step.
func TestBacklog(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	who := someone("gateway")
	const n, step = 1600, 32
	for range n {
		k.fund(who, 5, "")
	}
	k.mine()
	s := k.state(c, who)
	before := k.fronts[0].questions()
	if all := checkAll(t, c, s, Cursor{}, step); len(all) != n {
		t.Errorf("%d transactions", len(all))
	}
	// Each page twice: on the way back and on the way forward.
	if asked, pages := k.fronts[0].questions()-before, n/pageSize; asked > 2*pages+2 {
		t.Errorf("%d questions for %d pages", asked, pages)
	}
}

// TestGap: what does not lead to the cursor is no chain.
func TestGap(t *testing.T) {
	k := newChain(t, devnet.Options{}, 1)
	c := k.client()
	who := someone("gateway")
	for range 40 {
		k.fund(who, 5, "")
		k.mine()
	}
	s := k.state(c, who)
	all := checkAll(t, c, s, Cursor{}, 100)
	wrong := all[20].Cursor
	wrong.Hash[0] ^= 1
	between := all[20].Cursor
	between.LT++
	later := s.Last
	later.LT += 5
	other := s.Last
	other.Hash[0] ^= 1
	for name, after := range map[string]Cursor{
		"another hash": wrong, "between two": between, "later": later, "the last one's time": other,
		"before the first": {LT: 1, Hash: [32]byte{1}},
	} {
		for _, c := range []*Client{c, k.client()} {
			if list, err := c.Transactions(t.Context(), s, after, 10); !errors.Is(err, ErrGap) || list != nil {
				t.Errorf("%s: %d transactions, %v", name, len(list), err)
			}
		}
	}
	// A liteserver that leaves one out, or gives others.
	lists := map[string]func([]*cell.Cell) []*cell.Cell{
		"one left out":    func(l []*cell.Cell) []*cell.Cell { return append(l[:1:1], l[2:]...) },
		"the first one":   func(l []*cell.Cell) []*cell.Cell { return l[1:] },
		"none":            func([]*cell.Cell) []*cell.Cell { return nil },
		"too many":        func(l []*cell.Cell) []*cell.Cell { return append(l, l...) },
		"another's":       func(l []*cell.Cell) []*cell.Cell { return []*cell.Cell{body("hello")} },
		"the wrong way":   func(l []*cell.Cell) []*cell.Cell { l[0], l[len(l)-1] = l[len(l)-1], l[0]; return l },
		"no bag of cells": nil,
	}
	for name, f := range lists {
		k.fronts[0].set(func(_ tl.Serializable, pass func() tl.Serializable) tl.Serializable {
			answer := pass()
			list, ok := answer.(ton.TransactionList)
			if !ok {
				return answer
			}
			if f == nil {
				list.Transactions = []byte("hello")
				return list
			}
			roots, err := cell.FromBOCMultiRoot(list.Transactions)
			if err != nil {
				return nil
			}
			list.Transactions = nil
			if roots = f(roots); len(roots) > 0 {
				list.Transactions = cell.ToBOCWithOptions(roots, cell.BOCSerializeOptions{})
			}
			return list
		})
		if list, err := k.client().Transactions(t.Context(), s, Cursor{}, 100); !errors.Is(err, ErrUnreachable) || list != nil {
			t.Errorf("%s: %d transactions, %v", name, len(list), err)
		}
	}
	// One that gives fewer at once than others is no liar.
	k.fronts[0].set(func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
		answer := pass()
		list, ok := answer.(ton.TransactionList)
		roots, err := cell.FromBOCMultiRoot(list.Transactions)
		if !ok || err != nil {
			return answer
		}
		few := 1 + int(q.(ton.GetTransactions).LT/1000000)%5
		list.Transactions = cell.ToBOCWithOptions(roots[:min(few, len(roots))], cell.BOCSerializeOptions{})
		return list
	})
	if all := checkAll(t, c, s, Cursor{}, 7); len(all) != 40 {
		t.Errorf("%d of 40", len(all))
	}
}

// TestHistory: what all liteservers have thrown away is another error than a liteserver that is out of order.
func TestHistory(t *testing.T) {
	k := newChain(t, devnet.Options{HistoryBlocks: 3}, 2)
	c := k.client()
	who := someone("gateway")
	k.fund(who, 5, "")
	k.mine()
	old := k.state(c, who)
	for range 10 {
		k.mine()
	}
	if _, err := c.Transactions(t.Context(), old, Cursor{}, 10); !errors.Is(err, ErrHistory) {
		t.Errorf("gone: %v", err)
	}
	k.fronts[0].set(silent) // it may have them
	if _, err := c.Transactions(t.Context(), old, Cursor{}, 10); errors.Is(err, ErrHistory) || !errors.Is(err, ErrUnreachable) {
		t.Errorf("one does not say: %v", err)
	}
	k.fronts[0].set(nil)
	k.fund(who, 6, "")
	k.mine()
	s := k.state(c, who)
	if list, err := c.Transactions(t.Context(), s, old.Last, 10); err != nil || len(list) != 1 || list[0].Prev != old.Last {
		t.Errorf("what is new: %+v, %v", list, err)
	}
}

// TestBlockOnOneOnly: a block that one liteserver has is asked for at another one, which gets it a moment later.
func TestBlockOnOneOnly(t *testing.T) {
	k := newChain(t, devnet.Options{AutoMine: true}, 2)
	c := k.client()
	waits := make(chan struct{}, 10)
	for _, f := range k.fronts {
		f.set(func(q tl.Serializable, pass func() tl.Serializable) tl.Serializable {
			if _, ok := q.(ton.GetAccountState); ok {
				select {
				case waits <- struct{}{}:
				default:
				}
			}
			return pass()
		})
	}
	h, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ahead := h
	ahead.Seqno++ // as if another liteserver had it already
	got := make(chan error, 1)
	go func() {
		_, err := c.Account(t.Context(), ahead, someone("x"))
		got <- err
	}()
	<-waits
	k.fund(someone("x"), 5, "")
	if err := <-got; err != nil {
		t.Errorf("%v", err)
	}
}

// TestAutoMine follows an account while blocks come, with several transactions in a block and messages to itself.
func TestAutoMine(t *testing.T) {
	k := newChain(t, devnet.Options{AutoMine: true}, 2)
	c := k.client()
	who := someone("gateway")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range 150 {
			select {
			case <-stop:
				return
			default:
			}
			if err := k.Faucet(who.Std(), coins(nanoton.Amount(i+1)), ""); err != nil {
				t.Error(err)
			}
		}
	}()
	var after Cursor
	var total nanoton.Amount
	count := 0
	for count < 150 && t.Context().Err() == nil {
		s := k.state(c, who)
		for _, x := range checkAll(t, c, s, after, 13) {
			total += x.Change()
			after = x.Cursor
			count++
		}
		if total != s.Balance {
			t.Fatalf("%v of %v", total, s.Balance)
		}
	}
	close(stop)
	<-done
}
