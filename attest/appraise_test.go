package attest_test

import (
	"testing"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
)

// Every kind of machine passes, as simulated and never as verified, with no check that isn't PASS.
func TestAdmits(t *testing.T) {
	for _, k := range []kind{
		small, vm, td, tdvm,
		{tee: attest.SNP, line: snp.Turin, gpus: 2, arch: nvgpu.Blackwell, role: attest.Worker},
		{tee: attest.SNP, line: snp.Genoa, signer: snp.VLEK, gpus: 1, arch: nvgpu.Hopper, role: attest.Worker},
		{tee: attest.SNP, line: snp.Turin, signer: snp.VLEK, role: attest.Gateway},
		{tee: attest.TDX, gpus: 1, arch: nvgpu.Hopper, role: attest.Worker},
		{tee: attest.TDX, v15: true, gpus: 8, arch: nvgpu.Hopper, switchs: 4, role: attest.Worker},
	} {
		t.Run(k.String(), func(t *testing.T) {
			w := newWorld(k)
			w.set.Cache = nil
			r := w.appraise(t)
			wantFailures(t, r)
			if r.Verdict != attest.Simulated {
				t.Errorf("verdict %s, want simulated\n%s", r.Verdict, tell(r))
			}
			for _, c := range r.Checks {
				if c.Outcome != attest.Pass {
					t.Errorf("%s: %s", c.Name, c.Outcome)
				}
			}
		})
	}
}
