package engine

import (
	"encoding/json"
	"math"
	"slices"

	"github.com/ollama/ollama/api"
	"github.com/ollama/ollama/types/model"

	"cocoon/internal/openai"
)

// Limits of a request to Ollama.
const (
	stopsMax       = 16 // stop texts of a request, four times what OpenAI takes
	topLogprobsMax = 20 // OpenAI's and Ollama's limit
	topKMax        = 1 << 20
	toolsMax       = 512 // OpenAI takes 128
)

// translation is a request on its way from OpenAI's form to Ollama's.
type translation struct {
	info *ollamaModel
	out  api.ChatRequest

	toolsOff    bool   // tool_choice is none
	oneCall     bool   // parallel_tool_calls is false
	effort      string // of reasoning, "" if not asked for
	topLogprobs bool   // top_logprobs was given
}

// requestField is what is done with one field of a request.
type requestField struct {
	name string
	take func(t *translation, raw json.RawMessage) error
}

// requestFields are the fields that are translated or refused, in the order in which they are looked at. Model, stream,
// stream_options, n and the token limits come from the request's head. All other fields are ignored: the package
// comment has the whole table.
var requestFields = []requestField{
	{"messages", takeMessages},
	{"tools", takeTools},
	{"tool_choice", takeToolChoice},
	{"parallel_tool_calls", takeParallel},
	{"response_format", takeFormat},
	{"reasoning_effort", takeEffort},
	{"reasoning", takeReasoning},
	{"stop", takeStop},
	{"seed", takeSeed},
	{"temperature", takeTemperature},
	{"top_p", takeNumber("top_p", "top_p", 0, 1)},
	{"frequency_penalty", takeNumber("frequency_penalty", "frequency_penalty", -2, 2)},
	{"presence_penalty", takeNumber("presence_penalty", "presence_penalty", -2, 2)},
	{"min_p", takeNumber("min_p", "min_p", 0, 1)},
	{"repetition_penalty", takeNumber("repetition_penalty", "repeat_penalty", 0.1, 2)},
	{"repeat_penalty", takeNumber("repeat_penalty", "repeat_penalty", 0.1, 2)},
	{"top_k", takeTopK},
	{"logprobs", takeLogprobs},
	{"top_logprobs", takeTopLogprobs},
	{"modalities", takeModalities},
	{"verbosity", takeVerbosity},
	{"logit_bias", refuseFilled("logit_bias")},
	{"functions", refuseFilled("functions")},
	{"function_call", refuse("function_call")},
	{"audio", refuse("audio")},
	{"web_search_options", refuse("web_search_options")},
	{"moderation", refuse("moderation")},
	{"guided_json", refuse("guided_json")},
	{"guided_regex", refuse("guided_regex")},
	{"guided_choice", refuse("guided_choice")},
	{"guided_grammar", refuse("guided_grammar")},
	{"structured_outputs", refuse("structured_outputs")},
	{"regex", refuse("regex")},
	{"ebnf", refuse("ebnf")},
	{"grammar", refuse("grammar")},
	{"json_schema", refuse("json_schema")},
	{"chat_template", refuse("chat_template")},
	{"chat_template_kwargs", refuseFilled("chat_template_kwargs")},
	{"enable_thinking", refuse("enable_thinking")},
	{"thinking", refuse("thinking")},
	{"think", refuse("think")},
	{"format", refuse("format")},
	{"options", refuseFilled("options")},
	{"ignore_eos", refuseTrue("ignore_eos")},
	{"min_tokens", refuse("min_tokens")},
	{"stop_token_ids", refuseFilled("stop_token_ids")},
	{"bad_words", refuseFilled("bad_words")},
	{"best_of", refuse("best_of")},
	{"use_beam_search", refuseTrue("use_beam_search")},
	{"prompt_logprobs", refuse("prompt_logprobs")},
	{"return_token_ids", refuseTrue("return_token_ids")},
	{"echo", refuseTrue("echo")},
}

// translate makes Ollama's request of OpenAI's. The error is an *openai.Error of the client's fault.
func translate(req *Request, info *ollamaModel) ([]byte, error) {
	t := &translation{info: info, out: api.ChatRequest{Model: req.Model}}
	if req.Head.N > 1 {
		return nil, unsupported("n", "must be 1 for this model")
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(req.Body, &fields) != nil {
		return nil, openai.BadRequest("", "The request is not valid JSON.")
	}
	on, off := true, false
	// Always streamed, also for clients that don't: tokens can be counted and the idle clock works.
	t.out.Stream, t.out.Truncate, t.out.Shift = &on, &off, &off
	t.out.Options = map[string]any{"temperature": 1.0, "top_p": 1.0}
	for _, f := range requestFields {
		raw, ok := fields[f.name]
		if !ok || string(raw) == "null" {
			continue
		}
		if err := f.take(t, raw); err != nil {
			return nil, err
		}
	}
	if err := t.finish(req.Head.MaxTokens); err != nil {
		return nil, err
	}
	body, err := json.Marshal(&t.out)
	if err != nil {
		return nil, openai.BadRequest("", "The request can't be passed to the engine.")
	}
	return body, nil
}

// finish checks the fields against each other and against the model.
func (t *translation) finish(maxTokens int64) error {
	if len(t.out.Messages) == 0 {
		// To Ollama such a request means: load the model.
		return openai.BadRequest("messages", "messages must have at least one message.")
	}
	limit := int64(t.info.answerLimit())
	if maxTokens > 0 {
		limit = min(limit, maxTokens)
	}
	t.out.Options["num_predict"] = limit
	if t.toolsOff {
		t.out.Tools = nil
	}
	if len(t.out.Tools) > 0 && !t.can(model.CapabilityTools) {
		return unsupported("tools", "is not something this model can use")
	}
	if t.oneCall && len(t.out.Tools) > 0 {
		return unsupported("parallel_tool_calls", "can't be false for this model")
	}
	if t.topLogprobs && !t.out.Logprobs {
		return openai.BadRequest("top_logprobs", "top_logprobs needs logprobs to be true.")
	}
	return t.think()
}

func (t *translation) can(c model.Capability) bool { return slices.Contains(t.info.caps, c) }

// think turns the effort asked for into Ollama's think. Only gpt-oss knows levels, and it can't do without.
func (t *translation) think() error {
	switch {
	case t.effort == "":
		return nil // models that can think do
	case t.effort == "none" && t.info.gptOSS:
		return unsupported("reasoning_effort", "can't be none for this model")
	case t.effort == "none" && t.can(model.CapabilityThinking):
		t.out.Think = &api.ThinkValue{Value: false}
	case t.effort == "none":
	case !t.can(model.CapabilityThinking):
		return unsupported("reasoning_effort", "is not something this model can use")
	case !t.info.gptOSS:
		t.out.Think = &api.ThinkValue{Value: true}
	case t.effort == "minimal":
		t.out.Think = &api.ThinkValue{Value: "low"}
	case t.effort == "xhigh":
		t.out.Think = &api.ThinkValue{Value: "high"}
	default:
		t.out.Think = &api.ThinkValue{Value: t.effort}
	}
	return nil
}

// unsupported refuses a field that the engine would ignore although it changes the answer.
func unsupported(param, why string) error {
	e := openai.BadRequest(param, "%s %s.", param, why)
	e.Code = "unsupported_parameter"
	return e
}

func refuse(name string) func(*translation, json.RawMessage) error {
	return func(*translation, json.RawMessage) error {
		return unsupported(name, "is not supported by this model's engine")
	}
}

// refuseFilled refuses objects and arrays unless they are empty.
func refuseFilled(name string) func(*translation, json.RawMessage) error {
	return func(_ *translation, raw json.RawMessage) error {
		var list []json.RawMessage
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &list) == nil && len(list) == 0 || json.Unmarshal(raw, &object) == nil && len(object) == 0 {
			return nil
		}
		return unsupported(name, "is not supported by this model's engine")
	}
}

// refuseTrue refuses a switch unless it is off.
func refuseTrue(name string) func(*translation, json.RawMessage) error {
	return func(_ *translation, raw json.RawMessage) error {
		if string(raw) == "false" {
			return nil
		}
		return unsupported(name, "is not supported by this model's engine")
	}
}

func takeNumber(name, option string, low, high float64) func(*translation, json.RawMessage) error {
	return func(t *translation, raw json.RawMessage) error {
		var v float64
		if json.Unmarshal(raw, &v) != nil || v < low || v > high {
			return openai.BadRequest(name, "%s must be a number from %g to %g.", name, low, high)
		}
		t.out.Options[option] = v
		return nil
	}
}

// temperatureMin is the least that is not 0: go-openai sends 1e-45 where its user said 0, and that kills the runner.
const temperatureMin = 1e-3

func takeTemperature(t *translation, raw json.RawMessage) error {
	if err := takeNumber("temperature", "temperature", 0, 2)(t, raw); err != nil {
		return err
	}
	if t.out.Options["temperature"].(float64) < temperatureMin {
		t.out.Options["temperature"] = 0.0
	}
	return nil
}

// integer reads a whole number, also one written as 5.0 or 1e3; the largest that JSON's doubles hold exactly.
func integer(raw json.RawMessage) (int64, bool) {
	var v float64
	if json.Unmarshal(raw, &v) != nil || v != math.Trunc(v) || math.Abs(v) > 1<<53 {
		return 0, false
	}
	return int64(v), true
}

func takeTopK(t *translation, raw json.RawMessage) error {
	k, ok := integer(raw)
	if !ok || k < -1 || k > topKMax {
		return openai.BadRequest("top_k", "top_k must be an integer from -1 to %d.", topKMax)
	}
	t.out.Options["top_k"] = max(k, 0) // -1 and 0 both mean all; Ollama knows 0
	return nil
}

func takeSeed(t *translation, raw json.RawMessage) error {
	seed, ok := integer(raw)
	if !ok {
		return openai.BadRequest("seed", "seed must be an integer.")
	}
	// The engine's seeds have 32 bits, and -1 means: at random.
	t.out.Options["seed"] = seed & math.MaxInt32
	return nil
}

func takeStop(t *translation, raw json.RawMessage) error {
	var one string
	var list []string
	if json.Unmarshal(raw, &one) == nil {
		list = []string{one}
	} else if json.Unmarshal(raw, &list) != nil {
		return openai.BadRequest("stop", "stop must be a string or an array of strings.")
	}
	if len(list) > stopsMax || slices.Contains(list, "") {
		return openai.BadRequest("stop", "stop must be at most %d strings, none of them empty.", stopsMax)
	}
	if len(list) > 0 {
		t.out.Options["stop"] = slices.Concat(list, t.info.stops) // the option replaces the model's own
	}
	return nil
}

func takeLogprobs(t *translation, raw json.RawMessage) error {
	if json.Unmarshal(raw, &t.out.Logprobs) != nil {
		return openai.BadRequest("logprobs", "logprobs must be true or false.")
	}
	return nil
}

func takeTopLogprobs(t *translation, raw json.RawMessage) error {
	n, ok := integer(raw)
	if !ok || n < 0 || n > topLogprobsMax {
		return openai.BadRequest("top_logprobs", "top_logprobs must be an integer from 0 to %d.", topLogprobsMax)
	}
	t.out.TopLogprobs = int(n)
	t.topLogprobs = n > 0
	return nil
}

func takeModalities(_ *translation, raw json.RawMessage) error {
	var list []string
	if json.Unmarshal(raw, &list) != nil || len(list) != 1 || list[0] != "text" {
		return unsupported("modalities", `must be ["text"] for this model`)
	}
	return nil
}

func takeVerbosity(_ *translation, raw json.RawMessage) error {
	if string(raw) != `"medium"` { // OpenAI's default
		return unsupported("verbosity", "is not something this model can use")
	}
	return nil
}

func takeEffort(t *translation, raw json.RawMessage) error {
	return t.setEffort("reasoning_effort", raw)
}

// takeReasoning takes the object of OpenRouter and the Responses API, of which only the effort has a counterpart.
func takeReasoning(t *translation, raw json.RawMessage) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return openai.BadRequest("reasoning", "reasoning must be an object.")
	}
	for name, v := range fields {
		switch {
		case string(v) == "null" || name == "effort":
		case name == "enabled" && string(v) == "true" || name == "exclude" && string(v) == "false":
		default:
			return unsupported("reasoning", "can have nothing but effort for this model")
		}
	}
	if effort, ok := fields["effort"]; ok && string(effort) != "null" {
		return t.setEffort("reasoning.effort", effort)
	}
	return nil
}

func (t *translation) setEffort(param string, raw json.RawMessage) error {
	if json.Unmarshal(raw, &t.effort) != nil ||
		!slices.Contains([]string{"none", "minimal", "low", "medium", "high", "xhigh"}, t.effort) {
		return openai.BadRequest(param, "%s must be none, minimal, low, medium, high or xhigh.", param)
	}
	return nil
}

func takeFormat(t *translation, raw json.RawMessage) error {
	var f struct {
		Type       string `json:"type"`
		JSONSchema struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	}
	if json.Unmarshal(raw, &f) != nil {
		return openai.BadRequest("response_format", "response_format must be an object with a type.")
	}
	switch f.Type {
	case "text":
	case "json_object":
		t.out.Format = json.RawMessage(`"json"`)
	case "json_schema":
		schema := f.JSONSchema.Schema
		if len(schema) == 0 || schema[0] != '{' {
			return openai.BadRequest("response_format.json_schema.schema", "json_schema needs a schema that is an object.")
		}
		if err := checkSchema(schema); err != nil {
			return openai.BadRequest("response_format", "response_format.json_schema.schema can't be used: %v.", err)
		}
		t.out.Format = schema
	default:
		return openai.BadRequest("response_format.type", "response_format.type must be text, json_object or json_schema.")
	}
	return nil
}

func takeTools(t *translation, raw json.RawMessage) error {
	var tools []api.Tool
	if json.Unmarshal(raw, &tools) != nil || len(tools) > toolsMax {
		return openai.BadRequest("tools", "tools must be an array of at most %d function tools with JSON schemas.", toolsMax)
	}
	for i := range tools {
		f := &tools[i].Function
		if tools[i].Type != "function" || f.Name == "" {
			return openai.BadRequest("tools", "tools[%d] must be of type function and have a name.", i)
		}
		if f.Parameters.Type == "" {
			f.Parameters.Type = "object"
		}
		if f.Parameters.Properties == nil {
			f.Parameters.Properties = api.NewToolPropertiesMap()
		}
	}
	t.out.Tools = tools
	return nil
}

func takeToolChoice(t *translation, raw json.RawMessage) error {
	switch string(raw) {
	case `"auto"`:
	case `"none"`:
		t.toolsOff = true
	default:
		return unsupported("tool_choice", "can only be auto or none for this model")
	}
	return nil
}

func takeParallel(t *translation, raw json.RawMessage) error {
	var parallel bool
	if json.Unmarshal(raw, &parallel) != nil {
		return openai.BadRequest("parallel_tool_calls", "parallel_tool_calls must be true or false.")
	}
	t.oneCall = !parallel
	return nil
}
