package attest_test

import (
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// refusal is a machine that is not admitted: what is done to a good one, and which checks notice.
type refusal struct {
	name   string
	kind   kind
	change func(*world)
	want   string // names, comma-separated; empty: it is admitted after all
}

func (c refusal) run(t *testing.T) {
	t.Helper()
	w := newWorld(c.kind)
	c.change(w)
	var want []string
	if c.want != "" {
		want = strings.Split(c.want, ",")
	}
	wantFailures(t, w.appraise(t), want...)
}

func with(pairs ...string) func(*world) {
	return func(w *world) { w.policy = append(w.policy, pairs...) }
}

func date(text string) time.Time { return must(time.Parse(time.RFC3339, text)) }

// What an SNP machine may be, and may not.
func TestSNPPolicy(t *testing.T) {
	old := tcbOf(snp.Genoa)
	old.SNP = 22
	grace := with("min_mitigation: 1", "grace: [{until: 2026-12-01T00:00:00Z, min_tcb: {boot: 10, snp: 22}, reason: slow}]")
	vlek := small
	vlek.signer = snp.VLEK
	guest := func(policy uint64) func(*world) { return func(w *world) { w.report.Policy = policy } }
	platform := func(p uint64) func(*world) { return func(w *world) { w.report.Platform = p } }
	outdated := func(w *world) { w.report.TCB, w.key.TCB = old, old }
	for _, c := range []refusal{
		{"debug", vm, guest(0xb0000), "cpu.debug"},
		{"migration", vm, guest(0x70000), "cpu.migration"},
		{"CXL", vm, guest(0x230000), "cpu.policy_bits"},
		{"CXL admitted", vm, func(w *world) { guest(0x230000)(w); with("  smt: true", "  smt: true\n  cxl: true")(w) }, ""},
		{"unknown policy bit", vm, guest(0x4030000), "cpu.evidence,cpu.report_data"},
		{"VMPL", vm, func(w *world) { w.report.VMPL = 1 }, "cpu.vmpl"},
		{
			"VMPL admitted", vm,
			func(w *world) { w.report.VMPL = 1; with("  smt: true", "  smt: true\n  max_vmpl: 1")(w) }, "",
		},
		{"SMT", vm, with("  smt: true", "  smt: false"), "cpu.smt"},
		{"SMT by the host only", vm, func(w *world) { guest(0x20000)(w); with("  smt: true", "")(w) }, "cpu.smt"},
		{"no SMT", vm, func(w *world) { guest(0x20000)(w); platform(0x24)(w); with("  smt: true", "")(w) }, ""},
		{"no ECC", vm, platform(0x21), "cpu.platform"},
		{"no alias check", vm, platform(0x05), "cpu.platform"},
		{"no alias check, admitted", vm, func(w *world) {
			platform(0x05)(w)
			with("  smt: true", "  smt: true\n  require_alias_check: false")(w)
		}, ""},
		{"masked", vm, func(w *world) { w.report.MaskChipID = true }, "cpu.chip_id"},
		{"masked, admitted", vm, func(w *world) {
			w.report.MaskChipID = true
			with("  smt: true", "  smt: true\n  masked_chip_id: true")(w)
		}, ""},
		{"report version 2", vm, func(w *world) { w.report.Version = 2 }, "cpu.report_version,cpu.mitigation"},
		{"no mitigation", vm, func(w *world) { w.report.Mitigation = 2 }, "cpu.mitigation"},
		{"provisional", vm, func(w *world) {
			new := tcbOf(snp.Genoa)
			new.SNP++
			w.report.Current = &new
		}, "cpu.provisional"},
		{"committed is old", vm, func(w *world) { w.report.Committed = &old }, "cpu.tcb.committed,cpu.provisional"},
		{"launched when old", vm, func(w *world) { w.report.Launch = &old }, "cpu.tcb.launch"},
		{"all old", vm, outdated, "cpu.tcb.current,cpu.tcb.reported,cpu.tcb.committed,cpu.tcb.launch"},
		{"old, in grace", vm, func(w *world) { outdated(w); grace(w) }, ""},
		{"old, at the end of grace", vm, func(w *world) {
			outdated(w)
			grace(w)
			w.set.Now = date("2026-12-01T00:00:00Z")
			w.keyset.NotBefore, w.keyset.NotAfter = w.set.Now, w.set.Now.Add(time.Hour)
		}, "cpu.tcb.current,cpu.tcb.reported,cpu.tcb.committed,cpu.tcb.launch"},
		{"older than grace", vm, func(w *world) {
			outdated(w)
			w.report.TCB.SNP, w.key.TCB.SNP = 21, 21
			grace(w)
		}, "cpu.tcb.current,cpu.tcb.reported,cpu.tcb.committed,cpu.tcb.launch"},
		{"key of another TCB", vm, func(w *world) { w.key.TCB.SNP++ }, "cpu.evidence"},
		{"line", vm, with("    Genoa: {", "    Milan: {"), "cpu.line"},
		{"VLEK", vlek, with("[VCEK, VLEK]", "[VCEK]", `  csps: ["CN=simulated.invalid"]`, ""), "cpu.signer"},
		{"VLEK of others", vlek, with("CN=simulated.invalid", "CN=other"), "cpu.signer"},
		{"VCEK", vm, with("[VCEK, VLEK]", "[VLEK]"), "cpu.signer"},
		{"no CRL", vm, func(w *world) { w.crl = nil }, "cpu.evidence"},
		{"no CRL, skipped", vm, func(w *world) { w.crl = nil; with("  smt: true", "  smt: true\n  require_crl: false")(w) }, ""},
		{"stale CRL", vm, func(w *world) { w.crl.NextUpdate = simNow.Add(-time.Second) }, "cpu.evidence"},
		{"future CRL", vm, func(w *world) { w.crl.ThisUpdate = simNow.Add(time.Second) }, "cpu.evidence"},
		{"future CRL, in skew", vm, func(w *world) {
			w.crl.ThisUpdate = simNow.Add(30 * time.Second)
			with("releases:", "clock_skew: 30s\nreleases:")(w)
		}, ""},
		{"CRL beyond skew", vm, func(w *world) {
			w.crl.ThisUpdate = simNow.Add(31 * time.Second)
			with("releases:", "clock_skew: 30s\nreleases:")(w)
		}, "cpu.evidence"},
		{"CRL ended, skew doesn't help", vm, func(w *world) {
			w.crl.NextUpdate = simNow.Add(-time.Second)
			with("releases:", "clock_skew: 60s\nreleases:")(w)
		}, "cpu.evidence"},
		{"ASK revoked", vm, func(w *world) { w.crl.Revoked = []*big.Int{big.NewInt(2)} }, "cpu.evidence"},
		{"VCEK expired", vm, func(w *world) {
			w.key.Mutate = func(c *x509.Certificate) { c.NotAfter = simNow.Add(-time.Second) }
		}, "cpu.evidence"},
		{"simulation not admitted", vm, with("admit: true", "admit: false"), "cpu.evidence"},
		{"another simulation", vm, func(w *world) {
			root := must(amd[snp.Genoa]()).Root()
			with(attest.Digest(root.SHA256).String(), attest.Digest{1}.String())(w)
		}, "cpu.evidence"},
	} {
		t.Run(c.name, c.run)
	}
}

// What software may run.
func TestReleases(t *testing.T) {
	ref := "snp: [{measurement: " + hex48(0x22) + "}]"
	other := "snp: [{measurement: " + hex48(0x22) + ", "
	for _, c := range []refusal{
		{"other software", vm, func(w *world) { w.report.Measurement = value(0x33) }, "cpu.measurement"},
		{"a worker's", vm, func(w *world) { w.report.Measurement = value(0x11) }, "cpu.measurement"},
		{"no releases", vm, func(w *world) {
			text := testPolicy()
			a, b := strings.Index(text, "releases:"), strings.Index(text, "snp:\n  lines")
			with(text[a:b], "")(w)
		}, "cpu.measurement"},
		{"ended", vm, with("    role: gateway", "    role: gateway\n    not_after: 2026-11-26T12:00:00Z"), "cpu.measurement"},
		{"ends", vm, with("    role: gateway", "    role: gateway\n    not_after: 2026-11-26T12:00:01Z"), ""},
		{"host data", vm, func(w *world) { w.report.HostData[3] = 1 }, "cpu.measurement"},
		{"ID key", vm, func(w *world) { w.report.IDKeyDigest[3] = 1 }, "cpu.measurement"},
		{"author key", vm, func(w *world) { w.report.AuthorKeyDigest[3] = 1 }, "cpu.measurement"},
		{"other host data wanted", vm, with(ref, other+"host_data: "+strings.Repeat("ab", 32)+"}]"), "cpu.measurement"},
		{"ID key wanted", vm, func(w *world) {
			w.report.IDKeyDigest = value(0xab)
			with(ref, other+"id_key_digest: "+hex48(0xab)+"}]")(w)
		}, ""},
		{"guest SVN", vm, with(ref, other+"min_guest_svn: 1}]"), "cpu.measurement"},
		{"one of two", vm, with(ref, "snp: [{measurement: "+hex48(0x22)+", min_guest_svn: 1}, {measurement: "+hex48(0x22)+"}]"), ""},
		{"MRTD", tdvm, func(w *world) { w.quote.TD.MRTD[0]++ }, "cpu.measurement"},
		{"RTMR0", tdvm, func(w *world) { w.quote.TD.RTMR[0][0]++ }, "cpu.measurement"},
		{"RTMR0, second value", tdvm, func(w *world) { w.quote.TD.RTMR[0] = value(99) }, ""},
		{"RTMR3", tdvm, func(w *world) { w.quote.TD.RTMR[3][47]++ }, "cpu.measurement"},
		{"MRCONFIGID", tdvm, func(w *world) { w.quote.TD.MRConfigID[0]++ }, "cpu.measurement"},
		{"MROWNER", tdvm, func(w *world) { w.quote.TD.MROwner[0]++ }, "cpu.measurement"},
		{"MROWNERCONFIG", tdvm, func(w *world) { w.quote.TD.MROwnerConfig[0]++ }, "cpu.measurement"},
	} {
		t.Run(c.name, c.run)
	}
}

// What a trust domain and its platform may be, and may not.
func TestTDXPolicy(t *testing.T) {
	attributes := func(a tdx.Attributes) func(*world) { return func(w *world) { w.quote.TD.Attributes = a } }
	const ve = tdx.AttrSEPTVEDisable
	rated := func(s tdx.Status) func(*world) {
		return func(w *world) { w.collateral.Platform, w.collateral.Advisories = s, []string{"INTEL-SA-01192"} }
	}
	grace := func(until, advisories string) func(*world) {
		return with("  min_tcb_evaluation", "  grace: [{until: "+until+", status: OutOfDate, advisories: ["+advisories+
			"], reason: slow}]\n  min_tcb_evaluation")
	}
	both := func(all ...func(*world)) func(*world) {
		return func(w *world) {
			for _, f := range all {
				f(w)
			}
		}
	}
	smt := true
	for _, c := range []refusal{
		{"debug", tdvm, attributes(ve | tdx.AttrDebug), "cpu.debug"},
		{"another bit of TUD", tdvm, attributes(ve | 2), "cpu.debug"},
		{"migratable", tdvm, attributes(ve | tdx.AttrMigratable), "cpu.migration"},
		{"no SEPT_VE_DISABLE", tdvm, attributes(0), "cpu.attributes"},
		{"PKS", tdvm, attributes(ve | tdx.AttrPKS), "cpu.attributes"},
		{"KL", tdvm, attributes(ve | tdx.AttrKL), "cpu.attributes"},
		{"PERFMON", tdvm, attributes(ve | tdx.AttrPerfmon), "cpu.attributes"},
		{
			"all admitted", tdvm,
			both(attributes(ve|tdx.AttrPKS|tdx.AttrKL|tdx.AttrPerfmon),
				with("  min_tcb_evaluation", "  pks: true\n  kl: true\n  perfmon: true\n  min_tcb_evaluation")), "",
		},
		{"unknown attribute", tdvm, attributes(ve | 1<<40), "cpu.attributes"},
		{"XFAM", tdvm, func(w *world) { w.quote.TD.XFAM = 0x602e7 | 1<<20 }, "cpu.xfam"},
		{"XFAM without SSE", tdvm, func(w *world) { w.quote.TD.XFAM = 0x602e5 }, "cpu.xfam"},
		{"service TD", tdvm, func(w *world) { w.quote.TD.MRServiceTD[5] = 1 }, "cpu.service_td"},
		{"module not named", tdvm, with("  min_tcb_evaluation", "  mrseam: ["+hex48(0x78)+"]\n  min_tcb_evaluation"), "cpu.mrseam"},
		{"module named", tdvm, with("  min_tcb_evaluation", "  mrseam: ["+hex48(0x77)+"]\n  min_tcb_evaluation"), ""},
		{"SMT", tdvm, func(w *world) {
			w.platform = must(must(intel()).Machine(tdx.Platform{HasInstance: true, Type: 1, SMT: &smt, Dynamic: new(bool), CachedKeys: new(bool)}))
		}, "cpu.smt"},
		{"SMT unsaid", tdvm, func(w *world) { w.platform = must(must(intel()).Machine(tdx.Platform{CA: tdx.ProcessorCA})) }, "cpu.smt"},
		{"OutOfDate", tdvm, rated(tdx.StatusOutOfDate), "cpu.tcb_status"},
		{"hardening needed", tdvm, rated(tdx.StatusSWHardeningNeeded), "cpu.tcb_status"},
		{"hardening admitted", tdvm, both(rated(tdx.StatusSWHardeningNeeded), with("[UpToDate]", "[UpToDate, SWHardeningNeeded]")), ""},
		{"revoked", tdvm, rated(tdx.StatusRevoked), "cpu.evidence"},
		{"module OutOfDate", tdvm, func(w *world) { w.collateral.Module = tdx.StatusOutOfDate }, "cpu.tcb_status"},
		{"in grace", tdvm, both(rated(tdx.StatusOutOfDate), grace("2026-11-26T12:00:01Z", "INTEL-SA-01192")), ""},
		{"grace is over", tdvm, both(rated(tdx.StatusOutOfDate), grace("2026-11-26T12:00:00Z", "INTEL-SA-01192")), "cpu.tcb_status"},
		{"grace of others", tdvm, both(rated(tdx.StatusOutOfDate), grace("2026-12-26T12:00:00Z", "INTEL-SA-01193")), "cpu.tcb_status"},
		{
			"denied advisory", tdvm,
			both(rated(tdx.StatusUpToDate), with("  min_tcb_evaluation", "  denied_advisories: [INTEL-SA-01192]\n  min_tcb_evaluation")),
			"cpu.advisories",
		},
		{"old levels", tdvm, with("  min_tcb_evaluation", "  min_tcb_date: 2025-01-01T00:00:00Z\n  min_tcb_evaluation"), "cpu.tcb_date"},
		{"old collateral", tdvm, func(w *world) { w.collateral.Evaluation = 17 }, "cpu.evidence"},
		{"expired collateral", tdvm, func(w *world) { w.collateral.NextUpdate = simNow.Add(-time.Second) }, "cpu.evidence"},
		{"future collateral", tdvm, func(w *world) { w.collateral.Issued = simNow.Add(time.Second) }, "cpu.evidence"},
		{"in skew", tdvm, both(func(w *world) { w.collateral.Issued = simNow.Add(time.Second) },
			with("releases:", "clock_skew: 1s\nreleases:")), ""},
		{"PCK revoked", tdvm, func(w *world) { w.collateral.Revoked = []*x509.Certificate{w.platform.PCK()} }, "cpu.evidence"},
		{"another platform's collateral", tdvm, func(w *world) {
			w.collateral.Edit = func(info, _ map[string]any) { info["fmspc"] = "010000000000" }
		}, "cpu.evidence"},
		{"simulation not admitted", tdvm, with("admit: true", "admit: false"), "cpu.evidence"},
	} {
		t.Run(c.name, c.run)
	}
}

// What devices may be, and may not.
func TestGPUPolicy(t *testing.T) {
	two := small
	two.gpus = 2
	node := kind{tee: attest.SNP, line: snp.Genoa, gpus: 2, switchs: 1, arch: nvgpu.Hopper, role: attest.Worker}
	skip := func(name string) func(*world) { return with("releases:", "skip: ["+name+"]\nreleases:") }
	for _, c := range []refusal{
		{"debug mode", small, func(w *world) { w.devices[0].Measurements[5][0]++ }, "gpu.evidence"},
		{"no GPU", small, func(w *world) { w.devices = nil }, "gpu.evidence"},
		{"a gateway with one", vm, func(w *world) { w.devices = newWorld(small).devices }, "gpu.evidence"},
		{"one twice", two, func(w *world) { w.devices[1] = w.devices[0] }, "gpu.evidence"},
		{"too few", small, with("  protected_pcie: true", "  min_count: 2"), "gpu.count"},
		{"too many", two, with("  protected_pcie: true", "  max_count: 1"), "gpu.count"},
		{"architecture", small, with("[HOPPER, BLACKWELL]", "[BLACKWELL]"), "gpu.0.arch"},
		{"driver", small, with(`GH100: "999.9"`, `GH100: "999.10.2"`), "gpu.0.driver"},
		{"chip without a driver", small, with(`GH100: "999.9", `, ""), "gpu.0.driver"},
		{"VBIOS", small, with("GH100: 96.00.AA.00.00", "GH100: 96.00.AB"), "gpu.0.vbios"},
		{"chip without a VBIOS", small, with("GH100: 96.00.AA.00.00, ", ""), "gpu.0.vbios"},
		{"stale OCSP", small, func(w *world) {
			w.ocsp = simnvgpu.Status{ThisUpdate: simNow.Add(-2 * time.Hour), NextUpdate: simNow.Add(-time.Hour)}
		}, "gpu.evidence"},
		{"stale OCSP, skipped", small, func(w *world) {
			w.ocsp = simnvgpu.Status{ThisUpdate: simNow.Add(-2 * time.Hour), NextUpdate: simNow.Add(-time.Hour)}
			skip("gpu.ocsp")(w)
		}, ""},
		{"revoked", small, func(w *world) { w.ocsp.Revoked = true }, "gpu.evidence"},
		{"OCSP of the future, in skew", small, func(w *world) {
			w.ocsp = simnvgpu.Status{ThisUpdate: simNow.Add(time.Second), NextUpdate: simNow.Add(time.Hour)}
			with("releases:", "clock_skew: 1s\nreleases:")(w)
		}, ""},
		{"no FWID", small, func(w *world) { delete(w.devices[0].Opaque, simnvgpu.OpaqueFWID) }, "gpu.evidence"},
		{"no FWID, skipped", small, func(w *world) {
			delete(w.devices[0].Opaque, simnvgpu.OpaqueFWID)
			skip("gpu.fwid")(w)
		}, ""},
		{"wrong FWID, skipped", small, func(w *world) {
			w.devices[0].Opaque[simnvgpu.OpaqueFWID] = make([]byte, 48)
			skip("gpu.fwid")(w)
		}, "gpu.evidence"},
		{"protected PCIe", node, with("  protected_pcie: true", "  protected_pcie: false"), "gpu.2.arch,gpu.protected_pcie"},
		{"protected PCIe by its mode only", small, func(w *world) {
			w.devices[0].Opaque[simnvgpu.OpaqueFeature] = []byte{2, 0}
		}, "gpu.topology"},
		{"a switch left out", node, func(w *world) { w.devices = w.devices[:2] }, "gpu.evidence"},
		{"a GPU left out", node, func(w *world) { w.devices = w.devices[1:] }, "gpu.evidence"},
		{"simulation not admitted", small, with("admit: true", "admit: false"), "cpu.evidence,gpu.evidence"},
	} {
		t.Run(c.name, c.run)
	}
	t.Run("no section", func(t *testing.T) {
		text := testPolicy()
		a, b := strings.Index(text, "gpu:\n"), strings.Index(text, "simulated:\n")
		w := newWorld(small)
		w.policy = []string{text[a:b], ""}
		wantFailures(t, w.appraise(t), "gpu.0.arch", "gpu.0.driver", "gpu.0.vbios", "gpu.count")
		a, b = strings.Index(text, "snp:\n  lines"), strings.Index(text, "tdx:\n  statuses")
		w.policy = []string{text[a:b], ""}
		wantFailures(t, w.appraise(t), "cpu.line", "cpu.signer", "cpu.smt")
		a, b = strings.Index(text, "tdx:\n  statuses"), strings.Index(text, "gpu:\n")
		w = newWorld(td)
		w.policy = []string{text[a:b], ""}
		wantFailures(t, w.appraise(t), "cpu.tcb_status", "cpu.xfam")
	})
}

// Who the machine is, and for how long.
func TestKeysetPolicy(t *testing.T) {
	id := attest.Digest{1}.String()
	for _, c := range []refusal{
		{"another role", vm, func(w *world) { w.set.Role = attest.Worker }, "cpu.measurement,gpu.evidence,keyset.role"},
		{"no role", vm, func(w *world) { w.set.Role = "" }, "cpu.measurement,gpu.evidence,keyset.role"},
		{"another ID", vm, func(w *world) { w.set.ID = attest.Digest{7} }, "keyset.id"},
		{"any ID", vm, func(w *world) { w.set.ID = attest.Digest{} }, ""},
		{"another key", vm, func(w *world) { w.set.TLS = attest.Digest{7} }, "keyset.tls"},
		{"another key, skipped", vm, func(w *world) {
			w.set.TLS = attest.Digest{7}
			with("releases:", "skip: [keyset.tls]\nreleases:")(w)
		}, ""},
		{"no key", vm, func(w *world) { w.keyset.TLS = attest.Digest{} }, "keyset.tls"},
		{"relayed", vm, func(w *world) { w.set.TLS, w.binder, w.set.Binder = attest.Digest{}, attest.Digest{}, attest.Digest{} }, ""},
		{"ended", vm, func(w *world) { w.keyset.NotAfter = simNow }, "keyset.window"},
		{"not begun", vm, func(w *world) { w.keyset.NotBefore = simNow.Add(time.Second) }, "keyset.window"},
		{"not begun, in skew", vm, func(w *world) {
			w.keyset.NotBefore = simNow.Add(time.Second)
			with("releases:", "clock_skew: 1s\nreleases:")(w)
		}, ""},
		{"a day", vm, func(w *world) { w.keyset.NotAfter = w.keyset.NotBefore.Add(attest.KeysetMaxAge) }, ""},
		{"more than a day", vm, func(w *world) { w.keyset.NotAfter = w.keyset.NotBefore.Add(attest.KeysetMaxAge + 1) }, "keyset.window"},
		{"denied", vm, with("simulated:", "workers: {deny: ["+id+"]}\nsimulated:"), "workers.deny"},
		{"not allowed", small, with("simulated:", "workers: {allow: ["+attest.Digest{4}.String()+"]}\nsimulated:"), "workers.allow"},
		{"allowed", small, with("simulated:", "workers: {allow: ["+id+"]}\nsimulated:"), ""},
		{"a gateway, not on the workers' list", vm, with("simulated:", "workers: {allow: ["+attest.Digest{4}.String()+"]}\nsimulated:"), ""},
		{"form", vm, func(w *world) { w.keyset.V = 2 }, "keyset.form"},
		{"other nonce", vm, func(w *world) { w.set.Nonce = attest.Digest{6} }, "evidence.nonce"},
		{"no nonce", vm, func(w *world) { w.set.Nonce = attest.Digest{} }, "evidence.nonce"},
		{"other connection", small, func(w *world) { w.set.Binder = attest.Digest{7} }, "cpu.report_data,gpu.evidence"},
		{"no connection", small, func(w *world) { w.set.Binder = attest.Digest{} }, "cpu.report_data,gpu.evidence"},
		{"policy not begun", vm, func(w *world) { w.set.Now = date("2026-10-31T23:59:59Z") }, "policy.window,cpu.evidence,keyset.window"},
		{"policy ended", vm, func(w *world) {
			w.set.Now = date("2027-01-30T00:00:00Z")
			w.keyset.NotBefore, w.keyset.NotAfter = w.set.Now, w.set.Now.Add(time.Hour)
		}, "policy.window,cpu.measurement"},
		{"no time", vm, func(w *world) { w.set.Now = time.Time{} }, "policy.window"},
	} {
		t.Run(c.name, c.run)
	}
}

// Hardware that is denied, or not among what is allowed.
func TestChips(t *testing.T) {
	vlek := vm
	vlek.signer = snp.VLEK
	for _, k := range []kind{small, td, vlek} {
		w := newWorld(k)
		chips := w.appraise(t).Claims.Chips
		for i := range chips {
			w.policy = []string{"simulated:", "chips: {deny: [" + chips[i] + "]}\nsimulated:"}
			wantFailures(t, w.appraise(t), "chips.deny")
			w.policy = []string{"simulated:", "chips: {allow: [" + chips[i] + "]}\nsimulated:"}
			if len(chips) > 1 {
				wantFailures(t, w.appraise(t), "chips.allow")
			}
		}
		w.policy = []string{"simulated:", "chips: {allow: [" + strings.Join(append(chips, "tdx:"+strings.Repeat("0", 32)), ", ") + "]}\nsimulated:"}
		if k.signer == snp.VLEK {
			wantFailures(t, w.appraise(t), "chips.allow") // its CPU has no name
		} else {
			wantFailures(t, w.appraise(t))
		}
	}
}
