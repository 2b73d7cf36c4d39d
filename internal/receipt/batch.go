package receipt

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
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
	batch, all := make([]*Signed, len(rs)), make([]Signed, len(rs))
	text := make([]byte, 0, textUsual)
	for i := range rs {
		r := &rs[i]
		if err := r.Validate(); err != nil {
			return nil, err
		}
		if err := r.Arithmetic(); err != nil {
			return nil, err
		}
		text = r.append(text[:0])
		all[i] = Signed{Receipt: *r, id: digest(text)}
		batch[i] = &all[i]
	}
	if len(rs) == 1 {
		all[0].signature = [ed25519.SignatureSize]byte(ed25519.Sign(key, all[0].id[:]))
		return batch, nil
	}
	t := treeOf(batch)
	t.share(batch, [ed25519.SignatureSize]byte(ed25519.Sign(key, t.over[:])))
	return batch, nil
}

// batchDigest is what is signed for a batch. It holds the size, which the root alone does not fix: a path then has one
// reading.
func batchDigest(size int, root Digest) Digest {
	b := append(make([]byte, 0, len(batchLabel)+4+len(root)), batchLabel...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return sha256.Sum256(append(b, root[:]...))
}

// tree is a Merkle tree (RFC 9162 2.1) over the IDs of a batch.
type tree struct {
	size   int
	hashes []Digest // level after level, the root is the last
	over   Digest   // what is signed
}

func newTree(size int, id func(i int) Digest) *tree {
	hashes := make([]Digest, size, 2*size+bits.Len(uint(size))) // of each level half, but for the last of an odd number
	for i := range hashes {
		hashes[i] = leaf(id(i))
	}
	for from, n := 0, size; n > 1; {
		for i := from; i+1 < from+n; i += 2 {
			hashes = append(hashes, node(&hashes[i], &hashes[i+1]))
		}
		if n%2 == 1 { // it rises as it is
			hashes = append(hashes, hashes[from+n-1])
		}
		from, n = from+n, (n+1)/2
	}
	return &tree{size, hashes, batchDigest(size, hashes[len(hashes)-1])}
}

// place is where a receipt is in its batch, and what leads from there to the root. The zero value is that of a receipt that
// was signed by itself.
type place struct {
	index, size int
	path        []Digest // siblings, the leaf's first, if they were read
	tree        *tree    // else they are in here
}

// way leads from a leaf to the root: where each sibling is in a tree's hashes, and whether it is on the left.
func (p *place) way(step func(at int, left bool)) {
	for i, from, n := p.index, 0, p.size; n > 1; i, from, n = i/2, from+n, (n+1)/2 {
		if i^1 < n { // else it rises as it is
			step(from+(i^1), i%2 == 1)
		}
	}
}

// siblings gives the path's hashes, and which of them are on the left.
func (p *place) siblings(f func(sibling *Digest, left bool)) {
	read := 0
	p.way(func(at int, left bool) {
		if p.tree != nil {
			f(&p.tree.hashes[at], left)
			return
		}
		f(&p.path[read], left)
		read++
	})
}

// placeToRead is a place with room for the path that it takes.
func placeToRead(index, size int) place {
	p, count := place{index: index, size: size}, 0
	p.way(func(int, bool) { count++ })
	p.path = make([]Digest, count)
	return p
}

// over is what is signed for the batch, if the receipt with an ID is there.
func (p *place) over(id *Digest) Digest {
	if p.tree != nil {
		return p.tree.over
	}
	hash := leaf(*id)
	p.siblings(func(sibling *Digest, left bool) {
		if left {
			hash = node(sibling, &hash)
		} else {
			hash = node(&hash, sibling)
		}
	})
	return batchDigest(p.size, hash)
}

// append appends the line that says it.
func (p *place) append(b []byte) []byte {
	b = appendNumber(append(b, batchHead...), "index ", int64(p.index))
	b = append(appendNumber(b, " size ", int64(p.size)), " path"...)
	p.siblings(func(sibling *Digest, _ bool) { b = appendDigest(b, " ", *sibling) })
	return append(b, '\n')
}

// place reads such a line.
func (p *parser) place(into *place) {
	index, size := p.number(batchHead+"index "), p.number(" size ")
	if size < 2 || size > BatchMax || index >= size {
		p.fail(" size ")
		return
	}
	p.literal(" path")
	*into = placeToRead(int(index), int(size))
	for i := range into.path {
		p.digest(" ", &into.path[i])
	}
	p.literal("\n")
}

func leaf(id Digest) Digest {
	var b [1 + sha256.Size]byte
	copy(b[1:], id[:])
	return sha256.Sum256(b[:])
}

func node(left, right *Digest) Digest {
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
	if s.place.size == 0 { // no batch
		return s.Verify(v.key)
	}
	return v.verify(verified{s.over(), s.signature})
}

// verify checks a batch's signature, and remembers it.
func (v *Verifier) verify(k verified) error {
	if v.knows(k) {
		return nil
	}
	if err := verify(v.key, k.over, &k.signature); err != nil {
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
