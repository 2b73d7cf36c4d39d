package snp

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// Limits of revocation lists. AMD's have under 1 KB and one entry at most; there are two of a line (VCEK, VLEK).
const (
	crlMax  = 1 << 20
	crlsMax = 4
)

// Revocation says which list was looked at. Its zero value: none that is fresh.
type Revocation struct {
	Number     *big.Int  // CRL number of the freshest list; nil if none is fresh
	ThisUpdate time.Time // when it was issued
	NextUpdate time.Time // when it ceases to be fresh
}

// checkRevocation looks for the chain's certificates on the ARK's lists (AMD 57230: /vcek/v1/{line}/crl). A list that
// isn't authentic is refused whether lists are required or not. What a stale list revokes stays revoked, but only a
// fresh one satisfies RequireCRL.
//
// AMD gives every VCEK and VLEK the serial number 0, and the lists are the ARK's, not the ASK's; so the list cannot
// name a single endorsement key. An entry for its serial number refuses it all the same: better too many than too few.
func checkRevocation(c Chain, is *issuers, k *EndorsementKey, o Options) (Revocation, error) {
	var fresh Revocation
	if len(c.CRLs) > crlsMax {
		return fresh, refuse(CheckRevocationList, "", fmt.Sprintf("%d lists", len(c.CRLs)),
			fmt.Sprintf("at most %d", crlsMax))
	}
	stale := "none"
	for _, der := range c.CRLs {
		list, err := authenticCRL(der, is.ark)
		if err != nil {
			return fresh, err
		}
		if err := notRevoked(list, is, k); err != nil {
			return fresh, err
		}
		if o.Now.Before(list.ThisUpdate) || o.Now.After(list.NextUpdate) {
			stale = "one of " + list.ThisUpdate.Format(time.RFC3339) + " to " + list.NextUpdate.Format(time.RFC3339)
		} else if fresh.Number == nil || list.Number.Cmp(fresh.Number) > 0 {
			fresh = Revocation{list.Number, list.ThisUpdate, list.NextUpdate}
		}
	}
	if o.RequireCRL && fresh.Number == nil {
		return fresh, refuse(CheckRevocationList, "", stale,
			"one of the ARK that is fresh at "+o.Now.UTC().Format(time.RFC3339))
	}
	return fresh, nil
}

// authenticCRL reads a list and checks that it is the ARK's.
func authenticCRL(der []byte, ark *x509.Certificate) (*x509.RevocationList, error) {
	list, err := parseCRL(der)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(list.RawIssuer, ark.RawSubject) {
		return nil, refuse(CheckRevocationList, "", "issuer "+quote(list.Issuer.String()), quote(ark.Subject.String()))
	}
	if err := list.CheckSignatureFrom(ark); err != nil {
		return nil, refuse(CheckRevocationList, "", "another signature", "one by the ARK").because(err)
	}
	return list, nil
}

func notRevoked(list *x509.RevocationList, is *issuers, k *EndorsementKey) error {
	for _, entry := range list.RevokedCertificateEntries {
		for _, c := range []struct {
			role        string
			certificate *x509.Certificate
		}{{"ARK", is.ark}, {is.icaRole, is.ica}, {k.Kind.String(), k.certificate}} {
			if entry.SerialNumber.Cmp(c.certificate.SerialNumber) == 0 {
				return refuse(CheckRevoked, c.role, fmt.Sprintf("serial number %x revoked since %s", entry.SerialNumber,
					entry.RevocationTime.Format(time.RFC3339)), "not revoked")
			}
		}
	}
	return nil
}

// parseCRL reads exactly one complete and direct revocation list. One with a critical extension is neither, or means
// something that we don't know (RFC 5280, 5.2 and 5.3).
func parseCRL(der []byte) (*x509.RevocationList, error) {
	if len(der) == 0 || len(der) > crlMax {
		return nil, refuse(CheckRevocationList, "", fmt.Sprintf("%d bytes", len(der)),
			fmt.Sprintf("1 to %d bytes of DER", crlMax))
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, refuse(CheckRevocationList, "", "no revocation list", "one in DER").because(err)
	}
	if len(list.Raw) != len(der) {
		return nil, refuse(CheckRevocationList, "", fmt.Sprintf("%d bytes after it", len(der)-len(list.Raw)), "none")
	}
	if list.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, refuse(CheckRevocationList, "", list.SignatureAlgorithm, x509.SHA384WithRSAPSS)
	}
	if list.NextUpdate.IsZero() || list.Number == nil {
		return nil, refuse(CheckRevocationList, "", "no next update or no number", "both")
	}
	critical := hasCritical(list.Extensions)
	for _, e := range list.RevokedCertificateEntries {
		critical = critical || hasCritical(e.Extensions)
	}
	if critical {
		return nil, refuse(CheckRevocationList, "", "a critical extension", "none")
	}
	return list, nil
}

func hasCritical(all []pkix.Extension) bool {
	for _, e := range all {
		if e.Critical {
			return true
		}
	}
	return false
}
