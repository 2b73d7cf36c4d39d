package tdx

import (
	"crypto/sha256"
	"strconv"
	"time"
)

// Standing is what collateral that passed VerifyCollateral says about itself.
type Standing struct {
	FMSPC [6]byte // of the platforms that it is about
	PCEID [2]byte
	CA    CA // whose PCK certificates its PCK CRL is about

	TCBInfo, QEIdentity Edition
	RootCRL, PCKCRL     time.Time // when they were issued

	Root    [32]byte  // SHA-256 of the root certificate's DER
	Issued  time.Time // latest issue date of all parts: it can't be used before
	Expires time.Time // when the first part of it ends, or a certificate that it rests on
}

// Edition tells which of two documents is the newer one.
type Edition struct {
	Evaluation int // tcbEvaluationDataNumber
	Issued     time.Time
}

// VerifyCollateral checks collateral without a quote: every part is there, signed by who should have under a pinned
// root, current at o.Now, with no signer revoked. It serves those who keep collateral for quotes to come; whether it
// fits a quote is for Verify. A refusal is an *Error.
func VerifyCollateral(c *Collateral, o Options) (*Standing, error) {
	v := &verifier{Options: o}
	if err := v.checkOptions(c); err != nil {
		return nil, err
	}
	chain, err := parseChain(c.PCKCRLChain, 2)
	if err != nil {
		return nil, refuse(CheckPCKCRL, "no issuer chain", "CA and root as PEM", err)
	}
	// That it is pinned comes out with the signed documents, whose chains have to end in it.
	v.root = chain[1]
	s := &Standing{Root: sha256.Sum256(v.root.Raw)}
	var ok bool
	if s.CA, ok = pckCA(chain[0]); !ok {
		return nil, refuse(CheckPCKCRL, "a list of "+trim(chain[0].Subject.CommonName), "one of a PCK CA", nil)
	}
	rootCRL, err := v.crl(CheckRootCRL, c.RootCRL, v.root)
	if err != nil {
		return nil, err
	}
	info, err := v.tcbInfo(c, rootCRL)
	if err != nil {
		return nil, err
	}
	qe, err := v.qeIdentity(c, rootCRL)
	if err != nil {
		return nil, err
	}
	if n := min(info.Evaluation, qe.Evaluation); n < o.MinTCBEvaluation {
		return nil, refuse(CheckTCBEvaluation, strconv.Itoa(n), "at least "+strconv.Itoa(o.MinTCBEvaluation), nil)
	}
	pckCRL, err := v.pckCRL(c, chain[0], rootCRL)
	if err != nil {
		return nil, err
	}
	copy(s.FMSPC[:], info.FMSPC) // parseTCBInfo has seen to the sizes
	copy(s.PCEID[:], info.PCEID)
	s.TCBInfo, s.QEIdentity = Edition{info.Evaluation, info.IssueDate}, Edition{qe.Evaluation, qe.IssueDate}
	s.RootCRL, s.PCKCRL = rootCRL.ThisUpdate, pckCRL.ThisUpdate
	s.Issued, s.Expires = v.claims.Issued, v.claims.Expires
	return s, nil
}

// VerifyPlatform checks that the quote's PCK certificate hangs on a pinned root, valid now; it returns what that says
// of the platform, and the root's SHA-256. Nothing is known of the quote itself then, nor of revocation: it serves
// those who fetch collateral, so that they do it for platforms that exist.
func (q *Quote) VerifyPlatform(o Options) (*Platform, [32]byte, error) {
	if len(o.Roots) == 0 || o.Now.IsZero() {
		return nil, [32]byte{}, refuse(CheckOptions, "no root or no time", "both", nil)
	}
	v := &verifier{Options: o}
	chain, ca, err := v.pckChain(q)
	if err != nil {
		return nil, [32]byte{}, err
	}
	p, err := parsePlatform(chain[0])
	if err != nil {
		return nil, [32]byte{}, refuse(CheckPCKExtension, "a broken one", "Intel's SGX extension", err)
	}
	p.CA = ca
	return p, sha256.Sum256(v.root.Raw), nil
}
