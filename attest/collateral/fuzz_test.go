package collateral_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	"cocoon/attest/snp"
)

func FuzzReadBundle(f *testing.F) {
	w := newWorld(f)
	s := newStore(f, w.config())
	w.complete(s, w.withGPU(), simNow)
	w.complete(s, w.tdxOnly(), simNow)
	var file bytes.Buffer
	if err := s.Export(&file, simNow); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes())
	f.Add([]byte(`{"v":1,"items":[]}`))
	f.Add([]byte(`{"v":1,"items":[{"kind":"gpu-ocsp","data":"MAMKAQE="}]}`))
	offline := newStore(f, w.off())
	evidence := []*attest.Evidence{w.withGPU(), w.tdxOnly()}
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := collateral.ReadBundle(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := collateral.WriteBundle(&out, items); err != nil {
			t.Fatal(err)
		}
		again, err := collateral.ReadBundle(&out)
		if d := cmp.Diff(items, again, cmpopts.EquateEmpty()); d != "" || err != nil {
			t.Fatal(err, d)
		}
		for _, e := range evidence {
			e := *e
			e.Endorsements = items
			c, err := offline.Complete(context.Background(), &e, simNow)
			if verr := w.verify(&e, c, simNow); err == nil && verr != nil {
				t.Errorf("complete, and yet %v", verr)
			}
		}
	})
}

func FuzzCacheFile(f *testing.F) {
	w := newWorldOf(f, snp.Genoa, nvgpu.Hopper)
	c := w.config()
	c.Dir = f.TempDir()
	s := newStore(f, c)
	w.complete(s, w.withGPU(), simNow)
	w.complete(s, w.tdxOnly(), simNow)
	names := files(f, c.Dir)
	for i, name := range names {
		f.Add(i, must[[]byte](f)(os.ReadFile(filepath.Join(c.Dir, name))))
	}
	f.Add(0, []byte(`{"v":1,"want":{"kind":"gpu-ocsp"},"fetched":"2026-11-01T12:00:00Z","data":"AA=="}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		// Under the right name, so that it gets past the first check.
		path := filepath.Join(dir, names[uint(i)%uint(len(names))])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := w.off()
		c.Dir = dir
		s := newStore(t, c)
		kept := len(s.Status(simNow)) == 1
		if _, err := os.Stat(path); kept != (err == nil) {
			t.Errorf("kept: %v, file: %v", kept, err)
		}
		var out bytes.Buffer
		if err := s.Export(&out, simNow); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path)
	})
}

// FuzzEvidence goes for evidence that nobody has verified: reports and quotes, lists of devices.
func FuzzEvidence(f *testing.F) {
	w := newWorld(f)
	for _, e := range []*attest.Evidence{w.withGPU(), w.tdxOnly()} {
		f.Add(string(e.TEE), e.CPU, e.Devices)
	}
	s := newStore(f, w.off())
	f.Fuzz(func(_ *testing.T, tee string, cpu, devices []byte) {
		e := &attest.Evidence{TEE: attest.TEE(tee), CPU: cpu, Devices: devices}
		_, _ = s.Complete(context.Background(), e, simNow)
	})
}
