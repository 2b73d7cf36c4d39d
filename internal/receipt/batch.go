package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sync"
)

// BatchMax bounds the receipts that share one signature: more than wait for one, and a path is then of 12 hashes.
const BatchMax = 4096

// textUsual is room for a receipt's text, unless its model has a very long name.
const textUsual = 1 << 10

// batchLabel is of what is signed for a batch; no receipt's ID begins to be made like that.
const batchLabel = "cocoon/receipts/v1\x00"

// SignBatch signs receipts that are valid and rightly added up, 1 to BatchMax of them, with one signature for all. Each
// can be verified without the others. Of one receipt it is Sign. If one is not fit to be signed, none is.
func SignBatch(rs []Receipt, key ed25519.PrivateKey) ([]*Signed, error) {
	if len(rs) < 1 || len(rs) > BatchMax {
		return nil, fmt.Errorf("a batch of %d receipts, want 1 to %d", len(rs), BatchMax)
	}
	batch, texts, hashes := make([]*Signed, len(rs)), make([][]byte, len(rs)), make([]Digest, len(rs))
	for i := range rs {
		r := &rs[i]
		if err := r.Validate(); err != nil {
			return nil, err
		}
		if err := r.Arithmetic(); err != nil {
			return nil, err
		}
		texts[i] = r.append(make([]byte, 0, textUsual))
		batch[i] = &Signed{Receipt: *r, id: digest(texts[i])}
		hashes[i] = leaf(batch[i].id)
	}
	over, levels := batch[0].id, tree(hashes)
	if len(rs) > 1 {
		over = batchDigest(len(rs), levels[len(levels)-1][0])
	}
	signature := [ed25519.SignatureSize]byte(ed25519.Sign(key, over[:]))
	b := make([]byte, 0, WireMax)
	for i, s := range batch {
		b = append(b[:0], texts[i]...)
		if len(rs) > 1 {
			b = appendPlace(b, i, levels)
		}
		b = append(base64.StdEncoding.AppendEncode(append(b, signatureHead...), signature[:]), '\n')
		s.over, s.signature, s.wire = over, signature, string(b)
	}
	return batch, nil
}

// batchDigest is what is signed for a batch. It holds the size, which the root alone does not fix: a path then has one
// reading.
func batchDigest(size int, root Digest) Digest {
	b := append(make([]byte, 0, len(batchLabel)+4+len(root)), batchLabel...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return sha256.Sum256(append(b, root[:]...))
}

// tree is the levels of the Merkle tree (RFC 9162 2.1) over the hashes, the root in the last one.
func tree(hashes []Digest) [][]Digest {
	levels := [][]Digest{hashes}
	for level := hashes; len(level) > 1; levels = append(levels, level) {
		above := make([]Digest, 0, (len(level)+1)/2)
		for ; len(level) > 1; level = level[2:] {
			above = append(above, node(level[0], level[1]))
		}
		level = append(above, level...) // the last of an odd number rises as it is
	}
	return levels
}

// appendPlace appends the line that leads from the receipt with an index to the root.
func appendPlace(b []byte, index int, levels [][]Digest) []byte {
	b = appendNumber(append(b, batchHead...), "index ", int64(index))
	b = append(appendNumber(b, " size ", int64(len(levels[0]))), " path"...)
	for i, level := index, levels; len(level) > 1; i, level = i/2, level[1:] {
		if i^1 < len(level[0]) {
			b = appendDigest(b, " ", level[0][i^1])
		}
	}
	return append(b, '\n')
}

// place reads the rest of such a line, and gives what is signed.
func (p *parser) place(id Digest) Digest {
	index, size := p.number("index "), p.number("size ")
	if size < 2 || size > BatchMax || index < 0 || index >= size {
		p.fail("size ")
		return Digest{}
	}
	p.literal("path")
	hash := leaf(id)
	for i, n := index, size; n > 1; i, n = i/2, (n+1)/2 {
		if i^1 >= n {
			continue
		}
		if sibling := p.hash(" "); i%2 == 0 {
			hash = node(hash, sibling)
		} else {
			hash = node(sibling, hash)
		}
	}
	p.literal("\n")
	return batchDigest(int(size), hash)
}

func leaf(id Digest) Digest {
	var b [1 + sha256.Size]byte
	copy(b[1:], id[:])
	return sha256.Sum256(b[:])
}

func node(left, right Digest) Digest {
	b := [1 + 2*sha256.Size]byte{1}
	copy(b[1:], left[:])
	copy(b[1+sha256.Size:], right[:])
	return sha256.Sum256(b[:])
}

// verifiedMax bounds the batches that a Verifier remembers. A worker's receipts of one batch come at about the same
// time, in answers or in the order that it keeps them in.
const verifiedMax = 128

// Verifier verifies receipts of one key. It remembers the batches whose signature verified, so that it is checked once
// for all of their receipts. Its methods may be called at the same time.
type Verifier struct {
	key ed25519.PublicKey

	mu       sync.Mutex
	verified map[verified]struct{}
	order    [verifiedMax]verified // a ring
	next     int                   // in order
}

// verified is a batch's signature that verified.
type verified struct {
	over      Digest
	signature [ed25519.SignatureSize]byte
}

// NewVerifier is the verifier of a key.
func NewVerifier(key ed25519.PublicKey) *Verifier {
	return &Verifier{key: key, verified: make(map[verified]struct{})}
}

// Verify checks a receipt's signature. The error is ErrSignature.
func (v *Verifier) Verify(s *Signed) error {
	if s.over == s.id { // no batch
		return s.Verify(v.key)
	}
	k := verified{s.over, s.signature}
	if v.knows(k) {
		return nil
	}
	if err := s.Verify(v.key); err != nil {
		return err
	}
	v.remember(k)
	return nil
}

func (v *Verifier) knows(k verified) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.verified[k]
	return ok
}

func (v *Verifier) remember(k verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.verified[k]; ok { // by another at the same time
		return
	}
	delete(v.verified, v.order[v.next])
	v.verified[k] = struct{}{}
	v.order[v.next] = k
	v.next = (v.next + 1) % verifiedMax
}
