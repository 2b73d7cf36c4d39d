package nvgpu

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // names a key in a responder's identifier (RFC 6960), authenticates nothing
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// Limits on an OCSP response. NVIDIA's have one answer, one certificate and about 1 KiB.
const (
	OCSPMax       = 8 << 10             // bytes
	ocspAnswers   = 8                   // certificates that one response is about
	ocspCerts     = 3                   // certificates of responders that come with it
	ocspLifetime  = 10 * 24 * time.Hour // from thisUpdate to nextUpdate: NVIDIA's live a day
	ocspResponses = 128                 // responses in one collateral
)

// Object identifiers of OCSP (RFC 6960) and of what it signs and hashes with.
const (
	oidBasicResponse = "1.3.6.1.5.5.7.48.1.1"
	oidNoCheck       = "1.3.6.1.5.5.7.48.1.5"
	oidECDSASHA384   = "1.2.840.10045.4.3.3"
	oidSHA256        = "2.16.840.1.101.3.4.2.1"
)

// reasonHold is certificateHold (RFC 5280, CRLReason): taken back perhaps, but not now.
const reasonHold = 6

// The states of a certificate, by the tags of CertStatus.
const (
	statusGood    = 0
	statusRevoked = 1
)

// OCSP is a parsed response. Nothing in it is to be believed before verify.
type OCSP struct {
	answers   []singleResponse
	responder asn1.RawValue
	tbs, sig  []byte
	certs     []*x509.Certificate
}

// Explicit tags outside of what is signed are taken apart by hand: encoding/asn1 doesn't compare their two lengths.
type ocspResponse struct {
	Status asn1.Enumerated
	Bytes  asn1.RawValue `asn1:"optional"` // [0] responseBytes
}

type responseBytes struct {
	Type     asn1.ObjectIdentifier
	Response []byte
}

type basicResponse struct {
	Data      responseData
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
	Certs     asn1.RawValue `asn1:"optional"` // [0] SEQUENCE OF Certificate
}

type responseData struct {
	Raw        asn1.RawContent
	Version    int `asn1:"optional,default:0,explicit,tag:0"`
	Responder  asn1.RawValue
	ProducedAt time.Time `asn1:"generalized"`
	Answers    []singleResponse
	Extensions []pkix.Extension `asn1:"optional,explicit,tag:1"`
}

type singleResponse struct {
	Cert       certID
	Status     asn1.RawValue    // CHOICE by tag
	ThisUpdate time.Time        `asn1:"generalized"`
	NextUpdate time.Time        `asn1:"generalized,optional,explicit,tag:0"`
	Extensions []pkix.Extension `asn1:"optional,explicit,tag:1"`
}

type certID struct {
	Hash   pkix.AlgorithmIdentifier
	Name   []byte // digest of the issuer's name
	Key    []byte // digest of the issuer's key
	Serial *big.Int
}

type revokedInfo struct {
	At     time.Time       `asn1:"generalized"`
	Reason asn1.Enumerated `asn1:"optional,explicit,tag:0,default:0"`
}

// ParseOCSP reads a response in DER, as OCSP responders send it.
func ParseOCSP(der []byte) (*OCSP, error) {
	if len(der) > OCSPMax {
		return nil, fail(CheckSize, "OCSP response", fmt.Sprintf("%d bytes", len(der)), fmt.Sprintf("at most %d", OCSPMax))
	}
	o, err := parseOCSP(der)
	if err != nil {
		return nil, fmt.Errorf("parsing an OCSP response: %w", err)
	}
	return o, nil
}

func parseOCSP(der []byte) (*OCSP, error) {
	var outer ocspResponse
	if err := unmarshal(der, &outer); err != nil {
		return nil, err
	}
	if outer.Status != 0 {
		return nil, fmt.Errorf("status %d", outer.Status)
	}
	var inner responseBytes
	if err := untag0(outer.Bytes, &inner); err != nil {
		return nil, err
	}
	if inner.Type.String() != oidBasicResponse {
		return nil, fmt.Errorf("type %s", inner.Type)
	}
	var basic basicResponse
	if err := unmarshal(inner.Response, &basic); err != nil {
		return nil, err
	}
	var certs []asn1.RawValue
	if len(basic.Certs.FullBytes) > 0 {
		if err := untag0(basic.Certs, &certs); err != nil {
			return nil, err
		}
	}
	d := &basic.Data
	switch {
	case basic.Algorithm.Algorithm.String() != oidECDSASHA384:
		return nil, fmt.Errorf("signature algorithm %s", basic.Algorithm.Algorithm)
	case d.Version != 0 || basic.Signature.BitLength%8 != 0:
		return nil, fmt.Errorf("version %d, signature of %d bits", d.Version, basic.Signature.BitLength)
	case len(d.Answers) < 1 || len(d.Answers) > ocspAnswers || len(certs) > ocspCerts:
		return nil, fmt.Errorf("%d answers and %d certificates", len(d.Answers), len(certs))
	case critical(d.Extensions):
		return nil, fmt.Errorf("a critical extension")
	}
	for _, a := range d.Answers {
		if critical(a.Extensions) {
			return nil, fmt.Errorf("a critical extension")
		}
	}
	o := &OCSP{answers: d.Answers, responder: d.Responder, tbs: d.Raw, sig: basic.Signature.Bytes}
	for _, raw := range certs {
		c, err := parseCert(raw.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("responder's certificate: %w", err)
		}
		o.certs = append(o.certs, c)
	}
	return o, nil
}

// untag0 reads what the explicit tag [0] holds.
func untag0(raw asn1.RawValue, v any) error {
	if raw.Class != asn1.ClassContextSpecific || raw.Tag != 0 || !raw.IsCompound {
		return fmt.Errorf("class %d, tag %d, want [0]", raw.Class, raw.Tag)
	}
	return unmarshal(raw.Bytes, v)
}

func critical(ext []pkix.Extension) bool {
	return slices.ContainsFunc(ext, func(e pkix.Extension) bool { return e.Critical })
}

// answer returns what the response says of cert, or nil if it's about others.
func (o *OCSP) answer(cert, issuer *x509.Certificate) *singleResponse {
	key := publicKey(issuer)
	for i, a := range o.answers {
		var name, keyHash []byte
		switch a.Cert.Hash.Algorithm.String() {
		case oidSHA256:
			n, k := sha256.Sum256(issuer.RawSubject), sha256.Sum256(key)
			name, keyHash = n[:], k[:]
		case oidSHA384:
			n, k := sha512.Sum384(issuer.RawSubject), sha512.Sum384(key)
			name, keyHash = n[:], k[:]
		default: // SHA-1: we ask with SHA-384
			continue
		}
		if a.Cert.Serial.Cmp(cert.SerialNumber) == 0 && bytes.Equal(a.Cert.Name, name) && bytes.Equal(a.Cert.Key, keyHash) {
			return &o.answers[i]
		}
	}
	return nil
}

// publicKey returns the bits of the subject's key, which is what OCSP hashes.
func publicKey(c *x509.Certificate) []byte {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if err := unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil // x509 has parsed it before: not reached
	}
	return spki.Key.RightAlign()
}

// verify checks that issuer, or a responder that issuer made for this, signed the response. It returns the signer.
func (o *OCSP) verify(issuer *x509.Certificate, now time.Time, cache *SignatureCache) (*x509.Certificate, error) {
	signer := issuer
	if !o.names(issuer) {
		i := slices.IndexFunc(o.certs, o.names)
		if i < 0 {
			return nil, fmt.Errorf("no certificate of the responder")
		}
		signer = o.certs[i]
		if err := responder(signer, issuer, now, cache); err != nil {
			return nil, fmt.Errorf("responder %s: %w", subject(signer), err)
		}
	}
	if !cache.verifyDER(signer, o.tbs, o.sig) {
		return nil, fmt.Errorf("a signature that is not of %s", subject(signer))
	}
	return signer, nil
}

// names tells whether the response says that c signed it: ResponderID is a name [1], or the SHA-1 of a key [2].
func (o *OCSP) names(c *x509.Certificate) bool {
	if o.responder.Class != asn1.ClassContextSpecific {
		return false
	}
	switch o.responder.Tag {
	case 1:
		return bytes.Equal(o.responder.Bytes, c.RawSubject)
	case 2:
		var hash []byte
		sum := sha1.Sum(publicKey(c)) //nolint:gosec // see the import
		return unmarshal(o.responder.Bytes, &hash) == nil && bytes.Equal(hash, sum[:])
	}
	return false
}

// responder wants a certificate for signing OCSP responses, made by the issuer itself, whose own revocation nobody
// needs to ask for: id-pkix-ocsp-nocheck, as an extension (RFC 6960, 4.2.2.2.1) or, as some of NVIDIA's have it, among
// the extended key usages.
func responder(c, issuer *x509.Certificate, now time.Time, cache *SignatureCache) error {
	noCheck := extension(c, oidNoCheck) != nil ||
		slices.ContainsFunc(c.UnknownExtKeyUsage, func(u asn1.ObjectIdentifier) bool { return u.String() == oidNoCheck })
	switch {
	case p384(c) == nil:
		return fmt.Errorf("key %s", c.PublicKeyAlgorithm)
	case now.Before(c.NotBefore) || now.After(c.NotAfter):
		return fmt.Errorf("valid %s to %s, and it is %s", stamp(c.NotBefore), stamp(c.NotAfter), stamp(now))
	case c.IsCA || c.KeyUsage&x509.KeyUsageDigitalSignature == 0 ||
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return fmt.Errorf("not made for OCSP")
	case !noCheck:
		return fmt.Errorf("its own revocation is unknown")
	case len(unhandled(c)) > 0:
		return fmt.Errorf("critical extension %s", unhandled(c)[0])
	}
	return signedBy(c, issuer, cache)
}

// unhandled are the critical extensions that nobody looked at.
func unhandled(c *x509.Certificate) []asn1.ObjectIdentifier {
	return slices.DeleteFunc(slices.Clone(c.UnhandledCriticalExtensions),
		func(id asn1.ObjectIdentifier) bool { return id.String() == oidNoCheck })
}

// revocation looks certificates up in the responses of a collateral.
type revocation struct {
	check     Check
	responses []*OCSP
	now       time.Time
	cache     *SignatureCache
}

// good wants at least one response that is authentic, current, and calls the certificate good, and none that is
// authentic and calls it revoked: an older "good" that is not over yet doesn't outweigh it. It returns until when that
// holds.
func (r *revocation) good(cert, issuer *x509.Certificate) (time.Time, error) {
	var until time.Time
	bad := func(got string) (time.Time, error) {
		return time.Time{}, fail(r.check, subject(cert), got, "a current OCSP response: good")
	}
	got := "no response"
	for _, o := range r.responses {
		a := o.answer(cert, issuer)
		if a == nil {
			continue
		}
		signer, err := o.verify(issuer, r.now, r.cache)
		if err != nil {
			got = err.Error() // perhaps another response is better; if not, this is why
			continue
		}
		switch {
		case a.Status.Class != asn1.ClassContextSpecific:
			return bad("a strange status")
		case a.Status.Tag == statusRevoked:
			return bad(revoked(a.Status))
		case a.Status.Tag != statusGood || len(a.Status.Bytes) > 0:
			return bad("status unknown")
		case r.now.Before(a.ThisUpdate):
			got = "a response from " + stamp(a.ThisUpdate) + ", which is to come"
		case a.NextUpdate.IsZero() || a.NextUpdate.Sub(a.ThisUpdate) > ocspLifetime:
			got = "a response without end, or one that holds too long"
		case !r.now.Before(a.NextUpdate):
			got = "a response that ended " + stamp(a.NextUpdate)
		default:
			until = later(until, earlier(a.NextUpdate, signer.NotAfter))
		}
	}
	if until.IsZero() {
		return bad(got)
	}
	return until, nil
}

func revoked(status asn1.RawValue) string {
	// RevokedInfo is tagged implicitly: back to a SEQUENCE for the parser.
	var info revokedInfo
	if _, err := asn1.UnmarshalWithParams(status.FullBytes, &info, "tag:1"); err != nil {
		return "revoked"
	}
	if info.Reason == reasonHold {
		return "on hold since " + stamp(info.At)
	}
	return fmt.Sprintf("revoked since %s, reason %d", stamp(info.At), info.Reason)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
