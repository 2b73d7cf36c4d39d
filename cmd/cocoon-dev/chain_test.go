package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/liteclient"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/billing/ton/devnet"
)

const someone = "UQAREREREREREREREREREREREREREREREREREREREREREbvW"

// ask sends JSON to the chain's HTTP side, and decodes what it says.
func ask(t *testing.T, c *chain, method, path, body string, headers ...string) (status int, answer map[string]any) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:9090"+path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	w := httptest.NewRecorder()
	c.faucet().ServeHTTP(w, r)
	text, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	if w.Header().Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
	return w.Code, answer
}

func newChain(t *testing.T, dir string) *chain {
	t.Helper()
	c, err := startChain(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestFaucet(t *testing.T) {
	c := newChain(t, t.TempDir())
	a, err := devnet.ParseAddress(someone)
	if err != nil {
		t.Fatal(err)
	}
	before := c.network.Seqno()
	status, got := ask(t, c, "POST", "/dev/faucet", `{"to":"`+someone+`","nanoton":"1500000000","comment":"cust-abcd"}`)
	if status != http.StatusOK || got["to"] != someone || got["nanoton"] != "1500000000" || got["comment"] != "cust-abcd" {
		t.Fatalf("%d %v", status, got)
	}
	if seqno := got["seqno"].(float64); seqno <= float64(before) || seqno > float64(c.network.Seqno()) {
		t.Errorf("seqno %v, was %d, is %d", seqno, before, c.network.Seqno())
	}
	if b := c.network.Balance(a).Int64(); b < 1_499_000_000 || b > 1_500_000_000 {
		t.Errorf("a balance of %d", b)
	}
}

func TestFaucetRefuses(t *testing.T) {
	c := newChain(t, t.TempDir())
	body := func(to, nano, comment string) string {
		return `{"to":"` + to + `","nanoton":"` + nano + `","comment":"` + comment + `"}`
	}
	good := body(someone, "1", "")
	text := []string{"Content-Type", "text/plain"}
	cross := []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://example.com"}
	for name, v := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		"bad address":     {body: body("UQabc", "1", ""), status: 400, code: "bad_address"},
		"wrong checksum":  {body: body(strings.Replace(someone, "UQAR", "UQAS", 1), "1", ""), status: 400, code: "bad_address"},
		"workchain":       {body: body("5:"+strings.Repeat("11", 32), "1", ""), status: 400, code: "bad_address"},
		"no amount":       {body: body(someone, "", ""), status: 400, code: "bad_amount"},
		"zero":            {body: body(someone, "0", ""), status: 400, code: "bad_amount"},
		"negative":        {body: body(someone, "-1", ""), status: 400, code: "bad_amount"},
		"plus":            {body: body(someone, "+1", ""), status: 400, code: "bad_amount"},
		"hex":             {body: body(someone, "0x10", ""), status: 400, code: "bad_amount"},
		"fraction":        {body: body(someone, "1.5", ""), status: 400, code: "bad_amount"},
		"number":          {body: `{"to":"` + someone + `","nanoton":1}`, status: 400, code: "bad_request"},
		"too much":        {body: body(someone, "1000000000000001", ""), status: 400, code: "too_much"},
		"beyond 64 bits":  {body: body(someone, strings.Repeat("9", 30), ""), status: 400, code: "too_much"},
		"long comment":    {body: body(someone, "1", strings.Repeat("x", 121)), status: 400, code: "long_comment"},
		"unknown member":  {body: `{"to":"` + someone + `","nanoton":"1","fee":"1"}`, status: 400, code: "bad_request"},
		"two values":      {body: good + good, status: 400, code: "bad_request"},
		"large":           {body: body(someone, "1", strings.Repeat("x", 5000)), status: 413, code: "request_too_large"},
		"form":            {body: good, headers: text, status: 415, code: "unsupported_media_type"},
		"web page":        {body: good, headers: cross, status: 403, code: "cross_origin"},
		"rebound address": {body: good, headers: []string{"Host", "evil.example:9090"}, status: 403, code: "wrong_host"},
	} {
		status, got := ask(t, c, "POST", "/dev/faucet", v.body, v.headers...)
		e, _ := got["error"].(map[string]any)
		if status != v.status || e["code"] != v.code || e["message"] == "" {
			t.Errorf("%s: %d %v, want %d %s", name, status, got, v.status, v.code)
		}
	}
	if s := c.network.Stats(); s.Minted != 0 {
		t.Errorf("%d messages all the same", s.Minted)
	}
}

func TestChainClock(t *testing.T) {
	dir := t.TempDir()
	c := newChain(t, dir)
	_, was := ask(t, c, "GET", "/dev/chain", "")
	if was["config"] != filepath.Join(dir, chainConfigName) || was["seqno"].(float64) < 1 {
		t.Errorf("%v", was)
	}
	status, is := ask(t, c, "POST", "/dev/chain/skew", `{"seconds":86400}`)
	if status != http.StatusOK || is["seqno"].(float64) <= was["seqno"].(float64) {
		t.Fatalf("%d %v", status, is)
	}
	when := func(v map[string]any) time.Time {
		at, err := time.Parse(time.RFC3339, v["time"].(string))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if d := when(is).Sub(when(was)); d < 24*time.Hour || d > 25*time.Hour {
		t.Errorf("it went on by %v", d)
	}
	for _, bad := range []string{
		`{}`, `{"seconds":9000000000}`, `{"seconds":-9000000000}`, `{"seconds":"1"}`, `{"seconds":1e30}`,
	} {
		if status, got := ask(t, c, "POST", "/dev/chain/skew", bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", bad, status, got)
		}
	}
	if status, _ := ask(t, c, "GET", "/dev/faucet", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("a GET: %d", status)
	}
}

// A client that has the config of before goes on after a restart: the same server, the same chain, the same money.
func TestChainRestarts(t *testing.T) {
	dir := t.TempDir()
	c := newChain(t, dir)
	ask(t, c, "POST", "/dev/faucet", `{"to":"`+someone+`","nanoton":"7000000000"}`)
	ask(t, c, "POST", "/dev/chain/skew", `{"seconds":3600}`)
	config, err := os.ReadFile(c.config)
	if err != nil {
		t.Fatal(err)
	}
	seqno, at := c.network.Seqno(), c.network.BlockTime()
	a, err := devnet.ParseAddress(someone)
	if err != nil {
		t.Fatal(err)
	}
	balance := c.network.Balance(a)
	c.close()

	c = newChain(t, dir)
	if again, err := os.ReadFile(c.config); err != nil || string(again) != string(config) {
		t.Errorf("another config (%v):\n%s\n%s", err, config, again)
	}
	if c.network.Seqno() <= seqno || c.network.BlockTime().Before(at) || c.network.Balance(a).Cmp(balance) != 0 {
		t.Errorf("block %d of %v, balance %v", c.network.Seqno(), c.network.BlockTime(), c.network.Balance(a))
	}
	var global liteclient.GlobalConfig
	if err := json.Unmarshal(config, &global); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool := liteclient.NewConnectionPool()
	defer pool.Stop()
	if err := pool.AddConnectionsFromConfig(ctx, &global); err != nil {
		t.Fatal(err)
	}
	api := ton.NewAPIClient(pool, ton.ProofCheckPolicySecure)
	api.SetTrustedBlockFromConfig(&global)
	head, err := api.GetMasterchainInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	acc, err := api.GetAccount(ctx, head, a)
	if err != nil || acc.State.Balance.Nano().Cmp(balance) != 0 {
		t.Errorf("%v, %v", acc, err)
	}
}
