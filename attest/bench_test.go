package attest_test

import (
	"testing"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
)

// BenchmarkAppraise is one verdict, collateral sorted beforehand: with a cache as a gateway has it, and without.
func BenchmarkAppraise(b *testing.B) {
	eight := kind{tee: attest.SNP, line: snp.Genoa, gpus: 8, switchs: 4, arch: nvgpu.Hopper, role: attest.Worker}
	for _, c := range []struct {
		name string
		kind kind
	}{{"snp", vm}, {"tdx", tdvm}, {"snp+gpu", small}, {"tdx+gpu", td}, {"snp+8gpu+4switches", eight}} {
		w := newWorld(c.kind)
		e := w.evidence(b)
		known, policy := sorted(b, e.Endorsements), w.parsed(b)
		for name, cache := range map[string]*nvgpu.SignatureCache{"fresh": nil, "cached": nvgpu.NewSignatureCache(1 << 12)} {
			if c.kind.gpus == 0 && cache != nil {
				continue
			}
			b.Run(c.name+"/"+name, func(b *testing.B) {
				set := w.set
				set.Cache = cache
				b.ReportAllocs()
				for b.Loop() {
					if r := policy.Appraise(e, known, set); !r.Verdict.Admits() {
						b.Fatal(tell(r))
					}
				}
			})
		}
	}
}

// BenchmarkRejudge is what a policy's reload costs for each worker.
func BenchmarkRejudge(b *testing.B) {
	w := newWorld(small)
	r, policy := w.appraise(b), w.parsed(b)
	b.ReportAllocs()
	for b.Loop() {
		policy.Rejudge(r, simNow)
	}
}

// BenchmarkWrongNonce is what evidence costs that answers nobody.
func BenchmarkWrongNonce(b *testing.B) {
	w := newWorld(small)
	e := w.evidence(b)
	known, policy := sorted(b, e.Endorsements), w.parsed(b)
	w.set.Nonce = attest.Digest{6}
	b.ReportAllocs()
	for b.Loop() {
		policy.Appraise(e, known, w.set)
	}
}

// BenchmarkCollateral sorts what comes along with evidence.
func BenchmarkCollateral(b *testing.B) {
	e := newWorld(small).evidence(b)
	b.ReportAllocs()
	for b.Loop() {
		sorted(b, e.Endorsements)
	}
}
