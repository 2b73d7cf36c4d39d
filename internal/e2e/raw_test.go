package e2e_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// raw is a client that says what it wants on a bare TCP connection.
type raw struct {
	conn *net.TCPConn
	in   *bufio.Reader
	got  strings.Builder // all that was read by until
}

// rawMax is how long a raw client waits for anything.
const rawMax = time.Minute

func dial(t *testing.T, c client) *raw {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(c.base, "http://"), rawMax)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &raw{conn: conn.(*net.TCPConn), in: bufio.NewReader(conn)}
}

// head is a chat request's head with further header lines, each with its CRLF.
func (c client) head(lines string) string {
	return "POST /v1/chat/completions HTTP/1.1\r\nHost: cocoon.test\r\nContent-Type: application/json\r\n" +
		"Authorization: Bearer " + c.key + "\r\n" + lines + "\r\n"
}

// open sends a whole chat request and leaves the answer to the caller.
func (c client) open(t *testing.T, body string) *raw {
	t.Helper()
	r := dial(t, c)
	r.send(t, c.head(fmt.Sprintf("Content-Length: %d\r\n", len(body)))+body)
	return r
}

func (r *raw) send(t *testing.T, text string) {
	t.Helper()
	if err := r.try(text); err != nil {
		t.Fatalf("sending %.100q: %v", text, err)
	}
}

// try sends what the server may well refuse to read.
func (r *raw) try(text string) error {
	if err := r.conn.SetWriteDeadline(time.Now().Add(rawMax)); err != nil {
		return err
	}
	_, err := io.WriteString(r.conn, text)
	return err
}

// until reads up to and with the text.
func (r *raw) until(t *testing.T, text string) {
	t.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(rawMax)); err != nil {
		t.Fatal(err)
	}
	from := r.got.Len()
	for !strings.Contains(r.got.String()[from:], text) {
		b, err := r.in.ReadByte()
		if err != nil {
			t.Fatalf("waiting for %q after %q: %v", text, r.got.String(), err)
		}
		r.got.WriteByte(b)
	}
}

// response reads the answer's head and body.
func (r *raw) response(t *testing.T) (*http.Response, string, error) {
	t.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(rawMax)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(r.in, nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// closed waits until the server has hung up.
func (r *raw) closed(t *testing.T) {
	t.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(rawMax)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, r.in)
	if netErr, ok := err.(net.Error); ok && netErr.Timeout() {
		t.Errorf("the server still has the connection open after %v", rawMax)
	}
}

// leave closes the connection as a client does that ends in an orderly way; reset does it as one that crashes.
func (r *raw) leave() { r.conn.Close() }

func (r *raw) reset() {
	_ = r.conn.SetLinger(0) // a connection that is gone already needs none
	r.conn.Close()
}
