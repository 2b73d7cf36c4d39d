package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cocoon/attest/opinion"
	"cocoon/attest/snp"
)

// crlsMax is the verifier's limit: two lists of the verifier's own, two sent along.
const crlsMax = 4

// triesMax bounds how many combinations of collateral one piece of evidence may have us try: two keys (one of the
// verifier's, one sent along) with two chains are what can be.
const triesMax = 4

// verifySNP verifies a report and returns its report data.
func (a *appraisal) verifySNP(report []byte, c *Collateral) (data [64]byte) {
	fact := Check{Name: nameCPU, Outcome: Fail, Want: "a report that a chip's key signed, by a chain to an admitted root"}
	r, err := snp.ParseReport(report)
	if err == nil {
		data = r.ReportData
		err = a.trySNP(report, r, c)
	}
	if e, ok := errors.AsType[*snp.Error](err); ok {
		if e.Check == snp.CheckReportVersion || e.Check == snp.CheckCPU {
			a.r.Verdict = Unsupported
		}
		fact.Got, fact.Want = strings.TrimSuffix(string(e.Check)+" "+e.Field, " ")+": "+e.Got, e.Want
		if e.Err != nil {
			fact.Got += " (" + e.Err.Error() + ")"
		}
	} else if err != nil {
		fact.Got = err.Error()
	}
	if claims := a.r.Claims.SNP; claims != nil {
		fact.Outcome, fact.Until = Pass, claims.NotAfter
		fact.Got = fmt.Sprintf("version %d, signed by the %s of %s", claims.Version, claims.Signer, snpSigner(claims))
	}
	a.fact(fact)
	return data
}

// trySNP looks for a key and a chain that verify the report, and asks for the second opinion on what did.
func (a *appraisal) trySNP(report []byte, r *snp.Report, c *Collateral) error {
	keys, line, err := snpKeys(r, c.SNPKeys)
	if err != nil {
		return err
	}
	chains, err := a.snpChains(line, r.Signer, c)
	if err != nil {
		return err
	}
	requireCRL := a.p.SNP == nil || on(a.p.SNP.RequireCRL)
	var first error
	tries := 0
	for _, key := range keys {
		for _, chain := range chains {
			if tries++; tries > triesMax {
				return first
			}
			var claims *snp.Claims
			at, err := a.tolerant(func(at time.Time) (err error) {
				o := snp.Options{Roots: a.p.roots.SNP, Now: at, RequireCRL: requireCRL}
				claims, err = snp.Verify(report, key, snp.Endorsements{line: chain}, o)
				return err
			})
			if err == nil {
				a.r.Claims.SNP = claims
				a.opinion(func() opinion.Opinion { return opinion.SNP(report, key, chain, line, at) })
				return nil
			}
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// snpKeys are the keys that can have signed the report, by what they say of themselves.
func snpKeys(r *snp.Report, all [][]byte) (keys [][]byte, line snp.Line, err error) {
	for _, der := range all {
		k, err := snp.ParseEndorsementKey(der)
		if err != nil || k.Kind != r.Signer || r.Line != "" && k.Line != r.Line {
			continue
		}
		named := !bytes.Equal(r.ChipID[:], make([]byte, len(r.ChipID)))
		if t, err := r.ReportedTCB.Decode(k.Line); err != nil || t != k.TCB ||
			k.Kind == snp.VCEK && named && !bytes.HasPrefix(r.ChipID[:], k.HWID) {
			continue
		}
		if line == "" || line == k.Line { // a report of version 2 doesn't say: the first key decides
			line = k.Line
			keys = append(keys, der)
		}
	}
	if len(keys) == 0 {
		return nil, "", fmt.Errorf("no %s of chip %.16x for reported TCB %#016x among %s of collateral", r.Signer, r.ChipID,
			uint64(r.ReportedTCB), plural(len(all), "key"))
	}
	return keys, line, nil
}

// snpChains are the chains of a line that end in an admitted root: AMD's own, those of the collateral. Each has all
// revocation lists that were found for its root.
func (a *appraisal) snpChains(line snp.Line, signer snp.Signer, c *Collateral) ([]snp.Chain, error) {
	own, err := snp.AMDEndorsements()
	if err != nil {
		return nil, err
	}
	candidates := append([]snp.Chain{own[line]}, c.SNP[line]...)
	var chains []snp.Chain
	for _, x := range candidates {
		ica := x.ASK
		if signer == snp.VLEK {
			ica = x.ASVK
		}
		admitted := slices.Contains(a.p.roots.SNP, snp.Root{Line: line, SHA256: sha256.Sum256(x.ARK)})
		if !admitted || len(ica) == 0 || slices.ContainsFunc(chains, func(y snp.Chain) bool {
			return bytes.Equal(x.ARK, y.ARK) && bytes.Equal(x.ASK, y.ASK) && bytes.Equal(x.ASVK, y.ASVK)
		}) {
			continue
		}
		x.CRLs = crlsOf(x.ARK, candidates)
		chains = append(chains, x)
	}
	// A simulator's key can't hang on AMD's root: its own chains go first, for the refusal to be about them.
	slices.Reverse(chains)
	if len(chains) == 0 {
		return nil, fmt.Errorf("no chain for a %s of %s to an admitted root among the collateral", signer, line)
	}
	return chains, nil
}

// crlsOf are the revocation lists that come with any of the chains of a root.
func crlsOf(ark []byte, chains []snp.Chain) (lists [][]byte) {
	for _, chain := range chains {
		for _, crl := range chain.CRLs {
			known := slices.ContainsFunc(lists, func(l []byte) bool { return bytes.Equal(l, crl) })
			if bytes.Equal(chain.ARK, ark) && !known && len(lists) < crlsMax {
				lists = append(lists, crl)
			}
		}
	}
	return lists
}

// opinion asks another verifier about what ours accepted.
func (a *appraisal) opinion(ask func() opinion.Opinion) {
	c := Check{Name: nameOpinion, Outcome: Fail, Want: "agrees, or can't judge"}
	var o opinion.Opinion
	err := guarded(func() error { o = ask(); return nil })
	switch {
	case err != nil:
		c.Got = err.Error()
	case o.Stance == opinion.Agrees:
		c.Outcome, c.Got = Pass, o.Library+" agrees"
	case o.Stance == opinion.Abstains:
		c.Outcome, c.Got = Pass, o.Library+" abstains: "+o.Reason
	default:
		c.Got = fmt.Sprintf("%s %s: %s", o.Library, o.Stance, o.Reason)
	}
	a.fact(c)
}

// on is a switch that is on unless it was put off.
func on(b *bool) bool { return b == nil || *b }

func snpSigner(c *snp.Claims) string {
	if c.Signer == snp.VLEK {
		return fmt.Sprintf("%q", c.CSPID)
	}
	return fmt.Sprintf("chip %.8x", c.HWID)
}

func (a *appraisal) judgeSNP(c *snp.Claims) {
	p := a.p.SNP
	if p == nil {
		p = new(SNPPolicy)
	}
	a.judgeRoot(nameRoot, fmt.Sprintf("AMD ARK-%s %.8x", c.Line, c.Root), c.Vendor(),
		slices.Contains(a.p.roots.SNP, snp.Root{Line: c.Line, SHA256: c.Root}))
	a.judgeSNPRevocation(p, c)
	a.take(nameOpinion)
	line, admitted := p.Lines[c.Line]
	a.check(nameLine, admitted, fmt.Sprintf("%s, %s", c.Line, c.CPU), oneOf(slices.Sorted(maps.Keys(p.Lines))))
	signer := c.Signer.String()
	ok := slices.Contains(p.EndorsementKeys, signer)
	if c.Signer == snp.VLEK {
		ok = ok && slices.Contains(p.CSPs, c.CSPID)
		signer += fmt.Sprintf(" of %q", c.CSPID)
	}
	a.check(nameSigner, ok, signer, oneOf(append(slices.Clone(p.EndorsementKeys), p.CSPs...)))
	a.check(nameReportVersion, c.Version >= p.MinReportVersion, fmt.Sprint(c.Version),
		fmt.Sprintf("at least %d", p.MinReportVersion))
	if admitted {
		a.judgeTCB(nameTCBCurrent, c.Current, &line)
		a.judgeTCB(nameTCBReported, c.Reported, &line)
		a.judgeTCB(nameTCBCommitted, c.Committed, &line)
		a.judgeTCB(nameTCBLaunch, c.Launch, &line)
		a.judgeMitigation(c, line.MinMitigation)
	}
	a.judgeSNPGuest(p, c)
	a.judgeMeasurement(hex.EncodeToString(c.Measurement[:]), func(r *Release) string { return r.matchSNP(c) })
}

func (a *appraisal) judgeSNPRevocation(p *SNPPolicy, c *snp.Claims) {
	check := Check{Name: nameRevocation, Outcome: Pass, Want: "a fresh list of the ARK", Until: c.Revocation.NextUpdate}
	switch {
	case c.Revocation.Number != nil:
		check.Got = fmt.Sprintf("list %d of %s", c.Revocation.Number, stamp(c.Revocation.ThisUpdate))
	case on(p.RequireCRL):
		check.Outcome, check.Got = Fail, "none"
	default:
		check.Outcome, check.Got = Skip, "none, and snp.require_crl is false"
		a.note("whether AMD has revoked the chip's chain was not checked")
	}
	a.put(check)
}

// judgeTCB compares one of a report's TCBs with the line's least, or with one that is good for some time yet.
func (a *appraisal) judgeTCB(name string, have snp.TCB, line *SNPLine) {
	check := Check{Name: name, Outcome: Pass, Got: have.String(), Want: "at least " + line.MinTCB.tcb().String()}
	if !have.AtLeast(line.MinTCB.tcb()) {
		check.Outcome = Fail
		for _, g := range line.Grace {
			if have.AtLeast(g.MinTCB.tcb()) && a.now.Before(g.Until) && g.Until.After(check.Until) {
				check.Outcome, check.Until = Pass, g.Until
				check.Want = fmt.Sprintf("at least %s until %s: %s", g.MinTCB.tcb(), stamp(g.Until), g.Reason)
			}
		}
	}
	if !check.Until.IsZero() {
		a.note(fmt.Sprintf("%s is below the least, and admitted until %s", name, stamp(check.Until)))
	}
	a.put(check)
}

func (t SNPTCB) tcb() snp.TCB {
	return snp.TCB{FMC: t.FMC, Boot: t.Boot, TEE: t.TEE, SNP: t.SNP, Microcode: t.Microcode}
}

func (a *appraisal) judgeMitigation(c *snp.Claims, least uint64) {
	got := fmt.Sprintf("%#x at launch, %#x now", c.LaunchMitigation, c.CurrentMitigation)
	if !c.MitigationsKnown {
		got = fmt.Sprintf("reports of version %d don't say", c.Version)
	}
	ok := c.LaunchMitigation&c.CurrentMitigation&least == least
	a.check(nameMitigation, ok, got, fmt.Sprintf("%#x", least))
}

// snpPolicyKnown are the bits of a guest policy that have a name.
const snpPolicyKnown = 1<<26 - 1

// judgeSNPGuest is about the guest's and the host's configuration.
func (a *appraisal) judgeSNPGuest(p *SNPPolicy, c *snp.Claims) {
	provisional := c.Current != c.Committed || c.CurrentFirmware != c.CommittedFirmware
	a.check(nameProvisional, !provisional || p.ProvisionalFirmware,
		fmt.Sprintf("firmware %s, committed %s %s", c.CurrentFirmware, c.CommittedFirmware, c.Committed),
		either(p.ProvisionalFirmware, "any", "what runs is committed"))
	a.check(nameDebug, !c.Policy.Debug, either(c.Policy.Debug, "allowed", "off"), "off")
	a.check(nameMigration, !c.Policy.MigrateMA, either(c.Policy.MigrateMA, "by an agent", "none"), "none")
	a.check(nameVMPL, c.VMPL <= p.MaxVMPL, fmt.Sprint(c.VMPL), fmt.Sprintf("at most %d", p.MaxVMPL))
	smt := c.Policy.SMT || c.Platform.SMT
	a.check(nameSMT, !smt || p.SMT, either(smt, "on or allowed", "off"), either(p.SMT, "any", "off"))
	unknown := c.Policy.Raw &^ snpPolicyKnown
	a.check(namePolicyBits, unknown == 0 && (!c.Policy.CXL || p.CXL), fmt.Sprintf("%#x", c.Policy.Raw),
		either(p.CXL, "no unknown bit", "no unknown bit, no CXL (bit 21)"))
	ecc, alias := on(p.RequireECC), on(p.RequireAliasCheck)
	a.check(namePlatform, (c.Platform.ECC || !ecc) && (c.Platform.AliasCheckComplete || !alias),
		fmt.Sprintf("%#x", c.Platform.Raw),
		"wanted are "+list(slices.Concat(named(ecc, "ECC (bit 2)"), named(alias, "alias check complete (bit 5)"))))
	masked := c.ChipIDMasked && c.Signer == snp.VCEK
	a.check(nameChipID, !masked || p.MaskedChipID, either(masked, "masked", snpSigner(c)), either(p.MaskedChipID, "any", "named"))
}

func either(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}
