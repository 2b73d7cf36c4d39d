package worker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"time"

	"cocoon/internal/tunnel"
)

// machineTimeout bounds the evidence of this machine and the collateral for it.
const machineTimeout = 2 * time.Minute

// checkMachine looks at the confidential hardware, and holds its evidence against the configured policy.
func (d *doctor) checkMachine(ctx context.Context, h Hardware, cert *tls.Certificate) {
	for _, c := range h.Found {
		d.add(c.Result, c.Name, "%s", c.Detail)
	}
	const name = "confidential machine"
	switch {
	case h.Attester == nil:
		d.add(Fail, name, "none: %v. No gateway admits a worker outside of one", h.Missing)
		return
	case cert == nil:
		d.add(Fail, name, "%s, not asked for evidence without the key", h.Attester.TEE())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, machineTimeout)
	defer cancel()
	id := tunnel.ID(sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo))
	p, err := newProver(&d.config, id, h.Attester, slog.New(slog.DiscardHandler))
	if err != nil {
		d.add(Fail, name, "%v", err)
		return
	}
	if p.trust.Load() == nil {
		if _, err := p.responder.Own(ctx); err != nil {
			d.add(Fail, name, "%s gives no evidence: %v", h.Attester.TEE(), err)
			return
		}
		d.add(Pass, name, "%s gives evidence", h.Attester.TEE())
		d.add(Warn, "policy", "none to hold the evidence against: set policy, or give one with --policy, to see what a gateway would say")
		return
	}
	d.checkPolicy(ctx, p)
}

// checkPolicy tells each check that the policy fails.
func (d *doctor) checkPolicy(ctx context.Context, p *prover) {
	own := p.trust.Load()
	name := "policy " + own.Policy.Name
	r, err := p.appraise(ctx, own)
	if r == nil {
		d.add(Fail, name, "no evidence to hold against it: %v", err)
		return
	}
	for _, c := range r.Failures() {
		d.add(Fail, name, "%s: got %s, want %s", c.Name, c.Got, c.Want)
	}
	if err != nil {
		d.add(Fail, name, "collateral: %v", err)
	}
	for _, note := range r.Notes {
		d.add(Info, name, "%s", note)
	}
	if r.Verdict.Admits() {
		d.add(Pass, name, "%s: %d checks, release %s; holds until %s", r.Verdict, len(r.Checks), r.Release, r.Expires.Format(time.RFC3339))
	}
}
