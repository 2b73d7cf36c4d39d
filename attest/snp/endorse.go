package snp

import "time"

// VerifyKey checks that an endorsement key hangs on a pinned root, and that it and what it hangs on are valid at o.Now;
// it returns the key, and when the first of these certificates ends. It doesn't look at revocation lists: that is for
// [Verify]. It serves those who keep certificates for reports to come.
func VerifyKey(ek []byte, c Chain, o Options) (*EndorsementKey, time.Time, error) {
	k, err := ParseEndorsementKey(ek)
	if err != nil {
		return nil, time.Time{}, err
	}
	is, err := Endorsements{k.Line: c}.anchored(k.Line, k.Kind, o)
	if err != nil {
		return nil, time.Time{}, err
	}
	if err := validAt(k.Kind.String(), k.certificate, o.Now); err != nil {
		return nil, time.Time{}, err
	}
	if err := issuedBy(k.Kind.String(), k.certificate, is.ica); err != nil {
		return nil, time.Time{}, err
	}
	return k, earliest(is.ark.NotAfter, is.ica.NotAfter, k.certificate.NotAfter), nil
}

// VerifyCRL checks that a revocation list is the one of the chain's ARK, that this is pinned, and that the ARK and the
// ASK or ASVK are valid and the list fresh at o.Now; it returns which list it is, and when the first of all this ends.
// What the list revokes is for [Verify] to find out: a list that revokes its own chain is authentic too.
func VerifyCRL(crl []byte, line Line, signer Signer, c Chain, o Options) (Revocation, time.Time, error) {
	is, err := Endorsements{line: c}.anchored(line, signer, o)
	if err != nil {
		return Revocation{}, time.Time{}, err
	}
	list, err := authenticCRL(crl, is.ark)
	if err != nil {
		return Revocation{}, time.Time{}, err
	}
	if o.Now.Before(list.ThisUpdate) || o.Now.After(list.NextUpdate) {
		return Revocation{}, time.Time{}, refuse(CheckRevocationList, "", "one of "+
			list.ThisUpdate.Format(time.RFC3339)+" to "+list.NextUpdate.Format(time.RFC3339),
			"one that is fresh at "+o.Now.UTC().Format(time.RFC3339))
	}
	r := Revocation{list.Number, list.ThisUpdate, list.NextUpdate}
	return r, earliest(is.ark.NotAfter, is.ica.NotAfter, list.NextUpdate), nil
}
