package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	official "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// stand is one worker of a bazaar.
type stand struct {
	name, quantization string
	price              int // of output, nanoTON for a million tokens; input costs half
	pause              time.Duration
	extra              string // a second model, if not empty

	worker *worker
	id     string
}

// bazaar is a gateway, and workers of one model that differ in what wishes are about.
type bazaar struct {
	*gateway
	stands []*stand

	mu     sync.Mutex
	bodies map[string]string // the last that reached the engine of each worker
}

func openBazaar(t *testing.T, more string, stands ...*stand) *bazaar {
	t.Helper()
	b := &bazaar{gateway: newGateway(t, "", "auto", quietMax, testMoney+more), stands: stands, bodies: map[string]string{}}
	b.restart(t)
	b.key = b.newKey(t)
	for _, s := range stands {
		config := fmt.Sprintf("price: {in: %d, out: %d}\nops_listen: %s\nmodels:\n  - {name: m, quantization: %s}\n",
			s.price/2, s.price, freePort(t), s.quantization)
		if s.extra != "" {
			config += "  - {name: " + s.extra + ", engine_name: m}\n"
		}
		s.worker = b.startWorkerWith(t, s.name, serveEngine(t, "m", b.serve(s)), config)
		s.id = s.worker.id(t)
	}
	eventually(t, startMax, "all workers serve", func() bool { return b.serving(t, "m") == len(stands) })
	return b
}

// id is the worker's ID, as the operator reads it.
func (w *worker) id(t *testing.T) string {
	t.Helper()
	out, problem, code := command(t, "cocoon-worker", "id", "--config", w.config)
	if code != 0 {
		t.Fatalf("cocoon-worker id: exit code %d: %s", code, problem)
	}
	return strings.TrimSpace(out)
}

// serve says hello after the stand's pause, and keeps what came.
func (b *bazaar) serve(s *stand) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the worker left
		}
		b.mu.Lock()
		b.bodies[s.name] = string(body)
		b.mu.Unlock()
		var head struct{ Stream bool }
		_ = json.Unmarshal(body, &head) // the worker's own
		time.Sleep(s.pause)
		c := &call{w: w, stream: head.Stream}
		c.say("hel", "lo")
		c.finish()
	}
}

// name is the worker's of an ID.
func (b *bazaar) name(id string) string {
	for _, s := range b.stands {
		if s.id == id {
			return s.name
		}
	}
	return "nobody"
}

// choice is who serves most of several requests: now and then another one is tried, to learn about it.
func (b *bazaar) choice(t *testing.T, body string) string {
	t.Helper()
	counts, best := map[string]int{}, ""
	for range 3 {
		r := b.ask(t, body)
		if !r.succeeded() {
			t.Errorf("%s: %v", body, r)
			return ""
		}
		name := b.name(r.header.Get("Cocoon-Worker"))
		if counts[name]++; counts[name] > counts[best] {
			best = name
		}
	}
	return best
}

func testBazaar(t *testing.T) *bazaar {
	t.Helper()
	return openBazaar(t, "",
		&stand{name: "cheap", quantization: "int4", price: 1_000_000, pause: 300 * time.Millisecond},
		&stand{name: "middle", quantization: "fp8", price: 2_000_000, pause: 200 * time.Millisecond},
		&stand{name: "swift", quantization: "bf16", price: 4_000_000, extra: "rare"})
}

// TestWishes asks in OpenRouter's words, and looks at who served and at what reached the engine.
func TestWishes(t *testing.T) {
	t.Parallel()
	b := testBazaar(t)
	for range 6 { // the router gets to know them all
		for _, s := range b.stands {
			r := b.ask(t, prompt("m", "hi", streamed, `"provider":{"only":["`+s.name+`"]}`))
			if got := b.name(r.header.Get("Cocoon-Worker")); got != s.name {
				t.Fatalf("only %s: served by %s: %v", s.name, got, r)
			}
		}
	}
	middle := b.stands[1].id
	for _, tc := range []struct{ model, wish, want string }{
		{"m:floor", `"x":1`, "cheap"},
		{"m:nitro", `"x":1`, "swift"},
		{"m", `"provider":{"sort":"price"}`, "cheap"},
		{"m", `"provider":{"sort":"latency"}`, "swift"},
		{"m", `"provider":{"only":["` + middle + `"]}`, "middle"},
		{"m:nitro", `"provider":{"ignore":["swift","cheap"]}`, "middle"},
		{"m:floor", `"provider":{"order":["Middle"]}`, "middle"},
		{"m:nitro", `"provider":{"max_price":{"completion":2100000}}`, "middle"}, // 5 % is the gateway's
		{"m:nitro", `"provider":{"max_price":{"completion":"2099999"}}`, "cheap"},
		{"m:floor", `"provider":{"quantizations":["fp8","bf16"]}`, "middle"},
		{"m:floor", `"provider":{"preferred_max_latency":0.19}`, "swift"},
		{"absent", `"models":["m:nitro"]`, "swift"},
		{"rare", `"models":["m"]`, "swift"},
	} {
		body := prompt(tc.model, "hi", streamed, tc.wish, `"session_id":"conversation-1"`)
		if got := b.choice(t, body); got != tc.want {
			t.Errorf("%s: served by %s, want %s", body, got, tc.want)
		}
		b.mu.Lock()
		seen := b.bodies[tc.want]
		b.mu.Unlock()
		for _, word := range []string{"provider", "models", "session_id", "conversation-1", ":floor", ":nitro"} {
			if strings.Contains(seen, word) {
				t.Errorf("%s: the engine got %q", body, seen)
			}
		}
	}
	t.Run("unmet", func(t *testing.T) { unmet(t, b) })
	t.Run("openai-go", func(t *testing.T) { wishesOfSDK(t, b) })
	t.Run("told", func(t *testing.T) { told(t, b) })
}

// unmet asks for what is not there: the answer says which wish left out whom.
func unmet(t *testing.T, b *bazaar) {
	for _, tc := range []struct {
		wish   string
		status int
		code   string
		says   []string
	}{
		{`"provider":{"only":["nobody"]}`, 404, "no_matching_worker", []string{"only removed 3", "cheap"}},
		{`"provider":{"ignore":["cheap","middle","swift"]}`, 404, "no_matching_worker", []string{"ignore removed 3"}},
		{`"provider":{"order":["nobody"],"allow_fallbacks":false}`, 404, "no_matching_worker", []string{"removed 3"}},
		{`"provider":{"max_price":{"completion":1049999}}`, 404, "no_matching_worker", []string{"price removed 3", "1050000"}},
		{`"provider":{"quantizations":["fp4"]}`, 404, "no_matching_worker", []string{"quantization removed 3"}},
		{
			`"provider":{"only":["cheap"],"quantizations":["bf16"]}`, 404, "no_matching_worker",
			[]string{"only removed 2", "quantization removed 1 (cheap)"},
		},
		{`"provider":{"attestation":"sealed"}`, 400, "attestation_unavailable", []string{"sealed"}},
		{`"provider":{"only":"cheap"}`, 400, "", []string{"provider.only"}},
		{`"provider":{"cheapest":true}`, 400, "", []string{"cheapest", "max_price"}},
	} {
		r := b.ask(t, prompt("m", "hi", tc.wish))
		if r.status != tc.status || r.fault.code() != tc.code || !strings.HasPrefix(r.fault.param(), "provider") {
			t.Errorf("%s: %v", tc.wish, r)
			continue
		}
		for _, word := range tc.says {
			if !strings.Contains(r.fault.Message, word) {
				t.Errorf("%s: %q does not say %q", tc.wish, r.fault.Message, word)
			}
		}
	}
	r := b.ask(t, prompt("absent", "hi", `"models":["gone"]`))
	if r.status != http.StatusNotFound || r.fault.code() != "model_not_found" {
		t.Errorf("models that nobody offers: %v", r)
	}
}

// wishesOfSDK sends wishes the way that OpenAI's own client for Go lets one, and reads its error.
func wishesOfSDK(t *testing.T, b *bazaar) {
	api := official.NewClient(option.WithBaseURL(b.base+"/v1"), option.WithAPIKey(b.key), option.WithMaxRetries(2))
	params := official.ChatCompletionNewParams{
		Model: "m:nitro", Messages: []official.ChatCompletionMessageParamUnion{official.UserMessage("hi")},
	}
	var raw *http.Response
	answer, err := api.Chat.Completions.New(t.Context(), params, option.WithResponseInto(&raw),
		option.WithJSONSet("provider.only", []string{"middle"}), option.WithJSONSet("models", []string{"other"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.name(raw.Header.Get("Cocoon-Worker")); got != "middle" || answer.Choices[0].Message.Content != "hello" {
		t.Errorf("served by %s: %+v", got, answer)
	}
	wish := option.WithJSONSet("provider", map[string]any{"quantizations": []string{"fp4"}})
	_, err = api.Chat.Completions.New(t.Context(), params, wish)
	fault, ok := errors.AsType[*official.Error](err)
	if !ok || fault.StatusCode != http.StatusNotFound || !strings.Contains(fault.Message, "quantization removed 3") {
		t.Errorf("%v", err)
	}
}

// told looks at what the account can see of a request, and nobody else.
func told(t *testing.T, b *bazaar) {
	r := b.ask(t, prompt("m", "hi", streamed, `"provider":{"only":["middle"]}`))
	id := r.header.Get("X-Request-Id")
	g := b.generation(t, id)
	const cost = 8 // 3 tokens in for 1.05 each, 2 out for 2.1
	if b.name(g.Provider) != "middle" || *g.Cost != cost || g.Completion != 2 || len(g.Routing.Attempts) != 1 {
		t.Errorf("%+v", g)
	}
	why := g.Routing.Attempts[0].Why
	p, ok := g.Routing.Attempts[0].picked()
	if !ok || why.Candidates != 3 || why.Removed["only"] != 2 || p.Cost <= 0 || p.Total < p.TTFT {
		t.Errorf("why: %+v", why)
	}
	other := client{base: b.base, key: b.newKey(t)}
	if other.generation(t, id).Provider != g.Provider {
		t.Error("another key of the same account sees something else")
	}
	b.operate(t, "accounts", "create", "stranger")
	stranger := client{base: b.base, key: strings.TrimSpace(b.operate(t, "keys", "create", "spy", "--account", "stranger"))}
	eventually(t, startMax, "the stranger's key works", func() bool { return stranger.models(t.Context()) != nil })
	if r := stranger.get(t, "/cocoon/v1/generation/req_"+strings.Repeat("0", 32)); r.status != http.StatusNotFound {
		t.Errorf("a request that never was: %v", r)
	}
	for _, path := range []string{"/cocoon/v1/generation/" + id, "/v1/generation?id=" + id} {
		if r := stranger.get(t, path); r.status != http.StatusNotFound || r.fault.code() != "generation_not_found" {
			t.Errorf("%s of another account: %v %s", path, r, r.body)
		}
		if r := (client{base: b.base}).get(t, path); r.status != http.StatusUnauthorized {
			t.Errorf("%s without a key: %v", path, r)
		}
	}
	if r := stranger.get(t, "/cocoon/v1/stats"); r.status != http.StatusOK {
		t.Errorf("statistics for a customer: %v", r)
	}
	if r := (client{base: b.base}).get(t, "/cocoon/v1/stats"); r.status != http.StatusUnauthorized {
		t.Errorf("statistics for a stranger: %v", r)
	}
	if r := (client{base: b.base}).get(t, "/cocoon/v1/prices"); r.status != http.StatusOK || strings.Contains(r.body, `"stats"`) {
		t.Errorf("prices for a stranger: %v %s", r, r.body)
	}
}

// TestStatsPublic has an operator show statistics to everybody.
func TestStatsPublic(t *testing.T) {
	t.Parallel()
	g := newGateway(t, "", "auto", quietMax, testMoney+"public_stats: true\n")
	g.restart(t)
	g.key = g.newKey(t)
	w := g.startWorkerWith(t, "one", startEcho(t, "m"), outcomePrice)
	g.serves(t, startMax, "m")
	for range 3 {
		g.ask(t, prompt("m", "hi", streamed))
	}
	stranger := client{base: g.base}
	var stats struct {
		Data []struct {
			Model   string
			Windows map[string]struct {
				Served int64
				TTFT   *struct{ P50 float64 } `json:"ttft_ms"`
			}
			ServedBy []struct{ Worker string } `json:"served_by"`
		}
	}
	eventually(t, startMax, "the requests are counted", func() bool {
		stats.Data = nil
		return json.Unmarshal([]byte(stranger.get(t, "/cocoon/v1/stats?model=m").body), &stats) == nil &&
			len(stats.Data) == 1 && stats.Data[0].Windows["5m"].Served == 3
	})
	m := stats.Data[0]
	if m.Windows["24h"].TTFT == nil || len(m.ServedBy) != 1 || m.ServedBy[0].Worker != w.id(t) {
		t.Errorf("%+v", m)
	}
	if r := stranger.get(t, "/cocoon/v1/prices?model=m"); r.status != http.StatusOK || !strings.Contains(r.body, `"stats"`) {
		t.Errorf("prices for a stranger: %v %s", r, r.body)
	}
}
