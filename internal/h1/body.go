package h1

import "io"

// directMin is the least room in the caller's slice for which the connection reads straight into it, bytes.
const directMin = 512

// Response is a response whose head is read. It belongs to its Conn and is valid until the next Do.
type Response struct {
	// Status is 200..599.
	Status int
	// ContentType is the header's value, "" if there is none.
	ContentType string
	// ContentLength is the body's length, bytes; -1 if it is chunked.
	ContentLength int64

	conn    *Conn
	head    []byte // header lines, kept for Header
	left    int64  // of Content-Length
	chunked bool
	chunk   chunkState
	err     error // what the body ended with
}

// begin starts the body of a response whose head was consumed.
func (c *Conn) begin() {
	c.state, c.resp.err = inBody, nil
	if c.resp.left == 0 {
		c.end()
	}
	if c.r == c.w {
		c.release()
	}
}

// end is called at the body's last byte. What follows it was not asked for: the connection is out of step.
func (c *Conn) end() {
	c.state, c.resp.err = idle, io.EOF
	if c.r < c.w {
		c.closing = true
	}
	c.release()
}

// Read reads the body: io.EOF at its clean end, io.ErrUnexpectedEOF if the connection ended before it, ErrProtocol if
// it is malformed. It may use all of p as scratch space. After a read deadline it may be called again without loss.
func (r *Response) Read(p []byte) (int, error) {
	c := r.conn
	if r.err != nil {
		return 0, r.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, err := r.read(p)
		if err != nil {
			if !isTimeout(err) {
				c.state, r.err = broken, unexpected(err)
				c.release()
				err = r.err
			}
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
	}
}

// read makes one step: it may yield no bytes where only framing came.
func (r *Response) read(p []byte) (int, error) {
	c := r.conn
	if c.buf == nil && len(p) >= directMin {
		got, err := c.read(p)
		if err != nil {
			return 0, err
		}
		n, used, err := r.decode(p[:got], p[:got])
		if err == nil && r.ended() {
			c.end()
			c.closing = c.closing || used < got
		}
		return n, err
	}
	if c.buf == nil {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n, used, err := r.decode(p, c.buf[c.r:c.w])
	c.r += used
	switch {
	case err != nil:
	case r.ended():
		c.end()
	case c.r == c.w:
		c.release()
	}
	return n, err
}

// decode moves body bytes from src, raw, to dst. They may be the same slice: framing only ever makes it shorter.
// It stops when dst is full, src is used up, or the body has ended.
func (r *Response) decode(dst, src []byte) (n, used int, err error) {
	if r.chunked {
		return r.chunk.decode(dst, src)
	}
	n = copy(dst, src[:min(int64(len(src)), r.left)])
	r.left -= int64(n)
	return n, n, nil
}

func (r *Response) ended() bool {
	if r.chunked {
		return r.chunk.at == chunkEnd
	}
	return r.left == 0
}

// unexpected is err, where an end of the connection is one before its time.
func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // readers return it bare
		return io.ErrUnexpectedEOF
	}
	return err
}
