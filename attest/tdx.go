package attest

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/attest/opinion"
	"cocoon/attest/tdx"
)

// xfamAlways are the features x87 and SSE, without which no domain runs (Intel TDX Module ABI specification, XFAM).
const xfamAlways = 0b11

// verifyTDX verifies a quote and returns its report data.
func (a *appraisal) verifyTDX(quote []byte, c *Collateral) (data [64]byte) {
	fact := Check{Name: nameCPU, Outcome: Fail, Want: "a quote that a PCK vouches for, by a chain to an admitted root"}
	// Every other version is laid out otherwise, and none of them is broken for that.
	if len(quote) >= 2 {
		if v := binary.LittleEndian.Uint16(quote); v != 4 && v != 5 {
			a.r.Verdict = Unsupported
		}
	}
	q, err := tdx.Parse(quote)
	if err == nil {
		data = q.TD.ReportData
		err = a.tryTDX(quote, q, c)
	}
	if e, ok := errors.AsType[*tdx.Error](err); ok {
		fact.Got, fact.Want = string(e.Check)+": "+e.Got, e.Want
		if e.Err != nil {
			fact.Got += " (" + e.Err.Error() + ")"
		}
	} else if err != nil {
		fact.Got = err.Error()
	}
	if claims := a.r.Claims.TDX; claims != nil {
		fact.Outcome, fact.Until = Pass, claims.Expires
		fact.Got = fmt.Sprintf("version %d, vouched for by the PCK of platform %x", claims.Version, claims.Platform.PPID)
	}
	a.fact(fact)
	return data
}

// tryTDX looks for collateral that verifies the quote, and asks for the second opinion on what did.
func (a *appraisal) tryTDX(quote []byte, q *tdx.Quote, c *Collateral) error {
	platform, err := q.Platform()
	if err != nil {
		return err
	}
	candidates := tdxCollateral(hex.EncodeToString(platform.FMSPC[:]), c.TDX)
	if len(candidates) == 0 {
		return fmt.Errorf("no collateral for FMSPC %x among %s", platform.FMSPC, plural(len(c.TDX), "set"))
	}
	least := 1
	if a.p.TDX != nil {
		least = a.p.TDX.MinTCBEvaluation
	}
	var first error
	for _, x := range candidates[:min(len(candidates), triesMax)] {
		var claims *tdx.Claims
		at, err := a.tolerant(func(at time.Time) (err error) {
			claims, err = tdx.Verify(quote, x, tdx.Options{Roots: a.p.roots.TDX, Now: at, MinTCBEvaluation: least})
			return err
		})
		if err == nil {
			a.r.Claims.TDX = claims
			a.opinion(func() opinion.Opinion { return opinion.TDX(quote, x, a.p.roots.TDX, at) })
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// tdxCollateral are the sets that say they are about the FMSPC, the one with the highest evaluation number first: who
// sends collateral may not take us back to one from before a TCB recovery as long as there is a newer one.
func tdxCollateral(fmspc string, all []*tdx.Collateral) []*tdx.Collateral {
	type candidate struct {
		set        *tdx.Collateral
		evaluation int
	}
	var found []candidate
	for _, c := range all {
		var info struct {
			FMSPC      string `json:"fmspc"`
			Evaluation int    `json:"tcbEvaluationDataNumber"`
		}
		if c != nil && json.Unmarshal(c.TCBInfo, &info) == nil && strings.EqualFold(info.FMSPC, fmspc) {
			found = append(found, candidate{c, info.Evaluation})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return cmp.Compare(b.evaluation, a.evaluation) })
	var sets []*tdx.Collateral
	for _, c := range found {
		sets = append(sets, c.set)
	}
	return sets
}

func (a *appraisal) judgeTDX(c *tdx.Claims) {
	p := a.p.TDX
	if p == nil {
		p = new(TDXPolicy)
	}
	admitted := false
	for _, root := range a.p.roots.TDX {
		admitted = admitted || c.Root == fingerprint(root)
	}
	a.judgeRoot(nameRoot, fmt.Sprintf("%s %.8x", words(c.RootName), c.Root),
		hex.EncodeToString(c.Root[:]) == tdx.IntelRootSHA256, admitted)
	a.put(Check{
		Name: nameRevocation, Outcome: Pass, Got: "lists of root and PCK CA, collateral of " + stamp(c.Issued),
		Want: "fresh ones", Until: c.Expires,
	})
	a.take(nameOpinion)
	a.judgeTDXStatus(p, &c.TCB)
	a.check(nameTCBEvaluation, c.TCBEvaluation >= p.MinTCBEvaluation, fmt.Sprint(c.TCBEvaluation),
		fmt.Sprintf("at least %d", p.MinTCBEvaluation))
	a.check(nameTCBDate, !c.TCB.Date.Before(p.MinTCBDate), stamp(c.TCB.Date),
		either(p.MinTCBDate.IsZero(), "any", "from "+stamp(p.MinTCBDate)+" on"))
	denied := slices.DeleteFunc(slices.Clone(c.TCB.Advisories), func(id string) bool {
		return !slices.Contains(p.DeniedAdvisories, id)
	})
	a.check(nameAdvisories, len(denied) == 0, list(c.TCB.Advisories),
		either(len(p.DeniedAdvisories) == 0, "any", "none of "+list(p.DeniedAdvisories)))
	a.check(nameMRSEAM, len(p.MRSEAM) == 0 || slices.Contains(p.MRSEAM, c.TD.MRSEAM.String()), c.TD.MRSEAM.String(),
		either(len(p.MRSEAM) == 0, "any that Intel knows", "one of the policy's"))
	a.judgeTD(p, c)
	a.judgeMeasurement("MRTD "+c.TD.MRTD.String(), func(r *Release) string { return r.matchTDX(&c.TD) })
}

// judgeTDXStatus wants a rating that the policy names, or one that is good for some time yet.
func (a *appraisal) judgeTDXStatus(p *TDXPolicy, t *tdx.TCB) {
	check := Check{
		Name: nameTCBStatus, Outcome: Pass, Got: fmt.Sprintf("%s, advisories %s", t.Status, list(t.Advisories)),
		Want: oneOf(p.Statuses),
	}
	if !slices.Contains(p.Statuses, t.Status) {
		check.Outcome = Fail
		for _, g := range p.Grace {
			open := slices.ContainsFunc(t.Advisories, func(id string) bool { return !slices.Contains(g.Advisories, id) })
			if t.Status == g.Status && !open && a.now.Before(g.Until) && g.Until.After(check.Until) {
				check.Outcome, check.Until = Pass, g.Until
				check.Want = fmt.Sprintf("%s until %s: %s", g.Status, stamp(g.Until), g.Reason)
			}
		}
	}
	if !check.Until.IsZero() {
		a.note(fmt.Sprintf("the platform is rated %s, and admitted until %s", t.Status, stamp(check.Until)))
	}
	a.put(check)
}

// judgeTD is about the domain's configuration.
func (a *appraisal) judgeTD(p *TDXPolicy, c *tdx.Claims) {
	td := &c.TD
	a.check(nameDebug, !td.Attributes.UnderDebug(), td.Attributes.String(), "no bit of TUD")
	a.check(nameMigration, !td.Attributes.Migratable(), either(td.Attributes.Migratable(), "migratable", "none"), "none")
	a.check(nameAttributes, td.Attributes.SEPTVEDisable() && td.Attributes.Unknown() == 0 &&
		(p.PKS || !td.Attributes.PKS()) && (p.KL || !td.Attributes.KL()) && (p.Perfmon || !td.Attributes.Perfmon()),
		td.Attributes.String(), "SEPT_VE_DISABLE, else at most "+list(slices.Concat(
			named(p.PKS, "PKS"), named(p.KL, "KL"), named(p.Perfmon, "PERFMON"))))
	smt := "not said"
	if c.Platform.SMT != nil {
		smt = either(*c.Platform.SMT, "on", "off")
	}
	a.check(nameSMT, p.SMT || smt == "off", smt, either(p.SMT, "any", "off"))
	a.check(nameXFAM, td.XFAM&^p.XFAM == 0 && td.XFAM&xfamAlways == xfamAlways, fmt.Sprintf("%#x", td.XFAM),
		fmt.Sprintf("bits 0 and 1, and none but of %#x", p.XFAM))
	a.check(nameServiceTD, td.MRServiceTD == tdx.Measurement{}, td.MRServiceTD.String(), "zeros")
}

func named(yes bool, name string) []string {
	if yes {
		return []string{name}
	}
	return nil
}

// list is words for people.
func list(all []string) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
