package openai

import (
	"bytes"
	"fmt"
	"strconv"
)

// usageMax bounds a token count that an engine reports: no answer has a trillion, and prices times it fit int64.
const usageMax = 1 << 40

// Usage is the token counts of a request as the engine reports them, each from 0 to 1<<40.
type Usage struct {
	// Prompt is the tokens read; Cached those of them found in a cache, never more than Prompt.
	Prompt, Cached int64
	// Completion is the tokens made; Reasoning those spent on thinking, which most engines count in Completion.
	Completion, Reasoning int64
}

// Chunk is what a relay reads of one streamed event (chat.completion.chunk or text_completion) in one scan.
type Chunk struct {
	// Usage is the token counts if HasUsage.
	Usage Usage
	// HasUsage tells of a top-level usage object; null is none.
	HasUsage bool
	usage    span // of the usage object
	// NoChoices tells that choices is empty or absent.
	NoChoices bool
	// Finishes counts the choices with a finish_reason.
	Finishes int
	// Finish is why the last of them ended: stop, length, tool_calls, function_call, content_filter or other; empty if none did.
	Finish string
	// Content tells that some choice carries more than a role: text, reasoning, tool calls, a refusal and so on.
	Content bool
	// Text is how many bytes of text the choices carry, decoded: answer, reasoning, refusal and the arguments of tools.
	Text int
	// Error tells of a top-level error that is not null.
	Error bool
}

// ReadChunk reads an event's data. It fails if that is not one JSON object, or has choices or usage that are none.
// Of a key given twice the last counts.
func ReadChunk(data []byte) (Chunk, error) {
	s := scanner{data: data}
	c := Chunk{NoChoices: true}
	if !c.read(&s) {
		return Chunk{}, fmt.Errorf("reading chunk: %s at byte %d", s.why, s.pos)
	}
	return c, nil
}

// AppendCost appends the event that c was read from, with cost_nanoton added to its usage object. One without usage is
// appended as it is.
func (c *Chunk) AppendCost(b, data []byte, nanoton int64) []byte {
	return c.usage.appendCost(b, data, nanoton)
}

// appendCost does it for the usage object that stands in the span; a zero span is none.
func (sp span) appendCost(b, data []byte, nanoton int64) []byte {
	if sp.end == 0 {
		return append(b, data...)
	}
	at := sp.end - 1 // the closing brace
	b = append(b, data[:at]...)
	if len(bytes.TrimSpace(data[sp.start+1:at])) > 0 {
		b = append(b, ',')
	}
	b = strconv.AppendInt(append(b, `"cost_nanoton":`...), nanoton, 10)
	return append(b, data[at:]...)
}

func (c *Chunk) read(s *scanner) bool {
	s.begin()
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		switch string(key) {
		case "choices":
			c.readChoices(s)
		case "usage":
			c.Usage, c.HasUsage, c.usage = Usage{}, false, span{}
			if !s.literal("null") {
				c.HasUsage = true
				c.usage.start = s.pos
				c.Usage.read(s)
				c.usage.end = s.pos
			}
		case "error":
			c.Error = !s.literal("null")
			if c.Error {
				s.skip()
			}
		default:
			s.skip()
		}
	}
	return s.end()
}

func (c *Chunk) readChoices(s *scanner) {
	c.NoChoices, c.Finishes, c.Finish, c.Content, c.Text = true, 0, "", false, 0
	if s.literal("null") {
		return
	}
	if s.peek() != '[' {
		s.fail("choices is not an array")
		return
	}
	s.open()
	for ok := s.element(true); ok; ok = s.element(false) {
		c.NoChoices = false
		c.readChoice(s)
	}
}

func (c *Chunk) readChoice(s *scanner) {
	if s.peek() != '{' {
		s.fail("choice is not an object")
		return
	}
	s.open()
	finished, text, delta := false, false, false
	inText, inDelta := 0, 0
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		switch string(key) {
		case "finish_reason":
			// Some engines send "" until the end.
			s.peek() // to where it begins
			start := s.pos
			if finished = s.filled(); finished {
				c.Finish = finishWord(s.data[start:s.pos])
			}
		case "text":
			inText, text = s.measured()
		case "delta":
			inDelta, delta = readDelta(s)
		default:
			s.skip()
		}
	}
	if finished {
		c.Finishes++
	}
	c.Content = c.Content || text || delta
	c.Text += inText + inDelta
}

// finishWord is a finish_reason, given as JSON, as a word of a closed set.
func finishWord(raw []byte) string {
	switch string(raw) {
	case `"stop"`:
		return "stop"
	case `"length"`:
		return "length"
	case `"tool_calls"`:
		return "tool_calls"
	case `"function_call"`:
		return "function_call"
	case `"content_filter"`:
		return "content_filter"
	}
	return "other"
}

// readDelta tells whether a delta has more than a role in it, and how many bytes of text. Some engines give reasoning under
// two names; it counts once.
func readDelta(s *scanner) (text int, content bool) {
	if s.literal("null") {
		return 0, false
	}
	if s.peek() != '{' {
		return 0, s.fail("delta is not an object")
	}
	s.open()
	var answer, reasoning, refusal, calls int // of a key given twice the last counts
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		filled := false
		switch string(key) {
		case "role":
			s.skip()
		case "content":
			answer, filled = s.measured()
		case "reasoning", "reasoning_content":
			reasoning, filled = s.measured()
		case "refusal":
			refusal, filled = s.measured()
		case "tool_calls":
			start := s.pos
			if filled = s.filled(); filled {
				calls = arguments(s.data[start:s.pos])
			}
		default:
			filled = s.filled()
		}
		content = content || filled
	}
	return answer + reasoning + refusal + calls, content
}

// measured steps over a value, as filled does, and tells how many bytes of text it is, 0 if it is not a string.
func (s *scanner) measured() (n int, filled bool) {
	if s.peek() != '"' {
		return 0, s.filled()
	}
	raw, _ := s.str()
	return textLen(raw), len(raw) > 0
}

// textLen is how long a string is without its escapes, of which each counts as one byte.
func textLen(raw []byte) int {
	n := len(raw)
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return n
		}
		size := 2
		if raw[i+1] == 'u' {
			size = min(6, len(raw)-i)
		}
		n -= size - 1
		raw = raw[i+size:]
	}
}

// arguments is how many bytes of arguments there are in tool_calls. What else it has, and what is not as it should be, counts
// as nothing.
func arguments(calls []byte) (n int) {
	s := scanner{data: calls}
	if s.peek() != '[' {
		return 0
	}
	s.open()
	for ok := s.element(true); ok; ok = s.element(false) {
		if s.peek() != '{' {
			s.skip()
			continue
		}
		s.open()
		for key, ok := s.member(true); ok; key, ok = s.member(false) {
			if string(key) != "function" || s.peek() != '{' {
				s.skip()
				continue
			}
			s.open()
			for key, ok := s.member(true); ok; key, ok = s.member(false) {
				if string(key) != "arguments" {
					s.skip()
					continue
				}
				more, _ := s.measured()
				n += more
			}
		}
	}
	return n
}

func (u *Usage) read(s *scanner) {
	if s.peek() != '{' {
		s.fail("usage is not an object")
		return
	}
	s.open()
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		switch string(key) {
		case "prompt_tokens":
			u.Prompt = s.tokens()
		case "completion_tokens":
			u.Completion = s.tokens()
		case "prompt_tokens_details":
			u.Cached = s.detail("cached_tokens")
		case "completion_tokens_details":
			u.Reasoning = s.detail("reasoning_tokens")
		default:
			s.skip()
		}
	}
	// Some engines add it up over n choices but count the prompt once.
	u.Cached = min(u.Cached, u.Prompt)
}

// detail reads one count of a usage details object, which may be null.
func (s *scanner) detail(name string) (n int64) {
	if s.literal("null") {
		return 0
	}
	if s.peek() != '{' {
		s.fail("usage details are not an object")
		return 0
	}
	s.open()
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		if string(key) == name {
			n = s.tokens()
		} else {
			s.skip()
		}
	}
	return n
}

// tokens reads a token count, null as 0.
func (s *scanner) tokens() int64 {
	n, ok := s.integer(usageMax)
	if !ok {
		s.fail("token count is not an integer from 0 to 2^40")
	}
	return n
}
