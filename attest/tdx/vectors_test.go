package tdx_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/attest/tdx"
)

// Times at which the real collateral is current.
var (
	at2023 = time.Date(2023, 7, 6, 0, 0, 0, 0, time.UTC)  // tinfoil_300_2023
	at2025 = time.Date(2025, 7, 7, 0, 0, 0, 0, time.UTC)  // qvl_v4
	atNear = time.Date(2025, 9, 20, 0, 0, 0, 0, time.UTC) // qvl_near
	at2026 = time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC) // qvl_outdated
)

// All real quotes, each with Intel's collateral for its platform where we have it. Those that end at CheckTCBLevel run
// on platforms below every level that Intel lists; those at CheckFMSPC got another platform's collateral, so that all
// before it (chain, CRLs, all signatures) is known to be good.
func TestRealQuotes(t *testing.T) {
	for _, c := range []struct {
		quote, collateral string
		now               time.Time
		refusal           tdx.Check
		status            tdx.Status
		fmspc             string
		date              string
		debug             bool
	}{
		{
			quote: "coco_4", collateral: "tinfoil_300_2023", now: at2023, status: "UpToDate", fmspc: "50806f000000",
			date: "2023-02-15", debug: true,
		},
		{quote: "qvl_v4", collateral: "qvl_v4", now: at2025, status: "UpToDate", fmspc: "b0c06f000000", date: "2024-03-13"},
		{
			quote: "qvl_near", collateral: "qvl_near", now: atNear, status: "UpToDate", fmspc: "20a06f000000",
			date: "2024-03-13",
		},
		{
			quote: "gtg_v5", collateral: "qvl_outdated", now: at2026, status: "UpToDate", fmspc: "90c06f000000",
			date: "2024-11-13",
		},
		{
			quote: "cocoon", collateral: "qvl_outdated", now: at2026, status: "UpToDate", fmspc: "90c06f000000",
			date: "2024-11-13",
		},
		{
			quote: "dstack_verifier", collateral: "qvl_outdated", now: at2026, status: "UpToDate", fmspc: "90c06f000000",
			date: "2024-11-13",
		},
		{
			quote: "openpcc_az", collateral: "qvl_outdated", now: at2026, status: "UpToDate", fmspc: "90c06f000000",
			date: "2024-11-13",
		},
		{quote: "coco_5", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckTCBLevel},
		{quote: "flashbots_az", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckTCBLevel},
		{quote: "qvl_outdated", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckTCBLevel},
		{quote: "dstack_ratls", collateral: "qvl_v4", now: at2025, refusal: tdx.CheckTCBLevel},
		{quote: "qvl_hex", collateral: "qvl_v4", now: at2025, refusal: tdx.CheckTCBLevel},
		{quote: "qvl_tappd", collateral: "qvl_v4", now: at2025, refusal: tdx.CheckTCBLevel},
		{quote: "gtg_v4_spr", collateral: "tinfoil_300_2023", now: at2023, refusal: tdx.CheckTCBLevel},
		{quote: "coco_6", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckFMSPC},
		{quote: "coco_az", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckFMSPC},
		{quote: "gtg_cos113", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckFMSPC},
		{quote: "oak", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckFMSPC},
		{quote: "openpcc_gce", collateral: "qvl_outdated", now: at2026, refusal: tdx.CheckFMSPC},
	} {
		t.Run(c.quote, func(t *testing.T) {
			claims, err := tdx.Verify(realQuote(t, c.quote), realCollateral(t, c.collateral), intel(t, c.now))
			if c.refusal != "" {
				wantRefusal(t, err, c.refusal)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf("%s %x %s debug=%v", claims.TCB.Status, claims.Platform.FMSPC,
				claims.TCB.Date.Format(time.DateOnly), claims.TD.Attributes.UnderDebug())
			if want := fmt.Sprintf("%s %s %s debug=%v", c.status, c.fmspc, c.date, c.debug); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if claims.Platform.CA != tdx.PlatformCA || !claims.Platform.HasInstance ||
				fmt.Sprintf("%x", claims.Root) != tdx.IntelRootSHA256 {
				t.Errorf("got %+v under root %x, want the platform CA under Intel's", claims.Platform, claims.Root)
			}
			lasts := claims.Expires.Sub(claims.Issued)
			if !claims.Issued.Before(c.now) || !claims.Expires.After(c.now) || lasts > 31*24*time.Hour {
				t.Errorf("claims hold from %s to %s, want about 30 days around %s", claims.Issued, claims.Expires, c.now)
			}
		})
	}
	if all, err := filepath.Glob(filepath.Join(vectors(t), "vectors", "*.quote")); err != nil || len(all) != 19 {
		t.Errorf("%d quotes in the folder (%v), 19 in the table", len(all), err)
	}
}

// Claims of a real quote, value by value.
func TestRealClaims(t *testing.T) {
	claims, err := tdx.Verify(realQuote(t, "gtg_v5"), realCollateral(t, "qvl_outdated"), intel(t, at2026))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims.TD)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"V15":true`, `"TEETCBSVN":"0b010400000000000000000000000000"`, `"TEETCBSVN2":"0d010400000000000000000000000000"`,
		`"XFAM":393959`, // 0x602e7
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("got %s, want %s in it", text, want)
		}
	}
	if claims.Version != 5 || claims.TD.Attributes != tdx.AttrSEPTVEDisable || claims.TD.MRTD == (tdx.Measurement{}) ||
		claims.TD.MRServiceTD != (tdx.Measurement{}) || claims.TD.MRSignerSEAM != (tdx.Measurement{}) {
		t.Errorf("got %+v", claims.TD)
	}
	if claims.TCB.Current == nil || claims.TCB.Current.Status != tdx.StatusUpToDate || claims.TCBEvaluation != 18 {
		t.Errorf("got %+v, evaluation %d", claims.TCB, claims.TCBEvaluation)
	}
	if claims.Platform.PCESVN != 13 || claims.Platform.CPUSVN.String() != "04040202040100050000000000000000" ||
		claims.Platform.PPID == [16]byte{} || claims.QE.ProdID != 2 || claims.QE.SVN < 4 {
		t.Errorf("got %+v, %+v", claims.Platform, claims.QE)
	}
	if want := "2026-03-20T10:41:15Z"; claims.Expires.Format(time.RFC3339) != want {
		t.Errorf("expires %s, want %s: the PCK CRL's next update", claims.Expires, want)
	}
}

// grr is what Intel's TCB info says of FMSPC 00A06D080000 (evaluation 19 of July 2026), as far as coco_6's SVNs matter.
func grr(t *testing.T) []byte {
	t.Helper()
	components := func(n ...int) string {
		var all []string
		for i := range 16 {
			v := 0
			if i < len(n) {
				v = n[i]
			}
			all = append(all, fmt.Sprintf(`{"svn":%d}`, v))
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	sgx, tdxs := components(2, 2, 2, 2, 4, 1, 0, 2), components(5, 0, 2)
	module := `"mrsigner":"` + strings.Repeat("00", 48) +
		`","attributes":"0000000000000000","attributesMask":"FFFFFFFFFFFFFFFF"`
	level := func(pcesvn int, date, status string) string {
		return fmt.Sprintf(`{"tcb":{"sgxtcbcomponents":%s,"pcesvn":%d,"tdxtcbcomponents":%s},"tcbDate":"%sT00:00:00Z",`+
			`"tcbStatus":%q}`, sgx, pcesvn, tdxs, date, status)
	}
	return []byte(`{"id":"TDX","version":3,"issueDate":"2026-07-02T18:55:10Z","nextUpdate":"2026-08-01T18:55:10Z",` +
		`"fmspc":"00A06D080000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":19,"tdxModule":{` + module +
		`},"tdxModuleIdentities":[{"id":"TDX_03",` + module + `,"tcbLevels":[{"tcb":{"isvsvn":3},` +
		`"tcbDate":"2025-05-14T00:00:00Z","tcbStatus":"UpToDate"}]}],"tcbLevels":[` +
		level(13, "2025-05-14", "UpToDate") + "," + level(5, "2018-01-04", "OutOfDate") + `]}`)
}

// coco_6 comes from a platform with a current TDX module and a PCE of years ago. A library that looks at the module
// only takes it for current.
func TestOutdatedPlatformUnderCurrentModule(t *testing.T) {
	q, err := tdx.Parse(realQuote(t, "coco_6"))
	if err != nil {
		t.Fatal(err)
	}
	tcb, err := tdx.Evaluate(q, grr(t), realCollateral(t, "qvl_outdated").QEIdentity)
	if err != nil {
		t.Fatal(err)
	}
	if tcb.Status != tdx.StatusOutOfDate || tcb.Launch.Platform.Status != tdx.StatusOutOfDate ||
		tcb.Launch.Module.Status != tdx.StatusUpToDate || tcb.Launch.QE.Status != tdx.StatusUpToDate ||
		tcb.Date.Format(time.DateOnly) != "2018-01-04" {
		t.Errorf("got %+v, want a platform of 2018-01-04 that is OutOfDate, under a module UpToDate", tcb)
	}
}

// A quote with text after it, as one of the vectors has, and dstack's, which comes as JSON.
func TestOtherRealFiles(t *testing.T) {
	raw := readFile(t, vectors(t), "gtg", "tdx_prod_quote_SPR_E4.dat")
	_, err := tdx.Parse(raw)
	wantRefusal(t, err, tdx.CheckFormat)
	if _, err := tdx.Parse(raw[:4935]); err != nil {
		t.Errorf("without its tail: %v", err)
	}
	var file struct{ Quote string }
	if err := json.Unmarshal(readFile(t, vectors(t), "dstack_quote-report.json"), &file); err != nil {
		t.Fatal(err)
	}
	raw, err = hex.DecodeString(file.Quote)
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p, err := q.Platform()
	if err != nil || p.CA != tdx.PlatformCA {
		t.Errorf("got %+v, %v", p, err)
	}
}

// Real evidence is nothing to a simulated root, simulated evidence nothing to Intel's.
func TestRootsDoNotMix(t *testing.T) {
	s := newSim(t)
	o := s.options()
	o.Now = at2025
	_, err := tdx.Verify(realQuote(t, "qvl_v4"), realCollateral(t, "qvl_v4"), o)
	wantRefusal(t, err, tdx.CheckRoot)
}

// Parts of one real quote in another: each is Intel's own, none fits.
func TestRealPartsSwapped(t *testing.T) {
	raw, other := realQuote(t, "cocoon"), realQuote(t, "dstack_verifier")
	o, c := intel(t, at2026), realCollateral(t, "qvl_outdated")
	l := find(raw)
	from := func(off, n int) []byte { return with(raw, off, other[off:off+n]...) }
	for _, x := range []struct {
		name  string
		quote []byte
		want  tdx.Check
	}{
		{"attestation key", from(l.key, 64), tdx.CheckAttestationKey},
		{"quote signature", from(l.sig, 64), tdx.CheckQuoteSignature},
		{"TD report", from(48, 584), tdx.CheckQuoteSignature},
		{"QE report", from(l.report, 384), tdx.CheckQEReport},
		{"QE report and its signature", from(l.report, 448), tdx.CheckQEReport},
		{"PCK chain", withChain(raw, chainOf(other)), tdx.CheckQEReport},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := tdx.Verify(x.quote, c, o)
			wantRefusal(t, err, x.want)
		})
	}
}

// Each byte of a real quote changed once, in a bit that differs from byte to byte: nothing passes.
func TestRealFlips(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of verifications")
	}
	for _, x := range []struct {
		quote, collateral string
		now               time.Time
		stride            int
	}{{"qvl_v4", "qvl_v4", at2025, 1}, {"gtg_v5", "qvl_outdated", at2026, 7}} {
		t.Run(x.quote, func(t *testing.T) {
			t.Parallel()
			flips(t, realQuote(t, x.quote), realCollateral(t, x.collateral), intel(t, x.now), x.stride)
		})
	}
}

// flips changes one bit of every stride-th byte.
func flips(t *testing.T, raw []byte, c *tdx.Collateral, o tdx.Options, stride int) {
	t.Helper()
	if _, err := tdx.Verify(raw, c, o); err != nil {
		t.Fatal(err)
	}
	changed := slices.Clone(raw)
	for i := 0; i < len(raw); i += stride {
		changed[i] ^= 1 << (i % 8)
		if _, err := tdx.Verify(changed, c, o); check(err) == "" {
			t.Errorf("with bit %d of byte %d flipped: %v, want a refusal", i%8, i, err)
		}
		changed[i] = raw[i]
	}
}

// A quote cut short anywhere is none.
func TestRealTruncations(t *testing.T) {
	for _, name := range []string{"qvl_v4", "gtg_v5"} {
		raw := realQuote(t, name)
		end := len(raw)
		for end > 0 && raw[end-1] == 0 {
			end--
		}
		for n := range end { // what is cut after the end was padding
			if _, err := tdx.Parse(raw[:n]); check(err) != tdx.CheckFormat {
				t.Fatalf("%s cut to %d bytes: %v, want a refusal", name, n, err)
			}
		}
	}
}
