package snp

import (
	"crypto/x509/pkix"
	"errors"
)

// For fuzzing: what stands behind the certificate's own parser is hard to reach through it.

// ReadExtensions reads AMD's extensions of a key of this kind.
func ReadExtensions(kind Signer, all []pkix.Extension) (*EndorsementKey, error) {
	k := &EndorsementKey{Kind: kind}
	return k, k.readExtensions(all)
}

// ReadCRL reads a revocation list and tells how many entries it has.
func ReadCRL(der []byte) (int, error) {
	list, err := parseCRL(der)
	if err != nil {
		return 0, err
	}
	if list == nil {
		return 0, errors.New("neither a list nor an error")
	}
	return len(list.RevokedCertificateEntries), nil
}
