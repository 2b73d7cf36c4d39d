package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/internal/openai"
)

// Kinds of engines that Config can name.
const (
	// KindAuto asks the engine what it is.
	KindAuto = "auto"
	// KindOllama is Ollama, driven through its native API.
	KindOllama = "ollama"
	// KindOpenAI is anything that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp's llama-server and others.
	KindOpenAI = "openai"
)

// Defaults of Config.
const (
	// IdleTimeout is how long a stream may pause: the longest waits seen are loads of big models.
	IdleTimeout = 5 * time.Minute
	// AnswerTimeout is how long a whole answer may take, as long as OpenAI's own clients wait.
	AnswerTimeout = 10 * time.Minute
)

// ErrDown means that nothing answers at the engine's address: it is not running, or still starting.
var ErrDown = errors.New("engine can't be reached")

// Model is one model that an engine serves.
type Model struct {
	// Name is what the engine calls it.
	Name string
	// WeightsDigest is "sha256:" and hex digits, or empty when the engine can't tell.
	WeightsDigest string
	// ContextTokens is the window, prompt and answer together; 0 if the engine does not say.
	ContextTokens int
	// Features are those of package offer.
	Features []string
	// Quantization is one of package offer's words; empty if the engine does not tell.
	Quantization string
}

// Status is what an engine says about itself at one moment.
type Status struct {
	// Engine is its name and, if it tells, its version: "ollama 0.17.4".
	Engine string
	// Slots is how many requests it runs at once: as it says, else as its kind usually does.
	Slots int
	// Models are those that can chat, sorted by nothing in particular.
	Models []Model
	// HasLoad tells whether Running and Queued are known: requests at the engine, ours and everybody else's.
	HasLoad         bool
	Running, Queued int
}

// Request is one chat completion.
type Request struct {
	// ID is the request's id, short and printable; answers that we write carry it.
	ID string
	// Public is the name of the model that the client asked for; Model is the engine's name for it.
	Public, Model string
	// Head was read from Body; both are the engine's to change.
	Head *openai.Head
	Body []byte
	// Salt is a secret of the client's tenant, of SaltSize characters; empty if there is none. Engines that take one keep
	// the prefixes that they cache apart by it.
	Salt string
}

// Output takes the answer. Its errors end the request and come back from Chat as they are.
type Output interface {
	// Count takes what the answer took so far, before the Event, End or Answer that it includes. The prompt is 0 until the
	// engine has counted it. Before End and Answer it is what Chat returns; else it may be the events with content.
	Count(u openai.Usage)
	// Event takes one chunk of a stream, a JSON object without the framing of SSE, valid until Event returns.
	// More tells that another one follows without delay, so that a flush can wait.
	Event(data []byte, more bool) error
	// End takes the last chunk of a stream that is whole, with usage and empty choices. Cut tells that a choice ended
	// because no more tokens were allowed.
	End(data []byte, cut bool) error
	// Answer takes the whole answer of a request that does not stream.
	Answer(body []byte, cut bool) error
}

// Engine is an inference server. Its methods may be called at once from many goroutines.
type Engine interface {
	// Status asks how the engine is. An error means that it can't serve now: ErrDown if nothing answers there.
	Status(ctx context.Context) (Status, error)
	// Chat runs one request. A stream that ends well has a last chunk with usage and empty choices; the [DONE] is left
	// to the caller. The error is an *openai.Error with the status that the client should see, the context's when that
	// has ended, or the Output's. When ctx ends, the connection to the engine is closed at once: engines stop then.
	// Tokens that the engine counted come back also with an error; when ctx has ended before it counted the prompt's
	// of an answer that had begun, they are estimated.
	Chat(ctx context.Context, req *Request, out Output) (openai.Usage, error)
	// Close closes idle connections; requests that run go on.
	Close()
}

// Config says where the engine is.
type Config struct {
	// URL is the engine's base address, such as http://127.0.0.1:8000; a /v1 at its end is ignored.
	URL string
	// Kind is KindAuto ("" too), KindOllama or KindOpenAI.
	Kind string
	// Key is sent as bearer if not empty.
	Key string
	// IdleTimeout and AnswerTimeout are those of the constants if zero.
	IdleTimeout, AnswerTimeout time.Duration
}

// ParseURL checks an engine's base address and strips what Config.URL ignores.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("want http:// or https://")
	case u.Host == "" || u.Hostname() == "":
		return nil, errors.New("no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("user, query and fragment have no place in it")
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/v1")
	u.RawPath = ""
	return u, nil
}

// Open returns the engine of a configuration. With KindAuto it asks the engine what it is, and fails, with ErrDown,
// when nobody answers; with another kind it does no I/O.
func Open(ctx context.Context, c Config) (Engine, error) {
	call, err := newCaller(c)
	if err != nil {
		return nil, err
	}
	kind := c.Kind
	if kind == "" || kind == KindAuto {
		if kind, err = detect(ctx, call); err != nil {
			call.close()
			return nil, err
		}
	}
	switch kind {
	case KindOllama:
		return newNative(call), nil
	case KindOpenAI:
		return &compatible{call: call}, nil
	}
	return nil, fmt.Errorf("engine kind %q, want %s, %s or %s", kind, KindAuto, KindOllama, KindOpenAI)
}

// detect tells Ollama by its version route, everything else by its list of models.
func detect(ctx context.Context, c *caller) (string, error) {
	var version struct {
		Version string `json:"version"`
	}
	status, err := c.getJSON(ctx, "/api/version", &version)
	if err != nil && status == 0 {
		return "", err
	}
	if err == nil && version.Version != "" {
		return KindOllama, nil
	}
	var list struct {
		Data json.RawMessage `json:"data"`
	}
	switch status, err = c.getJSON(ctx, "/v1/models", &list); {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return "", fmt.Errorf("engine answers %d to GET /v1/models: it wants another key", status)
	case status == http.StatusServiceUnavailable:
		return "", errors.New("engine answers 503 to GET /v1/models: it is still loading")
	case err != nil:
		return "", err
	case list.Data == nil:
		return "", errors.New("engine is neither Ollama nor OpenAI-compatible: no models at GET /v1/models")
	}
	return KindOpenAI, nil
}
