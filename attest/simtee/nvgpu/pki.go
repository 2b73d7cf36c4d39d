// Package nvgpu simulates NVIDIA GPUs and NVSwitches with everything that their verification rests on: a certificate
// authority for devices, one for RIMs, OCSP responders. It makes evidence for attest/nvgpu, which verifies it by the
// same code as a vendor's, to roots that a caller has to name. The roots say SIMULATED in their names; nothing that is
// verified to them is attested by hardware.
package nvgpu

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"cocoon/attest/nvgpu"
	"cocoon/attest/simtee/keys"
)

// word is in the name of every certificate.
const word = "SIMULATED"

// DefaultLife is how long a RIM's signer is valid: as NVIDIA's, two years.
const DefaultLife = 2 * 365 * 24 * time.Hour

// Config says how a PKI is made.
type Config struct {
	Now        time.Time     // certificates are valid from an hour earlier
	SignerLife time.Duration // of the RIM signer's certificate, from Now; 0: DefaultLife
	DeviceLife time.Duration // of devices' certificates, from Now; 0: to the end of 9999, as NVIDIA's
}

// authority is a certificate with its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// PKI is a simulated vendor. Safe for concurrent use.
type PKI struct {
	c Config

	root, identity, provisioner authority // devices: leaf and boot ROM come below
	rimRoot, rimCA, rimSigner   authority

	mu         sync.Mutex
	responders map[string]authority // of OCSP, by the issuer's DER
}

// New makes a vendor with fresh keys.
func New(c Config) (*PKI, error) {
	if c.Now.IsZero() {
		return nil, errors.New("making a simulated vendor: no time")
	}
	if c.SignerLife == 0 {
		c.SignerLife = DefaultLife
	}
	p := &PKI{c: c, responders: map[string]authority{}}
	forever := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for _, x := range []struct {
		to     *authority
		name   string
		parent *authority
		end    time.Time
		leaf   bool
	}{
		{&p.root, "SIMULATED Device Identity CA", nil, forever, false},
		{&p.identity, "SIMULATED Identity", &p.root, forever, false},
		{&p.provisioner, "SIMULATED Provisioner ICA 1", &p.identity, forever, false},
		{&p.rimRoot, "SIMULATED CoRIM signing Root CA", nil, forever, false},
		{&p.rimCA, "SIMULATED Reference Value CA", &p.rimRoot, forever, false},
		{&p.rimSigner, "SIMULATED RIM L4 Signer", &p.rimCA, c.Now.Add(c.SignerLife), true},
	} {
		a, err := p.issue(template(x.name, x.end, !x.leaf), x.parent)
		if err != nil {
			return nil, fmt.Errorf("making a simulated vendor: %w", err)
		}
		*x.to = a
	}
	return p, nil
}

// Marshal returns the vendor with its private keys as PEM, for other processes to simulate the same NVIDIA.
func (p *PKI) Marshal() ([]byte, error) {
	var pairs []keys.Pair[*ecdsa.PrivateKey]
	for _, a := range p.authorities() {
		pairs = append(pairs, keys.Pair[*ecdsa.PrivateKey]{Certificate: a.cert, Key: a.key})
	}
	return keys.Marshal(pairs...)
}

// Parse reads what Marshal wrote. c is for what the vendor will certify from now on.
func Parse(text []byte, c Config) (*PKI, error) {
	if c.Now.IsZero() {
		return nil, errors.New("reading a simulated vendor: no time")
	}
	p := &PKI{c: c, responders: map[string]authority{}}
	into := p.authorities()
	pairs, err := keys.Parse[*ecdsa.PrivateKey](text, len(into))
	if err != nil {
		return nil, err
	}
	for i, a := range into {
		*a = authority{pairs[i].Certificate, pairs[i].Key}
	}
	return p, nil
}

// authorities are all that certifies or signs, but for devices and OCSP responders.
func (p *PKI) authorities() []*authority {
	return []*authority{&p.root, &p.identity, &p.provisioner, &p.rimRoot, &p.rimCA, &p.rimSigner}
}

// Roots are what a verifier has to be told to believe this vendor.
func (p *PKI) Roots() nvgpu.Roots {
	return nvgpu.Roots{Device: []*x509.Certificate{p.root.cert}, RIM: []*x509.Certificate{p.rimRoot.cert}}
}

// RootsPEM is Roots as text: the device root, then the RIM root.
func (p *PKI) RootsPEM() []byte { return chainPEM(p.root.cert, p.rimRoot.cert) }

func template(cn string, end time.Time, ca bool) *x509.Certificate {
	t := &x509.Certificate{
		Subject:  pkix.Name{CommonName: cn, Organization: []string{word}},
		NotAfter: end, SignatureAlgorithm: x509.ECDSAWithSHA384, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		t.BasicConstraintsValid, t.IsCA = true, true
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return t
}

// issue makes a key and has parent (or, without one, itself) sign a certificate for it.
func (p *PKI) issue(t *x509.Certificate, parent *authority) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	t.NotBefore = p.c.Now.Add(-time.Hour)
	if t.SerialNumber == nil {
		t.SerialNumber = serial()
	}
	if t.SubjectKeyId, err = keyID(&key.PublicKey); err != nil {
		return authority{}, err
	}
	signer := authority{t, key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, t, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	return authority{cert, key}, err
}

// serial is positive and has 20 bytes, as NVIDIA's.
func serial() *big.Int {
	b := make([]byte, 20)
	_, _ = rand.Read(b) // never fails
	return positive(b)
}

// positive is a number of as many bytes as b, whatever their first bits.
func positive(b []byte) *big.Int {
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b)
}

func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	b, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(b)
	return sum[:20], nil
}

// sign returns an ECDSA signature over msg in the form r | s. It is RFC 6979's, always the same: all processes that
// simulate one vendor make one RIM of a release, byte for byte, as there is but one at NVIDIA's service.
func (a authority) sign(msg []byte) ([]byte, error) {
	sum := sha512.Sum384(msg)
	der, err := a.key.Sign(nil, sum[:], crypto.SHA384)
	if err != nil {
		return nil, err
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, err
	}
	out := make([]byte, 96)
	sig.R.FillBytes(out[:48])
	sig.S.FillBytes(out[48:])
	return out, nil
}

func chainPEM(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

// oid parses a dotted object identifier that is a constant of this package.
func oid(parts ...int) asn1.ObjectIdentifier { return parts }
