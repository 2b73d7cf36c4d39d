package treasury

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

const tonCoin = nanoton.PerTON

// testSigner signs with a key made of a name.
type testSigner struct{ key ed25519.PrivateKey }

func signer(name string) testSigner {
	seed := sha256.Sum256([]byte(name))
	return testSigner{ed25519.NewKeyFromSeed(seed[:])}
}

func (s testSigner) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

func (s testSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.key, message), nil
}

// someone is an address that nobody has the key of.
func someone(name string) ton.Address {
	return ton.Address{Hash: sha256.Sum256([]byte("address of " + name))}
}

func workerHex(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte("worker "+name))) }

// chainWorld is a devnet with a client, for many wallets one after the other.
type chainWorld struct {
	t      testing.TB
	net    *devnet.Network
	client *ton.Client
	blank  string // an empty ledger to copy
	serial int
}

func newWorld(t testing.TB, o devnet.Options) *chainWorld {
	t.Helper()
	n, err := devnet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	config, err := n.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	client, err := ton.Open(t.Context(), ton.Config{Network: config, Now: n.Now, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	w := &chainWorld{t: t, net: n, client: client, blank: filepath.Join(t.TempDir(), "blank.db")}
	l, err := ledger.Open(t.Context(), "sqlite:"+w.blank)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *chainWorld) mine() {
	w.t.Helper()
	if err := w.net.Mine(); err != nil {
		w.t.Fatal(err)
	}
}

// skew moves the chain's clock.
func (w *chainWorld) skew(d time.Duration) {
	w.net.SkewClock(d)
	w.mine()
}

func (w *chainWorld) balance(a ton.Address) nanoton.Amount {
	return nanoton.Amount(w.net.Balance(a.Std()).Int64())
}

// got is what an address was paid: its balance, and the few nanoTON of rent that its later payments took.
func (w *chainWorld) got(name string) nanoton.Amount {
	return (w.balance(someone(name)) + 999) / 1000 * 1000
}

// scene is one wallet with its ledger, and what comes and goes.
type scene struct {
	*chainWorld
	name      string
	path      string
	wallet    *wallet.Highload
	customers []string
	config    Config // Ledger and Chain aside
}

func (w *chainWorld) scene(t testing.TB) *scene {
	t.Helper()
	w.t = t
	w.serial++
	s := &scene{
		chainWorld: w, name: fmt.Sprint("scene ", w.serial), path: filepath.Join(t.TempDir(), "ledger.db"),
		customers: []string{"alice", "bob", "carol"},
	}
	s.wallet = wallet.NewHighload(signer(s.name), wallet.HighloadOptions{})
	s.config = Config{
		Wallet: s.wallet, TestMoney: true, Interval: time.Nanosecond,
		Customer: func(name string) bool { return slices.Contains(s.customers, name) },
	}
	copyFile(t, w.blank, s.path)
	return s
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// open opens the scene's ledger for the length of the test.
func (s *scene) open() *ledger.Ledger {
	s.t.Helper()
	l, err := ledger.Open(s.t.Context(), "sqlite:"+s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = l.Close() })
	return l
}

// treasury opens one on a ledger and a chain.
func (s *scene) treasury(l Ledger, c Chain) *Treasury {
	s.t.Helper()
	config := s.config
	config.Ledger, config.Chain = l, c
	t, err := Open(s.t.Context(), config)
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

// give queues a message to the wallet for the next block.
func (s *scene) give(from string, amount nanoton.Amount, comment string) {
	s.t.Helper()
	s.inject(someone(from), amount, commentBody(s.t, comment), false)
}

func (s *scene) inject(from ton.Address, amount nanoton.Amount, body *cell.Cell, bounced bool) {
	s.t.Helper()
	s.message(tlb.InternalMessage{Bounced: bounced, Body: body}, from, amount)
}

func (s *scene) message(m tlb.InternalMessage, from ton.Address, amount nanoton.Amount) {
	s.t.Helper()
	m.IHRDisabled, m.SrcAddr, m.DstAddr = true, from.Std(), s.wallet.Address().Std()
	m.Amount = tlb.FromNanoTON(big.NewInt(int64(amount)))
	if err := s.net.Inject(&m); err != nil {
		s.t.Fatal(err)
	}
}

func commentBody(t testing.TB, comment string) *cell.Cell {
	t.Helper()
	if comment == "" {
		return nil
	}
	b := cell.BeginCell().MustStoreUInt(0, 32)
	if err := b.StoreStringSnake(comment); err != nil {
		t.Fatal(err)
	}
	return b.EndCell()
}

// earn gives a worker money in the ledger, out of the operator's pocket.
func earn(t testing.TB, l Ledger, worker string, amount nanoton.Amount) {
	t.Helper()
	move(t, l, "earned "+worker+fmt.Sprint(amount), accountNetwork, ledger.Account("worker:"+worker), amount)
}

func move(t testing.TB, l Ledger, id string, from, to ledger.Account, amount nanoton.Amount) {
	t.Helper()
	_, err := l.Commit(context.WithoutCancel(t.Context()), []ledger.Transfer{{
		ID: sha256.Sum256([]byte(id)), Kind: "test", At: time.Unix(1_700_000_000, 0),
		Legs: []ledger.Leg{{Account: from, Amount: -amount}, {Account: to, Amount: amount}},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
}

// payee writes where a worker's earnings go.
func payee(t testing.TB, l Ledger, worker string, p Payee) {
	t.Helper()
	d, err := document(kindPayee, worker, 0, p)
	if err == nil {
		_, err = l.Commit(t.Context(), nil, []ledger.Document{d})
	}
	if err != nil && !errors.Is(err, ledger.ErrChanged) {
		t.Fatal(err)
	}
}

// books checks what must hold at any time, and gives the balances: all accounts sum to zero, the ledger's chain is the
// wallet's, sums in suspense are those of the documents, and payouts those that are under way.
func (s *scene) books(l *ledger.Ledger) map[ledger.Account]nanoton.Amount {
	s.t.Helper()
	all, err := l.Balances(s.t.Context(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	var sum nanoton.Amount
	for _, amount := range all {
		sum += amount
	}
	if sum != 0 {
		s.t.Errorf("all accounts sum to %d", sum)
	}
	if got, want := -all[accountChain], s.balance(s.wallet.Address()); got != want {
		s.t.Errorf("the ledger says the wallet holds %d, it holds %d", got, want)
	}
	if all[accountTransit] != 0 {
		s.t.Errorf("in transit: %d", all[accountTransit])
	}
	open, err := Unsettled(s.t.Context(), l)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, u := range open {
		if u.Out {
			all[accountSuspense] += u.Amount
		} else {
			all[accountSuspense] -= u.Amount
		}
	}
	if all[accountSuspense] != 0 {
		s.t.Errorf("suspense differs from its documents by %d", all[accountSuspense])
	}
	payouts, err := Payouts(s.t.Context(), l, Filter{Open: true})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range payouts {
		if p.State != Asked && !p.sweep() {
			all[accountPayouts] -= p.Amount
		}
	}
	if all[accountPayouts] != 0 {
		s.t.Errorf("payouts differ from their documents by %d", all[accountPayouts])
	}
	return all
}

// step steps and fails the test if that fails.
func step(t testing.TB, x *Treasury) Status {
	t.Helper()
	if err := x.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	return x.Status()
}

// run steps and mines until nothing is under way.
func (s *scene) run(x *Treasury) Status {
	s.t.Helper()
	for range 60 {
		st := step(s.t, x)
		if st.Asked+st.Queued+st.Batched == 0 {
			return st
		}
		s.mine()
	}
	s.t.Fatalf("not settled: %+v", x.Status())
	return Status{}
}

// emptyWallet has somebody else with the key send away nearly all that the wallet has.
func (s *scene) emptyWallet(t *testing.T) {
	t.Helper()
	all := []wallet.Transfer{{
		To: someone("thief"), Amount: s.balance(s.wallet.Address()) - 3*tonCoin, Comment: "bye",
	}}
	message, err := s.wallet.Batch(t.Context(), 7777, s.wallet.CreatedAt(s.net.BlockTime()), all, false)
	if err == nil {
		err = s.client.Send(t.Context(), message)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.mine()
}
