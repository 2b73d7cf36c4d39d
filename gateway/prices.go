package gateway

import (
	"cmp"
	"net/http"
	"slices"

	"cocoon/gateway/market"
	"cocoon/gateway/rates"
	"cocoon/internal/nanoton"
	"cocoon/router"
	"cocoon/router/offer"
)

// prices is the answer of GET /cocoon/v1/prices. All prices are nanoTON per million tokens.
type prices struct {
	Object string        `json:"object"`
	FeePPM int64         `json:"fee_ppm"`       // the gateway's share, in every price but "ask"
	USD    *usdView      `json:"usd,omitempty"` // what prices in dollars are shown by
	Data   []modelPrices `json:"data"`
}

type modelPrices struct {
	Model    string      `json:"model"`
	Cheapest offer.Price `json:"cheapest_nanoton_per_mtok"` // by output
	Median   offer.Price `json:"median_nanoton_per_mtok"`   // of each part by itself
	Offers   []quote     `json:"offers"`                    // cheapest output first
	Stats    *windows    `json:"stats,omitempty"`           // for those who may see it

	CheapestUSD *usdPrice `json:"cheapest_usd_per_mtok,omitempty"`
	MedianUSD   *usdPrice `json:"median_usd_per_mtok,omitempty"`
}

// quote is one worker's offer.
type quote struct {
	Worker        string      `json:"worker"`                 // its ID
	Price         offer.Price `json:"price_nanoton_per_mtok"` // what the customer pays
	Ask           offer.Price `json:"ask_nanoton_per_mtok"`   // what the worker gets of it
	USD           *usdPrice   `json:"price_usd_per_mtok,omitempty"`
	ContextLength int         `json:"context_length"`         // tokens
	Quantization  string      `json:"quantization,omitempty"` // as the worker says; none: not known
	Slots         int         `json:"slots"`                  // requests that its engine runs at once
	// ServedShare is its part of the requests of the model that this gateway served within 30 minutes, 0 to 1.
	ServedShare float64 `json:"served_share"`
}

// listPrices answers GET /cocoon/v1/prices?model=NAME. No key is asked for: a market shows its prices. Who may see
// statistics sees those of each model, too.
func (s *Server) listPrices(w http.ResponseWriter, r *http.Request) {
	name, stats := r.URL.Query().Get("model"), s.cfg.PublicStats
	if !stats && r.Header.Get("Authorization") != "" {
		_, err := s.authenticate(r, "")
		stats = err == nil
	}
	about := "prices"
	if stats {
		about = "prices and stats"
	}
	s.tell(w, question{about, name}, func() any { return s.prices(name, stats) })
}

// prices are those of one model, nil if nobody offers it; or with no name of all.
func (s *Server) prices(name string, stats bool) any {
	rate, view := s.money.rate()
	list := prices{Object: "list", FeePPM: s.money.fee, USD: view, Data: []modelPrices{}}
	if name != "" {
		m, ok := s.table.Model(name)
		if !ok {
			return nil
		}
		list.Data = append(list.Data, s.priced(&m, rate, stats))
		return list
	}
	for _, m := range s.table.Models() {
		list.Data = append(list.Data, s.priced(&m, rate, stats))
	}
	return list
}

func (s *Server) priced(m *router.Model, rate *rates.Rate, stats bool) modelPrices {
	p := modelPrices{Model: m.Name, Offers: make([]quote, 0, len(m.Offers))}
	counted, known := s.market.stats.Model(s.clock(), m.Name)
	shares := sharesOf(&counted)
	if stats && known {
		p.Stats = &windows{viewWindow(&counted.Short), viewWindow(&counted.Medium), viewWindow(&counted.Long)}
	}
	var in, cached, out []nanoton.Amount
	for i, o := range m.Offers {
		price := o.Price.WithFee(s.money.fee)
		p.Offers = append(p.Offers, quote{
			Worker: m.Workers[i].String(), Price: price, Ask: o.Price, USD: inUSD(rate, price), ContextLength: o.ContextTokens,
			Quantization: o.Quantization, Slots: o.Slots, ServedShare: shares[m.Workers[i]],
		})
		in, cached, out = append(in, price.In), append(cached, price.Cached), append(out, price.Out)
	}
	slices.SortStableFunc(p.Offers, func(a, b quote) int { return cmp.Compare(a.Price.Out, b.Price.Out) })
	p.Cheapest = p.Offers[0].Price
	p.Median = offer.Price{In: median(in), Cached: median(cached), Out: median(out)}
	p.CheapestUSD, p.MedianUSD = inUSD(rate, p.Cheapest), inUSD(rate, p.Median)
	return p
}

// sharesOf is what each worker served of a model.
func sharesOf(m *market.Model) map[router.ID]float64 {
	shares := make(map[router.ID]float64, len(m.Workers))
	for i := range m.Workers {
		shares[m.Workers[i].ID] = rounded(m.Workers[i].Share)
	}
	return shares
}

// median is the middle one, of an even number the lower of the two. The list is sorted then.
func median(list []nanoton.Amount) nanoton.Amount {
	slices.Sort(list)
	return list[(len(list)-1)/2]
}
