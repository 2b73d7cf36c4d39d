package snp_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	simsnp "cocoon/attest/simtee/snp"
	"cocoon/attest/snp"
)

// simNow is when the simulated world lives.
var simNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// simTCB is different in every part, so that no two can be confused.
var simTCB = snp.TCB{Boot: 4, TEE: 1, SNP: 24, Microcode: 219}

// authorities are made once: their RSA keys take time.
var authorities = map[snp.Line]func() (*simsnp.Authority, error){
	snp.Milan: sync.OnceValues(newAuthority(snp.Milan)),
	snp.Genoa: sync.OnceValues(newAuthority(snp.Genoa)),
	snp.Turin: sync.OnceValues(newAuthority(snp.Turin)),
}

func newAuthority(line snp.Line) func() (*simsnp.Authority, error) {
	return func() (*simsnp.Authority, error) {
		return simsnp.NewAuthority(simsnp.Config{Line: line, Now: simNow, RSABits: 2048})
	}
}

// world is a simulated chip with its authority, and what it takes to verify its evidence.
type world struct {
	line snp.Line
	tcb  snp.TCB
	auth *simsnp.Authority
	chip *simsnp.Chip
	opts snp.Options
}

func newWorld(t testing.TB, line snp.Line) *world {
	t.Helper()
	auth, err := authorities[line]()
	if err != nil {
		t.Fatal(err)
	}
	chip, err := auth.NewChip()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{line: line, tcb: simTCB, auth: auth, chip: chip}
	if line == snp.Turin {
		w.tcb.FMC = 2
	}
	w.opts = snp.Options{Roots: []snp.Root{auth.Root()}, Now: simNow}
	return w
}

// report returns a signed report of the world's TCB unless the configuration says another.
func (w *world) report(t testing.TB, c simsnp.ReportConfig) []byte {
	t.Helper()
	if c.TCB == (snp.TCB{}) {
		c.TCB = w.tcb
	}
	b, err := w.chip.Report(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// key returns an endorsement key's certificate for the world's TCB unless the configuration says another.
func (w *world) key(t testing.TB, c simsnp.KeyConfig) []byte {
	t.Helper()
	if c.TCB == (snp.TCB{}) {
		c.TCB = w.tcb
	}
	b, err := w.chip.Certificate(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// crl returns a revocation list of the world's authority.
func (w *world) crl(t testing.TB, c simsnp.CRLConfig) []byte {
	t.Helper()
	b, err := w.auth.CRL(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refused demands that the error is the refusal of this check and says what was got and what wanted.
func refused(t testing.TB, err error, want snp.Check) {
	t.Helper()
	var e *snp.Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want a refusal of the check %q", err, want)
	}
	if e.Check != want {
		t.Fatalf("got %v, want a refusal of the check %q", err, want)
	}
	if e.Got == "" || e.Want == "" {
		t.Fatalf("%v: got and want must be there", err)
	}
}

// refusedAnyhow demands that there is no verdict, for whatever reason.
func refusedAnyhow(t testing.TB, c *snp.Claims, err error, what string, n int) {
	t.Helper()
	var e *snp.Error
	if c != nil || !errors.As(err, &e) {
		t.Fatalf("%s %#x: got claims %v and error %v, want a refusal", what, n, c != nil, err)
	}
}

// vectors returns the folder of recorded evidence, or skips.
func vectors(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "vectors", "attest")
	}
	dir = filepath.Join(dir, "sev", "vectors")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("recorded evidence isn't here (COCOON_VECTORS may name its folder): %v", err)
	}
	return dir
}

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func amd(t testing.TB) snp.Endorsements {
	t.Helper()
	e, err := snp.AMDEndorsements()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// with returns the endorsements with these revocation lists for the line.
func with(e snp.Endorsements, line snp.Line, crls ...[]byte) snp.Endorsements {
	c := e[line]
	c.CRLs = crls
	return snp.Endorsements{line: c}
}
