package tdx_test

import (
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/tdx"
)

// vectorsDir is the folder of real evidence, which is no part of this repository.
func vectorsDir() string {
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		dir = "../../../shared/vectors/attest"
	}
	return filepath.Join(dir, "tdx")
}

// vectors returns that folder, or skips the test.
func vectors(tb testing.TB) string {
	tb.Helper()
	dir := vectorsDir()
	if _, err := os.Stat(dir); err != nil {
		tb.Skipf("real evidence is not here: %v (COCOON_VECTORS names its folder)", err)
	}
	return dir
}

func readFile(tb testing.TB, parts ...string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func realQuote(tb testing.TB, name string) []byte {
	tb.Helper()
	return readFile(tb, vectors(tb), "vectors", name+".quote")
}

func realCollateral(tb testing.TB, name string) *tdx.Collateral {
	tb.Helper()
	c := &tdx.Collateral{}
	if err := json.Unmarshal(readFile(tb, vectors(tb), "collateral", name+".json"), c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// intel returns options with Intel's root.
func intel(tb testing.TB, now time.Time) tdx.Options {
	tb.Helper()
	root, err := tdx.IntelRoot()
	if err != nil {
		tb.Fatal(err)
	}
	return tdx.Options{Roots: []*x509.Certificate{root}, Now: now, MinTCBEvaluation: 1}
}

// check returns the check that an error names, "" for none.
func check(err error) tdx.Check {
	var e *tdx.Error
	if errors.As(err, &e) {
		return e.Check
	}
	return ""
}

// wantRefusal fails unless err refuses for the given check and says what was got and wanted.
func wantRefusal(t *testing.T, err error, want tdx.Check) {
	t.Helper()
	var e *tdx.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a refusal by %q", err, want)
	}
	if e.Check != want || e.Got == "" || e.Want == "" {
		t.Fatalf("got %v, want a refusal by %q with got and want", err, want)
	}
	if strings.ContainsAny(err.Error(), "\n\r\x00") {
		t.Errorf("refusal is not one line: %q", err)
	}
}

// simNow is the time of the simulated world.
var simNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// sim is a simulated platform and what it takes to verify its quotes.
type sim struct {
	tb  testing.TB
	pki *simtdx.PKI
	*simtdx.Machine
}

func newSim(tb testing.TB) *sim {
	tb.Helper()
	return newSimOf(tb, tdx.Platform{})
}

func newSimOf(tb testing.TB, p tdx.Platform) *sim {
	tb.Helper()
	pki, err := simtdx.NewPKI(simNow)
	if err != nil {
		tb.Fatal(err)
	}
	return (&sim{tb: tb, pki: pki}).sibling(p)
}

// sibling returns another machine of the same PKI.
func (s *sim) sibling(p tdx.Platform) *sim {
	s.tb.Helper()
	m, err := s.pki.Machine(p)
	if err != nil {
		s.tb.Fatal(err)
	}
	return &sim{s.tb, s.pki, m}
}

func (s *sim) options() tdx.Options {
	return tdx.Options{Roots: []*x509.Certificate{s.pki.Root()}, Now: simNow, MinTCBEvaluation: 18}
}

func (s *sim) quote(q simtdx.Quote) []byte {
	s.tb.Helper()
	raw, err := s.Quote(q)
	if err != nil {
		s.tb.Fatal(err)
	}
	return raw
}

func (s *sim) collateral(c simtdx.Collateral) *tdx.Collateral {
	s.tb.Helper()
	out, err := s.Collateral(c)
	if err != nil {
		s.tb.Fatal(err)
	}
	return out
}

// layout is where the parts of a quote begin.
type layout struct {
	size                                  int // of the signature data, 32 bits
	sig, key, kind, certSize              int
	report, reportSig, authSize, authData int
}

// find computes the layout of a quote whose first bytes are sound.
func find(raw []byte) layout {
	off := 48 + 584
	if raw[0] == 5 {
		off += 6
		if raw[48] == 3 {
			off += 64
		}
	}
	return layout{off, off + 4, off + 68, off + 132, off + 134, off + 138, off + 522, off + 586, off + 588}
}

// withChain returns a quote with another PCK chain, all sizes fitting.
func withChain(raw, chain []byte) []byte {
	le, l := binary.LittleEndian, find(raw)
	at := l.authData + int(le.Uint16(raw[l.authSize:])) + 2 // the chain's size
	out := slices.Concat(raw[:at], le.AppendUint32(nil, uint32(len(chain))), chain)
	le.PutUint32(out[l.size:], uint32(len(out)-l.sig))
	le.PutUint32(out[l.certSize:], uint32(len(out)-l.report))
	return out
}

// chainOf returns the PCK chain in a quote.
func chainOf(raw []byte) []byte {
	le, l := binary.LittleEndian, find(raw)
	at := l.authData + int(le.Uint16(raw[l.authSize:])) + 2
	return raw[at+4 : at+4+int(le.Uint32(raw[at:]))]
}

// certificates splits PEM.
func certificates(chain []byte) [][]byte {
	var out [][]byte
	for {
		block, rest := pem.Decode(chain)
		if block == nil {
			return out
		}
		out, chain = append(out, pem.EncodeToMemory(block)), rest
	}
}

// with returns a copy of raw with data put at off.
func with(raw []byte, off int, data ...byte) []byte {
	out := slices.Clone(raw)
	copy(out[off:], data)
	return out
}
