package snp_test

import (
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"testing"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

// seeds adds the recorded files of these endings, where they are.
func seeds(f *testing.F, endings ...string) {
	f.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "attest")
	}
	for _, ending := range endings {
		files, err := filepath.Glob(filepath.Join(dir, "sev", "vectors", "*"+ending))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
}

// isRefusal demands that an error is one that names its check.
func isRefusal(t *testing.T, err error) {
	t.Helper()
	var e *snp.Error
	if err != nil && (!errors.As(err, &e) || e.Check == "" || e.Error() == "") {
		t.Fatalf("got error %v, want a refusal", err)
	}
}

func FuzzParseReport(f *testing.F) {
	w := newWorld(f, snp.Turin)
	f.Add(w.report(f, simsnp.ReportConfig{}))
	f.Add([]byte{})
	seeds(f, ".report")
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := snp.ParseReport(b)
		isRefusal(t, err)
		if err != nil {
			return
		}
		if r.Version < 2 || r.Version > 5 || r.VMPL > 3 || len(b) != snp.ReportSize || (r.Version > 2 && r.Line == "") {
			t.Fatalf("taken: %+v", r)
		}
		for _, line := range snp.Lines() {
			_, err := r.CurrentTCB.Decode(line)
			isRefusal(t, err)
		}
	})
}

func FuzzEndorsementKey(f *testing.F) {
	w := newWorld(f, snp.Milan)
	f.Add(w.key(f, simsnp.KeyConfig{}))
	f.Add(w.key(f, simsnp.KeyConfig{Kind: snp.VLEK}))
	seeds(f, ".der")
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := snp.ParseEndorsementKey(b)
		isRefusal(t, err)
		if err != nil {
			return
		}
		if k.Line == "" || (k.Kind == snp.VCEK) != (k.HWID != nil) || (k.Kind == snp.VLEK) != (k.CSPID != "") {
			t.Fatalf("taken: %+v", k)
		}
	})
}

// The first byte of b is the kind of key; then come extensions: two numbers of an identifier, a length, the value.
func FuzzExtensions(f *testing.F) {
	f.Add([]byte{0, 1, 0, 3, 2, 1, 0, 2, 0, 7, 0x16, 5, 'M', 'i', 'l', 'a', 'n', 3, 1, 3, 2, 1, 4})
	f.Add([]byte{1, 5, 0, 3, 0x16, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		kind := snp.Signer(b[0] & 1)
		var all []pkix.Extension
		for b = b[1:]; len(b) >= 3; {
			id := simsnp.ExtensionID(int(b[0]))
			if b[1] != 0 {
				id = simsnp.ExtensionID(int(b[0]), int(b[1]))
			}
			n := min(int(b[2]), len(b)-3)
			all = append(all, pkix.Extension{Id: id, Value: b[3 : 3+n]})
			b = b[3+n:]
		}
		_, err := snp.ReadExtensions(kind, all)
		isRefusal(t, err)
	})
}

func FuzzCRL(f *testing.F) {
	w := newWorld(f, snp.Genoa)
	f.Add(w.crl(f, simsnp.CRLConfig{}))
	seeds(f, ".crl")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := snp.ReadCRL(b)
		isRefusal(t, err)
	})
}
