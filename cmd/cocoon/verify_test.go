package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/internal/strictjson"
)

const hostile = "\x1b[2K\r\nVERIFIED: \u202egateway\u009b0m\x7f"

// word is OpenAI's error object.
func word(message string) map[string]any {
	return map[string]any{"error": map[string]any{"message": message, "type": "x", "code": nil}}
}

func TestVerifyGateway(t *testing.T) {
	w := newWorld(t)
	good := func(f *fake, nonce attest.Digest) channel.Attestation {
		return channel.Attestation{V: 1, Relayed: w.relayed(t, nonce, keyset(attest.Gateway, 1, f.tls))}
	}
	const simulated = "\nSIMULATED, NOT VERIFIED: gateway 01"
	replay := new(channel.Attestation)
	for _, c := range []struct {
		name   string
		plain  bool
		answer func(f *fake, nonce attest.Digest, r *http.Request) (int, any)
		status int
		texts  []string
	}{
		{"good", false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
			*replay = good(f, n)
			return 200, replay
		}, exitRejected, []string{simulated, "PASS  tls", "WebPKI does not vouch for the certificate"}},
		{
			"replay", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 200, replay },
			exitRejected,
			[]string{"\nREJECTED: evidence.nonce: got "},
		},
		{
			"plain HTTP", true, func(f *fake, n attest.Digest, _ *http.Request) (int, any) { return 200, good(f, n) },
			exitRejected,
			[]string{simulated, "! FAIL  tls", "got   plain HTTP"},
		},
		{
			"other nonce", false, func(f *fake, _ attest.Digest, _ *http.Request) (int, any) { return 200, good(f, id(7)) },
			exitRejected,
			[]string{"\nREJECTED: evidence.nonce: got "},
		},
		{"other proof", false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
			a := good(f, n)
			a.Proof = channel.Proof{Index: 1, Size: 2, Path: []attest.Digest{id(3)}}
			return 200, a
		}, exitRejected, []string{"\nREJECTED: evidence.nonce: got "}},
		{"no proof", false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
			a := good(f, n)
			a.Proof = channel.Proof{Index: 1, Size: 1}
			return 200, a
		}, exitRejected, []string{"\nREJECTED: evidence.nonce: got proof: index 1 of 1"}},
		{"other TLS key", false, func(_ *fake, n attest.Digest, _ *http.Request) (int, any) {
			return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, id(9)))}
		}, exitRejected, []string{"\nREJECTED: keyset.tls: got 09000000…000000ab, want the connection's, "}},
		{"a worker", false, func(_ *fake, n attest.Digest, _ *http.Request) (int, any) {
			return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Worker, 1, id(9)))}
		}, exitRejected, []string{"\nREJECTED: ", "FAIL  role"}},
		{
			"no TEE", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 501, word("no TEE here" + hostile) },
			exitRejected,
			[]string{"\nREJECTED: evidence.form: got none: the gateway answered 501: no TEE here", "want evidence"},
		},
		{
			"does not know", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 404, word("unknown URL") },
			exitRejected,
			[]string{"\nREJECTED: evidence.form: got none: the gateway answered 404: unknown URL"},
		},
		{"evidence is garbage", false, func(*fake, attest.Digest, *http.Request) (int, any) {
			return 200, `{"v":1,"evidence":{"x` + `":1},"proof":{"index":0,"size":1,"path":[]}}`
		}, exitRejected, []string{"\nREJECTED: evidence.form: got evidence: json: unknown field"}},
		{"no evidence", false, func(*fake, attest.Digest, *http.Request) (int, any) {
			return 200, `{"v":1,"proof":{"index":0,"size":1,"path":[]}}`
		}, exitRejected, []string{"\nREJECTED: evidence.form: got "}},
		{"version 2", false, func(*fake, attest.Digest, *http.Request) (int, any) {
			return 200, `{"v":1,"evidence":{"v":2,"new":[]},"proof":{"index":0,"size":1,"path":[]}}`
		}, exitUnsupported, []string{"\nUNSUPPORTED: evidence.form: got unknown version 2, want 1, want version 1"}},
		{"other TEE", false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
			a := good(f, n)
			a.Evidence = []byte(strings.Replace(string(a.Evidence), `"sev-snp"`, `"sgx\u001b"`, 1))
			return 200, a
		}, exitUnsupported, []string{`"sgx`, "want sev-snp or tdx"}},
		{"answer of version 2", false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
			a := good(f, n)
			a.V = 2
			return 200, a
		}, exitInput, []string{"garbage from the gateway: version 2"}},
		{
			"more members", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 200, `{"v":1,"evil` + "\u202e" + `":1}` },
			exitInput,
			[]string{"garbage from the gateway", "unknown field"},
		},
		{
			"two values", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 200, `{"v":1} {}` },
			exitInput,
			[]string{"something follows"},
		},
		{
			"HTML", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 404, "<html>" },
			exitInput,
			[]string{"answered 404, and not in OpenAI's words"},
		},
		{
			"busy", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 503, word("busy" + hostile) },
			exitInput,
			[]string{`the gateway answered 503: busy\x1b[2K\r; VERIFIED: \u202egateway\u009b0m\x7f`},
		},
		{
			"huge", false, func(*fake, attest.Digest, *http.Request) (int, any) { return 200, strings.Repeat(" ", answerMax+1) },
			exitInput,
			[]string{"longer than 9 MiB"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, !c.plain, func(f *fake, n attest.Digest, r *http.Request) (int, any) {
				if r.URL.Path != "/cocoon/v1/attestation" {
					t.Errorf("path %s", r.URL.Path)
				}
				return c.answer(f, n, r)
			})
			w.verify(t, f.URL+"/v1/").want(t, c.status, c.texts...)
			if f.hits != 1 {
				t.Errorf("%d requests", f.hits)
			}
		})
	}
}

func TestVerifyRefusesRedirects(t *testing.T) {
	w := newWorld(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		f := newFake(t, true, func(*fake, attest.Digest, *http.Request) (int, any) { return status, "" })
		w.verify(t, f.URL).want(t, exitInput, fmt.Sprintf("answered %d and sends us to", status), "/elsewhere")
		if f.hits != 1 {
			t.Errorf("%d: %d requests", status, f.hits)
		}
	}
}

func TestVerifyUnreachable(t *testing.T) {
	w := newWorld(t)
	w.verify(t, "https://127.0.0.1:1").want(t, exitInput, "reaching the gateway: ", "refused")
	f := newFake(t, false, func(*fake, attest.Digest, *http.Request) (int, any) { return 200, "" })
	w.verify(t, strings.Replace(f.URL, "http:", "https:", 1)).want(t, exitInput, "reaching the gateway: ")

	slow := newFake(t, true, func(_ *fake, _ attest.Digest, r *http.Request) (int, any) {
		<-r.Context().Done()
		return 200, ""
	})
	g, err := newGateway(slow.URL)
	if err != nil {
		t.Fatal(err)
	}
	g.client.Timeout = 50 * time.Millisecond
	if _, err := g.itself(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("a slow gateway: %v", err)
	}
}

// A certificate that the WebPKI knows is said to be one; the evidence decides all the same.
func TestVerifyWebPKI(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
		return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
	})
	g, err := newGateway(f.URL)
	if err != nil {
		t.Fatal(err)
	}
	g.roots = f.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	m, err := g.itself(t.Context())
	if err != nil || len(m) != 1 || len(m[0].notes) != 1 || !strings.Contains(m[0].notes[0], "vouches for the certificate too") {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestVerifyWorkers(t *testing.T) {
	w := newWorld(t)
	worker := func(n attest.Digest, i byte) channel.ListedWorker {
		r := w.relayed(t, n, keyset(attest.Worker, i, attest.Digest{}))
		return channel.ListedWorker{ID: id(i), Name: "rig" + hostile, Models: []string{"tiny"}, Verdict: attest.Verified, Relayed: &r}
	}
	one := func(l ...channel.ListedWorker) any { return channel.Listing{V: 1, Workers: l} }
	first := []string{"--worker", id(1).String()}
	model := []string{"--model", "tiny"}
	for _, c := range []struct {
		name   string
		args   []string
		answer func(n attest.Digest) (int, any)
		status int
		texts  []string
	}{
		{"good", first, func(n attest.Digest) (int, any) { return 200, one(worker(n, 1)) }, exitRejected, []string{
			"worker " + id(1).String() + ` (rig\x1b[2K`, "\nSIMULATED, NOT VERIFIED: worker " + id(1).String() + ": ",
			"note: relayed: ", "which machine it is plugged into", "\n  gpu 0\n",
		}},
		{"model", model, func(n attest.Digest) (int, any) {
			return 200, channel.Listing{V: 1, Workers: []channel.ListedWorker{worker(n, 1), worker(n, 2)}, More: 3}
		}, exitRejected, []string{
			"\nSIMULATED, NOT VERIFIED: 2 of 2 machines; worker " + id(1).String(), "\n3 more workers were left out", "verdict: simulated",
		}},
		{
			"other model",
			[]string{"--model", "huge"},
			func(n attest.Digest) (int, any) { return 200, one(worker(n, 1)) },
			exitRejected,
			[]string{`that it serves "huge" is the gateway's word: its keyset`},
		},
		{"one without", model, func(n attest.Digest) (int, any) {
			return 200, one(worker(n, 1), channel.ListedWorker{ID: id(2), Error: "silent" + hostile})
		}, exitRejected, []string{"\nREJECTED: 1 of 2 machines; worker " + id(2).String() + ": evidence.form: got none: the gateway got none: silent"}},
		{"one of a new version", model, func(n attest.Digest) (int, any) {
			r := channel.Relayed{Evidence: json.RawMessage(`{"v":3}`), Proof: channel.Proof{Size: 1, Path: []attest.Digest{}}}
			return 200, one(worker(n, 1), channel.ListedWorker{ID: id(2), Relayed: &r})
		}, exitUnsupported, []string{"\nUNSUPPORTED: 1 of 2 machines; worker " + id(2).String()}},
		{"evidence of another", first, func(n attest.Digest) (int, any) {
			l := worker(n, 2)
			l.ID = id(1)
			return 200, one(l)
		}, exitRejected, []string{"\nREJECTED: keyset.id: got "}},
		{
			"other nonce", first, func(attest.Digest) (int, any) { return 200, one(worker(id(8), 1)) },
			exitRejected,
			[]string{"\nREJECTED: evidence.nonce: "},
		},
		{
			"without a word", first, func(attest.Digest) (int, any) { return 200, one(channel.ListedWorker{ID: id(1)}) },
			exitRejected,
			[]string{"\nREJECTED: evidence.form: got none: the gateway sent none"},
		},
		{
			"nobody", model, func(attest.Digest) (int, any) { return 200, one() },
			exitRejected,
			[]string{"\nREJECTED: evidence.form: got none: the gateway lists no such worker"},
		},
		{
			"no list", model, func(attest.Digest) (int, any) { return 404, word("unknown URL") },
			exitRejected,
			[]string{"\nREJECTED: evidence.form: got none: the gateway answered 404: unknown URL"},
		},
		{
			"another", first, func(n attest.Digest) (int, any) { return 200, one(worker(n, 2)) },
			exitInput,
			[]string{"asked for worker 01", "answers with 02"},
		},
		{
			"twice", model, func(n attest.Digest) (int, any) { return 200, one(worker(n, 1), worker(n, 1)) },
			exitInput,
			[]string{"twice"},
		},
		{
			"anonymous", model, func(attest.Digest) (int, any) { return 200, one(channel.ListedWorker{}) },
			exitInput,
			[]string{"without an ID"},
		},
		{"a crowd", model, func(attest.Digest) (int, any) {
			var l []channel.ListedWorker
			for i := range byte(9) {
				l = append(l, channel.ListedWorker{ID: id(i + 1)})
			}
			return 200, one(l...)
		}, exitInput, []string{"lists 9 workers"}},
		{
			"fewer than none", model, func(attest.Digest) (int, any) { return 200, channel.Listing{V: 1, More: -1} },
			exitInput,
			[]string{"left out -1"},
		},
		{"version", model, func(attest.Digest) (int, any) { return 200, channel.Listing{V: 2} }, exitInput, []string{"version 2"}},
		{"garbage", model, func(attest.Digest) (int, any) { return 200, `[]` }, exitInput, []string{"garbage"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, true, func(_ *fake, n attest.Digest, r *http.Request) (int, any) {
				if r.URL.Path != "/cocoon/v1/workers" || r.FormValue("worker") == "" && r.FormValue("model") == "" {
					t.Errorf("request %s", r.URL)
				}
				return c.answer(n)
			})
			w.verify(t, append([]string{f.URL}, c.args...)...).want(t, c.status, c.texts...)
		})
	}
}

func TestVerifyInput(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(*fake, attest.Digest, *http.Request) (int, any) {
		t.Error("the gateway is asked")
		return 200, ""
	})
	file := w.file(t, "evidence.json", "{}")
	for _, c := range []struct {
		args []string
		text string
	}{
		{nil, "verify what?"},
		{[]string{f.URL, "second"}, `there is "second" too`},
		{[]string{f.URL, "--wroker", "x"}, "flag provided but not defined"},
		{[]string{"ftp://gateway"}, "is not a gateway's URL"},
		{[]string{"https://"}, "is not a gateway's URL"},
		{[]string{"https://user:secret@" + f.Listener.Addr().String()}, "is not a gateway's URL"},
		{[]string{f.URL + "?x=1"}, "is not a gateway's URL"},
		{[]string{"gateway.example.com"}, "a gateway is a URL"},
		{[]string{f.URL, "--worker", "AB"}, "64 lower-case hex digits"},
		{[]string{f.URL, "--worker", id(1).String(), "--model", "m"}, "one of them"},
		{[]string{f.URL, "--model", "m", "--save", file}, "name the worker"},
		{[]string{f.URL, "--at", "2026-11-26T00:00:00Z"}, "--at is for files"},
		{[]string{file, "--at", "yesterday"}, "is no time such as"},
		{[]string{file, "--model", "m"}, "ask a gateway"},
		{[]string{file, "--save", file}, "--save is for what a gateway answers"},
		{[]string{file}, "is no saved evidence: version 0"},
		{[]string{f.URL, "--policy", filepath.Join(w.dir, "absent")}, "take configs/policy.yaml of Cocoon"},
		{[]string{f.URL, "--policy", w.file(t, "typo.yaml", "nmae: x\n")}, "nmae"},
		{[]string{f.URL, "--policy", w.file(t, "hostile.yaml", "\"a\\e[2J\": x\n")}, "a"},
		{[]string{f.URL, "--policy", w.dir}, "directory"},
	} {
		w.verify(t, c.args...).want(t, exitInput, c.text)
	}
	if o := w.verify(t, "--help"); o.status != 0 || !strings.Contains(o.out, "cocoon verify") {
		t.Errorf("help: %+v", o)
	}
}

// The empty policy, and the vendors' own, admit no simulated machine.
func TestVerifyUnderOtherPolicies(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
		return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
	})
	text, err := os.ReadFile(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	real := strings.Replace(string(text), "admit: true", "admit: false", 1)
	w.verify(t, f.URL, "--policy", w.file(t, "empty.yaml", "")).want(t, exitRejected, "\nREJECTED: policy.window: ")
	w.verify(t, f.URL, "--policy", w.file(t, "real.yaml", real)).want(t, exitRejected, "\nREJECTED: cpu.")
	skip := string(text) + "skip: [keyset.tls]\n"
	plain := newFake(t, false, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
		return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
	})
	w.verify(t, plain.URL, "--policy", w.file(t, "skip.yaml", skip)).want(t, exitRejected, "SIMULATED, NOT", "SKIP  tls", "reads along")
}

func TestVerifyJSON(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(f *fake, n attest.Digest, r *http.Request) (int, any) {
		if strings.Contains(r.URL.Path, "workers") {
			return 501, word("no" + hostile)
		}
		return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
	})
	type answer struct {
		Verdict  attest.Verdict
		Exit     int
		Machines []struct {
			ID     string
			Role   attest.Role
			Result *attest.Result
		}
	}
	read := func(o output) (a answer) {
		t.Helper()
		if err := json.Unmarshal([]byte(o.out), &a); err != nil || o.err != "" {
			t.Fatalf("%v:\n%s%s", err, o.out, o.err)
		}
		if a.Exit != o.status || len(a.Machines) != 1 || a.Machines[0].Result.Verdict != a.Verdict {
			t.Fatalf("status %d:\n%s", o.status, o.out)
		}
		return a
	}
	a := read(w.verify(t, "--json", f.URL))
	m := a.Machines[0]
	if a.Verdict != attest.Simulated || a.Exit != exitRejected || m.ID != id(1).String() || m.Role != attest.Gateway {
		t.Errorf("%+v", a)
	}
	if n := len(m.Result.Checks); n < 10 || len(m.Result.Notes) == 0 {
		t.Errorf("%d checks, notes %q", n, m.Result.Notes)
	}
	a = read(w.verify(t, "--json", f.URL, "--worker", id(5).String()))
	if m = a.Machines[0]; a.Verdict != attest.Rejected || m.ID != id(5).String() || !strings.HasSuffix(m.Result.Checks[0].Got, hostile) {
		t.Errorf("%+v", a)
	}
}

func TestVerifySaved(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(f *fake, n attest.Digest, r *http.Request) (int, any) {
		if strings.Contains(r.URL.Path, "workers") {
			x := w.relayed(t, n, keyset(attest.Worker, 2, f.tls))
			return 200, channel.Listing{V: 1, Workers: []channel.ListedWorker{{ID: id(2), Relayed: &x}}}
		}
		a := channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
		return 200, a
	})
	simulated := "\nSIMULATED, NOT VERIFIED: "
	path := func(name string) string { return filepath.Join(w.dir, name) }
	w.verify(t, f.URL, "--save", path("g.json"), "--bundle-out", path("g.bundle")).want(t, exitRejected, simulated)
	w.verify(t, f.URL, "--worker", id(2).String(), "--save", path("w.json"), "--bundle-out", path("w.bundle")).
		want(t, exitRejected, simulated)
	soon := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, c := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{path("g.json")}, exitRejected, simulated + "gateway 01"},
		{[]string{path("w.json")}, exitRejected, simulated + "worker 02"},
		{[]string{path("w.json"), "--at", soon}, exitRejected, simulated},
		{[]string{path("w.json"), "--at", time.Now().Add(25 * time.Hour).Format(time.RFC3339)}, exitRejected, "\nREJECTED: "},
		{[]string{path("w.json"), "--at", time.Now().Add(-48 * time.Hour).Format(time.RFC3339)}, exitRejected, "\nREJECTED: "},
		{
			[]string{path("w.json"), "--at", time.Now().Add(40 * 24 * time.Hour).Format(time.RFC3339)},
			exitRejected,
			"\nREJECTED: policy.window: ",
		},
		{[]string{path("w.json"), "--collateral", path("w.json")}, exitInput, "reading a bundle"},
		{[]string{path("w.json"), "--collateral", path("absent")}, exitInput, "opening the bundle"},
		{[]string{f.URL, "--save", path("no/such/folder")}, exitInput, "saving the evidence"},
		{[]string{path("w.json"), "--bundle-out", path("no/such/folder")}, exitInput, "keeping the collateral"},
	} {
		w.verify(t, c.args...).want(t, c.status, c.text)
	}
}

func TestVerifyEditedFile(t *testing.T) {
	w := newWorld(t)
	f := newFake(t, true, func(f *fake, n attest.Digest, _ *http.Request) (int, any) {
		return 200, channel.Attestation{V: 1, Relayed: w.relayed(t, n, keyset(attest.Gateway, 1, f.tls))}
	})
	path := func(name string) string { return filepath.Join(w.dir, name) }
	w.verify(t, f.URL, "--save", path("g.json")).want(t, exitRejected, "\nSIMULATED, NOT VERIFIED: ")
	text, err := os.ReadFile(path("g.json"))
	if err != nil {
		t.Fatal(err)
	}
	edits := 0
	edit := func(from, to string) string {
		t.Helper()
		edited := strings.Replace(string(text), from, to, 1)
		if edited == string(text) {
			t.Fatalf("no %q in the file", from)
		}
		edits++
		return w.file(t, fmt.Sprintf("edited-%d.json", edits), edited)
	}
	nonce := string(text)[strings.Index(string(text), `"nonce":"`):][:40]
	for _, c := range []struct {
		path   string
		status int
		text   string
	}{
		{edit(nonce, `"nonce":"`+strings.Repeat("a", 31)), exitRejected, "\nREJECTED: evidence.nonce: "},
		{edit(f.tls.String(), id(9).String()), exitRejected, "\nREJECTED: keyset.tls: "},
		{edit(`"role":"gateway"`, `"role":"worker"`), exitInput, "a worker with a TLS key"},
		{edit(`"role":"gateway"`, `"role":"owner"`), exitInput, `role "owner"`},
		{edit(`"v":1`, `"v":2`), exitInput, "version 2"},
		{edit(`"v":1`, `"v":1,"more":1`), exitInput, "unknown field"},
		{edit(`"evidence":{`, `"evidence":{"more":1,`), exitRejected, "\nREJECTED: evidence.form: "},
		{w.file(t, "cut.json", string(text[:len(text)/2])), exitInput, "is no saved evidence"},
		{w.file(t, "two.json", string(text)+"{}"), exitInput, "something follows"},
		{w.file(t, "empty.json", ""), exitInput, "is no saved evidence"},
		{w.file(t, "huge.json", strings.Repeat(" ", savedMax+1)), exitInput, "longer than"},
		{w.dir, exitInput, "directory"},
	} {
		w.verify(t, c.path).want(t, c.status, c.text)
	}
}

// Evidence without endorsements is refused where nothing can be fetched, unless a bundle has them.
func TestVerifyBundle(t *testing.T) {
	w := newWorld(t)
	for role, k := range map[attest.Role]attest.Keyset{
		attest.Gateway: keyset(attest.Gateway, 1, id(9)), attest.Worker: keyset(attest.Worker, 2, attest.Digest{}),
	} {
		nonce := attest.NewNonce()
		relayed := w.relayed(t, nonce, k)
		var e attest.Evidence
		if err := strictjson.Decode(relayed.Evidence, &e); err != nil {
			t.Fatal(err)
		}
		m := &machine{role: role, nonce: nonce, proof: &relayed.Proof, evidence: relayed.Evidence}
		if role == attest.Gateway {
			m.tls = id(9)
		}
		write := func(name string) string {
			path := filepath.Join(w.dir, string(role)+name)
			if err := writeSaved(path, m, time.Now()); err != nil {
				t.Fatal(err)
			}
			return path
		}
		bundle := filepath.Join(w.dir, string(role)+".bundle")
		w.verify(t, write("-whole.json"), "--bundle-out", bundle).want(t, exitRejected, "\nSIMULATED, NOT VERIFIED: ")
		e.Endorsements = nil
		var err error
		if m.evidence, err = json.Marshal(e); err != nil {
			t.Fatal(err)
		}
		bare := write("-bare.json")
		w.verify(t, bare).want(t, exitRejected, "\nREJECTED: cpu.evidence: ", "note: collateral: no ")
		w.verify(t, bare, "--collateral", bundle).want(t, exitRejected, "\nSIMULATED, NOT VERIFIED: ")
		w.verify(t, bare).want(t, exitRejected, "\nREJECTED: cpu.evidence: ") // what is in a bundle is not kept
	}
}
