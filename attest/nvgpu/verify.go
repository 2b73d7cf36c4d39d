package nvgpu

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Limits on sets.
const (
	DevicesMax = 32 // devices in one set: 8 GPUs and 4 switches are what is built
	rimsMax    = 64 // RIMs in one collateral
)

// nvdecIndex is the measurement that says nothing where NVDEC0 isn't there (NVIDIA/attestation-sdk, verify.cpp: "MSR
// 35"). No other rule for leaving one out is documented, and there is none here.
const nvdecIndex = 35

// Evidence is one device's: what NVML (or NSCQ, for a switch) returns.
type Evidence struct {
	Report []byte // see ParseReport
	Chain  []byte // see ParseChain
}

// Collateral is what NVIDIA's services say about devices of that kind: fetched or sent along, by whomever, since all
// of it is signed. There may be more than is needed; of one product and version there may be one RIM.
type Collateral struct {
	RIMs [][]byte // SWID tags, as the RIM service has them
	OCSP [][]byte // responses in DER, for all certificates of both chains but the leaf that the device made and the roots
}

// Options say what to believe and when. The zero value refuses everything.
type Options struct {
	Roots Roots     // VendorRoots, or those of a test
	Now   time.Time // the time to judge at
	Nonce [32]byte  // what the devices were asked with; not zero

	// Skip names checks to leave out: CheckFWID (for reports of drivers before 550, which don't have one: a wrong one is
	// still refused), CheckDeviceOCSP, CheckRIM (and with it all about RIMs and measurements), CheckRIMOCSP,
	// CheckTopology. Others can't be left out.
	Skip []Check

	Cache *SignatureCache // nil: nothing is remembered between calls
}

// Verify judges one device's evidence. An error is a *CheckError, perhaps wrapped, and then there are no claims.
func Verify(report, chain []byte, c Collateral, o Options) (*Claims, error) {
	v, err := newVerifier(c, o)
	if err != nil {
		return nil, err
	}
	return v.device(report, chain)
}

// VerifySet judges the evidence of several devices that answered one nonce. All have to be genuine and no two the same,
// and if NVLink is in clear between them, or a switch is among them, then their topology has to close (see Topology).
func VerifySet(set []Evidence, c Collateral, o Options) ([]*Claims, error) {
	if len(set) == 0 || len(set) > DevicesMax {
		return nil, fail(CheckSize, "devices", fmt.Sprint(len(set)), fmt.Sprintf("1 to %d", DevicesMax))
	}
	v, err := newVerifier(c, o)
	if err != nil {
		return nil, err
	}
	var all []*Claims
	linked := false
	for i, e := range set {
		claims, err := v.device(e.Report, e.Chain)
		if err != nil {
			return nil, fmt.Errorf("device %d: %w", i, err)
		}
		for j, other := range all {
			if same(claims, other) {
				return nil, fail(
					CheckDistinct,
					fmt.Sprintf("device %d", i),
					fmt.Sprintf("device %d again (%s)", j, claims.Serial),
					"each once",
				)
			}
		}
		all = append(all, claims)
		linked = linked || claims.ProtectedPCIe || claims.Arch == LS10
	}
	if !linked {
		return all, nil
	}
	if v.skips(CheckTopology) {
		for _, claims := range all {
			claims.Skipped = append(claims.Skipped, CheckTopology)
		}
		return all, nil
	}
	if err := Topology(all); err != nil {
		return nil, err
	}
	return all, nil
}

// same goes by everything that tells devices apart: one of them being equal is enough.
func same(a, b *Claims) bool {
	return a.UEID == b.UEID || a.Serial == b.Serial || a.PDI == b.PDI ||
		string(a.leaf.RawSubjectPublicKeyInfo) == string(b.leaf.RawSubjectPublicKeyInfo)
}

// verifier is one call's state.
type verifier struct {
	o        Options
	rims     []*RIM
	verified map[*RIM]*RIMClaims // RIMs that passed
	ends     map[*RIM]time.Time  // and until when they do
	ocsp     []*OCSP
}

func newVerifier(c Collateral, o Options) (*verifier, error) {
	bad := func(subject, got, want string) error { return fail(CheckOptions, subject, got, want) }
	switch {
	case len(o.Roots.Device) == 0:
		return nil, bad("device roots", "none", "some")
	case o.Now.IsZero():
		return nil, bad("time", "none", "one")
	case o.Nonce == [32]byte{}:
		return nil, bad("nonce", "zero", "a nonce")
	case len(c.RIMs) > rimsMax || len(c.OCSP) > ocspResponses:
		return nil, fail(CheckSize, "collateral", fmt.Sprintf("%d RIMs, %d OCSP responses", len(c.RIMs), len(c.OCSP)),
			fmt.Sprintf("at most %d, %d", rimsMax, ocspResponses))
	}
	for _, s := range o.Skip {
		if !slices.Contains([]Check{CheckFWID, CheckDeviceOCSP, CheckRIM, CheckRIMOCSP, CheckTopology}, s) {
			return nil, bad("skip", quote(string(s)), "a check that can be left out")
		}
	}
	v := &verifier{o: o, verified: map[*RIM]*RIMClaims{}, ends: map[*RIM]time.Time{}}
	if v.o.Cache == nil {
		v.o.Cache = NewSignatureCache(4 * ocspResponses) // the devices of a set share most of what they rest on
	}
	if !v.skips(CheckRIM) {
		if len(o.Roots.RIM) == 0 {
			return nil, bad("RIM roots", "none", "some")
		}
		for i, doc := range c.RIMs {
			r, err := ParseRIM(doc)
			if err != nil {
				return nil, fmt.Errorf("RIM %d: %w", i, err)
			}
			v.rims = append(v.rims, r)
		}
	}
	for i, der := range c.OCSP {
		r, err := ParseOCSP(der)
		if err != nil {
			return nil, fail(CheckDeviceOCSP, fmt.Sprintf("response %d", i), err.Error(), "an OCSP response")
		}
		v.ocsp = append(v.ocsp, r)
	}
	return v, nil
}

func (v *verifier) skips(c Check) bool { return slices.Contains(v.o.Skip, c) }

// device makes the checks in the order of their cost, and none on a RIM before the device is known to be genuine.
func (v *verifier) device(report, chainText []byte) (*Claims, error) {
	r, err := ParseReport(report)
	if err != nil {
		return nil, err
	}
	if r.Nonce != v.o.Nonce {
		return nil, fail(CheckNonce, "", hex.EncodeToString(r.Nonce[:]), hex.EncodeToString(v.o.Nonce[:]))
	}
	certs, err := ParseChain(chainText)
	if err != nil {
		return nil, err
	}
	id, err := identify(certs)
	if err != nil {
		return nil, err
	}
	if err := (chain{check: CheckChain, certs: certs}).verify(v.o.Roots.Device, v.o.Now, v.o.Cache); err != nil {
		return nil, err
	}
	c, err := r.claims(id, v.skips(CheckFWID))
	if err != nil {
		return nil, err
	}
	// No cache here: each report is signed afresh.
	if !(*SignatureCache)(nil).verifyRaw(certs[0], r.signed, r.sig) {
		return nil, fail(CheckSignature, "report", "a signature that is not of the device's key", "")
	}
	c.leaf = certs[0]
	if c.Chain, c.Expires, err = v.certs(CheckDeviceOCSP, certs, 1); err != nil {
		return nil, err
	}
	if v.skips(CheckDeviceOCSP) {
		c.Skipped = append(c.Skipped, CheckDeviceOCSP)
	}
	if v.skips(CheckRIM) {
		c.Skipped = append(c.Skipped, CheckRIM)
		return c, nil
	}
	if err := v.measurements(r, c); err != nil {
		return nil, err
	}
	if v.skips(CheckRIMOCSP) {
		c.Skipped = append(c.Skipped, CheckRIMOCSP)
	}
	return c, nil
}

// claims reads what the report says, and compares it with what the chain says where both do.
func (r *Report) claims(id *identity, fwidOptional bool) (*Claims, error) {
	c := &Claims{
		Arch: id.arch, Chip: id.chip, Model: id.model, UEID: id.serial.String(), PDI: id.pdi, FWID: id.fwid,
		Serial: id.info[strings.LastIndexByte(id.info, ':')+1:], DICEFlags: id.flags, Nonce: r.Nonce,
	}
	if f, ok := r.opaque[opFWID]; ok {
		if string(f) != string(id.fwid[:]) {
			return nil, fail(CheckFWID, "report", short(f), short(id.fwid[:]))
		}
	} else if id.arch != LS10 { // switches never have one
		if !fwidOptional {
			return nil, fail(CheckFWID, "report", "none", short(id.fwid[:]))
		}
		c.Skipped = append(c.Skipped, CheckFWID)
	}
	var err error
	if c.VBIOS, err = r.vbios(id.arch); err != nil {
		return nil, err
	}
	if id.arch != LS10 {
		if err := r.gpuClaims(c); err != nil {
			return nil, err
		}
	}
	return c, r.neighbours(c)
}

func (r *Report) gpuClaims(c *Claims) error {
	for _, f := range []struct {
		to *string
		id uint16
	}{{&c.Driver, opDriver}, {&c.Project, opProject}, {&c.ProjectSKU, opProjectSKU}, {&c.ChipSKU, opChipSKU}} {
		var err error
		if *f.to, err = r.text(f.id, versionMax); err != nil {
			return err
		}
	}
	board := r.opaque[opBoardID]
	if len(board) != 4 {
		return malformed("board", fmt.Sprintf("%d bytes", len(board)), "4")
	}
	c.BoardID = binary.LittleEndian.Uint32(board)
	if r.opaque[opChip] != nil {
		if chip, err := r.text(opChip, idMax); err != nil || chip != c.Chip {
			return fail(CheckIdentity, "chip in the report", quote(string(r.opaque[opChip])), c.Chip)
		}
	}
	on, set, err := r.flag(opNVDEC0)
	if err != nil {
		return err
	}
	if !set {
		return fail(CheckNVDEC, "report", "nothing", "aa or 55")
	}
	c.NVDEC0Disabled = !on
	if c.ProtectedPCIe, _, err = r.flag(opProtectedPCIe); err != nil {
		return err
	}
	c.Mode, err = r.mode()
	return err
}

// certs makes claims of a verified chain, and asks for the revocation of those from the one at first up, but the root.
func (v *verifier) certs(check Check, certs []*x509.Certificate, first int) ([]CertClaims, time.Time, error) {
	rev := revocation{check: check, responses: v.ocsp, now: v.o.Now, cache: v.o.Cache}
	var all []CertClaims
	ends := certs[0].NotAfter
	for i, cert := range certs {
		c := CertClaims{
			Subject: cert.Subject.CommonName, Serial: cert.SerialNumber.Text(16),
			SHA256: fingerprint(cert), NotAfter: cert.NotAfter,
		}
		if i >= first && i < len(certs)-1 && !v.skips(check) {
			var err error
			if c.OCSPUntil, err = rev.good(cert, certs[i+1]); err != nil {
				return nil, time.Time{}, err
			}
			ends = earlier(ends, c.OCSPUntil)
		}
		ends = earlier(ends, cert.NotAfter)
		all = append(all, c)
	}
	return all, ends, nil
}

// measurements finds the device's RIMs and compares.
func (v *verifier) measurements(r *Report, c *Claims) error {
	kinds := []RIMKind{DriverRIM, VBIOSRIM}
	if c.Arch == LS10 {
		kinds = kinds[1:]
	}
	from := map[int]RIMKind{} // which RIM is about which measurement
	want := map[int]golden{}
	for _, kind := range kinds {
		rim, err := v.rim(kind, c)
		if err != nil {
			return err
		}
		active := 0
		for i, g := range rim.golden {
			if !g.active {
				continue
			}
			if _, both := from[i]; both {
				return fail(CheckMeasurements, fmt.Sprintf("index %d", i), "two RIMs with a value for it", "one")
			}
			from[i], want[i] = kind, g
			active++
		}
		if active == 0 {
			return fail(CheckRIM, string(kind), "no active value", "some")
		}
	}
	if err := compare(r, c, from, want); err != nil {
		return err
	}
	c.SecureBoot, c.DebugOff = true, true
	return nil
}

func compare(r *Report, c *Claims, from map[int]RIMKind, want map[int]golden) error {
	var bad []int
	m := &c.Measurements
	for _, i := range slices.Sorted(maps.Keys(want)) {
		got := r.measurements[i]
		switch {
		case i == nvdecIndex && c.NVDEC0Disabled && c.Arch != LS10:
			m.Skipped = append(m.Skipped, i)
		case got == nil || !slices.Contains(want[i].values, [digestLen]byte(got)):
			bad = append(bad, i)
		case from[i] == DriverRIM:
			m.Driver = append(m.Driver, i)
		default:
			m.VBIOS = append(m.VBIOS, i)
		}
	}
	for _, i := range slices.Sorted(maps.Keys(r.measurements)) {
		if _, named := want[i]; !named {
			m.Unnamed = append(m.Unnamed, i)
		}
	}
	if len(bad) > 0 {
		i := bad[0]
		return fail(CheckMeasurements, fmt.Sprintf("%v of %d (%s)", bad, len(want), from[i]),
			fmt.Sprintf("at %d %s", i, short(r.measurements[i])), short(want[i].values[0][:]))
	}
	return nil
}

// rim returns the device's one RIM of a kind, verified.
func (v *verifier) rim(kind RIMKind, c *Claims) (*RIM, error) {
	version, ed := c.Driver, editionGPU
	if kind == VBIOSRIM {
		version = c.VBIOS
	}
	if c.Arch == LS10 {
		ed = editionSwitch
	}
	var found *RIM
	var others []string
	for _, r := range v.rims {
		switch {
		case r.Product != c.Chip || r.Version != version || r.Edition != ed:
			others = append(others, r.Product+" "+r.Version)
		case found != nil:
			return nil, fail(CheckRIM, string(kind), "two of "+c.Chip+" "+version, "one")
		default:
			found = r
		}
	}
	if found == nil {
		return nil, fail(CheckRIM, string(kind), fmt.Sprintf("%d others %s", len(others), quote(strings.Join(others, ", "))),
			c.Chip+" "+version)
	}
	if v.verified[found] == nil {
		if err := found.verify(v.o.Roots.RIM, v.o.Now, v.o.Cache); err != nil {
			return nil, err
		}
		certs, ends, err := v.certs(CheckRIMOCSP, found.certs, 0)
		if err != nil {
			return nil, err
		}
		v.ends[found] = ends
		v.verified[found] = &RIMClaims{
			Kind: kind, Version: found.Version, Product: found.Product, TagID: found.TagID,
			SHA256: hex.EncodeToString(found.sum[:]), Chain: certs,
		}
	}
	c.RIMs = append(c.RIMs, *v.verified[found])
	c.Expires = earlier(c.Expires, v.ends[found])
	return found, nil
}
