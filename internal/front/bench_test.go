package front

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// handler does what the gateway does with request and answer for a small chat completion.
func handler(w http.ResponseWriter, r *http.Request) {
	var buf [2048]byte
	ctl := http.NewResponseController(w)
	if _, err := io.ReadFull(r.Body, buf[:r.ContentLength]); err != nil || r.Header.Get("Authorization") == "" {
		panic(http.ErrAbortHandler)
	}
	_ = ctl.SetReadDeadline(time.Time{}) // fails only on a dead connection
	stop := context.AfterFunc(r.Context(), func() {})
	defer stop()
	h := w.Header()
	h["X-Request-Id"] = []string{"req_0123456789abcdef0123456789abcdef"}
	h["Cocoon-Worker"] = []string{"0123456789abcdef"}
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(1024)}
	_, _ = w.Write(buf[:1024]) // a failed write shows at the client
}

// sdkRequest is what the Python SDK sends, with a body of 1 KB.
func sdkRequest() []byte {
	return []byte(request(strings.Repeat("x", 1024), "Accept-Encoding: gzip, deflate", "Connection: keep-alive",
		"Accept: application/json", "Content-Type: application/json", "User-Agent: OpenAI/Python 1.99.0",
		"X-Stainless-Lang: python", "X-Stainless-OS: Linux", "X-Stainless-Arch: x64", "X-Stainless-Runtime: CPython",
		"X-Stainless-Async: false", "Authorization: Bearer ck-0123456789abcdef0123456789abcdef"))
}

// exchangeOnce is a client's side of one request, in a buffer that holds the whole answer.
func exchangeOnce(c net.Conn, req, buf []byte) error {
	if _, err := c.Write(req); err != nil {
		return err
	}
	for n := 0; ; {
		k, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += k
		if i := bytes.Index(buf[:n], []byte(headEnd)); i >= 0 && n == i+len(headEnd)+1024 {
			return nil
		}
	}
}

// plainServer is net/http alone on l.
func plainServer(b testing.TB, l net.Listener) {
	srv := &http.Server{
		Handler: http.HandlerFunc(handler), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ErrServerClosed
	}()
	b.Cleanup(func() {
		_ = srv.Close() // nothing runs
		<-done
	})
}

// BenchmarkServe is client and server, over loopback, one request after the other.
func BenchmarkServe(b *testing.B) {
	for _, name := range []string{"front", "nethttp"} {
		b.Run(name, func(b *testing.B) {
			l := tcp(b)
			if name == "front" {
				start(b, l, handler)
			} else {
				plainServer(b, l)
			}
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			req, buf := sdkRequest(), make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if err := exchangeOnce(c, req, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
