package simtee_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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

// signatures that were found good need not be checked again: they are most of the time that these tests take.
var signatures = sync.OnceValue(func() *nvgpu.SignatureCache { return nvgpu.NewSignatureCache(1000) })

// roots are what verify believes.
type roots struct {
	snp []snp.Root
	tdx []*x509.Certificate
	gpu nvgpu.Roots
}

func pinned(v *simtee.Vendor) roots {
	return roots{v.SNPRoots(), []*x509.Certificate{v.TDXRoot()}, v.GPURoots()}
}

func realRoots(t *testing.T) roots {
	t.Helper()
	intel, err := tdx.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	gpu, err := nvgpu.VendorRoots()
	if err != nil {
		t.Fatal(err)
	}
	return roots{snp.AMDRoots(), []*x509.Certificate{intel}, gpu}
}

// collect makes a machine and its evidence.
func collect(t testing.TB, v *simtee.Vendor, c simtee.Config) *attest.Evidence {
	t.Helper()
	return ask(t, machine(t, v, c))
}

func machine(t testing.TB, v *simtee.Vendor, c simtee.Config) *simtee.Machine {
	t.Helper()
	if c.Now == nil {
		c.Now = func() time.Time { return now }
	}
	m, err := v.NewMachine(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ask(t testing.TB, m *simtee.Machine) *attest.Evidence {
	t.Helper()
	e, err := attest.Collect(t.Context(), m, []byte("{}"), attest.Digest{1}, attest.Digest{2})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// verify asks the vendors' verifiers about evidence, with the endorsements that came along and nothing else.
func verify(t testing.TB, e *attest.Evidence, r roots, at time.Time) error {
	t.Helper()
	_, err := verifyCPU(t, e, r, at)
	_, gpuErr := verifyGPUs(t, e, r, at)
	return errors.Join(err, gpuErr)
}

// claims are of a CPU: SNP's or TDX's.
type claims struct {
	snp *snp.Claims
	tdx *tdx.Claims
}

func verifyCPU(t testing.TB, e *attest.Evidence, r roots, at time.Time) (c claims, err error) {
	t.Helper()
	want := attest.ReportData(e.Nonce, attest.Digest{2}, e.Keyset, e.Devices)
	var data [64]byte
	if e.TEE == attest.SNP {
		var chain attest.SNPChainItem
		unmarshal(t, only(t, e, attest.SNPChain), &chain)
		all := snp.Endorsements{chain.Line: {ARK: chain.ARK, ASK: chain.ASK, ASVK: chain.ASVK, CRLs: chain.CRLs}}
		c.snp, err = snp.Verify(e.CPU, only(t, e, attest.SNPKey), all, snp.Options{Roots: r.snp, Now: at, RequireCRL: true})
		if err == nil {
			data = c.snp.ReportData
		}
	} else {
		collateral := new(tdx.Collateral)
		unmarshal(t, only(t, e, attest.TDXCollateral), collateral)
		c.tdx, err = tdx.Verify(e.CPU, collateral, tdx.Options{Roots: r.tdx, Now: at, MinTCBEvaluation: 18})
		if err == nil {
			data = c.tdx.TD.ReportData
		}
	}
	if err == nil && data != want {
		t.Errorf("report data is %x, want %x", data, want)
	}
	return c, err
}

func verifyGPUs(t testing.TB, e *attest.Evidence, r roots, at time.Time) ([]*nvgpu.Claims, error) {
	t.Helper()
	var set []nvgpu.Evidence
	unmarshal(t, e.Devices, &set)
	if len(set) == 0 {
		return nil, nil
	}
	c := nvgpu.Collateral{RIMs: items(e, attest.GPURIM), OCSP: items(e, attest.GPUOCSP)}
	return nvgpu.VerifySet(set, c, nvgpu.Options{
		Roots: r.gpu, Now: at, Nonce: attest.GPUNonce(e.Nonce, e.Keyset), Cache: signatures(),
	})
}

func unmarshal(t testing.TB, text []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}

func items(e *attest.Evidence, k attest.Kind) (list [][]byte) {
	for _, i := range e.Endorsements {
		if i.Kind == k {
			list = append(list, i.Data)
		}
	}
	return list
}

func only(t testing.TB, e *attest.Evidence, k attest.Kind) []byte {
	t.Helper()
	list := items(e, k)
	if len(list) != 1 {
		t.Fatalf("%d items are %s, want 1", len(list), k)
	}
	return list[0]
}

// combinations are machines of all kinds, all healthy.
func combinations() map[string]simtee.Config {
	vlek := simtee.Hooks{Report: func(c *simsnp.ReportConfig) { c.Signer = snp.VLEK }}
	v5 := simtee.Hooks{Quote: func(q *simtdx.Quote) { q.Version = 5 }}
	v15 := simtee.Hooks{Quote: func(q *simtdx.Quote) { q.TD.V15 = true }}
	cpus := map[string]simtee.Config{
		"Genoa VCEK": {}, "Genoa VLEK": {Hooks: vlek},
		"Turin VCEK": {Line: snp.Turin}, "Turin VLEK": {Line: snp.Turin, Hooks: vlek},
		"TDX v4": {TEE: attest.TDX}, "TDX v5": {TEE: attest.TDX, Hooks: v5}, "TDX v5 1.5": {TEE: attest.TDX, Hooks: v15},
	}
	all := map[string]simtee.Config{}
	for name, c := range cpus {
		all[name+" worker"] = c
		c.Role = attest.Gateway
		all[name+" gateway"] = c
	}
	maps.Copy(all, map[string]simtee.Config{
		"8 Hoppers":              {GPUs: 8},
		"2 Blackwells":           {GPUs: 2, Arch: nvgpu.Blackwell},
		"2 Blackwells, 1 switch": {GPUs: 2, Switches: 1, Arch: nvgpu.Blackwell},
		"8 Hoppers, 4 switches":  {GPUs: 8, Switches: 4, TEE: attest.TDX},
	})
	return all
}

// devices says how many a healthy machine has.
func devices(c simtee.Config) int {
	if c.Role == attest.Gateway {
		return 0
	}
	return max(c.GPUs, 1) + c.Switches
}

// The vendors' verifiers take all kinds of machines with the roots of their vendor, and none with real ones or those of
// another simulation.
func TestCombinations(t *testing.T) {
	v, other := theVendor(t), otherVendor(t)
	for name, c := range combinations() {
		e := collect(t, v, c)
		if err := verify(t, e, pinned(v), now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for whose, r := range map[string]roots{"real": realRoots(t), "another simulation's": pinned(other), "no": {}} {
			if _, err := verifyCPU(t, e, r, now); err == nil {
				t.Errorf("%s: its CPU is taken under %s roots", name, whose)
			}
			if _, err := verifyGPUs(t, e, r, now); err == nil && devices(c) > 0 {
				t.Errorf("%s: its GPUs are taken under %s roots", name, whose)
			}
		}
		var list []attest.Device
		unmarshal(t, e.Devices, &list)
		if len(list) != devices(c) {
			t.Errorf("%s: %d devices, want %d", name, len(list), devices(c))
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := attest.ParseEvidence(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each machine has hardware of its own, but for the one that was restarted with its seed.
func TestSeed(t *testing.T) {
	v := theVendor(t)
	chips := func(c simtee.Config) string {
		e := collect(t, v, c)
		cpu, err := verifyCPU(t, e, pinned(v), now)
		gpus, gpuErr := verifyGPUs(t, e, pinned(v), now)
		if err := errors.Join(err, gpuErr); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if cpu.snp != nil {
			fmt.Fprintf(&b, "%x", cpu.snp.HWID)
		} else {
			fmt.Fprintf(&b, "%x", cpu.tdx.Platform.PPID)
		}
		for _, g := range gpus {
			b.WriteString(" " + g.UEID + " " + g.Serial)
		}
		return b.String()
	}
	for _, c := range []simtee.Config{{}, {Line: snp.Turin}, {TEE: attest.TDX, GPUs: 2, Switches: 1}} {
		if a, b := chips(c), chips(c); a == b {
			t.Errorf("two machines without a seed are both %s", a)
		}
		c.Seed = []byte("one")
		one := chips(c)
		if again := chips(c); again != one {
			t.Errorf("after a restart it is %s, was %s", again, one)
		}
		c.Seed = []byte("two")
		if two := chips(c); two == one {
			t.Errorf("two seeds make one machine: %s", one)
		}
		for i, part := range strings.Fields(one) {
			if slices.Contains(strings.Fields(one)[:i], part) {
				t.Errorf("a chip of %s is there twice", one)
			}
		}
	}
}

// All processes of one vendor make the same reference manifests, as there is one of a release at the vendor's.
func TestOneRIM(t *testing.T) {
	dir := t.TempDir()
	var rims [2][][]byte
	for i := range rims {
		v, err := simtee.Open(dir, now.Add(time.Duration(i)*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		rims[i] = items(collect(t, v, simtee.Config{GPUs: 2, Switches: 1}), attest.GPURIM)
	}
	if len(rims[0]) != 3 || !slices.EqualFunc(rims[0], rims[1], slices.Equal) {
		t.Error("two processes have different manifests")
	}
}

// Endorsements stay the same for hours, and are renewed long before their end: a machine that runs for weeks is taken at
// any time. After its clock went back it does not send endorsements from the future.
func TestRenewal(t *testing.T) {
	v := theVendor(t)
	for _, c := range []simtee.Config{{}, {TEE: attest.TDX}} {
		at := now
		c.Now = func() time.Time { return at }
		m := machine(t, v, c)
		first := ask(t, m)
		same := func() bool {
			return slices.EqualFunc(first.Endorsements, ask(t, m).Endorsements, func(a, b attest.Item) bool {
				return a.Kind == b.Kind && slices.Equal(a.Data, b.Data)
			})
		}
		for _, step := range []struct {
			after time.Duration
			same  bool
		}{
			{0, true}, {12*time.Hour - 1, true}, {12 * time.Hour, false}, {60 * 24 * time.Hour, false}, {-30 * time.Minute, false},
		} {
			at = now.Add(step.after)
			if same() != step.same {
				t.Errorf("%s after %v: same endorsements: want %v", m.TEE(), step.after, step.same)
			}
			if err := verify(t, ask(t, m), pinned(v), at); err != nil {
				t.Errorf("%s after %v: %v", m.TEE(), step.after, err)
			}
			// Whoever's clock is a bit slower, and whoever asked just before, is served too.
			if err := verify(t, ask(t, m), pinned(v), at.Add(-time.Minute)); step.after >= 0 && err != nil {
				t.Errorf("%s after %v, a minute slow: %v", m.TEE(), step.after, err)
			}
		}
	}
}

// A broken machine is broken in the way that was asked for, and its evidence is authentic all the same.
func TestHooks(t *testing.T) {
	v := theVendor(t)
	old := snp.TCB{Boot: 1}
	e := collect(t, v, simtee.Config{Hooks: simtee.Hooks{
		Report: func(c *simsnp.ReportConfig) { c.Policy, c.VMPL, c.TCB = 0xb0000, 2, old },
		GPU:    func(i int, c *simnvgpu.DeviceConfig) { c.Driver = "1.2.3" },
	}})
	cpu, err := verifyCPU(t, e, pinned(v), now)
	if err != nil {
		t.Fatal(err)
	}
	if c := cpu.snp; !c.Policy.Debug || c.VMPL != 2 || c.Reported != old || c.Current != old {
		t.Errorf("got %+v", c)
	}
	gpus, err := verifyGPUs(t, e, pinned(v), now)
	if err != nil || gpus[0].Driver != "1.2.3" {
		t.Errorf("got %+v, %v", gpus, err)
	}
	e = collect(t, v, simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{
		Quote:      func(q *simtdx.Quote) { q.TD.Attributes |= tdx.AttrDebug },
		Collateral: func(c *simtdx.Collateral) { c.Platform = tdx.StatusOutOfDate },
	}})
	if cpu, err = verifyCPU(t, e, pinned(v), now); err != nil {
		t.Fatal(err)
	}
	if !cpu.tdx.TD.Attributes.UnderDebug() || cpu.tdx.TCB.Status != tdx.StatusOutOfDate {
		t.Errorf("got %+v", cpu.tdx)
	}
	for name, h := range map[string]simtee.Hooks{
		"CRL":    {CRL: func(c *simsnp.CRLConfig) { c.NextUpdate = now.Add(-time.Minute) }},
		"device": {Device: func(_ int, d *simnvgpu.Device) { d.Measurements[5][0] ^= 1 }},
		"items": {Items: func(list []attest.Item) []attest.Item {
			return slices.DeleteFunc(list, func(i attest.Item) bool { return i.Kind == attest.GPUOCSP })
		}},
	} {
		if err := verify(t, collect(t, v, simtee.Config{Hooks: h}), pinned(v), now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Many may ask at once; nobody's list of items is another's.
func TestAtOnce(t *testing.T) {
	v := theVendor(t)
	m := machine(t, v, simtee.Config{})
	all := make([]*attest.Evidence, 8)
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			e, err := attest.Collect(t.Context(), m, []byte("{}"), attest.NewNonce(), attest.Digest{2})
			if err != nil {
				t.Error(err)
				return
			}
			all[i] = e
			_ = append(e.Endorsements[:1], attest.Item{}) // what a caller may do with its own
		})
	}
	wg.Wait()
	for _, e := range all {
		e.Endorsements = ask(t, m).Endorsements
		if err := verify(t, e, pinned(v), now); err != nil {
			t.Error(err)
		}
	}
}

func TestMachineRefuses(t *testing.T) {
	v := theVendor(t)
	for name, c := range map[string]simtee.Config{
		"TEE":      {TEE: "sgx"},
		"line":     {Line: snp.Milan},
		"role":     {Role: "client"},
		"arch":     {Arch: nvgpu.LS10},
		"switches": {Switches: -1},
		"lonely":   {GPUs: -1, Switches: 1},
		"many":     {GPUs: 100},
		"device":   {Hooks: simtee.Hooks{GPU: func(_ int, c *simnvgpu.DeviceConfig) { c.VBIOS = "1" }}},
	} {
		if _, err := v.NewMachine(c); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	if _, err := v.NewMachine(simtee.Config{Role: attest.Gateway, GPUs: 1}); err == nil {
		t.Error("a gateway has GPUs")
	}
	m := machine(t, v, simtee.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := m.Report(ctx, [64]byte{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from a report that nobody waits for", err)
	}
	if _, _, err := m.Devices(ctx, attest.Digest{1}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from devices that nobody waits for", err)
	}
	m = machine(t, v, simtee.Config{Now: func() time.Time { return time.Time{} }})
	if _, _, err := m.Report(t.Context(), [64]byte{}); err == nil {
		t.Error("a report without a time")
	}
	m = machine(t, v, simtee.Config{TEE: attest.TDX, Hooks: simtee.Hooks{Quote: func(q *simtdx.Quote) { q.Version = 3 }}})
	if _, _, err := m.Report(t.Context(), [64]byte{}); err == nil {
		t.Error("a quote of version 3")
	}
}

func BenchmarkCollect(b *testing.B) {
	for name, c := range map[string]simtee.Config{
		"snp": {Role: attest.Gateway}, "tdx": {TEE: attest.TDX, Role: attest.Gateway}, "snp+gpu": {},
		"snp+8gpu+4switch": {GPUs: 8, Switches: 4},
	} {
		b.Run(name, func(b *testing.B) {
			m := machine(b, theVendor(b), c)
			ask(b, m)
			for b.Loop() {
				ask(b, m)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := simtee.New(now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewMachine(b *testing.B) {
	v := theVendor(b)
	for b.Loop() {
		if _, err := v.NewMachine(simtee.Config{}); err != nil {
			b.Fatal(err)
		}
	}
}
