package front

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// writeSize is the pooled write buffer: what fits goes out in one Write.
	writeSize = 16 << 10
	// pendMax is how much of an answer without a Content-Length is held back to count it; net/http's number.
	pendMax = 2 << 10
)

// writePool is shared by all connections; it holds memory and no state.
var writePool = sync.Pool{New: func() any { return new([writeSize]byte) }}

// errFinished is what a handler gets that writes after it has returned.
var errFinished = errors.New("front: the handler has returned")

// response is the http.ResponseWriter of one request. It does what net/http's does, within the limits that Config says.
type response struct {
	x      *exchange
	header http.Header
	status int // 0 until WriteHeader

	buf  *[writeSize]byte // backs out and pend, unless a long head outgrew it; nil after each Write to the client
	out  []byte           // for the client
	pend []byte           // the body so far, while its length is not known

	headed     bool  // the head is complete in out, or sent
	chunked    bool  // the body's framing
	length     int64 // declared by the handler, -1 if not
	written    int64 // bytes of the body
	err        error // of the connection
	close      bool  // no other request follows
	duplex     bool  // the body may be read after the answer has begun
	timedWrite bool  // a write deadline is set
}

// Header is what WriteHeader sends.
func (w *response) Header() http.Header { return w.header }

// WriteHeader takes status and headers as they are now. 1xx is ignored.
func (w *response) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("front: invalid status %d", status))
	}
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	w.take()
	b := append(w.out, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(append(b, http.StatusText(status)...), "\r\n"...)
	for key, values := range w.header {
		if w.frames(key, values) || !isName(key) {
			continue
		}
		for _, v := range values {
			b = appendLine(b, key, v)
		}
	}
	w.out = b
}

// frames handles the headers that are left to endHead.
func (w *response) frames(key string, values []string) bool {
	switch key {
	case "Content-Length":
		if n, err := strconv.ParseInt(strings.Join(values, ","), 10, 64); err == nil && n >= 0 {
			w.length = n
		}
	case "Connection":
		w.close = w.close || len(values) > 0 && strings.EqualFold(values[0], "close")
	case "Transfer-Encoding", "Trailer", "Date":
	default:
		return false
	}
	return true
}

// appendLine appends a header, in one line whatever its value.
func appendLine(b []byte, key, value string) []byte {
	b = append(append(b, key...), ": "...)
	from := len(b)
	b = append(b, strings.Trim(value, " \t\r\n")...)
	for i := from; i < len(b); i++ {
		if b[i] == '\r' || b[i] == '\n' {
			b[i] = ' '
		}
	}
	return append(b, "\r\n"...)
}

// take gets a buffer.
func (w *response) take() {
	if w.buf == nil {
		w.buf = writePool.Get().(*[writeSize]byte)
		w.out = w.buf[: 0 : writeSize-pendMax]
		w.pend = w.buf[writeSize-pendMax : writeSize-pendMax]
	}
}

func (w *response) release() {
	if w.buf != nil {
		writePool.Put(w.buf)
		w.buf, w.out, w.pend = nil, nil, nil
	}
}

func (w *response) bodyless() bool {
	return w.status == http.StatusNoContent || w.status == http.StatusNotModified
}

// endHead decides how the answer is framed, and completes its head with what is there of its body.
func (w *response) endHead() {
	w.headed = true
	if body := &w.x.body; body.left > 0 && !w.close && !w.duplex { // or else who sends before it reads could wait forever
		w.close = !body.discard()
	}
	w.close = w.close || w.x.c.s.closing.Load()
	b := w.out
	switch {
	case w.bodyless():
	case w.length >= 0:
		b = strconv.AppendInt(append(b, "Content-Length: "...), w.length, 10)
		b = append(b, "\r\n"...)
	default:
		w.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = append(b, w.x.c.s.dateNow()...)
	if w.close {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	switch {
	case len(w.pend) == 0:
	case w.chunked:
		b = append(append(appendSize(b, len(w.pend)), w.pend...), "\r\n"...)
	default:
		b = append(b, w.pend...)
	}
	w.out, w.pend = b, nil
}

func appendSize(b []byte, n int) []byte {
	return append(strconv.AppendInt(b, int64(n), 16), "\r\n"...)
}

// Write takes a part of the body; it is sent by Flush, at the handler's end, or when the buffer is full.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(p) == 0 {
		return 0, nil
	}
	w.written += int64(len(p))
	switch {
	case w.err != nil:
		return 0, w.err
	case w.bodyless():
		return 0, http.ErrBodyNotAllowed
	case w.length >= 0 && w.written > w.length:
		return 0, http.ErrContentLength
	case !w.headed && w.length < 0 && len(w.pend)+len(p) <= pendMax:
		w.pend = append(w.pend, p...)
		return len(p), nil
	case !w.headed:
		w.endHead()
	}
	if w.chunked {
		w.take()
		w.out = appendSize(w.out, len(p))
	}
	w.put(p)
	if w.chunked {
		w.add("\r\n")
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// add adds a short text to what is for the client.
func (w *response) add(text string) {
	w.take()
	w.out = append(w.out, text...)
}

// put adds bytes as they are to what is for the client. What does not fit is sent without a copy.
func (w *response) put(p []byte) {
	w.take()
	n := min(len(p), cap(w.out)-len(w.out))
	w.out = append(w.out, p[:n]...)
	if n < len(p) {
		w.send()
		w.write(p[n:])
	}
}

func (w *response) send() {
	if len(w.out) > 0 {
		w.write(w.out)
	}
	w.release()
}

func (w *response) write(p []byte) {
	if w.err != nil {
		return
	}
	if _, w.err = w.x.c.net.Write(p); w.err != nil {
		w.x.life.end()
	}
}

// Flush sends what there is.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError sends what there is; the error is the connection's, and stays.
func (w *response) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.headed {
		w.endHead()
	}
	w.send()
	return w.err
}

// SetReadDeadline is for reads from the body. It is an error of a dead connection only.
func (w *response) SetReadDeadline(t time.Time) error {
	if w.x.body.left == 0 { // nothing is left to be read
		return nil
	}
	w.x.c.armed = t
	return w.x.c.net.SetReadDeadline(t)
}

// SetWriteDeadline is for this answer; the next one has none. It is an error of a dead connection only.
func (w *response) SetWriteDeadline(t time.Time) error {
	w.timedWrite = !t.IsZero()
	return w.x.c.net.SetWriteDeadline(t)
}

// EnableFullDuplex leaves the body to be read after the answer has begun.
func (w *response) EnableFullDuplex() error {
	w.duplex = true
	return nil
}

// finish sends the rest after the handler has returned; true if the connection can go on.
func (w *response) finish() bool {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case !w.headed:
		if w.length < 0 {
			w.length = int64(len(w.pend))
		}
		w.endHead()
	case w.chunked:
		w.add("0\r\n\r\n")
	}
	w.send()
	short := w.length >= 0 && !w.bodyless() && w.written != w.length
	return w.err == nil && !w.close && !short
}

// end makes sure that nothing of the answer outlives it.
func (w *response) end() {
	w.release()
	w.err = errFinished
	if w.timedWrite {
		_ = w.SetWriteDeadline(time.Time{}) // fails only on a dead connection
	}
}
