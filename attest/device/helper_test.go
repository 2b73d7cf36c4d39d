package device

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/google/go-sev-guest/client/linuxabi"

	simsnp "cocoon/attest/simtee/snp"
	simtdx "cocoon/attest/simtee/tdx"
	"cocoon/attest/snp"
	"cocoon/attest/tdx"
)

// simNow is when the simulated vendors live.
var simNow = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

var authority = sync.OnceValues(func() (*simsnp.Authority, error) {
	return simsnp.NewAuthority(simsnp.Config{Line: snp.Genoa, Now: simNow, RSABits: 2048})
})

// snpWorld is a simulated chip and its vendor.
type snpWorld struct {
	auth  *simsnp.Authority
	chip  *simsnp.Chip
	chain snp.Chain
}

func newSNP(t testing.TB) *snpWorld {
	t.Helper()
	auth, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	chip, err := auth.NewChip()
	if err != nil {
		t.Fatal(err)
	}
	return &snpWorld{auth, chip, auth.Endorsements()[snp.Genoa]}
}

func (w *snpWorld) key(t testing.TB, kind snp.Signer) []byte {
	t.Helper()
	der, err := w.chip.Certificate(simsnp.KeyConfig{Kind: kind})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// table is the host's, with all of it.
func (w *snpWorld) table(t testing.TB) []byte {
	return table(entry{guidVCEK, w.key(t, snp.VCEK)}, entry{guidASK, w.chain.ASK}, entry{guidARK, w.chain.ARK})
}

func (w *snpWorld) report(data [64]byte) ([]byte, error) {
	return w.chip.Report(simsnp.ReportConfig{ReportData: data})
}

func crlConfig() simsnp.CRLConfig { return simsnp.CRLConfig{} }

// newTDX is a simulated TDX machine, whose quotes are padded as on some clouds.
func newTDX(t testing.TB) func(data [64]byte) ([]byte, error) {
	t.Helper()
	pki, err := simtdx.NewPKI(simNow)
	if err != nil {
		t.Fatal(err)
	}
	m, err := pki.Machine(tdx.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	return func(data [64]byte) ([]byte, error) {
		quote, err := m.Quote(simtdx.Quote{TD: tdx.TD{ReportData: data}})
		return append(quote, make([]byte, 8000-len(quote))...), err
	}
}

// fakeTSM is configfs-tsm with any content. Fields may be changed between reports.
type fakeTSM struct {
	provider string
	out      func(data [64]byte) ([]byte, error)
	aux      []byte
	fail     map[string]error // by attribute
	meddle   bool             // another process writes to every entry, too
	entries  *faketsm.ReportSubsystem
}

func (f *fakeTSM) client() (configfsi.Client, error) {
	f.entries = &faketsm.ReportSubsystem{
		MakeEntry: func() *faketsm.ReportEntry {
			return &faketsm.ReportEntry{
				InAttrs:        map[string]*faketsm.ReportAttributeState{"inblob": {}},
				ReadGeneration: 100, // none that a test reaches: so the fake asks read each time
			}
		},
		CheckInAttr: func(_ *faketsm.ReportEntry, attr string, contents []byte) error {
			if attr != "inblob" || len(contents) != 64 {
				return fmt.Errorf("%d bytes for %s", len(contents), attr)
			}
			return f.fail["inblob"]
		},
		ReadAttr: f.read,
		Random:   rand.Reader,
	}
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": f.entries}}, nil
}

func (f *fakeTSM) read(e *faketsm.ReportEntry, attr string) ([]byte, error) {
	if err := f.fail[attr]; err != nil {
		return nil, err
	}
	switch attr {
	case "provider":
		return []byte(f.provider + "\n"), nil
	case "outblob":
		if f.meddle {
			e.WriteGeneration++
		}
		return f.out([64]byte(e.InAttrs["inblob"].Value))
	case "auxblob":
		if f.provider != providerTD {
			return f.aux, nil
		}
	}
	return nil, os.ErrNotExist
}

// bareHost is a machine without any of it.
func bareHost(t testing.TB) host {
	return host{
		root: t.TempDir(),
		tsm:  func() (configfsi.Client, error) { return nil, fmt.Errorf("looking: %w", os.ErrNotExist) },
		sev:  func(string, *linuxabi.SnpUserGuestRequest) error { return syscall.ENODEV },
	}
}

func tsmHost(t testing.TB, f *fakeTSM) host {
	h := bareHost(t)
	h.tsm = f.client
	return h
}

// put writes a file below the host's root.
func (h host) put(t testing.TB, path, text string) {
	t.Helper()
	path = h.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func vectorFolder(t testing.TB) string {
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

// logged is a logger and what it has logged.
func logged() (*slog.Logger, *bytes.Buffer) {
	text := new(bytes.Buffer)
	return slog.New(slog.NewTextHandler(text, nil)), text
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}
