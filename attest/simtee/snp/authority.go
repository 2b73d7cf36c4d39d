// Package snp simulates AMD: a root key with its certificates and revocation lists ([Authority]), and secure processors
// that sign SEV-SNP reports ([Chip]). Its evidence goes through the very verifier that real evidence does, cocoon's
// attest/snp; it passes only where the caller pins the authority's own root. Every name in a certificate says
// SIMULATED, in an attribute of its own: the others are AMD's to the letter, because verifiers by others insist on
// those, and a second opinion must be able to judge simulated evidence too.
//
// A chip signs whatever it is asked to, which is what tests need and what makes a simulated report worth nothing.
package snp

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"time"

	"cocoon/attest/simtee/keys"
	"cocoon/attest/snp"
)

// rsaBits is AMD's key size. Finding such primes takes seconds; see [Config].
const rsaBits = 4096

// Config says what an [Authority] is like.
type Config struct {
	Line    snp.Line  // product line whose root it simulates
	Now     time.Time // its certificates are valid from an hour before to 25 years after
	RSABits int       // of its keys, at least 2048; 0 is 4096, as AMD's are, which takes seconds to make
}

// Authority is a simulated AMD for one product line: the ARK, and the ASK and ASVK below it. It may be used by several
// goroutines at once.
type Authority struct {
	line           snp.Line
	now            time.Time
	ark, ask, asvk issuer
}

// arkPrefix is what the name of AMD's root key begins with; the product line follows.
const arkPrefix = "ARK-"

// issuer is a certificate and its key.
type issuer struct {
	key         *rsa.PrivateKey
	certificate *x509.Certificate
}

// NewAuthority makes keys and certificates.
func NewAuthority(c Config) (*Authority, error) {
	if _, err := cpuOf(c.Line); err != nil {
		return nil, err
	}
	if c.RSABits == 0 {
		c.RSABits = rsaBits
	}
	a := &Authority{line: c.Line, now: c.Now}
	for i, into := range []*issuer{&a.ark, &a.ask, &a.asvk} {
		key, err := rsa.GenerateKey(rand.Reader, c.RSABits)
		if err != nil {
			return nil, fmt.Errorf("making a key: %w", err)
		}
		into.key = key
		names := []string{arkPrefix, "SEV-", "SEV-VLEK-"}
		name := names[i] + string(c.Line)
		if into.certificate, err = a.issueCA(name, key.Public(), int64(i+1)); err != nil {
			return nil, fmt.Errorf("making a certificate: %w", err)
		}
	}
	return a, nil
}

// issueCA signs the certificate of an issuer with the ARK; the first one is the ARK's own.
func (a *Authority) issueCA(name string, public crypto.PublicKey, serial int64) (*x509.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject(name),
		NotBefore: a.now.Add(-time.Hour), NotAfter: a.now.AddDate(25, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS, BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageCertSign,
		// As in AMD's, which other verifiers look for; what is there knows nothing of a simulator's serial numbers.
		CRLDistributionPoints: []string{"https://kdsintf.amd.com/vcek/v1/" + string(a.line) + "/crl"},
	}
	parent := a.ark.certificate
	if parent == nil {
		parent = t
		t.KeyUsage |= x509.KeyUsageCRLSign
	} else {
		t.MaxPathLenZero = true
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, a.ark.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// subject is AMD's but for the street.
func subject(name string) pkix.Name {
	return pkix.Name{
		OrganizationalUnit: []string{"Engineering"}, Country: []string{"US"}, Locality: []string{"Santa Clara"},
		Province: []string{"CA"}, Organization: []string{"Advanced Micro Devices"}, CommonName: name,
		StreetAddress: []string{"SIMULATED"},
	}
}

// Root returns what to pin to trust this authority.
func (a *Authority) Root() snp.Root {
	return snp.Root{Line: a.line, SHA256: sha256.Sum256(a.ark.certificate.Raw)}
}

// Endorsements returns the authority's certificates with the revocation lists given.
func (a *Authority) Endorsements(crls ...[]byte) snp.Endorsements {
	return snp.Endorsements{a.line: {
		ARK: a.ark.certificate.Raw, ASK: a.ask.certificate.Raw, ASVK: a.asvk.certificate.Raw, CRLs: crls,
	}}
}

// CRLConfig says what a revocation list is like.
type CRLConfig struct {
	ThisUpdate, NextUpdate time.Time  // zero: an hour before the authority's time, a year after it
	Revoked                []*big.Int // serial numbers: 1 is the ARK's, 2 the ASK's, 3 the ASVK's, 0 all chips'

	// Mutate, if not nil, may change the template before it is signed.
	Mutate func(*x509.RevocationList)
}

// CRL signs a revocation list with the ARK.
func (a *Authority) CRL(c CRLConfig) ([]byte, error) {
	t := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate,
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	if t.ThisUpdate.IsZero() {
		t.ThisUpdate = a.now.Add(-time.Hour)
	}
	if t.NextUpdate.IsZero() {
		t.NextUpdate = a.now.AddDate(1, 0, 0)
	}
	for _, serial := range c.Revoked {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: t.ThisUpdate})
	}
	if c.Mutate != nil {
		c.Mutate(t)
	}
	der, err := x509.CreateRevocationList(rand.Reader, t, a.ark.certificate, a.ark.key)
	if err != nil {
		return nil, fmt.Errorf("signing a revocation list: %w", err)
	}
	return der, nil
}

// Marshal returns the authority with its private keys as PEM, for other processes to simulate the same AMD.
func (a *Authority) Marshal() ([]byte, error) {
	var pairs []keys.Pair[*rsa.PrivateKey]
	for _, is := range []issuer{a.ark, a.ask, a.asvk} {
		pairs = append(pairs, keys.Pair[*rsa.PrivateKey]{Certificate: is.certificate, Key: is.key})
	}
	return keys.Marshal(pairs...)
}

// ParseAuthority reads what Marshal wrote. now is the time that certificates and lists which it will sign go by.
func ParseAuthority(text []byte, now time.Time) (*Authority, error) {
	pairs, err := keys.Parse[*rsa.PrivateKey](text, 3)
	if err != nil {
		return nil, err
	}
	a := &Authority{now: now}
	for i, into := range []*issuer{&a.ark, &a.ask, &a.asvk} {
		*into = issuer{pairs[i].Key, pairs[i].Certificate}
	}
	name, _ := strings.CutPrefix(a.ark.certificate.Subject.CommonName, arkPrefix)
	a.line = snp.Line(name)
	if _, err := cpuOf(a.line); err != nil {
		return nil, err
	}
	return a, nil
}
