package main

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"cocoon/worker/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// invoke runs the command as a shell would.
func invoke(args ...string) (status int, stdout, stderr string) {
	var out, err strings.Builder
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

// configFile writes a configuration with an engine that is a fake and a gateway that is not there.
func configFile(t *testing.T, more string) string {
	t.Helper()
	fake := enginetest.New()
	fake.Models = []string{"ok"}
	srv := httptest.NewServer(fake)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	path := filepath.Join(dir, "worker.yaml")
	text := fmt.Sprintf("data_dir: %s/data\ngateways: [{address: '127.0.0.1:1'}]\nengine: {url: %s}\n%s", dir, srv.URL, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommands(t *testing.T) {
	good, bad := configFile(t, ""), configFile(t, "nmae: x\n")
	for _, c := range []struct {
		args   []string
		status int
		out    string // part of stdout
		err    string // part of stderr
	}{
		{[]string{"version"}, exitOK, "cocoon-worker ", ""},
		{[]string{"help"}, exitOK, "usage: cocoon-worker", ""},
		{[]string{"--help"}, exitOK, "", "usage: cocoon-worker"},
		{[]string{"doctor", "-h"}, exitOK, "", "usage: cocoon-worker"},
		{[]string{"fly"}, exitUsage, "", `no command "fly"`},
		{[]string{"id", "--config", good, "now"}, exitUsage, "", `unexpected argument "now"`},
		{[]string{"id", "--colour"}, exitUsage, "", "colour"},
		{[]string{"check-config", "--config", good}, exitOK, `worker "worker", 1 gateways`, ""},
		{[]string{"check-config", "--config", bad}, exitFailed, "", "nmae"},
		{[]string{"check-config", "--config", "/none.yaml"}, exitFailed, "", "/none.yaml"},
		{[]string{"--config", bad}, exitFailed, "", "nmae"},
		{[]string{"run", "--config", bad}, exitFailed, "", "nmae"},
		{[]string{"doctor", "--config", bad}, exitFailed, "FAIL  config: ", "put right"},
		{[]string{"doctor", "--config", good}, exitFailed, "FAIL  gateway 127.0.0.1:1: ", "put right"},
		{[]string{"doctor", "--config", good}, exitFailed, "PASS  probe of ok: ", ""},
	} {
		status, out, err := invoke(c.args...)
		if status != c.status || !strings.Contains(out, c.out) || !strings.Contains(err, c.err) {
			t.Errorf("%q: status %d\nstdout: %s\nstderr: %s", c.args, status, out, err)
		}
	}
}

func TestID(t *testing.T) {
	path := configFile(t, "")
	_, first, _ := invoke("id", "--config", path)
	status, second, _ := invoke("id", "--config="+path)
	if status != exitOK || len(strings.TrimSpace(first)) != 64 || first != second {
		t.Errorf("status %d, ID %q, then %q", status, first, second)
	}
}

// TestRunFails checks that a worker outside of a confidential machine does not start, and says what was looked for.
func TestRunFails(t *testing.T) {
	path := configFile(t, "ops_listen: 256.0.0.1:1\n")
	if status, _, err := invoke("--config", path); status != exitFailed || !strings.Contains(err, "no confidential CPU: ") ||
		!strings.Contains(err, "/dev/sev-guest") || !strings.Contains(err, "cocoon-dev worker") {
		t.Errorf("status %d: %s", status, err)
	}
}
