package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/offer"
)

// wishing is a request with members besides the usual ones.
func wishing(members string) string {
	return `{"model":"m",` + members + `,"messages":[{"role":"user","content":"hi"}]}`
}

// sold connects a worker of the model m that answers rightly, at a price a million tokens.
func (n *network) sold(name string, price nanoton.Amount, change func(*offer.Offer)) tunnel.ID {
	n.t.Helper()
	id, _ := n.join(name, 8, good, []string{"m"}, func(s *offer.Sheet, _ *tunnel.DialerConfig) {
		s.Offers[0].Price = offer.Price{In: price, Cached: price, Out: price}
		if change != nil {
			change(&s.Offers[0])
		}
	})
	return id
}

func TestWishes(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.FeePPM = 100_000 })
	ids := map[string]string{
		"a": n.sold("a", 1000, func(o *offer.Offer) { o.Quantization = "fp8" }).String(),
		"b": n.sold("b", 2000, nil).String(),
		"c": n.sold("C", 4000, func(o *offer.Offer) { o.Features = []string{offer.FeatureChat, offer.FeatureTools} }).String(),
	}
	for _, tc := range []struct{ wish, served string }{
		{`"provider":{"only":["b"]}`, "b"},
		{`"provider":{"only":["` + ids["c"] + `"]}`, "c"},
		{`"provider":{"ignore":["a","c"]}`, "b"},
		{`"provider":{"order":["c"]}`, "c"},
		{`"provider":{"order":["c","b"],"ignore":["c"]}`, "b"},
		{`"provider":{"sort":"price"}`, "a"},
		{`"provider":{"max_price":{"completion":1100}}`, "a"}, // with the fee
		{`"provider":{"quantizations":["fp8"]}`, "a"},
		{`"provider":{"require_parameters":true},"tools":[{"type":"function"}]`, "c"},
		{`"provider":{"attestation":"simulated","hedge":false,"data_collection":"deny"},"models":["m"],"session_id":"s"`, ""},
	} {
		resp := n.ask(wishing(tc.wish))
		if got := text(t, resp); resp.StatusCode != http.StatusOK || tc.served != "" && resp.Header.Get("Cocoon-Worker") != ids[tc.served] {
			t.Errorf("%s: %d by %s, want %s: %s", tc.wish, resp.StatusCode, resp.Header.Get("Cocoon-Worker"), ids[tc.served], got)
		}
	}
	resp := n.ask(`{"model":"m:floor","messages":[]}`)
	if text(t, resp); resp.Header.Get("Cocoon-Worker") != ids["a"] {
		t.Error("the cheapest was not asked")
	}
	for _, tc := range []struct {
		wish, code string
		status     int
		says       []string
	}{
		{`"provider":{"max_price":{"completion":1099}}`, "no_matching_worker", 404, []string{`3 workers offer "m"`, "price removed 3 (", "asks 1100"}},
		{`"provider":{"only":["a"],"quantizations":["int4"]}`, "no_matching_worker", 404, []string{"only removed 2", "quantization removed 1 (a)"}},
		{`"provider":{"only":["nobody"]}`, "no_matching_worker", 404, []string{"only removed 3"}},
		{`"provider":{"attestation":"sealed"}`, "attestation_unavailable", 400, []string{"sidecar"}},
		{`"provider":{"attestation":"gateway"}`, "attestation_unavailable", 400, []string{"unprotected at best"}},
		{`"provider":{"attestation":"unprotected"}`, "no_matching_worker", 404, []string{"attestation removed 3"}},
		{`"provider":{"favourite":"a"}`, "", 400, []string{"favourite"}},
	} {
		resp := n.ask(wishing(tc.wish))
		object := text(t, resp)
		if code := errorCode(t, object); resp.StatusCode != tc.status || code != tc.code || tc.status == 404 && resp.Header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s: %d %s", tc.wish, resp.StatusCode, object)
		}
		for _, word := range tc.says {
			if !strings.Contains(strings.ReplaceAll(object, `\"`, `"`), word) {
				t.Errorf("%s does not say %q", object, word)
			}
		}
	}
	n.key = n.newKey(accounts.Settings{Provider: json.RawMessage(`{"only":["b"]}`), Cap: accounts.Cap{Out: 3000}})
	for wish, want := range map[string]string{`"x":1`: ids["b"], `"provider":{"only":["a"]}`: ids["a"]} {
		resp := n.ask(wishing(wish))
		if text(t, resp); resp.Header.Get("Cocoon-Worker") != want {
			t.Errorf("with the key's wishes and %s: %s, want %s", wish, resp.Header.Get("Cocoon-Worker"), want)
		}
	}
	if code := refused(t, n.ask(wishing(`"provider":{"only":["c"]}`)), http.StatusForbidden); code != "price_above_cap" {
		t.Errorf("above the key's cap: %s", code)
	}
	if code := refused(t, n.ask(wishing(`"provider":{"max_price":{"completion":5}}`)), http.StatusNotFound); code != "no_matching_worker" {
		t.Errorf("above the request's own bound: %s", code)
	}
}

// TestTooLong has a prompt that can't fit, however it is read: the client hears it in OpenAI's words.
func TestTooLong(t *testing.T) {
	n := newNetwork(t, nil)
	n.sold("small", 10, func(o *offer.Offer) { o.ContextTokens = 1000 })
	long := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("a", 9000) + `"}]}`
	if code := refused(t, n.ask(long), http.StatusBadRequest); code != "context_length_exceeded" {
		t.Errorf("code %s", code)
	}
	picture := `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,` + strings.Repeat("A", 90000) + `"}}]}]}`
	if resp := n.ask(picture); resp.StatusCode != http.StatusOK {
		t.Errorf("a picture counts as text: %s", text(t, resp))
	} else {
		text(t, resp)
	}
}

// TestModelsInTurn has the client name models that will do.
func TestModelsInTurn(t *testing.T) {
	n := newNetwork(t, nil)
	bodies := make(chan string, 100)
	told := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			bodies <- string(b)
			r.Body = io.NopCloser(strings.NewReader(string(b)))
			h(w, r)
		}
	}
	fails := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
	serves, _ := n.worker("serves", 8, told(good), "good-model")
	n.worker("fails", 8, fails, "bad", "both")
	n.worker("busy", 8, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "full")
	for name, body := range map[string]string{
		"unknown":  `{"model":"none","models":["good-model"],"stream":true}`,
		"no model": `{"models":["none","good-model:nitro"],"session_id":"a","provider":{"sort":"latency"},"stream":true}`,
		"no match": `{"models":["bad","good-model"],"provider":{"only":["serves"]},"stream":true}`,
		"fails":    `{"models":["bad","good-model"],"stream":true}`,
		"tried":    `{"models":["bad","both","good-model"],"stream":true}`,
		"busy":     `{"models":["full","good-model"],"stream":true}`,
	} {
		resp := n.ask(body)
		if got := text(t, resp); got != sseOf(role, hello, stopped, "[DONE]") || resp.Header.Get("Cocoon-Worker") != serves.String() {
			t.Fatalf("%s: %d %s", name, resp.StatusCode, got)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(<-bodies), &got); err != nil || got["model"] != "good-model" || got["stream"] != true || len(got) != 3 {
			t.Errorf("%s: the worker got %v, %v", name, got, err)
		}
	}
	if code := refused(t, n.ask(`{"models":["none","no other"]}`), http.StatusNotFound); code != "model_not_found" {
		t.Errorf("no such models: %s", code)
	}
	if code := refused(t, n.ask(`{"models":["none","good-model"],"provider":{"only":["x"]}}`), http.StatusNotFound); code != "no_matching_worker" {
		t.Errorf("the most hopeful error is not told: %s", code)
	}
	n.key = n.newKey(accounts.Settings{Models: []string{"bad"}})
	if code := refused(t, n.ask(`{"models":["bad:floor","good-model"]}`), http.StatusForbidden); code != "model_not_allowed" {
		t.Errorf("a model that the key is not for: %s", code)
	}
}

// TestNoFallbacks: who wants the first choice or nobody is told of its failure.
func TestNoFallbacks(t *testing.T) {
	n := newNetwork(t, nil)
	var calls atomic.Int64
	fails := func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}
	n.worker("a", 8, fails, "m")
	n.worker("b", 8, fails, "m")
	refused(t, n.ask(wishing(`"provider":{"allow_fallbacks":false}`)), http.StatusBadGateway)
	if got := calls.Swap(0); got != 1 {
		t.Errorf("%d workers were asked, want the first choice alone", got)
	}
	refused(t, n.ask(wishing(`"provider":{"allow_fallbacks":false,"order":["b","a"]}`)), http.StatusBadGateway)
	if got := calls.Load(); got != 2 {
		t.Errorf("%d workers were asked, want all in order", got)
	}
}

// TestClampedStream has a stream, which the gateway asks for usage, of an account with little money.
func TestClampedStream(t *testing.T) {
	n := billed(t, 4000)
	bodies := make(chan string, 1)
	n.pay(4, func(w http.ResponseWriter, r *http.Request, p *payee) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		honest(nil)(w, r, p)
	})
	resp := n.ask(`{"model":"m","provider":{"only":["payee"]},"stream":true,"session_id":"s","messages":[{"role":"user","content":"hi"}]}`)
	got, body, limit := text(t, resp), <-bodies, resp.Header.Get("Cocoon-Max-Tokens")
	if got != sseOf(role, hello, stopped, "[DONE]") || limit == "" {
		t.Fatalf("%d, %q tokens, %s", resp.StatusCode, limit, got)
	}
	if !strings.Contains(body, `"max_tokens":`+limit) || !strings.Contains(body, `"include_usage":true`) || strings.Contains(body, "provider") || strings.Contains(body, "session_id") || !json.Valid([]byte(body)) {
		t.Errorf("the worker got %s", body)
	}
	if got := n.spent(4000); got != helloCost {
		t.Errorf("it cost %d nanoTON", got)
	}
}

// TestPatience has a worker that hangs before its first token.
func TestPatience(t *testing.T) {
	for name, early := range map[string][]string{"silent": nil, "after the role": {role}} {
		t.Run(name, func(t *testing.T) {
			n := billed(t, nanoton.PerTON)
			hangs, release := make(chan struct{}, 10), make(chan struct{})
			var once sync.Once
			t.Cleanup(func() { once.Do(func() { close(release) }) })
			bad := n.pay(8, func(w http.ResponseWriter, r *http.Request, p *payee) {
				body, _ := io.ReadAll(r.Body)
				wire := p.receipt(r, body, nil)
				hangs <- struct{}{}
				events(w, early...)
				select {
				case <-release:
					events(w, role, hello, stopped)
					writeReceipt(w, wire)
					events(w, usage, "[DONE]")
				case <-r.Context().Done():
				}
			})
			n.known(bad.id) // or else it would get time as a new one
			alone := make(chan string, 1)
			go func() { alone <- text(t, n.ask(askStream)) }()
			<-hangs
			time.Sleep(2500 * time.Millisecond) // beyond the patience
			select {
			case got := <-alone:
				t.Fatalf("the only worker was not waited for: %s", got)
			default:
			}
			better := n.pay(8, honest(nil))
			n.known(better.id)
			if got := <-alone; got != sseOf(role, hello, stopped, "[DONE]") {
				t.Errorf("stream %s", got)
			}
			if got := n.spent(nanoton.PerTON); got != helloCost {
				t.Errorf("it cost %d nanoTON, want %d: that of the worker that served", got, helloCost)
			}
			n.until("no lease is left", func() bool { _, leases := n.server.table.Workers(); return leases == 0 })
		})
	}
}

// known has the router know a worker, as it does after some requests.
func (n *network) known(id tunnel.ID) {
	n.t.Helper()
	s := n.server
	pick := func() (l router.Lease[*member], ok bool) {
		w := router.NoWish()
		w.Only = []string{id.String()}
		l, err := s.table.Pick(&router.Request{Now: s.clock(), Model: "m", Wish: &w})
		return l, err == nil
	}
	n.until("the worker can be picked", func() bool {
		l, ok := pick()
		if ok {
			l.Release(s.clock(), router.Done{Outcome: router.Unused})
		}
		return ok
	})
	n.until("the worker is known", func() bool {
		l, ok := pick()
		if !ok {
			return false
		}
		now := s.clock()
		l.First(now + 10*time.Millisecond)
		l.Progress(now+time.Second, 100)
		l.Release(now+time.Second, router.Done{In: 10, Out: 100})
		return l.Patience() < 10*time.Second
	})
}

// TestDraining has a worker that drains refuse a request: that says nothing of what it can take.
func TestDraining(t *testing.T) {
	n := newNetwork(t, nil)
	id, _ := n.worker("w", 64, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, "m")
	m := n.server.appraiser.all()[0]
	sheet := *m.sheet.Load()
	sheet.Draining = true
	m.sheet.Store(&sheet) // as if its report came while the request was on its way
	refused(t, n.ask(askWhole), http.StatusServiceUnavailable)
	before, _ := n.server.table.Model("m")
	if before.Capacity != 64 {
		t.Errorf("capacity %d after a worker that drains refused, want 64", before.Capacity)
	}
	sheet.Draining = false
	m.sheet.Store(&sheet)
	refused(t, n.ask(askWhole), http.StatusServiceUnavailable)
	if after, _ := n.server.table.Model("m"); after.Capacity >= 64 {
		t.Errorf("capacity %d of worker %s after it refused", after.Capacity, id)
	}
}

// TestSpeedIsLearned: what a stream's text says of its speed reaches the router.
func TestSpeedIsLearned(t *testing.T) {
	n := newNetwork(t, nil)
	word := fmt.Sprintf(`{"choices":[{"index":0,"delta":{"content":%q},"finish_reason":null}]}`, strings.Repeat("word", 50))
	id, _ := n.worker("w", 8, func(w http.ResponseWriter, _ *http.Request) {
		events(w, role)
		for range 30 {
			events(w, word)
			time.Sleep(40 * time.Millisecond)
		}
		events(w, stopped, usage, "[DONE]")
	}, "m")
	was := n.server.table.Demand(router.ID(id))[0].Speed
	text(t, n.ask(askStream))
	if is := n.server.table.Demand(router.ID(id))[0].Speed; is <= was {
		t.Errorf("a stream of some 1000 tokens a second is taken for %v, before it for %v", is, was)
	}
}

// TestCacheSalt: each account has a salt of its own, the same at all gateways of a ledger.
func TestCacheSalt(t *testing.T) {
	n := newNetwork(t, nil)
	salts := make(chan []string, 1)
	n.worker("w", 8, func(w http.ResponseWriter, r *http.Request) {
		salts <- r.Header.Values(tunnel.SaltHeader)
		good(w, r)
	}, "m")
	ask := func() string {
		text(t, n.ask(askWhole))
		got := <-salts
		if len(got) != 1 || len(got[0]) != 43 {
			t.Fatalf("salts %q", got)
		}
		return got[0]
	}
	first := ask()
	n.key = n.newKey(accounts.Settings{Name: "of the same account"})
	if got := ask(); got != first {
		t.Errorf("the account has two salts: %s and %s", got, first)
	}
	if _, err := n.server.money.book.CreateAccount(t.Context(), "other", accounts.Limits{}); err != nil {
		t.Fatal(err)
	}
	key, _, err := n.server.money.book.CreateKey(t.Context(), "other", accounts.Settings{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	n.key = key.Reveal()
	if got := ask(); got == first {
		t.Error("two accounts share a salt")
	}
}

func TestSharedSecret(t *testing.T) {
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	secrets := make(chan string, 8)
	for range cap(secrets) { // gateways that start at once
		go func() {
			s, err := loadSecret(context.Background(), l)
			if err != nil {
				t.Error(err)
			}
			secrets <- string(s)
		}()
	}
	first := <-secrets
	for range cap(secrets) - 1 {
		if got := <-secrets; got != first || len(got) != secretSize {
			t.Fatalf("two gateways have other secrets")
		}
	}
	one, two := tenantOf([]byte(first), "customer:ann"), tenantOf([]byte(first), "customer:ann")
	if one != two || one == tenantOf([]byte(first), "customer:bob") || one.salt == tenantOf(make([]byte, secretSize), "customer:ann").salt {
		t.Error("salts are not one for each account and secret")
	}
}

// TestHome: a conversation has one home, whichever gateway is asked, and no two accounts share one.
func TestHome(t *testing.T) {
	home := func(account, text string, header ...string) uint64 {
		buf := []byte(text)
		head, err := openai.ReadHead(buf)
		if err != nil {
			t.Fatal(err)
		}
		who := tenantOf(nil, ledger.Account(account))
		c := &call{head: head, tenant: &who, body: body{buf: &buf}, r: &http.Request{Header: http.Header{}}}
		for _, h := range header {
			c.r.Header.Set("X-Session-Id", h)
		}
		return c.home()
	}
	const begin = `{"model":"m","messages":[{"role":"user","content":"hi"}`
	named := home("a", `{"model":"m","session_id":"s"}`)
	for what, got := range map[string]uint64{
		"other messages": home("a", `{"model":"m","session_id":"s","messages":[]}`), "header": home("a", `{"model":"m"}`, "s"),
		"cache key": home("a", `{"model":"m","prompt_cache_key":"s"}`), "session before cache key": home("a", `{"model":"m","prompt_cache_key":"x","session_id":"s"}`),
	} {
		if got != named {
			t.Errorf("%s: another home", what)
		}
	}
	seen := map[uint64]string{named: "named"}
	for what, got := range map[string]uint64{
		"account": home("b", `{"model":"m","session_id":"s"}`), "session": home("a", `{"model":"m","session_id":"t"}`),
		"messages": home("a", begin+`]}`), "account's messages": home("b", begin+`]}`), "messages as a name": home("a", `{"model":"m","messages":"s"}`),
	} {
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the home of %s", what, other)
		}
		seen[got] = what
	}
	long := strings.Repeat("x", 2000)
	if home("a", begin+`,{"role":"user","content":"`+long+`a"}]}`) != home("a", begin+`,{"role":"user","content":"`+long+`b"}]}`) {
		t.Error("a conversation that goes on has another home")
	}
}

// TestDemandIsTold has a worker hear of demand, and one that takes none.
func TestDemandIsTold(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.FeePPM = 100_000 })
	heard := make(chan *offer.Market, 10)
	id, _ := n.join("listens", 8, good, []string{"m", "idle"}, func(_ *offer.Sheet, c *tunnel.DialerConfig) {
		c.Market = func(text []byte) error {
			m := new(offer.Market)
			if err := json.Unmarshal(text, m); err != nil {
				return err
			}
			heard <- m
			return m.Validate()
		}
	})
	deaf := n.sold("deaf", 1000, nil)
	for range 3 {
		text(t, n.ask(wishing(`"provider":{"only":["listens"]}`)))
	}
	n.server.tellAll(t.Context())
	got := <-heard
	if len(got.Models) != 2 || got.FeePPM != 100_000 {
		t.Fatalf("%+v", got)
	}
	m := got.Models[0]
	if m.Model != "m" || m.Workers != 2 || m.Requests != 3 || m.SharePPM != 1_000_000 || m.TokensIn != 9 || m.TokensOut != 3 || m.Rank != 1 {
		t.Errorf("%+v", m)
	}
	if (m.Ask != offer.Price{In: 10, Out: 30} || m.Lowest != offer.Price{In: 10, Out: 30} || m.Median.Out != 30 || len(m.At) == 0 || m.YourSpeed != 0) { // nothing streamed, so no speed was measured
		t.Errorf("%+v", m)
	}
	for _, k := range n.server.appraiser.all() {
		if k.deaf.Load() != (k.ID() == deaf) {
			t.Errorf("worker %s: deaf %v", k.ID(), k.deaf.Load())
		}
	}
	n.server.tellAll(t.Context())
	if got = <-heard; len(got.Models) != 2 || id == deaf {
		t.Errorf("the second time: %+v", got)
	}
}
