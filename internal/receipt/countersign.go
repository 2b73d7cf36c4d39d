package receipt

import (
	"crypto/ed25519"
	"fmt"
)

// CountersignMax bounds the receipts that a worker signs again at once: some hundred microseconds of its time.
const CountersignMax = 1024

// CountersignBody is what a gateway sends a worker, so that it signs receipts again, with one signature for all: the SHA-256
// of the keyset that they are signed under, and their IDs in the order that the signature will be of, 2 to CountersignMax.
func CountersignBody(keyset Digest, rs []*Signed) []byte {
	b := append(make([]byte, 0, (1+len(rs))*len(keyset)), keyset[:]...)
	for _, s := range rs {
		b = append(b, s.id[:]...)
	}
	return b
}

// ParseCountersign reads what CountersignBody made. Errors are ErrForm.
func ParseCountersign(body []byte) (keyset Digest, ids []Digest, err error) {
	n := len(body)/len(keyset) - 1
	if len(body)%len(keyset) != 0 || n < 2 || n > CountersignMax {
		return Digest{}, nil, fmt.Errorf("%w: %d bytes are not a keyset and 2 to %d IDs", ErrForm, len(body), CountersignMax)
	}
	ids = make([]Digest, n)
	keyset, body = Digest(body[:len(keyset)]), body[len(keyset):]
	for i := range ids {
		ids[i] = Digest(body[i*len(keyset):])
	}
	return keyset, ids, nil
}

// SignIDs signs receipts again that were signed before, by their IDs: 2 to BatchMax of them, with one signature for all.
// It is what SignBatch would have signed. Whether the receipts are the signer's is for the caller to know.
func SignIDs(ids []Digest, key ed25519.PrivateKey) (signature [ed25519.SignatureSize]byte, err error) {
	if len(ids) < 2 || len(ids) > BatchMax {
		return signature, fmt.Errorf("signing %d receipts again, want 2 to %d", len(ids), BatchMax)
	}
	t := newTree(len(ids), func(i int) Digest { return ids[i] })
	return [ed25519.SignatureSize]byte(ed25519.Sign(key, t.over[:])), nil
}

// treeOf is the tree over receipts in this order.
func treeOf(rs []*Signed) *tree { return newTree(len(rs), func(i int) Digest { return rs[i].id }) }

// share gives receipts their places in their tree, and the signature over it.
func (t *tree) share(rs []*Signed, signature [ed25519.SignatureSize]byte) {
	for i, s := range rs {
		s.signature, s.place = signature, place{index: i, size: t.size, tree: t}
	}
}

// Share verifies one signature over receipts in this order, 2 to BatchMax, and gives each its place in that batch and that
// signature, in place of its own, which need not be good. Nobody else may be using the receipts. The error is ErrSignature,
// and they are what they were.
func (v *Verifier) Share(rs []*Signed, signature [ed25519.SignatureSize]byte) error {
	if len(rs) < 2 || len(rs) > BatchMax {
		return fmt.Errorf("%w: it is of %d receipts, want 2 to %d", ErrSignature, len(rs), BatchMax)
	}
	t := treeOf(rs)
	if err := v.verify(verified{t.over, signature}); err != nil {
		return err
	}
	t.share(rs, signature)
	return nil
}
