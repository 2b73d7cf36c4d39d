package front

import (
	"bytes"
	"cmp"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readSize is the pooled read buffer: a head, and most small requests whole. A head that does not fit is not plain.
	readSize = 4 << 10
	// headWait is for the rest of a head of which a part has come: parts that were sent at once are only so far apart.
	// Who needs longer is net/http's, with all of its ReadHeaderTimeout.
	headWait = 250 * time.Millisecond
	// idleSlack is the part of IdleTimeout that a connection may stay open beyond it. It is how rarely a busy
	// connection's deadline is moved.
	idleSlack = 8
	// unreadMax is the most of a body that is read only to keep the connection; net/http's number.
	unreadMax = 256 << 10
	// lingerMax is how long a client that still sends has to read its answer before the connection is closed under
	// it; net/http's number.
	lingerMax = 500 * time.Millisecond
)

// readPool is shared by all connections; it holds memory and no state.
var readPool = sync.Pool{New: func() any { return new([readSize]byte) }}

// States of a connection, for shutdown.
const (
	idle int32 = iota // no request is being served
	busy              // its goroutine serves one, or gives the connection away
	over              // closed by shutdown
)

// conn is a client's connection. It belongs to its goroutine, but for state and the calls on net of shutdown and watch.
type conn struct {
	s      *server
	watch  *watch // one of the server's
	net    net.Conn
	state  atomic.Int32
	handed bool      // net/http has it
	armed  time.Time // the read deadline that is set

	buf    *[readSize]byte // nil while nothing is buffered
	r, w   int             // buf[r:w] is not consumed yet
	head   head
	answer http.Header // one response after the other
	url    url.URL
	remote string
}

func newConn(s *server, nc net.Conn) *conn {
	c := &conn{s: s, net: nc, answer: http.Header{}, remote: nc.RemoteAddr().String()}
	c.head.header = http.Header{}
	return c
}

// serve serves requests until one is not plain, or the connection ends.
func (c *conn) serve() {
	defer c.close()
	if d := cmp.Or(c.s.cfg.Server.ReadHeaderTimeout, c.s.cfg.Server.ReadTimeout); d > 0 {
		c.deadline(time.Now().Add(d))
	}
	for c.next() && c.exchange() {
		c.state.Store(idle)
		if c.s.closing.Load() { // or else shutdown has seen the state
			return
		}
		c.arm(cmp.Or(c.s.cfg.Server.IdleTimeout, c.s.cfg.Server.ReadTimeout))
	}
}

func (c *conn) close() {
	c.release()
	if !c.handed {
		c.s.untrack(c)
		_ = c.net.Close() // all was said
	}
}

// arm sets the read deadline to d from now or a little later.
func (c *conn) arm(d time.Duration) {
	if d <= 0 {
		c.deadline(time.Time{})
		return
	}
	if left := time.Until(c.armed); left < d || left > d+d/idleSlack {
		c.deadline(time.Now().Add(d + d/idleSlack))
	}
}

func (c *conn) deadline(t time.Time) {
	if !c.armed.Equal(t) {
		c.armed = t
		_ = c.net.SetReadDeadline(t) // fails only on a dead connection, which the next read notices
	}
}

// release gives the read buffer back.
func (c *conn) release() {
	if c.buf != nil {
		readPool.Put(c.buf)
		c.buf, c.r, c.w = nil, 0, 0
	}
}

// next reads the head of a request. If that is false the connection has ended, or is net/http's.
func (c *conn) next() bool {
	if c.buf == nil {
		c.buf = readPool.Get().(*[readSize]byte)
		n, _ := c.net.Read(c.buf[:])
		if c.w = n; n == 0 {
			return false
		}
	} else {
		c.r, c.w = 0, copy(c.buf[:], c.buf[c.r:c.w])
	}
	for waits := false; ; waits = true {
		have, start := c.buf[:c.w], c.s.start
		if n := min(len(have), len(start)); string(have[:n]) != start[:n] {
			return c.handOver()
		}
		if i := bytes.Index(have, []byte(headEnd)); i >= 0 {
			c.r = i + len(headEnd)
			if !c.head.parse(string(have[len(start):c.r])) {
				return c.handOver()
			}
			return c.state.CompareAndSwap(idle, busy)
		}
		if !waits {
			c.deadline(time.Now().Add(headWait))
		}
		n, err := c.net.Read(c.buf[c.w:]) // no bytes if the buffer is full
		if c.w += n; n == 0 || err != nil {
			return c.handOver()
		}
	}
}

// handOver gives the connection to net/http, with the bytes of the request that was not plain, and what follows them.
func (c *conn) handOver() bool {
	if c.state.CompareAndSwap(idle, busy) {
		c.handed = true
		c.s.untrack(c)
		c.s.rest.give(&handed{Conn: c.net, first: bytes.Clone(c.buf[:c.w])})
	}
	return false
}

// exchange is one request and its answer. It is made anew each time, so that who holds on to it does no harm.
type exchange struct {
	c    *conn
	req  http.Request
	life life // the request's context
	body body
	resp response

	watched watchState    // guarded by watch.mu
	seen    chan struct{} // closed when the watch is over; nil without one
	early   bool          // the watch read a byte of the next request
	first   [1]byte       // that one
}

// exchange serves the request whose head was read; true if the connection is ready for another.
func (c *conn) exchange() (more bool) {
	x := &exchange{c: c}
	x.body = body{x: x, left: c.head.length}
	x.resp = response{x: x, header: c.answer, length: -1}
	if int64(c.w-c.r) < c.head.length {
		c.arriving()
	}
	c.url = url.URL{Path: c.s.cfg.Hot}
	x.req = *c.s.base.WithContext(&x.life)
	r := &x.req
	r.URL, r.Header, r.Body, r.ContentLength = &c.url, c.head.header, &x.body, c.head.length
	r.Host, r.RemoteAddr = c.head.host, c.remote
	defer func() {
		if v := recover(); v != nil {
			more = false
			if v != http.ErrAbortHandler { //nolint:errorlint // net/http compares the same way
				// The value of a panic can quote a request: the stack alone goes to the log.
				c.s.logf("front: a handler panicked, serving %s\n%s", c.remote, debug.Stack())
			}
			x.finished()
		}
	}()
	c.s.cfg.Handler.ServeHTTP(&x.resp, r)
	more = x.resp.finish() && x.body.discard()
	x.finished()
	if x.body.left > 0 {
		c.linger()
	}
	return more
}

// arriving prepares for a body of which not all is here.
func (c *conn) arriving() {
	if c.r == c.w {
		c.release()
	}
	var until time.Time
	if d := c.s.cfg.Server.ReadTimeout; d > 0 {
		until = time.Now().Add(d)
	}
	c.deadline(until)
}

// finished ends what belongs to one request.
func (x *exchange) finished() {
	c := x.c
	x.life.end()
	if c.watch.end(x) && x.early {
		c.buf = readPool.Get().(*[readSize]byte)
		c.buf[0], c.r, c.w = x.first[0], 0, 1
	}
	x.resp.end()
	x.body.closed = true
	c.head.reset()
	clear(c.answer)
}

// linger lets a client that still sends read its answer: closing at once would reset the connection.
func (c *conn) linger() {
	if closeWrite(c.net) != nil {
		return
	}
	c.deadline(time.Now().Add(lingerMax))
	_, _ = io.Copy(io.Discard, c.net) // until the client closes, or the deadline
}

// body is the body of a request.
type body struct {
	x      *exchange
	left   int64 // bytes that were not read yet
	err    error // of the connection
	closed bool
}

// Read reads from the body: io.EOF at its end, io.ErrUnexpectedEOF if the connection ended before it.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.left == 0:
		return 0, io.EOF
	case b.err != nil:
		return 0, b.err
	}
	return b.read(p)
}

func (b *body) read(p []byte) (int, error) {
	c, n := b.x.c, 0
	p = p[:min(int64(len(p)), b.left)]
	if c.buf != nil {
		n = copy(p, c.buf[c.r:c.w])
		if c.r += n; c.r == c.w {
			c.release()
		}
	} else if n, b.err = c.net.Read(p); b.err != nil {
		if b.err == io.EOF { //nolint:errorlint // readers return it bare
			b.err = io.ErrUnexpectedEOF
		}
		b.x.life.end()
	}
	b.left -= int64(n)
	switch {
	case n > 0 && b.left > 0: // an error that came with bytes comes with the next read
		return n, nil
	case b.left > 0:
		return 0, b.err
	case c.buf == nil: // with bytes of the next request there is nothing to be watched
		c.watch.begin(b.x)
		c.s.pulse.start()
	}
	b.err = nil
	return n, nil
}

// Close makes further reads fail.
func (b *body) Close() error {
	b.closed = true
	return nil
}

// discard reads what the handler did not, if it is little; false if the connection can't be used any more.
func (b *body) discard() bool {
	if b.left == 0 || b.left > unreadMax {
		return b.left == 0
	}
	scratch := readPool.Get().(*[readSize]byte)
	defer readPool.Put(scratch)
	for b.left > 0 && b.err == nil {
		_, _ = b.read(scratch[:]) // the error is b.err
	}
	return b.left == 0
}
