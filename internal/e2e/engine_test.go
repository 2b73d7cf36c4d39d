package e2e_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// engine is a well-behaved OpenAI-compatible engine in the test's own process, whose answers the test decides.
type engine struct {
	url   string // with /v1
	calls chan *call
}

// call is one chat request that reached the engine.
type call struct {
	w      http.ResponseWriter
	stream bool
	gone   <-chan struct{} // closed when the engine's client left
	left   time.Time       // when that was; read after done
	done   chan struct{}   // closed when the handler has returned
	answer chan func()     // what the test lets the handler do; closed: return
}

// startEngine serves one model. Each chat request waits in calls until the test answers it.
func startEngine(t *testing.T, model string) *engine {
	t.Helper()
	e := &engine{calls: make(chan *call, 1000)}
	e.url = serveEngine(t, model, e.chat)
	return e
}

// startEcho serves one model that says "hello" to everybody at once.
func startEcho(t *testing.T, model string) string {
	t.Helper()
	return serveEngine(t, model, func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, stream: wantsStream(r)}
		c.say("hel", "lo")
		c.finish()
	})
}

func serveEngine(t *testing.T, model string, chat http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"object":"list","data":[{"id":%q,"object":"model","created":1,"owned_by":"e2e",`+
			`"max_model_len":4096}]}`, model)
	})
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /v1/chat/completions", chat)
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections() // handlers that wait for their client then end
		srv.Close()
	})
	return srv.URL + "/v1"
}

func wantsStream(r *http.Request) bool {
	var head struct {
		Stream bool `json:"stream"`
	}
	body, err := io.ReadAll(r.Body)
	return err == nil && json.Unmarshal(body, &head) == nil && head.Stream
}

func (e *engine) chat(w http.ResponseWriter, r *http.Request) {
	c := &call{
		w: w, stream: wantsStream(r), gone: r.Context().Done(), done: make(chan struct{}), answer: make(chan func()),
	}
	defer close(c.done)
	e.calls <- c
	for {
		select {
		case f, ok := <-c.answer:
			if !ok {
				return
			}
			f()
		case <-c.gone:
			c.left = time.Now()
			return
		}
	}
}

// next is the next request that reaches the engine.
func (e *engine) next(t *testing.T) *call {
	t.Helper()
	select {
	case c := <-e.calls:
		return c
	case <-time.After(rawMax):
		t.Fatalf("no request reached the engine within %v", rawMax)
		return nil
	}
}

// forget drops the calls that wait, and those that come within a moment.
func (e *engine) forget() {
	for {
		select {
		case <-e.calls:
		case <-time.After(time.Second / 2):
			return
		}
	}
}

// run lets the handler do f, in its own goroutine, and waits until it has.
func (c *call) run(t *testing.T, f func()) {
	t.Helper()
	ran := make(chan struct{})
	select {
	case c.answer <- func() { defer close(ran); f() }:
		<-ran
	case <-c.gone:
		t.Error("the engine's client left too early")
	case <-time.After(rawMax):
		t.Fatal("the engine's handler is stuck")
	}
}

// complete answers the call as a healthy engine does.
func (c *call) complete(t *testing.T) {
	t.Helper()
	c.run(t, func() { c.say("hel", "lo"); c.finish() })
	close(c.answer)
}

// say streams pieces; a call that is not streamed answers in finish.
func (c *call) say(pieces ...string) {
	if !c.stream {
		return
	}
	c.w.Header().Set("Content-Type", "text/event-stream")
	for _, p := range pieces {
		text, _ := json.Marshal(p) // strings always marshal
		c.event(fmt.Sprintf(`"choices":[{"index":0,"delta":{"role":"assistant","content":%s},"finish_reason":null}]`, text))
	}
}

func (c *call) finish() {
	const counts = `"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}`
	if !c.stream {
		c.w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(c.w, `{"id":"chatcmpl-e2e","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,`+
			`"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],`+counts+`}`)
		return
	}
	c.event(`"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]`)
	c.event(`"choices":[],` + counts)
	fmt.Fprint(c.w, "data: [DONE]\n\n")
}

func (c *call) event(fields string) {
	const head = `data: {"id":"chatcmpl-e2e","object":"chat.completion.chunk","created":1,"model":"m",`
	fmt.Fprint(c.w, head, fields, "}\n\n")
	_ = http.NewResponseController(c.w).Flush() // the client may be gone
}
