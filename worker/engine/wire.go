package engine

import (
	"bytes"
	"encoding/json"

	"github.com/ollama/ollama/api"

	"cocoon/internal/openai"
)

// The object names of OpenAI's answers.
const (
	chunkObject  = "chat.completion.chunk"
	answerObject = "chat.completion"
)

// chunk is an event of a stream that we write ourselves; a whole answer has the same shape.
type chunk struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   *usage   `json:"usage,omitempty"`
}

// choice holds a delta in a stream, a message in a whole answer.
type choice struct {
	Index        int       `json:"index"`
	Delta        *delta    `json:"delta,omitempty"`
	Message      *message  `json:"message,omitempty"`
	Logprobs     *logprobs `json:"logprobs"`
	FinishReason *string   `json:"finish_reason"`
}

// delta is what one event adds.
type delta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Reasoning string     `json:"reasoning,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

// message is a whole answer's text. Content is null when there are only tool calls.
type message struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	Reasoning string     `json:"reasoning,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

// toolCall has its index in a stream only.
type toolCall struct {
	Index    *int         `json:"index,omitempty"`
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

// functionCall's arguments are JSON as text.
type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// logprobs has one entry a token.
type logprobs struct {
	Content []tokenLogprob `json:"content"`
	Refusal *struct{}      `json:"refusal"`
}

type tokenLogprob struct {
	alternative
	Top []alternative `json:"top_logprobs"`
}

type alternative struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func logprobsOf(in []api.Logprob) *logprobs {
	if len(in) == 0 {
		return nil
	}
	out := &logprobs{Content: make([]tokenLogprob, 0, len(in))}
	for _, lp := range in {
		t := tokenLogprob{alternative: alternative(lp.TokenLogprob), Top: []alternative{}}
		for _, a := range lp.TopLogprobs {
			t.Top = append(t.Top, alternative(a))
		}
		out.Content = append(out.Content, t)
	}
	return out
}

// usage is OpenAI's object. Its details stay away: engines that we speak for don't tell them.
type usage struct {
	Prompt     int64 `json:"prompt_tokens"`
	Completion int64 `json:"completion_tokens"`
	Total      int64 `json:"total_tokens"`
	Details    *struct {
		Cached int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details,omitempty"`
}

func usageOf(u openai.Usage) *usage {
	out := &usage{Prompt: u.Prompt, Completion: u.Completion, Total: u.Prompt + u.Completion}
	if u.Cached > 0 {
		out.Details = &struct {
			Cached int64 `json:"cached_tokens"`
		}{u.Cached}
	}
	return out
}

// encode writes JSON as OpenAI does, with < > & as they are.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	// It can't fail: there is nothing in it but strings, numbers and JSON that was read; a NaN that an engine sends is no JSON to begin with.
	_ = enc.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n")
}
