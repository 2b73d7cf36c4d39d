// Package h1 is a strict HTTP/1.1 client on one connection: the gateway's hot path towards its workers.
//
// It differs from net/http's Transport where that one costs most: no goroutine per connection, no header map, one
// Write for a small request, and no buffer held by a connection that is idle or waits in the middle of a body.
// It speaks only what our own workers answer: a body with Content-Length or chunked, nothing that ends with the
// connection, no trailers, no upgrades. Whatever it accepts net/http accepts with the same meaning (fuzzed).
package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
)

const (
	// HeadMax bounds the head of a response, bytes: net/http's servers allow requests about as much.
	HeadMax = 64 << 10
	// interimMax bounds the 1xx responses before the real one; nobody of ours sends any.
	interimMax = 3
	// readSize is the pooled read buffer: a head and the first events, or all of a short answer.
	readSize = 2 << 10
	// writeSize is the pooled write buffer: what fits goes out in one Write, and is one TLS record.
	writeSize = 16 << 10
	// emptyReadsMax bounds reads that return nothing, as bufio does.
	emptyReadsMax = 100
)

var (
	// ErrStale means that the connection broke before any byte of a response came: most often the peer closed it
	// while it was idle. Another connection may be tried. The cause is wrapped.
	ErrStale = errors.New("h1: connection closed before a response")
	// ErrProtocol means that the peer sent what we do not take for HTTP/1.1. The connection is dead.
	ErrProtocol = errors.New("h1: malformed response")
	// ErrRequest means that a request can't be written as it is, such as a header that is not whole lines.
	ErrRequest = errors.New("h1: malformed request")
	// ErrBusy means that the connection is not ready for what was asked: broken, or in the middle of a response.
	ErrBusy = errors.New("h1: connection is not ready")
)

// The pools are shared by all connections; they hold memory and no state.
var (
	readPool  = sync.Pool{New: func() any { return new([readSize]byte) }}
	writePool = sync.Pool{New: func() any { return new([writeSize]byte) }}
)

type state uint8

const (
	idle    state = iota // ready for a request
	waiting              // request written, response head not complete
	inBody               // response head given to the caller, body not at its end
	broken               // of no more use
)

// Conn is an HTTP/1.1 client connection. One goroutine may use it at a time; only Net may be used beside it, to set
// deadlines or to close. A read deadline that passes loses nothing: Resume goes on with the head, Read with the body.
type Conn struct {
	net     net.Conn
	pooled  *[readSize]byte // backs buf, unless a long head outgrew it
	buf     []byte          // nil while nothing is buffered
	r, w    int             // buf[r:w] is not consumed yet
	scanned int             // bytes of the unfinished head that were searched for its end
	interim int             // 1xx responses seen for this request
	state   state
	closing bool // the peer closes after this response, or must not be trusted to keep step
	resp    Response
}

// Request is what Do writes. Content-Length is added by Do.
type Request struct {
	// Method is any but HEAD and CONNECT, whose responses are framed differently.
	Method string
	// Path is the request target, from its slash on, with the query if any.
	Path string
	Host string
	// Header is whole "Key: value\r\n" lines, or empty.
	Header string
	Body   []byte
}

// NewConn makes a client of c, which is ready to carry requests. It does not read or write yet.
func NewConn(c net.Conn) *Conn {
	conn := &Conn{net: c}
	conn.resp.conn = conn
	return conn
}

// Net is the connection below, for deadlines and Close.
func (c *Conn) Net() net.Conn { return c.net }

// Reusable says whether the next Do can work: the last body was read to its end and the peer keeps the connection.
func (c *Conn) Reusable() bool { return c.state == idle && !c.closing && c.buf == nil }

// Do writes the request and reads the head of its response. The Response is valid until the next Do.
// Errors: ErrStale, ErrProtocol, ErrRequest, ErrBusy, or that of the connection; after a read deadline the exchange
// goes on with Resume, after any other error the connection is dead.
func (c *Conn) Do(r *Request) (*Response, error) {
	if !c.Reusable() {
		return nil, ErrBusy
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	c.state, c.interim, c.scanned = waiting, 0, 0
	if err := c.send(r); err != nil {
		return c.rejected(err)
	}
	return c.Resume()
}

// Resume goes on reading the head after Do, or Resume itself, returned with a read deadline exceeded.
func (c *Conn) Resume() (*Response, error) {
	if c.state != waiting {
		return nil, ErrBusy
	}
	for {
		head, err := c.readHead()
		if err == nil {
			err = c.resp.parse(head)
		}
		if err != nil {
			return nil, c.failed(err)
		}
		c.r, c.scanned = c.r+len(head), 0
		if c.resp.Status >= 200 {
			c.begin()
			return &c.resp, nil
		}
		if c.interim++; c.interim > interimMax {
			return nil, c.failed(malformed("too many 1xx responses"))
		}
	}
}

// rejected is for a request that could not be written whole: a peer that refuses a long body may have answered
// before it closed, and that answer says more than the failed write.
func (c *Conn) rejected(cause error) (*Response, error) {
	if !isTimeout(cause) { // after a write deadline the stream is torn, and the peer may still be reading
		resp, err := c.Resume()
		if err == nil {
			c.closing = true
			return resp, nil
		}
		if errors.Is(err, ErrStale) {
			cause = fmt.Errorf("%w: %w", ErrStale, cause)
		}
	}
	c.state = broken
	c.release()
	return nil, cause
}

// failed ends the exchange for good, unless err is a read deadline that passed.
func (c *Conn) failed(err error) error {
	if isTimeout(err) {
		return err
	}
	if c.interim > 0 {
		err = unexpected(err)
	} else if c.buf == nil && !errors.Is(err, ErrProtocol) {
		err = fmt.Errorf("%w: %w", ErrStale, err)
	}
	c.state = broken
	c.release()
	return err
}

// send writes the head and what fits of the body in one go, then the rest.
func (c *Conn) send(r *Request) error {
	pooled := writePool.Get().(*[writeSize]byte)
	defer writePool.Put(pooled)
	b := append(pooled[:0], r.Method...)
	b = append(b, ' ')
	b = append(b, r.Path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)
	b = append(b, r.Header...)
	if len(r.Body) > 0 || r.Method == "POST" || r.Method == "PUT" {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.Body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	first := min(len(r.Body), max(0, writeSize-len(b)))
	b = append(b, r.Body[:first]...)
	if _, err := c.net.Write(b); err != nil || first == len(r.Body) {
		return err
	}
	_, err := c.net.Write(r.Body[first:])
	return err
}

// validate keeps a request from being read as two, whatever its parts were made of.
func (r *Request) validate() error {
	if r.Method == "" || r.Method == "HEAD" || r.Method == "CONNECT" || !isToken([]byte(r.Method)) {
		return fmt.Errorf("%w: method", ErrRequest)
	}
	if r.Path == "" || r.Path[0] != '/' || !isVisible(r.Path) {
		return fmt.Errorf("%w: path", ErrRequest)
	}
	if r.Host == "" || !isVisible(r.Host) {
		return fmt.Errorf("%w: host", ErrRequest)
	}
	if !isHeaderLines(r.Header) {
		return fmt.Errorf("%w: header", ErrRequest)
	}
	return nil
}

// fill reads once more into buf, behind what is there.
func (c *Conn) fill() error {
	if c.buf == nil {
		c.pooled = readPool.Get().(*[readSize]byte)
		c.buf = c.pooled[:]
	}
	if c.r > 0 && c.w == len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.buf) { // only a head can be so long: bodies are consumed before more is read
		grown := make([]byte, min(2*len(c.buf), HeadMax))
		copy(grown, c.buf[:c.w])
		c.drop()
		c.buf = grown
	}
	n, err := c.read(c.buf[c.w:])
	c.w += n
	if c.r == c.w {
		c.release()
	}
	return err
}

// read returns bytes or an error, never neither; an error that comes with bytes comes again at the next read.
func (c *Conn) read(p []byte) (int, error) {
	for range emptyReadsMax {
		n, err := c.net.Read(p)
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// release gives the buffer back.
func (c *Conn) release() {
	c.drop()
	c.buf, c.r, c.w = nil, 0, 0
}

func (c *Conn) drop() {
	if c.pooled != nil {
		readPool.Put(c.pooled)
		c.pooled = nil
	}
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrProtocol, what) }
