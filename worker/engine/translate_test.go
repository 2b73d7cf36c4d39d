package engine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cocoon/internal/openai"
)

var able = &ollamaModel{
	caps: []model.Capability{
		model.CapabilityCompletion, model.CapabilityTools, model.CapabilityVision, model.CapabilityThinking,
	},
	stops: []string{"<|im_end|>"}, trained: 8192, loaded: 2048,
}

var plain = &ollamaModel{caps: []model.Capability{model.CapabilityCompletion}, trained: 8192}

var gptOSS = &ollamaModel{caps: []model.Capability{model.CapabilityCompletion, model.CapabilityThinking}, gptOSS: true}

const oneMessage = `"messages":[{"role":"user","content":"hi"}]`

// ollamaRequest translates a body made of fields and returns Ollama's request as JSON.
func ollamaRequest(t *testing.T, info *ollamaModel, fields string) (string, error) {
	t.Helper()
	body := []byte(`{"model":"pub",` + fields + `}`)
	head, err := openai.ReadHead(body)
	if err != nil {
		t.Fatalf("ReadHead(%s) = %v", body, err)
	}
	out, err := translate(&Request{Public: "pub", Model: "m:latest", Head: &head, Body: body}, info)
	return string(out), err
}

// same compares two JSON texts.
func same(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%v: %s", err, want)
	}
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("wrong request (-want +got):\n%s", d)
	}
}

func TestTranslateWhole(t *testing.T) {
	got, err := ollamaRequest(t, able, `
		"stream":false,"max_tokens":50,"max_completion_tokens":60,"temperature":0,"top_p":0.5,"seed":7,"stop":["a","b"],
		"frequency_penalty":-2,"presence_penalty":1,"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"logprobs":true,"top_logprobs":3,
		"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object"}}},
		"reasoning_effort":"low","user":"u","metadata":{"a":"b"},"store":true,"service_tier":"auto","prediction":{},"logit_bias":{},
		"num_ctx":9,"num_thread":9,"keep_alive":0,"parallel_tool_calls":true,"tool_choice":"auto","verbosity":"medium",
		"tools":[{"type":"function","function":{"name":"f","strict":true}}],
		"messages":[
			{"role":"developer","content":"be good"},
			{"role":"user","name":"ann","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,aGk="}},
				{"type":"text","text":"b"}]},
			{"role":"assistant","content":null,"reasoning":"hmm","tool_calls":[
				{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":[2]}"}},
				{"id":"c2","type":"function","function":{"name":"g","arguments":""}}]},
			{"role":"tool","tool_call_id":"c2","content":"done"},
			{"role":"assistant","content":[{"type":"refusal","refusal":"no"}]}]`)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, `{
		"model":"m:latest","stream":true,"truncate":false,"shift":false,"think":true,"logprobs":true,"top_logprobs":3,
		"format":{"type":"object"},
		"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{}}}}],
		"options":{"num_predict":60,"temperature":0,"top_p":0.5,"seed":7,"stop":["a","b","<|im_end|>"],"frequency_penalty":-2,
			"presence_penalty":1,"top_k":0,"min_p":0.1,"repeat_penalty":1.1},
		"messages":[
			{"role":"system","content":"be good"},
			{"role":"user","content":"a\nb","images":["aGk="]},
			{"role":"assistant","content":"","thinking":"hmm","tool_calls":[
				{"id":"c1","function":{"index":0,"name":"f","arguments":{"b":1,"a":[2]}}},
				{"id":"c2","function":{"index":1,"name":"g","arguments":{}}}]},
			{"role":"tool","content":"done","tool_name":"g","tool_call_id":"c2"},
			{"role":"assistant","content":"no"}]}`)
	if !strings.Contains(got, `{"b":1,"a":[2]}`) {
		t.Error("arguments changed their order")
	}
}

// TestTranslateParts checks single fields: what must and what must not be in Ollama's request.
func TestTranslateParts(t *testing.T) {
	for _, c := range []struct {
		info         *ollamaModel
		fields       string
		want, absent string
	}{
		{able, oneMessage, `"temperature":1,`, `"think"`},
		{able, oneMessage, `"top_p":1`, `"stop"`},
		{able, oneMessage, `"num_predict":2048`, `"seed"`},
		{plain, oneMessage, `"num_predict":8192`, `"think"`},
		{able, oneMessage + `,"max_tokens":1000000`, `"num_predict":2048`, ""},
		{able, oneMessage + `,"max_completion_tokens":1`, `"num_predict":1,`, ""},
		{able, oneMessage + `,"stop":"x"`, `"stop":["x","\u003c|im_end|\u003e"]`, ""},
		{able, oneMessage + `,"stop":[]`, `"options"`, `"stop"`},
		{able, oneMessage + `,"stop":null,"seed":null,"tools":null,"response_format":null,"logit_bias":null`, `"options"`, `"stop"`},
		{able, oneMessage + `,"seed":-1`, `"seed":2147483647`, ""},
		{able, oneMessage + `,"response_format":{"type":"json_object"}`, `"format":"json"`, ""},
		{able, oneMessage + `,"response_format":{"type":"text"}`, `"options"`, `"format"`},
		{able, oneMessage + `,"reasoning_effort":"none"`, `"think":false`, ""},
		{able, oneMessage + `,"reasoning":{"effort":"high","exclude":false}`, `"think":true`, ""},
		{plain, oneMessage + `,"reasoning_effort":"none"`, `"options"`, `"think"`},
		{gptOSS, oneMessage + `,"reasoning_effort":"medium"`, `"think":"medium"`, ""},
		{gptOSS, oneMessage + `,"reasoning_effort":"minimal"`, `"think":"low"`, ""},
		{gptOSS, oneMessage + `,"reasoning_effort":"xhigh"`, `"think":"high"`, ""},
		{plain, oneMessage + `,"tool_choice":"none","tools":[{"type":"function","function":{"name":"f"}}]`, `"options"`, `"tools"`},
		{able, oneMessage + `,"parallel_tool_calls":false`, `"options"`, ""},
		{able, `"messages":[{"role":"user","content":[{"type":"image_url","image_url":"data:;base64,aGk="}]}]`, `"images":["aGk="]`, ""},
		{able, `"messages":[{"role":"user","content":""}]`, `"content":""`, ""},
		{able, oneMessage + `,"options":{},"functions":[],"ignore_eos":false,"echo":false`, `"options"`, ""},
	} {
		got, err := ollamaRequest(t, c.info, c.fields)
		if err != nil {
			t.Errorf("%s: %v", c.fields, err)
			continue
		}
		if !strings.Contains(got, c.want) || c.absent != "" && strings.Contains(got, c.absent) {
			t.Errorf("%s:\n%s\nwants %s, not %q", c.fields, got, c.want, c.absent)
		}
	}
}

func TestTranslateRefuses(t *testing.T) {
	const unsupportedCode = "unsupported_parameter"
	content := func(c string) string { return `"messages":[{"role":"user","content":` + c + `}]` }
	for _, c := range []struct {
		info   *ollamaModel
		fields string
		param  string
		code   string
	}{
		{able, oneMessage + `,"n":2`, "n", unsupportedCode},
		{able, `"messages":[]`, "messages", ""},
		{able, `"messages":null`, "messages", ""},
		{able, `"messages":{}`, "messages", ""},
		{able, `"x":1`, "messages", ""},
		{able, `"messages":[1]`, "messages[0]", ""},
		{able, `"messages":[null]`, "messages[0]", ""},
		{able, `"messages":[{"role":"wizard","content":"x"}]`, "messages[0].role", ""},
		{able, `"messages":[{"role":"function","content":"x"}]`, "messages[0].role", ""},
		{able, `"messages":[{"content":"x"}]`, "messages[0].role", ""},
		{able, `"messages":[{"role":"user"}]`, "messages[0].content", ""},
		{able, `"messages":[{"role":"assistant","content":null}]`, "messages[0].content", ""},
		{able, `"messages":[{"role":"user","content":"a"},{"role":"assistant","function_call":{"name":"f"}}]`, "messages[1]", unsupportedCode},
		{able, `"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}]`, "messages[0].tool_calls", ""},
		{able, `"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]`, "messages[0].tool_calls", ""},
		{able, `"messages":[{"role":"assistant","tool_calls":[{"type":"custom","function":{"name":"f"}}]}]`, "messages[0].tool_calls", ""},
		{able, content("1"), "messages[0].content", ""},
		{able, content("[]"), "messages[0].content", ""},
		{able, content(`[{"type":"text"}]`), "messages[0].content", ""},
		{able, content(`[{"type":"poem","text":"x"}]`), "messages[0].content", ""},
		{able, content(`[{"type":"input_audio","input_audio":{}}]`), "messages[0].content", unsupportedCode},
		{plain, content(`[{"type":"image_url","image_url":{"url":"data:image/png;base64,aGk="}}]`), "messages[0].content", unsupportedCode},
		{able, content(`[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]`), "messages[0].content[0].image_url", ""},
		{able, content(`[{"type":"image_url","image_url":{"url":"data:text/html;base64,aGk="}}]`), "messages[0].content[0].image_url", ""},
		{able, content(`[{"type":"image_url","image_url":{"url":"data:image/png;base64,%%"}}]`), "messages[0].content[0].image_url", ""},
		{able, content(`[{"type":"image_url","image_url":{"url":"data:image/png;base64,"}}]`), "messages[0].content[0].image_url", ""},
		{able, content(`[{"type":"image_url"}]`), "messages[0].content[0].image_url", ""},
		{plain, oneMessage + `,"tools":[{"type":"function","function":{"name":"f"}}]`, "tools", unsupportedCode},
		{able, oneMessage + `,"tools":[{"type":"web_search"}]`, "tools", ""},
		{able, oneMessage + `,"tools":[{"type":"function","function":{"name":"f","parameters":7}}]`, "tools", ""},
		{able, oneMessage + `,"tool_choice":"required"`, "tool_choice", unsupportedCode},
		{able, oneMessage + `,"tool_choice":{"type":"function","function":{"name":"f"}}`, "tool_choice", unsupportedCode},
		{able, oneMessage + `,"parallel_tool_calls":false,"tools":[{"type":"function","function":{"name":"f"}}]`, "parallel_tool_calls", unsupportedCode},
		{able, oneMessage + `,"response_format":{"type":"grammar"}`, "response_format.type", ""},
		{able, oneMessage + `,"response_format":"json"`, "response_format", ""},
		{able, oneMessage + `,"response_format":{"type":"json_schema"}`, "response_format.json_schema.schema", ""},
		{able, oneMessage + `,"response_format":{"type":"json_schema","json_schema":{"schema":"json"}}`, "response_format.json_schema.schema", ""},
		{plain, oneMessage + `,"reasoning_effort":"low"`, "reasoning_effort", unsupportedCode},
		{able, oneMessage + `,"reasoning_effort":"extreme"`, "reasoning_effort", ""},
		{gptOSS, oneMessage + `,"reasoning_effort":"none"`, "reasoning_effort", unsupportedCode},
		{able, oneMessage + `,"reasoning":{"max_tokens":5}`, "reasoning", unsupportedCode},
		{able, oneMessage + `,"temperature":2.1`, "temperature", ""},
		{able, oneMessage + `,"temperature":"hot"`, "temperature", ""},
		{able, oneMessage + `,"top_p":-0.1`, "top_p", ""},
		{able, oneMessage + `,"top_k":1.5`, "top_k", ""},
		{able, oneMessage + `,"seed":1e300`, "seed", ""},
		{able, oneMessage + `,"stop":[""]`, "stop", ""},
		{able, oneMessage + `,"stop":7`, "stop", ""},
		{able, oneMessage + `,"top_logprobs":3`, "top_logprobs", ""},
		{able, oneMessage + `,"logprobs":true,"top_logprobs":21`, "top_logprobs", ""},
		{able, oneMessage + `,"logit_bias":{"50256":-100}`, "logit_bias", unsupportedCode},
		{able, oneMessage + `,"functions":[{"name":"f"}]`, "functions", unsupportedCode},
		{able, oneMessage + `,"modalities":["text","audio"]`, "modalities", unsupportedCode},
		{able, oneMessage + `,"verbosity":"low"`, "verbosity", unsupportedCode},
		{able, oneMessage + `,"options":{"num_ctx":1}`, "options", unsupportedCode},
		{able, oneMessage + `,"guided_json":{}`, "guided_json", unsupportedCode},
		{able, oneMessage + `,"chat_template_kwargs":{"enable_thinking":false}`, "chat_template_kwargs", unsupportedCode},
		{able, oneMessage + `,"ignore_eos":true`, "ignore_eos", unsupportedCode},
		{able, oneMessage + `,"x":[tru]`, "", ""},
	} {
		_, err := ollamaRequest(t, c.info, c.fields)
		e := fault(err)
		if e == nil || e.Status != http.StatusBadRequest || e.Param != c.param || e.Code != c.code || e.Message == "" {
			t.Errorf("%s: %+v, want 400 with param %q and code %q", c.fields, err, c.param, c.code)
		}
	}
}

// TestFieldTable checks that each field is handled once.
func TestFieldTable(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range requestFields {
		if seen[f.name] {
			t.Errorf("%s is there twice", f.name)
		}
		seen[f.name] = true
	}
}

func FuzzTranslate(f *testing.F) {
	for _, s := range []string{
		oneMessage, `"messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"tools":[{"type":"function","function":{"name":"f"}}]`,
		oneMessage + `,"response_format":{"type":"json_schema","json_schema":{"schema":{"a":1}}},"stop":["x"],"logprobs":true`,
		`"messages":[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{\"a\":1e999}"}}]}]`,
		`"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,aGk="}}]}],"seed":1.0`,
		oneMessage + `,"reasoning":{"effort":"low"},"temperature":1e-9,"top_k":-1,"max_tokens":2147483648`,
	} {
		f.Add([]byte(`{"model":"pub",` + s + `}`))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		head, err := openai.ReadHead(bytes.Clone(body))
		if err != nil {
			return
		}
		for _, info := range []*ollamaModel{able, plain, gptOSS} {
			out, err := translate(&Request{Public: head.Model, Model: "m", Head: &head, Body: body}, info)
			if err != nil {
				if e := fault(err); e == nil || e.Status != http.StatusBadRequest {
					t.Fatalf("translate() = %v, want an OpenAI error of status 400", err)
				}
				continue
			}
			checkRequest(t, out, info)
		}
	})
}

// checkRequest holds Ollama's request to what must be true of all of them.
func checkRequest(t *testing.T, out []byte, info *ollamaModel) {
	var r api.ChatRequest
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("not a chat request: %v", err)
	}
	n, ok := r.Options["num_predict"].(float64)
	var why string
	switch {
	case r.Model != "m" || r.Stream == nil || !*r.Stream || r.Truncate == nil || *r.Truncate || r.Shift == nil || *r.Shift:
		why = "fixed fields are off"
	case len(r.Messages) == 0:
		why = "no messages: this loads the model"
	case !ok || n < 1 || n > float64(info.answerLimit()):
		why = fmt.Sprintf("num_predict is %v", r.Options["num_predict"])
	case r.KeepAlive != nil || r.DebugRenderOnly:
		why = "it reaches into the engine"
	case !r.Think.IsValid() || r.Think.IsString() && !info.gptOSS:
		why = "think is not one of the model's"
	}
	for _, key := range []string{"num_ctx", "num_thread", "num_gpu", "num_batch", "main_gpu", "use_mmap", "num_keep"} {
		if _, ok := r.Options[key]; ok {
			why = key + " makes the engine load the model again"
		}
	}
	for _, m := range r.Messages {
		if m.Role != "system" && m.Role != "user" && m.Role != "assistant" && m.Role != "tool" {
			why = "role " + m.Role
		}
	}
	if why != "" {
		t.Fatalf("%s: %s", why, out)
	}
}
