package nvgpu_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest/nvgpu"

	"github.com/google/go-cmp/cmp"
)

// today is when the project was written: devices' chains don't expire, so that any day would do.
const today = "2026-11-26T00:00:00Z"

// genuine leaves out what recorded evidence mostly comes without.
var genuine = []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIM, nvgpu.CheckTopology}

// TestVectors is every report that we have, and what becomes of it: who the device is, or which check refuses.
func TestVectors(t *testing.T) {
	one := func(report, chain string) func(testing.TB) nvgpu.Evidence {
		return func(t testing.TB) nvgpu.Evidence {
			return nvgpu.Evidence{Report: hexVector(t, "evidence/"+report), Chain: vector(t, "evidence/"+chain)}
		}
	}
	raw := func(report, chain string) func(testing.TB) nvgpu.Evidence {
		return func(t testing.TB) nvgpu.Evidence {
			return nvgpu.Evidence{Report: vector(t, "nvattest/"+report), Chain: vector(t, "nvattest/"+chain)}
		}
	}
	from := func(name string, i int) func(testing.TB) nvgpu.Evidence {
		return func(t testing.TB) nvgpu.Evidence { return set(t, name)[i] }
	}
	const h, b, s = nvgpu.Hopper, nvgpu.Blackwell, nvgpu.LS10
	for _, c := range []struct {
		name          string
		load          func(testing.TB) nvgpu.Evidence
		arch          nvgpu.Arch
		driver, vbios string
		mode          nvgpu.Mode
		fwid          bool // the report has one
		check         nvgpu.Check
		words         string
	}{
		{
			name: "nv_hopper_590_12", load: from("nv_hopper_590_12", 0), arch: h, driver: "590.12", vbios: "96.00.A5.00.01",
			mode: "PPCIE", fwid: true,
		},
		{
			name: "nv_hopper_evidence", load: from("nv_hopper_evidence", 0), arch: h, driver: "590.12", vbios: "96.00.A5.00.01",
			mode: "PPCIE", fwid: true,
		},
		{
			name: "cert_hold", load: from("nv_hopper_evidence_cert_hold", 0), arch: h, driver: "570.86.10",
			vbios: "96.00.AF.00.01", fwid: true,
		},
		{
			name: "nv_multi_gpu_hopper", load: from("nv_multi_gpu_hopper", 3), arch: h, driver: "590.12",
			vbios: "96.00.A5.00.01", mode: "PPCIE", fwid: true,
		},
		{name: "nv_multi_switch", load: from("nv_multi_switch_ls10", 0), arch: s, vbios: "96.10.55.00.01"},
		{name: "nv_switch_evidence", load: from("nv_switch_evidence_ls10", 0), arch: s, vbios: "96.10.55.00.01"},
		{
			name: "nvut_hopper", load: one("nvut_hopperAttestationReport.txt", "nvut_hopperCertChain.txt"), arch: h,
			driver: "580.159.03", vbios: "96.00.74.00.20", mode: "SPT", fwid: true,
		},
		{
			name: "nvut_switch", load: one("nvut_switchAttestationReport.txt", "nvut_switchCertChain.txt"), arch: s,
			vbios: "96.10.55.00.01",
		},
		{
			name: "nvs_blackwell", load: one("nvs_blackwellAttestationReport.txt", "nvs_blackwellCertChain.txt"), arch: b,
			driver: "575.32", vbios: "97.00.88.00.0F", fwid: true,
		},
		{
			name: "nvs_hopper", load: one("nvs_hopperAttestationReport.txt", "nvs_hopperCertChain.txt"), arch: h,
			driver: "535.86.09", vbios: "96.00.5E.00.01",
		},
		{
			name: "nvs_hopperExpired", load: one("nvs_hopperAttestationReportExpired.txt", "nvs_hopperCertChainExpired.txt"),
			arch: h, driver: "570.124.03", vbios: "96.00.5E.00.04", fwid: true,
		},
		{
			name: "nvs_hopperInvalidSig",
			load: one("nvs_hopperAttestationReportInvalidSignature.txt", "nvs_hopperCertChain.txt"), check: nvgpu.CheckFWID,
		},
		{
			name: "nvs_switch", load: one("nvs_switchAttestationReport.txt", "nvs_switchCertChain.txt"), arch: s,
			vbios: "96.10.55.00.01",
		},
		// The report is another switch's, altered: our own rule, that a switch names itself, is faster than the signature.
		{
			name: "nvs_switchInvalidSig",
			load: one("nvs_switchAttestationReportInvalidSignature.txt", "nvs_switchCertChain.txt"), check: nvgpu.CheckIdentity,
			words: "PDI",
		},
		{
			name: "gonvtrust", load: one("gonvtrust_report.txt", "gonvtrust_chain.txt"), arch: h, driver: "545.00",
			vbios: "96.00.5E.00.01",
		},
		// One zero byte follows its signature.
		{
			name: "coco1", load: one("coco_hopper_coco_report1.txt", "coco_hopper_coco_certs1.txt"), arch: h,
			driver: "580.95.05", vbios: "96.00.74.00.1A", mode: "SPT", fwid: true,
		},
		{
			name: "coco_hopper", load: one("coco_hopperAttestationReport.txt", "coco_hopper_cert_chain_case1.txt"), arch: h,
			driver: "550.90.07", vbios: "96.00.9F.00.01", fwid: true,
		},
		{
			name: "nvtrust", load: one("nvtrust_hopperReport.txt", "nvtrust_hopperChain.txt"), arch: h, driver: "550.90.07",
			vbios: "96.00.9F.00.01", fwid: true,
		},
		{
			name: "nvattest H100",
			load: raw("test_raw_gpu_attestation_report.dat", "test_gpu_attestation_certificate_chain.dat"), arch: h,
			driver: "550.90.07", vbios: "96.00.9F.00.01", fwid: true,
		},
		// The two files are of two switches of one machine.
		{
			name:  "nvattest LS10",
			load:  raw("test_raw_switch_attestation_report.dat", "test_switch_attestation_certificate_chain.dat"),
			check: nvgpu.CheckIdentity, words: "PDI in the report: got 7a66a96e440d8c05, want 8f979938e67797d6",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := c.load(t)
			o := nvgpu.Options{Roots: vendor(t), Now: day(today), Nonce: nonceOf(t, e.Report), Skip: genuine}
			if c.check == "" && c.arch != s && !c.fwid {
				_, err := nvgpu.Verify(e.Report, e.Chain, nvgpu.Collateral{}, o)
				wantCheck(t, err, nvgpu.CheckFWID, c.words)
			}
			o.Skip = append(slices.Clone(genuine), nvgpu.CheckFWID)
			got, err := nvgpu.Verify(e.Report, e.Chain, nvgpu.Collateral{}, o)
			if c.check != "" {
				wantCheck(t, err, c.check, c.words)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Arch != c.arch || got.Driver != c.driver || got.VBIOS != c.vbios || got.Mode != c.mode {
				t.Errorf("got %s, driver %q, VBIOS %q, mode %q", got.Arch, got.Driver, got.VBIOS, got.Mode)
			}
			if got.SecureBoot || got.DebugOff || len(got.RIMs) > 0 {
				t.Error("claims about measurements that nobody judged")
			}
			if !strings.HasPrefix(got.Chain[4].SHA256, "102bf659") || got.Chain[4].Subject != "NVIDIA Device Identity CA" {
				t.Errorf("root %+v", got.Chain[4])
			}
			if want := got.Chain[0].NotAfter; !got.Expires.Equal(want) || want.Year() != 9999 {
				t.Errorf("expires %s, want %s", got.Expires, want)
			}
		})
	}
}

// The one H100 whose evidence we have in full: chain, OCSP responses, driver and VBIOS RIM. Its OCSP responses are of
// two days, two months apart, so that it takes two runs.
func TestWholeH100(t *testing.T) {
	e := nvgpu.Evidence{
		Report: vector(t, "nvattest/test_raw_gpu_attestation_report.dat"),
		Chain:  vector(t, "nvattest/test_gpu_attestation_certificate_chain.dat"),
	}
	c := nvgpu.Collateral{RIMs: [][]byte{
		vector(
			t,
			"nvattest/NV_GPU_DRIVER_GH100_550.90.07.xml",
		), vector(t, "nvattest/NV_GPU_VBIOS_1010_0200_882_96009F0001.xml"),
	}}
	for _, f := range []string{
		"gpu_certificate_l2", "gpu_certificate_l3", "gpu_certificate_l4", "gpu_driver_rim_l3", "gpu_driver_rim_l4",
		"gpu_rim_l2",
		"gpu_vbios_l4",
	} {
		c.OCSP = append(c.OCSP, base64Vector(t, "nvattest/test_"+f+"_base64encoded_ocsp_response.dat"))
	}
	base := nvgpu.Options{Roots: vendor(t), Nonce: nonceOf(t, e.Report)}
	verify := func(at string, skip ...nvgpu.Check) (*nvgpu.Claims, error) {
		o := base
		o.Now, o.Skip = day(at), skip
		return nvgpu.Verify(e.Report, e.Chain, c, o)
	}
	got, err := verify("2025-08-21T12:00:00Z", nvgpu.CheckRIMOCSP)
	if err != nil {
		t.Fatal(err)
	}
	if want := day("2025-08-22T06:47:07Z"); !got.Expires.Equal(want) { // the OCSP responses'
		t.Errorf("expires %s, want %s", got.Expires, want)
	}
	if !got.SecureBoot || !got.DebugOff || got.UEID != "478176379286082186618948445787393647364802107249" ||
		got.Serial != "48B02D92494BADF4" || fmt.Sprintf("%x", got.PDI) != "431d480fe5e87274" || got.BoardID != 0x3b1 {
		t.Errorf("claims %+v", got) // the UEID is the one that NVIDIA's own service printed for this device
	}
	want := nvgpu.Matches{
		Driver: got.Measurements.Driver, VBIOS: got.Measurements.VBIOS, Skipped: []int{35}, Unnamed: got.Measurements.Unnamed,
	}
	if d := cmp.Diff(want, got.Measurements); d != "" {
		t.Error(d)
	}
	if n, m := len(want.Driver), len(want.VBIOS); n+m+1+len(want.Unnamed) != 64 || n < 10 || m < 10 {
		t.Errorf("%d measurements of the driver, %d of the VBIOS, %d unnamed", n, m, len(want.Unnamed))
	}
	if got, err = verify("2025-10-24T12:00:00Z", nvgpu.CheckDeviceOCSP); err != nil {
		t.Fatal(err)
	}
	if want := day("2025-10-25T11:32:21Z"); !got.Expires.Equal(want) || len(got.RIMs) != 2 ||
		!slices.Equal(got.Skipped, []nvgpu.Check{nvgpu.CheckDeviceOCSP}) {
		t.Errorf("expires %s, want %s; skipped %v", got.Expires, want, got.Skipped)
	}

	_, err = verify("2025-08-21T12:00:00Z")
	wantCheck(t, err, nvgpu.CheckRIMOCSP, "to come")
	_, err = verify("2025-10-24T12:00:00Z")
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "GH100 A01 GSP BROM")
	_, err = verify("2025-08-22T06:47:06Z", nvgpu.CheckRIMOCSP)
	if err != nil {
		t.Errorf("a second before the responses end: %v", err)
	}
	_, err = verify("2025-08-22T06:47:07Z", nvgpu.CheckRIMOCSP)
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "ended")
	_, err = verify("2026-02-22T23:17:59Z", nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMOCSP)
	wantCheck(t, err, nvgpu.CheckRIMChain, "not after 2026-02-22T23:17:58Z") // the VBIOS RIM's signer
	refs, err := nvgpu.RIMRefs(e.Report, e.Chain)
	if d := cmp.Diff([]nvgpu.RIMRef{
		{ID: "NV_GPU_DRIVER_GH100_550.90.07", Product: "GH100", Version: "550.90.07", Edition: "GPU"},
		{ID: "NV_GPU_VBIOS_1010_0200_882_96009F0001", Product: "GH100", Version: "96.00.9F.00.01", Edition: "GPU"},
	}, refs); d != "" || err != nil {
		t.Error(d, err)
	}
}

// The switch is the device whose RIM is valid today.
func TestSwitchRIM(t *testing.T) {
	e := set(t, "nv_switch_evidence_ls10")[0]
	o := nvgpu.Options{
		Roots: vendor(t), Now: day(today), Nonce: nonceOf(t, e.Report),
		Skip: []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMOCSP},
	}
	doc := func(suffix string) nvgpu.Collateral {
		return nvgpu.Collateral{RIMs: [][]byte{vector(t, "rim/NV_SWITCH_BIOS_5612_0002_890_9610550001"+suffix+".xml")}}
	}
	got, err := nvgpu.Verify(e.Report, e.Chain, doc(""), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Measurements.VBIOS) != 31 || len(got.Measurements.Unnamed) != 0 || !got.SecureBoot {
		t.Errorf("measurements %+v", got.Measurements)
	}
	if want := "2027-11-02"; got.Expires.Format(time.DateOnly) != want {
		t.Errorf("expires %s, want %s", got.Expires, want)
	}
	if refs, err := nvgpu.RIMRefs(e.Report, e.Chain); err != nil || !slices.Equal(refs, []nvgpu.RIMRef{{
		ID: "NV_SWITCH_BIOS_5612_0002_890_9610550001", Product: "LS10", Version: "96.10.55.00.01", Edition: "SWITCH",
	}}) {
		t.Errorf("RIMs %v, %v", refs, err)
	}
	_, err = nvgpu.Verify(e.Report, e.Chain, doc("_invalid_signature"), o)
	wantCheck(t, err, nvgpu.CheckRIMSignature, "digest")
	_, err = nvgpu.Verify(e.Report, e.Chain, doc("_measurement_mismatch"), o) // it is a GPU's
	wantCheck(t, err, nvgpu.CheckRIM, "GH100 96.10.55.00.01")
	_, err = nvgpu.Verify(e.Report, e.Chain, nvgpu.Collateral{}, o)
	wantCheck(t, err, nvgpu.CheckRIM, "LS10 96.10.55.00.01")
	twice := nvgpu.Collateral{RIMs: [][]byte{doc("").RIMs[0], doc("").RIMs[0]}}
	_, err = nvgpu.Verify(e.Report, e.Chain, twice, o)
	wantCheck(t, err, nvgpu.CheckRIM, "two of")
	o.Skip = nil
	_, err = nvgpu.Verify(e.Report, e.Chain, doc(""), o)
	wantCheck(t, err, nvgpu.CheckDeviceOCSP, "no response")
}

// Whole machines.
func TestNodes(t *testing.T) {
	verify := func(t *testing.T, e []nvgpu.Evidence, skip ...nvgpu.Check) ([]*nvgpu.Claims, error) {
		skip = append([]nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIM}, skip...)
		return nvgpu.VerifySet(e, nvgpu.Collateral{}, nvgpu.Options{
			Roots: vendor(t), Now: day(today), Nonce: nonceOf(t, e[0].Report), Skip: skip,
		})
	}
	t.Run("8 B200 of a multi-GPU passthrough", func(t *testing.T) {
		got, err := verify(t, node(t, "test_mpt_data.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got {
			if c.Arch != nvgpu.Blackwell || c.Chip != "GB100" || c.Mode != nvgpu.ModeMPT || !c.DICEFlags || c.ProtectedPCIe {
				t.Errorf("claims %+v", c)
			}
		}
	})
	t.Run("8 H100 and 4 switches with protected PCIe", func(t *testing.T) {
		e := node(t, "test_ppcie_data.json")
		// The GPUs and the switches of that machine answered two nonces.
		_, err := verify(t, e)
		var all []*nvgpu.Claims
		if nonceOf(t, e[0].Report) == nonceOf(t, e[8].Report) {
			if err != nil {
				t.Fatal(err)
			}
		} else {
			wantCheck(t, err, nvgpu.CheckNonce, "")
		}
		for _, part := range [][]nvgpu.Evidence{e[:8], e[8:]} {
			_, err := verify(t, part)
			wantCheck(t, err, nvgpu.CheckTopology, "")
			claims, err := verify(t, part, nvgpu.CheckTopology)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, claims...)
		}
		if err := nvgpu.Topology(all); err != nil {
			t.Fatal(err)
		}
		wantCheck(t, nvgpu.Topology(all[1:]), nvgpu.CheckTopology, "LS10") // a GPU less
		wantCheck(t, nvgpu.Topology(all[:11]), nvgpu.CheckTopology, "HOPPER")
	})
	t.Run("4 GPUs without their switches", func(t *testing.T) {
		e := set(t, "nv_multi_gpu_hopper")
		_, err := verify(t, e)
		wantCheck(t, err, nvgpu.CheckTopology, "4 GPUs, 0 switches")
		if got, err := verify(t, e, nvgpu.CheckTopology); err != nil || len(got) != 4 ||
			!slices.Contains(got[0].Skipped, nvgpu.CheckTopology) {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("one switch four times", func(t *testing.T) {
		_, err := verify(t, set(t, "nv_multi_switch_ls10"), nvgpu.CheckTopology)
		wantCheck(t, err, nvgpu.CheckDistinct, "device 0 again")
	})
	t.Run("chains swapped", func(t *testing.T) {
		e := set(t, "nv_multi_gpu_hopper")
		e[0].Chain, e[1].Chain = e[1].Chain, e[0].Chain
		_, err := verify(t, e, nvgpu.CheckTopology)
		wantCheck(t, err, nvgpu.CheckSignature, "device 0")
	})
	t.Run("no device", func(t *testing.T) {
		_, err := nvgpu.VerifySet(
			nil,
			nvgpu.Collateral{},
			nvgpu.Options{Roots: vendor(t), Now: day(today), Nonce: [32]byte{1}},
		)
		wantCheck(t, err, nvgpu.CheckSize, "0")
	})
}

// TestRIMs is every RIM that we have, at a time when its signer was valid, with a report that it isn't about: found
// out by a report that is made up, so that the RIM's own verdict shows.
func TestRIMs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectors(t), "rim", "*"))
	if err != nil || len(files) < 30 {
		t.Fatal(len(files), err)
	}
	refused := map[string]nvgpu.Check{
		"NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml":           nvgpu.CheckRIMSignature,
		"NV_GPU_DRIVER_GH100_570.124.03_expired.xml":                       nvgpu.CheckRIMSignature,
		"NV_SWITCH_BIOS_5612_0002_890_9610550001_invalid_signature.xml":    nvgpu.CheckRIMSignature,
		"NV_SWITCH_BIOS_5612_0002_890_9610550001_measurement_mismatch.xml": nvgpu.CheckRIMSignature,
		"incorrect_signature_driver_rim.xml":                               nvgpu.CheckRIMSignature,
		"incorrect_cert_chain_driver_rim.xml":                              nvgpu.CheckRIMChain,
	}
	current := map[string]bool{
		"NV_GPU_DRIVER_GH100_550.144.03.xml": true, "NV_SWITCH_BIOS_5612_0002_890_9610550001.xml": true,
	}
	roots := vendor(t).RIM
	for _, f := range files {
		name := filepath.Base(f)
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			rim, err := nvgpu.ParseRIM(doc)
			if err != nil {
				t.Fatal(err)
			}
			_, end := nvgpu.SignerValidity(rim)
			switch check := refused[name]; {
			case check != "":
				wantCheck(t, nvgpu.VerifyRIM(rim, roots, end), check, "")
			case current[name]:
				if err := nvgpu.VerifyRIM(rim, roots, day(today)); err != nil {
					t.Error(err)
				}
			default:
				if err := nvgpu.VerifyRIM(rim, roots, end); err != nil {
					t.Errorf("at its last second: %v", err)
				}
				wantCheck(t, nvgpu.VerifyRIM(rim, roots, end.Add(time.Second)), nvgpu.CheckRIMChain, "not after")
				wantCheck(t, nvgpu.VerifyRIM(rim, roots, day(today)), nvgpu.CheckRIMChain, "not after")
			}
			start, _ := nvgpu.SignerValidity(rim)
			if refused[name] == "" {
				wantCheck(t, nvgpu.VerifyRIM(rim, roots, start.Add(-time.Second)), nvgpu.CheckRIMChain, "not before")
			}
		})
	}
}

// Reports and RIMs of one version that don't match: the RIMs were superseded.
func TestMeasurementsDiffer(t *testing.T) {
	for _, c := range []struct{ name, report, chain, rim, words string }{
		{"coco1", "coco_hopper_coco_report1.txt", "coco_hopper_coco_certs1.txt", "1010_0200_882_960074001A_PROD.swidtag", ""},
	} {
		e := nvgpu.Evidence{Report: hexVector(t, "evidence/"+c.report), Chain: vector(t, "evidence/"+c.chain)}
		_, err := nvgpu.Verify(e.Report, e.Chain, nvgpu.Collateral{RIMs: [][]byte{vector(t, "rim/"+c.rim)}}, nvgpu.Options{
			Roots: vendor(t), Now: day("2025-06-01T00:00:00Z"), Nonce: nonceOf(t, e.Report),
			Skip: []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMOCSP},
		})
		wantCheck(
			t,
			err,
			nvgpu.CheckRIM,
			"GH100 580.95.05",
		) // there is no driver RIM of it: not even the VBIOS's is looked at
	}
	e := nvgpu.Evidence{
		Report: hexVector(t, "evidence/gonvtrust_report.txt"),
		Chain:  vector(t, "evidence/gonvtrust_chain.txt"),
	}
	rims := [][]byte{
		vector(t, "rim/Driver_RIM_test_no_gpu.swidtag"),
		vector(t, "rim/1010_0200_882_96005E0001_PROD.swidtag"),
	}
	if bytes.Equal(rims[0], rims[1]) {
		t.Fatal("the vectors are not what they were")
	}
	_, err := nvgpu.Verify(e.Report, e.Chain, nvgpu.Collateral{RIMs: rims}, nvgpu.Options{
		Roots: vendor(t), Now: day("2024-06-01T00:00:00Z"), Nonce: nonceOf(t, e.Report),
		Skip: []nvgpu.Check{nvgpu.CheckDeviceOCSP, nvgpu.CheckRIMOCSP, nvgpu.CheckFWID},
	})
	wantCheck(t, err, nvgpu.CheckMeasurements, "[1 2 3 9] of 33")
}
