package collateral_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	simgpu "cocoon/attest/simtee/nvgpu"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
)

// down has all services fail.
func (w *world) down() {
	w.change(func() {
		w.fault = func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.WriteHeader(http.StatusBadGateway)
			return true
		}
	})
}

// An outage does no harm until things end, and then the reason is told.
func TestOutage(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Dir = filepath.Join(t.TempDir(), "below", "cache")
	gpu, intel := w.withGPU(), w.tdxOnly()
	s := newStore(t, c)
	w.complete(s, gpu, simNow)
	w.complete(s, intel, simNow)
	w.down()
	restarted := newStore(t, c)
	ocspEnd := simNow.Add(-time.Minute).Add(day)
	tdxEnd := simNow.Add(-hour).Add(30 * day)
	for name, s := range map[string]*collateral.Store{"running": s, "restarted": restarted} {
		t.Run(name, func(t *testing.T) {
			w.complete(s, gpu, ocspEnd.Add(-1))
			w.fails(s, gpu, ocspEnd, "no OCSP response about", "HTTP status 502", "since 2026-11-02T11:59:00Z")
			w.complete(s, intel, tdxEnd.Add(-1))
			w.fails(s, intel, tdxEnd, "no TDX collateral of FMSPC 53494d000000", "HTTP status 502", "since 2026-12-01T11:00:00Z")
			// What began to fail then still does; what a status says is for people.
			w.fails(s, intel, tdxEnd.Add(hour), "since 2026-12-01T11:00:00Z")
			for _, st := range s.Status(tdxEnd.Add(hour)) {
				ended := st.Kind == attest.TDXCollateral || st.Kind == attest.GPUOCSP
				if st.Name == "" || st.Fetched.IsZero() || st.Expires.IsZero() != ended || (st.Err != nil) != ended {
					t.Errorf("%+v", st)
				}
			}
			// Before it was issued it isn't handed out either.
			w.fails(s, intel, simNow.Add(-2*hour), "no TDX collateral")
		})
	}
	for _, name := range files(t, c.Dir) {
		info := must[fs.FileInfo](t)(os.Stat(filepath.Join(c.Dir, name)))
		if info.Mode() != 0o600 || len(name) != 64+5 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for _, f := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		names = append(names, f.Name())
	}
	return names
}

// A failure is remembered for a while that grows; while it is, nobody is asked.
func TestBackoff(t *testing.T) {
	w := newWorld(t)
	s := newStore(t, w.config())
	e := w.tdxOnly()
	w.down()
	now := simNow
	for _, wait := range []time.Duration{15, 30, 60, 120, 240, 300, 300, 300} {
		before := w.total()
		for _, at := range []time.Duration{0, 0, wait - 1} {
			w.fails(s, e, now.Add(at*time.Second), "since 2026-11-01T12:00:00Z")
		}
		if n := w.total() - before; n != 1 {
			t.Fatalf("%d questions in %d seconds", n, wait)
		}
		now = now.Add(wait * time.Second)
	}
	w.change(func() { w.fault = nil })
	w.complete(s, e, now)

	t.Run("clock set back", func(t *testing.T) {
		s := newStore(t, w.config())
		w.down()
		w.fails(s, e, simNow.Add(day), "502")
		w.change(func() { w.fault = nil })
		w.complete(s, e, simNow)
	})
	t.Run("service", func(t *testing.T) {
		s := newStore(t, w.config())
		w.change(func() {
			w.fault = func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Retry-After", "100")
				rw.WriteHeader(http.StatusTooManyRequests)
				return true
			}
		})
		e := w.snpOnly()
		w.fails(s, e, simNow, "HTTP status 429")
		w.change(func() { w.fault = nil })
		other := w.snpOnly()
		other.CPU = must[[]byte](t)(w.chips[1].Report(simsnp.ReportConfig{TCB: w.tcb})) // which nobody has asked about
		before := w.total()
		w.fails(s, other, simNow.Add(99*time.Second), "out of reach: HTTP status 429", "since 2026-11-01T12:00:00Z",
			"next try from 2026-11-01T12:01:40Z")
		if w.total() != before {
			t.Error("it was asked")
		}
		w.complete(s, other, simNow.Add(100*time.Second))
		w.complete(s, e, simNow.Add(100*time.Second))
	})
}

// Nothing older replaces what we had: not from the service, not from a peer, not after it has ended, not after a
// restart.
func TestRollback(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Dir = t.TempDir()
	gpu, intel := w.withGPU(), w.tdxOnly()
	w.change(func() { w.tcbNow = simtdx.Collateral{Evaluation: 17, Issued: simNow.Add(-3 * hour)} })
	old := newStore(t, w.config())
	stapledTDX := must[[]attest.Item](t)(old.Items(t.Context(), intel, simNow))
	w.change(func() {
		w.status = simgpu.Status{ThisUpdate: simNow.Add(-3 * hour), NextUpdate: simNow.Add(20 * day / 10)}
		w.crl = simsnp.CRLConfig{ThisUpdate: simNow.Add(-3 * hour)}
	})
	stapledGPU := must[[]attest.Item](t)(old.Items(t.Context(), gpu, simNow))
	w.change(func() {
		w.tcbNow = simtdx.Collateral{Evaluation: 18, NextUpdate: simNow.Add(day)}
		w.status, w.crl = simgpu.Status{}, simsnp.CRLConfig{NextUpdate: simNow.Add(day)}
	})
	s := newStore(t, c)
	w.complete(s, gpu, simNow)
	w.complete(s, intel, simNow)

	// Now the services answer what they answered before: all of it authentic and valid.
	w.change(func() {
		w.tcbNow = simtdx.Collateral{Evaluation: 17, Issued: simNow.Add(-3 * hour)}
		w.status = simgpu.Status{ThisUpdate: simNow.Add(-3 * hour), NextUpdate: simNow.Add(20 * day / 10)}
		w.crl = simsnp.CRLConfig{ThisUpdate: simNow.Add(-3 * hour)}
	})
	almost, ended := simNow.Add(23*hour), simNow.Add(25*hour)
	wantError(t, s.Refresh(t.Context(), almost), "older than the one fetched at 2026-11-01T12:00:00Z")
	w.complete(s, gpu, almost)
	w.complete(s, intel, almost)
	for name, s := range map[string]*collateral.Store{"running": s, "restarted": newStore(t, c)} {
		t.Run(name, func(t *testing.T) {
			w.fails(s, intel, ended, "no TDX collateral", "older than the one")
			w.fails(s, gpu, ended, "no OCSP response", "no revocation list", "older than the one")
			intel, gpu := *intel, *gpu
			intel.Endorsements, gpu.Endorsements = stapledTDX, stapledGPU
			later := ended.Add(hour)
			w.fails(s, &intel, later, "no TDX collateral", "what came with the evidence: older than the one")
			w.fails(s, &gpu, later, "no OCSP response", "no revocation list", "what came with the evidence: older than the one")
			w.complete(newStore(t, w.off()), &intel, later)
		})
	}
	// The level alone: issued later, but of an older evaluation.
	w.change(func() { w.tcbNow = simtdx.Collateral{Evaluation: 17, Issued: ended} })
	w.fails(s, intel, ended.Add(2*hour), "older than the one")
	w.change(func() { w.tcbNow = simtdx.Collateral{Evaluation: 18, Issued: ended} })
	w.complete(s, intel, ended.Add(3*hour))
}

// A cache file that was tampered with is removed, and what it held is asked for again.
func TestTamperedCache(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.Dir = t.TempDir()
	gpu, intel := w.withGPU(), w.tdxOnly()
	s := newStore(t, c)
	w.complete(s, gpu, simNow)
	w.complete(s, intel, simNow)
	good := map[string][]byte{}
	for _, name := range files(t, c.Dir) {
		good[name] = must[[]byte](t)(os.ReadFile(filepath.Join(c.Dir, name)))
	}
	if len(good) != 10 {
		t.Fatalf("%d files", len(good))
	}
	rewrite := func(change func(map[string]any)) func([]byte) []byte {
		return func(b []byte) []byte {
			var v map[string]any
			if err := json.Unmarshal(b, &v); err != nil {
				t.Fatal(err)
			}
			change(v)
			return must[[]byte](t)(json.Marshal(v))
		}
	}
	inWant := func(name string, value any) func([]byte) []byte {
		return rewrite(func(v map[string]any) { v["want"].(map[string]any)[name] = value })
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"half":      func(b []byte) []byte { return b[:len(b)/2] },
		"more":      func(b []byte) []byte { return append(slices.Clone(b), "{}"...) },
		"garbage":   func([]byte) []byte { return []byte("\x00\x01") },
		"huge":      slices.Clone[[]byte],
		"field":     func(b []byte) []byte { return bytes.Replace(b, []byte(`{"v"`), []byte(`{"x":1,"v"`), 1) },
		"version":   rewrite(func(v map[string]any) { v["v"] = 2 }),
		"no time":   rewrite(func(v map[string]any) { v["fetched"] = time.Time{} }),
		"past":      rewrite(func(v map[string]any) { v["fetched"] = simNow.Add(-day) }),
		"future":    rewrite(func(v map[string]any) { v["fetched"] = simNow.AddDate(30, 0, 0) }),
		"no data":   rewrite(func(v map[string]any) { v["data"] = "" }),
		"data":      rewrite(func(v map[string]any) { v["data"] = "e30=" }),
		"flipped": rewrite(func(v map[string]any) {
			b := []byte(v["data"].(string))
			i := len(b) * 3 / 4
			b[i] = map[bool]byte{true: 'B', false: 'A'}[b[i] == 'A']
			v["data"] = string(b)
		}),
		"kind":    inWant("kind", "snp-key"),
		"no kind": inWant("kind", ""),
	} {
		t.Run(name, func(t *testing.T) {
			for file, b := range good {
				b = change(b)
				if name == "kind" && bytes.Equal(b, change(good[file])) && bytes.Contains(good[file], []byte(`"snp-key"`)) {
					b = nil // the one whose kind is right
				}
				path := filepath.Join(c.Dir, file)
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if name == "huge" {
					if err := os.Truncate(path, 9<<20); err != nil {
						t.Fatal(err)
					}
				}
			}
			var l log
			c := c
			c.Log = l.logger()
			s := newStore(t, c)
			if left := files(t, c.Dir); len(left) > 0 || len(s.Status(simNow)) > 0 {
				t.Errorf("%d files left, %+v", len(left), s.Status(simNow))
			}
			if n := strings.Count(l.String(), "cache file is discarded"); n != len(good) {
				t.Errorf("%d lines in the log", n)
			}
		})
	}
	t.Run("asked again", func(t *testing.T) {
		before := w.total()
		w.complete(newStore(t, c), gpu, simNow)
		if w.total() == before {
			t.Error("nobody was asked")
		}
	})
	t.Run("swapped", func(t *testing.T) { swapFiles(t, w, c, good) })
}

// Files under each other's names, links, folders, leftovers and files of others.
func swapFiles(t *testing.T, w *world, c collateral.Config, good map[string][]byte) {
	c.Dir = t.TempDir()
	var last []byte
	n := 0
	for _, b := range good {
		if last != nil {
			if err := os.WriteFile(filepath.Join(c.Dir, fmt.Sprintf("%064d.json", n)), last, 0o600); err != nil {
				t.Fatal(err)
			}
			n++
		}
		last = b
	}
	elsewhere := filepath.Join(t.TempDir(), "x")
	err := errors.Join(
		os.WriteFile(filepath.Join(c.Dir, ".tmp-1"), last, 0o600), os.WriteFile(filepath.Join(c.Dir, "README"), nil, 0o600),
		os.WriteFile(elsewhere, last, 0o600), os.Symlink(elsewhere, filepath.Join(c.Dir, strings.Repeat("a", 64)+".json")),
		os.Mkdir(filepath.Join(c.Dir, strings.Repeat("b", 64)+".json"), 0o700),
		os.WriteFile(filepath.Join(c.Dir, "policy.json"), last, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, c)
	if left := files(t, c.Dir); !slices.Equal(left, []string{"README", "policy.json"}) || len(s.Status(simNow)) > 0 {
		t.Errorf("left: %v, %+v", left, s.Status(simNow))
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
	// A disk that can't be written to costs the memory of it only.
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	var l log
	c.Log = l.logger()
	s = newStore(t, c)
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	w.complete(s, w.snpOnly(), simNow)
	if !strings.Contains(l.String(), "not kept on disk") {
		t.Error(l.String())
	}
	before := w.total()
	w.complete(s, w.snpOnly(), simNow)
	if w.total() != before {
		t.Error("it has forgotten")
	}
}
