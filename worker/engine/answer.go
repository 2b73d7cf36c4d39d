package engine

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/ollama/ollama/api"

	"cocoon/internal/openai"
)

// lineMax bounds one line of Ollama's stream, bytes, as package sse bounds an event.
const lineMax = 8 << 20

// repeatMost is how often Ollama lets the same text, but for white space, follow itself before it gives an answer up without
// a last line. A client can ask for such an answer.
const repeatMost = 30

// finishLength is why a choice ended that was cut: no more tokens were allowed.
const finishLength = "length"

// answer turns Ollama's lines into OpenAI's answer.
type answer struct {
	out    Output
	stream bool
	same   chunk // what all chunks share

	begun  bool // the role has been sent
	done   bool // Ollama's last line has come
	calls  int  // tool calls so far
	again  int  // how often the last piece of text came in a row before
	latest string
	pieces int // lines with text, thoughts or calls so far: each is a token at least
	usage  openai.Usage
	finish string

	// The parts of an answer that does not stream.
	content, reasoning strings.Builder
	toolCalls          []toolCall
	logprobs           []tokenLogprob
	size               int
}

func newAnswer(req *Request, out Output) *answer {
	id := req.ID
	if id == "" {
		id = rand.Text()
	}
	return &answer{
		out: out, stream: req.Head.Stream,
		same: chunk{ID: "chatcmpl-" + id, Object: chunkObject, Created: time.Now().Unix(), Model: req.Public},
	}
}

// used is what the engine counted so far; before its last line, what we counted.
func (a *answer) used() openai.Usage {
	u := a.usage
	// Ollama counts the second run only when a model first thinks and then answers by a schema.
	u.Completion = max(u.Completion, int64(a.pieces))
	return u
}

// relay reads up to Ollama's last line. An end without it is an error, but for a run in which the model repeats itself: that
// is cut there, which is no fault of the worker.
func (a *answer) relay(x *exchange, idle time.Duration, body []byte) error {
	lines := bufio.NewScanner(x)
	lines.Buffer(make([]byte, lineBufferLen), lineMax)
	for !a.done && lines.Scan() {
		x.progress(idle)
		if len(lines.Bytes()) == 0 {
			continue
		}
		if err := a.line(lines.Bytes()); err != nil {
			if x.broken != nil && !json.Valid(lines.Bytes()) {
				return x.failed(x.broken) // it is the rest of a line
			}
			return err
		}
	}
	switch err := lines.Err(); {
	case a.done:
		return nil
	case x.parent.Err() != nil:
		return x.parent.Err()
	case errors.Is(err, bufio.ErrTooLong):
		return engineError("The engine's stream holds a line that is too long.")
	case err != nil:
		return x.failed(err)
	}
	if a.again < repeatMost {
		return engineError("The engine ended its answer early.")
	}
	a.done, a.finish = true, finishLength
	a.usage = openai.Usage{Prompt: max(estimate(body), 1), Completion: int64(a.pieces)}
	return nil
}

// line takes one line of the stream.
func (a *answer) line(data []byte) error {
	var l struct {
		api.ChatResponse
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(data, &l) != nil {
		return engineError("The engine's stream holds a line that is not JSON.")
	}
	if len(l.Error) > 0 && string(l.Error) != "null" {
		return engineError("The engine reported an error in its answer.")
	}
	m := &l.Message
	if m.Content != "" || m.Thinking != "" || len(m.ToolCalls) > 0 || len(l.Logprobs) > 0 {
		a.pieces++
		if text := strings.TrimSpace(m.Content); text == a.latest {
			a.again++
		} else {
			a.latest, a.again = text, 0
		}
		a.out.Count(a.used())
		if err := a.add(m, l.Logprobs); err != nil {
			return err
		}
	}
	if l.Done {
		return a.last(&l.ChatResponse)
	}
	return nil
}

// last takes the line that ends the run.
func (a *answer) last(l *api.ChatResponse) error {
	a.done = true
	if l.PromptEvalCount < 0 || l.EvalCount < 0 {
		return engineError("The engine counted less than no tokens.")
	}
	a.usage = openai.Usage{Prompt: int64(l.PromptEvalCount), Completion: int64(l.EvalCount)}
	switch {
	case l.DoneReason == finishLength:
		a.finish = finishLength
	case l.DoneReason == "stop" && a.calls > 0:
		a.finish = "tool_calls"
	case l.DoneReason == "stop":
		a.finish = "stop"
	case l.DoneReason == "load" || l.DoneReason == "unload":
		return engineError("The engine loaded or unloaded the model instead of running it.")
	default:
		return engineError("The engine ended its answer for no reason that we know.")
	}
	if a.usage.Prompt == 0 {
		return engineError("The engine did not count its tokens.")
	}
	return nil
}

// add passes on, or keeps, what one line adds.
func (a *answer) add(m *api.Message, lps []api.Logprob) error {
	calls := make([]toolCall, 0, len(m.ToolCalls))
	for _, c := range m.ToolCalls {
		index, id := a.calls, c.ID
		if id == "" {
			id = "call_" + rand.Text()
		}
		calls = append(calls, toolCall{
			Index: &index, ID: id, Type: "function",
			Function: functionCall{Name: c.Function.Name, Arguments: c.Function.Arguments.String()},
		})
		a.calls++
	}
	if !a.stream {
		return a.keep(m, calls, lps)
	}
	d := &delta{Reasoning: m.Thinking, ToolCalls: calls}
	if m.Content != "" {
		d.Content = &m.Content
	}
	a.begin(d)
	return a.event(choice{Delta: d, Logprobs: logprobsOf(lps)}, false)
}

// begin gives the role to the first delta.
func (a *answer) begin(d *delta) {
	if a.begun {
		return
	}
	a.begun = true
	d.Role = "assistant"
	if d.Content == nil && len(d.ToolCalls) == 0 {
		d.Content = new(string)
	}
}

func (a *answer) event(c choice, more bool) error {
	e := a.same
	e.Choices = []choice{c}
	return a.out.Event(encode(e), more)
}

func (a *answer) keep(m *api.Message, calls []toolCall, lps []api.Logprob) error {
	a.size += len(m.Content) + len(m.Thinking)
	for i := range calls {
		calls[i].Index = nil
		a.size += len(calls[i].Function.Name) + len(calls[i].Function.Arguments)
	}
	if lp := logprobsOf(lps); lp != nil {
		a.logprobs = append(a.logprobs, lp.Content...)
		a.size += len(lps) * (topLogprobsMax + 1) * 16 // about what they are in memory
	}
	if a.size > answerMax {
		return engineError("The engine's answer is too long.")
	}
	a.content.WriteString(m.Content)
	a.reasoning.WriteString(m.Thinking)
	a.toolCalls = append(a.toolCalls, calls...)
	return nil
}

// end sends what stands after the last token: the finish and the usage, or the whole answer.
func (a *answer) end() error {
	if !a.stream {
		return a.whole()
	}
	d := new(delta)
	a.begin(d)
	if err := a.event(choice{Delta: d, FinishReason: &a.finish}, true); err != nil {
		return err
	}
	e := a.same
	e.Choices, e.Usage = []choice{}, usageOf(a.used())
	a.out.Count(a.used())
	return a.out.End(encode(e), a.finish == finishLength)
}

func (a *answer) whole() error {
	m := &message{Role: "assistant", Reasoning: a.reasoning.String(), ToolCalls: a.toolCalls}
	if text := a.content.String(); text != "" || a.calls == 0 {
		m.Content = &text
	}
	c := choice{Message: m, FinishReason: &a.finish}
	if len(a.logprobs) > 0 {
		c.Logprobs = &logprobs{Content: slices.Clip(a.logprobs)}
	}
	e := a.same
	e.Object, e.Choices, e.Usage = answerObject, []choice{c}, usageOf(a.used())
	a.out.Count(a.used())
	return a.out.Answer(encode(e), a.finish == finishLength)
}
