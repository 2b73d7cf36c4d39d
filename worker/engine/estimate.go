package engine

import (
	"context"
	"encoding/json"

	"cocoon/internal/openai"
)

// estimateBytes is how many bytes of a prompt's text are taken for a token where nobody counted them: English has about
// four to a token, other scripts and code have fewer, so that the estimate errs in the customer's favour.
const estimateBytes = 6

// estimated is the usage of a request that its caller gave up, with an estimate of the prompt if the engine has begun to
// answer, so has read all of it, and not counted it yet. The body is what was sent to the engine.
func estimated(ctx context.Context, u openai.Usage, body []byte) openai.Usage {
	if ctx.Err() != nil && u.Prompt == 0 && u.Completion > 0 {
		u.Prompt = estimate(body)
	}
	return u
}

// estimate is the least that the text of a request's messages is likely to be, tokens. Images, tools and the template
// around the messages count nothing.
func estimate(body []byte) int64 {
	var r struct {
		Messages []struct {
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
	}
	if json.Unmarshal(body, &r) != nil {
		return 0
	}
	size := 0
	for _, m := range r.Messages {
		size += textLen(m.Content)
	}
	return int64(size) / estimateBytes
}

// textLen is the bytes of text in a message's content: a string, or parts.
func textLen(content []byte) int {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return len(text)
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(content, &parts) != nil {
		return 0
	}
	size := 0
	for _, p := range parts {
		size += len(p.Text)
	}
	return size
}
