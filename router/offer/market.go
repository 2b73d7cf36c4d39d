package offer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"cocoon/internal/nanoton"
)

// Limits of a market. A gateway is a peer: what it sends is hostile until Validate has passed.
const (
	// MarketVersion is the version of Market that this code speaks.
	MarketVersion = 1
	// MarketSecondsMax bounds the time that a market is about: a year.
	MarketSecondsMax = 366 * 24 * 3600
	// MarketWorkersMax bounds the workers of a model: as many as a gateway has room for, and some.
	MarketWorkersMax = 1_000_000
	// MarketCountMax bounds a count of requests: a thousand each second of a year fit.
	MarketCountMax = 1 << 36
	// SampleMax bounds the counts of a sample, so that its product with PricePPMMax fits an int64 many times.
	SampleMax = 1 << 32
	// PointsMax bounds the prices of a model that a market says what would have happened at.
	PointsMax = 32
	// PricePPMMax bounds such a price, parts per million of the present one: a hundredfold.
	PricePPMMax = 100_000_000
	// SpeedMax bounds speeds, tokens a second, and WaitMax waits, milliseconds: a day.
	SpeedMax = 1_000_000
	WaitMax  = 24 * 3600 * 1000
)

// unit is one, in parts per million.
const unit = 1_000_000

// Market is what a gateway tells a worker about demand for the models that it offers, over the last Seconds.
type Market struct {
	V       int   `json:"v"`
	Seconds int64 `json:"seconds"`
	// FeePPM is what customers pay the gateway on top of the worker's price, parts per million of it.
	FeePPM int64         `json:"fee_ppm"`
	Models []ModelMarket `json:"models"`
}

// ModelMarket is the demand for one model at one gateway.
type ModelMarket struct {
	// Model is the name that clients ask for.
	Model string `json:"model"`
	// Workers is how many offer it, this one included.
	Workers int `json:"workers"`
	// Requests is how many were routed for the model, whoever served them. TokensIn and TokensOut are what they took.
	Requests  int64 `json:"requests"`
	TokensIn  int64 `json:"tokens_in"`
	TokensOut int64 `json:"tokens_out"`
	// SharePPM is the part of Requests that this worker served, parts per million.
	SharePPM int64 `json:"share_ppm"`
	// Ask is this worker's price as the gateway knows it; what follows is about that one. Lowest and Median are of all
	// workers' asks, each part by itself. None has the gateway's fee in it.
	Ask    Price `json:"ask"`
	Lowest Price `json:"lowest"`
	Median Price `json:"median"`
	// Rank is the place of Ask among the workers' by the price of output: 1 is the cheapest.
	Rank int `json:"rank"`
	// Considered is a sample of the requests for which this worker was a candidate; Won of them went to it.
	Considered int64 `json:"considered"`
	Won        int64 `json:"won"`
	// At is what of the sample it would have won at other prices, in ascending order of PPM.
	At []PricePoint `json:"at,omitempty"`
	// YourTTFT and MedianTTFT are times to the first token, ms, of this worker and of the median worker, YourSpeed and
	// MedianSpeed tokens a second of one stream. 0 is: not known.
	YourTTFT    int64 `json:"your_ttft_ms"`
	MedianTTFT  int64 `json:"median_ttft_ms"`
	YourSpeed   int64 `json:"your_speed"`
	MedianSpeed int64 `json:"median_speed"`
}

// PricePoint is what another price would have done.
type PricePoint struct {
	// PPM is the price, parts per million of Ask, all three parts alike.
	PPM int64 `json:"ppm"`
	// Won is how many of ModelMarket.Considered would have gone to the worker.
	Won int64 `json:"won"`
}

// ErrMarket marks a market that breaks a limit or contradicts itself.
var ErrMarket = errors.New("invalid market")

// Validate checks every limit; the error says which field is off and how. What it passes can be shown in a terminal.
func (m *Market) Validate() error {
	switch {
	case m.V != MarketVersion:
		return fmt.Errorf("%w: v is %d, want %d", ErrMarket, m.V, MarketVersion)
	case m.Seconds < 1 || m.Seconds > MarketSecondsMax:
		return fmt.Errorf("%w: of %d seconds", ErrMarket, m.Seconds)
	case m.FeePPM < 0 || m.FeePPM > FeeMax:
		return fmt.Errorf("%w: fee_ppm %d", ErrMarket, m.FeePPM)
	case len(m.Models) > OffersMax:
		return fmt.Errorf("%w: %d models, at most %d", ErrMarket, len(m.Models), OffersMax)
	}
	seen := make(map[string]bool, len(m.Models))
	for i := range m.Models {
		o := &m.Models[i]
		if !validName(o.Model) || seen[o.Model] {
			return fmt.Errorf("%w: model %q is no name, or there twice", ErrMarket, clip(o.Model))
		}
		seen[o.Model] = true
		if err := o.validate(); err != nil {
			return fmt.Errorf("%w: model %q: %w", ErrMarket, clip(o.Model), err)
		}
	}
	return nil
}

func (m *ModelMarket) validate() error {
	for _, f := range []struct {
		name     string
		is, most int64
	}{
		{"workers", int64(m.Workers), MarketWorkersMax},
		{"requests", m.Requests, MarketCountMax},
		{"tokens_in", m.TokensIn, TokensMax},
		{"tokens_out", m.TokensOut, TokensMax},
		{"share_ppm", m.SharePPM, unit},
		{"rank", int64(m.Rank), int64(m.Workers)},
		{"considered", m.Considered, SampleMax},
		{"won", m.Won, m.Considered},
		{"your_ttft_ms", m.YourTTFT, WaitMax},
		{"median_ttft_ms", m.MedianTTFT, WaitMax},
		{"your_speed", m.YourSpeed, SpeedMax},
		{"median_speed", m.MedianSpeed, SpeedMax},
	} {
		if f.is < 0 || f.is > f.most {
			return fmt.Errorf("%s is %d, want 0 to %d", f.name, f.is, f.most)
		}
	}
	for _, p := range []Price{m.Ask, m.Lowest, m.Median} {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	if len(m.At) > PointsMax {
		return fmt.Errorf("%d price points, at most %d", len(m.At), PointsMax)
	}
	last := int64(0)
	for _, p := range m.At {
		if p.PPM <= last || p.PPM > PricePPMMax || p.Won < 0 || p.Won > m.Considered {
			return fmt.Errorf("price point of %d ppm and %d won", p.PPM, p.Won)
		}
		last = p.PPM
	}
	return nil
}

// Marshal encodes the market in at most limit bytes. What does not fit are the models with the fewest requests.
func (m *Market) Marshal(limit int) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	models := slices.Clone(m.Models)
	slices.SortStableFunc(models, func(a, b ModelMarket) int { return cmp.Compare(b.Requests, a.Requests) })
	frame := *m
	frame.Models = []ModelMarket{}
	text, err := json.Marshal(&frame)
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(text, ']')
	out := append(make([]byte, 0, limit), text[:end]...)
	tail := text[end:]
	for i := range models {
		one, err := json.Marshal(&models[i])
		if err != nil {
			return nil, err
		}
		if len(out)+1+len(one)+len(tail) > limit {
			break
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, one...)
	}
	return append(out, tail...), nil
}

// Best is the price point that would have earned most in the sample, the price times the requests; the present price,
// unit parts per million, is one of them. Of equals the present one is best, then the dearest: it is the least work. ok is
// false if the sample does not tell: nothing was won at any price, or nothing is asked.
func (m *ModelMarket) Best() (best PricePoint, ok bool) {
	best = PricePoint{PPM: unit, Won: m.Won}
	for _, p := range m.At {
		earns, most := p.PPM*p.Won, best.PPM*best.Won
		if earns > most || earns == most && best.PPM != unit && p.PPM > best.PPM {
			best = p
		}
	}
	return best, best.Won > 0 && m.Ask != Price{}
}

// At is the price times so many parts per million, each part rounded to the nearest nanoTON and at most PriceMax.
func (p Price) At(ppm int64) Price {
	ppm = min(max(ppm, 0), PricePPMMax)
	part := func(a nanoton.Amount) nanoton.Amount {
		high, low := bits.Mul64(uint64(min(max(a, 0), PriceMax)), uint64(ppm))
		low, carry := bits.Add64(low, unit/2, 0)
		n, _ := bits.Div64(high+carry, low, unit) // at most 1e12 * 1e8 / 1e6
		return min(nanoton.Amount(n), PriceMax)
	}
	return Price{part(p.In), part(p.Cached), part(p.Out)}
}
