package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// askMax is how long one answer may take in a test, queueing on a busy machine included.
const askMax = 60 * time.Second

// Limits of the strict client: the gateway's own and some.
const (
	lineMax = 9 << 20
	bodyMax = 65 << 20
)

// client is a strict OpenAI client: it accepts only what every known SDK accepts, and nothing in between.
type client struct{ base, key string }

// reply is all that a client can see of an answer.
type reply struct {
	status  int
	header  http.Header
	body    string // of an answer that was not streamed
	text    string // what the model said
	finish  string
	usage   *usage
	usages  int // how many usage objects came
	choices int // events with choices
	pieces  int // events with text
	calls   []toolCall
	comment int // keep-alive comments
	fault   *apiError
	done    bool // [DONE] came
	ids     map[string]bool
	piece   []func()
}

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

// apiError is OpenAI's error object; all four keys must be there.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

func (e *apiError) code() string {
	if e == nil || e.Code == nil {
		return ""
	}
	return *e.Code
}

func (e *apiError) param() string {
	if e == nil || e.Param == nil {
		return ""
	}
	return *e.Param
}

// payload is what a chat completion and its chunks have in common.
type payload struct {
	ID      string `json:"id"`
	Choices []struct {
		Delta, Message struct {
			Content   string `json:"content"`
			ToolCalls []struct {
				Index    *int
				Function toolCall
			} `json:"tool_calls"`
		}
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage `json:"usage"`
}

// prompt is the body of a chat request with one user message; more holds further fields, such as `"stream":true`.
func prompt(model, text string, more ...string) string {
	m, _ := json.Marshal(model) // strings always marshal
	c, _ := json.Marshal(text)
	fields := append([]string{
		`"model":` + string(m), `"messages":[{"role":"user","content":` + string(c) + `}]`, `"temperature":0`,
	}, more...)
	return "{" + strings.Join(fields, ",") + "}"
}

// Fields for prompt.
const (
	streamed  = `"stream":true`
	withUsage = `"stream_options":{"include_usage":true}`
)

// chat sends a body and reads the answer to its end. An error means that the answer broke a rule, or never came.
// Each of the functions is called with every piece of text.
func (c client) chat(ctx context.Context, body string, piece ...func()) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	resp, err := c.send(ctx, http.MethodPost, "/v1/chat/completions", body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return read(resp, piece...)
}

// ask is chat for a test that can't go on without an answer.
func (c client) ask(t *testing.T, body string) *reply {
	t.Helper()
	r, err := c.chat(t.Context(), body)
	if err != nil {
		t.Fatalf("asking %.200s: %v", body, err)
	}
	return r
}

// pending is an answer that is still to come.
type pending struct {
	first chan struct{} // closed at the answer's first piece of text
	done  chan struct{} // closed when the rest is set
	r     *reply
	err   error
}

// begin sends a body and does not wait.
func (c client) begin(t *testing.T, body string) *pending {
	t.Helper()
	p := &pending{first: make(chan struct{}), done: make(chan struct{})}
	ctx := t.Context()
	go func() {
		defer close(p.done)
		p.r, p.err = c.chat(ctx, body, sync.OnceFunc(func() { close(p.first) }))
	}()
	return p
}

// wait returns the answer.
func (p *pending) wait(t *testing.T) *reply {
	t.Helper()
	<-p.done // chat ends after askMax
	if p.err != nil {
		t.Fatalf("answer: %v", p.err)
	}
	return p.r
}

// get fetches a path.
func (c client) get(t *testing.T, path string) *reply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), askMax)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r, err := read(resp)
	if err != nil {
		t.Fatalf("getting %s: %v", path, err)
	}
	return r
}

// send makes one request on a connection of its own, so that connections can be counted.
func (c client) send(ctx context.Context, method, path, body string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Close = true
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	return (&http.Client{Transport: transport}).Do(req)
}

// models are the ids in the model list; nil while the list can't be had.
func (c client) models(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, stopMax)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "/v1/models", "")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var list struct{ Data []struct{ ID string } }
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return nil
	}
	ids := []string{}
	for _, m := range list.Data {
		ids = append(ids, m.ID)
	}
	return ids
}

func read(resp *http.Response, piece ...func()) (*reply, error) {
	r := &reply{piece: piece, status: resp.StatusCode, header: resp.Header, ids: map[string]bool{}}
	if r.header.Get("X-Request-Id") == "" {
		return r, fmt.Errorf("status %d without X-Request-Id", r.status)
	}
	kind := resp.Header.Get("Content-Type")
	if strings.HasPrefix(kind, "text/event-stream") {
		return r, r.readStream(resp.Body)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyMax))
	r.body = string(body)
	if err != nil {
		return r, fmt.Errorf("status %d, reading the body: %w", r.status, err)
	}
	if r.status/100 != 2 {
		r.fault, err = parseFault(body)
		if err == nil && !strings.HasPrefix(kind, "application/json") {
			err = fmt.Errorf("error as %q", kind)
		}
		return r, err
	}
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return r, fmt.Errorf("answer %.200q: %w", body, err)
	}
	return r, r.add(&p, false)
}

// parseFault reads an error object and checks that its four keys are there, with the types that strict clients want.
func parseFault(body []byte) (*apiError, error) {
	var outer map[string]json.RawMessage
	var keys map[string]json.RawMessage
	var fault apiError
	if err := json.Unmarshal(body, &outer); err != nil {
		return nil, fmt.Errorf("error body %.300q: %w", body, err)
	}
	if err := errors.Join(json.Unmarshal(outer["error"], &keys), json.Unmarshal(outer["error"], &fault)); err != nil {
		return nil, fmt.Errorf("error body %.300q: %w", body, err)
	}
	for _, k := range []string{"message", "type", "param", "code"} {
		if _, ok := keys[k]; !ok {
			return nil, fmt.Errorf("error object without %q: %.300s", k, body)
		}
	}
	if fault.Message == "" || fault.Type == "" {
		return nil, fmt.Errorf("error object says nothing: %.300s", body)
	}
	return &fault, nil
}

// readStream reads events until the stream ends. It is as picky as the pickiest SDK in each point.
func (r *reply) readStream(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, lineMax)
	commented := false
	for lines.Scan() {
		line := lines.Bytes()
		switch data, isData := bytes.CutPrefix(line, []byte("data: ")); {
		case isData:
			if err := r.event(data); err != nil {
				return err
			}
			commented = false
		case len(line) == 0:
			if commented {
				return errors.New("blank line after a comment: openai-go takes that for an empty event")
			}
		case line[0] == ':':
			commented = true
			r.comment++
		default:
			return fmt.Errorf("line %.100q in a stream: neither data nor comment", line)
		}
	}
	return lines.Err()
}

func (r *reply) event(data []byte) error {
	if r.done {
		return fmt.Errorf("event after [DONE]: %.200q", data)
	}
	if string(data) == "[DONE]" {
		r.done = true
		return nil
	}
	if r.fault != nil {
		return fmt.Errorf("event after an error event: %.200q", data)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return fmt.Errorf("event %.200q: %w", data, err)
	}
	if _, ok := keys["error"]; ok {
		if !bytes.HasPrefix(data, []byte(`{"error":{`)) {
			return fmt.Errorf("event %.200q: go-openai sees errors only as first key, openai-go sees null ones, too", data)
		}
		var err error
		r.fault, err = parseFault(data)
		return err
	}
	var p payload
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("event %.200q: %w", data, err)
	}
	if p.Usage != nil && len(p.Choices) > 0 {
		return fmt.Errorf("usage in an event with choices: %.200q", data)
	}
	return r.add(&p, true)
}

func (r *reply) add(p *payload, chunk bool) error {
	r.ids[p.ID] = true
	if p.Usage != nil {
		r.usage = p.Usage
		r.usages++
	}
	if len(p.Choices) == 0 {
		return nil
	}
	r.choices++
	c := &p.Choices[0]
	part := c.Message
	if chunk {
		part = c.Delta
	}
	if part.Content != "" {
		r.text += part.Content
		r.pieces++
		for _, f := range r.piece {
			f()
		}
	}
	for i, call := range part.ToolCalls {
		if chunk && call.Index == nil {
			return errors.New("tool call without index in a stream")
		}
		if chunk {
			i = *call.Index
		}
		for len(r.calls) <= i {
			r.calls = append(r.calls, toolCall{})
		}
		r.calls[i].Name += call.Function.Name
		r.calls[i].Arguments += call.Function.Arguments
	}
	if c.FinishReason != "" {
		r.finish = c.FinishReason
	}
	return nil
}

// succeeded says whether a client would take the reply for a whole answer.
func (r *reply) succeeded() bool { return r.status == http.StatusOK && r.fault == nil }

// String is for failure messages.
func (r *reply) String() string {
	s := "status " + strconv.Itoa(r.status) + fmt.Sprintf(", text %.80q, finish %q, done %v", r.text, r.finish, r.done)
	if r.usage != nil {
		s += fmt.Sprintf(", usage %+v", *r.usage)
	}
	if r.fault != nil {
		f := r.fault
		s += fmt.Sprintf(", error %q type %q code %q param %q", f.Message, f.Type, f.code(), f.param())
	}
	return s
}

// started waits until the first bytes of the answer arrived; a stream that failed counts, too.
func (p *pending) started(t *testing.T) {
	t.Helper()
	select {
	case <-p.first:
	case <-p.done:
	case <-time.After(askMax):
		t.Fatalf("no first byte after %v", askMax)
	}
}
