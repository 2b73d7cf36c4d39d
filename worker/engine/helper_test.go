package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/internal/openai"
	"cocoon/worker/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a fake engine and opens it as its flavour's kind.
func start(t *testing.T, fake *enginetest.Engine, c Config) Engine {
	t.Helper()
	return startHandler(t, fake, "", c)
}

// startHandler is start for an engine under a path.
func startHandler(t *testing.T, h http.Handler, path string, more ...Config) Engine {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	var c Config
	if len(more) > 0 {
		c = more[0]
	}
	c.URL = srv.URL + path
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if _, err := e.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// sink is an Output that keeps everything.
type sink struct {
	events []string
	answer string
	counts []openai.Usage // before each event, or the answer
	ended  bool
	cut    bool
	full   error // what Event, End and Answer return

	count openai.Usage
}

func (s *sink) Count(u openai.Usage) { s.count = u }

func (s *sink) Event(data []byte, _ bool) error {
	s.events, s.counts = append(s.events, string(data)), append(s.counts, s.count)
	return s.full
}

func (s *sink) End(data []byte, cut bool) error {
	s.ended, s.cut = true, cut
	return s.Event(data, false)
}

func (s *sink) Answer(body []byte, cut bool) error {
	s.answer, s.counts, s.cut = string(body), append(s.counts, s.count), cut
	return s.full
}

// parsed is what a client reads of an answer.
type parsed struct {
	ID, Object, Model string
	Created           int64
	Choices           []struct {
		Index          int
		Delta, Message struct {
			Role      *string
			Content   *string
			Reasoning string
			ToolCalls []toolCall `json:"tool_calls"`
		}
		Logprobs     *logprobs
		FinishReason *string `json:"finish_reason"`
	}
	Usage *usage
}

func parse(t *testing.T, text string) parsed {
	t.Helper()
	var p parsed
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("not JSON: %v: %.200s", err, text)
	}
	return p
}

// text puts the answer's text together, and checks that it looks as OpenAI's does.
func (s *sink) text(t *testing.T) string {
	t.Helper()
	if s.answer != "" {
		return *parse(t, s.answer).Choices[0].Message.Content
	}
	var b strings.Builder
	var first parsed
	for i, e := range s.events {
		p := parse(t, e)
		if i == 0 {
			first = p
			if r := p.Choices[0].Delta.Role; r == nil || *r != "assistant" {
				t.Errorf("first delta has no role: %s", e)
			}
		}
		if p.ID != first.ID || p.Created != first.Created || p.Object != "chat.completion.chunk" || p.Model != first.Model {
			t.Errorf("event %d differs from the first in what all share: %.200s", i, e)
		}
		if i == len(s.events)-1 {
			if p.Usage == nil || p.Choices == nil || len(p.Choices) != 0 {
				t.Errorf("last event is not the usage alone: %.200s", e)
			}
		}
		for _, c := range p.Choices {
			if c.Delta.Content != nil {
				b.WriteString(*c.Delta.Content)
			}
		}
	}
	return b.String()
}

// request is a chat request as the worker makes it.
func request(t *testing.T, model string, stream bool, more string) *Request {
	t.Helper()
	body := fmt.Appendf(nil, `{"model":%q,"stream":%t,"messages":[{"role":"user","content":"hi"}]%s}`, "pub-"+model, stream, more)
	head, err := openai.ReadHead(body)
	if err != nil {
		t.Fatal(err)
	}
	return &Request{ID: "req1", Public: "pub-" + model, Model: model, Head: &head, Body: body}
}

// fault is the *openai.Error in err; nil if it is none.
func fault(err error) *openai.Error {
	e, _ := errors.AsType[*openai.Error](err)
	return e
}

// waitIdle waits until the fake engine runs nothing any more.
func waitIdle(t *testing.T, fake *enginetest.Engine) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for fake.Running() > 0 {
		select {
		case <-ctx.Done():
			t.Fatal("engine still runs a request")
		case <-time.After(time.Millisecond):
		}
	}
}

func names(models []Model) []string {
	var out []string
	for _, m := range models {
		out = append(out, m.Name)
	}
	slices.Sort(out)
	return out
}
