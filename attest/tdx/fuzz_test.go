package tdx_test

import (
	"encoding/json"
	"path/filepath"
	"testing"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// FuzzQuote: whatever is sent as a quote, verifying it panics nowhere. Keys that are made anew in each process of a
// fuzzing run make its seeds worthless there, so real evidence goes first, where it is at hand.
func FuzzQuote(f *testing.F) {
	s := newSim(f)
	c, o := s.collateral(simtdx.Collateral{}), s.options()
	for _, q := range []simtdx.Quote{{}, {Version: 5}, {TD: tdx.TD{V15: true}}} {
		f.Add(s.quote(q))
	}
	if all, err := filepath.Glob(filepath.Join(vectorsDir(), "vectors", "*.quote")); err == nil && len(all) > 0 {
		for _, name := range all {
			f.Add(readFile(f, name))
		}
		c, o = realCollateral(f, "qvl_outdated"), intel(f, at2026)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := tdx.Parse(raw)
		if err == nil {
			_, _ = q.Platform()
		}
		claims, verr := tdx.Verify(raw, c, o)
		if verr == nil && (err != nil || claims.TD != q.TD) {
			t.Errorf("verified what does not parse: %v, or as something else", err)
		}
		if verr != nil && check(verr) == "" {
			t.Errorf("refused without a check: %v", verr)
		}
	})
}

// FuzzPCKExtension: the SGX extension's reader panics nowhere.
func FuzzPCKExtension(f *testing.F) {
	f.Add(encode(f, parts()))
	f.Add(encode(f, parts()[:5]))
	f.Fuzz(func(t *testing.T, der []byte) {
		if p, err := tdx.ReadExtension(der); err == nil && (p.Type < 0 || p.Type > 2) {
			t.Errorf("taken with type %d", p.Type)
		}
	})
}

// FuzzCollateral: the documents' readers and the bundle's panic nowhere, and what passes them can be evaluated.
func FuzzCollateral(f *testing.F) {
	s := newSim(f)
	c := s.collateral(simtdx.Collateral{})
	bundle, err := json.Marshal(c)
	if err != nil {
		f.Fatal(err)
	}
	q, err := tdx.Parse(s.quote(simtdx.Quote{TD: tdx.TD{V15: true}}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.TCBInfo)
	f.Add(c.QEIdentity)
	f.Add(bundle)
	f.Add([]byte(`{"tcbInfo":{},"signature":"00"}`))
	f.Fuzz(func(_ *testing.T, text []byte) {
		_ = tdx.ReadTCBInfo(text)
		_ = tdx.ReadQEIdentity(text)
		_, _ = tdx.Evaluate(q, text, c.QEIdentity)
		_, _ = tdx.Evaluate(q, c.TCBInfo, text)
		read := &tdx.Collateral{}
		_ = json.Unmarshal(text, read)
		_ = read.SetTCBInfo(text, string(text))
		_ = read.SetQEIdentity(text, "")
		_, _ = tdx.Verify(nil, read, s.options())
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newSim(b)
	raw, c, o := s.quote(simtdx.Quote{TD: tdx.TD{V15: true}}), s.collateral(simtdx.Collateral{}), s.options()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdx.Verify(raw, c, o); err != nil {
			b.Fatal(err)
		}
	}
}
