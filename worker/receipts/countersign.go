package receipts

import (
	"crypto/ed25519"

	"cocoon/internal/receipt"
)

// Countersign signs receipts again, 2 to receipt.BatchMax of them, by their IDs and with one signature for all: a gateway
// then verifies one in place of many. They were signed and are on disk, so that nothing is said which was not. ErrAbsent:
// one is not kept, or not of that keyset, or named twice; then nothing is signed.
func (s *Store) Countersign(keyset receipt.Digest, ids []receipt.Digest, key ed25519.PrivateKey) ([ed25519.SignatureSize]byte, error) {
	if len(ids) <= receipt.BatchMax && !s.keepsAll(keyset, ids) {
		return [ed25519.SignatureSize]byte{}, ErrAbsent
	}
	return receipt.SignIDs(ids, key)
}

// keepsAll tells whether there are receipts of a keyset with these IDs, no two the same.
func (s *Store) keepsAll(keyset receipt.Digest, ids []receipt.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.round++
	for _, id := range ids {
		e := s.entries[id]
		if e == nil || e.keyset != keyset || e.round == s.round {
			return false
		}
		e.round = s.round
	}
	return true
}
