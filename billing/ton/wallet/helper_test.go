package wallet_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

const oneTON = nanoton.PerTON

// oldPrices is mainnet's configuration of before 2026-04-29, when fees were six times as high.
const oldPrices = "../devnet/testdata/mainnet-config-2026-04-17.boc"

// network is a devnet whose clock stands still but for pass, so that fees repeat to the nanoTON, and a client of it.
type network struct {
	*testing.T
	dev    *devnet.Network
	client *ton.Client
	skew   *atomic.Int64
}

func newNetwork(t *testing.T, configFile string) *network {
	t.Helper()
	n := &network{T: t, skew: new(atomic.Int64)}
	began := time.Now().Truncate(time.Second)
	o := devnet.Options{Clock: func() time.Time { return began }}
	if configFile != "" {
		text, err := os.ReadFile(configFile)
		if err != nil {
			t.Fatal(err)
		}
		o.ConfigBOC = text
	}
	dev, err := devnet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.dev = dev
	if err := dev.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	dev.Start()
	t.Cleanup(dev.Close)
	config, err := json.Marshal(dev.Config())
	if err != nil {
		t.Fatal(err)
	}
	n.client, err = ton.Open(t.Context(), ton.Config{
		Network: config, Now: func() time.Time { return began.Add(time.Duration(n.skew.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.client.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *network) mine() {
	n.Helper()
	if err := n.dev.Mine(); err != nil {
		n.Fatal(err)
	}
}

func (n *network) pass(d time.Duration) {
	n.skew.Add(int64(d))
	n.dev.SkewClock(d)
	n.mine()
}

func (n *network) fund(a ton.Address, amount nanoton.Amount) {
	n.Helper()
	if err := n.dev.Faucet(a.Std(), tlb.FromNanoTONU(uint64(amount)), ""); err != nil {
		n.Fatal(err)
	}
	n.mine()
}

// balance is the truth, without a client.
func (n *network) balance(a ton.Address) nanoton.Amount {
	return nanoton.Amount(n.dev.Balance(a.Std()).Int64())
}

func (n *network) state(a ton.Address) ton.State {
	n.Helper()
	h, err := n.client.Head(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	s, err := n.client.Account(n.Context(), h, a)
	if err != nil {
		n.Fatal(err)
	}
	return s
}

func (n *network) send(message []byte) {
	n.Helper()
	if err := n.client.Send(n.Context(), message); err != nil {
		n.Fatal(err)
	}
	n.mine()
}

// history is all that the account did.
func (n *network) history(a ton.Address) []*ton.Transaction {
	n.Helper()
	s := n.state(a)
	var all []*ton.Transaction
	for after := (ton.Cursor{}); after != s.Last; {
		some, err := n.client.Transactions(n.Context(), s, after, 100)
		if err != nil {
			n.Fatal(err)
		}
		if len(some) == 0 {
			n.Fatal("no transactions, and not at the end")
		}
		all = append(all, some...)
		after = some[len(some)-1].Cursor
	}
	return all
}

// batch makes a batch as of the chain's time.
func (n *network) batch(h *wallet.Highload, query uint32, t []wallet.Transfer) []byte {
	n.Helper()
	s := n.state(h.Address())
	message, err := h.Batch(n.Context(), query, h.CreatedAt(s.At.Time), t, s.Active)
	if err != nil {
		n.Fatal(err)
	}
	return message
}

// reports are what the wallet's transactions say of its batches.
func (n *network) reports(h *wallet.Highload) map[uint32][]ton.Message {
	n.Helper()
	got := map[uint32][]ton.Message{}
	for _, tx := range n.history(h.Address()) {
		if q, sent, ok := h.Report(tx); ok {
			if _, twice := got[q]; twice {
				n.Errorf("query %d is reported twice", q)
			}
			got[q] = sent
		}
	}
	return got
}

// keyOf is a key that a test needs no file for.
func keyOf(t testing.TB, name string) *wallet.Key {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	return wallet.KeyOf(seed[:])
}

// addressOf is somebody's, without a contract.
func addressOf(name string) ton.Address { return ton.Address{Hash: sha256.Sum256([]byte(name))} }

// transfers are count payments to as many receivers.
func transfers(who string, count int, amount nanoton.Amount, comment string) []wallet.Transfer {
	t := make([]wallet.Transfer, count)
	for i := range t {
		t[i] = wallet.Transfer{To: addressOf(fmt.Sprint(who, i)), Amount: amount}
		if comment != "" {
			t[i].Comment = fmt.Sprintf("%s%05d", comment, i)
		}
	}
	return t
}

// key24 makes comments of 24 characters, as payouts have them.
const comment24 = "payout-0123456789ab"

// paid checks who got what, how many times. An account without a contract pays rent, too: some nanoTON an hour.
func (n *network) paid(t []wallet.Transfer, times nanoton.Amount) {
	n.Helper()
	for i := range t {
		want := times * t[i].Amount
		if got := n.balance(t[i].To); got > want || got < want-oneTON/100 {
			n.Fatalf("receiver %d has %v, want %v", i, got, want)
		}
	}
}

func tempFile(t *testing.T) string { return filepath.Join(t.TempDir(), "wallet.key") }
