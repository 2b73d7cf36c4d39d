package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/internal/openai"
)

// Outcomes of requests, a closed set.
const (
	outcomeOK      = "ok"
	outcomeRefused = "refused"      // the client's fault
	outcomeFull    = "full"         // no slot and no place to wait
	outcomeGone    = "client_gone"  // the client or its gateway went away
	outcomeEngine  = "engine_error" // the engine's fault, before the first event
	outcomeBroken  = "broken"       // the same, after it
)

// rateTokensMin is the shortest answer whose speed is counted: of fewer tokens it says nothing.
const rateTokensMin = 8

// metrics are the worker's own.
type metrics struct {
	requests *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	seconds  prometheus.Histogram
	first    prometheus.Histogram
	rate     prometheus.Histogram
	engineUp prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, g *gate) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cocoon_worker_requests_total", Help: "Requests by outcome.",
		}, []string{"outcome"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cocoon_worker_tokens_total", Help: "Tokens as the engine counted them: in (cached ones too), cached, out.",
		}, []string{"kind"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cocoon_worker_request_seconds", Help: "Time from the request to the end of its answer, of requests that ended well.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 16),
		}),
		first: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cocoon_worker_first_event_seconds", Help: "Time from the request to the first event of its stream.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		rate: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cocoon_worker_stream_tokens_per_second", Help: "Speed of a stream after its first event.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 14),
		}),
		engineUp: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cocoon_worker_engine_up", Help: "1 if the engine answers and is offered.",
		}),
	}
	for _, o := range []string{outcomeOK, outcomeRefused, outcomeFull, outcomeGone, outcomeEngine, outcomeBroken} {
		m.requests.WithLabelValues(o)
	}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.tokens, m.seconds, m.first, m.rate, m.engineUp,
		gauge("cocoon_worker_running", "Requests at the engine.", func() int { n, _ := g.load(); return n }),
		gauge("cocoon_worker_queued", "Requests that wait for a slot.", func() int { _, n := g.load(); return n }),
		gauge("cocoon_worker_capacity", "Requests that may run or wait.", g.capacity),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// done counts a finished request. The times are zero for what did not happen.
func (m *metrics) done(outcome string, u openai.Usage, start, first, end time.Time) {
	m.requests.WithLabelValues(outcome).Inc()
	m.tokens.WithLabelValues("in").Add(float64(u.Prompt))
	m.tokens.WithLabelValues("cached").Add(float64(u.Cached))
	m.tokens.WithLabelValues("out").Add(float64(u.Completion))
	if !first.IsZero() {
		m.first.Observe(first.Sub(start).Seconds())
	}
	if outcome != outcomeOK {
		return
	}
	m.seconds.Observe(end.Sub(start).Seconds())
	if d := end.Sub(first).Seconds(); !first.IsZero() && u.Completion >= rateTokensMin && d > 0 {
		m.rate.Observe(float64(u.Completion-1) / d)
	}
}
