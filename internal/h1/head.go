package h1

import (
	"bytes"
	"strings"
)

// tokenChar is the set of RFC 9110's tchar.
var tokenChar = [256]bool{
	'!': true, '#': true, '$': true, '%': true, '&': true, '\'': true, '*': true, '+': true, '-': true, '.': true,
	'0': true, '1': true, '2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true,
	'A': true, 'B': true, 'C': true, 'D': true, 'E': true, 'F': true, 'G': true, 'H': true, 'I': true, 'J': true,
	'K': true, 'L': true, 'M': true, 'N': true, 'O': true, 'P': true, 'Q': true, 'R': true, 'S': true, 'T': true,
	'U': true, 'V': true, 'W': true, 'X': true, 'Y': true, 'Z': true, '^': true, '_': true, '`': true,
	'a': true, 'b': true, 'c': true, 'd': true, 'e': true, 'f': true, 'g': true, 'h': true, 'i': true, 'j': true,
	'k': true, 'l': true, 'm': true, 'n': true, 'o': true, 'p': true, 'q': true, 'r': true, 's': true, 't': true,
	'u': true, 'v': true, 'w': true, 'x': true, 'y': true, 'z': true, '|': true, '~': true,
}

const (
	proto   = "HTTP/1.1 "
	headEnd = "\r\n\r\n"
	// lengthDigitsMax keeps a Content-Length within int64.
	lengthDigitsMax = 18
	// keptHeadMax is the most that a connection keeps for the next response's head, bytes; heads are some 200.
	keptHeadMax = 1 << 10
)

// readHead returns the bytes of one response head with its empty line, valid until the next fill.
func (c *Conn) readHead() ([]byte, error) {
	for {
		have := c.buf[c.r:c.w]
		if i := bytes.Index(have[c.scanned:], []byte(headEnd)); i >= 0 {
			return have[:c.scanned+i+len(headEnd)], nil
		}
		if n := min(len(have), len(proto)); string(have[:n]) != proto[:n] {
			return nil, malformed("not HTTP/1.1") // found now, not at the deadline
		}
		if len(have) >= HeadMax {
			return nil, malformed("head too long")
		}
		c.scanned = max(0, len(have)-len(headEnd)+1)
		if err := c.fill(); err != nil {
			if len(have) > 0 {
				err = unexpected(err)
			}
			return nil, err
		}
	}
}

// framing is what the header lines say about the body.
type framing struct {
	length  int64 // -1: no Content-Length
	chunked bool
	typed   bool // a Content-Type was seen
}

// parse reads a whole head. On success the response is ready for its body, except that the connection's state is
// still the caller's to set.
func (r *Response) parse(head []byte) error {
	status, rest, err := parseStatus(head)
	if err != nil {
		return err
	}
	r.Status = status
	f := framing{length: -1}
	for lines := rest; len(lines) > 2; { // the last two bytes are the empty line
		end := bytes.IndexByte(lines, '\n')
		if end == 0 || lines[end-1] != '\r' {
			return malformed("bare LF in the head")
		}
		if err := r.line(lines[:end-1], &f); err != nil {
			return err
		}
		lines = lines[end+1:]
	}
	if !f.typed {
		r.ContentType = ""
	}
	if status < 200 {
		return nil
	}
	r.keep(rest)
	return r.frame(f)
}

func parseStatus(head []byte) (status int, rest []byte, err error) {
	end := bytes.IndexByte(head, '\n')
	if !bytes.HasPrefix(head, []byte(proto)) || end < len(proto)+4 || head[end-1] != '\r' {
		return 0, nil, malformed("status line")
	}
	line := head[len(proto) : end-1]
	for _, d := range line[:3] {
		if d < '0' || d > '9' {
			return 0, nil, malformed("status code")
		}
		status = status*10 + int(d-'0')
	}
	if status < 100 || status > 599 || status == 101 {
		return 0, nil, malformed("status code out of range")
	}
	if reason := line[3:]; len(reason) > 0 && (reason[0] != ' ' || !isFieldValue(reason)) {
		return 0, nil, malformed("reason phrase")
	}
	return status, head[end+1:], nil
}

// line reads one header line, without its CRLF.
func (r *Response) line(line []byte, f *framing) error {
	colon := bytes.IndexByte(line, ':')
	if colon < 1 || !isToken(line[:colon]) { // a folded line starts with a space and ends here too
		return malformed("header name")
	}
	name, value := line[:colon], trim(line[colon+1:])
	if !isFieldValue(value) {
		return malformed("header value")
	}
	switch {
	case len(name) == 12 && equalFold(name, "content-type"):
		if !f.typed && string(value) != r.ContentType { // the same as the last response's: nothing is allocated
			r.ContentType = string(value)
		}
		f.typed = true
	case len(name) == 14 && equalFold(name, "content-length"):
		if f.length >= 0 {
			return malformed("two Content-Length")
		}
		return f.parseLength(value)
	case len(name) == 17 && equalFold(name, "transfer-encoding"):
		if f.chunked || !equalFold(value, "chunked") {
			return malformed("Transfer-Encoding other than chunked")
		}
		f.chunked = true
	case len(name) == 10 && equalFold(name, "connection"):
		if hasToken(value, "close") {
			r.conn.closing = true
		}
	}
	return nil
}

func (f *framing) parseLength(value []byte) error {
	if len(value) == 0 || len(value) > lengthDigitsMax {
		return malformed("Content-Length")
	}
	f.length = 0
	for _, d := range value {
		if d < '0' || d > '9' {
			return malformed("Content-Length")
		}
		f.length = f.length*10 + int64(d-'0')
	}
	return nil
}

// frame decides how the body ends. A body that ends with the connection is refused: a cut would look like its end.
func (r *Response) frame(f framing) error {
	r.chunked, r.chunk = f.chunked, chunkState{}
	r.ContentLength, r.left = f.length, f.length
	switch {
	case f.chunked && f.length >= 0:
		return malformed("both Content-Length and Transfer-Encoding")
	case r.Status == 204 || r.Status == 304:
		if f.chunked || r.Status == 204 && f.length > 0 {
			return malformed("body where none can be")
		}
		r.ContentLength, r.left = 0, 0
	case !f.chunked && f.length < 0:
		return malformed("body without a length")
	}
	return nil
}

// keep copies the header lines, so that the read buffer can go back to its pool before the body is read.
func (r *Response) keep(lines []byte) {
	if cap(r.head) > keptHeadMax && len(lines) <= keptHeadMax {
		r.head = nil
	}
	r.head = append(r.head[:0], lines...)
}

// Header returns the first value of a header line of the response, "" if there is none. It scans the kept head.
func (r *Response) Header(name string) string {
	for lines := r.head; len(lines) > 2; {
		end := bytes.IndexByte(lines, '\n')
		line := lines[:end-1]
		if colon := bytes.IndexByte(line, ':'); colon == len(name) && equalFold(line[:colon], name) {
			return string(trim(line[colon+1:]))
		}
		lines = lines[end+1:]
	}
	return ""
}

func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenChar[c] {
			return false
		}
	}
	return true
}

// isFieldValue: visible characters, space, tab, and bytes above 127; no other control.
func isFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isVisible: ASCII without controls and spaces.
func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// isHeaderLines: whole, well-formed lines, none of them empty, none that says how the body ends.
func isHeaderLines(s string) bool {
	for s != "" {
		line, rest, ok := strings.Cut(s, "\r\n")
		name, value, colon := strings.Cut(line, ":")
		if !ok || !colon || name == "" || !isToken([]byte(name)) || !isFieldValue([]byte(value)) {
			return false
		}
		if strings.EqualFold(name, "content-length") || strings.EqualFold(name, "transfer-encoding") {
			return false
		}
		s = rest
	}
	return true
}

// equalFold compares ASCII without case.
func equalFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if lower(c) != lower(s[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// hasToken looks for a token in a comma-separated list.
func hasToken(list []byte, token string) bool {
	for len(list) > 0 {
		item := list
		if i := bytes.IndexByte(list, ','); i >= 0 {
			item, list = list[:i], list[i+1:]
		} else {
			list = nil
		}
		if equalFold(trim(item), token) {
			return true
		}
	}
	return false
}

// trim cuts optional white space, which is spaces and tabs only.
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
