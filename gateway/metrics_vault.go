package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/internal/nanoton"
)

// collectVault gives what the treasury and the tabs saw last.
func collectVault(v *vault, ch chan<- prometheus.Metric) {
	send := func(name, help string, value float64) {
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("cocoon_gateway_"+name, help, nil, nil), prometheus.GaugeValue, value)
	}
	amount := func(name, help string, a nanoton.Amount) { send(name, help, float64(a)) }
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	s := v.treasury.Status()
	age := 0.0
	if !s.At.IsZero() {
		age = time.Since(s.At).Seconds()
	}
	send("chain_head_age_seconds", "Age of the chain's block that the treasury saw last, by this machine's clock.", age)
	send("chain_failing", "1 if the treasury's last look at the chain failed; the log says why.", yes(s.Error != "" || s.At.IsZero()))
	amount("treasury_nanoton", "What the treasury's wallet holds, proven.", s.Balance)
	amount("treasury_difference_nanoton", "What the wallet holds less what the ledger says. Not zero: payouts have stopped.", s.Difference)
	amount("treasury_network_nanoton", "What is put aside for the network's fees; below zero they were paid from others' money.", s.Network)
	send("payouts_stopped", "1 if no payouts are made; the treasury's status says why.", yes(s.Stopped != ""))
	send("payouts_queued", "Payouts that wait for a batch.", float64(s.Queued))
	send("payouts_batched", "Payouts in signed messages that the chain has not shown yet.", float64(s.Batched))
	send("payouts_held", "Payouts that the operator holds.", float64(s.Held))
	send("payouts_waiting", "1 if payouts wait that could leave: the wallet holds too little, or the hour's limit is reached.", yes(s.Waiting != ""))
	amount("payouts_owed_nanoton", "What is in payouts that are not paid yet.", s.Owed)
	send("suspense_sums", "Sums that came from nobody known, and are not settled.", float64(s.Suspense))
	send("payouts_unmatched", "Payments on the chain that the ledger does not know: it is an older copy.", float64(s.Unmatched))
	if v.tabs == nil {
		return
	}
	t := v.tabs.Status()
	send("tabs", "Customers' tabs.", float64(t.Tabs))
	send("tabs_closing", "Customers' tabs that their owners are closing.", float64(t.Closing))
	send("tabs_stopped", "Tabs whose chain and ledger disagree.", float64(len(t.Stopped)))
	amount("tabs_nanoton", "What customers' tabs hold.", t.Held)
	amount("tabs_undrawn_nanoton", "What was spent of it and not drawn.", t.Undrawn)
	amount("collateral_nanoton", "What workers' tabs hold.", t.Pledged)
}
