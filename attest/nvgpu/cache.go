package nvgpu

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"sync"
)

// SignatureCache remembers which signatures were found good: one of P-384 costs 0.6 ms, and all devices of a kind
// share the upper part of their chain, their RIMs and the OCSP responses for both. What it holds are facts that never
// change (these bytes, this key, this signature); validity, revocation and roots are judged afresh each time. The
// signature of a report itself is never cached. The zero value is not usable, a nil one remembers nothing. Safe for
// concurrent use.
type SignatureCache struct {
	size int

	mu   sync.Mutex
	good map[[32]byte]struct{} // by digest of key, message digest and signature
}

// NewSignatureCache makes a cache of up to size entries (40 bytes each or so); when full it starts over.
func NewSignatureCache(size int) *SignatureCache {
	return &SignatureCache{size: max(size, 1), good: make(map[[32]byte]struct{})}
}

// once returns what check says about the signature, unless it's known to be good.
func (c *SignatureCache) once(key *x509.Certificate, digest [48]byte, sig []byte, check func() bool) bool {
	if c == nil {
		return check()
	}
	h := sha256.New()
	spki := sha256.Sum256(key.RawSubjectPublicKeyInfo)
	h.Write(spki[:])
	h.Write(digest[:])
	h.Write(sig)
	id := [32]byte(h.Sum(nil))
	c.mu.Lock()
	_, known := c.good[id]
	c.mu.Unlock()
	if known {
		return true
	}
	if !check() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.good) >= c.size {
		clear(c.good)
	}
	c.good[id] = struct{}{}
	return true
}

// p384 returns the certificate's key, or nil if it is of another kind: NVIDIA uses P-384 everywhere, and large RSA keys
// would be a way to keep us busy.
func p384(cert *x509.Certificate) *ecdsa.PublicKey {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil
	}
	return key
}

// verifyDER checks an ECDSA signature in X.509's form over msg.
func (c *SignatureCache) verifyDER(key *x509.Certificate, msg, sig []byte) bool {
	pub, digest := p384(key), sha512.Sum384(msg)
	return pub != nil && c.once(key, digest, sig, func() bool { return ecdsa.VerifyASN1(pub, digest[:], sig) })
}

// verifyRaw checks an ECDSA signature in the form r | s, 48 bytes each, over msg.
func (c *SignatureCache) verifyRaw(key *x509.Certificate, msg, sig []byte) bool {
	pub, digest := p384(key), sha512.Sum384(msg)
	if pub == nil || len(sig) != signatureLen {
		return false
	}
	return c.once(key, digest, sig, func() bool {
		r, s := new(big.Int).SetBytes(sig[:digestLen]), new(big.Int).SetBytes(sig[digestLen:])
		return ecdsa.Verify(pub, digest[:], r, s)
	})
}
