package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/simtee"
	simsnp "cocoon/attest/simtee/snp"
	"cocoon/internal/durable"
	"cocoon/internal/h1"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

// testGateway is the gateway's end of the tunnel, without a gateway.
type testGateway struct {
	address string
	id      tunnel.ID

	mu      sync.Mutex
	refused error
	worker  *tunnel.Worker
	sheets  []offer.Sheet

	evidence  *attest.Evidence
	challenge *channel.Challenge
}

func startGateway(t *testing.T) *testGateway {
	t.Helper()
	identity, err := tunnel.LoadIdentity(filepath.Join(t.TempDir(), "identity.pem"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &testGateway{address: l.Addr().String(), id: identity.ID()}
	srv := tunnel.NewServer(tunnel.ServerConfig{
		Identity: identity, Log: slog.New(slog.DiscardHandler), Gone: func(*tunnel.Worker, error) {},
		Admit: func(tunnel.ID) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.refused
		},
		Attest: func(_ context.Context, c *tunnel.Challenge) (time.Time, error) {
			challenge, err := channel.NewChallenge(channel.Exporter(c.Export))
			if err != nil {
				return time.Time{}, err
			}
			answer, err := c.Ask(challenge.Request())
			if err != nil {
				return time.Time{}, err
			}
			evidence, err := challenge.Open(answer)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.evidence, g.challenge = evidence, challenge
			return time.Now().Add(time.Hour), err
		},
		Report: func(w *tunnel.Worker, report []byte) error {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.worker, g.sheets = w, append(g.sheets, decode(t, report))
			return nil
		},
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g
}

// last is the worker and its newest sheet.
func (g *testGateway) last() (*tunnel.Worker, offer.Sheet) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sheets) == 0 {
		return nil, offer.Sheet{}
	}
	return g.worker, g.sheets[len(g.sheets)-1]
}

// TestRun sends a request through a real tunnel and stops the worker.
func TestRun(t *testing.T) {
	fake := enginetest.New()
	fake.Flavour, fake.Models = enginetest.Ollama, []string{"ok", "endless"}
	gw := startGateway(t)
	c := configFor(t, serveFake(t, fake))
	c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
	c.OpsListen = "127.0.0.1:0"
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	eventually(t, "models are offered", func() bool { _, s := gw.last(); return len(s.Offers) == 2 })
	peer, sheet := gw.last()
	keyset := gw.attested(t)
	if peer.ID() != w.ID() || sheet.Name != "worker" || sheet.Offers[1].Model != "ok" {
		t.Errorf("worker %s sells %+v", peer.ID(), sheet)
	}
	status, text := through(t, peer, chatBody("ok", true), "")
	if status != http.StatusOK || !strings.HasSuffix(text, doneEvent) || strings.Contains(text, "cocoon-receipt") {
		t.Errorf("%d %s", status, text)
	}
	pay(t, peer, keyset)
	if u := w.till.Load().unpaid(); u.Finals != 0 {
		t.Errorf("unpaid: %+v", u)
	}
	if status, text := w.health(); status != http.StatusOK {
		t.Errorf("health is %d %s", status, text)
	}
	stop()
	eventually(t, "gateway hears of the end", func() bool { _, s := gw.last(); return s.Draining })
	if err := <-done; err != nil {
		t.Errorf("Run() = %v", err)
	}
	if status, _ := w.health(); status != http.StatusServiceUnavailable {
		t.Errorf("health is %d after the end", status)
	}
}

// attested is the first keyset that the gateway has attested: it names the worker's models.
func (g *testGateway) attested(t *testing.T) receipt.Digest {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	k, err := attest.ParseKeyset(g.evidence.Keyset)
	if err != nil || len(k.Models) != 2 {
		t.Errorf("keyset %s: %v", g.evidence.Keyset, err)
	}
	return sha256.Sum256(g.evidence.Keyset)
}

// pay sends a request that is paid for, and acknowledges its receipt.
func pay(t *testing.T, w *tunnel.Worker, keyset receipt.Digest) {
	t.Helper()
	name := "req_" + strings.Repeat("7", 32)
	header := fmt.Sprintf("Cocoon-Request: %s\r\n%s: %s\r\n", name, receipt.DealHeader, receipt.Deal{Keyset: keyset, Mode: receipt.Gateway})
	_, text := through(t, w, chatBody("ok", true), header)
	if !strings.Contains(text, "data: cocoon-receipt/v1\ndata: request "+name) {
		t.Errorf("no receipt in %s", text)
	}
	none := new(receipt.Acks).Marshal()
	presented, err := w.Receipts(t.Context(), none)
	if err != nil || len(presented) != 0 {
		t.Errorf("presented at once: %s, %v", presented, err)
	}
	data, _, _ := strings.Cut(text[strings.Index(text, "data: cocoon-receipt"):], "\n\n")
	signed, err := receipt.Parse([]byte(strings.ReplaceAll(data, "data: ", "") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	settled := receipt.Acks{Settled: []receipt.Digest{signed.ID()}}
	if presented, err = w.Receipts(t.Context(), settled.Marshal()); err != nil || len(presented) != 0 {
		t.Errorf("presented: %s, %v", presented, err)
	}
	if _, err := w.Receipts(t.Context(), []byte("x")); !errors.Is(err, tunnel.ErrNoReceipts) {
		t.Errorf("acknowledgements that are none: %v", err)
	}
}

// through sends one request over a data connection.
func through(t *testing.T, w *tunnel.Worker, body, header string) (int, string) {
	t.Helper()
	conn, err := w.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Give(conn)
	resp, err := conn.Do(&h1.Request{
		Method: http.MethodPost, Path: chatPath, Host: "worker", Body: []byte(body),
		Header: "Content-Type: application/json\r\n" + header,
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status, string(text)
}

// TestTunnelCancel checks that the engine learns of it when the gateway closes a data connection in mid-stream.
func TestTunnelCancel(t *testing.T) {
	fake := enginetest.New()
	gw := startGateway(t)
	c := configFor(t, serveFake(t, fake))
	c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		stop()
		<-done
	}()
	eventually(t, "models are offered", func() bool { _, s := gw.last(); return len(s.Offers) > 0 })
	peer, _ := gw.last()
	conn, err := peer.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	resp, err := conn.Do(&h1.Request{Method: http.MethodPost, Path: chatPath, Host: "worker", Body: []byte(chatBody("endless", true))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resp.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "load is told", func() bool { _, s := gw.last(); return s.Load.Running == 1 })
	peer.Give(conn) // not read to its end: this closes it
	select {
	case <-fake.Cancels():
	case <-time.After(waitMax):
		t.Fatal("engine never learnt")
	}
	eventually(t, "load is told", func() bool { _, s := gw.last(); return s.Load.Running == 0 })
}

func TestNewFails(t *testing.T) {
	good := configFor(t, "http://127.0.0.1:1")
	for name, spoil := range map[string]func(*Config){
		"config":   func(c *Config) { c.Name = "" },
		"key file": func(c *Config) { c.Engine.KeyFile = "/does/not/exist" },
		"identity": func(c *Config) {
			c.DataDir = t.TempDir()
			if err := os.WriteFile(identityPath(c.DataDir), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := good
		spoil(&c)
		if _, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c := good
	c.OpsListen = "256.0.0.1:1"
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "ops listener") {
		t.Errorf("Run() = %v", err)
	}
}

func TestOps(t *testing.T) {
	w, _ := newWorker(t, configFor(t, "http://127.0.0.1:1"))
	for path, want := range map[string]string{
		"/metrics": "cocoon_worker_engine_up 0", "/healthz": "0 models offered, 0 of 1 gateways connected", "/debug/pprof/": "404",
	} {
		rec := &recorder{header: http.Header{}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.opsHandler().ServeHTTP(rec, req)
		if !strings.Contains(rec.body.String(), want) {
			t.Errorf("%s: %s", path, rec.body.String())
		}
	}
}

// recorder is a ResponseWriter.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(int)             {}
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// doctorSays runs the doctor in a sound machine, with a policy that admits it, and returns its lines.
func doctorSays(t *testing.T, c Config) (bool, string) {
	t.Helper()
	return doctorIn(t, c, simtee.Config{})
}

// doctorIn runs it in any machine.
func doctorIn(t *testing.T, c Config, m simtee.Config) (bool, string) {
	t.Helper()
	v := vendor(t)
	machine, err := v.NewMachine(m)
	if err != nil {
		t.Fatal(err)
	}
	c.Policy = writeFile(t, string(v.PolicyYAML(time.Now())))
	c.Simulated = simulatedRoots(t)
	c.Collateral.Offline = true
	return doctorWith(t, c, Hardware{Found: []Check{{Name: "configfs", Result: Info, Detail: "not looked for"}}, Attester: machine})
}

func doctorWith(t *testing.T, c Config, h Hardware) (bool, string) {
	t.Helper()
	var b strings.Builder
	ok := Doctor(t.Context(), c, h, func(check Check) { fmt.Fprintf(&b, "%s %s: %s\n", check.Result, check.Name, check.Detail) })
	return ok, b.String()
}

func TestDoctorWell(t *testing.T) {
	gw := startGateway(t)
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama, enginetest.LlamaCpp} {
		fake := enginetest.New()
		fake.Flavour, fake.Models = flavour, []string{"ok"}
		c := configFor(t, serveFake(t, fake))
		c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
		c.Price, c.Engine.Slots = Price{In: 1, Out: 1}, 2
		ok, says := doctorSays(t, c)
		for _, want := range []string{
			"PASS config", "PASS key file: ", "made now", "INFO configfs: ", "PASS policy simulated: simulated: ", "PASS engine: ", "PASS models: offered: ok (", "PASS probe of ok: ",
			"PASS clock: ", "PASS gateway " + gw.address + ": connected and admitted",
		} {
			if !strings.Contains(says, want) {
				t.Errorf("%s: no %q in\n%s", flavour, want, says)
			}
		}
		if !ok || strings.Contains(says, Fail) || strings.Contains(says, Warn) {
			t.Errorf("%s: verdict %t\n%s", flavour, ok, says)
		}
		if peer, _ := gw.last(); peer != nil {
			t.Error("the doctor opened a session, which would end a running worker's")
		}
	}
}

func TestDoctorMachine(t *testing.T) {
	c := configFor(t, "http://127.0.0.1:1")
	for check, m := range map[string]simtee.Config{
		"FAIL policy simulated: cpu.vmpl: got 2, want at most 0": {Hooks: simtee.Hooks{Report: func(r *simsnp.ReportConfig) { r.VMPL = 2 }}},
		"FAIL policy simulated: gpu.":                            {GPUs: -1},
		"FAIL policy simulated: cpu.measurement: got":            {Role: attest.Gateway},
	} {
		if ok, says := doctorIn(t, c, m); ok || !strings.Contains(says, check) {
			t.Errorf("no %q in\n%s", check, says)
		}
	}
	for name, tc := range map[string]struct {
		h    Hardware
		says string
	}{
		"none":      {Hardware{Missing: errors.New("no /dev/sev-guest")}, "FAIL confidential machine: none: no /dev/sev-guest"},
		"no policy": {Hardware{Attester: machine(t)}, "WARN policy: none"},
		"mute":      {Hardware{Attester: mute{machine(t)}}, "FAIL confidential machine: sev-snp gives no evidence: "},
	} {
		if ok, says := doctorWith(t, c, tc.h); ok || !strings.Contains(says, tc.says) {
			t.Errorf("%s: no %q in\n%s", name, tc.says, says)
		}
	}
	c.Policy = writeFile(t, "nam: x\n")
	if _, says := doctorWith(t, c, Hardware{Attester: machine(t)}); !strings.Contains(says, "nam") {
		t.Errorf("a policy with a typo: %s", says)
	}
}

// mute is a machine whose CPU does not answer.
type mute struct{ attest.Attester }

func (mute) Report(context.Context, [64]byte) ([]byte, []attest.Item, error) {
	return nil, nil, errors.New("the firmware is busy")
}

// TestOwnPolicy: a worker that its own policy refuses asks nobody to trust it.
func TestOwnPolicy(t *testing.T) {
	gw := startGateway(t)
	fake := enginetest.New()
	c := configFor(t, serveFake(t, fake))
	c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
	c.Policy = writeFile(t, "")
	c.Collateral.Offline = true
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	eventually(t, "the worker says which check", func() bool {
		why := w.dialers[0].Status().LastError
		return strings.Contains(why, "own policy") && strings.Contains(why, "policy.window")
	})
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if peer, _ := gw.last(); peer != nil {
		t.Error("it was offered all the same")
	}
}

// TestSecondWorker does not start on the data folder of one that runs.
func TestSecondWorker(t *testing.T) {
	fake := enginetest.New()
	c := configFor(t, serveFake(t, fake))
	first, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	second, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	eventually(t, "the first runs", func() bool { return len(first.catalog.Load().offers) > 0 })
	if err := second.Run(ctx); !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), "data_dir") {
		t.Errorf("the second: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKeyset: what the evidence is about says who the worker is and what it serves, and is renewed when that changes.
func TestKeyset(t *testing.T) {
	fake := enginetest.New()
	fake.Models = []string{"ok"}
	w, _ := newWorker(t, configFor(t, serveFake(t, fake)))
	first := w.prover.current()
	k, err := attest.ParseKeyset(first)
	if err != nil {
		t.Fatal(err)
	}
	if k.ID != attest.Digest(w.ID()) || k.TLS != k.ID || k.Role != attest.Worker || len(k.Models) != 1 || k.Models[0].Name != "ok" {
		t.Errorf("keyset %s", first)
	}
	if again := w.prover.current(); !bytes.Equal(first, again) {
		t.Error("a keyset that holds was made anew")
	}
	w.withdraw()
	next, err := attest.ParseKeyset(w.prover.current())
	if err != nil || next.Epoch <= k.Epoch || len(next.Models) != 0 || !bytes.Equal(next.Receipt, k.Receipt) {
		t.Errorf("after the models were withdrawn: %+v, %v", next, err)
	}
	other, _ := newWorker(t, w.config)
	if k, err := attest.ParseKeyset(other.prover.current()); err != nil || bytes.Equal(k.Receipt, next.Receipt) {
		t.Errorf("a restart kept the keys: %v", err)
	}
}

func TestDoctorUnwell(t *testing.T) {
	gw := startGateway(t)
	other := startGateway(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for name, c := range map[string]struct {
		spoil func(*Config, *enginetest.Engine)
		says  []string
	}{
		"config":           {func(c *Config, _ *enginetest.Engine) { c.Engine.Kind = "x" }, []string{"FAIL config: engine.kind"}},
		"no engine":        {func(c *Config, _ *enginetest.Engine) { c.Engine.URL = "http://127.0.0.1:1" }, []string{"FAIL engine: ", "Start the engine"}},
		"engine loads":     {func(_ *Config, e *enginetest.Engine) { e.Break(http.StatusServiceUnavailable) }, []string{"FAIL engine: ", "loading"}},
		"engine key":       {func(_ *Config, e *enginetest.Engine) { e.Key = "k" }, []string{"FAIL engine: ", "another key"}},
		"no key file":      {func(c *Config, _ *enginetest.Engine) { c.Engine.KeyFile = "/none" }, []string{"FAIL engine key: "}},
		"no models":        {func(_ *Config, e *enginetest.Engine) { e.Models = []string{} }, []string{"FAIL models: none"}},
		"other model":      {func(c *Config, _ *enginetest.Engine) { c.Models = []Model{{Name: "x"}} }, []string{"FAIL models: x is configured", "It has: ok"}},
		"no usage":         {func(_ *Config, e *enginetest.Engine) { e.Models = []string{"nousage"} }, []string{"FAIL probe of nousage: ", "count"}},
		"free":             {func(c *Config, _ *enginetest.Engine) { c.Price = Price{} }, []string{"WARN price: "}},
		"no window":        {func(_ *Config, e *enginetest.Engine) { e.Flavour = enginetest.Plain }, []string{"WARN models: ok is not offered", "FAIL models: none"}},
		"slots of ollama":  {func(c *Config, e *enginetest.Engine) { e.Flavour, c.Engine.Slots = enginetest.Ollama, 0 }, []string{"WARN engine slots", "OLLAMA_NUM_PARALLEL"}},
		"wrong pin":        {func(c *Config, _ *enginetest.Engine) { c.Gateways[0].Pin = other.id.String() }, []string{"FAIL gateway ", "it is " + gw.id.String()}},
		"no pin":           {func(c *Config, _ *enginetest.Engine) { c.Gateways[0].Pin = "" }, []string{"FAIL gateway ", "set pin"}},
		"gateway is away":  {func(c *Config, _ *enginetest.Engine) { c.Gateways[0].Address = "127.0.0.1:1" }, []string{"FAIL gateway 127.0.0.1:1: ", "Check the address"}},
		"no gateway there": {func(c *Config, _ *enginetest.Engine) { c.Gateways[0].Address = web.Listener.Addr().String() }, []string{"FAIL gateway ", "worker_listen"}},
		"open key file": {func(c *Config, _ *enginetest.Engine) {
			if _, err := ID(*c); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(identityPath(c.DataDir), 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"FAIL key file: ", "chmod 600", "not checked without the key"}},
		"bad key file": {func(c *Config, _ *enginetest.Engine) {
			c.DataDir = t.TempDir()
			if err := os.WriteFile(identityPath(c.DataDir), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"FAIL key file: ", "backup"}},
	} {
		t.Run(name, func(t *testing.T) {
			fake := enginetest.New()
			fake.Models = []string{"ok"}
			config := configFor(t, serveFake(t, fake))
			config.Price, config.Engine.Slots = Price{In: 1, Out: 1}, 1
			config.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
			c.spoil(&config, fake)
			ok, says := doctorSays(t, config)
			for _, want := range c.says {
				if !strings.Contains(says, want) {
					t.Errorf("no %q in\n%s", want, says)
				}
			}
			if ok == strings.Contains(says, Fail) {
				t.Errorf("verdict %t\n%s", ok, says)
			}
		})
	}
}

func TestDoctorNotAdmitted(t *testing.T) {
	gw := startGateway(t)
	gw.refused = errors.New("worker is pending\x1b[2J")
	fake := enginetest.New()
	fake.Models = []string{"ok"}
	c := configFor(t, serveFake(t, fake))
	c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
	ok, says := doctorSays(t, c)
	if ok || !strings.Contains(says, "not admitted: worker is pending[2J\n") {
		t.Errorf("verdict %t\n%s", ok, says)
	}
}
