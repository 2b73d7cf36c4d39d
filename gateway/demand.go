package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/gateway/market"
	"cocoon/internal/nanoton"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/offer"
)

const (
	// demandAtOnce is how many are told at a time: those that are slow hold up no others, unless there are as many of them.
	demandAtOnce = 64
	// demandSeconds is the time that requests, tokens and shares are of.
	demandSeconds = 30 * 60
)

// tellDemand tells each worker about demand for what it offers, until ctx ends.
func (s *Server) tellDemand(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.MarketEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.tellAll(ctx)
		}
	}
}

// tellAll tells all that are connected.
func (s *Server) tellAll(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(demandAtOnce)
	known := demands{s: s, now: s.clock(), models: map[string]*modelDemand{}}
	for _, m := range s.appraiser.all() {
		if m.deaf.Load() || ctx.Err() != nil {
			continue
		}
		told := known.of(router.ID(m.ID()))
		if len(told.Models) == 0 {
			continue
		}
		text, err := told.Marshal(tunnel.MarketMax)
		if err != nil {
			s.log.Error("what a worker is told of demand is not right", "worker", m.ID().String(), "err", err)
			continue
		}
		group.Go(func() error {
			switch err := m.Market(ctx, text); {
			case errors.Is(err, tunnel.ErrNoMarket):
				m.deaf.Store(true)
				s.log.Debug("a worker takes no market", "worker", m.ID().String(), "err", err)
			case err != nil && ctx.Err() == nil:
				s.log.Debug("telling a worker of demand failed", "worker", m.ID().String(), "err", err)
			}
			return nil
		})
	}
	_ = group.Wait() // nothing fails
}

// demands makes what workers are told at one moment: what is the same for all that offer a model is made once.
type demands struct {
	s      *Server
	now    time.Duration
	models map[string]*modelDemand
}

// modelDemand is the demand for a model, whoever is told of it.
type modelDemand struct {
	common offer.ModelMarket
	asks   map[router.ID]offer.Price
	outs   []nanoton.Amount // of all, rising
	shares map[router.ID]float64
}

// of makes what one worker is told.
func (d *demands) of(id router.ID) *offer.Market {
	told := &offer.Market{V: offer.MarketVersion, Seconds: demandSeconds, FeePPM: d.s.cfg.FeePPM}
	for _, own := range d.s.table.Demand(id) {
		m := d.model(own.Model)
		ask, ok := m.asks[id]
		if !ok { // it takes no requests now
			continue
		}
		v := m.common
		v.Ask, v.SharePPM = ask, int64(m.shares[id]*1e6)
		rank, _ := slices.BinarySearch(m.outs, ask.Out)
		v.Rank = rank + 1
		v.Considered = min(max(own.Considered, 0), offer.SampleMax)
		v.Won = min(max(own.Won, 0), v.Considered) // they are counted while we look
		for _, p := range own.At {
			v.At = append(v.At, offer.PricePoint{PPM: p.PPM, Won: min(max(p.Won, 0), v.Considered)})
		}
		v.YourTTFT, v.MedianTTFT = millis(own.TTFT), millis(own.TypicalTTFT)
		v.YourSpeed, v.MedianSpeed = perSecond(own.Speed), perSecond(own.TypicalSpeed)
		told.Models = append(told.Models, v)
	}
	return told
}

// model is what is the same for all that offer it.
func (d *demands) model(name string) *modelDemand {
	if m := d.models[name]; m != nil {
		return m
	}
	m := &modelDemand{common: offer.ModelMarket{Model: name}, asks: map[router.ID]offer.Price{}, shares: map[router.ID]float64{}}
	d.models[name] = m
	offered, ok := d.s.table.Model(name)
	if !ok {
		return m
	}
	var in, cached []nanoton.Amount
	for i, o := range offered.Offers {
		m.asks[offered.Workers[i]] = o.Price
		in, cached, m.outs = append(in, o.Price.In), append(cached, o.Price.Cached), append(m.outs, o.Price.Out)
	}
	m.common.Workers = min(len(in), offer.MarketWorkersMax)
	m.common.Median = offer.Price{In: median(in), Cached: median(cached), Out: median(m.outs)}
	m.common.Lowest = offer.Price{In: in[0], Cached: cached[0], Out: m.outs[0]}
	if counted, ok := d.s.market.stats.Model(d.now, name); ok {
		m.count(&counted)
	}
	return m
}

// count takes in what the model's requests came to.
func (m *modelDemand) count(counted *market.Model) {
	w := &counted.Medium
	m.common.Requests = min(w.Requests(), offer.MarketCountMax)
	m.common.TokensIn, m.common.TokensOut = min(w.In, offer.TokensMax), min(w.Out, offer.TokensMax)
	for i := range counted.Workers {
		m.shares[counted.Workers[i].ID] = min(counted.Workers[i].Share, 1)
	}
}

func millis(d time.Duration) int64 { return min(max(d.Milliseconds(), 0), offer.WaitMax) }

func perSecond(tokens float64) int64 { return int64(min(max(tokens, 0), offer.SpeedMax)) }
