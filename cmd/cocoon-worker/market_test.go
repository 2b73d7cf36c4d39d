package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cocoon/router/offer"
	"cocoon/worker"
)

// aMarket is one of each kind of model.
func aMarket() offer.Market {
	ask := offer.Price{In: 50_000_000, Cached: 10_000_000, Out: 150_000_000}
	one := offer.ModelMarket{
		Model: "llama3.2:3b", Workers: 7, Requests: 12_340, TokensIn: 4_500_000, TokensOut: 999, SharePPM: 123_400,
		Ask: ask, Lowest: offer.Price{In: 40_000_000, Cached: 4_000_000, Out: 90_000_000}, Median: ask, Rank: 3,
		Considered: 2000, Won: 420, At: []offer.PricePoint{{PPM: 800_000, Won: 700}, {PPM: 1_200_000, Won: 100}},
		YourTTFT: 230, MedianTTFT: 310, YourSpeed: 45,
	}
	stay, few, none, free := one, one, one, one
	stay.Requests, few.Requests = 12_000, 11_000
	stay.Model, stay.At = "stay", []offer.PricePoint{{PPM: 500_000, Won: 500}, {PPM: 1_000_000, Won: 420}}
	few.Model, few.Considered, few.Won, few.At = "$(rm)", 99, 10, []offer.PricePoint{{PPM: 500_000, Won: 90}}
	none.Model, none.Won, none.At, none.YourTTFT, none.YourSpeed, none.Rank = "none", 0, nil, 0, 0, 0
	none.Requests, none.Workers = 1, 1
	free.Model, free.Ask, free.Requests = "free", offer.Price{}, 0
	return offer.Market{
		V: offer.MarketVersion, Seconds: 3600, FeePPM: 55_000, Models: []offer.ModelMarket{free, none, few, stay, one},
	}
}

// opsOf serves what a running worker would, and returns the configuration that names it.
func opsOf(t *testing.T, list ...worker.GatewayMarket) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"v": 1, "gateways": list})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/market" {
			_, _ = w.Write(text)
		}
	}))
	t.Cleanup(srv.Close)
	return configFile(t, fmt.Sprintf("price: {in: 50000000, cached: 10000000, out: 150000000}\nops_listen: %s\n", srv.Listener.Addr()))
}

const golden = `gateway gw.example.com:8443, the last 60 minutes, told 2 minutes ago; its customers pay your price and 5.5 % on top

llama3.2:3b
  demand: 12.3k requests, 4.5M tokens in, 999 out; offered by 7 workers
  you: 12.3 % of the requests; by the price of output you are number 3 of 7, 1 being the cheapest
  first token after: 230 ms; the median worker's: 310 ms
  tokens a second: 45; the median worker's: not measured yet
  FOR A MILLION TOKENS  IN        CACHED     OUT       WON   EARNED
  the lowest of all     0.04 TON  0.004 TON  0.09 TON  -     -
  the median of all     0.05 TON  0.01 TON   0.15 TON  -     -
  you, at 80 %          0.04 TON  0.008 TON  0.12 TON  35 %  133 %
  you, as it is         0.05 TON  0.01 TON   0.15 TON  21 %  100 %
  you, at 120 %         0.06 TON  0.012 TON  0.18 TON  5 %   28 %
  you ask 0.15 TON for output; at 0.12 TON you would have won 35 % of the requests (21 % now) and earned most:
    cocoon-worker price set --model llama3.2:3b --in 40000000 --cached 8000000 --out 120000000 --config w.yaml
`

// TestMarketGolden is what a GPU owner reads.
func TestMarketGolden(t *testing.T) {
	var b strings.Builder
	now := time.UnixMilli(1_700_000_000_000)
	ask := offer.Price{In: 50_000_000, Cached: 10_000_000, Out: 150_000_000}
	p := marketPrinter{w: &b, now: now, config: "w.yaml", asks: func(string) offer.Price { return ask }}
	m := aMarket()
	m.Models = m.Models[4:]
	g := worker.GatewayMarket{Gateway: "gw.example.com:8443", At: now.Add(-2 * time.Minute).UnixMilli(), Market: m}
	if err := p.print([]worker.GatewayMarket{g}); err != nil {
		t.Fatal(err)
	}
	if b.String() != golden {
		t.Errorf("got\n%s\nwant\n%s", b.String(), golden)
	}
}

// TestMarketUnmeasured: before anything was measured the page says so in words, and has no rows of nothing.
func TestMarketUnmeasured(t *testing.T) {
	m := aMarket()
	m.Models = m.Models[4:]
	one := &m.Models[0]
	one.Considered, one.Won, one.YourTTFT, one.MedianTTFT, one.YourSpeed = 0, 0, 0, 0, 0
	for i := range one.At {
		one.At[i].Won = 0
	}
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	p := marketPrinter{w: &b, now: time.Now(), asks: func(string) offer.Price { return one.Ask }}
	if err := p.print([]worker.GatewayMarket{{Gateway: "a:1", Market: m}}); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(b.String(), "cheapest\n")
	const want = `  first token after: not measured yet; the median worker's: not measured yet
  tokens a second: not measured yet; the median worker's: not measured yet
  FOR A MILLION TOKENS  IN        CACHED     OUT       WON  EARNED
  the lowest of all     0.04 TON  0.004 TON  0.09 TON  -    -
  the median of all     0.05 TON  0.01 TON   0.15 TON  -    -
  you, as it is         0.05 TON  0.01 TON   0.15 TON  -    -
  what other prices would win is not measured yet
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMarketCommand(t *testing.T) {
	m := aMarket()
	if err := m.Validate(); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Second).UnixMilli()
	path := opsOf(t,
		worker.GatewayMarket{Gateway: "a:1", At: at, Market: m},
		worker.GatewayMarket{Gateway: "b:1", At: at, Market: offer.Market{V: 1, Seconds: 86400 * 3}},
	)
	empty := opsOf(t)
	for _, c := range []struct {
		args   []string
		status int
		out    []string // parts of stdout, in their order
		err    string   // part of stderr
	}{
		{
			[]string{"--config", path},
			exitOK,
			[]string{
				"gateway a:1, the last 60 minutes", "\nllama3.2:3b\n", "--config " + path + "\n",
				"\nstay\n", "of these prices none would have earned more", "\n$(rm)\n", "99 requests could have come here, of a sample: too few",
				"\nnone\n", "1 request,", "offered by 1 worker\n", "won none of 2000 requests",
				"\nfree\n", "now you ask 0.05 TON for input, 0.15 TON for output", "you give it away", "\ngateway b:1, the last 3 days",
			},
			"",
		},
		{[]string{"--model", "stay", "--config", path}, exitOK, []string{"gateway a:1", "\nstay\n"}, ""},
		{[]string{"--model", "other", "--config", path}, exitOK, []string{"no gateway has told"}, ""},
		{[]string{"--config", empty}, exitOK, []string{"no gateway has told"}, ""},
		{[]string{"--json", "--model", "stay", "--config", path}, exitOK, []string{`"gateway": "a:1"`, `"fee_ppm": 55000`, `"model": "stay"`}, ""},
		{[]string{"--config", configFile(t, "")}, exitFailed, nil, "set ops_listen"},
		{[]string{"--config", configFile(t, "ops_listen: 127.0.0.1:1\n")}, exitFailed, nil, "asking the running worker"},
		{[]string{"--config", "/none.yaml"}, exitFailed, nil, "/none.yaml"},
		{[]string{"now"}, exitUsage, nil, `unexpected argument "now"`},
		{[]string{"--colour"}, exitUsage, nil, "colour"},
		{[]string{"-h"}, exitOK, nil, "usage: cocoon-worker market"},
	} {
		status, out, err := invoke(append([]string{"market"}, c.args...)...)
		rest := out
		for _, part := range c.out {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Errorf("%q: no %q in its place in\n%s", c.args, part, out)
				break
			}
			rest = after
		}
		if status != c.status || !strings.Contains(err, c.err) {
			t.Errorf("%q: status %d\nstderr: %s", c.args, status, err)
		}
		if len(c.args) > 1 && c.args[1] == "stay" && strings.Contains(out, "llama") {
			t.Errorf("%q: other models too: %s", c.args, out)
		}
	}
	_, out, _ := invoke("market", "--json", "--config", path)
	var list []worker.GatewayMarket
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 || len(list[0].Market.Models) != 5 {
		t.Errorf("--json: %v: %s", err, out)
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 9999: "9999", 10_000: "10k", 12_340: "12.3k", 4_500_000: "4.5M", 45_000_000: "45M", 1 << 40: "1T", 999_999: "999.9k", 1_000_000: "1M"} {
		if got := short(n); got != want {
			t.Errorf("short(%d) is %s, want %s", n, got, want)
		}
	}
	for word, want := range map[string]string{
		"llama3.2:3b": "llama3.2:3b", "org/m": "org/m", "$(rm)": "'$(rm)'", "it's;x": `'it'\''s;x'`, "--out": "'--out'", "": "''", "é": "'é'",
	} {
		if got := quoted(word); got != want {
			t.Errorf("quoted(%q) is %s, want %s", word, got, want)
		}
	}
	for ppm, want := range map[int64]string{0: "0 %", 499: "0 %", 500: "0.1 %", 1_000_000: "100 %", 123_449: "12.3 %"} {
		if got := percent(ppm); got != want {
			t.Errorf("percent(%d) is %s, want %s", ppm, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-time.Hour: "0 seconds", 119 * time.Second: "119 seconds", 2 * time.Minute: "2 minutes", 47 * time.Hour: "47 hours", 48 * time.Hour: "2 days"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) is %s, want %s", d, got, want)
		}
	}
}
