// Package tdx verifies quotes of Intel TDX, offline and to pinned roots, and says what they claim.
//
// It takes what the package is given and nothing else: no network, no file, no clock. The rules are those of Intel's
// Quote Verification Library ("Intel TDX DCAP Quoting Library API", section 4.1.2; Intel SGX and TDX Provisioning
// Certification Service API v4), stricter where a choice is left: every part of the collateral must be there and
// current, CRLs included; nothing unsigned is taken along; a chain ends at a certificate that the caller pinned, and
// the collateral's at the same one as the quote's.
//
// Verify says that evidence is authentic and how current its TCB is. Which status, measurements and attributes are
// acceptable is for the appraisal policy; only what Intel has revoked is refused here.
package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// Options are what a verification rests on. The zero value verifies nothing.
type Options struct {
	// Roots are the certificates that a chain may end in, by the SHA-256 of their DER: IntelRoot, or a simulator's.
	Roots []*x509.Certificate
	// Now is the time that certificates, CRLs and collateral must be valid at.
	Now time.Time
	// MinTCBEvaluation is the least tcbEvaluationDataNumber (PCS API v4) that the collateral may have: who sends us
	// collateral may not choose one from before the last TCB recovery that we know of. It is at least 1, which takes any.
	MinTCBEvaluation int
}

// verifier is one verification.
type verifier struct {
	Options
	root   *x509.Certificate // the quote's, pinned
	claims Claims
}

// Verify checks a quote with its collateral and returns what it claims. A refusal is an *Error. Neither input is
// changed or kept; any number of verifications may run at once.
func Verify(quote []byte, c *Collateral, o Options) (*Claims, error) {
	v := &verifier{Options: o}
	if err := v.checkOptions(c); err != nil {
		return nil, err
	}
	q, err := Parse(quote)
	if err != nil {
		return nil, err
	}
	chain, ca, err := v.pckChain(q)
	if err != nil {
		return nil, err
	}
	platform, err := parsePlatform(chain[0])
	if err != nil {
		return nil, refuse(CheckPCKExtension, "a broken one", "Intel's SGX extension", err)
	}
	platform.CA = ca
	rootCRL, err := v.checkCRLs(c, chain)
	if err != nil {
		return nil, err
	}
	if err := checkSignatures(q, chain[0]); err != nil {
		return nil, err
	}
	e, err := v.evaluator(c, rootCRL, platform, q)
	if err != nil {
		return nil, err
	}
	tcb, err := e.evaluateTCB(&q.TD)
	if err != nil {
		return nil, err
	}
	v.claims.Version, v.claims.TD, v.claims.Platform, v.claims.TCB = q.Version, q.TD, *platform, *tcb
	v.claims.QE = QE{q.qe.mrEnclave, q.qe.mrSigner, q.qe.prodID, q.qe.svn, q.qe.cpuSVN}
	v.claims.Root, v.claims.RootName = sha256.Sum256(v.root.Raw), v.root.Subject.String()
	claims := v.claims
	return &claims, nil
}

func (v *verifier) checkOptions(c *Collateral) error {
	switch {
	case len(v.Roots) == 0 || slices.Contains(v.Roots, nil):
		return refuse(CheckOptions, "no root", "at least one", nil)
	case v.Now.IsZero():
		return refuse(CheckOptions, "no time", "one", nil)
	case v.MinTCBEvaluation < 1:
		return refuse(CheckOptions, "no lowest TCB evaluation number", "1 or more", nil)
	case c == nil:
		return refuse(CheckOptions, "no collateral", "all of it", nil)
	}
	return c.complete()
}

// pckChain verifies the quote's PCK chain.
func (v *verifier) pckChain(q *Quote) ([]*x509.Certificate, CA, error) {
	chain, ca, err := q.readPCKChain()
	if err != nil {
		return nil, "", err
	}
	if err := v.verifyChain(CheckPCKChain, chain); err != nil {
		return nil, "", err
	}
	v.root = chain[2]
	return chain, ca, nil
}

// checkCRLs checks both CRLs and the PCK chain against them; it returns the root's.
func (v *verifier) checkCRLs(c *Collateral, chain []*x509.Certificate) (*x509.RevocationList, error) {
	pck, ca := chain[0], chain[1]
	rootCRL, err := v.crl(CheckRootCRL, c.RootCRL, v.root)
	if err != nil {
		return nil, err
	}
	if err := notRevoked(rootCRL, ca); err != nil {
		return nil, err
	}
	pckCRL, err := v.pckCRL(c, ca, rootCRL)
	if err != nil {
		return nil, err
	}
	return rootCRL, notRevoked(pckCRL, pck)
}

// checkSignatures follows the signatures from the PCK to the TD's report: the PCK signs the QE's report (step
// 4.1.2.5.13), that names the attestation key by a hash (.14), and the attestation key signs header and body (.17).
func checkSignatures(q *Quote, pck *x509.Certificate) error {
	key, ok := pck.PublicKey.(*ecdsa.PublicKey)
	if !ok || !verifyRaw(key, q.qe.raw, q.qeSig) {
		return refuse(CheckQEReport, "a signature that fails", "one by the PCK", nil)
	}
	sum := sha256.Sum256(slices.Concat(q.key, q.qeAuth))
	if !bytes.Equal(q.qe.data[:len(sum)], sum[:]) || !zero(q.qe.data[len(sum):]) {
		return refuse(CheckAttestationKey, fmt.Sprintf("a key and authentication data with SHA-256 %x", sum),
			fmt.Sprintf("%x", q.qe.data), nil)
	}
	attestation, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, q.key))
	if err != nil {
		return refuse(CheckAttestationKey, "no point of the curve", "a P-256 key", err)
	}
	if !verifyRaw(attestation, q.signed, q.signature) {
		return refuse(CheckQuoteSignature, "a signature that fails", "one by the attestation key", nil)
	}
	return nil
}

// evaluator verifies TCB info and QE identity and checks that they are about this platform, module and QE.
func (v *verifier) evaluator(c *Collateral, rootCRL *x509.RevocationList, p *Platform, q *Quote) (*evaluator, error) {
	info, err := v.tcbInfo(c, rootCRL)
	if err != nil {
		return nil, err
	}
	qe, err := v.qeIdentity(c, rootCRL)
	if err != nil {
		return nil, err
	}
	v.claims.TCBEvaluation = min(info.Evaluation, qe.Evaluation)
	if v.claims.TCBEvaluation < v.MinTCBEvaluation {
		return nil, refuse(CheckTCBEvaluation, fmt.Sprintf("TCB info %d, QE identity %d", info.Evaluation, qe.Evaluation),
			fmt.Sprintf("at least %d", v.MinTCBEvaluation), nil)
	}
	if !bytes.Equal(info.FMSPC, p.FMSPC[:]) || !bytes.Equal(info.PCEID, p.PCEID[:]) {
		return nil, refuse(CheckFMSPC, fmt.Sprintf("TCB info of %x, %x", []byte(info.FMSPC), []byte(info.PCEID)),
			fmt.Sprintf("the platform's, %x, %x", p.FMSPC, p.PCEID), nil)
	}
	if err := info.checkModule(&q.TD); err != nil {
		return nil, err
	}
	if err := qe.check(&q.qe); err != nil {
		return nil, err
	}
	return &evaluator{info, qe, p, q.qe.svn}, nil
}

func (v *verifier) tcbInfo(c *Collateral, rootCRL *x509.RevocationList) (*tcbInfo, error) {
	if err := v.signedText(CheckTCBInfo, c.TCBInfo, c.TCBInfoSignature, c.TCBInfoChain, rootCRL); err != nil {
		return nil, err
	}
	info, err := parseTCBInfo(c.TCBInfo)
	if err != nil {
		return nil, refuse(CheckTCBInfo, "another document", "TCB info of TDX, version 3", err)
	}
	return info, v.window(CheckTCBInfo, info.IssueDate, info.NextUpdate)
}

func (v *verifier) qeIdentity(c *Collateral, rootCRL *x509.RevocationList) (*qeIdentity, error) {
	if err := v.signedText(CheckQEIdentity, c.QEIdentity, c.QEIdentitySignature, c.QEIdentityChain, rootCRL); err != nil {
		return nil, err
	}
	qe, err := parseQEIdentity(c.QEIdentity)
	if err != nil {
		return nil, refuse(CheckQEIdentity, "another document", "QE identity of TD_QE, version 2", err)
	}
	return qe, v.window(CheckQEIdentity, qe.IssueDate, qe.NextUpdate)
}

// issued notes when a part of the collateral was issued.
func (v *verifier) issued(t time.Time) {
	if t.After(v.claims.Issued) {
		v.claims.Issued = t
	}
}

// expires notes when something that the claims rest on ends.
func (v *verifier) expires(t time.Time) {
	if v.claims.Expires.IsZero() || t.Before(v.claims.Expires) {
		v.claims.Expires = t
	}
}
