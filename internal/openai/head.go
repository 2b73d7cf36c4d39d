// Package openai reads just enough of OpenAI's chat requests, chunks, answers and errors to meter and relay them.
package openai

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// Limits of what a request may ask.
const (
	modelMax  = 256 // bytes of a model's name: longer than any, short enough for logs and metrics
	modelsMax = 8   // names in models: each may cost an attempt
	userMax   = 128 // bytes of an end user's name: an account's ID or its hash
	// sessionMax is what OpenRouter takes, bytes of session_id. prompt_cache_key is treated the same.
	sessionMax = 256
	choiceMax  = 128     // the most n that OpenAI takes
	tokensMax  = 1 << 31 // far above any context, and no product of it with a price or n overflows int64 unnoticed
)

// Head is what a gateway reads of a chat request body in one top-level scan; the bytes are never decoded and
// encoded again.
type Head struct {
	// Model is the model asked for, decoded: 1 to 256 bytes of UTF-8 without control characters. If only models is given
	// it is the first of these.
	Model string
	// Models has all models that will do, the best first: Model, and then those in models, each once. Nil without models.
	Models []string
	// Stream tells whether the answer is to be streamed.
	Stream bool
	// IncludeUsage is stream_options.include_usage as the client asked; WithUsage leaves it.
	IncludeUsage bool
	// MaxTokens is max_completion_tokens if there, else max_tokens, in tokens; 0 if neither is given.
	MaxTokens int64
	// Limit is the largest of max_tokens, max_completion_tokens and llama.cpp's n_predict, tokens of one answer: engines
	// differ in which they take. 0 if none of them bounds it.
	Limit int64
	// N is the number of answers asked for, 1 if not given.
	N int64
	// Tools tells whether there are tools or (legacy) functions.
	Tools bool
	// User is the end user that the client names, decoded; "" if it names none, or not in 1 to 128 printable bytes.
	User string
	// CacheSalt is the client's cache_salt, decoded, at most 1024 bytes: who asks with another one shares no prefix cache with
	// it. HasCacheSalt tells that there is one, be it empty.
	CacheSalt    string
	HasCacheSalt bool
	// Session is session_id, and CacheKey prompt_cache_key, decoded: what stays the same in a conversation. Each is "" if
	// the client gives none, or not in 1 to 256 printable bytes.
	Session, CacheKey string
	// History tells whether messages has one of the assistant's: the request continues a conversation.
	History bool
	// JSONObject and JSONSchema tell whether response_format asks for these.
	JSONObject, JSONSchema bool
	// Media tells whether some of the request may be no text: somewhere below the top level it has a string that names
	// pictures, videos, sounds or files as requests do.
	Media bool
	// Logprobs tells whether logprobs is true.
	Logprobs bool
	// Reasoning tells whether reasoning_effort or OpenRouter's reasoning asks for some.
	Reasoning bool

	size        int     // of the body the spans are of
	end         int     // index of the object's closing brace
	model       span    // the model's value, with its quotes
	options     span    // the value of stream_options
	usage       span    // the value of include_usage in it
	limits      [3]span // the values of max_tokens, max_completion_tokens and n_predict
	messages    span    // the value of messages
	provider    span    // the value of provider, if it is an object
	ours        [3]span // provider, models and session_id in their order, each from the end of what is before it
	oursN       int     // how many of them there are
	salt        span    // the value of cache_salt
	optionsNull bool
	optionsBare bool // an object without members
	hasMax      bool // max_completion_tokens is given
	forced      bool // WithUsage has been here
}

// span is a part of the body; a zero one is of a key that isn't there, since a value never begins at 0.
type span struct{ start, end int }

// field is a top-level key that ReadHead relies on; 0 is any other key.
type field int

const (
	fieldModel field = iota + 1
	fieldStream
	fieldStreamOptions
	fieldMaxTokens
	fieldMaxCompletionTokens
	fieldNPredict
	fieldN
	fieldTools
	fieldFunctions
	fieldProvider
	fieldModels
	fieldSession
	// From here on another letter case is another key. Engines written in Go would differ in messages alone, and of those
	// only hints are taken here.
	fieldUser
	fieldCacheSalt
	fieldMessages
	fieldCacheKey
	// From here on a key may be doubled: these say no more than what an engine should be able to do.
	fieldFormat
	fieldLogprobs
	fieldEffort
	fieldReasoning
	fieldCount
)

// fieldNames has the key of each field.
var fieldNames = [fieldCount]string{
	"", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n_predict", "n", "tools", "functions",
	"provider", "models", "session_id", "user", "cache_salt", "messages", "prompt_cache_key", "response_format",
	"logprobs", "reasoning_effort", "reasoning",
}

const includeUsage = "include_usage"

// ReadHead reads a request body. Keys it does not know pass. Its error is an *Error with status 400, whose message
// says what is wrong: not one JSON object (with the byte it breaks at), nested deeper than 64, or a key it relies on
// that is doubled, of the wrong type or out of range. Such a key also may not appear in other letter case, because
// engines written in Go would take it for the same.
//
// The scan checks structure, not all of JSON's grammar: the engine refuses what is not JSON, and what is means the same
// to it as to ReadHead.
func ReadHead(body []byte) (Head, error) {
	s := scanner{data: body}
	h := Head{N: 1, size: len(body)}
	if !s.begin() {
		return Head{}, syntaxError(&s)
	}
	var seen [fieldCount]bool
	from := s.pos
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		f, exact := fieldOf(key, s.odd)
		if f == 0 {
			s.skip()
			from = s.pos
			continue
		}
		name := fieldNames[f]
		if !exact {
			return Head{}, BadRequest(name, "%s is written in other letter case", name)
		}
		if seen[f] && f < fieldFormat {
			return Head{}, BadRequest(name, "%s is given twice", name)
		}
		seen[f] = true
		if why := h.read(f, &s); why != "" {
			return Head{}, BadRequest(name, "%s %s", name, why)
		}
		if f >= fieldProvider && f <= fieldSession {
			h.ours[h.oursN] = span{from, s.pos}
			h.oursN++
		}
		from = s.pos
	}
	h.end, h.Media = s.pos-1, s.media
	if !s.end() {
		return Head{}, syntaxError(&s)
	}
	h.joinModels()
	if h.Model == "" {
		return Head{}, BadRequest("model", "model is missing")
	}
	return h, nil
}

func syntaxError(s *scanner) *Error {
	return BadRequest("", "request body is not a JSON object to be read: %s at byte %d", s.why, s.pos)
}

// fieldOf is the field a key names. It is not exact if only its letter case differs.
func fieldOf(key []byte, odd bool) (f field, exact bool) {
	switch string(key) {
	case "model":
		return fieldModel, true
	case "stream":
		return fieldStream, true
	case "stream_options":
		return fieldStreamOptions, true
	case "max_tokens":
		return fieldMaxTokens, true
	case "max_completion_tokens":
		return fieldMaxCompletionTokens, true
	case "n_predict":
		return fieldNPredict, true
	case "n":
		return fieldN, true
	case "tools":
		return fieldTools, true
	case "functions":
		return fieldFunctions, true
	case "user":
		return fieldUser, true
	case "messages":
		return fieldMessages, true
	case "cache_salt":
		return fieldCacheSalt, true
	case "provider":
		return fieldProvider, true
	case "models":
		return fieldModels, true
	case "session_id":
		return fieldSession, true
	case "prompt_cache_key":
		return fieldCacheKey, true
	case "response_format":
		return fieldFormat, true
	case "logprobs":
		return fieldLogprobs, true
	case "reasoning_effort":
		return fieldEffort, true
	case "reasoning":
		return fieldReasoning, true
	}
	if !odd || len(key) > scratchLen {
		return 0, false
	}
	for i := fieldModel; i < fieldUser; i++ {
		if bytes.EqualFold(key, []byte(fieldNames[i])) {
			return i, false
		}
	}
	return 0, false
}

// read takes a field's value. It returns what is wrong with it, to stand after its name, or "", also when the scanner
// stopped at a mistake.
func (h *Head) read(f field, s *scanner) string {
	switch f {
	case fieldModel:
		return h.readModel(s)
	case fieldStream:
		ok := false
		if h.Stream, ok = s.boolean(); !ok {
			return "is neither true, false nor null"
		}
	case fieldStreamOptions:
		return h.readOptions(s)
	case fieldMaxTokens, fieldMaxCompletionTokens, fieldNPredict:
		return h.readLimit(f, s)
	case fieldN:
		null := s.peek() == 'n'
		n, ok := s.integer(choiceMax)
		if !ok || n == 0 && !null {
			return "is not an integer from 1 to 128"
		}
		h.N = max(n, 1)
	case fieldTools, fieldFunctions:
		if s.literal("null") {
			return ""
		}
		if s.peek() != '[' {
			return "is neither an array nor null"
		}
		if s.filled() {
			h.Tools = true
		}
	case fieldCacheSalt:
		return h.readSalt(s)
	default:
		return h.readMore(f, s)
	}
	return ""
}

// readLimit takes a bound of the answer's tokens.
func (h *Head) readLimit(f field, s *scanner) string {
	at := &h.limits[f-fieldMaxTokens]
	at.start = s.pos
	null := s.peek() == 'n'
	n, ok := s.integer(tokensMax)
	if !ok {
		return "is not an integer from 0 to 2147483648"
	}
	at.end = s.pos
	h.Limit = max(h.Limit, n)
	switch {
	case null || f == fieldNPredict:
	case f == fieldMaxCompletionTokens:
		h.hasMax = true
		h.MaxTokens = n
	case !h.hasMax:
		h.MaxTokens = n
	}
	return ""
}

// boolean reads true, false, or null as false; ok is false for any other value.
func (s *scanner) boolean() (value, ok bool) {
	if s.literal("true") {
		return true, true
	}
	return false, s.literal("false") || s.literal("null")
}

func (h *Head) readModel(s *scanner) (why string) {
	if s.peek() != '"' {
		return "is not a string"
	}
	h.model.start = s.pos
	h.Model, why = s.name()
	h.model.end = s.pos
	return why
}

// name reads the model's name at hand. It returns what is wrong with it, to stand after its name, or "", also when the
// scanner stopped at a mistake.
func (s *scanner) name() (name, why string) {
	raw, ok := s.str()
	if !ok {
		return "", ""
	}
	// The longest escape is six bytes for one.
	if len(raw) > 6*modelMax {
		return "", "is longer than 256 bytes"
	}
	text := raw
	if bytes.IndexByte(raw, '\\') >= 0 {
		if text, ok = unescape(nil, raw); !ok {
			return "", "has a bad escape"
		}
		// An escape that is half a character decodes to U+FFFD here, and to something else in other languages.
		if bytes.ContainsRune(text, utf8.RuneError) {
			return "", "is not valid Unicode"
		}
	}
	switch {
	case len(text) == 0:
		return "", "is empty"
	case len(text) > modelMax:
		return "", "is longer than 256 bytes"
	case !utf8.Valid(text):
		return "", "is not valid UTF-8"
	case bytes.ContainsFunc(text, isControl):
		return "", "has a control character"
	}
	return string(text), ""
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (h *Head) readOptions(s *scanner) string {
	h.options.start = s.pos
	if s.literal("null") {
		h.optionsNull = true
		h.options.end = s.pos
		return ""
	}
	if s.peek() != '{' {
		return "is neither an object nor null"
	}
	s.open()
	h.optionsBare = true
	for key, ok := s.member(true); ok; key, ok = s.member(false) {
		h.optionsBare = false
		if string(key) != includeUsage {
			if s.odd && bytes.EqualFold(key, []byte(includeUsage)) {
				return "has include_usage written in other letter case"
			}
			s.skip()
			continue
		}
		if h.usage.start > 0 {
			return "has include_usage twice"
		}
		h.usage.start = s.pos
		if h.IncludeUsage, ok = s.boolean(); !ok {
			return "has an include_usage that is neither true, false nor null"
		}
		h.usage.end = s.pos
	}
	h.options.end = s.pos
	return ""
}

// WithUsage returns the body with stream_options.include_usage true if it streams, at most 43 bytes longer; a body that
// does not stream stays as it is. It writes into body, and into its spare capacity. The body must be the one h was
// read from, or what the last edit of h (WithUsage, WithModel and the like) returned; another length panics.
func (h *Head) WithUsage(body []byte) []byte {
	h.check(body)
	if !h.Stream || h.IncludeUsage || h.forced {
		return body
	}
	h.forced = true
	switch {
	case h.usage.start > 0:
		return h.splice(body, h.usage, "true")
	case h.optionsNull:
		h.optionsNull = false
		return h.splice(body, h.options, `{"include_usage":true}`)
	case h.options.start > 0:
		in := span{h.options.start + 1, h.options.start + 1}
		if h.optionsBare {
			h.optionsBare = false
			return h.splice(body, in, `"include_usage":true`)
		}
		return h.splice(body, in, `"include_usage":true,`)
	}
	return h.add(body, `,"stream_options":{"include_usage":true}`, &h.options)
}

// WithLimit returns the body with n, at least 1, as the most tokens of one answer: in the place of each bound that is
// given and does not bound it to as few, or as max_tokens if there is none. Of the body it asks, and does with it, the
// same as WithUsage; h.Limit is n then.
func (h *Head) WithLimit(body []byte, n int64) []byte {
	h.check(body)
	text, given := strconv.FormatInt(n, 10), false
	for i := range h.limits {
		at := h.limits[i]
		if at.start == 0 {
			continue
		}
		given = true
		if now, err := strconv.ParseInt(string(body[at.start:at.end]), 10, 64); err != nil || now == 0 || now > n {
			body = h.splice(body, at, text)
		}
	}
	if !given {
		body = h.add(body, `,"max_tokens":`+text, &h.limits[0])
	}
	h.Limit = n
	return body
}

// WithModel returns the body with the model's value replaced by a name, for engines that know the model under another.
// Of the body it asks, and does with it, the same as WithUsage; h.Model stays as the client asked.
func (h *Head) WithModel(body []byte, name string) []byte {
	h.check(body)
	text := string(appendString(nil, name))
	if h.model.start > 0 {
		return h.splice(body, h.model, text)
	}
	return h.add(body, modelKey+text, &h.model) // there is models, so that its comma is right
}

// check panics on a body that is not the one at hand: a splice of it would send the engine garbage.
func (h *Head) check(body []byte) {
	if len(body) != h.size {
		panic("openai: head is of a body of " + strconv.Itoa(h.size) + " bytes, not " + strconv.Itoa(len(body)))
	}
}
