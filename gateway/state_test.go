package gateway

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/tunnel"
)

func TestSampleConfig(t *testing.T) {
	cfg, err := LoadConfig("../configs/gateway.yaml", "")
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.DataDir, want.Policy = cfg.DataDir, cfg.Policy
	if cfg != want {
		t.Errorf("the sample is %+v, want the defaults %+v", cfg, want)
	}
}

func TestConfigRefuses(t *testing.T) {
	const good = "data_dir: d\npolicy: p\n"
	for text, want := range map[string]string{
		"listne: x":                         "listne",
		"":                                  "data_dir",
		good + "listen: 8080":               "listen",
		good + "enrolment: maybe":           "enrolment",
		good + "tls: {cert_file: a}":        "tls",
		good + "limits: {keep_alive: 0s}":   "keep_alive",
		good + "limits: {keep_alive: -1s}":  "keep_alive",
		good + "limits: {keep_alive: x}":    "",
		good + "limits: {buffered_mib: 31}": "buffered_mib",
		good + "log_level: loud":            "",
		good + strings.Repeat("#", 2<<20):   "longer",
		"data_dir: d":                       "policy",
		good + "tee: yes please":            "tee",
		good + "collateral: {kds: abc}":     "collateral.kds",
		"data_dir: [":                       "",
	} {
		path := filepath.Join(t.TempDir(), "gateway.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(path, "")
		if err == nil {
			t.Errorf("%.60q passed", text)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want it to name %s", text, err, want)
		}
	}
}

func TestDataDirOverrides(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	for text, want := range map[string]string{"policy: p": "given", "policy: p\ndata_dir: written": "given"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if cfg, err := LoadConfig(path, "given"); err != nil || cfg.DataDir != want {
			t.Errorf("%q with another folder: %q, %v, want %q", text, cfg.DataDir, err, want)
		}
	}
}

func TestGate(t *testing.T) {
	dir := t.TempDir()
	g := &gate{workers: OpenWorkers(dir)}
	if err := g.reload(); err != nil {
		t.Fatal(err)
	}
	id := tunnel.ID{1}
	if err := g.admit(id); !errors.Is(err, errNotEnrolled) || !strings.Contains(err.Error(), "workers approve "+id.String()) {
		t.Errorf("a newcomer: %v, want to hear who decides", err)
	}
	for _, state := range []string{Approved, Revoked} {
		if err := OpenWorkers(dir).Decide(id.String(), state, time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := g.reload(); err != nil {
			t.Fatal(err)
		}
		if err := g.admit(id); (err == nil) != (state == Approved) {
			t.Errorf("%s: %v", state, err)
		}
	}
	if err := g.workers.Decide("ff", Approved, time.Now()); !errors.Is(err, ErrNoWorker) {
		t.Errorf("half an ID: %v", err)
	}
	ahead := tunnel.ID{2}
	if err := g.workers.Decide(ahead.String(), Approved, time.Now()); err != nil {
		t.Errorf("approving ahead of time: %v", err)
	}
	if err := g.workers.Decide(tunnel.ID{3}.String(), Revoked, time.Now()); !errors.Is(err, ErrNoWorker) {
		t.Errorf("revoking a stranger: %v", err)
	}
	list, err := g.workers.List()
	if err != nil || len(list) != 2 {
		t.Errorf("%d workers, %v, want 2", len(list), err)
	}
}

func TestBrokenStateIsNotLost(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "workers.json")
	if err := os.WriteFile(path, []byte(`{"workers":[`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := OpenWorkers(dir).Decide(tunnel.ID{1}.String(), Approved, time.Now()); err == nil {
		t.Error("a broken file was written over")
	}
	if text, _ := os.ReadFile(path); string(text) != `{"workers":[` {
		t.Error("a broken file was changed")
	}
}

// TestWorkersShared lets many writers, as the operator's commands are, change one file at once.
func TestWorkersShared(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				if err := OpenWorkers(dir).Decide(tunnel.ID{byte(i), byte(j)}.String(), Approved, time.Now()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := OpenWorkers(dir).List()
	if err != nil || len(list) != 40 {
		t.Fatalf("%d workers, %v, want 40", len(list), err)
	}
	for _, name := range []string{"workers.json", "workers.json.lock"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is readable by others (%v)", name, err)
		}
	}
}
