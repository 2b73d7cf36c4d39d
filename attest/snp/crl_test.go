package snp_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"slices"
	"testing"
	"time"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

func TestRevocationLists(t *testing.T) {
	w := newWorld(t, snp.Genoa)
	stranger, err := simsnp.NewAuthority(simsnp.Config{Line: snp.Genoa, Now: simNow, RSABits: 2048})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.CRL(simsnp.CRLConfig{})
	if err != nil {
		t.Fatal(err)
	}
	second := time.Second
	fresh := w.crl(t, simsnp.CRLConfig{})
	stale := w.crl(t, simsnp.CRLConfig{ThisUpdate: simNow.Add(-time.Hour), NextUpdate: simNow.Add(-second)})
	future := w.crl(t, simsnp.CRLConfig{ThisUpdate: simNow.Add(second)})
	revoked := func(serial int64) []byte {
		return w.crl(t, simsnp.CRLConfig{Revoked: []*big.Int{big.NewInt(77), big.NewInt(serial)}})
	}
	staleRevoked := w.crl(t, simsnp.CRLConfig{
		ThisUpdate: simNow.Add(-time.Hour), NextUpdate: simNow.Add(-second), Revoked: []*big.Int{big.NewInt(2)},
	})
	mutated := func(f func(*x509.RevocationList)) []byte { return w.crl(t, simsnp.CRLConfig{Mutate: f}) }
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}
	for name, c := range map[string]struct {
		crls     [][]byte
		required bool
		kind     snp.Signer
		want     snp.Check // "" is accepted
	}{
		"fresh":                   {crls: [][]byte{fresh}, required: true},
		"fresh and stale":         {crls: [][]byte{stale, fresh, future}, required: true},
		"none":                    {required: true, want: snp.CheckRevocationList},
		"none asked for":          {},
		"stale":                   {crls: [][]byte{stale}, required: true, want: snp.CheckRevocationList},
		"stale, not asked for":    {crls: [][]byte{stale}},
		"future":                  {crls: [][]byte{future}, required: true, want: snp.CheckRevocationList},
		"forged":                  {crls: [][]byte{forged}, required: true, want: snp.CheckRevocationList},
		"forged, not asked for":   {crls: [][]byte{forged}, want: snp.CheckRevocationList},
		"forged beside fresh":     {crls: [][]byte{fresh, forged}, required: true, want: snp.CheckRevocationList},
		"empty":                   {crls: [][]byte{{}}, want: snp.CheckRevocationList},
		"garbage":                 {crls: [][]byte{{0x30, 0}}, want: snp.CheckRevocationList},
		"truncated":               {crls: [][]byte{fresh[:len(fresh)-1]}, want: snp.CheckRevocationList},
		"trailing":                {crls: [][]byte{slices.Concat(fresh, []byte{0})}, want: snp.CheckRevocationList},
		"gigantic":                {crls: [][]byte{make([]byte, 1<<20+1)}, want: snp.CheckRevocationList},
		"five":                    {crls: [][]byte{fresh, fresh, fresh, fresh, fresh}, want: snp.CheckRevocationList},
		"ARK revoked":             {crls: [][]byte{revoked(1)}, want: snp.CheckRevoked},
		"ASK revoked":             {crls: [][]byte{revoked(2)}, required: true, want: snp.CheckRevoked},
		"ASK revoked, of a VLEK":  {crls: [][]byte{revoked(2)}, required: true, kind: snp.VLEK},
		"ASVK revoked":            {crls: [][]byte{revoked(3)}, required: true, kind: snp.VLEK, want: snp.CheckRevoked},
		"ASVK revoked, of a VCEK": {crls: [][]byte{revoked(3)}, required: true},
		"VCEK revoked":            {crls: [][]byte{revoked(0)}, required: true, want: snp.CheckRevoked},
		"VLEK revoked":            {crls: [][]byte{revoked(0)}, kind: snp.VLEK, want: snp.CheckRevoked},
		"in the second":           {crls: [][]byte{fresh, revoked(2)}, required: true, want: snp.CheckRevoked},
		"in a stale one":          {crls: [][]byte{fresh, staleRevoked}, required: true, want: snp.CheckRevoked},
		"critical": {
			crls: [][]byte{mutated(func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{critical} })},
			want: snp.CheckRevocationList,
		},
		"critical entry": {
			crls: [][]byte{mutated(func(l *x509.RevocationList) {
				l.RevokedCertificateEntries = []x509.RevocationListEntry{{
					SerialNumber: big.NewInt(9), RevocationTime: simNow, ExtraExtensions: []pkix.Extension{critical},
				}}
			})},
			want: snp.CheckRevocationList,
		},
		"PKCS 1": {
			crls: [][]byte{mutated(func(l *x509.RevocationList) { l.SignatureAlgorithm = x509.SHA384WithRSA })},
			want: snp.CheckRevocationList,
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := w.opts
			o.RequireCRL = c.required
			report, ek := w.report(t, simsnp.ReportConfig{Signer: c.kind}), w.key(t, simsnp.KeyConfig{Kind: c.kind})
			claims, err := snp.Verify(report, ek, w.auth.Endorsements(c.crls...), o)
			if c.want != "" {
				refused(t, err, c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.required && (claims.Revocation.Number == nil || claims.NotAfter.After(claims.Revocation.NextUpdate)) {
				t.Errorf("got %+v, not after %v", claims.Revocation, claims.NotAfter)
			}
			if !c.required && claims.Revocation.Number != nil {
				t.Errorf("got %+v, want nothing that is fresh", claims.Revocation)
			}
		})
	}
}
