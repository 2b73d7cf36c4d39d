package gateway

import (
	"cmp"
	"net/http"
	"strings"

	"cocoon/gateway/market"
	"cocoon/gateway/rates"
	"cocoon/router"
	"cocoon/router/offer"
)

// endpointsSuffix is what asks for a model's endpoints, after its ID.
const endpointsSuffix = "/endpoints"

// endpointList is the answer of GET /v1/models/{id}/endpoints, in OpenRouter's shape.
type endpointList struct {
	ID        string         `json:"id"`
	Name      string         `json:"name"`
	Created   int64          `json:"created"` // Unix seconds at which this gateway first saw it offered
	Endpoints []endpointView `json:"endpoints"`
}

// endpointView is one worker that offers the model.
type endpointView struct {
	Name         string `json:"name"`
	ModelName    string `json:"model_name"`
	Provider     string `json:"provider_name"` // as the worker calls itself
	Tag          string `json:"tag"`           // the worker's ID, which names it in "provider"
	Context      int    `json:"context_length"`
	Quantization string `json:"quantization"` // as the worker says
	// Pricing is dollars a token, as texts; null where this gateway shows no dollars. Price is what counts.
	Pricing *tokenPricing `json:"pricing"`
	Price   offer.Price   `json:"price_nanoton_per_mtok"`
	// SupportedParameters are those beyond what every engine takes.
	SupportedParameters []string `json:"supported_parameters"`
	MaxCompletion       *int64   `json:"max_completion_tokens"` // always null: what the context leaves
	MaxPrompt           *int64   `json:"max_prompt_tokens"`     // the same
	Status              int      `json:"status"`                // always 0: who is not there is not listed
	// Uptime is percent of the attempts that did not fail within 30 minutes, null without any; what follows is ms to the first
	// token and tokens a second of one stream, within up to 45 minutes.
	Uptime          *float64     `json:"uptime_last_30m"`
	Latency         *percentiles `json:"latency_last_30m"`
	Throughput      *percentiles `json:"throughput_last_30m"`
	ImplicitCaching bool         `json:"supports_implicit_caching"` // what it has cached costs less
}

// tokenPricing is dollars a token.
type tokenPricing struct {
	Prompt     string `json:"prompt"`
	Completion string `json:"completion"`
	CacheRead  string `json:"input_cache_read"`
	Request    string `json:"request"` // nothing
}

// showEndpoints answers GET /v1/models/{id}/endpoints.
func (s *Server) showEndpoints(w http.ResponseWriter, name string) {
	s.tell(w, question{"endpoints", name}, func() any {
		m, ok := s.table.Model(name)
		if !ok {
			return nil
		}
		return struct {
			Data endpointList `json:"data"`
		}{s.endpoints(&m)}
	})
}

func (s *Server) endpoints(m *router.Model) endpointList {
	rate, _ := s.money.rate()
	first, _ := s.supply.since(m.Name)
	counted, _ := s.market.stats.Model(s.clock(), m.Name)
	by := make(map[router.ID]*market.Worker, len(counted.Workers))
	for i := range counted.Workers {
		by[counted.Workers[i].ID] = &counted.Workers[i]
	}
	list := endpointList{ID: m.Name, Name: m.Name, Created: max(first.Unix(), 0), Endpoints: make([]endpointView, 0, len(m.Offers))}
	for i, o := range m.Offers {
		id, price := m.Workers[i], o.Price.WithFee(s.money.fee)
		provider := s.supply.last(id).name
		v := endpointView{
			Name: provider + " | " + m.Name, ModelName: m.Name, Provider: provider, Tag: id.String(), Context: o.ContextTokens,
			Quantization: cmp.Or(o.Quantization, "unknown"), Pricing: pricingOf(rate, price), Price: price,
			SupportedParameters: parametersOf(o.Features), ImplicitCaching: o.Price.Cached < o.Price.In,
		}
		if k := by[id]; k != nil {
			if up, known := k.Uptime(); known {
				v.Uptime = new(rounded(up) * 100)
			}
			v.Latency, v.Throughput = viewSpread(k.TTFT, 1000), viewSpread(k.Rate, 1)
		}
		list.Endpoints = append(list.Endpoints, v)
	}
	return list
}

// parametersOf is what a request may ask for, of what an offer says it can do.
func parametersOf(features []string) []string {
	list := []string{}
	for _, f := range features {
		switch f {
		case offer.FeatureTools:
			list = append(list, "tools", "tool_choice")
		case offer.FeatureJSONSchema:
			list = append(list, "response_format", "structured_outputs")
		case offer.FeatureThinking:
			list = append(list, "reasoning", "include_reasoning")
		case offer.FeatureLogprobs:
			list = append(list, "logprobs", "top_logprobs")
		}
	}
	return list
}

// pricingOf is a price in dollars a token; nil without a rate.
func pricingOf(r *rates.Rate, p offer.Price) *tokenPricing {
	usd := inUSD(r, p)
	if usd == nil {
		return nil
	}
	return &tokenPricing{Prompt: perToken(usd.In), Completion: perToken(usd.Out), CacheRead: perToken(usd.Cached), Request: "0"}
}

// perToken is a decimal for a million tokens as one for each: the point moves by six digits.
func perToken(perMillion string) string {
	whole, frac, _ := strings.Cut(perMillion, ".")
	digits := strings.Repeat("0", 6) + whole
	at := len(digits) - 6
	text := strings.TrimLeft(digits[:at], "0")
	return cmp.Or(text, "0") + strings.TrimRight("."+digits[at:]+frac, ".0")
}
