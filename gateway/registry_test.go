package gateway

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/attest/simtee"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/registry/registrytest"
	"cocoon/internal/trust"
)

// workerRelease is the release of simulated workers in the registry.
func workerRelease() registry.Title {
	return registry.Title{Kind: registry.Release, Name: "simulated-worker"}
}

// releases are the simulated ones as entries, the workers' first.
func releases(t *testing.T, more map[string]any) []*registry.Entry {
	t.Helper()
	return registrytest.Releases(t, simulated().PolicyYAML(time.Now()), more)
}

// source reads the registry all the time.
func source(c *registrytest.Chain) *trust.Source {
	return &trust.Source{Address: c.Address.String(), Network: c.File, Every: 20 * time.Millisecond}
}

// A release counts when the registry has it, and no more when it has not, without a restart; the policy's own count for
// nothing.
func TestRegistry(t *testing.T) {
	c := registrytest.Start(t)
	c.CatchUp()
	n := newNetwork(t, func(cfg *Config) { cfg.Registry = source(c) })
	says := func(text string) func() bool { return func() bool { return strings.Contains(n.logs.String(), text) } }
	n.until("it is told that there is no release", says("has no release that holds"))
	identity := newIdentity(t)
	n.refuses(t, identity, answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID())), "cpu.measurement")
	for _, e := range releases(t, nil) {
		c.Propose(&registry.Change{Put: e})
	}
	identity = newIdentity(t) // pending counts for nothing
	n.refuses(t, identity, answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID())), "cpu.measurement")
	c.Apply()
	n.until("the releases count", says("[simulated-gateway simulated-worker]"))
	n.worker("one", 2, nil, "m")
	n.until("the worker is offered", func() bool { return len(n.server.table.Models()) == 1 })
	if end := n.server.appraiser.policy().NotAfter; end.After(c.BlockTime().Add(registry.DefaultMaxAge)) {
		t.Errorf("the policy ends %s, the registry is of %s", end, c.BlockTime())
	}
	c.Remove(workerRelease())
	n.until("the worker is out", func() bool { return len(n.server.table.Models()) == 0 })
	n.until("the log says why", says("the new policy refuses a worker"))
	n.until("and what is left", says("releases=[simulated-gateway]"))
	if n := strings.Count(n.logs.String(), "releases come from the registry"); n > 5 {
		t.Errorf("it told %d times of the same", n)
	}
}

// A worker is refused whose weights are not those of its release, also when they were a while ago.
func TestRegistryWeights(t *testing.T) {
	c := registrytest.Start(t)
	weights := func(digest string) {
		c.Put(releases(t, map[string]any{"weights": map[string][]string{"m": {digest}}})...)
	}
	weights("sha256:good")
	c.CatchUp()
	n := newNetwork(t, func(cfg *Config) { cfg.Registry = source(c) })
	identity := newIdentity(t)
	n.refuses(t, identity, answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID())), "keyset.weights")
	identity = newIdentity(t)
	k := keysetOf(identity.ID())
	k.Models[0].WeightsDigest = "sha256:good"
	defer n.dialIn(identity, answering(t, machine(t, simtee.Config{}), k)).stop()
	held := func() (count int) {
		for _, m := range n.server.appraiser.all() {
			if m.holds(time.Now()) {
				count++
			}
		}
		return count
	}
	n.until("the worker with the right ones is in", func() bool { return held() == 1 })
	digest := n.server.appraiser.policy().Digest()
	weights("sha256:better")
	n.until("it is out", func() bool { return held() == 0 })
	if n.server.appraiser.policy().Digest() != digest {
		t.Error("weights are part of the policy's text")
	}
}

// With the chain out of reach a gateway goes on, and starts, by the copy that it kept; not by one that is too old, and not
// without one.
func TestRegistryGone(t *testing.T) {
	c := registrytest.Start(t)
	c.Put(releases(t, nil)...)
	c.CatchUp()
	dir := filepath.Join(t.TempDir(), "data")
	with := func(cfg *Config) { cfg.Registry, cfg.DataDir = source(c), dir }
	start := func(change func(*Config)) error {
		cfg := testConfig(t)
		with(&cfg)
		change(&cfg)
		s, err := New(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry(), "test")
		if err != nil {
			t.Fatal(err)
		}
		err = s.Listen()
		s.Close()
		return err
	}
	c.Gone()
	if err := start(func(*Config) {}); !errors.Is(err, registry.ErrNoCopy) || !strings.Contains(err.Error(), "none was kept") {
		t.Fatalf("without chain and copy: %v", err)
	}
	c.Back()
	n := newNetwork(t, with)
	end := n.server.policyEnd()
	c.Gone()
	n.until("it notices", func() bool { return strings.Contains(n.logs.String(), "the chain is out of reach") })
	n.worker("one", 2, nil, "m")
	n.until("the worker is offered", func() bool { return len(n.server.table.Models()) == 1 })
	text, err := os.ReadFile(n.server.cfg.Policy)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.server.cfg.Policy, append(text, "\nsession: 9m\n"...), 0o600); err != nil { // counts all the same
		t.Fatal(err)
	}
	n.until("the policy's file counts", func() bool { return n.server.appraiser.policy().Session == 9*time.Minute })
	if got := n.server.policyEnd(); got != end || len(n.server.appraiser.policy().Releases) != 2 {
		t.Errorf("the policy ends at %.0f, and did at %.0f", got, end)
	}
	if err := start(func(*Config) {}); err != nil {
		t.Errorf("by the kept copy: %v", err)
	}
	err = start(func(cfg *Config) { cfg.Registry.MaxAge = time.Nanosecond })
	if !errors.Is(err, registry.ErrNoCopy) || !strings.Contains(err.Error(), "counts for 1ns") {
		t.Errorf("by a copy that is too old: %v", err)
	}
}

// A policy that ends with its copy of the registry admits nobody then.
func TestRegistryTooOld(t *testing.T) {
	c := registrytest.Start(t)
	c.Put(releases(t, nil)...)
	c.CatchUp()
	n := newNetwork(t, func(cfg *Config) {
		cfg.Registry = source(c)
		cfg.Registry.MaxAge, cfg.Registry.Every = time.Nanosecond, time.Hour // it ended with its block
	})
	identity := newIdentity(t)
	n.refuses(t, identity, answering(t, machine(t, simtee.Config{}), keysetOf(identity.ID())), "policy.window")
}

func TestRegistryConfig(t *testing.T) {
	c := testConfig(t)
	c.Registry = &trust.Source{Network: "x"}
	if err := c.validate(); err == nil || !strings.Contains(err.Error(), "registry.address") {
		t.Error(err)
	}
}
