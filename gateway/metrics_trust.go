package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/attest"
)

// trustMetrics collects what attestation rests on now, from those who know.
type trustMetrics struct{ s *Server }

func trustDesc(name, help, label string) *prometheus.Desc {
	return prometheus.NewDesc("cocoon_gateway_"+name, help, []string{label}, nil)
}

// Describe implements prometheus.Collector.
func (t trustMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(t, ch) }

// Collect implements prometheus.Collector.
func (t trustMetrics) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, v float64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	verdicts, ends, missing := t.s.trusted(time.Now())
	attested := trustDesc("workers_attested", "Workers with a verdict that holds, by verdict.", "verdict")
	for v, n := range verdicts {
		send(attested, float64(n), string(v))
	}
	first := trustDesc("collateral_ends_timestamp_seconds", "When the first of the kept collateral ends, by kind.", "kind")
	for kind, end := range ends {
		send(first, float64(end.Unix()), string(kind))
	}
	lacking := trustDesc("collateral_missing", "Wanted collateral that could not be fetched or renewed, by kind.", "kind")
	for kind, n := range missing {
		send(lacking, float64(n), string(kind))
	}
}

// trusted counts workers by verdict, and collateral by kind: when the first of it ends, and how much is missing.
func (s *Server) trusted(now time.Time) (map[attest.Verdict]int, map[attest.Kind]time.Time, map[attest.Kind]int) {
	verdicts := map[attest.Verdict]int{attest.Verified: 0, attest.Simulated: 0}
	ends, missing := map[attest.Kind]time.Time{}, map[attest.Kind]int{}
	if s.appraiser == nil {
		return verdicts, ends, missing // before Listen
	}
	for _, m := range s.appraiser.all() {
		if m.holds(now) {
			verdicts[m.result.Load().Verdict]++
		}
	}
	for _, st := range s.appraiser.store.Status(now) {
		if st.Err != nil {
			missing[st.Kind]++
		}
		if end, ok := ends[st.Kind]; !st.Expires.IsZero() && (!ok || st.Expires.Before(end)) {
			ends[st.Kind] = st.Expires
		}
	}
	return verdicts, ends, missing
}

// policyEnd is when the policy ends, Unix seconds.
func (s *Server) policyEnd() float64 {
	if s.appraiser == nil || s.appraiser.trust.Load() == nil || s.appraiser.policy().NotAfter.IsZero() {
		return 0
	}
	return float64(s.appraiser.policy().NotAfter.Unix())
}
