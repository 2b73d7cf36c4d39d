package channel

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"cocoon/attest"
)

// sizeMax bounds the nonces of one tree: far more than wait for one machine, and a proof is then of 16 digests at most.
const sizeMax = 1 << 16

// Proof leads from a nonce to the root of a Merkle tree of nonces (RFC 9162 2.1: a leaf is SHA-256(0x00 | nonce), a
// node SHA-256(0x01 | left | right)). Evidence over the root answers each nonce of the tree.
//
// Index and Size say how to hash and no more: the root does not fix the tree's size, and nothing rests on it.
type Proof struct {
	Index int             `json:"index"`
	Size  int             `json:"size"`
	Path  []attest.Digest `json:"path"` // siblings, the leaf's first
}

// Root is what evidence must have as its nonce to answer this one.
func (p Proof) Root(nonce attest.Digest) (attest.Digest, error) {
	if nonce.IsZero() {
		return attest.Digest{}, errors.New("proof: no nonce")
	}
	if p.Size < 1 || p.Size > sizeMax || p.Index < 0 || p.Index >= p.Size {
		return attest.Digest{}, fmt.Errorf("proof: index %d of %d, want one of 1 to %d", p.Index, p.Size, sizeMax)
	}
	hash, path := leaf(nonce), p.Path
	for i, n := p.Index, p.Size; n > 1; i, n = i/2, (n+1)/2 {
		if i^1 >= n { // the last of an odd number rises as it is
			continue
		}
		if len(path) == 0 {
			return attest.Digest{}, errors.New("proof: path is too short")
		}
		if i%2 == 0 {
			hash = node(hash, path[0])
		} else {
			hash = node(path[0], hash)
		}
		path = path[1:]
	}
	if len(path) > 0 {
		return attest.Digest{}, errors.New("proof: path is too long")
	}
	return hash, nil
}

// tree is the root over nonces, of which there is at least one, and the proof of each.
func tree(nonces []attest.Digest) (root attest.Digest, proofs []Proof) {
	proofs = make([]Proof, len(nonces))
	level := make([]attest.Digest, len(nonces))
	for i, nonce := range nonces {
		proofs[i] = Proof{Index: i, Size: len(nonces), Path: []attest.Digest{}}
		level[i] = leaf(nonce)
	}
	for depth := 0; len(level) > 1; depth++ {
		for i := range proofs {
			if sibling := i>>depth ^ 1; sibling < len(level) {
				proofs[i].Path = append(proofs[i].Path, level[sibling])
			}
		}
		above := make([]attest.Digest, 0, (len(level)+1)/2)
		for ; len(level) > 1; level = level[2:] {
			above = append(above, node(level[0], level[1]))
		}
		level = append(above, level...)
	}
	return level[0], proofs
}

func leaf(nonce attest.Digest) attest.Digest {
	return sha256.Sum256(append([]byte{0}, nonce[:]...))
}

func node(left, right attest.Digest) attest.Digest {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}
