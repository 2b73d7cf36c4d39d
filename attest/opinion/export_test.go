package opinion

import (
	"crypto/x509"
	"time"

	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// Names of the libraries in opinions.
const (
	LibrarySNP = librarySNP
	LibraryTDX = libraryTDX
)

// JudgeSNP is go-sev-guest's verdict on all of any evidence, whether ours accepts it or not.
func JudgeSNP(report, ek []byte, chain snp.Chain, line snp.Line, now time.Time) error {
	return guarded((&snpQuestion{report, ek, chain, line, now}).whole)
}

// JudgeTDX is go-tdx-guest's verdict on all of any evidence, whether ours accepts it or not.
func JudgeTDX(quote []byte, c *tdx.Collateral, roots []*x509.Certificate, now time.Time) error {
	return guarded((&tdxQuestion{quote, c, roots, now}).whole)
}

// Ask puts any question.
func Ask(limit string, question func() error) Opinion { return ask("a library", limit, question) }
