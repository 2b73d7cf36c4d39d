package engine

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/ollama"
	"cocoon/internal/openai"
	"cocoon/router/offer"
)

// startOllama runs a real Ollama, where "make ollama" has built one.
func startOllama(t *testing.T) Engine {
	t.Helper()
	binary := filepath.Join("..", "..", "bin", "ollama")
	if _, err := os.Stat(binary); err != nil {
		t.Skip("no bin/ollama: ", err)
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := ollama.Start(t.Context(), ollama.Config{Binary: binary, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	e, err := Open(t.Context(), Config{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if _, err := e.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections() // those of package ollama
	return e
}

// ask sends a body made of fields to the real engine.
func ask(t *testing.T, e Engine, model, fields string, stream bool) (*sink, openai.Usage, error) {
	t.Helper()
	body := []byte(`{"model":"pub","temperature":0,"stream":` + strconv.FormatBool(stream) + `,` + fields + `}`)
	head, err := openai.ReadHead(body)
	if err != nil {
		t.Fatal(err)
	}
	out := new(sink)
	u, err := e.Chat(t.Context(), &Request{ID: "r", Public: "pub", Model: model + ":latest", Head: &head, Body: body}, out)
	return out, u, err
}

func user(text string) string {
	quoted, _ := json.Marshal(text)
	return `"messages":[{"role":"user","content":` + string(quoted) + `}]`
}

func TestRealOllama(t *testing.T) {
	e := startOllama(t)
	for _, stream := range []bool{true, false} {
		out, u, err := ask(t, e, "tiny", user("What is the capital of France?"), stream)
		if err != nil {
			t.Fatal(err)
		}
		if got := out.text(t); got != "The capital of France is Paris." {
			t.Errorf("answer is %q", got)
		}
		if u.Prompt < 5 || u.Completion < 5 || u.Completion > 30 {
			t.Errorf("usage is %+v", u)
		}
	}
	s, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Engine != "ollama "+ollama.Version || !slices.Equal(names(s.Models), []string{"tiny-think:latest", "tiny:latest"}) {
		t.Errorf("status is %+v", s)
	}
	for _, m := range s.Models {
		if len(m.WeightsDigest) != len("sha256:")+64 || !slices.Contains(m.Features, offer.FeatureTools) ||
			slices.Contains(m.Features, offer.FeatureThinking) != (m.Name == "tiny-think:latest") {
			t.Errorf("model is %+v", m)
		}
		if m.Name == "tiny:latest" && m.ContextTokens != 2048 {
			t.Errorf("window of the loaded model is %d", m.ContextTokens)
		}
	}
}

func TestRealOllamaLimits(t *testing.T) {
	e := startOllama(t)
	long := strings.Repeat("river apple ", 3000)
	_, _, err := ask(t, e, "tiny", user(long), true)
	if f := fault(err); f == nil || f.Status != http.StatusBadRequest || f.Code != "context_length_exceeded" {
		t.Errorf("a prompt that is too long: %v", err)
	}
	for _, field := range []string{"max_tokens", "max_completion_tokens"} {
		out, u, err := ask(t, e, "tiny", user("Count to 12.")+`,"`+field+`":7`, false)
		if err != nil || u.Completion != 7 {
			t.Errorf("%s: %v, %+v", field, err, u)
		} else if p := parse(t, out.answer); *p.Choices[0].FinishReason != "length" {
			t.Errorf("%s: finish is %s", field, *p.Choices[0].FinishReason)
		}
	}
	out, _, err := ask(t, e, "tiny", user("Count to 12.")+`,"stop":["7"]`, true)
	if err != nil || out.text(t) != "1 2 3 4 5 6 " {
		t.Errorf("with a stop: %v", err)
	}
	// The window ends a run that would go on for ever.
	out, u, err := ask(t, e, "tiny", user("Never stop."), true)
	if err != nil || u.Prompt+u.Completion > 2048+1 || u.Completion < 1000 {
		t.Errorf("endless: %v, %+v", err, u)
	} else if p := parse(t, out.events[len(out.events)-2]); *p.Choices[0].FinishReason != "length" {
		t.Errorf("endless: finish is %s", *p.Choices[0].FinishReason)
	}
	// A run of equal tokens is cut by Ollama and must not look finished, nor like a fault of the worker: clients can ask for it.
	out, u, err = ask(t, e, "tiny", user("Go.")+
		`,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"string","pattern":"^a{400}$"}}}`, true)
	if err != nil || u.Completion < 30 || u.Prompt < 1 {
		t.Errorf("repeating: %v, %+v", err, u)
	} else if p := parse(t, out.events[len(out.events)-2]); *p.Choices[0].FinishReason != "length" {
		t.Errorf("repeating: finish is %s", *p.Choices[0].FinishReason)
	}
	_, _, err = ask(t, e, "tiny", user("Go.")+`,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"string","pattern":"(((("}}}`, true)
	if f := fault(err); f == nil || f.Status != http.StatusBadRequest {
		t.Errorf("a schema that can't be used: %v", err)
	}
}

func TestRealOllamaFeatures(t *testing.T) {
	e := startOllama(t)
	out, u, err := ask(t, e, "tiny-think", user("What is 3 plus 4?")+`,"reasoning_effort":"high"`, false)
	if err != nil {
		t.Fatal(err)
	}
	if p := parse(t, out.answer); p.Choices[0].Message.Reasoning == "" || *p.Choices[0].Message.Content == "" {
		t.Errorf("thoughts are missing: %s", out.answer)
	}
	out, less, err := ask(t, e, "tiny-think", user("What is 3 plus 4?")+`,"reasoning_effort":"none"`, false)
	if err != nil || parse(t, out.answer).Choices[0].Message.Reasoning != "" || less.Completion >= u.Completion {
		t.Errorf("without thoughts: %v, %+v, %s", err, less, out.answer)
	}
	_, _, err = ask(t, e, "tiny", user("Hi")+`,"reasoning_effort":"high"`, false)
	if f := fault(err); f == nil || f.Code != "unsupported_parameter" {
		t.Errorf("thoughts of a model without: %v", err)
	}
	out, _, err = ask(t, e, "tiny", user("Count to 5.")+`,"logprobs":true,"top_logprobs":2`, false)
	if err != nil {
		t.Fatal(err)
	}
	if lp := parse(t, out.answer).Choices[0].Logprobs; lp == nil || len(lp.Content) < 5 || len(lp.Content[0].Top) != 2 {
		t.Errorf("logprobs are missing: %s", out.answer)
	}
	out, _, err = ask(t, e, "tiny", user("Say something.")+
		`,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object","properties":{"a":{"enum":["x","y"]}},"required":["a"]}}}`, false)
	if err != nil {
		t.Fatal(err)
	}
	var object struct{ A string }
	if text := *parse(t, out.answer).Choices[0].Message.Content; json.Unmarshal([]byte(text), &object) != nil || object.A == "" {
		t.Errorf("text does not follow the schema: %s", text)
	}
	const tool = `,"tools":[{"type":"function","function":{"name":"get_weather","description":"Get the weather","parameters":
		{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}]`
	out, _, err = ask(t, e, "tiny", user("What is the weather in Paris?")+tool, true)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(out.events, ""), `"finish_reason":"tool_calls"`) {
		t.Errorf("no tool call: %s", strings.Join(out.events, "\n"))
	}
	out, _, err = ask(t, e, "tiny", user("What is the weather in Paris?")+tool+`,"tool_choice":"none"`, true)
	if err != nil || strings.Contains(strings.Join(out.events, ""), `"tool_calls"`) {
		t.Errorf("tool call although none was asked for: %v", err)
	}
}

func TestRealOllamaCancel(t *testing.T) {
	e := startOllama(t)
	body := []byte(`{"model":"pub","stream":true,` + user("Never stop.") + `}`)
	head, err := openai.ReadHead(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &cancelling{cancel: cancel}
	_, err = e.Chat(ctx, &Request{Public: "pub", Model: "tiny:latest", Head: &head, Body: body}, out)
	if err == nil || ctx.Err() == nil {
		t.Errorf("Chat() = %v", err)
	}
	// It serves the next one.
	if _, _, err := ask(t, e, "tiny", user("What is 3 plus 4?"), true); err != nil {
		t.Error(err)
	}
}

// cancelling is an output whose client goes away after the tenth event.
type cancelling struct {
	sink
	cancel func()
}

func (c *cancelling) Event(data []byte, more bool) error {
	if len(c.events) == 10 {
		c.cancel()
	}
	return c.sink.Event(data, more)
}
