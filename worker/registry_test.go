package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/registry/registrytest"
	"cocoon/internal/trust"
	"cocoon/worker/engine/enginetest"
)

// source reads the registry all the time.
func source(c *registrytest.Chain) *trust.Source {
	return &trust.Source{Address: c.Address.String(), Network: c.File, Every: 20 * time.Millisecond}
}

// listing is the entry of a gateway.
func listing(name, workers, id string) *registry.Entry {
	return &registry.Entry{
		Title:    registry.Title{Kind: registry.Gateway, Name: name},
		Document: fmt.Appendf(nil, `{"urls": ["https://%s.example.com"], "workers": %q, "id": %q}`, name, workers, id),
	}
}

// releases are those of simulated machines, the workers' first.
func releases(t *testing.T) []*registry.Entry {
	t.Helper()
	return registrytest.Releases(t, vendor(t).PolicyYAML(time.Now()), nil)
}

func testID(n int) string { return fmt.Sprintf("%064x", n) }

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// What the registry lists for a gateway's address is its pin; who is not listed, or with another key, is refused in words.
func TestResolve(t *testing.T) {
	chain := registrytest.Start(t)
	chain.Put(listing("a", "a.example.com:8443", testID(1)), listing("b", "b.example.com:8443", testID(2)),
		listing("b-new", "b.example.com:8443", testID(3)))
	chain.CatchUp()
	c := configFor(t, "http://127.0.0.1:1")
	c.Registry = source(chain)
	_, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err == nil || !strings.Contains(err.Error(), "not resolved") {
		t.Errorf("a worker that has not read its registry: %v", err)
	}
	resolve := func(gateways ...Gateway) (Config, error) {
		c.Gateways = gateways
		return Resolve(t.Context(), c, slog.New(slog.DiscardHandler))
	}
	given := []Gateway{{Address: "a.example.com:8443"}, {Address: "B.example.com:8443", Pin: testID(3)}}
	got, err := resolve(given...)
	if err != nil || got.Gateways[0].Pin != testID(1) || got.Gateways[1].Pin != testID(3) || given[0].Pin != "" {
		t.Errorf("%+v, %v", got.Gateways, err)
	}
	for want, g := range map[string]Gateway{
		"has none whose workers dial x.example.com:8443": {Address: "x.example.com:8443"},
		"has none whose workers dial a.example.com:1":    {Address: "a.example.com:1", Pin: testID(1)},
		"the ID " + testID(1) + ", and pin is":           {Address: "a.example.com:8443", Pin: testID(2)},
		"2 gateways at b.example.com:8443":               {Address: "b.example.com:8443"},
	} {
		if _, err := resolve(Gateway{Address: "B.example.com:8443", Pin: testID(2)}, g); err == nil ||
			!strings.Contains(err.Error(), "gateways[1]: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := resolve(Gateway{Address: "nonsense"}); err == nil || !strings.Contains(err.Error(), "host:port") {
		t.Error(err)
	}
	chain.Gone()
	if got, err = resolve(given...); err != nil || got.Gateways[0].Pin != testID(1) {
		t.Errorf("by the kept copy: %v", err)
	}
	c.Registry.MaxAge = time.Nanosecond
	if _, err := resolve(given...); !errors.Is(err, registry.ErrNoCopy) || !strings.Contains(err.Error(), "counts for 1ns") {
		t.Errorf("by a copy that is too old: %v", err)
	}
	c.DataDir = t.TempDir()
	if _, err := resolve(given...); !errors.Is(err, registry.ErrNoCopy) || !strings.Contains(err.Error(), "none was kept") {
		t.Errorf("without a copy: %v", err)
	}
	c.Registry = nil
	if got, err = resolve(Gateway{Address: "x.example.com:8443"}); err != nil || got.Gateways[0].Pin != "" {
		t.Errorf("without a registry: %+v, %v", got.Gateways, err)
	}
	c.Registry = &trust.Source{}
	if _, err := c.check(); err == nil || !strings.Contains(err.Error(), "registry.address") {
		t.Error(err)
	}
}

// running runs a worker by its registry until the test ends.
func running(t *testing.T, c Config) (*Worker, *lockedBuffer) {
	t.Helper()
	logs := new(lockedBuffer)
	log := slog.New(slog.NewTextHandler(logs, nil))
	c, err := Resolve(t.Context(), c, log)
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(c, machine(t), log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w, logs
}

// A worker holds itself against the registry's releases as they come and go, and serves a gateway while it is listed.
func TestRegistryRun(t *testing.T) {
	gw, chain := startGateway(t), registrytest.Start(t)
	chain.Put(listing("gw", gw.address, gw.id.String()), releases(t)[1])
	chain.CatchUp()
	c := configFor(t, serveFake(t, enginetest.New()))
	c.Gateways = []Gateway{{Address: gw.address}}
	c.Policy = writeFile(t, string(vendor(t).PolicyYAML(time.Now())))
	c.Collateral.Offline, c.Simulated = true, simulatedRoots(t)
	c.Registry = source(chain)
	w, logs := running(t, c)
	connected := func() bool { return w.dialers[0].Status().Connected }
	eventually(t, "its own policy refuses the machine", func() bool {
		why := w.dialers[0].Status().LastError
		return strings.Contains(why, "own policy") && strings.Contains(why, "cpu.measurement")
	})
	before := w.prover.current()
	chain.Put(releases(t)[0])
	eventually(t, "it is offered once its release counts", func() bool {
		peer, _ := gw.last()
		return peer != nil && connected()
	})
	if string(w.prover.current()) == string(before) {
		t.Error("the keyset names the old policy")
	}
	chain.Gone()
	eventually(t, "it hears that the chain is gone", func() bool {
		return strings.Contains(logs.String(), "out of reach")
	})
	if !connected() || strings.Contains(logs.String(), "DROPPED") {
		t.Error("it dropped a gateway that its copy lists")
	}
	chain.Back()
	chain.Remove(registry.Title{Kind: registry.Gateway, Name: "gw"})
	eventually(t, "the gateway is dropped", func() bool {
		return !connected() && strings.Contains(logs.String(), "DROPPED")
	})
	chain.Put(listing("gw", gw.address, testID(9))) // another key's is no listing of this one
	chain.Put(listing("gw", gw.address, gw.id.String()))
	eventually(t, "it is served again when it is listed again", connected)
	if strings.Count(logs.String(), "lists the gateway again") != 1 {
		t.Error(logs.String())
	}
}

// When the copy of the registry is too old, no gateway is served.
func TestRegistryTooOld(t *testing.T) {
	gw, chain := startGateway(t), registrytest.Start(t)
	chain.Put(listing("gw", gw.address, gw.id.String()))
	chain.CatchUp()
	c := configFor(t, serveFake(t, enginetest.New()))
	c.Gateways = []Gateway{{Address: gw.address}}
	c.Registry = source(chain)
	c.Registry.MaxAge = time.Nanosecond // it ended with its block
	w, logs := running(t, c)
	eventually(t, "the gateway is dropped", func() bool {
		return !w.dialers[0].Status().Connected && strings.Contains(logs.String(), "its copy is too old")
	})
}

// TestPause: the registry is read again in an hour, sooner if the chain is away, and when its copy ends.
func TestPause(t *testing.T) {
	chain := registrytest.Start(t)
	chain.CatchUp()
	s := source(chain)
	dir := t.TempDir()
	feed, err := s.Open(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := basis{feed: feed}
	if got := b.pause(0); got != registryPeriod {
		t.Errorf("%s", got)
	}
	chain.Gone()
	feed.Read(t.Context())
	if got := b.pause(0); got != registryRetry {
		t.Errorf("away: %s", got)
	}
	s.MaxAge = time.Minute
	if b.feed, err = s.Open(t.Context(), dir, nil); err != nil {
		t.Fatal(err)
	}
	if got := b.pause(0); got > time.Minute {
		t.Errorf("before the end: %s", got)
	}
}

// The doctor says what the registry lists, and what it does not.
func TestDoctorRegistry(t *testing.T) {
	gw, chain := startGateway(t), registrytest.Start(t)
	chain.Put(append(releases(t), listing("gw", gw.address, gw.id.String()))...)
	chain.CatchUp()
	fake := enginetest.New()
	fake.Flavour, fake.Models = enginetest.VLLM, []string{"ok"}
	c := configFor(t, serveFake(t, fake))
	c.Gateways = []Gateway{{Address: gw.address}}
	c.Price, c.Engine.Slots = Price{In: 1, Out: 1}, 2
	c.Registry = source(chain)
	ok, says := doctorSays(t, c)
	for _, want := range []string{
		"PASS registry: 2 releases hold as of block", "PASS policy simulated", "its key is the pinned one",
	} {
		if !ok || !strings.Contains(says, want) {
			t.Errorf("no %q in\n%s", want, says)
		}
	}
	chain.Gone()
	if ok, says = doctorSays(t, c); !ok || !strings.Contains(says, "WARN registry: the chain is out of reach") {
		t.Errorf("with the chain gone:\n%s", says)
	}
	c.Gateways[0].Pin = testID(1)
	if ok, says = doctorSays(t, c); ok || !strings.Contains(says, "FAIL registry: gateways[0]: the registry does not list") ||
		strings.Contains(says, "gateway "+gw.address) {
		t.Errorf("with another pin:\n%s", says)
	}
}
