package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Nobody can have the registry pay for anything that changes nothing, nor for more than a message that does takes.
func TestNoDrain(t *testing.T) {
	w := newWorld(t, nil)
	id := w.propose(put("one", "x"))
	w.n.SkewClock(24 * time.Hour)
	w.mine()
	junk, err := snake(bytes.Repeat([]byte("0123456789"), 1000))
	if err != nil {
		t.Fatal(err)
	}
	init := &tlb.StateInit{Code: junk, Data: junk}
	good := w.message(w.order(put("two", "y")), w.own[:2]...)
	body, err := cell.FromBOC(good)
	if err != nil {
		t.Fatal(err)
	}
	var m tlb.ExternalMessage
	if err := tlb.LoadFromCell(&m, body.MustBeginParse()); err != nil {
		t.Fatal(err)
	}
	apply, half := ApplyBody(id).ToBuilder(), cell.BeginCell().MustStoreUInt(opSigned, 32)
	for what, message := range map[string][]byte{
		"nothing":                  w.external(nil, cell.BeginCell().EndCell()),
		"an unknown number":        w.external(nil, cell.BeginCell().MustStoreUInt(5, 32).EndCell()),
		"half an order":            w.external(nil, half.Copy().EndCell()),
		"an order of junk":         w.external(nil, half.Copy().MustStoreRef(junk).MustStoreRef(junk).EndCell()),
		"apply with a long state":  w.external(init, ApplyBody(id)),
		"an order with a state":    w.external(init, m.Body),
		"apply with a long tail":   w.external(nil, apply.Copy().MustStoreRef(junk).EndCell()),
		"apply with a bit more":    w.external(nil, apply.Copy().MustStoreUInt(1, 1).EndCell()),
		"an order with a tail":     w.external(nil, m.Body.ToBuilder().MustStoreRef(junk).EndCell()),
		"an order with a bit more": w.external(nil, m.Body.ToBuilder().MustStoreUInt(1, 1).EndCell()),
	} {
		w.refuse(what, message)
	}
	w.send(w.apply(id))
	w.send(good)
}

// Strangers who pay for applying either pay enough, or nothing happens: a change can't be lost on the way.
func TestStingy(t *testing.T) {
	for nano := uint64(1000); nano < 4_000_000; nano += nano/6 + 1 {
		w := newWorld(t, nil)
		id := w.propose(put("one", "x"))
		w.n.SkewClock(24 * time.Hour)
		w.internal(nil, ApplyBody(id), tlb.FromNanoTONU(nano).String())
		r := w.state()
		switch {
		case len(r.Pending) == 1 && len(r.Entries) == 0:
		case len(r.Pending) == 0 && len(r.Entries) == 1:
			t.Logf("applied for %d nanoTON", nano)
			return
		default:
			t.Fatalf("for %d nanoTON: %d pending, %d entries", nano, len(r.Pending), len(r.Entries))
		}
	}
	t.Error("never applied")
}

// Money can be put in by anyone, with and without a comment; what is not understood comes back.
func TestTopUp(t *testing.T) {
	w := newWorld(t, nil)
	for what, c := range map[string]struct {
		body  *cell.Cell
		stays bool
	}{
		"empty":   {cell.BeginCell().EndCell(), true},
		"short":   {cell.BeginCell().MustStoreUInt(1, 8).EndCell(), true},
		"comment": {cell.BeginCell().MustStoreUInt(0, 32).MustStoreStringSnake("for the rent").EndCell(), true},
		"other":   {cell.BeginCell().MustStoreUInt(0xabcdef, 32).EndCell(), false},
		"apply":   {ApplyBody(5), false},
	} {
		before := w.balance()
		w.internal(nil, c.body, "1")
		if got := w.balance() - before; c.stays && got < 999_000_000 || !c.stays && (got > 0 || got < -1000) {
			t.Errorf("%s: balance changed by %d", what, got)
		}
	}
}

// Without money for the rent nothing is added, and without money for gas nothing is done; strangers' money helps.
func TestPoor(t *testing.T) {
	w := emptyWorld(t, nil)
	own := signers("owner", 3)
	w.deploy(Terms{Signers: publics(own), Threshold: 2, Delay: 24 * time.Hour, Floor: time.Hour}, own, "0.0215")
	w.send(w.message(w.order(put("one", "x")), own[:2]...)) // no money for the rent: the order is used up
	if r := w.state(); len(r.Pending) != 0 || r.Seqno != 1 {
		t.Errorf("%+v", r)
	}
	w.internal(nil, cell.BeginCell().EndCell(), "0.02")
	id := w.propose(put("one", "x"))
	t.Logf("left: %d", w.balance())
	cancel := w.order(nil)
	cancel.Cancel = id
	for w.balance() >= 20_000_000 { // rent, until there is no money for gas
		w.n.SkewClock(300 * 24 * time.Hour)
		w.internal(nil, cell.BeginCell().EndCell(), "0.000001")
	}
	w.refuse("no money to apply", w.apply(id))
	cancel.ValidUntil = w.state().At.Time.Add(time.Hour)
	w.refuse("no money to cancel", w.message(cancel, own[:2]...))
	w.internal(nil, ApplyBody(id), "0.01")
	if r := w.state(); len(r.Entries) != 1 {
		t.Errorf("applied by a stranger: %+v", r)
	}
}

// A registry whose rent is not paid goes on when somebody pays the debt, while that is small; then it is frozen, and
// readers say so.
func TestDebt(t *testing.T) {
	w := emptyWorld(t, nil)
	own := signers("owner", 3)
	w.deploy(Terms{Signers: publics(own), Threshold: 2, Delay: 24 * time.Hour, Floor: time.Hour}, own, "0.3")
	years := func(n int) { w.n.SkewClock(time.Duration(n) * 365 * 24 * time.Hour) }
	nudge := func(amount string) { w.internal(nil, cell.BeginCell().EndCell(), amount) }
	for i := range 5 {
		w.adopt(document(i))
	}
	for w.balance() > 1000 { // what the last message brought
		years(1)
		nudge("0.000001")
	}
	r := w.state()
	t.Logf("in debt at %s", r.At.Time)
	w.refuse("in debt", w.message(w.order(put("two", "y")), own[:2]...))
	nudge("0.2")
	id := w.propose(put("two", "y"))
	w.n.SkewClock(24 * time.Hour)
	w.send(w.apply(id))
	if got := len(w.state().Entries); got != 6 {
		t.Errorf("%d entries", got)
	}
	for n := 0; w.account().Active && n < 40; n++ {
		years(1)
		nudge("0.000001")
	}
	if _, err := ParseState(w.account()); !errors.Is(err, ErrNoRegistry) {
		t.Errorf("a registry with a debt of 0.1 TON is not frozen: %v", err)
	}
}

// document is a change that puts a long one, no two cells of which are the same.
func document(n int) *Change {
	text := bytes.Repeat(fmt.Appendf(nil, "%07d\n", n), DocumentMax/8)
	for i := range text {
		text[i] ^= byte(i * i / 127)
	}
	return put(fmt.Sprintf("release-%d", n), string(text))
}

// What an ordinary change costs, so that a jump is seen.
func TestCosts(t *testing.T) {
	w := newWorld(t, nil)
	cost := func(what string, most int64, f func()) {
		before := w.balance()
		f()
		got := before - w.balance()
		t.Logf("%s: %d nanoTON", what, got)
		if got > most {
			t.Errorf("%s costs %d nanoTON, at most %d", what, got, most)
		}
	}
	var id uint32
	kilobyte := func() { id = w.propose(put("one", string(bytes.Repeat([]byte("0123456789abcde\n"), 64)))) }
	cost("proposing a document of 1 KiB, 2 of 3", 2_500_000, kilobyte)
	o := w.order(nil)
	o.Cancel = id
	cost("cancelling", 1_500_000, func() { w.send(w.message(o, w.own[:2]...)) })
	kilobyte()
	w.n.SkewClock(24 * time.Hour)
	cost("applying", 1_500_000, func() { w.send(w.apply(id)) })
	cost("new signers", 2_500_000, func() { w.propose(&Change{Signers: &Signers{publics(signers("heir", 16)), 5}}) })
}

// The largest registry: what it costs, that it fits, and that it takes no more.
func TestFull(t *testing.T) {
	for config, long := range map[string]int{"": PendingMax, "mainnet-config-2026-04-17.boc": 2} {
		t.Run("config "+config, func(t *testing.T) { full(t, config, long) })
	}
}

// full fills a registry, with so many long documents among others.
func full(t *testing.T, config string, long int) {
	var text []byte
	if config != "" {
		var err error
		if text, err = os.ReadFile("../devnet/testdata/" + config); err != nil {
			t.Fatal(err)
		}
	}
	w := emptyWorld(t, text)
	own := signers("owner", SignersMax)
	w.deploy(Terms{Signers: publics(own), Threshold: ThresholdMax, Delay: time.Hour, Floor: time.Hour}, own, "20")
	var proposing, applying int64
	entry := func(n int) *Change {
		if n < long {
			return document(n)
		}
		return put(fmt.Sprintf("release-%d", n), fmt.Sprint(n))
	}
	for n := 0; n < EntriesMax; n += PendingMax {
		for i := range PendingMax {
			before := w.balance()
			w.propose(entry(n + i))
			proposing = max(proposing, before-w.balance())
		}
		if n == 0 {
			w.send(w.message(w.order(put("more", "x")), own[:ThresholdMax]...)) // one more pending: the order is used up
			if r := w.state(); len(r.Pending) != PendingMax || r.counts.pending != PendingMax {
				t.Fatalf("%d pending", len(r.Pending))
			}
			o := w.order(put("more", "x"))
			o.Change, o.Cancel = nil, w.state().Pending[7].ID
			o.Seqno = w.state().Seqno
			w.send(w.message(o, own[SignersMax-ThresholdMax:]...))
			w.propose(entry(n + 7))
		}
		w.n.SkewClock(time.Hour)
		for _, p := range w.state().Pending {
			before := w.balance()
			w.send(w.apply(p.ID))
			applying = max(applying, before-w.balance())
		}
	}
	r := w.state()
	if len(r.Entries) != EntriesMax || len(r.Faults) != 0 {
		t.Fatalf("%d entries, %v", len(r.Entries), r.Faults)
	}
	w.checkCounts()
	before := w.balance()
	w.n.SkewClock(365 * 24 * time.Hour)
	w.internal(nil, cell.BeginCell().EndCell(), "0.000001")
	t.Logf("5 of 16 signatures, 8 KiB: proposing %d nanoTON, applying %d; rent of %d cells for a year %d", proposing, applying,
		r.counts.cells, before-w.balance())

	more := w.order(put("more", "x"))
	before = w.balance()
	w.send(w.message(more, own[:ThresholdMax]...))
	short := before - w.balance()
	if r := w.state(); len(r.Pending) != 0 || r.Seqno != more.Seqno+1 {
		t.Errorf("one more: %d pending, order %d", len(r.Pending), r.Seqno)
	}
	again := put("release-7", "short")
	w.adopt(again)
	w.adopt(&Change{Remove: Title{Release, "release-8"}.Key()})
	w.adopt(put("more", "x"))
	if r := w.state(); len(r.Entries) != EntriesMax {
		t.Errorf("%d entries", len(r.Entries))
	}
	w.checkCounts()
	// The floor of the balance is enough for gas, at the prices of either config. What a message's size costs is taken
	// before the contract looks at its balance.
	for _, cost := range []int64{short, applying} {
		if cost > 20_000_000 {
			t.Errorf("it costs %d nanoTON, and the contract works from 20000000 on", cost)
		}
	}
}
