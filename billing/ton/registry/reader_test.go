package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"

	"github.com/xssnick/tonutils-go/tl"
	tonutils "github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// desk reads the registry of a world, by a clock that goes with the chain's.
type desk struct {
	*world
	network []byte
	dir     string
	skew    atomic.Int64
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{world: newWorld(t, nil), dir: filepath.Join(t.TempDir(), "registry")}
	var err error
	if d.network, err = json.Marshal(d.n.Config()); err != nil {
		t.Fatal(err)
	}
	return d
}

// pass lets time pass, here and on the chain.
func (d *desk) pass(by time.Duration) {
	d.n.SkewClock(by)
	d.skew.Add(int64(by))
	d.mine()
}

func (d *desk) now() time.Time { return startTime().Add(time.Duration(d.skew.Load())) }

func (d *desk) config() Config {
	return Config{Network: d.network, Address: d.a, Dir: d.dir, Now: d.now, Wait: 5 * time.Second}
}

func (d *desk) read() (*Copy, error) { return d.readWith(d.config()) }

func (d *desk) readWith(c Config) (*Copy, error) {
	d.t.Helper()
	r, err := NewReader(c)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			d.t.Error(err)
		}
	}()
	return r.Read(d.t.Context())
}

// gone makes the liteserver answer all questions with an error.
func (d *desk) gone() {
	d.n.Faults().Hook(func(tl.Serializable) (tl.Serializable, bool) {
		return tonutils.LSError{Code: -400, Text: "out of order"}, true
	})
}

func (d *desk) back() { d.n.Faults().Hook(nil) }

func (d *desk) file() string { return filepath.Join(d.dir, d.a.String()+copySuffix) }

// A registry is read from the chain, and then from the copy for as long as that counts.
func TestReader(t *testing.T) {
	d := newDesk(t)
	id := d.propose(put("one", "x"))
	d.pass(24 * time.Hour)
	d.send(d.apply(id))
	c, err := d.read()
	if err != nil || c.Kept || c.Note != "" || len(c.Entries) != 1 || c.Threshold != 2 || c.Balance == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	first := c.At
	d.gone()
	d.pass(DefaultMaxAge - time.Minute)
	c, err = d.read()
	if err != nil || !c.Kept || c.Why == nil || len(c.Entries) != 1 || c.At.Seqno != first.Seqno ||
		!c.At.Time.Equal(first.Time) {
		t.Fatalf("%+v, %v", c, err)
	}
	d.pass(2 * time.Minute)
	if c, err = d.read(); !errors.Is(err, ErrNoCopy) || !strings.Contains(err.Error(), "counts for 72h") {
		t.Fatalf("an old copy: %+v, %v", c, err)
	}
	d.back()
	if c, err = d.read(); err != nil || c.Kept || c.At.Seqno <= first.Seqno {
		t.Fatalf("%+v, %v", c, err)
	}
	d.skew.Add(-int64(time.Hour))
	d.gone()
	if _, err := d.read(); !errors.Is(err, ErrNoCopy) || !strings.Contains(err.Error(), "in the future") {
		t.Errorf("a copy of the future: %v", err)
	}
}

// Without a copy, and without a registry, there is an error that says so.
func TestReaderNothing(t *testing.T) {
	d := newDesk(t)
	c := d.config()
	c.Address.Hash[0]++
	if _, err := d.readWith(c); !errors.Is(err, ErrNoRegistry) {
		t.Errorf("no such account: %v", err)
	}
	d.gone()
	if _, err := d.read(); !errors.Is(err, ErrNoCopy) || !strings.Contains(err.Error(), "none was kept") {
		t.Errorf("no copy: %v", err)
	}
	c = d.config()
	c.Dir = ""
	if _, err := d.readWith(c); !errors.Is(err, ErrNoCopy) {
		t.Errorf("no folder: %v", err)
	}
}

// Whatever is done to a copy: it says the same, or it is refused.
func TestTampered(t *testing.T) {
	d := newDesk(t)
	id := d.propose(put("one", strings.Repeat("trust me ", 50)))
	d.pass(24 * time.Hour)
	d.send(d.apply(id))
	if _, err := d.read(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(d.file())
	if err != nil {
		t.Fatal(err)
	}
	p, err := ton.ParseProof(d.network, good)
	if err != nil {
		t.Fatal(err)
	}
	want := p.State.Data.Hash()
	t.Logf("a copy has %d bytes", len(good))
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 120 {
		bad := bytes.Clone(good)
		i := random.IntN(len(bad))
		bad[i] ^= 1 << random.IntN(8)
		p, err := ton.ParseProof(d.network, bad)
		if err != nil {
			refused++
			continue
		}
		if !bytes.Equal(p.State.Data.Hash(), want) || p.State.Address != d.a || p.State.At.Time.IsZero() {
			t.Fatalf("byte %d changed: %+v", i, p.State)
		}
	}
	if refused < 100 {
		t.Errorf("%d of 120 were refused", refused)
	}
	d.gone()
	bad := bytes.Clone(good)
	copy(bad[len(bad)/2:], "AAAA")
	if err := os.WriteFile(d.file(), bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.read(); !errors.Is(err, ErrNoCopy) || !strings.Contains(err.Error(), "damaged or forged") {
		t.Errorf("a forged copy: %v", err)
	}
	d.back()
	if c, err := d.read(); err != nil || c.Kept {
		t.Errorf("with the chain: %+v, %v", c, err)
	}
}

// A copy of another registry, or of another chain, counts for nothing.
func TestForeignCopy(t *testing.T) {
	d, other := newDesk(t), newDesk(t)
	other.n.SkewClock(time.Hour)
	other.mine()
	other.skew.Add(int64(time.Hour))
	if _, err := other.read(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.read(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(other.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.file(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	d.gone()
	if _, err := d.read(); !errors.Is(err, ErrNoCopy) {
		t.Errorf("another chain's copy: %v", err)
	}
}

// A liteserver that lies is not believed, and a lagging one can't take the reader back.
func TestLyingServer(t *testing.T) {
	d := newDesk(t)
	for range 5 {
		d.mine()
	}
	if _, err := d.read(); err != nil {
		t.Fatal(err)
	}
	d.n.Faults().Lag(3)
	if c, err := d.read(); err != nil || !c.Kept {
		t.Errorf("lagging: %+v, %v", c, err)
	}
	if err := os.RemoveAll(filepath.Join(d.dir, chainDir)); err != nil { // the client's own memory
		t.Fatal(err)
	}
	c, err := d.read()
	if err != nil || !c.Kept || !errors.Is(c.Why, ErrOlder) {
		t.Errorf("lagging, without the client's memory: %+v, %v", c, err)
	}
	d.n.Faults().Lag(0)
	var asked atomic.Int32
	d.n.Faults().Hook(func(q tl.Serializable) (tl.Serializable, bool) {
		if _, ok := q.(tonutils.GetAccountState); !ok {
			return nil, false
		}
		asked.Add(1)
		b, err := d.api.GetMasterchainInfo(t.Context())
		if err != nil {
			return nil, true
		}
		return tonutils.AccountState{ID: b, Shard: b}, true
	})
	d.mine()
	if c, err := d.read(); err != nil || !c.Kept || !errors.Is(c.Why, ton.ErrProof) {
		t.Errorf("lying: %+v, %v", c, err)
	}
	if asked.Load() == 0 {
		t.Error("the lie was not told")
	}
}

func FuzzParseProposal(f *testing.F) {
	o := &Order{Registry: ton.Address{Hash: [32]byte{1}}, ValidUntil: startTime(), Change: put("one", "x")}
	p, err := NewProposal(o)
	if err != nil {
		f.Fatal(err)
	}
	if err := p.Sign(f.Context(), signer("a")); err != nil {
		f.Fatal(err)
	}
	text, err := p.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParseProposal(text)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if q, err := ParseProposal(again); err != nil || q.Order.String() != p.Order.String() {
			t.Fatalf("%v: %s, then %v", err, p.Order, q)
		}
	})
}

func FuzzParseState(f *testing.F) {
	code, err := contracts.Registry()
	if err != nil {
		f.Fatal(err)
	}
	w := newWorld(f, nil)
	w.adopt(put("one", strings.Repeat("x", 300)))
	w.propose(&Change{Signers: &Signers{Keys: publics(signers("heir", 7)), Threshold: 3}})
	w.propose(&Change{Delay: 2 * time.Hour})
	f.Add(w.account().Data.ToBOC())
	f.Fuzz(func(t *testing.T, boc []byte) {
		data, err := cell.FromBOC(boc)
		if err != nil {
			return
		}
		r, err := ParseState(&ton.State{Address: ton.Address{Hash: [32]byte{1}}, Active: true, Code: code, Data: data})
		if err != nil {
			return
		}
		for _, e := range r.Entries {
			if got, ok := r.Entry(e.Title); !ok || len(got.Document) == 0 || len(got.Document) > DocumentMax {
				t.Fatalf("%+v", e)
			}
		}
		for _, p := range r.Pending {
			if p.Change != nil {
				_ = r.Describe(p.Change)
			}
		}
	})
}
