package ton

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"cocoon/billing/ton/devnet"
	"cocoon/internal/nanoton"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// external signs a wallet's transfers, and makes of it what Send takes.
func (k *chain) external(w *wallet.Wallet, m ...*wallet.Message) []byte {
	k.t.Helper()
	s := k.state(k.reader(), std(k.t, w.WalletAddress()))
	x, err := w.PrepareExternalMessageForMany(k.t.Context(), !s.Active, m)
	if err != nil {
		k.t.Fatal(err)
	}
	boc, err := ExternalTo(std(k.t, x.DstAddr), x.StateInit, x.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return boc
}

func TestSend(t *testing.T) {
	k := newChain(t, devnet.Options{}, 2)
	c := k.client()
	w := k.personal("alice")
	alice, bob := std(t, w.WalletAddress()), someone("bob")
	message := k.external(w, transfer(bob, 5, false, nil))
	if err := c.Send(t.Context(), message); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), k.fronts[0].addr) {
		t.Errorf("no money: %v", err)
	}
	k.fund(alice, nanoton.PerTON, "")
	k.mine()
	if err := c.Send(t.Context(), message); err != nil {
		t.Fatal(err)
	}
	k.mine()
	if s := k.state(c, bob); s.Balance != 5 {
		t.Errorf("%+v", s)
	}
	// It was executed, so it is refused now. That it is refused does not say that it was not executed.
	if err := c.Send(t.Context(), message); !errors.Is(err, ErrRefused) {
		t.Errorf("again: %v", err)
	}
	// One accepts: that is enough, whatever the other one does.
	for i, f := range []func(tl.Serializable, func() tl.Serializable) tl.Serializable{
		silent,
		func(tl.Serializable, func() tl.Serializable) tl.Serializable {
			return ton.LSError{Code: 0, Text: "refused"}
		},
		func(tl.Serializable, func() tl.Serializable) tl.Serializable { return ton.SendMessageStatus{Status: 2} },
		func(tl.Serializable, func() tl.Serializable) tl.Serializable { return ton.CurrentTime{} },
	} {
		k.fronts[1].set(f)
		to := someone(fmt.Sprint("case ", i))
		message := k.external(w, transfer(to, 5, false, nil))
		if err := c.Send(t.Context(), message); err != nil {
			t.Errorf("case %d: %v", i, err)
		}
		k.fronts[1].set(nil)
		k.mine()
		if s := k.state(c, to); s.Balance != 5 {
			t.Errorf("case %d: %v", i, s.Balance)
		}
	}
	message = k.external(w, transfer(bob, 5, false, nil))
	for _, f := range k.fronts {
		f.set(func(tl.Serializable, func() tl.Serializable) tl.Serializable {
			return ton.LSError{Code: 651, Text: "not ready"}
		})
	}
	if err := c.Send(t.Context(), message); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefused) {
		t.Errorf("nobody tried it: %v", err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), make([]byte, MessageMax+1), body("x").ToBOC(), message[:len(message)-1]} {
		if err := c.Send(t.Context(), bad); err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}

func TestExternalTo(t *testing.T) {
	if _, err := ExternalTo(Address{}, nil, nil); !errors.Is(err, ErrAddress) {
		t.Error(err)
	}
	boc, err := ExternalTo(someone("x"), nil, nil)
	if err != nil || checkExternal(boc) != nil {
		t.Errorf("%v", err)
	}
	big := cell.BeginCell().EndCell()
	for i := range 700 {
		big = cell.BeginCell().MustStoreUInt(uint64(i), 64).MustStoreSlice(make([]byte, 100), 800).MustStoreRef(big).EndCell()
	}
	if _, err := ExternalTo(someone("x"), &tlb.StateInit{Code: big}, nil); err == nil {
		t.Error("longer than the network takes")
	}
}
