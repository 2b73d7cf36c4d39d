package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cocoon/attest"
)

// Names of checks that are made here, as package attest calls them: where there is nothing to appraise.
const (
	checkForm  = "evidence.form"
	checkNonce = "evidence.nonce"
	checkTLS   = "keyset.tls" // the policy may skip it
)

// judge appraises machines under the user's policy.
type judge struct {
	policy *attest.Policy
	shelf  *shelf
}

// appraise judges one machine as of a time. It always comes to a verdict.
func (j *judge) appraise(ctx context.Context, m *machine, at time.Time) *attest.Result {
	if m.absent != "" {
		return j.refuse(m, at, attest.Check{Name: checkForm, Got: "none: " + m.absent, Want: "evidence"})
	}
	root, err := m.root()
	if err != nil {
		c := attest.Check{Name: checkNonce, Got: err.Error(), Want: "a proof that leads from our nonce to the evidence's"}
		return j.refuse(m, at, c)
	}
	e, err := attest.ParseEvidence(m.evidence)
	if err != nil {
		e = otherVersion(m.evidence)
	}
	if e == nil {
		return j.refuse(m, at, attest.Check{Name: checkForm, Got: err.Error(), Want: "evidence of version 1"})
	}
	setting := attest.Setting{Role: m.role, Nonce: root, Binder: m.binder, TLS: m.tls, ID: m.id, Now: at}
	if e.Nonce != root { // nothing will be verified, so nothing is fetched
		return j.finish(m, j.policy.Appraise(e, attest.Collateral{}, setting))
	}
	c, err := j.shelf.complete(ctx, e, at)
	if err != nil {
		m.notes = append(m.notes, "collateral: "+oneLine(err))
	}
	return j.finish(m, j.policy.Appraise(e, c, setting))
}

// root is the nonce that the evidence must be over.
func (m *machine) root() (attest.Digest, error) {
	if m.proof == nil {
		return m.nonce, nil
	}
	return m.proof.Root(m.nonce)
}

// otherVersion is evidence of a version that this program does not know, with nothing but its version; nil if the text
// is something else.
func otherVersion(text []byte) *attest.Evidence {
	var e struct {
		V int `json:"v"`
	}
	if json.Unmarshal(text, &e) != nil || e.V <= attest.Version {
		return nil
	}
	return &attest.Evidence{V: e.V}
}

// refuse is the result where there is nothing to appraise.
func (j *judge) refuse(m *machine, at time.Time, c attest.Check) *attest.Result {
	c.Outcome = attest.Fail
	return j.finish(m, &attest.Result{
		Verdict: attest.Rejected, Role: m.role, Relayed: m.tls.IsZero(), Checks: []attest.Check{c},
		Policy: j.policy.Name, PolicyDigest: j.policy.Digest(), At: at, Expires: at,
	})
}

// finish adds what only this program knows.
func (j *judge) finish(m *machine, r *attest.Result) *attest.Result {
	if m.role == attest.Gateway && m.tls.IsZero() && m.absent == "" {
		c := attest.Check{
			Name: checkTLS, Outcome: attest.Fail, Got: "plain HTTP: no key to compare",
			Want: "TLS, with the key that the keyset names",
		}
		if slices.Contains(j.policy.Skip, checkTLS) {
			c.Outcome = attest.Skip
			m.notes = append(m.notes, "plain HTTP: whoever is on the way reads along, and may be another than this machine")
		}
		r.Checks = append(r.Checks, c)
	}
	if r.Verdict == attest.Verified && len(r.Failures()) > 0 {
		r.Verdict = attest.Rejected
	}
	if m.model != "" && !serves(r.Claims.Keyset, m.model) {
		m.notes = append(m.notes, fmt.Sprintf("that it serves %q is the gateway's word: its keyset does not say so", m.model))
	}
	r.Notes = append(r.Notes, m.notes...)
	return r
}

func serves(k *attest.Keyset, model string) bool {
	return k != nil && slices.ContainsFunc(k.Models, func(m attest.Model) bool { return m.Name == model })
}
