package gateway

import (
	"cmp"
	"net/http"
	"slices"

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

	CheapestUSD *usdPrice `json:"cheapest_usd_per_mtok,omitempty"`
	MedianUSD   *usdPrice `json:"median_usd_per_mtok,omitempty"`
}

// quote is one worker's offer.
type quote struct {
	Price         offer.Price `json:"price_nanoton_per_mtok"` // what the customer pays
	Ask           offer.Price `json:"ask_nanoton_per_mtok"`   // what the worker gets of it
	USD           *usdPrice   `json:"price_usd_per_mtok,omitempty"`
	ContextLength int         `json:"context_length"` // tokens
	Slots         int         `json:"slots"`          // requests that its engine runs at once
}

// listPrices answers GET /cocoon/v1/prices?model=NAME. No key is asked for: a market shows its prices.
func (s *Server) listPrices(w http.ResponseWriter, r *http.Request) {
	rate, view := s.money.rate()
	list := prices{Object: "list", FeePPM: s.money.fee, USD: view, Data: []modelPrices{}}
	name := r.URL.Query().Get("model")
	for _, m := range s.table.Models() {
		if name == "" || m.Name == name {
			list.Data = append(list.Data, s.priced(m, rate))
		}
	}
	if name != "" && len(list.Data) == 0 {
		s.refuse(w, s.noModel(name))
		return
	}
	s.writeJSON(w, list)
}

func (s *Server) priced(m router.Model, rate *rates.Rate) modelPrices {
	p := modelPrices{Model: m.Name, Offers: make([]quote, 0, len(m.Offers))}
	var in, cached, out []int64
	for _, o := range m.Offers {
		price := o.Price.WithFee(s.money.fee)
		p.Offers = append(p.Offers, quote{price, o.Price, inUSD(rate, price), o.ContextTokens, o.Slots})
		in, cached, out = append(in, int64(price.In)), append(cached, int64(price.Cached)), append(out, int64(price.Out))
	}
	slices.SortStableFunc(p.Offers, func(a, b quote) int { return cmp.Compare(a.Price.Out, b.Price.Out) })
	p.Cheapest = p.Offers[0].Price
	p.Median = offer.Price{In: median(in), Cached: median(cached), Out: median(out)}
	p.CheapestUSD, p.MedianUSD = inUSD(rate, p.Cheapest), inUSD(rate, p.Median)
	return p
}

// median is the middle one, of an even number the lower of the two.
func median(list []int64) nanoton.Amount {
	slices.Sort(list)
	return nanoton.Amount(list[(len(list)-1)/2])
}
