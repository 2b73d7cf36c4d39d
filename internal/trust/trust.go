// Package trust is what a program goes by that judges machines: an appraisal policy whose releases a registry says.
package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/snp"
	"cocoon/billing/ton/registry"
	"cocoon/internal/config"
)

// checkWeights is the name of the check that compares a worker's models with what its release may serve.
const checkWeights = "keyset.weights"

// Trust is an appraisal policy, and what a registry says besides. It is never changed once made.
type Trust struct {
	// Policy has the registry's releases in the place of its own. Its digest is that of the text put together, so that it
	// stays the same while the registry says the same.
	Policy *attest.Policy
	// From is the registry as it was read; nil: the policy is a file's alone, with the releases in it.
	From *registry.Copy
	// Releases are those of the registry that hold, by name. None is no error: then no machine is admitted.
	Releases map[string]*Release
	// Gateways are those that the registry lists.
	Gateways []Gateway
	// Faults say which documents can't be read. They count for nothing.
	Faults []error
}

// Release is the document of a release in a registry: reference values as in a policy's releases, and what else the
// release demands.
type Release struct {
	attest.Release `yaml:",inline"`

	// Minimum are least versions of platforms, beyond the policy's. Of several releases that hold, the highest count.
	Minimum struct {
		SNP           map[snp.Line]attest.SNPTCB `yaml:"snp"`
		TDXEvaluation int                        `yaml:"tdx_min_tcb_evaluation"`
	} `yaml:"minimum"`
	// Weights are the digests of the weights that may be served, by model. A model that is not named may have any.
	Weights map[string][]string `yaml:"weights"`
}

// Gateway is the document of a gateway in a registry.
type Gateway struct {
	// URLs are where clients reach it.
	URLs []string `yaml:"urls"`
	// Workers is where workers dial in: host:port. Empty: it takes none that go by the registry.
	Workers string `yaml:"workers"`
	// ID is as 'cocoon-gateway id' prints it. Required.
	ID attest.Digest `yaml:"id"`
}

// Alone is the trust in a policy without a registry.
func Alone(p *attest.Policy) *Trust { return &Trust{Policy: p} }

// New puts together the policy of the text base, and of what the registry says at a time. The error is the
// base's. What of the registry can't be read is left out, and told in Trust.Faults.
func New(c *registry.Copy, base []byte, at time.Time) (*Trust, error) {
	t := &Trust{From: c, Releases: map[string]*Release{}}
	whole := map[string]any{}
	if err := config.Decode(base, &whole); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if _, err := parse(whole, nil); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var releases []any
	for _, e := range c.Of(registry.Release, at) {
		r, text, err := readRelease(&e)
		if err == nil {
			err = r.try(base, text)
		}
		if err == nil {
			err = r.raise(whole)
		}
		if err != nil {
			t.Faults = append(t.Faults, fmt.Errorf("the registry's %s: %w", e.Title, err))
			continue
		}
		t.Releases[e.Name] = r
		releases = append(releases, text)
	}
	for _, e := range c.Of(registry.Gateway, at) {
		var g Gateway
		err := config.Decode(e.Document, &g)
		if err == nil && g.ID.IsZero() {
			err = errors.New("its document has no id")
		}
		if err != nil {
			t.Faults = append(t.Faults, fmt.Errorf("the registry's %s: %w", e.Title, err))
			continue
		}
		t.Gateways = append(t.Gateways, g)
	}
	p, err := parse(whole, releases)
	if err != nil {
		return nil, fmt.Errorf("policy with the registry's releases: %w", err)
	}
	t.Policy = p
	return t, nil
}

// parse reads a policy with other releases than its own. The empty one stays empty.
func parse(whole map[string]any, releases []any) (*attest.Policy, error) {
	if len(whole) == 0 {
		return attest.ParsePolicy(nil)
	}
	whole["releases"] = releases
	text, err := json.Marshal(whole) // which is YAML
	if err != nil {
		return nil, err
	}
	return attest.ParsePolicy(text)
}

// readRelease reads a release's document, and gives the part of it that is a policy's.
func readRelease(e *registry.Entry) (*Release, map[string]any, error) {
	r, text := new(Release), map[string]any{}
	if err := errors.Join(config.Decode(e.Document, r), config.Decode(e.Document, &text)); err != nil {
		return nil, nil, err
	}
	if r.Name != e.Name {
		return nil, nil, fmt.Errorf("its document is of the release %.80q", r.Name)
	}
	end := r.NotAfter
	if !e.NotAfter.IsZero() && (end.IsZero() || e.NotAfter.Before(end)) {
		end = e.NotAfter
	}
	if !end.IsZero() {
		text["not_after"] = end.UTC().Format(time.RFC3339)
	}
	delete(text, "minimum")
	delete(text, "weights")
	return r, text, nil
}

// try tells whether the release goes with a policy: one that does not must not keep the others from counting.
func (r *Release) try(base []byte, text map[string]any) error {
	alone := map[string]any{}
	err := config.Decode(base, &alone)
	if err == nil {
		err = r.raise(alone)
	}
	if err == nil {
		_, err = parse(alone, []any{text})
	}
	return err
}

// raise raises a policy's least versions to those that the release demands. What a policy does not admit at all stays so.
func (r *Release) raise(policy map[string]any) error {
	if tdx, ok := policy["tdx"].(map[string]any); ok {
		if least, _ := tdx["min_tcb_evaluation"].(int); least < r.Minimum.TDXEvaluation {
			tdx["min_tcb_evaluation"] = r.Minimum.TDXEvaluation
		}
	}
	family, _ := policy["snp"].(map[string]any)
	lines, _ := family["lines"].(map[string]any)
	for name, demand := range r.Minimum.SNP {
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

// Weigh checks that a worker serves the weights that its release may serve, and adds what it found to the result of its
// appraisal, which must be nobody else's yet. Without a registry, and for gateways, there is nothing to check.
func (t *Trust) Weigh(r *attest.Result) {
	release := t.Releases[r.Release]
	if release == nil || r.Claims.Keyset == nil || r.Role == attest.Gateway {
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

// Equal tells whether both judge machines alike, but for when they end.
func (t *Trust) Equal(o *Trust) bool {
	return t.Policy.Digest() == o.Policy.Digest() && reflect.DeepEqual(t.Releases, o.Releases)
}

// At are the gateways that workers reach at an address, host:port.
func (t *Trust) At(workers string) []Gateway {
	var found []Gateway
	for _, g := range t.Gateways {
		if g.Workers != "" && strings.EqualFold(g.Workers, workers) {
			found = append(found, g)
		}
	}
	return found
}

// until ends the policy at a time, if it does not end before.
func (t *Trust) until(end time.Time) {
	if end.Before(t.Policy.NotAfter) {
		p := *t.Policy // never changed: this is another one, of the same text
		p.NotAfter = end
		t.Policy = &p
	}
}
