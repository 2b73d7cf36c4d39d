package nvgpu

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // names a responder's key, as RFC 6960 has it
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"cocoon/attest/nvgpu"
)

// ocspLife is how long NVIDIA's responses hold.
const ocspLife = 24 * time.Hour

// Status is what a response says of a certificate.
type Status struct {
	Revoked    bool
	Unknown    bool
	Reason     int       // of revocation; 6: on hold
	ThisUpdate time.Time // zero: Config.Now
	NextUpdate time.Time // zero: a day later
}

type certID struct {
	Hash      pkix.AlgorithmIdentifier
	Name, Key []byte
	Serial    *big.Int
}

type single struct {
	Cert       certID
	Status     asn1.RawValue
	ThisUpdate time.Time `asn1:"generalized"`
	NextUpdate time.Time `asn1:"generalized,explicit,tag:0"`
}

type responseData struct {
	Responder  asn1.RawValue
	ProducedAt time.Time `asn1:"generalized"`
	Answers    []single
}

type basic struct {
	Data      asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
	Certs     []asn1.RawValue `asn1:"explicit,tag:0"`
}

type response struct {
	Status asn1.Enumerated
	Bytes  struct {
		Type     asn1.ObjectIdentifier
		Response []byte
	} `asn1:"explicit,tag:0"`
}

// OCSP answers for a certificate, by the responder of its issuer.
func (p *PKI) OCSP(cert *x509.Certificate, s Status) ([]byte, error) {
	der, err := p.ocsp(cert, s)
	if err != nil {
		return nil, fmt.Errorf("making a simulated OCSP response: %w", err)
	}
	return der, nil
}

func (p *PKI) ocsp(cert *x509.Certificate, s Status) ([]byte, error) {
	issuer, err := p.issuer(cert)
	if err != nil {
		return nil, err
	}
	signer, err := p.responder(issuer)
	if err != nil {
		return nil, err
	}
	if s.ThisUpdate.IsZero() {
		s.ThisUpdate = p.c.Now
	}
	if s.NextUpdate.IsZero() {
		s.NextUpdate = s.ThisUpdate.Add(ocspLife)
	}
	status, err := s.choice()
	if err != nil {
		return nil, err
	}
	name, key := sha512.Sum384(issuer.cert.RawSubject), sha512.Sum384(keyBits(issuer.cert))
	sum := sha1.Sum(keyBits(signer.cert)) //nolint:gosec // see the import
	id, err := asn1.Marshal(sum[:])
	if err != nil {
		return nil, err
	}
	data, err := asn1.Marshal(responseData{
		Responder:  asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, IsCompound: true, Bytes: id},
		ProducedAt: s.ThisUpdate.UTC(),
		Answers: []single{{
			Cert:   certID{pkix.AlgorithmIdentifier{Algorithm: oidSHA384()}, name[:], key[:], cert.SerialNumber},
			Status: status, ThisUpdate: s.ThisUpdate.UTC(), NextUpdate: s.NextUpdate.UTC(),
		}},
	})
	if err != nil {
		return nil, err
	}
	return signer.respond(data)
}

// respond signs the data and wraps it up.
func (a authority) respond(data []byte) ([]byte, error) {
	sum := sha512.Sum384(data)
	sig, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		return nil, err
	}
	inner, err := asn1.Marshal(basic{
		Data: asn1.RawValue{FullBytes: data}, Algorithm: pkix.AlgorithmIdentifier{Algorithm: oid(1, 2, 840, 10045, 4, 3, 3)},
		Signature: asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}, Certs: []asn1.RawValue{{FullBytes: a.cert.Raw}},
	})
	if err != nil {
		return nil, err
	}
	var r response
	r.Bytes.Type, r.Bytes.Response = oid(1, 3, 6, 1, 5, 5, 7, 48, 1, 1), inner
	return asn1.Marshal(r)
}

// choice is CertStatus.
func (s Status) choice() (asn1.RawValue, error) {
	switch {
	case s.Revoked:
		der, err := asn1.MarshalWithParams(struct {
			At     time.Time       `asn1:"generalized"`
			Reason asn1.Enumerated `asn1:"explicit,tag:0"`
		}{s.ThisUpdate.UTC(), asn1.Enumerated(s.Reason)}, "tag:1")
		return asn1.RawValue{FullBytes: der}, err
	case s.Unknown:
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2}, nil
	}
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0}, nil
}

// issuer finds who made a certificate: a device's boot ROM is the provisioner's.
func (p *PKI) issuer(cert *x509.Certificate) (authority, error) {
	for _, a := range []authority{p.root, p.identity, p.provisioner, p.rimRoot, p.rimCA} {
		if string(a.cert.RawSubject) == string(cert.RawIssuer) {
			return a, nil
		}
	}
	return authority{}, fmt.Errorf("%q is not of this vendor", cert.Subject.CommonName)
}

// responder returns the issuer's, made at first use.
func (p *PKI) responder(issuer authority) (authority, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.responders[string(issuer.cert.Raw)]; ok {
		return a, nil
	}
	t := template(word+" OCSP Responder", p.c.Now.Add(DefaultLife), false)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	t.ExtraExtensions = []pkix.Extension{{Id: oid(1, 3, 6, 1, 5, 5, 7, 48, 1, 5), Value: []byte{5, 0}}}
	a, err := p.issue(t, &issuer)
	if err == nil {
		p.responders[string(issuer.cert.Raw)] = a
	}
	return a, err
}

func keyBits(c *x509.Certificate) []byte {
	b, err := c.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		return nil // our own key: not reached
	}
	return b
}

// RIMChain is the certificates in the vendor's RIMs, signer first.
func (p *PKI) RIMChain() []*x509.Certificate {
	return []*x509.Certificate{p.rimSigner.cert, p.rimCA.cert, p.rimRoot.cert}
}

// Collateral makes all that devices need to be verified at the time now: RIMs of their releases, and good OCSP
// responses.
func (p *PKI) Collateral(now time.Time, devices ...*Device) (nvgpu.Collateral, error) {
	var c nvgpu.Collateral
	seen := map[string]bool{}
	ask := append([]*x509.Certificate(nil), p.RIMChain()[:2]...)
	for _, d := range devices {
		ask = append(ask, d.Chain()[1:4]...)
		for _, r := range d.RIMConfigs() {
			key := r.Product + " " + r.Version
			if seen[key] {
				continue
			}
			seen[key] = true
			doc, err := p.RIM(r)
			if err != nil {
				return c, err
			}
			c.RIMs = append(c.RIMs, doc)
		}
	}
	for _, cert := range ask {
		if seen[string(cert.Raw)] {
			continue
		}
		seen[string(cert.Raw)] = true
		der, err := p.OCSP(cert, Status{ThisUpdate: now})
		if err != nil {
			return c, err
		}
		c.OCSP = append(c.OCSP, der)
	}
	return c, nil
}
