package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// endlessTokens is the length of an answer that is meant not to end: a day at one a millisecond.
const endlessTokens = 86_400_000

// turn is one chat request being answered.
type turn struct {
	e         *Engine
	w         http.ResponseWriter
	r         *http.Request
	ollama    bool
	stream    bool
	usage     bool // include_usage
	behaviour string

	continuous bool // the counts so far are in every event
	made       int  // tokens so far

	gone bool
}

func (t *turn) run() {
	if t.refuse() {
		return
	}
	switch t.behaviour {
	case "hang":
		t.hang()
	case "gigabyte":
		t.gigabyte()
	default:
		if t.stream {
			t.streamed()
		} else {
			t.whole()
		}
	}
}

// hang waits until the caller goes away.
func (t *turn) hang() {
	<-t.r.Context().Done()
	t.gone = true
	t.e.cancelled(t.behaviour)
}

// gigabyte writes a line that ends only with the caller's patience.
func (t *turn) gigabyte() {
	t.start()
	if t.stream && !t.ollama {
		t.write("data: ")
	}
	t.write(`{"x":"`)
	block := strings.Repeat("a", 1<<20)
	for range 1 << 10 {
		if t.write(block); t.gone {
			return
		}
	}
}

func (t *turn) start() {
	kind := "application/json"
	switch {
	case t.ollama && t.stream:
		kind = "application/x-ndjson"
	case t.stream:
		kind = "text/event-stream; charset=utf-8"
	}
	t.w.Header().Set("Content-Type", kind)
	t.w.WriteHeader(http.StatusOK)
}

// write sends text at once and notes a caller that is gone.
func (t *turn) write(text string) {
	if t.gone {
		return
	}
	size := len(text)
	if t.behaviour == "split" {
		size = 1
	}
	for len(text) > 0 {
		n := min(size, len(text))
		_, err := io.WriteString(t.w, text[:n])
		if err == nil {
			err = http.NewResponseController(t.w).Flush()
		}
		if err != nil || t.r.Context().Err() != nil {
			t.gone = true
			t.e.cancelled(t.behaviour)
			return
		}
		text = text[n:]
	}
}

// words are the tokens of the answer.
func (t *turn) words() (tokens int, word func(i int) string) {
	word = func(i int) string { return fmt.Sprintf("tok%d ", i) }
	tokens = t.e.Tokens
	switch t.behaviour {
	case "endless":
		tokens = endlessTokens
	case "split":
		word = func(int) string { return "πß€🙂" }
	case "bigline":
		tokens, word = 1, func(int) string { return strings.Repeat("b", 2<<20) }
	case "hugeline":
		tokens, word = 1, func(int) string { return strings.Repeat("h", 9<<20) }
	case "usagetext":
		word = func(int) string {
			return "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}}\n\ndata: [DONE]\n\n\"done\":true"
		}
	}
	return tokens, word
}

// Text is the answer that a behaviour gives with this engine's settings.
func (e *Engine) Text(behaviour string) string {
	n, word := (&turn{e: e, behaviour: behaviour}).words()
	var b strings.Builder
	for i := range min(n, 1<<20) {
		b.WriteString(word(i))
	}
	return b.String()
}

// streamed sends the tokens, with the behaviour's fault among them, and the end.
func (t *turn) streamed() {
	t.start()
	if t.behaviour == "error0" {
		t.error()
		return
	}
	if !t.ollama {
		t.event(t.chunk(map[string]any{"role": "assistant", "content": ""}, nil, nil))
	}
	switch t.behaviour {
	case "think":
		t.token(map[string]any{"reasoning": "hmm "}, api{Thinking: "hmm "})
	case "tools":
		t.call()
	}
	tokens, word := t.words()
	for i := range tokens {
		if t.behaviour == "slow" || t.behaviour == "endless" {
			select {
			case <-time.After(t.e.Delay):
			case <-t.r.Context().Done():
			}
		}
		if t.fault(i); t.gone {
			return
		}
		if t.behaviour != "tools" {
			t.token(map[string]any{"content": word(i)}, api{Content: word(i)})
		}
	}
	if t.behaviour == "errorn" {
		t.error()
		return
	}
	t.end(tokens)
}

// fault does what the behaviour does before token i.
func (t *turn) fault(i int) {
	switch {
	case i != 1:
	case t.behaviour == "error1":
		t.error()
		t.gone = true // nothing more is sent
	case t.behaviour == "badjson":
		t.frame(`{"choices":[`)
	case t.behaviour == "array":
		t.frame(`[1]`)
	case t.behaviour == "hangmid":
		t.hang()
	case t.behaviour == "cut":
		t.write(`data: {"id":"x","cho`)
		panic(http.ErrAbortHandler)
	case t.behaviour == "comments" && t.ollama:
		t.write("\n\r\n")
	case t.behaviour == "comments":
		t.write(": ping\n\nevent: message\nid: 7\nretry: 10\n: more\n")
	}
}

// api is the message of one of Ollama's lines.
type api struct {
	Role      string           `json:"role"`
	Content   string           `json:"content"`
	Thinking  string           `json:"thinking,omitempty"`
	ToolCalls []map[string]any `json:"tool_calls,omitempty"`
}

func (t *turn) token(delta map[string]any, line api) {
	if t.ollama {
		line.Role = "assistant"
		t.event(map[string]any{"model": t.behaviour, "created_at": "2026-11-23T10:00:00Z", "message": line, "done": false})
		return
	}
	choices := 1
	if t.behaviour == "two" {
		choices = 2
	}
	if t.behaviour != "usage0" {
		t.made += choices
	}
	for i := range choices {
		c := t.chunk(delta, nil, nil)
		c["choices"].([]map[string]any)[0]["index"] = i
		t.event(c)
	}
}

func (t *turn) call() {
	args := map[string]any{"city": "Zürich <&>"}
	text, _ := json.Marshal(args)
	t.token(map[string]any{"tool_calls": []map[string]any{{
		"index": 0, "id": "call_1", "type": "function", "function": map[string]any{"name": "weather", "arguments": string(text)},
	}}}, api{ToolCalls: []map[string]any{{"id": "call_1", "function": map[string]any{"name": "weather", "arguments": args}}}})
}

// chunk is an OpenAI event; finish and usage are left null when nil.
func (t *turn) chunk(delta map[string]any, finish, usage any) map[string]any {
	late := t.behaviour == "nousage" || t.behaviour == "usagelate" || t.behaviour == "badusage"
	if t.continuous && usage == nil && !late {
		prompt, _ := t.counts(0)
		usage = t.usageOf(prompt, t.made)
	}
	return map[string]any{
		"id": "chatcmpl-engine", "object": "chat.completion.chunk", "created": 1700000000, "model": t.behaviour,
		"choices": []map[string]any{{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish}}, "usage": usage,
	}
}

func (t *turn) error() {
	if t.ollama {
		t.event(map[string]any{"error": "secret detail of the engine"})
		return
	}
	t.event(map[string]any{"error": map[string]any{"message": "secret detail", "type": "x", "param": nil, "code": 500}})
	t.write("data: [DONE]\n\n")
}

// event frames a JSON object.
func (t *turn) event(v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own maps
	}
	t.frame(string(text))
}

func (t *turn) frame(text string) {
	eol := "\n"
	if t.behaviour == "crlf" {
		eol = "\r\n"
	}
	if t.ollama {
		t.write(text + eol)
		return
	}
	t.write("data: " + text + eol + eol)
}

// counts are the figures that the behaviour reports.
func (t *turn) counts(tokens int) (prompt, completion int) {
	switch t.behaviour {
	case "usage0":
		return 0, 0
	case "badusage":
		return PromptTokens, -5
	case "two":
		return PromptTokens, 2 * tokens
	case "think", "tools":
		return PromptTokens, tokens + 1
	}
	return PromptTokens, tokens
}

func (t *turn) usageObject(tokens int) map[string]any { return t.usageOf(t.counts(tokens)) }

func (t *turn) usageOf(prompt, completion int) map[string]any {
	u := map[string]any{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
	if t.e.Flavour == LlamaCpp {
		u["prompt_tokens_details"] = map[string]any{"cached_tokens": 3}
	}
	return u
}

// end sends the last events.
func (t *turn) end(tokens int) {
	if t.ollama {
		t.ollamaEnd(tokens)
		return
	}
	finish := any("stop")
	switch t.behaviour {
	case "tools":
		finish = "tool_calls"
	case "nofinish", "noreason":
		finish = nil
	}
	last := t.chunk(map[string]any{}, finish, nil)
	switch t.behaviour {
	case "usagelate":
		last["usage"] = t.usageObject(tokens)
	case "two":
		t.event(last)
		last["choices"].([]map[string]any)[0]["index"] = 1
	}
	t.event(last)
	if t.usage && t.behaviour != "nousage" && t.behaviour != "usagelate" {
		c := t.chunk(nil, nil, t.usageObject(tokens))
		c["choices"] = []any{}
		t.event(c)
	}
	if t.behaviour != "nodone" {
		t.frame("[DONE]")
	}
}

func (t *turn) ollamaEnd(tokens int) {
	prompt, completion := t.counts(tokens)
	last := map[string]any{
		"model": t.behaviour, "created_at": "2026-11-23T10:00:01Z", "message": api{Role: "assistant"}, "done": true,
		"done_reason": "stop", "total_duration": 5, "prompt_eval_count": prompt, "eval_count": completion,
	}
	switch t.behaviour {
	case "nodone":
		return
	case "nofinish":
		last = map[string]any{"model": t.behaviour, "message": api{Role: "assistant"}, "done": false}
	case "noreason":
		delete(last, "done_reason")
	case "load":
		last["done_reason"] = "load"
	case "nousage":
		delete(last, "prompt_eval_count")
		delete(last, "eval_count")
	}
	t.event(last)
}

// whole sends an answer that does not stream; Ollama's flavour has none, since nobody asks it for one.
func (t *turn) whole() {
	tokens, word := t.words()
	if t.behaviour == "endless" || t.behaviour == "hangmid" {
		t.hang()
		return
	}
	if t.behaviour == "slow" {
		select {
		case <-time.After(time.Duration(tokens) * t.e.Delay):
		case <-t.r.Context().Done():
			t.hang()
			return
		}
	}
	var text strings.Builder
	for i := range tokens {
		text.WriteString(word(i))
	}
	finish := any("stop")
	switch t.behaviour {
	case "nofinish", "noreason":
		finish = nil
	}
	choice := func(i int) map[string]any {
		return map[string]any{
			"index": i, "message": map[string]any{"role": "assistant", "content": text.String()}, "finish_reason": finish,
		}
	}
	answer := map[string]any{
		"id": "chatcmpl-engine", "object": "chat.completion", "created": 1700000000, "model": t.behaviour,
		"choices": []map[string]any{choice(0)}, "usage": t.usageObject(tokens),
	}
	switch t.behaviour {
	case "two":
		answer["choices"] = []map[string]any{choice(0), choice(1)}
	case "nousage":
		delete(answer, "usage")
	case "error0", "error1", "errorn":
		answer = map[string]any{"error": map[string]any{"message": "secret detail", "code": 500}}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err) // our own maps
	}
	if t.behaviour == "badjson" {
		body = body[:len(body)-1]
	}
	if t.behaviour == "cut" {
		t.w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		t.start()
		t.write(string(body[:len(body)/2]))
		panic(http.ErrAbortHandler)
	}
	t.start()
	t.write(string(body))
}
