package h1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs h on a real net/http server and returns a connection to it.
func serve(t testing.TB, h http.HandlerFunc) (*Conn, *httptest.Server) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return NewConn(c), srv
}

func TestNetHTTPServer(t *testing.T) {
	conn, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Expect") != "" || r.ContentLength != int64(len(body)) {
			t.Errorf("request read as %+v, %v", r.Header, err)
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		if r.URL.Path == "/chunked" {
			for b := range bytes.Lines(body) {
				_, _ = w.Write(b) // a failed write shows at the client
				_ = http.NewResponseController(w).Flush()
			}
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // a failed write shows at the client
	})
	text := strings.Repeat("one line of it\n", 5000)
	local := conn.Net().LocalAddr()
	for _, path := range []string{"/chunked", "/length"} {
		for _, n := range []int{0, 1, 15, 500, 2000, 20_000, len(text)} {
			resp, err := conn.Do(&Request{
				Method: "POST", Path: path, Host: "w", Header: "Content-Type: text/" + path[1:] + "\r\n", Body: []byte(text[:n]),
			})
			if err != nil {
				t.Fatalf("%s %d: %v", path, n, err)
			}
			got, err := io.ReadAll(resp)
			if err != nil || string(got) != text[:n] || resp.ContentType != "text/"+path[1:] {
				t.Errorf("%s %d: %d bytes of %s, %v", path, n, len(got), resp.ContentType, err)
			}
			if !conn.Reusable() || conn.Net().LocalAddr() != local {
				t.Fatalf("%s %d: not kept alive", path, n)
			}
		}
	}
}

func TestServerCloses(t *testing.T) {
	conn, srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/close" {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprint(w, "ok")
	})
	if body, err := io.ReadAll(do(t, conn)); string(body) != "ok" || err != nil || !conn.Reusable() {
		t.Fatalf("%q, %v, reusable %v", body, err, conn.Reusable())
	}
	resp, err := conn.Do(&Request{Method: "GET", Path: "/close", Host: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp); string(body) != "ok" || err != nil || conn.Reusable() {
		t.Fatalf("%q, %v, reusable %v", body, err, conn.Reusable())
	}

	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn = NewConn(c)
	if _, err := io.ReadAll(do(t, conn)); err != nil {
		t.Fatal(err)
	}
	srv.CloseClientConnections() // while idle
	if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
}

func TestDeadlinesResume(t *testing.T) {
	step := make(chan struct{})
	conn, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		flush := http.NewResponseController(w).Flush
		<-step
		fmt.Fprint(w, "first")
		_ = flush() // a failed write shows at the client
		<-step
		fmt.Fprint(w, "second")
	})
	past := func() {
		if err := conn.Net().SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	never := func() {
		if err := conn.Net().SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	past()
	if _, err := conn.Do(&Request{Method: "GET", Path: "/", Host: "w"}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if _, err := conn.Resume(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	never()
	step <- struct{}{}
	resp, err := conn.Resume()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 600)
	if n, err := io.ReadFull(resp, buf[:5]); string(buf[:n]) != "first" || err != nil {
		t.Fatalf("%q, %v", buf[:n], err)
	}
	past()
	for range 2 {
		if n, err := resp.Read(buf); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if conn.buf != nil {
		t.Error("a connection that waits in a body holds a buffer")
	}
	never()
	step <- struct{}{}
	if rest, err := io.ReadAll(resp); string(rest) != "second" || err != nil || !conn.Reusable() {
		t.Errorf("%q, %v, reusable %v", rest, err, conn.Reusable())
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	body := []byte(strings.Repeat("x", 500))
	conn, _ := serve(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // a failed read shows at the client
		_, _ = w.Write(body)               // a failed write shows at the client
	})
	req := Request{
		Method: "POST", Path: "/v1/chat/completions", Host: "w", Header: "Content-Type: application/json\r\n", Body: body,
	}
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := conn.Do(&req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
	}
}

// BenchmarkExchange is this side alone: no system calls.
func BenchmarkExchange(b *testing.B) {
	chunk := []byte("20\r\ndata: {\"choices\":[{\"index\":0}]}\n\r\n")
	chunk = append([]byte(strconv.FormatInt(int64(len(chunk)-6), 16)), chunk[2:]...)
	head := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" +
		"Date: Mon, 23 Nov 2026 10:00:00 GMT\r\nTransfer-Encoding: chunked\r\n\r\n")
	end := []byte("0\r\n\r\n")
	s, steps := &script{}, make([][]byte, 0, 34)
	conn, buf := NewConn(s), make([]byte, 4096)
	req := Request{Method: "POST", Path: "/x", Host: "w", Body: []byte("{}")}
	b.ReportAllocs()
	for b.Loop() {
		s.wrote.Reset()
		steps = append(steps[:0], head)
		for range 32 {
			steps = append(steps, chunk)
		}
		s.pieces = append(steps, end)
		resp, err := conn.Do(&req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
		if !conn.Reusable() {
			b.Fatal(err)
		}
	}
}
