package attest_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"cocoon/attest"
)

func FuzzParseEvidence(f *testing.F) {
	f.Add(must(json.Marshal(newWorld(small).evidence(f))))
	f.Add([]byte(`{"v":1,"nonce":"","tee":"tdx"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := attest.ParseEvidence(text)
		if (e == nil) == (err == nil) {
			t.Fatal(e, err)
		}
	})
}

func FuzzParseKeyset(f *testing.F) {
	f.Add(must(json.Marshal(newWorld(small).keyset)))
	f.Add(must(json.Marshal(newWorld(vm).keyset)))
	f.Add([]byte(`{"v":1,"V":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := attest.ParseKeyset(text)
		if (k == nil) == (err == nil) {
			t.Fatal(k, err)
		}
		if err != nil {
			return
		}
		// Written again, it is the same keyset.
		again, err := attest.ParseKeyset(must(json.Marshal(k)))
		if err != nil || !bytes.Equal(must(json.Marshal(again)), must(json.Marshal(k))) {
			t.Fatalf("%v: %+v, %+v", err, k, again)
		}
	})
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(testPolicy()))
	f.Add([]byte("name: x\nsimulated: {admit: true}"))
	w := newWorld(small)
	e := w.evidence(f)
	c := sorted(f, e.Endorsements)
	other := attest.Setting{Role: attest.Worker, Nonce: attest.Digest{6}, Now: simNow}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := attest.ParsePolicy(text)
		if (p == nil) == (err == nil) {
			t.Fatal(p, err)
		}
		if err == nil && p.Appraise(e, c, other).Verdict.Admits() {
			t.Fatal("a policy that admits another nonce")
		}
	})
}

func FuzzCollateralAdd(f *testing.F) {
	kinds := []attest.Kind{attest.SNPKey, attest.SNPChain, attest.TDXCollateral, attest.GPURIM, attest.GPUOCSP}
	for _, k := range []kind{small, tdvm} {
		for _, item := range newWorld(k).evidence(f).Endorsements {
			f.Add(uint8(slices.Index(kinds, item.Kind)), item.Data) //nolint:gosec // less than five
		}
	}
	w := newWorld(vm)
	e := w.evidence(f)
	policy := w.parsed(f)
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		item := attest.Item{Kind: kinds[int(kind)%len(kinds)], Data: data}
		var alone attest.Collateral
		_ = alone.Add([]attest.Item{item})
		if r := policy.Appraise(e, alone, w.set); r.Verdict.Admits() {
			t.Fatalf("admitted by one item\n%s", tell(r))
		}
		var with attest.Collateral
		_ = with.Add(append([]attest.Item{item}, e.Endorsements...))
		policy.Appraise(e, with, w.set) // anything, but no panic
	})
}

// FuzzAppraise changes evidence anywhere: it isn't admitted, unless nothing was changed that counts.
func FuzzAppraise(f *testing.F) {
	worlds := []*world{newWorld(small), newWorld(td)}
	var good []*attest.Evidence
	var policies []*attest.Policy
	for i, w := range worlds {
		e := w.evidence(f)
		good = append(good, e)
		policies = append(policies, w.parsed(f))
		f.Add(uint8(i), e.CPU, e.Keyset, e.Devices) //nolint:gosec // two
	}
	f.Fuzz(func(t *testing.T, which uint8, cpu, keyset, devices []byte) {
		i := int(which) % len(worlds)
		e := *good[i]
		e.CPU, e.Keyset, e.Devices = cpu, keyset, devices
		r := policies[i].Appraise(&e, sorted(t, good[i].Endorsements), worlds[i].set)
		same := bytes.Equal(cpu, good[i].CPU) && bytes.Equal(keyset, good[i].Keyset) && bytes.Equal(devices, good[i].Devices)
		if r.Verdict == attest.Verified || r.Verdict.Admits() && !same {
			t.Fatalf("%s\n%s", r.Verdict, tell(r))
		}
	})
}
