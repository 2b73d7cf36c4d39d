package attest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// What a policy may not say.
func TestPolicyFaults(t *testing.T) {
	good := testPolicy()
	if _, err := attest.ParsePolicy([]byte(good)); err != nil {
		t.Fatal(err)
	}
	pemOf := func(der []byte) string {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		return "|\n    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
	}
	sim := good[strings.Index(good, "simulated:"):]
	amdRoot := attest.Digest(snp.AMDRoots()[0].SHA256).String()
	for _, c := range []struct{ old, new, want string }{
		{"name: test", "nmae: test", "nmae"},
		{"name: test\n", "", "name is missing"},
		{"not_before: 2026-11-01T00:00:00Z", "", "not_before"},
		{"not_after: 2027-01-30T00:00:00Z", "", "not_after"},
		{"not_after: 2027-01-30T00:00:00Z", "not_after: 2026-10-01T00:00:00Z", "not_after"},
		{"not_after: 2027-01-30T00:00:00Z", "not_after: 2027-12-30T00:00:00Z", "400 days"},
		{"not_after: 2027-01-30T00:00:00Z", "not_after: tomorrow", "tomorrow"},
		{"releases:", "session: 10m1s\nreleases:", "session"},
		{"releases:", "session: -1s\nreleases:", "session"},
		{"releases:", "clock_skew: 61s\nreleases:", "clock_skew"},
		{"releases:", "skip: [gpu.rim]\nreleases:", "gpu.rim"},
		{"releases:", "skip: [cpu.evidence]\nreleases:", "cpu.evidence"},
		{"releases:", "skip: [gpu.0.ocsp]\nreleases:", "gpu.0.ocsp"},
		{"name: gateway-1", "name: worker-1", "there is another"},
		{"name: gateway-1", "name: \"\"", "name is missing"},
		{"role: gateway", "role: router", "router"},
		{"    snp: [{measurement: " + hex48(0x22) + "}]\n    tdx: [" + tdxReference(0x22) + "]\n", "", "no reference values"},
		{"measurement: " + hex48(0x11), "measurement: " + hex48(0x11)[1:], "measurement"},
		{"measurement: " + hex48(0x11), "measurement: " + strings.Replace(hex48(0xab), "a", "A", 1), "lower-case"},
		{"measurement: " + hex48(0x11), "measurement: \"\"", "measurement"},
		{"measurement: " + hex48(0x11), "measurement: " + hex48(0x11) + ", host_data: 00", "host_data"},
		{"measurement: " + hex48(0x11), "measurement: " + hex48(0x11) + ", id_key_digest: 00", "id_key_digest"},
		{"measurement: " + hex48(0x11), "measurement: " + hex48(0x11) + ", author_key_digest: 00", "author_key_digest"},
		{"mrtd: " + hex48(0x11), "mrtd: \"\"", "mrtd"},
		{"rtmr3: [" + hex48(4) + "]}", "mr_owner: 00}", "rtmr3 is missing"},
		{"rtmr3: [" + hex48(4) + "]}", "rtmr3: [00]}", "rtmr3"},
		{"rtmr3: [" + hex48(4) + "]}", "rtmr3: [" + hex48(4) + "], mr_owner: 00, mr_owner_config: 00, mr_config_id: 00}", "mr_owner_config"},
		{"    Genoa: {", "    genoa: {", "genoa"},
		{"min_tcb: {boot: 10, snp: 23, microcode: 84}", "min_tcb: {boot: 10, snp: 23, ucode: 84}", "ucode"},
		{"min_tcb: {boot: 10, snp: 23, microcode: 84}", "min_tcb: {boot: 10, snp: 23, microcode: 256}", "256"},
		{"min_tcb: {boot: 10, snp: 23, microcode: 84}", "min_tcb: {fmc: 1, boot: 10}", "fmc"},
		{"min_tcb: {boot: 10, snp: 23, microcode: 84}, ", "", "min_tcb is missing"},
		{"min_mitigation: 1", "grace: [{until: 2027-01-01T00:00:00Z, min_tcb: {boot: 1}}]", "reason"},
		{"min_mitigation: 1", "grace: [{until: 2027-01-01T00:00:00Z, reason: slow}]", "grace[0].min_tcb"},
		{"min_mitigation: 1", "grace: [{min_tcb: {boot: 1}, reason: slow}]", "until"},
		{"[VCEK, VLEK]", "[]", "endorsement_keys"},
		{"[VCEK, VLEK]", "[VCEK, VLEKs]", "VLEKs"},
		{`["CN=simulated.invalid"]`, "[]", "csps"},
		{`["CN=simulated.invalid"]`, `[""]`, "csps"},
		{"  smt: true", "  max_vmpl: 4", "max_vmpl"},
		{"  smt: true", "  debug: true", "debug"},
		{"  smt: true", "  migrate_ma: true", "migrate_ma"},
		{"  smt: true", "  smt: maybe", "maybe"},
		{"statuses: [UpToDate]", "statuses: []", "statuses"},
		{"statuses: [UpToDate]", "statuses: [UptoDate]", "UptoDate"},
		{"statuses: [UpToDate]", "statuses: [Revoked]", "Revoked"},
		{"statuses: [UpToDate]", "statuses: [OutOfDate]", "OutOfDate"},
		{"  min_tcb_evaluation: 18", "  grace: [{until: 2027-01-01T00:00:00Z, status: Revoked, reason: x}]\n  min_tcb_evaluation: 18", "Revoked"},
		{"  min_tcb_evaluation: 18", "  grace: [{status: OutOfDate, reason: x}]\n  min_tcb_evaluation: 18", "until"},
		{
			"  min_tcb_evaluation: 18",
			"  grace: [{until: 2027-01-01T00:00:00Z, status: OutOfDate, reason: x, advisories: [SA-1]}]\n  min_tcb_evaluation: 18", "SA-1",
		},
		{"  min_tcb_evaluation: 18", "", "min_tcb_evaluation"},
		{"  min_tcb_evaluation: 18", "  min_tcb_evaluation: 18\n  denied_advisories: [INTEL-SA-1192]", "INTEL-SA-1192"},
		{"  min_tcb_evaluation: 18", "  min_tcb_evaluation: 18\n  mrseam: [00]", "mrseam"},
		{"  min_tcb_evaluation: 18", "  min_tcb_evaluation: 18\n  debug: true", "debug"},
		{"  min_tcb_evaluation: 18", "  min_tcb_evaluation: 18\n  migratable: true", "migratable"},
		{"  min_tcb_evaluation: 18", "  min_tcb_evaluation: 18\n  xfam: 0x602e4", "xfam"},
		{"[HOPPER, BLACKWELL]", "[]", "architectures"},
		{"[HOPPER, BLACKWELL]", "[HOPER]", "HOPER"},
		{"[HOPPER, BLACKWELL]", "[LS10]", "LS10"},
		{"  protected_pcie: true", "  min_count: 9", "min_count"},
		{"  protected_pcie: true", "  min_count: -1", "min_count"},
		{"  protected_pcie: true", "  max_count: 33", "max_count"},
		{`min_driver: {GH100: "999.9", GB100: "999.10.1"}`, "", "min_driver"},
		{`GH100: "999.9"`, `GH10O: "999.9"`, "GH10O"},
		{`GH100: "999.9"`, `LS10: "999.9"`, "LS10"},
		{`GH100: "999.9"`, `GH100: "999.x"`, "999.x"},
		{`GH100: "999.9"`, `GH100: ""`, "min_driver"},
		{"LS10: 96.00.A1", "LS10: 96.00.G1", "96.00.G1"},
		{"LS10: 96.00.A1", "GB300x: 96.00.A1", "GB300x"},
		{"simulated:", "chips: {deny: [snp:00]}\nsimulated:", "snp:00"},
		{"simulated:", "chips: {allow: [\"gpu:" + strings.Repeat("A", 16) + "\"]}\nsimulated:", "gpu:"},
		{"simulated:", "workers: {deny: [abc]}\nsimulated:", "abc"},
		{"simulated:", "workers: {dent: [abc]}\nsimulated:", "dent"},
		{sim, "simulated: {admit: true}\n", "without a simulated root"},
		{sim, "simulated: {admit: true, snp: [{line: Genoa, sha256: " + amdRoot + "}]}\n", "AMD's own"},
		{sim, "simulated: {snp: [{line: Genoa, sha256: " + amdRoot + "}]}\n", "AMD's own"},
		{sim, "simulated: {snp: [{line: Rome, sha256: " + attest.Digest{1}.String() + "}]}\n", "Rome"},
		{sim, "simulated: {snp: [{line: Genoa}]}\n", "no sha256"},
		{sim, "simulated: {snp: [{line: Genoa, sha256: 00}]}\n", "64 lower-case"},
		{sim, "simulated:\n  tdx: " + pemOf(must(tdx.IntelRoot()).Raw), "vendor's own"},
		{sim, "simulated:\n  tdx: " + pemOf(must(nvgpu.VendorRoots()).RIM[0].Raw), "vendor's own"},
		{sim, "simulated:\n  gpu: " + pemOf(must(nvgpu.VendorRoots()).Device[0].Raw), "vendor's own"},
		{sim, "simulated:\n  rim: " + pemOf(must(nvgpu.VendorRoots()).RIM[0].Raw), "vendor's own"},
		{sim, "simulated:\n  rim: garbage\n", "PEM"},
		{sim, "simulated:\n  rim: " + pemOf([]byte("x")), "simulated.rim"},
		{sim, sim + "---\nname: more\n", "second document"},
		{sim, sim + "name: more\n", "name"},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("the policy has no %q", c.old)
		}
		_, err := attest.ParsePolicy([]byte(strings.Replace(good, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100q: %v, want %q", c.new, err, c.want)
		}
	}
	if _, err := attest.ParsePolicy(bytes.Repeat([]byte("#"), 2<<20)); err == nil {
		t.Error("a policy without end")
	}
}

func TestLoadPolicy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	if _, err := attest.LoadPolicy(path); !os.IsNotExist(err) {
		t.Errorf("missing: %v", err)
	}
	for text, ok := range map[string]bool{"": true, "# nothing\n": true, "name: x\n": false, testPolicy(): true} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := attest.LoadPolicy(path)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%.20q: %v", text, err)
		}
		if err == nil && p.Digest() != sha256.Sum256([]byte(text)) {
			t.Errorf("%.20q: digest %s", text, p.Digest())
		}
	}
}

// The policy that is shipped admits the real vendors' hardware only, and no software until somebody names some. With
// its examples uncommented it is valid too.
func TestShippedPolicy(t *testing.T) {
	path := filepath.Join("..", "configs", "policy.yaml")
	p, err := attest.LoadPolicy(path)
	if err != nil {
		t.Fatal(err)
	}
	if p.Simulated.Admit || len(p.Releases) > 0 || len(p.Skip) > 0 || p.SNP.Lines[snp.Milan].MinTCB != (attest.SNPTCB{}) {
		t.Errorf("got %+v", p)
	}
	if days := p.NotAfter.Sub(time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)).Hours() / 24; days < 80 || days > 100 {
		t.Errorf("it ends %s", p.NotAfter)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^#(\S|  )( *\S)`) // # and then no space, or an indented field
	if n := len(example.FindAll(text, -1)); n < 30 {
		t.Errorf("%d lines of examples", n)
	}
	whole, err := attest.ParsePolicy(example.ReplaceAll(text, []byte("$1$2")))
	if err != nil {
		t.Fatalf("with its examples: %v", err)
	}
	if len(whole.Releases) == 0 || len(whole.TDX.Grace) == 0 || len(whole.SNP.Lines[snp.Genoa].Grace) == 0 {
		t.Errorf("examples missing: %+v", whole)
	}
	w := newWorld(small)
	e := w.evidence(t)
	if r := p.Appraise(e, sorted(t, e.Endorsements), w.set); r.Verdict != attest.Rejected {
		t.Errorf("a simulated machine: %s", r.Verdict)
	}
}

func TestParseEvidence(t *testing.T) {
	w := newWorld(vm)
	good := w.evidence(t)
	if _, err := attest.ParseEvidence(must(json.Marshal(good))); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*attest.Evidence){
		"version 2":       func(e *attest.Evidence) { e.V = 2 },
		"no nonce":        func(e *attest.Evidence) { e.Nonce = attest.Digest{} },
		"CPU's report of": func(e *attest.Evidence) { e.CPU = nil },
		"report of 16385": func(e *attest.Evidence) { e.CPU = make([]byte, 16<<10+1) },
		"keyset of 0":     func(e *attest.Evidence) { e.Keyset = nil },
		"keyset of 65537": func(e *attest.Evidence) { e.Keyset = make([]byte, 64<<10+1) },
		"list of devices": func(e *attest.Evidence) { e.Devices = nil },
		"endorsements":    func(e *attest.Evidence) { e.Endorsements = make([]attest.Item, 129) },
		"bytes, at most":  func(e *attest.Evidence) { e.Devices = make([]byte, 1<<20) },
	} {
		e := *good
		change(&e)
		if _, err := attest.ParseEvidence(must(json.Marshal(&e))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, text := range []string{"", "null", "[]", "{}", `{"v":1,"more":2}`, `{"v":1} {"v":1}`} {
		if _, err := attest.ParseEvidence([]byte(text)); err == nil {
			t.Errorf("%q is taken for evidence", text)
		}
	}
}

// A keyset has one meaning, whoever decodes it.
func TestParseKeyset(t *testing.T) {
	good := string(must(json.Marshal(newWorld(small).keyset)))
	if _, err := attest.ParseKeyset([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"v":1`, `"v":2`, "version 2"},
		{`"v":1`, `"v":1,"w":2`, "unknown field"},
		{`"v":1`, `"v":1,"v":1`, "twice"},
		{`"v":1`, `"V":1`, "lower case"},
		{`"v":1`, `"v":1,"V":1`, "lower case"},
		{`"name":`, `"name":"x","name":`, "twice"},
		{`"kem":`, `"\u212aem":`, "lower case"}, // the sign for kelvin, which Go takes for a k
		{`"kem":`, `"\u006b\u0065m":1,"kem":`, "twice"},
		{`qwen3:8b`, "\xff", "UTF-8"},
		{`"worker"`, `"router"`, "role"},
		{attest.Digest{1}.String(), attest.Digest{}.String(), "no id"},
		{attest.Digest{1}.String(), "0A" + strings.Repeat("0", 62), "lower-case"},
		{`"not_after":"2026-11-26T13:00:00Z"`, `"not_after":"2026-11-26T11:00:00Z"`, "window is empty"},
		{attest.Digest{2}.String(), attest.Digest{}.String(), "not all there"},
		{`"hpke":{"kem":25722,"pub":"AQ=="},`, "", "not all there"},
		{`"pub":"AQ=="`, `"pub":""`, "not all there"},
		{`"receipt_ed25519":"`, `"receipt_ed25519":"AAAA`, "not all there"},
		{`[{"name":"qwen3:8b"}]`, "[" + strings.Repeat("{},", 256) + "{}]", "257 models"},
		{"}", "} ", ""},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("the keyset has no %q", c.old)
		}
		_, err := attest.ParseKeyset([]byte(text))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.new, err, c.want)
		}
	}
	if _, err := attest.ParseKeyset(bytes.Repeat([]byte(" "), attest.KeysetMax+1)); err == nil {
		t.Error("a keyset without end")
	}
}

func TestCollateralAdd(t *testing.T) {
	w := newWorld(small)
	good := slices.Concat(w.evidence(t).Endorsements, newWorld(tdvm).evidence(t).Endorsements)
	bad := []attest.Item{
		{Kind: "snp", Data: []byte("x")},
		{Kind: attest.SNPKey, Data: []byte("x")},
		{Kind: attest.SNPChain, Data: []byte(`{"line":"Rome","ark":"AQ=="}`)},
		{Kind: attest.SNPChain, Data: []byte(`{"line":"Genoa"}`)},
		{Kind: attest.SNPChain, Data: []byte(`{"line":"Genoa","ark":"AQ==","more":1}`)},
		{Kind: attest.TDXCollateral, Data: []byte(`[]`)},
		{Kind: attest.GPURIM, Data: []byte("<x/>")},
		{Kind: attest.GPUOCSP, Data: []byte{0x30}},
	}
	var c attest.Collateral
	err := c.Add(append(bad, good...))
	for i, item := range bad {
		if want := "collateral " + string(rune('0'+i)) + " (\"" + string(item.Kind); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if strings.Count(err.Error(), "collateral ") != len(bad) {
		t.Errorf("good items refused: %v", err)
	}
	if len(c.SNPKeys) != 1 || len(c.SNP[snp.Genoa]) != 1 || len(c.TDX) != 1 || len(c.GPU.RIMs) != 2 || len(c.GPU.OCSP) < 5 {
		t.Errorf("got %d keys, %d chains, %d TDX sets, %d RIMs, %d OCSP responses",
			len(c.SNPKeys), len(c.SNP[snp.Genoa]), len(c.TDX), len(c.GPU.RIMs), len(c.GPU.OCSP))
	}
	// Another RIM of the same release, and too much of everything.
	again := w.evidence(t).Endorsements
	if err := c.Add(again); err != nil || len(c.GPU.RIMs) != 2 {
		t.Errorf("%d RIMs, %v", len(c.GPU.RIMs), err)
	}
	var many []attest.Item
	for range 20 {
		many = append(many, attest.Item{Kind: attest.TDXCollateral, Data: []byte("{}")},
			attest.Item{Kind: attest.SNPChain, Data: w.snpChain()})
	}
	if err := c.Add(many); err == nil || !strings.Contains(err.Error(), "too many") || len(c.TDX) > 16 || len(c.SNP[snp.Genoa]) > 16 {
		t.Errorf("%d sets, %d chains: %.200v", len(c.TDX), len(c.SNP[snp.Genoa]), err)
	}
}

func TestVersions(t *testing.T) {
	for _, s := range []string{"", ".", "1.", "-1", "+1", "1.2.3.4.5.6.7.8.9", "99999999999", "0x1", "1 "} {
		if _, err := attest.Parts(s, 10); err == nil {
			t.Errorf("%q is taken for a version", s)
		}
	}
	if a, b := must(attest.Parts("590.12", 10)), must(attest.Parts("590.12.00", 10)); len(a) != len(b) {
		t.Errorf("%v is not %v", a, b)
	}
}
