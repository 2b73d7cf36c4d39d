package opinion_test

import (
	"errors"
	"flag"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	sevtestdata "github.com/google/go-sev-guest/verify/testdata"
	"github.com/google/go-sev-guest/verify/trust"
	tdxtestdata "github.com/google/go-tdx-guest/testing/testdata"

	"cocoon/attest/opinion"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

func TestAsk(t *testing.T) {
	for name, c := range map[string]struct {
		limit    string
		question func() error
		want     opinion.Opinion
	}{
		"agrees":   {"", func() error { return nil }, opinion.Opinion{Stance: opinion.Agrees, Library: "a library"}},
		"abstains": {"it can't", func() error { return nil }, opinion.Opinion{opinion.Abstains, "a library", "it can't"}},
		"disagrees": {
			"", func() error { return errors.New("no") },
			opinion.Opinion{opinion.Disagrees, "a library", "no"},
		},
		"disagrees in what it can judge": {
			"it can't", func() error { return errors.New("no") },
			opinion.Opinion{opinion.Disagrees, "a library", "no"},
		},
		"panics": {
			"it can't", func() error { panic("at the disco") },
			opinion.Opinion{opinion.Disagrees, "a library", "the library panicked: at the disco"},
		},
		"long and unprintable": {
			"", func() error { return errors.New("a\nb\x1b[31m\u202e\xff" + strings.Repeat("x", 1<<20)) },
			opinion.Opinion{opinion.Disagrees, "a library", "a?b?[31m??" + strings.Repeat("x", 287) + "..."},
		},
	} {
		if got := opinion.Ask(c.limit, c.question); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}

// The names of the libraries say the versions that go.mod asks for.
func TestVersions(t *testing.T) {
	mod := string(readFile(t, "..", "..", "go.mod"))
	for _, library := range []string{opinion.LibrarySNP, opinion.LibraryTDX} {
		if !strings.Contains(mod, "\tgithub.com/google/"+library+"\n") {
			t.Errorf("%s: another version is in go.mod; look at its changes and at the table of differences", library)
		}
	}
}

// A size that the QE's data can't have makes the library panic; so anybody could crash a program that asks it alone.
func TestPanicIsCaught(t *testing.T) {
	e := simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{})
	e.quote[offQEData], e.quote[offQEData+1] = 0xff, 0xff
	if err := e.theirs(); err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Errorf("got %v: if the library doesn't panic any more, this test can go", err)
	}
	if o := e.opinion(); o.Stance != opinion.Disagrees || !strings.Contains(o.Reason, "it wasn't asked") {
		t.Errorf("got %+v", o)
	}
}

// Evidence that our verifier can't have accepted is no question.
func TestNotAsked(t *testing.T) {
	good, quote := simulateSNP(snp.Milan, simsnp.ReportConfig{}, simsnp.KeyConfig{}), simulateTDX(
		tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{})
	for name, o := range map[string]opinion.Opinion{
		"SNP without time":   opinion.SNP(good.report, good.ek, good.chain, good.line, time.Time{}),
		"SNP without report": opinion.SNP(nil, good.ek, good.chain, good.line, good.now),
		"SNP without key":    opinion.SNP(good.report, nil, good.chain, good.line, good.now),
		"TDX without time":   opinion.TDX(quote.quote, quote.collateral, quote.roots, time.Time{}),
		"TDX without roots":  opinion.TDX(quote.quote, quote.collateral, nil, quote.now),
		"TDX without quote":  opinion.TDX(nil, quote.collateral, quote.roots, quote.now),
		"TDX, collateral":    opinion.TDX(quote.quote, nil, quote.roots, quote.now),
	} {
		if o.Stance != opinion.Disagrees || !strings.HasPrefix(o.Reason, "it wasn't asked: ") {
			t.Errorf("%s: got %+v", name, o)
		}
	}
}

// Where a library can't judge all, its objection to what it can judge counts.
func TestObjectsToPart(t *testing.T) {
	for name, e := range map[string]*snpEvidence{
		"Turin": simulateSNP(snp.Turin, simsnp.ReportConfig{}, simsnp.KeyConfig{}),
		"level 128": simulateSNP(snp.Genoa, simsnp.ReportConfig{}, simsnp.KeyConfig{
			TCB: snp.TCB{SNP: 128},
		}),
		"Genoa version 2": simulateSNP(snp.Genoa, simsnp.ReportConfig{Version: 2}, simsnp.KeyConfig{}),
	} {
		if o := e.opinion(); o.Stance != opinion.Abstains {
			t.Errorf("%s: got %+v", name, o)
		}
		e.report[0x90] ^= 1
		if o := e.opinion(); o.Stance != opinion.Disagrees || !strings.Contains(o.Reason, "signature") {
			t.Errorf("%s, forged: got %+v", name, o)
		}
	}
}

// Any number of questions may be asked at once about the same evidence, which nobody changes.
func TestConcurrent(t *testing.T) {
	all := []evidence{
		simulateSNP(snp.Milan, simsnp.ReportConfig{Version: 2}, simsnp.KeyConfig{}),
		simulateSNP(snp.Genoa, simsnp.ReportConfig{Signer: snp.VLEK}, simsnp.KeyConfig{Kind: snp.VLEK}),
		simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{}),
		simulateTDX(tdx.Platform{}, simtdx.Quote{TD: tdx.TD{V15: true}}, simtdx.Collateral{}),
	}
	var wg sync.WaitGroup
	for range 8 {
		for _, e := range all {
			wg.Go(func() {
				if o := e.opinion(); o.Stance != opinion.Agrees {
					t.Errorf("got %+v", o)
				}
			})
		}
	}
	wg.Wait()
}

// The libraries log through google/logger, which writes to standard output and error. Nothing that is asked here makes
// them write: this runs comparisons in another process and looks at all that it wrote.
func TestSilent(t *testing.T) {
	if os.Getenv("OPINION_TEST_CHILD") != "" {
		t.Skip("is the child")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const which = "^Test(Compare.*(Good|Bad|TCB|Documents|Collateral|Forged|Revocation)|PanicIsCaught)$"
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+which)
	cmd.Env = append(os.Environ(), "OPINION_TEST_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v", err)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "PASS" && !strings.HasPrefix(line, "coverage: ") {
			t.Errorf("written: %.200q", line)
		}
	}
}

// Importing the libraries registers this flag, which our programs don't have: they don't use flag.CommandLine.
func TestFlags(t *testing.T) {
	var names []string
	flag.VisitAll(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			names = append(names, f.Name)
		}
	})
	if want := []string{"workaround_kds_productname"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// milan is AMD's own chain.
func milan(t testing.TB) snp.Chain {
	t.Helper()
	return must(snp.AMDEndorsements())[snp.Milan]
}

// checkOpinion checks what is true of every opinion.
func checkOpinion(t *testing.T, ours error, o opinion.Opinion) {
	t.Helper()
	if ours == nil && o.Stance == opinion.Disagrees {
		t.Errorf("ours accepts, and the library: %+v", o)
	}
	if (o.Reason == "") != (o.Stance == opinion.Agrees) || len(o.Reason) > 300 || o.Library == "" ||
		strings.ContainsFunc(o.Reason, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("got %+v", o)
	}
}

func FuzzSNP(f *testing.F) {
	chain := milan(f)
	ek := must(trust.ParseCert(sevtestdata.VcekBytes)).Raw
	f.Add(sevtestdata.AttestationBytes[:snp.ReportSize], ek, uint8(0))
	f.Add([]byte{}, []byte{}, uint8(1))
	f.Add(make([]byte, snp.ReportSize), ek, uint8(2))
	f.Fuzz(func(t *testing.T, report, ek []byte, line uint8) {
		e := &snpEvidence{report, ek, chain, snp.Lines()[int(line)%3], simNow}
		checkOpinion(t, e.ours(), e.opinion())
		_ = e.theirs() // doesn't panic
	})
}

func FuzzTDX(f *testing.F) {
	roots := intelRoots()
	at := time.Date(2023, 7, 6, 0, 0, 0, 0, time.UTC)
	first := libraryCollateral(f, tdxtestdata.TcbInfoBody)
	for _, quote := range [][]byte{{}, {5}, tdxtestdata.RawQuote[:4935], tdxtestdata.RawQuoteV5} {
		f.Add(quote, first.TCBInfo, first.PCKCRL)
	}
	f.Fuzz(func(t *testing.T, quote, info, crl []byte) {
		c := *first
		c.TCBInfo, c.PCKCRL = info, crl
		e := &tdxEvidence{quote, &c, roots, at}
		checkOpinion(t, e.ours(), e.opinion())
		_ = e.theirs() // doesn't panic
	})
}

// What a second opinion costs beside our own verdict.
func BenchmarkOpinion(b *testing.B) {
	for _, x := range []struct {
		name string
		e    evidence
	}{
		{"snp", &snpEvidence{
			sevtestdata.AttestationBytes[:snp.ReportSize], must(trust.ParseCert(sevtestdata.VcekBytes)).Raw,
			milan(b), snp.Milan, simNow,
		}},
		{"snp Turin", simulateSNP(snp.Turin, simsnp.ReportConfig{}, simsnp.KeyConfig{})},
		{"tdx", simulateTDX(tdx.Platform{}, simtdx.Quote{}, simtdx.Collateral{})},
		{"tdx v5", simulateTDX(tdx.Platform{}, simtdx.Quote{TD: tdx.TD{V15: true}}, simtdx.Collateral{})},
	} {
		b.Run(x.name+"/ours", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := x.e.ours(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(x.name+"/opinion", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if o := x.e.opinion(); o.Stance == opinion.Disagrees {
					b.Fatal(o)
				}
			}
		})
	}
}
