package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/simtee"
	"cocoon/attest/snp"
	"cocoon/billing/ton/registry"
	"cocoon/billing/ton/registry/registrytest"
)

// oneVendor makes all simulated hardware of these tests: its keys take seconds.
var oneVendor = sync.OnceValues(func() (*simtee.Vendor, error) { return simtee.New(time.Now()) })

func policy(t *testing.T) []byte {
	t.Helper()
	v, err := oneVendor()
	if err != nil {
		t.Fatal(err)
	}
	return v.PolicyYAML(time.Now())
}

// copyOf is a registry with these entries.
func copyOf(entries ...*registry.Entry) *registry.Copy {
	c := &registry.Copy{Registry: &registry.Registry{}}
	for _, e := range entries {
		c.Entries = append(c.Entries, *e)
	}
	return c
}

func gateway(name, document string) *registry.Entry {
	return &registry.Entry{Title: registry.Title{Kind: registry.Gateway, Name: name}, Document: []byte(document)}
}

// genoaFMC is a minimum that no policy can have.
func genoaFMC() map[string]any {
	return map[string]any{"snp": map[string]any{"Genoa": map[string]any{"fmc": 1}}}
}

// What one document says or gets wrong is its own affair: the others count, and it counts for nothing.
func TestNew(t *testing.T) {
	base := policy(t)
	id := strings.Repeat("12", 32)
	good := registrytest.Releases(t, base, map[string]any{
		"minimum": map[string]any{
			"snp": map[string]any{"Genoa": map[string]any{"microcode": 255}}, "tdx_min_tcb_evaluation": 1000,
		},
	})
	other := registrytest.Releases(t, base, nil)
	broken := func(name string, more map[string]any) *registry.Entry {
		e := registrytest.Releases(t, base, more)[0]
		e.Name = name
		return e
	}
	ended := broken("ended", map[string]any{"name": "ended"})
	ended.NotAfter = time.Now().Add(-time.Second)
	got, err := New(copyOf(
		good[0], other[1], ended,
		broken("nmae", map[string]any{"name": "nmae", "nmae": 1}),
		broken("measurement", map[string]any{"name": "measurement", "snp": []any{map[string]any{"measurement": "12"}}}),
		broken("misnamed", nil),
		broken("fmc", map[string]any{"name": "fmc", "minimum": genoaFMC()}),
		gateway("a", `{"urls": ["https://a.example.com"], "workers": "a.example.com:8443", "id": "`+id+`"}`),
		gateway("b", `{"urls": ["https://b.example.com"], "id": "`+id+`"}`),
		gateway("no-id", `{"workers": "a.example.com:8443"}`),
		gateway("text", `hello`),
	), base, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Releases) != 2 || len(got.Policy.Releases) != 2 || len(got.Gateways) != 2 || len(got.Faults) != 6 {
		t.Fatalf("%d releases, %d of the policy, gateways %+v, faults %v", len(got.Releases), len(got.Policy.Releases),
			got.Gateways, got.Faults)
	}
	for i, want := range []string{"nmae", "measurement", "is of the release", "Genoa has none", "no id", "gateway/text"} {
		if !strings.Contains(got.Faults[i].Error(), want) {
			t.Errorf("fault %v, want %q", got.Faults[i], want)
		}
	}
	if got.Policy.TDX.MinTCBEvaluation != 1000 || got.Policy.SNP.Lines[snp.Genoa].MinTCB.Microcode != 255 {
		t.Errorf("minima: %d, %+v", got.Policy.TDX.MinTCBEvaluation, got.Policy.SNP.Lines[snp.Genoa].MinTCB)
	}
	if found := got.At("A.example.com:8443"); len(found) != 1 || found[0].ID.String() != id || len(got.At("")) != 0 {
		t.Errorf("at a: %+v", found)
	}
	for text, want := range map[string]string{"name: [": "policy", "name: x": "not_before"} {
		if _, err := New(copyOf(good...), []byte(text), time.Now()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A registry without a release admits nobody; it is not the same as one that can't be read.
func TestNone(t *testing.T) {
	base := policy(t)
	none, err := New(copyOf(), base, time.Now())
	if err != nil || len(none.Policy.Releases) != 0 || none.Policy.Name == "" {
		t.Fatalf("%+v, %v", none, err)
	}
	empty, err := New(copyOf(registrytest.Releases(t, base, nil)...), nil, time.Now())
	if err != nil || len(empty.Policy.Releases) != 0 || !empty.Policy.NotAfter.IsZero() {
		t.Fatalf("%+v, %v", empty, err)
	}
}

// Trust is equal to itself made again, and not to one of other weights, which are no part of the policy's text.
func TestEqual(t *testing.T) {
	base := policy(t)
	made := func(digest string) *Trust {
		more := map[string]any{"weights": map[string][]string{"tiny": {digest}}}
		got, err := New(copyOf(registrytest.Releases(t, base, more)...), base, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	one := made("a")
	same := made("a")
	same.until(time.Now())
	if !one.Equal(same) || !same.Policy.NotAfter.Before(one.Policy.NotAfter) {
		t.Error("the same trust, that ends earlier, is not equal")
	}
	if one.Equal(made("b")) {
		t.Error("other weights are equal")
	}
}

func TestWeigh(t *testing.T) {
	base := policy(t)
	more := map[string]any{"weights": map[string][]string{"tiny": {"sha256:a", "sha256:b"}}}
	releases := registrytest.Releases(t, base, more)
	by, err := New(copyOf(releases...), base, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	models := func(digest string, others ...string) []attest.Model {
		list := []attest.Model{{Name: "tiny", WeightsDigest: digest}}
		for _, o := range others {
			list = append(list, attest.Model{Name: o})
		}
		return list
	}
	for i, c := range []struct {
		role    attest.Role
		release string
		models  []attest.Model
		before  attest.Verdict
		after   attest.Verdict
		checks  int
	}{
		{attest.Worker, "simulated-worker", models("sha256:b"), attest.Verified, attest.Verified, 1},
		{attest.Worker, "simulated-worker", models(""), attest.Verified, attest.Rejected, 1},
		{attest.Worker, "simulated-worker", models("sha256:c", "x"), attest.Simulated, attest.Rejected, 1},
		{attest.Worker, "simulated-worker", models(""), attest.Unsupported, attest.Unsupported, 1},
		{attest.Worker, "simulated-worker", []attest.Model{{Name: "other"}, {}}, attest.Verified, attest.Verified, 0},
		{attest.Worker, "unknown", models(""), attest.Verified, attest.Verified, 0},
		{attest.Gateway, "simulated-worker", models(""), attest.Verified, attest.Verified, 0},
	} {
		r := &attest.Result{
			Verdict: c.before, Role: c.role, Release: c.release, Claims: attest.Claims{Keyset: &attest.Keyset{Models: c.models}},
		}
		by.Weigh(r)
		if r.Verdict != c.after || len(r.Checks) != c.checks {
			t.Errorf("%d: %s, %+v", i, r.Verdict, r.Checks)
		}
	}
	r := &attest.Result{Verdict: attest.Verified, Release: "simulated-worker"}
	Alone(by.Policy).Weigh(r)
	by.Weigh(r) // no keyset
	if len(r.Checks) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestSourceCheck(t *testing.T) {
	a := registrytest.Start(t).Address.String()
	for want, s := range map[string]Source{
		"":               {Address: a, Network: "x", MaxAge: MaxAgeMin},
		"address":        {Network: "x"},
		"network":        {Address: a},
		"max_age: 1h":    {Address: a, Network: "x", MaxAge: time.Hour},
		"max_age: -1h":   {Address: a, Network: "x", MaxAge: -time.Hour, Every: 1},
		"want 2h0m0s or": {Address: a, Network: "x", MaxAge: 1},
	} {
		if err := s.Check(); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}

// The newest copy counts, from the chain or kept, until it is too old; and the policy that is made of it ends then.
func TestFeed(t *testing.T) {
	c := registrytest.Start(t)
	base := policy(t)
	c.Put(registrytest.Releases(t, base, nil)...)
	c.CatchUp()
	var logs strings.Builder
	log := slog.New(slog.NewTextHandler(&logs, nil))
	s := Source{Address: c.Address.String(), Network: c.File}
	dir := t.TempDir()
	c.Gone()
	if _, err := s.Open(t.Context(), dir, log); !errors.Is(err, registry.ErrNoCopy) {
		t.Fatalf("without chain and copy: %v", err)
	}
	c.Back()
	f, err := s.Open(t.Context(), dir, log)
	if err != nil || f.Away() {
		t.Fatal(err)
	}
	block := c.BlockTime()
	got, err := f.Trust(base, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if end := got.Policy.NotAfter; !end.Equal(block.Add(registry.DefaultMaxAge)) || !end.Equal(f.Ends()) {
		t.Errorf("the policy ends %s, the block is of %s", end, block)
	}
	got.Tell(log)
	c.Gone()
	f.Read(t.Context())
	f.Read(t.Context())
	if n := strings.Count(logs.String(), "the chain is out of reach"); !f.Away() || n != 1 {
		t.Errorf("told %d times: %s", n, &logs)
	}
	again, err := f.Trust(base, time.Now())
	if err != nil || !again.Equal(got) || !f.Ends().Equal(block.Add(registry.DefaultMaxAge)) {
		t.Errorf("with the kept copy: %v, until %s", err, f.Ends())
	}
	kept, err := s.Open(t.Context(), dir, nil) // a start with the chain out of reach
	if err != nil || !kept.Away() || !kept.Ends().Equal(f.Ends()) {
		t.Errorf("kept: %v", err)
	}
	old := s
	old.MaxAge = time.Nanosecond
	_, err = old.Open(t.Context(), dir, nil)
	if !errors.Is(err, registry.ErrNoCopy) || !strings.Contains(err.Error(), "counts for 1ns") {
		t.Errorf("a copy that is too old: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, dirName)); err != nil {
		t.Fatal(err)
	}
	f.Read(t.Context()) // what it has in memory goes on to count
	again, err = f.Trust(base, time.Now())
	if err != nil || !again.Equal(got) || !strings.Contains(logs.String(), "reading the registry failed") {
		t.Errorf("without the kept copy: %v", err)
	}
	c.Back()
	c.Remove(registry.Title{Kind: registry.Release, Name: "simulated-worker"})
	f.Read(t.Context())
	if again, err := f.Trust(base, time.Now()); err != nil || f.Away() || again.Equal(got) || len(again.Releases) != 1 {
		t.Errorf("back: %v", err)
	}
	f.take(&registry.Copy{Registry: got.From.Registry, Kept: true, Why: errors.New("lost")}) // that is older
	if again, err := f.Trust(base, time.Now()); err != nil || len(again.Releases) != 1 {
		t.Errorf("it went back to an older copy: %v", err)
	}
	if !strings.Contains(logs.String(), `releases="[simulated-gateway simulated-worker]"`) {
		t.Error(logs.String())
	}
	for want, s := range map[string]Source{
		"registry.address": {Address: "x"}, "registry.network": {Address: c.Address.String(), Network: filepath.Join(dir, "none")},
	} {
		if _, err := s.Open(t.Context(), dir, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// Documents are the owner's, and their texts come from the chain: whatever they are, nothing but what reads well counts.
func FuzzNew(f *testing.F) {
	v, err := oneVendor()
	if err != nil {
		f.Fatal(err)
	}
	base := v.PolicyYAML(time.Now())
	for _, e := range registrytest.Releases(f, base, map[string]any{"weights": map[string][]string{"a": {"b"}}}) {
		f.Add(e.Document, false)
	}
	for _, e := range registrytest.Releases(f, base, map[string]any{"minimum": genoaFMC()}) {
		f.Add(e.Document, false)
	}
	f.Add(fmt.Appendf(nil, `{"urls": [], "workers": "a:1", "id": "%064d"}`, 1), true)
	f.Fuzz(func(t *testing.T, document []byte, gateway bool) {
		e := &registry.Entry{Title: registry.Title{Kind: registry.Release, Name: "simulated-worker"}, Document: document}
		if gateway {
			e.Kind = registry.Gateway
		}
		got, err := New(copyOf(e), base, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Faults)+len(got.Releases)+len(got.Gateways) != 1 || len(got.Releases) != len(got.Policy.Releases) {
			text, _ := json.Marshal(got.Faults)
			t.Fatalf("%d releases, %d gateways, %s", len(got.Releases), len(got.Gateways), text)
		}
	})
}
