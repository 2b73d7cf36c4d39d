package opinion

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/attest/snp"
)

// lineUnknown is the product line that the library finds for CPU models that it doesn't know: all but one of a line,
// Bergamo and Siena among them. It then looks for roots by this name.
const lineUnknown = "Unknown"

// levelMax is the highest security patch level that the library takes, microcode's aside.
const levelMax = 127

// SNP asks go-sev-guest about a report that attest/snp accepted with this endorsement key, for this product line, at
// this time. The chain's ARK is the root that it shall trust: the caller has pinned it.
func SNP(report, ek []byte, chain snp.Chain, line snp.Line, now time.Time) Opinion {
	q := &snpQuestion{report, ek, chain, line, now}
	limit, err := q.limit()
	if err != nil {
		return Opinion{Disagrees, librarySNP, words(fmt.Errorf("it wasn't asked: %w", err))}
	}
	if limit != "" {
		return ask(librarySNP, limit, q.signature)
	}
	return ask(librarySNP, "", q.whole)
}

// snpQuestion is evidence to be judged.
type snpQuestion struct {
	report, ek []byte
	chain      snp.Chain
	line       snp.Line
	now        time.Time
}

// limit says what the library can't judge, if anything.
func (q *snpQuestion) limit() (string, error) {
	if q.now.IsZero() {
		return "", errors.New("no time") // the library would take the clock's
	}
	r, err := snp.ParseReport(q.report)
	if err != nil {
		return "", err
	}
	key, err := snp.ParseEndorsementKey(q.ek)
	if err != nil {
		return "", err
	}
	if q.line == snp.Turin {
		return "it can't read the certificates of Turin; the report's signature is good", nil
	}
	if t := key.TCB; max(t.Boot, t.TEE, t.SNP) > levelMax {
		return fmt.Sprintf("it takes no security patch level above %d; the report's signature is good", levelMax), nil
	}
	if r.Line == "" { // version 2: it goes by the product's name
		if _, err := kds.ParseProductName(key.Product, signer(key.Kind)); err != nil {
			return fmt.Sprintf("it doesn't know the product name %q; the report's signature is good", key.Product), nil
		}
	}
	return "", nil
}

func signer(s snp.Signer) abi.ReportSigner {
	if s == snp.VLEK {
		return abi.VlekReportSigner
	}
	return abi.VcekReportSigner
}

// signature asks about the report's signature by the endorsement key alone.
func (q *snpQuestion) signature() error {
	c, err := x509.ParseCertificate(q.ek)
	if err != nil {
		return err
	}
	return verify.SnpReportSignature(q.report, c)
}

// whole asks about all of the evidence.
func (q *snpQuestion) whole() error {
	report, err := abi.ReportToProto(q.report)
	if err != nil {
		return err
	}
	info, err := abi.ParseSignerInfo(report.GetSignerInfo())
	if err != nil {
		return err
	}
	root, err := q.root(info.SigningKey)
	if err != nil {
		return err
	}
	o := &verify.Options{
		DisableCertFetching: true, Getter: offline{}, Now: q.now,
		TrustedRoots: map[string][]*trust.AMDRootCerts{string(q.line): {root}, lineUnknown: {root}},
	}
	evidence := &spb.Attestation{
		Report:           report,
		CertificateChain: &spb.CertificateChain{VcekCert: q.ek, VlekCert: q.ek}, // it takes the one of the report's signer
	}
	if err := verify.SnpAttestation(evidence, o); err != nil {
		return err
	}
	return q.revocation(root, o)
}

// root returns the chain as the library wants it. The certificate that issued the endorsement key stands for both kinds
// of issuer: of an ASVK the library wouldn't look up the revocation.
func (q *snpQuestion) root(signer abi.ReportSigner) (*trust.AMDRootCerts, error) {
	issuer := q.chain.ASK
	if signer == abi.VlekReportSigner {
		issuer = q.chain.ASVK
	}
	ark, err := x509.ParseCertificate(q.chain.ARK)
	if err != nil {
		return nil, err
	}
	ica, err := x509.ParseCertificate(issuer)
	if err != nil {
		return nil, err
	}
	return &trust.AMDRootCerts{
		ProductLine: string(q.line), ProductCerts: &trust.ProductCerts{Ark: ark, Ask: ica, Asvk: ica},
	}, nil
}

// revocation asks about each list that is fresh; for one that is not, the library would go and fetch another.
func (q *snpQuestion) revocation(root *trust.AMDRootCerts, o *verify.Options) error {
	for _, der := range q.chain.CRLs {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return err
		}
		if !q.now.Before(list.NextUpdate) {
			continue
		}
		root.CRL = list
		if err := verify.VcekNotRevoked(root, nil, o); err != nil {
			return err
		}
	}
	return nil
}

// offline is the library's way to the network, closed.
type offline struct{}

// Get fails.
func (offline) Get(url string) ([]byte, error) {
	return nil, fmt.Errorf("asked for %s: no network here", url)
}
