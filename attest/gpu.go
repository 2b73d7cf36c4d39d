package attest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/internal/strictjson"
)

// Prefixes of chips' names.
const (
	chipSNP = "snp:"
	chipTDX = "tdx:"
	chipGPU = "gpu:"
)

// versionParts bounds a version: a VBIOS has five, a driver three.
const versionParts = 8

// verifyGPUs verifies the evidence of all devices, if the CPU's report is about them.
func (a *appraisal) verifyGPUs(e *Evidence, c nvgpu.Collateral, s *Setting, bound bool) {
	fact := Check{
		Name: nameGPUs, Outcome: Fail, Want: "genuine devices that answered this nonce, in the state that NVIDIA signed for",
	}
	var devices []Device
	err := strictjson.Decode(e.Devices, &devices)
	switch {
	case err != nil || devices == nil:
		fact.Got = fmt.Sprintf("no list of devices: %v", err)
	case a.r.Role == Gateway:
		fact.Outcome, fact.Got = passed(len(devices) == 0), plural(len(devices), "device")
		fact.Want = "none at a gateway"
	case len(devices) == 0 || len(devices) > nvgpu.DevicesMax:
		fact.Got, fact.Want = plural(len(devices), "device"), fmt.Sprintf("1 to %d at a worker", nvgpu.DevicesMax)
	case !bound || a.r.Claims.SNP == nil && a.r.Claims.TDX == nil:
		fact.Got = plural(len(devices), "device") + ", not verified: no CPU vouches for the list"
	default:
		a.tryGPUs(devices, c, e, s, &fact)
	}
	a.fact(fact)
}

func (a *appraisal) tryGPUs(devices []Device, c nvgpu.Collateral, e *Evidence, s *Setting, fact *Check) {
	set := make([]nvgpu.Evidence, len(devices))
	for i, d := range devices {
		set[i] = nvgpu.Evidence(d)
	}
	o := nvgpu.Options{Roots: a.p.roots.GPU, Nonce: GPUNonce(s.Nonce, e.Keyset), Cache: s.Cache}
	if o.Cache == nil {
		o.Cache = nvgpu.NewSignatureCache(cacheSize) // for a second try
	}
	if slices.Contains(a.p.Skip, skipOCSP) {
		o.Skip = append(o.Skip, nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMOCSP)
	}
	if slices.Contains(a.p.Skip, skipFWID) {
		o.Skip = append(o.Skip, nvgpu.CheckFWID)
	}
	var claims []*nvgpu.Claims
	_, err := a.tolerant(func(at time.Time) (err error) {
		o.Now = at
		claims, err = nvgpu.VerifySet(set, c, o)
		return err
	})
	if err != nil {
		fact.Got = err.Error()
		return
	}
	a.r.Claims.Devices = claims
	fact.Outcome, fact.Got, fact.Until = Pass, plural(len(claims), "device"), claims[0].Expires
	for _, d := range claims {
		fact.Until = earlier(fact.Until, d.Expires)
	}
}

// cacheSize holds all signatures of one set of devices.
const cacheSize = 512

// judgeGPUs is about workers only; a gateway has none.
func (a *appraisal) judgeGPUs() {
	sound := a.take(nameGPUs)
	set := a.r.Claims.Devices
	if a.r.Role == Gateway {
		if len(set) > 0 {
			a.check(nameGPUCount, false, plural(len(set), "device"), "none at a gateway")
		}
		return
	}
	if len(set) == 0 {
		if sound {
			a.check(nameGPUCount, false, "no claims of devices", "some")
		}
		return
	}
	p := a.p.GPU
	if p == nil {
		p = new(GPUPolicy)
	}
	gpus, linked := 0, false
	for i, d := range set {
		a.judgeGPU(p, i, d)
		if d.Arch != nvgpu.LS10 {
			gpus++
		}
		linked = linked || d.ProtectedPCIe || d.Mode == nvgpu.ModePPCIE || d.Arch == nvgpu.LS10
	}
	a.check(nameGPUCount, gpus > 0 && gpus >= p.MinCount && gpus <= p.MaxCount, plural(gpus, "GPU"),
		fmt.Sprintf("%d to %d", p.MinCount, p.MaxCount))
	a.judgeDistinct(set)
	a.check(namePPCIE, !linked || p.ProtectedPCIe, either(linked, "NVLink in clear", "none"),
		either(p.ProtectedPCIe, "any", "none"))
	if linked {
		got := "closed"
		err := nvgpu.Topology(set)
		if err != nil {
			got = err.Error()
		}
		a.check(nameTopology, err == nil, got, "closed: all name each other, and nobody else")
	}
}

// judgeGPU is about one device.
func (a *appraisal) judgeGPU(p *GPUPolicy, i int, d *nvgpu.Claims) {
	name := func(format string) string { return fmt.Sprintf(format, i) }
	a.judgeGPURoot(name(nameGPURoot), d)
	if d.Arch == nvgpu.LS10 {
		a.check(name(nameGPUArch), p.ProtectedPCIe, string(d.Arch), "a switch only with protected PCIe")
	} else {
		a.check(name(nameGPUArch), slices.Contains(p.Architectures, d.Arch), string(d.Arch), oneOf(p.Architectures))
		a.judgeVersion(name(nameGPUDriver), d.Chip, d.Driver, p.MinDriver, 10)
	}
	a.judgeVersion(name(nameGPUVBIOS), d.Chip, d.VBIOS, p.MinVBIOS, 16)
	fwid := Check{Name: name(nameGPUFWID), Outcome: Pass, Got: fmt.Sprintf("%.8x", d.FWID), Want: "in the report"}
	if slices.Contains(d.Skipped, nvgpu.CheckFWID) {
		fwid.Outcome, fwid.Got = Fail, "not in the report"
	}
	if fwid.Outcome == Pass || !a.skips(skipFWID, fwid) {
		a.put(fwid)
	}
	a.judgeOCSP(name(nameGPUOCSP), d)
	matched := len(d.Measurements.Driver) + len(d.Measurements.VBIOS)
	cc := matched > 0 && !slices.Contains(d.Skipped, nvgpu.CheckRIM)
	a.check(name(nameGPUCC), cc, fmt.Sprintf("mode %q, %d reference values for confidential computing matched", d.Mode, matched),
		"on: all of them")
	a.check(name(nameGPUDebug), d.DebugOff && d.SecureBoot, either(d.DebugOff && d.SecureBoot, "off", "not known"),
		"DevTools and debugging off, secure boot on")
}

func (a *appraisal) judgeGPURoot(name string, d *nvgpu.Claims) {
	own, err := nvgpu.VendorRoots()
	if err != nil || len(d.Chain) == 0 || len(d.RIMs) == 0 {
		a.check(name, false, "no chain", "one")
		return
	}
	root := d.Chain[len(d.Chain)-1]
	vendor, admitted := isRoot(own.Device, root), isRoot(a.p.roots.GPU.Device, root)
	text := root.Subject + " " + root.SHA256[:min(16, len(root.SHA256))]
	for _, rim := range d.RIMs {
		if len(rim.Chain) == 0 {
			admitted = false
			continue
		}
		rimRoot := rim.Chain[len(rim.Chain)-1]
		vendor, admitted = vendor && isRoot(own.RIM, rimRoot), admitted && isRoot(a.p.roots.GPU.RIM, rimRoot)
		if !strings.Contains(text, rimRoot.Subject) {
			text += ", " + rimRoot.Subject
		}
	}
	a.judgeRoot(name, text, vendor, admitted)
}

func isRoot(roots []*x509.Certificate, c nvgpu.CertClaims) bool {
	return slices.ContainsFunc(roots, func(r *x509.Certificate) bool {
		sum := fingerprint(r)
		return c.SHA256 == hex.EncodeToString(sum[:])
	})
}

func fingerprint(c *x509.Certificate) [32]byte { return sha256.Sum256(c.Raw) }

func (a *appraisal) judgeOCSP(name string, d *nvgpu.Claims) {
	c := Check{Name: name, Outcome: Pass, Got: "good, all of them", Want: "good"}
	if slices.Contains(d.Skipped, nvgpu.CheckDeviceOCSP) || slices.Contains(d.Skipped, nvgpu.CheckRIMOCSP) {
		c.Outcome, c.Got = Fail, "not asked"
		if a.skips(skipOCSP, c) {
			return
		}
	}
	a.put(c)
}

// judgeVersion wants a version at least as high as the least of the chip.
func (a *appraisal) judgeVersion(name, chip, have string, least map[string]string, base int) {
	want, ok := least[chip]
	if !ok {
		a.check(name, false, chip+" "+have, "a chip that the policy has a least version for")
		return
	}
	h, err1 := version(have, base)
	w, err2 := version(want, base)
	a.check(name, err1 == nil && err2 == nil && slices.Compare(h, w) >= 0, chip+" "+have, "at least "+want)
}

// version reads the parts of a dotted version, in a base. Zeros at its end say nothing.
func version(s string, base int) ([]uint64, error) {
	var parts []uint64
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, base, 32)
		if err != nil || len(parts) == versionParts {
			return nil, errors.New("no version")
		}
		parts = append(parts, n)
	}
	for len(parts) > 0 && parts[len(parts)-1] == 0 {
		parts = parts[:len(parts)-1]
	}
	return parts, nil
}

func (a *appraisal) judgeDistinct(set []*nvgpu.Claims) {
	seen := map[string]bool{}
	for _, d := range set {
		seen[gpuChip(d)] = true
	}
	a.check(nameDistinct, len(seen) == len(set), plural(len(seen), "device"), fmt.Sprint(len(set)))
}

func gpuChip(d *nvgpu.Claims) string { return chipGPU + hex.EncodeToString(d.PDI[:]) }

// describe names the hardware in the claims.
func (a *appraisal) describe() {
	c := &a.r.Claims
	if s := c.SNP; s != nil {
		if s.Signer == snp.VCEK {
			c.Chips = append(c.Chips, chipSNP+hex.EncodeToString(s.HWID))
		}
		c.Hardware = append(c.Hardware, Hardware{
			Model: "AMD " + string(s.Line), Version: s.Current.String(), Measurement: hex.EncodeToString(s.Measurement[:]),
		})
	}
	if t := c.TDX; t != nil {
		c.Chips = append(c.Chips, chipTDX+hex.EncodeToString(t.Platform.PPID[:]))
		c.Hardware = append(c.Hardware, Hardware{
			Model: fmt.Sprintf("Intel FMSPC %x", t.Platform.FMSPC), Measurement: t.TD.MRTD.String(),
			Version: fmt.Sprintf("TDX module %s, %s", t.TD.TEETCBSVN, t.TCB.Status),
		})
	}
	for _, d := range c.Devices {
		c.Chips = append(c.Chips, gpuChip(d))
		c.Hardware = append(c.Hardware, Hardware{
			Model: "NVIDIA " + words(d.Model), Version: strings.TrimSpace("driver " + d.Driver + " VBIOS " + d.VBIOS),
		})
	}
}
