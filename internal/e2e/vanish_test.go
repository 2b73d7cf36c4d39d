package e2e_test

import (
	"syscall"
	"testing"
	"time"
)

// Patience with workers that go away and come back.
const (
	brokenMax = 12 * time.Second // from the end of a connection to the end of its offers: before 15 s of silence count
	silentMax = time.Minute      // the same for a worker that says nothing any more
	returnMax = time.Minute      // from a gateway's return to its workers': their backoff ends at 15 s
)

// TestWorkerKilled ends a worker the hard way: nothing of it stays on offer.
func TestWorkerKilled(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	w := g.startWorker(t, "one", startEcho(t, "m"))
	g.serves(t, startMax, "m")
	w.kill(t)
	g.lacks(t, brokenMax, "m")
	if r := g.ask(t, prompt("m", "hi")); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("asking for a model whose worker is gone: %v", r)
	}
	w.restart(t, "one")
	g.serves(t, startMax, "m")
	if r := g.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("after the worker came back: %v", r)
	}
	w.stop(t, syscall.SIGTERM)
	g.lacks(t, brokenMax, "m")
}

// TestWorkerSilent freezes a worker: its connection stays, and still it must go.
func TestWorkerSilent(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	w := g.startWorker(t, "one", startEcho(t, "m"))
	g.serves(t, startMax, "m")
	w.signal(t, syscall.SIGSTOP)
	t.Logf("a silent worker was gone after %v", g.lacks(t, silentMax, "m"))
	w.signal(t, syscall.SIGCONT)
	g.serves(t, returnMax, "m")
	if r := g.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("after the worker came back: %v", r)
	}
}

// duel is two workers on two engines that serve the same model.
type duel struct {
	*gateway
	engines [2]*engine
	workers [2]*worker
}

func startDuel(t *testing.T) *duel {
	t.Helper()
	d := &duel{gateway: startGateway(t, "auto")}
	for i, name := range []string{"left", "right"} {
		d.engines[i] = startEngine(t, "m")
		d.workers[i] = d.startWorker(t, name, d.engines[i].url)
	}
	eventually(t, startMax, "both workers serve", func() bool { return d.serving(t, "m") == 2 })
	return d
}

// first is the call of a request that either engine got, and which.
func (d *duel) first(t *testing.T) (*call, int) {
	t.Helper()
	select {
	case c := <-d.engines[0].calls:
		return c, 0
	case c := <-d.engines[1].calls:
		return c, 1
	case <-time.After(rawMax):
		t.Fatalf("no request reached an engine within %v", rawMax)
		return nil, 0
	}
}

// TestInFlight ends a worker under a running request, in each way and at each stage.
func TestInFlight(t *testing.T) {
	t.Parallel()
	d := startDuel(t)
	for _, more := range [][]string{nil, {streamed}} {
		p := d.begin(t, prompt("m", "hi", more...))
		_, i := d.first(t)
		d.workers[i].kill(t)
		d.engines[1-i].next(t).complete(t)
		if r := p.wait(t); !r.succeeded() || r.text != "hello" {
			t.Errorf("killed before the first byte: %v", r)
		}
		eventually(t, brokenMax, "one worker is gone", func() bool { return d.serving(t, "m") == 1 })
		d.workers[i].restart(t, "again")
		eventually(t, startMax, "both workers serve", func() bool { return d.serving(t, "m") == 2 })
	}

	p := d.begin(t, prompt("m", "hi", streamed))
	c, i := d.first(t)
	c.run(t, func() { c.say("one") })
	p.started(t)
	d.workers[i].kill(t)
	r := p.wait(t)
	if r.succeeded() || r.fault == nil || !r.done || r.text != "one" {
		t.Errorf("killed in the stream: %v", r)
	}
	select {
	case <-d.engines[1-i].calls:
		t.Error("a request that had begun was sent to another worker")
	default:
	}
	last := d.begin(t, prompt("m", "hi"))
	d.engines[1-i].next(t).complete(t)
	if r := last.wait(t); r.text != "hello" {
		t.Errorf("after all that: %v", r)
	}
}

// TestInFlightSilent freezes a worker under a request: it must not wait for the worker's return.
func TestInFlightSilent(t *testing.T) {
	t.Parallel()
	d := startDuel(t)
	p := d.begin(t, prompt("m", "hi", streamed))
	_, i := d.first(t)
	d.workers[i].signal(t, syscall.SIGSTOP)
	d.engines[1-i].next(t).complete(t)
	if r := p.wait(t); !r.succeeded() || r.text != "hello" {
		t.Errorf("frozen before the first byte: %v", r)
	}
	d.workers[i].signal(t, syscall.SIGCONT)
}

// TestGatewayRestart ends the gateway in each way: its workers come back by themselves.
func TestGatewayRestart(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	e := startEngine(t, "m")
	w := g.startWorker(t, "one", e.url)
	g.serves(t, startMax, "m")
	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		cut := g.open(t, prompt("m", "hi", streamed))
		c := e.next(t)
		c.run(t, func() { c.say("one") })
		cut.until(t, `"one"`)
		g.signal(t, s)
		g.wait(t, stopMax)
		select {
		case <-c.done:
		case <-time.After(rawMax):
			t.Fatalf("the engine still works %v after the gateway ended", rawMax)
		}
		g.restart(t)
		g.serves(t, returnMax, "m")
		p := g.begin(t, prompt("m", "hi"))
		e.next(t).complete(t)
		if r := p.wait(t); r.text != "hello" {
			t.Errorf("after the gateway's return: %v", r)
		}
	}
	if !w.running() {
		t.Error("the worker ended with its gateway")
	}
}
