package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	tonutils "github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// testSigner signs with a key in memory.
type testSigner struct{ ed25519.PrivateKey }

func (s testSigner) Public() ed25519.PublicKey {
	return ed25519.PublicKey(s.PrivateKey[ed25519.SeedSize:])
}

func (s testSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.PrivateKey, message), nil
}

// signer is the key of that name.
func signer(name string) testSigner {
	seed := sha256.Sum256([]byte(name))
	return testSigner{ed25519.NewKeyFromSeed(seed[:])}
}

// signers are n keys, in ascending order of their public keys.
func signers(prefix string, n int) []testSigner {
	var all []testSigner
	for i := range n {
		all = append(all, signer(fmt.Sprint(prefix, i)))
	}
	slices.SortFunc(all, func(a, b testSigner) int { return bytes.Compare(a.Public(), b.Public()) })
	return all
}

func publics(all []testSigner) []ed25519.PublicKey {
	var out []ed25519.PublicKey
	for _, s := range all {
		out = append(out, s.Public())
	}
	return out
}

// world is a chain with a registry on it.
type world struct {
	t     testing.TB
	n     *devnet.Network
	api   *tonutils.APIClient
	terms Terms
	own   []testSigner // of the terms
	a     ton.Address

	seen *ton.State // the account as of the newest block; nil: not read yet
}

// newWorld deploys a registry of 2 of 3 keys with a delay of a day and a floor of an hour, and five TON.
func newWorld(t testing.TB, config []byte) *world {
	w := emptyWorld(t, config)
	own := signers("owner", 3)
	w.deploy(Terms{Signers: publics(own), Threshold: 2, Delay: 24 * time.Hour, Floor: time.Hour, Salt: 7}, own, "5")
	return w
}

func emptyWorld(t testing.TB, config []byte) *world {
	t.Helper()
	n, err := devnet.New(devnet.Options{ConfigBOC: config, Clock: func() time.Time { return startTime() }})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	pool, err := n.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Stop)
	return &world{t: t, n: n, api: tonutils.NewAPIClient(pool, tonutils.ProofCheckPolicyUnsafe)}
}

func startTime() time.Time { return time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC) }

func (w *world) deploy(terms Terms, own []testSigner, balance string) {
	w.t.Helper()
	init, err := terms.Init()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.a, err = terms.Address(); err != nil {
		w.t.Fatal(err)
	}
	w.terms, w.own = terms, own
	w.internal(init, cell.BeginCell().EndCell(), balance)
}

// internal is a message from a stranger.
func (w *world) internal(init *tlb.StateInit, body *cell.Cell, amount string) {
	w.t.Helper()
	err := w.n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, Bounce: true, SrcAddr: address.NewAddress(0, 0, bytes.Repeat([]byte{7}, 32)), DstAddr: w.a.Std(),
		Amount: tlb.MustFromTON(amount), StateInit: init, Body: body,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mine()
}

func (w *world) mine() {
	w.t.Helper()
	if err := w.n.Mine(); err != nil {
		w.t.Fatal(err)
	}
}

// account is the registry's account now.
func (w *world) account() *ton.State {
	w.t.Helper()
	if w.seen != nil && w.seen.Address == w.a && w.seen.At.Seqno == w.n.Seqno() {
		return w.seen
	}
	b, err := w.api.GetMasterchainInfo(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	acc, err := w.api.GetAccount(w.t.Context(), b, w.a.Std())
	if err != nil {
		w.t.Fatal(err)
	}
	head, err := w.api.GetBlockHeader(w.t.Context(), b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.seen = &ton.State{
		Address: w.a, Exists: acc.State != nil, Active: acc.IsActive && acc.Code != nil, Code: acc.Code, Data: acc.Data,
		At: ton.Head{Seqno: b.SeqNo, Time: time.Unix(int64(head.GenUtime), 0).UTC()},
	}
	return w.seen
}

// state is the registry now.
func (w *world) state() *Registry {
	w.t.Helper()
	r, err := ParseState(w.account())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// order is one with the number that the registry waits for, valid for an hour.
func (w *world) order(c *Change) *Order {
	w.t.Helper()
	r := w.state()
	return &Order{Registry: w.a, Seqno: r.Seqno, ValidUntil: r.At.Time.Add(time.Hour), Change: c}
}

// put is a change that puts a document.
func put(name, text string) *Change {
	return &Change{Put: &Entry{Title: Title{Release, name}, Document: []byte(text)}}
}

// message is the external message with the order and these signatures, in this order.
func (w *world) message(o *Order, by ...testSigner) []byte {
	w.t.Helper()
	c, err := o.cell()
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := signedBody(c, w.votes(c, by...))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.external(nil, body)
}

// votes are signatures, in this order. A stranger pretends to be the first signer.
func (w *world) votes(order *cell.Cell, by ...testSigner) []vote {
	keys := w.state().Signers
	var votes []vote
	for _, s := range by {
		i := slices.IndexFunc(keys, func(k ed25519.PublicKey) bool { return bytes.Equal(k, s.Public()) })
		votes = append(votes, vote{max(i, 0), ed25519.Sign(s.PrivateKey, order.Hash())})
	}
	return votes
}

func (w *world) external(init *tlb.StateInit, body *cell.Cell) []byte {
	w.t.Helper()
	c, err := tlb.ToCell(&tlb.ExternalMessage{DstAddr: w.a.Std(), StateInit: init, Body: body})
	if err != nil {
		w.t.Fatal(err)
	}
	return c.ToBOC()
}

// send sends an external message that must be accepted, and mines.
func (w *world) send(message []byte) {
	w.t.Helper()
	if err := w.n.SendExternal(message); err != nil {
		w.t.Fatal(err)
	}
	w.mine()
}

// refuse sends a message that must not be accepted: it costs nothing and changes nothing.
func (w *world) refuse(what string, message []byte) {
	w.t.Helper()
	before, balance := w.account(), w.balance()
	if err := w.n.SendExternal(message); err == nil {
		w.t.Errorf("accepted: %s", what)
	}
	w.mine()
	if after := w.account(); !bytes.Equal(before.Data.Hash(), after.Data.Hash()) || w.balance() != balance {
		w.t.Errorf("%s: it changed something: balance %d to %d", what, balance, w.balance())
	}
}

// propose has the owner propose a change, and returns its ID.
func (w *world) propose(c *Change) uint32 {
	w.t.Helper()
	o := w.order(c)
	w.send(w.message(o, w.own[:w.state().Threshold]...))
	return o.Seqno
}

// apply is the external message that applies a change.
func (w *world) apply(id uint32) []byte { return w.external(nil, ApplyBody(id)) }

// adopt proposes a change, waits, and has it applied.
func (w *world) adopt(c *Change) {
	w.t.Helper()
	id, delay := w.propose(c), w.state().Delay
	w.n.SkewClock(delay)
	w.send(w.apply(id))
}

func (w *world) balance() int64 { return w.n.Balance(w.a.Std()).Int64() }
