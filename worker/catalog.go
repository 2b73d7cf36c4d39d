package worker

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"

	"cocoon/router/offer"
	"cocoon/worker/engine"
)

// catalog is what the worker can serve at one moment. It is never changed, only replaced.
type catalog struct {
	engine engine.Engine
	names  map[string]string // the engine's name for each offered one
	offers []offer.Offer
	status engine.Status
}

// build makes the catalog of an engine's status: what is configured and there, at our prices.
func (c *Config) build(e engine.Engine, s engine.Status, prices *Prices, log *slog.Logger) *catalog {
	cat := &catalog{engine: e, status: s, names: make(map[string]string)}
	wanted := c.Models
	if len(wanted) == 0 {
		for _, m := range s.Models {
			wanted = append(wanted, Model{Name: publicName(m.Name), EngineName: m.Name})
		}
	}
	slots, queue := c.limits(s)
	for _, want := range wanted {
		m, ok := find(s.Models, cmp.Or(want.EngineName, want.Name))
		if !ok {
			log.Debug("configured model is not at the engine", "model", want.Name)
			continue
		}
		price, _ := c.Asked(prices, want.Name)
		o := offer.Offer{
			Model: want.Name, WeightsDigest: m.WeightsDigest, Engine: s.Engine,
			ContextTokens: cmp.Or(want.ContextTokens, m.ContextTokens), Features: m.Features,
			Quantization: quantization(want, m), Price: price, Slots: slots, Capacity: slots + queue,
		}
		if len(want.Features) > 0 {
			o.Features = want.Features
		}
		// Gateways refuse a sheet for one bad offer, so each is held against the rules alone first.
		one := offer.Sheet{V: offer.Version, Name: c.Name, Offers: []offer.Offer{o}}
		if err := one.Validate(); err != nil {
			log.Debug("model can't be offered", "model", want.Name, "err", err)
			continue
		}
		if _, twice := cat.names[o.Model]; twice || len(cat.offers) == offer.OffersMax {
			continue
		}
		cat.names[o.Model] = m.Name
		cat.offers = append(cat.offers, o)
	}
	slices.SortFunc(cat.offers, func(a, b offer.Offer) int { return strings.Compare(a.Model, b.Model) })
	return cat
}

// quantization is what is offered of it: the operator's word before the engine's.
func quantization(want Model, m engine.Model) string {
	if want.Quantization == unknown {
		return ""
	}
	return cmp.Or(want.Quantization, m.Quantization)
}

// offer is the one of a model that is in names.
func (c *catalog) offer(model string) *offer.Offer {
	i, _ := slices.BinarySearchFunc(c.offers, model, func(o offer.Offer, name string) int { return strings.Compare(o.Model, name) })
	return &c.offers[i]
}

// limits are the gate's for an engine.
func (c *Config) limits(s engine.Status) (slots, queue int) {
	return min(max(cmp.Or(c.Engine.Slots, s.Slots), 1), slotsMax), c.Engine.Queue
}

// publicName is what clients ask for: Ollama's ":latest" is left out, as in its own commands.
func publicName(name string) string { return strings.TrimSuffix(name, latest) }

const latest = ":latest"

// find looks a model up by the engine's name, which for Ollama may lack ":latest".
func find(models []engine.Model, name string) (engine.Model, bool) {
	for _, full := range []string{name, name + latest} {
		if i := slices.IndexFunc(models, func(m engine.Model) bool { return m.Name == full }); i >= 0 {
			return models[i], true
		}
	}
	return engine.Model{}, false
}
