package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/snp"
	"cocoon/billing/ton"
	"cocoon/billing/ton/registry"
	"cocoon/internal/config"
)

// checkWeights is the name of the check that compares a worker's models with what its release may serve.
const checkWeights = "keyset.weights"

// manifest is the document of a release in a registry: reference values as in a policy's releases, and what else the
// release demands.
type manifest struct {
	attest.Release `yaml:",inline"`

	// Minimum are least versions of platforms, beyond the policy's. Of several releases that hold, the highest count.
	Minimum struct {
		SNP           map[snp.Line]attest.SNPTCB `yaml:"snp"`
		TDXEvaluation int                        `yaml:"tdx_min_tcb_evaluation"`
	} `yaml:"minimum"`
	// Weights are the digests of the weights that may be served, by model. A model that is not named may have any.
	Weights map[string][]string `yaml:"weights"`
}

// listedGateway is the document of a gateway in a registry.
type listedGateway struct {
	URLs []string      `yaml:"urls"`
	ID   attest.Digest `yaml:"id"` // as 'cocoon-gateway id' prints it
}

// trust is what the user trusts: a policy, and what a registry says besides.
type trust struct {
	policy   *attest.Policy
	from     *registry.Copy       // nil: the policy is the user's own
	releases map[string]*manifest // by name
	gateways []listedGateway
}

// loadTrust reads the policy from its file, or puts it together from the registry.
func (o *verifyOptions) loadTrust(ctx context.Context, at time.Time) (*trust, error) {
	if o.registry == "" {
		policy, err := loadPolicy(o.policy)
		return &trust{policy: policy}, err
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

// newTrust is a policy with the releases of the registry that hold at a time in the place of its own.
func newTrust(c *registry.Copy, base []byte, at time.Time) (*trust, error) {
	t := &trust{from: c, releases: map[string]*manifest{}}
	whole := map[string]any{}
	if err := config.Decode(base, &whole); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var releases []any
	for _, e := range c.Of(registry.Release, at) {
		m, text, err := readManifest(&e)
		if err == nil {
			err = m.raise(whole)
		}
		if err != nil {
			return nil, fmt.Errorf("the registry's %s: %w", e.Title, err)
		}
		t.releases[e.Name] = m
		releases = append(releases, text)
	}
	if len(releases) == 0 {
		return nil, fmt.Errorf("the registry %s has no release that holds at %s", c.Address, stamp(at))
	}
	for _, e := range c.Of(registry.Gateway, at) {
		var g listedGateway
		err := config.Decode(e.Document, &g)
		if err == nil && g.ID.IsZero() {
			err = errors.New("its document has no id")
		}
		if err != nil {
			return nil, fmt.Errorf("the registry's %s: %w", e.Title, err)
		}
		t.gateways = append(t.gateways, g)
	}
	whole["releases"] = releases
	text, err := json.Marshal(whole) // which is YAML
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if t.policy, err = attest.ParsePolicy(text); err != nil {
		return nil, fmt.Errorf("policy with the registry's releases: %w", err)
	}
	return t, nil
}

// readManifest reads a release's document, and gives the part of it that is a policy's.
func readManifest(e *registry.Entry) (*manifest, map[string]any, error) {
	m, text := new(manifest), map[string]any{}
	if err := errors.Join(config.Decode(e.Document, m), config.Decode(e.Document, &text)); err != nil {
		return nil, nil, err
	}
	if m.Name != e.Name {
		return nil, nil, fmt.Errorf("its document is of the release %.80q", m.Name)
	}
	end := m.NotAfter
	if !e.NotAfter.IsZero() && (end.IsZero() || e.NotAfter.Before(end)) {
		end = e.NotAfter
	}
	if !end.IsZero() {
		text["not_after"] = end.UTC().Format(time.RFC3339)
	}
	delete(text, "minimum")
	delete(text, "weights")
	return m, text, nil
}

// raise raises a policy's least versions to those that the release demands. What a policy does not admit at all stays so.
func (m *manifest) raise(policy map[string]any) error {
	if tdx, ok := policy["tdx"].(map[string]any); ok {
		if least, _ := tdx["min_tcb_evaluation"].(int); least < m.Minimum.TDXEvaluation {
			tdx["min_tcb_evaluation"] = m.Minimum.TDXEvaluation
		}
	}
	family, _ := policy["snp"].(map[string]any)
	lines, _ := family["lines"].(map[string]any)
	for name, demand := range m.Minimum.SNP {
		line, ok := lines[string(name)].(map[string]any)
		if !ok {
			continue
		}
		least, ok := line["min_tcb"].(map[string]any)
		if !ok {
			return fmt.Errorf("the policy has no snp.lines.%s.min_tcb to raise", name)
		}
		for part, v := range map[string]uint8{
			"fmc": demand.FMC, "boot": demand.Boot, "tee": demand.TEE, "snp": demand.SNP, "microcode": demand.Microcode,
		} {
			if have, _ := least[part].(int); have < int(v) {
				least[part] = int(v)
			}
		}
	}
	return nil
}

// pin has the gateway at that URL be the one that the registry lists there.
func (t *trust) pin(target string, m *machine) {
	if t.from == nil || m.role != attest.Gateway {
		return
	}
	want, err := gatewayURL(target)
	if err != nil {
		return
	}
	for _, g := range t.gateways {
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
func (t *trust) tell(m *machine) {
	c := t.from
	if c == nil {
		return
	}
	m.notes = append(m.notes, fmt.Sprintf("releases come from the registry %s as of block %d of %s: %d hold; its changes need "+
		"%d of %d signers, and wait for %s", c.Address, c.At.Seqno, stamp(c.At.Time), len(t.releases), c.Threshold,
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
func (t *trust) weigh(m *machine) {
	r := m.result
	release := t.releases[r.Release]
	if release == nil || r.Claims.Keyset == nil || m.role != attest.Worker {
		return
	}
	for _, model := range r.Claims.Keyset.Models {
		want, ok := release.Weights[model.Name]
		if !ok || model.Name == "" {
			continue
		}
		c := attest.Check{
			Name: checkWeights, Outcome: attest.Pass, Got: fmt.Sprintf("%q: %.100q", model.Name, model.WeightsDigest),
			Want: strings.Join(want, " or "),
		}
		if !slices.Contains(want, model.WeightsDigest) {
			c.Outcome = attest.Fail
			if r.Verdict.Admits() {
				r.Verdict = attest.Rejected
			}
		}
		r.Checks = append(r.Checks, c)
	}
}
