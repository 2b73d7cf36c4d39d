package engine

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cocoon/internal/openai"
	"cocoon/worker/engine/enginetest"
)

// hostile is one behaviour of the fake engine and what must come of it. Zero values mean: as a sound answer.
type hostile struct {
	behaviour string
	flavour   enginetest.Flavour
	stream    bool
	status    int    // of the error
	code      string // of the error
	says      string // part of its message
	sent      bool   // events came before the error
	tokens    int64  // of completion
}

// Quick limits, for engines that hang.
const (
	idleForTest   = 1500 * time.Millisecond
	answerForTest = 1600 * time.Millisecond
)

func TestHostile(t *testing.T) {
	const bad, gone = http.StatusBadGateway, http.StatusGatewayTimeout
	const busy, fault = http.StatusServiceUnavailable, http.StatusBadRequest
	const long = "context_length_exceeded"
	v, l, o, s := enginetest.VLLM, enginetest.LlamaCpp, enginetest.Ollama, enginetest.SGLang
	for _, c := range []hostile{
		// Sound answers in odd clothes.
		{behaviour: "ok", flavour: v},
		{behaviour: "ok", flavour: v, stream: true},
		{behaviour: "ok", flavour: l},
		{behaviour: "ok", flavour: l, stream: true},
		{behaviour: "ok", flavour: o},
		{behaviour: "ok", flavour: o, stream: true},
		{behaviour: "slow", flavour: v, stream: true},
		{behaviour: "slow", flavour: o, stream: true},
		{behaviour: "slow", flavour: v},
		{behaviour: "crlf", flavour: v, stream: true},
		{behaviour: "crlf", flavour: o, stream: true},
		{behaviour: "comments", flavour: v, stream: true},
		{behaviour: "comments", flavour: o, stream: true},
		{behaviour: "split", flavour: v, stream: true},
		{behaviour: "split", flavour: o, stream: true},
		{behaviour: "split", flavour: v},
		{behaviour: "bigline", flavour: v, stream: true, tokens: 1},
		{behaviour: "bigline", flavour: o, stream: true, tokens: 1},
		{behaviour: "bigline", flavour: v, tokens: 1},
		{behaviour: "usagetext", flavour: v, stream: true},
		{behaviour: "usagetext", flavour: o, stream: true},
		{behaviour: "usagetext", flavour: v},
		{behaviour: "usagetext", flavour: o},
		{behaviour: "usagelate", flavour: v, stream: true},

		// Answers that are not whole.
		{behaviour: "nodone", flavour: v, stream: true, status: bad, says: "ended early", sent: true, tokens: 5},
		{behaviour: "nodone", flavour: o, stream: true, status: bad, says: "ended its answer early", sent: true, tokens: 5},
		{behaviour: "nodone", flavour: o, status: bad, says: "ended its answer early", tokens: 5},
		{behaviour: "nofinish", flavour: v, stream: true, status: bad, says: "0 of 1 choices", sent: true, tokens: 5},
		{behaviour: "nofinish", flavour: v, status: bad, says: "0 of 1 choices", tokens: 5},
		{behaviour: "nofinish", flavour: o, stream: true, status: bad, says: "ended its answer early", sent: true, tokens: 5},
		{behaviour: "noreason", flavour: o, stream: true, status: bad, says: "no reason", sent: true, tokens: 5},
		{behaviour: "load", flavour: o, stream: true, status: bad, says: "loaded", sent: true, tokens: 5},
		{behaviour: "cut", flavour: v, stream: true, status: bad, says: "broke off", sent: true, tokens: 1},
		{behaviour: "cut", flavour: o, stream: true, status: bad, says: "broke off", sent: true, tokens: 1},
		{behaviour: "cut", flavour: v, status: bad, says: "broke off"},

		// Usage that can't be.
		{behaviour: "nousage", flavour: v, stream: true, status: bad, says: "did not count", sent: true},
		{behaviour: "nousage", flavour: v, status: bad, says: "did not count"},
		{behaviour: "nousage", flavour: o, stream: true, status: bad, says: "did not count", sent: true, tokens: 5},
		{behaviour: "usage0", flavour: v, stream: true, status: bad, says: "did not count its tokens", sent: true},
		{behaviour: "usage0", flavour: o, stream: true, status: bad, says: "did not count", sent: true, tokens: 5},
		{behaviour: "badusage", flavour: v, stream: true, status: bad, says: "not JSON", sent: true},
		{behaviour: "badusage", flavour: o, stream: true, status: bad, says: "less than no", sent: true, tokens: 5},
		{behaviour: "badusage", flavour: v, status: bad},

		// Errors with status 200, of which the engine's words stay here.
		{behaviour: "error0", flavour: v, stream: true, status: bad, says: "failed with status 500"},
		{behaviour: "error0", flavour: o, stream: true, status: bad, says: "reported an error"},
		{behaviour: "error0", flavour: v, status: bad},
		{behaviour: "error1", flavour: v, stream: true, status: bad, sent: true, tokens: 1},
		{behaviour: "error1", flavour: o, stream: true, status: bad, sent: true, tokens: 1},
		{behaviour: "errorn", flavour: v, stream: true, status: bad, sent: true, tokens: 5},
		{behaviour: "errorn", flavour: o, stream: true, status: bad, sent: true, tokens: 5},
		{behaviour: "json", flavour: v, stream: true, status: bad, says: "reported an error"},
		{behaviour: "json", flavour: v, status: bad, says: "reported an error"},
		{behaviour: "json", flavour: o, stream: true, status: bad, says: "reported an error"},

		// Noise.
		{behaviour: "badjson", flavour: v, stream: true, status: bad, says: "not JSON", sent: true, tokens: 1},
		{behaviour: "badjson", flavour: o, stream: true, status: bad, says: "not JSON", sent: true, tokens: 1},
		{behaviour: "badjson", flavour: v, status: bad, says: "not JSON"},
		{behaviour: "array", flavour: v, stream: true, status: bad, says: "not JSON", sent: true, tokens: 1},
		{behaviour: "array", flavour: o, stream: true, status: bad, says: "not JSON", sent: true, tokens: 1},
		{behaviour: "html", flavour: v, stream: true, status: bad, says: "did not stream"},
		{behaviour: "html", flavour: v, status: bad, says: "not JSON"},
		{behaviour: "html", flavour: o, stream: true, status: bad, says: "not JSON"},
		{behaviour: "hugeline", flavour: v, stream: true, status: bad, says: "too long", sent: true},
		{behaviour: "hugeline", flavour: o, stream: true, status: bad, says: "too long"},
		{behaviour: "gigabyte", flavour: v, stream: true, status: bad, says: "too long"},
		{behaviour: "gigabyte", flavour: v, status: bad, says: "too long"},
		{behaviour: "gigabyte", flavour: o, stream: true, status: bad, says: "too long"},

		// Silence.
		{behaviour: "hang", flavour: v, stream: true, status: gone, code: "engine_timeout"},
		{behaviour: "hang", flavour: v, status: gone, code: "engine_timeout"},
		{behaviour: "hang", flavour: o, stream: true, status: gone, code: "engine_timeout"},
		{behaviour: "hangmid", flavour: v, stream: true, status: gone, code: "engine_timeout", sent: true, tokens: 1},
		{behaviour: "hangmid", flavour: o, stream: true, status: gone, code: "engine_timeout", sent: true, tokens: 1},
		{behaviour: "hangmid", flavour: v, status: gone, code: "engine_timeout"},

		// Statuses.
		{behaviour: "context", flavour: v, stream: true, status: fault, code: long},
		{behaviour: "context", flavour: s, status: fault, code: long},
		{behaviour: "context", flavour: l, status: fault, code: long},
		{behaviour: "context", flavour: o, status: fault, code: long},
		{behaviour: "badrequest", flavour: v, stream: true, status: fault, says: "top_p must be small"},
		{behaviour: "badschema", flavour: v, status: fault, says: "bad schema"},
		{behaviour: "badschema", flavour: o, status: fault, says: "can't use this JSON schema"},
		{behaviour: "detail", flavour: v, status: http.StatusUnprocessableEntity, says: "body.n: not an int"},
		{behaviour: "missing", flavour: v, status: bad},
		{behaviour: "missing", flavour: o, status: bad},
		{behaviour: "redirect", flavour: v, status: bad, says: "status 307"},
		{behaviour: "redirect", flavour: o, status: bad},
		{behaviour: "status-401", flavour: v, stream: true, status: bad, says: "worker's own access"},
		{behaviour: "status-403", flavour: o, status: bad, says: "worker's own access"},
		{behaviour: "status-429", flavour: v, status: busy, code: "server_is_overloaded"},
		{behaviour: "status-503", flavour: v, stream: true, status: busy, code: "server_is_overloaded"},
		{behaviour: "status-503", flavour: o, stream: true, status: busy, code: "server_is_overloaded"},
		{behaviour: "status-500", flavour: v, status: bad},
		{behaviour: "status-500", flavour: o, status: bad},
		{behaviour: "status-502", flavour: v, status: bad},
		{behaviour: "status-504", flavour: v, status: gone},
	} {
		c.run(t)
	}
}

func (c hostile) run(t *testing.T) {
	name := string(c.flavour) + "/" + c.behaviour
	if c.stream {
		name += "/stream"
	}
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		fake := enginetest.New()
		fake.Flavour = c.flavour
		model := c.behaviour
		if c.flavour == enginetest.Ollama {
			fake.Models = []string{c.behaviour}
			model += ":latest"
		}
		limits := Config{}
		if strings.HasPrefix(c.behaviour, "hang") {
			limits = Config{IdleTimeout: idleForTest, AnswerTimeout: answerForTest}
		}
		e := start(t, fake, limits)
		var out sink
		u, err := e.Chat(t.Context(), request(t, model, c.stream, ""), &out)
		waitIdle(t, fake)
		if c.status == 0 {
			c.sound(t, fake, &out, u, err)
		} else {
			c.broken(t, &out, u, err)
		}
	})
}

// sound checks an answer that must have arrived.
func (c hostile) sound(t *testing.T, fake *enginetest.Engine, out *sink, u openai.Usage, err error) {
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out.text(t), fake.Text(c.behaviour); got != want {
		t.Errorf("text is %.100q, want %.100q", got, want)
	}
	if c.stream != (len(out.events) > 0) || c.stream == (out.answer != "") {
		t.Errorf("%d events, %d bytes of answer", len(out.events), len(out.answer))
	}
	want := openai.Usage{Prompt: enginetest.PromptTokens, Completion: 5}
	if c.tokens > 0 {
		want.Completion = c.tokens
	}
	if c.flavour == enginetest.LlamaCpp {
		want.Cached = 3
	}
	if u != want {
		t.Errorf("usage is %+v, want %+v", u, want)
	}
}

// broken checks an error and what came before it.
func (c hostile) broken(t *testing.T, out *sink, u openai.Usage, err error) {
	e := fault(err)
	if e == nil {
		t.Fatalf("Chat() = %v, want an OpenAI error", err)
	}
	if e.Status != c.status || c.code != "" && e.Code != c.code || !strings.Contains(e.Message, c.says) {
		t.Errorf("Chat() = %d %q %q, want %d %q %q", e.Status, e.Code, e.Message, c.status, c.code, c.says)
	}
	if c.sent != (len(out.events) > 0) || out.answer != "" {
		t.Errorf("%d events and answer %.50q before the error", len(out.events), out.answer)
	}
	if u.Completion != c.tokens {
		t.Errorf("%d tokens counted, want %d", u.Completion, c.tokens)
	}
	if c.status == http.StatusServiceUnavailable && e.RetryAfter != 7*time.Second {
		t.Errorf("Retry-After is %v", e.RetryAfter)
	}
	for _, secret := range []string{"secret", "127.0.0.1", "elsewhere", "<html>"} {
		if strings.Contains(e.Message, secret) {
			t.Errorf("message tells %q: %s", secret, e.Message)
		}
	}
}

// cancelBudget is how soon an engine must learn that nobody listens any more: it burns a GPU until then. No time limit may
// have to pass for it. A busy machine may need a few tries to show it.
const (
	cancelBudget = time.Second
	cancelTries  = 10
)

func TestCancelClosesAtOnce(t *testing.T) {
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		for _, c := range []struct {
			behaviour string
			stream    bool
		}{{"endless", true}, {"endless", false}, {"hang", true}, {"hangmid", true}} {
			t.Run(string(flavour)+"/"+c.behaviour, func(t *testing.T) {
				fake := enginetest.New()
				fake.Flavour = flavour
				fake.Delay = time.Millisecond
				model := c.behaviour
				if flavour == enginetest.Ollama {
					model += ":latest"
				}
				e := start(t, fake, Config{})
				best := time.Hour
				for range cancelTries {
					best = min(best, cancelOnce(t, fake, e, request(t, model, c.stream, "")))
					if best <= cancelBudget {
						return
					}
				}
				t.Errorf("engine learnt of the cancel after %v at best", best)
			})
		}
	}
}

// cancelOnce starts a request, cancels it while it runs, and returns how long the engine took to learn of it.
func cancelOnce(t *testing.T, fake *enginetest.Engine, e Engine, req *Request) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := e.Chat(ctx, req, &sink{})
		done <- err
	}()
	for fake.Running() == 0 {
		time.Sleep(time.Millisecond)
	}
	at := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Chat() = %v, want the context's error", err)
	}
	select {
	case got := <-fake.Cancels():
		waitIdle(t, fake)
		return got.At.Sub(at)
	case <-time.After(time.Minute):
		t.Fatal("engine never learnt of the cancel")
		return 0
	}
}

func TestOutputEndsRequest(t *testing.T) {
	full := errors.New("client is gone")
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		fake := enginetest.New()
		fake.Flavour = flavour
		model := "endless"
		if flavour == enginetest.Ollama {
			model += ":latest"
		}
		e := start(t, fake, Config{})
		out := sink{full: full}
		if _, err := e.Chat(t.Context(), request(t, model, true, ""), &out); !errors.Is(err, full) {
			t.Errorf("%s: Chat() = %v, want the output's error", flavour, err)
		}
		waitIdle(t, fake)
	}
}

func TestEngineDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	if _, err := Open(t.Context(), Config{URL: url}); !errors.Is(err, ErrDown) {
		t.Errorf("Open() = %v, want ErrDown", err)
	}
	for _, kind := range []string{KindOllama, KindOpenAI} {
		e, err := Open(t.Context(), Config{URL: url, Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Status(t.Context()); !errors.Is(err, ErrDown) || strings.Contains(err.Error(), url) {
			t.Errorf("%s: Status() = %v, want ErrDown without the address", kind, err)
		}
		if kind == KindOllama {
			continue // knows no model yet
		}
		_, err = e.Chat(t.Context(), request(t, "ok", true, ""), &sink{})
		if e := fault(err); e == nil || e.Status != http.StatusServiceUnavailable || e.RetryAfter <= 0 {
			t.Errorf("%s: Chat() = %v, want 503 with Retry-After", kind, err)
		}
	}
}

// TestHeaders checks that an engine gets our own headers and no others.
func TestHeaders(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	for _, flavour := range []enginetest.Flavour{enginetest.VLLM, enginetest.Ollama} {
		fake := enginetest.New()
		fake.Flavour = flavour
		fake.Key = "engine-key"
		model := "ok"
		if flavour == enginetest.Ollama {
			model += ":latest"
			fake.Key = "" // Ollama has none, and its client sends none
		}
		e := start(t, fake, Config{Key: fake.Key})
		if _, err := e.Chat(t.Context(), request(t, model, true, ""), &sink{}); err != nil {
			t.Fatal(err)
		}
		known := map[string]bool{
			"User-Agent": true, "Content-Type": true, "Content-Length": true, "Authorization": fake.Key != "",
		}
		for name := range fake.Requests()[0].Header {
			if !known[name] {
				t.Errorf("%s: header %s went to the engine", flavour, name)
			}
		}
	}
}

func TestWrongKey(t *testing.T) {
	fake := enginetest.New()
	fake.Key = "right"
	srv := httptest.NewServer(fake)
	t.Cleanup(srv.Close)
	_, err := Open(t.Context(), Config{URL: srv.URL, Key: "wrong"})
	if err == nil || !strings.Contains(err.Error(), "another key") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("Open() = %v, want words about the key without the key", err)
	}
	e, err := Open(t.Context(), Config{URL: srv.URL, Key: "wrong", Kind: KindOpenAI})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	_, err = e.Chat(t.Context(), request(t, "ok", false, ""), &sink{})
	if f := fault(err); f == nil || f.Status != http.StatusBadGateway {
		t.Errorf("Chat() = %v, want 502: it is not the client's key that failed", err)
	}
}

func TestLoadingEngine(t *testing.T) {
	fake := enginetest.New()
	e := start(t, fake, Config{})
	fake.Break(http.StatusServiceUnavailable)
	if _, err := e.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "loading") {
		t.Errorf("Status() = %v, want: it is loading", err)
	}
	fake.Break(0)
	if _, err := e.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNoEngineAtAll(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"hello":"world"}`)
	}))
	t.Cleanup(srv.Close)
	if _, err := Open(t.Context(), Config{URL: srv.URL}); err == nil || !strings.Contains(err.Error(), "neither") {
		t.Errorf("Open() = %v, want: neither Ollama nor OpenAI-compatible", err)
	}
}
