package gateway

import (
	"cocoon/gateway/rates"
	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// usdView is the rate that amounts beside it were shown by. Looked up again by its ID it gives the same digits.
type usdView struct {
	RateID string `json:"rate_id"`
	Coin   string `json:"coin"`
	Rate   string `json:"usd_per_ton"`
	At     string `json:"at"`
	Stale  bool   `json:"stale,omitempty"` // no quorum of sources confirms it now
}

// usdBalance is what an account has, in dollars.
type usdBalance struct {
	usdView
	Balance   string `json:"balance"`
	Available string `json:"available"`
}

// usdPrice is a price in dollars per million tokens.
type usdPrice struct {
	In     string `json:"in"`
	Cached string `json:"cached"`
	Out    string `json:"out"`
}

// rate gives the rate to show; nil if there is none.
func (m *money) rate() (*rates.Rate, *usdView) {
	if m.rates == nil {
		return nil, nil
	}
	r, ok := m.rates.Now()
	if !ok {
		return nil, nil
	}
	return &r, &usdView{
		RateID: r.ID, Coin: m.rates.Coin(), Rate: r.USD(nanoton.PerTON), At: r.At.UTC().Format("2006-01-02T15:04:05Z"), Stale: r.Stale,
	}
}

func inUSD(r *rates.Rate, p offer.Price) *usdPrice {
	if r == nil {
		return nil
	}
	return &usdPrice{In: r.PerMTok(p.In), Cached: r.PerMTok(p.Cached), Out: r.PerMTok(p.Out)}
}
