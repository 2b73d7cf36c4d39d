package ton

import (
	"fmt"
	"testing"
	"time"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

func coins(a nanoton.Amount) tlb.Coins { return tlb.FromNanoTONU(uint64(a)) }

// book follows accounts: each change of a proven balance is the sum of the transactions' changes, to the nanoTON.
type book struct {
	k     *chain
	c     *Client
	at    map[Address]Cursor
	value map[Address]nanoton.Amount
}

// check gives what is new of the account.
func (b *book) check(what string, a Address) []*Transaction {
	b.k.t.Helper()
	s := b.k.state(b.c, a)
	list, err := b.c.Transactions(b.k.t.Context(), s, b.at[a], 10000)
	if err != nil {
		b.k.t.Fatalf("%s: %v", what, err)
	}
	for i, x := range list {
		b.value[a] += x.Change()
		b.k.t.Logf("%s: transaction %d: in %v, %d out, fees %d, exit %d, change %d", what, i, x.In != nil, len(x.Out), x.Fees,
			x.Exit, x.Change())
	}
	b.at[a] = s.Last
	if b.value[a] != s.Balance {
		b.k.t.Fatalf("%s: the transactions make %d, the balance is %d", what, b.value[a], s.Balance)
	}
	return list
}

func newBook(k *chain) *book {
	return &book{k: k, c: k.client(), at: map[Address]Cursor{}, value: map[Address]nanoton.Amount{}}
}

func (k *chain) send(w *wallet.Wallet, m ...*wallet.Message) {
	k.t.Helper()
	s := k.state(k.reader(), std(k.t, w.WalletAddress()))
	x, err := w.PrepareExternalMessageForMany(k.t.Context(), !s.Active, m)
	if err == nil {
		err = k.api.SendExternalMessage(k.t.Context(), x)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	k.mine()
}

func transfer(to Address, amount nanoton.Amount, bounce bool, b *cell.Cell) *wallet.Message {
	return &wallet.Message{Mode: wallet.PayGasSeparately | wallet.IgnoreErrors, InternalMessage: &tlb.InternalMessage{
		IHRDisabled: true, Bounce: bounce, DstAddr: to.Std(), Amount: coins(amount), Body: b,
	}}
}

func TestChange(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	b := newBook(k)
	w := k.personal("alice")
	alice, bob := std(t, w.WalletAddress()), someone("bob")

	k.fund(alice, 10*nanoton.PerTON, "hi")
	k.mine()
	list := b.check("deposit to an account that is not there", alice)
	if len(list) != 1 || list[0].In.Comment != "hi" || list[0].Change() != 10*nanoton.PerTON || list[0].Fees != 0 {
		t.Errorf("%+v", list[0])
	}
	k.send(w, transfer(bob, nanoton.PerTON, false, body("thanks")))
	list = b.check("a wallet's first transfer, which deploys it", alice)
	if len(list) != 1 || !list[0].In.External || len(list[0].Out) != 1 || list[0].Out[0].To != bob || list[0].Fees == 0 ||
		list[0].Out[0].Fee == 0 || list[0].Out[0].Comment != "thanks" || list[0].Aborted {
		t.Errorf("%+v", list)
	}
	if s := k.state(b.c, alice); !s.Active || s.Code == nil {
		t.Errorf("%+v", s)
	}
	list = b.check("what came of it", bob)
	if len(list) != 1 || list[0].In.From != alice || list[0].In.Amount != nanoton.PerTON || list[0].In.Fee != 0 ||
		list[0].Change() != nanoton.PerTON {
		t.Errorf("%+v", list)
	}
	k.send(w, transfer(bob, 5, false, nil), transfer(someone("carol"), 6, false, nil), transfer(alice, 7, false, nil))
	b.check("three at once, one to itself", alice)
	b.check("a deposit to an account that has no code", bob)

	k.send(w, transfer(someone("nobody"), 2*nanoton.PerTON, true, body("come back")))
	list = b.check("a transfer that comes back", alice)
	if len(list) != 2 || !list[1].In.Bounced || list[1].In.Comment != "" {
		t.Errorf("%+v", list)
	}
	b.check("the account that it came back from", someone("nobody"))

	k.fund(alice, nanoton.PerTON, "a deposit to a contract")
	k.mine()
	b.check("deposit to a contract", alice)

	// More than there is: the message is left out, and gas is paid.
	k.send(w, transfer(bob, 1000*nanoton.PerTON, false, nil))
	if list = b.check("more than there is", alice); len(list[0].Out) != 0 {
		t.Errorf("%+v", list[0])
	}
	// All of it.
	all := transfer(bob, 0, false, nil)
	all.Mode = wallet.CarryAllRemainingBalance | wallet.IgnoreErrors
	k.send(w, all)
	b.check("all of it", alice)
	if s := k.state(b.c, alice); s.Balance != 0 {
		t.Errorf("%+v", s)
	}
	b.check("all of it, there", bob)
}

// TestChangeStorage: rent of years, which is paid from what comes, or stays a debt.
func TestChangeStorage(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	b := newBook(k)
	w := k.personal("alice")
	alice := std(t, w.WalletAddress())
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	k.send(w, transfer(someone("bob"), 5, false, nil))
	b.check("deployed", alice)

	k.advance(365 * 24 * time.Hour)
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	list := b.check("a deposit after a year", alice)
	if list[0].Fees == 0 || list[0].Change() >= nanoton.PerTON {
		t.Errorf("no rent: %+v", list[0])
	}
	k.send(w, transfer(someone("bob"), 5, false, nil))
	b.check("a transfer after a year", alice)

	all := transfer(someone("bob"), 0, false, nil)
	all.Mode = wallet.CarryAllRemainingBalance | wallet.IgnoreErrors
	k.send(w, all)
	b.check("emptied", alice)
	k.advance(365 * 24 * time.Hour)
	k.fund(alice, 1000, "")
	k.mine()
	b.check("too little for the rent of a year", alice)
	s := k.state(b.c, alice)
	if s.Due == 0 || s.Balance != 0 {
		t.Errorf("no debt: %+v", s)
	}
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	list = b.check("the debt is paid", alice)
	if s := k.state(b.c, alice); s.Due != 0 || list[0].Fees < s.Due {
		t.Errorf("%+v", s)
	}
	k.advance(20 * 365 * 24 * time.Hour)
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	b.check("after twenty years", alice)
}

// TestChangeHighload: batches of payouts, which run in two transactions.
func TestChangeHighload(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	b := newBook(k)
	w := k.highload("treasury")
	me := std(t, w.WalletAddress())
	k.fund(me, 100*nanoton.PerTON, "")
	k.mine()
	b.check("deposit", me)
	for _, n := range []int{1, 2, 250} {
		var m []*wallet.Message
		for i := range n {
			to := someone(fmt.Sprint("worker ", i))
			m = append(m, transfer(to, nanoton.Amount(100_000_000+i), false, body(fmt.Sprint("payout ", i))))
		}
		k.send(w, m...)
		list := b.check(fmt.Sprint("a batch of ", n), me)
		sent := 0
		for _, o := range list[len(list)-1].Out {
			if o.To != me {
				if o.Comment != fmt.Sprint("payout ", sent) || o.Amount != nanoton.Amount(100_000_000+sent) || o.From != me {
					t.Fatalf("payout %d: %+v", sent, o)
				}
				sent++
			}
		}
		if sent != n {
			t.Errorf("%d of %d payouts", sent, n)
		}
	}
	var m []*wallet.Message
	for i := range 20 { // more than there is
		m = append(m, transfer(someone(fmt.Sprint("worker ", i)), 10*nanoton.PerTON, false, nil))
	}
	k.send(w, m...)
	b.check("a batch that there is no money for", me)
}

// TestChangeDeploy: a contract that is deployed by an internal message, one whose code breaks, and flags in what once was a
// fee.
func TestChangeDeploy(t *testing.T) {
	k := newChain(t, devnet.Options{}, 0)
	b := newBook(k)
	w := k.personal("alice")
	alice := std(t, w.WalletAddress())
	k.fund(alice, 10*nanoton.PerTON, "")
	k.mine()
	b.check("deposit", alice)
	for name, code := range map[string]*cell.Cell{
		"a contract that takes all": cell.BeginCell().EndCell(),
		"a contract that breaks":    cell.BeginCell().MustStoreUInt(0xf2c0ff, 24).EndCell(), // 0xff THROW
	} {
		init := &tlb.StateInit{Code: code, Data: body(name)}
		root, err := tlb.ToCell(init)
		if err != nil {
			t.Fatal(err)
		}
		at := Address{Hash: root.HashKey()}
		for _, bounce := range []bool{false, true} {
			m := transfer(at, nanoton.PerTON, bounce, nil)
			m.InternalMessage.StateInit = init
			k.send(w, m)
			what := fmt.Sprint(name, ", bounce ", bounce)
			b.check(what, alice)
			b.check(what+", the contract", at)
		}
		if s := k.state(b.c, at); !s.Active {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if err := k.Inject(&tlb.InternalMessage{
		IHRDisabled: true, Bounce: true, SrcAddr: someone("x").Std(), DstAddr: alice.Std(), Amount: coins(nanoton.PerTON),
		IHRFee: coins(3),
	}); err != nil {
		t.Fatal(err)
	}
	k.mine()
	if list := b.check("with flags", alice); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}
