package gateway

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"cocoon/attest"
	"cocoon/internal/openai"
	"cocoon/router"
)

// modelLabelsMax bounds the values of the label "model": a worker can offer any name. What comes later is "other".
const modelLabelsMax = 1000

// metrics is what the gateway counts. Labels come from closed sets; none holds anything of a request's content.
type metrics struct {
	requests *prometheus.CounterVec   // code
	refused  *prometheus.CounterVec   // reason
	models   sync.Map                 // model name -> *modelMetrics
	known    atomic.Int64             // entries of models
	outcomes *prometheus.CounterVec   // model, outcome
	ttft     *prometheus.HistogramVec // model
	duration *prometheus.HistogramVec // model
	tokens   *prometheus.CounterVec   // model, kind
	overhead prometheus.Histogram
	inflight prometheus.Gauge
	retries  prometheus.Counter
	noBudget prometheus.Counter
	noUsage  prometheus.Counter
	reports  prometheus.Counter
	codes    sync.Map // status -> prometheus.Counter

	appraisals *prometheus.CounterVec // verdict
	checks     *prometheus.CounterVec // check
	appraising prometheus.Histogram
}

// modelMetrics is the counters of one model, looked up once a request.
type modelMetrics struct {
	outcomes       [router.Outcomes]prometheus.Counter
	ttft, duration prometheus.Observer
	in, cached     prometheus.Counter
	out, reasoning prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "cocoon_gateway", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "cocoon_gateway", Name: name, Help: help, Buckets: buckets,
		}, labels)
	}
	seconds := []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}
	m := &metrics{
		requests: counter("requests_total", "Answered requests by HTTP status.", "code"),
		refused:  counter("attempts_failed_total", "Attempts on a worker that did not serve, by reason.", "reason"),
		outcomes: counter("leases_total", "Ended leases by outcome.", "model", "outcome"),
		ttft:     histogram("time_to_first_token_seconds", "Request read to first content of a stream.", seconds, "model"),
		duration: histogram("request_duration_seconds", "Request to the end of its answer.", seconds, "model"),
		tokens:   counter("tokens_total", "Tokens that engines reported: in, cached (part of in), out, reasoning (part of out).", "model", "kind"),
		overhead: histogram("overhead_seconds", "The gateway's own part of a request: reading, checking, choosing; not waiting.",
			[]float64{2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, .1, 1}).WithLabelValues().(prometheus.Histogram),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "cocoon_gateway", Name: "requests_in_flight", Help: "Requests being served."}),
		retries:  counter("retries_total", "Attempts beyond the first.").WithLabelValues(),
		noBudget: counter("retries_refused_total", "Retries that the retry budget did not allow.").WithLabelValues(),
		noUsage:  counter("answers_without_usage_total", "Complete answers whose engine told no usage.").WithLabelValues(),
		reports:  counter("worker_reports_total", "Reports that workers sent.").WithLabelValues(),
	}
	m.appraisals = counter("appraisals_total", "Appraisals of evidence by verdict.", "verdict")
	m.checks = counter("appraisal_checks_failed_total", "Failed checks of appraisals, by name.", "check")
	m.appraising = histogram("appraisal_seconds", "From evidence to verdict, fetching of collateral included.",
		[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}).WithLabelValues().(prometheus.Histogram)
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "cocoon_gateway", Name: name, Help: help}, f)
	}
	reg.MustRegister(
		m.requests, m.refused, m.outcomes, m.ttft, m.duration, m.tokens, m.overhead, m.inflight, m.retries, m.noBudget, m.noUsage, m.reports,
		m.appraisals, m.checks, m.appraising,
		gauge("workers", "Connected workers.", func() float64 { n, _ := s.table.Workers(); return float64(n) }),
		gauge("leases", "Leases that run.", func() float64 { _, n := s.table.Workers(); return float64(n) }),
		gauge("models", "Models that are served now.", func() float64 { return float64(len(s.table.Models())) }),
		gauge("buffered_bytes", "Memory that request bodies and answers take.", func() float64 { return float64(s.memory.used.Load()) }),
		bills{s},
		gauge("policy_ends_timestamp_seconds", "When the appraisal policy ends; 0 before one is loaded.", s.policyEnd),
		trustMetrics{s},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "cocoon_gateway", Name: "build_info", Help: "1, labelled by version.",
			ConstLabels: prometheus.Labels{"version": s.version},
		}, func() float64 { return 1 }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// model is the counters of a model that is offered; only such names become labels.
func (m *metrics) model(name string) *modelMetrics {
	if v, ok := m.models.Load(name); ok {
		return v.(*modelMetrics)
	}
	label := name
	if m.known.Add(1) > modelLabelsMax {
		m.known.Add(-1)
		label = "other"
	}
	v := &modelMetrics{
		ttft: m.ttft.WithLabelValues(label), duration: m.duration.WithLabelValues(label),
		in: m.tokens.WithLabelValues(label, "in"), cached: m.tokens.WithLabelValues(label, "cached"),
		out: m.tokens.WithLabelValues(label, "out"), reasoning: m.tokens.WithLabelValues(label, "reasoning"),
	}
	for outcome, word := range map[router.Outcome]string{
		router.Served: "served", router.ClientGone: "client_gone", router.WorkerBusy: "worker_busy", router.WorkerFault: "worker_fault",
		router.WorkerSlow: "worker_slow", router.Unused: "unused",
	} {
		v.outcomes[outcome] = m.outcomes.WithLabelValues(label, word)
	}
	if label == "other" {
		return v
	}
	kept, _ := m.models.LoadOrStore(name, v)
	return kept.(*modelMetrics)
}

// appraised counts an appraisal. Names of checks are ours; a device's number in one is left out.
func (m *metrics) appraised(r *attest.Result, took time.Duration) {
	m.appraisals.WithLabelValues(string(r.Verdict)).Inc()
	m.appraising.Observe(took.Seconds())
	for _, c := range r.Failures() {
		m.checks.WithLabelValues(checkLabel(c.Name)).Inc()
	}
}

// checkLabel is a check's name without the number of a device.
func checkLabel(name string) string {
	parts := slices.DeleteFunc(strings.Split(name, "."), func(part string) bool {
		_, err := strconv.Atoi(part)
		return err == nil
	})
	return strings.Join(parts, ".")
}

// answered counts a request's end by its status.
func (m *metrics) answered(status int) {
	c, ok := m.codes.Load(status)
	if !ok {
		c, _ = m.codes.LoadOrStore(status, m.requests.WithLabelValues(strconv.Itoa(status)))
	}
	c.(prometheus.Counter).Inc()
}

func (m *modelMetrics) usage(u openai.Usage) {
	m.in.Add(float64(u.Prompt))
	m.cached.Add(float64(u.Cached))
	m.out.Add(float64(u.Completion))
	m.reasoning.Add(float64(u.Reasoning))
}
