package h1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAgainstNetHTTP: what h1 accepts net/http accepts too, and reads the same from it. The other direction does not
// hold, by intent: h1 refuses much that net/http takes. One thing h1 refuses late: of a body that turns out malformed
// it has given out the part before the fault, as net/http does, but not always exactly as much of it.
func FuzzAgainstNetHTTP(f *testing.F) {
	ok := "HTTP/1.1 200 OK\r\n"
	for _, s := range []string{
		ok + "Content-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
		ok + "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		ok + "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
		ok + "Connection: close, x\r\nContent-Length: 0\r\n\r\nextra",
		"HTTP/1.1 503 Busy\r\nRetry-After: \t1 \r\nretry-after: 2\r\nContent-Length: 2\r\n\r\n{}",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
		"HTTP/1.1 304\r\nContent-Length: 7\r\nX:\r\n\r\n",
		ok + "X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		ok + "Content-Length: 1\nContent-Length: 1\r\n\r\n1",
		ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
		ok + "Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\nTrailer: x\r\n\r\n",
		chunkedHead + strings.Repeat("1;"+strings.Repeat("x", 42)+"\r\n1\r\n", 400) + "0\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(1<<15), uint16(4096))
		f.Add([]byte(s), uint16(3), uint16(5))
	}
	f.Fuzz(func(t *testing.T, in []byte, size, room uint16) {
		n, p := int(size)+1, int(room)+1
		got := exchange(NewConn(&script{pieces: cut(in, n, false)}), p)
		late := exchange(NewConn(&script{pieces: cut(in, n, true)}), p)
		if !alike(got, late) {
			t.Fatalf("deadlines change the result:\n%+v\n%+v", got, late)
		}
		if whole := exchange(NewConn(&script{pieces: cut(in, 1<<20, false)}), 1<<16); !alike(got, whole) {
			t.Fatalf("pieces change the result:\n%+v\n%+v", got, whole)
		}
		if got.HeadErr != nil {
			for _, known := range []error{ErrProtocol, ErrStale, io.ErrUnexpectedEOF} {
				if errors.Is(got.HeadErr, known) {
					return
				}
			}
			t.Fatalf("unknown error %v", got.HeadErr)
		}
		compare(t, in, got)
	})
}

// alike compares all but whether extra bytes behind the body were seen, which depends on the pieces.
func alike(a, b result) bool {
	same := func(x, y error) bool {
		return (x == nil) == (y == nil) && errors.Is(x, ErrProtocol) == errors.Is(y, ErrProtocol)
	}
	return same(a.HeadErr, b.HeadErr) && same(a.BodyErr, b.BodyErr) && a.Status == b.Status && a.Body == b.Body &&
		a.ContentType == b.ContentType && a.RetryAfter == b.RetryAfter && a.Length == b.Length
}

func compare(t *testing.T, in []byte, got result) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(in))
	var resp *http.Response
	for resp == nil || resp.StatusCode < 200 {
		var err error
		if resp, err = http.ReadResponse(r, &http.Request{Method: http.MethodPost}); err != nil {
			t.Fatalf("net/http refuses the head: %v", err)
		}
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // in memory
	if got.BodyErr == nil && err != nil {
		t.Fatalf("net/http refuses the body: %v", err)
	}
	if got.BodyErr == nil && got.Body != string(body) || !strings.HasPrefix(string(body), got.Body) && err == nil {
		t.Fatalf("bodies differ: %q, net/http %q", got.Body, body)
	}
	h := resp.Header
	same := got.ContentType == h.Get("Content-Type") && got.RetryAfter == h.Get("Retry-After")
	if !same || got.Status != resp.StatusCode {
		t.Fatalf("heads differ: %+v, net/http %d %v", got, resp.StatusCode, h)
	}
	if want := resp.ContentLength; got.Length != want && resp.StatusCode != 304 { // of 304 the length is not this body's
		t.Fatalf("lengths differ: %d, net/http %d", got.Length, want)
	}
	if got.Reusable && resp.Close {
		t.Fatal("net/http would close the connection")
	}
}

// FuzzRequest: what validate lets through, net/http's server reads as exactly one request with the same parts.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/v1/x?a=b", "worker", "Content-Type: application/json\r\nCocoon-Request: 1\r\n", []byte("{}"))
	f.Add("GET", "/ HTTP/1.1\r\n\r\n", "h", "A: b\r\n\r\n", []byte(nil))
	f.Add("GET", "/", "h", "Connection: close\r\nHost: x\r\n", []byte("1"))
	f.Fuzz(func(t *testing.T, method, path, host, header string, body []byte) {
		s := &script{pieces: pieces("HTTP/1.1 204 OK\r\n\r\n")}
		if _, err := NewConn(s).Do(&Request{Method: method, Path: path, Host: host, Header: header, Body: body}); err != nil {
			return
		}
		if !utf8.ValidString(path) {
			t.Fatal("path with bytes that are not ASCII")
		}
		r := bufio.NewReader(&s.wrote)
		req, err := http.ReadRequest(r)
		if err != nil {
			return // refused whole is as good
		}
		got, err := io.ReadAll(req.Body)
		if err != nil || !bytes.Equal(got, body) || req.Method != method || req.RequestURI != path {
			t.Fatalf("read as %s %s with body %q, %v", req.Method, req.RequestURI, got, err)
		}
		if left := r.Buffered() + s.wrote.Len(); left > 0 {
			t.Fatalf("%d bytes are left for a second request", left)
		}
	})
}
