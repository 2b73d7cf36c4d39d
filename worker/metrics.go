package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
)

// Outcomes of requests, a closed set.
const (
	outcomeOK      = "ok"
	outcomeRefused = "refused"      // the client's fault
	outcomeFull    = "full"         // no slot and no place to wait
	outcomeGone    = "client_gone"  // the client or its gateway went away
	outcomeEngine  = "engine_error" // the engine's fault, before the first event
	outcomeBroken  = "broken"       // the same, after it
	outcomeTerms   = "terms"        // the gateway's terms are not met: price, keyset, room for receipts
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

	// Of receipts.
	signed *prometheus.CounterVec
	unpaid prometheus.Counter
	earned prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, g *gate, open func() *till) (*metrics, error) {
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
	for _, o := range []string{outcomeOK, outcomeRefused, outcomeFull, outcomeGone, outcomeEngine, outcomeBroken, outcomeTerms} {
		m.requests.WithLabelValues(o)
	}
	if err := m.ofReceipts(reg, open); err != nil {
		return nil, err
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

// Names of metrics that the command reads from a running worker.
const (
	metricUnacknowledged = "cocoon_worker_receipts_unacknowledged"
	metricUnpaid         = "cocoon_worker_unpaid_nanoton"
	metricOldest         = "cocoon_worker_receipts_oldest_timestamp_seconds"
	metricEarned         = "cocoon_worker_earned_nanoton_total"
)

// ofReceipts adds those of receipts; open is nil while they are not open.
func (m *metrics) ofReceipts(reg prometheus.Registerer, open func() *till) error {
	m.signed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "cocoon_worker_receipts_signed_total", Help: "Receipts signed: interim, final.",
	}, []string{"kind"})
	m.unpaid = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "cocoon_worker_receipts_refused_total", Help: "Receipts that a gateway refuses to pay; the log has its reasons.",
	})
	m.earned = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metricEarned, Help: "Sum of the receipts that gateways have settled since the start.",
	})
	for _, k := range []receipt.Kind{receipt.Interim, receipt.Final} {
		m.signed.WithLabelValues(string(k))
	}
	gauge := func(name, help string, labels prometheus.Labels, value func(t *till, u Unpaid) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 {
			if t := open(); t != nil {
				return value(t, t.unpaid())
			}
			return 0
		})
	}
	kind := func(k receipt.Kind) prometheus.Labels { return prometheus.Labels{"kind": string(k)} }
	const kept = "Receipts that no gateway has acknowledged: the last of each request."
	for _, c := range []prometheus.Collector{
		m.signed, m.unpaid, m.earned,
		gauge(metricUnacknowledged, kept, kind(receipt.Final), func(_ *till, u Unpaid) float64 { return float64(u.Finals) }),
		gauge(metricUnacknowledged, kept, kind(receipt.Interim), func(_ *till, u Unpaid) float64 { return float64(u.Interims) }),
		gauge(metricUnpaid, "Sum of the final ones among them.", nil, func(_ *till, u Unpaid) float64 { return float64(u.Sum) }),
		gauge(metricOldest, "When the oldest final one was signed; 0 if there is none.", nil, func(_ *till, u Unpaid) float64 {
			if u.Oldest.IsZero() {
				return 0
			}
			return float64(u.Oldest.UnixMilli()) / 1000
		}),
		gauge("cocoon_worker_receipts_full", "1 if there is no room for receipts, so that paid requests are refused.", nil,
			func(t *till, _ Unpaid) float64 {
				if t.full.Load() {
					return 1
				}
				return 0
			}),
	} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
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
