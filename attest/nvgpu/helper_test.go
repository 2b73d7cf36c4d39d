package nvgpu_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
)

// vectorsDir is where recorded evidence of real devices lies; it's not part of this repository.
func vectorsDir() string {
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "attest")
	}
	return filepath.Join(dir, "gpu")
}

func vectors(t testing.TB) string {
	t.Helper()
	dir := vectorsDir()
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence isn't here (COCOON_VECTORS may name its folder): %v", err)
	}
	return dir
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func hexVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.TrimSpace(string(vector(t, name))))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func base64Vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(vector(t, name))))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// set reads NVIDIA's serialized evidence.
func set(t testing.TB, name string) []nvgpu.Evidence {
	t.Helper()
	var list []struct{ Certificate, Evidence []byte }
	if err := json.Unmarshal(vector(t, "evidence/"+name+".json"), &list); err != nil {
		t.Fatal(err)
	}
	var out []nvgpu.Evidence
	for _, e := range list {
		out = append(out, nvgpu.Evidence{Report: e.Evidence, Chain: e.Certificate})
	}
	return out
}

// node reads the evidence of a whole machine, as Python pickled it: GPUs, then switches.
func node(t testing.TB, name string) []nvgpu.Evidence {
	t.Helper()
	type pickled struct {
		B64 []byte `json:"py/b64"`
	}
	type certs []struct{ Pem []byte }
	var data struct {
		GPUs []struct {
			AttestationReport pickled
			CertificateChains struct{ GpuAttestationCertificateChain certs }
		}
		Switches []struct {
			Chain  certs   `json:"attestation_cert_chain"`
			Report pickled `json:"attestation_report"`
		} `json:"nvswitches"`
	}
	if err := json.Unmarshal(vector(t, "nvattest/"+name), &data); err != nil {
		t.Fatal(err)
	}
	join := func(c certs) (text []byte) {
		for _, one := range c {
			text = append(text, one.Pem...)
		}
		return text
	}
	var out []nvgpu.Evidence
	for _, g := range data.GPUs {
		out = append(out, nvgpu.Evidence{
			Report: g.AttestationReport.B64, Chain: join(g.CertificateChains.GpuAttestationCertificateChain),
		})
	}
	for _, s := range data.Switches {
		out = append(out, nvgpu.Evidence{Report: s.Report.B64, Chain: join(s.Chain)})
	}
	return out
}

func vendor(t testing.TB) nvgpu.Roots {
	t.Helper()
	roots, err := nvgpu.VendorRoots()
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// nonceOf is the nonce that a report answers: recorded evidence was made for somebody else.
func nonceOf(t testing.TB, report []byte) [32]byte {
	t.Helper()
	if len(report) < 36 {
		t.Fatal("no report")
	}
	return [32]byte(report[4:36])
}

func day(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}

// wantCheck wants err to be the refusal of one check, and to hold some words.
func wantCheck(t testing.TB, err error, check nvgpu.Check, words string) {
	t.Helper()
	var ce *nvgpu.CheckError
	if !errors.As(err, &ce) {
		t.Fatalf("got error %v, want one of check %s", err, check)
	}
	if ce.Check != check || !strings.Contains(err.Error(), words) {
		t.Fatalf("got %v, want check %s and %q", err, check, words)
	}
}
