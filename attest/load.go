package attest

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
	"cocoon/internal/config"
)

// Limits of policies.
const (
	policyLife = 400 * 24 * time.Hour // longer than the year that some like to plan for
	sessionMax = 10 * time.Minute     // a machine that was taken away serves no longer than that
	skewMax    = time.Minute          // clocks that are further off are broken
)

// Defaults of policies.
const (
	reportVersionDefault = 3       // the first that names its CPU
	xfamDefault          = 0x6DBE7 // all features that TDX modules 1.5 let domains use
	gpusMin, gpusMax     = 1, 8    // what is built
)

// Sizes of reference values in hexadecimal digits.
const (
	sha256Digits = 64
	sha384Digits = 96
)

// LoadPolicy reads a policy's file.
func LoadPolicy(path string) (*Policy, error) {
	text, err := config.ReadFile(path, config.Max)
	if err != nil {
		return nil, err
	}
	p, err := ParsePolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// ParsePolicy reads a policy, which is YAML. The error lists all that is wrong with it. Empty text is the empty policy,
// which admits nothing.
func ParsePolicy(text []byte) (*Policy, error) {
	if len(text) > config.Max {
		return nil, fmt.Errorf("policy has %d bytes, at most %d", len(text), config.Max)
	}
	p := new(Policy)
	if err := config.Decode(text, p); err != nil {
		return nil, err
	}
	if empty := reflect.ValueOf(*p).IsZero(); !empty {
		var e faults
		p.check(&e)
		if err := errors.Join(e...); err != nil {
			return nil, err
		}
		p.setDefaults()
		if err := p.findRoots(); err != nil {
			return nil, err
		}
	}
	p.digest = sha256.Sum256(text)
	return p, nil
}

// Digest is the SHA-256 of the policy's text.
func (p *Policy) Digest() Digest { return p.digest }

func (p *Policy) setDefaults() {
	if p.Session == 0 {
		p.Session = sessionMax
	}
	if p.SNP != nil && p.SNP.MinReportVersion == 0 {
		p.SNP.MinReportVersion = reportVersionDefault
	}
	if p.TDX != nil && p.TDX.XFAM == 0 {
		p.TDX.XFAM = xfamDefault
	}
	if g := p.GPU; g != nil {
		if g.MinCount == 0 {
			g.MinCount = gpusMin
		}
		if g.MaxCount == 0 {
			g.MaxCount = gpusMax
		}
	}
}

// faults collects what is wrong with a policy.
type faults []error

// unless notes a fault where ok is false.
func (e *faults) unless(ok bool, format string, args ...any) {
	if !ok {
		*e = append(*e, fmt.Errorf(format, args...))
	}
}

// hex wants n digits, or nothing where that means something.
func (e *faults) hex(where, s string, n int, optional bool) {
	e.unless(optional && s == "" || isHex(s, n), "%s is %.100q, want %d lower-case hex digits", where, s, n)
}

func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == n && strings.ToLower(s) == s
}

func (p *Policy) check(e *faults) {
	e.unless(p.Name != "", "name is missing")
	e.unless(!p.NotBefore.IsZero() && !p.NotAfter.IsZero(), "not_before and not_after: both are required")
	e.unless(p.NotBefore.Before(p.NotAfter) && p.NotAfter.Sub(p.NotBefore) <= policyLife,
		"not_after is %s, want after not_before, by %d days at most", stamp(p.NotAfter), policyLife/(24*time.Hour))
	e.unless(p.Session >= 0 && p.Session <= sessionMax, "session is %s, want up to %s", p.Session, sessionMax)
	e.unless(p.ClockSkew >= 0 && p.ClockSkew <= skewMax, "clock_skew is %s, want up to %s", p.ClockSkew, skewMax)
	for _, s := range p.Skip {
		_, ok := skippable(s)
		e.unless(ok, "skip: no check %.40q can be skipped; want %s, %s or %s", s, skipOCSP, skipFWID, skipTLS)
	}
	names := map[string]bool{}
	for i := range p.Releases {
		r := &p.Releases[i]
		r.check(e, fmt.Sprintf("releases[%d]", i))
		e.unless(!names[r.Name], "releases[%d]: there is another %q", i, r.Name)
		names[r.Name] = true
	}
	if p.SNP != nil {
		p.SNP.check(e)
	}
	if p.TDX != nil {
		p.TDX.check(e)
	}
	if p.GPU != nil {
		p.GPU.check(e)
	}
	for _, s := range slices.Concat(p.Chips.Allow, p.Chips.Deny) {
		e.unless(isChip(s), "chips: %.150q is no chip: want snp:, tdx: or gpu: and its ID in hex, as results have it", s)
	}
	for _, s := range slices.Concat(p.Workers.Allow, p.Workers.Deny) {
		e.hex("workers: an ID", s, sha256Digits, false)
	}
}

// isChip tells whether a name is one that Claims.Chips can have.
func isChip(s string) bool {
	kind, id, _ := strings.Cut(s, ":")
	switch kind {
	case "snp":
		return isHex(id, 128) || isHex(id, 16)
	case "tdx":
		return isHex(id, 32)
	case "gpu":
		return isHex(id, 16)
	}
	return false
}

func (r *Release) check(e *faults, at string) {
	e.unless(r.Name != "", "%s: name is missing", at)
	e.unless(r.Role == Worker || r.Role == Gateway, "%s: role is %.40q, want worker or gateway", at, r.Role)
	e.unless(len(r.SNP)+len(r.TDX) > 0, "%s: no reference values, want some below snp or tdx", at)
	for i := range r.SNP {
		v := &r.SNP[i]
		at := fmt.Sprintf("%s.snp[%d].", at, i)
		e.hex(at+"measurement", v.Measurement, sha384Digits, false)
		e.hex(at+"host_data", v.HostData, sha256Digits, true)
		e.hex(at+"id_key_digest", v.IDKeyDigest, sha384Digits, true)
		e.hex(at+"author_key_digest", v.AuthorKeyDigest, sha384Digits, true)
	}
	for i := range r.TDX {
		v := &r.TDX[i]
		at := fmt.Sprintf("%s.tdx[%d].", at, i)
		e.hex(at+"mrtd", v.MRTD, sha384Digits, false)
		for n, values := range v.rtmrs() {
			e.unless(len(values) > 0, "%srtmr%d is missing", at, n)
			for _, s := range values {
				e.hex(fmt.Sprintf("%srtmr%d", at, n), s, sha384Digits, false)
			}
		}
		e.hex(at+"mr_config_id", v.MRConfigID, sha384Digits, true)
		e.hex(at+"mr_owner", v.MROwner, sha384Digits, true)
		e.hex(at+"mr_owner_config", v.MROwnerConfig, sha384Digits, true)
	}
}

func (v *TDXReference) rtmrs() [4][]string { return [4][]string{v.RTMR0, v.RTMR1, v.RTMR2, v.RTMR3} }

func (p *SNPPolicy) check(e *faults) {
	e.unless(len(p.Lines) > 0, "snp.lines is missing: it names the product lines admitted")
	for line, l := range p.Lines {
		at := "snp.lines." + string(line)
		e.unless(slices.Contains(snp.Lines(), line), "snp.lines: no line %.40q, want some of %v", line, snp.Lines())
		l.MinTCB.check(e, at+".min_tcb", line)
		for i, g := range l.Grace {
			at := fmt.Sprintf("%s.grace[%d]", at, i)
			g.MinTCB.check(e, at+".min_tcb", line)
			e.unless(!g.Until.IsZero() && g.Reason != "", "%s: until and reason are required", at)
		}
	}
	e.unless(len(p.EndorsementKeys) > 0, "snp.endorsement_keys is missing: VCEK, VLEK or both")
	for _, k := range p.EndorsementKeys {
		e.unless(k == snp.VCEK.String() || k == snp.VLEK.String(), "snp.endorsement_keys: %.40q, want VCEK or VLEK", k)
	}
	e.unless(!slices.Contains(p.EndorsementKeys, snp.VLEK.String()) || len(p.CSPs) > 0,
		"snp.csps is missing: the providers whose VLEKs are admitted")
	e.unless(!slices.Contains(p.CSPs, ""), "snp.csps: an empty name")
	e.unless(p.MaxVMPL <= 3, "snp.max_vmpl is %d, want 0 to 3", p.MaxVMPL)
	e.unless(!p.Debug && !p.MigrateMA, "snp.debug and snp.migrate_ma can't be true")
}

// check refuses a TCB that any machine has: least versions have to be said.
func (t SNPTCB) check(e *faults, at string, line snp.Line) {
	e.unless(t != SNPTCB{}, "%s is missing or all zero", at)
	e.unless(t.FMC == 0 || line == snp.Turin, "%s.fmc: %s has none", at, line)
}

func (p *TDXPolicy) check(e *faults) {
	e.unless(len(p.Statuses) > 0, "tdx.statuses is missing: UpToDate is the one to name")
	for _, s := range p.Statuses {
		e.unless(s == tdx.StatusUpToDate || s == tdx.StatusSWHardeningNeeded || s == tdx.StatusConfigurationNeeded ||
			s == tdx.StatusConfigurationAndSWHardeningNeeded,
			"tdx.statuses: %.60q can't be admitted for good; what is out of date can below grace, until a date", s)
	}
	for i, g := range p.Grace {
		at := fmt.Sprintf("tdx.grace[%d]", i)
		e.unless(!g.Until.IsZero() && g.Reason != "", "%s: until and reason are required", at)
		e.unless(slices.Contains([]tdx.Status{
			tdx.StatusSWHardeningNeeded, tdx.StatusConfigurationNeeded, tdx.StatusConfigurationAndSWHardeningNeeded,
			tdx.StatusOutOfDate, tdx.StatusOutOfDateConfigurationNeeded, tdx.StatusTDRelaunchAdvised,
			tdx.StatusTDRelaunchAdvisedConfigurationNeeded,
		}, g.Status), "%s.status: no grace for %.60q", at, g.Status)
		for _, a := range g.Advisories {
			e.unless(isAdvisory(a), "%s.advisories: %.40q is none, want such as INTEL-SA-01192", at, a)
		}
	}
	e.unless(p.MinTCBEvaluation >= 1, "tdx.min_tcb_evaluation is %d, want 1 or more", p.MinTCBEvaluation)
	for _, a := range p.DeniedAdvisories {
		e.unless(isAdvisory(a), "tdx.denied_advisories: %.40q is none, want such as INTEL-SA-01192", a)
	}
	for _, m := range p.MRSEAM {
		e.hex("tdx.mrseam", m, sha384Digits, false)
	}
	e.unless(!p.Debug && !p.Migratable, "tdx.debug and tdx.migratable can't be true")
	e.unless(p.XFAM == 0 || p.XFAM&xfamAlways == xfamAlways, "tdx.xfam is %#x, want bits 0 and 1 too", p.XFAM)
}

func isAdvisory(s string) bool {
	n, ok := strings.CutPrefix(s, "INTEL-SA-")
	return ok && len(n) == 5 && !strings.ContainsFunc(n, func(c rune) bool { return c < '0' || c > '9' })
}

func (p *GPUPolicy) check(e *faults) {
	e.unless(len(p.Architectures) > 0, "gpu.architectures is missing: HOPPER, BLACKWELL or both")
	for _, a := range p.Architectures {
		e.unless(a == nvgpu.Hopper || a == nvgpu.Blackwell, "gpu.architectures: %.40q, want HOPPER or BLACKWELL", a)
	}
	low, high := p.MinCount, p.MaxCount
	if high == 0 {
		high = gpusMax
	}
	e.unless(low >= 0 && low <= high && high <= nvgpu.DevicesMax,
		"gpu.min_count and max_count are %d and %d, want 1 up to %d", p.MinCount, p.MaxCount, nvgpu.DevicesMax)
	e.unless(len(p.MinDriver) > 0 && len(p.MinVBIOS) > 0, "gpu.min_driver and gpu.min_vbios: both are required")
	for chip, v := range p.MinDriver {
		_, err := version(v, 10)
		e.unless(isChipName(chip) && chip != chipSwitch, "gpu.min_driver: no GPU %.40q, want GH100 or a GB1xx, GB2xx", chip)
		e.unless(err == nil, "gpu.min_driver.%.40s is %.40q, want such as 580.95.05", chip, v)
	}
	for chip, v := range p.MinVBIOS {
		_, err := version(v, 16)
		e.unless(isChipName(chip), "gpu.min_vbios: no chip %.40q, want GH100, LS10 or a GB1xx, GB2xx", chip)
		e.unless(err == nil, "gpu.min_vbios.%.40s is %.40q, want such as 96.00.A5.00.01", chip, v)
	}
}

// chipSwitch is how NVIDIA calls the chip of its switches.
const chipSwitch = "LS10"

func isChipName(s string) bool {
	if s == "GH100" || s == chipSwitch {
		return true
	}
	n, ok := strings.CutPrefix(s, "GB")
	_, err := strconv.ParseUint(n, 10, 16)
	return ok && err == nil && len(n) == 3 && (n[0] == '1' || n[0] == '2')
}

// findRoots collects the vendors' roots and, if the policy admits them, the simulation's.
func (p *Policy) findRoots() error {
	var err error
	if p.roots, err = VendorRoots(); err != nil {
		return err
	}
	s := &p.Simulated
	vendors := slices.Concat(p.roots.TDX, p.roots.GPU.Device, p.roots.GPU.RIM)
	var e faults
	var found Roots
	for _, r := range s.SNP {
		e.unless(slices.Contains(snp.Lines(), r.Line), "simulated.snp: no line %.40q", r.Line)
		e.unless(!r.SHA256.IsZero(), "simulated.snp: no sha256")
		own := slices.ContainsFunc(snp.AMDRoots(), func(a snp.Root) bool { return a.SHA256 == r.SHA256 })
		e.unless(!own, "simulated.snp: %s is AMD's own", r.SHA256)
		found.SNP = append(found.SNP, snp.Root{Line: r.Line, SHA256: r.SHA256})
	}
	for _, x := range []struct {
		name, text string
		into       *[]*x509.Certificate
	}{{"tdx", s.TDX, &found.TDX}, {"gpu", s.GPU, &found.GPU.Device}, {"rim", s.RIM, &found.GPU.RIM}} {
		if x.text == "" {
			continue
		}
		c, err := simulatedRoot(x.text, vendors)
		e.unless(err == nil, "simulated.%s: %w", x.name, err)
		*x.into = append(*x.into, c)
	}
	some := len(found.SNP)+len(found.TDX)+len(found.GPU.Device)+len(found.GPU.RIM) > 0
	e.unless(some || !s.Admit, "simulated.admit without a simulated root")
	if err := errors.Join(e...); err != nil || !s.Admit {
		return err
	}
	p.roots.SNP = append(p.roots.SNP, found.SNP...)
	p.roots.TDX = append(p.roots.TDX, found.TDX...)
	p.roots.GPU.Device = append(p.roots.GPU.Device, found.GPU.Device...)
	p.roots.GPU.RIM = append(p.roots.GPU.RIM, found.GPU.RIM...)
	return nil
}

// simulatedRoot reads one certificate that has no key of a vendor's root.
func simulatedRoot(text string, vendors []*x509.Certificate) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("want the PEM of one certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	for _, v := range vendors {
		if bytes.Equal(c.RawSubjectPublicKeyInfo, v.RawSubjectPublicKeyInfo) {
			return nil, fmt.Errorf("it is a vendor's own, %q", v.Subject.CommonName)
		}
	}
	return c, nil
}
