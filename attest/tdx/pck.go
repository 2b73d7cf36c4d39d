package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// Common names of Intel's certificates (Intel SGX PCK Certificate and CRL Profile Specification, sections 1.3 and 1.4).
const (
	namePCK       = "Intel SGX PCK Certificate"
	namePlatform  = "Intel SGX PCK Platform CA"
	nameProcessor = "Intel SGX PCK Processor CA"
	nameSigner    = "Intel SGX TCB Signing"
)

// chainMax is the most bytes of PEM that a certificate chain may have: three certificates have 3.7 kB.
const chainMax = 16 << 10

// parseChain reads PEM certificates, n of them and nothing else.
func parseChain(text []byte, n int) ([]*x509.Certificate, error) {
	if len(text) > chainMax {
		return nil, fmt.Errorf("chain has %d bytes, limit %d", len(text), chainMax)
	}
	var chain []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		if !bytes.HasPrefix(rest, []byte("-----BEGIN CERTIFICATE-----")) { // pem.Decode would skip to the next block
			return nil, errors.New("chain holds something other than certificates")
		}
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) != 0 {
			return nil, errors.New("chain holds a broken PEM block")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", len(chain)+1, err)
		}
		if chain = append(chain, c); len(chain) > n {
			break
		}
	}
	if len(chain) != n {
		return nil, fmt.Errorf("chain has %d certificates, want %d", len(chain), n)
	}
	return chain, nil
}

// canonical tells whether text is the one PEM encoding of chain that we take in a quote: the bytes are under no
// signature, and a second spelling of the same quote would make a digest of it useless as its name. Intel's QE ends the
// text with a NUL, others don't.
func canonical(text []byte, chain []*x509.Certificate) bool {
	var want []byte
	for _, c := range chain {
		want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return bytes.Equal(bytes.TrimSuffix(text, []byte{0}), want)
}

// verifyChain checks that the chain's last certificate is a pinned root, that each is signed by the next, and that all
// are valid now, have P-256 keys and ECDSA-SHA256 signatures as Intel's profile says. The first is no CA.
func (v *verifier) verifyChain(c Check, chain []*x509.Certificate) error {
	leaf, root := chain[0], chain[len(chain)-1]
	sum := sha256.Sum256(root.Raw)
	if !slices.ContainsFunc(v.Roots, func(r *x509.Certificate) bool { return sha256.Sum256(r.Raw) == sum }) {
		return refuse(CheckRoot, fmt.Sprintf("%q with SHA-256 %x", root.Subject, sum), v.rootNames(), nil)
	}
	for _, x := range chain {
		key, ok := x.PublicKey.(*ecdsa.PublicKey)
		if !ok || key.Curve != elliptic.P256() || x.SignatureAlgorithm != x509.ECDSAWithSHA256 {
			return refuse(c, fmt.Sprintf("%q with a %s key, signed by %s", x.Subject, x.PublicKeyAlgorithm,
				x.SignatureAlgorithm), "P-256 and ECDSA-SHA256", nil)
		}
		if v.Now.Before(x.NotBefore) || v.Now.After(x.NotAfter) {
			return refuse(c, fmt.Sprintf("%q at %s", x.Subject, stamp(v.Now)),
				"a time from "+stamp(x.NotBefore)+" to "+stamp(x.NotAfter), nil)
		}
		v.expires(x.NotAfter)
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return refuse(c, fmt.Sprintf("%q as a CA or without the key usage", leaf.Subject), "a signer that is no CA", nil)
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: v.Now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // Intel's have none
	}
	opts.Roots.AddCert(root)
	for _, x := range chain[1 : len(chain)-1] {
		opts.Intermediates.AddCert(x)
	}
	found, err := leaf.Verify(opts)
	if err != nil {
		return refuse(c, fmt.Sprintf("%q", leaf.Subject), "a chain to "+root.Subject.String(), err)
	}
	if len(found[0]) != len(chain) {
		return refuse(c, fmt.Sprintf("a path of %d certificates", len(found[0])), fmt.Sprint(len(chain)), nil)
	}
	return nil
}

// rootNames says which roots are pinned.
func (v *verifier) rootNames() string {
	var names []string
	for _, r := range v.Roots {
		names = append(names, fmt.Sprintf("%q with SHA-256 %x", r.Subject, sha256.Sum256(r.Raw)))
	}
	return strings.Join(names, " or ")
}

// oidSGX is the SGX extension of PCK certificates; its parts are below it.
const oidSGX = "1.2.840.113741.1.13.1"

// sgxPart is one pair of the SGX extension.
type sgxPart struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// parsePlatform reads the SGX extension of a PCK certificate. What PCKs of all platforms have must be there, nothing
// may be there twice; parts that it doesn't know are left alone, for the certificate is Intel's.
func parsePlatform(c *x509.Certificate) (*Platform, error) {
	p := &Platform{Serial: fmt.Sprintf("%x", c.SerialNumber)}
	found := false
	for _, x := range c.Extensions {
		if x.Id.String() != oidSGX {
			continue
		}
		if found {
			return nil, errors.New("two SGX extensions")
		}
		found = true
		if err := p.readExtension(x.Value); err != nil {
			return nil, err
		}
	}
	if !found {
		return nil, errors.New("no SGX extension")
	}
	return p, nil
}

func (p *Platform) readExtension(der []byte) error {
	parts, err := sgxParts(der)
	if err != nil {
		return err
	}
	octets := func(part string, to []byte) error { return octetString(parts[part], to) }
	err = errors.Join(
		octets(".1", p.PPID[:]), octets(".3", p.PCEID[:]), octets(".4", p.FMSPC[:]), p.readType(parts[".5"]),
		p.readTCB(parts[".2"]),
	)
	if err != nil {
		return err
	}
	if part, ok := parts[".6"]; ok {
		if err := octetString(part, p.Instance[:]); err != nil {
			return err
		}
		p.HasInstance = true
	}
	if part, ok := parts[".7"]; ok {
		return p.readConfiguration(part)
	}
	return nil
}

// sgxParts splits a sequence of pairs by the end of their IDs: ".4", ".2.17".
func sgxParts(der []byte) (map[string]asn1.RawValue, error) {
	var list []sgxPart
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("SGX extension is no sequence of pairs: %w", errors.Join(err, trailing(rest)))
	}
	parts := make(map[string]asn1.RawValue, len(list))
	for _, part := range list {
		id, ok := strings.CutPrefix(part.ID.String(), oidSGX)
		if !ok {
			return nil, fmt.Errorf("SGX extension has a part %s", part.ID)
		}
		if _, twice := parts[id]; twice {
			return nil, fmt.Errorf("SGX extension has two parts %s", part.ID)
		}
		parts[id] = part.Value
	}
	return parts, nil
}

func trailing(rest []byte) error {
	if len(rest) == 0 {
		return nil
	}
	return fmt.Errorf("%d bytes too many", len(rest))
}

func octetString(v asn1.RawValue, to []byte) error {
	if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || v.IsCompound || len(v.Bytes) != len(to) {
		return fmt.Errorf("SGX extension: tag %d of %d bytes where %d octets belong", v.Tag, len(v.Bytes), len(to))
	}
	copy(to, v.Bytes)
	return nil
}

// number reads an INTEGER from 0 to limit.
func number(v asn1.RawValue, limit int64) (int64, error) {
	n := new(big.Int)
	if rest, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || len(rest) != 0 {
		return 0, fmt.Errorf("SGX extension: SVN is no INTEGER: %w", errors.Join(err, trailing(rest)))
	}
	if n.Sign() < 0 || n.Cmp(big.NewInt(limit)) > 0 {
		return 0, fmt.Errorf("SGX extension: SVN is not in 0..%d", limit)
	}
	return n.Int64(), nil
}

// readTCB reads the SVNs: .2.1 to .2.16 the components, .2.17 PCESVN, .2.18 CPUSVN as the CPU has it, which says the
// same in a form that only the CPU understands.
func (p *Platform) readTCB(v asn1.RawValue) error {
	parts, err := sgxParts(v.FullBytes)
	if err != nil {
		return err
	}
	for i := range p.CPUSVN {
		n, err := number(parts[fmt.Sprintf(".2.%d", i+1)], 255)
		if err != nil {
			return err
		}
		p.CPUSVN[i] = byte(n)
	}
	n, err := number(parts[".2.17"], 1<<16-1)
	if err != nil {
		return err
	}
	p.PCESVN = uint16(n)
	return octetString(parts[".2.18"], make([]byte, 16))
}

func (p *Platform) readType(v asn1.RawValue) error {
	var n asn1.Enumerated
	if rest, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || len(rest) != 0 {
		return fmt.Errorf("SGX extension: type is no ENUMERATED: %w", errors.Join(err, trailing(rest)))
	}
	p.Type = SGXType(n)
	if p.Type < SGXStandard || p.Type > SGXScalableWithIntegrity {
		return fmt.Errorf("SGX extension: type %d is unknown", n)
	}
	return nil
}

func (p *Platform) readConfiguration(v asn1.RawValue) error {
	parts, err := sgxParts(v.FullBytes)
	if err != nil {
		return err
	}
	for id, to := range map[string]**bool{".7.1": &p.Dynamic, ".7.2": &p.CachedKeys, ".7.3": &p.SMT} {
		part, ok := parts[id]
		if !ok {
			continue
		}
		var flag bool
		if rest, err := asn1.Unmarshal(part.FullBytes, &flag); err != nil || len(rest) != 0 {
			return fmt.Errorf("SGX extension: flag is no BOOLEAN: %w", errors.Join(err, trailing(rest)))
		}
		*to = &flag
	}
	return nil
}

// pckCA tells by its name which CA a certificate is.
func pckCA(c *x509.Certificate) (CA, bool) {
	switch c.Subject.CommonName {
	case namePlatform:
		return PlatformCA, true
	case nameProcessor:
		return ProcessorCA, true
	}
	return "", false
}

// readPCKChain reads the quote's PCK chain: PCK, CA, root, each in its role by name.
func (q *Quote) readPCKChain() ([]*x509.Certificate, CA, error) {
	chain, err := parseChain(bytes.TrimSuffix(q.pckChain, []byte{0}), 3)
	if err != nil {
		return nil, "", refuse(CheckPCKChain, "no chain", "PCK certificate, CA, root as PEM", err)
	}
	if !canonical(q.pckChain, chain) {
		return nil, "", refuse(CheckPCKChain, "PEM in another form", "64 characters a line, nothing between", nil)
	}
	ca, ok := pckCA(chain[1])
	if !ok || chain[0].Subject.CommonName != namePCK {
		return nil, "", refuse(CheckPCKChain,
			fmt.Sprintf("%q issued by %q", chain[0].Subject.CommonName, chain[1].Subject.CommonName),
			fmt.Sprintf("%q issued by %q or %q", namePCK, namePlatform, nameProcessor), nil)
	}
	return chain, ca, nil
}

// Platform returns what the quote's PCK certificate says, unverified: it tells which collateral to get.
func (q *Quote) Platform() (*Platform, error) {
	chain, ca, err := q.readPCKChain()
	if err != nil {
		return nil, err
	}
	p, err := parsePlatform(chain[0])
	if err != nil {
		return nil, refuse(CheckPCKExtension, "a broken one", "Intel's SGX extension", err)
	}
	p.CA = ca
	return p, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
