package worker

import (
	"crypto/x509"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cocoon/attest"
	"cocoon/attest/simtee"
	"cocoon/worker/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// configFor is a configuration whose gateway is not there.
func configFor(t *testing.T, engineURL string) Config {
	t.Helper()
	c := DefaultConfig()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	c.Engine.URL = engineURL
	c.Gateways = []Gateway{{Address: "127.0.0.1:1"}}
	return c
}

// newWorker makes a worker that looked at its engine once, and is not run.
func newWorker(t *testing.T, c Config) (*Worker, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), reg)
	if err != nil {
		t.Fatal(err)
	}
	w.refresh(t.Context())
	t.Cleanup(func() {
		if w.opened != nil {
			w.opened.Close()
		}
	})
	return w, reg
}

// machine is a simulated one to run in.
func machine(t *testing.T) attest.Attester {
	t.Helper()
	m, err := vendor(t).NewMachine(simtee.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// oneVendor makes all simulated hardware of these tests: its keys take seconds.
var oneVendor = sync.OnceValues(func() (*simtee.Vendor, error) { return simtee.New(time.Now()) })

// vendor is oneVendor.
func vendor(t *testing.T) *simtee.Vendor {
	t.Helper()
	v, err := oneVendor()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// simulatedRoots are those of vendor.
func simulatedRoots(t *testing.T) attest.Roots {
	t.Helper()
	v := vendor(t)
	return attest.Roots{SNP: v.SNPRoots(), TDX: []*x509.Certificate{v.TDXRoot()}, GPU: v.GPURoots()}
}

// writeFile makes a file of its own for a secret.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serveFake serves a fake engine.
func serveFake(t *testing.T, fake *enginetest.Engine) string {
	t.Helper()
	srv := httptest.NewServer(fake)
	t.Cleanup(srv.Close)
	return srv.URL
}
