package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"cocoon/internal/openai"
	"cocoon/worker/engine"
	"cocoon/worker/engine/enginetest"
)

// rig is a worker's handler over HTTP, beside a fake engine.
type rig struct {
	fake   *enginetest.Engine
	worker *Worker
	reg    *prometheus.Registry
	url    string
	log    *bytes.Buffer
}

func newRig(t *testing.T, flavour enginetest.Flavour, change func(*Config)) *rig {
	t.Helper()
	r := &rig{fake: enginetest.New(), log: new(bytes.Buffer)}
	r.fake.Flavour = flavour
	c := configFor(t, serveFake(t, r.fake))
	c.Engine.Slots = 8
	if flavour == enginetest.Plain {
		for _, m := range enginetest.Behaviours() {
			c.Models = append(c.Models, Model{Name: m, ContextTokens: 100})
		}
	}
	if change != nil {
		change(&c)
	}
	r.worker, r.reg = newWorker(t, c)
	srv := httptest.NewServer(r.worker.handler())
	t.Cleanup(srv.Close)
	r.url = srv.URL
	return r
}

func chatBody(model string, stream bool) string {
	return fmt.Sprintf(`{"model":%q,"stream":%t,"messages":[{"role":"user","content":"hi"}]}`, model, stream)
}

// post sends a request as a gateway does.
func (r *rig) post(ctx context.Context, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+chatPath, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Cocoon-Request", "abc-1")
	return http.DefaultClient.Do(req)
}

// ask is post, read to the end.
func (r *rig) ask(t *testing.T, body string) (*http.Response, string) {
	t.Helper()
	resp, err := r.post(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return resp, string(text)
}

func (r *rig) outcome(name string) float64 {
	return testutil.ToFloat64(r.worker.metrics.requests.WithLabelValues(name))
}

func TestServeStream(t *testing.T) {
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		r := newRig(t, flavour, nil)
		resp, text := r.ask(t, chatBody("ok", true))
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream; charset=utf-8" ||
			resp.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %s %v", flavour, resp.Status, resp.Header)
		}
		events := strings.Split(strings.TrimSuffix(text, "\n\n"), "\n\n")
		if events[len(events)-1] != "data: [DONE]" {
			t.Fatalf("%s: stream ends with %q", flavour, events[len(events)-1])
		}
		var content strings.Builder
		for i, e := range events[:len(events)-1] {
			data, ok := strings.CutPrefix(e, "data: ")
			chunk, err := openai.ReadChunk([]byte(data))
			if !ok || err != nil {
				t.Fatalf("%s: event %q: %v", flavour, e, err)
			}
			if last := i == len(events)-2; last != (chunk.HasUsage && chunk.NoChoices) {
				t.Errorf("%s: event %d of %d: %s", flavour, i, len(events), e)
			}
			content.WriteString(contentOf(t, data))
		}
		if content.String() != r.fake.Text("ok") {
			t.Errorf("%s: text is %q", flavour, content.String())
		}
		if n := r.outcome(outcomeOK); n != 1 {
			t.Errorf("%s: %v good requests counted", flavour, n)
		}
		if n := testutil.ToFloat64(r.worker.metrics.tokens.WithLabelValues("out")); n != 5 {
			t.Errorf("%s: %v tokens counted", flavour, n)
		}
	}
}

func contentOf(t *testing.T, data string) string {
	t.Helper()
	var c struct {
		ID      string
		Choices []struct{ Delta struct{ Content string } }
	}
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		t.Fatal(err)
	}
	if len(c.Choices) == 0 {
		return ""
	}
	return c.Choices[0].Delta.Content
}

func TestServeWhole(t *testing.T) {
	r := newRig(t, enginetest.Ollama, nil)
	resp, text := r.ask(t, chatBody("ok", false))
	a, err := openai.ReadAnswer([]byte(text))
	if err != nil || resp.StatusCode != http.StatusOK || a.Usage.Completion != 5 || a.Finishes != 1 {
		t.Errorf("%s %v %+v: %s", resp.Status, err, a, text)
	}
	if resp.Header.Get("Content-Type") != "application/json" || resp.ContentLength != int64(len(text)) {
		t.Errorf("headers are %v", resp.Header)
	}
	if !strings.Contains(text, `"id":"chatcmpl-abc-1"`) || !strings.Contains(text, `"model":"ok"`) {
		t.Errorf("id or model is not the client's: %s", text)
	}
}

// TestServeErrors checks status, form and outcome of what goes wrong.
func TestServeErrors(t *testing.T) {
	r := newRig(t, enginetest.VLLM, func(c *Config) {
		c.Models = append(c.Models, Model{Name: "status-503"}, Model{Name: "context"}, Model{Name: "status-500"})
		for i := range c.Models {
			c.Models[i].ContextTokens = 100
		}
	})
	// The engine's list lacks the statuses by default.
	r.fake.Models = []string{"status-503", "status-500", "context"}
	r.worker.refresh(t.Context())
	for _, c := range []struct {
		body    string
		status  int
		code    string
		outcome string
		retry   string
	}{
		{`{`, 400, "", outcomeRefused, ""},
		{`[]`, 400, "", outcomeRefused, ""},
		{`{"messages":[]}`, 400, "", outcomeRefused, ""},
		{`{"model":"context","model":"x"}`, 400, "", outcomeRefused, ""},
		{chatBody("nobody-has-it", true), 503, "model_not_available", outcomeEngine, "1"},
		{chatBody("context", true), 400, "context_length_exceeded", outcomeRefused, ""},
		{chatBody("status-503", true), 503, "server_is_overloaded", outcomeEngine, "7"},
		{chatBody("status-500", false), 502, "engine_error", outcomeEngine, ""},
	} {
		before := r.outcome(c.outcome)
		resp, text := r.ask(t, c.body)
		var e struct {
			Error struct {
				Message, Type string
				Code, Param   *string
			}
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil || e.Error.Message == "" || e.Error.Type == "" {
			t.Errorf("%s: %v: %s", c.body, err, text)
		}
		code := ""
		if e.Error.Code != nil {
			code = *e.Error.Code
		}
		if resp.StatusCode != c.status || code != c.code && c.code != "" || resp.Header.Get("Retry-After") != c.retry {
			t.Errorf("%s: %s %q, Retry-After %q: %s", c.body, resp.Status, code, resp.Header.Get("Retry-After"), text)
		}
		if r.outcome(c.outcome) != before+1 {
			t.Errorf("%s: not counted as %s", c.body, c.outcome)
		}
	}
}

func TestServeBrokenStream(t *testing.T) {
	r := newRig(t, enginetest.VLLM, nil)
	for _, behaviour := range []string{"error1", "errorn", "nodone", "cut", "badjson", "nousage", "nofinish"} {
		resp, text := r.ask(t, chatBody(behaviour, true))
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", behaviour, resp.Status)
		}
		events := strings.Split(strings.TrimSuffix(text, "\n\n"), "\n\n")
		n := len(events)
		if n < 3 || events[n-1] != "data: [DONE]" || !strings.HasPrefix(events[n-2], `data: {"error":{"message":"The engine`) {
			t.Errorf("%s: stream ends with %q", behaviour, events[max(0, n-2):])
		}
		if strings.Contains(text, "secret") {
			t.Errorf("%s: the engine's words got through", behaviour)
		}
	}
	if n := r.outcome(outcomeBroken); n != 7 {
		t.Errorf("%v broken streams counted", n)
	}
}

func TestServeOtherRoutes(t *testing.T) {
	r := newRig(t, enginetest.VLLM, nil)
	for _, path := range []string{"/", "/v1/models", "/metrics", chatPath} {
		resp, err := http.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: %s", path, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestServeBodyLimit(t *testing.T) {
	r := newRig(t, enginetest.VLLM, nil)
	fits := `{"model":"unknown","messages":[],"x":"` + strings.Repeat("a", bodyMax-100) + `"}`
	if resp, text := r.ask(t, fits); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a body within the limit: %s %.100s", resp.Status, text)
	}
	for _, chunked := range []bool{false, true} {
		var body io.Reader = strings.NewReader(strings.Repeat(" ", bodyMax+1))
		if chunked {
			body = io.MultiReader(body) // of a length that nobody knows
		}
		resp, err := http.Post(r.url+chatPath, "application/json", body)
		if err != nil {
			continue // the server may close before all is sent
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge || !bytes.Contains(text, []byte("request_too_large")) {
			t.Errorf("chunked %t: %s %.100s", chunked, resp.Status, text)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestServeFull checks that requests beyond the limits are sent away at once, and that those who wait get through.
func TestServeFull(t *testing.T) {
	r := newRig(t, enginetest.VLLM, func(c *Config) { c.Engine.Slots, c.Engine.Queue = 1, 1 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	running, err := r.post(ctx, chatBody("endless", true))
	if err != nil {
		t.Fatal(err)
	}
	defer running.Body.Close()
	waited := make(chan string, 1)
	go func() {
		_, text := r.ask(t, chatBody("ok", true))
		waited <- text
	}()
	eventually(t, "one waits", func() bool { n, q := r.worker.gate.load(); return n == 1 && q == 1 })
	resp, text := r.ask(t, chatBody("ok", true))
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" ||
		!strings.Contains(text, "server_is_overloaded") {
		t.Errorf("%s %v %s", resp.Status, resp.Header, text)
	}
	if r.outcome(outcomeFull) != 1 {
		t.Error("not counted as full")
	}
	if r.fake.Running() != 1 {
		t.Errorf("the engine has %d requests, want no more than its slots", r.fake.Running())
	}
	cancel()
	if text := <-waited; !strings.HasSuffix(text, doneEvent) {
		t.Errorf("who waited got %.100s", text)
	}
	eventually(t, "the first is counted", func() bool { return r.outcome(outcomeGone) == 1 })
	if n, q := r.worker.gate.load(); n != 0 || q != 0 {
		t.Errorf("load is %d, %d at the end", n, q)
	}
}

// TestServeCancel checks that the engine learns of it when a gateway hangs up, running or waiting.
func TestServeCancel(t *testing.T) {
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		r := newRig(t, flavour, func(c *Config) { c.Engine.Slots = 1 })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp, err := r.post(ctx, chatBody("endless", true))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		waiting, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		waits := make(chan error, 1)
		go func() {
			_, err := r.post(waiting, chatBody("ok", true))
			waits <- err
		}()
		eventually(t, "one waits", func() bool { _, q := r.worker.gate.load(); return q == 1 })
		giveUp()
		<-waits
		eventually(t, "none waits", func() bool { n, q := r.worker.gate.load(); return n == 1 && q == 0 })
		cancel()
		select {
		case <-r.fake.Cancels():
		case <-time.After(waitMax):
			t.Fatalf("%s: engine never learnt", flavour)
		}
		eventually(t, "both are gone", func() bool { n, q := r.worker.gate.load(); return n == 0 && q == 0 })
		eventually(t, "both are counted", func() bool { return r.outcome(outcomeGone) == 2 })
		if len(r.fake.Requests()) != 1 {
			t.Errorf("%s: the one that waited reached the engine", flavour)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}

// TestEngineComesAndGoes checks the way of an engine that dies and returns.
func TestEngineComesAndGoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	w, _ := newWorker(t, configFor(t, "http://"+address))
	sheet := func() int { _, text := w.board.report(t.Context(), 0); return len(decode(t, text).Offers) }
	if sheet() != 0 || w.refresh(t.Context()) {
		t.Error("offers without an engine")
	}
	fake := enginetest.New()
	srv := startAt(t, address, fake)
	if !w.refresh(t.Context()) || sheet() != len(enginetest.Behaviours()) {
		t.Errorf("%d offers with an engine", sheet())
	}
	fake.Break(http.StatusInternalServerError)
	if w.refresh(t.Context()) || sheet() == 0 {
		t.Error("models withdrawn after one bad look")
	}
	if w.refresh(t.Context()) || sheet() != 0 {
		t.Error("models still offered after two bad looks")
	}
	fake.Break(0)
	if !w.refresh(t.Context()) || sheet() == 0 {
		t.Error("models not offered again")
	}
	srv.Close()
	if w.refresh(t.Context()) || sheet() != 0 {
		t.Error("models offered although nobody listens")
	}
	// Another engine takes its place.
	fake = enginetest.New()
	fake.Flavour, fake.Models = enginetest.Ollama, []string{"m"}
	srv = startAt(t, address, fake)
	defer srv.Close()
	if !w.refresh(t.Context()) || sheet() != 1 {
		t.Errorf("%d offers of the new engine", sheet())
	}
}

func startAt(t *testing.T, address string, h http.Handler) *httptest.Server {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

// TestForeignLoad checks that requests which others sent to the engine are told of.
func TestForeignLoad(t *testing.T) {
	w, _ := newWorker(t, configFor(t, "http://127.0.0.1:1"))
	look := func(running, queued int) [2]int {
		w.noteForeign(engine.Status{HasLoad: true, Running: running, Queued: queued})
		l := w.load()
		return [2]int{l.Running, l.Queued}
	}
	if got := look(3, 2); got != [2]int{0, 0} {
		t.Errorf("load is %v after one look", got)
	}
	if got := look(4, 1); got != [2]int{3, 1} {
		t.Errorf("load is %v, want what both looks saw", got)
	}
	if err := w.gate.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(1, 0)
	if got := look(1, 0); got != [2]int{1, 0} {
		t.Errorf("load is %v, want our own request once", got)
	}
	w.noteForeign(engine.Status{})
	if l := w.load(); l.Running != 1 || l.Queued != 0 {
		t.Errorf("load is %+v of an engine that tells nothing", l)
	}
}

// TestNothingSecretInLogs runs good and bad requests and looks for their text in the log.
func TestNothingSecretInLogs(t *testing.T) {
	var log bytes.Buffer
	fake := enginetest.New()
	fake.Key = "canary-key"
	c := configFor(t, serveFake(t, fake))
	c.Engine.KeyFile = writeFile(t, "canary-key\n")
	w, err := New(c, machine(t), slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	w.refresh(t.Context())
	defer w.opened.Close()
	srv := httptest.NewServer(w.handler())
	defer srv.Close()
	r := &rig{worker: w, url: srv.URL}
	for _, b := range []string{"ok", "error1", "badrequest", "detail", "json", "nodone"} {
		r.ask(t, strings.Replace(chatBody(b, true), "hi", "canary-prompt", 1))
	}
	for _, bad := range []string{"canary-prompt", "canary-key", "tok1", "secret"} {
		if strings.Contains(log.String(), bad) {
			t.Errorf("log holds %q", bad)
		}
	}
	if !strings.Contains(log.String(), "abc-1") {
		t.Error("log does not name the request")
	}
}

func TestRequestID(t *testing.T) {
	for in, want := range map[string]string{
		"abc-1_Z": "abc-1_Z", "": "", "a b": "", `a"b`: "", strings.Repeat("a", 65): "", "ä": "", strings.Repeat("a", 64): strings.Repeat("a", 64),
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header.Set("Cocoon-Request", in)
		if got := requestID(r); got != want {
			t.Errorf("id of %q is %q", in, got)
		}
	}
}

// waitMax is when a test gives up: nothing that works takes so long, also on a busy machine.
const waitMax = time.Minute

// eventually waits for a state that another goroutine brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitMax); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestServeSalt: the tenant's salt reaches the engine if it is one, and no log.
func TestServeSalt(t *testing.T) {
	const salt = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	r := newRig(t, enginetest.VLLM, nil)
	var lines lockedBuffer
	r.worker.log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for i, c := range []struct {
		headers []string
		client  string
		want    string // in the body, in the place of client
	}{
		{[]string{salt}, ``, `,"cache_salt":"` + salt + `"`},
		{nil, ``, ``},
		{nil, `,"cache_salt":"mine"`, `,"cache_salt":"mine"`},
		{[]string{salt[1:]}, `,"cache_salt":"mine"`, `,"cache_salt":"mine"`},
		{[]string{salt + `","x":"`}, ``, ``},
		{[]string{salt, salt}, ``, ``},
	} {
		body := `{"model":"ok","messages":[{"role":"user","content":"hi"}]`
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+chatPath, strings.NewReader(body+c.client+"}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Cocoon-Cache-Salt"] = c.headers
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%+v: %s, %v", c, resp.Status, err)
		}
		seen := r.fake.Requests()[i]
		if got := string(seen.Body); got != body+c.want+"}" {
			t.Errorf("%+v: engine got %s", c, got)
		}
		if seen.Header.Get("Cocoon-Cache-Salt") != "" {
			t.Errorf("%+v: the header went on to the engine", c)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "all is logged", func() bool { return strings.Count(lines.String(), "outcome=ok") == 6 })
	if strings.Contains(lines.String(), salt[1:20]) {
		t.Errorf("log says %s", lines.String())
	}
}
