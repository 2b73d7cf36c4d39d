package registry

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// titles are the entries' names.
func titles(r *Registry) []string {
	var out []string
	for _, e := range r.Entries {
		out = append(out, e.Title.String()+"="+string(e.Document))
	}
	return out
}

// A change is proposed, waits for the delay, is applied by anyone, and counts; an entry is replaced and removed.
func TestLife(t *testing.T) {
	w := newWorld(t, nil)
	r := w.state()
	if r.Threshold != 2 || r.Delay != 24*time.Hour || r.Floor != time.Hour || len(r.Signers) != 3 || len(r.Entries) != 0 {
		t.Fatalf("at first: %+v", r)
	}
	c := put("one", string(bytes.Repeat([]byte("x"), DocumentMax)))
	c.Put.NotBefore, c.Put.NotAfter = startTime(), startTime().AddDate(1, 0, 0)
	id := w.propose(c)
	r = w.state()
	if len(r.Pending) != 1 || len(r.Entries) != 0 || r.Seqno != 1 || r.Pending[0].ID != id {
		t.Fatalf("proposed: %+v", r)
	}
	if got, want := r.Pending[0].EffectiveAt, r.At.Time.Add(24*time.Hour); !got.Equal(want) {
		t.Errorf("effective at %s, want %s", got, want)
	}
	w.refuse("applied at once", w.apply(id))
	w.n.SkewClock(24*time.Hour - time.Second)
	w.refuse("applied too early", w.apply(id))
	w.n.SkewClock(time.Second)
	w.refuse("another one", w.apply(id+1))
	w.send(w.apply(id))
	r = w.state()
	if len(r.Pending) != 0 || len(r.Entries) != 1 || !bytes.Equal(r.Entries[0].Document, c.Put.Document) ||
		!r.Entries[0].NotAfter.Equal(c.Put.NotAfter) || !r.Entries[0].NotBefore.Equal(c.Put.NotBefore) {
		t.Fatalf("applied: %+v", r)
	}
	w.refuse("applied twice", w.apply(id))

	w.adopt(put("one", "new"))
	w.adopt(put("two", "other"))
	if got := titles(w.state()); !slices.Equal(got, []string{"release/one=new", "release/two=other"}) {
		t.Fatalf("entries %q", got)
	}
	w.adopt(&Change{Remove: Title{Release, "one"}.Key()})
	w.adopt(&Change{Remove: Title{Release, "none"}.Key()})
	if got := titles(w.state()); !slices.Equal(got, []string{"release/two=other"}) {
		t.Fatalf("entries %q", got)
	}
	w.checkCounts()
}

// Orders count with the signatures of a threshold of different signers, once, here, in time.
func TestSignatures(t *testing.T) {
	w := newWorld(t, nil)
	a, b, c := w.own[0], w.own[1], w.own[2]
	o := w.order(put("one", "x"))
	stranger := signer("mallory")
	w.refuse("one signature", w.message(o, a))
	w.refuse("the same one twice", w.message(o, a, a))
	w.refuse("the same three times", w.message(o, b, b, b))
	w.refuse("a stranger's", w.message(o, stranger, stranger))
	w.refuse("a stranger's and a signer's", w.message(o, stranger, b))
	w.refuse("in the wrong order", w.message(o, b, a))
	w.refuse("more than it takes", w.message(o, a, b, c))

	late, early, far := *o, *o, *o
	late.ValidUntil = w.state().At.Time.Add(-time.Second)
	w.refuse("expired", w.message(&late, a, b))
	early.Seqno++
	w.refuse("not its turn", w.message(&early, a, b))
	far.Registry.Hash[0]++
	w.refuse("another registry's", w.message(&far, a, b))

	// Signatures of another order, and damaged ones.
	other := w.message(w.order(put("one", "y")), a, b)
	one, err := o.cell()
	if err != nil {
		t.Fatal(err)
	}
	two, err := w.order(put("one", "y")).cell()
	if err != nil {
		t.Fatal(err)
	}
	for what, votes := range map[string][]vote{
		"signatures of another order":  w.votes(two, a, b),
		"a signer behind the last one": {w.votes(one, a)[0], {3, w.votes(one, b)[0].signature}},
		"one signature in two places":  {w.votes(one, a)[0], {1, w.votes(one, a)[0].signature}},
		"places changed":               {{0, w.votes(one, b)[0].signature}, {1, w.votes(one, a)[0].signature}},
	} {
		body, err := signedBody(one, votes)
		if err != nil {
			t.Fatal(err)
		}
		w.refuse(what, w.external(nil, body))
	}

	good := w.message(o, a, c)
	w.send(good)
	w.refuse("a replay", good)
	w.refuse("another order with the same number", other)
	if r := w.state(); len(r.Pending) != 1 || r.Seqno != 1 {
		t.Errorf("%+v", r)
	}
}

// Orders count in a stranger's message too, who pays for them; what is wrong with them leaves nothing.
func TestOrderInside(t *testing.T) {
	w := newWorld(t, nil)
	body := func(message []byte) *cell.Cell {
		c, err := cell.FromBOC(message)
		if err != nil {
			t.Fatal(err)
		}
		var m tlb.ExternalMessage
		if err := tlb.LoadFromCell(&m, c.MustBeginParse()); err != nil {
			t.Fatal(err)
		}
		return m.Body
	}
	before := w.balance()
	w.internal(nil, body(w.message(w.order(put("one", "x")), w.own[0])), "0.1")
	w.internal(nil, body(w.raw(cell.BeginCell().MustStoreUInt(opDelay, 8).MustStoreUInt(5, 32).EndCell())), "0.1")
	w.internal(nil, body(w.message(w.order(put("one", "x")), w.own[:2]...)), "0.0001")
	if r := w.state(); r.Seqno != 0 || len(r.Pending) != 0 || w.balance() > before+1000 { // a bounce leaves dust
		t.Errorf("refused: order %d, %d pending, balance %d to %d", r.Seqno, len(r.Pending), before, w.balance())
	}
	good := body(w.message(w.order(put("one", "x")), w.own[:2]...))
	w.internal(nil, good, "0.1")
	w.internal(nil, good, "0.1")
	if r := w.state(); r.Seqno != 1 || len(r.Pending) != 1 {
		t.Errorf("order %d, %d pending", r.Seqno, len(r.Pending))
	}
}

// What is pending can be cancelled, with as many signatures, and never counts then.
func TestCancel(t *testing.T) {
	w := newWorld(t, nil)
	id := w.propose(put("one", "x"))
	o := w.order(nil)
	o.Cancel = id
	w.refuse("one signature", w.message(o, w.own[0]))
	wrong := *o
	wrong.Cancel = 77
	w.send(w.message(&wrong, w.own[0], w.own[1])) // nothing to cancel: the order is used up
	second := w.propose(put("two", "y"))
	o.Seqno += 2
	w.send(w.message(o, w.own[0], w.own[2]))
	w.n.SkewClock(24 * time.Hour)
	w.refuse("cancelled", w.apply(id))
	w.send(w.apply(second))
	if got := titles(w.state()); !slices.Equal(got, []string{"release/two=y"}) {
		t.Errorf("entries %q", got)
	}
	w.checkCounts()
}

// Of two changes that are ripe, strangers can't choose which one comes last.
func TestInOrder(t *testing.T) {
	w := newWorld(t, nil)
	first := w.propose(put("one", "old"))
	second := w.propose(put("one", "new"))
	w.n.SkewClock(24 * time.Hour)
	w.refuse("the second first", w.apply(second))
	w.internal(nil, ApplyBody(second), "0.1")
	if r := w.state(); len(r.Pending) != 2 {
		t.Fatalf("%+v", r)
	}
	w.send(w.apply(first))
	w.internal(nil, ApplyBody(second), "0.1")
	if got := titles(w.state()); !slices.Equal(got, []string{"release/one=new"}) {
		t.Errorf("entries %q", got)
	}
}

// New signers and a new delay wait for the old delay, and then count for everything.
func TestRules(t *testing.T) {
	w := newWorld(t, nil)
	next := signers("heir", 5)
	rotate := w.propose(&Change{Signers: &Signers{Keys: publics(next), Threshold: 3}})
	shorter := w.propose(&Change{Delay: time.Hour})
	after := w.propose(put("one", "x"))
	r := w.state()
	for _, p := range r.Pending {
		if p.EffectiveAt.Before(startTime().Add(24 * time.Hour)) {
			t.Errorf("change %d waits until %s", p.ID, p.EffectiveAt)
		}
	}
	w.refuse("heirs, too early", w.message(w.order(put("two", "y")), next[:3]...))
	w.n.SkewClock(24 * time.Hour)
	w.send(w.apply(rotate))
	w.refuse("the old owner", w.message(w.order(put("two", "y")), w.own[:2]...))
	w.refuse("two heirs", w.message(w.order(put("two", "y")), next[:2]...))
	w.own = next
	w.send(w.apply(shorter))
	w.send(w.apply(after))
	r = w.state()
	if r.Threshold != 3 || len(r.Signers) != 5 || r.Delay != time.Hour || len(r.Entries) != 1 {
		t.Fatalf("%+v", r)
	}
	id := w.propose(put("two", "y"))
	w.n.SkewClock(time.Hour)
	w.send(w.apply(id))
}

// Changes that could not be applied use the order up, and leave nothing.
func TestBadChanges(t *testing.T) {
	w := newWorld(t, nil)
	list := func(count int, keys ...ed25519.PublicKey) *cell.Builder {
		var next *cell.Cell
		for _, some := range slices.Backward(slices.Collect(slices.Chunk(keys, keysInCell))) {
			b := cell.BeginCell()
			for _, k := range some {
				b.MustStoreSlice(k, 256)
			}
			if next != nil {
				b.MustStoreRef(next)
			}
			next = b.EndCell()
		}
		if next == nil {
			next = cell.BeginCell().EndCell()
		}
		return cell.BeginCell().MustStoreUInt(uint64(count), 8).MustStoreRef(next)
	}
	setList := func(threshold int, list *cell.Builder) *cell.Cell {
		return cell.BeginCell().MustStoreUInt(opSigners, 8).MustStoreUInt(uint64(threshold), 8).MustStoreBuilder(list).EndCell()
	}
	set := func(threshold, n int) *cell.Cell { return setList(threshold, list(n, publics(signers("bad", n))...)) }
	four := publics(signers("bad", 4))
	delay := func(d uint64) *cell.Cell {
		return cell.BeginCell().MustStoreUInt(opDelay, 8).MustStoreUInt(d, 32).EndCell()
	}
	long, err := snake(bytes.Repeat([]byte("0123456"), 1600))
	if err != nil {
		t.Fatal(err)
	}
	huge := cell.BeginCell().MustStoreUInt(opPut, 8).MustStoreUInt(0, 64)
	huge.MustStoreRef(Title{Release, "a"}.cell()).MustStoreRef(long)
	for what, change := range map[string]*cell.Cell{
		"no signers": set(0, 0), "threshold 0": set(0, 3), "threshold over": set(4, 3), "threshold 6": set(6, 12),
		"17 signers": set(3, 17), "one twice": setList(1, list(2, four[0], four[0])),
		"not in order":   setList(1, list(2, four[1], four[0])),
		"more than said": setList(1, list(3, four...)), "fewer than said": setList(1, list(4, four[:3]...)),
		"two of three":          setList(1, list(2, four[:3]...)),
		"delay below the floor": delay(3599), "delay 0": delay(0), "delay over": delay(7776001),
		"empty": cell.BeginCell().EndCell(), "another number": cell.BeginCell().MustStoreUInt(9, 8).EndCell(),
		"too long": huge.EndCell(), "half a delay": cell.BeginCell().MustStoreUInt(opDelay, 8).MustStoreUInt(9, 16).EndCell(),
		"something follows": cell.BeginCell().MustStoreUInt(opDelay, 8).MustStoreUInt(7200, 33).EndCell(),
	} {
		before, balance := w.state(), w.balance()
		message := w.raw(change)
		if err := w.n.SendExternal(message); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		w.mine()
		after := w.state()
		if after.Seqno != before.Seqno+1 || len(after.Pending) != 0 || len(after.Entries) != 0 || after.Threshold != 2 {
			t.Errorf("%s: %+v", what, after)
		}
		if cost := balance - w.balance(); cost <= 0 || cost > 10_000_000 {
			t.Errorf("%s: it cost %d", what, cost)
		}
		w.refuse(what+" again", message)
		w.checkCounts()
	}
	for what, change := range map[string]*cell.Cell{
		"1 of 1": set(1, 1), "5 of 16": set(5, 16), "floor": delay(3600), "90 days": delay(7776000),
	} {
		w.send(w.raw(change))
		r := w.state()
		if n := len(r.Pending); n == 0 || r.Pending[n-1].ID != r.Seqno-1 || r.Pending[n-1].Change == nil {
			t.Errorf("%s: %+v", what, r.Pending)
		}
	}
}

// raw is the message of the owner that proposes a change in any form.
func (w *world) raw(change *cell.Cell) []byte {
	w.t.Helper()
	r := w.state()
	o := cell.BeginCell().MustStoreUInt(opOrder, 32).MustStoreAddr(w.a.Std()).MustStoreUInt(uint64(r.Seqno), 32).
		MustStoreUInt(uint64(r.At.Time.Add(time.Hour).Unix()), 32).MustStoreUInt(opPropose, 32).MustStoreRef(change).EndCell()
	body, err := signedBody(o, w.votes(o, w.own[:r.Threshold]...))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.external(nil, body)
}

// checkCounts compares what the contract counted with what is there.
func (w *world) checkCounts() {
	w.t.Helper()
	r := w.state()
	cells := 0
	for i := range r.Entries {
		cells += changeCells(w.t, &Change{Put: &r.Entries[i]}) + 3
	}
	for _, p := range r.Pending {
		cells += changeCells(w.t, p.Change) + 3
	}
	if want := (counts{len(r.Entries), len(r.Pending), cells}); r.counts != want {
		w.t.Errorf("counts %+v, want %+v", r.counts, want)
	}
}

// changeCells is how many different cells a change has.
func changeCells(t testing.TB, c *Change) int {
	root, err := c.cell()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var walk func(*cell.Cell)
	walk = func(c *cell.Cell) {
		if seen[string(c.Hash())] {
			return
		}
		seen[string(c.Hash())] = true
		for i := range int(c.RefsNum()) {
			walk(c.MustPeekRef(i))
		}
	}
	walk(root)
	return len(seen)
}
