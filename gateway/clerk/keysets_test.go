package clerk

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/attest"
	"cocoon/internal/receipt"
)

func openEmpty(t *testing.T, dir string) *Clerk {
	t.Helper()
	k, err := openKeysets(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &Clerk{keysets: k, log: testLog()}
}

// A keyset is there after a restart, with its evidence as it was judged, until nobody attested it for long.
func TestKeysets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "keysets")
		c, w, other := openEmpty(t, dir), newWorker(t, 1), newWorker(t, 2)
		w.meet(c)
		w.meet(c)
		other.meet(c)
		c = openEmpty(t, dir)
		k, err := c.keysets.get(w.keyset)
		if err != nil || k.worker != w.id || k.epoch != 1 || len(k.models) != 2 {
			t.Fatalf("%+v, %v", k, err)
		}
		if again, err := c.keysets.get(w.keyset); again != k || err != nil {
			t.Error("it is read again", err)
		}
		text, err := c.Evidence(w.keyset)
		if err != nil {
			t.Fatal(err)
		}
		var d document
		if err := json.Unmarshal(text, &d); err != nil || d.Role != attest.Worker || d.Nonce != w.evidence.Nonce || d.Binder.IsZero() {
			t.Errorf("%+v, %v", d, err)
		}
		if e, err := attest.ParseEvidence(d.Evidence); err != nil || string(e.Keyset) != string(w.evidence.Keyset) {
			t.Error(err)
		}
		if _, err := c.Evidence(receipt.Digest{1}); !errors.Is(err, ErrAbsent) {
			t.Error(err)
		}
		sleep(KeysetAge - time.Hour)
		other.newKeyset(2)
		other.meet(c)
		w.meet(c) // it is still of use
		sleep(2 * time.Hour)
		third := newWorker(t, 3)
		third.meet(c)
		for _, c := range []*Clerk{c, openEmpty(t, dir)} {
			if len(c.keysets.files) != 3 || c.keysets.bytes < 300 {
				t.Errorf("%d files are left, %d bytes", len(c.keysets.files), c.keysets.bytes)
			}
			if _, err := c.keysets.get(w.keyset); err != nil {
				t.Error(err)
			}
		}
	})
}

// Too many keysets: the oldest go.
func TestKeysetsBounded(t *testing.T) {
	c := openEmpty(t, t.TempDir())
	k := c.keysets
	now := time.Now()
	for i := range 1000 {
		id := receipt.Digest{byte(i >> 8), byte(i), 1}
		k.files[id] = file{size: 1 << 30, used: now.Add(time.Duration(i) * time.Minute)}
		k.bytes += 1 << 30
	}
	if err := k.prune(now); err != nil || len(k.files) != 899 {
		t.Errorf("%d, %v", len(k.files), err)
	}
	if _, ok := k.files[receipt.Digest{0, 100, 1}]; ok {
		t.Error("an old one is there")
	}
	if _, ok := k.files[receipt.Digest{3, 231, 1}]; !ok {
		t.Error("the newest one is gone")
	}
}

// What is no worker's keyset, and what is not on disk as it was, is refused.
func TestKeysetsRefuse(t *testing.T) {
	dir := t.TempDir()
	c, w := openEmpty(t, dir), newWorker(t, 1)
	bad := *w.evidence
	bad.Keyset = []byte(`{"v":1}`)
	if _, err := c.Meet(&bad, attest.Digest{}); err == nil {
		t.Error("half a keyset")
	}
	w.meet(c)
	path := filepath.Join(dir, w.keyset.String()+".json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{"empty": "", "short": string(text[:100]), "more": string(text) + "x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openEmpty(t, dir).keysets.get(w.keyset); err == nil || errors.Is(err, ErrKeyset) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := receipt.Digest{9}
	if err := os.WriteFile(filepath.Join(dir, other.String()+".json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openEmpty(t, dir).keysets.get(other); err == nil || errors.Is(err, ErrKeyset) {
		t.Errorf("another one's: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Meet(newWorker(t, 2).evidence, attest.Digest{1}); err == nil {
		t.Error("there is no folder")
	}
}
