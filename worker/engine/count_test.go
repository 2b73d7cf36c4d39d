package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"cocoon/internal/openai"
	"cocoon/worker/engine/enginetest"
)

// TestCounts checks what is told of an answer that is being made, for engines that count as they go and for others.
func TestCounts(t *testing.T) {
	const prompt = enginetest.PromptTokens
	last := openai.Usage{Prompt: prompt, Completion: 5}
	cached := last
	cached.Cached = 3
	for _, c := range []struct {
		flavour enginetest.Flavour
		model   string
		second  openai.Usage // before the second token
		last    openai.Usage
	}{
		{enginetest.VLLM, "ok", openai.Usage{Prompt: prompt, Completion: 2}, last},
		{enginetest.SGLang, "ok", openai.Usage{Prompt: prompt, Completion: 2}, last},
		{enginetest.LlamaCpp, "ok", openai.Usage{Completion: 2}, cached},
		{enginetest.Ollama, "ok:latest", openai.Usage{Completion: 2}, last},
		{enginetest.VLLM, "usagelate", openai.Usage{Completion: 2}, last},
	} {
		t.Run(fmt.Sprint(c.flavour, "/", c.model), func(t *testing.T) {
			fake := enginetest.New()
			fake.Flavour = c.flavour
			e := start(t, fake, Config{})
			for _, stream := range []bool{true, false} {
				var out sink
				u, err := e.Chat(t.Context(), request(t, c.model, stream, ""), &out)
				if err != nil || u != c.last {
					t.Fatalf("%+v, %v", u, err)
				}
				if got := out.counts[len(out.counts)-1]; got != u || out.ended != stream || out.cut {
					t.Errorf("last count %+v, ended %t, cut %t", got, out.ended, out.cut)
				}
				if !stream {
					continue
				}
				second := 2 // after that with the role
				if c.flavour == enginetest.Ollama {
					second = 1
				}
				if out.counts[second] != c.second {
					t.Errorf("counts %+v, want %+v there", out.counts, c.second)
				}
				for i := 1; i < len(out.counts); i++ {
					if out.counts[i].Completion < out.counts[i-1].Completion {
						t.Errorf("counts run backwards: %+v", out.counts)
					}
				}
			}
		})
	}
}

func TestCutAnswers(t *testing.T) {
	for text, want := range map[string]bool{
		`{"choices":[{"finish_reason":"length"}]}`:                               true,
		`{"choices":[{"finish_reason": "length"}]}`:                              true,
		`{"choices":[{"finish_reason":"stop"}]}`:                                 false,
		`{"choices":[{"delta":{"content":"\"finish_reason\":\"length\""}}]}`:     false,
		`{"choices":[{"delta":{"content":"\\\"finish_reason\\\":\"length\""}}]}`: false,
	} {
		if got := cut([]byte(text)); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

// quitter is an Output whose client goes away after some events.
type quitter struct {
	sink
	after int
	quit  func()
}

func (q *quitter) Event(data []byte, more bool) error {
	if len(q.events) == q.after {
		q.quit()
		return context.Canceled
	}
	return q.sink.Event(data, more)
}

// TestEstimate checks the prompt's tokens of a request that is given up before its engine has counted them.
func TestEstimate(t *testing.T) {
	more := fmt.Sprintf(`,"x":%q`, strings.Repeat("y", 600)) // counts nothing
	body := func(content string) *Request {
		text := fmt.Appendf(nil, `{"model":"ok","stream":true,"messages":[{"role":"user","content":%s}]%s}`, content, more)
		head, err := openai.ReadHead(text)
		if err != nil {
			t.Fatal(err)
		}
		return &Request{Public: "ok", Model: "ok", Head: &head, Body: text}
	}
	text := strings.Repeat("word ", 12) // 60 bytes
	for _, c := range []struct {
		flavour enginetest.Flavour
		content string
		prompt  int64
	}{
		{enginetest.LlamaCpp, fmt.Sprintf("%q", text), 10},
		{enginetest.LlamaCpp, fmt.Sprintf(`[{"type":"text","text":%q},{"type":"image_url","image_url":{"url":"data:image/png;base64,%s"}}]`, text, strings.Repeat("A", 900)), 10},
		{enginetest.VLLM, fmt.Sprintf("%q", text), enginetest.PromptTokens},
		{enginetest.Ollama, fmt.Sprintf("%q", text), 10},
		{enginetest.LlamaCpp, `""`, 0},
	} {
		fake := enginetest.New()
		fake.Flavour = c.flavour
		e := start(t, fake, Config{})
		for after := range 4 {
			ctx, quit := context.WithCancel(t.Context())
			out := &quitter{after: after, quit: quit}
			r := body(c.content)
			if c.flavour == enginetest.Ollama {
				r.Model = "ok:latest"
			}
			u, err := e.Chat(ctx, r, out)
			quit()
			if err == nil || out.ended {
				t.Fatalf("%s: it went on: %v", c.flavour, err)
			}
			want := c.prompt
			if u.Completion == 0 && c.flavour == enginetest.LlamaCpp {
				want = 0 // only the role came
			}
			if u.Prompt != want {
				t.Errorf("%s after %d events: %+v, want a prompt of %d", c.flavour, after, u, want)
			}
		}
	}
	for _, bad := range []string{"", "{", `{"messages":1}`, `{"messages":[{"content":7},{"content":[1]},{}]}`} {
		if n := estimate([]byte(bad)); n != 0 {
			t.Errorf("%q: %d", bad, n)
		}
	}
}
