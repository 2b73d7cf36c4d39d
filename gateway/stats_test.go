package gateway

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/gateway/accounts"
	"cocoon/gateway/market"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/offer"
)

// stranger makes a key of another account.
func (n *network) stranger() string {
	n.t.Helper()
	book := n.server.money.book
	if _, err := book.CreateAccount(context.Background(), "stranger", accounts.Limits{}); err != nil {
		n.t.Fatal(err)
	}
	key, _, err := book.CreateKey(context.Background(), "stranger", accounts.Settings{Name: "test"})
	if err != nil {
		n.t.Fatal(err)
	}
	return key.Reveal()
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// observe makes up requests: nine served, one that failed, and some that their clients left.
func (n *network) observe(model string, id tunnel.ID) {
	s := n.server
	for i := range 12 {
		o := market.Observation{
			Model: model, Worker: router.ID(id), Streamed: true, TTFT: 200 * time.Millisecond, Total: 2200 * time.Millisecond,
			In: 1000, Cached: 500, Out: 101, Cost: 7,
		}
		switch {
		case i == 9:
			o.Result = market.Fault
			s.market.stats.Failed(s.clock(), model, router.ID(id))
		case i > 9:
			o.Result = market.Gone
		}
		s.market.stats.Observe(s.clock(), &o)
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= want*.1 }

func TestStatsAnswer(t *testing.T) {
	n := newNetwork(t, nil)
	id, _ := n.worker("w", 4, good, "m")
	n.worker("v", 2, good, "quiet")
	n.observe("m", id)
	if status, text := n.get("/cocoon/v1/stats"); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d %s", status, text)
	}
	status, text := n.getKey("/cocoon/v1/stats")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	list := decode[statsList](t, text)
	if len(list.Data) != 2 || list.Data[0].Model != "m" || list.Data[1].Model != "quiet" || time.Since(list.Since) > time.Minute {
		t.Fatalf("models: %s", text)
	}
	m := list.Data[0]
	if m.Workers != 1 || m.Slots != 4 || m.Inflight != 0 || m.Capacity < 1 || m.OthersShare != 0 {
		t.Errorf("market now: %+v", m)
	}
	for name, w := range map[string]windowStats{"5m": m.Windows.Short, "30m": m.Windows.Medium, "24h": m.Windows.Long} {
		if w.Requests != 10 || w.Served != 9 || w.Failed != 1 || w.ClientGone != 2 || *w.SuccessRate != .9 || w.Tokens != (statsTokens{12000, 6000, 1212}) || w.Cost != 84 {
			t.Errorf("%s: %+v", name, w)
		}
		if !near(w.TTFT.P95, 200) || !near(w.EndToEnd.P50, 2200) || !near(w.Rate.P50, 50) {
			t.Errorf("%s: %+v %+v %+v", name, w.TTFT, w.EndToEnd, w.Rate)
		}
	}
	by := m.ServedBy
	if len(by) != 1 || by[0].Worker != id.String() || by[0].Share != 1 || by[0].Served != 9 || by[0].Failed != 1 || by[0].Uptime != .9 || !near(by[0].TTFT.P50, 200) {
		t.Errorf("served by: %+v", by)
	}
	if q := list.Data[1].Windows.Short; q.SuccessRate != nil || q.TTFT != nil || q.Requests != 0 {
		t.Errorf("a model that nobody asked for: %+v", q)
	}
	status, text = n.getKey("/cocoon/v1/stats?model=m")
	if one := decode[statsList](t, text); status != http.StatusOK || len(one.Data) != 1 || one.Data[0].Windows.Short.Served != 9 {
		t.Errorf("one model: %d %s", status, text)
	}
	if status, _ := n.getKey("/cocoon/v1/stats?model=nope"); status != http.StatusNotFound {
		t.Errorf("a model that is not there: %d", status)
	}
	// A model that is gone is still told of.
	n.observe("gone", id)
	if all := n.server.statistics("").(statsList); len(all.Data) != 3 || all.Data[0].Model != "gone" || all.Data[0].Workers != 0 {
		t.Errorf("all models: %+v", all)
	}
}

func TestPublicStats(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.PublicStats = true })
	id, _ := n.worker("w", 4, good, "m")
	n.observe("m", id)
	if status, text := n.get("/cocoon/v1/stats?model=m"); status != http.StatusOK || !strings.Contains(text, `"success_rate":0.9`) {
		t.Errorf("%d %s", status, text)
	}
	if _, text := n.get("/cocoon/v1/prices"); !strings.Contains(text, `"stats":{"5m":`) {
		t.Errorf("prices: %s", text)
	}
}

func TestPricesShare(t *testing.T) {
	n := newNetwork(t, nil)
	id, _ := n.worker("w", 4, good, "m")
	other, _ := n.worker("v", 4, good, "m")
	n.observe("m", id)
	n.server.market.stats.Observe(n.server.clock(), &market.Observation{Model: "m", Worker: router.ID(other)})
	status, text := n.get("/cocoon/v1/prices?model=m")
	list := decode[prices](t, text)
	if status != http.StatusOK || len(list.Data) != 1 || list.Data[0].Stats != nil {
		t.Fatalf("%d %s", status, text)
	}
	shares := map[string]float64{}
	for _, q := range list.Data[0].Offers {
		shares[q.Worker] = q.ServedShare
	}
	if len(shares) != 2 || shares[id.String()] != .9 || shares[other.String()] != .1 {
		t.Errorf("shares %v", shares)
	}
	if _, text := n.getKey("/cocoon/v1/prices?model=m"); decode[prices](t, text).Data[0].Stats == nil {
		t.Errorf("no statistics with a key: %s", text)
	}
	key := n.key
	n.key = "ck-wrong"
	if status, text := n.getKey("/cocoon/v1/prices?model=m"); status != http.StatusOK || decode[prices](t, text).Data[0].Stats != nil {
		t.Errorf("with a wrong key: %d %s", status, text)
	}
	n.key = key
}

func TestEndpoints(t *testing.T) {
	n := newNetwork(t, nil)
	id, _ := n.worker("w", 4, good, "org/model:7b")
	n.worker("v", 4, good, "m", "m/endpoints")
	n.observe("org/model:7b", id)
	for _, path := range []string{"/v1/models/org/model:7b/endpoints", "/v1/models/org%2Fmodel%3A7b/endpoints"} {
		status, text := n.getKey(path)
		got := decode[struct{ Data endpointList }](t, text).Data
		if status != http.StatusOK || got.ID != "org/model:7b" || len(got.Endpoints) != 1 {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		e := got.Endpoints[0]
		if e.Provider != "w" || e.Tag != id.String() || e.Context != 8<<20 || e.Quantization != "unknown" || *e.Uptime != 90 || !near(e.Latency.P50, 200) || !near(e.Throughput.P50, 50) {
			t.Errorf("%s: %s", path, text)
		}
	}
	if status, _ := n.getKey("/v1/models/none/endpoints"); status != http.StatusNotFound {
		t.Errorf("of no model: %d", status)
	}
	if _, text := n.getKey("/v1/models/m/endpoints"); !strings.Contains(text, `"id":"m/endpoints","object":"model"`) {
		t.Errorf("a model that is called so: %s", text)
	}
	if status, _ := n.get("/v1/models/m/endpoints"); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", status)
	}
}

func TestPerToken(t *testing.T) {
	for in, want := range map[string]string{
		"3.110000": "0.00000311", "0.000000": "0", "1234567.5": "1.2345675", "10": "0.00001", "1000000": "1", "0.05": "0.00000005",
	} {
		if got := perToken(in); got != want {
			t.Errorf("%s a million: %s each, want %s", in, got, want)
		}
	}
}

func TestRounding(t *testing.T) {
	for in, want := range map[float64]float64{0: 0, 1: 1, .99999: .9999, .00001: .0001, 1. / 3: .3333} {
		if got := rounded(in); got != want {
			t.Errorf("rounded(%g) is %g, want %g", in, got, want)
		}
	}
	for in, want := range map[float64]float64{0: 0, 1234567: 1230000, 12.345: 12.3, .00123456: .00123, -5.5555: -5.56, math.Inf(1): 0, math.NaN(): 0, 999.9: 1000} {
		if got := significant(in); math.Abs(got-want) > 1e-12 {
			t.Errorf("significant(%g) is %g, want %g", in, got, want)
		}
	}
}

// TestAnswersAgain: what is asked for again within a second is not made again, what there is not is looked for.
func TestAnswersAgain(t *testing.T) {
	var a answers
	made := 0
	ask := func(now time.Duration, asked string) string {
		text, err := a.get(now, asked, func() any {
			if made++; asked == "no" {
				return nil
			}
			return made
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for _, step := range []struct {
		now   time.Duration
		asked string
		want  string
	}{
		{0, "a", "1"},
		{answerFor - 1, "a", "1"},
		{answerFor - 1, "b", "2"},
		{answerFor, "a", "3"},
		{answerFor, "no", ""},
		{answerFor + 1, "a", "3"},
		{3 * answerFor, "a", "5"},
	} {
		if got := ask(step.now, step.asked); got != step.want {
			t.Errorf("%s at %v: %s, want %s", step.asked, step.now, got, step.want)
		}
	}
}

func TestRouterMetrics(t *testing.T) {
	n := newNetwork(t, nil)
	n.worker("w", 4, good, "m")
	m := n.server.market.metrics
	why := router.Why{Candidates: 3, Sort: router.Throughput, Picked: 0}
	why.Removed[router.RemovedBusy] = 2
	m.picked("m", &why)
	why.Explored = true
	m.picked("m", &why)
	for i := range modelLabelsMax + 50 {
		m.picked("made-up-"+string(rune('a'+i%26))+strings.Repeat("x", i/26), &router.Why{Picked: -1})
	}
	m.firstToken(time.Second, 1500*time.Millisecond)
	m.firstToken(0, time.Second)
	m.cached(100, 50)
	m.cached(-1, -1)
	m.shed(router.Price)
	got := gathered(t, n.server.registry)
	for name, want := range map[string]float64{
		`router_picks_total{class="throughput",model="m"}`: 2, `router_removed_total{reason="busy"}`: 4, `router_explored_total{}`: 1,
		`router_cached_tokens_promised_total{}`: 100, `router_cached_tokens_found_total{}`: 50, `router_shed_total{class="price"}`: 1,
		`router_breakers{state="closed"}`: 1, `router_breakers{state="open"}`: 0, `router_endpoints{}`: 1, `router_slots{}`: 4, `router_ttft_ratio{}`: 1, `router_picks_behind_total{}`: modelLabelsMax + 50,
		`router_picks_total{class="balanced",model="other"}`: 51,
	} {
		if got["cocoon_gateway_"+name] != want {
			t.Errorf("%s is %v, want %v", name, got["cocoon_gateway_"+name], want)
		}
	}
	labels := 0
	for name := range got {
		if strings.HasPrefix(name, "cocoon_gateway_router_picks_total{") {
			labels++
		}
	}
	if labels > (modelLabelsMax+1)*sortsCount {
		t.Errorf("%d series of picks", labels)
	}
	if n := testing.AllocsPerRun(1000, func() { m.picked("m", &why) }); n != 0 {
		t.Errorf("counting a pick allocates %v times", n)
	}
}

// gathered is what a registry has: values of counters and gauges, and counts of histograms.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
		}
	}
	return all
}

// parametersOf names what OpenRouter's clients look for.
func TestParameters(t *testing.T) {
	got := strings.Join(parametersOf([]string{offer.FeatureChat, offer.FeatureTools, "made up", offer.FeatureLogprobs}), " ")
	if got != "tools tool_choice logprobs top_logprobs" {
		t.Errorf("parameters: %s", got)
	}
}
