// Package front serves one hot route of an HTTP/1.1 server at a fraction of net/http's cost, and leaves all else to
// net/http.
//
// It takes over only requests without anything unusual: exactly "POST <Hot> HTTP/1.1" with a Content-Length, each
// header once, in plain ASCII. At the first byte that is not of this kind the connection goes to net/http with all
// bytes that were read and not answered yet, and stays there: other routes, odd syntax, and every error answer of the
// protocol are net/http's. Whatever is served here, net/http would read the same way and answer the same way, up to
// the order of headers (fuzzed).
//
// What it saves: no goroutine that reads beside a short request, no deadline timers per request, no header maps and
// buffers per request, one Write for an answer that is not streamed. A stream that waits holds no buffer.
package front

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cocoon/internal/daemon"
)

// Config says what is served.
type Config struct {
	// Hot is the path of the hot route: one that needs no escaping, from its slash on, without a query.
	Hot string
	// Handler serves POST requests to Hot. Once it has returned it must not use the request, its header or the
	// response any more: the next request on the connection uses some of their memory. It must set Content-Type itself
	// and can't set Date, send 1xx answers or trailers, nor hijack. The body and SetReadDeadline are for its own
	// goroutine only.
	Handler http.Handler
	// Server serves everything else, requests to Hot that are not plain included. Its ReadTimeout, ReadHeaderTimeout,
	// IdleTimeout and ErrorLog count here too; its WriteTimeout and hooks don't.
	Server *http.Server
}

// Pause after an Accept that failed for want of file descriptors.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
)

// server is what the connections share.
type server struct {
	cfg   Config
	start string       // the only request line that is served here
	base  http.Request // what all requests have in common
	pulse pulse
	date  atomic.Pointer[dateLine]
	rest  *listener

	closing atomic.Bool // told to stop
	running sync.WaitGroup
	mu      sync.Mutex
	conns   map[*conn]struct{} // guarded by mu
	opened  int                // connections so far; guarded by mu
}

// Serve serves the plain TCP connections of l until ctx ends, then lets running requests finish for daemon.Grace and
// cuts the rest. It closes l. The error is the listener's, or says that Hot is not a plain path.
func Serve(ctx context.Context, cfg Config, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _ = l.Close() }) // nobody is left to tell
	if u, err := url.ParseRequestURI(cfg.Hot); err != nil || cfg.Hot[0] != '/' || u.Path != cfg.Hot || u.String() != cfg.Hot {
		return fmt.Errorf("front: %q is not a plain path", cfg.Hot)
	}
	s := newServer(cfg, l.Addr())
	rest := make(chan error, 1)
	go func() {
		defer cancel()
		rest <- daemon.Serve(ctx, cfg.Server, s.rest)
	}()
	err := s.accept(ctx, l)
	cancel()
	s.shutdown()
	return errors.Join(err, <-rest)
}

func newServer(cfg Config, addr net.Addr) *server {
	s := &server{
		cfg: cfg, start: "POST " + cfg.Hot + " HTTP/1.1\r\n", conns: map[*conn]struct{}{},
		base: http.Request{Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RequestURI: cfg.Hot},
		rest: &listener{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})},
	}
	s.date.Store(&dateLine{})
	s.pulse.init()
	return s
}

// accept starts a goroutine for each connection, until the listener is closed.
func (s *server) accept(ctx context.Context, l net.Listener) error {
	pause := acceptPauseMin
	for {
		nc, err := l.Accept()
		if err == nil {
			pause = acceptPauseMin
			s.running.Go(s.track(nc).serve)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if errno, ok := errors.AsType[syscall.Errno](err); !ok || !errno.Temporary() {
			return fmt.Errorf("accepting: %w", err)
		}
		s.logf("front: accepting: %v; retrying in %v", err, pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, acceptPauseMax)
	}
}

// shutdown closes what is idle, waits for what runs, and cuts it when daemon.Grace is over.
func (s *server) shutdown() {
	s.closing.Store(true)
	s.each(func(c *conn) {
		if c.state.CompareAndSwap(idle, over) {
			_ = c.net.Close() // its goroutine finds out
		}
	})
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	late := time.NewTimer(daemon.Grace)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		s.each(func(c *conn) { _ = c.net.Close() }) // its handler finds out
	}
}

func (s *server) each(f func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		f(c)
	}
}

func (s *server) track(nc net.Conn) *conn {
	c := newConn(s, nc)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	c.watch = &s.pulse.watches[s.opened%watches]
	s.opened++
	return c
}

func (s *server) untrack(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *server) logf(format string, args ...any) {
	cmp.Or(s.cfg.Server.ErrorLog, log.Default()).Printf(format, args...)
}

// dateLine is the Date header of one second.
type dateLine struct {
	second int64
	text   string
}

// dateNow is the Date header of now.
func (s *server) dateNow() string {
	now := time.Now()
	d := s.date.Load()
	if d.second != now.Unix() {
		d = &dateLine{second: now.Unix(), text: "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
		s.date.Store(d)
	}
	return d.text
}

// listener is where net/http gets its connections from.
type listener struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// Accept waits for a connection that is not for us.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept; connections given later are closed.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is the real listener's.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) give(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close() // the server stops
	}
}

// handed is a connection whose first bytes were read already.
type handed struct {
	net.Conn
	first []byte
}

func (h *handed) Read(p []byte) (int, error) {
	if len(h.first) == 0 {
		return h.Conn.Read(p)
	}
	n := copy(p, h.first)
	if h.first = h.first[n:]; len(h.first) == 0 {
		h.first = nil
	}
	return n, nil
}

// CloseWrite is what net/http calls so that a client can still read an early answer.
func (h *handed) CloseWrite() error { return closeWrite(h.Conn) }

func closeWrite(c net.Conn) error {
	if tcp, ok := c.(interface{ CloseWrite() error }); ok {
		return tcp.CloseWrite()
	}
	return errors.ErrUnsupported
}
