package nvgpu_test

import (
	"bytes"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

// Nobody takes what comes from here for a vendor's: each certificate says so, and the verifier believes a root only if
// its caller names it.
func TestSaysSimulated(t *testing.T) {
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	p, err := sim.New(sim.Config{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	d, err := p.NewDevice(sim.DeviceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	roots := p.Roots()
	for _, c := range append(append(d.Chain(), p.RIMChain()...), append(roots.Device, roots.RIM...)...) {
		if !strings.Contains(c.Subject.String(), "SIMULATED") {
			t.Errorf("%s doesn't say that it's simulated", c.Subject)
		}
	}
	for _, c := range append(roots.Device, roots.RIM...) {
		if !strings.Contains(c.Subject.CommonName, "SIMULATED") {
			t.Errorf("root %s doesn't say in its name that it's simulated", c.Subject)
		}
	}
	block, rest := pem.Decode(p.RootsPEM())
	second, _ := pem.Decode(rest)
	if !bytes.Equal(block.Bytes, roots.Device[0].Raw) || !bytes.Equal(second.Bytes, roots.RIM[0].Raw) {
		t.Error("RootsPEM are others than Roots")
	}
	nonce := [32]byte{7}
	e, err := d.Evidence(nonce)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Collateral(now, d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nvgpu.Verify(e.Report, e.Chain, c, nvgpu.Options{Roots: roots, Now: now, Nonce: nonce}); err != nil {
		t.Error(err)
	}
	vendor, err := nvgpu.VendorRoots()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nvgpu.Verify(e.Report, e.Chain, c, nvgpu.Options{Roots: vendor, Now: now, Nonce: nonce}); err == nil {
		t.Error("verified to NVIDIA's roots")
	}
	if _, err := nvgpu.Verify(e.Report, e.Chain, c, nvgpu.Options{Now: now, Nonce: nonce}); err == nil {
		t.Error("verified to no root")
	}
}

func TestWrongUse(t *testing.T) {
	if _, err := sim.New(sim.Config{}); err == nil {
		t.Error("a vendor without a time")
	}
	p, err := sim.New(sim.Config{Now: time.Unix(1e9, 0)})
	if err != nil {
		t.Fatal(err)
	}
	other, err := sim.New(sim.Config{Now: time.Unix(1e9, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.NewDevice(sim.DeviceConfig{VBIOS: "96"}); err == nil {
		t.Error("a device with a strange VBIOS")
	}
	if _, err := p.NewDevice(sim.DeviceConfig{Arch: "VOLTA"}); err == nil {
		t.Error("a device of an architecture that there isn't")
	}
	if err := sim.Link(nil, nil); err == nil {
		t.Error("nothing linked to nothing")
	}
	d, err := other.NewDevice(sim.DeviceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.OCSP(d.Chain()[0], sim.Status{}); err == nil {
		t.Error("an answer about a leaf, which no responder knows")
	}
}
