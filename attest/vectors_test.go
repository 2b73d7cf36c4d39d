package attest_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/tdx"
)

// Real evidence goes through all of it. It answers others' nonces, so that report data has to fail, and the release and
// the GPUs that nobody had, with it; everything else passes where the machine was a good one.
func TestVectors(t *testing.T) {
	bound := []string{"cpu.measurement", "cpu.report_data", "gpu.evidence"}
	for _, c := range []struct {
		name, cpu, extra string // files
		at               string
		want             []string // besides those
		unsure           bool     // the other verifier abstains
	}{
		{name: "Genoa", cpu: "sev/vectors/oak_genoa_oc.report", extra: "sev/vectors/oak_genoa_oc.vcek.der", at: "2026-11-01T00:00:00Z"},
		{name: "Genoa, version 3", cpu: "sev/vectors/ms_genoa.report", extra: "sev/vectors/ms_genoa.vcek.der", at: "2026-11-01T00:00:00Z"},
		{
			name: "Turin", cpu: "sev/vectors/ms_turin.report", extra: "sev/vectors/ms_turin.vcek.der", at: "2026-11-01T00:00:00Z",
			unsure: true,
		},
		{
			name: "Milan", cpu: "sev/vectors/ms_milan.report", extra: "sev/vectors/ms_milan.vcek.der", at: "2026-11-01T00:00:00Z",
			want: []string{"cpu.line"},
		},
		{
			name: "Milan, debug", cpu: "sev/vectors/gsg_milan_v2.report", extra: "sev/vectors/gsg_milan_v2.vcek.der",
			at:   "2026-11-01T00:00:00Z",
			want: []string{"cpu.line", "cpu.report_version", "cpu.debug", "cpu.platform"},
		},
		{
			name: "another chip's key", cpu: "sev/vectors/ms_genoa.report", extra: "sev/vectors/oak_genoa_oc.vcek.der",
			at: "2026-11-01T00:00:00Z", want: []string{"cpu.evidence"},
		},
		{
			name: "expired VLEK", cpu: "sev/vectors/coco_vlek.report", extra: "sev/vectors/coco_vlek.vlek.der",
			at: "2026-11-01T00:00:00Z", want: []string{"cpu.evidence"},
		},
		{name: "TDX 1.5", cpu: "tdx/vectors/gtg_v5.quote", extra: "tdx/collateral/qvl_outdated.json", at: "2026-02-25T00:00:00Z"},
		{name: "TDX 1.0", cpu: "tdx/vectors/qvl_v4.quote", extra: "tdx/collateral/qvl_v4.json", at: "2025-07-07T00:00:00Z"},
		{
			name: "expired collateral", cpu: "tdx/vectors/qvl_v4.quote", extra: "tdx/collateral/qvl_v4.json",
			at: "2025-07-20T00:00:00Z", want: []string{"cpu.evidence"},
		},
		{
			name: "another platform's collateral", cpu: "tdx/vectors/qvl_v4.quote", extra: "tdx/collateral/qvl_near.json",
			at: "2025-09-20T00:00:00Z", want: []string{"cpu.evidence"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, items := recorded(t, c.cpu, c.extra, date(c.at))
			at := date(c.at)
			policy := realPolicy(t, at)
			set := attest.Setting{Role: attest.Worker, Nonce: e.Nonce, Now: at}
			r := policy.Appraise(e, sorted(t, items), set)
			got := failed(r)
			want := slices.Concat(c.want, bound)
			if slices.Contains(c.want, "cpu.evidence") {
				want = []string{"cpu.evidence", "cpu.report_data", "gpu.evidence"}
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) || r.Verdict != attest.Rejected {
				t.Errorf("failed %q, want %q\n%s", got, want, tell(r))
			}
			for _, check := range r.Checks {
				if check.Name == attest.CheckSecondOpinion && strings.Contains(check.Got, "abstains") != c.unsure {
					t.Errorf("the other verifier: %s", check.Got)
				}
				if check.Name == "cpu.root" && strings.Contains(check.Got, "SIMULATED") {
					t.Errorf("root: %s", check.Got)
				}
			}
			if r.Claims.SNP != nil || r.Claims.TDX != nil {
				t.Log(r.Claims.Hardware[0], r.Claims.Chips)
			}
		})
	}
}

// recorded puts a recorded report into evidence of our own.
func recorded(t *testing.T, cpu, extra string, at time.Time) (*attest.Evidence, []attest.Item) {
	t.Helper()
	w := newWorld(small)
	w.keyset.NotBefore, w.keyset.NotAfter = at, at.Add(time.Hour)
	e := &attest.Evidence{
		V: 1, Nonce: attest.Digest{5}, TEE: attest.SNP, CPU: vector(t, cpu), Devices: []byte("[]"),
		Keyset: must(json.Marshal(w.keyset)),
	}
	if strings.HasPrefix(cpu, "sev/") {
		return e, []attest.Item{{Kind: attest.SNPKey, Data: vector(t, extra)}}
	}
	e.TEE = attest.TDX
	if quote, err := tdx.Parse(e.CPU); err != nil || quote.Version == 0 {
		t.Fatal(err)
	}
	return e, []attest.Item{{Kind: attest.TDXCollateral, Data: vector(t, extra)}}
}

// realPolicy admits hardware of the years in which the evidence was recorded; AMD's revocation lists weren't.
func realPolicy(t *testing.T, at time.Time) *attest.Policy {
	t.Helper()
	from, to := at.AddDate(0, 0, -1).Format(time.RFC3339), at.AddDate(0, 0, 1).Format(time.RFC3339)
	p, err := attest.ParsePolicy([]byte(`
name: recorded
not_before: ` + from + `
not_after: ` + to + `
snp:
  lines:
    Genoa: {min_tcb: {boot: 10, snp: 23, microcode: 84}}
    Turin: {min_tcb: {fmc: 1, boot: 1, tee: 1, snp: 4, microcode: 81}}
  endorsement_keys: [VCEK]
  smt: true
  require_crl: false
tdx: {statuses: [UpToDate], min_tcb_evaluation: 17, smt: true}
gpu:
  architectures: [HOPPER]
  min_driver: {GH100: "550"}
  min_vbios: {GH100: "96"}
`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
