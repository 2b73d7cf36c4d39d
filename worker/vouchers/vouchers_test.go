package vouchers

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.uber.org/goleak"

	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/tab"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const perTON = nanoton.PerTON

// signer is a gateway's metering key.
type signer struct{ key ed25519.PrivateKey }

func (s signer) Public() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

func (s signer) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(s.key, message), nil
}

func keyFor(name string) signer {
	seed := sha256.Sum256([]byte(name))
	return signer{ed25519.NewKeyFromSeed(seed[:])}
}

func addressFor(name string) ton.Address { return ton.Address{Hash: sha256.Sum256([]byte(name))} }

var (
	own = addressFor("worker")
	now = time.Unix(1_790_000_000, 0).UTC()
)

func terms(change ...func(*tab.Terms)) tab.Terms {
	t := tab.Terms{
		Owner: addressFor("treasury"), Payee: own, Signer: keyFor("meter").Public(), Salt: 1<<63 + 5, CloseDelay: 72 * time.Hour,
		Base: 1000 * perTON,
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

// voucher is one for an amount, with terms and itself changed.
func voucher(t testing.TB, terms tab.Terms, amount nanoton.Amount, change ...func(*tab.Voucher)) *receipt.Voucher {
	t.Helper()
	address, err := terms.Address()
	if err != nil {
		t.Fatal(err)
	}
	v := tab.Voucher{Tab: address, ValidUntil: now.Add(30 * 24 * time.Hour), Cumulative: amount}
	for _, f := range change {
		f(&v)
	}
	body, err := tab.Sign(t.Context(), keyFor("meter"), v)
	if err != nil {
		t.Fatal(err)
	}
	return &receipt.Voucher{Body: body, Terms: terms.Wire()}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, Payout: own, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestKeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vouchers")
	s := open(t, dir)
	if got := s.List(); len(got) != 0 {
		t.Errorf("%v", got)
	}
	for _, amount := range []nanoton.Amount{perTON, perTON, 3 * perTON} {
		if err := s.Keep("gw.example:8443", voucher(t, terms(), amount)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Keep("another", voucher(t, terms(), 2*perTON)); err != nil {
		t.Fatal(err)
	}
	moved := terms(func(t *tab.Terms) { t.Salt++ }) // the gateway has another tab for us now
	if err := s.Keep("another", voucher(t, moved, perTON)); err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]*receipt.Voucher{
		"less":   voucher(t, terms(), 3*perTON-1),
		"sooner": voucher(t, terms(), 9*perTON, func(v *tab.Voucher) { v.ValidUntil = now.Add(time.Minute) }),
	} {
		if err := s.Keep("gw.example:8443", v); !errors.Is(err, ErrLower) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want := s.List()
	if len(want) != 3 || want[0].Gateway != "another" || want[2].Voucher.Cumulative != 3*perTON {
		t.Fatalf("%+v", want)
	}
	read, err := Read(dir)
	if err != nil || len(read) != 3 {
		t.Fatalf("%+v, %v", read, err)
	}
	for i, again := range [][]Kept{read, open(t, dir).List()} {
		for j := range again {
			if again[j].Gateway != want[j].Gateway || again[j].Voucher != want[j].Voucher || !bytes.Equal(again[j].Body, want[j].Body) {
				t.Errorf("%d: %+v, want %+v", i, again[j], want[j])
			}
		}
	}
	if got, err := Read(filepath.Join(dir, "none")); err != nil || got != nil {
		t.Errorf("no folder: %v, %v", got, err)
	}
}

func TestKeepRefuses(t *testing.T) {
	s := open(t, t.TempDir())
	good := voucher(t, terms(), perTON)
	for name, v := range map[string]*receipt.Voucher{
		"another's address": voucher(t, terms(func(t *tab.Terms) { t.Payee = addressFor("mallory") }), perTON),
		"another key":       {Body: good.Body, Terms: terms(func(t *tab.Terms) { t.Signer = keyFor("mallory").Public() }).Wire()},
		"another tab":       {Body: good.Body, Terms: terms(func(t *tab.Terms) { t.Salt++ }).Wire()},
		"another limit":     {Body: good.Body, Terms: terms(func(t *tab.Terms) { t.Base = 1 }).Wire()},
		"closes too soon":   voucher(t, terms(func(t *tab.Terms) { t.CloseDelay = time.Hour }), perTON),
		"over":              voucher(t, terms(), perTON, func(v *tab.Voucher) { v.ValidUntil = now }),
		"no body":           {Terms: good.Terms},
		"no terms":          {Body: good.Body},
		"something else":    {Body: []byte("voucher"), Terms: good.Terms},
		"delay out of range": {Body: good.Body, Terms: func() receipt.VoucherTerms {
			t := good.Terms
			t.CloseDelaySeconds = 1 << 62
			return t
		}()},
	} {
		if err := s.Keep("gateway", v); !errors.Is(err, ErrVoucher) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, gateway := range []string{"", "a b", "a\n", strings.Repeat("g", GatewayMax+1)} {
		if err := s.Keep(gateway, good); !errors.Is(err, ErrVoucher) {
			t.Errorf("gateway %q: %v", gateway, err)
		}
	}
	for i := range PerGateway + 1 {
		err := s.Keep("gateway", voucher(t, terms(func(t *tab.Terms) { t.Salt = uint64(i) }), perTON))
		if full := i == PerGateway; errors.Is(err, ErrFull) != full || !full && err != nil {
			t.Errorf("tab %d: %v", i, err)
		}
	}
	nobody, err := Open(Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := nobody.Keep("gateway", good); !errors.Is(err, ErrVoucher) {
		t.Errorf("without an address: %v", err)
	}
}

// TestDamaged never passes over a file: it may be worth money.
func TestDamaged(t *testing.T) {
	for name, spoil := range map[string]func(path string, text []byte) error{
		"cut":   func(path string, text []byte) error { return os.WriteFile(path, text[:len(text)/2], 0o600) },
		"empty": func(path string, _ []byte) error { return os.WriteFile(path, nil, 0o600) },
		"huge":  func(path string, text []byte) error { return os.WriteFile(path, bytes.Repeat(text, 100), 0o600) },
		"renamed": func(path string, _ []byte) error {
			return os.Rename(path, filepath.Join(filepath.Dir(path), "00.json"))
		},
		"changed": func(path string, text []byte) error {
			return os.WriteFile(path, bytes.Replace(text, []byte(`"gateway":"g"`), []byte(`"gateway":"h"`), 1), 0o600)
		},
	} {
		dir := t.TempDir()
		if err := open(t, dir).Keep("g", voucher(t, terms(), perTON)); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		text, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := spoil(files[0], text); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Config{Dir: dir}); !errors.Is(err, ErrVoucher) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := json.Marshal(file{V: 1, Gateway: "g", At: 1, Voucher: *voucher(f, terms(), perTON)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseFile(text)
		if err != nil {
			return
		}
		address, err := k.Terms.Address()
		if err != nil || address != k.Voucher.Tab {
			t.Fatalf("%+v, %v", k, err)
		}
	})
}

// chain is a devnet with a client and a tab that holds something.
type chain struct {
	*devnet.Network
	*ton.Client
	network []byte
}

func newChain(t *testing.T, holds nanoton.Amount) *chain {
	t.Helper()
	n, err := devnet.New(devnet.Options{Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	c := &chain{Network: n}
	if c.network, err = json.Marshal(n.Config()); err != nil {
		t.Fatal(err)
	}
	if c.Client, err = ton.Open(t.Context(), ton.Config{Network: c.network, Now: n.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Client.Close() })
	if holds > 0 {
		c.send(t, holds, nil, nil)
	}
	return c
}

// send is a message of the treasury to the tab.
func (c *chain) send(t *testing.T, amount nanoton.Amount, init *tlb.StateInit, body *cell.Cell) {
	t.Helper()
	to, err := terms().Address()
	if err != nil {
		t.Fatal(err)
	}
	if body == nil {
		body = cell.BeginCell().EndCell()
	}
	err = c.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: terms().Owner.Std(), DstAddr: to.Std(), Amount: tlb.FromNanoTON(big.NewInt(int64(amount))), StateInit: init,
		Body: body,
	})
	if err == nil {
		err = c.Mine()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mining makes blocks whenever somebody waits for one.
type mining struct{ *chain }

func (m mining) Next(ctx context.Context, after uint32) (ton.Head, error) {
	if err := m.Mine(); err != nil {
		return ton.Head{}, err
	}
	return m.Client.Next(ctx, after)
}

func kept(t *testing.T, amount nanoton.Amount, change ...func(*tab.Voucher)) Kept {
	t.Helper()
	k, err := parse("gateway", voucher(t, terms(), amount, change...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestClaim(t *testing.T) {
	c := newChain(t, 5*perTON)
	ctx := t.Context()
	k := kept(t, 2*perTON)
	if o, err := Look(ctx, c, k); err != nil || o.Claim != 2*perTON || o.Deployed || o.Balance != 5*perTON || o.Why != "" {
		t.Fatalf("%+v, %v", o, err)
	}
	c.Faults().DropExternals(2) // it goes out again with each block
	if paid, err := Claim(ctx, mining{c}, k); err != nil || paid != 2*perTON {
		t.Fatalf("%v, %v", paid, err)
	}
	if got := c.Balance(own.Std()).Int64(); got != int64(2*perTON) {
		t.Errorf("the worker has %d", got)
	}
	if _, err := Claim(ctx, mining{c}, k); !errors.Is(err, ErrVoucher) || !strings.Contains(err.Error(), "paid already") {
		t.Errorf("again: %v", err)
	}
	if paid, err := Claim(ctx, mining{c}, kept(t, 9*perTON)); err != nil || paid > 3*perTON || paid < 29*perTON/10 { // as far as it goes
		t.Errorf("%v, %v", paid, err)
	}
	for why, k := range map[string]Kept{
		"holds":           kept(t, 10*perTON),
		"was valid until": kept(t, 10*perTON, func(v *tab.Voucher) { v.ValidUntil = now.Add(-time.Hour) }),
		"paid already":    kept(t, perTON),
	} {
		if _, err := Claim(ctx, mining{c}, k); !errors.Is(err, ErrVoucher) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", why, err)
		}
	}
	c.send(t, 5*perTON, nil, tab.CloseBody())
	if o, err := Look(ctx, c, kept(t, 10*perTON)); err != nil || o.CloseAt.IsZero() || o.Claim == 0 {
		t.Errorf("closing: %+v, %v", o, err)
	}
	if o, err := Look(ctx, c, kept(t, 5*perTON)); err != nil || o.Claim != 0 && o.Why == "" {
		t.Errorf("%+v, %v", o, err)
	}
	c.SkewClock(73 * time.Hour)
	if err := c.Mine(); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(ctx, mining{c}, kept(t, 10*perTON)); !errors.Is(err, ErrVoucher) || !strings.Contains(err.Error(), "closed") {
		t.Errorf("closed: %v", err)
	}
}

func TestClaimEmpty(t *testing.T) {
	c := newChain(t, 0)
	if _, err := Claim(t.Context(), mining{c}, kept(t, perTON)); !errors.Is(err, ErrVoucher) {
		t.Errorf("no tab: %v", err)
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Claim(stopped, c, kept(t, perTON)); err == nil {
		t.Error("without time")
	}
}
