//go:build linux

package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	readBuf     = 4 << 10
	// lineMax bounds a head's line, a chunk's size line and an event of a stream: the mock's are under 400 bytes.
	lineMax = 64 << 10
)

// wrongError is an answer that arrived and is not the one that was due. Everything else that fails is a loss.
type wrongError struct{ text string }

func (e *wrongError) Error() string { return e.text }

func wrong(format string, args ...any) error { return &wrongError{fmt.Sprintf(format, args...)} }

func isWrong(err error) bool {
	_, ok := errors.AsType[*wrongError](err)
	return ok
}

// conn is one HTTP/1.1 connection to a peer, written by hand: a client that costs more than the peers measures itself.
type conn struct {
	c    net.Conn
	buf  []byte
	r, w int // buf[r:w] is read and not yet used
	left int // of a chunk or a body with a length
	in   framing
}

// framing is how the body under way ends.
type framing int

const (
	framedNone    framing = iota // the body is at its end
	framedLength                 // left more bytes
	framedChunks                 // a chunk's size line is next
	framedInChunk                // left more bytes of a chunk, then CR LF
)

func dial(ctx context.Context, address string, deadline time.Time) (*conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &conn{c: c, buf: make([]byte, readBuf)}, nil
}

func (k *conn) close() { _ = k.c.Close() } // all that mattered is counted before

func (k *conn) send(request []byte) error {
	_, err := k.c.Write(request)
	return err
}

func (k *conn) fill() error {
	switch {
	case k.r == k.w:
		k.r, k.w = 0, 0
	case k.w == len(k.buf):
		k.w = copy(k.buf, k.buf[k.r:k.w])
		k.r = 0
	}
	if k.w == len(k.buf) {
		k.buf = append(k.buf, make([]byte, len(k.buf))...)
	}
	n, err := k.c.Read(k.buf[k.w:])
	k.w += n
	if n > 0 {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// line is the next line without its CR LF, valid until the next read.
func (k *conn) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(k.buf[k.r:k.w], '\n'); i >= 0 {
			line := k.buf[k.r : k.r+i]
			k.r += i + 1
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if k.w-k.r > lineMax {
			return nil, wrong("a line of more than %d bytes", lineMax)
		}
		if err := k.fill(); err != nil {
			return nil, err
		}
	}
}

// head is what the client reads of a response head.
type head struct {
	status int
	closes bool // the peer closes the connection after this answer
	events bool // text/event-stream
}

// readHead reads a response head; the body's pieces are next.
func (k *conn) readHead() (head, error) {
	line, err := k.line()
	if err != nil {
		return head{}, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return head{}, wrong("status line %.40q", line)
	}
	var h head
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return h, wrong("status line %.40q", line)
	}
	k.in, k.left = framedNone, 0
	framed := false
	for {
		if line, err = k.line(); err != nil {
			return h, err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if k.left, err = strconv.Atoi(string(value)); err != nil || k.left < 0 {
				return h, wrong("content-length %.40q", value)
			}
			k.in, framed = framedLength, true
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			k.in, framed = framedChunks, true
		case bytes.EqualFold(name, []byte("connection")):
			h.closes = bytes.EqualFold(value, []byte("close"))
		case bytes.EqualFold(name, []byte("content-type")):
			h.events = bytes.HasPrefix(value, []byte("text/event-stream"))
		}
	}
	if !framed {
		return h, wrong("status %d: neither a length nor chunks", h.status)
	}
	return h, nil
}

// piece is the next bytes of the body, valid until the next call; io.EOF at its clean end.
func (k *conn) piece() ([]byte, error) {
	for {
		switch k.in {
		case framedNone:
			return nil, io.EOF
		case framedChunks:
			if err := k.chunk(); err != nil {
				return nil, err
			}
			continue
		case framedLength, framedInChunk:
		}
		if k.left == 0 {
			if k.in == framedLength {
				k.in = framedNone
				continue
			}
			if line, err := k.line(); err != nil || len(line) > 0 {
				return nil, errors.Join(err, wrong("no CR LF after a chunk"))
			}
			k.in = framedChunks
			continue
		}
		if k.r == k.w {
			if err := k.fill(); err != nil {
				return nil, err
			}
		}
		p := k.buf[k.r:min(k.w, k.r+k.left)]
		k.r += len(p)
		k.left -= len(p)
		return p, nil
	}
}

// chunk reads a chunk's size line, and all of the end when the size is 0.
func (k *conn) chunk() error {
	line, err := k.line()
	if err != nil {
		return err
	}
	size, err := strconv.ParseUint(string(line), 16, 31)
	if err != nil {
		return wrong("chunk size %.40q", line)
	}
	if k.left, k.in = int(size), framedInChunk; size > 0 {
		return nil
	}
	k.in = framedNone
	if line, err = k.line(); err == nil && len(line) > 0 {
		return wrong("a trailer %.40q", line)
	}
	return err
}

// whole is the rest of the body in into's capacity; more than limit bytes is wrong.
func (k *conn) whole(into []byte, limit int) ([]byte, error) {
	into = into[:0]
	for {
		p, err := k.piece()
		if errors.Is(err, io.EOF) {
			return into, nil
		}
		if err != nil {
			return into, err
		}
		if into = append(into, p...); len(into) > limit {
			return into, wrong("more than %d bytes of answer", limit)
		}
	}
}
