package openai

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what is taken from an upstream's error.
const (
	messageMax = 2 << 10  // bytes: enough for a validation error, too little to be a channel for an answer
	wordMax    = 128      // bytes of type, code and param
	errorMax   = 64 << 10 // bytes that are parsed; error bodies are small
	detailMax  = 8        // entries of a FastAPI error that are told
)

// Error is OpenAI's error object with its HTTP status.
type Error struct {
	// Status is the HTTP status; it is not in the JSON.
	Status int
	// Type is the class of the error, such as invalid_request_error.
	Type string
	// Code says which error exactly, such as model_not_found; "" is null.
	Code string
	// Param is the request field to blame; "" is null.
	Param string
	// Message is for a person.
	Message string
	// RetryAfter is when to try again, rounded up to seconds in the Retry-After header; 0 sends none.
	RetryAfter time.Duration
	// NoRetry tells SDKs not to retry by themselves (x-should-retry: false).
	NoRetry bool
}

// NewError makes an error of the type that goes with the HTTP status. Its code may be "".
func NewError(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Type: typeOf(status), Code: code, Message: fmt.Sprintf(format, args...)}
}

// BadRequest makes a 400 that blames a request field ("" for none).
func BadRequest(param, format string, args ...any) *Error {
	e := NewError(http.StatusBadRequest, "", format, args...)
	e.Param = param
	return e
}

// typeOf is the error type that OpenAI sends with a status.
func typeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusPaymentRequired:
		return "insufficient_quota"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	}
	if status >= 500 {
		return "server_error"
	}
	return "invalid_request_error"
}

// Error is the message with the status before it.
func (e *Error) Error() string { return strconv.Itoa(e.Status) + ": " + e.Message }

// Append appends the JSON object. It is valid UTF-8 whatever the fields hold, and "error" is its first key with no
// space before it: go-openai finds errors in a stream by just these bytes.
func (e *Error) Append(b []byte) []byte {
	b = append(b, `{"error":{"message":`...)
	b = appendString(b, e.Message)
	b = append(b, `,"type":`...)
	b = appendString(b, e.Type)
	b = append(b, `,"param":`...)
	b = appendNullable(b, e.Param)
	b = append(b, `,"code":`...)
	b = appendNullable(b, e.Code)
	return append(b, "}}"...)
}

// Write answers a request with the error.
func (e *Error) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if e.NoRetry {
		h.Set("X-Should-Retry", "false")
	}
	w.WriteHeader(cmp.Or(e.Status, http.StatusInternalServerError))
	_, _ = w.Write(append(e.Append(nil), '\n')) // the client may be gone
}

func appendNullable(b []byte, s string) []byte {
	if s == "" {
		return append(b, "null"...)
	}
	return appendString(b, s)
}

// appendString appends s as a JSON string; invalid UTF-8 becomes U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
			continue
		}
		switch {
		case c == '"', c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		case c < ' ', c == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
		i++
	}
	return append(b, '"')
}

// ParseError makes the best of an upstream's error answer, whatever the body is: OpenAI's object, {"error":"text"}
// (Ollama), {"message":"text"}, {"detail":...} (FastAPI), or plain text. The message is at most 2 KiB of valid UTF-8
// and never empty; a status that is no error becomes 502.
func ParseError(status int, body []byte) *Error {
	if status < 400 || status > 599 {
		status = http.StatusBadGateway
	}
	e := NewError(status, "", "")
	e.Message = clip(e.parse(body), messageMax)
	if e.Message == "" {
		e.Message = "upstream answered " + strings.TrimSpace(strconv.Itoa(status)+" "+http.StatusText(status))
	}
	return e
}

// parse takes what it finds in the body and returns the message.
func (e *Error) parse(body []byte) string {
	body = bytes.TrimSpace(body)
	var top struct {
		Error   json.RawMessage `json:"error"`
		Detail  json.RawMessage `json:"detail"`
		Message json.RawMessage `json:"message"`
		Type    json.RawMessage `json:"type"`
		Param   json.RawMessage `json:"param"`
		Code    json.RawMessage `json:"code"`
	}
	switch {
	case len(body) == 0, body[0] == '<': // an HTML page says nothing
		return ""
	case len(body) > errorMax || json.Unmarshal(body, &top) != nil:
		return string(body[:min(len(body), 2*messageMax)])
	}
	inner := top
	if top.Error != nil && json.Unmarshal(top.Error, &inner) != nil {
		return text(top.Error)
	}
	e.Type = cmp.Or(word(inner.Type), e.Type)
	e.Code = word(inner.Code)
	e.Param = word(inner.Param)
	if m := text(inner.Message); m != "" {
		return m
	}
	return e.details(inner.Detail)
}

// details reads FastAPI's detail: a text, or a list of what is wrong where.
func (e *Error) details(raw json.RawMessage) string {
	if m := text(raw); m != "" {
		return m
	}
	var list []struct {
		Loc []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	if json.Unmarshal(raw, &list) != nil {
		return ""
	}
	var out []string
	for _, d := range list[:min(len(list), detailMax)] {
		var path []string
		for _, p := range d.Loc {
			path = append(path, fmt.Sprint(p))
		}
		out = append(out, strings.Trim(strings.Join(path, ".")+": "+d.Msg, ": "))
	}
	return strings.Join(out, "; ")
}

// text is a JSON string's text, "" for anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// word is a JSON string that may stand as type, code or param: short and printable ASCII. Anything else is "",
// such as the numbers some engines send as code, which break typed clients.
func word(raw json.RawMessage) string {
	s := text(raw)
	if len(s) > wordMax || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return s
}

// clip makes valid UTF-8 of s and cuts it to a number of bytes, between characters.
func clip(s string, size int) string {
	s = strings.TrimSpace(strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= size {
		return s
	}
	for size > 0 && !utf8.RuneStart(s[size]) {
		size--
	}
	return s[:size]
}
