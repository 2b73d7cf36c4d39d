package gateway

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/gateway/market"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/router"
	"cocoon/router/offer"
)

type generationAnswer struct {
	Data generationView `json:"data"`
}

// pickOf makes up a pick.
func pickOf(worker byte, change func(*router.Why)) *router.Grant {
	id := router.ID{worker}
	l := &router.Grant{
		Worker: id, Offer: &offer.Offer{Model: "m"}, Price: offer.Price{In: 1_000_000, Cached: 1_000_000, Out: 1_000_000},
		Why: router.Why{Candidates: 3, Considered: 2, Tops: 2, Sort: router.Price, Tokens: 1000.4, Out: 250, Reference: 77},
	}
	l.Why.Removed[router.RemovedPrice] = 1
	l.Why.Top[0] = router.Choice{Worker: id, Score: 1.23456, Price: 42, TTFT: .25, Total: 3, Cached: 640, Inflight: 2}
	l.Why.Top[1] = router.Choice{Worker: router.ID{99}, Score: 2e9 + 3, Price: 50, TTFT: 1, Total: 4}
	if change != nil {
		change(&l.Why)
	}
	return l
}

// defaultAccount is the one that the tests' keys are of.
func (n *network) defaultAccount() accounts.Account {
	n.t.Helper()
	a, err := n.server.money.book.Account(accounts.DefaultAccount)
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// TestGeneration: a request that one worker failed and another served tells its account all of that, and nobody else.
func TestGeneration(t *testing.T) {
	n := newNetwork(t, nil)
	s := n.server
	name := s.newRequestID()
	since := time.Now().Add(-3 * time.Second)
	var trail trail
	first, second := pickOf(1, nil), pickOf(2, func(w *router.Why) { w.Explored = true })
	trail.leased(s, first)
	trail.left(s, s.clock(), first, &attempted{failed: errFault("connection", nil), priced: true})
	trail.leased(s, second)
	trail.left(s, s.clock(), second, &attempted{usage: openai.Usage{Prompt: 1000, Cached: 600, Completion: 50, Reasoning: 5}, cost: 1050, priced: true})
	trail.end(s, second, &ended{
		id: name, account: n.defaultAccount().Ledger(), asked: "m:floor", mode: "simulated", finish: "stop", since: since, total: time.Since(since),
		first: time.Second, streamed: true, status: 200,
	})
	status, text := n.getKey("/cocoon/v1/generation/" + name)
	g := decode[generationAnswer](t, text).Data
	if status != http.StatusOK || g.ID != name || g.Model != "m" || g.Asked != "m:floor" || *g.Cost != 1050 || !*g.Streamed || g.Cancelled || g.Mode != "simulated" {
		t.Fatalf("%d %s", status, text)
	}
	if *g.Latency != 1000 || *g.GenerationTime < 2000 || *g.GenerationTime > 60_000 || g.Finish != "stop" || g.NativeCached != 600 || g.TokensPrompt != 1000 || g.NativeReasoning != 5 {
		t.Errorf("%s", text)
	}
	r := g.Routing
	if r.Cached != (cachedView{640, 600}) || len(r.Attempts) != 2 || g.Provider != (router.ID{2}).String() {
		t.Fatalf("routing: %s", text)
	}
	a, b := r.Attempts[0], r.Attempts[1]
	if a.Outcome != "worker_fault" || a.Reason != "connection" || a.Why.Removed["price"] != 1 || len(a.Why.Removed) != 1 || a.Why.Sort != "price" || a.Started < 3000 {
		t.Errorf("first attempt: %+v", a)
	}
	if b.Outcome != "served" || b.Reason != "" || !b.Why.Explored || b.Why.Candidates != 3 || b.Why.TokensIn != 1000 || b.Why.Reference != 77 {
		t.Errorf("second attempt: %+v", b)
	}
	if top := b.Why.Top; len(top) != 2 || top[0] != (choiceView{(router.ID{2}).String(), 1.23, false, 42, 250, 3000, 640, 2}) || !top[1].Behind || top[1].Score != 3 {
		t.Errorf("candidates: %+v", b.Why.Top)
	}
	for _, path := range []string{"/v1/generation?id=" + name, "/cocoon/v1/generation/" + name[:len(name)-1] + "1"} {
		if status, _ := n.getKey(path); status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := n.get("/cocoon/v1/generation/" + name); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", status)
	}
	n.key = n.stranger()
	if status, text := n.getKey("/cocoon/v1/generation/" + name); status != http.StatusNotFound || errorCode(t, text) != "generation_not_found" {
		t.Errorf("another account: %d %s", status, text)
	}
	m, ok := s.market.stats.Model(s.clock(), "m")
	if !ok || m.Short.Served != 1 || len(m.Workers) != 2 || m.Workers[0].ID != (router.ID{2}) || m.Workers[1].Failed != 1 || !near(m.Short.TTFT.P50, 1) {
		t.Errorf("statistics: %+v", m)
	}
}

func TestGenerationUnknown(t *testing.T) {
	n := newNetwork(t, nil)
	foreign := []byte(n.server.newRequestID())
	if at := 4 + 2*8; foreign[at] == '0' { // in the gateway's mark
		foreign[at] = '1'
	} else {
		foreign[at] = '0'
	}
	for name, want := range map[string]string{
		n.server.newRequestID(): "no such request", string(foreign): "another gateway", "req_1": "its name is", strings.Repeat("x", 300): "its name is", "%2e%2e": "its name is",
	} {
		if status, text := n.getKey("/cocoon/v1/generation/" + name); status != http.StatusNotFound || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if status, _ := n.getKey("/v1/generation"); status != http.StatusNotFound {
		t.Errorf("no name: %d", status)
	}
}

// TestGenerationWithoutWorker: whom the router sent away learns so, and a name that nobody offers is not counted.
func TestGenerationWithoutWorker(t *testing.T) {
	n := newNetwork(t, nil)
	s := n.server
	for offered, counted := range map[string]bool{"m": true, "": false} {
		name := s.newRequestID()
		var trail trail
		trail.end(s, &router.Grant{}, &ended{
			id: name, account: n.defaultAccount().Ledger(), asked: "m", since: time.Now(), status: 503, offered: offered,
			failed: &failure{outcome: router.Served, reason: "no_worker", final: true, err: errBusy()},
		})
		_, text := n.getKey("/cocoon/v1/generation/" + name)
		g := decode[generationAnswer](t, text).Data
		if g.Error != "server_is_overloaded" || g.Status != 503 || g.Routing == nil || len(g.Routing.Attempts) != 0 || g.Latency != nil || g.Cost != nil {
			t.Errorf("%s", text)
		}
		m, _ := s.market.stats.Model(s.clock(), "m")
		if counted && m.Short.Busy != 1 {
			t.Errorf("it counts: %+v", m.Short)
		}
	}
	if list := s.market.stats.Models(s.clock()); len(list) != 1 || list[0].Short.Busy != 1 {
		t.Errorf("models: %+v", list)
	}
}

// TestGenerationOddNumbers: scores that are no numbers don't spoil the answer.
func TestGenerationOddNumbers(t *testing.T) {
	n := newNetwork(t, nil)
	name := n.server.newRequestID()
	var trail trail
	l := pickOf(1, func(w *router.Why) {
		w.Top[0] = router.Choice{Score: math.Inf(1), Price: math.NaN(), TTFT: math.Inf(1), Total: math.Inf(-1), Cached: 1e300}
		w.Tokens, w.Out, w.Reference, w.Tops, w.Picked, w.Sort = math.NaN(), math.Inf(1), -math.MaxFloat64, 200, 100, 77
	})
	trail.leased(n.server, l)
	trail.left(n.server, n.server.clock(), l, &attempted{failed: errClientGone()})
	trail.end(n.server, l, &ended{id: name, account: n.defaultAccount().Ledger(), asked: "m", since: time.Now(), status: statusClientGone, failed: errClientGone()})
	status, text := n.getKey("/cocoon/v1/generation/" + name)
	if g := decode[generationAnswer](t, text).Data; status != http.StatusOK || !g.Cancelled || g.Routing.Attempts[0].Outcome != "client_gone" {
		t.Errorf("%d %s", status, text)
	}
}

// TestGenerationFromReceipt: what is not kept any more is told from the receipt, and what broke off gets its cost from there.
func TestGenerationFromReceipt(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	p := n.pay(4, honest(nil))
	resp := n.ask(askWhole)
	name := resp.Header.Get("X-Request-Id")
	text(t, resp)
	s := n.server
	for range 3 * market.GenerationsMax { // others push it out
		id, err := clerk.RequestID(s.newRequestID())
		if err != nil {
			t.Fatal(err)
		}
		s.market.kept.Keep(&market.Generation{ID: market.RequestID(id[:])})
	}
	var got string
	n.until("the receipt is in the log", func() bool {
		status, text := n.getKey("/cocoon/v1/generation/" + name)
		got = text
		return status == http.StatusOK
	})
	g := decode[generationAnswer](t, got).Data
	if g.Routing != nil || *g.Cost != helloCost || g.TokensPrompt != 3 || g.TokensCompletion != 1 || g.Provider != p.id.String() || g.Model != "m" || g.Note == "" {
		t.Errorf("%s", got)
	}
	var trail trail
	l := pickOf(1, nil)
	trail.leased(s, l)
	trail.left(s, s.clock(), l, &attempted{failed: errClientGone()})
	trail.end(s, l, &ended{id: name, account: n.defaultAccount().Ledger(), asked: "m", since: time.Now(), status: statusClientGone, failed: errClientGone()})
	_, got = n.getKey("/cocoon/v1/generation/" + name)
	if g := decode[generationAnswer](t, got).Data; g.Routing == nil || g.Cost == nil || *g.Cost != 4 || g.TokensPrompt != 3 {
		t.Errorf("with the price that was held: %s", got)
	}
}

func TestResultOf(t *testing.T) {
	for i, c := range []struct {
		f    *failure
		want market.Result
	}{
		{nil, market.Served},
		{errClientGone(), market.Gone},
		{errFault("engine", nil), market.Fault},
		{&failure{outcome: router.WorkerSlow}, market.Fault},
		{&failure{outcome: router.WorkerBusy}, market.Busy},
		{&failure{outcome: router.Served, reason: "bad_request", err: openai.BadRequest("", "x")}, market.Refused},
		{&failure{outcome: router.Served, reason: "no_worker", err: errBusy()}, market.Busy},
		{&failure{outcome: router.Served, reason: "no_worker", err: errTooDear("m")}, market.Refused},
		{&failure{outcome: router.Served, reason: "funds"}, market.Refused},
	} {
		if got := resultOf(c.f); got != c.want {
			t.Errorf("case %d: %v, want %v", i, got, c.want)
		}
	}
}

// TestTrailAllocatesNothing: what is kept of a request costs it no garbage.
func TestTrailAllocatesNothing(t *testing.T) {
	n := newNetwork(t, nil)
	s := n.server
	l, since, name, account := pickOf(1, nil), time.Now(), s.newRequestID(), n.defaultAccount().Ledger()
	one := func() {
		var trail trail
		trail.leased(s, l)
		trail.left(s, s.clock(), l, &attempted{usage: openai.Usage{Prompt: 10, Completion: 20}})
		trail.end(s, l, &ended{id: name, account: account, asked: "m", since: since, first: time.Second, streamed: true, status: 200})
	}
	one()
	if n := testing.AllocsPerRun(2000, one); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTrail(b *testing.B) {
	cfg := DefaultConfig()
	s := &Server{cfg: cfg, began: time.Now(), table: router.New[*member](router.Config{})}
	s.market = newOpenMarket(prometheus.NewRegistry(), s)
	l, since, name := pickOf(1, nil), time.Now(), fmt.Sprintf("req_%032x", 5)
	b.ReportAllocs()
	for b.Loop() {
		var trail trail
		trail.leased(s, l)
		trail.left(s, s.clock(), l, &attempted{usage: openai.Usage{Prompt: 10, Completion: 20}})
		trail.end(s, l, &ended{id: name, asked: "m", since: since, first: time.Second, streamed: true, status: 200})
	}
}

// TestTrailBounds: of a request that many workers failed the first and the last ones are kept.
func TestTrailBounds(t *testing.T) {
	var trail trail
	for n := range byte(5) {
		trail.started = time.Duration(n)
		trail.failed(time.Duration(n), pickOf(n, nil), errFault("connection", nil))
	}
	if p := trail.past; len(p) != market.PastMax || trail.dropped != 2 || p[0].Started != 0 || p[1].Started != 3 || p[2].Worker != (router.ID{4}) {
		t.Errorf("%d dropped, kept: %+v", trail.dropped, p)
	}
}
