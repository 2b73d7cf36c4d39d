package attest_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// A verdict holds until the first end of anything that it rests on.
func TestExpires(t *testing.T) {
	soon := simNow.Add(90 * time.Second)
	text := soon.Format(time.RFC3339)
	for _, c := range []struct {
		name   string
		kind   kind
		change func(*world)
		want   time.Time
	}{
		{"nothing ends: ten minutes", vm, func(*world) {}, simNow.Add(10 * time.Minute)},
		{"session", vm, with("releases:", "session: 90s\nreleases:"), soon},
		{"policy", vm, with("2027-01-30T00:00:00Z", text, "2027-01-15T00:00:00Z", "2027-01-14T00:00:00Z"), soon},
		{"release", vm, with("    role: gateway", "    role: gateway\n    not_after: "+text), soon},
		{"keyset", vm, func(w *world) { w.keyset.NotAfter = soon }, soon},
		{"CRL", vm, func(w *world) { w.crl = &simsnp.CRLConfig{NextUpdate: soon} }, soon},
		{"TDX collateral", tdvm, func(w *world) { w.collateral.NextUpdate = soon }, soon},
		{"OCSP", small, func(w *world) { w.ocsp = simnvgpu.Status{NextUpdate: soon} }, soon},
		{"SNP grace", vm, func(w *world) {
			w.report.TCB.SNP, w.key.TCB.SNP = 22, 22
			with("min_mitigation: 1", "grace: [{until: "+text+", min_tcb: {boot: 10}, reason: slow}, "+
				"{until: 2026-11-26T12:00:10Z, min_tcb: {boot: 10}, reason: slow}]")(w)
		}, soon},
		{"TDX grace", tdvm, func(w *world) {
			w.collateral.Platform = tdx.StatusOutOfDate
			with("  min_tcb_evaluation", "  grace: [{until: "+text+", status: OutOfDate, reason: slow}]\n  min_tcb_evaluation")(w)
		}, soon},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(c.kind)
			c.change(w)
			r := w.appraise(t)
			wantFailures(t, r)
			if !r.Expires.Equal(c.want) {
				t.Errorf("expires %s, want %s\n%s", r.Expires, c.want, tell(r))
			}
			p := w.parsed(t)
			if again := p.Rejudge(r, c.want.Add(-time.Second)); !again.Verdict.Admits() || again.Expires.After(r.Expires) {
				t.Errorf("just before its end: %s\n%s", again.Verdict, tell(again))
			}
			if again := p.Rejudge(r, c.want); again.Verdict != attest.Rejected {
				t.Errorf("at its end: %s\n%s", again.Verdict, tell(again))
			}
		})
	}
}

// Notes say what a verdict is worth less for.
func TestNotes(t *testing.T) {
	for _, c := range []struct {
		kind   kind
		change func(*world)
		want   string
		skips  int
	}{
		{vm, func(*world) {}, "simulated hardware", 0},
		{vm, func(w *world) { w.set.TLS = attest.Digest{} }, "relayed", 0},
		{vm, func(w *world) { w.crl = nil; with("  smt: true", "  smt: true\n  require_crl: false")(w) }, "AMD has revoked", 1},
		{vm, func(w *world) { w.set.TLS = attest.Digest{7}; with("releases:", "skip: [keyset.tls]\nreleases:")(w) }, "whoever ends TLS", 1},
		{small, with("releases:", "skip: [gpu.ocsp]\nreleases:"), "NVIDIA has revoked", 1},
		{small, func(w *world) {
			delete(w.devices[0].Opaque, simnvgpu.OpaqueFWID)
			with("releases:", "skip: [gpu.fwid]\nreleases:")(w)
		}, "doesn't name the firmware", 1},
		{small, with("releases:", "skip: [gpu.fwid, keyset.tls]\nreleases:"), "simulated hardware", 0}, // not needed, not used
		{vm, func(w *world) {
			w.report.TCB.SNP, w.key.TCB.SNP = 22, 22
			with("min_mitigation: 1", "grace: [{until: 2026-12-26T00:00:00Z, min_tcb: {boot: 10}, reason: slow}]")(w)
		}, "admitted until 2026-12-26", 0},
		{tdvm, func(w *world) {
			w.collateral = simtdx.Collateral{Platform: tdx.StatusOutOfDate}
			with("  min_tcb_evaluation",
				"  grace: [{until: 2026-12-26T00:00:00Z, status: OutOfDate, reason: slow}]\n  min_tcb_evaluation")(w)
		}, "rated OutOfDate", 0},
	} {
		w := newWorld(c.kind)
		c.change(w)
		r := w.appraise(t)
		wantFailures(t, r)
		skips := 0
		for _, check := range r.Checks {
			if check.Outcome == attest.Skip {
				skips++
			}
		}
		if !strings.Contains(strings.Join(r.Notes, "; "), c.want) || skips != c.skips {
			t.Errorf("notes %q, %d skips; want %q, %d", r.Notes, skips, c.want, c.skips)
		}
		if r.Relayed != w.set.TLS.IsZero() {
			t.Errorf("relayed: %t", r.Relayed)
		}
	}
}

// A policy that is loaded later refuses by what an earlier appraisal found out, and can't make more of it.
func TestRejudge(t *testing.T) {
	for _, k := range []kind{small, td, vm} {
		w := newWorld(k)
		first := w.appraise(t)
		chip := first.Claims.Chips[0]
		id := w.keyset.ID.String()
		for _, c := range []struct {
			name   string
			policy []string
			want   string
		}{
			{"the same", nil, ""},
			{"worker denied", []string{"simulated:", "workers: {deny: [" + id + "]}\nsimulated:"}, "workers.deny"},
			{"chip denied", []string{"simulated:", "chips: {deny: [" + chip + "]}\nsimulated:"}, "chips.deny"},
			{"release gone", []string{hex48(0x11), hex48(0x99), hex48(0x22), hex48(0x98), hex48(0x11), hex48(0x97), hex48(0x22), hex48(0x96)}, "cpu.measurement"},
			{"policy ended", []string{"2027-01-30", "2026-11-20", "2027-01-15", "2026-11-15"}, "policy.window,cpu.measurement"},
			{"no simulation", []string{"admit: true", "admit: false"}, map[bool]string{true: "cpu.root,gpu.0.root", false: "cpu.root"}[k.gpus > 0]},
		} {
			w.policy = c.policy
			again := w.parsed(t).Rejudge(first, simNow.Add(time.Second))
			var want []string
			if c.want != "" {
				want = strings.Split(c.want, ",")
			}
			wantFailures(t, again, want...)
			if again.Expires.After(first.Expires) || again.At != simNow.Add(time.Second) || again.PolicyDigest != w.parsed(t).Digest() {
				t.Errorf("%s: expires %s, at %s", c.name, again.Expires, again.At)
			}
		}
		// An earlier refusal is forgotten only if it was the policy's.
		w.policy = []string{"simulated:", "workers: {deny: [" + id + "]}\nsimulated:"}
		denied := w.appraise(t)
		w.policy = nil
		if again := w.parsed(t).Rejudge(denied, simNow); again.Verdict != attest.Simulated {
			t.Errorf("no longer denied: %s\n%s", again.Verdict, tell(again))
		}
		w.set.Binder = attest.Digest{66}
		if again := w.parsed(t).Rejudge(w.appraise(t), simNow); again.Verdict != attest.Rejected {
			t.Errorf("of another connection: %s", again.Verdict)
		}
	}
}

// A skip needs the leave of the policy that judges, not of the one that once did.
func TestRejudgeSkips(t *testing.T) {
	w := newWorld(small)
	w.policy = []string{"releases:", "skip: [gpu.ocsp, gpu.fwid, keyset.tls]\nreleases:", "  smt: true", "  smt: true\n  require_crl: false"}
	w.set.TLS = attest.Digest{7}
	w.crl = nil
	delete(w.devices[0].Opaque, simnvgpu.OpaqueFWID)
	r := w.appraise(t)
	wantFailures(t, r)
	wantFailures(t, w.parsed(t).Rejudge(r, simNow))
	w.policy = nil
	wantFailures(t, w.parsed(t).Rejudge(r, simNow), "cpu.revocation", "gpu.0.fwid", "gpu.0.ocsp", "keyset.tls")
}

func TestDenies(t *testing.T) {
	w := newWorld(small)
	claims := w.appraise(t).Claims
	for want, lists := range map[string]string{
		"":              "",
		"chips.deny":    "chips: {deny: [" + claims.Chips[1] + "]}\n",
		"chips.allow":   "chips: {allow: [" + claims.Chips[1] + "]}\n",
		"workers.deny":  "workers: {deny: [" + w.keyset.ID.String() + "]}\n",
		"workers.allow": "workers: {allow: [" + attest.Digest{9}.String() + "]}\n",
	} {
		w.policy = []string{"simulated:", lists + "simulated:"}
		if got := w.parsed(t).Denies(&claims); got.Name != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	if got := w.parsed(t).Denies(new(attest.Claims)); got.Name != "keyset.form" {
		t.Errorf("without claims: %+v", got)
	}
}

// Collateral may come more than once and from several sides; what is good among it counts.
func TestChoosesCollateral(t *testing.T) {
	w := newWorld(small)
	stranger := newWorld(small)
	w.key.TCB.SNP--
	older := w.evidence(t).Endorsements
	w.key.TCB.SNP++
	e := w.evidence(t)
	w.crl.NextUpdate = simNow.Add(-time.Minute)
	stale := w.evidence(t).Endorsements
	w.crl = nil
	bare := w.evidence(t).Endorsements
	c := sorted(t, slices.Concat(stranger.evidence(t).Endorsements, older, stale, bare, e.Endorsements, e.Endorsements))
	wantFailures(t, w.parsed(t).Appraise(e, c, w.set))
	if len(c.SNPKeys) != 6-2 {
		// The same key is certified anew each time, but for the last.
		t.Logf("%d keys", len(c.SNPKeys))
	}

	tw := newWorld(tdvm)
	e = tw.evidence(t)
	var items []attest.Item
	for _, x := range []simtdx.Collateral{
		{Evaluation: 17},
		{Evaluation: 30, Issued: simNow.Add(time.Hour)},
		{Evaluation: 19, Platform: tdx.StatusOutOfDate},
		{Evaluation: 18},
	} {
		items = append(items, attest.Item{Kind: attest.TDXCollateral, Data: tw.tdxCollateral(x)})
	}
	// The newest that is valid says OutOfDate: an older one can't be chosen instead.
	wantFailures(t, tw.parsed(t).Appraise(e, sorted(t, items), tw.set), "cpu.tcb_status")
	wantFailures(t, tw.parsed(t).Appraise(e, sorted(t, append(items[:2:2], items[3])), tw.set))
	wantFailures(t, tw.parsed(t).Appraise(e, sorted(t, items[:2]), tw.set), "cpu.evidence")
}
