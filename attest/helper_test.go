package attest_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	simnvgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// simNow is when the simulated world lives.
var simNow = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// Simulated vendors are made once: keys take time.
var (
	amd = map[snp.Line]func() (*simsnp.Authority, error){
		snp.Genoa: sync.OnceValues(func() (*simsnp.Authority, error) { return newAMD(snp.Genoa) }),
		snp.Turin: sync.OnceValues(func() (*simsnp.Authority, error) { return newAMD(snp.Turin) }),
	}
	intel  = sync.OnceValues(func() (*simtdx.PKI, error) { return simtdx.NewPKI(simNow) })
	nvidia = sync.OnceValues(func() (*simnvgpu.PKI, error) { return simnvgpu.New(simnvgpu.Config{Now: simNow}) })
)

// signatures spares tests what all simulated GPUs have in common.
var signatures = nvgpu.NewSignatureCache(1 << 12)

func newAMD(line snp.Line) (*simsnp.Authority, error) {
	return simsnp.NewAuthority(simsnp.Config{Line: line, Now: simNow, RSABits: 2048})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// kind is a machine that the tests simulate.
type kind struct {
	tee           attest.TEE
	line          snp.Line
	signer        snp.Signer
	v15           bool // TDX 1.5: quote version 5
	gpus, switchs int
	arch          nvgpu.Arch
	role          attest.Role
}

func (k kind) String() string {
	s := string(k.tee) + " " + string(k.line)
	if k.tee == attest.SNP {
		s += " " + k.signer.String()
	} else if k.v15 {
		s += "v5"
	}
	return fmt.Sprintf("%s %s %d %s %d switches", s, k.role, k.gpus, k.arch, k.switchs)
}

// small is the cheapest worker, vm the cheapest gateway.
var (
	small = kind{tee: attest.SNP, line: snp.Genoa, gpus: 1, arch: nvgpu.Hopper, role: attest.Worker}
	vm    = kind{tee: attest.SNP, line: snp.Genoa, role: attest.Gateway}
	td    = kind{tee: attest.TDX, v15: true, gpus: 1, arch: nvgpu.Blackwell, role: attest.Worker}
	tdvm  = kind{tee: attest.TDX, v15: true, role: attest.Gateway}
)

// world is a machine with all around it. Tests change it before they call appraise.
type world struct {
	kind
	report     simsnp.ReportConfig
	key        simsnp.KeyConfig
	crl        *simsnp.CRLConfig // nil: none
	quote      simtdx.Quote
	collateral simtdx.Collateral
	devices    []*simnvgpu.Device // GPUs, then switches
	ocsp       simnvgpu.Status
	keyset     attest.Keyset
	binder     attest.Digest // that the machine sees
	policy     []string      // pairs to replace in the policy's text
	set        attest.Setting

	chip     *simsnp.Chip
	platform *simtdx.Machine
}

// tcbOf is a healthy TCB.
func tcbOf(line snp.Line) snp.TCB {
	if line == snp.Turin {
		return snp.TCB{FMC: 1, Boot: 1, TEE: 1, SNP: 4, Microcode: 81}
	}
	return snp.TCB{Boot: 10, TEE: 0, SNP: 25, Microcode: 84}
}

// value is a reference value.
func value(seed byte) (m [48]byte) {
	for i := range m {
		m[i] = seed
	}
	return m
}

func newWorld(k kind) *world {
	w := &world{kind: k, crl: new(simsnp.CRLConfig), binder: attest.Digest{9}}
	seed := byte(0x11)
	if k.role == attest.Gateway {
		seed = 0x22
	}
	if k.tee == attest.SNP {
		w.chip = must(must(amd[k.line]()).NewChip())
		w.report = simsnp.ReportConfig{Signer: k.signer, TCB: tcbOf(k.line), Measurement: value(seed), Mitigation: 3}
		w.key = simsnp.KeyConfig{Kind: k.signer, TCB: tcbOf(k.line)}
	} else {
		w.platform = must(must(intel()).Machine(tdx.Platform{}))
		w.quote = simtdx.Quote{TD: tdx.TD{
			V15: k.v15, Attributes: tdx.AttrSEPTVEDisable, MRTD: value(seed),
			RTMR: [4]tdx.Measurement{value(1), value(2), value(3), value(4)}, MRSEAM: value(0x77),
		}}
	}
	for range k.gpus {
		w.devices = append(w.devices, must(must(nvidia()).NewDevice(simnvgpu.DeviceConfig{Arch: k.arch})))
	}
	for range k.switchs {
		w.devices = append(w.devices, must(must(nvidia()).NewDevice(simnvgpu.DeviceConfig{Arch: nvgpu.LS10})))
	}
	if k.switchs > 0 {
		if err := simnvgpu.Link(w.devices[:k.gpus], w.devices[k.gpus:]); err != nil {
			panic(err)
		}
	}
	w.keyset = attest.Keyset{
		V: 1, Role: k.role, ID: attest.Digest{1}, TLS: attest.Digest{2}, Epoch: 7,
		NotBefore: simNow.Add(-time.Minute), NotAfter: simNow.Add(time.Hour),
	}
	if k.role == attest.Worker {
		w.keyset.HPKE = &attest.HPKEKey{KEM: 0x647a, Public: []byte{1}}
		w.keyset.Receipt = make([]byte, 32)
		w.keyset.Models = []attest.Model{{Name: "qwen3:8b"}}
	}
	w.set = attest.Setting{
		Role: k.role, Nonce: attest.Digest{5}, Binder: w.binder, TLS: w.keyset.TLS, ID: w.keyset.ID, Now: simNow,
		Cache: signatures,
	}
	return w
}

// TEE is part of attest.Attester.
func (w *world) TEE() attest.TEE { return w.tee }

// Report is part of attest.Attester.
func (w *world) Report(_ context.Context, data [64]byte) ([]byte, []attest.Item, error) {
	if w.tee == attest.TDX {
		q := w.quote
		q.TD.ReportData = data
		quote, err := w.platform.Quote(q)
		if err != nil {
			return nil, nil, err
		}
		return quote, []attest.Item{{Kind: attest.TDXCollateral, Data: w.tdxCollateral(w.collateral)}}, nil
	}
	c := w.report
	c.ReportData = data
	report, err := w.chip.Report(c)
	if err != nil {
		return nil, nil, err
	}
	return report, []attest.Item{
		{Kind: attest.SNPKey, Data: must(w.chip.Certificate(w.key))},
		{Kind: attest.SNPChain, Data: w.snpChain()},
	}, nil
}

func (w *world) snpChain() []byte {
	auth := must(amd[w.line]())
	chain := auth.Endorsements()[w.line]
	item := attest.SNPChainItem{Line: w.line, ARK: chain.ARK, ASK: chain.ASK, ASVK: chain.ASVK}
	if w.crl != nil {
		item.CRLs = [][]byte{must(auth.CRL(*w.crl))}
	}
	return must(json.Marshal(item))
}

func (w *world) tdxCollateral(c simtdx.Collateral) []byte {
	return must(json.Marshal(must(w.platform.Collateral(c))))
}

// Devices is part of attest.Attester.
func (w *world) Devices(_ context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	var all []attest.Device
	var items []attest.Item
	if len(w.devices) == 0 {
		return nil, nil, nil
	}
	for _, d := range w.devices {
		e, err := d.Evidence(nonce)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, attest.Device(e))
	}
	pki := must(nvidia())
	rims := must(pki.Collateral(simNow, w.devices...)).RIMs
	for _, rim := range rims {
		items = append(items, attest.Item{Kind: attest.GPURIM, Data: rim})
	}
	done := map[string]bool{}
	for _, d := range w.devices {
		chain := d.Chain()
		for _, cert := range append(chain[1:len(chain)-1], pki.RIMChain()[:len(pki.RIMChain())-1]...) {
			if !done[string(cert.Raw)] {
				done[string(cert.Raw)] = true
				items = append(items, attest.Item{Kind: attest.GPUOCSP, Data: must(pki.OCSP(cert, w.ocsp))})
			}
		}
	}
	return all, items, nil
}

// evidence asks the machine.
func (w *world) evidence(t testing.TB) *attest.Evidence {
	t.Helper()
	e, err := attest.Collect(t.Context(), w, must(json.Marshal(w.keyset)), attest.Digest{5}, w.binder)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func sorted(t testing.TB, items []attest.Item) (c attest.Collateral) {
	t.Helper()
	if err := c.Add(items); err != nil {
		t.Fatal(err)
	}
	return c
}

// appraise asks the machine and judges what it says, as a verifier of it would that got all collateral along.
func (w *world) appraise(t testing.TB) *attest.Result {
	t.Helper()
	e := w.evidence(t)
	return w.parsed(t).Appraise(e, sorted(t, e.Endorsements), w.set)
}

func (w *world) parsed(t testing.TB) *attest.Policy {
	t.Helper()
	text := testPolicy()
	for i := 0; i < len(w.policy); i += 2 {
		if !strings.Contains(text, w.policy[i]) {
			t.Fatalf("the policy has no %q", w.policy[i])
		}
		text = strings.Replace(text, w.policy[i], w.policy[i+1], 1)
	}
	p, err := attest.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// hex48 is a reference value as a policy has it.
func hex48(seed byte) string {
	m := value(seed)
	return hex.EncodeToString(m[:])
}

// testPolicy admits all machines of this file.
func testPolicy() string {
	var b strings.Builder
	b.WriteString(`name: test
not_before: 2026-11-01T00:00:00Z
not_after: 2027-01-30T00:00:00Z
releases:
  - name: worker-1
    role: worker
    not_after: 2027-01-15T00:00:00Z
    snp: [{measurement: ` + hex48(0x11) + `}]
    tdx: [` + tdxReference(0x11) + `]
  - name: gateway-1
    role: gateway
    snp: [{measurement: ` + hex48(0x22) + `}]
    tdx: [` + tdxReference(0x22) + `]
snp:
  lines:
    Genoa: {min_tcb: {boot: 10, snp: 23, microcode: 84}, min_mitigation: 1}
    Turin: {min_tcb: {fmc: 1, boot: 1, tee: 1, snp: 4, microcode: 81}}
  endorsement_keys: [VCEK, VLEK]
  csps: ["CN=simulated.invalid"]
  smt: true
tdx:
  statuses: [UpToDate]
  min_tcb_evaluation: 18
gpu:
  architectures: [HOPPER, BLACKWELL]
  min_driver: {GH100: "999.9", GB100: "999.10.1"}
  min_vbios: {GH100: 96.00.AA.00.00, GB100: 96.00.AA.00.01, LS10: 96.00.A1}
  protected_pcie: true
simulated:
  admit: true
  snp:
`)
	for _, line := range []snp.Line{snp.Genoa, snp.Turin} {
		root := must(amd[line]()).Root()
		fmt.Fprintf(&b, "    - {line: %s, sha256: %x}\n", root.Line, root.SHA256)
	}
	roots := must(nvidia()).Roots()
	for _, x := range []struct {
		name string
		der  []byte
	}{{"tdx", must(intel()).Root().Raw}, {"gpu", roots.Device[0].Raw}, {"rim", roots.RIM[0].Raw}} {
		block := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: x.der}))
		fmt.Fprintf(&b, "  %s: |\n    %s\n", x.name, strings.ReplaceAll(strings.TrimSpace(block), "\n", "\n    "))
	}
	return b.String()
}

func tdxReference(seed byte) string {
	return fmt.Sprintf("{mrtd: %s, rtmr0: [%s, %s], rtmr1: [%s], rtmr2: [%s], rtmr3: [%s]}", hex48(seed), hex48(99), hex48(1),
		hex48(2), hex48(3), hex48(4))
}

// failed are the names of a result's failures.
func failed(r *attest.Result) []string {
	var names []string
	for _, c := range r.Failures() {
		names = append(names, c.Name)
	}
	return names
}

// tell prints a result for the log of a test that fails.
func tell(r *attest.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, expires %s, notes %q\n", r.Verdict, r.Expires, r.Notes)
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %s %s: got %s, want %s\n", c.Outcome, c.Name, c.Got, c.Want)
	}
	return b.String()
}

// wantFailures wants exactly these checks to fail.
func wantFailures(t testing.TB, r *attest.Result, want ...string) {
	t.Helper()
	if got := failed(r); !slices.Equal(got, want) {
		t.Errorf("failed: %q, want %q\n%s", got, want, tell(r))
	}
	if (len(want) == 0) != r.Verdict.Admits() {
		t.Errorf("verdict %s", r.Verdict)
	}
	for _, c := range r.Checks {
		if c.Got == "" || c.Want == "" {
			t.Errorf("%s: got %q, want %q: both must be there", c.Name, c.Got, c.Want)
		}
	}
}

// vectors returns the folder of recorded evidence, or skips.
func vectors(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "vectors", "attest")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence isn't here (COCOON_VECTORS may name its folder): %v", err)
	}
	return dir
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
