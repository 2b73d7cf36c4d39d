package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/snp"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/registry/registrytest"

	"github.com/xssnick/tonutils-go/tl"
	tonutils "github.com/xssnick/tonutils-go/ton"
)

// releases are the simulated machines' releases, as documents, with more in each.
func (w *world) releases(t *testing.T, more map[string]any) []*registry.Entry {
	t.Helper()
	return registrytest.Releases(t, w.vendor.PolicyYAML(time.Now()), more)
}

// A gateway is judged by the releases of the registry, with the user's policy or with the registry's own, on the chain
// or by the kept copy; a registry without releases admits nobody.
func TestVerifyByRegistry(t *testing.T) {
	w, c := newWorld(t), registrytest.Start(t)
	var k attest.Keyset
	f := newFake(t, true, func(f *fake, nonce attest.Digest, _ *http.Request) (int, any) {
		k = keyset(attest.Gateway, 7, f.tls)
		return http.StatusOK, channel.Attestation{V: attest.Version, Relayed: w.relayed(t, nonce, k)}
	})
	args := []string{"--registry", c.Address.String(), "--network", c.File, f.URL}
	c.CatchUp()
	w.verify(t, args...).want(t, exitInput, "has no release that holds")

	releases := w.releases(t, nil)
	policy := w.vendor.PolicyYAML(time.Now())
	if len(policy) <= registry.DocumentMax {
		title := registry.Title{Kind: registry.Policy, Name: "hardware"}
		releases = append(releases, &registry.Entry{Title: title, Document: policy})
	}
	c.Put(releases...)
	at := fmt.Sprintf("releases come from the registry %s as of block", c.Address)
	w.verify(t, args...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", at, "lists no gateway at this URL",
		"need 1 of 1 signers")
	if len(policy) <= registry.DocumentMax {
		w.verify(t, append(args, "--policy", "")...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", at)
	} else {
		t.Logf("the policy has %d bytes: not for a registry", len(policy))
		w.verify(t, append(args, "--policy", "")...).want(t, exitInput, "has 0 policies")
	}

	wrong := &registry.Entry{
		Title:    registry.Title{Kind: registry.Gateway, Name: "main"},
		Document: fmt.Appendf(nil, `{"urls": [%q], "id": %q}`, f.URL, id(9)),
	}
	c.Propose(&registry.Change{Put: wrong})
	w.verify(t, args...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", "pending in the registry", "put gateway/main")
	c.Faults().Hook(func(tl.Serializable) (tl.Serializable, bool) { return tonutils.LSError{Code: 1, Text: "gone"}, true })
	w.verify(t, args...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", at, "THE CHAIN IS OUT OF REACH")
	c.Faults().Hook(nil)
	c.Apply()
	w.verify(t, args...).want(t, exitRejected, "lists a gateway at this URL", "REJECTED: keyset.id")

	w.verify(t, "--registry", c.Address.String(), f.URL).want(t, exitInput, "--registry and --network go together")
	w.verify(t, "--registry", "nonsense", "--network", c.File, f.URL).want(t, exitInput, "not an address")
}

// Releases may demand more of platforms than the policy, and certain weights; what they demand is read strictly.
func TestManifest(t *testing.T) {
	w := newWorld(t)
	c := &registry.Copy{Registry: &registry.Registry{Entries: nil}}
	entries := func(more map[string]any) []registry.Entry {
		var out []registry.Entry
		for _, e := range w.releases(t, more) {
			out = append(out, *e)
		}
		return out
	}
	base := w.vendor.PolicyYAML(time.Now())
	plain, err := attest.ParsePolicy(base)
	if err != nil {
		t.Fatal(err)
	}
	c.Entries = entries(map[string]any{
		"minimum": map[string]any{
			"snp": map[string]any{"Genoa": map[string]any{"microcode": 255}}, "tdx_min_tcb_evaluation": 1000,
		},
		"weights": map[string][]string{"tiny": {"sha256:a"}},
	})
	got, err := newTrust(c, base, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if n := got.policy.TDX.MinTCBEvaluation; n != 1000 {
		t.Errorf("evaluation %d", n)
	}
	want := plain.SNP.Lines[snp.Genoa].MinTCB
	want.Microcode = 255
	if have := got.policy.SNP.Lines[snp.Genoa].MinTCB; have != want {
		t.Errorf("TCB %+v, want %+v", have, want)
	}
	if len(got.policy.Releases) != len(c.Entries) || !got.policy.NotAfter.Equal(plain.NotAfter) ||
		got.policy.Session != plain.Session {
		t.Errorf("%+v", got.policy)
	}
	for weights, verdict := range map[string]attest.Verdict{
		"sha256:a": attest.Simulated, "sha256:b": attest.Rejected, "": attest.Rejected,
	} {
		models := []attest.Model{{Name: "tiny", WeightsDigest: weights}, {Name: "other"}}
		m := &machine{role: attest.Worker, result: &attest.Result{
			Verdict: attest.Simulated, Release: c.Entries[0].Name, Claims: attest.Claims{Keyset: &attest.Keyset{Models: models}},
		}}
		got.weigh(m)
		if m.result.Verdict != verdict || len(m.result.Checks) != 1 {
			t.Errorf("weights %q: %s, %+v", weights, m.result.Verdict, m.result.Checks)
		}
	}
	c.Entries[0].NotAfter = time.Now().Add(time.Hour)
	end := c.Entries[0].NotAfter.Truncate(time.Second)
	if got, err = newTrust(c, base, time.Now()); err != nil || !got.policy.Releases[0].NotAfter.Equal(end) {
		t.Errorf("end: %v", err)
	}
	for what, more := range map[string]map[string]any{
		"nmae": {"nmae": 1}, "measurement": {"snp": []any{map[string]any{"measurement": "12"}}},
		"is of the release": {"name": "other"},
	} {
		c.Entries = entries(nil)
		var doc map[string]any
		if err := json.Unmarshal(c.Entries[0].Document, &doc); err != nil {
			t.Fatal(err)
		}
		maps.Copy(doc, more)
		c.Entries[0].Document, _ = json.Marshal(doc)
		if _, err := newTrust(c, base, time.Now()); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
