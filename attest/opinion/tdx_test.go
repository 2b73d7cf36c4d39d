package opinion_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tdxtesting "github.com/google/go-tdx-guest/testing"
	tdxtestdata "github.com/google/go-tdx-guest/testing/testdata"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// v15 is a TD of TDX 1.5 that was launched by one module and runs on another.
func v15(launch, current tdx.SVNs) tdx.TD {
	return tdx.TD{V15: true, TEETCBSVN: launch, TEETCBSVN2: current}
}

func v10(svn tdx.SVNs) tdx.TD { return tdx.TD{TEETCBSVN: svn} }

func rated(platform, module tdx.Status) simtdx.Collateral {
	return simtdx.Collateral{Platform: platform, Module: module}
}

// pcesvn asks more of a current platform.
func pcesvn(n int) func(info, _ map[string]any) {
	return func(info, _ map[string]any) {
		info["tcbLevels"].([]any)[0].(map[string]any)["tcb"].(map[string]any)["pcesvn"] = n
	}
}

// Quotes of all forms, from platforms of both CAs, with TCBs of all ratings.
func TestCompareTDXGood(t *testing.T) {
	c := compare(t, "tdx good")
	upper := func(info, _ map[string]any) { info["pceId"] = strings.ToUpper(info["pceId"].(string)) }
	tenth := func(info, _ map[string]any) {
		info["tdxModuleIdentities"].([]any)[1].(map[string]any)["id"] = "TDX_0A"
	}
	for name, x := range map[string]struct {
		platform   tdx.Platform
		quote      simtdx.Quote
		collateral simtdx.Collateral
	}{
		"v4":                  {},
		"v5 of TD 1.0":        {quote: simtdx.Quote{Version: 5}},
		"v5 of TD 1.5":        {quote: simtdx.Quote{TD: tdx.TD{V15: true}}},
		"processor CA":        {platform: tdx.Platform{CA: tdx.ProcessorCA}},
		"processor CA, v5":    {platform: tdx.Platform{CA: tdx.ProcessorCA}, quote: simtdx.Quote{TD: tdx.TD{V15: true}}},
		"debug":               {quote: simtdx.Quote{TD: tdx.TD{Attributes: tdx.AttrDebug | tdx.AttrMigratable}}},
		"no QE data":          {quote: simtdx.Quote{Auth: []byte{}}},
		"much QE data":        {quote: simtdx.Quote{Auth: make([]byte, 4096)}},
		"FMSPC with letters":  {platform: tdx.Platform{FMSPC: [6]byte{0xb0, 0xc0, 0x6f}}},
		"PCE ID with letters": {platform: tdx.Platform{PCEID: [2]byte{0xab}}, collateral: simtdx.Collateral{Edit: upper}},
		"module 0":            {quote: simtdx.Quote{TD: v10(tdx.SVNs{5, 0, 3})}},
		"module 3":            {quote: simtdx.Quote{TD: v10(tdx.SVNs{3, 3, 3})}},
		"module 10":           {quote: simtdx.Quote{TD: v10(tdx.SVNs{7, 10, 3})}, collateral: simtdx.Collateral{Edit: tenth}},
		"module OutOfDate":    {collateral: simtdx.Collateral{Module: tdx.StatusOutOfDate}},
		"module too old":      {quote: simtdx.Quote{TD: v10(tdx.SVNs{5, 1, 3})}},
		"QE OutOfDate":        {collateral: simtdx.Collateral{QE: tdx.StatusOutOfDate}},
		"QE too old":          {quote: simtdx.Quote{QESVN: 3}},
		"platform too old":    {collateral: simtdx.Collateral{Edit: pcesvn(14)}},
		"SWHardeningNeeded":   {collateral: simtdx.Collateral{Platform: tdx.StatusSWHardeningNeeded}},
		"SWHardeningNeeded, module 0": {
			quote:      simtdx.Quote{TD: v10(tdx.SVNs{5, 0, 3})},
			collateral: simtdx.Collateral{Platform: tdx.StatusSWHardeningNeeded},
		},
		"ConfigurationNeeded":          {collateral: simtdx.Collateral{Platform: tdx.StatusConfigurationNeeded}},
		"OutOfDateConfigurationNeeded": {collateral: simtdx.Collateral{Platform: tdx.StatusOutOfDateConfigurationNeeded}},
		"to be relaunched":             {quote: simtdx.Quote{TD: v15(tdx.SVNs{4, 1, 3}, tdx.SVNs{7, 1, 3})}},
		"module outdated since launch": {quote: simtdx.Quote{TD: v15(tdx.SVNs{7, 1, 3}, tdx.SVNs{5, 1, 3})}},
	} {
		c.add(name, simulateTDX(x.platform, x.quote, x.collateral))
	}
	padded := simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{})
	padded.quote = append(padded.quote, make([]byte, 4096)...)
	c.add("zeros after the quote", padded)
	c.done()
}

// TCBs that are too low or revoked.
func TestCompareTDXTCB(t *testing.T) {
	c := compare(t, "tdx tcb")
	onlyLevel := func(info, _ map[string]any) {
		info["tcbLevels"] = info["tcbLevels"].([]any)[:1]
		pcesvn(14)(info, nil)
	}
	for name, x := range map[string]struct {
		quote      simtdx.Quote
		collateral simtdx.Collateral
	}{
		"platform revoked":            {collateral: simtdx.Collateral{Platform: tdx.StatusRevoked}},
		"platform revoked, module 0":  {simtdx.Quote{TD: v10(tdx.SVNs{5, 0, 3})}, rated(tdx.StatusRevoked, "")},
		"module revoked":              {collateral: simtdx.Collateral{Module: tdx.StatusRevoked}},
		"QE revoked":                  {collateral: simtdx.Collateral{QE: tdx.StatusRevoked}},
		"module 0 below all levels":   {quote: simtdx.Quote{TD: v10(tdx.SVNs{4, 0, 3})}},
		"module below all levels":     {quote: simtdx.Quote{TD: v10(tdx.SVNs{1, 1, 3})}},
		"module unknown":              {quote: simtdx.Quote{TD: v10(tdx.SVNs{7, 2, 3})}},
		"late microcode too old":      {quote: simtdx.Quote{TD: v10(tdx.SVNs{7, 1, 2})}},
		"QE below all levels":         {quote: simtdx.Quote{QESVN: 1}},
		"platform below all levels":   {collateral: simtdx.Collateral{Edit: onlyLevel}},
		"module unknown since launch": {quote: simtdx.Quote{TD: v15(tdx.SVNs{7, 1, 3}, tdx.SVNs{7, 2, 3})}},
		"module revoked since launch": {
			simtdx.Quote{TD: v15(tdx.SVNs{3, 3, 3}, tdx.SVNs{7, 1, 3})}, rated("", tdx.StatusRevoked),
		},
		"TDX module of another signer": {quote: simtdx.Quote{TD: tdx.TD{MRSignerSEAM: tdx.Measurement{1}}}},
		"TDX module with attributes":   {quote: simtdx.Quote{TD: tdx.TD{SEAMAttributes: 1}}},
		"QE of another signer":         {quote: simtdx.Quote{Edit: func(r []byte) { r[128] ^= 1 }}},
		"another product":              {quote: simtdx.Quote{Edit: func(r []byte) { r[256] = 1 }}},
		"QE in debug mode":             {quote: simtdx.Quote{Edit: func(r []byte) { r[48] |= 2 }}},
		"QE with MISCSELECT":           {quote: simtdx.Quote{Edit: func(r []byte) { r[16] = 1 }}},
		"attestation key not named":    {quote: simtdx.Quote{Edit: func(r []byte) { r[320] ^= 1 }}},
		"more than the key named":      {quote: simtdx.Quote{Edit: func(r []byte) { r[383] = 1 }}},
	} {
		c.add(name, simulateTDX(tdx.Platform{}, x.quote, x.collateral))
	}
	c.done()
}

// Documents edited before they were signed.
func TestCompareTDXDocuments(t *testing.T) {
	c := compare(t, "tdx documents")
	past := simNow.Add(-time.Second).Format(time.RFC3339)
	tcb := func(info map[string]any) map[string]any { return level(info)["tcb"].(map[string]any) }
	for name, edit := range map[string]func(info, qe map[string]any){
		"another FMSPC":          func(info, _ map[string]any) { info["fmspc"] = "00A06D080000" },
		"another PCE ID":         func(info, _ map[string]any) { info["pceId"] = "0001" },
		"TCB info of SGX":        func(info, _ map[string]any) { info["id"] = "SGX" },
		"TCB info version 2":     func(info, _ map[string]any) { info["version"] = 2 },
		"TCB type 1":             func(info, _ map[string]any) { info["tcbType"] = 1 },
		"no TCB levels":          func(info, _ map[string]any) { info["tcbLevels"] = []any{} },
		"no TDX module":          func(info, _ map[string]any) { delete(info, "tdxModule") },
		"no TDX modules":         func(info, _ map[string]any) { delete(info, "tdxModuleIdentities") },
		"no FMSPC":               func(info, _ map[string]any) { delete(info, "fmspc") },
		"no issue date":          func(info, _ map[string]any) { delete(info, "issueDate") },
		"no next update":         func(info, _ map[string]any) { delete(info, "nextUpdate") },
		"unknown status":         func(info, _ map[string]any) { level(info)["tcbStatus"] = "Fine" },
		"no status":              func(info, _ map[string]any) { delete(level(info), "tcbStatus") },
		"no PCESVN":              func(info, _ map[string]any) { delete(tcb(info), "pcesvn") },
		"no SGX components":      func(info, _ map[string]any) { delete(tcb(info), "sgxtcbcomponents") },
		"QE identity of SGX":     func(_, qe map[string]any) { qe["id"] = "QE" },
		"QE identity version 3":  func(_, qe map[string]any) { qe["version"] = 3 },
		"no QE levels":           func(_, qe map[string]any) { qe["tcbLevels"] = []any{} },
		"QE identity expired":    func(_, qe map[string]any) { qe["nextUpdate"] = past },
		"QE identity of 2027":    func(_, qe map[string]any) { qe["issueDate"] = "2027-01-01T00:00:00Z" },
		"TCB info expired":       func(info, _ map[string]any) { info["nextUpdate"] = past },
		"TCB info of 2027":       func(info, _ map[string]any) { info["issueDate"] = "2027-01-01T00:00:00Z" },
		"TCB evaluation 0":       func(info, _ map[string]any) { info["tcbEvaluationDataNumber"] = 0 },
		"TCB evaluation 2 of QE": func(_, qe map[string]any) { qe["tcbEvaluationDataNumber"] = 2 },
	} {
		c.add(name, simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{Edit: edit}))
	}
	c.done()
}

// level is the first level of a TCB info.
func level(info map[string]any) map[string]any { return info["tcbLevels"].([]any)[0].(map[string]any) }

// Collateral that is not whole, not of its time or not of its place.
func TestCompareTDXCollateral(t *testing.T) {
	c := compare(t, "tdx collateral")
	pki := must(simtdx.NewPKI(simNow))
	m := must(pki.Machine(tdx.Platform{}))
	quote, roots := must(m.Quote(simtdx.Quote{})), []*x509.Certificate{pki.Root()}
	ask := func(name string, x simtdx.Collateral, edit func(e *tdxEvidence)) {
		e := &tdxEvidence{slices.Clone(quote), must(m.Collateral(x)), roots, simNow}
		if edit != nil {
			edit(e)
		}
		c.add(name, e)
	}
	ask("good", simtdx.Collateral{}, nil)
	ask("expired", simtdx.Collateral{NextUpdate: simNow.Add(-time.Second)}, nil)
	ask("ends now", simtdx.Collateral{NextUpdate: simNow}, nil)
	ask("future", simtdx.Collateral{Issued: simNow.Add(time.Second)}, nil)
	ask("critical extension", simtdx.Collateral{CRLExtensions: append(simtdx.Collateral{}.CRLExtensions, critical())}, nil)
	ask("PCK revoked", simtdx.Collateral{Revoked: []*x509.Certificate{m.PCK()}}, nil)
	for i, cert := range pki.Certificates() {
		ask(fmt.Sprintf("%s revoked", []string{"root", "platform CA", "processor CA", "signer"}[i]),
			simtdx.Collateral{Revoked: []*x509.Certificate{cert}}, nil)
	}
	foreign := simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{})
	ask("another PKI's root", simtdx.Collateral{}, func(e *tdxEvidence) { e.roots = foreign.roots })
	ask("both roots", simtdx.Collateral{}, func(e *tdxEvidence) { e.roots = slices.Concat(foreign.roots, roots) })
	ask("another PKI's collateral", simtdx.Collateral{}, func(e *tdxEvidence) { e.collateral = foreign.collateral })
	ask("another PKI's, both roots", simtdx.Collateral{}, func(e *tdxEvidence) {
		e.collateral, e.roots = foreign.collateral, slices.Concat(foreign.roots, roots)
	})
	ask("another PKI's quote", simtdx.Collateral{}, func(e *tdxEvidence) { e.quote = foreign.quote })
	ask("before all", simtdx.Collateral{}, func(e *tdxEvidence) { e.now = e.now.AddDate(0, 0, -2) })
	ask("after all", simtdx.Collateral{}, func(e *tdxEvidence) { e.now = e.now.AddDate(60, 0, 0) })
	old := must(m.Collateral(simtdx.Collateral{NextUpdate: simNow.Add(-time.Second)}))
	young := must(m.Collateral(simtdx.Collateral{Issued: simNow.Add(time.Second)}))
	for i, part := range []string{"TCB info", "QE identity", "PCK CRL", "root CRL"} {
		ask("expired "+part, simtdx.Collateral{}, func(e *tdxEvidence) { transplant(e.collateral, old, i) })
		ask("future "+part, simtdx.Collateral{}, func(e *tdxEvidence) { transplant(e.collateral, young, i) })
		ask("foreign "+part, simtdx.Collateral{}, func(e *tdxEvidence) { transplant(e.collateral, foreign.collateral, i) })
		ask("no "+part, simtdx.Collateral{}, func(e *tdxEvidence) { transplant(e.collateral, &tdx.Collateral{}, i) })
		ask("garbled "+part, simtdx.Collateral{}, func(e *tdxEvidence) {
			x := e.collateral
			b := [][]byte{x.TCBInfo, x.QEIdentity, x.PCKCRL, x.RootCRL}[i]
			b[len(b)/2] ^= 1
		})
	}
	ask("spaces around chains", simtdx.Collateral{}, func(e *tdxEvidence) {
		x := e.collateral
		for _, chain := range []*[]byte{&x.TCBInfoChain, &x.QEIdentityChain, &x.PCKCRLChain} {
			*chain = slices.Concat([]byte("\n "), bytes.ReplaceAll(*chain, []byte("-\n-"), []byte("-\n\n-")), []byte("\r\n\n"))
		}
	})
	ask("signature too long", simtdx.Collateral{}, func(e *tdxEvidence) {
		e.collateral.TCBInfoSignature = append(e.collateral.TCBInfoSignature, 0)
	})
	ask("CRLs swapped", simtdx.Collateral{}, func(e *tdxEvidence) {
		e.collateral.PCKCRL, e.collateral.RootCRL = e.collateral.RootCRL, e.collateral.PCKCRL
	})
	ask("nil", simtdx.Collateral{}, func(e *tdxEvidence) { e.collateral = &tdx.Collateral{} })
	c.done()
}

// transplant puts one part of other collateral into c.
func transplant(c, other *tdx.Collateral, part int) {
	switch part {
	case 0:
		c.TCBInfo, c.TCBInfoSignature, c.TCBInfoChain = other.TCBInfo, other.TCBInfoSignature, other.TCBInfoChain
	case 1:
		c.QEIdentity, c.QEIdentitySignature = other.QEIdentity, other.QEIdentitySignature
		c.QEIdentityChain = other.QEIdentityChain
	case 2:
		c.PCKCRL, c.PCKCRLChain = other.PCKCRL, other.PCKCRLChain
	case 3:
		c.RootCRL = other.RootCRL
	}
}

// Where the parts of a quote of version 4 begin.
const (
	offSignedSize = 48 + 584
	offSignature  = offSignedSize + 4
	offKey        = offSignature + 64
	offCertSize   = offKey + 64 + 2
	offQEReport   = offCertSize + 4
	offQEData     = offQEReport + 384 + 64
)

// withChain returns a quote of version 4 with another PCK chain, all sizes fitting.
func withChain(raw, chain []byte) []byte {
	le := binary.LittleEndian
	at := offQEData + 2 + int(le.Uint16(raw[offQEData:])) + 2
	out := slices.Concat(raw[:at], le.AppendUint32(nil, uint32(len(chain))), chain)
	le.PutUint32(out[offSignedSize:], uint32(len(out)-offSignature))
	le.PutUint32(out[offCertSize:], uint32(len(out)-offQEReport))
	return out
}

// chainOf returns the PCK chain in a quote of version 4, as blocks of PEM.
func chainOf(raw []byte) (blocks [][]byte) {
	at := offQEData + 2 + int(binary.LittleEndian.Uint16(raw[offQEData:])) + 2 + 4
	for block, rest := pem.Decode(raw[at:]); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, pem.EncodeToMemory(block))
	}
	return blocks
}

// Quotes put together from others, and with fields that say something else.
func TestCompareTDXForged(t *testing.T) {
	c := compare(t, "tdx forged")
	pki, foreign := must(simtdx.NewPKI(simNow)), must(simtdx.NewPKI(simNow))
	m, sibling := must(pki.Machine(tdx.Platform{})), must(pki.Machine(tdx.Platform{}))
	raw, other := must(m.Quote(simtdx.Quote{})), must(sibling.Quote(simtdx.Quote{}))
	mine, others := chainOf(raw), chainOf(other)
	theirs := chainOf(must(must(foreign.Machine(tdx.Platform{})).Quote(simtdx.Quote{})))
	collateral, roots := must(m.Collateral(simtdx.Collateral{})), []*x509.Certificate{pki.Root()}
	with := func(off int, v ...byte) []byte { return slices.Concat(raw[:off], v, raw[off+len(v):]) }
	chain := func(parts ...[]byte) []byte { return withChain(raw, slices.Concat(parts...)) }
	for name, quote := range map[string][]byte{
		"none":                        nil,
		"version only":                raw[:2],
		"version 3":                   with(0, 3),
		"version 5":                   with(0, 5),
		"version 6":                   with(0, 6),
		"key type 3":                  with(2, 3),
		"TEE of SGX":                  with(4, 0),
		"another QE vendor":           with(12, 0),
		"look-alike chain":            chain(theirs[0], theirs[1], mine[2]),
		"look-alike PCK":              chain(theirs[0], mine[1], mine[2]),
		"chain without its root":      chain(mine[0], mine[1]),
		"chain in another order":      chain(mine[1], mine[0], mine[2]),
		"four certificates":           chain(mine[0], mine[1], mine[1], mine[2]),
		"four, root twice":            chain(mine[0], mine[1], mine[2], mine[2]),
		"the CA as PCK":               chain(mine[1], mine[1], mine[2]),
		"no chain":                    chain(),
		"text between certificates":   chain(mine[0], []byte("x\n"), mine[1], mine[2]),
		"space between certificates":  chain(mine[0], []byte("\n"), mine[1], mine[2]),
		"NUL after the chain":         chain(mine[0], mine[1], mine[2], []byte{0}),
		"two NULs after the chain":    chain(mine[0], mine[1], mine[2], []byte{0, 0}),
		"another platform's PCK":      chain(others...),
		"another's QE report":         with(offQEReport, other[offQEReport:offQEReport+448]...),
		"another's attestation key":   with(offKey, other[offKey:offKey+64]...),
		"another's signature":         with(offSignature, other[offSignature:offSignature+64]...),
		"no point as key":             with(offKey, bytes.Repeat([]byte{0xff}, 64)...),
		"zeros as key":                with(offKey, make([]byte, 64)...),
		"zeros as signature":          with(offSignature, make([]byte, 64)...),
		"certification data type 5":   with(offKey+64, 5),
		"text after the quote":        append(slices.Clone(raw), "text"...),
		"8193 zeros after the quote":  append(slices.Clone(raw), make([]byte, 8193)...),
		"QE data longer than all":     with(offQEData, 0xff, 0xff),
		"QE data longer by one":       with(offQEData, 33),
		"QE data shorter by one":      with(offQEData, 31),
		"signed data longer than all": with(offSignedSize, 0xff, 0xff, 0xff, 0xff),
		"no signed data":              with(offSignedSize, 0, 0, 0, 0),
		"certification data of 2^32":  with(offCertSize, 0xff, 0xff, 0xff, 0xff),
		"no certification data":       with(offCertSize, 0, 0, 0, 0),
	} {
		c.add(name, &tdxEvidence{quote, collateral, roots, simNow})
	}
	c.done()
}

// Each 11th byte changed in a bit that differs from byte to byte, and cut short at each 61st.
func TestCompareTDXFlips(t *testing.T) {
	c := compare(t, "tdx flips")
	stride := 11
	if testing.Short() {
		stride = 53
	}
	for kind, q := range map[string]simtdx.Quote{"v4": {}, "v5": {TD: tdx.TD{V15: true}}} {
		e := simulateTDX(tdx.Platform{}, q, simtdx.Collateral{})
		for i := 0; i < len(e.quote); i += stride {
			flipped := *e
			flipped.quote = slices.Clone(e.quote)
			flipped.quote[i] ^= 1 << (i % 8)
			c.add(fmt.Sprintf("%s byte %d", kind, i), &flipped)
		}
		for n := 0; n < len(e.quote); n += 61 {
			cut := *e
			cut.quote = e.quote[:n]
			c.add(fmt.Sprintf("%s of %d bytes", kind, n), &cut)
		}
	}
	c.done()
}

func intelRoots() []*x509.Certificate { return []*x509.Certificate{must(tdx.IntelRoot())} }

// libraryCollateral is what the library brings along with a TCB info.
func libraryCollateral(t testing.TB, info []byte) *tdx.Collateral {
	t.Helper()
	header := func(h map[string][]string) (text string) {
		for _, values := range h {
			text = values[0]
		}
		return text
	}
	c := &tdx.Collateral{RootCRL: tdxtestdata.RootCrlBody}
	for _, err := range []error{
		c.SetTCBInfo(info, header(tdxtesting.TcbInfoHeader)),
		c.SetQEIdentity(tdxtestdata.QeIdentityBody, header(tdxtesting.QeIdentityHeader)),
		c.SetPCKCRL(tdxtestdata.PckCrlBody, header(tdxtesting.PckCrlHeader)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// The evidence that the library brings along.
func TestCompareTDXLibrarys(t *testing.T) {
	c := compare(t, "tdx library")
	first, second := libraryCollateral(t, tdxtestdata.TcbInfoBody), libraryCollateral(t, tdxtestdata.TcbInfoBodyV5)
	at := time.Date(2023, 7, 6, 0, 0, 0, 0, time.UTC)
	for name, quote := range map[string][]byte{
		"v4": tdxtestdata.RawQuote[:4935], "v4 with its tail": tdxtestdata.RawQuote, "v5": tdxtestdata.RawQuoteV5,
	} {
		c.add(name+", collateral of 2023", &tdxEvidence{quote, first, intelRoots(), at})
		c.add(name+", collateral of 1.5", &tdxEvidence{quote, second, intelRoots(), at})
		c.add(name+", now", &tdxEvidence{quote, second, intelRoots(), simNow})
	}
	c.done()
}

// All recorded quotes with all recorded collateral at the time of the collateral, before it and after it.
func TestCompareTDXRecorded(t *testing.T) {
	c := compare(t, "tdx recorded")
	quotes := map[string][]byte{}
	for _, file := range must(filepath.Glob(filepath.Join(vectors(t), "tdx", "vectors", "*.quote"))) {
		quotes[strings.TrimSuffix(filepath.Base(file), ".quote")] = readFile(t, file)
	}
	var file struct{ Quote string }
	if err := json.Unmarshal(readFile(t, vectors(t), "tdx", "dstack_quote-report.json"), &file); err != nil {
		t.Fatal(err)
	}
	quotes["dstack_quote-report"] = must(hex.DecodeString(file.Quote))
	if len(quotes) != 20 {
		t.Errorf("%d quotes, want 20", len(quotes))
	}
	for name, at := range map[string]time.Time{
		"tinfoil_300_2023": time.Date(2023, 7, 6, 0, 0, 0, 0, time.UTC),
		"qvl_v4":           time.Date(2025, 7, 7, 0, 0, 0, 0, time.UTC),
		"qvl_near":         time.Date(2025, 9, 20, 0, 0, 0, 0, time.UTC),
		"qvl_outdated":     time.Date(2026, 2, 25, 0, 0, 0, 0, time.UTC),
	} {
		collateral := recordedCollateral(t, name)
		for quote, raw := range quotes {
			c.add(quote+" with "+name, &tdxEvidence{raw, collateral, intelRoots(), at})
			c.add(quote+" with "+name+" 60 days before", &tdxEvidence{raw, collateral, intelRoots(), at.AddDate(0, 0, -60)})
			c.add(quote+" with "+name+" 60 days later", &tdxEvidence{raw, collateral, intelRoots(), at.AddDate(0, 0, 60)})
			changed := slices.Clone(raw)
			changed[200] ^= 1
			c.add(quote+" with "+name+", changed", &tdxEvidence{changed, collateral, intelRoots(), at})
		}
	}
	c.done()
}
