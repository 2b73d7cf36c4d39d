package nvgpu

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// Limits on certificate chains. NVIDIA's have five for a device (firmware, boot ROM, provisioner, chip identity, root;
// 4.8 KiB in PEM) and four for a RIM.
const (
	ChainMax  = 16 << 10 // bytes of PEM
	chainLen  = 8        // certificates
	certMax   = 4 << 10  // bytes of one in DER
	deviceMin = 4        // a device's chain: leaf, boot ROM, at least one of the vendor's, root
)

// ParseChain takes the PEM text that NVML and NSCQ return: certificates, leaf first, and white space between them.
func ParseChain(text []byte) ([]*x509.Certificate, error) {
	if len(text) > ChainMax {
		return nil, fail(
			CheckSize,
			"certificate chain",
			fmt.Sprintf("%d bytes", len(text)),
			fmt.Sprintf("at most %d", ChainMax),
		)
	}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(text)) > 0 {
		block, rest := pem.Decode(text)
		// encoding/pem skips what it can't read: what it took has to be the block and nothing else.
		if block == nil || block.Type != "CERTIFICATE" || !sameText(text[:len(text)-len(rest)], pem.EncodeToMemory(block)) {
			return nil, fail(CheckChain, fmt.Sprintf("certificate %d", len(certs)), "text", "PEM of a certificate")
		}
		text = rest
		c, err := parseCert(block.Bytes)
		if err != nil {
			return nil, fail(CheckChain, fmt.Sprintf("certificate %d", len(certs)), err.Error(), "X.509")
		}
		if certs = append(certs, c); len(certs) > chainLen {
			return nil, fail(CheckChain, "length", "more", fmt.Sprintf("at most %d", chainLen))
		}
	}
	return certs, nil
}

func sameText(a, b []byte) bool { return bytes.Equal(squeeze(a), squeeze(b)) }

// squeeze leaves white space out.
func squeeze(b []byte) []byte {
	return bytes.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n", r) {
			return -1
		}
		return r
	}, b)
}

func parseCert(der []byte) (*x509.Certificate, error) {
	if len(der) > certMax {
		return nil, fmt.Errorf("%d bytes", len(der))
	}
	return x509.ParseCertificate(der)
}

// chain is a line of certificates under one root, each signed by the next. No path is searched for: the order is the
// one that the vendor sends, and every certificate in it counts.
type chain struct {
	check Check
	certs []*x509.Certificate
	upper bool // it begins above the leaf
}

// verify wants the leaf to be no CA, if it is here, all others to be, all keys P-384, all valid at now, and the last to be a root.
func (c chain) verify(roots []*x509.Certificate, now time.Time, cache *SignatureCache) error {
	last := c.certs[len(c.certs)-1]
	if !contains(roots, last) {
		return fail(c.check, "root", quote(last.Subject.String())+" "+fingerprint(last), "a pinned root")
	}
	for i, cert := range c.certs {
		if err := c.verifyOne(i, now); err != nil {
			return err
		}
		if i+1 == len(c.certs) {
			break // the root is pinned: who signed it doesn't matter
		}
		if err := signedBy(cert, c.certs[i+1], cache); err != nil {
			return fail(c.check, subject(cert), err.Error(), "the next certificate's")
		}
	}
	return nil
}

func (c chain) verifyOne(i int, now time.Time) error {
	cert := c.certs[i]
	if c.upper {
		i++ // its place in the whole chain, at least
	}
	bad := func(got, want string) error { return fail(c.check, subject(cert), got, want) }
	switch {
	case p384(cert) == nil:
		return bad("key "+cert.PublicKeyAlgorithm.String(), "ECDSA P-384")
	case now.Before(cert.NotBefore):
		return bad("time "+stamp(now), "not before "+stamp(cert.NotBefore))
	case now.After(cert.NotAfter):
		return bad("time "+stamp(now), "not after "+stamp(cert.NotAfter))
	case len(cert.UnhandledCriticalExtensions) > 0:
		return bad("critical extension "+cert.UnhandledCriticalExtensions[0].String(), "none unknown")
	case extension(cert, oidNameConstraints) != nil:
		return bad("name constraints", "none")
	case i == 0 && cert.IsCA:
		return bad("a CA at the end of the chain", "a leaf")
	case i == 0 && cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return bad("no key usage for signatures", "digitalSignature")
	case i > 0 && (!cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0):
		return bad("no CA in the middle of the chain", "CA, keyCertSign")
	case i > 0 && (cert.MaxPathLen > 0 || cert.MaxPathLenZero) && i-1 > cert.MaxPathLen:
		return bad(fmt.Sprintf("%d CAs below", i-1), fmt.Sprintf("at most %d", cert.MaxPathLen))
	}
	return nil
}

// signedBy tells whether issuer signed cert, going by names, key identifiers and the signature.
func signedBy(cert, issuer *x509.Certificate, cache *SignatureCache) error {
	switch {
	case !bytes.Equal(cert.RawIssuer, issuer.RawSubject):
		return fmt.Errorf("issuer %s", quote(cert.Issuer.String()))
	case len(cert.AuthorityKeyId) > 0 && len(issuer.SubjectKeyId) > 0 &&
		!bytes.Equal(cert.AuthorityKeyId, issuer.SubjectKeyId):
		return fmt.Errorf("authority key %x", cert.AuthorityKeyId)
	case cert.SignatureAlgorithm != x509.ECDSAWithSHA384:
		return fmt.Errorf("signature algorithm %s", cert.SignatureAlgorithm)
	case !cache.verifyDER(issuer, cert.RawTBSCertificate, cert.Signature):
		return fmt.Errorf("a signature that is not of this key")
	}
	return nil
}

func extension(c *x509.Certificate, oid string) []byte {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return e.Value
		}
	}
	return nil
}

// subject is how errors call a certificate.
func subject(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if name == "" {
		name = strings.TrimSpace(c.Subject.String())
	}
	return quote(name)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
