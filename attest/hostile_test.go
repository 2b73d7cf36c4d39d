package attest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/nvgpu"
	"cocoon/attest/opinion"
	"cocoon/attest/snp"
)

// Every bit that is changed in what counts is noticed: bytes of the CPU's report, the keyset and the devices, other ones
// in each run (the verifiers' own tests try all of a report's).
func TestEveryByteCounts(t *testing.T) {
	const samples = 40
	for _, k := range []kind{small, td} {
		w := newWorld(k)
		good := w.evidence(t)
		policy, c := w.parsed(t), sorted(t, good.Endorsements)
		if r := policy.Appraise(good, c, w.set); !r.Verdict.Admits() {
			t.Fatal(tell(r))
		}
		for part, of := range map[string]func(*attest.Evidence) *[]byte{
			"cpu":     func(e *attest.Evidence) *[]byte { return &e.CPU },
			"keyset":  func(e *attest.Evidence) *[]byte { return &e.Keyset },
			"devices": func(e *attest.Evidence) *[]byte { return &e.Devices },
		} {
			n := len(*of(good))
			for i := rand.IntN(1 + n/samples); i < n; i += 1 + n/samples {
				e := *good
				b := bytes.Clone(*of(good))
				b[i] ^= 1 << rand.IntN(8)
				*of(&e) = b
				if r := policy.Appraise(&e, c, w.set); r.Verdict.Admits() || len(r.Failures()) == 0 {
					t.Fatalf("%s %s: byte %d of %d changed to %#x, and admitted\n%s", k, part, i, n, b[i], tell(r))
				}
			}
			for _, cut := range []int{0, 1, n / 2, n - 1} {
				e := *good
				*of(&e) = (*of(good))[:cut]
				if r := policy.Appraise(&e, c, w.set); r.Verdict.Admits() {
					t.Fatalf("%s %s: cut to %d of %d, and admitted", k, part, cut, n)
				}
			}
			e := *good
			*of(&e) = append(bytes.Clone(*of(good)), ' ')
			if r := policy.Appraise(&e, c, w.set); r.Verdict.Admits() {
				t.Fatalf("%s %s: longer, and admitted", k, part)
			}
		}
	}
}

// Parts of one machine's evidence are nothing in another's.
func TestSwappedParts(t *testing.T) {
	two := small
	two.gpus = 2
	w, other := newWorld(two), newWorld(two)
	mine, theirs := w.evidence(t), other.evidence(t)
	c := sorted(t, slices.Concat(mine.Endorsements, theirs.Endorsements))
	policy := w.parsed(t)
	for name, change := range map[string]func(e *attest.Evidence) []string{
		"nothing": func(*attest.Evidence) []string { return nil },
		"the whole CPU": func(e *attest.Evidence) []string {
			e.CPU = theirs.CPU
			return []string{"cpu.report_data", "gpu.evidence"}
		},
		"devices": func(e *attest.Evidence) []string {
			e.Devices = theirs.Devices
			return []string{"cpu.report_data", "gpu.evidence"}
		},
		"TEE": func(e *attest.Evidence) []string {
			e.TEE = attest.TDX
			return []string{"cpu.evidence", "cpu.report_data", "gpu.evidence"}
		},
		"order of devices": func(e *attest.Evidence) []string {
			var list []attest.Device
			if err := json.Unmarshal(e.Devices, &list); err != nil {
				t.Fatal(err)
			}
			slices.Reverse(list)
			e.Devices = must(json.Marshal(list))
			return []string{"cpu.report_data", "gpu.evidence"}
		},
	} {
		e := *mine
		want := change(&e)
		r := policy.Appraise(&e, c, w.set)
		if got := failed(r); !slices.Equal(got, want) || r.Verdict.Admits() != (want == nil) {
			t.Errorf("%s: %s, failed %q, want %q", name, r.Verdict, got, want)
		}
	}
}

// Devices that are in the list, and hashed, but not what they should be.
type lying struct {
	*world
	change func([]attest.Device) []attest.Device
}

func (l lying) Devices(ctx context.Context, nonce attest.Digest) ([]attest.Device, []attest.Item, error) {
	d, items, err := l.world.Devices(ctx, nonce)
	return l.change(d), items, err
}

func TestLyingList(t *testing.T) {
	two := small
	two.gpus = 2
	w := newWorld(two)
	stranger := newWorld(small)
	old, _, err := stranger.Devices(t.Context(), attest.Digest{99})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func([]attest.Device) []attest.Device{
		"one twice":                   func(d []attest.Device) []attest.Device { return []attest.Device{d[0], d[0]} },
		"one of another nonce":        func(d []attest.Device) []attest.Device { return append(d, old[0]) },
		"chains swapped":              func(d []attest.Device) []attest.Device { d[0].Chain, d[1].Chain = d[1].Chain, d[0].Chain; return d },
		"more than there can be":      func(d []attest.Device) []attest.Device { return slices.Repeat(d, nvgpu.DevicesMax) },
		"one without evidence":        func(d []attest.Device) []attest.Device { return append(d, attest.Device{}) },
		"garbage in place of a chain": func(d []attest.Device) []attest.Device { d[1].Chain = []byte("x"); return d },
	} {
		e, err := attest.Collect(t.Context(), lying{w, change}, must(json.Marshal(w.keyset)), attest.Digest{5}, w.binder)
		if err != nil {
			t.Fatal(err)
		}
		c := sorted(t, append(e.Endorsements, must2(stranger.Devices(t.Context(), attest.Digest{5}))...))
		r := w.parsed(t).Appraise(e, c, w.set)
		if got := failed(r); !slices.Equal(got, []string{"gpu.evidence"}) || r.Verdict != attest.Rejected {
			t.Errorf("%s: %s, failed %q\n%s", name, r.Verdict, got, tell(r))
		}
	}
}

func must2[A any](_ A, items []attest.Item, err error) []attest.Item {
	if err != nil {
		panic(err)
	}
	return items
}

// Nothing that a caller may hand over by mistake is admitted, and nothing panics.
func TestNothing(t *testing.T) {
	w := newWorld(small)
	e := w.evidence(t)
	c, policy := sorted(t, e.Endorsements), w.parsed(t)
	empty := must(attest.ParsePolicy(nil))
	for name, r := range map[string]*attest.Result{
		"no evidence":    policy.Appraise(nil, c, w.set),
		"empty evidence": policy.Appraise(new(attest.Evidence), c, w.set),
		"no collateral":  policy.Appraise(e, attest.Collateral{}, w.set),
		"no setting":     policy.Appraise(e, c, attest.Setting{}),
		"empty policy":   empty.Appraise(e, c, w.set),
		"no policy":      (*attest.Policy)(nil).Appraise(e, c, w.set),
		"zero policy":    new(attest.Policy).Appraise(e, c, w.set),
		"a policy by hand": (&attest.Policy{
			NotBefore: policy.NotBefore, NotAfter: policy.NotAfter, Session: time.Minute, Releases: policy.Releases,
			SNP: policy.SNP, GPU: policy.GPU,
		}).Appraise(e, c, w.set),
		"no result":   policy.Rejudge(nil, simNow),
		"zero result": policy.Rejudge(new(attest.Result), simNow),
		"verified, it says": policy.Rejudge(&attest.Result{
			Verdict: attest.Verified, Expires: simNow.Add(time.Hour), Role: attest.Worker,
		}, simNow),
	} {
		if r.Verdict != attest.Rejected && name != "empty evidence" && name != "no evidence" || r.Verdict.Admits() {
			t.Errorf("%s: %s\n%s", name, r.Verdict, tell(r))
		}
	}
}

// A result that went through JSON has lost what Rejudge goes by.
func TestResultJSON(t *testing.T) {
	for _, k := range []kind{small, td} {
		w := newWorld(k)
		r := w.appraise(t)
		text := must(json.Marshal(r))
		if len(text) > 20<<10 || bytes.Contains(text, []byte("0,0,0,0")) {
			t.Errorf("JSON of %d bytes: %s", len(text), text)
		}
		back := new(attest.Result)
		if err := json.Unmarshal(text, back); err != nil {
			t.Fatal(err)
		}
		if back.Verdict != attest.Simulated || len(back.Checks) != len(r.Checks) || len(back.Claims.Hardware) != 2 ||
			len(back.Claims.Chips) != 2 || back.Release != "worker-1" || back.Claims.Keyset.ID != w.keyset.ID {
			t.Errorf("got %s", text)
		}
		if again := w.parsed(t).Rejudge(back, simNow); again.Verdict != attest.Rejected {
			t.Errorf("without the vendors' claims: %s", again.Verdict)
		}
	}
}

// Kinds and versions that nothing here verifies.
func TestUnsupported(t *testing.T) {
	w := newWorld(vm)
	good := w.evidence(t)
	c, policy := sorted(t, good.Endorsements), w.parsed(t)
	tdw := newWorld(tdvm)
	quote := tdw.evidence(t)
	for name, e := range map[string]*attest.Evidence{
		"TEE":            {V: 1, Nonce: good.Nonce, TEE: "cca", CPU: good.CPU, Keyset: good.Keyset, Devices: good.Devices},
		"version":        {V: 2, Nonce: good.Nonce, TEE: good.TEE, CPU: good.CPU, Keyset: good.Keyset, Devices: good.Devices},
		"report version": {V: 1, Nonce: good.Nonce, TEE: good.TEE, CPU: append([]byte{6}, good.CPU[1:]...), Keyset: good.Keyset, Devices: good.Devices},
		"quote version":  {V: 1, Nonce: good.Nonce, TEE: attest.TDX, CPU: append([]byte{6}, quote.CPU[1:]...), Keyset: good.Keyset, Devices: good.Devices},
	} {
		r := policy.Appraise(e, c, w.set)
		if r.Verdict != attest.Unsupported || len(r.Failures()) == 0 {
			t.Errorf("%s: %s\n%s", name, r.Verdict, tell(r))
		}
		if again := policy.Rejudge(r, simNow); again.Verdict != attest.Unsupported {
			t.Errorf("%s, judged again: %s", name, again.Verdict)
		}
	}
}

// Names of checks are those of the table, in its order.
func TestCheckNames(t *testing.T) {
	node := kind{tee: attest.SNP, line: snp.Genoa, gpus: 2, switchs: 1, arch: nvgpu.Hopper, role: attest.Worker}
	table := attest.CheckNames()
	number := regexp.MustCompile(`gpu\.\d+`)
	seen := map[string]bool{}
	for _, k := range []kind{small, vm, td, tdvm, node} {
		w := newWorld(k)
		w.policy = []string{"simulated:", "chips: {allow: [tdx:" + strings.Repeat("0", 32) + "]}\n" +
			"workers: {allow: [" + attest.Digest{1}.String() + "]}\nsimulated:"}
		last, device := -1, ""
		for _, c := range w.appraise(t).Checks {
			name := number.ReplaceAllString(c.Name, "gpu.%d")
			at := slices.Index(table, name)
			if d := number.FindString(c.Name); d != device {
				device, last = d, min(last, slices.Index(table, "gpu.%d.root")-1)
			}
			if at < 0 || at <= last {
				t.Errorf("%s: %s is not in the table, or not in order", k, c.Name)
			}
			last = max(at, last)
			seen[name] = true
		}
	}
	for _, name := range table {
		if !seen[name] {
			t.Errorf("%s is in the table, and nothing checks it", name)
		}
	}
}

func TestGuarded(t *testing.T) {
	if err := attest.Guarded(func() error { panic("oops") }); err == nil || !strings.Contains(err.Error(), "oops") {
		t.Errorf("got %v", err)
	}
	got := attest.Words("a\x1b[31m\n\xff\u202e" + strings.Repeat("b", 1000))
	if !strings.HasPrefix(got, "a?[31m???bbb") || len(got) > 500 {
		t.Errorf("got %q", got)
	}
}

// Another verifier that objects, says what nobody knows, or crashes, is heard.
func TestOpinionCheck(t *testing.T) {
	for stance, want := range map[opinion.Stance]attest.Outcome{
		opinion.Agrees: attest.Pass, opinion.Abstains: attest.Pass, opinion.Disagrees: attest.Fail, "": attest.Fail, "x": attest.Fail,
	} {
		c := attest.OpinionCheck(func() opinion.Opinion { return opinion.Opinion{Stance: stance, Library: "lib", Reason: "why"} })
		said := strings.Contains(c.Got, "why") || stance == opinion.Agrees
		if c.Name != attest.CheckSecondOpinion || c.Outcome != want || !said || !strings.Contains(c.Got, "lib") {
			t.Errorf("%q: %+v", stance, c)
		}
	}
	if c := attest.OpinionCheck(func() opinion.Opinion { panic("oops") }); c.Outcome != attest.Fail || !strings.Contains(c.Got, "oops") {
		t.Errorf("%+v", c)
	}
}
