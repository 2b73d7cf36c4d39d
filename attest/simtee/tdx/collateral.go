package tdx

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"strings"
	"time"

	"cocoon/attest/tdx"
)

// Collateral says what the simulated Intel has to say about a machine. The zero value finds it up to date.
type Collateral struct {
	Issued, NextUpdate time.Time // of all of it; by default from a day before the PKI was made to 30 days after
	Evaluation         int       // tcbEvaluationDataNumber; 0 means 18

	// Statuses of the levels that a Machine and a Quote reach by default; "" means UpToDate.
	Platform, Module, QE tdx.Status
	Advisories           []string // of the platform's level

	// Revoked are certificates to put on their issuers' lists: Machine.PCK, PKI.Certificates.
	Revoked []*x509.Certificate

	// Edit, for tests, changes the documents before they are signed.
	Edit func(tcbInfo, qeIdentity map[string]any)
	// CRLExtensions, for tests, are more extensions of both CRLs.
	CRLExtensions []pkix.Extension
}

// PCK returns the machine's PCK certificate.
func (m *Machine) PCK() *x509.Certificate { return m.pck.cert }

// Collateral makes the collateral for m: signed as the PCS would, with CRLs of the root and of the machine's CA.
func (m *Machine) Collateral(c Collateral) (*tdx.Collateral, error) {
	c.setDefaults(m.pki.made)
	info, qe := m.tcbInfo(&c), m.qeIdentity(&c)
	if c.Edit != nil {
		c.Edit(info, qe)
	}
	signers := chain(m.pki.signer, m.pki.root)
	out := &tdx.Collateral{TCBInfoChain: signers, QEIdentityChain: signers, PCKCRLChain: chain(m.ca, m.pki.root)}
	var err error
	if out.TCBInfo, out.TCBInfoSignature, err = m.pki.signed(info); err != nil {
		return nil, err
	}
	if out.QEIdentity, out.QEIdentitySignature, err = m.pki.signed(qe); err != nil {
		return nil, err
	}
	if out.RootCRL, err = c.crl(m.pki.root); err != nil {
		return nil, err
	}
	out.PCKCRL, err = c.crl(m.ca)
	return out, err
}

func (c *Collateral) setDefaults(made time.Time) {
	if c.Issued.IsZero() {
		c.Issued = made.Add(-24 * time.Hour)
	}
	if c.NextUpdate.IsZero() {
		c.NextUpdate = made.Add(30 * 24 * time.Hour)
	}
	if c.Evaluation == 0 {
		c.Evaluation = 18
	}
	for _, s := range []*tdx.Status{&c.Platform, &c.Module, &c.QE} {
		if *s == "" {
			*s = tdx.StatusUpToDate
		}
	}
}

// signed returns a document's text and the TCB signer's signature.
func (p *PKI) signed(document map[string]any) (text, signature []byte, err error) {
	if text, err = json.Marshal(document); err != nil {
		return nil, nil, err
	}
	signature, err = sign(p.signer.key, text)
	return text, signature, err
}

// crl returns issuer's list with those revoked certificates that are its own.
func (c *Collateral) crl(issuer *entity) ([]byte, error) {
	t := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: c.Issued, NextUpdate: c.NextUpdate, ExtraExtensions: c.CRLExtensions,
	}
	for _, cert := range c.Revoked {
		if cert.CheckSignatureFrom(issuer.cert) == nil {
			t.RevokedCertificateEntries = append(t.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: cert.SerialNumber, RevocationTime: c.Issued})
		}
	}
	return x509.CreateRevocationList(rand.Reader, t, issuer.cert, issuer.key)
}

// Dates of levels: when the current one came, and, as in Intel's documents, the one of everything before.
const (
	dateCurrent = "2024-11-13T00:00:00Z"
	dateBefore  = "2024-03-13T00:00:00Z"
	dateFirst   = "2018-01-04T00:00:00Z"
)

// tcbInfo returns TCB info of the machine's model: two levels of the platform, of which the machine reaches the first,
// and the modules 1.x (three SVNs) and 3.x.
func (m *Machine) tcbInfo(c *Collateral) map[string]any {
	return map[string]any{
		"id": "TDX", "version": 3, "issueDate": stamp(c.Issued), "nextUpdate": stamp(c.NextUpdate),
		"fmspc": strings.ToUpper(hex.EncodeToString(m.platform.FMSPC[:])),
		"pceId": hex.EncodeToString(m.platform.PCEID[:]), "tcbType": 0, "tcbEvaluationDataNumber": c.Evaluation,
		"tdxModule": module(""),
		"tdxModuleIdentities": []any{
			module("TDX_03", isvLevel(3, dateCurrent, tdx.StatusUpToDate)),
			module("TDX_01",
				isvLevel(6, dateCurrent, c.Module),
				isvLevel(4, dateBefore, tdx.StatusOutOfDate, "INTEL-SA-01036", "INTEL-SA-01099"),
				isvLevel(2, dateFirst, tdx.StatusOutOfDate, "INTEL-SA-01036", "INTEL-SA-01099")),
		},
		"tcbLevels": []any{
			m.platformLevel(int(m.platform.PCESVN), dateCurrent, c.Platform, c.Advisories...),
			m.platformLevel(5, dateFirst, tdx.StatusOutOfDate, "INTEL-SA-00837"),
		},
	}
}

// platformLevel returns a level with the machine's components.
func (m *Machine) platformLevel(pcesvn int, date string, s tdx.Status, advisories ...string) map[string]any {
	return level(map[string]any{
		"sgxtcbcomponents": components(m.platform.CPUSVN),
		"tdxtcbcomponents": components(tdx.SVNs{0: 5, 2: 3}),
		"pcesvn":           pcesvn,
	}, date, s, advisories)
}

func isvLevel(svn int, date string, s tdx.Status, advisories ...string) map[string]any {
	return level(map[string]any{"isvsvn": svn}, date, s, advisories)
}

func level(tcb map[string]any, date string, s tdx.Status, advisories []string) map[string]any {
	l := map[string]any{"tcb": tcb, "tcbDate": date, "tcbStatus": s}
	if len(advisories) > 0 {
		l["advisoryIDs"] = advisories
	}
	return l
}

func components(svns tdx.SVNs) []any {
	var all []any
	for _, n := range svns {
		all = append(all, map[string]any{"svn": int(n)})
	}
	return all
}

// module returns the identity of Intel's modules of a version, or, without a name, of version 0.
func module(id string, levels ...map[string]any) map[string]any {
	m := map[string]any{
		"mrsigner": strings.Repeat("00", 48), "attributes": strings.Repeat("00", 8),
		"attributesMask": strings.Repeat("FF", 8),
	}
	if id != "" {
		m["id"], m["tcbLevels"] = id, levels
	}
	return m
}

// qeIdentity returns the identity of the PKI's quoting enclave.
func (m *Machine) qeIdentity(c *Collateral) map[string]any {
	signer := m.pki.qeSigner()
	return map[string]any{
		"id": "TD_QE", "version": 2, "issueDate": stamp(c.Issued), "nextUpdate": stamp(c.NextUpdate),
		"tcbEvaluationDataNumber": c.Evaluation,
		"miscselect":              "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": hex.EncodeToString(signer[:]), "isvprodid": qeProdID,
		"tcbLevels": []any{isvLevel(4, dateCurrent, c.QE), isvLevel(2, dateFirst, tdx.StatusOutOfDate)},
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
