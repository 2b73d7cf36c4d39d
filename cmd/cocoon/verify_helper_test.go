package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/simtee"
)

// hardware is a simulated vendor with one machine of each role.
type hardware struct {
	vendor  *simtee.Vendor
	machine map[attest.Role]*simtee.Machine
}

// sharedHardware is of all tests: making it takes seconds, and nothing changes it.
var sharedHardware = sync.OnceValues(func() (*hardware, error) {
	vendor, err := simtee.New(time.Now())
	if err != nil {
		return nil, err
	}
	h := &hardware{vendor, map[attest.Role]*simtee.Machine{}}
	for _, role := range []attest.Role{attest.Gateway, attest.Worker} {
		if h.machine[role], err = vendor.NewMachine(simtee.Config{Role: role}); err != nil {
			return nil, err
		}
	}
	return h, nil
})

// world is simulated hardware, and the user's folder.
type world struct {
	*hardware
	dir    string
	policy string // file that admits the machines, as simulated
}

func newWorld(t *testing.T) *world {
	t.Helper()
	h, err := sharedHardware()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{hardware: h, dir: t.TempDir()}
	w.policy = w.file(t, "policy.yaml", string(h.vendor.PolicyYAML(time.Now())))
	return w
}

func (w *world) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// id is a machine's ID in these tests.
func id(n byte) attest.Digest { return attest.Digest{0: n, 31: 0xab} }

// keyset is one of a machine, valid for a day.
func keyset(role attest.Role, n byte, tls attest.Digest) attest.Keyset {
	now := time.Now().UTC()
	k := attest.Keyset{
		V: attest.Version, Role: role, ID: id(n), Epoch: 1, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(23 * time.Hour), TLS: tls,
	}
	if role == attest.Worker {
		k.TLS, k.Receipt, k.HPKE = id(n), make([]byte, 32), &attest.HPKEKey{KEM: 32, Public: []byte{1}}
		k.Models = []attest.Model{{Name: "tiny"}}
	}
	return k
}

// relayed is a machine's fresh evidence, one nonce of two in a tree.
func (w *world) relayed(t *testing.T, nonce attest.Digest, k attest.Keyset) channel.Relayed {
	text, err := json.Marshal(k)
	if err != nil {
		t.Error(err)
	}
	b := channel.Batcher{Max: 2, Make: func(ctx context.Context, root attest.Digest) ([]byte, error) {
		e, err := attest.Collect(ctx, w.machine[k.Role], text, root, attest.Digest{})
		if err != nil {
			return nil, err
		}
		return json.Marshal(e)
	}}
	evidence, proof, err := b.Get(t.Context(), nonce)
	if err != nil {
		t.Error(err)
	}
	return channel.Relayed{Evidence: evidence, Proof: proof}
}

// fake is a gateway: it answers what answer says, as JSON if it is no string.
type fake struct {
	*httptest.Server
	tls  attest.Digest // of its key; zero: plain HTTP
	hits int
}

func newFake(t *testing.T, secure bool, answer func(f *fake, nonce attest.Digest, r *http.Request) (int, any)) *fake {
	t.Helper()
	f := new(fake)
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.hits++
		nonce, err := attest.ParseDigest(r.FormValue("nonce"))
		if err != nil {
			t.Errorf("%s: nonce: %v", r.URL, err)
		}
		if r.Header.Get("Authorization") != "" || r.Method != http.MethodGet {
			t.Errorf("%s %s with a key, or not to be read only", r.Method, r.URL)
		}
		status, body := answer(f, nonce, r)
		if status >= 300 && status < 400 {
			w.Header().Set("Location", f.URL+"/elsewhere")
		}
		w.WriteHeader(status)
		if text, ok := body.(string); ok {
			_, _ = w.Write([]byte(text)) // the client may be gone
			return
		}
		if err := json.NewEncoder(w).Encode(body); err != nil && status == http.StatusOK {
			t.Log(err)
		}
	}))
	if secure {
		f.StartTLS()
		f.tls = sha256.Sum256(f.Certificate().RawSubjectPublicKeyInfo)
	} else {
		f.Start()
	}
	t.Cleanup(f.Close)
	return f
}

// output is what a run of the program printed.
type output struct {
	status   int
	out, err string
}

// last is the last line of the output.
func (o output) last() string {
	lines := strings.Split(strings.TrimSuffix(o.out, "\n"), "\n")
	return lines[len(lines)-1]
}

// verify runs the command without any network but the gateway's.
func (w *world) verify(t *testing.T, args ...string) output {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	before := []string{"verify", "--policy", w.policy}
	if !slices.Contains(args, "--collateral") {
		before = append(before, "--fetch=false", "--cache", w.dir)
	}
	status := run(append(before, args...), streams{out: files[0], err: files[1]})
	read := func(f *os.File) string {
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	o := output{status, read(files[0]), read(files[1])}
	if strings.HasPrefix(o.out, "VERIFIED") || strings.Contains(o.out, "\nVERIFIED") || strings.Contains(o.out, `"verified"`) {
		t.Errorf("a simulated machine is verified:\n%s", o.out)
	}
	for _, r := range o.out + o.err {
		if r < ' ' && r != '\n' || r == '\u202e' || r == '\u009b' || r == 0x7f {
			t.Errorf("%q reaches the terminal:\n%q", r, o.out+o.err)
		}
	}
	return o
}

// want checks how a run ended: last is a pattern of the last line, text must be somewhere in the output.
func (o output) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if o.status != status {
		t.Errorf("status %d, want %d", o.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(o.out+o.err, text) {
			t.Errorf("no %q", text)
		}
	}
	begin := map[int]string{exitRejected: "REJECTED: ", exitUnsupported: "UNSUPPORTED: "}[status]
	switch {
	case status == exitInput && (o.out != "" || !strings.HasPrefix(o.err, "cocoon: ") || strings.Count(o.err, "\n") != 1):
		t.Error("want one line on standard error and nothing else")
	case status != exitInput && o.err != "":
		t.Error("something on standard error")
	case status == exitRejected && strings.HasPrefix(o.last(), "SIMULATED, NOT VERIFIED: "):
	case !strings.HasPrefix(o.last(), begin):
		t.Errorf("last line %q, want %s", o.last(), begin)
	}
	if t.Failed() {
		t.Logf("standard output:\n%s\nstandard error:\n%s", o.out, o.err)
	}
}
