package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
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
	"cocoon/billing/ton"
	"cocoon/billing/ton/devnet"
	"cocoon/billing/ton/registry"
	"cocoon/internal/config"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	tonutils "github.com/xssnick/tonutils-go/ton"
	tvm "github.com/xssnick/tonutils-go/tvm/cell"
)

// owner signs alone.
type owner struct{ ed25519.PrivateKey }

func (o owner) Public() ed25519.PublicKey { return ed25519.PublicKey(o.PrivateKey[32:]) }

func (o owner) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(o.PrivateKey, message), nil
}

// chain is a development chain with a registry.
type chain struct {
	*devnet.Network
	t       *testing.T
	owner   owner
	network []byte
	a       ton.Address
}

func newChain(t *testing.T) *chain {
	t.Helper()
	n, err := devnet.New(devnet.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	c := &chain{Network: n, t: t, owner: owner{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))}}
	if c.network, err = json.Marshal(n.Config()); err != nil {
		t.Fatal(err)
	}
	terms := registry.Terms{
		Signers: []ed25519.PublicKey{c.owner.Public()}, Threshold: 1, Delay: time.Minute, Floor: time.Minute,
	}
	init, err := terms.Init()
	if err != nil {
		t.Fatal(err)
	}
	if c.a, err = terms.Address(); err != nil {
		t.Fatal(err)
	}
	err = n.Inject(&tlb.InternalMessage{
		IHRDisabled: true, SrcAddr: address.NewAddress(0, 0, make([]byte, 32)), DstAddr: c.a.Std(), Amount: tlb.MustFromTON("5"),
		StateInit: init, Body: tvm.BeginCell().EndCell(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.mine()
	return c
}

func (c *chain) mine() {
	c.t.Helper()
	if err := c.Mine(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) send(message []byte, err error) {
	c.t.Helper()
	if err == nil {
		err = c.SendExternal(message)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.mine()
}

func (c *chain) read() *registry.Copy {
	c.t.Helper()
	r, err := registry.NewReader(registry.Config{Network: c.network, Address: c.a})
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	copied, err := r.Read(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return copied
}

// adopt puts entries, and lets the delay pass once. Without apply they stay pending.
func (c *chain) adopt(apply bool, entries ...*registry.Entry) {
	c.t.Helper()
	for _, e := range entries {
		r := c.read()
		p, err := registry.NewProposal(&registry.Order{
			Registry: c.a, Seqno: r.Seqno, ValidUntil: r.At.Time.Add(time.Hour), Change: &registry.Change{Put: e},
		})
		if err != nil {
			c.t.Fatal(err)
		}
		if err := p.Sign(c.t.Context(), c.owner); err != nil {
			c.t.Fatal(err)
		}
		c.send(p.Message(r.Registry))
	}
	if !apply {
		return
	}
	c.SkewClock(time.Minute)
	for _, p := range c.read().Pending {
		c.send(registry.ApplyMessage(c.a, p.ID))
	}
}

// releases are the simulated machines' releases, as documents, with more in each.
func (w *world) releases(t *testing.T, more map[string]any) []*registry.Entry {
	t.Helper()
	var policy struct {
		Releases []map[string]any `yaml:"releases"`
		Rest     map[string]any   `yaml:",inline"`
	}
	if err := config.Decode(w.vendor.PolicyYAML(time.Now()), &policy); err != nil {
		t.Fatal(err)
	}
	var out []*registry.Entry
	for _, r := range policy.Releases {
		maps.Copy(r, more)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		name, _ := r["name"].(string)
		out = append(out, &registry.Entry{Title: registry.Title{Kind: registry.Release, Name: name}, Document: text})
	}
	return out
}

// A gateway is judged by the releases of the registry, with the user's policy or with the registry's own, on the chain
// or by the kept copy; a registry without releases admits nobody.
func TestVerifyByRegistry(t *testing.T) {
	w, c := newWorld(t), newChain(t)
	var k attest.Keyset
	f := newFake(t, true, func(f *fake, nonce attest.Digest, _ *http.Request) (int, any) {
		k = keyset(attest.Gateway, 7, f.tls)
		return http.StatusOK, channel.Attestation{V: attest.Version, Relayed: w.relayed(t, nonce, k)}
	})
	network := w.file(t, "network.json", string(c.network))
	args := []string{"--registry", c.a.String(), "--network", network, f.URL}
	w.verify(t, args...).want(t, exitInput, "has no release that holds")

	releases := w.releases(t, nil)
	policy := w.vendor.PolicyYAML(time.Now())
	if len(policy) <= registry.DocumentMax {
		title := registry.Title{Kind: registry.Policy, Name: "hardware"}
		releases = append(releases, &registry.Entry{Title: title, Document: policy})
	}
	c.adopt(true, releases...)
	at := fmt.Sprintf("releases come from the registry %s as of block", c.a)
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
	c.adopt(false, wrong)
	w.verify(t, args...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", "pending in the registry", "put gateway/main")
	c.Faults().Hook(func(tl.Serializable) (tl.Serializable, bool) { return tonutils.LSError{Code: 1, Text: "gone"}, true })
	w.verify(t, args...).want(t, exitRejected, "SIMULATED, NOT VERIFIED", at, "THE CHAIN IS OUT OF REACH")
	c.Faults().Hook(nil)
	c.SkewClock(time.Minute)
	c.send(registry.ApplyMessage(c.a, c.read().Pending[0].ID))
	w.verify(t, args...).want(t, exitRejected, "lists a gateway at this URL", "REJECTED: keyset.id")

	w.verify(t, "--registry", c.a.String(), f.URL).want(t, exitInput, "--registry and --network go together")
	w.verify(t, "--registry", "nonsense", "--network", network, f.URL).want(t, exitInput, "not an address")
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
