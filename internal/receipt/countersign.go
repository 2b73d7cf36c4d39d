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
	over := t.digest()
	return [ed25519.SignatureSize]byte(ed25519.Sign(key, over[:])), nil
}

// shared is a batch that its receipts know, so that their places in it are written only when they are asked for.
type shared struct {
	tree
	over Digest
}

// Share verifies one signature over receipts in this order, 2 to BatchMax, and gives each with its place in that batch and
// that signature, in place of its own, which need not be good. The error is ErrSignature.
func (v *Verifier) Share(rs []*Signed, signature [ed25519.SignatureSize]byte) ([]*Signed, error) {
	if len(rs) < 2 || len(rs) > BatchMax {
		return nil, fmt.Errorf("%w: it is of %d receipts, want 2 to %d", ErrSignature, len(rs), BatchMax)
	}
	b := &shared{tree: newTree(len(rs), func(i int) Digest { return rs[i].id })}
	b.over = b.digest()
	if err := v.verify(verified{b.over, signature}); err != nil {
		return nil, err
	}
	placed, all := make([]*Signed, len(rs)), make([]Signed, len(rs))
	for i, s := range rs {
		all[i] = Signed{
			Receipt: s.Receipt, id: s.id, signature: signature, wire: s.wire[:s.size], size: s.size, batch: b, index: i,
		}
		placed[i] = &all[i]
	}
	return placed, nil
}
