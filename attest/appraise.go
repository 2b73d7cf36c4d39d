package attest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Setting is what the verifier knows besides the evidence.
type Setting struct {
	Role   Role   // what the machine wants to be; required
	Nonce  Digest // what the verifier chose; zero refuses
	Binder Digest // TLS exporter of the connection on which the machine answered; zero: the evidence is bound to none
	// TLS is the SHA-256 of the SubjectPublicKeyInfo that the peer showed on the connection which this is about. Zero: no
	// connection, the evidence was relayed; then keyset.tls isn't checked, and a note says what that means.
	TLS   Digest
	ID    Digest                // whom it must be; zero: anyone
	Now   time.Time             // zero refuses
	Cache *nvgpu.SignatureCache // may be nil
}

// appraisal is one result in the making.
type appraisal struct {
	p     *Policy
	now   time.Time
	facts []Check // that only evidence can tell
	r     Result
	// simulated: a chain ends in a root that isn't a vendor's.
	simulated bool
}

// Appraise judges evidence by the policy. It is pure, takes nothing for true that the vendors' signatures don't cover,
// and never panics. All checks are made, so that the result lists everything that is wrong; but nothing is verified
// after the nonce, and no GPU that the CPU's report isn't about.
func (p *Policy) Appraise(e *Evidence, c Collateral, s Setting) *Result {
	a := newAppraisal(p, s.Role, s.Now)
	a.r.Relayed = s.TLS.IsZero()
	a.r.Expires = s.Now.Add(a.p.Session)
	if a.firstLook(e, &s) {
		a.verify(e, &c, &s)
	}
	return a.judge()
}

// Rejudge judges the claims of an earlier result by the policy, which may be another one, at another time: after a
// policy was loaded, for sessions to end that it doesn't admit. What only the evidence can tell is taken over from the
// earlier result, and nothing holds for longer than it did.
func (p *Policy) Rejudge(r *Result, now time.Time) *Result {
	if r == nil {
		r = new(Result)
	}
	a := newAppraisal(p, r.Role, now)
	a.facts, a.r.Claims, a.r.Relayed = r.Checks, r.Claims, r.Relayed
	a.r.Expires = earlier(r.Expires, now.Add(a.p.Session))
	if r.Verdict == Unsupported {
		a.r.Verdict = Unsupported
	}
	return a.judge()
}

func newAppraisal(p *Policy, role Role, now time.Time) *appraisal {
	if p == nil {
		p = new(Policy)
	}
	return &appraisal{p: p, now: now, r: Result{Role: role, Policy: p.Name, PolicyDigest: p.digest, At: now}}
}

// fact notes what was found out from the evidence.
func (a *appraisal) fact(c Check) { a.facts = append(a.facts, c) }

// firstLook tells whether the evidence is worth a verification: it costs next to nothing.
func (a *appraisal) firstLook(e *Evidence, s *Setting) bool {
	if e == nil {
		e = new(Evidence)
	}
	form := Check{Name: nameForm, Outcome: Pass, Got: "version 1", Want: "version 1, all parts there and of sane size"}
	if err := e.check(); err != nil {
		form.Outcome, form.Got = Fail, err.Error()
		if errors.Is(err, errVersion) {
			a.r.Verdict = Unsupported
		}
	}
	a.fact(form)
	got := e.Nonce.String()
	if s.Nonce.IsZero() {
		got = "none to compare with"
	}
	ok := !s.Nonce.IsZero() && e.Nonce == s.Nonce
	a.fact(Check{Name: nameNonce, Outcome: passed(ok), Got: got, Want: "the verifier's, " + s.Nonce.String()})
	return form.Outcome == Pass && ok && !a.now.IsZero()
}

// verify has the vendors' verifiers look at the evidence, and the keyset parsed: all that costs, and all facts.
func (a *appraisal) verify(e *Evidence, c *Collateral, s *Setting) {
	a.keysetFacts(e.Keyset, s)
	var data [64]byte
	switch e.TEE {
	case SNP:
		data = a.verifySNP(e.CPU, c)
	case TDX:
		data = a.verifyTDX(e.CPU, c)
	default:
		a.r.Verdict = Unsupported
		a.fact(Check{Name: nameCPU, Outcome: Fail, Got: fmt.Sprintf("%q", e.TEE), Want: "sev-snp or tdx"})
	}
	want := ReportData(s.Nonce, s.Binder, e.Keyset, e.Devices)
	bound := data == want
	a.fact(Check{
		Name: nameReportData, Outcome: passed(bound), Got: fmt.Sprintf("%.16x...", data),
		Want: fmt.Sprintf("%.16x..., over nonce, connection, keyset and devices", want),
	})
	a.verifyGPUs(e, c.GPU, s, bound)
	a.describe()
}

// judge applies the policy to facts and claims.
func (a *appraisal) judge() *Result {
	a.judgeWindow()
	form, nonce := a.take(nameForm), a.take(nameNonce)
	if form && nonce && !a.now.IsZero() {
		a.judgeCPU()
		a.judgeGPUs()
		for _, c := range a.p.judgeChips(&a.r.Claims) {
			a.put(c)
		}
		a.judgeKeyset()
	}
	a.put(Check{
		Name: nameFreshness, Outcome: passed(a.r.Expires.After(a.now)), Got: "holds until " + stamp(a.r.Expires),
		Want: "after " + stamp(a.now),
	})
	switch {
	case a.r.Verdict == Unsupported:
	case len(a.r.Failures()) > 0:
		a.r.Verdict = Rejected
	case a.simulated:
		a.r.Verdict = Simulated
		a.note("simulated hardware: this proves nothing about any machine")
	default:
		a.r.Verdict = Verified
	}
	return &a.r
}

// put adds a check. What passes bounds the result's life.
func (a *appraisal) put(c Check) {
	c.Got, c.Want, c.Root = words(c.Got), words(c.Want), words(c.Root)
	a.r.Checks = append(a.r.Checks, c)
	if c.Outcome != Fail && !c.Until.IsZero() {
		a.r.Expires = earlier(a.r.Expires, c.Until)
	}
}

// check adds a check without more to it.
func (a *appraisal) check(name string, ok bool, got, want string) {
	a.put(Check{Name: name, Outcome: passed(ok), Got: got, Want: want})
}

// take adds a fact and tells whether it is in the machine's favour. What nobody found out is a failure.
func (a *appraisal) take(name string) bool {
	i := slices.IndexFunc(a.facts, func(c Check) bool { return c.Name == name })
	if i < 0 {
		a.check(name, false, "not checked", "checked")
		return false
	}
	c := a.facts[i]
	if c.Outcome != Pass { // a skip needs the leave of the policy that judges
		c.Outcome = Fail
	}
	a.put(c)
	return c.Outcome == Pass
}

// skips adds the check as skipped, with the note that goes with it, if the policy gives leave.
func (a *appraisal) skips(skip string, c Check) bool {
	if !slices.Contains(a.p.Skip, skip) {
		return false
	}
	c.Outcome = Skip
	a.put(c)
	note, _ := skippable(skip)
	a.note(note)
	return true
}

// note adds a note, once.
func (a *appraisal) note(text string) {
	if !slices.Contains(a.r.Notes, text) {
		a.r.Notes = append(a.r.Notes, text)
	}
}

func (a *appraisal) judgeWindow() {
	p := a.p
	c := Check{
		Name: namePolicyWindow, Got: stamp(a.now), Want: stamp(p.NotBefore) + " to " + stamp(p.NotAfter), Until: p.NotAfter,
	}
	if a.now.IsZero() {
		c.Got = "no time"
	}
	c.Outcome = passed(!a.now.IsZero() && !a.now.Before(p.NotBefore) && a.now.Before(p.NotAfter))
	a.put(c)
}

// judgeCPU is about the machine that runs the software, and about the software.
func (a *appraisal) judgeCPU() {
	sound := a.take(nameCPU)
	switch c := &a.r.Claims; {
	case c.SNP != nil && c.TDX == nil:
		a.judgeSNP(c.SNP)
	case c.TDX != nil && c.SNP == nil:
		a.judgeTDX(c.TDX)
	case sound:
		a.check(nameRoot, false, "no claims of the CPU", "some")
	}
	a.take(nameReportData)
}

// judgeRoot says by whose root a chain is authentic. admitted tells whether this policy has it.
func (a *appraisal) judgeRoot(name, root string, vendor, admitted bool) {
	want := "the vendor's"
	if a.p.Simulated.Admit {
		want += ", or the policy's simulation's"
	}
	if !vendor {
		a.simulated = true
		root = "SIMULATED: " + root
	}
	a.put(Check{Name: name, Outcome: passed(admitted), Got: root, Want: want, Root: root})
}

// guarded calls a verifier; a panic of it is a refusal as any other.
func guarded(verify func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the verifier panicked: %v", p)
		}
	}()
	return verify()
}

// tolerant calls a verifier for now. If it refuses and the reason may be a vendor's clock that is ahead of ours, it is
// asked again for the time at the end of the policy's tolerance: what is valid then has not ended now. at is the time
// that passed.
func (a *appraisal) tolerant(verify func(at time.Time) error) (at time.Time, err error) {
	err = guarded(func() error { return verify(a.now) })
	if err == nil || a.p.ClockSkew <= 0 || !byTime(err) {
		return a.now, err
	}
	later := a.now.Add(a.p.ClockSkew)
	if guarded(func() error { return verify(later) }) == nil {
		return later, nil
	}
	return a.now, err
}

// byTime tells whether another time could change a refusal.
func byTime(err error) bool {
	if e, ok := errors.AsType[*snp.Error](err); ok {
		return e.Check == snp.CheckValidity || e.Check == snp.CheckRevocationList
	}
	if e, ok := errors.AsType[*tdx.Error](err); ok {
		return slices.Contains([]tdx.Check{
			tdx.CheckPCKChain, tdx.CheckRootCRL, tdx.CheckPCKCRL, tdx.CheckTCBInfo, tdx.CheckQEIdentity,
		}, e.Check)
	}
	if e, ok := errors.AsType[*nvgpu.CheckError](err); ok {
		return slices.Contains([]nvgpu.Check{
			nvgpu.CheckChain, nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMChain, nvgpu.CheckRIMOCSP,
		}, e.Check)
	}
	return false
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
