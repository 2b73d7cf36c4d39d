// Package mock is an OpenAI chat engine that costs next to nothing: a benchmark then measures what is in front of it.
//
// What it does is in the model's name: "mock" answers at once with a whole body of about 1 KB;
// "mock-b4096" makes that 4,096 bytes; "mock-w5" waits 5 ms first; with "stream":true "mock-n100-d20" sends
// 100 content chunks 20 ms apart (-u500: 500 us apart, neither: back to back) and then the end of a stream.
package mock

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits of a behaviour: the name comes over the network, if only over loopback.
const (
	chunksMax = 1_000_000
	bodyMax   = 16 << 20
	waitMax   = 10 * time.Minute
)

// Context is the window that the mock says it has, tokens.
const Context = 131072

const (
	defaultChunks = 20
	defaultBody   = 1024
)

// Behaviour is what a model's name asks for.
type Behaviour struct {
	Chunks int           // content chunks of a stream
	Gap    time.Duration // between the starts of two chunks
	Wait   time.Duration // before the first byte
	Body   int           // bytes of a whole answer
}

// Parse reads a model name; one that is not a mock's is an error.
func Parse(model string) (Behaviour, error) {
	b := Behaviour{Chunks: defaultChunks, Body: defaultBody}
	name, rest, _ := strings.Cut(model, "-")
	if name != "mock" {
		return b, fmt.Errorf("model %.64q is not a mock", model)
	}
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest, "-")
		if word == "" {
			return b, fmt.Errorf("model %.64q: empty part", model)
		}
		n, err := strconv.Atoi(word[1:])
		if err != nil || n < 0 || n > bodyMax {
			return b, fmt.Errorf("model %.64q: %.16q is not a letter and a number", model, word)
		}
		switch word[0] {
		case 'n':
			b.Chunks = min(n, chunksMax)
		case 'd':
			b.Gap = min(time.Duration(n)*time.Millisecond, waitMax)
		case 'u':
			b.Gap = min(time.Duration(n)*time.Microsecond, waitMax)
		case 'w':
			b.Wait = min(time.Duration(n)*time.Millisecond, waitMax)
		case 'b':
			b.Body = n
		default:
			return b, fmt.Errorf("model %.64q: no behaviour %.1q", model, word)
		}
	}
	return b, nil
}

// call is what the mock reads of a request. It trusts its clients: they are the benchmark's own.
type call struct {
	Behaviour
	model         string
	stream, usage bool
	// receipt makes what a stream has before its usage, once the rest of it is known; nil if it has no such thing.
	receipt func(rest string) ([]byte, error)
}

func parseCall(body []byte) (call, error) {
	model := stringField(body, `"model":`)
	b, err := Parse(model)
	return call{
		Behaviour: b,
		model:     model,
		stream:    trueField(body, `"stream":`),
		usage:     trueField(body, `"include_usage":`),
	}, err
}

// stringField is the text of the first such field, without regard for where in the body it is.
func stringField(body []byte, name string) string {
	_, rest, _ := bytes.Cut(body, []byte(name))
	_, rest, _ = bytes.Cut(rest, []byte(`"`))
	text, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(text)
}

func trueField(body []byte, name string) bool {
	_, rest, _ := bytes.Cut(body, []byte(name))
	return bytes.HasPrefix(bytes.TrimLeft(rest, " "), []byte("true"))
}

const (
	answerHead = `{"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion","created":1764000000,` +
		`"model":"mock","choices":[{"index":0,"message":{"role":"assistant","content":"`
	answerTail = `"},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":42,` +
		`"total_tokens":170,"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"fp_mock"}`
	pangram = "The quick brown fox jumps over the lazy dog. "
)

// Answer is the mock's whole answer in so many bytes; never fewer than it takes without any content.
func Answer(size int) []byte {
	fill := max(size-len(answerHead)-len(answerTail), 0)
	return []byte(answerHead + strings.Repeat(pangram, fill/len(pangram)+1)[:fill] + answerTail)
}

// What every answer's usage says that it took, tokens.
const (
	PromptTokens     = 128
	CompletionTokens = 42
)

// Priced is the mock's whole answer as a gateway passes it on that says in it what it costs, nanoTON.
func Priced(answer []byte, cost int64) []byte {
	const end = `"prompt_tokens_details":{"cached_tokens":0}`
	at := bytes.LastIndex(answer, []byte(end)) + len(end)
	return slices.Concat(answer[:at], fmt.Appendf(nil, `,"cost_nanoton":%d`, cost), answer[at:])
}

// answers keeps each size once.
type answers struct{ bySize sync.Map }

func (a *answers) get(size int) []byte {
	if b, ok := a.bySize.Load(size); ok {
		return b.([]byte)
	}
	b := Answer(size)
	a.bySize.Store(size, b)
	return b
}

// StampDigits is the length of the time in each content chunk: "@" and Unix nanoseconds in so many digits.
const StampDigits = 19

const (
	event = `data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",` +
		`"created":1764000000,"model":"mock","choices":[`
	contentHead = event + `{"index":0,"delta":{"content":"@`
	contentTail = ` token"},"logprobs":null,"finish_reason":null}]}` + "\n\n"
	finish      = event + `{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}` + "\n\n"
	usage       = event + `],"usage":{"prompt_tokens":128,"completion_tokens":42,"total_tokens":170}}` + "\n\n"
	done        = "data: [DONE]\n\n"
	contentSize = len(contentHead) + StampDigits + len(contentTail)
)

// appendContent appends one content event that carries the time now.
func appendContent(b []byte, now time.Time) []byte {
	b = append(b, contentHead...)
	b = fmt.Appendf(b, "%0*d", StampDigits, now.UnixNano())
	return append(b, contentTail...)
}

// ending appends the events after the last content chunk.
func (c *call) ending(b []byte) ([]byte, error) {
	rest := done
	if c.usage {
		rest = usage + done
	}
	b = append(b, finish...)
	if c.receipt != nil {
		wire, err := c.receipt(finish + rest)
		if err != nil {
			return nil, err
		}
		b = appendEvent(b, wire)
	}
	return append(b, rest...), nil
}

// longSleep is the shortest sleep that is worth a timer that can be cut short.
const longSleep = 200 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) {
	if d < longSleep {
		time.Sleep(d)
		return
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// pieces calls send with each piece of a stream at its time: one piece a content chunk, one for the end.
// Times are kept from the start, so that a late chunk doesn't delay those after it.
func (c *call) pieces(ctx context.Context, buf []byte, send func([]byte) error) error {
	start := time.Now()
	for i := range c.Chunks {
		if i > 0 && c.Gap > 0 {
			sleep(ctx, time.Until(start.Add(time.Duration(i)*c.Gap)))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := send(appendContent(buf[:0], time.Now())); err != nil {
			return err
		}
	}
	end, err := c.ending(buf[:0])
	if err != nil {
		return err
	}
	return send(end)
}
