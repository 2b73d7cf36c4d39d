package nvgpu_test

import (
	"testing"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

// BenchmarkVerify is all of it: chain, report, OCSP responses, two RIMs; alone, and after others of its kind.
func BenchmarkVerify(b *testing.B) {
	for name, cache := range map[string]*nvgpu.SignatureCache{"fresh": nil, "cached": nvgpu.NewSignatureCache(100)} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, sim.Config{}, sim.DeviceConfig{})
			w.o.Cache = cache
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.verify(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkParse is what a peer can have us do before a signature is looked at.
func BenchmarkParse(b *testing.B) {
	w := newWorld(b, sim.Config{}, sim.DeviceConfig{})
	for name, parse := range map[string]func() error{
		"report": func() error { _, err := nvgpu.ParseReport(w.e.Report); return err },
		"chain":  func() error { _, err := nvgpu.ParseChain(w.e.Chain); return err },
		"RIM":    func() error { _, err := nvgpu.ParseRIM(w.c.RIMs[0]); return err },
		"OCSP":   func() error { _, err := nvgpu.ParseOCSP(w.c.OCSP[0]); return err },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := parse(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
