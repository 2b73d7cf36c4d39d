package e2e_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestDrain takes a worker out of service while a stream runs on it: the stream ends whole, what comes meanwhile goes
// elsewhere, and the owner hears when it is safe to stop.
func TestDrain(t *testing.T) {
	t.Parallel()
	d := startDuel(t)
	ids := [2]string{d.workers[0].id(t), d.workers[1].id(t)}
	running := d.begin(t, prompt("m", "hi", streamed))
	c, i := d.first(t)
	c.run(t, func() { c.say("one", " two") })
	running.started(t)
	drain := start(t, "cocoon-worker", spawn{name: "drain", args: []string{"drain", "--config", d.workers[i].config}})
	eventually(t, startMax, "the command says what it waits for", func() bool {
		return strings.Contains(drain.out.String(), "1 request still runs\n")
	})
	eventually(t, decisionMax, "the gateway sends it no more", func() bool { return d.serving(t, "m") == 1 })
	c.run(t, func() { c.say(" three") }) // or else the gateway would give it up
	for range 5 {
		p := d.begin(t, prompt("m", "hi"))
		d.engines[1-i].next(t).complete(t)
		if r := p.wait(t); r.text != "hello" || r.header.Get("Cocoon-Worker") != ids[1-i] {
			t.Errorf("while it drains: %v by %s", r, r.header.Get("Cocoon-Worker"))
		}
	}
	if !drain.running() || strings.Contains(drain.out.String(), "safe to stop") {
		t.Errorf("a request runs, and the command says %q", drain.out.String())
	}
	c.run(t, func() { c.say(" four"); c.finish() })
	close(c.answer)
	if r := running.wait(t); !r.succeeded() || r.text != "one two three four" || !r.done {
		t.Errorf("the stream that ran: %v", r)
	}
	if code := drain.wait(t, startMax); code != 0 || !strings.Contains(drain.out.String(), "it is safe to stop the worker\n") {
		t.Errorf("drain: exit code %d: %s%s", code, drain.out.String(), drain.log.String())
	}

	// With both drained there is nobody; then one comes back without a restart.
	for n, w := range d.workers {
		if out, problem, code := command(t, "cocoon-worker", "drain", "--config", w.config); code != 0 {
			t.Errorf("draining worker %d: exit code %d: %s%s", n, code, out, problem)
		}
	}
	d.lacks(t, decisionMax, "m")
	if r := d.ask(t, prompt("m", "hi")); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" {
		t.Errorf("all workers drain: %v", r)
	}
	out, problem, code := command(t, "cocoon-worker", "drain", "--undo", "--config", d.workers[i].config)
	if code != 0 {
		t.Errorf("undo: exit code %d: %s%s", code, out, problem)
	}
	d.serves(t, startMax, "m")
	p := d.begin(t, prompt("m", "hi"))
	d.engines[i].next(t).complete(t)
	if r := p.wait(t); r.text != "hello" {
		t.Errorf("after the undo: %v", r)
	}

	// A worker that has stopped while it drained serves again.
	w := d.workers[1-i]
	w.kill(t)
	w.restart(t, "again")
	eventually(t, startMax, "both workers serve", func() bool { return d.serving(t, "m") == 2 })
}

// marketMax is how long it takes until workers are told of demand: testMoney's market_every, and some.
const marketMax = time.Minute

// TestMarket has an owner look at the demand for what he sells.
func TestMarket(t *testing.T) {
	t.Parallel()
	b := testBazaar(t)
	const requests = 40
	for range requests {
		b.ask(t, prompt("m", "hi"))
	}
	w := b.stands[0].worker
	show := func() string {
		out, problem, code := command(t, "cocoon-worker", "market", "--config", w.config)
		if code != 0 {
			t.Fatalf("market: exit code %d: %s%s", code, out, problem)
		}
		return out
	}
	if out := show(); !strings.Contains(out, "no gateway has told") && !strings.Contains(out, "demand:") {
		t.Errorf("market: %s", out)
	}
	eventually(t, marketMax, "the gateway has told of all requests", func() bool {
		time.Sleep(time.Second) // each look is a process
		return strings.Contains(show(), "demand: 40 requests")
	})
	all := show()
	for _, words := range []string{
		"gateway " + b.workers, "5 % on top", "offered by 3 workers", "number 1 of 3", "the median of all", "you, as it is",
	} {
		if !strings.Contains(all, words) {
			t.Errorf("market does not say %q:\n%s", words, all)
		}
	}
	out, problem, code := command(t, "cocoon-worker", "market", "--model", "rare", "--config", b.stands[2].worker.config)
	if code != 0 || !strings.Contains(out, "offered by 1 worker") {
		t.Errorf("market of a rare model: exit code %d: %s%s", code, out, problem)
	}
}
