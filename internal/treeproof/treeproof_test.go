package treeproof

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const origin = "gateway.example.com/receipts"

func key(b byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, 32)) }

func verifier(t testing.TB, name string, b byte) note.Verifier {
	t.Helper()
	v, err := NewVerifier(name, key(b).Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// memory is a log in memory.
type memory []tlog.Hash

func (m memory) ReadHashes(at []int64) ([]tlog.Hash, error) {
	var list []tlog.Hash
	for _, n := range at {
		list = append(list, m[n])
	}
	return list, nil
}

func record(i int64) []byte { return fmt.Appendf(nil, "record %d\n", i) }

func proofs(t testing.TB, size int64) []*Proof {
	t.Helper()
	var m memory
	for i := range size {
		hashes, err := tlog.StoredHashes(i, record(i), m)
		if err != nil {
			t.Fatal(err)
		}
		m = append(m, hashes...)
	}
	root, err := tlog.TreeHash(size, m)
	if err != nil {
		t.Fatal(err)
	}
	head := Head{origin, tlog.Tree{N: size, Hash: root}}
	text, err := head.Sign(key(1))
	if err != nil {
		t.Fatal(err)
	}
	var list []*Proof
	for i := range size {
		path, err := tlog.ProveRecord(size, i, m)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, &Proof{Index: i, Path: path, Head: text})
	}
	return list
}

func TestProof(t *testing.T) {
	v := verifier(t, origin, 1)
	for size := int64(1); size < 20; size++ {
		for i, p := range proofs(t, size) {
			text := p.Append(nil)
			back, err := Parse(text)
			if err != nil {
				t.Fatalf("%v:\n%s", err, text)
			}
			h, err := back.Check(record(int64(i)), v)
			if err != nil || h.Tree.N != size || h.Origin != origin {
				t.Fatalf("%d of %d: %+v, %v", i, size, h, err)
			}
			if _, err := back.Check(record(int64(i)+1), v); !errors.Is(err, ErrInclusion) {
				t.Errorf("%d of %d: proves another: %v", i, size, err)
			}
			for _, by := range []int64{-1, 1, size, 1 << 40} {
				other := *back
				other.Index += by
				if _, err := other.Check(record(int64(i)), v); !errors.Is(err, ErrInclusion) {
					t.Errorf("%d of %d: proves index %d: %v", i, size, other.Index, err)
				}
			}
			if _, err := back.Check(record(int64(i)), nil); err != nil {
				t.Error(err)
			}
		}
	}
}

// Each byte of a proof counts.
func TestEveryByte(t *testing.T) {
	v := verifier(t, origin, 1)
	text := proofs(t, 5)[2].Append(nil)
	for i := range text {
		for bit := range 8 {
			b := bytes.Clone(text)
			b[i] ^= 1 << bit
			if p, err := Parse(b); err == nil {
				if _, err := p.Check(record(2), v); err == nil {
					t.Fatalf("byte %d, bit %d: passes:\n%s", i, bit, b)
				}
			}
		}
		if _, err := Parse(text[:i]); err == nil {
			t.Fatalf("cut at %d: passes", i)
		}
	}
}

func TestHeadRefused(t *testing.T) {
	text := proofs(t, 3)[0].Head
	for name, v := range map[string]note.Verifier{
		"other key":  verifier(t, origin, 2),
		"other name": verifier(t, "other.example.com", 1),
	} {
		if h, err := ParseHead(text, v); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	for _, body := range []string{
		"", "x\n", origin + "\n1\n", origin + "\n01\n" + tlog.Hash{}.String() + "\n", origin + "\n-1\n" + tlog.Hash{}.String() + "\n",
		origin + "\n1\nAAAA\n", origin + "\n1\n" + tlog.Hash{}.String() + "\nmore\n", "\n1\n" + tlog.Hash{}.String() + "\n",
		"other\n1\n" + tlog.Hash{}.String() + "\n", origin + "\n+1\n" + tlog.Hash{}.String() + "\n",
	} {
		v := verifier(t, origin, 1)
		signed, err := note.Sign(&note.Note{Text: body}, &signer{v, key(1)})
		if err != nil {
			continue
		}
		if h, err := ParseHead(signed, v); err == nil {
			t.Errorf("%q: %+v", body, h)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", strings.Repeat("a", OriginMax+1)} {
		if _, err := (&Head{Origin: name}).Sign(key(1)); !errors.Is(err, ErrForm) {
			t.Errorf("a log named %q: %v", name, err)
		}
	}
	if _, err := ParseVerifier("no key"); !errors.Is(err, ErrForm) {
		t.Error(err)
	}
}

// A witness's signature beside the log's does no harm, and is no substitute.
func TestWitness(t *testing.T) {
	v := verifier(t, origin, 1)
	head := Head{origin, tlog.Tree{N: 1, Hash: tlog.RecordHash(record(0))}}
	witness := &signer{verifier(t, "witness.example.com", 7), key(7)}
	both, err := note.Sign(&note.Note{Text: head.text()}, &signer{v, key(1)}, witness)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseHead(both, v); err != nil || got != head {
		t.Errorf("%+v, %v", got, err)
	}
	alone, err := note.Sign(&note.Note{Text: head.text()}, witness)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []note.Verifier{v, witness} {
		if got, err := ParseHead(alone, v); !errors.Is(err, ErrSignature) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func FuzzProof(f *testing.F) {
	for _, p := range proofs(f, 6) {
		f.Add(p.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			if !errors.Is(err, ErrForm) && !errors.Is(err, ErrSignature) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.Append(nil), b) {
			t.Fatalf("%q is read as %q", b, p.Append(nil))
		}
		_, _ = p.Check(record(0), nil)
	})
}
