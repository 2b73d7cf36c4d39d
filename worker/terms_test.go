package worker

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

func TestAskedPrices(t *testing.T) {
	var a asked
	start := time.Unix(1_700_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	one, two, three := offer.Price{In: 1}, offer.Price{In: 2}, offer.Price{In: 3}
	publish := func(p offer.Price, seconds int) { a.publish([]offer.Offer{{Model: "m", Price: p}}, at(seconds)) }
	check := func(p offer.Price, seconds int, want bool) {
		t.Helper()
		if got := a.accepts("m", p, at(seconds)); got != want {
			t.Errorf("%v after %d s: %t", p, seconds, got)
		}
	}
	check(one, 0, false)
	publish(one, 0)
	check(one, 1000, true)
	publish(two, 1000)
	a.publish(nil, at(1010)) // withdrawn
	check(one, 1060, true)
	check(one, 1061, false)
	check(two, 1061, true)
	publish(two, 1061)
	publish(three, 1062)
	publish(two, 1063) // and back
	check(two, 5000, true)
	check(three, 1123, true)
	check(three, 1124, false)
	for i := range 1000 {
		publish(two, 6000+2*i)
		publish(one, 6001+2*i)
	}
	if n := len(a.models["m"]); n > 3 {
		t.Errorf("%d prices kept", n)
	}
	if a.accepts("n", one, at(0)) {
		t.Error("another model's price")
	}
}

// TestTermsRefused: a request on terms that the worker does not know costs its engine nothing, and goes elsewhere.
func TestTermsRefused(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	good := p.terms
	w := p.worker
	later := func(change func(*receipt.Deal)) string {
		c := good
		change(&c)
		return c.String()
	}
	ask := func(name, model, terms string) (int, string) {
		t.Helper()
		resp, err := p.send(t.Context(), name, chatBody(model, true), terms)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b := make([]byte, 4<<10)
		n, _ := resp.Body.Read(b)
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q", resp.Header.Get("Retry-After"))
		}
		return resp.StatusCode, string(b[:n])
	}
	for what, c := range map[string]struct{ name, terms, code string }{
		"no terms":        {p.name(), "x", codeTerms},
		"unknown keyset":  {p.name(), later(func(c *receipt.Deal) { c.Keyset[0]++ }), receipt.KeysetNotServed},
		"other price":     {p.name(), later(func(c *receipt.Deal) { c.Price.Out-- }), codePrice},
		"sealed":          {p.name(), later(func(c *receipt.Deal) { c.Mode = receipt.Sealed }), codeTerms},
		"unknown mode":    {p.name(), later(func(c *receipt.Deal) { c.Mode = "open" }), codeTerms},
		"no request name": {"abc-1", good.String(), codeTerms},
		"name in capital": {"req_" + strings.Repeat("A", 32), good.String(), codeTerms},
	} {
		if status, text := ask(c.name, "ok", c.terms); status != 503 || !strings.Contains(text, c.code) {
			t.Errorf("%s: %d %s", what, status, text)
		}
	}
	refused := p.outcome(outcomeTerms)
	if refused != 7 || len(p.fake.Requests()) != 0 || len(w.doubt) != 0 {
		t.Errorf("%v refused, %d at the engine, doubt %d", refused, len(p.fake.Requests()), len(w.doubt))
	}
	name := p.name()
	if status, _ := ask(name, "ok", good.String()); status != 200 {
		t.Errorf("good terms: %d", status)
	}
	if status, text := ask(name, "ok", good.String()); status != 503 || !strings.Contains(text, codeTerms) {
		t.Errorf("the same name again: %d %s", status, text)
	}

	// Keysets: the one before is good, of what it names.
	p.fake.Models = []string{"ok", "new"}
	w.refresh(t.Context())
	if status, text := ask(p.name(), "new", good.String()); status != 503 || !strings.Contains(text, receipt.KeysetNotServed) {
		t.Errorf("a model that the keyset does not have: %d %s", status, text)
	}
	if fresh := p.agreed(t); fresh.Keyset == good.Keyset {
		t.Error("no new keyset")
	} else if status, text := ask(p.name(), "new", fresh.String()); status != 200 {
		t.Errorf("under the new keyset: %d %s", status, text)
	}
	if status, text := ask(p.name(), "ok", good.String()); status != 200 {
		t.Errorf("under the keyset before: %d %s", status, text)
	}
	w.prover.mu.Lock()
	for i := range w.prover.given {
		w.prover.given[i].NotAfter = time.Now()
	}
	w.prover.mu.Unlock()
	if status, text := ask(p.name(), "ok", good.String()); status != 503 || !strings.Contains(text, receipt.KeysetNotServed) {
		t.Errorf("under a keyset that has ended: %d %s", status, text)
	}
}

// TestTermsOfOthers: an engine that changed, a simulated machine, a worker that does not keep receipts.
func TestTermsOfOthers(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	o := *p.worker.catalog.Load().offer("ok")
	if _, err := p.worker.agree(p.terms, &o, time.Now()); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*offer.Offer){
		"engine": func(o *offer.Offer) { o.Engine = "vllm 0.29.0" }, "weights": func(o *offer.Offer) { o.WeightsDigest = "sha256:" + strings.Repeat("1", 64) },
	} {
		other := o
		spoil(&other)
		if _, err := p.worker.agree(p.terms, &other, time.Now()); err == nil {
			t.Errorf("%s: served as something else", name)
		}
	}
	v := vendor(t)
	p.worker.config.Simulated = attest.Roots{SNP: v.SNPRoots()}
	for mode, ok := range map[receipt.Mode]bool{receipt.Gateway: false, receipt.Simulated: true, receipt.Unprotected: true} {
		p.terms.Mode = mode
		if _, err := p.worker.agree(p.terms, &o, time.Now()); (err == nil) != ok {
			t.Errorf("%s in a simulated machine: %v", mode, err)
		}
	}
	p.worker.till.Store(nil)
	if s := p.serve(t, p.name(), chatBody("ok", true)); s.status != 503 {
		t.Errorf("without a till: %d %s", s.status, s.body)
	}
}

func TestKeysetsAreBounded(t *testing.T) {
	w, _ := newWorker(t, configFor(t, "http://127.0.0.1:1"))
	var n int
	w.prover.models = func() []attest.Model { n++; return []attest.Model{{Name: strings.Repeat("m", n%100+1)}} }
	for range 3 * keysetsMax {
		w.prover.current()
	}
	if len(w.prover.given) != keysetsMax {
		t.Errorf("%d keysets", len(w.prover.given))
	}
	last := w.prover.given[keysetsMax-1]
	if g, ok := w.prover.find(last.digest, time.Now()); !ok || g.Epoch != w.prover.keyset.Epoch {
		t.Error("the newest is not there")
	}
}

func TestLivePrices(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	w := p.worker
	old := p.terms
	sheet := func() offer.Price {
		_, text := w.board.report(t.Context(), 0)
		for _, o := range decode(t, text).Offers {
			if o.Model == "ok" {
				return o.Price
			}
		}
		return offer.Price{}
	}
	next := offer.Price{In: 5_000_000, Cached: 1, Out: 7_000_000}
	if _, err := ChangePrices(w.config.DataDir, func(p *Prices) { p.All = &next }); err != nil {
		t.Fatal(err)
	}
	if err := w.reprice(); err != nil || sheet() != next {
		t.Fatalf("%v, the sheet says %+v", err, sheet())
	}
	for _, price := range []offer.Price{old.Price, next} { // who held money a moment ago is served at that price
		p.terms.Price = price
		name := p.name()
		s := p.serve(t, name, chatBody("ok", true))
		if last := p.final(t, s, name, chatBody("ok", true)); last.Price != price {
			t.Errorf("billed at %+v", last.Price)
		}
	}
	if err := os.WriteFile(pricesPath(w.config.DataDir), []byte(`{"v":1,"al`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.reprice(); err == nil || sheet() != next {
		t.Errorf("a torn file: %v, the sheet says %+v", err, sheet())
	}
	if _, err := New(w.config, machine(t), w.log, nil); err == nil {
		t.Error("a worker starts with prices that it can't read")
	}
	if err := os.Remove(pricesPath(w.config.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := w.reprice(); err != nil || sheet() != old.Price {
		t.Errorf("without the file: %v, the sheet says %+v", err, sheet())
	}
}

func TestPrices(t *testing.T) {
	c := DefaultConfig()
	c.DataDir = t.TempDir()
	c.Price = Price{In: 1, Out: 2}
	c.Models = []Model{{Name: "own", Price: &Price{In: 3, Out: 4}}, {Name: "plain"}}
	check := func(p *Prices, want map[string]offer.Price) {
		t.Helper()
		read, err := LoadPrices(c.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*Prices{p, read} {
			for model, price := range want {
				if got, from := c.Asked(p, model); got != price {
					t.Errorf("%s: %+v from %s, want %+v", model, got, from, price)
				}
			}
		}
	}
	none, err := LoadPrices(c.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	yaml, own := offer.Price{In: 1, Cached: 1, Out: 2}, offer.Price{In: 3, Cached: 3, Out: 4}
	check(none, map[string]offer.Price{"own": own, "plain": yaml, "x": yaml})
	all, one := offer.Price{In: 5}, offer.Price{Out: 6}
	change := func(how func(*Prices)) *Prices {
		t.Helper()
		p, err := ChangePrices(c.DataDir, how)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	check(change(func(p *Prices) { p.All = &all }), map[string]offer.Price{"own": own, "plain": all, "x": all})
	p := change(func(p *Prices) { p.Models = map[string]offer.Price{"own": one, "x": one} })
	check(p, map[string]offer.Price{"own": one, "plain": all, "x": one})
	check(change(func(p *Prices) { p.All = nil }), map[string]offer.Price{"own": one, "plain": yaml, "x": one})
	for name, bad := range map[string]func(*Prices){
		"negative": func(p *Prices) { p.All = &offer.Price{In: -1} },
		"too much": func(p *Prices) { p.Models = map[string]offer.Price{"m": {Out: offer.PriceMax + 1}} },
		"name":     func(p *Prices) { p.Models = map[string]offer.Price{"a b": {}} },
		"version":  func(p *Prices) { p.V = 2 },
		"too many": func(p *Prices) {
			p.Models = map[string]offer.Price{}
			for i := range offer.OffersMax + 1 {
				p.Models[strings.Repeat("m", i%200+1)+strings.Repeat("n", i/200)] = offer.Price{}
			}
		},
	} {
		if _, err := ChangePrices(c.DataDir, bad); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for _, text := range []string{"", "[]", `{"v":1} {}`, `{"v":1,"price":{}}`, `{"v":1,"all":{"in":1.5}}`, `{}`, strings.Repeat(" ", pricesMax+1)} {
		if err := os.WriteFile(pricesPath(c.DataDir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPrices(c.DataDir); err == nil {
			t.Errorf("%.50q is read", text)
		}
	}
}
