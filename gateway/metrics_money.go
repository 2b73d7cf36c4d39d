package gateway

import "github.com/prometheus/client_golang/prometheus"

// bills collects what the clerk and the Desk count.
type bills struct{ s *Server }

// Describe implements prometheus.Collector: what is collected depends on whether there is billing.
func (b bills) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (b bills) Collect(ch chan<- prometheus.Metric) {
	m := b.s.money
	if m == nil || m.clerk == nil {
		return
	}
	send := func(kind prometheus.ValueType, name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("cocoon_gateway_"+name, help, nil, nil), kind, v)
	}
	by := func(name, help, label string, counts map[string]int64) {
		d := prometheus.NewDesc("cocoon_gateway_"+name, help, []string{label}, nil)
		for reason, n := range counts {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), reason)
		}
	}
	if m.vault != nil {
		collectVault(m.vault, ch)
	}
	c, d := m.clerk.Stats(), m.desk.Stats()
	send(prometheus.CounterValue, "receipts_settled_total", "Requests that were settled by a worker's receipt.", float64(c.Settled))
	send(prometheus.GaugeValue, "receipts_waited_for", "Requests whose worker owes a receipt.", float64(c.Waiting))
	send(prometheus.GaugeValue, "receipts_queued", "Requests whose receipt waits for the disk.", float64(c.Queued))
	send(prometheus.CounterValue, "receipts_retries_total", "Writes of receipts or settlements that failed and were tried again.", float64(c.Retries))
	by("holds_voided_total", "Requests that cost nothing, by reason.", "reason", reasons(c.Voided))
	by("receipts_refused_total", "Receipts of workers that were refused, by reason.", "reason", reasons(c.Refused))
	by("receipts_verified_total", "Receipts whose signature was looked at: their own, or one that the worker gave for many.", "signature",
		map[string]int64{"own": c.Single, "shared": c.Shared})
	implausible := int64(0)
	for _, w := range c.Workers {
		implausible += w.Implausible
	}
	send(prometheus.CounterValue, "receipts_implausible_total", "Receipts with more tokens than what was relayed can have; the log names the worker.", float64(implausible))
	send(prometheus.GaugeValue, "holds", "Money is held for so many requests.", float64(d.Open))
	send(prometheus.GaugeValue, "settlements_unposted", "Settlements that are not in the ledger yet.", float64(d.Unposted))
	send(prometheus.GaugeValue, "settlements_stuck", "Settlements that the ledger refuses.", float64(d.Stuck))
	send(prometheus.CounterValue, "settlements_conflicts_total", "Settlements dropped, because the ledger has another one.", float64(d.Conflicts))
	send(prometheus.GaugeValue, "journal_bytes", "Size of the journal.", float64(d.Journal))
}

func reasons[R ~string](counts map[R]int64) map[string]int64 {
	m := make(map[string]int64, len(counts))
	for r, n := range counts {
		m[string(r)] = n
	}
	return m
}
