package h1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

const chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

// script is a connection whose peer says what a test wrote down. It is read in pieces: a nil piece is a read
// deadline that passes. After the last piece comes io.EOF.
type script struct {
	net.Conn // nil: what a test does not expect panics
	pieces   [][]byte
	wrote    bytes.Buffer
	writeErr error
	reads    int
}

func (s *script) Read(p []byte) (int, error) {
	s.reads++
	if len(s.pieces) == 0 {
		return 0, io.EOF
	}
	piece := s.pieces[0]
	if piece == nil {
		s.pieces = s.pieces[1:]
		return 0, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	}
	n := copy(p, piece)
	if s.pieces[0] = piece[n:]; n == len(piece) {
		s.pieces = s.pieces[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	if s.writeErr != nil {
		return 0, s.writeErr
	}
	return s.wrote.Write(p)
}

func (s *script) Close() error                { return nil }
func (s *script) SetDeadline(time.Time) error { return nil }

func pieces(texts ...string) [][]byte {
	var out [][]byte
	for _, t := range texts {
		if t == "" {
			out = append(out, nil)
			continue
		}
		out = append(out, []byte(t))
	}
	return out
}

// cut splits text into pieces of n bytes, with a deadline that passes before each of them if late.
func cut(text []byte, n int, late bool) [][]byte {
	var out [][]byte
	for len(text) > 0 {
		k := min(n, len(text))
		if late {
			out = append(out, nil)
		}
		out = append(out, text[:k:k])
		text = text[k:]
	}
	return out
}

// result is all that a caller can see of an exchange.
type result struct {
	Status      int
	ContentType string
	RetryAfter  string
	Length      int64
	Body        string
	HeadErr     error
	BodyErr     error // nil after a clean end
	Reusable    bool
}

// exchange sends one request over what the peer says in pieces and reads the answer through a slice of room bytes,
// going on after each deadline.
func exchange(conn *Conn, room int) result {
	resp, err := conn.Do(&Request{Method: "POST", Path: "/x", Host: "w"})
	for errors.Is(err, os.ErrDeadlineExceeded) {
		resp, err = conn.Resume()
	}
	if err != nil {
		return result{HeadErr: err, Reusable: conn.Reusable()}
	}
	res := result{
		Status: resp.Status, ContentType: resp.ContentType, Length: resp.ContentLength,
		RetryAfter: resp.Header("Retry-After"),
	}
	p := make([]byte, room)
	var body bytes.Buffer
	for {
		n, err := resp.Read(p)
		body.Write(p[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				res.BodyErr = err
			}
			break
		}
	}
	res.Body, res.Reusable = body.String(), conn.Reusable()
	return res
}

func do(t *testing.T, c *Conn) *Response {
	t.Helper()
	resp, err := c.Do(&Request{Method: "GET", Path: "/", Host: "w"})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
