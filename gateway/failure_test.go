package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/gateway/accounts"
)

// TestWorkerFaults is what a client hears when its only worker breaks, and that the next request is served.
func TestWorkerFaults(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	fail := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	stream := func(list ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { events(w, list...) }
	}
	raw := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	const errEvent = `{"error":{"message":"CUDA out of memory at 10.0.0.7","type":"x","param":null,"code":null}}`
	for name, tc := range map[string]struct {
		ask     string
		handler http.HandlerFunc
		status  int
		code    string
	}{
		"aborts":                  {askStream, abort, 502, "worker_failed"},
		"aborts, whole":           {askWhole, abort, 502, "worker_failed"},
		"500":                     {askStream, fail(500, "boom"), 502, "worker_failed"},
		"401 is not the client's": {askStream, fail(401, `{"error":{"message":"bad key"}}`), 502, "worker_failed"},
		"400 is the client's":     {askStream, fail(400, `{"error":{"message":"bad top_p","type":"invalid_request_error","param":"top_p","code":"x"}}`), 400, "x"},
		"404":                     {askStream, fail(404, ``), 502, "worker_failed"},
		"503":                     {askStream, fail(503, ``), 503, "server_is_overloaded"},
		"504":                     {askStream, fail(504, ``), 504, "worker_timeout"},
		"JSON for a stream":       {askStream, raw("application/json", whole), 502, "worker_failed"},
		"stream for a whole":      {askWhole, stream(role, hello, stopped, usage, "[DONE]"), 502, "worker_failed"},
		"error at event 0":        {askStream, stream(errEvent, "[DONE]"), 502, "worker_failed"},
		"error after the role":    {askStream, stream(role, errEvent, "[DONE]"), 502, "worker_failed"},
		"nothing but [DONE]":      {askStream, stream("[DONE]"), 502, "worker_failed"},
		"ends after the role":     {askStream, stream(role), 502, "worker_failed"},
		"event is no JSON":        {askStream, stream("{"), 502, "worker_failed"},
		"whole is no JSON":        {askWhole, raw("application/json", whole[:40]), 502, "worker_failed"},
		"whole is an error":       {askWhole, raw("application/json", errEvent), 502, "worker_failed"},
		"whole has no finish":     {askWhole, raw("application/json", strings.Replace(whole, `"stop"`, "null", 1)), 502, "worker_failed"},
		"n answers, fewer ends":   {`{"model":"m","n":2}`, raw("application/json", whole), 502, "worker_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, nil)
			var broken atomic.Bool
			broken.Store(true)
			n.worker("w", 4, func(w http.ResponseWriter, r *http.Request) {
				if broken.Load() {
					tc.handler(w, r)
					return
				}
				good(w, r)
			}, "m")
			resp := n.ask(tc.ask)
			if code := refused(t, resp, tc.status); code != tc.code {
				t.Errorf("code %q, want %q", code, tc.code)
			}
			broken.Store(false)
			if got := text(t, n.ask(askWhole)); got != whole {
				t.Errorf("the next request got %s", got)
			}
			if strings.Contains(n.logs.String(), "10.0.0.7") {
				t.Error("an engine's words reached the log")
			}
		})
	}
}

// TestBrokenStream checks that a stream that breaks after its first content ends with an error, never silently.
func TestBrokenStream(t *testing.T) {
	const errEvent = `{"error":{"message":"no memory","type":"x","param":null,"code":null}}`
	for name, handler := range map[string]http.HandlerFunc{
		"aborts":            func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello); panic(http.ErrAbortHandler) },
		"ends":              func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello) },
		"done, no finish":   func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello, "[DONE]") },
		"finish, no done":   func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello, stopped) },
		"error event":       func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello, errEvent, "[DONE]") },
		"event is not JSON": func(w http.ResponseWriter, _ *http.Request) { events(w, role, hello, "nonsense", stopped, "[DONE]") },
		"event is too long": func(w http.ResponseWriter, _ *http.Request) {
			events(w, role, hello)
			events(w, `{"choices":[{"delta":{"content":"`+strings.Repeat("x", 9<<20)+`"}}]}`, stopped, "[DONE]")
		},
		"silence": func(w http.ResponseWriter, r *http.Request) { events(w, role, hello); <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, func(c *Config) {
				if name == "silence" {
					c.Limits.IdleTimeout = 300 * time.Millisecond
				}
			})
			var calls atomic.Int64
			n.worker("w", 4, func(w http.ResponseWriter, r *http.Request) { calls.Add(1); handler(w, r) }, "m")
			got := text(t, n.ask(askStream))
			rest, ok := strings.CutPrefix(got, sseOf(role, hello))
			if !ok {
				t.Fatalf("stream does not begin with what was delivered: %.300q", got)
			}
			rest = strings.TrimPrefix(rest, sseOf(stopped))
			object, ok := strings.CutPrefix(rest, `data: {"error":{`)
			if !ok || !strings.HasSuffix(object, "\n\ndata: [DONE]\n\n") {
				t.Fatalf("stream ends with %q, want an error event and [DONE]", rest)
			}
			errorCode(t, `{"error":{`+strings.TrimSuffix(object, "\n\ndata: [DONE]\n\n"))
			if calls.Load() != 1 {
				t.Errorf("%d attempts after content was delivered, want 1", calls.Load())
			}
		})
	}
}

// TestFailover checks that a request moves to another worker as long as the client saw no content, also from a worker
// that sent a role only, and that it moves away from the worker that failed.
func TestFailover(t *testing.T) {
	for name, bad := range map[string]http.HandlerFunc{
		"abort":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"role":   func(w http.ResponseWriter, _ *http.Request) { events(w, role); panic(http.ErrAbortHandler) },
		"busy":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, func(c *Config) {
				if name == "silent" {
					c.Limits.FirstByteTimeout = time.Second
				}
			})
			n.worker("bad", 4, bad, "m")
			wantID, _ := n.worker("good", 4, good, "m")
			for i := range 4 {
				resp := n.ask(askStream)
				if got, want := text(t, resp), sseOf(role, hello, stopped, "[DONE]"); got != want {
					t.Fatalf("request %d: %q, want %q", i, got, want)
				}
				if id := resp.Header.Get("Cocoon-Worker"); id != wantID.String() {
					t.Errorf("request %d names worker %s, want %s", i, id, wantID)
				}
			}
		})
	}
}

// TestSignsOfLife checks the comments that a waiting stream sends, in the one form that no SDK takes for an event, and
// that a request can still move to another worker after them.
func TestSignsOfLife(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.Limits.KeepAlive = 100 * time.Millisecond })
	var first atomic.Bool
	slow := func(w http.ResponseWriter, r *http.Request) {
		if first.CompareAndSwap(false, true) {
			time.Sleep(250 * time.Millisecond)
			panic(http.ErrAbortHandler)
		}
		events(w, role)
		time.Sleep(250 * time.Millisecond)
		events(w, hello)
		time.Sleep(250 * time.Millisecond)
		events(w, stopped, usage, "[DONE]")
	}
	n.worker("a", 4, slow, "m")
	n.worker("b", 4, slow, "m")
	got := text(t, n.ask(askStream))
	if c := strings.Count(got, ": keep-alive\n"); c < 4 {
		t.Errorf("%d comments, want at least 4: %q", c, got)
	}
	if strings.Contains(got, ": keep-alive\n\n") {
		t.Error("a comment is followed by a blank line")
	}
	if got := strings.ReplaceAll(got, ": keep-alive\n", ""); got != sseOf(role, hello, stopped, "[DONE]") {
		t.Errorf("events %q", got)
	}
}

// TestCancel checks that a client's leaving ends the worker's request at once, at every stage, and that nobody else
// is asked.
func TestCancel(t *testing.T) {
	for _, stage := range []string{"before the head", "after the role", "mid-stream"} {
		t.Run(stage, func(t *testing.T) {
			n := newNetwork(t, nil)
			ended, began := make(chan time.Time, 4), make(chan struct{}, 4)
			n.worker("w", 4, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				switch stage {
				case "after the role":
					events(w, role)
				case "mid-stream":
					events(w, role, hello)
				}
				began <- struct{}{}
				<-r.Context().Done()
				ended <- time.Now()
			}, "m")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				r, _ := http.NewRequestWithContext(ctx, http.MethodPost, n.base+"/v1/chat/completions", strings.NewReader(askStream))
				r.Header.Set("Authorization", "Bearer "+n.key)
				if resp, err := n.client.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			<-began
			left := time.Now()
			cancel()
			select {
			case at := <-ended:
				t.Logf("the worker knew %s after the client left", at.Sub(left))
			case <-time.After(waitMax / 2): // no time limit of the gateway's has passed
				t.Fatal("the worker was not told")
			}
			n.until("the lease is released", func() bool { _, leases := n.server.table.Workers(); return leases == 0 })
			if strings.Contains(n.logs.String(), "attempt failed") {
				t.Error("a client's leaving counted against the worker")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	n := newNetwork(t, nil)
	n.worker("w", 4, good, "m", "org/model:7b")
	for name, tc := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"unknown model": {`{"model":"nope"}`, 404, "model_not_found"},
		"no model":      {`{"messages":[]}`, 400, ""},
		"two models":    {`{"model":"m","model":"x"}`, 400, ""},
		"not JSON":      {`hello`, 400, ""},
		"empty":         {``, 400, ""},
		"deep":          {`{"model":"m","x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, 400, ""},
		"33 MiB":        {`{"model":"m","x":"` + strings.Repeat("a", 33<<20) + `"}`, 413, "request_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			if code := refused(t, n.ask(tc.body), tc.status); code != tc.code {
				t.Errorf("code %q, want %q", code, tc.code)
			}
		})
	}
	t.Run("the list of models is told", func(t *testing.T) {
		if got := text(t, n.ask(`{"model":"nope"}`)); !strings.Contains(got, "org/model:7b") {
			t.Errorf("%s does not name what is there", got)
		}
	})
	t.Run("chunked, 33 MiB", func(t *testing.T) {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, n.base+"/v1/chat/completions",
			io.MultiReader(strings.NewReader(`{"model":"m","x":"`+strings.Repeat("a", 33<<20)), strings.NewReader(`"}`)))
		r.Header.Set("Authorization", "Bearer "+n.key)
		resp, err := n.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, 413)
	})
	t.Run("wrong keys", func(t *testing.T) {
		for _, key := range []string{"", "Bearer ", "Bearer ck-wrong", "Basic abc", "Bearer " + n.key + "x"} {
			for _, path := range []string{"/v1/chat/completions", "/v1/models", "/v1/models/m"} {
				method := http.MethodGet
				if strings.HasSuffix(path, "completions") {
					method = http.MethodPost
				}
				r, _ := http.NewRequestWithContext(t.Context(), method, n.base+path, nil)
				r.Header.Set("Authorization", key)
				resp, err := n.client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if code := refused(t, resp, 401); code != "invalid_api_key" {
					t.Errorf("code %q", code)
				}
			}
		}
	})
	t.Run("wrong places", func(t *testing.T) {
		for path, status := range map[string]int{"/": 404, "/v1/nothing": 404, "/v1/chat/completions": 405} {
			resp, err := n.client.Get(n.base + path)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, resp, status)
		}
	})
}

// TestSlowBody checks that a client that sends no body holds nothing for long, with a key or without.
func TestSlowBody(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.Limits.BodyTimeout = 300 * time.Millisecond })
	for path, want := range map[string]int{"/v1/chat/completions " + n.key: 408, "/v1/chat/completions none": 401, "/v1/none none": 404} {
		conn, err := net.Dial("tcp", n.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		path, key, _ := strings.Cut(path, " ")
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100\r\n\r\n{", path, key)
		_ = conn.SetReadDeadline(time.Now().Add(waitMax))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, want)
	}
}

func TestModels(t *testing.T) {
	n := newNetwork(t, nil)
	get := func(path string) *http.Response {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, n.base+path, nil)
		r.Header.Set("Authorization", "Bearer "+n.key)
		resp, err := n.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if got := text(t, get("/v1/models")); got != `{"object":"list","data":[]}`+"\n" {
		t.Errorf("no worker: %s", got)
	}
	if code := refused(t, n.ask(askWhole), 503); code != "model_unavailable" {
		t.Errorf("no worker: code %q", code)
	}
	_, stop := n.worker("w", 4, good, "org/model:7b", "100%")
	n.worker("v", 4, good, "other")
	if got := text(t, get("/v1/models")); !strings.Contains(got, `"id":"org/model:7b"`) || !strings.Contains(got, `"id":"other"`) {
		t.Errorf("list: %s", got)
	}
	for _, path := range []string{"/v1/models/org/model:7b", "/v1/models/org%2Fmodel:7b", "/v1/models/org%2Fmodel%3A7b"} {
		if got := text(t, get(path)); !strings.Contains(got, `"id":"org/model:7b"`) {
			t.Errorf("%s: %s", path, got)
		}
	}
	if got := text(t, get("/v1/models/100%25")); !strings.Contains(got, `"id":"100%"`) {
		t.Errorf("percent: %s", got)
	}
	refused(t, get("/v1/models/none"), 404)
	stop()
	n.until("the model is gone", func() bool { _, ok := n.server.table.Model("org/model:7b"); return !ok })
	resp := n.ask(`{"model":"org/model:7b"}`)
	if after := resp.Header.Get("Retry-After"); after == "" {
		t.Error("no Retry-After")
	}
	if code := refused(t, resp, 503); code != "model_unavailable" {
		t.Errorf("after its worker left: code %q", code)
	}
}

func TestLimits(t *testing.T) {
	n := newNetwork(t, func(c *Config) { c.Limits.ConcurrentPerKey = 2; c.Limits.BufferedMiB = 32 })
	hold := make(chan struct{})
	began := make(chan struct{}, 2)
	n.worker("w", 8, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-hold
		good(w, r)
	}, "m")
	n.worker("one", 1, func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-hold
		good(w, r)
	}, "single")
	answers := make(chan *http.Response, 2)
	big := `{"model":"m","x":"` + strings.Repeat("a", 31<<20) + `"}`
	for _, body := range []string{`{"model":"single"}`, big} {
		go func() { answers <- n.ask(body) }()
		<-began
		if body != big {
			if code := refused(t, n.ask(`{"model":"single"}`), 503); code != "server_is_overloaded" {
				t.Errorf("beyond the worker's capacity: code %q", code)
			}
			continue
		}
		resp := n.ask(askWhole)
		if resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		if code := refused(t, resp, 429); code != "rate_limit_exceeded" {
			t.Errorf("third request: code %q", code)
		}
	}
	n.key = n.newKey(accounts.Settings{Name: "second"})
	if code := refused(t, n.ask(big), 503); code != "server_is_overloaded" {
		t.Errorf("beyond the memory limit: code %q", code)
	}
	close(hold)
	for range 2 {
		if resp := <-answers; resp.StatusCode != 200 {
			t.Errorf("held request ended with %d", resp.StatusCode)
		} else {
			text(t, resp)
		}
	}
	if n.server.memory.used.Load() != 0 {
		t.Errorf("%d bytes still count as buffered", n.server.memory.used.Load())
	}
}
