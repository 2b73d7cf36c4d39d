package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestResponses(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1000)
	tests := []struct {
		name, in string
		want     result
	}{
		{
			"length",
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello",
			result{Status: 200, ContentType: "application/json", Length: 5, Body: "hello", Reusable: true},
		},
		{
			"chunked",
			"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
			result{Status: 200, Length: -1, Body: "hello!", Reusable: true},
		},
		{
			"chunk extension",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA;a=\"b c\"\r\n0123456789\r\n0;x\r\n\r\n",
			result{Status: 200, Length: -1, Body: "0123456789", Reusable: true},
		},
		{
			"long bodies",
			"HTTP/1.1 200\r\nContent-Length: 16000\r\n\r\n" + long,
			result{Status: 200, Length: 16000, Body: long, Reusable: true},
		},
		{
			"long chunk",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e80\r\n" + long + "\r\n0\r\n\r\n",
			result{Status: 200, Length: -1, Body: long, Reusable: true},
		},
		{
			"empty body", "HTTP/1.1 503 Busy\r\nRetry-After:  7\t \r\nContent-Length: 0\r\n\r\n",
			result{Status: 503, RetryAfter: "7", Reusable: true},
		},
		{
			"first of two", "HTTP/1.1 200 OK\r\nRetry-After: 1\r\nretry-after: 2\r\nContent-Length: 0\r\n\r\n",
			result{Status: 200, RetryAfter: "1", Reusable: true},
		},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", result{Status: 204, Reusable: true}},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", result{Status: 304, Reusable: true}},
		{
			"interim",
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Type: a\r\n\r\n" +
				"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1",
			result{Status: 200, Length: 1, Body: "1", Reusable: true},
		},
		{
			"interim before a long head",
			"HTTP/1.1 100 Continue\r\n\r\n" +
				"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: " + long[:5000] + "\r\nRetry-After: 1\r\n\r\n1",
			result{Status: 200, RetryAfter: "1", Length: 1, Body: "1", Reusable: true},
		},
		{
			"close", "HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 1\r\n\r\n1",
			result{Status: 200, Length: 1, Body: "1"},
		},
		{
			"more than asked for", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12",
			result{Status: 200, Length: 1, Body: "1"},
		},
		{
			"more than asked for, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\nHTTP/1.1",
			result{Status: 200, Length: -1, Body: "1"},
		},
		{
			"cut", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n12",
			result{Status: 200, Length: 3, Body: "12", BodyErr: io.ErrUnexpectedEOF},
		},
		{
			"cut between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n",
			result{Status: 200, Length: -1, Body: "1", BodyErr: io.ErrUnexpectedEOF},
		},
		{
			"cut before the last line", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n",
			result{Status: 200, Length: -1, Body: "1", BodyErr: io.ErrUnexpectedEOF},
		},
		{"obs-text", "HTTP/1.1 200 \xe9\r\nX: \xff\r\nContent-Length: 0\r\n\r\n", result{Status: 200, Reusable: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 2, 3, 7, 100, 1 << 20} {
				for _, room := range []int{1, 100, directMin, 32 << 10} {
					for _, late := range []bool{false, true} {
						conn := NewConn(&script{pieces: cut([]byte(tt.in), size, late)})
						got := exchange(conn, room)
						if strings.HasPrefix(tt.name, "more") {
							got.Reusable = false // what is not read yet can't be known to be too much
						}
						if d := cmp.Diff(tt.want, got, cmp.Comparer(errors.Is)); d != "" {
							t.Fatalf("pieces of %d, room for %d, late %v:\n%s", size, room, late, d)
						}
						if conn.buf != nil || conn.pooled != nil {
							t.Fatalf("a buffer is held after the response")
						}
					}
				}
			}
		})
	}
}

func TestTooMuchIsNoticed(t *testing.T) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\nHTTP/1.1",
		"HTTP/1.1 204 No Content\r\n\r\n1",
	} {
		for _, room := range []int{1, 4096} {
			conn := NewConn(&script{pieces: pieces(in)})
			if got := exchange(conn, room); got.Reusable || got.BodyErr != nil || got.HeadErr != nil {
				t.Errorf("%q: %+v", in, got)
			}
			if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, ErrBusy) {
				t.Errorf("%q: second request: %v", in, err)
			}
		}
	}
	head, rest, _ := strings.Cut("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n|12", "|")
	conn := NewConn(&script{pieces: pieces(head, rest)})
	if got := exchange(conn, 4096); got.Reusable || got.Body != "1" {
		t.Errorf("read straight into the caller's slice: %+v", got)
	}
}

func TestRefusedHeads(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\n"
	tests := map[string]string{
		"garbage":                 "\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
		"http/1.0":                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"http/2":                  "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"lower case":              "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"two spaces":              "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
		"status of two digits":    "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
		"status of four digits":   "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"status out of range":     "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
		"status 99":               "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
		"switching protocols":     "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
		"control in the reason":   "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n",
		"bare LF":                 ok + "Content-Length: 0\n\r\n\r\n",
		"bare LF after status":    "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
		"bare CR":                 ok + "X: a\rb\r\nContent-Length: 0\r\n\r\n",
		"folded line":             ok + "X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
		"folded first line":       ok + " X: a\r\nContent-Length: 0\r\n\r\n",
		"space before colon":      ok + "Content-Length : 0\r\n\r\n",
		"no colon":                ok + "Content-Length\r\n\r\n",
		"empty name":              ok + ": 0\r\nContent-Length: 0\r\n\r\n",
		"control in a value":      ok + "X: a\x01\r\nContent-Length: 0\r\n\r\n",
		"NUL in a value":          ok + "X: a\x00\r\nContent-Length: 0\r\n\r\n",
		"no length":               ok + "Content-Type: text/plain\r\n\r\nhello",
		"two lengths":             ok + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n1",
		"list of lengths":         ok + "Content-Length: 1, 1\r\n\r\n1",
		"negative length":         ok + "Content-Length: -1\r\n\r\n1",
		"signed length":           ok + "Content-Length: +1\r\n\r\n1",
		"hex length":              ok + "Content-Length: 0x1\r\n\r\n1",
		"empty length":            ok + "Content-Length:\r\n\r\n1",
		"huge length":             ok + "Content-Length: 9223372036854775808\r\n\r\n1",
		"length and chunked":      ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
		"chunked and length":      ok + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n1\r\n1\r\n0\r\n\r\n",
		"chunked twice":           ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"gzip, chunked":           ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity":                ok + "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
		"body with 204":           "HTTP/1.1 204 OK\r\nContent-Length: 1\r\n\r\n1",
		"chunked with 304":        "HTTP/1.1 304 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"four interim responses":  strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 4) + ok + "Content-Length: 0\r\n\r\n",
		"endless interim":         strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 4000),
		"head too long":           ok + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 66) + "\r\n",
		"line too long":           ok + "X: " + strings.Repeat("y", 70_000),
		"no HTTP at all, one LF":  "hello\n",
		"empty line first":        "\r\n" + ok + "Content-Length: 0\r\n\r\n",
		"no space before reason":  "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n",
		"nothing after the proto": "HTTP/1.1 \r\n\r\n",
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 17, 1 << 20} {
				conn := NewConn(&script{pieces: cut([]byte(in), size, false)})
				got := exchange(conn, 4096)
				if !errors.Is(got.HeadErr, ErrProtocol) || got.Reusable {
					t.Fatalf("pieces of %d: %+v", size, got)
				}
				if conn.buf != nil || conn.pooled != nil {
					t.Fatal("a dead connection holds a buffer")
				}
			}
		})
	}
}

func TestRefusedChunks(t *testing.T) {
	tests := map[string]string{
		"no size":             "\r\nx",
		"space before size":   " 1\r\n1\r\n0\r\n\r\n",
		"space after size":    "1 \r\n1\r\n0\r\n\r\n",
		"prefix":              "0x1\r\n1\r\n0\r\n\r\n",
		"sign":                "+1\r\n1\r\n0\r\n\r\n",
		"negative":            "-1\r\n1\r\n0\r\n\r\n",
		"underscore":          "1_0\r\n1\r\n0\r\n\r\n",
		"nine digits":         "000000001\r\n1\r\n0\r\n\r\n",
		"huge":                "ffffffffffffffff\r\n1\r\n0\r\n\r\n",
		"bare LF after size":  "1\n1\r\n0\r\n\r\n",
		"bare CR after size":  "1\r1\r\n0\r\n\r\n",
		"two CR":              "1\r\r\n1\r\n0\r\n\r\n",
		"bare LF after data":  "1\r\n1\n0\r\n\r\n",
		"data too long":       "1\r\n12\r\n0\r\n\r\n",
		"CR then other":       "1\r\n1\rx0\r\n\r\n",
		"extension too long":  "1;" + strings.Repeat("x", 64) + "\r\n1\r\n0\r\n\r\n",
		"LF in an extension":  "1;a\nb\r\n1\r\n0\r\n\r\n",
		"NUL in an extension": "1;a\x00b\r\n1\r\n0\r\n\r\n",
		"trailer":             "1\r\n1\r\n0\r\nX: y\r\n\r\n",
		"bare LF at the end":  "1\r\n1\r\n0\r\n\n",
		"mostly extensions":   strings.Repeat("1;"+strings.Repeat("x", 60)+"\r\n1\r\n", 1000) + "0\r\n\r\n",
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 17, 1 << 20} {
				for _, room := range []int{1, 4096} {
					conn := NewConn(&script{pieces: cut([]byte(chunkedHead+in), size, false)})
					got := exchange(conn, room)
					if !errors.Is(got.BodyErr, ErrProtocol) || got.Reusable {
						t.Fatalf("pieces of %d, room for %d: %+v", size, room, got)
					}
					if conn.buf != nil || conn.pooled != nil {
						t.Fatal("a dead connection holds a buffer")
					}
				}
			}
		})
	}
}

func TestStale(t *testing.T) {
	reset := &net.OpError{Op: "write", Err: syscall.ECONNRESET}
	tests := map[string]struct {
		conn  *script
		stale bool
	}{
		"closed before":              {&script{}, true},
		"write fails":                {&script{writeErr: reset}, true},
		"closed in the head":         {&script{pieces: pieces("H")}, false},
		"closed after 100":           {&script{pieces: pieces("HTTP/1.1 100 Continue\r\n\r\n")}, false},
		"write deadline":             {&script{writeErr: os.ErrDeadlineExceeded}, false},
		"deadline, then closed":      {&script{pieces: pieces("")}, true},
		"malformed":                  {&script{pieces: pieces("x")}, false},
		"write fails, answer cut":    {&script{writeErr: reset, pieces: pieces("HTTP/1.1 4")}, false},
		"write fails, then deadline": {&script{writeErr: reset, pieces: pieces("")}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			conn := NewConn(tt.conn)
			got := exchange(conn, 100)
			if got.HeadErr == nil || errors.Is(got.HeadErr, ErrStale) != tt.stale {
				t.Errorf("got %v, want stale %v", got.HeadErr, tt.stale)
			}
			if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, ErrBusy) {
				t.Errorf("a dead connection took a request: %v", err)
			}
		})
	}
}

func TestAnswerToRefusedBody(t *testing.T) {
	conn := NewConn(&script{
		writeErr: syscall.EPIPE,
		pieces:   pieces("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"),
	})
	got := exchange(conn, 100)
	if want := (result{Status: 413, Length: 3, Body: "big"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestReusedConnection(t *testing.T) {
	s := &script{pieces: pieces(
		"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX: "+strings.Repeat("y", 5000)+"\r\nContent-Length: 2\r\n\r\n", "hi",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	)}
	conn := NewConn(s)
	first := do(t, conn)
	if got := first.Header("x"); len(got) != 5000 {
		t.Errorf("long header of %d bytes", len(got))
	}
	if conn.Reusable() {
		t.Error("reusable before the body was read")
	}
	if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, ErrBusy) {
		t.Errorf("request in the middle of a body: %v", err)
	}
	if _, err := conn.Resume(); !errors.Is(err, ErrBusy) {
		t.Errorf("resumed in the middle of a body: %v", err)
	}
	if body, err := io.ReadAll(first); string(body) != "hi" || err != nil {
		t.Fatalf("body %q, %v", body, err)
	}
	second := do(t, conn)
	if second.ContentType != "" || second.Header("X") != "" {
		t.Errorf("the last response shows through: %+v", second)
	}
	if cap(second.head) > keptHeadMax {
		t.Errorf("keeps %d bytes for a head", cap(second.head))
	}
	if n, err := second.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("empty body: %d, %v", n, err)
	}
}

func TestRequests(t *testing.T) {
	answer := "HTTP/1.1 204 OK\r\n\r\n"
	body := strings.Repeat("x", 40_000)
	tests := []struct {
		req  Request
		want string
	}{
		{Request{Method: "GET", Path: "/a?b=c", Host: "h:1"}, "GET /a?b=c HTTP/1.1\r\nHost: h:1\r\n\r\n"},
		{Request{Method: "POST", Path: "/", Host: "h"}, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"},
		{
			Request{Method: "POST", Path: "/", Host: "h", Header: "A: b\r\nC: d\r\n", Body: []byte("hi")},
			"POST / HTTP/1.1\r\nHost: h\r\nA: b\r\nC: d\r\nContent-Length: 2\r\n\r\nhi",
		},
		{
			Request{Method: "POST", Path: "/", Host: "h", Body: []byte(body)},
			"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 40000\r\n\r\n" + body,
		},
	}
	for _, tt := range tests {
		s := &script{pieces: pieces(answer)}
		if _, err := NewConn(s).Do(&tt.req); err != nil {
			t.Fatal(err)
		}
		if got := s.wrote.String(); got != tt.want {
			t.Errorf("wrote %.200q, want %.200q", got, tt.want)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	ok := Request{Method: "GET", Path: "/", Host: "h"}
	tests := map[string]func(*Request){
		"no method":        func(r *Request) { r.Method = "" },
		"method of two":    func(r *Request) { r.Method = "GET /" },
		"HEAD":             func(r *Request) { r.Method = "HEAD" },
		"CONNECT":          func(r *Request) { r.Method = "CONNECT" },
		"no path":          func(r *Request) { r.Path = "" },
		"relative path":    func(r *Request) { r.Path = "a" },
		"space in path":    func(r *Request) { r.Path = "/ HTTP/1.1\r\nX: y" },
		"no host":          func(r *Request) { r.Host = "" },
		"line in host":     func(r *Request) { r.Host = "h\r\nX: y" },
		"header not ended": func(r *Request) { r.Header = "A: b" },
		"header ends all":  func(r *Request) { r.Header = "A: b\r\n\r\nGET / HTTP/1.1\r\n" },
		"header bare LF":   func(r *Request) { r.Header = "A: b\nC: d\r\n" },
		"header bare CR":   func(r *Request) { r.Header = "A: b\rC: d\r\n" },
		"header no colon":  func(r *Request) { r.Header = "A\r\n" },
		"header no name":   func(r *Request) { r.Header = ": a\r\n" },
		"header space":     func(r *Request) { r.Header = "A : b\r\n" },
		"own length":       func(r *Request) { r.Header = "content-length: 3\r\n" },
		"own coding":       func(r *Request) { r.Header = "A: b\r\nTransfer-Encoding: chunked\r\n" },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			r, s := ok, &script{pieces: pieces("HTTP/1.1 204 OK\r\n\r\n")}
			spoil(&r)
			conn := NewConn(s)
			if _, err := conn.Do(&r); !errors.Is(err, ErrRequest) || s.wrote.Len() > 0 {
				t.Fatalf("error %v after %d bytes", err, s.wrote.Len())
			}
			if _, err := conn.Do(&ok); err != nil {
				t.Errorf("the refused request spoiled the connection: %v", err)
			}
		})
	}
}

func TestNoProgress(t *testing.T) {
	conn := NewConn(stuck{})
	if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("got %v", err)
	}
}

// stuck returns nothing from every Read.
type stuck struct{ net.Conn }

func (stuck) Read([]byte) (int, error)    { return 0, nil }
func (stuck) Write(p []byte) (int, error) { return len(p), nil }

func TestAllocations(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello")
	s := &script{}
	conn := NewConn(s)
	req := Request{Method: "POST", Path: "/x", Host: "w", Header: "Content-Type: application/json\r\n", Body: []byte("{}")}
	buf, step := make([]byte, 4096), make([][]byte, 1)
	got := testing.AllocsPerRun(100, func() {
		s.wrote.Reset()
		step[0], s.pieces = answer, step
		resp, err := conn.Do(&req)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
	})
	if got > 0.5 && !raceEnabled { // the race detector makes sync.Pool forget at random
		t.Errorf("%v allocations a round trip", got)
	}
}
