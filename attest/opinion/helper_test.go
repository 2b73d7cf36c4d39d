package opinion_test

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/attest/opinion"
	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// vectors returns the folder of recorded evidence, or skips.
func vectors(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "attest")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence isn't here (COCOON_VECTORS may name its folder): %v", err)
	}
	return dir
}

func readFile(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// must returns a value that can't fail but for a broken test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// simNow is when the simulated world lives.
var simNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// snpEvidence is what both verifiers of SEV-SNP are asked about.
type snpEvidence struct {
	report, ek []byte
	chain      snp.Chain
	line       snp.Line
	now        time.Time
}

// ours is attest/snp's verdict, with the chain's ARK as its root, which the library takes it for too.
func (e *snpEvidence) ours() error {
	o := snp.Options{Roots: []snp.Root{{Line: e.line, SHA256: sha256.Sum256(e.chain.ARK)}}, Now: e.now}
	_, err := snp.Verify(e.report, e.ek, snp.Endorsements{e.line: e.chain}, o)
	return err
}

func (e *snpEvidence) theirs() error {
	return opinion.JudgeSNP(e.report, e.ek, e.chain, e.line, e.now)
}

func (e *snpEvidence) opinion() opinion.Opinion {
	return opinion.SNP(e.report, e.ek, e.chain, e.line, e.now)
}

// tdxEvidence is what both verifiers of TDX are asked about.
type tdxEvidence struct {
	quote      []byte
	collateral *tdx.Collateral
	roots      []*x509.Certificate
	now        time.Time
}

func (e *tdxEvidence) ours() error {
	_, err := tdx.Verify(e.quote, e.collateral, tdx.Options{Roots: e.roots, Now: e.now, MinTCBEvaluation: 1})
	return err
}

func (e *tdxEvidence) theirs() error {
	return opinion.JudgeTDX(e.quote, e.collateral, e.roots, e.now)
}

func (e *tdxEvidence) opinion() opinion.Opinion {
	return opinion.TDX(e.quote, e.collateral, e.roots, e.now)
}

// authorities are made once: their RSA keys take time.
var authorities = map[snp.Line]func() *simsnp.Authority{
	snp.Milan: sync.OnceValue(newAuthority(snp.Milan)),
	snp.Genoa: sync.OnceValue(newAuthority(snp.Genoa)),
	snp.Turin: sync.OnceValue(newAuthority(snp.Turin)),
}

func newAuthority(line snp.Line) func() *simsnp.Authority {
	return func() *simsnp.Authority {
		return must(simsnp.NewAuthority(simsnp.Config{Line: line, Now: simNow, RSABits: 2048}))
	}
}

// simTCB has no two parts alike.
var simTCB = snp.TCB{Boot: 4, TEE: 1, SNP: 24, Microcode: 219}

// simulateSNP makes evidence of a new chip.
func simulateSNP(line snp.Line, r simsnp.ReportConfig, k simsnp.KeyConfig) *snpEvidence {
	auth := authorities[line]()
	return signedBy(must(auth.NewChip()), line, r, k)
}

// signedBy makes evidence of a chip. The report's TCB is the key's unless it says another.
func signedBy(chip *simsnp.Chip, line snp.Line, r simsnp.ReportConfig, k simsnp.KeyConfig) *snpEvidence {
	auth := authorities[line]()
	if k.TCB == (snp.TCB{}) {
		k.TCB = simTCB
	}
	if r.TCB == (snp.TCB{}) {
		r.TCB = k.TCB
	}
	return &snpEvidence{
		must(chip.Report(r)), must(chip.Certificate(k)),
		auth.Endorsements(must(auth.CRL(simsnp.CRLConfig{})))[line], line, simNow,
	}
}

// simulateTDX makes evidence of a new platform.
func simulateTDX(p tdx.Platform, q simtdx.Quote, c simtdx.Collateral) *tdxEvidence {
	pki := must(simtdx.NewPKI(simNow))
	m := must(pki.Machine(p))
	return &tdxEvidence{must(m.Quote(q)), must(m.Collateral(c)), []*x509.Certificate{pki.Root()}, simNow}
}

// recordedCollateral reads one of the recorded files.
func recordedCollateral(t testing.TB, name string) *tdx.Collateral {
	t.Helper()
	c := &tdx.Collateral{}
	if err := json.Unmarshal(readFile(t, vectors(t), "tdx", "collateral", name+".json"), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// evidence is what both verifiers can be asked about.
type evidence interface {
	ours() error
	theirs() error
	opinion() opinion.Opinion
}

// comparison goes through a group of evidence and looks up each difference in the table.
type comparison struct {
	*testing.T
	group string
	table map[string]difference
	seen  map[string]bool
}

func compare(t *testing.T, group string) *comparison {
	return &comparison{t, group, differences(), map[string]bool{}}
}

// add compares the verdicts on one piece of evidence.
func (c *comparison) add(name string, e evidence) {
	c.Helper()
	name = c.group + "/" + name
	ours, theirs := e.ours(), e.theirs()
	if theirs != nil && strings.Contains(theirs.Error(), "no network") {
		c.Errorf("%s: the library went for the network: %v", name, theirs)
	}
	d, known := c.table[name]
	if differ := (ours == nil) != (theirs == nil); differ != known {
		c.Errorf("%s: differ is %v, in the table is %v\nours:   %v\ntheirs: %v", name, differ, known, ours, theirs)
	}
	if c.seen[name] {
		c.Errorf("%s: twice", name)
	}
	c.seen[name] = true
	if ours != nil {
		if known && d.we != refuse {
			c.Errorf("%s: the table says that we accept: %v", name, ours)
		}
		return
	}
	want := opinion.Agrees
	if known {
		want = opinion.Abstains
		if d.we != accept {
			c.Errorf("%s: the table says that we refuse", name)
		}
		if d.objects {
			want = opinion.Disagrees
		}
	}
	if o := e.opinion(); o.Stance != want || (o.Reason == "") != (want == opinion.Agrees) {
		c.Errorf("%s: got %+v, want %s; the library's whole verdict is %v", name, o, want, theirs)
	}
}

// done checks that the table holds nothing of the group that doesn't differ.
func (c *comparison) done() {
	c.Helper()
	for name := range c.table {
		if strings.HasPrefix(name, c.group+"/") && !c.seen[name] {
			c.Errorf("%s: in the table, but not among the evidence", name)
		}
	}
	c.Logf("%d pieces of evidence", len(c.seen))
}

// critical is an extension that nobody knows.
func critical() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}
}
