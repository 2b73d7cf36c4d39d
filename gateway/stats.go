package gateway

import (
	"encoding/json"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/gateway/market"
	"cocoon/internal/nanoton"
	"cocoon/router"
)

const (
	// answerFor is how long an answer about the market is given again, so that many who ask cost little.
	answerFor = time.Second
	// answersMax bounds the answers that are kept that long: one for each model that is asked for, and some.
	answersMax = 256
	// spreadError is how far percentiles may be off, as package market has it.
	spreadError = 0.091
)

// openMarket is what the gateway tells of its market.
type openMarket struct {
	stats   *market.Stats
	kept    *market.Generations
	metrics *routerMetrics
	answers answers
	names   struct { // of the models on offer
		mu   sync.Mutex
		from time.Duration
		list []string
	}
}

func newOpenMarket(reg prometheus.Registerer, s *Server) *openMarket {
	return &openMarket{stats: market.NewStats(), kept: market.NewGenerations(), metrics: newRouterMetrics(reg, s)}
}

// answers are those of the last answerFor, by what was asked.
type answers struct {
	mu   sync.Mutex
	from time.Duration
	kept map[string][]byte
}

// get gives an answer again, or makes it: then all others wait for it, who would make the same. Nil says that there is none:
// build made nil.
func (a *answers) get(now time.Duration, asked string, build func() any) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept == nil || now-a.from >= answerFor {
		a.from, a.kept = now, map[string][]byte{}
	}
	if text := a.kept[asked]; text != nil {
		return text, nil
	}
	v := build()
	if v == nil {
		return nil, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	text = append(text, '\n')
	if len(a.kept) < answersMax {
		a.kept[asked] = text
	}
	return text, nil
}

// question is what is asked about the market: about one model, or with no name all.
type question struct{ about, model string }

// tell answers with what was made within the last second, or is made now; build makes nil if the model is not there.
func (s *Server) tell(w http.ResponseWriter, q question, build func() any) {
	text, err := s.market.answers.get(s.clock(), q.about+" "+q.model, build)
	if err == nil && text == nil {
		s.refuse(w, s.noModel(q.model))
		return
	}
	s.writeText(w, text, err)
}

// statsList is the answer of GET /cocoon/v1/stats.
type statsList struct {
	Object string `json:"object"`
	// Since is when this gateway began to count: what was before is not known.
	Since time.Time `json:"since"`
	// PercentileError is how far percentiles may be off, as a part of them.
	PercentileError float64      `json:"percentile_error"`
	Data            []modelStats `json:"data"`
}

// modelStats is how one model was served lately.
type modelStats struct {
	Model    string  `json:"model"`
	Workers  int     `json:"workers"`   // that offer it now
	Slots    int64   `json:"slots"`     // requests that they run at once
	Capacity int64   `json:"capacity"`  // requests that they take, as far as this gateway has learned
	Inflight int64   `json:"in_flight"` // this gateway's, on these workers
	Windows  windows `json:"windows"`
	// ServedBy has who served or failed within 30 minutes, those that served most first; OthersShare what workers served that
	// are not told apart.
	ServedBy    []servedBy `json:"served_by"`
	OthersShare float64    `json:"others_share"`
}

// windows are named by their length; each reaches back up to one slot further: 30 s, 3 min, 1 h.
type windows struct {
	Short  windowStats `json:"5m"`
	Medium windowStats `json:"30m"`
	Long   windowStats `json:"24h"`
}

// windowStats is what happened in one window.
type windowStats struct {
	Requests    int64    `json:"requests"`     // without those that their clients left or got wrong
	SuccessRate *float64 `json:"success_rate"` // null without requests
	Served      int64    `json:"served"`
	Busy        int64    `json:"busy"`   // no worker had room
	Failed      int64    `json:"failed"` // workers failed, and none made up for it
	ClientGone  int64    `json:"client_gone"`
	Refused     int64    `json:"refused"` // for what the client asked, or could not pay

	TTFT     *percentiles   `json:"ttft_ms"`           // of streams
	Rate     *percentiles   `json:"tokens_per_second"` // of one stream, after its first token
	EndToEnd *percentiles   `json:"end_to_end_ms"`
	Tokens   statsTokens    `json:"tokens"`
	Cost     nanoton.Amount `json:"cost_nanoton"`
}

type statsTokens struct {
	In     int64 `json:"in"` // cached ones too
	Cached int64 `json:"cached"`
	Out    int64 `json:"out"`
}

// percentiles are nil where nothing was measured.
type percentiles struct {
	P50 float64 `json:"p50"`
	P75 float64 `json:"p75"`
	P90 float64 `json:"p90"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// servedBy is one worker's part within 30 minutes. How fast it was goes back up to 45.
type servedBy struct {
	Worker string       `json:"worker"`
	Share  float64      `json:"served_share"` // of the requests served, 0 to 1
	Served int64        `json:"served"`
	Failed int64        `json:"failed"` // attempts; another worker may have made up for them
	Uptime float64      `json:"uptime"`
	TTFT   *percentiles `json:"ttft_ms"`
	Rate   *percentiles `json:"tokens_per_second"`
}

// listStats answers GET /cocoon/v1/stats?model=NAME.
func (s *Server) listStats(w http.ResponseWriter, r *http.Request) {
	if !s.cfg.PublicStats {
		if _, err := s.authenticate(r, ""); err != nil {
			s.refuse(w, err)
			return
		}
	}
	name := r.URL.Query().Get("model")
	s.tell(w, question{"stats", name}, func() any { return s.statistics(name) })
}

// statistics are those of one model, nil if it is not known; or with no name of all that are offered or were asked for.
func (s *Server) statistics(name string) any {
	list := statsList{Object: "list", Since: s.began.UTC().Truncate(time.Second), PercentileError: spreadError, Data: []modelStats{}}
	now := s.clock()
	if name != "" {
		m, known := s.market.stats.Model(now, name)
		offered, ok := s.table.Model(name)
		if !known && !ok {
			return nil
		}
		m.Name = name
		list.Data = append(list.Data, viewStats(&m, &offered))
		return list
	}
	offers := s.table.Models()
	counted := s.market.stats.Models(now)
	for len(offers)+len(counted) > 0 { // both are by name
		var m market.Model
		var o router.Model
		first := len(counted) == 0 || len(offers) > 0 && offers[0].Name <= counted[0].Name
		if first {
			o, offers = offers[0], offers[1:]
			m.Name = o.Name
		}
		if len(counted) > 0 && (!first || counted[0].Name == o.Name) {
			m, counted = counted[0], counted[1:]
		}
		list.Data = append(list.Data, viewStats(&m, &o))
	}
	return list
}

func viewStats(m *market.Model, o *router.Model) modelStats {
	v := modelStats{
		Model: m.Name, Workers: len(o.Offers), Capacity: o.Capacity, Inflight: o.Inflight,
		Windows:  windows{viewWindow(&m.Short), viewWindow(&m.Medium), viewWindow(&m.Long)},
		ServedBy: make([]servedBy, 0, len(m.Workers)),
	}
	for _, offer := range o.Offers {
		v.Slots += int64(offer.Slots)
	}
	if m.Medium.Served > 0 {
		v.OthersShare = rounded(float64(m.Others) / float64(m.Medium.Served))
	}
	for i := range m.Workers {
		k := &m.Workers[i]
		up, _ := k.Uptime()
		v.ServedBy = append(v.ServedBy, servedBy{
			Worker: k.ID.String(), Share: rounded(k.Share), Served: k.Served, Failed: k.Failed, Uptime: rounded(up),
			TTFT: viewSpread(k.TTFT, 1000), Rate: viewSpread(k.Rate, 1),
		})
	}
	return v
}

func viewWindow(k *market.Window) windowStats {
	v := windowStats{
		Requests: k.Requests(), Served: k.Served, Busy: k.Busy, Failed: k.Fault, ClientGone: k.Gone, Refused: k.Refused,
		TTFT: viewSpread(k.TTFT, 1000), Rate: viewSpread(k.Rate, 1), EndToEnd: viewSpread(k.Total, 1000),
		Tokens: statsTokens{k.In, k.Cached, k.Out}, Cost: k.Cost,
	}
	if v.Requests > 0 {
		v.SuccessRate = new(rounded(k.Success()))
	}
	return v
}

// viewSpread shows percentiles, so many times their unit; nil if there are none.
func viewSpread(p market.Spread, times float64) *percentiles {
	if p.N == 0 {
		return nil
	}
	digits := func(v float64) float64 { return significant(v * times) }
	return &percentiles{digits(p.P50), digits(p.P75), digits(p.P90), digits(p.P95), digits(p.P99)}
}

// rounded is a share with four digits. What is not all is not shown as all, and what is not nothing not as nothing: among a
// million requests one failure is worth knowing.
func rounded(share float64) float64 {
	r := math.Round(share*1e4) / 1e4
	switch {
	case r == 1 && share < 1:
		return 0.9999
	case r == 0 && share > 0:
		return 0.0001
	}
	return r
}

// significant is a number with three digits that count; more are made up. What is none is 0.
func significant(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
	if unit >= 1 {
		return math.Round(v/unit) * unit
	}
	return math.Round(v/unit) / math.Round(1/unit)
}
