// Package router says which worker serves a request: a table of endpoints, a pick, a lease.
package router

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"cocoon/router/offer"
)

// ID names a worker: the SHA-256 of its public key.
type ID [32]byte

// Why a request got no endpoint.
var (
	// ErrUnknownModel means that no worker in the table offers the model.
	ErrUnknownModel = errors.New("no worker offers this model")
	// ErrBusy means that every worker that offers the model is at its capacity.
	ErrBusy = errors.New("every worker of this model is at its capacity")
	// ErrExhausted means that every worker that offers the model was tried already.
	ErrExhausted = errors.New("every worker of this model was tried")
)

// Request is what a pick depends on.
type Request struct {
	Model string
	// Tried holds the workers that failed this request already.
	Tried []ID
}

// Outcome says how a lease ended. Only a worker's fault speaks against the worker.
type Outcome uint8

// The outcomes of a lease.
const (
	// Served: the worker answered in full, or refused a bad request rightly.
	Served Outcome = iota
	// ClientGone: the client left before the end.
	ClientGone
	// WorkerBusy: the worker said that it takes no more right now.
	WorkerBusy
	// WorkerFault: the worker or its engine broke, lied or fell silent.
	WorkerFault
)

// Table knows every endpoint. W is the caller's handle to a worker's connection. Reads take no lock:
// they see an immutable snapshot that writers replace.
type Table[W comparable] struct {
	mu      sync.Mutex // held by writers only
	workers map[ID]*worker[W]
	snap    atomic.Pointer[map[string]*market[W]]
}

// worker is one connected worker at one moment; an update makes a new one that shares the state.
type worker[W comparable] struct {
	id     ID
	handle W
	sheet  *offer.Sheet
	state  *state
}

// state is what is learned about a worker while it is connected.
type state struct {
	inflight atomic.Int64 // leases not released yet, over all models
}

// market is the endpoints of one model, in the order of their workers' IDs.
type market[W comparable] struct {
	endpoints []endpoint[W]
	turn      *atomic.Uint32 // where the next scan starts, so that ties rotate
}

// endpoint is one worker's offer of one model.
type endpoint[W comparable] struct {
	worker *worker[W]
	offer  *offer.Offer
}

// NewTable is an empty table.
func NewTable[W comparable]() *Table[W] {
	t := &Table[W]{workers: map[ID]*worker[W]{}}
	t.snap.Store(&map[string]*market[W]{})
	return t
}

// Update puts a worker's sheet in the place of its last one. The sheet must have passed Validate and must
// not change afterwards. Leases that run keep counting against the worker.
func (t *Table[W]) Update(id ID, handle W, sheet *offer.Sheet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := &worker[W]{id: id, handle: handle, sheet: sheet, state: new(state)}
	if old := t.workers[id]; old != nil {
		w.state = old.state
	}
	t.workers[id] = w
	t.publish()
}

// Remove takes a worker out, unless it has come back with another handle since; leases that run end by themselves.
func (t *Table[W]) Remove(id ID, handle W) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.workers[id]; w == nil || w.handle != handle {
		return
	}
	delete(t.workers, id)
	t.publish()
}

// publish builds the snapshot that readers see. The caller holds mu.
func (t *Table[W]) publish() {
	old, next := *t.snap.Load(), map[string]*market[W]{}
	for _, w := range t.workers {
		if w.sheet.Draining {
			continue
		}
		for i := range w.sheet.Offers {
			o := &w.sheet.Offers[i]
			m := next[o.Model]
			if m == nil {
				m = &market[W]{turn: new(atomic.Uint32)}
				if before := old[o.Model]; before != nil {
					m.turn = before.turn
				}
				next[o.Model] = m
			}
			m.endpoints = append(m.endpoints, endpoint[W]{w, o})
		}
	}
	for _, m := range next {
		slices.SortFunc(m.endpoints, func(a, b endpoint[W]) int { return bytes.Compare(a.worker.id[:], b.worker.id[:]) })
	}
	t.snap.Store(&next)
}

// Lease is one request's claim on an endpoint. It must be released exactly once.
type Lease[W comparable] struct {
	// Worker is the worker's ID, Handle the caller's way to it, Offer what it sells and at which price.
	Worker ID
	Handle W
	Offer  *offer.Offer
	state  *state
}

// Pick leases the endpoint with the fewest requests in flight; among equals they take turns.
func (t *Table[W]) Pick(r *Request) (Lease[W], error) {
	m := (*t.snap.Load())[r.Model]
	if m == nil {
		return Lease[W]{}, ErrUnknownModel
	}
	for {
		best, load, full := m.least(r.Tried)
		if best == nil {
			if full {
				return Lease[W]{}, ErrBusy
			}
			return Lease[W]{}, ErrExhausted
		}
		if best.worker.state.inflight.CompareAndSwap(load, load+1) {
			w := best.worker
			return Lease[W]{Worker: w.id, Handle: w.handle, Offer: best.offer, state: w.state}, nil
		}
	}
}

// least is the endpoint with the fewest requests in flight, and that count; full says that some were left
// out because they are at their capacity.
func (m *market[W]) least(tried []ID) (best *endpoint[W], load int64, full bool) {
	start := int(m.turn.Add(1)) % len(m.endpoints)
	for i := range m.endpoints {
		e := &m.endpoints[(start+i)%len(m.endpoints)]
		n := e.worker.state.inflight.Load()
		switch {
		case slices.Contains(tried, e.worker.id):
		case n >= int64(e.offer.Capacity):
			full = true
		case best == nil || n < load:
			best, load = e, n
		}
	}
	return best, load, full
}

// Release ends the lease. The outcome is what later picks learn from.
func (l *Lease[W]) Release(Outcome) { l.state.inflight.Add(-1) }

// Model is what the table knows of one model.
type Model struct {
	Name string
	// Offers holds the workers' offers of it, cheapest output first.
	Offers []*offer.Offer
}

// Models lists every model that is offered now, by name.
func (t *Table[W]) Models() []Model {
	snap := *t.snap.Load()
	models := make([]Model, 0, len(snap))
	for name := range snap {
		m, _ := t.Model(name)
		models = append(models, m)
	}
	slices.SortFunc(models, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return models
}

// Model is one model that is offered now.
func (t *Table[W]) Model(name string) (Model, bool) {
	m := (*t.snap.Load())[name]
	if m == nil {
		return Model{}, false
	}
	offers := make([]*offer.Offer, len(m.endpoints))
	for i, e := range m.endpoints {
		offers[i] = e.offer
	}
	slices.SortStableFunc(offers, func(a, b *offer.Offer) int { return cmp.Compare(a.Price.Out, b.Price.Out) })
	return Model{Name: name, Offers: offers}, true
}

// Workers is how many workers are in the table, Inflight how many leases run on them.
func (t *Table[W]) Workers() (workers int, inflight int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.workers {
		inflight += w.state.inflight.Load()
	}
	return len(t.workers), inflight
}

// String is the ID in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }
