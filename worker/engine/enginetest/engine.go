// Package enginetest is an inference engine for tests that misbehaves on demand: the model's name in a request says how.
// It speaks OpenAI's chat completions and Ollama's native chat, streamed and not, and notes what it was sent and when a
// caller went away.
//
//	ok            a sound answer of Engine.Tokens tokens; any name that is not in this table does the same
//	slow          the same with Engine.Delay before each token
//	endless       tokens, Engine.Delay apart, until the caller goes away
//	tools         a tool call
//	think         thoughts before the answer
//	two           two choices, whatever n was; usage counts both
//	crlf          lines end in CR LF
//	comments      SSE comments and other fields between the events, blank lines in NDJSON
//	split         every byte is written alone, also inside of characters
//	bigline       one event of 2 MiB, within limits
//	hugeline      one event of 9 MiB, over the limit
//	usagetext     the answer's text looks like usage, [DONE] and an end of stream
//	usagelate     usage comes with the finish, not alone
//	usage0        all token counts are 0
//	nousage       no usage at all
//	badusage      a negative token count
//	nodone        the stream ends after the usage, without [DONE]; Ollama's without its last line
//	nofinish      no finish_reason, then [DONE]; Ollama's ends with done:false, as when it aborts a run that repeats
//	noreason      Ollama's last line has no done_reason; elsewhere as nofinish
//	load          Ollama's last line says that the model was loaded; elsewhere as ok
//	error0        an error instead of the first event, status 200
//	error1        an error after the first event
//	errorn        an error after all tokens
//	badjson       the second event is not JSON
//	array         the second event is a JSON array
//	cut           the connection breaks in the middle of the second event
//	hang          nothing at all, not even headers
//	hangmid       nothing after the second event
//	gigabyte      a line, or a body, of 1 GiB
//	html          an HTML page with status 200
//	json          status 200 and a JSON error instead of a stream or answer
//	redirect      status 307 to another host
//	context       the engine's own words for a prompt that is too long
//	badschema     the engine's own words for a JSON schema it can't use
//	badrequest    status 400 with an OpenAI error object
//	detail        status 422 with FastAPI's error object
//	missing       status 404
//	status-NNN    that status, with an HTML page; 429 and 503 with Retry-After: 7
package enginetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Flavour is what the engine says it is.
type Flavour string

// Flavours that an Engine can have.
const (
	VLLM     Flavour = "vllm"
	SGLang   Flavour = "sglang"
	LlamaCpp Flavour = "llamacpp"
	Ollama   Flavour = "ollama"
	// Plain says nothing about itself but its models.
	Plain Flavour = "plain"
)

// Behaviours are all model names with a behaviour of their own, but for status-NNN.
func Behaviours() []string {
	return []string{
		"ok", "slow", "endless", "tools", "think", "two", "crlf", "comments", "split", "bigline", "hugeline", "usagetext",
		"usagelate", "usage0", "nousage", "badusage", "nodone", "nofinish", "noreason", "load", "error0", "error1",
		"errorn", "badjson", "array", "cut", "hang", "hangmid", "gigabyte", "html", "json", "redirect", "context",
		"badschema", "badrequest", "detail", "missing",
	}
}

// PromptTokens is what the engine counts for any prompt.
const PromptTokens = 11

// Engine is an http.Handler. Set its fields before it serves.
type Engine struct {
	// Flavour decides on the routes and figures beside chat: VLLM if not set.
	Flavour Flavour
	// Models are listed; all of Behaviours if nil. A model that is not listed answers nevertheless.
	Models []string
	// Tokens is the length of an answer; 5 if 0.
	Tokens int
	// Delay stands before each token of slow and endless; 20 ms if 0.
	Delay time.Duration
	// Context is the window that is told; 4096 if 0.
	Context int
	// Key, if set, is the bearer that callers must show.
	Key string
	// Weights is where the weights are from, as vLLM and llama.cpp tell it; nothing if empty.
	Weights string
	// Quantization is what Ollama tells of every model; Q4_K_M if empty.
	Quantization string
	// Version is what vLLM says; 0.28.0 if empty.
	Version string

	mu       sync.Mutex
	broken   int // the status that every route answers, 0: none
	started  time.Time
	requests []Request
	running  int
	cancels  chan Cancel
}

// Request is a chat request as it came in.
type Request struct {
	Path   string
	Model  string
	Stream bool
	Header http.Header
	Body   []byte
	At     time.Time
}

// Cancel tells that a caller went away before the engine had finished.
type Cancel struct {
	Model string
	At    time.Time
}

// New is an engine of the VLLM flavour.
func New() *Engine {
	return &Engine{
		Flavour: VLLM, Tokens: 5, Delay: 20 * time.Millisecond, Context: 4096, started: time.Now(), cancels: make(chan Cancel, 1024),
	}
}

// Requests are the chat requests so far, oldest first.
func (e *Engine) Requests() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.requests)
}

// Running is how many chat requests are being answered.
func (e *Engine) Running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

// Cancels delivers an entry for each caller that went away early; beyond 1,024 unread ones they are lost.
func (e *Engine) Cancels() <-chan Cancel { return e.cancels }

// Break makes every route answer with a status, until Break(0).
func (e *Engine) Break(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = status
}

// ServeHTTP implements http.Handler.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	broken := e.broken
	e.mu.Unlock()
	if broken != 0 {
		http.Error(w, "broken", broken)
		return
	}
	if e.Key != "" && r.Header.Get("Authorization") != "Bearer "+e.Key {
		http.Error(w, `{"error":"Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	switch {
	case r.URL.Path == "/v1/chat/completions" && e.Flavour != Ollama, r.URL.Path == "/api/chat" && e.Flavour == Ollama:
		e.chat(w, r)
	default:
		e.info(w, r)
	}
}

// listed are the models in the engine's lists.
func (e *Engine) listed() []string {
	if e.Models != nil {
		return e.Models
	}
	return Behaviours()
}

// info serves the routes beside chat.
func (e *Engine) info(w http.ResponseWriter, r *http.Request) {
	var answer any
	switch path := r.URL.Path; {
	case path == "/v1/models" && e.Flavour != Ollama:
		answer = e.modelList()
	case path == "/health" && e.Flavour != Ollama && e.Flavour != Plain:
		answer = map[string]any{"status": "ok"}
	case path == "/version" && e.Flavour == VLLM:
		answer = map[string]any{"version": cmp.Or(e.Version, "0.28.0")}
	case path == "/props" && e.Flavour == LlamaCpp:
		answer = map[string]any{
			"build_info": "b11669", "total_slots": 4, "model_path": e.Weights, "default_generation_settings": map[string]any{"n_ctx": e.Context / 2},
			"modalities": map[string]any{"vision": false}, "chat_template_caps": map[string]any{"supports_tools": true},
		}
	case path == "/metrics" && e.Flavour != Ollama && e.Flavour != Plain:
		e.metrics(w)
		return
	case e.Flavour == Ollama:
		answer = e.ollamaInfo(r)
	}
	if answer == nil {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (e *Engine) modelList() any {
	var list []map[string]any
	for _, m := range e.listed() {
		entry := map[string]any{"id": m, "object": "model", "created": 1}
		switch e.Flavour {
		case VLLM, SGLang:
			entry["owned_by"], entry["max_model_len"], entry["root"] = string(e.Flavour), e.Context, e.Weights
		case LlamaCpp:
			entry["owned_by"], entry["meta"] = "llamacpp", map[string]any{"n_ctx": e.Context, "n_ctx_train": 8 * e.Context}
		}
		list = append(list, entry)
	}
	return map[string]any{"object": "list", "data": list}
}

// metrics shows the gauges as each flavour names them. One more request waits than we know of.
func (e *Engine) metrics(w http.ResponseWriter) {
	names := map[Flavour][2]string{
		VLLM:     {"vllm:num_requests_running", "vllm:num_requests_waiting"},
		SGLang:   {"sglang:num_running_reqs", "sglang:num_queue_reqs"},
		LlamaCpp: {"llamacpp:requests_processing", "llamacpp:requests_deferred"},
	}[e.Flavour]
	fmt.Fprintf(w, "# HELP %s Requests.\n# TYPE %s gauge\n%s{model_name=\"a b\"} %d.0\n", names[0], names[0], names[0], e.Running())
	fmt.Fprintf(w, "%s{engine=\"0\"} 1\nodd_line\nother_metric NaN\n", names[1])
}

func (e *Engine) ollamaInfo(r *http.Request) any {
	switch r.URL.Path {
	case "/api/version":
		return map[string]any{"version": "0.17.4"}
	case "/api/tags":
		var list []map[string]any
		for _, m := range e.listed() {
			list = append(list, map[string]any{"name": m + ":latest", "model": m + ":latest", "digest": strings.Repeat("a1", 32)})
		}
		list = append(list,
			map[string]any{"name": "cloud:latest", "digest": "c1", "remote_host": "https://elsewhere.invalid"},
			map[string]any{"name": "embed:latest", "digest": "e1"})
		return map[string]any{"models": list}
	case "/api/ps":
		return map[string]any{"models": []map[string]any{{"name": "ok:latest", "context_length": e.Context / 2}}}
	case "/api/show":
		var q struct {
			Model string `json:"model"`
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		return e.ollamaShow(strings.TrimSuffix(q.Model, ":latest"))
	}
	return nil
}

func (e *Engine) ollamaShow(model string) any {
	capabilities := []string{"completion"}
	switch model {
	case "embed":
		capabilities = []string{"embedding"}
	case "tools":
		capabilities = append(capabilities, "tools")
	case "think":
		capabilities = append(capabilities, "thinking")
	}
	return map[string]any{
		"modelfile":  "# Modelfile\nFROM /models/blobs/sha256-" + strings.Repeat("0b", 32) + "\nTEMPLATE x\n",
		"parameters": "num_thread                     1\nstop                           \"<|im_end|>\"\n",
		"details":    map[string]any{"family": "llama", "quantization_level": cmp.Or(e.Quantization, "Q4_K_M")}, "capabilities": capabilities,
		"model_info": map[string]any{"general.architecture": "llama", "llama.context_length": 2 * e.Context},
	}
}

// chat notes the request and runs it.
func (e *Engine) chat(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		return
	}
	var q struct {
		Model         string `json:"model"`
		Stream        *bool  `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
			Continuous   bool `json:"continuous_usage_stats"`
		} `json:"stream_options"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		http.Error(w, `{"error":{"message":"not JSON","type":"BadRequestError","param":null,"code":400}}`, http.StatusBadRequest)
		return
	}
	t := &turn{
		e: e, w: w, r: r, ollama: e.Flavour == Ollama, behaviour: q.Model,
		stream: q.Stream != nil && *q.Stream, usage: q.StreamOptions.IncludeUsage,
		continuous: q.StreamOptions.IncludeUsage && q.StreamOptions.Continuous && (e.Flavour == VLLM || e.Flavour == SGLang),
	}
	if t.ollama {
		t.stream = q.Stream == nil || *q.Stream
		t.behaviour = strings.TrimSuffix(q.Model, ":latest")
	}
	e.mu.Lock()
	e.running++
	e.requests = append(e.requests, Request{
		Path: r.URL.Path, Model: q.Model, Stream: t.stream, Header: r.Header.Clone(), Body: body, At: time.Now(),
	})
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.running--
	}()
	t.run()
}

// cancelled notes that the caller went away.
func (e *Engine) cancelled(model string) {
	select {
	case e.cancels <- Cancel{Model: model, At: time.Now()}:
	default:
	}
}

// refuse answers the behaviours that are one bad answer; false for all others.
func (t *turn) refuse() bool {
	status, kind, body := 0, "application/json", ""
	switch t.behaviour {
	case "html":
		status, kind, body = http.StatusOK, "text/html", "<html><body>Welcome to nginx!</body></html>"
	case "json":
		status, body = http.StatusOK, `{"error":{"message":"secret detail","type":"x","param":null,"code":"y"}}`
	case "redirect":
		t.w.Header().Set("Location", "http://elsewhere.invalid/v1/chat/completions")
		status = http.StatusTemporaryRedirect
	case "context":
		status, body = http.StatusBadRequest, contextWords(t.e.Flavour)
	case "badschema":
		status, body = http.StatusBadRequest, `{"error":{"message":"bad schema","type":"BadRequestError","param":"response_format","code":400}}`
		if t.ollama {
			status, body = http.StatusInternalServerError, `{"error":"invalid JSON schema in format"}`
		}
	case "badrequest":
		status = http.StatusBadRequest
		body = `{"error":{"message":"top_p must be small","type":"BadRequestError","param":"top_p","code":400}}`
	case "detail":
		status, body = http.StatusUnprocessableEntity, `{"detail":[{"loc":["body","n"],"msg":"not an int","input":"secret"}]}`
	case "missing":
		status, body = http.StatusNotFound, `{"error":"model 'missing' not found"}`
	default:
		code, ok := strings.CutPrefix(t.behaviour, "status-")
		if !ok {
			return false
		}
		status, _ = strconv.Atoi(code)
		status = min(max(status, 200), 599)
		kind, body = "text/html", "<html><h1>"+http.StatusText(status)+"</h1></html>"
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			t.w.Header().Set("Retry-After", "7")
		}
	}
	t.w.Header().Set("Content-Type", kind)
	t.w.WriteHeader(status)
	_, _ = io.WriteString(t.w, body)
	return true
}

// contextWords are what each engine says to a prompt that is too long.
func contextWords(f Flavour) string {
	switch f {
	case Ollama:
		return `{"error":"the input length exceeds the context length"}`
	case LlamaCpp:
		return `{"error":{"code":400,"message":"request (3008 tokens) exceeds the available context size (2048 tokens)",` +
			`"type":"exceed_context_size_error","n_prompt_tokens":3008,"n_ctx":2048}}`
	case SGLang:
		return `{"object":"error","message":"The input (3008 tokens) is longer than the model's context length (2048 tokens).",` +
			`"type":"BadRequestError","param":null,"code":400}`
	}
	return `{"error":{"message":"This model's maximum context length is 2048 tokens. However, you requested 3008 tokens.",` +
		`"type":"BadRequestError","param":null,"code":400}}`
}
