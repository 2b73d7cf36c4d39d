package gateway

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/router"
)

// sortsCount is how many sorts there are, for tables by router.Sort.
const sortsCount = int(router.Latency) + 1

// sortWord names a sort, as in labels and in what is told of a request.
func sortWord(s router.Sort) string {
	switch s {
	case router.Price:
		return "price"
	case router.Throughput:
		return "throughput"
	case router.Latency:
		return "latency"
	}
	return "balanced"
}

// routerMetrics counts what the router decides. Labels come from closed sets, and from the names of models that are offered,
// modelLabelsMax of them.
type routerMetrics struct {
	picks    *prometheus.CounterVec // model, class
	removed  [router.Reasons]prometheus.Counter
	explored prometheus.Counter
	behind   prometheus.Counter
	ratio    prometheus.Observer
	promised prometheus.Counter
	found    prometheus.Counter
	sheds    [sortsCount]prometheus.Counter

	mu     sync.Mutex // held by whoever replaces models
	models atomic.Pointer[map[string]*[sortsCount]prometheus.Counter]
	other  [sortsCount]prometheus.Counter
}

func newRouterMetrics(reg prometheus.Registerer, s *Server) *routerMetrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cocoon_gateway", Subsystem: "router", Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	m := &routerMetrics{
		picks:    counter("picks_total", "Workers picked for an attempt, by model and what the caller wants most.", "model", "class"),
		explored: counter("explored_total", "Picks of a worker to learn about it.").WithLabelValues(),
		behind:   counter("picks_behind_total", "Picks of a worker that was not the best, to spread requests among equals.").WithLabelValues(),
		promised: counter("cached_tokens_promised_total", "Tokens of prompts that the picked worker was taken to have cached.").WithLabelValues(),
		found:    counter("cached_tokens_found_total", "Tokens of the same prompts that it had cached.").WithLabelValues(),
	}
	removed := counter("removed_total", "Workers that were not considered for an attempt, by reason.", "reason")
	for r := range m.removed {
		m.removed[r] = removed.WithLabelValues(router.Reason(r).String())
	}
	sheds := counter("shed_total", "Requests that no worker had room for, by what the caller wants most.", "class")
	for class := range sortsCount {
		m.sheds[class] = sheds.WithLabelValues(sortWord(router.Sort(class)))
	}
	ratio := prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: "cocoon_gateway", Subsystem: "router", Name: "ttft_ratio",
		Help:    "Time to the first token of streams, divided by what the router expected.",
		Buckets: []float64{.1, .25, .5, .67, .8, .9, 1, 1.1, 1.25, 1.5, 2, 4, 10, 100},
	})
	m.ratio = ratio
	m.other = m.row("other")
	m.models.Store(&map[string]*[sortsCount]prometheus.Counter{})
	reg.MustRegister(ratio, routerState{s})
	return m
}

// row makes the counters of a label.
func (m *routerMetrics) row(label string) (row [sortsCount]prometheus.Counter) {
	for class := range row {
		row[class] = m.picks.WithLabelValues(label, sortWord(router.Sort(class)))
	}
	return row
}

// picked counts a pick of a worker that offers the model. The call path calls it for each attempt.
func (m *routerMetrics) picked(model string, why *router.Why) {
	m.model(model)[min(int(why.Sort), sortsCount-1)].Inc()
	for r, n := range why.Removed {
		if n > 0 {
			m.removed[r].Add(float64(n))
		}
	}
	switch {
	case why.Explored:
		m.explored.Inc()
	case why.Picked != 0:
		m.behind.Inc()
	}
}

// model finds a model's counters, or makes them.
func (m *routerMetrics) model(name string) *[sortsCount]prometheus.Counter {
	if row := (*m.models.Load())[name]; row != nil {
		return row
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.models.Load()
	if row := old[name]; row != nil {
		return row
	}
	if len(old) >= modelLabelsMax {
		return &m.other
	}
	next := maps.Clone(old)
	row := m.row(name)
	next[name] = &row
	m.models.Store(&next)
	return &row
}

// firstToken compares when a stream's first token came, counted from when the worker was leased, with what was expected.
func (m *routerMetrics) firstToken(expected, actual time.Duration) {
	if expected > 0 && actual > 0 {
		m.ratio.Observe(actual.Seconds() / expected.Seconds())
	}
}

// cached compares the tokens of a prompt that a worker was taken to have cached with those that it had, of a request that was
// served and whose usage is known.
func (m *routerMetrics) cached(promised float64, found int64) {
	m.promised.Add(max(promised, 0))
	m.found.Add(float64(max(found, 0)))
}

// shed counts a request that was sent away because no worker had room.
func (m *routerMetrics) shed(class router.Sort) { m.sheds[min(int(class), sortsCount-1)].Inc() }

// routerState collects how the market stands now.
type routerState struct{ s *Server }

// Describe implements prometheus.Collector.
func (r routerState) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(r, ch) }

// Collect implements prometheus.Collector.
func (r routerState) Collect(ch chan<- prometheus.Metric) {
	send := func(name, help string, v float64) {
		d := prometheus.NewDesc("cocoon_gateway_router_"+name, help, nil, nil)
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	breakers := prometheus.NewDesc("cocoon_gateway_router_breakers", "Endpoints by what their breakers do.", []string{"state"}, nil)
	closed, open, half := r.s.table.Breakers(r.s.clock())
	for state, n := range map[string]int{"closed": closed, "open": open, "half_open": half} {
		ch <- prometheus.MustNewConstMetric(breakers, prometheus.GaugeValue, float64(n), state)
	}
	endpoints, slots, capacity := 0, 0, int64(0)
	for _, m := range r.s.table.Models() {
		endpoints += len(m.Offers)
		capacity += m.Capacity
		for _, o := range m.Offers {
			slots += o.Slots
		}
	}
	send("endpoints", "Offers of models by workers.", float64(endpoints))
	send("slots", "Requests that the workers' engines run at once, added up over models.", float64(slots))
	send("capacity", "Requests that workers take as far as was learned, added up over models.", float64(capacity))
}
