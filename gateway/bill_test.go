package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cocoon/attest/simtee"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

// payee is a worker that meters, as the script wants it. Its price is 1 nanoTON a token read and 3 a token made.
type payee struct {
	id     tunnel.ID
	key    ed25519.PrivateKey
	keyset receipt.Digest
}

// payeePrice is what payees ask.
func payeePrice() offer.Price { return offer.Price{In: 1_000_000, Cached: 1_000_000, Out: 3_000_000} }

// pay connects a payee; the handler answers with what sign makes of a request.
func (n *network) pay(capacity int, handler func(w http.ResponseWriter, r *http.Request, p *payee)) *payee {
	n.t.Helper()
	identity, err := tunnel.LoadIdentity(n.t.TempDir() + "/identity.pem")
	if err != nil {
		n.t.Fatal(err)
	}
	p := &payee{id: identity.ID()}
	_, p.key, _ = ed25519.GenerateKey(nil)
	k := keysetOf(p.id, "m")
	k.Receipt = p.key.Public().(ed25519.PublicKey)
	text, err := json.Marshal(k)
	if err != nil {
		n.t.Fatal(err)
	}
	p.keyset = sha256.Sum256(text)
	sheet, _ := json.Marshal(offer.Sheet{V: offer.Version, Version: 1, Name: "payee", Offers: []offer.Offer{{
		Model: "m", Engine: "script", ContextTokens: 4096, Features: []string{offer.FeatureChat}, Price: payeePrice(), Slots: capacity, Capacity: capacity,
	}}})
	pin := n.server.ID()
	d := tunnel.NewDialer(tunnel.DialerConfig{
		Identity: identity, Address: n.server.WorkerAddr().String(), Pin: &pin, Log: n.server.log, Capacity: func() int { return capacity },
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(w, r, p) }),
		Attest:   answering(n.t, machine(n.t, simtee.Config{}), k),
		Receipts: func(context.Context, []byte) ([]byte, error) { return nil, nil },
		Report: func(ctx context.Context, after uint64) (uint64, []byte) {
			if after >= 1 {
				<-ctx.Done()
				return after, nil
			}
			return 1, sheet
		},
	})
	n.run(d.Run)
	n.until("the payee is in the table", func() bool { _, ok := n.server.table.Model("m"); return ok })
	return p
}

// receipt is a final receipt for a request, rightly made; change may spoil it.
func (p *payee) receipt(r *http.Request, body []byte, change func(*receipt.Receipt)) []byte {
	var keyset, mode string
	var price offer.Price
	if _, err := fmt.Sscan(r.Header.Get("Cocoon-Terms"), &keyset, &mode, &price.In, &price.Cached, &price.Out); err != nil {
		return nil
	}
	now := time.Now().UnixMilli()
	t := receipt.Receipt{
		Request: r.Header.Get("Cocoon-Request"), Worker: receipt.Digest(p.id), Epoch: 1, Keyset: p.keyset, Model: "m",
		Engine: sha256.Sum256([]byte("script")), Mode: receipt.Mode(mode), Kind: receipt.Final, Status: receipt.OK,
		Tokens: offer.Usage{In: 3, Out: 1}, Price: price, Req: sha256.Sum256(body), Start: now, End: now,
	}
	if change != nil {
		change(&t)
	}
	t.Cost, _ = t.Price.Cost(t.Tokens)
	s, err := receipt.Sign(t, p.key)
	if err != nil {
		return []byte("cocoon-receipt/v1\nnonsense")
	}
	return s.Wire()
}

// honest answers rightly, with a receipt that change may spoil.
func honest(change func(*receipt.Receipt)) func(http.ResponseWriter, *http.Request, *payee) {
	return func(w http.ResponseWriter, r *http.Request, p *payee) {
		body, _ := io.ReadAll(r.Body)
		wire := p.receipt(r, body, change)
		if !strings.Contains(string(body), `"stream":true`) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, whole+"\n"+string(wire))
			return
		}
		events(w, role, hello, stopped)
		writeReceipt(w, wire)
		events(w, usage, "[DONE]")
	}
}

func writeReceipt(w io.Writer, wire []byte) {
	for line := range bytes.Lines(wire) {
		fmt.Fprintf(w, "data: %s", line)
	}
	_, _ = io.WriteString(w, "\n")
}

// billed is a gateway with billing, whose accounts begin with so much money.
func billed(t *testing.T, money nanoton.Amount) *network {
	return newNetwork(t, func(c *Config) { c.Billing, c.TestMoney, c.FeePPM = BillingOn, money, 100_000 })
}

// account is what GET /cocoon/v1/account says.
func (n *network) account() (v struct {
	Balance nanoton.Amount `json:"balance_nanoton"`
	Held    nanoton.Amount `json:"held_nanoton"`
},
) {
	n.t.Helper()
	status, text := n.getKey("/cocoon/v1/account")
	if err := json.Unmarshal([]byte(text), &v); err != nil || status != http.StatusOK {
		n.t.Fatalf("account: %d %s %v", status, text, err)
	}
	return v
}

func (n *network) getKey(path string) (int, string) {
	n.t.Helper()
	r, err := http.NewRequest(http.MethodGet, n.base+path, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.key)
	resp, err := n.client.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, text(n.t, resp)
}

// spent waits until nothing is held, and says what is gone of so much.
func (n *network) spent(money nanoton.Amount) nanoton.Amount {
	n.t.Helper()
	n.until("nothing is held", func() bool { return n.account().Held == 0 && n.server.money.clerk.Stats().Queued == 0 })
	return money - n.account().Balance
}

// 3 tokens read and 1 made, at 1.1 and 3.3 nanoTON: 6.6.
const helloCost = 7

func TestBill(t *testing.T) {
	const money = nanoton.PerTON
	n := billed(t, money)
	n.pay(4, honest(nil))
	resp := n.ask(askWhole)
	id := resp.Header.Get("Cocoon-Receipt")
	if got := resp.Header.Get("Cocoon-Cost-NanoTON"); got != fmt.Sprint(helloCost) {
		t.Errorf("Cocoon-Cost-NanoTON is %q, want %d", got, helloCost)
	}
	if got, want := text(t, resp), strings.Replace(whole, `"total_tokens":4}`, `"total_tokens":4,"cost_nanoton":7}`, 1); got != want {
		t.Errorf("answer\n%s\nwant\n%s", got, want)
	}
	if got, want := text(t, n.ask(askStream)), sseOf(role, hello, stopped, "[DONE]"); got != want {
		t.Errorf("stream\n%s\nwant\n%s", got, want)
	}
	asked := `{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]}`
	if got := text(t, n.ask(asked)); !strings.Contains(got, `"total_tokens":4,"cost_nanoton":7}`) || strings.Contains(got, "cocoon-receipt") {
		t.Errorf("stream with usage: %s", got)
	}
	if got := n.spent(money); got != 3*helloCost {
		t.Errorf("three answers cost %d nanoTON, want %d", got, 3*helloCost)
	}
	n.until("the receipt is in the log", func() bool { status, _ := n.getKey("/cocoon/v1/receipts/" + id); return status == http.StatusOK })
	_, kept := n.getKey("/cocoon/v1/receipts/" + id)
	items, err := receipt.Read([]byte(kept))
	if err != nil || len(items) != 1 || items[0].Request != id || items[0].Keyset == nil || items[0].Proof == nil {
		t.Fatalf("the receipt that is kept: %v\n%s", err, kept)
	}
	if status, _ := n.getKey("/cocoon/v1/receipts/" + items[0].ID().String()); status != http.StatusOK {
		t.Errorf("by its own ID: status %d", status)
	}
	if status, text := n.get("/cocoon/v1/evidence/" + items[0].Receipt.Keyset.String()); status != http.StatusOK || !strings.Contains(text, "cpu") {
		t.Errorf("its evidence: %d %.100s", status, text)
	}
	if status, text := n.getKey("/cocoon/v1/receipts/req_" + strings.Repeat("0", 32)); status != http.StatusNotFound || errorCode(t, text) != "receipt_not_found" {
		t.Errorf("a receipt that is not there: %d %s", status, text)
	}
}

// TestBadReceipts has workers lie. Nobody pays for that, and an answer that can still be had elsewhere is not given.
func TestBadReceipts(t *testing.T) {
	for name, change := range map[string]func(*receipt.Receipt){
		"other request":     func(r *receipt.Receipt) { r.Request = "req_" + strings.Repeat("0", 32) },
		"higher price":      func(r *receipt.Receipt) { r.Price.Out *= 2 },
		"other model":       func(r *receipt.Receipt) { r.Model = "n" },
		"other mode":        func(r *receipt.Receipt) { r.Mode = receipt.Gateway },
		"other keyset":      func(r *receipt.Receipt) { r.Keyset = receipt.Digest{1} },
		"other worker":      func(r *receipt.Receipt) { r.Worker = receipt.Digest{1} },
		"more than allowed": func(r *receipt.Receipt) { r.Tokens.Out = 5000 },
		"other body":        func(r *receipt.Receipt) { r.Req = receipt.Digest{1} },
		"no receipt":        func(r *receipt.Receipt) { r.Model = "" },
	} {
		t.Run(name, func(t *testing.T) {
			n := billed(t, nanoton.PerTON)
			n.pay(4, honest(change))
			if code := refused(t, n.ask(askWhole), http.StatusBadGateway); code != "worker_failed" {
				t.Errorf("code %q", code)
			}
			if got := n.spent(nanoton.PerTON); got != 0 {
				t.Errorf("it cost %d nanoTON", got)
			}
		})
	}
	t.Run("other key", func(t *testing.T) {
		n := billed(t, nanoton.PerTON)
		n.pay(4, func(w http.ResponseWriter, r *http.Request, p *payee) {
			_, key, _ := ed25519.GenerateKey(nil)
			honest(nil)(w, r, &payee{p.id, key, p.keyset})
		})
		// Signatures are looked at when receipts are settled, many at once: the answer is a gift then.
		resp := n.ask(askWhole)
		if answer := text(t, resp); resp.StatusCode != http.StatusOK {
			t.Errorf("status %d: %s", resp.StatusCode, answer)
		}
		if got := n.spent(nanoton.PerTON); got != 0 {
			t.Errorf("it cost %d nanoTON", got)
		}
	})
}

// TestReceiptMissing has a worker that answers well and signs nothing: the answer is a gift.
func TestReceiptMissing(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	n.pay(4, func(w http.ResponseWriter, r *http.Request, _ *payee) { good(w, r) })
	if got, want := text(t, n.ask(askStream)), sseOf(role, hello, stopped, "[DONE]"); got != want {
		t.Errorf("stream\n%s\nwant\n%s", got, want)
	}
	if got := n.spent(nanoton.PerTON); got != 0 {
		t.Errorf("it cost %d nanoTON", got)
	}
}

func TestFunds(t *testing.T) {
	const little = 4000 // nanoTON: the prompt's ceiling is 1.1 * (70 bytes + 1024), then 3.3 a token
	n := billed(t, little)
	bodies := make(chan string, 10)
	n.pay(4, func(w http.ResponseWriter, r *http.Request, p *payee) {
		b, _ := io.ReadAll(r.Body)
		bodies <- string(b)
		r.Body = io.NopCloser(bytes.NewReader(b))
		honest(nil)(w, r, p)
	})
	resp := n.ask(askWhole)
	text(t, resp)
	limit := resp.Header.Get("Cocoon-Max-Tokens")
	if body := <-bodies; resp.StatusCode != http.StatusOK || limit == "" || !strings.Contains(body, `"max_tokens":`+limit) {
		t.Errorf("status %d, Cocoon-Max-Tokens %q, body %s: want a shorter answer", resp.StatusCode, limit, body)
	}
	resp = n.ask(`{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`)
	text(t, resp)
	if body := <-bodies; resp.Header.Get("Cocoon-Max-Tokens") != "" || !strings.Contains(body, `"max_tokens":5`) {
		t.Errorf("what the money is enough for is changed: %s", body)
	}
	if got := n.spent(little); got != 2*helloCost {
		t.Errorf("it cost %d nanoTON, want %d", got, 2*helloCost)
	}
	big := `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"` + strings.Repeat("a", 3000) + `"}]}`
	resp = n.ask(big)
	if resp.Header.Get("X-Should-Retry") != "false" {
		t.Error("a client is not told that it need not try again")
	}
	object := text(t, resp)
	if code := errorCode(t, object); resp.StatusCode != http.StatusPaymentRequired || code != "insufficient_balance" {
		t.Errorf("%d %s", resp.StatusCode, object)
	}
	for _, word := range []string{"balance 0.000003986 TON", "held", "needed"} {
		if !strings.Contains(object, word) {
			t.Errorf("%s does not say %q", object, word)
		}
	}
	if len(bodies) != 0 {
		t.Error("a worker was asked without money")
	}
}

func TestKeyLimits(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	n.pay(4, honest(nil))
	for name, tc := range map[string]struct {
		set    accounts.Settings
		body   string
		status int
		code   string
	}{
		"model":     {accounts.Settings{Models: []string{"other*"}}, askWhole, 403, "model_not_allowed"},
		"price cap": {accounts.Settings{Cap: accounts.Cap{Out: 3_000_000}}, askWhole, 403, "price_above_cap"},
		"budget":    {accounts.Settings{Budget: 1000, Reset: accounts.ResetDaily}, askWhole, 402, "key_budget_exceeded"},
		"scope":     {accounts.Settings{Scopes: []string{accounts.ScopeAccount}}, askWhole, 403, "scope_missing"},
		"expired":   {accounts.Settings{Expires: time.Now().Add(-time.Minute)}, askWhole, 401, "invalid_api_key"},
		"enough":    {accounts.Settings{Models: []string{"m*"}, Cap: accounts.Cap{Out: 3_300_000}, Budget: 100_000}, askWhole, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := *n
			n.t, n.key = t, n.newKey(tc.set)
			resp := n.ask(tc.body)
			object := text(t, resp)
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, tc.status, object)
			}
			if tc.code != "" && errorCode(t, object) != tc.code {
				t.Errorf("%s, want the code %s", object, tc.code)
			}
		})
	}
	n.key = n.newKey(accounts.Settings{Limits: accounts.Limits{RequestsPerMinute: 1, TokensPerMinute: 1000}})
	resp := n.ask(askWhole)
	text(t, resp)
	for header, want := range map[string]string{
		"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-tokens": "1000",
	} {
		if got := resp.Header.Get(header); got != want {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	if d, err := time.ParseDuration(resp.Header.Get("x-ratelimit-reset-requests")); err != nil || d <= 0 || d > time.Minute {
		t.Errorf("x-ratelimit-reset-requests: %v, %v", d, err)
	}
	resp = n.ask(askWhole)
	if code := refused(t, resp, http.StatusTooManyRequests); code != "rate_limit_exceeded" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("code %q, Retry-After %q", code, resp.Header.Get("Retry-After"))
	}
}

// TestUsage has two end users, one named in the body and one in a header.
func TestUsage(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	n.pay(4, honest(nil))
	text(t, n.ask(`{"model":"m","user":"ann","messages":[{"role":"user","content":"hi"}]}`))
	r, err := http.NewRequest(http.MethodPost, n.base+chatPath, strings.NewReader(askWhole))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.key)
	r.Header.Set("Cocoon-User", "bob")
	resp, err := n.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	text(t, resp)
	want := "model,user,requests,input_tokens,cached_tokens,output_tokens,reasoning_tokens,cost_nanoton,cost_ton\n" +
		"m,ann,1,3,0,1,0,7,0.000000007\nm,bob,1,3,0,1,0,7,0.000000007\n"
	var got string
	for end := time.Now().Add(waitMax); got != want; time.Sleep(10 * time.Millisecond) {
		if _, got = n.getKey("/cocoon/v1/usage?by=model,user&format=csv"); time.Now().After(end) {
			t.Fatalf("usage\n%s\nwant\n%s", got, want)
		}
	}
}

// TestKeysetOutgrown has a worker that says that it has another keyset: it is attested anew, unless it just was.
func TestKeysetOutgrown(t *testing.T) {
	n := billed(t, nanoton.PerTON)
	n.pay(4, func(w http.ResponseWriter, _ *http.Request, _ *payee) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"error":{"message":"other keyset","type":"server_error","param":null,"code":"keyset_not_served"}}`)
	})
	m := n.server.appraiser.all()[0]
	first := m.result.Load()
	refused(t, n.ask(askWhole), http.StatusServiceUnavailable)
	if m.result.Load() != first {
		t.Error("a worker is attested as often as it likes")
	}
	old := *first
	old.At = old.At.Add(-outgrownMin)
	m.result.Store(&old)
	refused(t, n.ask(askWhole), http.StatusServiceUnavailable)
	n.until("the worker is attested anew", func() bool { return m.result.Load() != &old })
	if got := n.spent(nanoton.PerTON); got != 0 {
		t.Errorf("it cost %d nanoTON", got)
	}
}

func TestPrices(t *testing.T) {
	n := billed(t, 0)
	n.pay(4, honest(nil))
	status, text := n.get("/cocoon/v1/prices")
	for _, want := range []string{
		`"fee_ppm":100000`, `"model":"m"`, `"cheapest_nanoton_per_mtok":{"in":1100000,"cached":1100000,"out":3300000}`,
		`"ask_nanoton_per_mtok":{"in":1000000,"cached":1000000,"out":3000000}`,
	} {
		if status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("prices lack %s: %d %s", want, status, text)
		}
	}
	if status, _ := n.get("/cocoon/v1/prices?model=nope"); status != http.StatusNotFound {
		t.Errorf("prices of a model that is not there: status %d", status)
	}
}
