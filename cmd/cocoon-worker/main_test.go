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

func TestPrice(t *testing.T) {
	path := configFile(t, "price: {in: 1000000, out: 2000000}\nmodels: [{name: own, price: {in: 7, out: 8}}, {name: ok}]\n")
	for _, c := range []struct {
		args   string
		status int
		out    []string // parts of stdout
		err    string   // part of stderr
	}{
		{"", exitOK, []string{"MODEL", "ok          0.001 TON (1000000 nanoTON)  0.001 TON (1000000 nanoTON)  0.002 TON (2000000 nanoTON)  worker.yaml\n", "all others  0.001 TON"}, ""},
		{"show", exitOK, []string{"own ", "(7 nanoTON)", "worker.yaml, this model's own"}, ""},
		{"set --in 5 --out 6", exitOK, []string{"ok          0.000000005 TON (5 nanoTON)", "own         0.000000007 TON", "prices.json\n"}, ""},
		{"set --model own --in 0.5TON --cached 3 --out 1.5TON", exitOK, []string{"own         0.5 TON (500000000 nanoTON)  0.000000003 TON (3 nanoTON)", "1.5 TON (1500000000 nanoTON)", "prices.json, this model's own"}, ""},
		{"unset --model own", exitOK, []string{"own         0.000000007 TON", "all others  0.000000005 TON"}, ""},
		{"unset", exitOK, []string{"all others  0.001 TON"}, ""},
		{"set --in 5", exitUsage, nil, "--in and --out are missing"},
		{"set --in 0.5 --out 1", exitUsage, nil, "TON with its unit"},
		{"set --in -5 --out 1", exitUsage, nil, "TON with its unit"},
		{"set --in 0.0000000001TON --out 1", exitUsage, nil, "TON with its unit"},
		{"set --in 1001TON --out 1", exitFailed, nil, "out of range"},
		{"set --in 1 --out 1 --model a\"b", exitFailed, nil, "no model's name"},
		{"set --in 1 --out 1 now", exitUsage, nil, `unexpected argument "now"`},
		{"show --in 1", exitUsage, nil, "usage: cocoon-worker price"},
		{"raise", exitUsage, nil, `no command "price raise"`},
		{"-h", exitOK, nil, "usage: cocoon-worker price"},
	} {
		args := append([]string{"price"}, strings.Fields(c.args)...)
		at := min(2, len(args)) // after the verb
		if len(args) > 1 && strings.HasPrefix(args[1], "-") {
			at = 1
		}
		args = append(args[:at:at], append([]string{"--config", path}, args[at:]...)...)
		status, out, err := invoke(args...)
		if status != c.status || !strings.Contains(err, c.err) {
			t.Errorf("%q: status %d\nstderr: %s", args, status, err)
		}
		for _, part := range c.out {
			if !strings.Contains(out, part) {
				t.Errorf("%q: no %q in\n%s", args, part, out)
			}
		}
	}
	if n, err := parseAmount("0.05 TON"); err != nil || n != 50_000_000 {
		t.Errorf("0.05 TON is %d, %v", n, err)
	}
	if status, _, err := invoke("price", "--config", "/none.yaml"); status != exitFailed || !strings.Contains(err, "/none.yaml") {
		t.Errorf("status %d: %s", status, err)
	}
}

func TestReceiptsCommand(t *testing.T) {
	status, out, err := invoke("receipts", "--config", configFile(t, ""))
	if status != exitOK || !strings.Contains(out, "acknowledged: 0, for 0 TON (0 nanoTON)") {
		t.Errorf("status %d: %s%s", status, out, err)
	}
}
