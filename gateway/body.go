package gateway

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"cocoon/internal/openai"
)

const (
	bodySpare  = 64       // bytes that the include_usage splice may add without a copy
	bodyFirst  = 16 << 10 // first buffer for a body of unknown length
	discardFor = 5 * time.Second
)

// body is a request's body, or a whole answer, in a pooled buffer.
type body struct {
	buf     *[]byte
	charged int // bytes that count against the memory limit
}

func (b *body) bytes() []byte { return *b.buf }

func (b *body) set(bytes []byte) { *b.buf = bytes }

func (b *body) close(m *memory) {
	if b.buf != nil {
		m.put(b.buf)
		b.buf = nil
	}
	m.give(b.charged)
	b.charged = 0
}

// read takes the whole body, within the limits of size, time and memory.
func (b *body) read(c *call) *openai.Error {
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return openai.NewError(http.StatusUnsupportedMediaType, "unsupported_encoding", "Content-Encoding %q is not taken; send the body as it is", clip(enc, 40))
	}
	n := c.r.ContentLength
	switch {
	case n > bodyMax:
		return errTooLarge()
	case n == 0:
		return openai.BadRequest("", "the request has no body; send a JSON object with model and messages")
	case n < 0:
		return b.readUnknown(c)
	}
	if !b.charge(c, int(n)) {
		return errMemory()
	}
	b.buf = c.s.memory.get(int(n) + bodySpare)
	if _, err := io.ReadFull(c.r.Body, (*b.buf)[:n]); err != nil {
		return b.cut(err)
	}
	*b.buf = (*b.buf)[:n]
	return nil
}

// readUnknown takes a chunked body.
func (b *body) readUnknown(c *call) *openai.Error {
	b.buf = c.s.memory.get(bodyFirst)
	for {
		text := b.grown(&c.s.memory)
		n, err := c.r.Body.Read(text[len(text):min(cap(text), bodyMax+1)])
		*b.buf = text[:len(text)+n]
		switch {
		case len(*b.buf) > bodyMax:
			return errTooLarge()
		case !b.charge(c, n):
			return errMemory()
		case err == io.EOF: //nolint:errorlint // the contract of io.Reader
			return nil
		case err != nil:
			return b.cut(err)
		}
	}
}

// grown is the buffer with room for at least one byte more.
func (b *body) grown(m *memory) []byte {
	if text := *b.buf; len(text) == cap(text) {
		larger := m.get(2 * cap(text))
		*larger = append(*larger, text...)
		m.put(b.buf)
		b.buf = larger
	}
	return *b.buf
}

func (b *body) charge(c *call, n int) bool {
	if !c.s.memory.take(n) {
		return false
	}
	b.charged += n
	return true
}

// cut says why a body did not come whole.
func (b *body) cut(err error) *openai.Error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return openai.NewError(http.StatusRequestTimeout, "request_timeout", "the request body did not arrive in time")
	}
	return openai.BadRequest("", "the request body is cut short or badly framed")
}

// refuse answers a request whose body was not taken, and ends the connection: where the next request begins is not
// known. A client that is still sending gets a while to finish, or it would not read the answer; one that waits for
// "100 Continue" sends nothing.
func (b *body) refuse(c *call, e *openai.Error) {
	if c.r.ProtoMajor == 1 {
		c.w.Header().Set("Connection", "close")
	}
	c.s.refuse(c.w, e)
	if e.Status != http.StatusRequestEntityTooLarge && e.Status != http.StatusServiceUnavailable || c.r.Header.Get("Expect") != "" {
		return
	}
	ctl := http.NewResponseController(c.w)
	_ = ctl.Flush()
	_ = ctl.SetReadDeadline(time.Now().Add(discardFor)) // fails only on a dead connection
	_, _ = io.CopyN(io.Discard, c.r.Body, bodyMax)
}
