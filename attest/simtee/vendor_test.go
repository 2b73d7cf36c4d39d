package simtee_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/simtee"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

const vendorFile = "SIMULATED-vendors.json"

// vendor is one for all tests that need only some.
var vendor = sync.OnceValues(func() (*simtee.Vendor, error) { return simtee.New(now) })

// stranger is another one.
var stranger = sync.OnceValues(func() (*simtee.Vendor, error) { return simtee.New(now) })

func otherVendor(t testing.TB) *simtee.Vendor {
	t.Helper()
	v, err := stranger()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func theVendor(t testing.TB) *simtee.Vendor {
	t.Helper()
	v, err := vendor()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// rootsOf is all that a verifier pins.
func rootsOf(v *simtee.Vendor) string {
	return fmt.Sprintf("%x %x %x %x", v.SNPRoots(), v.TDXRoot().Raw, v.GPURoots().Device[0].Raw, v.GPURoots().RIM[0].Raw)
}

// The second process has the first one's vendor, and so has the third, a year later.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	first, err := simtee.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, later := range []time.Duration{0, time.Hour, 365 * 24 * time.Hour} {
		v, err := simtee.Open(dir, now.Add(later))
		if err != nil {
			t.Fatal(err)
		}
		if rootsOf(v) != rootsOf(first) {
			t.Errorf("after %v: other roots", later)
		}
		if got, want := v.PolicyYAML(now), first.PolicyYAML(now.Add(time.Hour)); !bytes.Equal(got, want) {
			t.Errorf("after %v: another policy:\n%s\nwant\n%s", later, got, want)
		}
		admitted(t, first, v, now.Add(later))
	}
	other := otherVendor(t)
	if rootsOf(other) == rootsOf(first) {
		t.Error("two vendors have the same vendor")
	}
	if bytes.Equal(other.PolicyYAML(now), first.PolicyYAML(now)) {
		t.Error("two vendors have the same policy")
	}
}

// admitted checks that machines of v verify to the roots of another process's vendor.
func admitted(t *testing.T, roots, v *simtee.Vendor, at time.Time) {
	t.Helper()
	for _, c := range []simtee.Config{{}, {TEE: "tdx"}} {
		c.Now = func() time.Time { return at }
		if err := verify(t, collect(t, v, c), pinned(roots), at); err != nil {
			t.Errorf("a %q machine at %v: %v", c.TEE, at, err)
		}
	}
}

// What only the owner may read, only the owner can; and whoever finds a file learns that it is a simulation's.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "simulated")
	if _, err := simtee.Open(dir, now); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o700 {
		t.Errorf("the folder has mode %o, want 700", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o, want 600", e.Name(), got)
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text[:min(100, len(text))], []byte("SIMULATED")) {
			t.Errorf("%s does not begin with saying that it is simulated", e.Name())
		}
	}
	if want := []string{"README", vendorFile}; !slices.Equal(names, want) {
		t.Errorf("files are %v, want %v", names, want)
	}
	savedSaysSimulated(t, filepath.Join(dir, vendorFile))
}

// savedSaysSimulated checks that every certificate that is saved says SIMULATED, and that no key is of a type that
// anybody else takes for one.
func savedSaysSimulated(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		AMD           map[string]string
		Intel, NVIDIA string
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, text := range []string{saved.AMD["Genoa"], saved.AMD["Turin"], saved.Intel, saved.NVIDIA} {
		for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
			n++
			if block.Type != "CERTIFICATE" {
				if block.Type != "SIMULATED PRIVATE KEY" {
					t.Errorf("a block says %q", block.Type)
				}
				continue
			}
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(c.Subject.String(), "SIMULATED") {
				t.Errorf("%s does not say that it is simulated", c.Subject)
			}
		}
	}
	if want := 2 * (3 + 3 + 4 + 6); n != want {
		t.Errorf("got %d blocks, want %d", n, want)
	}
}

const folderVariable = "SIMTEE_TEST_FOLDER"

// TestOpenElsewhere is what TestOpenAtOnce runs in other processes.
func TestOpenElsewhere(t *testing.T) {
	dir := os.Getenv(folderVariable)
	if dir == "" {
		t.Skip("of use to TestOpenAtOnce only")
	}
	v, err := simtee.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("roots %s\n", rootsOf(v))
}

// Processes that make the vendor at the same time all end up with the same one.
func TestOpenAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "simulated")
	got := make([]string, 3)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenElsewhere$")
			c.Env = append(os.Environ(), folderVariable+"="+dir)
			out, err := c.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			for line := range strings.Lines(string(out)) {
				if roots, ok := strings.CutPrefix(line, "roots "); ok {
					got[i] = roots
				}
			}
		})
	}
	wg.Wait()
	v, err := simtee.Open(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if strings.TrimSpace(got[i]) != rootsOf(v) {
			t.Errorf("process %d has other roots than the folder", i)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	// A process that died in between leaves nothing that the next one stumbles over.
	for _, name := range []string{vendorFile + ".tmp123", "README"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := simtee.Open(dir, now); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, vendorFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("no %q in the file", old)
		}
		return bytes.ReplaceAll(good, []byte(old), []byte(with))
	}
	for name, c := range map[string]struct {
		text []byte
		at   time.Time
		want string
	}{
		"empty":          {nil, now, "unexpected end"},
		"cut":            {good[:len(good)/2], now, "unexpected end"},
		"version":        {replace(`"v": 1`, `"v": 2`), now, "version 2, want 1"},
		"lines":          {replace(`"Genoa":`, `"Milan":`), now, "product lines are [Milan Turin]"},
		"lines swapped":  {bytes.Replace(replace(`"Genoa":`, `"Turin2":`), []byte(`"Turin":`), []byte(`"Genoa":`), 1), now, "lines"},
		"no certificate": {replace("BEGIN CERTIFICATE", "BEGIN CERTIFICATES"), now, "want 3 certificates"},
		"key":            {replace("SIMULATED PRIVATE", "PRIVATE"), now, "want 3 certificates"},
		"no Intel":       {replace(`"intel"`, `"other"`), now, "want 4 certificates"},
		"no NVIDIA":      {replace(`"nvidia"`, `"other"`), now, "want 6 certificates"},
		"old":            {good, now.AddDate(6, 0, 1), "made on 2026-11-26, which is not good on 2032-11-27"},
		"not yet":        {good, now.Add(-61 * time.Minute), "made on 2026-11-26"},
		"no time":        {good, time.Time{}, "no time"},
	} {
		if err := os.WriteFile(path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := simtee.Open(dir, c.at); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "MII") {
			t.Errorf("%s: the error has text of the file: %v", name, err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := simtee.Open(dir, now); err != nil {
		t.Errorf("the whole file: %v", err)
	}
	if _, err := simtee.Open(path, now); err == nil {
		t.Error("a file is taken for the folder")
	}
	if _, err := simtee.New(time.Time{}); err == nil {
		t.Error("a vendor without a time")
	}
}

// None of the roots is a vendor's.
func TestRootsAreSimulated(t *testing.T) {
	v := theVendor(t)
	for _, r := range v.SNPRoots() {
		if slices.Contains(snp.AMDRoots(), r) {
			t.Errorf("%s: AMD's root", r.Line)
		}
	}
	vendors, err := nvgpu.VendorRoots()
	if err != nil {
		t.Fatal(err)
	}
	intel, err := tdx.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range slices.Concat([]*x509.Certificate{v.TDXRoot()}, v.GPURoots().Device, v.GPURoots().RIM) {
		if !strings.Contains(r.Subject.String(), "SIMULATED") {
			t.Errorf("root %s does not say that it is simulated", r.Subject)
		}
		for _, real := range slices.Concat([]*x509.Certificate{intel}, vendors.Device, vendors.RIM) {
			if r.Equal(real) {
				t.Errorf("%s is a vendor's root", r.Subject)
			}
		}
	}
}
