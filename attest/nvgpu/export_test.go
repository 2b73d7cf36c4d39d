package nvgpu

import (
	"crypto/x509"
	"time"
)

// SignerValidity is when a RIM's signer is valid, by a certificate that nobody has checked.
func SignerValidity(r *RIM) (start, end time.Time) { return r.certs[0].NotBefore, r.certs[0].NotAfter }

// VerifyRIM verifies one RIM by itself.
func VerifyRIM(r *RIM, roots []*x509.Certificate, now time.Time) error {
	return r.verify(roots, now, nil)
}

// RIMContent is all that a RIM says: of two that verify, it has to be the same or they are two RIMs.
func RIMContent(r *RIM) any {
	type value struct {
		Active bool
		Values [][digestLen]byte
	}
	values := map[int]value{}
	for i, g := range r.golden {
		values[i] = value{g.active, g.values}
	}
	return struct {
		Product, Version, Edition, Tag string
		Values                         map[int]value
	}{r.Product, r.Version, r.Edition, r.TagID, values}
}

// OCSPGood asks one response about a certificate.
func OCSPGood(o *OCSP, cert, issuer *x509.Certificate, now time.Time) error {
	r := revocation{check: CheckDeviceOCSP, responses: []*OCSP{o}, now: now}
	_, err := r.good(cert, issuer)
	return err
}
