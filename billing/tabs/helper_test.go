package tabs

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.uber.org/goleak"

	"cocoon/billing"
	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// signer is a metering key.
type signer struct{ key ed25519.PrivateKey }

func (s signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.key, message), nil
}

func keyFor(name string) signer {
	seed := sha256.Sum256([]byte(name))
	return signer{ed25519.NewKeyFromSeed(seed[:])}
}

// addressFor is somebody's wallet: an account without code, which takes what it gets and whose messages are made by tests.
func addressFor(name string) ton.Address {
	return ton.Address{Hash: sha256.Sum256([]byte("wallet of " + name))}
}

// network is a devnet with a client.
type network struct {
	*devnet.Network
	client  *ton.Client
	spoiled int // steps that failed for the weather
}

func newNetwork(t testing.TB) *network {
	t.Helper()
	start := time.Now().Truncate(time.Second)
	n := &network{}
	var err error
	n.Network, err = devnet.New(devnet.Options{Clock: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Network.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	n.client, err = ton.Open(t.Context(), ton.Config{Network: text, Now: n.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.client.Close() })
	return n
}

// mine makes a block, a second after the one before.
func (n *network) mine(t testing.TB) {
	t.Helper()
	n.SkewClock(time.Second)
	if err := n.Mine(); err != nil {
		t.Fatal(err)
	}
}

// send puts a message of somebody into the next block.
func (n *network) send(t testing.TB, from, to ton.Address, amount nanoton.Amount, body *cell.Cell) {
	t.Helper()
	if body == nil {
		body = cell.BeginCell().EndCell()
	}
	err := n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: from.Std(), DstAddr: to.Std(), Amount: tlb.FromNanoTON(big.NewInt(int64(amount))), Body: body,
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deploy is send with what deploys the receiver.
func (n *network) deploy(t testing.TB, from ton.Address, terms tab.Terms, amount nanoton.Amount) {
	t.Helper()
	init, err := terms.Init()
	if err != nil {
		t.Fatal(err)
	}
	to, err := terms.Address()
	if err != nil {
		t.Fatal(err)
	}
	err = n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: from.Std(), DstAddr: to.Std(), Amount: tlb.FromNanoTON(big.NewInt(int64(amount))), StateInit: init,
		Body: cell.BeginCell().EndCell(),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (n *network) balance(a ton.Address) nanoton.Amount {
	return nanoton.Amount(n.Network.Balance(a.Std()).Int64())
}

// faults are of a ledger and a chain.
type faults struct {
	Ledger
	Chain
	mu     sync.Mutex
	commit func() int // 0: works; 1: fails; 2: fails, but it was written
	send   func() int // the same
}

var errFault = errors.New("fault")

func (f *faults) Commit(ctx context.Context, t []ledger.Transfer, d []ledger.Document) ([]int64, error) {
	f.mu.Lock()
	how := 0
	if f.commit != nil {
		how = f.commit()
	}
	f.mu.Unlock()
	if how == 1 {
		return nil, errFault
	}
	versions, err := f.Ledger.Commit(ctx, t, d)
	if how == 2 {
		return nil, errFault
	}
	return versions, err
}

func (f *faults) Send(ctx context.Context, message []byte) error {
	f.mu.Lock()
	how := 0
	if f.send != nil {
		how = f.send()
	}
	f.mu.Unlock()
	if how == 1 {
		return errFault
	}
	err := f.Chain.Send(ctx, message)
	if how == 2 {
		return errFault
	}
	return err
}

// world is a Keeper with all around it.
type world struct {
	t        testing.TB
	net      *network
	ledger   *ledger.Ledger
	faults   *faults
	desk     *desk
	keeper   *Keeper
	treasury ton.Address
	meter    signer
	asked    map[string]Order // by the Keeper, of the treasury
	done     map[string]bool  // what was paid of it
	closing  int
	weather  func(bad bool) // what the network does to a step before the one that counts; nil: nothing
}

// desk holds customers' money as billing.Desk does, and lets only what is free go.
type desk struct {
	l    *ledger.Ledger
	held map[ledger.Account]nanoton.Amount
	down bool // it can't be asked
}

func (d *desk) withdraw(ctx context.Context, a ledger.Account, amount nanoton.Amount, post func(context.Context) error) error {
	if d.down {
		return billing.ErrUnavailable
	}
	have, err := d.l.Balance(ctx, a)
	if err != nil {
		return err
	}
	if have-d.held[a] < amount {
		return &billing.FundsError{Account: a, Balance: have, Held: d.held[a], Needed: amount}
	}
	return post(ctx)
}

func newLedger(t testing.TB) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, newNetwork(t), newLedger(t), "world")
}

// newWorldOn makes one on a network and a ledger that are there.
func newWorldOn(t testing.TB, n *network, l *ledger.Ledger, name string) *world {
	t.Helper()
	w := &world{
		t: t, net: n, ledger: l, meter: keyFor("metering"), treasury: addressFor("treasury of " + name),
		desk: &desk{l: l, held: map[ledger.Account]nanoton.Amount{}}, asked: map[string]Order{}, done: map[string]bool{},
	}
	w.faults = &faults{Ledger: l, Chain: n.client}
	w.reopen()
	return w
}

// reopen begins with a new Keeper, as after a crash.
func (w *world) reopen() {
	w.t.Helper()
	k, err := Open(context.Background(), Config{
		Ledger: w.faults, Chain: w.faults, Treasury: w.treasury, Signer: w.meter, Name: "test", Withdraw: w.desk.withdraw,
		Ask: func(_ context.Context, o Order) error {
			if old, ok := w.asked[o.ID]; ok && (old.Amount != o.Amount || old.To != o.To) {
				return errors.New("the same ID for another order")
			}
			w.asked[o.ID] = o
			return nil
		},
		Root:    func() ([32]byte, error) { return [32]byte{7}, nil },
		Closing: func(ledger.Account, time.Time) { w.closing++ },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.keeper = k
}

func (w *world) step() {
	w.t.Helper()
	if err := w.keeper.Step(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// turn is a block and a step.
func (w *world) turn() {
	w.t.Helper()
	w.net.mine(w.t)
	w.step()
}

// settle goes on until nothing moves any more.
func (w *world) settle() {
	w.t.Helper()
	for range 4 {
		w.turn()
	}
}

func (w *world) open(name string, base, rate nanoton.Amount) Tab {
	w.t.Helper()
	t, err := w.keeper.Open(context.Background(), ledger.Account("customer:"+name), addressFor(name), base, rate)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// post moves money as the rest of the program does.
func (w *world) post(from, to ledger.Account, amount nanoton.Amount) {
	w.t.Helper()
	id := ledger.ID(sha256.Sum256(fmt.Append(nil, "post ", time.Now().UnixNano(), from, to, amount)))
	err := w.ledger.Post(context.Background(), []ledger.Transfer{{
		ID: id, Kind: "test", At: time.Now(), Legs: []ledger.Leg{{Account: from, Amount: -amount}, {Account: to, Amount: amount}},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) has(a ledger.Account) nanoton.Amount {
	w.t.Helper()
	amount, err := w.ledger.Balance(context.Background(), a)
	if err != nil {
		w.t.Fatal(err)
	}
	return amount
}

func (w *world) record(kind, id string) record {
	w.t.Helper()
	t, err := w.keeper.read(context.Background(), key{kind, id})
	if err != nil {
		w.t.Fatal(err)
	}
	return t.record
}

// sound checks what always holds: the ledger's sum, and that it has of each tab what the chain has.
func (w *world) sound() {
	w.t.Helper()
	report, err := w.ledger.Audit(context.Background())
	if err != nil || !report.OK() {
		w.t.Fatalf("audit: %v %s", err, report.Difference)
	}
	for _, s := range w.keeper.Status().Stopped {
		w.t.Fatal(s)
	}
	all, err := w.ledger.Balances(context.Background(), "")
	if err != nil {
		w.t.Fatal(err)
	}
	for a := range all {
		if a.Kind() != TabKind && a.Kind() != CollateralKind {
			continue
		}
		r := w.record(a.Kind(), string(a)[len(a.Kind())+1:])
		if held := w.net.balance(r.Address); held != -all[a] {
			w.t.Fatalf("%s: the chain has %v, the ledger %v", a, held, -all[a])
		}
	}
}

const perTON = nanoton.PerTON
