package simtee_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/simtee"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

func policyOf(t testing.TB, v *simtee.Vendor, at time.Time) *attest.Policy {
	t.Helper()
	text := v.PolicyYAML(at)
	p, err := attest.ParsePolicy(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return p
}

// appraise has a machine prove itself to a policy with all that it sends along.
func appraise(t testing.TB, m *simtee.Machine, role attest.Role, p *attest.Policy, at time.Time) *attest.Result {
	t.Helper()
	id := attest.Digest{7}
	k := attest.Keyset{
		V: attest.Version, Role: role, ID: id, Epoch: 1, TLS: id,
		NotBefore: at.Add(-time.Minute).UTC(), NotAfter: at.Add(time.Hour).UTC(),
	}
	if role == attest.Worker {
		k.HPKE, k.Receipt = &attest.HPKEKey{KEM: 0x647a, Public: bytes.Repeat([]byte{1}, 1216)}, bytes.Repeat([]byte{2}, 32)
	}
	keyset, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	s := attest.Setting{Role: role, Nonce: attest.Digest{1}, Binder: attest.Digest{2}, TLS: id, ID: id, Now: at, Cache: signatures()}
	e, err := attest.Collect(t.Context(), m, keyset, s.Nonce, s.Binder)
	if err != nil {
		t.Fatal(err)
	}
	var c attest.Collateral
	if err := c.Add(e.Endorsements); err != nil {
		t.Fatal(err)
	}
	return p.Appraise(e, c, s)
}

// failures are the checks that failed, as one text.
func failures(r *attest.Result) string {
	var b strings.Builder
	for _, c := range r.Failures() {
		fmt.Fprintf(&b, "%s: got %s, want %s\n", c.Name, c.Got, c.Want)
	}
	return b.String()
}

// The vendor's policy admits all kinds of its machines, as simulated; nobody else's policy does.
func TestPolicyAdmits(t *testing.T) {
	v := theVendor(t)
	p, others := policyOf(t, v, now), policyOf(t, otherVendor(t), now)
	empty, err := attest.ParsePolicy([]byte("name: empty\nnot_before: 2026-11-26T00:00:00Z\nnot_after: 2026-11-27T00:00:00Z\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range combinations() {
		role, wrong := attest.Worker, attest.Gateway
		if c.Role == attest.Gateway {
			role, wrong = wrong, role
		}
		m := machine(t, v, c)
		r := appraise(t, m, role, p, now)
		if r.Verdict != attest.Simulated {
			t.Errorf("%s: %s:\n%s", name, r.Verdict, failures(r))
		}
		if !r.Expires.After(now) || r.Expires.After(now.Add(10*time.Minute)) {
			t.Errorf("%s: expires %v after now", name, r.Expires.Sub(now))
		}
		if devices(c) > 1 {
			continue // many GPUs prove nothing more about what follows
		}
		for whose, r := range map[string]*attest.Result{
			"another vendor's policy": appraise(t, m, role, others, now), "no policy": appraise(t, m, role, empty, now),
			"another role": appraise(t, m, wrong, p, now),
		} {
			if r.Verdict.Admits() {
				t.Errorf("%s: %s: %s", name, whose, r.Verdict)
			}
		}
	}
}

// The policy holds around the time that it was made at, no longer.
func TestPolicyWindow(t *testing.T) {
	v := theVendor(t)
	p := policyOf(t, v, now)
	for _, step := range []struct {
		at   time.Time
		want bool
	}{
		{now, true}, {now.AddDate(0, 0, 30), true}, {now.AddDate(0, 0, 31), false},
	} {
		m := machine(t, v, simtee.Config{Now: func() time.Time { return step.at }})
		if r := appraise(t, m, attest.Worker, p, step.at); r.Verdict.Admits() != step.want {
			t.Errorf("at %v: %s, want admitted %v:\n%s", step.at, r.Verdict, step.want, failures(r))
		}
	}
	for _, clock := range []time.Duration{-time.Minute, time.Minute} { // a verifier's beside the machine's
		if r := appraise(t, machine(t, v, simtee.Config{}), attest.Worker, p, now.Add(clock)); !r.Verdict.Admits() {
			t.Errorf("a clock that is %v off: %s", clock, failures(r))
		}
	}
}

// What is wrong with a machine is found by the check for it.
func TestPolicyRefuses(t *testing.T) {
	v := theVendor(t)
	p := policyOf(t, v, now)
	drop := func(k attest.Kind) func([]attest.Item) []attest.Item {
		return func(list []attest.Item) []attest.Item {
			return slices.DeleteFunc(list, func(i attest.Item) bool { return i.Kind == k })
		}
	}
	report := func(f func(*simsnp.ReportConfig)) simtee.Config { return simtee.Config{Hooks: simtee.Hooks{Report: f}} }
	quote := func(f func(*tdx.TD)) simtee.Config {
		return simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Quote: func(q *simtdx.Quote) { f(&q.TD) }}}
	}
	for name, c := range map[string]struct {
		machine simtee.Config
		want    string // the check that has to fail
	}{
		"debug":           {report(func(o *simsnp.ReportConfig) { o.Policy = 0xb0000 }), "cpu.debug"},
		"migration":       {report(func(o *simsnp.ReportConfig) { o.Policy = 0x70000 }), "cpu.migration"},
		"VMPL":            {report(func(o *simsnp.ReportConfig) { o.VMPL = 1 }), "cpu.vmpl"},
		"measurement":     {report(func(o *simsnp.ReportConfig) { o.Measurement[0] ^= 1 }), "cpu.measurement"},
		"report data":     {report(func(o *simsnp.ReportConfig) { o.ReportData[0] ^= 1 }), "cpu.report_data"},
		"old TCB":         {report(func(o *simsnp.ReportConfig) { o.TCB.Microcode-- }), "cpu.tcb"},
		"old launch":      {report(func(o *simsnp.ReportConfig) { o.Launch = &snp.TCB{} }), "cpu.tcb"},
		"CRL":             {simtee.Config{Hooks: simtee.Hooks{CRL: func(o *simsnp.CRLConfig) { o.NextUpdate = now.Add(-1) }}}, "cpu."},
		"no chain":        {simtee.Config{Hooks: simtee.Hooks{Items: drop(attest.SNPChain)}}, "cpu."},
		"no key":          {simtee.Config{Hooks: simtee.Hooks{Items: drop(attest.SNPKey)}}, "cpu."},
		"TDX debug":       {quote(func(td *tdx.TD) { td.Attributes |= tdx.AttrDebug }), "cpu."},
		"TDX migratable":  {quote(func(td *tdx.TD) { td.Attributes |= tdx.AttrMigratable }), "cpu."},
		"TDX attributes":  {quote(func(td *tdx.TD) { td.Attributes = 0 }), "cpu.attributes"},
		"TDX measurement": {quote(func(td *tdx.TD) { td.RTMR[2][0] ^= 1 }), "cpu.measurement"},
		"TDX collateral":  {simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Items: drop(attest.TDXCollateral)}}, "cpu."},
		"TDX status": {simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Collateral: func(c *simtdx.Collateral) {
			c.Platform = tdx.StatusOutOfDate
		}}}, "cpu.tcb_status"},
		"no GPU":   {simtee.Config{GPUs: -1}, "gpu."},
		"many":     {simtee.Config{GPUs: 9}, "gpu.count"},
		"RIM":      {simtee.Config{Hooks: simtee.Hooks{Items: drop(attest.GPURIM)}}, "gpu."},
		"OCSP":     {simtee.Config{Hooks: simtee.Hooks{Items: drop(attest.GPUOCSP)}}, "gpu."},
		"DevTools": {simtee.Config{Hooks: simtee.Hooks{Device: func(_ int, d *simnvgpu.Device) { d.Measurements[3][0] ^= 1 }}}, "gpu."},
		"driver": {simtee.Config{Hooks: simtee.Hooks{GPU: func(_ int, d *simnvgpu.DeviceConfig) {
			d.Driver = "999.9.1"
		}}}, "gpu.0.driver"},
		"switches alone": {simtee.Config{GPUs: 1, Arch: nvgpu.Blackwell, Hooks: simtee.Hooks{GPU: func(_ int, d *simnvgpu.DeviceConfig) {
			d.Arch = nvgpu.LS10
		}}}, "gpu."},
	} {
		r := appraise(t, machine(t, v, c.machine), attest.Worker, p, now)
		found := slices.ContainsFunc(r.Failures(), func(f attest.Check) bool { return strings.HasPrefix(f.Name, c.want) })
		if r.Verdict.Admits() || !found {
			t.Errorf("%s: %s, want %s to fail:\n%s", name, r.Verdict, c.want, failures(r))
		}
	}
}
