package nvgpu_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
	sim "cocoon/attest/simtee/nvgpu"
)

// start is when the simulated vendors of these tests open.
const start = "2026-11-26T00:00:00Z"

// world is a vendor with one device, and all that it takes to verify that one.
type world struct {
	pki    *sim.PKI
	device *sim.Device
	e      nvgpu.Evidence
	c      nvgpu.Collateral
	o      nvgpu.Options
}

// shared is the vendor of all worlds that don't want one of their own: keys take time.
var shared = sync.OnceValues(func() (*sim.PKI, error) { return sim.New(sim.Config{Now: day(start)}) })

func newWorld(t testing.TB, pc sim.Config, dc sim.DeviceConfig) *world {
	t.Helper()
	w := &world{}
	if pc == (sim.Config{}) {
		pc.Now = day(start)
		var err error
		if w.pki, err = shared(); err != nil {
			t.Fatal(err)
		}
	} else {
		w.pki = vendorSim(t, pc)
	}
	w.device = deviceSim(t, w.pki, dc)
	w.o = nvgpu.Options{Roots: w.pki.Roots(), Now: pc.Now.Add(time.Minute), Nonce: [32]byte{1, 2, 3}}
	w.e = ask(t, w.device, w.o.Nonce)
	var err error
	if w.c, err = w.pki.Collateral(pc.Now, w.device); err != nil {
		t.Fatal(err)
	}
	return w
}

func vendorSim(t testing.TB, c sim.Config) *sim.PKI {
	t.Helper()
	p, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func deviceSim(t testing.TB, p *sim.PKI, c sim.DeviceConfig) *sim.Device {
	t.Helper()
	d, err := p.NewDevice(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ask(t testing.TB, d *sim.Device, nonce [32]byte) nvgpu.Evidence {
	t.Helper()
	e, err := d.Evidence(nonce)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) verify() (*nvgpu.Claims, error) { return nvgpu.Verify(w.e.Report, w.e.Chain, w.c, w.o) }

func TestSimulated(t *testing.T) {
	for _, c := range []sim.DeviceConfig{
		{Arch: nvgpu.Hopper, Serial: 0x0102030405060708},
		{Arch: nvgpu.Hopper, Serial: 0x0102030405060708, NVDEC0: true},
		{Arch: nvgpu.Blackwell, Serial: 0x0102030405060708},
		{Arch: nvgpu.LS10, Serial: 0x0102030405060708},
	} {
		t.Run(fmt.Sprintf("%s %t", c.Arch, c.NVDEC0), func(t *testing.T) {
			w := newWorld(t, sim.Config{}, c)
			got, err := w.verify()
			if err != nil {
				t.Fatal(err)
			}
			if got.Arch != c.Arch || got.Serial != "0102030405060708" || got.Nonce != w.o.Nonce || !got.SecureBoot ||
				len(got.Skipped) > 0 {
				t.Errorf("claims %+v", got)
			}
			if want := day(start).Add(24 * time.Hour); !got.Expires.Equal(want) {
				t.Errorf("expires %s, want %s", got.Expires, want)
			}
			if skipped := len(got.Measurements.Skipped) == 1; skipped == (c.NVDEC0 || c.Arch == nvgpu.LS10) {
				t.Errorf("measurements skipped: %v", got.Measurements.Skipped)
			}
			if got.DICEFlags != (c.Arch == nvgpu.Blackwell) {
				t.Errorf("DICE flags: %t", got.DICEFlags)
			}
			for _, cert := range []nvgpu.CertClaims{got.Chain[4], got.RIMs[0].Chain[2]} {
				if !strings.Contains(cert.Subject, "SIMULATED") {
					t.Errorf("root %q", cert.Subject)
				}
			}
			o := w.o
			o.Roots = vendor(t)
			_, err = nvgpu.Verify(w.e.Report, w.e.Chain, w.c, o)
			wantCheck(t, err, nvgpu.CheckChain, "SIMULATED Device Identity CA")
			o.Roots = nvgpu.Roots{Device: w.o.Roots.Device, RIM: o.Roots.RIM}
			_, err = nvgpu.Verify(w.e.Report, w.e.Chain, w.c, o)
			wantCheck(t, err, nvgpu.CheckRIMChain, "SIMULATED CoRIM")
		})
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	for name, change := range map[string]func(*nvgpu.Options){
		"zero":         func(o *nvgpu.Options) { *o = nvgpu.Options{} },
		"no root":      func(o *nvgpu.Options) { o.Roots.Device = nil },
		"no RIM root":  func(o *nvgpu.Options) { o.Roots.RIM = nil },
		"no time":      func(o *nvgpu.Options) { o.Now = time.Time{} },
		"no nonce":     func(o *nvgpu.Options) { o.Nonce = [32]byte{} },
		"unknown skip": func(o *nvgpu.Options) { o.Skip = []nvgpu.Check{"everything"} },
		"firm skip":    func(o *nvgpu.Options) { o.Skip = []nvgpu.Check{nvgpu.CheckSignature} },
	} {
		o := w.o
		change(&o)
		_, err := nvgpu.Verify(w.e.Report, w.e.Chain, w.c, o)
		t.Run(name, func(t *testing.T) { wantCheck(t, err, nvgpu.CheckOptions, "") })
	}
}

// TestRefused is a device that is all right, and one thing about it that isn't.
func TestRefused(t *testing.T) {
	opaque := func(id uint16, v ...byte) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.device.Opaque[id] = v; w.e = ask(t, w.device, w.o.Nonce) }
	}
	without := func(id uint16) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { delete(w.device.Opaque, id); w.e = ask(t, w.device, w.o.Nonce) }
	}
	measured := func(i int) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.device.Measurements[i][47] ^= 1; w.e = ask(t, w.device, w.o.Nonce) }
	}
	clock := func(at string) func(*testing.T, *world) {
		return func(_ *testing.T, w *world) { w.o.Now = day(at) }
	}
	for _, c := range []struct {
		name   string
		change func(*testing.T, *world)
		check  nvgpu.Check
		words  string
	}{
		{"another nonce", func(_ *testing.T, w *world) { w.o.Nonce[0]++ }, nvgpu.CheckNonce, "want 020203"},
		{"no report", func(_ *testing.T, w *world) { w.e.Report = nil }, nvgpu.CheckReport, "length"},
		{"no chain", func(_ *testing.T, w *world) { w.e.Chain = nil }, nvgpu.CheckChain, "0 certificates"},
		{
			"long report", func(_ *testing.T, w *world) { w.e.Report = make([]byte, nvgpu.ReportMax+1) }, nvgpu.CheckSize,
			"report",
		},
		{
			"long chain", func(_ *testing.T, w *world) { w.e.Chain = bytes.Repeat([]byte("\n"), nvgpu.ChainMax+1) },
			nvgpu.CheckSize, "chain",
		},
		{
			"one zero byte and more", func(_ *testing.T, w *world) { w.e.Report = append(w.e.Report, 0, 0) }, nvgpu.CheckReport,
			"2 (0000)",
		},
		{"one byte more", func(_ *testing.T, w *world) { w.e.Report = append(w.e.Report, 1) }, nvgpu.CheckReport, "1 (01)"},

		{"wrong FWID", opaque(sim.OpaqueFWID, make([]byte, 48)...), nvgpu.CheckFWID, "got 0000"},
		{"short FWID", opaque(sim.OpaqueFWID), nvgpu.CheckFWID, ""},
		{"no FWID", without(sim.OpaqueFWID), nvgpu.CheckFWID, "none"},
		{"strange NVDEC0", opaque(sim.OpaqueNVDEC0, 0), nvgpu.CheckReport, "aa or 55"},
		{"no NVDEC0", without(sim.OpaqueNVDEC0), nvgpu.CheckNVDEC, "nothing"},
		{"another chip in the report", opaque(sim.OpaqueChip, []byte("GB100")...), nvgpu.CheckIdentity, "GB100"},
		{"path in the driver version", opaque(sim.OpaqueDriver, []byte("../../x")...), nvgpu.CheckReport, "letters, digits"},
		{"no driver version", without(sim.OpaqueDriver), nvgpu.CheckReport, "nothing"},
		{"other driver version", opaque(sim.OpaqueDriver, []byte("999.10.02")...), nvgpu.CheckRIM, "GH100 999.10.02"},
		{"other VBIOS version", opaque(sim.OpaqueVBIOS, 1, 0xaa, 0, 0x96, 1, 0, 0, 0), nvgpu.CheckRIM, "96.00.AA.01.01"},
		{"strange VBIOS version", opaque(sim.OpaqueVBIOS, 1, 0xaa, 0, 0x96, 1, 1, 0, 0), nvgpu.CheckReport, "VBIOS"},
		{"strange mode", opaque(sim.OpaqueFeature, 3, 0), nvgpu.CheckReport, "feature"},
		{"strange PDIs", opaque(sim.OpaquePDI, 3, 0), nvgpu.CheckReport, "PDIs"},

		{"driver measurement", measured(7), nvgpu.CheckMeasurements, "[7] of 35 (driver)"},
		{"VBIOS measurement", measured(30), nvgpu.CheckMeasurements, "[30] of 35 (vbios)"},
		{"measurement missing", func(t *testing.T, w *world) {
			w.device.Measurements = w.device.Measurements[:34]
			w.e = ask(t, w.device, w.o.Nonce)
		}, nvgpu.CheckMeasurements, "[34]"},
		{"no RIM", func(_ *testing.T, w *world) { w.c.RIMs = nil }, nvgpu.CheckRIM, "0 others"},
		{"no VBIOS RIM", func(_ *testing.T, w *world) { w.c.RIMs = w.c.RIMs[:1] }, nvgpu.CheckRIM, "vbios"},
		{"no driver RIM", func(_ *testing.T, w *world) { w.c.RIMs = w.c.RIMs[1:] }, nvgpu.CheckRIM, "driver"},
		{"a RIM twice", func(_ *testing.T, w *world) { w.c.RIMs = append(w.c.RIMs, w.c.RIMs[0]) }, nvgpu.CheckRIM, "two of"},
		{
			"a RIM that is none", func(_ *testing.T, w *world) { w.c.RIMs = append(w.c.RIMs, []byte("<a/>")) }, nvgpu.CheckRIM,
			"RIM 2",
		},
		{
			"a gigantic RIM", func(_ *testing.T, w *world) { w.c.RIMs = append(w.c.RIMs, make([]byte, nvgpu.RIMMax+1)) },
			nvgpu.CheckSize, "RIM",
		},
		{"too many RIMs", func(_ *testing.T, w *world) { w.c.RIMs = make([][]byte, 1000) }, nvgpu.CheckSize, "1000 RIMs"},
		{
			"a gigantic OCSP response", func(_ *testing.T, w *world) { w.c.OCSP[0] = make([]byte, nvgpu.OCSPMax+1) },
			nvgpu.CheckDeviceOCSP, "at most",
		},
		{"RIM of another vendor", func(t *testing.T, w *world) {
			w.c.RIMs = newWorld(t, sim.Config{Now: day(start)}, sim.DeviceConfig{}).c.RIMs
		}, nvgpu.CheckRIMChain, "root"},
		{"RIM of another product", wrongRIM("GB100", "GPU", "", 0), nvgpu.CheckRIM, "GB100 999.10.01"},
		{"RIM of a switch", wrongRIM("GH100", "SWITCH", "", 0), nvgpu.CheckRIM, "GH100 999.10.01"},
		{"RIM without active values", wrongRIM("GH100", "GPU", "", -1), nvgpu.CheckRIM, "no active value"},
		{"RIMs in conflict", wrongRIM("GH100", "GPU", "", 30), nvgpu.CheckMeasurements, "two RIMs"},
		{"RIM of a strange edition", wrongRIM("GH100", "CPU", "", 0), nvgpu.CheckRIM, "edition"},

		{"too early", clock("2026-11-25T22:59:59Z"), nvgpu.CheckChain, "not before"},
		{"before the OCSP responses", clock("2026-11-25T23:59:59Z"), nvgpu.CheckDeviceOCSP, "to come"},
		{"after the OCSP responses", clock("2026-11-27T00:00:00Z"), nvgpu.CheckDeviceOCSP, "ended"},
		{"after the responders", clock("2028-11-26T00:00:00Z"), nvgpu.CheckDeviceOCSP, "responder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
			c.change(t, w)
			claims, err := w.verify()
			wantCheck(t, err, c.check, c.words)
			if claims != nil {
				t.Error("claims in spite of the error")
			}
		})
	}
}

// wrongRIM exchanges the driver's RIM: extra is an index that it has a value for besides; -1: none at all.
func wrongRIM(product, edition, version string, extra int) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		c := w.device.RIMConfigs()[0]
		c.Product, c.Edition = product, edition
		if version != "" {
			c.Version = version
		}
		switch {
		case extra < 0:
			c.Golden = nil
		case extra > 0:
			c.Golden[extra] = [][48]byte{w.device.Measurements[extra]}
		}
		doc, err := w.pki.RIM(c)
		if err != nil {
			t.Fatal(err)
		}
		w.c.RIMs[0] = doc
	}
}

func TestExpired(t *testing.T) {
	t.Run("device chain", func(t *testing.T) {
		w := newWorld(t, sim.Config{Now: day(start), DeviceLife: time.Hour}, sim.DeviceConfig{})
		w.o.Now = day(start).Add(time.Hour)
		if got, err := w.verify(); err != nil || !got.Expires.Equal(w.o.Now) {
			t.Errorf("at its last second: %v", err)
		}
		w.o.Now = w.o.Now.Add(time.Second)
		_, err := w.verify()
		wantCheck(t, err, nvgpu.CheckChain, "FMC LF")
	})
	t.Run("RIM signer", func(t *testing.T) {
		w := newWorld(t, sim.Config{Now: day(start), SignerLife: time.Hour}, sim.DeviceConfig{})
		if got, err := w.verify(); err != nil || !got.Expires.Equal(day(start).Add(time.Hour)) {
			t.Errorf("got %+v, %v", got, err)
		}
		w.o.Now = day(start).Add(time.Hour + time.Second)
		_, err := w.verify()
		wantCheck(t, err, nvgpu.CheckRIMChain, "SIMULATED RIM L4 Signer")
	})
}

// Several values for a measurement: any will do.
func TestAlternatives(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	c := w.device.RIMConfigs()[0]
	c.Golden[3] = [][48]byte{{1}, {2}, c.Golden[3][0]}
	var err error
	if w.c.RIMs[0], err = w.pki.RIM(c); err != nil {
		t.Fatal(err)
	}
	if _, err := w.verify(); err != nil {
		t.Error(err)
	}
	w.device.Measurements[3] = [48]byte{2}
	w.e = ask(t, w.device, w.o.Nonce)
	if _, err := w.verify(); err != nil {
		t.Error(err)
	}
	w.device.Measurements[3] = [48]byte{3}
	w.e = ask(t, w.device, w.o.Nonce)
	_, err = w.verify()
	wantCheck(t, err, nvgpu.CheckMeasurements, "[3]")
}

// A measurement that no RIM names may be anything, and the claims say so; without NVDEC0, 35 too, and only that.
func TestUnjudged(t *testing.T) {
	w := newWorld(t, sim.Config{}, sim.DeviceConfig{})
	w.device.Measurements[50], w.device.Measurements[35] = [48]byte{1}, [48]byte{1}
	w.e = ask(t, w.device, w.o.Nonce)
	got, err := w.verify()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got.Measurements.Unnamed, 50) || !slices.Equal(got.Measurements.Skipped, []int{35}) {
		t.Errorf("measurements %+v", got.Measurements)
	}
	w.device.Opaque[sim.OpaqueNVDEC0] = []byte{0xaa}
	w.e = ask(t, w.device, w.o.Nonce)
	_, err = w.verify()
	wantCheck(t, err, nvgpu.CheckMeasurements, "[35]")
}

func TestForgedChains(t *testing.T) {
	a, b := newWorld(t, sim.Config{}, sim.DeviceConfig{}), newWorld(t, sim.Config{Now: day(start)}, sim.DeviceConfig{})
	other := deviceSim(t, a.pki, sim.DeviceConfig{})
	certs := a.device.Chain()
	with := func(i int, c *x509.Certificate) []byte {
		out := slices.Clone(certs)
		out[i] = c
		return pemOf(out...)
	}
	for _, c := range []struct {
		name  string
		chain []byte
		check nvgpu.Check
		words string
	}{
		{"another vendor of the same names", b.e.Chain, nvgpu.CheckChain, "root"},
		{"another vendor below our root", with(3, b.device.Chain()[3]), nvgpu.CheckChain, "Provisioner"},
		{"another vendor's leaf", with(0, b.device.Chain()[0]), nvgpu.CheckIdentity, "FWID"},
		{"another device", ask(t, other, a.o.Nonce).Chain, nvgpu.CheckSignature, ""},
		{"another device's boot ROM", with(1, other.Chain()[1]), nvgpu.CheckIdentity, "FWID"},
		{"no root", pemOf(certs[:4]...), nvgpu.CheckChain, "root"},
		{"upside down", pemOf(certs[4], certs[3], certs[2], certs[1], certs[0]), nvgpu.CheckIdentity, "boot ROM"},
		{"root twice", pemOf(append(slices.Clone(certs), certs[4])...), "", ""},
		{"a certificate left out", pemOf(certs[0], certs[1], certs[3], certs[4]), nvgpu.CheckChain, "BROM"},
		{"a certificate too much", pemOf(certs[0], certs[1], certs[2], certs[2], certs[3], certs[4]), nvgpu.CheckChain, ""},
		{"nine certificates", pemOf(slices.Repeat(certs, 2)[:9]...), nvgpu.CheckChain, "at most 8"},
		{"a RIM's chain", pemOf(append(a.pki.RIMChain(), certs[4])...), nvgpu.CheckIdentity, "boot ROM"},
		{"text in between", append([]byte("hello\n"), a.e.Chain...), nvgpu.CheckChain, "PEM"},
		{"text behind", append(slices.Clone(a.e.Chain), "hello\n"...), nvgpu.CheckChain, "PEM"},
		{"a key", bytes.ReplaceAll(a.e.Chain, []byte("CERTIFICATE"), []byte("PRIVATE KEY")), nvgpu.CheckChain, "PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := nvgpu.Verify(a.e.Report, c.chain, a.c, a.o)
			if c.check == "" { // a self-signed root once more changes nothing
				if err == nil {
					t.Error("accepted")
				}
				return
			}
			wantCheck(t, err, c.check, c.words)
		})
	}
}

func pemOf(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func TestSimulatedSet(t *testing.T) {
	pki := vendorSim(t, sim.Config{Now: day(start)})
	var gpus, switches []*sim.Device
	for range 3 {
		gpus = append(gpus, deviceSim(t, pki, sim.DeviceConfig{}))
	}
	for range 2 {
		switches = append(switches, deviceSim(t, pki, sim.DeviceConfig{Arch: nvgpu.LS10, VBIOS: "96.10.AA.00.01"}))
	}
	all := append(slices.Clone(gpus), switches...)
	c, err := pki.Collateral(day(start), all...)
	if err != nil {
		t.Fatal(err)
	}
	o := nvgpu.Options{Roots: pki.Roots(), Now: day(start), Nonce: [32]byte{9}, Cache: nvgpu.NewSignatureCache(100)}
	verify := func(devices ...*sim.Device) ([]*nvgpu.Claims, error) {
		var e []nvgpu.Evidence
		for _, d := range devices {
			e = append(e, ask(t, d, o.Nonce))
		}
		return nvgpu.VerifySet(e, c, o)
	}
	if got, err := verify(gpus...); err != nil || len(got) != 3 {
		t.Fatal(len(got), err)
	}
	_, err = verify(gpus[0], gpus[1], gpus[0])
	wantCheck(t, err, nvgpu.CheckDistinct, "device 2")
	_, err = verify(append(slices.Clone(gpus), switches...)...) // not linked
	wantCheck(t, err, nvgpu.CheckTopology, "")
	if err := sim.Link(gpus, switches); err != nil {
		t.Fatal(err)
	}
	if got, err := verify(all...); err != nil || !got[0].ProtectedPCIe || got[0].Mode != nvgpu.ModePPCIE ||
		len(got[0].SwitchPDIs) != 2 {
		t.Fatal(err)
	}
	_, err = verify(gpus...)
	wantCheck(t, err, nvgpu.CheckTopology, "0 switches")
	_, err = verify(all[1:]...)
	wantCheck(t, err, nvgpu.CheckTopology, "LS10")
	_, err = verify(all[:4]...)
	wantCheck(t, err, nvgpu.CheckTopology, "HOPPER")
	e := []nvgpu.Evidence{ask(t, gpus[0], o.Nonce), ask(t, gpus[1], [32]byte{8})}
	_, err = nvgpu.VerifySet(e, c, o)
	wantCheck(t, err, nvgpu.CheckNonce, "device 1")
	_, err = nvgpu.VerifySet(make([]nvgpu.Evidence, nvgpu.DevicesMax+1), c, o)
	wantCheck(t, err, nvgpu.CheckSize, "33")
	spoof := deviceSim(t, pki, sim.DeviceConfig{Arch: nvgpu.LS10, VBIOS: "96.10.AA.00.01"})
	spoof.Opaque[sim.OpaquePDI] = switches[0].Opaque[sim.OpaquePDI]
	_, err = verify(append(slices.Clone(gpus), spoof, switches[1])...)
	wantCheck(t, err, nvgpu.CheckIdentity, "PDI in the report")
}
