package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/ollama"
)

// Ports are taken from below the kernel's ephemeral range, so that no outgoing connection takes one in between.
const (
	portMin = 20000
	portMax = 32000
)

// handedOut are the ports that freePort gave: whoever got one may not listen there yet.
var handedOut sync.Map

// freePort is a loopback address that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(portMin+rand.IntN(portMax-portMin)))
		if _, given := handedOut.LoadOrStore(addr, true); given {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// gateway is a cocoon-gateway of our own with its folder.
type gateway struct {
	*proc
	client         // with a key of its own
	bin     string // folder of the binaries; "" = TestMain's
	config  string
	addr    string // of apps
	ops     string // base URL
	workers string // address that workers dial
}

// gatewayYAML is a configuration with time limits that tests can wait for, and that no busy machine reaches.
const gatewayYAML = `
listen: %s
ops_listen: %s
worker_listen: %s
data_dir: %s
enrolment: %s
policy: %s
collateral: {offline: true}
tee: none
log_level: debug
limits:
  body_timeout: 12s
  first_byte_timeout: 12s
  idle_timeout: 10s
  keep_alive: %s
`

// testMoney makes each new account rich, and has workers hear of demand soon.
const testMoney = "test_money_nanoton: 1000000000000\nmarket_every: 3s\n"

// startGateway runs a gateway that admits workers by enrolment: auto or approve.
func startGateway(t *testing.T, enrolment string) *gateway {
	t.Helper()
	return startGatewayFrom(t, "", enrolment, quietMax)
}

// quietMax is the silence after which a waiting stream gets a comment, unless a test is about that.
const quietMax = 15 * time.Second

// startGatewayFrom takes the binaries from a folder ("" = TestMain's), and sets the silence, too.
func startGatewayFrom(t *testing.T, bin, enrolment string, keepAlive time.Duration) *gateway {
	t.Helper()
	g := newGateway(t, bin, enrolment, keepAlive, testMoney)
	g.restart(t)
	g.key = g.newKey(t)
	return g
}

// newKey makes a key of the default account, and waits until it works.
func (g *gateway) newKey(t *testing.T) string {
	t.Helper()
	c := client{base: g.base, key: strings.TrimSpace(g.operate(t, "keys", "create", "e2e"))}
	eventually(t, startMax, "the new key works", func() bool { return c.models(t.Context()) != nil })
	return c.key
}

// newGateway makes a gateway's configuration, with more lines at its end. It does not run yet.
func newGateway(t *testing.T, bin, enrolment string, keepAlive time.Duration, more string) *gateway {
	t.Helper()
	dir := t.TempDir()
	g := &gateway{
		bin:    bin,
		config: filepath.Join(dir, "gateway.yaml"), addr: freePort(t), ops: "http://" + freePort(t), workers: freePort(t),
	}
	text := fmt.Sprintf(gatewayYAML, g.addr, strings.TrimPrefix(g.ops, "http://"), g.workers,
		filepath.Join(dir, "data"), enrolment, simulatedPolicy(), keepAlive)
	writeFile(t, g.config, text+more)
	g.base = "http://" + g.addr
	return g
}

// restart starts the process, again if it ran before.
func (g *gateway) restart(t *testing.T) {
	t.Helper()
	g.proc = start(t, "cocoon-gateway", spawn{name: "gateway", bin: g.bin, args: []string{"--config", g.config}})
	eventually(t, startMax, "the gateway answers", func() bool { return !g.running() || getOK(g.base+"/healthz") })
	if !g.running() {
		t.Fatalf("gateway ended at once: %v\n%s", g.err, g.log.tail())
	}
}

// operate runs an operator's command and returns what it printed.
func (g *gateway) operate(t *testing.T, args ...string) string {
	t.Helper()
	out, problem, code := command(t, "cocoon-gateway", append(args, "--config", g.config)...)
	if code != 0 {
		t.Fatalf("cocoon-gateway %v: exit code %d: %s%s", args, code, out, problem)
	}
	return out
}

// command runs a binary to its end.
func command(t *testing.T, binary string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(binEnv), binary), args...)
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s %v: %v", binary, args, err)
	}
	return out.String(), problem.String(), cmd.ProcessState.ExitCode()
}

// simulatedPolicy admits the simulated machines that workers run in.
func simulatedPolicy() string { return filepath.Join(os.Getenv(teeEnv), policyName) }

// worker is a worker of our own in a simulated machine: what cocoon-worker is in a real one.
type worker struct {
	*proc
	bin, config, data string
}

// workerYAML is a worker with one gateway and one engine.
const workerYAML = `
name: %s
data_dir: %s
log_level: debug
collateral: {offline: true}
gateways:
  - address: %s
    pin: %s
engine:
  url: %s
  slots: 64
`

// startWorker runs a worker that dials g and sells what the engine at the URL has. It does not wait for anything.
func (g *gateway) startWorker(t *testing.T, name, engine string) *worker {
	t.Helper()
	return g.startWorkerWith(t, name, engine, "")
}

// startWorkerWith adds lines to the worker's configuration.
func (g *gateway) startWorkerWith(t *testing.T, name, engine, more string) *worker {
	t.Helper()
	dir := t.TempDir()
	w := &worker{bin: g.bin, config: filepath.Join(dir, "worker.yaml"), data: filepath.Join(dir, "data")}
	pin := strings.TrimSpace(g.operate(t, "id"))
	writeFile(t, w.config, fmt.Sprintf(workerYAML, name, w.data, g.workers, pin, engine)+more)
	w.restart(t, name)
	return w
}

func (w *worker) restart(t *testing.T, name string) {
	t.Helper()
	w.proc = start(t, "cocoon-dev", spawn{
		name: "worker " + name, bin: w.bin, args: []string{"worker", "--simulated", os.Getenv(teeEnv), "--config", w.config},
	})
}

// balances are the ledger's accounts. The gateway may run meanwhile.
func (g *gateway) balances(t *testing.T) map[ledger.Account]nanoton.Amount {
	t.Helper()
	return balances(t, "sqlite:"+filepath.Join(filepath.Dir(g.config), "data", "ledger.db"))
}

func balances(t *testing.T, url string) map[ledger.Account]nanoton.Amount {
	t.Helper()
	l, err := ledger.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := l.Balances(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// serves waits until the gateway's list has the model.
func (c client) serves(t *testing.T, limit time.Duration, model string) time.Duration {
	t.Helper()
	return eventually(t, limit, "model "+model+" is listed", func() bool {
		return slices.Contains(c.models(t.Context()), model)
	})
}

// lacks waits until the gateway's list is there and the model isn't in it.
func (c client) lacks(t *testing.T, limit time.Duration, model string) time.Duration {
	t.Helper()
	return eventually(t, limit, "model "+model+" is no longer listed", func() bool {
		ids := c.models(t.Context())
		return ids != nil && !slices.Contains(ids, model)
	})
}

// serving is how many workers offer a model now.
func (c client) serving(t *testing.T, model string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stopMax)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "/v1/models/"+model, "")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var m struct{ Cocoon struct{ Workers int } }
	if json.NewDecoder(resp.Body).Decode(&m) != nil {
		return 0
	}
	return m.Cocoon.Workers
}

// dev is a cocoon-dev of our own: a whole network in one process.
type dev struct {
	*proc
	client
	dir string
	ops string
}

// startDev runs the network on an engine ("" lets cocoon-dev find one) and waits until it says ready.
func startDev(t *testing.T, dir, engine string, more ...string) *dev {
	t.Helper()
	d := &dev{dir: dir}
	addr, ops := freePort(t), freePort(t)
	args := append([]string{"--data", dir, "--listen", addr, "--ops", ops}, more...)
	if engine != "" {
		args = append(args, "--engine", engine)
	}
	d.proc = start(t, "cocoon-dev", spawn{name: "cocoon-dev", args: args})
	eventually(t, startMax, "cocoon-dev says ready", func() bool {
		return !d.running() || hasLine(d.out.String(), "ready")
	})
	if !d.running() {
		t.Fatalf("cocoon-dev ended before it was ready: %v", d.err)
	}
	env := readEnv(t, filepath.Join(dir, "env"))
	d.client = client{base: strings.TrimSuffix(env["OPENAI_BASE_URL"], "/v1"), key: env["OPENAI_API_KEY"]}
	d.ops = env["COCOON_OPS_URL"]
	if d.base != "http://"+addr || d.ops != "http://"+ops || d.key == "" {
		t.Fatalf("DIR/env says %v, want addresses %s and %s and a key", env, addr, ops)
	}
	return d
}

func hasLine(text, line string) bool { return slices.Contains(strings.Split(text, "\n"), line) }

// readEnv reads shell assignments, with or without export and quotes.
func readEnv(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	assignment := regexp.MustCompile(`(?m)^(?:export )?(\w+)=["']?([^"'\n]*)["']?$`)
	for _, m := range assignment.FindAllStringSubmatch(string(text), -1) {
		env[m[1]] = m[2]
	}
	return env
}

// startOllama runs a real Ollama with the tiny models, and an alias of tiny that has a slash and a colon.
func startOllama(t *testing.T) string {
	t.Helper()
	bin, err := ollama.Build(t.Context(), filepath.Join(repoRoot(t), "bin"), func(line string) { t.Log(line) })
	if err != nil {
		t.Skipf("no real engine: Ollama can't be built: %v", err)
	}
	srv, err := ollama.Start(t.Context(), ollama.Config{Binary: bin, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		srv.Stop()
		if text, err := os.ReadFile(srv.Log()); t.Failed() && err == nil {
			t.Logf("---- ollama\n%s", text[max(0, len(text)-tailMax):])
		}
	})
	resp, err := http.Post(srv.URL()+"/api/copy", "application/json",
		strings.NewReader(`{"source":"`+ollama.Tiny+`","destination":"`+aliasModel+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("naming the alias: %s", resp.Status)
	}
	return srv.URL()
}

// aliasModel is a second name of the tiny model: ids with slashes and colons are common and hard on URLs.
const aliasModel = "cocoon/tiny:e2e"

// getOK says whether a GET answers 200.
func getOK(url string) bool {
	resp, err := (&http.Client{Timeout: stopMax, Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// fetch returns the text at a URL of the ops listener.
func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := (&http.Client{Timeout: startMax, Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return string(text)
}

// goroutines is how many run in the process behind an ops listener.
func goroutines(t *testing.T, ops string) int {
	t.Helper()
	m := regexp.MustCompile(`(?m)^go_goroutines (\d+)$`).FindStringSubmatch(fetch(t, ops+"/metrics"))
	if m == nil {
		t.Fatal("no go_goroutines among the metrics")
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// settled waits until no more goroutines run than there were, give or take those of the tunnel's idle connections.
func settled(t *testing.T, ops string, before int) {
	t.Helper()
	const slack = 12 // idle data connections come and go
	now := 0
	began := time.Now()
	for time.Since(began) < startMax {
		if now = goroutines(t, ops); now <= before+slack {
			return
		}
		time.Sleep(10 * tick)
	}
	t.Errorf("%d goroutines, %d at the start:\n%s", now, before, fetch(t, ops+"/debug/pprof/goroutine?debug=1"))
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
