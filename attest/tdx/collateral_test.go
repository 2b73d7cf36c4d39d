package tdx_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// Every part of the collateral is needed.
func TestMissingCollateral(t *testing.T) {
	s := newSim(t)
	raw := s.quote(simtdx.Quote{})
	fields := reflect.TypeFor[tdx.Collateral]()
	for i := range fields.NumField() {
		t.Run(fields.Field(i).Name, func(t *testing.T) {
			c := s.collateral(simtdx.Collateral{})
			part := reflect.ValueOf(c).Elem().Field(i)
			part.SetBytes(nil)
			_, err := tdx.Verify(raw, c, s.options())
			if check(err) == "" || !strings.Contains(err.Error(), "no ") {
				t.Errorf("missing: got %v, want a refusal", err)
			}
			part.SetBytes(make([]byte, 9<<20))
			_, err = tdx.Verify(raw, c, s.options())
			if check(err) == "" || !strings.Contains(err.Error(), "at most") {
				t.Errorf("huge: got %v, want a refusal", err)
			}
		})
	}
}

// Each bit-flipped byte of the signed parts, sampled, is refused.
func TestAlteredCollateral(t *testing.T) {
	s := newSim(t)
	raw := s.quote(simtdx.Quote{})
	fields := reflect.TypeFor[tdx.Collateral]()
	for i := range fields.NumField() {
		t.Run(fields.Field(i).Name, func(t *testing.T) {
			c := s.collateral(simtdx.Collateral{})
			part := reflect.ValueOf(c).Elem().Field(i).Bytes()
			for at := 0; at < len(part); at += 1 + len(part)/40 {
				part[at] ^= 1
				if _, err := tdx.Verify(raw, c, s.options()); check(err) == "" && part[at]^1 != '\n' {
					t.Errorf("byte %d of %d: got %v, want a refusal", at, len(part), err)
				}
				part[at] ^= 1
			}
		})
	}
}

// The windows of all parts, to the second.
func TestWindows(t *testing.T) {
	s := newSim(t)
	raw := s.quote(simtdx.Quote{})
	issued, next := simNow.Add(-24*time.Hour), simNow.Add(30*24*time.Hour)
	for _, x := range []struct {
		name string
		now  time.Time
		ok   bool
	}{
		{"a second before", issued.Add(-time.Second), false},
		{"at issue", issued, true},
		{"at next update", next, true},
		{"a second after", next.Add(time.Second), false},
		{"years after", simNow.AddDate(10, 0, 0), false},
		{"years before", simNow.AddDate(-10, 0, 0), false},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := s.options()
			o.Now = x.now
			_, err := tdx.Verify(raw, s.collateral(simtdx.Collateral{}), o)
			if (err == nil) != x.ok || !x.ok && !strings.Contains(err.Error(), stamp(x.now)) {
				t.Errorf("got %v, want ok: %v, and the time", err, x.ok)
			}
		})
	}
}

// Each part of the collateral stale or early by itself.
func TestStaleParts(t *testing.T) {
	s := newSim(t)
	raw := s.quote(simtdx.Quote{})
	stale := s.collateral(simtdx.Collateral{Issued: simNow.AddDate(0, -2, 0), NextUpdate: simNow.Add(-time.Second)})
	early := s.collateral(simtdx.Collateral{Issued: simNow.Add(time.Second), NextUpdate: simNow.AddDate(0, 1, 0)})
	for name, bad := range map[string]*tdx.Collateral{"stale": stale, "early": early} {
		for _, x := range []struct {
			part string
			put  func(c *tdx.Collateral)
			want tdx.Check
		}{
			{"TCB info", func(c *tdx.Collateral) {
				c.TCBInfo, c.TCBInfoSignature = bad.TCBInfo, bad.TCBInfoSignature
			}, tdx.CheckTCBInfo},
			{"QE identity", func(c *tdx.Collateral) {
				c.QEIdentity, c.QEIdentitySignature = bad.QEIdentity, bad.QEIdentitySignature
			}, tdx.CheckQEIdentity},
			{"PCK CRL", func(c *tdx.Collateral) { c.PCKCRL = bad.PCKCRL }, tdx.CheckPCKCRL},
			{"root CRL", func(c *tdx.Collateral) { c.RootCRL = bad.RootCRL }, tdx.CheckRootCRL},
		} {
			t.Run(name+" "+x.part, func(t *testing.T) {
				c := s.collateral(simtdx.Collateral{})
				x.put(c)
				_, err := tdx.Verify(raw, c, s.options())
				wantRefusal(t, err, x.want)
			})
		}
	}
}

// Documents of Intel's that say no, or are about something else.
func TestWrongCollateral(t *testing.T) {
	s, foreign := newSim(t), newSim(t)
	processor := s.sibling(tdx.Platform{CA: tdx.ProcessorCA})
	certs := s.pki.Certificates() // root, platform CA, processor CA, signer
	type edit = func(info, qe map[string]any)
	edited := func(f edit) *tdx.Collateral { return s.collateral(simtdx.Collateral{Edit: f}) }
	revoking := func(c *x509.Certificate) *tdx.Collateral {
		return s.collateral(simtdx.Collateral{Revoked: []*x509.Certificate{c}})
	}
	mixed := func(from *sim, put func(c, other *tdx.Collateral)) *tdx.Collateral {
		c := s.collateral(simtdx.Collateral{})
		put(c, from.collateral(simtdx.Collateral{}))
		return c
	}
	set := func(key string, value any) edit { return func(info, _ map[string]any) { info[key] = value } }
	setQE := func(key string, value any) edit { return func(_, qe map[string]any) { qe[key] = value } }
	for _, x := range []struct {
		name string
		c    *tdx.Collateral
		want tdx.Check
	}{
		{"revoked PCK", revoking(s.PCK()), tdx.CheckRevocation},
		{"revoked CA", revoking(certs[1]), tdx.CheckRevocation},
		{"revoked TCB signer", revoking(certs[3]), tdx.CheckRevocation},
		{"rolled back", s.collateral(simtdx.Collateral{Evaluation: 17}), tdx.CheckTCBEvaluation},
		{"only TCB info rolled back", edited(set("tcbEvaluationDataNumber", 17)), tdx.CheckTCBEvaluation},
		{"only QE identity rolled back", edited(setQE("tcbEvaluationDataNumber", 17)), tdx.CheckTCBEvaluation},
		{"another FMSPC", edited(set("fmspc", "00806F050000")), tdx.CheckFMSPC},
		{"another PCE", edited(set("pceId", "0001")), tdx.CheckFMSPC},
		{"TCB info of SGX", edited(set("id", "SGX")), tdx.CheckTCBInfo},
		{"TCB info of version 2", edited(set("version", 2)), tdx.CheckTCBInfo},
		{"another kind of CPUSVN", edited(set("tcbType", 1)), tdx.CheckTCBInfo},
		{"TCB info without a date", edited(set("nextUpdate", "0001-01-01T00:00:00Z")), tdx.CheckTCBInfo},
		{"no levels", edited(set("tcbLevels", []any{})), tdx.CheckTCBInfo},
		{"level of an unknown status", edited(func(info, _ map[string]any) {
			info["tcbLevels"].([]any)[1].(map[string]any)["tcbStatus"] = "Fine"
		}), tdx.CheckTCBInfo},
		{"identity of the SGX QE", edited(setQE("id", "QE")), tdx.CheckQEIdentity},
		{"QE identity of version 1", edited(setQE("version", 1)), tdx.CheckQEIdentity},
		{"mask of another size", edited(setQE("attributesMask", "00")), tdx.CheckQEIdentity},
		{"QE without a signer", edited(setQE("mrsigner", "")), tdx.CheckQEIdentity},
		{"list of the other CA", mixed(processor, func(c, o *tdx.Collateral) {
			c.PCKCRL, c.PCKCRLChain = o.PCKCRL, o.PCKCRLChain
		}), tdx.CheckPCKCRL},
		{
			"list of the other CA under our chain", mixed(processor, func(c, o *tdx.Collateral) { c.PCKCRL = o.PCKCRL }),
			tdx.CheckPCKCRL,
		},
		{"root's list for the PCK's", mixed(s, func(c, o *tdx.Collateral) { c.PCKCRL = o.RootCRL }), tdx.CheckPCKCRL},
		{"PCK's list for the root's", mixed(s, func(c, o *tdx.Collateral) { c.RootCRL = o.PCKCRL }), tdx.CheckRootCRL},
		{
			"list of a look-alike root", mixed(foreign, func(c, o *tdx.Collateral) { c.RootCRL = o.RootCRL }),
			tdx.CheckRootCRL,
		},
		{"list of a look-alike CA", mixed(foreign, func(c, o *tdx.Collateral) {
			c.PCKCRL, c.PCKCRLChain = o.PCKCRL, o.PCKCRLChain
		}), tdx.CheckPCKCRL},
		{"TCB info of a look-alike", mixed(foreign, func(c, o *tdx.Collateral) {
			c.TCBInfo, c.TCBInfoSignature, c.TCBInfoChain = o.TCBInfo, o.TCBInfoSignature, o.TCBInfoChain
		}), tdx.CheckTCBInfo},
		{"QE identity of a look-alike", mixed(foreign, func(c, o *tdx.Collateral) {
			c.QEIdentity, c.QEIdentitySignature, c.QEIdentityChain = o.QEIdentity, o.QEIdentitySignature, o.QEIdentityChain
		}), tdx.CheckQEIdentity},
		{"signed by a CA", mixed(s, func(c, o *tdx.Collateral) { c.TCBInfoChain = o.PCKCRLChain }), tdx.CheckTCBInfo},
		{"QE identity as TCB info", mixed(s, func(c, o *tdx.Collateral) {
			c.TCBInfo, c.TCBInfoSignature = o.QEIdentity, o.QEIdentitySignature
		}), tdx.CheckTCBInfo},
	} {
		t.Run(x.name, func(t *testing.T) {
			o := s.options() // both roots are pinned: what is signed under one says nothing about the other
			o.Roots = append(o.Roots, foreign.pki.Root())
			_, err := tdx.Verify(s.quote(simtdx.Quote{}), x.c, o)
			wantRefusal(t, err, x.want)
		})
	}
	partial := []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
	c := s.collateral(simtdx.Collateral{CRLExtensions: partial}) // an issuing distribution point
	_, err := tdx.Verify(s.quote(simtdx.Quote{}), c, s.options())
	wantRefusal(t, err, tdx.CheckRootCRL)
	c = revoking(processor.PCK()) // somebody else's
	if _, err := tdx.Verify(s.quote(simtdx.Quote{}), c, s.options()); err != nil {
		t.Errorf("with another platform's PCK revoked: %v", err)
	}
}

// Collateral goes through its JSON, and comes out of the PCS's answers, byte for byte.
func TestCollateralForms(t *testing.T) {
	s := newSim(t)
	c := s.collateral(simtdx.Collateral{})
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	read := &tdx.Collateral{}
	if err := json.Unmarshal(text, read); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c, read); d != "" {
		t.Errorf("through JSON (-before +after):\n%s", d)
	}
	if err := json.Unmarshal([]byte(`{"pck_crl":"zz"}`), read); err == nil {
		t.Error("a CRL of zz was read")
	}

	answer := func(name string, value, signature []byte) []byte {
		return fmt.Appendf(nil, "{%q: %s , %q:%q}", name, value, "signature", hex.EncodeToString(signature))
	}
	served := &tdx.Collateral{RootCRL: c.RootCRL}
	for _, err := range []error{
		served.SetTCBInfo(answer("tcbInfo", c.TCBInfo, c.TCBInfoSignature), url.PathEscape(string(c.TCBInfoChain))),
		served.SetQEIdentity(answer("enclaveIdentity", c.QEIdentity, c.QEIdentitySignature),
			url.QueryEscape(strings.ReplaceAll(string(c.QEIdentityChain), " ", "\x00"))),
		served.SetPCKCRL(c.PCKCRL, strings.ReplaceAll(url.PathEscape(string(c.PCKCRLChain)), "%2B", "+")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	served.QEIdentityChain = []byte(strings.ReplaceAll(string(served.QEIdentityChain), "\x00", " "))
	if d := cmp.Diff(c, served); d != "" {
		t.Errorf("from answers (-before +after):\n%s", d)
	}
	for _, body := range []string{"", "[]", `{"signature":"00"}`, `{"tcbInfo":{}}`, `{"tcbInfo":{},"signature":"x"}`} {
		if err := served.SetTCBInfo([]byte(body), ""); err == nil {
			t.Errorf("%s was taken for an answer", body)
		}
	}
	if err := served.SetPCKCRL(nil, "%zz"); err == nil {
		t.Error("a chain of %zz was read")
	}
}

// Answers that the PCS gave.
func TestRealAnswers(t *testing.T) {
	dir := vectors(t)
	c := realCollateral(t, "tinfoil_300_2023")
	chain := url.PathEscape(string(c.TCBInfoChain))
	served := &tdx.Collateral{
		RootCRL: readFile(t, dir, "gtg", "rootcrl.der"), PCKCRL: readFile(t, dir, "gtg", "pckcrl"), PCKCRLChain: c.PCKCRLChain,
	}
	if err := served.SetTCBInfo(readFile(t, dir, "gtg", "sample_tcbInfo_response"), chain); err != nil {
		t.Fatal(err)
	}
	if err := served.SetQEIdentity(readFile(t, dir, "gtg", "sample_qeIdentity_response"), chain); err != nil {
		t.Fatal(err)
	}
	claims, err := tdx.Verify(realQuote(t, "coco_4"), served, intel(t, at2023))
	if err != nil || claims.TCB.Status != tdx.StatusUpToDate {
		t.Errorf("got %+v, %v", claims, err)
	}
}

func stamp(t time.Time) string { return t.Format(time.RFC3339) }
