package front

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

const (
	headEnd = "\r\n\r\n"
	// headersMax is the most headers of a request that is served here; SDKs send up to 20, proxies add some.
	headersMax = 32
	// lengthDigitsMax keeps a Content-Length within int64.
	lengthDigitsMax = 18
)

// head is the head of the request at hand. Its map and array serve one request after the other.
type head struct {
	header http.Header
	values [headersMax]string // what header's slices are made of
	n      int                // of them
	host   string
	length int64 // of the body, bytes: at least 1
}

func (h *head) reset() {
	clear(h.header)
	clear(h.values[:h.n])
	h.n, h.host, h.length = 0, "", 0
}

// parse reads the header lines with the empty one at their end; false if anything about them is not plain.
func (h *head) parse(lines string) bool {
	h.reset()
	for lines != "\r\n" {
		line, rest, _ := strings.Cut(lines, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		if !ok || !isName(name) || !isValue(value) || !h.add(textproto.CanonicalMIMEHeaderKey(name), value) {
			return false
		}
		lines = rest
	}
	return h.host != "" && h.length > 0
}

// add takes one header; false if there are too many, it is there already, or it asks for more than we do here.
func (h *head) add(key, value string) bool {
	if _, twice := h.header[key]; twice || h.n == headersMax {
		return false
	}
	ok := true
	switch key {
	case "Host": // net/http keeps it out of the header too
		ok = h.host == "" && isHost(value)
		h.host = value
		return ok
	case "Content-Length":
		h.length, ok = parseLength(value)
	case "Connection":
		ok = strings.EqualFold(value, "keep-alive")
	case "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Pragma": // Pragma: net/http rewrites it
		ok = false
	}
	h.values[h.n] = value
	h.header[key] = h.values[h.n : h.n+1 : h.n+1]
	h.n++
	return ok
}

// parseLength takes a length from 1 on, without leading zeros.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > lengthDigitsMax || s[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}

// isName: letters, digits and dashes. What else a token may hold is not plain.
func isName(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' {
			return false
		}
	}
	return s != ""
}

// isValue: visible ASCII, with spaces inside only.
func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' {
			return false
		}
	}
	return s == "" || s[0] != ' ' && s[len(s)-1] != ' '
}

// isHost: a name or an address, with or without a port.
func isHost(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && !strings.ContainsRune(".-:[]", rune(c)) {
			return false
		}
	}
	return s != ""
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
