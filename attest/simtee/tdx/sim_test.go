package tdx_test

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// Nobody may take a simulated certificate for Intel's.
func TestEveryNameSaysSimulated(t *testing.T) {
	pki, m := machine(t)
	for _, c := range append(pki.Certificates(), m.PCK()) {
		if !strings.Contains(c.Subject.String(), simtdx.Marker) || !strings.Contains(c.Issuer.String(), simtdx.Marker) {
			t.Errorf("%s, issued by %s, does not say %s", c.Subject, c.Issuer, simtdx.Marker)
		}
	}
	intel, err := tdx.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(intel.Subject.String(), simtdx.Marker) {
		t.Error("Intel's root says that it is simulated")
	}
}

// A verifier takes a simulated quote only under the root that it was given; the claims say which.
func TestOnlyUnderItsRoot(t *testing.T) {
	pki, m := machine(t)
	other, _ := machine(t)
	raw, err := m.Quote(simtdx.Quote{TD: tdx.TD{ReportData: [64]byte{1}}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Collateral(simtdx.Collateral{})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(root *x509.Certificate) (*tdx.Claims, error) {
		return tdx.Verify(raw, c, tdx.Options{Roots: []*x509.Certificate{root}, Now: now, MinTCBEvaluation: 18})
	}
	claims, err := verify(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(claims.RootName, simtdx.Marker) || claims.TD.ReportData != [64]byte{1} {
		t.Errorf("got root %q, report data %x", claims.RootName, claims.TD.ReportData)
	}
	intel, err := tdx.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range []*x509.Certificate{intel, other.Root()} {
		if _, err := verify(root); err == nil {
			t.Errorf("taken under %s", root.Subject)
		}
	}
}

func TestRefusals(t *testing.T) {
	pki, m := machine(t)
	if _, err := pki.Machine(tdx.Platform{CA: "intel"}); err == nil {
		t.Error("a machine of an unknown CA was made")
	}
	for _, q := range []simtdx.Quote{
		{Version: 3}, {Version: 4, TD: tdx.TD{V15: true}}, {Version: 6}, {Auth: make([]byte, 1<<16)},
	} {
		if _, err := m.Quote(q); err == nil {
			t.Errorf("quote version %d of TD 1.5: %v was made", q.Version, q.TD.V15)
		}
	}
}

func machine(t *testing.T) (*simtdx.PKI, *simtdx.Machine) {
	t.Helper()
	pki, err := simtdx.NewPKI(now)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pki.Machine(tdx.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	return pki, m
}
