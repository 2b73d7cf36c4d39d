package snp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"
)

// certificateMax limits a certificate: AMD's have 1.3 to 1.7 KB.
const certificateMax = 16 << 10

// rsaBitsMin is the least size of a signing key. AMD's have 4096 bits; a smaller one can only be below a root that the
// caller pinned, a simulator's, where 2048 bits spare the time to find primes.
const rsaBitsMin = 2048

// amdFiles hold each line's ARK, ASK and ASVK, in this order, as AMD's key distribution service gives them out
// (AMD 57230: /vcek/v1/{line}/cert_chain and /vlek/v1/{line}/cert_chain). They were taken from the copies in
// github.com/google/go-sev-guest v0.15.0, verify/trust; being there makes none of them trusted.
//
//go:embed amd/*.pem
var amdFiles embed.FS

// Root is an ARK, AMD's root key of a product line, that the caller trusts.
type Root struct {
	Line   Line
	SHA256 [32]byte // of the certificate's DER
}

// AMDRoots returns AMD's own roots. They are the certificates' SHA-256 fingerprints; AMD publishes the certificates
// (AMD 57230: /vcek/v1/{line}/cert_chain).
func AMDRoots() []Root {
	return []Root{
		{Milan, fingerprint("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd")},
		{Genoa, fingerprint("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1")},
		{Turin, fingerprint("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a")},
	}
}

// fingerprint decodes a constant; a mistake in one is a root that nothing matches.
func fingerprint(s string) (sum [32]byte) {
	if n, err := hex.Decode(sum[:], []byte(s)); err != nil || n != len(sum) {
		return [32]byte{}
	}
	return sum
}

// Chain is what endorses the endorsement keys of one product line. Nothing in it is trusted for being here: the ARK
// must be pinned, and all else must hang on it. So it may come from anybody, with the evidence or from a cache.
type Chain struct {
	ARK  []byte   // DER: root of the line
	ASK  []byte   // DER: issues VCEKs; may be nil if no VCEK is to be verified
	ASVK []byte   // DER: issues VLEKs; may be nil if no VLEK is to be verified
	CRLs [][]byte // DER: the ARK's revocation lists, at most 4: KDS has one for VCEKs and one for VLEKs
}

// Endorsements has a chain for each product line that reports may be of.
type Endorsements map[Line]Chain

// AMDEndorsements returns AMD's certificates, which are valid until 2045 and later, without revocation lists: those are
// valid for a year and have to be fetched. The error says that the program was built from damaged files.
func AMDEndorsements() (Endorsements, error) {
	all := Endorsements{}
	for _, line := range Lines() {
		text, err := amdFiles.ReadFile("amd/" + strings.ToLower(string(line)) + ".pem")
		if err != nil {
			return nil, fmt.Errorf("snp: reading AMD's certificates of %s: %w", line, err)
		}
		var ders [][]byte
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			ders = append(ders, block.Bytes)
		}
		if len(ders) != 3 {
			return nil, fmt.Errorf("snp: reading AMD's certificates of %s: got %d, want 3", line, len(ders))
		}
		all[line] = Chain{ARK: ders[0], ASK: ders[1], ASVK: ders[2]}
	}
	return all, nil
}

// issuers are the two certificates above an endorsement key, parsed and checked.
type issuers struct {
	ark, ica *x509.Certificate // ica is the ASK or the ASVK
	icaRole  string
	root     [32]byte
}

// anchored returns the line's chain for the kind of key, if it hangs on a pinned root and is valid now.
func (e Endorsements) anchored(line Line, signer Signer, o Options) (*issuers, error) {
	c, ok := e[line]
	if !ok {
		return nil, refuse(CheckChain, "endorsements", "none for "+string(line), "ARK and ASK or ASVK")
	}
	is := &issuers{root: sha256.Sum256(c.ARK), icaRole: "ASK"}
	if !slices.Contains(o.Roots, Root{line, is.root}) {
		return nil, refuse(CheckRoot, string(line), hex.EncodeToString(is.root[:]), pins(o.Roots, line))
	}
	ica, icaName := c.ASK, "SEV-"+string(line)
	if signer == VLEK {
		ica, icaName, is.icaRole = c.ASVK, "SEV-VLEK-"+string(line), "ASVK"
	}
	var err error
	if is.ark, err = parseIssuer("ARK", "ARK-"+string(line), c.ARK, o.Now); err != nil {
		return nil, err
	}
	if is.ica, err = parseIssuer(is.icaRole, icaName, ica, o.Now); err != nil {
		return nil, err
	}
	// The ARK's own signature says nothing that the pin doesn't.
	return is, issuedBy(is.icaRole, is.ica, is.ark)
}

func pins(roots []Root, line Line) string {
	var all []string
	for _, r := range roots {
		if r.Line == line {
			all = append(all, hex.EncodeToString(r.SHA256[:]))
		}
	}
	if len(all) == 0 {
		return "a pinned root, of which there is none"
	}
	return strings.Join(all, " or ")
}

// parseCertificate reads exactly one certificate.
func parseCertificate(role string, der []byte) (*x509.Certificate, error) {
	if len(der) == 0 || len(der) > certificateMax {
		return nil, refuse(CheckCertificate, role, fmt.Sprintf("%d bytes", len(der)),
			fmt.Sprintf("1 to %d bytes of DER", certificateMax))
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, refuse(CheckCertificate, role, "no certificate", "one X.509 certificate in DER").because(err)
	}
	if c.Version != 3 || c.SignatureAlgorithm != x509.SHA384WithRSAPSS || len(c.UnhandledCriticalExtensions) > 0 {
		got := fmt.Sprintf("version %d, signed with %v, %d unknown critical extensions",
			c.Version, c.SignatureAlgorithm, len(c.UnhandledCriticalExtensions))
		return nil, refuse(CheckCertificate, role, got, "version 3, SHA384-RSAPSS, none")
	}
	return c, nil
}

// parseIssuer reads an ARK, ASK or ASVK: a certificate authority with an RSA key and AMD's name for it (AMD 57230,
// chapter 2).
func parseIssuer(role, name string, der []byte, now time.Time) (*x509.Certificate, error) {
	c, err := parseCertificate(role, der)
	if err != nil {
		return nil, err
	}
	if c.Subject.CommonName != name {
		return nil, refuse(CheckCertificate, role, "common name "+quote(c.Subject.CommonName), quote(name))
	}
	key, ok := c.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < rsaBitsMin {
		return nil, refuse(CheckCertificate, role, fmt.Sprintf("a key of type %T", c.PublicKey),
			fmt.Sprintf("RSA of %d bits or more", rsaBitsMin))
	}
	if !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, refuse(CheckCertificate, role, "no certificate authority", "CA, with the usage certificate sign")
	}
	return c, validAt(role, c, now)
}

func validAt(role string, c *x509.Certificate, now time.Time) error {
	if now.Before(c.NotBefore) || now.After(c.NotAfter) {
		return refuse(CheckValidity, role, now.UTC().Format(time.RFC3339),
			c.NotBefore.Format(time.RFC3339)+" to "+c.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// issuedBy checks names, key identifiers and signature.
func issuedBy(role string, c, parent *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return refuse(CheckChain, role, "issuer "+quote(c.Issuer.String()), quote(parent.Subject.String()))
	}
	if len(c.AuthorityKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, parent.SubjectKeyId) {
		return refuse(CheckChain, role, fmt.Sprintf("authority key %x", c.AuthorityKeyId),
			fmt.Sprintf("%x", parent.SubjectKeyId))
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return refuse(CheckChain, role, "another signature", "one by "+quote(parent.Subject.CommonName)).because(err)
	}
	return nil
}

// EndorsementKey is the certificate of a VCEK or VLEK: well formed, but endorsed by nobody yet; that is for [Verify] to
// find out.
type EndorsementKey struct {
	Kind    Signer
	Product string // productName, such as Milan-B0
	Line    Line   // of the product
	TCB     TCB    // that the key is derived from
	HWID    []byte // hwID: the chip, of a VCEK only; 8 bytes on Turin, else 64
	CSPID   string // cspID: the cloud provider, of a VLEK only

	certificate *x509.Certificate
	public      *ecdsa.PublicKey
}

// ParseEndorsementKey reads the certificate, in DER, of a VCEK or VLEK (AMD 57230, chapter 3). Missing, unknown,
// doubled and malformed AMD extensions are refusals ([*Error]).
func ParseEndorsementKey(der []byte) (*EndorsementKey, error) {
	c, err := parseCertificate("endorsement key", der)
	if err != nil {
		return nil, err
	}
	k := &EndorsementKey{certificate: c}
	switch c.Subject.CommonName {
	case "SEV-VCEK":
		k.Kind = VCEK
	case "SEV-VLEK":
		k.Kind = VLEK
	default:
		return nil, refuse(CheckCertificate, "endorsement key", "common name "+quote(c.Subject.CommonName),
			"SEV-VCEK or SEV-VLEK")
	}
	var ok bool
	if k.public, ok = c.PublicKey.(*ecdsa.PublicKey); !ok || k.public.Curve != elliptic.P384() {
		return nil, refuse(CheckCertificate, k.Kind.String(), fmt.Sprintf("a key of type %T", c.PublicKey),
			"ECDSA P-384")
	}
	if c.IsCA {
		return nil, refuse(CheckCertificate, k.Kind.String(), "a certificate authority", "an end entity")
	}
	if err := k.readExtensions(c.Extensions); err != nil {
		return nil, err
	}
	return k, nil
}
