package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/internal/sse"
	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

// paid is a rig whose requests are paid for.
type paid struct {
	*rig
	terms receipt.Deal
	n     int
}

// testPrice makes every count show in the cost.
func testPrice() Price { return Price{In: 1_000_000, Out: 100_000_000} }

func newPaid(t *testing.T, flavour enginetest.Flavour, change func(*Config)) *paid {
	t.Helper()
	p := &paid{rig: newRig(t, flavour, func(c *Config) {
		c.Price = testPrice()
		if change != nil {
			change(c)
		}
	})}
	p.open(t)
	p.terms = p.agreed(t)
	return p
}

// open opens the till, as Run does.
func (p *paid) open(t *testing.T) {
	t.Helper()
	w := p.worker
	till, err := openTill(w.config.DataDir, w.prover.keys.receipt, w.log, w.metrics)
	if err != nil {
		t.Fatal(err)
	}
	w.till.Store(till)
	t.Cleanup(func() {
		if err := till.close(); err != nil {
			t.Error(err)
		}
	})
}

// agreed is what a gateway says that attested the worker now.
func (p *paid) agreed(t *testing.T) receipt.Deal {
	t.Helper()
	return receipt.Deal{
		Keyset: sha256.Sum256(p.worker.prover.current()), Mode: receipt.Gateway, Price: p.worker.config.Price.offered(),
	}
}

// name is a request's that was not there before.
func (p *paid) name() string {
	p.n++
	return fmt.Sprintf("req_%032x", p.n)
}

// send posts a request as a paying gateway does.
func (p *paid) send(ctx context.Context, name, body, terms string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+chatPath, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Cocoon-Request", name)
	req.Header.Set(receipt.DealHeader, terms)
	return http.DefaultClient.Do(req)
}

// served is an answer taken apart: the body as receipts are about it, and the receipts.
type served struct {
	status   int
	body     []byte
	receipts []*receipt.Signed
	after    []string // events from the final receipt on
}

func (p *paid) serve(t *testing.T, name, body string) served {
	t.Helper()
	resp, err := p.send(t.Context(), name, body, p.terms.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	s := served{status: resp.StatusCode, body: text}
	switch {
	case resp.StatusCode != http.StatusOK:
	case resp.Header.Get("Content-Type") == "application/json":
		s.whole(t, text)
	default:
		s.stream(t, text)
	}
	return s
}

func (s *served) whole(t *testing.T, text []byte) {
	t.Helper()
	body, wire, ok := bytes.Cut(text, []byte("\ncocoon-receipt/v1\n"))
	if !ok {
		t.Fatalf("no receipt in %s", text)
	}
	s.body = body
	s.receipts = []*receipt.Signed{parsed(t, append([]byte("cocoon-receipt/v1\n"), wire...))}
}

func parsed(t *testing.T, wire []byte) *receipt.Signed {
	t.Helper()
	r, err := receipt.Parse(wire)
	if err != nil {
		t.Fatalf("%v:\n%s", err, wire)
	}
	return r
}

func (s *served) stream(t *testing.T, text []byte) {
	t.Helper()
	s.body = nil
	events := sse.NewReader(bytes.NewReader(text), nil)
	for {
		data, err := events.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if receipt.Is(data) {
			s.receipts = append(s.receipts, parsed(t, append(bytes.Clone(data), '\n')))
			continue
		}
		s.body = fmt.Appendf(s.body, "data: %s\n\n", data)
		if n := len(s.receipts); n > 0 && s.receipts[n-1].Kind == receipt.Final {
			s.after = append(s.after, string(data))
		}
	}
}

// final checks all receipts of an answer and gives the last one, which must be a final one.
func (p *paid) final(t *testing.T, s served, name, body string) *receipt.Signed {
	t.Helper()
	if len(s.receipts) == 0 {
		t.Fatalf("status %d, no receipts: %s", s.status, s.body)
	}
	w := p.worker
	o := w.catalog.Load().offer(s.receipts[0].Model)
	want := receipt.Terms{
		Request: name, Worker: receipt.Digest(w.ID()), Keyset: p.terms.Keyset, Epoch: w.prover.keyset.Epoch, Model: o.Model,
		Weights: weightsOf(o.WeightsDigest), Engine: sha256.Sum256([]byte(o.Engine)), Mode: p.terms.Mode, Price: p.terms.Price,
		InMax: 1 << 30, OutMax: 1 << 30, Ceiling: 1 << 60,
	}
	var chain receipt.Chain
	verifier := receipt.NewVerifier(w.prover.keys.receipt.Public().(ed25519.PublicKey))
	for _, r := range s.receipts {
		if err := errors.Join(r.Check(want), verifier.Verify(r), chain.Add(r)); err != nil {
			t.Fatal(err)
		}
		if r.Req != sha256.Sum256([]byte(body)) {
			t.Error("req is not the body's hash")
		}
	}
	last := chain.Last()
	if last.Kind != receipt.Final {
		t.Fatalf("the last receipt is %s", last.Kind)
	}
	if last.Resp != sha256.Sum256(s.body) {
		t.Errorf("resp is not the hash of\n%s", s.body)
	}
	return last
}

// kept are the receipts in the store, by request.
func (p *paid) kept(t *testing.T) map[string]*receipt.Signed {
	t.Helper()
	all := make(map[string]*receipt.Signed)
	for r, err := range p.worker.till.Load().store.Unacknowledged() {
		if err != nil {
			t.Fatal(err)
		}
		all[r.Request] = r
	}
	return all
}

// TestOutcomes is the table of what a request's final receipt says, for answers that arrive.
func TestOutcomes(t *testing.T) {
	const in = enginetest.PromptTokens
	v, o, l := enginetest.VLLM, enginetest.Ollama, enginetest.LlamaCpp
	rigs := make(map[enginetest.Flavour]*paid)
	for _, f := range []enginetest.Flavour{v, o, l} {
		rigs[f] = newPaid(t, f, nil)
	}
	for _, c := range []struct {
		flavour enginetest.Flavour
		model   string
		stream  bool
		status  receipt.Status
		tokens  offer.Usage
	}{
		{v, "ok", true, receipt.OK, offer.Usage{In: in, Out: 5}},
		{v, "ok", false, receipt.OK, offer.Usage{In: in, Out: 5}},
		{o, "ok", true, receipt.OK, offer.Usage{In: in, Out: 5}},
		{o, "ok", false, receipt.OK, offer.Usage{In: in, Out: 5}},
		{l, "ok", true, receipt.OK, offer.Usage{In: in, Cached: 3, Out: 5}},
		{l, "ok", false, receipt.OK, offer.Usage{In: in, Cached: 3, Out: 5}},
		{v, "two", true, receipt.OK, offer.Usage{In: in, Out: 10}},
		{v, "think", true, receipt.OK, offer.Usage{In: in, Out: 6}},
		{v, "tools", true, receipt.OK, offer.Usage{In: in, Out: 6}},
		{v, "usagelate", true, receipt.OK, offer.Usage{In: in, Out: 5}},
		{v, "usagetext", true, receipt.OK, offer.Usage{In: in, Out: 5}},
		{v, "bigline", true, receipt.OK, offer.Usage{In: in, Out: 1}},
		// Broken in the middle, by the engine's fault.
		{v, "error1", true, receipt.Error, offer.Usage{}},
		{v, "errorn", true, receipt.Error, offer.Usage{}},
		{v, "nodone", true, receipt.Error, offer.Usage{}},
		{v, "nofinish", true, receipt.Error, offer.Usage{}},
		{v, "nousage", true, receipt.Error, offer.Usage{}},
		{v, "usage0", true, receipt.Error, offer.Usage{}},
		{v, "cut", true, receipt.Error, offer.Usage{}},
		{o, "error1", true, receipt.Error, offer.Usage{}},
		{o, "nofinish", true, receipt.Error, offer.Usage{}},
	} {
		t.Run(fmt.Sprintf("%s/%s/%t", c.flavour, c.model, c.stream), func(t *testing.T) {
			p, body := rigs[c.flavour], chatBody(c.model, c.stream)
			name := p.name()
			s := p.serve(t, name, body)
			last := p.final(t, s, name, body)
			if last.Status != c.status || last.Tokens != c.tokens {
				t.Errorf("%s %+v, want %s %+v", last.Status, last.Tokens, c.status, c.tokens)
			}
			if want := int64(c.tokens.In + 100*c.tokens.Out); int64(last.Cost) != want {
				t.Errorf("cost %d, want %d", last.Cost, want)
			}
			if (last.TTFT > 0) != (c.model != "usage0") {
				t.Errorf("ttft %d", last.TTFT)
			}
			if c.stream && (len(s.after) != 2 || s.after[1] != "[DONE]") {
				t.Errorf("after the final receipt: %q", s.after)
			}
			if k := p.kept(t)[name]; k == nil || k.ID() != last.ID() {
				t.Errorf("kept: %v", k)
			}
		})
	}
}

// TestNoReceipt: answers that are no 200 have none, and requests without terms neither.
func TestNoReceipt(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, func(c *Config) {
		for _, m := range []string{"status-500", "badrequest", "context", "error0", "ok", "hang"} {
			c.Models = append(c.Models, Model{Name: m, ContextTokens: 100})
		}
		c.Engine.IdleTimeout = 200 * time.Millisecond
	})
	p.fake.Models = []string{"status-500", "badrequest", "context", "error0", "ok", "hang"}
	p.worker.refresh(t.Context())
	p.terms = p.agreed(t)
	for model, status := range map[string]int{"status-500": 502, "badrequest": 400, "context": 400, "error0": 502, "hang": 504} {
		if s := p.serve(t, p.name(), chatBody(model, true)); s.status != status || receipt.Is(s.body) || bytes.Contains(s.body, []byte("signature")) {
			t.Errorf("%s: %d %s", model, s.status, s.body)
		}
	}
	if _, text := p.ask(t, chatBody("ok", true)); strings.Contains(text, "cocoon-receipt") {
		t.Errorf("a receipt for a request that nobody pays: %s", text)
	}
	if n := len(p.kept(t)); n != 0 {
		t.Errorf("%d receipts kept", n)
	}
	if n := len(p.worker.till.Load().running); n != 0 {
		t.Errorf("%d requests run", n)
	}
}

// TestClientAbort: who hangs up pays for what went out.
func TestClientAbort(t *testing.T) {
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama, enginetest.LlamaCpp} {
		p := newPaid(t, flavour, func(c *Config) { c.Engine.Slots = 1 })
		p.fake.Delay = time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		name := p.name()
		body := strings.Replace(chatBody("endless", true), "hi", strings.Repeat("word ", 60), 1)
		resp, err := p.send(ctx, name, body, p.terms.String())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		seen := 0
		for events := sse.NewReader(resp.Body, nil); seen < 20; seen++ {
			if _, err := events.Next(); err != nil {
				t.Fatal(err)
			}
		}
		waiting, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		second := p.name()
		gone := make(chan error, 1)
		go func() { // it waits for the slot, and never reaches the engine
			_, err := p.send(waiting, second, body, p.terms.String())
			gone <- err
		}()
		eventually(t, "one waits", func() bool { _, q := p.worker.gate.load(); return q == 1 })
		giveUp()
		<-gone
		cancel()
		eventually(t, "both are signed for", func() bool {
			r := p.kept(t)[name]
			return r != nil && r.Kind == receipt.Final && p.kept(t)[second] != nil
		})
		r := p.kept(t)[name]
		prompt := int64(300 / 6)
		if flavour == enginetest.VLLM {
			prompt = enginetest.PromptTokens // it counts as it goes
		}
		if r.Status != receipt.ClientAbort || r.Tokens.In != prompt || r.Tokens.Out < int64(seen-1) || r.TTFT == 0 {
			t.Errorf("%s: %s %+v after %d events", flavour, r.Status, r.Tokens, seen)
		}
		if r := p.kept(t)[second]; r.Status != receipt.ClientAbort || r.Tokens != (offer.Usage{}) || r.Kind != receipt.Final || r.TTFT != 0 {
			t.Errorf("%s: who got nothing: %s %+v", flavour, r.Status, r.Tokens)
		}
		eventually(t, "nothing runs", func() bool {
			till := p.worker.till.Load()
			till.mu.Lock()
			defer till.mu.Unlock()
			return len(till.running) == 0
		})
		http.DefaultClient.CloseIdleConnections()
	}
}

// TestStopInTheMiddle: an answer that the worker breaks off by itself costs nothing.
func TestStopInTheMiddle(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	p.fake.Delay = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	name := p.name()
	resp, err := p.send(ctx, name, chatBody("endless", true), p.terms.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := resp.Body.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	p.worker.stopping.Store(true)
	cancel() // as the tunnel does when running requests have had their time
	eventually(t, "it is signed for", func() bool { r := p.kept(t)[name]; return r != nil && r.Kind == receipt.Final })
	if r := p.kept(t)[name]; r.Status != receipt.Error || r.Tokens != (offer.Usage{}) || r.Cost != 0 {
		t.Errorf("%s %+v", r.Status, r.Tokens)
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestInterim: a long answer has receipts on its way, and none of them holds it up.
func TestInterim(t *testing.T) {
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		p := newPaid(t, flavour, nil)
		p.fake.Tokens, p.fake.Delay = 900, 200*time.Microsecond
		name, body := p.name(), chatBody("slow", true)
		s := p.serve(t, name, body)
		last := p.final(t, s, name, body)
		if last.Tokens.Out != 900 || last.Tokens.In != enginetest.PromptTokens {
			t.Errorf("%s: %+v", flavour, last.Tokens)
		}
		interim := s.receipts[:len(s.receipts)-1]
		if len(interim) < 1 || len(interim) > 3 {
			t.Errorf("%s: %d interim receipts", flavour, len(interim))
		}
		before := int64(0)
		for _, r := range interim {
			if r.Kind != receipt.Interim || r.Tokens.Out-before < interimTokens {
				t.Errorf("%s: %s of %d tokens after %d", flavour, r.Kind, r.Tokens.Out, before)
			}
			before = r.Tokens.Out
		}
		if n := testutil.ToFloat64(p.worker.metrics.signed.WithLabelValues("interim")); n != float64(len(interim)) {
			t.Errorf("%s: %v counted", flavour, n)
		}
	}
}

// TestMeterCounts checks what no engine of ours does to the counts.
func TestMeterCounts(t *testing.T) {
	var none *meter
	none.leave(receipt.ClientAbort, openai.Usage{})
	m := new(meter)
	for _, c := range []struct {
		u    openai.Usage
		want offer.Usage
	}{
		{openai.Usage{Completion: 3, Reasoning: 5}, offer.Usage{Out: 3, Reasoning: 3}},
		{openai.Usage{Prompt: 9, Cached: 4, Completion: 2}, offer.Usage{In: 9, Cached: 4, Out: 3, Reasoning: 3}},
		{openai.Usage{Prompt: 5, Completion: 7, Reasoning: 1}, offer.Usage{In: 9, Cached: 4, Out: 7, Reasoning: 3}},
	} {
		if m.count(c.u); m.counts != c.want {
			t.Errorf("after %+v: %+v, want %+v", c.u, m.counts, c.want)
		}
		if err := m.counts.Validate(); err != nil {
			t.Error(err)
		}
	}
}

// TestManyAtOnce: requests that end together share their signatures, and each has its own receipts.
func TestManyAtOnce(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, func(c *Config) { c.Engine.Slots = 64 })
	type result struct {
		name string
		s    served
	}
	const requests = 64
	results := make(chan result)
	names := make([]string, requests)
	for i := range names {
		names[i] = p.name()
	}
	for _, name := range names {
		go func() { results <- result{name, p.serve(t, name, chatBody("slow", true))} }()
	}
	var seen []string
	for range requests {
		r := <-results
		p.final(t, r.s, r.name, chatBody("slow", true))
		seen = append(seen, r.name)
	}
	slices.Sort(seen)
	if !slices.Equal(seen, names) {
		t.Errorf("answers of %v", seen)
	}
	if n := len(p.kept(t)); n != requests {
		t.Errorf("%d receipts kept", n)
	}
}

// BenchmarkPaid is what metering adds to a request's CPU time, disk included: compare the two.
func BenchmarkPaid(b *testing.B) {
	for _, metered := range []bool{false, true} {
		b.Run(fmt.Sprintf("metered=%t", metered), func(b *testing.B) {
			l := newLedger(b, 0)
			data := []byte(`{"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}]}`)
			body := []byte(chatBody("ok", true))
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					rec := &recorder{header: http.Header{}}
					out := &reply{w: rec, control: http.NewResponseController(rec), start: time.Now()}
					if metered {
						l.mu.Lock()
						r := l.sample()
						l.mu.Unlock()
						r.Tokens, r.Price = offer.Usage{}, offer.Price{In: 1000, Out: 1000}
						out.meter, _ = newMeter(l.till, r, body, out.start)
					}
					for i := range 100 {
						out.Count(openai.Usage{Prompt: 10, Completion: int64(i + 1)})
						_ = out.Event(data, true)
					}
					_ = out.End(data, false)
					out.finish(nil)
					out.meter.leave("", openai.Usage{})
				}
			})
		})
	}
}
