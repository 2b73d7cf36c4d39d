package collateral_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// vector reads recorded evidence of real hardware, which is not part of this repository.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "attest")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence isn't here (COCOON_VECTORS may name its folder): %v", err)
	}
	return must[[]byte](t)(os.ReadFile(filepath.Join(dir, name)))
}

// playing answers paths, as RequestURI, with bodies.
func playing(t *testing.T, answers map[string]func(h http.Header) []byte) collateral.Config {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.RequestURI()]
		if !ok {
			http.NotFound(rw, r)
			return
		}
		_, _ = rw.Write(body(rw.Header()))
	}))
	t.Cleanup(server.Close)
	u := server.URL
	return collateral.Config{KDS: u, PCS: u, IntelCRL: u, RIM: u, OCSP: u}
}

func constant(b []byte) func(http.Header) []byte { return func(http.Header) []byte { return b } }

// Real reports find their real VCEK, under AMD's own roots; the lists that we have have ended.
func TestRealVCEKs(t *testing.T) {
	now := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	for name, query := range map[string]string{
		"ms_genoa":      "blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84",
		"ms_turin":      "fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=81",
		"oak_genoa_oc":  "blSPL=10&teeSPL=00&snpSPL=25&ucodeSPL=84",
		"oak_turin_oc":  "fmcSPL=00&blSPL=01&teeSPL=00&snpSPL=02&ucodeSPL=71",
		"dstack_milan":  "blSPL=04&teeSPL=00&snpSPL=23&ucodeSPL=213",
		"coco_az_genoa": "blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84",
	} {
		t.Run(name, func(t *testing.T) {
			report := vector(t, "sev/vectors/"+name+".report")
			vcek := vector(t, "sev/vectors/"+name+".vcek.der")
			r := must[*snp.Report](t)(snp.ParseReport(report))
			chip := r.ChipID[:]
			if r.Line == snp.Turin {
				chip = chip[:8]
			}
			c := playing(t, map[string]func(http.Header) []byte{
				fmt.Sprintf("/vcek/v1/%s/%x?%s", r.Line, chip, query): constant(vcek),
				"/vcek/v1/Genoa/crl": constant(vector(t, "sev/vectors/openpcc_test_amd_genoa_crl.crl")),
			})
			c.Dir = t.TempDir()
			e := &attest.Evidence{TEE: attest.SNP, CPU: report, Devices: []byte("[]")}
			got, err := newStore(t, c).Complete(t.Context(), e, now)
			want := "HTTP status 404"
			if r.Line == snp.Genoa {
				want = "revocation list: got one of"
			}
			wantError(t, err, "no revocation list for VCEKs of "+string(r.Line), want)
			_, err = snp.Verify(report, got.SNPKeys[0], snp.Endorsements{r.Line: got.SNP[r.Line][0]},
				snp.Options{Roots: snp.AMDRoots(), Now: now})
			if err != nil {
				t.Error(err)
			}
			again, _ := newStore(t, c).Complete(t.Context(), e, now)
			if len(again.SNPKeys) != 1 {
				t.Error("it isn't in the cache")
			}
		})
	}
	t.Run("list", func(t *testing.T) {
		then := time.Date(2025, 9, 1, 0, 0, 0, 0, time.UTC) // within the list's year
		report := vector(t, "sev/vectors/coco_az_genoa.report")
		c := playing(t, map[string]func(http.Header) []byte{
			"/vcek/v1/Genoa/crl": constant(vector(t, "sev/vectors/openpcc_test_amd_genoa_crl.crl")),
		})
		e := &attest.Evidence{TEE: attest.SNP, CPU: report, Devices: []byte("[]"), Endorsements: []attest.Item{
			{Kind: attest.SNPKey, Data: vector(t, "sev/vectors/coco_az_genoa.vcek.der")},
		}}
		got, err := newStore(t, c).Complete(t.Context(), e, then)
		if err != nil {
			t.Fatal(err)
		}
		_, err = snp.Verify(report, got.SNPKeys[0], snp.Endorsements{snp.Genoa: got.SNP[snp.Genoa][0]},
			snp.Options{Roots: snp.AMDRoots(), Now: then, RequireCRL: true})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRealTDX(t *testing.T) {
	for name, at := range map[string]string{"qvl_v4": "2025-07-07", "qvl_near": "2025-09-15"} {
		t.Run(name, func(t *testing.T) {
			now := must[time.Time](t)(time.Parse(time.DateOnly, at))
			quote := vector(t, "tdx/vectors/"+name+".quote")
			c := new(tdx.Collateral)
			if err := json.Unmarshal(vector(t, "tdx/collateral/"+name+".json"), c); err != nil {
				t.Fatal(err)
			}
			p := must[*tdx.Platform](t)(must[*tdx.Quote](t)(tdx.Parse(quote)).Platform())
			part := func(kind string) func(http.Header) []byte {
				return func(h http.Header) []byte { return servePCS(h, c, kind) }
			}
			s := newStore(t, playing(t, map[string]func(http.Header) []byte{
				fmt.Sprintf("/tdx/certification/v4/tcb?fmspc=%x", p.FMSPC):     part("tcb"),
				"/tdx/certification/v4/qe/identity":                            part("qe"),
				"/sgx/certification/v4/pckcrl?encoding=der&ca=" + string(p.CA): part("pckcrl"),
				"/IntelSGXRootCA.der":                                          part("rootcrl"),
			}))
			e := &attest.Evidence{TEE: attest.TDX, CPU: quote, Devices: []byte("[]")}
			got, err := s.Complete(t.Context(), e, now)
			if err != nil {
				t.Fatal(err)
			}
			roots := []*x509.Certificate{must[*x509.Certificate](t)(tdx.IntelRoot())}
			_, err = tdx.Verify(quote, got.TDX[0], tdx.Options{Roots: roots, Now: now, MinTCBEvaluation: 1})
			if err != nil {
				t.Error(err)
			}
			_, err = s.Complete(t.Context(), e, now.AddDate(0, 2, 0))
			wantError(t, err, "no TDX collateral", "refused")
		})
	}
}

// A real H100 with its real RIMs and, where they are of that day, OCSP responses. Its nonce isn't ours, so that nobody
// is asked for it: all has to come along.
func TestRealGPU(t *testing.T) {
	now := time.Date(2025, 8, 21, 12, 0, 0, 0, time.UTC)
	const dir = "gpu/nvattest/"
	device := attest.Device{
		Report: vector(t, dir+"test_raw_gpu_attestation_report.dat"),
		Chain:  vector(t, dir+"test_gpu_attestation_certificate_chain.dat"),
	}
	e := &attest.Evidence{
		TEE: attest.SNP, Devices: must[[]byte](t)(json.Marshal([]attest.Device{device})), Endorsements: []attest.Item{
			{Kind: attest.GPURIM, Data: vector(t, dir+"NV_GPU_DRIVER_GH100_550.90.07.xml")},
			{Kind: attest.GPURIM, Data: vector(t, dir+"NV_GPU_VBIOS_1010_0200_882_96009F0001.xml")},
		},
	}
	for _, name := range []string{"gpu_certificate_l2", "gpu_certificate_l3", "gpu_certificate_l4"} {
		text := vector(t, dir+"test_"+name+"_base64encoded_ocsp_response.dat")
		der := must[[]byte](t)(base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))))
		e.Endorsements = append(e.Endorsements, attest.Item{Kind: attest.GPUOCSP, Data: der})
	}
	s := newStore(t, playing(t, nil))
	got, err := s.Complete(t.Context(), e, now)
	wantError(t, err, "nobody is asked for evidence that isn't genuine", "nonce", "no OCSP response about")
	if len(got.GPU.RIMs) != 2 || len(got.GPU.OCSP) != 3 {
		t.Errorf("%d RIMs, %d responses", len(got.GPU.RIMs), len(got.GPU.OCSP))
	}
	report := must[*nvgpu.Report](t)(nvgpu.ParseReport(device.Report))
	_, err = nvgpu.Verify(device.Report, device.Chain, got.GPU, nvgpu.Options{
		Roots: must[nvgpu.Roots](t)(nvgpu.VendorRoots()), Now: now, Nonce: report.Nonce,
		Skip: []nvgpu.Check{nvgpu.CheckRIMOCSP},
	})
	if err != nil {
		t.Error(err)
	}
}
