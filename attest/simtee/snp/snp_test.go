package snp_test

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"cocoon/attest/simtee/snp"
	verifier "cocoon/attest/snp"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

var authority = sync.OnceValues(func() (*snp.Authority, error) {
	return snp.NewAuthority(snp.Config{Line: verifier.Turin, Now: now, RSABits: 2048})
})

// evidence makes a chip with its report and VCEK.
func evidence(t *testing.T, a *snp.Authority) (report, ek []byte) {
	t.Helper()
	chip, err := a.NewChip()
	if err != nil {
		t.Fatal(err)
	}
	tcb := verifier.TCB{FMC: 1, Boot: 2, TEE: 3, SNP: 4, Microcode: 5}
	if report, err = chip.Report(snp.ReportConfig{TCB: tcb}); err != nil {
		t.Fatal(err)
	}
	if ek, err = chip.Certificate(snp.KeyConfig{TCB: tcb}); err != nil {
		t.Fatal(err)
	}
	return report, ek
}

// Another process that reads the authority simulates the same AMD.
func TestMarshal(t *testing.T) {
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	b, err := snp.ParseAuthority(text, now)
	if err != nil {
		t.Fatal(err)
	}
	if a.Root() != b.Root() {
		t.Errorf("got root %x, want %x", b.Root().SHA256, a.Root().SHA256)
	}
	report, ek := evidence(t, b)
	crl, err := b.CRL(snp.CRLConfig{})
	if err != nil {
		t.Fatal(err)
	}
	o := verifier.Options{Roots: []verifier.Root{a.Root()}, Now: now, RequireCRL: true}
	c, err := verifier.Verify(report, ek, a.Endorsements(crl), o)
	if err != nil {
		t.Fatal(err)
	}
	if c.Vendor() || c.Line != verifier.Turin {
		t.Errorf("got %+v", c)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": text[:len(text)/2], "key first": text[1+bytes.Index(text[1:], []byte("-----BEGIN")):],
		"more": slices.Concat(text, text),
	} {
		if _, err := snp.ParseAuthority(bad, now); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// No two chips and no two reports are the same; and many may be made at once.
func TestMany(t *testing.T) {
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	reports := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range reports {
		wg.Go(func() { reports[i], _ = evidence(t, a) })
	}
	wg.Wait()
	slices.SortFunc(reports, bytes.Compare)
	if n := len(slices.CompactFunc(reports, bytes.Equal)); n != 8 {
		t.Errorf("got %d different reports, want 8", n)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := snp.NewAuthority(snp.Config{Line: "Rome", Now: now, RSABits: 2048}); err == nil {
		t.Error("Rome is taken")
	}
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	chip, err := a.NewChip()
	if err != nil {
		t.Fatal(err)
	}
	if err := chip.Sign(make([]byte, 10), verifier.VCEK); err == nil {
		t.Error("ten bytes are signed")
	}
}
