package nvgpu_test

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

// seed adds recorded files of a folder, where it's there.
func seed(f *testing.F, pattern string, decode func(testing.TB, string) []byte) {
	f.Helper()
	files, err := filepath.Glob(filepath.Join(vectorsDir(), pattern))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		rel, err := filepath.Rel(vectorsDir(), name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(decode(f, rel))
	}
}

func FuzzParseReport(f *testing.F) {
	for _, arch := range []nvgpu.Arch{nvgpu.Hopper, nvgpu.Blackwell, nvgpu.LS10} {
		f.Add(newWorld(f, sim.Config{}, sim.DeviceConfig{Arch: arch}).e.Report)
	}
	seed(f, "evidence/*Report*.txt", hexVector)
	chain := newWorld(f, sim.Config{}, sim.DeviceConfig{}).e.Chain
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := nvgpu.ParseReport(b)
		if err != nil {
			if r != nil {
				t.Error("a report in spite of the error")
			}
			return
		}
		if b[0] != 0x11 || len(b) > nvgpu.ReportMax || r.Nonce != [32]byte(b[4:]) {
			t.Error("no such report")
		}
		for i := range 300 {
			if m := r.Measurement(i); m != nil && len(m) != 48 {
				t.Errorf("measurement %d has %d bytes", i, len(m))
			}
		}
		if refs, err := nvgpu.RIMRefs(b, chain); err == nil {
			for _, ref := range refs {
				if ref.ID != filepath.Base(ref.ID) || len(ref.ID) > 128 {
					t.Errorf("RIM id %q", ref.ID)
				}
			}
		}
	})
}

func FuzzParseChain(f *testing.F) {
	f.Add(newWorld(f, sim.Config{}, sim.DeviceConfig{}).e.Chain)
	f.Add(newWorld(f, sim.Config{}, sim.DeviceConfig{Arch: nvgpu.Blackwell}).e.Chain)
	seed(f, "evidence/*Chain*.txt", vector)
	e := newWorld(f, sim.Config{}, sim.DeviceConfig{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if certs, err := nvgpu.ParseChain(b); err == nil && len(certs) > 8 {
			t.Errorf("%d certificates", len(certs))
		}
		_, _ = nvgpu.RIMRefs(e.e.Report, b) // reads the certificates' extensions; no panic
	})
}

func FuzzParseRIM(f *testing.F) {
	w := newWorld(f, sim.Config{}, sim.DeviceConfig{})
	for _, r := range w.c.RIMs {
		f.Add(r)
	}
	f.Add([]byte(`<a xmlns="b" c="d"><e f='g'/>text</a>`))
	seed(f, "rim/NV_*.xml", vector)
	f.Fuzz(func(t *testing.T, b []byte) {
		rim, err := nvgpu.ParseRIM(b)
		if (err == nil) == (rim == nil) {
			t.Errorf("got %v, %v", rim, err)
		}
		if err == nil {
			_ = nvgpu.VerifyRIM(rim, w.o.Roots.RIM, w.o.Now)
		}
	})
}

func FuzzParseOCSP(f *testing.F) {
	w := newWorld(f, sim.Config{}, sim.DeviceConfig{})
	for _, r := range w.c.OCSP {
		f.Add(r)
	}
	if der, err := w.pki.OCSP(w.device.Chain()[1], sim.Status{Revoked: true, Reason: 6}); err == nil {
		f.Add(der)
	}
	seed(f, "nvattest/*ocsp*.dat", base64Vector)
	chain := w.device.Chain()
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := nvgpu.ParseOCSP(b)
		if (err == nil) == (o == nil) {
			t.Errorf("got %v, %v", o, err)
		}
		if err == nil {
			for i := range len(chain) - 1 {
				_ = nvgpu.OCSPGood(o, chain[i], chain[i+1], w.o.Now)
			}
		}
	})
}

func TestVendorRoots(t *testing.T) {
	roots, err := nvgpu.VendorRoots()
	if err != nil {
		t.Fatal(err)
	}
	device, rim := roots.Device[0].Subject.CommonName, roots.RIM[0].Subject.CommonName
	if device != "NVIDIA Device Identity CA" || rim != "NVIDIA CoRIM signing Root CA" {
		t.Error(device, rim)
	}
	files, err := os.ReadDir("certs")
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v: each root is pinned", len(files), err)
	}
}
