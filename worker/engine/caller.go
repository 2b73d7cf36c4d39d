package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/openai"
)

// Limits of what an engine may do to us.
const (
	dialTimeout   = 5 * time.Second // engines are on this machine or its network
	answerMax     = 64 << 20        // bytes of a whole answer: the longest context in base64 is less
	errorBodyMax  = 64 << 10        // bytes of an error answer: enough for any message
	infoMax       = 16 << 20        // bytes of what an engine tells about itself: lists, templates, metrics
	headerMax     = 64 << 10        // bytes of a response head
	lineBufferLen = 4 << 10         // bytes a stream's buffer starts with: most events fit
	idleConnsMax  = 64              // connections kept: more requests than that dial anew now and then
	idleConnTime  = 60 * time.Second
	busyRetry     = time.Second            // when an engine that is busy does not say
	drainTime     = 250 * time.Millisecond // what a finished stream may take to end, so that its connection lives on
	retryAfterMax = 10 * time.Minute       // a longer wait is no hint that a router can use
)

// errIdle is why a request that made no progress was cancelled.
var errIdle = errors.New("engine made no progress")

// caller speaks HTTP to the engine. No header but its own goes there, and no redirect is followed: prompts go to the
// configured address or nowhere.
type caller struct {
	base         *url.URL
	http         *http.Client
	key          string
	idle, answer time.Duration
	// blame, if set, looks first at an answer that is not 200; nil from it leaves the error to statusError.
	blame func(status int, body []byte) *openai.Error
}

func newCaller(c Config) (*caller, error) {
	base, err := ParseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("engine url: %w", err)
	}
	if strings.ContainsFunc(c.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("engine key: holds a space, a line break or another character that no header can carry")
	}
	call := &caller{base: base, key: c.Key, idle: c.IdleTimeout, answer: c.AnswerTimeout}
	if call.idle <= 0 {
		call.idle = IdleTimeout
	}
	if call.answer <= 0 {
		call.answer = AnswerTimeout
	}
	call.http = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:    dialTimeout,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    idleConnsMax,
			IdleConnTimeout:        idleConnTime,
			MaxResponseHeaderBytes: headerMax,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return call, nil
}

func (c *caller) close() { c.http.CloseIdleConnections() }

func (c *caller) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "cocoon-worker")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	return req, nil
}

// get fetches what an engine tells about itself. The status is 0 if nothing answered; any status with a body that
// could be read is no error.
func (c *caller) get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, reachError(ctx, err)
	}
	defer resp.Body.Close()
	body, err = readMax(resp.Body, infoMax)
	if err != nil {
		return resp.StatusCode, nil, fmt.Errorf("reading answer to GET %s: %w", path, err)
	}
	return resp.StatusCode, body, nil
}

// getJSON is get for routes that answer 200 with JSON; anything else is an error.
func (c *caller) getJSON(ctx context.Context, path string, into any) (status int, err error) {
	status, body, err := c.get(ctx, path)
	switch {
	case err != nil:
		return status, err
	case status != http.StatusOK:
		return status, fmt.Errorf("engine answers %d to GET %s", status, path)
	case json.Unmarshal(body, into) != nil:
		return status, fmt.Errorf("engine's answer to GET %s is not the JSON we know", path)
	}
	return status, nil
}

// reachError says why there is no answer, without the address: it may reach clients.
func reachError(ctx context.Context, err error) error {
	op := new(net.OpError)
	switch {
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("%w: %w", ErrDown, op.Err)
	case ctx.Err() != nil:
		return fmt.Errorf("engine did not answer: %w", ctx.Err())
	}
	return errors.New("engine broke off its answer, or does not speak HTTP")
}

// exchange is one chat request at the engine, ended by its caller, by the end of the request or by its idle clock.
type exchange struct {
	resp   *http.Response
	parent context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	clock  *time.Timer
	broken error // what a read ended with, unless the body's clean end
}

// post sends a chat request and waits for the response head, at most patience; then each progress gives idle more.
// A response that is not 200 comes back as an error.
func (c *caller) post(ctx context.Context, path string, body []byte, patience time.Duration) (*exchange, error) {
	x := &exchange{parent: ctx}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	x.clock = time.AfterFunc(patience, func() { x.cancel(errIdle) })
	req, err := c.request(x.ctx, http.MethodPost, path, body)
	if err != nil {
		x.close()
		return nil, err
	}
	x.resp, err = c.http.Do(req)
	if err != nil {
		err = x.failed(err)
		x.close()
		return nil, err
	}
	if x.resp.StatusCode != http.StatusOK {
		defer x.close()
		text, err := readMax(x.resp.Body, errorBodyMax)
		if err != nil {
			text = nil // the status says enough
		}
		if x.parent.Err() != nil {
			return nil, x.parent.Err()
		}
		if c.blame != nil {
			if e := c.blame(x.resp.StatusCode, text); e != nil {
				return nil, e
			}
		}
		return nil, statusError(x.resp.StatusCode, x.resp.Header.Get("Retry-After"), text)
	}
	return x, nil
}

// Read reads the body.
func (x *exchange) Read(p []byte) (int, error) {
	n, err := x.resp.Body.Read(p)
	if err != nil && err != io.EOF {
		x.broken = err
	}
	return n, err
}

// progress winds the clock.

func (x *exchange) progress(idle time.Duration) { x.clock.Reset(idle) }

// close ends the exchange. A body that was not read to its end takes the connection with it, at once.
func (x *exchange) close() {
	x.clock.Stop()
	x.cancel(nil)
	if x.resp != nil {
		_ = x.resp.Body.Close()
	}
}

// drain reads to the end of a body that should be there already, so that the connection can be used again.
func (x *exchange) drain() {
	x.progress(drainTime)
	_, _ = io.CopyN(io.Discard, x.resp.Body, lineBufferLen)
}

// failed turns a failed read or a failed start into what the caller of Chat gets.
func (x *exchange) failed(err error) error {
	op := new(net.OpError)
	switch {
	case x.parent.Err() != nil:
		return x.parent.Err()
	case errors.Is(context.Cause(x.ctx), errIdle):
		return openai.NewError(http.StatusGatewayTimeout, "engine_timeout", "The engine made no progress for too long.")
	case errors.As(err, &op) && op.Op == "dial":
		return unavailable("The worker's engine is not running.")
	}
	return engineError("The engine broke off its answer.")
}

// engineError is a 502: the engine's fault, another worker may do better.
func engineError(format string, args ...any) *openai.Error {
	return openai.NewError(http.StatusBadGateway, "engine_error", format, args...)
}

// unavailable is a 503 for requests that the engine has not begun.
func unavailable(message string) *openai.Error {
	e := openai.NewError(http.StatusServiceUnavailable, "server_is_overloaded", "%s", message)
	e.RetryAfter = busyRetry
	return e
}

// statusError turns an engine's answer that is not 200 into the client's error. What is the client's fault keeps the
// engine's words; of other faults the client learns no more than it can use.
func statusError(status int, retryAfter string, body []byte) *openai.Error {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return clientError(status, body)
	case http.StatusUnauthorized, http.StatusForbidden:
		return engineError("The engine refused the worker's own access.")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e := unavailable("The worker's engine is busy.")
		if s, err := strconv.Atoi(retryAfter); err == nil && s > 0 {
			e.RetryAfter = min(time.Duration(s)*time.Second, retryAfterMax)
		}
		return e
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return openai.NewError(http.StatusGatewayTimeout, "engine_timeout", "The engine took too long.")
	}
	return engineError("The engine failed with status %d.", status)
}

func clientError(status int, body []byte) *openai.Error {
	e := openai.ParseError(status, body)
	if contextExceeded(e) {
		e.Status, e.Code, e.Param = http.StatusBadRequest, "context_length_exceeded", "messages"
	}
	e.Type = "invalid_request_error"
	return e
}

// contextExceeded knows the engines' ways to say that the prompt is too long: vLLM and OpenAI "maximum context length",
// SGLang "longer than the model's context length", Ollama "exceeds the context length", llama.cpp by type.
func contextExceeded(e *openai.Error) bool {
	if e.Code == "context_length_exceeded" || e.Type == "exceed_context_size_error" {
		return true
	}
	text := strings.ToLower(e.Message)
	return strings.Contains(text, "context length") || strings.Contains(text, "context size") ||
		strings.Contains(text, "context window")
}

// errTooLong marks a body beyond its limit.
var errTooLong = errors.New("longer than allowed")

// readMax reads all of r, at most limit bytes.
func readMax(r io.Reader, limit int64) ([]byte, error) {
	var b bytes.Buffer // doubles where io.ReadAll grows by a quarter: long answers are copied less
	n, err := b.ReadFrom(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, fmt.Errorf("%w: over %d bytes", errTooLong, limit)
	}
	return b.Bytes(), nil
}
