// Package router says which worker serves a request: a table of endpoints, a pick, a lease.
package router

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/router/offer"
	"cocoon/router/prefix"
)

// ID names a worker: the SHA-256 of its public key.
type ID [32]byte

// String is the ID in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Why a request got no endpoint.
var (
	// ErrUnknownModel means that no worker in the table offers the model.
	ErrUnknownModel = errors.New("no worker offers this model")
	// ErrNoMatch means that workers offer the model, but none as the request wants it; Explain says why.
	ErrNoMatch = errors.New("no worker of this model is as the request wants it")
	// ErrBusy means that every worker that would do is at its capacity, or does not answer.
	ErrBusy = errors.New("every worker of this model is at its capacity")
	// ErrExhausted means that every worker that would do was tried already.
	ErrExhausted = errors.New("every worker of this model was tried")
)

const (
	// TendEvery is how often Tend is to be called.
	TendEvery = 250 * time.Millisecond
	// rememberFor is how long what is known of a machine outlives its workers' sessions, and rememberMax for how many: whoever
	// makes up machines makes the table forget made-up machines.
	rememberFor = time.Hour
	rememberMax = 100_000
)

// Config is what a table is made of.
type Config struct {
	// FeePPM is the gateway's share on top of the workers' prices, parts per million.
	FeePPM int64
	// Seed decides ties and explorations: the same seed and the same calls make the same picks.
	Seed uint64
	// Shared tells that other gateways route to these workers too, so that a conversation may have been elsewhere before.
	Shared bool
	// Slots bounds the prompt blocks that are remembered; zero: prefix.SlotsDefault.
	Slots int
	// Weights are those of the score; the zero Weights: DefaultWeights.
	Weights Weights
}

// Table knows every endpoint. W is the caller's handle to a worker's connection. Picks take no lock: they see immutable
// snapshots that writers replace, and counters.
type Table[W comparable] struct{ table }

// table is a Table whose handles are of any type.
type table struct {
	cfg   Config
	index *prefix.Index

	mu       sync.Mutex // held by writers only
	workers  map[ID]*worker
	machines map[string]*machine
	holders  uint32   // numbers given out
	spare    []uint32 // and taken back
	models   atomic.Pointer[map[string]*model]
	lengths  lengths
}

// Worker is one connected worker and what it offers.
type Worker[W comparable] struct {
	ID     ID
	Handle W
	// Sheet must have passed Validate, and must not change afterwards.
	Sheet *offer.Sheet
	// Trust is how well it is proved.
	Trust Trust
	// Machine names the attested hardware: workers of one machine count once. Empty: it is a machine of its own.
	Machine string
}

// worker is a Worker in the table.
type worker struct {
	id     ID
	handle any
	sheet  *offer.Sheet
	trust  Trust
	name   string // in lower case
	live   *machine
}

// New makes an empty table.
func New[W comparable](c Config) *Table[W] {
	if c.Weights == (Weights{}) {
		c.Weights = DefaultWeights()
	}
	t := &Table[W]{table{
		cfg: c, index: prefix.New(prefix.Config{Slots: c.Slots}),
		workers: map[ID]*worker{}, machines: map[string]*machine{},
	}}
	t.models.Store(&map[string]*model{})
	return t
}

// Update puts a worker in the place of what it was before. Leases that run keep counting against its machine. A sheet
// that differs only in its load, from the same session, is cheap.
func (t *Table[W]) Update(now time.Duration, w Worker[W]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	live := t.machine(cmp.Or(w.Machine, string(w.ID[:])))
	t.update(now, &worker{w.ID, w.Handle, w.Sheet, w.Trust, strings.ToLower(w.Sheet.Name), live})
}

// Remove takes a worker out, unless it has come back with another handle since; leases that run end by themselves.
func (t *Table[W]) Remove(now time.Duration, id ID, handle W) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.workers[id]
	if w == nil || w.handle != any(handle) {
		return
	}
	delete(t.workers, id)
	t.leave(now, w)
	t.publish(w, nil)
}

// Pick leases the endpoint with the lowest score among those that the request may go to. See Weight for the score.
func (t *Table[W]) Pick(r *Request) (l Lease[W], err error) {
	if err = t.pick(r, &l.Grant); err == nil {
		l.Handle = l.handle.(W)
	}
	return l, err
}

// Index is the table's memory of prompts: its Hash makes a Request's Prefix.
func (t *table) Index() *prefix.Index { return t.index }

// update does it. The caller holds mu.
func (t *table) update(now time.Duration, next *worker) {
	old := t.workers[next.id]
	next.live.workers++
	if old != nil {
		t.leave(now, old)
	}
	t.workers[next.id] = next
	next.live.reported(next.sheet.Load, t.meanPrompt(next.sheet))
	if old != nil && old.live == next.live && sameOffers(old, next) {
		return
	}
	t.publish(old, next)
}

// sameOffers tells whether picks see no difference. Numbers of the old sheet stay valid, so that it may go on being used.
func sameOffers(a, b *worker) bool {
	return a.handle == b.handle && a.trust == b.trust && a.name == b.name && a.sheet.Draining == b.sheet.Draining &&
		slices.EqualFunc(a.sheet.Offers, b.sheet.Offers, func(x, y offer.Offer) bool {
			return x.Model == y.Model && x.WeightsDigest == y.WeightsDigest && x.Engine == y.Engine && x.ContextTokens == y.ContextTokens &&
				x.Quantization == y.Quantization && x.Price == y.Price && x.Slots == y.Slots && x.Capacity == y.Capacity &&
				slices.Equal(x.Features, y.Features)
		})
}

// machine finds or makes a machine. The caller holds mu.
func (t *table) machine(name string) *machine {
	m := t.machines[name]
	if m == nil {
		m = newMachine()
		t.machines[name] = m
	}
	return m
}

// meanPrompt is how many tokens a prompt has that waits at a worker, as far as its first model tells. The caller holds mu.
func (t *table) meanPrompt(s *offer.Sheet) float64 {
	for i := range s.Offers {
		if m := (*t.models.Load())[s.Offers[i].Model]; m != nil {
			return math.Float64frombits(m.prompt.Load())
		}
	}
	return 0
}

// leave counts a worker's session out. The caller holds mu.
func (t *table) leave(now time.Duration, w *worker) {
	w.live.workers--
	w.live.left = now
}

// publish brings the markets up to date in which a worker was or is. The caller holds mu.
func (t *table) publish(old, next *worker) {
	changed := map[string]bool{}
	for _, w := range []*worker{old, next} {
		if w == nil {
			continue
		}
		for i := range w.sheet.Offers {
			changed[w.sheet.Offers[i].Model] = true
		}
	}
	if next != nil {
		var capacity int64
		for i := range next.sheet.Offers {
			capacity = max(capacity, int64(next.sheet.Offers[i].Capacity))
		}
		next.live.offers(capacity)
	}
	models := *t.models.Load()
	copied := false
	for name := range changed {
		m := models[name]
		if m == nil {
			m = newModel(name, t.cfg.Seed)
		}
		t.change(m, old, next)
		if empty := len(m.market.Load().endpoints) == 0; empty == (models[name] == nil) {
			continue
		}
		if !copied {
			models, copied = maps.Clone(models), true
		}
		if models[name] == nil {
			models[name] = m
		} else {
			delete(models, name)
		}
	}
	if copied {
		t.models.Store(&models)
	}
}

// change replaces a model's market by one without the old worker and with the next. The caller holds mu.
func (t *table) change(m *model, old, next *worker) {
	before := m.market.Load()
	after := &market{endpoints: make([]endpoint, 0, len(before.endpoints)+1)}
	for i := range before.endpoints {
		if e := &before.endpoints[i]; old == nil || e.worker.id != old.id {
			after.endpoints = append(after.endpoints, *e)
		}
	}
	if next != nil && !next.sheet.Draining {
		for i := range next.sheet.Offers {
			if o := &next.sheet.Offers[i]; o.Model == m.name {
				e := t.endpoint(m, next, o)
				at, _ := slices.BinarySearchFunc(after.endpoints, next.id, func(e endpoint, id ID) int { return bytes.Compare(e.worker.id[:], id[:]) })
				after.endpoints = slices.Insert(after.endpoints, at, e)
			}
		}
	}
	after.finish(before)
	m.market.Store(after)
}

// endpoint makes the view of an offer. The caller holds mu.
func (t *table) endpoint(m *model, w *worker, o *offer.Offer) endpoint {
	s := w.live.speed(m.name, m.priors.Load(), t.number)
	s.offers(int64(o.Capacity))
	price := o.Price.WithFee(t.cfg.FeePPM)
	e := endpoint{
		live: w.live, speed: s, worker: w, offer: o, price: price,
		in: float64(price.In) / perMTok, cached: float64(price.Cached) / perMTok, out: float64(price.Out) / perMTok,
		context: int64(o.ContextTokens), slots: float64(o.Slots), trust: w.trust, features: featuresOf(o.Features),
		hash: binary.BigEndian.Uint64(w.id[:]), holder: prefix.Holder(s.holder),
	}
	t.index.Resize(e.holder, int(min(int64(o.Slots)*int64(o.ContextTokens), cacheMax)/blockTokens))
	return e
}

// number gives out a number for the prefix index. The caller holds mu.
func (t *table) number() uint32 {
	if n := len(t.spare); n > 0 {
		h := t.spare[n-1]
		t.spare = t.spare[:n-1]
		t.index.Forget(prefix.Holder(h))
		return h
	}
	t.holders++
	return t.holders - 1
}

// Tend looks after what changes with time alone: failures that fade, silence, machines that are long gone, what new
// workers are taken to be like, and which of many workers a pick looks at. Call it every TendEvery.
func (t *table) Tend(now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, m := range t.machines {
		m.settle(now)
		if m.workers == 0 && m.inflight.Load() == 0 && (now-m.left > rememberFor || len(t.machines) > rememberMax) {
			for _, s := range m.speeds {
				t.spare = append(t.spare, s.holder)
			}
			delete(t.machines, name)
		}
	}
	for _, m := range *t.models.Load() {
		m.tend(now, &t.cfg)
	}
}

// Model is what the table knows of one model.
type Model struct {
	Name string
	// Offers holds the workers' offers of it, cheapest output first; Workers who makes them, in the same order.
	Offers  []*offer.Offer
	Workers []ID
	// Inflight is how many requests of this gateway run on these workers, Capacity how many they take.
	Inflight, Capacity int64
}

// Models lists every model that is offered now, by name.
func (t *table) Models() []Model {
	snap := *t.models.Load()
	models := make([]Model, 0, len(snap))
	for _, name := range slices.Sorted(maps.Keys(snap)) {
		if m, ok := t.Model(name); ok {
			models = append(models, m)
		}
	}
	return models
}

// Model is one model that is offered now.
func (t *table) Model(name string) (Model, bool) {
	m := (*t.models.Load())[name]
	if m == nil || len(m.market.Load().endpoints) == 0 {
		return Model{}, false
	}
	list := slices.Clone(m.market.Load().endpoints)
	slices.SortStableFunc(list, func(a, b endpoint) int { return cmp.Compare(a.offer.Price.Out, b.offer.Price.Out) })
	seen, d := map[*machine]bool{}, Model{Name: name}
	for i := range list {
		e := &list[i]
		d.Offers, d.Workers = append(d.Offers, e.offer), append(d.Workers, e.worker.id)
		if !seen[e.live] {
			seen[e.live] = true
			d.Inflight += e.live.inflight.Load()
			d.Capacity += e.speed.limit.Load()
		}
	}
	return d, true
}

// Workers is how many workers are in the table, Inflight how many leases run on them.
func (t *table) Workers() (workers int, inflight int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.machines {
		inflight += m.inflight.Load()
	}
	return len(t.workers), inflight
}
