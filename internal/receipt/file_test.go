package receipt

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

const testProof = "c2sp.org/tlog-proof@v1\nindex 0\n\nlog.example/x\n1\nAAAA\n\n— log.example/x AAAA\n— witness AAAA\n"

func TestFile(t *testing.T) {
	a := first(t)
	b := follow(t, a, Final, nil)
	items := []Item{{Signed: a}, {Signed: b, Keyset: []byte(`{"v":1}`), Proof: []byte(testProof)}, {Signed: a, Keyset: []byte{0, 0xff}}}
	var text []byte
	for i := range items {
		text = items[i].Append(text)
	}
	got, err := Read(text)
	if err != nil || len(got) != len(items) {
		t.Fatalf("%d items, %v", len(got), err)
	}
	for i := range items {
		if got[i].ID() != items[i].ID() || !bytes.Equal(got[i].Keyset, items[i].Keyset) || !bytes.Equal(got[i].Proof, items[i].Proof) {
			t.Errorf("item %d: %+v", i, got[i])
		}
	}
	for i := range text {
		if items, err := Read(text[:i]); err == nil && len(items) > 2 && items[2].Keyset != nil {
			t.Errorf("cut at %d: %d items", i, len(items))
		}
	}
}

func TestFileRefused(t *testing.T) {
	a := string(first(t).Wire())
	for name, text := range map[string]string{
		"empty":                 "",
		"blank line":            "\n",
		"blank line after":      a + "\n",
		"blank line between":    a + "\n" + a,
		"keyset first":          "keyset e30=\n" + a,
		"two keysets":           a + "keyset e30=\nkeyset e30=\n",
		"empty keyset":          a + "keyset \n",
		"keyset without an end": a + "keyset e30=",
		"loose base64":          a + "keyset e31=\n",
		"carriage return":       a + "keyset e30=\r\n",
		"long keyset":           a + "keyset " + strings.Repeat("AAAA", keysetMax/4) + "\n",
		"keyset after proof":    a + testProof + "keyset e30=\n",
		"two proofs":            a + testProof + testProof,
		"cut proof":             a + testProof[:len(testProof)-1],
		"proof without head":    a + "c2sp.org/tlog-proof@v1\nindex 0\n\n",
		"long proof":            a + "c2sp.org/tlog-proof@v1\n" + strings.Repeat("A\n", proofMax/2) + "\n\n\n",
		"garbage":               a + "garbage",
	} {
		if items, err := Read([]byte(text)); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %d items, %v", name, len(items), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(first(f).Wire())
	f.Add(follow(f, first(f), Final, nil).Wire())
	f.Add([]byte(golden))
	for _, s := range batch(f, 3) {
		f.Add(s.Wire())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrForm) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.Wire(), b) || len(b) > WireMax || s.Validate() != nil || !Is(b) || s.Receipt.ID() != s.ID() {
			t.Fatalf("%q is read as %q", b, s.Wire())
		}
		if !bytes.HasPrefix(b, s.append(nil)) { // it would be written in another way
			t.Fatalf("%q is read as %q", b, s.append(nil))
		}
	})
}

func FuzzRead(f *testing.F) {
	a := Item{first(f), []byte("{}"), []byte(testProof)}
	f.Add(a.Append(a.Append(nil)))
	f.Add(first(f).Wire())
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := Read(b)
		if err != nil {
			return
		}
		var again []byte
		for i := range items {
			again = items[i].Append(again)
		}
		if !bytes.Equal(again, b) || len(items) == 0 {
			t.Fatalf("%q is read as %q", b, again)
		}
	})
}
