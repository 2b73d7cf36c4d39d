package snp_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

func TestSimulated(t *testing.T) {
	for _, line := range snp.Lines() {
		for _, kind := range []snp.Signer{snp.VCEK, snp.VLEK} {
			for version := uint32(2); version <= 5; version++ {
				if version == 2 && line == snp.Turin {
					continue // there is none
				}
				t.Run(fmt.Sprintf("%s %v version %d", line, kind, version), func(t *testing.T) {
					testSimulated(t, line, kind, version)
				})
			}
		}
	}
}

func testSimulated(t *testing.T, line snp.Line, kind snp.Signer, version uint32) {
	w := newWorld(t, line)
	current, launch := w.tcb, w.tcb
	current.Microcode++
	launch.SNP--
	want := simsnp.ReportConfig{
		Version: version, Signer: kind, GuestSVN: 7, Policy: 0x3ff0139, Platform: 0xbf, VMPL: 3, Current: &current,
		Launch: &launch, Firmware: snp.Firmware{Major: 1, Minor: 58, Build: 9}, Mitigation: 0x3f,
		ReportData: [64]byte{1, 63: 2}, Measurement: [48]byte{3, 47: 4}, HostData: [32]byte{5, 31: 6},
		IDKeyDigest: [48]byte{7, 47: 8}, AuthorKeyDigest: [48]byte{9, 47: 10}, FamilyID: [16]byte{11, 15: 12},
		ImageID: [16]byte{13, 15: 14}, ReportID: [32]byte{15, 31: 16},
		Mutate: func(b []byte) { b[0x48] |= 1 },
	}
	report, ek := w.report(t, want), w.key(t, simsnp.KeyConfig{Kind: kind})
	c, err := snp.Verify(report, ek, w.auth.Endorsements(w.crl(t, simsnp.CRLConfig{})), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	if c.Line != line || c.Current != current || c.Reported != w.tcb || c.Committed != w.tcb || c.Launch != launch {
		t.Errorf("got %s, TCBs %v, %v, %v, %v", c.Line, c.Current, c.Reported, c.Committed, c.Launch)
	}
	if c.Version != version || c.Signer != kind || c.GuestSVN != 7 || c.VMPL != 3 || !c.AuthorKey || c.MaskChipKey ||
		c.CurrentFirmware != want.Firmware || c.CommittedFirmware != want.Firmware {
		t.Errorf("got %+v", c.Statement)
	}
	wantPolicy := snp.GuestPolicy{
		ABIMajor: 1, ABIMinor: 0x39, SMT: true, MigrateMA: true, Debug: true, SingleSocket: true, CXL: true,
		AES256XTS: true, RAPLDisabled: true, CiphertextHiding: true, PageSwapDisabled: true, Raw: want.Policy,
	}
	wantPlatform := snp.PlatformInfo{
		SMT: true, TSME: true, ECC: true, RAPLDisabled: true, CiphertextHiding: true, AliasCheckComplete: true,
		TIO: true, Raw: want.Platform,
	}
	if c.Policy != wantPolicy || c.Platform != wantPlatform {
		t.Errorf("got %+v, %+v", c.Policy, c.Platform)
	}
	if c.ReportData != want.ReportData || c.Measurement != want.Measurement || c.HostData != want.HostData ||
		c.IDKeyDigest != want.IDKeyDigest || c.AuthorKeyDigest != want.AuthorKeyDigest || c.FamilyID != want.FamilyID ||
		c.ImageID != want.ImageID || c.ReportID != want.ReportID {
		t.Errorf("got %+v", c.Statement)
	}
	checkSimulatedKey(t, w, c, ek)
	if version < 5 && (c.LaunchMitigation != 0 || c.MitigationsKnown) || version == 5 && c.CurrentMitigation != 0x3f {
		t.Errorf("mitigations: got %#x, %#x", c.LaunchMitigation, c.CurrentMitigation)
	}
	_, err = snp.Verify(report, ek, w.auth.Endorsements(), snp.Options{Roots: snp.AMDRoots(), Now: simNow})
	refused(t, err, snp.CheckRoot)
}

func checkSimulatedKey(t *testing.T, w *world, c *snp.Claims, ek []byte) {
	t.Helper()
	if c.Root != w.auth.Root().SHA256 || c.EK != sha256.Sum256(ek) || c.Vendor() {
		t.Errorf("got root %x, key %x, vendor %v", c.Root, c.EK, c.Vendor())
	}
	if c.Revocation.Number == nil || !c.NotAfter.Equal(simNow.AddDate(1, 0, 0)) {
		t.Errorf("got %+v, not after %v", c.Revocation, c.NotAfter)
	}
	if c.Signer == snp.VLEK {
		if c.CSPID != simsnp.CSPID || c.HWID != nil || !c.ChipIDMasked {
			t.Errorf("got CSP %q, hwID %x, masked %v", c.CSPID, c.HWID, c.ChipIDMasked)
		}
		return
	}
	if c.CSPID != "" || !bytes.Equal(c.HWID, w.chip.HWID) || c.ChipIDMasked || !bytes.HasPrefix(c.ChipID[:], c.HWID) {
		t.Errorf("got CSP %q, hwID %x, masked %v, chip %x", c.CSPID, c.HWID, c.ChipIDMasked, c.ChipID)
	}
}

// Bergamo and Siena are of the Genoa line, Turin Dense is of Turin's; a masked chip is a claim.
func TestSimulatedVariants(t *testing.T) {
	for name, c := range map[string]struct {
		line snp.Line
		cpu  snp.CPU
	}{
		"Bergamo":     {snp.Genoa, snp.CPU{Family: 0x19, Model: 0xa0, Stepping: 2}},
		"Siena":       {snp.Genoa, snp.CPU{Family: 0x19, Model: 0xa1}},
		"Turin Dense": {snp.Turin, snp.CPU{Family: 0x1a, Model: 0x11}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.line)
			report := w.report(t, simsnp.ReportConfig{CPU: &c.cpu, MaskChipID: true})
			claims, err := snp.Verify(report, w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), w.opts)
			if err != nil {
				t.Fatal(err)
			}
			if claims.Line != c.line || claims.CPU != c.cpu || !claims.ChipIDMasked || claims.HWID == nil {
				t.Errorf("got %s %v, masked %v, hwID %x", claims.Line, claims.CPU, claims.ChipIDMasked, claims.HWID)
			}
		})
	}
}

// A TCB that was rolled back has a key of its own; neither report goes with the other's.
func TestSimulatedRollback(t *testing.T) {
	w := newWorld(t, snp.Genoa)
	old := w.tcb
	old.SNP -= 10
	oldKey := w.key(t, simsnp.KeyConfig{TCB: old})
	oldReport := w.report(t, simsnp.ReportConfig{TCB: old})
	c, err := snp.Verify(oldReport, oldKey, w.auth.Endorsements(), w.opts)
	if err != nil {
		t.Fatal(err)
	}
	if c.Reported != old || c.Reported.AtLeast(w.tcb) || !w.tcb.AtLeast(c.Reported) {
		t.Errorf("got %v", c.Reported)
	}
	_, err = snp.Verify(oldReport, w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckTCB)
	_, err = snp.Verify(w.report(t, simsnp.ReportConfig{}), oldKey, w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckTCB)
}

func set32(off int, v uint32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v) }
}

func or64(off int, v uint64) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint64(b[off:], binary.LittleEndian.Uint64(b[off:])|v) }
}

func set(off int, v byte) func([]byte) { return func(b []byte) { b[off] = v } }

// What the secure processor itself signed, but can't mean anything that we know.
func TestUnknownBits(t *testing.T) {
	type kase struct {
		line snp.Line
		c    simsnp.ReportConfig
		want snp.Check
	}
	genoa, turin := snp.CPU{Family: 0x19, Model: 0x11}, snp.CPU{Family: 0x1a, Model: 0x02}
	cases := map[string]kase{
		"version 0":        {snp.Milan, simsnp.ReportConfig{Mutate: set32(0, 0)}, snp.CheckReportVersion},
		"version 1":        {snp.Milan, simsnp.ReportConfig{Mutate: set32(0, 1)}, snp.CheckReportVersion},
		"version 6":        {snp.Milan, simsnp.ReportConfig{Version: 6}, snp.CheckReportVersion},
		"version 5<<8":     {snp.Milan, simsnp.ReportConfig{Version: 5 << 8}, snp.CheckReportVersion},
		"algorithm 0":      {snp.Milan, simsnp.ReportConfig{Mutate: set32(0x34, 0)}, snp.CheckSignatureAlgorithm},
		"algorithm 2":      {snp.Milan, simsnp.ReportConfig{Mutate: set32(0x34, 2)}, snp.CheckSignatureAlgorithm},
		"VMPL 4":           {snp.Milan, simsnp.ReportConfig{VMPL: 4}, snp.CheckVMPL},
		"host's report":    {snp.Milan, simsnp.ReportConfig{VMPL: 0xffffffff}, snp.CheckVMPL},
		"policy bit 17":    {snp.Milan, simsnp.ReportConfig{Policy: 0x10000}, snp.CheckReserved},
		"masked VCEK":      {snp.Milan, simsnp.ReportConfig{Mutate: set(0x48, 2)}, snp.CheckSigner},
		"no key":           {snp.Milan, simsnp.ReportConfig{Mutate: set(0x48, 7<<2)}, snp.CheckSigner},
		"IOMMU on Milan":   {snp.Milan, simsnp.ReportConfig{Platform: 0x65}, snp.CheckReserved},
		"IOMMU on Genoa":   {snp.Genoa, simsnp.ReportConfig{Platform: 0x65}, snp.CheckReserved},
		"CPU in version 2": {snp.Milan, simsnp.ReportConfig{Version: 2, Mutate: set(0x189, 1)}, snp.CheckReserved},
		"Turin version 2":  {snp.Turin, simsnp.ReportConfig{Version: 2}, snp.CheckProduct},
		"mitigations in 4": {snp.Milan, simsnp.ReportConfig{Version: 4, Mutate: set(0x200, 1)}, snp.CheckReserved},
		"launch mit. in 3": {snp.Milan, simsnp.ReportConfig{Version: 3, Mutate: set(0x1ff, 1)}, snp.CheckReserved},
		"Milan as Genoa":   {snp.Milan, simsnp.ReportConfig{CPU: &genoa}, snp.CheckProduct},
		"Genoa as Turin":   {snp.Genoa, simsnp.ReportConfig{CPU: &turin}, snp.CheckProduct},
		"Turin's tail":     {snp.Turin, simsnp.ReportConfig{Mutate: set(0x1a8, 1)}, snp.CheckChipID},
		"chip":             {snp.Milan, simsnp.ReportConfig{Mutate: or64(0x1a0, ^uint64(0))}, snp.CheckChipID},
	}
	for i := 26; i < 64; i++ {
		cases[fmt.Sprintf("policy bit %d", i)] = kase{
			snp.Milan, simsnp.ReportConfig{Mutate: or64(0x08, 1<<i)}, snp.CheckReserved,
		}
	}
	for i := 8; i < 64; i++ {
		cases[fmt.Sprintf("platform bit %d", i)] = kase{
			snp.Turin, simsnp.ReportConfig{Mutate: or64(0x40, 1<<i)}, snp.CheckReserved,
		}
	}
	for i := 5; i < 64; i++ { // with the four bytes after it
		cases[fmt.Sprintf("signer bit %d", i)] = kase{
			snp.Milan, simsnp.ReportConfig{Mutate: or64(0x48, 1<<i)}, snp.CheckReserved,
		}
	}
	for _, off := range []int{0x38, 0x180, 0x1e0, 0x1f0} {
		for i := 2; i < 6; i++ {
			cases[fmt.Sprintf("Genoa TCB byte %#x", off+i)] = kase{
				snp.Genoa, simsnp.ReportConfig{Mutate: set(off+i, 1)}, snp.CheckReserved,
			}
		}
		for i := 4; i < 7; i++ {
			cases[fmt.Sprintf("Turin TCB byte %#x", off+i)] = kase{
				snp.Turin, simsnp.ReportConfig{Mutate: set(off+i, 1)}, snp.CheckReserved,
			}
		}
	}
	for _, span := range [][2]int{{0x18b, 0x1a0}, {0x1eb, 0x1ec}, {0x1ef, 0x1f0}, {0x208, 0x2a0}} {
		for off := span[0]; off < span[1]; off++ {
			cases[fmt.Sprintf("byte %#x", off)] = kase{
				snp.Turin, simsnp.ReportConfig{Mutate: set(off, 0x80)}, snp.CheckReserved,
			}
		}
	}
	for _, cpu := range []snp.CPU{
		{},
		{Family: 0x17, Model: 0x31},
		{Family: 0x19, Model: 0x20},
		{Family: 0x19, Model: 0xb0},
		{Family: 0x1a, Model: 0x12},
		{Family: 0x1a, Model: 0x50},
		{Family: 0x1b},
	} {
		cases["CPU "+cpu.String()] = kase{snp.Milan, simsnp.ReportConfig{Mutate: func(b []byte) {
			copy(b[0x188:], []byte{cpu.Family, cpu.Model, cpu.Stepping})
		}}, snp.CheckCPU}
	}
	for kind := byte(2); kind < 8; kind++ {
		cases[fmt.Sprintf("signing key %d", kind)] = kase{
			snp.Milan, simsnp.ReportConfig{Mutate: set(0x48, kind<<2)}, snp.CheckSigner,
		}
	}
	worlds, keys := map[snp.Line]*world{}, map[snp.Line][]byte{}
	for _, line := range snp.Lines() {
		worlds[line] = newWorld(t, line)
		keys[line] = worlds[line].key(t, simsnp.KeyConfig{})
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := worlds[c.line]
			_, err := snp.Verify(w.report(t, c.c), keys[c.line], w.auth.Endorsements(), w.opts)
			refused(t, err, c.want)
		})
	}
}

// The unsigned end of a report has one spelling.
func TestUnsignedTail(t *testing.T) {
	w := newWorld(t, snp.Turin)
	report, ek := w.report(t, simsnp.ReportConfig{}), w.key(t, simsnp.KeyConfig{})
	for off := 0x2a0; off < snp.ReportSize; off++ {
		want := snp.CheckReserved
		if off < 0x2a0+48 || off >= 0x2a0+72 && off < 0x2a0+120 {
			want = snp.CheckSignature
			if off%8 != 0 {
				continue // these cost time; TestSimulatedFlips has them all
			}
		}
		b := slices.Clone(report)
		b[off] ^= 1
		_, err := snp.Verify(b, ek, w.auth.Endorsements(), w.opts)
		refused(t, err, want)
	}
	for name, f := range map[string]func(b []byte){
		"r = 0":     func(b []byte) { clear(b[0x2a0:][:48]) },
		"s = 0":     func(b []byte) { clear(b[0x2a0+72:][:48]) },
		"both 0":    func(b []byte) { clear(b[0x2a0:]) },
		"r too big": func(b []byte) { copy(b[0x2a0:], bytes.Repeat([]byte{0xff}, 48)) },
		"s too big": func(b []byte) { copy(b[0x2a0+72:], bytes.Repeat([]byte{0xff}, 48)) },
		"swapped": func(b []byte) {
			r := slices.Clone(b[0x2a0:][:72])
			copy(b[0x2a0:], b[0x2a0+72:][:72])
			copy(b[0x2a0+72:], r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := slices.Clone(report)
			f(b)
			_, err := snp.Verify(b, ek, w.auth.Endorsements(), w.opts)
			refused(t, err, snp.CheckSignature)
		})
	}
}

func TestSimulatedFlips(t *testing.T) {
	w := newWorld(t, snp.Genoa)
	report, ek, e := w.report(t, simsnp.ReportConfig{}), w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements()
	for i := range report {
		c, err := snp.Verify(flipped(report, i), ek, e, w.opts)
		refusedAnyhow(t, c, err, "report byte", i)
	}
}

// Others' evidence: another chip's key, another authority's root.
func TestSimulatedOthers(t *testing.T) {
	w, other, turin := newWorld(t, snp.Milan), newWorld(t, snp.Milan), newWorld(t, snp.Turin)
	report := w.report(t, simsnp.ReportConfig{})
	_, err := snp.Verify(report, other.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckChipID)
	masked := w.report(t, simsnp.ReportConfig{MaskChipID: true})
	_, err = snp.Verify(masked, other.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckSignature)
	_, err = snp.Verify(report, w.key(t, simsnp.KeyConfig{Kind: snp.VLEK}), w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckSigner)
	_, err = snp.Verify(report, turin.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), w.opts)
	refused(t, err, snp.CheckProduct)
	_, err = snp.Verify(report, w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), turin.opts)
	refused(t, err, snp.CheckRoot)
	o := w.opts
	o.Roots = []snp.Root{{Line: snp.Genoa, SHA256: w.auth.Root().SHA256}} // right key, wrong line
	_, err = snp.Verify(report, w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), o)
	refused(t, err, snp.CheckRoot)
	o.Roots = append(snp.AMDRoots(), w.auth.Root()) // several roots of a line may be pinned
	if _, err = snp.Verify(report, w.key(t, simsnp.KeyConfig{}), w.auth.Endorsements(), o); err != nil {
		t.Error(err)
	}
	// A VLEK that the ASK issued, and a VCEK that the ASVK issued.
	e := w.auth.Endorsements()
	c := e[snp.Milan]
	swapped := snp.Endorsements{snp.Milan: {ARK: c.ARK, ASK: c.ASVK, ASVK: c.ASK}}
	for _, kind := range []snp.Signer{snp.VCEK, snp.VLEK} {
		report, key := w.report(t, simsnp.ReportConfig{Signer: kind}), w.key(t, simsnp.KeyConfig{Kind: kind})
		_, err = snp.Verify(report, key, swapped, w.opts)
		refused(t, err, snp.CheckCertificate)
		_, err = snp.Verify(report, key, snp.Endorsements{snp.Milan: {ARK: c.ARK}}, w.opts)
		refused(t, err, snp.CheckCertificate)
	}
}

// Names of everything simulated say so.
func TestSimulatedNames(t *testing.T) {
	w := newWorld(t, snp.Milan)
	c := w.auth.Endorsements()[snp.Milan]
	vcek, vlek := w.key(t, simsnp.KeyConfig{}), w.key(t, simsnp.KeyConfig{Kind: snp.VLEK})
	for _, der := range [][]byte{c.ARK, c.ASK, c.ASVK, vcek, vlek} {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{parsed.Subject.String(), parsed.Issuer.String()} {
			if !bytes.Contains([]byte(name), []byte("SIMULATED")) {
				t.Errorf("%q doesn't say SIMULATED", name)
			}
		}
	}
}
