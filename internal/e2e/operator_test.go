package e2e_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// decisionMax is how soon a running gateway acts on what its operator decides: a second, and much more on a busy machine.
const decisionMax = 20 * time.Second

// TestKeys makes and revokes keys while the gateway runs.
func TestKeys(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "auto")
	list := g.operate(t, "keys", "list")
	if strings.Contains(list, g.key) || !strings.Contains(list, "e2e") {
		t.Errorf("keys list:\n%s", list)
	}
	second := client{base: g.base, key: strings.TrimSpace(g.operate(t, "keys", "create", "second"))}
	if second.key == g.key || !strings.HasPrefix(second.key, "ck-") || strings.ContainsAny(second.key, " \n") {
		t.Errorf("new key %q", second.key)
	}
	eventually(t, decisionMax, "the second key works", func() bool { return second.models(t.Context()) != nil })
	id := regexp.MustCompile(`(?m)^(\w+)\s+second\b`).FindStringSubmatch(g.operate(t, "keys", "list"))
	if id == nil {
		t.Fatalf("no ID of the second key:\n%s", g.operate(t, "keys", "list"))
	}
	g.operate(t, "keys", "revoke", id[1])
	eventually(t, decisionMax, "the second key is refused", func() bool {
		return second.get(t, "/v1/models").status == http.StatusUnauthorized
	})
	if g.models(t.Context()) == nil {
		t.Error("the first key went with the second")
	}
	if out, problem, code := command(t, "cocoon-gateway", "keys", "revoke", "nosuchkey", "--config", g.config); code == 0 {
		t.Errorf("revoking a key that is not there: code 0, %s%s", out, problem)
	}
	for _, path := range files(t, filepath.Dir(g.config)) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), second.key) || strings.Contains(string(text), g.key) {
			t.Errorf("%s holds a key", path)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; others can read it", path, info.Mode())
		}
	}
	g.stop(t, syscall.SIGTERM)
	g.restart(t)
	if g.models(t.Context()) == nil {
		t.Error("the key is gone after a restart")
	}
	if got := second.get(t, "/v1/models"); got.status != http.StatusUnauthorized {
		t.Errorf("the revoked key after a restart: %v", got)
	}
}

// files are all below a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestCheckConfig reads good and bad configurations.
func TestCheckConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := "data_dir: " + dir + "\npolicy: " + simulatedPolicy() + "\n"
	typo := filepath.Join(dir, "typo-policy")
	writeFile(t, typo, "name: x\nsesion: 5m\n")
	for name, test := range map[string]struct {
		text string
		code int
		says []string
	}{
		"good":        {good, 0, nil},
		"full":        {good + "enrolment: auto\nlog_level: warn\ntee: none\nlimits:\n  idle_timeout: 5s\n", 0, nil},
		"typo":        {good + "lissten: 127.0.0.1:1\n", 1, []string{"lissten"}},
		"no data":     {"listen: 127.0.0.1:1\n", 1, []string{"data_dir"}},
		"bad addr":    {good + "listen: nowhere\n", 1, []string{"listen"}},
		"bad word":    {good + "enrolment: maybe\n", 1, []string{"enrolment", "maybe"}},
		"negative":    {good + "limits:\n  idle_timeout: -5s\n", 1, []string{"idle_timeout"}},
		"no yaml":     {"\tdata_dir", 1, []string{".yaml"}},
		"no policy":   {"data_dir: " + dir + "\n", 1, []string{"policy", "configs/policy.yaml"}},
		"lost policy": {"data_dir: " + dir + "\npolicy: " + dir + "/none\n", 1, []string{dir + "/none"}},
		"bad policy":  {"data_dir: " + dir + "\npolicy: " + typo + "\n", 1, []string{"sesion"}},
		"bad tee":     {good + "tee: maybe\n", 1, []string{"tee", "maybe"}},
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".yaml")
		writeFile(t, path, test.text)
		out, problem, code := command(t, "cocoon-gateway", "check-config", "--config", path)
		if code != test.code {
			t.Errorf("%s: code %d, want %d: %s%s", name, code, test.code, out, problem)
		}
		for _, word := range test.says {
			if !strings.Contains(problem, word) {
				t.Errorf("%s: says %q, want %q in it", name, problem, word)
			}
		}
	}
	missing := filepath.Join(dir, "none.yaml")
	if _, problem, code := command(t, "cocoon-gateway", "check-config", "--config", missing); code == 0 {
		t.Errorf("a missing file is fine: %s", problem)
	}
}

// TestEnrolment lets a worker wait until the operator has decided.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	g := startGateway(t, "approve")
	w := g.startWorker(t, "newcomer", startEcho(t, "m"))
	w.logged(t, startMax, "cocoon-gateway workers approve ")
	m := regexp.MustCompile(`workers approve ([0-9a-f]{64})`).FindStringSubmatch(w.log.String())
	if m == nil {
		t.Fatal("the worker's log does not say what the operator is to type")
	}
	if list := g.operate(t, "workers", "list"); !strings.Contains(list, m[1]) || !strings.Contains(list, "pending") {
		t.Errorf("workers list:\n%s", list)
	}
	if got := g.models(t.Context()); len(got) != 0 {
		t.Errorf("models %q of a worker that nobody approved", got)
	}
	g.operate(t, "workers", "approve", m[1])
	g.serves(t, returnMax, "m")
	if r := g.ask(t, prompt("m", "hi")); r.text != "hello" {
		t.Errorf("after the approval: %v", r)
	}
	g.operate(t, "workers", "revoke", m[1])
	g.lacks(t, decisionMax+brokenMax, "m")
	if !w.running() {
		t.Error("the worker ended when it was revoked; it should wait and say so")
	}
	g.operate(t, "workers", "approve", m[1])
	g.serves(t, returnMax, "m")
	if _, problem, code := command(t, "cocoon-gateway", "workers", "approve", "abc", "--config", g.config); code == 0 {
		t.Errorf("approving a worker that is none: %s", problem)
	}
}
