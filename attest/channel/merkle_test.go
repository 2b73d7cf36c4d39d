package channel

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cocoon/attest"
)

// mth is the root as RFC 9162 2.1.1 defines it.
func mth(nonces []attest.Digest) attest.Digest {
	if len(nonces) == 1 {
		return sha256.Sum256(append([]byte{0}, nonces[0][:]...))
	}
	k := split(len(nonces))
	l, r := mth(nonces[:k]), mth(nonces[k:])
	return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:]))
}

// path is the inclusion proof as RFC 9162 2.1.3.1 defines it.
func path(m int, nonces []attest.Digest) []attest.Digest {
	if len(nonces) == 1 {
		return []attest.Digest{}
	}
	if k := split(len(nonces)); m < k {
		return append(path(m, nonces[:k]), mth(nonces[k:]))
	} else {
		return append(path(m-k, nonces[k:]), mth(nonces[:k]))
	}
}

// split is the largest power of two below n.
func split(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

func noncesOf(n int) []attest.Digest {
	nonces := make([]attest.Digest, n)
	for i := range nonces {
		nonces[i] = attest.NewNonce()
	}
	return nonces
}

// TestTree: for each size root and proofs are RFC 9162's, and a proof is good for its nonce at its place, and no other.
func TestTree(t *testing.T) {
	for n := 1; n <= 70; n++ {
		nonces := noncesOf(n)
		root, proofs := tree(nonces)
		if root != mth(nonces) || len(proofs) != n {
			t.Fatalf("%d nonces: root %s, want %s; %d proofs", n, root, mth(nonces), len(proofs))
		}
		for i, p := range proofs {
			if p.Index != i || p.Size != n || !slices.Equal(p.Path, path(i, nonces)) {
				t.Fatalf("%d of %d: %+v", i, n, p)
			}
			for j, nonce := range nonces {
				if got, err := p.Root(nonce); (err == nil && got == root) != (i == j) {
					t.Fatalf("proof %d of %d for nonce %d: %s, %v", i, n, j, got, err)
				}
				p.Index = j
				if got, err := p.Root(nonces[i]); (err == nil && got == root) != (i == j) {
					t.Fatalf("proof %d of %d at place %d: %s, %v", i, n, j, got, err)
				}
				p.Index = i
			}
		}
	}
}

// TestForgedProofs: whatever is changed in a proof, it leads no other nonce to the root.
func TestForgedProofs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nonces := noncesOf(rapid.IntRange(1, 70).Draw(t, "size"))
		root, proofs := tree(nonces)
		p := rapid.SampledFrom(proofs).Draw(t, "proof")
		nonce := nonces[p.Index]
		p.Path = slices.Clone(p.Path)
		stranger := false
		changes := []string{"nonce", "node as nonce", "path", "longer", "shorter", "size", "index"}
		switch rapid.SampledFrom(changes).Draw(t, "change") {
		case "nonce":
			nonce, stranger = attest.NewNonce(), true
			p.Size, p.Index = rapid.IntRange(1, 70).Draw(t, "any size"), rapid.IntRange(0, 69).Draw(t, "any index")
		case "node as nonce": // an inner node is no leaf
			nonce, stranger = root, true
			p = Proof{Index: 0, Size: 1}
		case "path":
			if len(p.Path) == 0 {
				return
			}
			at := rapid.IntRange(0, len(p.Path)-1).Draw(t, "at")
			p.Path[at][rapid.IntRange(0, 31).Draw(t, "byte")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
			stranger = true
		case "longer":
			p.Path, stranger = append(p.Path, root), true
		case "shorter":
			if len(p.Path) == 0 {
				return
			}
			p.Path, stranger = p.Path[:len(p.Path)-1], true
		case "size": // may hash the same way: then it is the same proof
			p.Size = rapid.IntRange(-1, 100).Draw(t, "other size")
		case "index":
			old := p.Index
			p.Index = rapid.IntRange(-1, 100).Draw(t, "other index")
			stranger = p.Index != old
		}
		got, err := p.Root(nonce)
		if stranger && err == nil && got == root {
			t.Fatalf("accepted %+v", p)
		}
	})
}

func TestProofBounds(t *testing.T) {
	nonce := attest.NewNonce()
	for name, p := range map[string]Proof{
		"zero value":     {},
		"no such index":  {Index: 1, Size: 1},
		"negative index": {Index: -1, Size: 1},
		"negative size":  {Index: 0, Size: -1},
		"huge":           {Index: 0, Size: 1 << 40, Path: make([]attest.Digest, 40)},
		"just too large": {Index: 0, Size: sizeMax + 1, Path: make([]attest.Digest, 17)},
		"short path":     {Index: 0, Size: 2},
		"long path":      {Index: 0, Size: 1, Path: make([]attest.Digest, 1)},
	} {
		if root, err := p.Root(nonce); err == nil || !root.IsZero() {
			t.Errorf("%s: %s, %v", name, root, err)
		}
	}
	if _, err := (Proof{Index: 0, Size: sizeMax, Path: make([]attest.Digest, 16)}).Root(nonce); err != nil {
		t.Errorf("the largest: %v", err)
	}
	if _, err := (Proof{Index: 0, Size: 1}).Root(attest.Digest{}); err == nil {
		t.Error("the zero nonce has a root")
	}
}

func FuzzProof(f *testing.F) {
	nonce := attest.NewNonce()
	_, proofs := tree(append(noncesOf(6), nonce))
	for _, p := range proofs {
		text, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, nonce[:])
	}
	f.Add([]byte(`{"index":-1,"size":9223372036854775807,"path":null}`), nonce[:])
	f.Fuzz(func(t *testing.T, text, nonce []byte) {
		var p Proof
		if json.Unmarshal(text, &p) != nil || len(nonce) != 32 {
			return
		}
		root, err := p.Root(attest.Digest(nonce))
		if err != nil {
			return
		}
		if root == attest.Digest(nonce) || len(p.Path) > 16 {
			t.Errorf("%+v leads %x to %s", p, nonce, root)
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Proof
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if second, err := back.Root(attest.Digest(nonce)); err != nil || second != root {
			t.Errorf("%s: %s, %v, want %s", again, second, err, root)
		}
	})
}
