package nvgpu_test

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

func TestOCSP(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	good := w.c.OCSP
	answer := func(t *testing.T, cert *x509.Certificate, s sim.Status) []byte {
		t.Helper()
		der, err := w.pki.OCSP(cert, s)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	// Collateral asks for the RIM's signer and CA, then for boot ROM, provisioner and identity.
	const signer, rom, identity = 0, 2, 4
	certs := map[int]*x509.Certificate{
		signer: w.pki.RIMChain()[0], 1: w.pki.RIMChain()[1],
		rom: w.device.Chain()[1], 3: w.device.Chain()[2], identity: w.device.Chain()[3],
	}
	week := day(start).Add(7 * 24 * time.Hour)
	stranger := newWorld(t, sim.Config{Now: day(start)}, sim.DeviceConfig{})
	for _, c := range []struct {
		name  string
		which int
		s     sim.Status
		check nvgpu.Check
		words string
	}{
		{
			"boot ROM revoked", rom,
			sim.Status{Revoked: true, Reason: 1},
			nvgpu.CheckDeviceOCSP,
			"revoked since 2026-11-26T00:00:00Z, reason 1",
		},
		{"boot ROM on hold", rom, sim.Status{Revoked: true, Reason: 6}, nvgpu.CheckDeviceOCSP, "on hold"},
		{"provisioner revoked", 3, sim.Status{Revoked: true, Reason: 4}, nvgpu.CheckDeviceOCSP, "SIMULATED Provisioner"},
		{"identity unknown", identity, sim.Status{Unknown: true}, nvgpu.CheckDeviceOCSP, "unknown"},
		{"RIM signer revoked", signer, sim.Status{Revoked: true}, nvgpu.CheckRIMOCSP, "revoked"},
		{"RIM CA on hold", 1, sim.Status{Revoked: true, Reason: 6}, nvgpu.CheckRIMOCSP, "on hold"},
		{
			"stale", rom,
			sim.Status{ThisUpdate: day(start).Add(-25 * time.Hour)},
			nvgpu.CheckDeviceOCSP,
			"ended 2026-11-25T23:00:00Z",
		},
		{"to come", identity, sim.Status{ThisUpdate: week}, nvgpu.CheckDeviceOCSP, "to come"},
		{"for ever", identity, sim.Status{NextUpdate: day("2036-01-01T00:00:00Z")}, nvgpu.CheckDeviceOCSP, "too long"},
		{"stale for the RIM", signer, sim.Status{ThisUpdate: day(start).Add(-25 * time.Hour)}, nvgpu.CheckRIMOCSP, "ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.c.OCSP = bytesClone(good)
			w.c.OCSP[c.which] = answer(t, certs[c.which], c.s)
			_, err := w.verify()
			wantCheck(t, err, c.check, c.words)
			// A good response beside it helps if the other one is merely of no use.
			w.c.OCSP = append(w.c.OCSP, good[c.which])
			_, err = w.verify()
			if c.s.Revoked || c.s.Unknown {
				wantCheck(t, err, c.check, c.words)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	for i := range good {
		w.c.OCSP = append(bytesClone(good[:i]), good[i+1:]...)
		_, err := w.verify()
		want := nvgpu.CheckDeviceOCSP
		if i < rom {
			want = nvgpu.CheckRIMOCSP
		}
		wantCheck(t, err, want, "no response")
	}
	w.c.OCSP = stranger.c.OCSP // all good, by another vendor's responders
	_, err := w.verify()
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "no response")

	w.c.OCSP = good
	w.o.Cache = nvgpu.NewSignatureCache(100)
	for range 2 {
		if _, err := w.verify(); err != nil {
			t.Fatal(err)
		}
	}
	w.c.OCSP = bytesClone(good)
	w.c.OCSP[rom] = answer(t, certs[rom], sim.Status{Revoked: true})
	_, err = w.verify()
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "revoked") // whatever the cache remembers
	w.c.OCSP = good
	w.o.Now = day(start).Add(24 * time.Hour)
	_, err = w.verify()
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "ended")
}

func bytesClone(list [][]byte) [][]byte { return append([][]byte(nil), list...) }

// Every byte of a response, changed, makes it useless.
func TestOCSPFlips(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	w.o.Cache = nvgpu.NewSignatureCache(100)
	w.o.Skip = []nvgpu.Check{nvgpu.CheckRIM}
	good := w.c.OCSP
	if _, err := w.verify(); err != nil {
		t.Fatal(err)
	}
	const rom = 2
	for i := 0; i < len(good[rom]); i += raceStep {
		w.c.OCSP = bytesClone(good)
		w.c.OCSP[rom] = bytes.Clone(good[rom])
		w.c.OCSP[rom][i] ^= 1 << (i % 8)
		if _, err := w.verify(); err == nil {
			t.Errorf("byte %d of %d changed: accepted", i, len(good[rom]))
		}
	}
	for i := range good[rom] {
		if _, err := nvgpu.ParseOCSP(good[rom][:i]); err == nil {
			t.Errorf("cut at %d: accepted", i)
		}
	}
	if _, err := nvgpu.ParseOCSP(append(bytes.Clone(good[rom]), 0)); err == nil {
		t.Error("a byte more: accepted")
	}
}
