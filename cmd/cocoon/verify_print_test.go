package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/internal/strictjson"
)

// made is a machine with a made-up result: nothing that is simulated is ever verified.
func made(n byte, v attest.Verdict, checks ...attest.Check) *machine {
	at := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	return &machine{role: attest.Worker, id: id(n), result: &attest.Result{
		Verdict: v, Role: attest.Worker, Checks: checks, Policy: "mine", At: at, Expires: at.Add(time.Duration(n) * time.Minute),
	}}
}

func TestVerdicts(t *testing.T) {
	bad := attest.Check{Name: "cpu.debug", Outcome: attest.Fail, Got: "on", Want: "off"}
	vmpl := attest.Check{Name: "cpu.vmpl", Outcome: attest.Fail, Got: "3", Want: "at most 0"}
	skip := attest.Check{Name: "gpu.0.ocsp", Outcome: attest.Skip}
	one, two := "worker "+id(1).String(), "worker "+id(2).String()
	for _, c := range []struct {
		machines []*machine
		verdict  attest.Verdict
		status   int
		line     string
	}{
		{nil, attest.Rejected, 10, "REJECTED: there is nothing to judge"},
		{[]*machine{made(1, attest.Verified)}, attest.Verified, 0, "VERIFIED: " + one + ", under policy mine, until 2026-11-26T12:01:00Z"},
		{
			[]*machine{made(1, attest.Verified, skip)},
			attest.Verified, 0,
			"VERIFIED: " + one + ", under policy mine, until 2026-11-26T12:01:00Z; checks skipped, as the policy allows: 1",
		},
		{
			[]*machine{made(2, attest.Verified), made(1, attest.Verified)},
			attest.Verified, 0,
			"VERIFIED: 2 machines, under policy mine, until 2026-11-26T12:01:00Z",
		},
		{[]*machine{made(1, attest.Simulated)}, attest.Simulated, 10, "SIMULATED, NOT VERIFIED: " + one + ": simulated hardware proves nothing"},
		{
			[]*machine{made(1, attest.Verified), made(2, attest.Simulated)},
			attest.Simulated, 10,
			"SIMULATED, NOT VERIFIED: 1 of 2 machines; " + two + ": simulated hardware proves nothing",
		},
		{[]*machine{made(1, attest.Rejected, bad)}, attest.Rejected, 10, "REJECTED: cpu.debug: got on, want off"},
		{[]*machine{made(1, attest.Rejected, bad, vmpl)}, attest.Rejected, 10, "REJECTED: cpu.debug: got on, want off (and 1 more)"},
		{[]*machine{made(1, attest.Rejected)}, attest.Rejected, 10, "REJECTED: no check says why"},
		{[]*machine{made(1, attest.Unsupported, vmpl)}, attest.Unsupported, 20, "UNSUPPORTED: cpu.vmpl: got 3, want at most 0"},
		{
			[]*machine{made(1, attest.Simulated), made(2, attest.Unsupported, vmpl)},
			attest.Unsupported, 20,
			"UNSUPPORTED: 1 of 2 machines; " + two + ": cpu.vmpl: got 3, want at most 0",
		},
		{
			[]*machine{made(1, attest.Unsupported, vmpl), made(2, attest.Rejected, bad)},
			attest.Rejected, 10,
			"REJECTED: 1 of 2 machines; " + two + ": cpu.debug: got on, want off",
		},
		{[]*machine{made(1, "fine"), made(2, attest.Verified)}, attest.Rejected, 10, "REJECTED: 1 of 2 machines; " + one + ": no check says why"},
		{[]*machine{made(1, "")}, attest.Rejected, 10, "REJECTED: no check says why"},
	} {
		verdict, line := verdictLine(c.machines)
		if verdict != c.verdict || line != c.line {
			t.Errorf("%s: %q, want %s: %q", verdict, line, c.verdict, c.line)
		}
		if verdict, status := sumUp(c.machines); verdict != c.verdict || status != c.status {
			t.Errorf("%s: sums up to %s, %d, want %d", c.line, verdict, status, c.status)
		}
	}
}

// A failure that was found here undoes a verdict.
func TestFinishRejects(t *testing.T) {
	j := &judge{policy: new(attest.Policy)}
	m := made(1, attest.Verified)
	if r := j.finish(m, m.result); r.Verdict != attest.Verified {
		t.Errorf("a worker: %s", r.Verdict)
	}
	m = made(1, attest.Verified)
	m.role = attest.Gateway
	if r := j.finish(m, m.result); r.Verdict != attest.Rejected || len(r.Failures()) != 1 {
		t.Errorf("a gateway without TLS: %s, %v", r.Verdict, r.Checks)
	}
	m = made(1, attest.Verified, attest.Check{Name: "x", Outcome: attest.Fail})
	if r := j.finish(m, m.result); r.Verdict != attest.Rejected {
		t.Errorf("a failed check: %s", r.Verdict)
	}
}

func TestReport(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 4)
	m := made(1, attest.Verified,
		attest.Check{Name: "cpu.root", Outcome: attest.Pass, Got: "AMD ARK-Genoa", Want: "the vendor's", Root: "AMD ARK-Genoa"},
		attest.Check{Name: "gpu.0.driver", Outcome: attest.Pass, Got: "580", Want: "580", Root: "NVIDIA", Until: time.Unix(0, 0)},
		attest.Check{Name: "gpu.0.ocsp", Outcome: attest.Skip, Got: "none"},
		attest.Check{Name: "cpu.long", Outcome: attest.Fail, Got: hex + "\x1b[1m", Want: strings.Repeat("é", cellMax+1)},
	)
	m.name, m.result.Notes, m.result.Claims.Chips = "rig-1", []string{"two\nlines"}, []string{"snp:" + hex}
	want := `worker ` + id(1).String() + ` (rig-1)
  under policy mine (sha256 00000000…00000000) at 2026-11-26T12:00:00Z
  cpu
    PASS  root  AMD ARK-Genoa (want the vendor's)
  ! FAIL  long  got   01234567…89abcdef\x1b[1m
                want  ` + strings.Repeat("é", cellMax) + `…
  gpu 0
    PASS  driver  580, by NVIDIA, until 1970-01-01T00:00:00Z
    SKIP  ocsp    none
  chip: snp:` + hex + `
  note: two\nlines

VERIFIED: worker ` + id(1).String() + `, under policy mine, until 2026-11-26T12:01:00Z; checks skipped, as the policy allows: 1
`
	var b bytes.Buffer
	if err := (&printer{out: &b}).all([]*machine{m}, 0); err != nil || b.String() != want {
		t.Errorf("%v: got\n%s\nwant\n%s", err, b.String(), want)
	}
	var painted bytes.Buffer
	if err := (&printer{out: &painted, colour: true}).all([]*machine{m}, 0); err != nil {
		t.Fatal(err)
	}
	plain := painted.String()
	for _, code := range []string{"\x1b[32m", "\x1b[1;31m", "\x1b[33m", "\x1b[0m"} {
		if !strings.Contains(plain, code) {
			t.Errorf("no %q on a terminal", code)
		}
		plain = strings.ReplaceAll(plain, code, "")
	}
	if plain != want {
		t.Errorf("with colours:\n%s", plain)
	}
}

// report ends with the status, prints to a file without colours, and says it when it can't print.
func TestReportEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := report(out, []*machine{made(1, attest.Verified)}, 0, false); err != nil {
		t.Errorf("verified: %v", err)
	}
	err = report(out, []*machine{made(1, attest.Verified), made(2, attest.Unsupported)}, 0, true)
	if e, ok := errors.AsType[*statusError](err); !ok || e.status != exitUnsupported || e.err != nil {
		t.Errorf("unsupported: %v", err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if err := report(out, []*machine{made(1, attest.Verified)}, 0, false); err == nil || !strings.Contains(err.Error(), "writing the verdict") {
		t.Errorf("no output, but %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "\nVERIFIED: ") || strings.Contains(string(text), "\x1b") {
		t.Errorf("%v: %q", err, text)
	}
}

// FuzzListing has a hostile gateway answer: nothing is verified, nothing but text reaches the terminal.
func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"v":1,"workers":[{"id":"` + id(1).String() + `","name":"\u001b","models":[],"verdict":"verified",` +
		`"policy":"","at":"2026-11-26T00:00:00Z","expires":"2026-11-26T00:00:00Z","evidence":{"v":1},` +
		`"proof":{"index":0,"size":1,"path":[]}}],"more":0}`))
	f.Add([]byte(`{"v":1,"workers":[{"id":"` + id(1).String() + `","error":"\u202e\nVERIFIED: "}],"more":1}`))
	f.Add([]byte(`{"v":1,"workers":[{"id":"` + id(1).String() + `","evidence":{"v":2},"proof":{"size":1}}]}`))
	j := offlineJudge(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var l channel.Listing
		if strictjson.Decode(text, &l) != nil || checkListing(&l, attest.Digest{}) != nil {
			return
		}
		var machines []*machine
		for i := range l.Workers {
			m := listed(&l.Workers[i], id(1), "tiny")
			m.result = j.appraise(t.Context(), m, time.Now())
			machines = append(machines, m)
		}
		checkHostile(t, machines, l.More)
	})
}

// FuzzSaved judges files that others made.
func FuzzSaved(f *testing.F) {
	f.Add([]byte(`{"v":1,"role":"worker","nonce":"` + id(1).String() + `","proof":{"index":0,"size":1,"path":[]},` +
		`"tls_spki_sha256":"` + attest.Digest{}.String() + `","evidence":{"v":1},"at":"2026-11-26T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"role":"worker","nonce":"` + id(1).String() + `","binder":"` + id(2).String() + `",` +
		`"evidence":{"v":1},"at":"2026-11-26T00:00:00Z"}`))
	f.Add([]byte(`{"v":1,"role":"gateway","nonce":"00"}`))
	j := offlineJudge(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseSaved(text)
		if err != nil {
			return
		}
		m.result = j.appraise(t.Context(), m, time.Now())
		checkHostile(t, []*machine{m}, 0)
	})
}

// offlineJudge goes by the empty policy, and fetches nothing.
func offlineJudge(f *testing.F) *judge {
	f.Helper()
	policy, err := attest.ParsePolicy(nil)
	if err != nil {
		f.Fatal(err)
	}
	shelf, err := newShelf(&verifyOptions{cache: f.TempDir()}, policy)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := shelf.complete(context.Background(), new(attest.Evidence), time.Now()); err == nil {
		f.Fatal("nothing is missing")
	}
	return &judge{policy, shelf}
}

func checkHostile(t *testing.T, machines []*machine, more int) {
	t.Helper()
	verdict, status := sumUp(machines)
	if verdict.Admits() || status == 0 {
		t.Errorf("%s, status %d", verdict, status)
	}
	var tree, object bytes.Buffer
	if err := errors.Join((&printer{out: &tree}).all(machines, more), printJSON(&object, machines, verdict, status)); err != nil {
		t.Error(err)
	}
	for _, r := range tree.String() + object.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q reaches the terminal", r)
		}
	}
	if strings.Contains("\n"+tree.String(), "\nVERIFIED") || !json.Valid(object.Bytes()) {
		t.Errorf("%s%s", tree.String(), object.String())
	}
}

func TestGatewayURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://g.example.com": "https://g.example.com", "https://g.example.com/v1": "https://g.example.com",
		"http://127.0.0.1:8080/v1/": "http://127.0.0.1:8080", "https://g/under/v1": "https://g/under",
		"https://g/v1x": "https://g/v1x", "g.example.com": "", "file:///etc": "", "https://u@g": "", "https://g/?q": "",
		"https://g/#f": "", "https://": "", "https://g\x00": "",
	} {
		u, err := gatewayURL(text)
		if want == "" && err == nil || want != "" && (err != nil || u.String() != want) {
			t.Errorf("%q: %v, %v, want %q", text, u, err, want)
		}
	}
}
