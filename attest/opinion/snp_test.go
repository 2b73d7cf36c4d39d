package opinion_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sevtestdata "github.com/google/go-sev-guest/verify/testdata"
	"github.com/google/go-sev-guest/verify/trust"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

// Both kinds of key of all lines, in all versions of the report.
func TestCompareSNPGood(t *testing.T) {
	c := compare(t, "snp good")
	for _, line := range snp.Lines() {
		for _, kind := range []snp.Signer{snp.VCEK, snp.VLEK} {
			for version := uint32(2); version <= 5; version++ {
				c.add(fmt.Sprintf("%s %s version %d", line, kind, version),
					simulateSNP(line, simsnp.ReportConfig{Version: version, Signer: kind}, simsnp.KeyConfig{Kind: kind}))
			}
		}
	}
	for name, cpu := range map[string]snp.CPU{
		"Milan model 0": {Family: 0x19},
		"Bergamo":       {Family: 0x19, Model: 0xa0, Stepping: 2},
		"Siena":         {Family: 0x19, Model: 0xa1},
		"Turin Dense":   {Family: 0x1a, Model: 0x11},
		"stepping 16":   {Family: 0x19, Model: 0x11, Stepping: 16},
	} {
		c.add(name, simulateSNP(cpu.Line(), simsnp.ReportConfig{CPU: &cpu}, simsnp.KeyConfig{}))
	}
	for name, r := range map[string]simsnp.ReportConfig{
		"everything set": {
			GuestSVN: 7, Policy: 0x3ff0139, Platform: 0xbf, VMPL: 3, Mitigation: 0x3f, ReportData: [64]byte{1, 63: 2},
			Measurement: [48]byte{3, 47: 4}, HostData: [32]byte{5, 31: 6}, IDKeyDigest: [48]byte{7, 47: 8},
			AuthorKeyDigest: [48]byte{9, 47: 10}, FamilyID: [16]byte{11, 15: 12}, ImageID: [16]byte{13, 15: 14},
			ReportID: [32]byte{15, 31: 16}, Firmware: snp.Firmware{Major: 1, Minor: 58, Build: 9},
			Current: &snp.TCB{Boot: 5, TEE: 2, SNP: 25, Microcode: 220},
		},
		"debug":       {Policy: 0xb0000},
		"masked chip": {MaskChipID: true},
	} {
		c.add(name, simulateSNP(snp.Genoa, r, simsnp.KeyConfig{}))
	}
	for name, k := range map[string]simsnp.KeyConfig{
		"levels at 127":    {TCB: snp.TCB{Boot: 127, TEE: 127, SNP: 127, Microcode: 255}},
		"boot level 128":   {TCB: snp.TCB{Boot: 128}},
		"TEE level 255":    {TCB: snp.TCB{TEE: 255}},
		"SNP level 128":    {TCB: snp.TCB{SNP: 128}},
		"key usage":        {Mutate: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
		"another locality": {Mutate: func(c *x509.Certificate) { c.Subject.Locality = []string{"Austin"} }},
	} {
		c.add(name, simulateSNP(snp.Genoa, simsnp.ReportConfig{}, k))
	}
	c.done()
}

// Evidence that a secure processor signed, though it shouldn't have, or whose parts don't belong together.
func TestCompareSNPBad(t *testing.T) {
	c := compare(t, "snp bad")
	set := func(off int, v ...byte) func([]byte) { return func(b []byte) { copy(b[off:], v) } }
	for name, r := range map[string]simsnp.ReportConfig{
		"version 0":          {Mutate: set(0, 0)},
		"version 6":          {Version: 6},
		"algorithm 2":        {Mutate: set(0x34, 2)},
		"VMPL 4":             {VMPL: 4},
		"host's report":      {VMPL: 1<<32 - 1},
		"policy bit 17":      {Policy: 0x10000},
		"policy bit 26":      {Policy: 0x4030000},
		"platform bit 6":     {Platform: 0x65},
		"platform bit 8":     {Platform: 0x125},
		"signer bit 5":       {Mutate: set(0x48, 0x20)},
		"signing key 2":      {Mutate: set(0x48, 2<<2)},
		"signing key none":   {Mutate: set(0x48, 7<<2)},
		"masked VCEK":        {Mutate: set(0x48, 2)},
		"signed as by VLEK":  {Mutate: set(0x48, 1<<2)},
		"bytes after signer": {Mutate: set(0x4c, 1)},
		"bytes after CPU":    {Mutate: set(0x18b, 1)},
		"bytes at the end":   {Mutate: set(0x29f, 1)},
		"mitigation in v4":   {Version: 4, Mutate: set(0x200, 1)},
		"mitigation in v3":   {Version: 3, Mutate: set(0x1f8, 1)},
		"CPU in v2":          {Version: 2, Mutate: set(0x188, 0x19)},
		"unknown CPU":        {Mutate: set(0x188, 0x19, 0x20)},
		"unknown family":     {Mutate: set(0x188, 0x17, 0x31)},
		"another line's CPU": {Mutate: set(0x188, 0x19, 0x01)},
		"Turin's CPU":        {Mutate: set(0x188, 0x1a, 0x02)},
		"another chip":       {Mutate: set(0x1a0, 1, 2, 3, 4)},
		"another TCB":        {TCB: snp.TCB{Boot: 4, TEE: 1, SNP: 25, Microcode: 219}},
		"reserved TCB byte":  {Mutate: set(0x3a, 1)},
	} {
		c.add(name, simulateSNP(snp.Genoa, r, simsnp.KeyConfig{}))
	}
	other := simulateSNP(snp.Genoa, simsnp.ReportConfig{}, simsnp.KeyConfig{})
	for name, edit := range map[string]func(e *snpEvidence){
		"empty report":      func(e *snpEvidence) { e.report = nil },
		"short report":      func(e *snpEvidence) { e.report = e.report[:snp.ReportSize-1] },
		"long report":       func(e *snpEvidence) { e.report = append(e.report, 0) },
		"no key":            func(e *snpEvidence) { e.ek = nil },
		"no chain":          func(e *snpEvidence) { e.chain = snp.Chain{} },
		"no ASK":            func(e *snpEvidence) { e.chain.ASK = nil },
		"ASVK for ASK":      func(e *snpEvidence) { e.chain.ASK = e.chain.ASVK },
		"ASK for ARK":       func(e *snpEvidence) { e.chain.ARK = e.chain.ASK },
		"another line":      func(e *snpEvidence) { e.line = snp.Milan },
		"another authority": func(e *snpEvidence) { e.chain = authorities[snp.Milan]().Endorsements()[snp.Milan] },
		"another's VCEK":    func(e *snpEvidence) { e.ek = other.ek },
		"before all":        func(e *snpEvidence) { e.now = e.now.Add(-2 * time.Hour) },
		"after the VCEK":    func(e *snpEvidence) { e.now = e.now.AddDate(8, 0, 0) },
		"after all":         func(e *snpEvidence) { e.now = e.now.AddDate(30, 0, 0) },
		"tail":              func(e *snpEvidence) { e.report[snp.ReportSize-1] = 1 },
		"signature zero":    func(e *snpEvidence) { clear(e.report[0x2a0:]) },
		"r not reduced":     func(e *snpEvidence) { copy(e.report[0x2a0:], bytes.Repeat([]byte{0xff}, 48)) },
		"r with 49 bytes":   func(e *snpEvidence) { e.report[0x2a0+48] = 1 },
	} {
		e := simulateSNP(snp.Genoa, simsnp.ReportConfig{}, simsnp.KeyConfig{})
		edit(e)
		c.add(name, e)
	}
	c.done()
}

// A signature (r, s) is as good as (r, n-s), for both.
func TestCompareSNPMalleated(t *testing.T) {
	c := compare(t, "snp malleated")
	e := simulateSNP(snp.Milan, simsnp.ReportConfig{}, simsnp.KeyConfig{})
	s := e.report[0x2a0+72:][:48]
	slices.Reverse(s)
	new(big.Int).Sub(elliptic.P384().Params().N, new(big.Int).SetBytes(s)).FillBytes(s)
	slices.Reverse(s)
	c.add("n-s", e)
	c.done()
}

// Revocation lists of all sorts.
func TestCompareSNPRevocation(t *testing.T) {
	c := compare(t, "snp revocation")
	auth := authorities[snp.Milan]()
	stale := simsnp.CRLConfig{ThisUpdate: simNow.AddDate(0, -2, 0), NextUpdate: simNow.AddDate(0, -1, 0)}
	serials := func(n ...int64) (all []*big.Int) {
		for _, i := range n {
			all = append(all, big.NewInt(i))
		}
		return all
	}
	for name, list := range map[string]simsnp.CRLConfig{
		"fresh":             {},
		"stale":             stale,
		"of the future":     {ThisUpdate: simNow.AddDate(0, 1, 0)},
		"ends now":          {NextUpdate: simNow},
		"ARK":               {Revoked: serials(1)},
		"ASK":               {Revoked: serials(2)},
		"ASVK":              {Revoked: serials(3)},
		"chips":             {Revoked: serials(0)},
		"others":            {Revoked: serials(4, 5)},
		"ASK by stale list": {ThisUpdate: stale.ThisUpdate, NextUpdate: stale.NextUpdate, Revoked: serials(2)},
		"critical": {Mutate: func(l *x509.RevocationList) {
			l.ExtraExtensions = append(l.ExtraExtensions, critical())
		}},
	} {
		for _, kind := range []snp.Signer{snp.VCEK, snp.VLEK} {
			e := simulateSNP(snp.Milan, simsnp.ReportConfig{Signer: kind}, simsnp.KeyConfig{Kind: kind})
			e.chain.CRLs = [][]byte{must(auth.CRL(list))}
			c.add(name+" for "+kind.String(), e)
		}
	}
	for name, crls := range map[string][][]byte{
		"none":              nil,
		"another's":         {must(authorities[snp.Genoa]().CRL(simsnp.CRLConfig{}))},
		"no list":           {[]byte("list")},
		"too many":          slices.Repeat([][]byte{must(auth.CRL(simsnp.CRLConfig{}))}, 5),
		"two, 2nd with ASK": {must(auth.CRL(simsnp.CRLConfig{})), must(auth.CRL(simsnp.CRLConfig{Revoked: serials(2)}))},
	} {
		e := simulateSNP(snp.Milan, simsnp.ReportConfig{}, simsnp.KeyConfig{})
		e.chain.CRLs = crls
		c.add(name, e)
	}
	c.done()
}

// Each 5th byte of a report changed in a bit that differs from byte to byte, and each 35th of the certificate.
func TestCompareSNPFlips(t *testing.T) {
	c := compare(t, "snp flips")
	e := simulateSNP(snp.Genoa, simsnp.ReportConfig{}, simsnp.KeyConfig{})
	stride := 5
	if testing.Short() {
		stride = 13
	}
	for i := 0; i < len(e.report); i += stride {
		flipped := *e
		flipped.report = slices.Clone(e.report)
		flipped.report[i] ^= 1 << (i % 8)
		c.add(fmt.Sprintf("report byte %#x", i), &flipped)
	}
	for i := 0; i < len(e.ek); i += 7 * stride {
		flipped := *e
		flipped.ek = slices.Clone(e.ek)
		flipped.ek[i] ^= 1 << (i % 8)
		c.add(fmt.Sprintf("VCEK byte %d", i), &flipped)
	}
	for bit := range 8 { // where the library forgets what it read
		flipped := *e
		flipped.report = slices.Clone(e.report)
		flipped.report[0x18a] ^= 1 << bit
		c.add(fmt.Sprintf("stepping bit %d", bit), &flipped)
	}
	c.done()
}

// The evidence that the library brings along, with the certificates that it brings along.
func TestCompareSNPLibrarys(t *testing.T) {
	c := compare(t, "snp library")
	roots := &trust.ProductCerts{}
	if err := roots.FromKDSCertBytes(trust.AskArkMilanVcekBytes); err != nil {
		t.Fatal(err)
	}
	e := &snpEvidence{
		sevtestdata.AttestationBytes[:snp.ReportSize], must(trust.ParseCert(sevtestdata.VcekBytes)).Raw,
		snp.Chain{ARK: roots.Ark.Raw, ASK: roots.Ask.Raw},
		snp.Milan, simNow,
	}
	c.add("attestation.bin", e)
	late := *e
	late.now = simNow.AddDate(10, 0, 0)
	c.add("attestation.bin, years later", &late)
	c.done()
}

// snpTimes are when recorded endorsement keys are valid that aren't in November 2026.
var snpTimes = map[string]time.Time{"coco_vlek": time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)}

// recordedSNP returns all reports with the certificate of their key.
func recordedSNP(t *testing.T) map[string]*snpEvidence {
	t.Helper()
	dir := filepath.Join(vectors(t), "sev", "vectors")
	amd := must(snp.AMDEndorsements())
	all := map[string]*snpEvidence{}
	for _, file := range must(filepath.Glob(filepath.Join(dir, "*.report"))) {
		name := strings.TrimSuffix(filepath.Base(file), ".report")
		if name == "openpcc_gce" || name == "cocos" {
			continue // whose certificates weren't recorded
		}
		ek := name + ".vcek.der"
		switch name {
		case "dstack_verifier":
			ek = "dstack_milan.vcek.der"
		case "openpcc_azure":
			ek = "openpcc_test_vcek.der"
		case "coco_vlek":
			ek = "coco_vlek.vlek.der"
		}
		e := &snpEvidence{report: readFile(t, file), ek: readFile(t, dir, ek), now: simNow}
		if at, ok := snpTimes[name]; ok {
			e.now = at
		}
		e.line = must(snp.ParseEndorsementKey(e.ek)).Line
		e.chain = amd[e.line]
		all[name] = e
	}
	if len(all) != 16 {
		t.Errorf("%d reports with certificates, want 16", len(all))
	}
	return all
}

// All recorded reports: whole, with each other's certificates, tampered with, at other times.
func TestCompareSNPRecorded(t *testing.T) {
	c := compare(t, "snp recorded")
	all := recordedSNP(t)
	for name, e := range all {
		c.add(name, e)
		for other, o := range all {
			if swapped := *e; !bytes.Equal(o.ek, e.ek) {
				swapped.ek = o.ek
				c.add(name+" with the key of "+other, &swapped)
			}
		}
		changed := *e
		changed.report = slices.Clone(e.report)
		changed.report[0x90] ^= 1
		c.add(name+", other measurement", &changed)
		late := *e
		late.now = simNow.AddDate(9, 0, 0)
		c.add(name+", years later", &late)
		old := *e
		binary.LittleEndian.PutUint32(changed.report, 1)
		old.report = changed.report
		c.add(name+", version 1", &old)
	}
	dir := filepath.Join(vectors(t), "sev", "vectors")
	for _, line := range []string{"milan", "genoa"} {
		e := *all["ms_"+line]
		e.now = time.Date(2025, 11, 1, 0, 0, 0, 0, time.UTC)
		e.chain.CRLs = [][]byte{readFile(t, dir, "openpcc_test_amd_"+line+"_crl.crl")}
		c.add(line+" with its revocation list", &e)
	}
	c.done()
}
