package snp_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest/snp"
)

// recorded is a real report and what is known of it.
type recorded struct {
	name, ek string // files: NAME.report, and EK.der; no EK: AMD's certificate wasn't recorded
	at       time.Time
	version  uint32
	line     snp.Line
	current  snp.TCB
	reported snp.TCB
	firmware snp.Firmware
	policy   uint64
	platform uint64
	vmpl     uint32
	svn      uint32
	product  string
	csp      string
	mit      uint64
}

// The times at which to verify: all VCEKs are valid in 2026-11; the one VLEK expired on 2025-12-10.
var (
	lately = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	mid25  = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)
)

func tcb(fmc, boot, tee, snpLevel, microcode uint8) snp.TCB {
	return snp.TCB{FMC: fmc, Boot: boot, TEE: tee, SNP: snpLevel, Microcode: microcode}
}

func fw(minor, build uint8) snp.Firmware { return snp.Firmware{Major: 1, Minor: minor, Build: build} }

func allRecorded() []recorded {
	milan219, milan213 := tcb(0, 4, 0, 24, 219), tcb(0, 4, 0, 24, 213)
	genoa, old := tcb(0, 10, 0, 23, 84), tcb(0, 3, 0, 8, 115)
	return []recorded{
		{
			"gsg_milan_v2", "gsg_milan_v2.vcek", lately, 2, snp.Milan,
			tcb(0, 2, 0, 5, 68), tcb(0, 2, 0, 5, 68), fw(49, 3),
			0xb0000, 0x01, 0, 0, "Milan-B0", "", 0,
		},
		{
			"virtee_milan", "virtee_milan.vcek", lately, 2, snp.Milan,
			old, old, fw(52, 4),
			0x30000, 0x01, 0, 0, "Milan-B0", "", 0,
		},
		{
			"coco_milan", "coco_milan.vcek", lately, 2, snp.Milan,
			tcb(0, 3, 0, 8, 206), old, fw(52, 4),
			0x3001f, 0x01, 0, 4, "Milan-B0", "", 0,
		},
		{
			"ms_milan", "ms_milan.vcek", lately, 3, snp.Milan,
			milan219, milan219, fw(55, 29),
			0x3001f, 0x25, 0, 2, "Milan-B0", "", 0,
		},
		{
			"coco_az_v0", "coco_az_v0.vcek", lately, 3, snp.Milan,
			milan219, milan219, fw(55, 29),
			0x3001f, 0x25, 0, 10, "Milan-B0", "", 0,
		},
		{
			"coco_az_v2", "coco_az_v2.vcek", lately, 3, snp.Milan,
			milan219, milan219, fw(55, 29),
			0x3001f, 0x25, 0, 12, "Milan-B0", "", 0,
		},
		{
			"oak_milan_oc_release", "oak_milan_oc_release.vcek", lately, 3, snp.Milan,
			milan219, milan219, fw(55, 29),
			0x30000, 0x25, 0, 0, "Milan-B0", "", 0,
		},
		{
			"dstack_milan", "dstack_milan.vcek", lately, 3, snp.Milan,
			milan213, tcb(0, 4, 0, 23, 213), fw(55, 29),
			0x30000, 0x25, 0, 0, "Milan-B0", "", 0,
		},
		{
			"dstack_verifier", "dstack_milan.vcek", lately, 3, snp.Milan,
			milan213, tcb(0, 4, 0, 23, 213), fw(55, 29),
			0x30000, 0x25, 0, 0, "Milan-B0", "", 0,
		},
		{
			"coco_vlek", "coco_vlek.vlek", mid25, 3, snp.Milan,
			tcb(0, 4, 0, 24, 220), tcb(0, 4, 0, 24, 217), fw(55, 29),
			0x30000, 0x27, 1, 0, "Milan", "CN=cc-us-east-2.amazonaws.com", 0,
		},
		{
			"ms_genoa", "ms_genoa.vcek", lately, 3, snp.Genoa,
			genoa, genoa, fw(55, 40),
			0x3001f, 0x27, 0, 2, "Genoa", "", 0,
		},
		{
			"coco_az_genoa", "coco_az_genoa.vcek", lately, 3, snp.Genoa,
			genoa, genoa, fw(55, 40),
			0x3001f, 0x24, 0, 0x1000b, "Genoa", "", 0,
		},
		{
			"openpcc_azure", "openpcc_test_vcek", lately, 3, snp.Genoa,
			genoa, genoa, fw(55, 40),
			0x3001f, 0x24, 0, 0x10009, "Genoa", "", 0,
		},
		{
			"oak_genoa_oc", "oak_genoa_oc.vcek", lately, 5, snp.Genoa,
			tcb(0, 10, 0, 25, 84), tcb(0, 10, 0, 25, 84), fw(55, 43),
			0x30000, 0x25, 0, 0, "Genoa", "", 1,
		},
		{
			"ms_turin", "ms_turin.vcek", lately, 5, snp.Turin,
			tcb(1, 1, 1, 4, 81), tcb(1, 1, 1, 4, 81), fw(55, 65),
			0x3001f, 0x65, 0, 2, "Turin", "", 0x3f,
		},
		{
			"oak_turin_oc", "oak_turin_oc.vcek", lately, 5, snp.Turin,
			tcb(0, 1, 0, 2, 71), tcb(0, 1, 0, 2, 71), fw(55, 61),
			0x30000, 0x67, 0, 0, "Turin", "", 0,
		},
		{
			"openpcc_gce", "", lately, 4, snp.Milan,
			tcb(0, 4, 0, 25, 219), tcb(0, 4, 0, 25, 219), fw(55, 31),
			0x30000, 0x25, 0, 0, "", "", 0,
		},
		{
			"cocos", "", lately, 2, "",
			tcb(0, 3, 0, 14, 213), tcb(0, 3, 0, 14, 213), fw(55, 8),
			0x30000, 0, 2, 0, "", "", 0,
		},
	}
}

func TestRecorded(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range allRecorded() {
		seen[v.name+".report"] = true
		t.Run(v.name, func(t *testing.T) {
			report := vector(t, v.name+".report")
			if v.ek == "" {
				checkParsed(t, report, v)
				return
			}
			c, err := snp.Verify(report, vector(t, v.ek+".der"), amd(t), snp.Options{Roots: snp.AMDRoots(), Now: v.at})
			if err != nil {
				t.Fatal(err)
			}
			checkClaims(t, report, c, v)
		})
	}
	files, err := filepath.Glob(filepath.Join(vectors(t), "*.report"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no reports: %v", err)
	}
	for _, f := range files {
		if !seen[filepath.Base(f)] {
			t.Errorf("%s: not in the table", f)
		}
	}
}

func checkParsed(t *testing.T, report []byte, v recorded) {
	t.Helper()
	r, err := snp.ParseReport(report)
	if err != nil {
		t.Fatal(err)
	}
	if r.Version != v.version || r.Line != v.line || r.VMPL != v.vmpl || r.Policy.Raw != v.policy ||
		r.Platform.Raw != v.platform || r.CurrentFirmware != v.firmware {
		t.Errorf("got %+v, want %+v", r, v)
	}
	current, err := r.CurrentTCB.Decode(snp.Milan)
	if err != nil || current != v.current {
		t.Errorf("current TCB: got %v, %v, want %v", current, err, v.current)
	}
}

func checkClaims(t *testing.T, report []byte, c *snp.Claims, v recorded) {
	t.Helper()
	got := recorded{
		v.name, v.ek, v.at, c.Version, c.Line, c.Current, c.Reported, c.CurrentFirmware, c.Policy.Raw, c.Platform.Raw,
		c.VMPL, c.GuestSVN, c.Product, c.CSPID, c.CurrentMitigation,
	}
	if got != v {
		t.Errorf("got  %+v\nwant %+v", got, v)
	}
	if c.LaunchMitigation != v.mit || c.MitigationsKnown != (v.version == 5) {
		t.Errorf("mitigations: got %#x, %v", c.LaunchMitigation, c.MitigationsKnown)
	}
	if want := v.csp != ""; (c.Signer == snp.VLEK) != want || c.ChipIDMasked != want || (c.HWID == nil) != want {
		t.Errorf("signer %v, masked %v, hwID %x: CSP is %q", c.Signer, c.ChipIDMasked, c.HWID, v.csp)
	}
	if !c.ChipIDMasked && !bytes.HasPrefix(c.ChipID[:], c.HWID) {
		t.Errorf("chip %x, want %x", c.ChipID, c.HWID)
	}
	if !bytes.Equal(c.ReportData[:], report[0x50:0x90]) || !bytes.Equal(c.Measurement[:], report[0x90:0xc0]) ||
		!bytes.Equal(c.HostData[:], report[0xc0:0xe0]) || !bytes.Equal(c.IDKeyDigest[:], report[0xe0:0x110]) {
		t.Error("report data, measurement, host data or ID key differ from the report's bytes")
	}
	if !c.Vendor() {
		t.Error("AMD's root is not taken for the vendor's")
	}
	if want := v.name == "gsg_milan_v2"; c.Policy.Debug != want {
		t.Errorf("debug: got %v, want %v", c.Policy.Debug, want)
	}
	if c.Policy.MigrateMA || !c.Policy.SMT || c.Revocation.Number != nil || !c.NotAfter.After(v.at) {
		t.Errorf("got %+v", c)
	}
	if c.Platform.IOMMUWriteSafe != (v.line == snp.Turin) || c.Platform.AliasCheckComplete != (v.version >= 3) {
		t.Errorf("platform: got %+v", c.Platform)
	}
	committed := v.current
	switch v.name { // firmware that isn't committed yet
	case "coco_milan":
		committed = v.reported
	case "coco_vlek":
		committed.Microcode--
	}
	if c.Committed != committed || c.Launch != committed {
		t.Errorf("got committed %v, launch %v, want %v", c.Committed, c.Launch, committed)
	}
	if !c.Current.AtLeast(c.Committed) || !c.Current.AtLeast(c.Reported) {
		t.Errorf("TCBs: current %v, committed %v, reported %v", c.Current, c.Committed, c.Reported)
	}
}

// Each report with each certificate of another chip or TCB.
func TestRecordedSwapped(t *testing.T) {
	all, o := allRecorded(), snp.Options{Roots: snp.AMDRoots(), Now: mid25}
	for _, v := range all {
		report := vector(t, v.name+".report")
		for _, other := range all {
			if other.ek == "" || other.ek == v.ek {
				continue
			}
			c, err := snp.Verify(report, vector(t, other.ek+".der"), amd(t), o)
			refusedAnyhow(t, c, err, v.name+" with "+other.ek, 0)
		}
	}
}

func TestRecordedRefusals(t *testing.T) {
	report, ek, roots := vector(t, "ms_milan.report"), vector(t, "ms_milan.vcek.der"), snp.AMDRoots()
	tampered := slices.Clone(report)
	tampered[0x90] ^= 1
	mixed := amd(t)
	mixed[snp.Milan] = snp.Chain{ARK: mixed[snp.Milan].ARK, ASK: mixed[snp.Genoa].ASK}
	swapped := amd(t)
	swapped[snp.Milan] = snp.Chain{ARK: swapped[snp.Milan].ARK, ASK: swapped[snp.Milan].ASVK}
	at := func(now time.Time, roots []snp.Root) snp.Options {
		return snp.Options{Roots: roots, Now: now}
	}
	for name, c := range map[string]struct {
		report, ek []byte
		e          snp.Endorsements
		o          snp.Options
		want       snp.Check
	}{
		"no options":         {report, ek, amd(t), snp.Options{}, snp.CheckTime},
		"no roots":           {report, ek, amd(t), at(lately, nil), snp.CheckRoot},
		"another line's":     {report, ek, amd(t), at(lately, roots[1:]), snp.CheckRoot},
		"no endorsements":    {report, ek, nil, at(lately, roots), snp.CheckChain},
		"another line's ASK": {report, ek, mixed, at(lately, roots), snp.CheckCertificate},
		"ASVK for ASK":       {report, ek, swapped, at(lately, roots), snp.CheckCertificate},
		"measurement":        {tampered, ek, amd(t), at(lately, roots), snp.CheckSignature},
		"VCEK too new":       {report, ek, amd(t), at(mid25, roots), snp.CheckValidity},
		"VCEK too old":       {report, ek, amd(t), at(lately.AddDate(8, 0, 0), roots), snp.CheckValidity},
		"no CRL": {
			report, ek, amd(t),
			snp.Options{Roots: roots, Now: lately, RequireCRL: true},
			snp.CheckRevocationList,
		},
		"VLEK expired": {
			vector(t, "coco_vlek.report"), vector(t, "coco_vlek.vlek.der"), amd(t),
			at(lately, roots),
			snp.CheckValidity,
		},
		"another TCB": {
			vector(t, "ms_genoa.report"), vector(t, "oak_genoa_oc.vcek.der"), amd(t), at(lately, roots), snp.CheckTCB,
		},
		"another chip": {
			vector(t, "coco_az_v0.report"), ek, amd(t), at(lately, roots), snp.CheckChipID,
		},
		"another line": {report, vector(t, "ms_genoa.vcek.der"), amd(t), at(lately, roots), snp.CheckProduct},
		"VLEK for VCEK": {
			report, vector(t, "coco_vlek.vlek.der"), amd(t), at(mid25, roots), snp.CheckSigner,
		},
	} {
		t.Run(name, func(t *testing.T) {
			claims, err := snp.Verify(c.report, c.ek, c.e, c.o)
			refused(t, err, c.want)
			if claims != nil {
				t.Error("claims beside a refusal")
			}
		})
	}
}

// AMD's lists of Milan (until 2026-05-12, empty) and Genoa (until 2025-11-03, with an ASK that was replaced in 2022).
func TestRecordedRevocation(t *testing.T) {
	milan, genoa := vector(t, "openpcc_test_amd_milan_crl.crl"), vector(t, "openpcc_test_amd_genoa_crl.crl")
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	o := snp.Options{Roots: snp.AMDRoots(), Now: at, RequireCRL: true}
	report, ek := vector(t, "ms_milan.report"), vector(t, "ms_milan.vcek.der")
	c, err := snp.Verify(report, ek, with(amd(t), snp.Milan, milan), o)
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 5, 12, 0, 0, 0, 0, time.UTC)
	if c.Revocation.Number.Int64() != 6 || !c.Revocation.NextUpdate.Equal(want) || !c.NotAfter.Equal(want) {
		t.Errorf("got %+v, not after %v", c.Revocation, c.NotAfter)
	}
	_, err = snp.Verify(report, ek, with(amd(t), snp.Milan, genoa), o)
	refused(t, err, snp.CheckRevocationList)
	o.Now = want.Add(time.Second)
	_, err = snp.Verify(report, ek, with(amd(t), snp.Milan, milan), o)
	refused(t, err, snp.CheckRevocationList)

	o.Now = time.Date(2025, 10, 1, 0, 0, 0, 0, time.UTC)
	report, ek = vector(t, "oak_genoa_oc.report"), vector(t, "oak_genoa_oc.vcek.der")
	_, err = snp.Verify(report, ek, with(amd(t), snp.Genoa, genoa), o)
	if err != nil {
		t.Error(err)
	}
}

// The certificates that the program carries are those that others recorded from AMD.
func TestAMDEndorsements(t *testing.T) {
	e := amd(t)
	for _, root := range snp.AMDRoots() {
		if sum := sha256.Sum256(e[root.Line].ARK); sum != root.SHA256 {
			t.Errorf("%s: got ARK %x, want %x", root.Line, sum, root.SHA256)
		}
	}
	if n := len(snp.AMDRoots()); n != 3 || len(e) != 3 {
		t.Errorf("got %d roots and %d chains, want 3", n, len(e))
	}
	if !bytes.Equal(vector(t, "openpcc_test_amd_sev_genoa_root_certs.der"), e[snp.Genoa].ARK) {
		t.Error("Genoa's ARK differs")
	}
	if !bytes.Equal(vector(t, "openpcc_test_amd_sev_milan_root_certs.der"), e[snp.Milan].ASK) {
		t.Error("Milan's ASK differs")
	}
	text, err := os.ReadFile(filepath.Join(vectors(t), "..", "coco_az_vcek.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var found int
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if bytes.Equal(block.Bytes, e[snp.Milan].ARK) || bytes.Equal(block.Bytes, e[snp.Milan].ASK) {
			found++
		}
	}
	if found != 2 {
		t.Errorf("got %d of Milan's ARK and ASK in coco_az_vcek.pem, want 2", found)
	}
}

func TestRecordedEndorsementKeys(t *testing.T) {
	k, err := snp.ParseEndorsementKey(vector(t, "virtee_turin_certonly.vcek.der"))
	if err != nil {
		t.Fatal(err)
	}
	if k.Kind != snp.VCEK || k.Line != snp.Turin || k.Product != "Turin" ||
		hex.EncodeToString(k.HWID) != "1e550a8ee5cf9f4d" {
		t.Errorf("got %+v", k)
	}
	files, err := filepath.Glob(filepath.Join(vectors(t), "*.der"))
	if err != nil {
		t.Fatal(err)
	}
	var n int
	for _, f := range files {
		if strings.Contains(f, "root_certs") {
			continue
		}
		n++
		if _, err := snp.ParseEndorsementKey(vector(t, filepath.Base(f))); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
	if n < 16 {
		t.Errorf("got %d certificates, want 16 or more", n)
	}
}

// Every byte of a report, of its certificate, of the ASK and of the revocation list, each wrong once.
func TestRecordedFlips(t *testing.T) {
	t.Run("report", func(t *testing.T) {
		t.Parallel()
		report, ek, e := vector(t, "ms_turin.report"), vector(t, "ms_turin.vcek.der"), amd(t)
		o := snp.Options{Roots: snp.AMDRoots(), Now: lately}
		for i := range report {
			c, err := snp.Verify(flipped(report, i), ek, e, o)
			refusedAnyhow(t, c, err, "report byte", i)
		}
	})
	report, ek, e := vector(t, "ms_milan.report"), vector(t, "ms_milan.vcek.der"), amd(t)
	t.Run("VCEK", func(t *testing.T) {
		t.Parallel()
		o := snp.Options{Roots: snp.AMDRoots(), Now: lately}
		for i := range ek {
			c, err := snp.Verify(report, flipped(ek, i), e, o)
			refusedAnyhow(t, c, err, "VCEK byte", i)
		}
	})
	crl := vector(t, "openpcc_test_amd_milan_crl.crl")
	o := snp.Options{Roots: snp.AMDRoots(), Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), RequireCRL: true}
	milan := e[snp.Milan]
	chain := func(ark, ask, crl []byte) snp.Chain { return snp.Chain{ARK: ark, ASK: ask, CRLs: [][]byte{crl}} }
	for name, c := range map[string]struct {
		der   []byte
		chain func(der []byte) snp.Chain
	}{
		"ARK": {milan.ARK, func(der []byte) snp.Chain { return chain(der, milan.ASK, crl) }},
		"ASK": {milan.ASK, func(der []byte) snp.Chain { return chain(milan.ARK, der, crl) }},
		"CRL": {crl, func(der []byte) snp.Chain { return chain(milan.ARK, milan.ASK, der) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := snp.Verify(report, ek, snp.Endorsements{snp.Milan: c.chain(c.der)}, o); err != nil {
				t.Fatal(err)
			}
			for i := range c.der {
				claims, err := snp.Verify(report, ek, snp.Endorsements{snp.Milan: c.chain(flipped(c.der, i))}, o)
				refusedAnyhow(t, claims, err, name+" byte", i)
			}
		})
	}
}

// flipped returns a copy with one bit of byte i wrong; which one goes round.
func flipped(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 1 << (i % 8)
	return b
}

func TestRecordedLengths(t *testing.T) {
	report, ek, e := vector(t, "ms_turin.report"), vector(t, "ms_turin.vcek.der"), amd(t)
	o := snp.Options{Roots: snp.AMDRoots(), Now: lately}
	for n := range report {
		_, err := snp.Verify(report[:n], ek, e, o)
		refused(t, err, snp.CheckReportSize)
	}
	_, err := snp.Verify(append(slices.Clone(report), 0), ek, e, o)
	refused(t, err, snp.CheckReportSize)
	for n := range ek {
		_, err := snp.Verify(report, ek[:n], e, o)
		refused(t, err, snp.CheckCertificate)
	}
	_, err = snp.Verify(report, append(slices.Clone(ek), 0), e, o)
	refused(t, err, snp.CheckCertificate)
	_, err = snp.Verify(report, make([]byte, 1<<20), e, o)
	refused(t, err, snp.CheckCertificate)
}

// Whoever sees a signature (r, s) can make (r, n-s) of it, and ECDSA takes it: so a report's bytes identify nothing.
// The package documentation says so; this is to notice if it ever changes.
func TestMalleatedSignature(t *testing.T) {
	report := vector(t, "ms_milan.report")
	twin := slices.Clone(report)
	s := twin[0x2a0+72:][:48]
	slices.Reverse(s)
	new(big.Int).Sub(elliptic.P384().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
	slices.Reverse(s)
	if bytes.Equal(twin, report) {
		t.Fatal("not another signature")
	}
	c, err := snp.Verify(twin, vector(t, "ms_milan.vcek.der"), amd(t), snp.Options{Roots: snp.AMDRoots(), Now: lately})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.ReportData[:], report[0x50:0x90]) {
		t.Error("the claims differ")
	}
}

func BenchmarkVerifyMilan(b *testing.B) { benchmarkVerify(b, "ms_milan") }

func BenchmarkVerifyTurin(b *testing.B) { benchmarkVerify(b, "ms_turin") }

func benchmarkVerify(b *testing.B, name string) {
	report, ek, e := vector(b, name+".report"), vector(b, name+".vcek.der"), amd(b)
	o := snp.Options{Roots: snp.AMDRoots(), Now: lately}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := snp.Verify(report, ek, e, o); err != nil {
			b.Fatal(err)
		}
	}
}
