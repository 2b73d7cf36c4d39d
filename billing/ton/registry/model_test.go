package registry

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what a registry should be.
type model struct {
	seqno   uint32
	now     time.Time
	delay   time.Duration
	signers []testSigner
	least   int // threshold
	entries map[string]string
	pending []waiting
}

type waiting struct {
	id    uint32
	at    time.Time
	apply func(*model)
}

// drop takes a change away.
func (m *model) drop(id uint32) {
	m.pending = slices.DeleteFunc(m.pending, func(p waiting) bool { return p.id == id })
}

// Whatever orders come in whatever order, by whomever: the registry is what the model says.
func TestModel(t *testing.T) {
	chain, salt := emptyWorld(t, nil), uint64(0)
	own := signers("owner", 3)
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: t, n: chain.n, api: chain.api}
		salt++
		w.deploy(Terms{Signers: publics(own), Threshold: 2, Delay: 24 * time.Hour, Floor: time.Hour, Salt: salt}, own, "5")
		m := &model{now: w.state().At.Time, delay: w.terms.Delay, signers: w.own, least: 2, entries: map[string]string{}}
		sets := [][]testSigner{w.own, signers("heir", 5), signers("single", 1)}
		for range rapid.IntRange(5, 25).Draw(rt, "steps") {
			m.step(rt, w, sets)
			m.compare(rt, w)
		}
	})
}

func (m *model) step(rt *rapid.T, w *world, sets [][]testSigner) {
	steps := []string{"propose", "propose", "propose", "cancel", "apply", "apply", "wait", "wait"}
	switch rapid.SampledFrom(steps).Draw(rt, "step") {
	case "propose":
		change, apply := m.change(rt, sets)
		if m.order(rt, w, &Order{Change: change}) {
			m.pending = append(m.pending, waiting{m.seqno - 1, m.now.Add(m.delay), apply})
		}
	case "cancel":
		id := uint32(rapid.IntRange(0, int(m.seqno)).Draw(rt, "id"))
		if m.order(rt, w, &Order{Cancel: id}) {
			m.drop(id)
		}
	case "apply":
		id := uint32(rapid.IntRange(0, int(m.seqno)).Draw(rt, "id"))
		if len(m.pending) > 0 && rapid.Bool().Draw(rt, "next") {
			id = m.pending[0].id
		}
		err := w.n.SendExternal(w.apply(id))
		w.mine()
		ripe := len(m.pending) > 0 && m.pending[0].id == id && !m.now.Before(m.pending[0].at)
		if ripe != (err == nil) {
			rt.Fatalf("apply %d: %v, ripe %v", id, err, ripe)
		}
		if ripe {
			p := m.pending[0]
			m.drop(id)
			p.apply(m)
		}
	case "wait":
		d := time.Duration(rapid.IntRange(1, 30).Draw(rt, "hours")) * time.Hour
		w.n.SkewClock(d)
		w.mine()
		m.now = m.now.Add(d)
	}
}

// change draws a change that can be made.
func (m *model) change(rt *rapid.T, sets [][]testSigner) (*Change, func(*model)) {
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
	switch rapid.SampledFrom([]string{"put", "put", "remove", "signers", "delay"}).Draw(rt, "change") {
	case "put":
		text := fmt.Sprint(rapid.IntRange(0, 99).Draw(rt, "text"))
		return put(name, text), func(m *model) { m.entries[name] = text }
	case "remove":
		return &Change{Remove: Title{Release, name}.Key()}, func(m *model) { delete(m.entries, name) }
	case "signers":
		set := rapid.SampledFrom(sets).Draw(rt, "set")
		least := rapid.IntRange(1, len(set)).Draw(rt, "threshold")
		return &Change{Signers: &Signers{publics(set), least}}, func(m *model) { m.signers, m.least = set, least }
	}
	d := time.Duration(rapid.IntRange(1, 48).Draw(rt, "delay")) * time.Hour
	return &Change{Delay: d}, func(m *model) { m.delay = d }
}

// order sends an order, perhaps with something wrong, and tells whether it counts.
func (m *model) order(rt *rapid.T, w *world, o *Order) bool {
	o.Registry, o.Seqno, o.ValidUntil = w.a, m.seqno, m.now.Add(time.Hour)
	by := slices.Clone(m.signers)
	for len(by) > m.least {
		i := rapid.IntRange(0, len(by)-1).Draw(rt, "left out")
		by = slices.Delete(by, i, i+1)
	}
	good := true
	faults := []string{"", "", "", "few", "twice", "stranger", "late", "replay", "elsewhere"}
	switch rapid.SampledFrom(faults).Draw(rt, "fault") {
	case "few":
		by, good = by[1:], false
	case "twice":
		if m.least > 1 {
			by[1], good = by[0], false
		}
	case "stranger":
		by[len(by)-1], good = signer("mallory"), false
	case "late":
		o.ValidUntil, good = m.now.Add(-time.Second), false
	case "replay":
		o.Seqno, good = m.seqno-1, false
	case "elsewhere":
		o.Registry.Hash[5]++
		good = false
	}
	if len(by) == 0 {
		return false // no message without a signature
	}
	err := w.n.SendExternal(w.message(o, by...))
	w.mine()
	if good != (err == nil) {
		rt.Fatalf("order %s: %v, want good %v", o, err, good)
	}
	if !good {
		return false
	}
	m.seqno++
	if o.Change == nil {
		return slices.ContainsFunc(m.pending, func(p waiting) bool { return p.id == o.Cancel })
	}
	return len(m.pending) < PendingMax
}

func (m *model) compare(rt *rapid.T, w *world) {
	r := w.state()
	entries := map[string]string{}
	for _, e := range r.Entries {
		entries[e.Name] = string(e.Document)
	}
	var pending []string
	for _, p := range r.Pending {
		pending = append(pending, fmt.Sprint(p.ID, p.EffectiveAt.Unix()))
	}
	var want []string
	for _, p := range m.pending {
		want = append(want, fmt.Sprint(p.id, p.at.Unix()))
	}
	if r.Seqno != m.seqno || r.Delay != m.delay || r.Threshold != m.least || !maps.Equal(entries, m.entries) ||
		!slices.Equal(pending, want) || len(r.Signers) != len(m.signers) {
		form := "order %d, delay %s, threshold %d, %v, pending %v"
		rt.Fatalf("registry: "+form+"\nmodel: "+form,
			r.Seqno, r.Delay, r.Threshold, entries, pending, m.seqno, m.delay, m.least, m.entries, want)
	}
	w.checkCounts()
}
