package treasury

import (
	"strings"
	"testing"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"
)

// Every kind of money that comes in, to the undeployed wallet: who has it then, to the nanoTON.
func TestDeposits(t *testing.T) {
	s := newWorld(t, devnet.Options{}).scene(t)
	s.config.Cold = someone("cold")
	tab := someone("tab")
	s.config.Source = func(from ton.Address) (ledger.Account, bool) { return "transit", from == tab }
	var credited []ledger.Account
	s.config.Credited = func(a ledger.Account) { credited = append(credited, a) }
	l := s.open()
	x := s.treasury(l, s.client)
	alice := x.Deposit("alice")
	if alice.Memo != ton.Memo("alice") || alice.Address != s.wallet.Address() ||
		!strings.Contains(alice.Link, alice.Address.String()) {
		t.Fatalf("deposit: %+v", alice)
	}
	wrong := alice.Memo[:len(alice.Memo)-1] + "0"
	if wrong == alice.Memo {
		wrong = alice.Memo[:len(alice.Memo)-1] + "1"
	}
	step(t, x)
	s.give("a", 3*tonCoin, alice.Memo)
	s.give("a", 1, alice.Memo) // two in a block, and dust
	s.give("a", 0, alice.Memo)
	s.mine()
	s.give("b", 2*tonCoin, "  "+ton.Memo("bob")+"\n")
	s.give("c", 1*tonCoin, "")
	s.give("c", 4*tonCoin, wrong)
	s.give("c", 5*tonCoin, ton.Memo("mallory"))
	s.give("c", 6*tonCoin, strings.Repeat("long ", 1000))
	s.give("dust", DefaultKeepMin-1, "hello")
	s.give("dust", 0, "")
	s.mine()
	s.give("operator", 10*tonCoin, MemoCapital)
	s.inject(someone("cold"), 7*tonCoin, commentBody(t, alice.Memo), false)
	s.inject(tab, 8*tonCoin, cell.BeginCell().MustStoreUInt(0x7ab5a1d0, 32).EndCell(), false)
	s.inject(someone("d"), 9*tonCoin, cell.BeginCell().MustStoreUInt(0x0f8a7ea5, 32).MustStoreUInt(1, 64).EndCell(), false)
	s.inject(someone("e"), 11*tonCoin, commentBody(t, alice.Memo), true)
	s.inject(s.wallet.Address(), 12*tonCoin, cell.BeginCell().MustStoreUInt(0xae42e5a4, 32).EndCell(), true)
	// The wallet is not deployed, so what asks to come back does.
	s.message(tlb.InternalMessage{Bounce: true, Body: commentBody(t, alice.Memo)}, someone("bouncing"), 13*tonCoin)
	s.mine()
	if got := s.balance(someone("bouncing")); got == 0 || got > 13*tonCoin {
		t.Errorf("%v came back", got)
	}
	st := step(t, x)
	if st.Difference != 0 || st.Stopped != "" || st.Suspense != 6 || st.Unmatched != 0 {
		t.Errorf("status: %+v", st)
	}
	// Our own message came back: the money was never taken from "transit", so it is back there. Put it right for the checks.
	move(t, l, "transit", "transit", "network", 20*tonCoin)
	got := s.books(l)
	for account, want := range map[ledger.Account]nanoton.Amount{
		"customer:alice": 3*tonCoin + 1, "customer:bob": 2 * tonCoin, "cold": 7 * tonCoin, "transit": 0,
	} {
		if got[account] != want {
			t.Errorf("%s has %d, want %d", account, got[account], want)
		}
	}
	if len(credited) != 4 {
		t.Errorf("credited: %v", credited)
	}
	kept, err := Unsettled(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	why := map[nanoton.Amount]string{}
	for _, k := range kept {
		why[k.Amount/tonCoin] = k.Why
		if len(k.Comment) > commentMax || strings.ContainsAny(k.Comment, "\n") {
			t.Errorf("comment: %q", k.Comment)
		}
	}
	for amount, want := range map[nanoton.Amount]string{
		1: "no memo", 4: "the memo is not valid", 5: "the memo names no customer", 6: "no memo", 9: "no memo",
		11: "a message of the wallet came back",
	} {
		if why[amount] != want {
			t.Errorf("%d TON: %q, want %q", amount, why[amount], want)
		}
	}
	// All of it again from the beginning, into an empty ledger: the same books.
	again := s.chainWorld.scene(t)
	again.wallet, again.config.Wallet = s.wallet, s.wallet
	again.config.Cold, again.config.Source = s.config.Cold, s.config.Source
	l2 := again.open()
	step(t, again.treasury(l2, s.client))
	move(t, l2, "transit", "transit", "network", 20*tonCoin)
	for account, amount := range again.books(l2) {
		if amount != got[account] {
			t.Errorf("scanned again, %s has %d, before %d", account, amount, got[account])
		}
	}
}
