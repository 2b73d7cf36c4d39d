package openai

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

// readMore takes the value of a field that only says where a request should go, as Head.read does.
func (h *Head) readMore(f field, s *scanner) string {
	switch f {
	case fieldProvider:
		if s.literal("null") {
			return ""
		}
		if s.peek() != '{' {
			return "is neither an object nor null"
		}
		h.provider.start = s.pos
		s.skip()
		h.provider.end = s.pos
	case fieldModels:
		return h.readModels(s)
	case fieldSession:
		h.Session = s.text(sessionMax)
	case fieldUser:
		h.User = s.text(userMax)
	case fieldMessages:
		h.readMessages(s)
	case fieldCacheKey:
		h.CacheKey = s.text(sessionMax)
	case fieldFormat:
		h.readFormat(s)
	case fieldLogprobs:
		if h.Logprobs = s.literal("true"); !h.Logprobs {
			s.skip()
		}
	case fieldEffort:
		if s.asks() {
			h.Reasoning = true
		}
	case fieldReasoning:
		h.readReasoning(s)
	}
	return ""
}

func (h *Head) readModels(s *scanner) string {
	if s.literal("null") {
		return ""
	}
	if s.peek() != '[' {
		return "is neither an array nor null"
	}
	s.open()
	for ok := s.element(true); ok; ok = s.element(false) {
		switch {
		case len(h.Models) == modelsMax:
			return "has more than 8 names"
		case s.peek() != '"':
			return "holds something that is not a string"
		}
		name, why := s.name()
		if why != "" {
			return "holds a name that " + why
		}
		h.Models = append(h.Models, name)
	}
	if h.Models == nil && s.why == "" {
		return "is empty"
	}
	return ""
}

// joinModels makes one list of model and models.
func (h *Head) joinModels() {
	if h.Models == nil {
		return
	}
	h.Model = cmp.Or(h.Model, h.Models[0])
	all := []string{h.Model}
	for _, m := range h.Models {
		if !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	h.Models = all
}

// readMessages looks for a message of the assistant's. Whatever messages is, it is the engine's to judge.
func (h *Head) readMessages(s *scanner) {
	h.messages.start = s.pos
	s.spoke = false
	s.skip()
	h.History = s.spoke && s.data[h.messages.start] == '['
	h.messages.end = s.pos
}

func (h *Head) readFormat(s *scanner) {
	h.JSONObject, h.JSONSchema = false, false
	if s.peek() != '{' {
		s.skip()
		return
	}
	s.open()
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		if string(key) != "type" || s.peek() != '"' {
			s.skip()
			continue
		}
		kind, _ := s.str()
		h.JSONObject, h.JSONSchema = string(kind) == "json_object", string(kind) == "json_schema"
	}
}

// readReasoning takes OpenRouter's reasoning: an object asks for some unless it says not to.
func (h *Head) readReasoning(s *scanner) {
	if s.peek() != '{' {
		s.skip()
		return
	}
	s.open()
	asks := true
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		if name := string(key); name == "enabled" || name == "effort" {
			asks = s.asks() && asks
		} else {
			s.skip()
		}
	}
	h.Reasoning = h.Reasoning || asks
}

// asks steps over a value; false for null, false and "none".
func (s *scanner) asks() bool {
	start := s.pos
	s.skip()
	switch string(s.data[start:s.pos]) {
	case "null", "false", `"none"`:
		return false
	}
	return true
}

// text reads a string of 1 to so many printable bytes. Anything else is stepped over, and "": what it is of names
// something, and if not is no fault, since engines ignore it.
func (s *scanner) text(most int) string {
	if s.peek() != '"' {
		s.skip()
		return ""
	}
	raw, ok := s.str()
	// The longest escape is six bytes for one.
	if !ok || len(raw) > 6*most {
		return ""
	}
	text, ok := unescape(nil, raw)
	if !ok || !IsText(text, most) {
		return ""
	}
	return string(text)
}

// IsText tells whether a text has at most so many bytes, all of them valid UTF-8, and no control characters.
func IsText[T string | []byte](text T, most int) bool {
	if len(text) > most || !utf8.ValidString(string(text)) {
		return false
	}
	for _, r := range string(text) {
		if isControl(r) {
			return false
		}
	}
	return true
}
