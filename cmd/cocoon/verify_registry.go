package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"cocoon/attest"
	"cocoon/billing/ton"
	"cocoon/billing/ton/registry"
	"cocoon/internal/config"
	"cocoon/internal/trust"
)

// trusted is what the user trusts: a policy, and what a registry says besides.
type trusted struct {
	*trust.Trust
	policy *attest.Policy
}

// loadTrust reads the policy from its file, or puts it together from the registry.
func (o *verifyOptions) loadTrust(ctx context.Context, at time.Time) (*trusted, error) {
	if o.registry == "" {
		policy, err := loadPolicy(o.policy)
		return &trusted{trust.Alone(policy), policy}, err
	}
	c, err := o.readRegistry(ctx)
	if err != nil {
		return nil, err
	}
	base, err := o.basePolicy(c, at)
	if err != nil {
		return nil, err
	}
	return newTrust(c, base, at)
}

// readRegistry reads the registry from the chain, or from the copy in the cache folder.
func (o *verifyOptions) readRegistry(ctx context.Context) (*registry.Copy, error) {
	a, err := ton.ParseAddress(o.registry)
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	network, err := config.ReadFile(o.network, config.Max)
	if err != nil {
		return nil, fmt.Errorf("--network: %w", err)
	}
	collateral, err := o.cacheDir()
	if err != nil {
		return nil, err
	}
	r, err := registry.NewReader(registry.Config{
		Network: network, Address: a, Dir: filepath.Join(filepath.Dir(collateral), "registry"),
	})
	if err != nil {
		return nil, err
	}
	defer r.Close() // it only asked
	c, err := r.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the registry: %w", err)
	}
	return c, nil
}

// basePolicy is the text of the user's own policy if he names one, else of the registry's.
func (o *verifyOptions) basePolicy(c *registry.Copy, at time.Time) ([]byte, error) {
	if o.policy != "" {
		return config.ReadFile(o.policy, config.Max)
	}
	found := c.Of(registry.Policy, at)
	if len(found) != 1 {
		return nil, fmt.Errorf("the registry has %d policies that hold at %s, want one: name your own with --policy", len(found),
			stamp(at))
	}
	return found[0].Document, nil
}

// newTrust is a policy with the releases of the registry that hold at a time in the place of its own. To a person who asks,
// a document that can't be read is an error.
func newTrust(c *registry.Copy, base []byte, at time.Time) (*trusted, error) {
	t, err := trust.New(c, base, at)
	if err != nil {
		return nil, err
	}
	if len(t.Faults) > 0 {
		return nil, t.Faults[0]
	}
	if len(t.Releases) == 0 {
		return nil, fmt.Errorf("the registry %s has no release that holds at %s", c.Address, stamp(at))
	}
	return &trusted{t, t.Policy}, nil
}

// pin has the gateway at that URL be the one that the registry lists there.
func (t *trusted) pin(target string, m *machine) {
	if t.From == nil || m.role != attest.Gateway {
		return
	}
	want, err := gatewayURL(target)
	if err != nil {
		return
	}
	for _, g := range t.Gateways {
		for _, text := range g.URLs {
			if u, err := gatewayURL(text); err == nil && u.String() == want.String() {
				m.id = g.ID
				m.notes = append(m.notes, "the registry lists a gateway at this URL: it must be "+g.ID.String())
				return
			}
		}
	}
	m.notes = append(m.notes, "the registry lists no gateway at this URL: any will do that runs one of its releases")
}

// tell adds to a machine's notes where the releases are from.
func (t *trusted) tell(m *machine) {
	c := t.From
	if c == nil {
		return
	}
	m.notes = append(m.notes, fmt.Sprintf("releases come from the registry %s as of block %d of %s: %d hold; its changes need "+
		"%d of %d signers, and wait for %s", c.Address, c.At.Seqno, stamp(c.At.Time), len(t.Releases), c.Threshold,
		len(c.Signers), c.Delay))
	if c.Kept {
		m.notes = append(m.notes, fmt.Sprintf("THE CHAIN IS OUT OF REACH: that was read %s ago, and kept with its proof (%s)",
			c.Age.Round(time.Second), oneLine(c.Why)))
	}
	for _, p := range c.Pending {
		what := p.Fault
		if p.Change != nil {
			what = c.Describe(p.Change)
		}
		m.notes = append(m.notes, fmt.Sprintf("pending in the registry, from %s on: %s", stamp(p.EffectiveAt), what))
	}
	for _, f := range c.Faults {
		m.notes = append(m.notes, "registry: "+f)
	}
	if c.Note != "" {
		m.notes = append(m.notes, "registry: "+c.Note)
	}
}

// weigh checks that a worker serves the weights that its release may serve.
func (t *trusted) weigh(m *machine) {
	if m.role == attest.Worker {
		t.Weigh(m.result)
	}
}
