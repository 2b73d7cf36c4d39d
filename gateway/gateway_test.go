package gateway

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"cocoon/attest/simtee"
	"cocoon/gateway/accounts"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a gateway on loopback with workers that the test scripts.
type network struct {
	t      *testing.T
	server *Server
	key    string
	base   string
	logs   *lockedBuffer
	client *http.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func testConfig(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Listen, cfg.OpsListen, cfg.WorkerListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.DataDir, cfg.Enrolment = t.TempDir(), "auto"
	cfg.LogLevel = slog.LevelDebug
	cfg.Collateral.Offline = true
	cfg.Billing = BillingOff // most workers here are scripts that sign nothing
	cfg.Policy = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(cfg.Policy, simulated().PolicyYAML(time.Now()), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// simulated makes all hardware of these tests.
var simulated = sync.OnceValue(func() *simtee.Vendor {
	v, err := simtee.New(time.Now())
	if err != nil {
		panic(err)
	}
	return v
})

// machine is a simulated one.
func machine(t *testing.T, c simtee.Config) *simtee.Machine {
	t.Helper()
	m, err := simulated().NewMachine(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// newNetwork starts a gateway; change may alter its configuration.
func newNetwork(t *testing.T, change func(*Config)) *network {
	t.Helper()
	cfg := testConfig(t)
	if change != nil {
		change(&cfg)
	}
	n := &network{t: t, logs: &lockedBuffer{}, client: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	log := slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if n.server, err = New(cfg, log, prometheus.NewRegistry(), "test"); err != nil {
		t.Fatal(err)
	}
	if err := n.server.Listen(); err != nil {
		t.Fatal(err)
	}
	n.base = "http://" + n.server.Addr().String()
	n.key = n.newKey(accounts.Settings{})
	n.run(n.server.Run)
	t.Cleanup(n.client.CloseIdleConnections)
	return n
}

// newKey makes a key, which counts at once.
func (n *network) newKey(set accounts.Settings) string {
	n.t.Helper()
	set.Name = cmp.Or(set.Name, "test")
	key, _, err := n.server.money.book.CreateKey(context.Background(), accounts.DefaultAccount, set)
	if err != nil {
		n.t.Fatal(err)
	}
	return key.Reveal()
}

// run runs a loop until the test ends.
func (n *network) run(loop func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- loop(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				n.t.Errorf("a loop ended with %v", err)
			}
		case <-time.After(waitMax):
			n.t.Error("a loop did not end")
		}
	})
	n.t.Cleanup(stop)
	return stop
}

// worker connects a worker whose requests the handler answers.
func (n *network) worker(name string, capacity int, handler http.HandlerFunc, models ...string) (id tunnel.ID, stop func()) {
	n.t.Helper()
	return n.join(name, capacity, handler, models, nil)
}

// join is worker, with a sheet and a dialer that change may alter.
func (n *network) join(name string, capacity int, handler http.HandlerFunc, models []string,
	change func(*offer.Sheet, *tunnel.DialerConfig),
) (id tunnel.ID, stop func()) {
	n.t.Helper()
	identity, err := tunnel.LoadIdentity(filepath.Join(n.t.TempDir(), "identity.pem"))
	if err != nil {
		n.t.Fatal(err)
	}
	sheet := offer.Sheet{V: offer.Version, Version: 1, Name: name}
	for _, m := range models {
		sheet.Offers = append(sheet.Offers, offer.Offer{
			Model: m, Engine: "script", ContextTokens: 8 << 20, Features: []string{offer.FeatureChat},
			Price: offer.Price{In: 10, Out: 30}, Slots: capacity, Capacity: capacity,
		})
	}
	pin := n.server.ID()
	var report []byte
	c := tunnel.DialerConfig{
		Identity: identity, Address: n.server.WorkerAddr().String(), Pin: &pin, Handler: handler,
		Capacity: func() int { return capacity }, Log: slog.New(slog.DiscardHandler),
		Attest: answering(n.t, machine(n.t, simtee.Config{}), keysetOf(identity.ID(), models...)),
		Report: func(ctx context.Context, after uint64) (uint64, []byte) {
			if after >= 1 {
				<-ctx.Done()
				return after, nil
			}
			return 1, report
		},
	}
	if change != nil {
		change(&sheet, &c)
	}
	if report, err = json.Marshal(sheet); err != nil {
		n.t.Fatal(err)
	}
	stop = n.run(tunnel.NewDialer(c).Run)
	n.until("worker "+name+" is in the table", func() bool {
		return strings.Contains(n.logs.String(), `"worker offers" worker=`+identity.ID().String())
	})
	return identity.ID(), stop
}

// waitMax is when a test gives up: nothing that works takes so long, also on a busy machine.
const waitMax = time.Minute

// until waits for something to become true.
func (n *network) until(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(waitMax); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("waited in vain until %s; the gateway's log:\n%s", what, n.logs)
		}
	}
}

// ask posts a chat request.
func (n *network) ask(body string) *http.Response {
	n.t.Helper()
	return n.do(context.Background(), body)
}

func (n *network) do(ctx context.Context, body string) *http.Response {
	n.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.base+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+n.key)
	resp, err := n.client.Do(r)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

// text is the whole body of an answer.
func text(t *testing.T, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the answer: %v (so far %q)", err, b)
	}
	return string(b)
}

// refused checks for an error answer with all four keys and returns its code.
func refused(t *testing.T, resp *http.Response, status int) string {
	t.Helper()
	body := text(t, resp)
	if resp.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", resp.StatusCode, status, body)
	}
	if resp.Header.Get("X-Request-Id") == "" {
		t.Error("no x-request-id")
	}
	return errorCode(t, body)
}

func errorCode(t *testing.T, object string) string {
	t.Helper()
	var e struct {
		Error map[string]any `json:"error"`
	}
	if err := json.Unmarshal([]byte(object), &e); err != nil {
		t.Fatalf("error is not JSON: %v: %s", err, object)
	}
	for _, k := range []string{"message", "type", "param", "code"} {
		if _, ok := e.Error[k]; !ok || len(e.Error) != 4 {
			t.Fatalf("error has not the four keys: %s", object)
		}
	}
	code, _ := e.Error["code"].(string)
	return code
}

const (
	askStream = `{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}`
	askWhole  = `{"model":"m","messages":[{"role":"user","content":"hi"}]}`
	role      = `{"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`
	hello     = `{"id":"x","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}`
	stopped   = `{"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`
	usage     = `{"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}`
	whole     = `{"id":"x","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}`
)

// events writes a stream, flushing after each event.
func events(w http.ResponseWriter, list ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, e := range list {
		fmt.Fprintf(w, "data: %s\n\n", e)
		w.(http.Flusher).Flush()
	}
}

// good answers every request rightly.
func good(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if strings.Contains(string(b), `"stream":true`) {
		events(w, role, hello, stopped, usage, "[DONE]")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, whole)
}

func sseOf(list ...string) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "data: %s\n\n", e)
	}
	return b.String()
}

func TestStream(t *testing.T) {
	n := newNetwork(t, nil)
	id, _ := n.worker("w", 4, good, "m")
	resp := n.ask(askStream)
	if got, want := text(t, resp), sseOf(role, hello, stopped, "[DONE]"); got != want {
		t.Errorf("stream\n%s\nwant\n%s", got, want)
	}
	for k, want := range map[string]string{
		"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache", "X-Accel-Buffering": "no",
		"Cocoon-Mode": "simulated", "Cocoon-Worker": id.String(),
	} {
		if got := resp.Header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	asked := text(t, n.ask(`{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[]}`))
	if want := sseOf(role, hello, stopped, usage, "[DONE]"); asked != want {
		t.Errorf("stream with usage\n%s\nwant\n%s", asked, want)
	}
}

func TestAnswer(t *testing.T) {
	n := newNetwork(t, nil)
	n.worker("w", 4, good, "m")
	resp := n.ask(askWhole)
	if got := text(t, resp); got != whole {
		t.Errorf("answer %s, want %s", got, whole)
	}
	if got := resp.ContentLength; got != int64(len(whole)) {
		t.Errorf("Content-Length %d, want %d", got, len(whole))
	}
}

// TestBodyReachesWorker checks that a worker gets the client's bytes but for the splice that asks for usage.
func TestBodyReachesWorker(t *testing.T) {
	n := newNetwork(t, nil)
	got := make(chan string, 1)
	n.worker("w", 4, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		r.Body = io.NopCloser(strings.NewReader(string(b)))
		good(w, r)
	}, "m")
	const odd = `{ "z":1e20,"model":"m","big":12345678901234567890,"html":"<&>" ,"messages":[] }`
	text(t, n.ask(odd))
	if b := <-got; b != odd {
		t.Errorf("worker got %s, want %s", b, odd)
	}
	text(t, n.ask(`{"model":"m","stream":true,"x":"<"}`))
	if b, want := <-got, `"include_usage":true`; !strings.Contains(b, want) || !strings.Contains(b, `"x":"<"`) {
		t.Errorf("worker got %s, want it with %s", b, want)
	}
	for _, size := range []int{100, 10_000, 1_000_000, 31 << 20} {
		body := `{"model":"m","messages":[{"role":"user","content":"` + strings.Repeat("a", size) + `"}]}`
		text(t, n.ask(body))
		if b := <-got; b != body {
			t.Errorf("a body of %d bytes arrived as %d bytes", len(body), len(b))
		}
	}
}

// TestFirstEventIsNotHeldBack checks that content is flushed while the worker still works.
func TestFirstEventIsNotHeldBack(t *testing.T) {
	n := newNetwork(t, nil)
	goOn := make(chan struct{})
	n.worker("w", 4, func(w http.ResponseWriter, _ *http.Request) {
		events(w, role, hello)
		<-goOn
		events(w, stopped, usage, "[DONE]")
	}, "m")
	resp := n.ask(askStream)
	r := bufio.NewReader(resp.Body)
	for _, want := range []string{"data: " + role + "\n", "\n", "data: " + hello + "\n", "\n"} {
		if line, err := r.ReadString('\n'); err != nil || line != want {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
	close(goOn)
	rest, _ := io.ReadAll(r)
	resp.Body.Close()
	if want := sseOf(stopped, "[DONE]"); string(rest) != want {
		t.Errorf("rest %q, want %q", rest, want)
	}
}

// TestConnectionsAreReused checks that an answered request leaves its connection to the next one.
func TestConnectionsAreReused(t *testing.T) {
	n := newNetwork(t, nil)
	var mu sync.Mutex
	used := map[string]int{}
	n.worker("w", 8, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		used[r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()]++
		mu.Unlock()
		good(w, r)
	}, "m")
	for range 50 {
		text(t, n.ask(askStream))
		text(t, n.ask(askWhole))
	}
	if len(used) > 10 { // in the first moments the pool still grows, and the newest connection is taken first
		t.Errorf("100 requests one after the other used %d connections: %v", len(used), used)
	}
}
