package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Limits of the parts of collateral, several times what Intel serves.
const (
	signedMax = 1 << 20 // TCB info and QE identity have 0.5 to 30 kB
	crlMax    = 8 << 20 // the processor CA's list has 0.2 MB
)

// Collateral is what Intel says about a platform, as the PCS API v4 (or a PCCS) serves it. All of it is signed and may
// come from anywhere. As JSON it is one object with the names that Phala's dcap-qvl uses, CRLs and signatures in
// hexadecimal.
type Collateral struct {
	// TCBInfo is the exact text of tcbInfo's value in GET /tdx/certification/v4/tcb?fmspc=, TCBInfoSignature its
	// ECDSA P-256 signature (r, s), TCBInfoChain the PEM of the header TCB-Info-Issuer-Chain.
	TCBInfo          []byte
	TCBInfoSignature []byte
	TCBInfoChain     []byte

	// QEIdentity is the exact text of enclaveIdentity's value in GET /tdx/certification/v4/qe/identity,
	// QEIdentitySignature its signature, QEIdentityChain the PEM of the header SGX-Enclave-Identity-Issuer-Chain.
	QEIdentity          []byte
	QEIdentitySignature []byte
	QEIdentityChain     []byte

	// PCKCRL is the DER of GET /sgx/certification/v4/pckcrl?ca=&encoding=der, PCKCRLChain the PEM of the header
	// SGX-PCK-CRL-Issuer-Chain.
	PCKCRL      []byte
	PCKCRLChain []byte

	// RootCRL is the DER of certificates.trustedservices.intel.com/IntelSGXRootCA.der.
	RootCRL []byte
}

// collateralText is Collateral's JSON.
type collateralText struct {
	PCKCRLChain         string `json:"pck_crl_issuer_chain"`
	RootCRL             string `json:"root_ca_crl"`
	PCKCRL              string `json:"pck_crl"`
	TCBInfoChain        string `json:"tcb_info_issuer_chain"`
	TCBInfo             string `json:"tcb_info"`
	TCBInfoSignature    string `json:"tcb_info_signature"`
	QEIdentityChain     string `json:"qe_identity_issuer_chain"`
	QEIdentity          string `json:"qe_identity"`
	QEIdentitySignature string `json:"qe_identity_signature"`
}

// MarshalJSON returns the collateral as one object.
func (c *Collateral) MarshalJSON() ([]byte, error) {
	return json.Marshal(collateralText{
		PCKCRLChain: string(c.PCKCRLChain), RootCRL: hex.EncodeToString(c.RootCRL),
		PCKCRL: hex.EncodeToString(c.PCKCRL), TCBInfoChain: string(c.TCBInfoChain), TCBInfo: string(c.TCBInfo),
		TCBInfoSignature: hex.EncodeToString(c.TCBInfoSignature), QEIdentityChain: string(c.QEIdentityChain),
		QEIdentity: string(c.QEIdentity), QEIdentitySignature: hex.EncodeToString(c.QEIdentitySignature),
	})
}

// UnmarshalJSON reads what MarshalJSON writes. It checks no signature, and nothing that Verify checks.
func (c *Collateral) UnmarshalJSON(text []byte) error {
	var t collateralText
	if err := json.Unmarshal(text, &t); err != nil {
		return err
	}
	var errs []error
	unhex := func(name, s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", name, err))
		}
		return b
	}
	*c = Collateral{
		TCBInfo: []byte(t.TCBInfo), TCBInfoSignature: unhex("tcb_info_signature", t.TCBInfoSignature),
		TCBInfoChain: []byte(t.TCBInfoChain), QEIdentity: []byte(t.QEIdentity),
		QEIdentitySignature: unhex("qe_identity_signature", t.QEIdentitySignature),
		QEIdentityChain:     []byte(t.QEIdentityChain), PCKCRL: unhex("pck_crl", t.PCKCRL),
		PCKCRLChain: []byte(t.PCKCRLChain), RootCRL: unhex("root_ca_crl", t.RootCRL),
	}
	return errors.Join(errs...)
}

// SetTCBInfo takes the PCS's answer to /tdx/certification/v4/tcb: its body, and the header TCB-Info-Issuer-Chain as
// sent.
func (c *Collateral) SetTCBInfo(body []byte, chain string) (err error) {
	c.TCBInfo, c.TCBInfoSignature, err = splitSigned(body, "tcbInfo")
	if err != nil {
		return fmt.Errorf("reading TCB info: %w", err)
	}
	c.TCBInfoChain, err = unescapeChain(chain)
	return err
}

// SetQEIdentity takes the PCS's answer to /tdx/certification/v4/qe/identity: its body, and the header
// SGX-Enclave-Identity-Issuer-Chain as sent.
func (c *Collateral) SetQEIdentity(body []byte, chain string) (err error) {
	c.QEIdentity, c.QEIdentitySignature, err = splitSigned(body, "enclaveIdentity")
	if err != nil {
		return fmt.Errorf("reading QE identity: %w", err)
	}
	c.QEIdentityChain, err = unescapeChain(chain)
	return err
}

// SetPCKCRL takes the PCS's answer to /sgx/certification/v4/pckcrl with encoding=der: its body, and the header
// SGX-PCK-CRL-Issuer-Chain as sent.
func (c *Collateral) SetPCKCRL(body []byte, chain string) (err error) {
	c.PCKCRL = slices.Clone(body)
	c.PCKCRLChain, err = unescapeChain(chain)
	return err
}

// splitSigned takes the value of name and the signature out of an answer, the value byte for byte.
func splitSigned(body []byte, name string) (value, signature []byte, err error) {
	if len(body) > signedMax {
		return nil, nil, fmt.Errorf("answer has %d bytes, limit %d", len(body), signedMax)
	}
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, nil, err
	}
	var text string
	if err := json.Unmarshal(answer["signature"], &text); err != nil {
		return nil, nil, fmt.Errorf("reading signature: %w", err)
	}
	if signature, err = hex.DecodeString(text); err != nil {
		return nil, nil, fmt.Errorf("reading signature: %w", err)
	}
	if value = answer[name]; value == nil {
		return nil, nil, fmt.Errorf("answer has no %s", name)
	}
	return value, signature, nil
}

// unescapeChain reads an issuer chain's header, where PEM is percent-encoded; a plus is base64's own.
func unescapeChain(header string) ([]byte, error) {
	text, err := url.PathUnescape(header)
	if err != nil {
		return nil, fmt.Errorf("reading issuer chain: %w", err)
	}
	return []byte(text), nil
}

// complete tells which part is missing.
func (c *Collateral) complete() error {
	for _, part := range []struct {
		check Check
		name  string
		data  []byte
		limit int
	}{
		{CheckRootCRL, "root CA's CRL", c.RootCRL, crlMax},
		{CheckPCKCRL, "PCK CRL", c.PCKCRL, crlMax},
		{CheckPCKCRL, "PCK CRL's issuer chain", c.PCKCRLChain, chainMax},
		{CheckTCBInfo, "TCB info", c.TCBInfo, signedMax},
		{CheckTCBInfo, "TCB info's signature", c.TCBInfoSignature, p256Len},
		{CheckTCBInfo, "TCB info's issuer chain", c.TCBInfoChain, chainMax},
		{CheckQEIdentity, "QE identity", c.QEIdentity, signedMax},
		{CheckQEIdentity, "QE identity's signature", c.QEIdentitySignature, p256Len},
		{CheckQEIdentity, "QE identity's issuer chain", c.QEIdentityChain, chainMax},
	} {
		if len(part.data) == 0 {
			return refuse(part.check, "no "+part.name, "one", nil)
		}
		if len(part.data) > part.limit {
			return refuse(part.check, fmt.Sprintf("%s of %d bytes", part.name, len(part.data)),
				fmt.Sprintf("at most %d", part.limit), nil)
		}
	}
	return nil
}

// window checks that now is within what a document says of itself, and notes its ends.
func (v *verifier) window(c Check, from, to time.Time) error {
	if from.IsZero() || to.IsZero() || v.Now.Before(from) || v.Now.After(to) {
		return refuse(c, "the time "+stamp(v.Now), "from "+stamp(from)+" to "+stamp(to), nil)
	}
	v.issued(from)
	v.expires(to)
	return nil
}

// crl reads a CRL and checks that it is issuer's, whole, and current.
func (v *verifier) crl(c Check, der []byte, issuer *x509.Certificate) (*x509.RevocationList, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, refuse(c, "no CRL", "one in DER", err)
	}
	if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
		return nil, refuse(c, fmt.Sprintf("a list of %q", l.Issuer), issuer.Subject.String(), nil)
	}
	if l.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, refuse(c, "a signature by "+l.SignatureAlgorithm.String(), "ECDSA-SHA256", nil)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		return nil, refuse(c, "a signature that fails", "one by "+issuer.Subject.String(), err)
	}
	for _, x := range l.Extensions { // a critical one may say that the list is partial
		if x.Critical {
			return nil, refuse(c, "critical extension "+x.Id.String(), "none", nil)
		}
	}
	return l, v.window(c, l.ThisUpdate, l.NextUpdate)
}

// notRevoked checks that cert is not on its issuer's list.
func notRevoked(l *x509.RevocationList, cert *x509.Certificate) error {
	for _, e := range l.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
			return refuse(CheckRevocation, fmt.Sprintf("%q, serial %x, revoked at %s", cert.Subject, cert.SerialNumber,
				stamp(e.RevocationTime)), "a certificate that is not revoked", nil)
		}
	}
	return nil
}

// pckCRL checks the PCK CRL and its issuer, which must be the CA that issued the PCK certificate: the same name and
// key, for Intel may have issued the CA's certificate anew.
func (v *verifier) pckCRL(
	c *Collateral, ca *x509.Certificate, rootCRL *x509.RevocationList,
) (*x509.RevocationList, error) {
	chain, err := parseChain(c.PCKCRLChain, 2)
	if err != nil {
		return nil, refuse(CheckPCKCRL, "no issuer chain", "CA and root as PEM", err)
	}
	issuer, root := chain[0], chain[1]
	if !bytes.Equal(issuer.RawSubject, ca.RawSubject) ||
		!bytes.Equal(issuer.RawSubjectPublicKeyInfo, ca.RawSubjectPublicKeyInfo) {
		return nil, refuse(CheckPCKCRL, fmt.Sprintf("a list of %q", issuer.Subject),
			"one of the PCK certificate's issuer, "+ca.Subject.String(), nil)
	}
	if !bytes.Equal(root.Raw, v.root.Raw) {
		return nil, refuse(CheckPCKCRL, fmt.Sprintf("an issuer chain to %q", root.Subject), "the quote's root", nil)
	}
	if err := issuer.CheckSignatureFrom(root); err != nil {
		return nil, refuse(CheckPCKCRL, "an issuer whose signature fails", "one by the root", err)
	}
	if err := v.window(CheckPCKCRL, issuer.NotBefore, issuer.NotAfter); err != nil {
		return nil, err
	}
	if err := notRevoked(rootCRL, issuer); err != nil {
		return nil, err
	}
	return v.crl(CheckPCKCRL, c.PCKCRL, issuer)
}

// signedText checks a document signed by Intel's TCB signer: chain to the quote's root, signer not revoked, signature
// over the exact text.
func (v *verifier) signedText(c Check, text, signature, chainPEM []byte, rootCRL *x509.RevocationList) error {
	chain, err := parseChain(chainPEM, 2)
	if err != nil {
		return refuse(c, "no issuer chain", "signer and root as PEM", err)
	}
	signer := chain[0]
	if signer.Subject.CommonName != nameSigner {
		return refuse(c, fmt.Sprintf("signer %q", signer.Subject.CommonName), fmt.Sprintf("%q", nameSigner), nil)
	}
	if !bytes.Equal(chain[1].Raw, v.root.Raw) { // else the collateral of one root would judge the quotes of another
		return refuse(c, fmt.Sprintf("an issuer chain to %q", chain[1].Subject), "the quote's root", nil)
	}
	if err := v.verifyChain(c, chain); err != nil {
		return err
	}
	if err := notRevoked(rootCRL, signer); err != nil {
		return err
	}
	key, ok := signer.PublicKey.(*ecdsa.PublicKey)
	if !ok || !verifyRaw(key, text, signature) {
		return refuse(c, "a signature that fails", "one by "+signer.Subject.String(), nil)
	}
	return nil
}

// verifyRaw checks an ECDSA P-256 signature (r, s) over the SHA-256 of text.
func verifyRaw(key *ecdsa.PublicKey, text, signature []byte) bool {
	if len(signature) != p256Len {
		return false
	}
	sum := sha256.Sum256(text)
	r, s := new(big.Int).SetBytes(signature[:p256Len/2]), new(big.Int).SetBytes(signature[p256Len/2:])
	return ecdsa.Verify(key, sum[:], r, s)
}

// trim is for texts of other people in errors.
func trim(s string) string {
	const most = 64 // enough to recognise it by
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}
