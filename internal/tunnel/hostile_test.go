package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// closedBy waits until the far side has closed c, and returns what it said before.
func closedBy(t testing.TB, c net.Conn) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection stays open")
	}
	return said
}

func tcp(t testing.TB, g *gate) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", g.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSilentConnection(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.hello = 50 * time.Millisecond
	g := serveGate(t, tm)
	if said := closedBy(t, tcp(t, g)); len(said) > 0 {
		t.Errorf("the gateway said %q first", said)
	}
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", strings.Repeat("\x00", 10_000), "SSH-2.0-x\r\n"} {
		c := tcp(t, g)
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		closedBy(t, c)
	}
}

func TestSlowLoris(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.hello = 100 * time.Millisecond
	g := serveGate(t, tm)
	c := tcp(t, g)
	// A TLS record of 16 KiB that comes byte by byte, each well before any deadline for one read.
	if _, err := c.Write([]byte{0x16, 3, 1, 0x40, 0}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if _, err := c.Write([]byte{1}); err != nil {
			return // cut
		}
		if time.Now().After(end) {
			t.Fatal("the connection stays open")
		}
	}
}

func TestSlowHello(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.hello = 4 * time.Second
	g := serveGate(t, tm)
	c := stranger(t, g, newID(t), nil)
	if said := closedBy(t, c); !strings.HasPrefix(string(said), "POST "+helloPath) {
		t.Errorf("heard %q", said)
	}
}

func TestRefusedTLS(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	certs := otherCerts(t)
	use := func(name string) func(*tls.Config) {
		return func(c *tls.Config) {
			cert := certs[name]
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		}
	}
	tests := map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return new(tls.Certificate), nil
			}
		},
		"other protocol":   func(c *tls.Config) { c.NextProtos, c.VerifyConnection = []string{"h2", "http/1.1"}, nil },
		"no protocol":      func(c *tls.Config) { c.NextProtos, c.VerifyConnection = nil, nil },
		"TLS 1.2":          func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"P-384":            use("P-384"),
		"RSA":              use("RSA"),
		"two certificates": use("two certificates"),
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			pin := g.cfg.Identity.ID()
			config := clientTLS(newID(t), "127.0.0.1", &pin)
			spoil(config)
			c := tls.Client(tcp(t, g), config)
			if c.Handshake() != nil {
				return
			}
			// TLS 1.3: the worker's side is done before the gateway has seen the certificate.
			if said := closedBy(t, c); len(said) > 0 {
				t.Errorf("the gateway spoke: %q", said)
			}
		})
	}
}

func TestNoTickets(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	id := newID(t)
	cache := tls.NewLRUClientSessionCache(4)
	for range 2 {
		c := stranger(t, g, id, func(c *tls.Config) { c.ClientSessionCache, c.SessionTicketsDisabled = cache, false })
		if _, err := c.Read(make([]byte, 1)); err != nil { // hello: a ticket would have come before it
			t.Fatal(err)
		}
		if c.ConnectionState().DidResume {
			t.Error("resumed")
		}
	}
}

// fake is a worker's end of a connection, spoken by hand.
type fake struct {
	*tls.Conn
	r *bufio.Reader
}

func newFake(t testing.TB, g *gate, id *Identity) *fake {
	c := stranger(t, g, id, nil)
	return &fake{c, bufio.NewReader(c)}
}

// hear reads a request of the gateway.
func (f *fake) hear(t testing.TB) *http.Request {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(f.r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		t.Fatal(err)
	}
	return r
}

// say answers 200 with a JSON body.
func (f *fake) say(t testing.TB, body string) {
	t.Helper()
	if err := f.try(body); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) try(body string) error {
	_, err := io.WriteString(f, ok(body))
	return err
}

// ok is a whole answer with that body.
func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

const (
	fakeSession = "00112233445566aa"
	chunkedHead = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
)

// answers is a worker whose one data connection gives the next request an answer, whatever that is, and then closes if it
// shall.
func answers(t testing.TB, tm timings, answer string, closes bool) *Worker {
	t.Helper()
	g := serveGate(t, tm)
	id := newID(t)
	ctl, w := control(t, g, id)
	f := dataOf(t, g, id, ctl)
	eventually(t, "it is there", func() bool { _, idle := w.counts(); return idle == 1 })
	go func() {
		if _, err := http.ReadRequest(f.r); err == nil {
			_, _ = io.WriteString(f, answer)
			if closes {
				_ = f.NetConn().Close()
			}
		}
	}()
	return w
}

// control opens a session by hand and reports once.
func control(t testing.TB, g *gate, id *Identity) (*fake, *Worker) {
	t.Helper()
	f := newFake(t, g, id)
	f.hear(t)
	f.say(t, `{"v":1,"kind":"control","session":"`+fakeSession+`"}`)
	if r := f.hear(t); r.URL.Path != reportPath || r.URL.Query().Get("after") != "0" {
		t.Fatalf("first poll %v", r.URL)
	}
	f.say(t, `{"version":7,"report":{"by":"hand"}}`)
	e := g.next(t)
	if e.report != `{"by":"hand"}` {
		t.Fatalf("heard %+v", e)
	}
	return f, e.w
}

func TestRefusedHello(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	about := func(v int, kind string) string {
		return fmt.Sprintf(`{"v":%d,"kind":%q,"session":%q}`, v, kind, fakeSession)
	}
	tests := map[string]string{
		"no HTTP":        "hello\r\n\r\n",
		"status":         "HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
		"no JSON":        ok("hi"),
		"other version":  ok(about(2, kindControl)),
		"other kind":     ok(about(1, "another")),
		"session name":   ok(strings.Replace(about(1, kindControl), fakeSession, "longer than "+fakeSession, 1)),
		"closes":         strings.Replace(ok(about(1, kindControl)), "Content", "Connection: close\r\nContent", 1),
		"long":           ok(strings.Repeat(" ", helloMax) + about(1, kindControl)),
		"long, chunked":  chunkedHead + "2000\r\n" + strings.Repeat(" ", 0x2000) + "\r\n",
		"endless head":   "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70_000),
		"no session yet": ok(about(1, kindData)),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, g, newID(t))
			f.hear(t)
			_, _ = io.WriteString(f, answer) // the gateway may close in the middle of it
			closedBy(t, f.Conn)
		})
	}
	if len(g.sessions) > 0 || len(g.events) > 0 {
		t.Errorf("%d sessions, %d events", len(g.sessions), len(g.events))
	}
}

func TestForeignDataConnection(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	id := newID(t)
	ctl, w := control(t, g, id)
	secret, err := exporter(ctl.Conn)
	if err != nil {
		t.Fatal(err)
	}
	own := func(c *tls.Conn) string {
		data, err := exporter(c)
		if err != nil {
			t.Fatal(err)
		}
		return proof(secret, data)
	}
	stolen := own(newFake(t, g, id).Conn)
	tests := map[string]struct {
		id      *Identity
		session string
		proof   func(*tls.Conn) string
	}{
		"no proof":                     {id, fakeSession, func(*tls.Conn) string { return "" }},
		"random proof":                 {id, fakeSession, func(*tls.Conn) string { return strings.Repeat("ab", 32) }},
		"proof of another connection":  {id, fakeSession, func(*tls.Conn) string { return stolen }},
		"proof in capitals":            {id, fakeSession, func(c *tls.Conn) string { return strings.ToUpper(own(c)) + "A" }},
		"unknown session":              {id, "ffffffffffffffff", own},
		"other worker, right the rest": {newID(t), fakeSession, own},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, g, tt.id)
			f.hear(t)
			f.say(t, fmt.Sprintf(`{"v":1,"kind":"data","session":%q,"proof":%q}`, tt.session, tt.proof(f.Conn)))
			closedBy(t, f.Conn)
			if all, _ := w.counts(); all != 0 || !w.Open() {
				t.Errorf("%d data connections, session open %v", all, w.Open())
			}
		})
	}
	f := newFake(t, g, id) // and the right one works
	f.hear(t)
	f.say(t, fmt.Sprintf(`{"v":1,"kind":"data","session":%q,"proof":%q}`, fakeSession, own(f.Conn)))
	if c, err := w.Take(context.Background()); err != nil {
		t.Error(err)
	} else {
		w.Give(c)
	}
	_ = ctl.Close() // the test's end of it
	if e := g.next(t); e.w != w || e.why == nil {
		t.Errorf("heard %+v", e)
	}
	closedBy(t, f.Conn)
}

func TestTooManyDataConnections(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	id := newID(t)
	ctl, w := control(t, g, id)
	raw := tcp(t, g)
	w.mu.Lock()
	for range dataMax { // descriptors of a test are few: these share one
		w.conns[&dataConn{raw: raw}] = struct{}{}
	}
	w.mu.Unlock()
	secret, err := exporter(ctl.Conn)
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t, g, id)
	data, err := exporter(f.Conn)
	if err != nil {
		t.Fatal(err)
	}
	f.hear(t)
	f.say(t, fmt.Sprintf(`{"v":1,"kind":"data","session":%q,"proof":%q}`, fakeSession, proof(secret, data)))
	closedBy(t, f.Conn)
	if !w.Open() {
		t.Error("the session is over")
	}
}

func TestTooManySessions(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	g.mu.Lock()
	for i := range sessionsMax {
		g.sessions[ID{byte(i), byte(i >> 8), 1}] = nil
	}
	g.mu.Unlock()
	p := dialGate(t, g, g.addr(), quick(), echo)
	eventually(t, "the worker hears why", func() bool { return strings.Contains(p.Status().LastError, "no place") })
}

func TestHostileReports(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", ReportMax)
	tests := map[string]string{
		"too long, said so": fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", answerMax+1),
		"too long":          chunkedHead + strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", len(huge), huge), 2),
		"too long inside":   ok(`{"version":8,"report":"` + huge + `"}`),
		"no JSON":           ok("{{"),
		"deep JSON":         ok(strings.Repeat("[", 100_000)),
		"no report":         ok(`{"version":8}`),
		"old version":       ok(`{"version":7,"report":{}}`),
		"negative version":  ok(`{"version":-8,"report":{}}`),
		"status":            "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
		"closes":            "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
		"two answers":       "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
		"nothing":           "",
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			tm := quick()
			if answer == "" {
				tm.answer = 3 * time.Second
			}
			g := serveGate(t, tm)
			f, w := control(t, g, newID(t))
			if r := f.hear(t); r.URL.Query().Get("after") != "7" {
				t.Errorf("second poll %v", r.URL)
			}
			_, _ = io.WriteString(f, answer) // the gateway may close in the middle of it
			if e := g.next(t); e.w != w || e.why == nil || w.Open() {
				t.Errorf("heard %+v, open %v", e, w.Open())
			}
			closedBy(t, f.Conn)
			if _, err := w.Take(context.Background()); !errors.Is(err, ErrGone) {
				t.Errorf("got %v, want ErrGone", err)
			}
		})
	}
}

func TestReportFlood(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.pollGap = 20 * time.Millisecond
	g := serveGate(t, tm)
	f, _ := control(t, g, newID(t))
	began := time.Now()
	const polls = 10
	for i := range polls {
		f.hear(t)
		f.say(t, fmt.Sprintf(`{"version":%d,"report":{}}`, 8+i))
	}
	f.hear(t)
	if took := time.Since(began); took < (polls-1)*tm.pollGap {
		t.Errorf("%d polls in %v", polls, took)
	}
}

// TestFlood holds ten thousand silent connections open while a worker comes in.
func TestFlood(t *testing.T) {
	count := 10_000
	if testing.Short() {
		count = 1000
	}
	tm := quick()
	tm.patience = 10 * time.Millisecond // with one second a backlog of thousands takes a while
	g := serveGate(t, tm)
	conns := make([]net.Conn, count)
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				c, err := net.DialTimeout("tcp", g.addr(), limit)
				if err != nil {
					failed.Add(1)
					continue
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	if n := failed.Load(); n > int64(count)/10 {
		t.Skipf("%d of %d connections could not be made here", n, count)
	}
	if n := len(g.strangers.places); n > strangersMax {
		t.Errorf("%d strangers at once", n)
	}
	dialGate(t, g, g.addr(), quick(), echo)
	e := g.next(t)
	if got, err := call(context.Background(), e.w, "/", []byte("hi")); got != "200 hi" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLobby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLobby(2)
		conn := func() (near, far net.Conn) {
			near, far = net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			return near, far
		}
		isClosed := func(c net.Conn) bool {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond)) // of a pipe: never fails while open
			_, err := c.Read(make([]byte, 1))
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
		a, aFar := conn()
		b, _ := conn()
		c, _ := conn()
		leaveA, _ := l.enter(t.Context(), a, time.Second)
		leaveB, _ := l.enter(t.Context(), b, time.Second)
		go func() { // as a connection's goroutine does when it is cut
			for !isClosed(aFar) {
				time.Sleep(time.Millisecond)
			}
			leaveA()
			leaveA()
		}()
		began := time.Now()
		leaveC, ok := l.enter(t.Context(), c, time.Second)
		if took := time.Since(began); !ok || took < 900*time.Millisecond || took > 2*time.Second {
			t.Errorf("entered %v after %v", ok, took)
		}
		if isClosed(b) || isClosed(c) {
			t.Error("the wrong one was pushed out")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, ok := l.enter(ctx, a, time.Second); ok {
			t.Error("entered a full lobby")
		}
		leaveB()
		leaveC()
		if len(l.places) > 0 || len(l.guests) > 0 {
			t.Errorf("%d places taken, %d guests", len(l.places), len(l.guests))
		}
	})
}
