package opinion

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	"github.com/google/go-tdx-guest/verify"

	"cocoon/attest/tdx"
)

// TDX asks go-tdx-guest about a quote that attest/tdx accepted with this collateral and these roots at this time. What
// the library can judge depends on what the quote claims, so the quote is verified once more.
func TDX(quote []byte, c *tdx.Collateral, roots []*x509.Certificate, now time.Time) Opinion {
	claims, err := tdx.Verify(quote, c, tdx.Options{Roots: roots, Now: now, MinTCBEvaluation: 1})
	if err != nil {
		return Opinion{Disagrees, libraryTDX, words(fmt.Errorf("it wasn't asked: %w", err))}
	}
	q := &tdxQuestion{quote, c, roots, now}
	if claims.Platform.CA != tdx.PlatformCA {
		return ask(libraryTDX, "it knows no PCK CA but the Platform CA; the quote's form is good", q.form)
	}
	if limit := tdxLimit(claims); limit != "" {
		return ask(libraryTDX, limit+"; the quote's signatures and chain are good", q.signatures)
	}
	return ask(libraryTDX, "", q.whole)
}

// tdxLimit says why the library can't judge collateral, if it can't.
func tdxLimit(claims *tdx.Claims) string {
	platform, launch := &claims.Platform, &claims.TCB.Launch
	svn := claims.TD.TEETCBSVN[1] // the module's version
	if text := hex.EncodeToString([]byte{platform.PCEID[0], platform.PCEID[1], svn}); strings.ContainsAny(text, "abcdef") {
		return "it compares hexadecimal letters case by case, as in a PCE ID or the version of a TDX module"
	}
	rated := launch.Module.Status
	if svn == 0 {
		rated = launch.Platform.Status
	}
	for _, status := range []tdx.Status{rated, launch.QE.Status} {
		if status != tdx.StatusUpToDate {
			return fmt.Sprintf("it knows no use for TCB status %s", status)
		}
	}
	return ""
}

// tdxQuestion is evidence to be judged.
type tdxQuestion struct {
	quote      []byte
	collateral *tdx.Collateral
	roots      []*x509.Certificate
	now        time.Time
}

// form asks whether the quote is well formed.
func (q *tdxQuestion) form() error {
	_, err := abi.QuoteToProto(q.quote)
	return err
}

// signatures asks about the quote with its PCK chain, without collateral.
func (q *tdxQuestion) signatures() error {
	return verify.RawTdxQuote(q.quote, q.options())
}

// whole asks about all of the evidence.
func (q *tdxQuestion) whole() error {
	o := q.options()
	o.GetCollateral, o.CheckRevocations = true, true
	return verify.RawTdxQuote(q.quote, o)
}

// options are made anew for each question: the library keeps its state in them.
func (q *tdxQuestion) options() *verify.Options {
	pool := x509.NewCertPool()
	for _, root := range q.roots {
		pool.AddCert(root)
	}
	return &verify.Options{
		Getter: served{q.collateral}, TrustedRoots: pool,
		Now: &verify.TimeSet{PckCertChain: q.now, TcbInfo: q.now, QeIdentity: q.now, PckCrl: q.now, RootCaCrl: q.now},
	}
}

// served answers the library's requests to Intel's service from collateral at hand.
type served struct{ *tdx.Collateral }

// Get returns the part that is found at a URL. The root's list is wherever the root certificate says.
func (s served) Get(at string) (map[string][]string, []byte, error) {
	switch {
	case strings.HasPrefix(at, pcs.TcbInfoURL("")):
		return chainHeader(pcs.TcbInfoIssuerChainPhrase, s.TCBInfoChain),
			fmt.Appendf(nil, `{"tcbInfo":%s,"signature":"%x"}`, s.TCBInfo, s.TCBInfoSignature), nil
	case at == pcs.QeIdentityURL():
		return chainHeader(pcs.SgxQeIdentityIssuerChainPhrase, s.QEIdentityChain),
			fmt.Appendf(nil, `{"enclaveIdentity":%s,"signature":"%x"}`, s.QEIdentity, s.QEIdentitySignature), nil
	case at == pcs.PckCrlURL(string(tdx.PlatformCA)):
		return chainHeader(pcs.SgxPckCrlIssuerChainPhrase, s.PCKCRLChain), s.PCKCRL, nil
	}
	return nil, s.RootCRL, nil
}

// chainHeader is an issuer chain as Intel's service sends it.
func chainHeader(name string, chain []byte) map[string][]string {
	return map[string][]string{name: {url.QueryEscape(string(bytes.TrimSpace(chain)))}}
}
