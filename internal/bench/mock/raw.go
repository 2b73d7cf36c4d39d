package mock

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
)

const (
	headMax = 16 << 10 // a request's head; proxies add a few hundred bytes to the client's
	readMin = 1 << 10  // free space before a read
	idleBuf = 4 << 10  // a longer read buffer is let go while a stream is held
)

var errRequest = errors.New("request that the mock can't read")

// Raw serves the mock as hand-written HTTP/1.1 on bare connections: with net/http it would take longer than the
// proxies that it is to load. It knows only what the benchmark's peers send: requests with a Content-Length.
type Raw struct {
	// Models is what GET /v1/models lists. Every other mock's name works too.
	Models []string

	answers sync.Map // whole answers with their heads, by the size of their body
}

// Serve answers connections of l until ctx ends, then closes them all.
func (s *Raw) Serve(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting: %w", err)
		}
		all.Go(func() {
			// The peer's end of a connection is no news: clients and proxies close them as they like.
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer c.Close()
			k := rawConn{s: s, c: c, buf: make([]byte, 2*readMin)}
			for k.serve(ctx) == nil && ctx.Err() == nil {
			}
		})
	}
}

type rawConn struct {
	s    *Raw
	c    net.Conn
	buf  []byte
	r, w int // buf[r:w] is read and not yet used
	out  []byte
}

// fill reads once more.
func (k *rawConn) fill() error {
	if k.r > 0 {
		k.w = copy(k.buf, k.buf[k.r:k.w])
		k.r = 0
	}
	if len(k.buf)-k.w < readMin {
		k.buf = append(make([]byte, 0, 2*len(k.buf)+readMin), k.buf[:k.w]...)
		k.buf = k.buf[:cap(k.buf)]
	}
	n, err := k.c.Read(k.buf[k.w:])
	k.w += n
	if n > 0 {
		return nil
	}
	return err
}

// serve answers one request.
func (k *rawConn) serve(ctx context.Context) error {
	end := -1
	for {
		if end = bytes.Index(k.buf[k.r:k.w], []byte("\r\n\r\n")); end >= 0 {
			break
		}
		if k.w-k.r > headMax {
			return errRequest
		}
		if err := k.fill(); err != nil {
			return err
		}
	}
	head := k.buf[k.r : k.r+end+4]
	target, _, _ := bytes.Cut(head, []byte("\r\n"))
	chat := bytes.Contains(target, []byte("/chat/completions"))
	size, err := contentLength(head)
	if err != nil {
		return err
	}
	k.r += len(head)
	for k.w-k.r < size {
		if err := k.fill(); err != nil {
			return err
		}
	}
	body := k.buf[k.r : k.r+size]
	k.r += size
	if bytes.HasPrefix(target, []byte("GET /v1/models ")) {
		return k.list()
	}
	if !chat {
		return k.refuse("the mock only chats")
	}
	call, err := parseCall(body)
	if err != nil {
		return k.refuse(err.Error())
	}
	sleep(ctx, call.Wait)
	if call.stream {
		return k.stream(ctx, &call)
	}
	return k.whole(call.Body)
}

func contentLength(head []byte) (int, error) {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		const name = "content-length:"
		if len(line) > len(name) && line[0]|0x20 == 'c' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n, err := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			if err != nil || n < 0 || n > bodyMax {
				return 0, errRequest
			}
			return n, nil
		}
	}
	return 0, nil
}

// list answers as vLLM does, so that a worker learns all it needs.
func (k *rawConn) list() error {
	body := []byte(`{"object":"list","data":[`)
	for i, m := range k.s.Models {
		if i > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"id":%q,"object":"model","created":1764000000,"owned_by":"mock","max_model_len":%d}`,
			m, Context)
	}
	body = append(body, "]}"...)
	_, err := k.c.Write(append(jsonHead("200 OK", len(body)), body...))
	return err
}

func (k *rawConn) refuse(message string) error {
	body := fmt.Appendf(nil, `{"error":{"message":%q,"type":"not_found","param":null,"code":null}}`, message)
	_, err := k.c.Write(append(jsonHead("404 Not Found", len(body)), body...))
	return err
}

func jsonHead(status string, size int) []byte {
	const head = "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
	return fmt.Appendf(nil, head, status, size)
}

// whole writes the answer of so many bytes, head and body made once for each size.
func (k *rawConn) whole(size int) error {
	full, ok := k.s.answers.Load(size)
	if !ok {
		body := Answer(size)
		full = append(jsonHead("200 OK", len(body)), body...)
		k.s.answers.Store(size, full)
	}
	_, err := k.c.Write(full.([]byte))
	return err
}

const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n" +
	"Transfer-Encoding: chunked\r\n\r\n"

func (k *rawConn) stream(ctx context.Context, c *call) error {
	if len(k.buf) > idleBuf && k.r == k.w {
		k.buf, k.r, k.w = make([]byte, 2*readMin), 0, 0
	}
	k.out = append(k.out[:0], streamHead...)
	err := c.pieces(ctx, make([]byte, 0, 2*contentSize), func(piece []byte) error {
		k.out = strconv.AppendInt(k.out, int64(len(piece)), 16)
		k.out = append(k.out, "\r\n"...)
		k.out = append(k.out, piece...)
		k.out = append(k.out, "\r\n"...)
		_, err := k.c.Write(k.out)
		k.out = k.out[:0]
		return err
	})
	if err != nil {
		return err
	}
	_, err = k.c.Write([]byte("0\r\n\r\n"))
	return err
}
