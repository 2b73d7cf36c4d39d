package gateway

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"cocoon/attest"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/offer"
)

// A model whose last worker left is "out of service" for recentFor, then unknown; at most recentMax are remembered,
// since workers choose the names.
const (
	recentFor = time.Hour
	recentMax = 10_000
)

// supply remembers what the table forgets: when a model was first and last offered.
type supply struct {
	mu     sync.Mutex
	seen   map[string]sighting
	sheets map[router.ID]lastSheet // each worker's
}

// lastSheet is what a worker's last sheet said of it.
type lastSheet struct {
	name   string
	models []string
}

type sighting struct{ first, last time.Time }

// report takes a worker's offer sheet. An error ends the worker's session and goes to its log.
func (s *Server) report(w *tunnel.Worker, raw []byte) error {
	sheet := new(offer.Sheet)
	if err := json.Unmarshal(raw, sheet); err != nil {
		return fmt.Errorf("reading the offer sheet: %w", err)
	}
	if err := sheet.Validate(); err != nil {
		return err
	}
	s.metrics.reports.Inc()
	if v := s.money.vault; v != nil {
		v.hearsay.note(receipt.Digest(w.ID()), sheet)
	}
	id := router.ID(w.ID())
	m := s.appraiser.member(w)
	if m == nil || !m.holds(time.Now()) {
		return fmt.Errorf("%w: no verdict that holds", errRefused)
	}
	changed := s.supply.note(id, sheet)
	old := m.sheet.Swap(sheet)
	if !s.offer(m) && !sameModels(old, sheet) {
		m.Reattest() // its keyset names what it runs
	}
	if changed {
		s.log.Info("worker offers", "worker", id.String(), "name", sheet.Name, "models", len(sheet.Offers), "draining", sheet.Draining)
	}
	return nil
}

// offer puts into the table what a worker offers and has attested to run. It is false if there is more in its sheet.
func (s *Server) offer(m *member) (all bool) {
	sheet := m.sheet.Load()
	if sheet == nil {
		return true
	}
	attested := m.result.Load().Claims.Keyset.Models
	offers := slices.DeleteFunc(slices.Clone(sheet.Offers), func(o offer.Offer) bool {
		return !slices.Contains(attested, attest.Model{Name: o.Model, WeightsDigest: o.WeightsDigest, Engine: o.Engine})
	})
	if all = len(offers) == len(sheet.Offers); !all {
		sheet = &offer.Sheet{V: sheet.V, Version: sheet.Version, Name: sheet.Name, Draining: sheet.Draining, Offers: offers, Load: sheet.Load}
	}
	id := router.ID(m.ID())
	s.table.Update(s.clock(), router.Worker[*member]{ID: id, Handle: m, Sheet: sheet, Trust: m.trust(), Machine: m.machine()})
	if m.barred.Load() != nil { // meanwhile
		s.table.Remove(s.clock(), id, m)
	}
	return all
}

// sameModels tells whether two sheets offer the same in what a keyset names.
func sameModels(a, b *offer.Sheet) bool {
	return a != nil && slices.EqualFunc(a.Offers, b.Offers, func(a, b offer.Offer) bool {
		return a.Model == b.Model && a.WeightsDigest == b.WeightsDigest && a.Engine == b.Engine
	})
}

// gone takes a worker's session out of the table.
func (s *Server) gone(w *tunnel.Worker, _ error) {
	id := router.ID(w.ID())
	if m := s.appraiser.member(w); m != nil {
		s.table.Remove(s.clock(), id, m)
		s.appraiser.forget(m)
	}
	s.supply.left(id)
}

// note remembers a sheet's models and tells whether they differ from the worker's last ones.
func (p *supply) note(id router.ID, sheet *offer.Sheet) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == nil {
		p.seen, p.sheets = map[string]sighting{}, map[router.ID]lastSheet{}
	}
	now := time.Now()
	last, known := p.sheets[id]
	changed = !known || last.name != sheet.Name || len(last.models) != len(sheet.Offers)
	names := make([]string, len(sheet.Offers))
	for i := range sheet.Offers {
		names[i] = sheet.Offers[i].Model
		changed = changed || names[i] != last.models[i]
		at, ok := p.seen[names[i]]
		if !ok {
			if p.crowded(now) {
				continue
			}
			at.first = now
		}
		at.last = now
		p.seen[names[i]] = at
	}
	p.sheets[id] = lastSheet{sheet.Name, names}
	return changed
}

// crowded makes room by forgetting what is long gone; true if there is none left. The caller holds mu.
func (p *supply) crowded(now time.Time) bool {
	if len(p.seen) < recentMax {
		return false
	}
	for name, at := range p.seen {
		if now.Sub(at.last) > recentFor {
			delete(p.seen, name)
		}
	}
	return len(p.seen) >= recentMax
}

// left stamps the models of a worker that went away.
func (p *supply) left(id router.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, name := range p.sheets[id].models {
		if at, ok := p.seen[name]; ok {
			at.last = now
			p.seen[name] = at
		}
	}
	delete(p.sheets, id)
}

// last is what a worker's last sheet said of it.
func (p *supply) last(id router.ID) lastSheet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sheets[id]
}

// since is when this gateway first saw the model; recent tells whether that was offered within the last hour.
func (p *supply) since(model string) (first time.Time, recent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.seen[model]
	return at.first, ok && time.Since(at.last) < recentFor
}
