package engine

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"

	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
)

func TestStatus(t *testing.T) {
	chat := []string{offer.FeatureChat}
	usual := []string{offer.FeatureChat, offer.FeatureJSONSchema, offer.FeatureLogprobs}
	for _, c := range []struct {
		flavour enginetest.Flavour
		want    Status
	}{
		{enginetest.VLLM, Status{
			Engine: "vllm 0.28.0", Slots: 32, HasLoad: true, Queued: 1,
			Models: []Model{{Name: "m", ContextTokens: 4096, Features: usual}},
		}},
		{enginetest.SGLang, Status{
			Engine: "sglang", Slots: 32, HasLoad: true, Queued: 1,
			Models: []Model{{Name: "m", ContextTokens: 4096, Features: usual}},
		}},
		{enginetest.LlamaCpp, Status{
			Engine: "llama.cpp b11669", Slots: 4, HasLoad: true, Queued: 1,
			Models: []Model{{Name: "m", ContextTokens: 2048, Features: append(slices.Clone(usual), offer.FeatureTools)}},
		}},
		{enginetest.Plain, Status{Engine: "openai-compatible", Slots: 32, Models: []Model{{Name: "m", Features: chat}}}},
		{enginetest.Ollama, Status{
			Engine: "ollama 0.17.4", Slots: 1,
			Models: []Model{{
				Name: "m:latest", WeightsDigest: "sha256:" + strings.Repeat("0b", 32), ContextTokens: 4096, Features: usual,
				Quantization: "int4",
			}},
		}},
	} {
		fake := enginetest.New()
		fake.Flavour, fake.Models = c.flavour, []string{"m"}
		e := start(t, fake, Config{})
		got, err := e.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: wrong status (-want +got):\n%s", c.flavour, d)
		}
	}
}

// TestOllamaModels checks that only models which chat, and run on this machine, are told.
func TestOllamaModels(t *testing.T) {
	fake := enginetest.New()
	fake.Flavour, fake.Models = enginetest.Ollama, []string{"ok", "tools", "think"}
	s, err := start(t, fake, Config{}).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := names(s.Models); !slices.Equal(got, []string{"ok:latest", "think:latest", "tools:latest"}) {
		t.Errorf("models are %q", got)
	}
	for _, m := range s.Models {
		switch m.Name {
		case "ok:latest":
			if m.ContextTokens != 2048 {
				t.Errorf("window of a loaded model is %d, want what it runs with, 2048", m.ContextTokens)
			}
		case "tools:latest":
			if !slices.Contains(m.Features, offer.FeatureTools) || slices.Contains(m.Features, offer.FeatureThinking) {
				t.Errorf("features of tools are %q", m.Features)
			}
		}
	}
}

func TestLearnOllamaModel(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	show := &api.ShowResponse{
		Modelfile: "# FROM /x/sha256-" + strings.Repeat("cd", 32) + "\n\nFROM C:\\models\\blobs\\sha256-" + hex + "\nFROM /p/sha256-00\n",
		Parameters: "num_ctx                        2048\nstop                           \"<|a|>\"\n" +
			"stop                           \"x\\n\\\"y\"\nstop unquoted\ntemperature 0.5",
		Details:   api.ModelDetails{Family: "gptoss"},
		ModelInfo: map[string]any{"general.architecture": "q", "q.context_length": 1000.0},
	}
	m := learn(api.ListModelResponse{Digest: "d"}, show)
	if m.weights != "sha256:"+hex || !m.gptOSS || m.window() != 1000 || m.answerLimit() != 1000 {
		t.Errorf("learnt %+v", m)
	}
	if !slices.Equal(m.stops, []string{"<|a|>", "x\n\"y"}) {
		t.Errorf("stops are %q", m.stops)
	}
	if w := (&ollamaModel{}).window(); w != 4096 {
		t.Errorf("window of a model that tells nothing is %d", w)
	}
	if w := (&ollamaModel{trained: 131072}).window(); w != 4096 {
		t.Errorf("window of a model that is not loaded is %d, want no more than Ollama's least", w)
	}
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"http://127.0.0.1:8000": "http://127.0.0.1:8000", "http://gpu:8000/": "http://gpu:8000", "https://gpu/v1": "https://gpu",
		"http://gpu/sub/v1/": "http://gpu/sub", "http://[::1]:1/v1": "http://[::1]:1",
		"": "", "gpu:8000": "", "ftp://gpu": "", "http://": "", "http://u:p@gpu": "", "http://gpu?x=1": "", "http://gpu#x": "", "http://:80": "",
	} {
		u, err := ParseURL(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("ParseURL(%q) = %v, want an error", in, u)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("ParseURL(%q) = %v, %v, want %s", in, u, err, want)
		}
	}
}

func TestSubPath(t *testing.T) {
	fake := enginetest.New()
	mux := http.NewServeMux()
	mux.Handle("/deep/", http.StripPrefix("/deep", fake))
	e := startHandler(t, mux, "/deep/v1")
	if _, err := e.Chat(t.Context(), request(t, "ok", true, ""), &sink{}); err != nil {
		t.Error(err)
	}
}

// TestBytesPass checks that neither the request nor the answer of an OpenAI-compatible engine is written anew.
func TestBytesPass(t *testing.T) {
	fake := enginetest.New()
	e := start(t, fake, Config{})
	odd := `,  "big":123456789012345678901234567890, "html":"<&>", "float":1E2,"dup":1,"dup":2}`
	req := request(t, "ok", true, odd[:len(odd)-1])
	before := string(req.Body)
	if _, err := e.Chat(t.Context(), req, &sink{}); err != nil {
		t.Fatal(err)
	}
	got := string(fake.Requests()[0].Body)
	want := strings.Replace(before, `"pub-ok"`, `"ok"`, 1)
	want = want[:len(want)-1] + `,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`
	if got != want {
		t.Errorf("engine got\n%s\nwant\n%s", got, want)
	}
}

func TestChoices(t *testing.T) {
	for _, c := range []struct {
		flavour enginetest.Flavour
		model   string
		stream  bool
		status  int
	}{
		{enginetest.VLLM, "two", true, 0},
		{enginetest.VLLM, "two", false, 0},
		{enginetest.VLLM, "ok", true, http.StatusBadGateway}, // one choice where two were asked for
		{enginetest.VLLM, "ok", false, http.StatusBadGateway},
		{enginetest.LlamaCpp, "two", true, http.StatusBadRequest}, // its usage counts one of them
		{enginetest.Ollama, "two:latest", false, http.StatusBadRequest},
	} {
		fake := enginetest.New()
		fake.Flavour = c.flavour
		e := start(t, fake, Config{})
		u, err := e.Chat(t.Context(), request(t, c.model, c.stream, `,"n":2`), &sink{})
		switch f := fault(err); {
		case c.status == 0 && (err != nil || u.Completion != 10):
			t.Errorf("%+v: %v, %d tokens", c, err, u.Completion)
		case c.status != 0 && (f == nil || f.Status != c.status):
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestOllamaAnswer checks the form of answers that we write ourselves.
func TestOllamaAnswer(t *testing.T) {
	fake := enginetest.New()
	fake.Flavour = enginetest.Ollama
	e := start(t, fake, Config{})
	for _, stream := range []bool{true, false} {
		var out sink
		u, err := e.Chat(t.Context(), request(t, "tools:latest", stream, ""), &out)
		if err != nil {
			t.Fatal(err)
		}
		if u.Completion != 6 {
			t.Errorf("%d tokens", u.Completion)
		}
		checkToolAnswer(t, &out, stream)
	}
	var out sink
	if _, err := e.Chat(t.Context(), request(t, "think:latest", true, ""), &out); err != nil {
		t.Fatal(err)
	}
	first := parse(t, out.events[0])
	if d := first.Choices[0].Delta; d.Reasoning != "hmm " || *d.Content != "" || *d.Role != "assistant" {
		t.Errorf("first event is %s", out.events[0])
	}
	if out.text(t) != fake.Text("think") {
		t.Errorf("text is %q", out.text(t))
	}
}

func checkToolAnswer(t *testing.T, out *sink, stream bool) {
	t.Helper()
	all := out.events
	if !stream {
		all = []string{out.answer}
	}
	calls, finish := 0, ""
	for _, text := range all {
		p := parse(t, text)
		if p.ID != "chatcmpl-req1" || p.Model != "pub-tools:latest" || p.Created == 0 {
			t.Errorf("answer is %s", text)
		}
		for _, c := range p.Choices {
			for _, call := range append(c.Delta.ToolCalls, c.Message.ToolCalls...) {
				calls++
				var args map[string]string
				if err := json.Unmarshal([]byte(call.Function.Arguments), &args); err != nil || args["city"] != "Zürich <&>" {
					t.Errorf("arguments are %s", call.Function.Arguments)
				}
				if call.ID != "call_1" || call.Type != "function" || call.Function.Name != "weather" || stream != (call.Index != nil) {
					t.Errorf("call is %+v", call)
				}
			}
			if c.FinishReason != nil {
				finish = *c.FinishReason
			}
		}
	}
	if calls != 1 || finish != "tool_calls" {
		t.Errorf("%d calls, finish is %q", calls, finish)
	}
}

func TestGauge(t *testing.T) {
	for line, want := range map[string]struct {
		name  string
		value float64
	}{
		"": {}, "# HELP x y": {}, "x 3": {"x", 3}, `x{a="b c"} 4.0` + "\n": {"x", 4}, "x NaN": {"x", 0}, "x -1": {"x", 0},
		"x": {}, "{": {}, " 1": {}, "x{": {"x", 0},
	} {
		if name, value := gauge([]byte(line)); name != want.name || value != want.value {
			t.Errorf("gauge(%q) = %q, %v, want %q, %v", line, name, value, want.name, want.value)
		}
	}
}
