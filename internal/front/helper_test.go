package front

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const hot = "/v1/chat/completions"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request is a plain one.
func request(body string, more ...string) string {
	lines := strings.Join(append(more, ""), "\r\n")
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: a.example:80\r\n%sContent-Length: %d\r\n\r\n%s", hot, lines, len(body), body)
}

// logBuffer is an ErrorLog to look at.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// fixture is a server under test. What h gets is marked as served by front, all else as by net/http.
type fixture struct {
	listener net.Listener
	log      *logBuffer
	stop     func() // and wait
	err      error  // of Serve, after stop
}

func by(name string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["By"] = []string{name}
		w.Header()["Content-Type"] = []string{"text/plain"}
		h.ServeHTTP(w, r)
	})
}

func start(t testing.TB, l net.Listener, h http.HandlerFunc, change ...func(*http.Server)) *fixture {
	t.Helper()
	f := &fixture{listener: l, log: &logBuffer{}}
	srv := &http.Server{
		Handler: by("net/http", h), ErrorLog: log.New(f.log, "", 0),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	for _, c := range change {
		c(srv)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.err = Serve(ctx, Config{Hot: hot, Handler: by("front", h), Server: srv}, l)
	}()
	f.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(f.stop)
	return f
}

func tcp(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// client is a connection to a fixture.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (f *fixture) dial(t testing.TB) *client {
	t.Helper()
	c, err := net.Dial("tcp", f.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c)
}

// pipe connects to a fixture whose listener is ours, in memory: for tests in a synctest bubble.
func (f *fixture) pipe(t testing.TB) *client {
	a, b := net.Pipe()
	f.listener.(interface{ give(net.Conn) }).give(b)
	return newClient(t, a)
}

func newClient(t testing.TB, c net.Conn) *client {
	t.Cleanup(func() { _ = c.Close() }) // the test is over
	return &client{t, c, bufio.NewReader(c)}
}

func memory() *listener {
	return &listener{addr: &net.TCPAddr{}, conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// answer reads one answer.
func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodPost})
	if err != nil {
		c.t.Fatalf("reading an answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("reading a body: %v", err)
	}
	return resp, string(body)
}

// want reads one answer and checks it.
func (c *client) want(by, body string) *http.Response {
	c.t.Helper()
	resp, got := c.answer()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("By") != by || got != body {
		c.t.Fatalf("got %d by %q: %q, want 200 by %q: %q", resp.StatusCode, resp.Header.Get("By"), got, by, body)
	}
	return resp
}

// wantEnd checks that the server has closed.
func (c *client) wantEnd() {
	c.t.Helper()
	if b, err := io.ReadAll(c.r); len(b) > 0 || err != nil {
		c.t.Fatalf("got %q, %v, want the connection's end", b, err)
	}
}

// echo answers with the body.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body) // a failed write shows at the client
}

// script is a connection whose client says what a test wrote down, in pieces, and then closes its side.
type script struct {
	net.Conn // nil: what a test does not expect panics
	in       []byte
	piece    int
	out      bytes.Buffer
	done     chan struct{}
	once     sync.Once
	mu       sync.Mutex
}

func newScript(in []byte, piece int) *script {
	return &script{in: in, piece: piece, done: make(chan struct{})}
}

func (s *script) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.in[:min(len(s.in), s.piece)])
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *script) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *script) CloseWrite() error                { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5} }

// answers renders all that came out of a connection, but for what need not be alike: Date, the order of headers, and
// the borders of chunks. The last one says how it ended.
func answers(out []byte) (all []string) {
	for r := bufio.NewReader(bytes.NewReader(out)); ; {
		var text strings.Builder
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodPost})
		if err != nil {
			rest, _ := io.ReadAll(r) // in memory
			return append(all, fmt.Sprintf("%v, then %q", errors.Is(err, io.ErrUnexpectedEOF), rest))
		}
		body, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		fmt.Fprintf(&text, "%s %v %d close=%v\n", resp.Status, resp.TransferEncoding, resp.ContentLength, resp.Close)
		for _, k := range slices.Sorted(maps.Keys(resp.Header)) {
			fmt.Fprintf(&text, "%s=%q\n", k, resp.Header[k])
		}
		fmt.Fprintf(&text, "%s\n%v\n", body, err)
		all = append(all, text.String())
	}
}

// countingListener counts the writes of its connections.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &countingConn{c, &l.writes}, err
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// failing is a listener that fails after its first connection, each time with the next error.
type failing struct {
	*listener
	errs   []error
	served bool
}

func (l *failing) Accept() (net.Conn, error) {
	if !l.served {
		l.served = true
		return l.listener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}
