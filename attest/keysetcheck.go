package attest

import (
	"fmt"
	"slices"
	"strings"
)

// keysetFacts compares the keyset with what the verifier knows.
func (a *appraisal) keysetFacts(text []byte, s *Setting) {
	k, err := ParseKeyset(text)
	if err != nil {
		a.fact(Check{Name: nameKeyset, Outcome: Fail, Got: err.Error(), Want: "a keyset of version 1"})
		return
	}
	a.r.Claims.Keyset = k
	a.fact(Check{Name: nameKeyset, Outcome: Pass, Got: fmt.Sprintf("version 1, epoch %d", k.Epoch), Want: "version 1"})
	a.fact(Check{
		Name: nameKeysetRole, Outcome: passed(k.Role == s.Role), Got: string(k.Role), Want: fmt.Sprintf("%q", s.Role),
	})
	id := Check{Name: nameKeysetID, Outcome: Pass, Got: k.ID.String(), Want: "anyone's"}
	if !s.ID.IsZero() {
		id.Outcome, id.Want = passed(k.ID == s.ID), s.ID.String()
	}
	a.fact(id)
	if !s.TLS.IsZero() {
		a.fact(Check{
			Name: nameKeysetTLS, Outcome: passed(k.TLS == s.TLS), Got: k.TLS.String(),
			Want: "the connection's, " + s.TLS.String(),
		})
	}
}

func (a *appraisal) judgeKeyset() {
	k := a.r.Claims.Keyset
	if !a.take(nameKeyset) {
		return
	}
	if k == nil {
		a.check(nameKeysetRole, false, "no keyset", "one")
		return
	}
	a.take(nameKeysetRole)
	a.take(nameKeysetID)
	life := k.NotAfter.Sub(k.NotBefore)
	a.put(Check{
		Name:    nameKeysetWindow,
		Outcome: passed(!a.now.Add(a.p.ClockSkew).Before(k.NotBefore) && a.now.Before(k.NotAfter) && life <= KeysetMaxAge),
		Got:     stamp(k.NotBefore) + " to " + stamp(k.NotAfter),
		Want:    fmt.Sprintf("around %s, at most %s", stamp(a.now), KeysetMaxAge), Until: k.NotAfter,
	})
	a.judgeTLS()
	for _, c := range a.p.judgeID(k) {
		a.put(c)
	}
}

func (a *appraisal) judgeTLS() {
	if a.r.Relayed {
		a.note("relayed: the keys are a genuine machine's, but whether anything that you are connected to is that machine " +
			"was not checked; seal what you send to its keys")
		return
	}
	i := slices.IndexFunc(a.facts, func(c Check) bool { return c.Name == nameKeysetTLS })
	if i >= 0 && a.facts[i].Outcome != Pass && a.skips(skipTLS, a.facts[i]) {
		return
	}
	a.take(nameKeysetTLS)
}

// judgeChips is about the policy's list of hardware.
func (p *Policy) judgeChips(c *Claims) []Check {
	checks := []Check{{Name: nameChipsDeny, Outcome: Pass, Got: plural(len(c.Chips), "chip"), Want: "none that is denied"}}
	for _, chip := range c.Chips {
		if slices.Contains(p.Chips.Deny, chip) {
			checks[0].Outcome, checks[0].Got = Fail, chip
		}
	}
	if len(p.Chips.Allow) == 0 {
		return checks
	}
	allow := Check{Name: nameChipsAllow, Outcome: Pass, Got: plural(len(c.Chips), "chip"), Want: "all on the list"}
	if len(c.Chips) == 0 || strings.HasPrefix(c.Chips[0], chipGPU) {
		allow.Outcome, allow.Got = Fail, "a CPU without a name"
	}
	for _, chip := range c.Chips {
		if !slices.Contains(p.Chips.Allow, chip) {
			allow.Outcome, allow.Got = Fail, chip
		}
	}
	return append(checks, allow)
}

// judgeID is about the policy's list of workers. Other roles can be denied by it, but need not be on it.
func (p *Policy) judgeID(k *Keyset) []Check {
	id := k.ID.String()
	checks := []Check{{
		Name: nameWorkersDeny, Outcome: passed(!slices.Contains(p.Workers.Deny, id)), Got: id, Want: "none that is denied",
	}}
	if len(p.Workers.Allow) > 0 && k.Role == Worker {
		checks = append(checks, Check{
			Name: nameWorkersAllow, Outcome: passed(slices.Contains(p.Workers.Allow, id)), Got: id, Want: "one on the list",
		})
	}
	return checks
}

// Denies tells whether the policy's lists refuse a machine that was admitted before, and by which check; Name is empty
// if they don't. It costs next to nothing.
func (p *Policy) Denies(c *Claims) Check {
	checks := p.judgeChips(c)
	if c.Keyset == nil {
		return Check{Name: nameKeyset, Outcome: Fail, Got: "no keyset", Want: "one"}
	}
	for _, check := range append(checks, p.judgeID(c.Keyset)...) {
		if check.Outcome == Fail {
			return check
		}
	}
	return Check{}
}
