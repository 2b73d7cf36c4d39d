package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"cocoon/internal/durable"
	"cocoon/internal/h1"
	"cocoon/worker/engine/enginetest"
)

// live is a worker that runs, with one gateway.
type live struct {
	*Worker
	gw   *testGateway
	stop func()
}

// runWorker runs one until the test ends.
func runWorker(t *testing.T, engine http.Handler, change func(*Config)) *live {
	t.Helper()
	gw := startGateway(t)
	srv := httptest.NewServer(engine)
	t.Cleanup(srv.Close)
	c := configFor(t, srv.URL)
	c.Gateways = []Gateway{{Address: gw.address, Pin: gw.id.String()}}
	if change != nil {
		change(&c)
	}
	return live{gw: gw}.start(t, c)
}

// start runs a worker of a configuration.
func (r live) start(t *testing.T, c Config) *live {
	t.Helper()
	w, err := New(c, machine(t), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	r.Worker = w
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	eventually(t, "models are offered", func() bool { _, s := r.gw.last(); return len(s.Offers) > 0 && !s.Draining })
	return &r
}

// begin sends a request and reads its first bytes.
func (r *live) begin(t *testing.T, model string) (conn *h1.Conn, resp *h1.Response) {
	t.Helper()
	peer, _ := r.gw.last()
	conn, err := peer.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Give(conn) })
	resp, err = conn.Do(&h1.Request{
		Method: http.MethodPost, Path: chatPath, Host: "worker", Body: []byte(chatBody(model, true)),
		Header: "Content-Type: application/json\r\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	return conn, resp
}

// heldBack is an engine whose streams pause after their first event until let is closed.
func heldBack(fake http.Handler, let <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != chatPath {
			fake.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		const event = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"ok","choices":[%s]%s}` + "\n\n"
		fmt.Fprintf(w, event, `{"index":0,"delta":{"role":"assistant","content":"a"},"finish_reason":null}`, "")
		_ = http.NewResponseController(w).Flush()
		<-let
		fmt.Fprintf(w, event, `{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}`, "")
		fmt.Fprintf(w, event, "", `,"usage":{"prompt_tokens":3,"completion_tokens":2}`)
		fmt.Fprint(w, doneEvent)
	})
}

// TestDrain: a stream runs to its end, one that waits too, new ones are refused, and the command says when it is over.
func TestDrain(t *testing.T) {
	let := make(chan struct{})
	r := runWorker(t, heldBack(enginetest.New(), let), func(c *Config) { c.Engine.Slots = 1 })
	peer, _ := r.gw.last()
	_, stream := r.begin(t, "ok")
	waited := make(chan string, 1)
	go func() {
		status, text := through(t, peer, chatBody("ok", true), "")
		waited <- fmt.Sprint(status, " ", strings.HasSuffix(text, doneEvent))
	}()
	eventually(t, "one waits", func() bool { _, n := r.gate.load(); return n == 1 })
	type left struct{ running, waiting int }
	said := make(chan left, 100)
	over := make(chan error, 1)
	go func() {
		over <- Drain(t.Context(), r.config.DataDir, func(running, waiting int) { said <- left{running, waiting} })
	}()
	eventually(t, "gateways hear of it", func() bool { _, s := r.gw.last(); return s.Draining && len(s.Offers) > 0 })
	if first := <-said; first != (left{1, 1}) {
		t.Errorf("it says first %+v", first)
	}
	// The gateway may send one that it chose before it heard.
	status, text := through(t, peer, chatBody("ok", true), "")
	if status != http.StatusServiceUnavailable || !strings.Contains(text, "server_is_overloaded") {
		t.Errorf("a new request: %d %s", status, text)
	}
	if status, text := r.health(); status != http.StatusServiceUnavailable || !strings.Contains(text, "it drains") {
		t.Errorf("health is %d %s", status, text)
	}
	select {
	case err := <-over:
		t.Fatalf("over while a request runs: %v", err)
	default:
	}
	close(let)
	all, err := io.ReadAll(stream)
	if err != nil || !strings.HasSuffix(string(all), doneEvent) {
		t.Errorf("the stream ends with %.100q, %v", all[max(0, len(all)-100):], err)
	}
	if got := <-waited; got != "200 true" {
		t.Errorf("the one that waited: %s", got)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	close(said)
	var last left
	for last = range said {
	}
	if last != (left{}) {
		t.Errorf("it says last %+v", last)
	}
	if err := EndDrain(r.config.DataDir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gateways hear of the end", func() bool { _, s := r.gw.last(); return !s.Draining })
	if status, _ := through(t, peer, chatBody("ok", true), ""); status != http.StatusOK {
		t.Errorf("after it was undone: %d", status)
	}
	eventually(t, "no file is left", func() bool {
		_, err := os.Stat(drainingPath(r.config.DataDir))
		return errors.Is(err, os.ErrNotExist)
	})
}

// TestDrainRestart: a client that leaves is not waited for, and the next start ends the drain.
func TestDrainRestart(t *testing.T) {
	fake := enginetest.New()
	r := runWorker(t, fake, nil)
	dir := r.config.DataDir
	conn, _ := r.begin(t, "endless")
	said, over := make(chan int, 100), make(chan error, 1)
	go func() { over <- Drain(t.Context(), dir, func(running, _ int) { said <- running }) }()
	if n := <-said; n != 1 {
		t.Errorf("%d run", n)
	}
	if running, err := Running(dir); err != nil || !running {
		t.Errorf("Running() = %t, %v", running, err)
	}
	_ = conn.Net().Close()
	if err := <-over; err != nil {
		t.Errorf("when the client has gone: %v", err)
	}
	r.stop()
	if _, err := os.Stat(drainPath(dir)); err != nil {
		t.Fatal("the test needs the mark")
	}
	again := live{gw: r.gw}.start(t, r.config)
	peer, _ := r.gw.last()
	if status, _ := through(t, peer, chatBody("ok", true), ""); status != http.StatusOK || again.draining.Load() {
		t.Errorf("after a restart: %d", status)
	}
}

// TestDrainUndone: who waits hears that it was undone or that the worker has stopped, and leaves when told to.
func TestDrainUndone(t *testing.T) {
	dir := t.TempDir()
	lock, err := durable.Lock(lockPath(dir)) // a worker runs
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		end  func(cancel func()) error
		want error
	}{
		{"undone", func(func()) error { return EndDrain(dir) }, ErrNotDraining},
		{"interrupted", func(cancel func()) error { cancel(); return nil }, context.Canceled},
		{"stopped", func(func()) error { return lock.Close() }, ErrNotRunning},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		said, over := make(chan int), make(chan error, 1)
		go func() { over <- Drain(ctx, dir, func(running, _ int) { said <- running }) }()
		var mark drainMark
		eventually(t, "it is marked", func() bool { mark, err = readMark(dir); return err == nil && mark.ID != "" })
		if err := writeSmall(drainingPath(dir), drainNews{V: drainVersion, ID: "another", Running: 9}); err != nil {
			t.Fatal(err)
		}
		if err := writeSmall(drainingPath(dir), drainNews{V: drainVersion, ID: mark.ID, Running: 2}); err != nil {
			t.Fatal(err)
		}
		if n := <-said; n != 2 {
			t.Errorf("%s: %d run", c.name, n)
		}
		if err := c.end(cancel); err != nil {
			t.Fatal(err)
		}
		if err := <-over; !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		cancel()
	}
}

func TestDrainOfNone(t *testing.T) {
	dir := t.TempDir()
	never := func(int, int) { t.Error("it says something") }
	for range 2 {
		if err := Drain(t.Context(), dir, never); !errors.Is(err, ErrNotRunning) {
			t.Errorf("got %v, want ErrNotRunning", err)
		}
		if err := EndDrain(dir); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(lockPath(dir), nil, 0o600); err != nil { // one that ran once
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(drainPath(dir)); err == nil {
		t.Error("a mark was left")
	}
}

// TestDrainFiles: what can't be read changes nothing.
func TestDrainFiles(t *testing.T) {
	w, _ := newWorker(t, configFor(t, "http://127.0.0.1:1"))
	dir := w.config.DataDir
	var d drainer
	for _, text := range []string{
		"", "{}", `{"v":2,"id":"x"}`, `{"v":1,"id":""}`, `{"v":1,"id":"x","y":1}`, "[]", strings.Repeat(" ", drainFileMax+1),
	} {
		if err := os.WriteFile(drainPath(dir), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.look(w); err == nil || w.draining.Load() {
			t.Errorf("%.40q: %v, drains: %t", text, err, w.draining.Load())
		}
	}
	if err := StartDrain(dir); err != nil { // in place of one that is none
		t.Fatal(err)
	}
	if err := d.look(w); err != nil || !w.draining.Load() {
		t.Errorf("after StartDrain: %v", err)
	}
	first, err := markDrain(dir)
	if again, err2 := markDrain(dir); err != nil || err2 != nil || first == "" || first != again {
		t.Errorf("a second mark in place of the first: %q %q, %v %v", first, again, err, err2)
	}
	if err := os.WriteFile(drainPath(dir), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.look(w); err == nil || !w.draining.Load() {
		t.Error("it takes requests again because of a torn file")
	}
	if err := clearDrain(dir); err != nil {
		t.Fatal(err)
	}
	if err := d.look(w); err != nil || w.draining.Load() {
		t.Errorf("after the file has gone: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "drain") }) {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}
