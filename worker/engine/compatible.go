package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"cocoon/internal/openai"
	"cocoon/internal/sse"
	"cocoon/router/offer"
)

// Flavours of OpenAI-compatible engines, as they call themselves in owned_by of /v1/models.
const (
	ownerVLLM     = "vllm"
	ownerSGLang   = "sglang"
	ownerLlamaCpp = "llamacpp"
)

// slotsDefault is how many requests an engine with continuous batching takes before each gets noticeably slower; such
// engines don't tell their own limit.
const slotsDefault = 32

// compatible is an engine that speaks OpenAI's chat completions. Requests and answers pass as they are, byte for byte;
// it only makes sure that usage is counted and that an answer that broke off does not look whole.
type compatible struct {
	call   *caller
	owner  atomic.Value // string: the flavour seen last
	salted atomic.Bool  // it takes a cache salt
}

// Status implements Engine.
func (e *compatible) Status(ctx context.Context) (Status, error) {
	if err := e.healthy(ctx); err != nil {
		return Status{}, err
	}
	var list struct {
		Data []listedModel `json:"data"`
	}
	if _, err := e.call.getJSON(ctx, "/v1/models", &list); err != nil {
		return Status{}, err
	}
	owner := ""
	for _, m := range list.Data {
		owner = m.OwnedBy
		break
	}
	e.owner.Store(owner)
	e.salted.Store(false)
	s := Status{Engine: owner, Slots: slotsDefault}
	features := []string{offer.FeatureChat}
	var window int
	var file string
	switch owner {
	case ownerVLLM:
		s.Engine = e.named(ctx, "vllm", "/version")
		e.salted.Store(vllmTakesSalt(s.Engine))
		features = append(features, offer.FeatureJSONSchema, offer.FeatureLogprobs)
	case ownerSGLang:
		// It has been taken since 0.5.3, and heeded since a fix of April 2026; older ones ignore what they don't know.
		e.salted.Store(true)
		features = append(features, offer.FeatureJSONSchema, offer.FeatureLogprobs)
	case ownerLlamaCpp:
		features = append(features, offer.FeatureJSONSchema, offer.FeatureLogprobs)
		window, file = e.llamaProps(ctx, &s, &features)
	default:
		s.Engine = "openai-compatible"
	}
	for _, m := range list.Data {
		if m.ID == "" {
			continue
		}
		s.Models = append(s.Models, Model{
			Name: m.ID, ContextTokens: m.window(window), Features: features, Quantization: quantizationOf(file, m.Root, m.ID),
		})
	}
	s.Running, s.Queued, s.HasLoad = e.load(ctx)
	return s, nil
}

// healthy asks /health where there is one: vLLM, SGLang and llama.cpp answer 503 there while they load.
func (e *compatible) healthy(ctx context.Context) error {
	status, _, err := e.call.get(ctx, "/health")
	switch {
	case status == 0 && err != nil:
		return err
	case status == http.StatusServiceUnavailable:
		return errors.New("engine answers 503 to GET /health: it is still loading, or failed")
	case status >= 500:
		return fmt.Errorf("engine answers %d to GET /health: it failed", status)
	}
	return nil
}

// listedModel is an entry of /v1/models.
type listedModel struct {
	ID          string  `json:"id"`
	Root        string  `json:"root"` // vLLM: where the weights are from, while id is what the operator calls them
	OwnedBy     string  `json:"owned_by"`
	MaxModelLen float64 `json:"max_model_len"` // vLLM, SGLang
	Meta        struct {
		Context float64 `json:"n_ctx"` // llama.cpp: of the whole engine or of a slot, as versions go
		Train   float64 `json:"n_ctx_train"`
	} `json:"meta"`
}

// window is the smallest of the windows that are told, 0 if none is.
func (m *listedModel) window(slot int) int {
	smallest := 0
	for _, n := range []float64{m.MaxModelLen, m.Meta.Context, float64(slot)} {
		if n >= 1 && n <= offer.ContextMax && (smallest == 0 || int(n) < smallest) {
			smallest = int(n)
		}
	}
	if smallest == 0 && m.Meta.Train >= 1 && m.Meta.Train <= offer.ContextMax {
		smallest = int(m.Meta.Train)
	}
	return smallest
}

// named is the engine's name, with its version if it tells one.
func (e *compatible) named(ctx context.Context, name, path string) string {
	var v struct {
		Version string `json:"version"`
	}
	if _, err := e.call.getJSON(ctx, path, &v); err != nil || v.Version == "" {
		return name
	}
	return name + " " + v.Version
}

// llamaProps reads what llama.cpp tells beyond OpenAI's routes, and returns the window of one slot and the weights' file.
func (e *compatible) llamaProps(ctx context.Context, s *Status, features *[]string) (window int, file string) {
	s.Engine, s.Slots = "llama.cpp", 1
	var p struct {
		Build    string  `json:"build_info"`
		File     string  `json:"model_path"`
		Slots    float64 `json:"total_slots"`
		Settings struct {
			Context float64 `json:"n_ctx"`
		} `json:"default_generation_settings"`
		Modalities struct {
			Vision bool `json:"vision"`
		} `json:"modalities"`
		Caps struct {
			Tools bool `json:"supports_tools"`
		} `json:"chat_template_caps"`
	}
	if _, err := e.call.getJSON(ctx, "/props", &p); err != nil {
		return 0, "" // started with --no-props, or too old: the defaults hold
	}
	if p.Build != "" {
		s.Engine += " " + p.Build
	}
	if p.Slots >= 1 && p.Slots <= offer.CapacityMax {
		s.Slots = int(p.Slots)
	}
	if p.Modalities.Vision {
		*features = append(*features, offer.FeatureVision)
	}
	if p.Caps.Tools {
		*features = append(*features, offer.FeatureTools)
	}
	if p.Settings.Context >= 1 && p.Settings.Context <= offer.ContextMax {
		window = int(p.Settings.Context)
	}
	return window, p.File
}

// load reads the engine's own gauges from /metrics, where vLLM, SGLang (--enable-metrics) and llama.cpp (--metrics)
// show them.
func (e *compatible) load(ctx context.Context) (running, queued int, ok bool) {
	status, body, err := e.call.get(ctx, "/metrics")
	if err != nil || status != http.StatusOK {
		return 0, 0, false
	}
	var run, wait float64
	for line := range bytes.Lines(body) {
		name, value := gauge(line)
		switch name {
		case "vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing":
			run += value
			ok = true
		case "vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred":
			wait += value
		}
	}
	return int(min(run, offer.CapacityMax)), int(min(wait, offer.CapacityMax)), ok
}

// gauge splits a line of Prometheus text into the metric's name, without labels, and its value; a line that is none
// has no name, and a value that no gauge of requests can have is 0.
func gauge(line []byte) (string, float64) {
	text := strings.TrimSpace(string(line))
	i := strings.IndexAny(text, "{ ")
	j := strings.LastIndexByte(text, ' ')
	if i <= 0 || text[0] == '#' {
		return "", 0
	}
	v, err := strconv.ParseFloat(text[j+1:], 64)
	if err != nil || math.IsNaN(v) || v < 0 {
		v = 0
	}
	return text[:i], v
}

// Close implements Engine.
func (e *compatible) Close() { e.call.close() }

// Chat implements Engine.
func (e *compatible) Chat(ctx context.Context, req *Request, out Output) (openai.Usage, error) {
	owner, _ := e.owner.Load().(string)
	if owner == ownerLlamaCpp && req.Head.N > 1 {
		err := openai.BadRequest("n", "This model's engine makes one choice a request; n must be 1.")
		err.Code = "unsupported_value"
		return openai.Usage{}, err
	}
	body := req.Body
	if req.Model != req.Head.Model {
		body = req.Head.WithModel(body, req.Model)
	}
	body = e.salt(req, body)
	if !req.Head.Stream {
		return e.whole(ctx, body, req.Head.N, out)
	}
	if owner == ownerVLLM || owner == ownerSGLang {
		return e.stream(ctx, req.Head.WithContinuousUsage(body), req, out)
	}
	return e.stream(ctx, req.Head.WithUsage(body), req, out)
}

// whole relays an answer that does not stream.
func (e *compatible) whole(ctx context.Context, body []byte, n int64, out Output) (openai.Usage, error) {
	x, err := e.call.post(ctx, "/v1/chat/completions", body, e.call.answer)
	if err != nil {
		return openai.Usage{}, err
	}
	defer x.close()
	text, err := readMax(x, answerMax)
	switch {
	case errors.Is(err, errTooLong):
		return openai.Usage{}, engineError("The engine's answer is too long.")
	case err != nil:
		return openai.Usage{}, x.failed(err)
	}
	a, err := openai.ReadAnswer(text)
	switch {
	case err != nil || !json.Valid(text):
		return openai.Usage{}, engineError("The engine's answer is not JSON.")
	case a.Error:
		return openai.Usage{}, bodyError(text)
	case !a.HasUsage || a.Usage.Prompt == 0:
		return openai.Usage{}, engineError("The engine did not count its tokens.")
	case a.Usage.Completion == 0 && says(text):
		return openai.Usage{}, engineError("The engine counted no tokens for an answer that has some.")
	case int64(a.Finishes) < n:
		return a.Usage, engineError("The engine's answer is not finished: %d of %d choices are.", a.Finishes, n)
	}
	out.Count(a.Usage)
	return a.Usage, out.Answer(text, cut(text))
}

// says tells whether a whole answer has any content.
func says(text []byte) bool {
	var a struct {
		Choices []struct {
			Message map[string]any `json:"message"`
		} `json:"choices"`
	}
	if json.Unmarshal(text, &a) != nil {
		return true
	}
	for _, c := range a.Choices {
		for key, v := range c.Message {
			if list, ok := v.([]any); v != nil && v != "" && key != "role" && (!ok || len(list) > 0) {
				return true
			}
		}
	}
	return false
}

// stream relays events up to the engine's [DONE] and checks that the answer is whole.
func (e *compatible) stream(ctx context.Context, body []byte, req *Request, out Output) (openai.Usage, error) {
	x, err := e.call.post(ctx, "/v1/chat/completions", body, e.call.idle)
	if err != nil {
		return openai.Usage{}, err
	}
	defer x.close()
	if media, _, err := mime.ParseMediaType(x.resp.Header.Get("Content-Type")); err != nil || media != "text/event-stream" {
		return openai.Usage{}, notAStream(x)
	}
	t := tally{req: req}
	events := sse.NewReader(x, make([]byte, lineBufferLen))
	for {
		data, err := events.Next()
		if err != nil {
			return estimated(ctx, t.sofar(), body), streamError(x, err)
		}
		x.progress(e.call.idle)
		if string(bytes.TrimSpace(data)) == "[DONE]" {
			break
		}
		if len(data) == 0 {
			continue
		}
		if data, err = t.add(data); err != nil {
			return t.usage, err
		}
		if data == nil {
			continue
		}
		out.Count(t.sofar())
		if err := out.Event(data, events.Buffered()); err != nil {
			return estimated(ctx, t.sofar(), body), err
		}
	}
	x.drain()
	return t.usage, t.end(out)
}

// streamError says why a stream has no further event.
func streamError(x *exchange, err error) error {
	switch {
	case x.parent.Err() != nil:
		return x.parent.Err()
	case errors.Is(err, io.EOF):
		return engineError("The engine's stream ended early.")
	case errors.Is(err, sse.ErrTooLong):
		return engineError("The engine's stream holds an event that is too long.")
	}
	return x.failed(err)
}

// notAStream makes an error of an answer with status 200 that is no event stream: some engines report errors so.
func notAStream(x *exchange) error {
	text, err := readMax(x, errorBodyMax)
	if x.parent.Err() != nil {
		return x.parent.Err()
	}
	if a, bad := openai.ReadAnswer(text); err == nil && bad == nil && a.Error {
		return bodyError(text)
	}
	return engineError("The engine did not stream.")
}

// bodyError makes an error of an error object that came with status 200. Its code is the client's status only if it is
// a number that blames the client, as vLLM and llama.cpp send it.
func bodyError(text []byte) error {
	var e struct {
		Error struct {
			Code json.RawMessage `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &e) == nil {
		if code, err := strconv.Atoi(string(e.Error.Code)); err == nil && code >= 400 && code < 600 {
			return statusError(code, "", text)
		}
	}
	return engineError("The engine reported an error in its answer.")
}

// tally is what a stream has shown so far.
type tally struct {
	req      *Request
	usage    openai.Usage
	counted  bool   // some event had usage
	last     bool   // the last of them was one without choices, as clients expect it
	template []byte // the last event that had usage
	spare    []byte // of the event at hand, without its usage
	pieces   int64  // events with content: each is a token at least
	finishes int
	cut      bool
}

// sofar is the engine's own count if it counts as it goes, else the events with content.
func (t *tally) sofar() openai.Usage {
	if t.counted {
		return t.usage
	}
	return openai.Usage{Completion: t.pieces}
}

// add reads one event and returns what of it is passed on, nil if nothing is; an error event or one that is not JSON
// ends the stream. Usage is kept back for an event of its own at the end: clients count it twice, or can't read it.
func (t *tally) add(data []byte) ([]byte, error) {
	c, err := openai.ReadChunk(data)
	switch {
	case err != nil:
		return nil, engineError("The engine's stream holds an event that is not JSON.")
	case c.Error:
		return nil, bodyError(data)
	}
	t.finishes += c.Finishes
	t.cut = t.cut || c.Finishes > 0 && cut(data)
	if c.Content {
		t.pieces++
	}
	if !c.HasUsage {
		return data, nil
	}
	t.usage, t.counted, t.last = c.Usage, true, c.NoChoices
	t.template = append(t.template[:0], data...)
	if c.NoChoices {
		return nil, nil
	}
	t.spare = c.AppendWithoutUsage(t.spare[:0], data)
	return t.spare, nil
}

// end checks the whole, and ends it with the usage event: the engine's own, unless it sent its figures only along with
// choices.
func (t *tally) end(out Output) error {
	switch {
	case int64(t.finishes) < t.req.Head.N:
		return engineError("The engine's stream ended with %d of %d choices finished.", t.finishes, t.req.Head.N)
	case !t.counted || t.usage.Prompt == 0:
		return engineError("The engine did not count its tokens.")
	case t.pieces > 0 && t.usage.Completion == 0:
		return engineError("The engine counted no tokens for an answer that has some.")
	}
	out.Count(t.usage)
	if t.last {
		return out.End(t.template, t.cut)
	}
	var same struct {
		ID      string `json:"id"`
		Created int64  `json:"created"`
		Model   string `json:"model"`
	}
	if !json.Valid(t.template) || json.Unmarshal(t.template, &same) != nil {
		return engineError("The engine's stream holds an event that is not JSON.")
	}
	return out.End(encode(chunk{
		ID: same.ID, Object: chunkObject, Created: same.Created, Model: same.Model,
		Choices: []choice{}, Usage: usageOf(t.usage),
	}), t.cut)
}

// cut tells whether a choice ended because no more tokens were allowed. Within a string of JSON these bytes can't stand.
func cut(data []byte) bool {
	return bytes.Contains(data, []byte(`"finish_reason":"length"`)) || bytes.Contains(data, []byte(`"finish_reason": "length"`))
}
