package e2e_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"cocoon/internal/nanoton"
)

// The worker asks 1 nanoTON for a token read, half of that for a cached one, 2 for one made; the gateway takes 5 % on top.
const outcomePrice = "price: {in: 1000000, cached: 500000, out: 2000000}\n"

// paid is what a request moves, nanoTON.
type paid struct{ customer, worker nanoton.Amount }

// cost is what tokens cost, each side rounded up once.
func cost(in, cached, out int64) paid {
	up := func(n int64) nanoton.Amount { return nanoton.Amount((n + 999_999) / 1_000_000) }
	return paid{
		up((in-cached)*1_050_000 + cached*525_000 + out*2_100_000),
		up((in-cached)*1_000_000 + cached*500_000 + out*2_000_000),
	}
}

// outcome is a row of the table in docs/billing.md.
type outcome struct {
	name string
	run  func(t *testing.T, s *scene)
	want paid
	// most is set where the worker estimates the prompt: then want is the least.
	most paid
}

// scene is a gateway with one worker whose engine the test plays.
type scene struct {
	t      *testing.T // that the processes live as long as
	g      *gateway
	w      *worker
	engine *engine
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, g: startGateway(t, "auto"), engine: startEngine(t, "m")}
	s.w = s.g.startWorkerWith(t, "one", s.engine.url, outcomePrice)
	s.g.serves(t, startMax, "m")
	return s
}

// usageOf has the engine answer with pieces and a usage object.
func (c *call) usageOf(t *testing.T, usage string, finishes int, pieces ...string) {
	t.Helper()
	c.run(t, func() {
		c.say(pieces...)
		if !c.stream {
			c.whole(usage, finishes)
			return
		}
		for i := range finishes {
			c.event(fmt.Sprintf(`"choices":[{"index":%d,"delta":{},"finish_reason":"stop"}]`, i))
		}
		if usage != "" {
			c.event(`"choices":[],"usage":` + usage)
		}
		fmt.Fprint(c.w, "data: [DONE]\n\n")
	})
	close(c.answer)
}

// whole is an answer that is not streamed.
func (c *call) whole(usage string, finishes int) {
	choices := make([]string, finishes)
	for i := range choices {
		choices[i] = fmt.Sprintf(`{"index":%d,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}`, i)
	}
	c.w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(c.w, `{"id":"chatcmpl-e2e","object":"chat.completion","created":1,"model":"m","choices":[%s],"usage":%s}`,
		strings.Join(choices, ","), usage)
}

const longPrompt = "Say hello to each of the sixty people who wait at the door, one after the other, please." // 88 bytes

// outcomes are requests that end in every way there is, and what each costs whom.
func outcomes() []outcome {
	complete := func(body, usage string, finishes int, want func(*testing.T, *reply)) func(*testing.T, *scene) {
		return func(t *testing.T, s *scene) {
			p := s.g.begin(t, body)
			s.engine.next(t).usageOf(t, usage, finishes, "hel", "lo")
			r := p.wait(t)
			if r.status != http.StatusOK || r.fault != nil {
				t.Fatalf("status %d, %+v", r.status, r.fault)
			}
			if r.header.Get("Cocoon-Receipt") == "" {
				t.Error("no Cocoon-Receipt")
			}
			if want != nil {
				want(t, r)
			}
		}
	}
	const counts = `{"prompt_tokens":30,"completion_tokens":7,"total_tokens":37}`
	estimate := cost(int64(len(longPrompt))/6, 0, 2)
	return []outcome{
		{name: "whole answer", want: cost(30, 0, 7), run: complete(prompt("m", "hi"), counts, 1, func(t *testing.T, r *reply) {
			if got := r.header.Get("Cocoon-Cost-Nanoton"); got != strconv.Itoa(int(cost(30, 0, 7).customer)) {
				t.Errorf("Cocoon-Cost-NanoTON is %q", got)
			}
			if !strings.Contains(r.body, `"cost_nanoton":`+r.header.Get("Cocoon-Cost-Nanoton")) {
				t.Errorf("no cost in %s", r.body)
			}
		})},
		{name: "stream", want: cost(30, 0, 7), run: complete(prompt("m", "hi", streamed), counts, 1, nil)},
		{name: "stream with usage", want: cost(30, 0, 7), run: complete(prompt("m", "hi", streamed, withUsage), counts, 1, nil)},
		{name: "n > 1", want: cost(30, 0, 20), run: complete(prompt("m", "hi", `"n":2`),
			`{"prompt_tokens":30,"completion_tokens":20,"total_tokens":50}`, 2, nil)},
		{name: "reasoning tokens", want: cost(30, 0, 20), run: complete(prompt("m", "hi"),
			`{"prompt_tokens":30,"completion_tokens":20,"total_tokens":50,"completion_tokens_details":{"reasoning_tokens":15}}`, 1, nil)},
		{name: "cached tokens", want: cost(30, 20, 7), run: complete(prompt("m", "hi"),
			`{"prompt_tokens":30,"completion_tokens":7,"total_tokens":37,"prompt_tokens_details":{"cached_tokens":20}}`, 1, nil)},
		{name: "engine without usage", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			s.engine.next(t).usageOf(t, "", 1, "hel", "lo")
			if r := p.wait(t); r.fault == nil {
				t.Error("the client is not told")
			}
		}},
		{name: "refusal of the model", want: cost(30, 0, 7), run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			c.run(t, func() {
				c.w.Header().Set("Content-Type", "text/event-stream")
				c.event(`"choices":[{"index":0,"delta":{"role":"assistant","refusal":"I can't."},"finish_reason":null}]`)
			})
			c.usageOf(t, counts, 1)
			p.wait(t)
		}},
		{name: "refused as a bad request", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi"))
			c := s.engine.next(t)
			c.run(t, func() {
				http.Error(c.w, `{"error":{"message":"no","type":"invalid_request_error","param":null,"code":null}}`, http.StatusBadRequest)
			})
			close(c.answer)
			if r := p.wait(t); r.status != http.StatusBadRequest {
				t.Errorf("status %d", r.status)
			}
		}},
		{name: "client gone before the first byte", run: func(t *testing.T, s *scene) {
			st := s.g.open(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			st.leave()
			<-c.done
		}},
		{name: "client gone in the middle", want: estimate, most: cost(40, 0, 6), run: func(t *testing.T, s *scene) {
			st := s.g.open(t, prompt("m", longPrompt, streamed))
			c := s.engine.next(t)
			c.run(t, func() { c.say("hel", "lo") })
			st.until(t, `"lo"`)
			st.leave()
			<-c.done
		}},
		{name: "engine fails before content", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			c.run(t, func() { http.Error(c.w, "no", http.StatusInternalServerError) })
			close(c.answer)
			if r := p.wait(t); r.status != http.StatusBadGateway {
				t.Errorf("status %d", r.status)
			}
		}},
		{name: "engine fails after content", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			c.run(t, func() { c.say("hel", "lo") })
			<-p.first
			close(c.answer) // the engine's stream ends without a finish
			if r := p.wait(t); r.fault == nil {
				t.Error("the client is not told")
			}
		}},
		{name: "engine falls silent", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			c.run(t, func() { c.say("hel") })
			if r := p.wait(t); r.fault == nil {
				t.Error("the client is not told")
			}
		}},
		{name: "worker killed", run: func(t *testing.T, s *scene) {
			p := s.g.begin(t, prompt("m", "hi", streamed))
			c := s.engine.next(t)
			c.run(t, func() { c.say("hel", "lo") })
			<-p.first
			s.w.kill(t)
			if r := p.wait(t); r.fault == nil {
				t.Error("the client is not told")
			}
			s.w.restart(s.t, "one")
			s.g.serves(t, startMax, "m")
		}},
		{name: "gateway killed", want: estimate, most: cost(40, 0, 6), run: func(t *testing.T, s *scene) {
			st := s.g.open(t, prompt("m", longPrompt, streamed))
			c := s.engine.next(t)
			c.run(t, func() { c.say("hel", "lo") })
			st.until(t, `"lo"`)
			s.g.kill(t)
			<-c.done
			s.g.restart(s.t)
			s.g.serves(t, startMax, "m")
		}},
	}
}

// TestOutcomes runs each row of the outcomes table on the real binaries and looks at what it cost whom.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	before := s.g.books(t)
	for _, o := range outcomes() {
		t.Run(o.name, func(t *testing.T) {
			o.run(t, s)
			s.g.settled(t)
			now := s.g.books(t)
			got := paid{before.customer - now.customer, now.worker - before.worker}
			if most := max(o.most.customer, o.want.customer); got.customer < o.want.customer || got.customer > most {
				t.Errorf("the customer paid %d nanoTON, want %d to %d", int64(got.customer), int64(o.want.customer), int64(most))
			}
			if most := max(o.most.worker, o.want.worker); got.worker < o.want.worker || got.worker > most {
				t.Errorf("the worker got %d nanoTON, want %d to %d", int64(got.worker), int64(o.want.worker), int64(most))
			}
			if fee := now.fees - before.fees; got.customer != got.worker+fee {
				t.Errorf("%d nanoTON paid, %d for the worker and %d of fees", int64(got.customer), int64(got.worker), int64(fee))
			}
			before = now
		})
	}
	s.g.audits(t)
}

// TestRetryIsBilledOnce has a request fail on one worker and be served by another.
func TestRetryIsBilledOnce(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	engines := []*engine{startEngine(t, "m"), startEngine(t, "m")}
	for i, e := range engines {
		g.startWorkerWith(t, "w"+strconv.Itoa(i), e.url, outcomePrice)
	}
	eventually(t, startMax, "both workers serve", func() bool { return g.serving(t, "m") == 2 })
	before := g.books(t)
	p := g.begin(t, prompt("m", "hi"))
	fail := func(c *call) {
		c.run(t, func() { http.Error(c.w, "no", http.StatusInternalServerError) })
		close(c.answer)
	}
	serve := func(c *call) {
		c.usageOf(t, `{"prompt_tokens":30,"completion_tokens":7,"total_tokens":37}`, 1)
	}
	select {
	case c := <-engines[0].calls:
		fail(c)
		serve(engines[1].next(t))
	case c := <-engines[1].calls:
		fail(c)
		serve(engines[0].next(t))
	case <-time.After(rawMax):
		t.Fatal("no worker was asked")
	}
	r := p.wait(t)
	if r.status != http.StatusOK || !strings.HasSuffix(r.header.Get("Cocoon-Receipt"), "1") {
		t.Errorf("status %d, receipt %q: want the second attempt's", r.status, r.header.Get("Cocoon-Receipt"))
	}
	g.settled(t)
	now, want := g.books(t), cost(30, 0, 7)
	if got := (paid{before.customer - now.customer, now.worker - before.worker}); got != want {
		t.Errorf("paid %+v, want %+v", got, want)
	}
	g.audits(t)
}

// books is what the ledger has.
type books struct{ customer, worker, fees nanoton.Amount }

// books reads the ledger. Run settled before.
func (g *gateway) books(t *testing.T) books {
	t.Helper()
	var b books
	for account, n := range g.balances(t) {
		switch account.Kind() {
		case "customer", "allotment":
			b.customer += n
		case "worker":
			b.worker += n
		case "fees":
			b.fees += n
		}
	}
	return b
}

// settled waits until nothing is held, waited for, or on its way to the ledger.
func (g *gateway) settled(t *testing.T) {
	t.Helper()
	open := regexp.MustCompile(`(?m)^cocoon_gateway_(holds|receipts_waited_for|receipts_queued|settlements_unposted) ([0-9.e+]+)$`)
	var text string
	eventually(t, askMax, "everything is settled", func() bool {
		text = fetch(t, g.ops+"/metrics")
		found := open.FindAllStringSubmatch(text, -1)
		for _, m := range found {
			if m[2] != "0" {
				return false
			}
		}
		return len(found) == 4
	})
}

// audits runs the operator's audit, which must find everything in order.
func (g *gateway) audits(t *testing.T) {
	t.Helper()
	out, problem, code := command(t, "cocoon-gateway", "audit", "--config", g.config)
	if code != 0 {
		t.Errorf("audit: exit code %d\n%s%s", code, out, problem)
	}
}
