package wallet_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	ours "cocoon/billing/ton/wallet"
)

// The address is the one that other programs make of the same key.
func TestPersonalAddress(t *testing.T) {
	k := keyOf(t, "alice")
	for _, network := range []int32{ours.Mainnet, devnet.GlobalID, -3} {
		w, err := wallet.FromPubKeyWithOptions(k.Public(), wallet.ConfigV5R1Final{NetworkGlobalID: network})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := ours.NewPersonal(k, network).Address(), w.WalletAddress(); got.Raw() != want.StringRaw() {
			t.Errorf("network %d: %v, want %v", network, got.Raw(), want.StringRaw())
		}
	}
}

func TestNetworkOf(t *testing.T) {
	n := newNetwork(t, "")
	h, err := n.client.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ours.NetworkOf(t.Context(), n.client, h); err != nil || got != devnet.GlobalID {
		t.Errorf("network %d, %v", got, err)
	}
}

func (n *network) message(p *ours.Personal, t []ours.Transfer) []byte {
	n.Helper()
	s := n.state(p.Address())
	message, err := p.Message(n.Context(), s, s.At.Time.Add(time.Minute), t)
	if err != nil {
		n.Fatal(err)
	}
	return message
}

func TestPersonal(t *testing.T) {
	n := newNetwork(t, "")
	p := ours.NewPersonal(keyOf(t, "alice"), devnet.GlobalID)
	n.fund(p.Address(), 1000*oneTON)
	if seqno, err := p.Seqno(n.state(p.Address())); err != nil || seqno != 0 {
		t.Errorf("seqno %d, %v", seqno, err)
	}
	for i, count := range []int{1, 3, 255} {
		asked := transfers(string(rune('a'+i)), count, oneTON/2, "hello")
		message := n.message(p, asked)
		n.send(message)
		n.paid(asked, 1)
		if err := n.client.Send(t.Context(), message); !errors.Is(err, ton.ErrRefused) {
			t.Errorf("sent again: %v", err)
		}
		n.mine()
		n.paid(asked, 1)
		if seqno, err := p.Seqno(n.state(p.Address())); err != nil || seqno != uint32(i+1) {
			t.Errorf("seqno %d, %v", seqno, err)
		}
	}
	// One that was not executed in time never is.
	asked := transfers("late", 1, oneTON, "")
	late := n.message(p, asked)
	n.pass(time.Minute)
	if err := n.client.Send(t.Context(), late); !errors.Is(err, ton.ErrRefused) {
		t.Errorf("sent too late: %v", err)
	}
	n.mine()
	n.paid(asked, 0)
}

// With what Need says all is sent, under any prices that there were; with less nothing is signed.
func TestPersonalNeed(t *testing.T) {
	for name, config := range map[string]string{"now": "", "old prices": oldPrices} {
		for _, count := range []int{1, 255} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				n := newNetwork(t, config)
				p := ours.NewPersonal(keyOf(t, "alice"), devnet.GlobalID)
				asked := transfers("r", count, oneTON, strings.Repeat("long ", 8))
				n.fund(p.Address(), p.Need(asked)-1)
				s := n.state(p.Address())
				_, err := p.Message(t.Context(), s, s.At.Time.Add(time.Minute), asked)
				short, ok := errors.AsType[*ours.ShortError](err)
				if !ok || !errors.Is(err, ours.ErrShort) || short.Need != p.Need(asked) || short.Have != short.Need-1 {
					t.Fatalf("one nanoTON short: %v", err)
				}
				n.fund(p.Address(), 1)
				before := n.balance(p.Address())
				n.send(n.message(p, asked))
				n.paid(asked, 1)
				t.Logf("%d: needed %v, took %v", count, p.Need(asked), before-n.balance(p.Address()))
			})
		}
	}
}

func TestPersonalRefuses(t *testing.T) {
	n := newNetwork(t, "")
	p := ours.NewPersonal(keyOf(t, "alice"), devnet.GlobalID)
	n.fund(p.Address(), 1000*oneTON)
	asked := transfers("r", 1, oneTON, "")
	n.send(n.message(p, asked))
	good := n.state(p.Address())
	until := good.At.Time.Add(time.Minute)
	with := func(change func(*ton.State)) ton.State { s := good; change(&s); return s }
	data := func(seqno uint64, allowed bool, id uint64, key ed25519.PublicKey) *cell.Cell {
		return cell.BeginCell().MustStoreBoolBit(allowed).MustStoreUInt(seqno, 32).MustStoreUInt(id, 32).MustStoreSlice(key, 256).EndCell()
	}
	id := uint64(wallet.V5R1ID{NetworkGlobalID: devnet.GlobalID}.Serialized())
	key := keyOf(t, "alice").Public()
	for name, s := range map[string]ton.State{
		"another's":   with(func(s *ton.State) { s.Address = addressOf("r") }),
		"other code":  with(func(s *ton.State) { s.Code = s.Data }),
		"no code":     with(func(s *ton.State) { s.Code = nil }),
		"no data":     with(func(s *ton.State) { s.Data = nil }),
		"short data":  with(func(s *ton.State) { s.Data = cell.BeginCell().MustStoreUInt(1, 40).EndCell() }),
		"empty data":  with(func(s *ton.State) { s.Data = cell.BeginCell().EndCell() }),
		"other key":   with(func(s *ton.State) { s.Data = data(1, true, id, keyOf(t, "bob").Public()) }),
		"other id":    with(func(s *ton.State) { s.Data = data(1, true, id+1, key) }),
		"not allowed": with(func(s *ton.State) { s.Data = data(1, false, id, key) }),
	} {
		if _, err := p.Message(t.Context(), s, until, asked); !errors.Is(err, ours.ErrWallet) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.Seqno(s); !errors.Is(err, ours.ErrWallet) {
			t.Errorf("%s: seqno: %v", name, err)
		}
	}
	for name, bad := range map[string][]ours.Transfer{"none": nil, "256": transfers("r", 256, 1, ""), "nothing": {{To: addressOf("r")}}} {
		if _, err := p.Message(t.Context(), good, until, bad); !errors.Is(err, ours.ErrTransfer) {
			t.Errorf("%s: %v", name, err)
		}
		if p.Need(bad) != math.MaxInt64 {
			t.Errorf("%s: needs %v", name, p.Need(bad))
		}
	}
	if _, err := p.Message(t.Context(), good, time.Unix(1<<32, 0), asked); !errors.Is(err, ours.ErrTransfer) {
		t.Errorf("valid for ever: %v", err)
	}
}

// broken is a signer whose signatures are wrong, or that does not answer.
type broken struct {
	*ours.Key
	err error
}

func (b broken) Sign(context.Context, []byte) ([]byte, error) { return make([]byte, 64), b.err }

func TestWrongSignature(t *testing.T) {
	asked := transfers("r", 1, oneTON, "")
	for _, err := range []error{nil, errors.New("away")} {
		b := broken{keyOf(t, "alice"), err}
		if _, got := ours.NewHighload(b, ours.HighloadOptions{}).Batch(t.Context(), 1, time.Unix(1e9, 0), asked, true); got == nil ||
			err != nil && !errors.Is(got, err) {
			t.Errorf("highload: %v", got)
		}
		p := ours.NewPersonal(b, devnet.GlobalID)
		s := ton.State{Address: p.Address(), Balance: 5 * oneTON}
		if _, got := p.Message(t.Context(), s, time.Unix(1e9, 0), asked); got == nil || err != nil && !errors.Is(got, err) {
			t.Errorf("personal: %v", got)
		}
	}
}
