// Package tdx simulates Intel TDX: a provisioning PKI of its own, platforms certified by it, quotes and collateral in
// Intel's formats, for the verifier of package attest/tdx.
//
// Nothing here proves anything: whoever runs the code can sign what it likes. That it is a simulation shows in the
// root, which a verifier must have been given on purpose; every certificate's name holds the word SIMULATED.
package tdx

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	"cocoon/attest/simtee/keys"
	"cocoon/attest/tdx"
)

// Marker is in the distinguished name of every certificate of a simulated PKI.
const Marker = "SIMULATED"

// Common names, Intel's to the letter: verifiers tell the certificates' roles by them. The organization says whose they
// really are.
const (
	nameRoot      = "Intel SGX Root CA"
	namePlatform  = "Intel SGX PCK Platform CA"
	nameProcessor = "Intel SGX PCK Processor CA"
	namePCK       = "Intel SGX PCK Certificate"
	nameSigner    = "Intel SGX TCB Signing"
)

// How long a simulated PKI lives, from one day before it was made.
const validYears = 7

// PKI stands for Intel: root, PCK CAs and TCB signer.
type PKI struct {
	root, platform, processor, signer *entity
	made                              time.Time
}

// entity is a certificate with its key.
type entity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewPKI makes a PKI valid from a day before now on. Its keys are random: two PKIs have nothing in common.
func NewPKI(now time.Time) (*PKI, error) {
	p := &PKI{made: now}
	var err error
	if p.root, err = p.issue(nil, nameRoot, true); err != nil {
		return nil, err
	}
	if p.platform, err = p.issue(p.root, namePlatform, true); err != nil {
		return nil, err
	}
	if p.processor, err = p.issue(p.root, nameProcessor, true); err != nil {
		return nil, err
	}
	p.signer, err = p.issue(p.root, nameSigner, false)
	return p, err
}

// Marshal returns the PKI with its private keys as PEM, for other processes to simulate the same Intel.
func (p *PKI) Marshal() ([]byte, error) {
	var pairs []keys.Pair[*ecdsa.PrivateKey]
	for _, e := range []*entity{p.root, p.platform, p.processor, p.signer} {
		pairs = append(pairs, keys.Pair[*ecdsa.PrivateKey]{Certificate: e.cert, Key: e.key})
	}
	return keys.Marshal(pairs...)
}

// ParsePKI reads what Marshal wrote. now is the time that machines' certificates and collateral go by.
func ParsePKI(text []byte, now time.Time) (*PKI, error) {
	pairs, err := keys.Parse[*ecdsa.PrivateKey](text, 4)
	if err != nil {
		return nil, err
	}
	p := &PKI{made: now}
	for i, into := range []**entity{&p.root, &p.platform, &p.processor, &p.signer} {
		*into = &entity{pairs[i].Certificate, pairs[i].Key}
	}
	return p, nil
}

// qeSigner is the MRSIGNER of the PKI's quoting enclaves.
func (p *PKI) qeSigner() [32]byte { return sha256.Sum256(p.root.cert.Raw) }

// Root returns the root certificate: what a verifier must pin to take this PKI's evidence.
func (p *PKI) Root() *x509.Certificate { return p.root.cert }

// Certificates returns all certificates of the PKI, those of machines aside.
func (p *PKI) Certificates() []*x509.Certificate {
	return []*x509.Certificate{p.root.cert, p.platform.cert, p.processor.cert, p.signer.cert}
}

// ca returns the PCK CA of a kind.
func (p *PKI) ca(kind tdx.CA) (*entity, error) {
	switch kind {
	case tdx.PlatformCA, "":
		return p.platform, nil
	case tdx.ProcessorCA:
		return p.processor, nil
	}
	return nil, fmt.Errorf("no such CA: %q", kind)
}

// issue makes a key and its certificate; no parent means self-signed.
func (p *PKI) issue(parent *entity, name string, ca bool, more ...pkix.Extension) (*entity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 20)
	if _, err := rand.Read(serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f // positive, in 20 bytes
	id := sha256.Sum256(point)
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		Subject: pkix.Name{
			CommonName: name, Organization: []string{Marker}, OrganizationalUnit: []string{"not Intel Corporation"},
		},
		NotBefore: p.made.Add(-24 * time.Hour), NotAfter: p.made.AddDate(validYears, 0, 0),
		SignatureAlgorithm: x509.ECDSAWithSHA256, BasicConstraintsValid: true, IsCA: ca,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, SubjectKeyId: id[:20],
		ExtraExtensions: more,
		// As in Intel's, which other verifiers look for; there is nothing there.
		CRLDistributionPoints: []string{"https://simulated.invalid/crl"},
	}
	if ca {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	issuer, signer := t, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &entity{cert, key}, err
}

// chain returns certificates as PEM.
func chain(certs ...*entity) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return text
}

// sign returns an ECDSA signature over the SHA-256 of text, as r and s.
func sign(key *ecdsa.PrivateKey, text []byte) ([]byte, error) {
	sum := sha256.Sum256(text)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	return slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))), nil
}

// sgxPart is one pair of the SGX extension.
type sgxPart struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// sgxOID returns the SGX extension's ID, or that of a part.
func sgxOID(part ...int) asn1.ObjectIdentifier {
	return slices.Concat(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, part)
}

// sgxExtension encodes a platform's values as PCK certificates have them.
func sgxExtension(p *tdx.Platform) (pkix.Extension, error) {
	var tcb []sgxPart
	for i, n := range p.CPUSVN {
		tcb = append(tcb, sgxPart{sgxOID(2, i+1), int(n)})
	}
	tcb = append(tcb, sgxPart{sgxOID(2, 17), int(p.PCESVN)}, sgxPart{sgxOID(2, 18), p.CPUSVN[:]})
	all := []sgxPart{
		{sgxOID(1), p.PPID[:]},
		{sgxOID(2), tcb},
		{sgxOID(3), p.PCEID[:]},
		{sgxOID(4), p.FMSPC[:]},
		{sgxOID(5), asn1.Enumerated(p.Type)},
	}
	if p.HasInstance {
		all = append(all, sgxPart{sgxOID(6), p.Instance[:]})
	}
	var flags []sgxPart
	for i, flag := range []*bool{p.Dynamic, p.CachedKeys, p.SMT} {
		if flag != nil {
			flags = append(flags, sgxPart{sgxOID(7, i+1), *flag})
		}
	}
	if flags != nil {
		all = append(all, sgxPart{sgxOID(7), flags})
	}
	der, err := asn1.Marshal(all)
	return pkix.Extension{Id: sgxOID(), Value: der}, err
}
