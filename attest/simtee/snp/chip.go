package snp

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"time"

	"cocoon/attest/snp"
)

// Chip is a simulated secure processor: it has a name and the keys that a VCEK and a VLEK certify. It may be used by
// several goroutines at once.
type Chip struct {
	HWID []byte // 64 bytes, 8 on Turin

	authority *Authority
	keys      [2]*ecdsa.PrivateKey // by snp.Signer
}

// CSPID is the cloud provider in a VLEK's certificate.
const CSPID = "CN=simulated.invalid"

// cpuOf returns a CPU of the product line.
func cpuOf(line snp.Line) (snp.CPU, error) {
	switch line {
	case snp.Milan:
		return snp.CPU{Family: 0x19, Model: 0x01, Stepping: 1}, nil
	case snp.Genoa:
		return snp.CPU{Family: 0x19, Model: 0x11, Stepping: 1}, nil
	case snp.Turin:
		return snp.CPU{Family: 0x1a, Model: 0x02, Stepping: 1}, nil
	}
	return snp.CPU{}, fmt.Errorf("simulating product line %q: not known", line)
}

// NewChip makes a chip of the authority's product line.
func (a *Authority) NewChip() (*Chip, error) {
	c := &Chip{authority: a, HWID: make([]byte, 64)}
	if a.line == snp.Turin {
		c.HWID = c.HWID[:8]
	}
	rand.Read(c.HWID) // never fails
	for i := range c.keys {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("making a key: %w", err)
		}
		c.keys[i] = key
	}
	return c, nil
}

// KeyConfig says what an endorsement key's certificate is like.
type KeyConfig struct {
	Kind snp.Signer
	TCB  snp.TCB // that the key is for; the chip signs with one key for all

	// Mutate, if not nil, may change the template before it is signed.
	Mutate func(*x509.Certificate)
}

// Certificate returns the certificate, in DER, of the chip's VCEK or VLEK: valid from an hour before the authority's
// time to seven years after, a VLEK's to one year after.
func (c *Chip) Certificate(k KeyConfig) ([]byte, error) {
	a := c.authority
	t := &x509.Certificate{
		SerialNumber: new(big.Int), NotBefore: a.now.Add(-time.Hour), NotAfter: a.now.AddDate(7, 0, 0),
		SignatureAlgorithm: x509.SHA384WithRSAPSS, Subject: subject("SEV-" + k.Kind.String()),
	}
	by, product := a.ask, string(a.line)
	if k.Kind == snp.VLEK {
		by, t.NotAfter = a.asvk, a.now.AddDate(1, 0, 0)
	} else if a.line == snp.Milan {
		product = "Milan-B0"
	}
	var err error
	if t.ExtraExtensions, err = c.extensions(k, product); err != nil {
		return nil, err
	}
	if k.Mutate != nil {
		k.Mutate(t)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by.certificate, c.keys[k.Kind].Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of a %v: %w", k.Kind, err)
	}
	return der, nil
}

// ExtensionID returns the identifier of one of AMD's certificate extensions, such as 3, 8 (AMD 57230).
func ExtensionID(below ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, below...)
}

// extensions are AMD's (AMD 57230, table of extensions).
func (c *Chip) extensions(k KeyConfig, product string) ([]pkix.Extension, error) {
	var (
		all   []pkix.Extension
		first error
	)
	add := func(value any, params string, below ...int) {
		der, err := asn1.MarshalWithParams(value, params)
		if err != nil && first == nil {
			first = fmt.Errorf("marshalling an extension: %w", err)
		}
		all = append(all, pkix.Extension{Id: ExtensionID(below...), Value: der})
	}
	turin := c.authority.line == snp.Turin
	if turin {
		add(1, "", 1)
	} else {
		add(0, "", 1)
	}
	add(product, "ia5", 2)
	for i, level := range []uint8{k.TCB.Boot, k.TCB.TEE, k.TCB.SNP, 0, 0, 0, 0, k.TCB.Microcode, k.TCB.FMC} {
		if n := i + 1; (n != 4 || !turin) && (n != 9 || turin) {
			add(int(level), "", 3, n)
		}
	}
	if k.Kind == snp.VLEK {
		add(CSPID, "ia5", 5)
	} else { // without a tag, as AMD does it
		all = append(all, pkix.Extension{Id: ExtensionID(4), Value: slices.Clone(c.HWID)})
	}
	return all, first
}

// Key returns the private key behind the chip's VCEK or VLEK, for forgeries of other kinds than this package makes.
func (c *Chip) Key(kind snp.Signer) *ecdsa.PrivateKey { return c.keys[kind] }

// Sign puts the signature by the chip's VCEK or VLEK into a report.
func (c *Chip) Sign(report []byte, kind snp.Signer) error {
	if len(report) != snp.ReportSize {
		return fmt.Errorf("signing a report: got %d bytes, want %d", len(report), snp.ReportSize)
	}
	digest := sha512.Sum384(report[:0x2a0])
	r, s, err := ecdsa.Sign(rand.Reader, c.keys[kind], digest[:])
	if err != nil {
		return fmt.Errorf("signing a report: %w", err)
	}
	clear(report[0x2a0:])
	for i, n := range []*big.Int{r, s} {
		scalar := report[0x2a0+72*i:][:72]
		n.FillBytes(scalar)
		slices.Reverse(scalar)
	}
	return nil
}

// EncodeTCB lays out a TCB as the product line does (AMD 56860, TCB_VERSION).
func EncodeTCB(line snp.Line, t snp.TCB) uint64 {
	b := [8]byte{0: t.Boot, 1: t.TEE, 6: t.SNP, 7: t.Microcode}
	if line == snp.Turin {
		b = [8]byte{0: t.FMC, 1: t.Boot, 2: t.TEE, 3: t.SNP, 7: t.Microcode}
	}
	return binary.LittleEndian.Uint64(b[:])
}
