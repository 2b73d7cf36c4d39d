package nvgpu

import (
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"
)

// OpenRIM reads a RIM and checks it without a report: its signature, and its signer's chain to a pinned root, valid at
// o.Now. It returns that chain too, signer first, whose revocation is not looked at. It serves those who keep RIMs for
// reports to come. Of the options, roots, time and cache count.
func OpenRIM(doc []byte, o Options) (*RIM, []*x509.Certificate, error) {
	if o.Now.IsZero() {
		return nil, nil, fail(CheckOptions, "time", "none", "one")
	}
	r, err := ParseRIM(doc)
	if err != nil {
		return nil, nil, err
	}
	if err := r.verify(o.Roots.RIM, o.Now, o.Cache); err != nil {
		return nil, nil, err
	}
	return r, slices.Clone(r.certs), nil
}

// Answer is what an authentic OCSP response says of a certificate.
type Answer struct {
	Good  bool // else revoked or on hold
	From  time.Time
	Until time.Time // when the response ends, or its signer's certificate
}

// About tells whether the response has something to say about a certificate. Who says so is another question.
func (o *OCSP) About(cert, issuer *x509.Certificate) bool { return o.answer(cert, issuer) != nil }

// Status checks that the response is about the first certificate of the chain, made by its issuer, the second, or a
// responder of that one, and current at o.Now; and that the chain ends in a pinned root, of devices or of RIMs. A
// response that doesn't know the certificate is an error, one that calls it revoked is not. Of the options, roots, time
// and cache count.
func (o *OCSP) Status(certs []*x509.Certificate, opts Options) (Answer, error) {
	bad := func(got, want string) (Answer, error) { return Answer{}, fail(CheckDeviceOCSP, "response", got, want) }
	if opts.Now.IsZero() || len(certs) < 2 || len(certs) > chainLen {
		return bad(fmt.Sprintf("%d certificates, time %s", len(certs), stamp(opts.Now)), "a certificate, its issuers, a time")
	}
	a := o.answer(certs[0], certs[1])
	if a == nil {
		return bad("one about another certificate", subject(certs[0]))
	}
	roots := slices.Concat(opts.Roots.Device, opts.Roots.RIM)
	if err := (chain{CheckDeviceOCSP, certs, certs[0].IsCA}).verify(roots, opts.Now, opts.Cache); err != nil {
		return Answer{}, err
	}
	signer, err := o.verify(certs[1], opts.Now, opts.Cache)
	if err != nil {
		return bad(err.Error(), "one by "+subject(certs[1]))
	}
	good := a.Status.Tag == statusGood && len(a.Status.Bytes) == 0
	switch {
	case a.Status.Class != asn1.ClassContextSpecific || !good && a.Status.Tag != statusRevoked:
		return bad("status unknown", "good or revoked")
	case a.NextUpdate.IsZero() || a.NextUpdate.Sub(a.ThisUpdate) > ocspLifetime:
		return bad("one without end, or one that holds too long", "at most "+ocspLifetime.String())
	case opts.Now.Before(a.ThisUpdate) || !opts.Now.Before(a.NextUpdate):
		return bad("one of "+stamp(a.ThisUpdate)+" to "+stamp(a.NextUpdate), "one that is current at "+stamp(opts.Now))
	}
	return Answer{good, a.ThisUpdate, earlier(a.NextUpdate, signer.NotAfter)}, nil
}

// OCSPRequest makes the question about a certificate (RFC 6960, 4.1), in DER: by SHA-384, as NVIDIA's own verifiers
// ask, and without a nonce, so that the answer can be kept. Byte for byte it is what OpenSSL asks (openssl ocsp -sha384
// -no_nonce).
func OCSPRequest(cert, issuer *x509.Certificate) ([]byte, error) {
	name, key := sha512.Sum384(issuer.RawSubject), sha512.Sum384(publicKey(issuer))
	type question struct{ Cert certID }
	var request struct {
		TBS struct{ Questions []question }
	}
	request.TBS.Questions = []question{{certID{
		pkix.AlgorithmIdentifier{
			Algorithm:  asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, // SHA-384
			Parameters: asn1.NullRawValue,
		},
		name[:], key[:], cert.SerialNumber,
	}}}
	der, err := asn1.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("asking about a certificate: %w", err)
	}
	return der, nil
}

// RIMRef names a RIM: its identifier at NVIDIA's RIM service, and what it says of itself.
type RIMRef struct {
	ID                        string
	Product, Version, Edition string // as RIM has them
}

// RIMRefs names a device's RIMs, driver first. It goes by evidence that is not verified: for fetching, nothing else.
// (The Blackwell driver's identifier has "CC" in it; the Hopper-like one names a validly signed RIM of another
// product.)
func RIMRefs(report, chainText []byte) ([]RIMRef, error) {
	r, err := ParseReport(report)
	if err != nil {
		return nil, err
	}
	certs, err := ParseChain(chainText)
	if err != nil {
		return nil, err
	}
	id, err := identify(certs)
	if err != nil {
		return nil, err
	}
	c, err := r.claims(id, true)
	if err != nil {
		return nil, err
	}
	compact := strings.ToUpper(strings.ReplaceAll(c.VBIOS, ".", ""))
	vbios := RIMRef{"NV_SWITCH_BIOS_" + switchBoard + "_" + compact, c.Chip, c.VBIOS, editionSwitch}
	if c.Arch == LS10 {
		return []RIMRef{vbios}, nil
	}
	vbios.ID = strings.ToUpper(strings.Join([]string{"NV_GPU_VBIOS", c.Project, c.ProjectSKU, c.ChipSKU, compact}, "_"))
	vbios.Edition = editionGPU
	prefix := "NV_GPU_DRIVER_"
	if c.Arch == Blackwell {
		prefix = "NV_GPU_CC_DRIVER_"
	}
	return []RIMRef{{prefix + c.Chip + "_" + c.Driver, c.Chip, c.Driver, editionGPU}, vbios}, nil
}
