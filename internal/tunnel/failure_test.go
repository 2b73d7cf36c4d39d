package tunnel

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cocoon/internal/h1"
)

// through is a pair with a network between that can break.
func through(t *testing.T, gt, wt timings, h http.HandlerFunc) (*gate, *peer, *Worker, *proxy) {
	t.Helper()
	g := serveGate(t, gt)
	net := newProxy(t, g.addr())
	p := dialGate(t, g, net.addr(), wt, h)
	return g, p, g.next(t).w, net
}

// running starts a request and returns what it will end with.
func running(t *testing.T, w *Worker, b *busy) <-chan error {
	t.Helper()
	got := make(chan error, 1)
	before := b.in.Load()
	c, err := w.Take(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := c.Do(&h1.Request{Method: "POST", Path: "/", Host: "w", Body: []byte("hi")})
		w.Give(c)
		got <- err
	}()
	eventually(t, "it runs", func() bool { return b.in.Load() == before+1 })
	return got
}

func TestNetworkBreaks(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	g, p, w, network := through(t, quick(), quick(), b.serve)
	got := running(t, w, b)
	network.cut()
	if e := g.next(t); e.w != w || e.why == nil || w.Open() {
		t.Fatalf("heard %+v, open %v", e, w.Open())
	}
	if err := <-got; err == nil {
		t.Error("the request was answered")
	}
	eventually(t, "the worker's request ends", func() bool { return b.gone.Load() == 1 && b.in.Load() == 0 })
	e := g.next(t) // it is back
	if e.w == nil || e.w == w || e.report != `{"n":1}` {
		t.Fatalf("heard %+v", e)
	}
	close(b.let)
	if text, err := call(context.Background(), e.w, "/", []byte("again")); text != "200 again" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	if s := p.Status(); !s.Connected || !strings.Contains(s.LastError, "closed the connection") {
		t.Errorf("status %+v", s)
	}
}

func TestNetworkFreezes(t *testing.T) {
	t.Parallel()
	gt, wt := quick(), quick()
	gt.answer = 3 * time.Second
	wt.silence = 4 * time.Second
	b := &busy{let: make(chan struct{})}
	g, p, w, network := through(t, gt, wt, b.serve)
	got := running(t, w, b)
	network.freeze()
	if e := g.next(t); e.w != w || !errors.Is(e.why, os.ErrDeadlineExceeded) {
		t.Fatalf("heard %+v", e)
	}
	if err := <-got; err == nil {
		t.Error("the request was answered")
	}
	eventually(t, "the worker has noticed too", func() bool {
		return strings.Contains(p.Status().LastError, errSilent.Error()) && b.in.Load() == 0
	})
	network.thaw()
	network.cut()
	if e := g.next(t); e.w == nil || e.w == w || e.why != nil {
		t.Errorf("heard %+v", e)
	}
}

func TestControlAloneBreaks(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	g, p, w := pair(t, quick(), quick(), b.serve)
	got := running(t, w, b)
	_ = w.control.raw.Close()
	if e := g.next(t); e.w != w || e.why == nil {
		t.Errorf("heard %+v", e)
	}
	if err := <-got; err == nil {
		t.Error("a data connection outlives its session")
	}
	eventually(t, "the worker's side is gone too", func() bool { return b.in.Load() == 0 })
	if e := g.next(t); e.report == "" || e.w == w {
		t.Errorf("heard %+v", e)
	}
	eventually(t, "it is connected again", func() bool { return p.Status().Connected })
}

func TestRefusedWorker(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	words := "worker is not enrolled\x1b[31m\n: ask the operator"
	g.refuse.Store(&words)
	p := dialGate(t, g, g.addr(), quick(), echo)
	want := "refused by gateway: worker is not enrolled[31m: ask the operator"
	eventually(t, "the worker hears why", func() bool { return p.Status().LastError == want })
	if s := p.Status(); s.Connected || len(g.events) > 0 {
		t.Errorf("status %+v, %d events", s, len(g.events))
	}
	g.refuse.Store(nil) // approved
	e := g.next(t)
	if text, err := call(context.Background(), e.w, "/", []byte("hi")); text != "200 hi" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func TestRecheck(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	g, p, w := pair(t, quick(), quick(), b.serve)
	got := running(t, w, b)
	g.Recheck()
	if !w.Open() {
		t.Fatal("an admitted worker was closed")
	}
	words := "revoked"
	g.refuse.Store(&words)
	g.Recheck()
	if w.Open() {
		t.Error("open after Recheck")
	}
	if _, err := w.Take(context.Background()); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	if err := <-got; err == nil {
		t.Error("the request was answered")
	}
	if e := g.next(t); e.w != w || !errors.Is(e.why, ErrRefused) || !strings.Contains(e.why.Error(), words) {
		t.Errorf("heard %+v", e)
	}
	p.says(t, "refused by gateway: revoked")
}

// TestAdmitAgain: what Admit refuses between hello and the session is not missed.
func TestAdmitAgain(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	f := newFake(t, g, newID(t))
	f.hear(t)
	words := "revoked just now"
	g.refuse.Store(&words)
	f.say(t, `{"v":1,"kind":"control","session":"`+fakeSession+`"}`)
	if said := closedBy(t, f.Conn); len(said) > 0 || len(g.events) > 0 {
		t.Errorf("polled: %q, %d events", said, len(g.events))
	}
}

func TestNewerSessionReplaces(t *testing.T) {
	t.Parallel()
	g, first, w := pair(t, quick(), quick(), echo)
	second := newPeer(t, g, g.addr(), echo)
	second.cfg.Identity = first.cfg.Identity
	second.report = `{"n":"second"}`
	first.t.backoff, first.t.backoffTo = time.Hour, time.Hour // else it would replace the second in turn
	second.t = quick()
	second.start(t)
	if e := g.next(t); e.w != w || !errors.Is(e.why, ErrReplaced) || w.Open() {
		t.Fatalf("heard %+v, open %v", e, w.Open())
	}
	e := g.next(t)
	if e.report != `{"n":"second"}` || e.w == w || e.w.ID() != w.ID() {
		t.Fatalf("heard %+v", e)
	}
	if text, err := call(context.Background(), e.w, "/", []byte("hi")); text != "200 hi" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	eventually(t, "the first knows", func() bool { return !first.Status().Connected })
}

func TestRefusedReports(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	words := "no such model"
	g.invalid.Store(&words)
	p := dialGate(t, g, g.addr(), quick(), echo)
	p.says(t, "refused by gateway: no such model")
	if len(g.events) > 0 {
		t.Fatalf("heard %+v", <-g.events)
	}
	g.invalid.Store(nil)
	w := g.next(t).w
	g.invalid.Store(&words)
	p.set(`{"n":2}`)
	if e := g.next(t); e.w != w || e.why == nil || !strings.Contains(e.why.Error(), words) {
		t.Errorf("heard %+v", e)
	}
	g.invalid.Store(nil)
	if e := g.next(t); e.report != `{"n":2}` {
		t.Errorf("heard %+v", e)
	}
}

func TestOwnReportTooLong(t *testing.T) {
	t.Parallel()
	g, p, w := pair(t, quick(), quick(), echo)
	p.set(`"` + strings.Repeat("x", ReportMax) + `"`)
	if e := g.next(t); e.w != w || e.why == nil {
		t.Errorf("heard %+v", e)
	}
	p.says(t, "report is too long")
}

func TestGatewayRestarts(t *testing.T) {
	t.Parallel()
	g, p, w := pair(t, quick(), quick(), echo)
	g.stop()
	if e := g.next(t); e.w != w || !errors.Is(e.why, ErrClosed) || w.Open() {
		t.Errorf("heard %+v", e)
	}
	if len(g.sessions) > 0 || len(g.strangers.places) > 0 {
		t.Errorf("%d sessions, %d strangers", len(g.sessions), len(g.strangers.places))
	}
	eventually(t, "the worker notices", func() bool { return !p.Status().Connected })
	l, err := net.Listen("tcp", g.addr())
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan event, 10)
	cfg := g.cfg
	cfg.Report = func(w *Worker, report []byte) error {
		events <- event{w: w, report: string(report)}
		return nil
	}
	next := NewServer(cfg)
	next.t = quick()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- next.Serve(ctx, l) }()
	select {
	case e := <-events:
		if text, err := call(context.Background(), e.w, "/", []byte("hi")); text != "200 hi" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
	case <-time.After(limit):
		t.Error("the worker does not come back")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListenerBreaks(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Identity: newID(t), Log: quietLog(t)})
	l.Close()
	if err := s.Serve(context.Background(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestWrongPin(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	p := newPeer(t, g, g.addr(), echo)
	wrong := newID(t).ID()
	p.cfg.Pin, p.t = &wrong, quick()
	p.start(t)
	eventually(t, "the worker says so", func() bool {
		e := p.Status().LastError
		return strings.Contains(e, wrong.String()) && strings.Contains(e, g.cfg.Identity.ID().String())
	})
}

func TestBadAddress(t *testing.T) {
	t.Parallel()
	d := NewDialer(DialerConfig{Identity: newID(t), Address: "no port", Log: quietLog(t)})
	if err := d.Run(context.Background()); err == nil {
		t.Error("ran")
	}
}

func TestGatewayByName(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "id.pem")
	if err := os.WriteFile(path, pemChain(t, key, key.Public(), []net.IP{net.IPv4(127, 0, 0, 1)}), 0o600); err != nil {
		t.Fatal(err)
	}
	named, err := LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	g := serveGate(t, quick())
	g.tls.Certificates = []tls.Certificate{named.cert} // before anybody connects
	_, port, err := net.SplitHostPort(g.addr())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(named.cert.Leaf)
	dial := func(addr string, roots *x509.CertPool) *peer {
		p := newPeer(t, g, addr, echo)
		p.cfg.Pin, p.roots, p.t = nil, roots, quick()
		p.start(t)
		return p
	}
	dial(g.addr(), roots)
	g.next(t)
	for what, p := range map[string]*peer{
		"certificate is not valid for any names": dial("localhost:"+port, roots),
		"unknown authority":                      dial(g.addr(), x509.NewCertPool()),
	} {
		eventually(t, what, func() bool { return strings.Contains(p.Status().LastError, what) })
	}
}

// hand is a gateway's end of the connections that a worker dials, spoken by hand.
type hand struct {
	l   *net.TCPListener
	tls *tls.Config
}

func byHand(t *testing.T, wt timings, h http.HandlerFunc) (*peer, *hand) {
	t.Helper()
	id := newID(t)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := newPeer(t, &gate{Server: NewServer(ServerConfig{Identity: id})}, l.Addr().String(), h)
	p.t = wt
	p.start(t)
	return p, &hand{l, serverTLS(id)}
}

func (h *hand) accept(t *testing.T) *fake {
	t.Helper()
	c, err := h.l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f := tls.Server(c, h.tls)
	return &fake{f, bufio.NewReader(f)}
}

// ask sends a request to the worker and reads its answer.
func (f *fake) ask(t *testing.T, method, path, body string) (status int, answer string) {
	t.Helper()
	if err := f.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n", method, path, len(body))
	if _, err := io.WriteString(f, head+body); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(f.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestWorkerRoutes(t *testing.T) {
	t.Parallel()
	p, gw := byHand(t, quick(), func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, wellKnown) {
			t.Errorf("the handler sees %s", r.URL.Path)
		}
		echo(w, r)
	})
	ctl := gw.accept(t)
	status, text := ctl.ask(t, "POST", helloPath, `{"v":1}`)
	if status != 200 || !strings.Contains(text, `"control"`) || strings.Contains(text, "proof") {
		t.Fatalf("hello: %d %s", status, text)
	}
	status, text = ctl.ask(t, "GET", reportPath+"?after=0", "")
	if status != 200 || text != `{"version":1,"report":{"n":1}}` {
		t.Fatalf("report: %d %s", status, text)
	}
	if status, text := ctl.ask(t, "GET", reportPath+"?after=1", ""); status != 204 {
		t.Fatalf("second report: %d %s", status, text)
	}
	eventually(t, "the worker is connected", func() bool { return p.Status().Connected })
	if status, text := ctl.ask(t, "POST", helloPath, `{"v":1}`); status != 200 || !strings.Contains(text, `"control"`) {
		t.Fatalf("hello again: %d %s", status, text)
	}
	data := func() *fake {
		f := gw.accept(t)
		status, text := f.ask(t, "POST", helloPath, `{"v":1}`)
		if status != 200 || !strings.Contains(text, `"data"`) || !strings.Contains(text, "proof") {
			t.Fatalf("hello: %d %s", status, text)
		}
		return f
	}
	if status, text := data().ask(t, "POST", "/v1/x", "hi"); status != 200 || text != "hi" {
		t.Errorf("request: %d %s", status, text)
	}
	report := reportPath + "?after=0"
	for _, path := range []string{report, wellKnown, wellKnown + "attested", strings.Replace(report, ".", "%2e", 1)} {
		f := data()
		if status, text := f.ask(t, "GET", path, ""); status != 404 || text != "" {
			t.Errorf("%s on a data connection: %d %q", path, status, text)
		}
		closedBy(t, f.Conn)
	}
	f := gw.accept(t)
	if status, text := f.ask(t, "POST", "/v1/x", "hi"); status != 403 || text != "" {
		t.Errorf("before hello: %d %q", status, text)
	}
	closedBy(t, f.Conn)
	if status, _ := ctl.ask(t, "POST", "/v1/x", "hi"); status != 404 {
		t.Errorf("request on the control connection: %d", status)
	}
	closedBy(t, ctl.Conn)
}

func TestHostileGateway(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"other version": `{"v":2}`,
		"no JSON":       `{`,
		"long":          `{"v":1,"x":"` + strings.Repeat("x", helloMax) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			p, gw := byHand(t, quick(), echo)
			f := gw.accept(t)
			if status, _ := f.ask(t, "POST", helloPath, text); status != 400 {
				t.Errorf("status %d", status)
			}
			closedBy(t, f.Conn)
			p.says(t, "hello")
		})
	}
	t.Run("silence", func(t *testing.T) {
		wt := quick()
		wt.hello = 4 * time.Second
		p, gw := byHand(t, wt, echo)
		closedBy(t, gw.accept(t).Conn)
		p.says(t, "before it knew us")
	})
	t.Run("no polls", func(t *testing.T) {
		wt := quick()
		wt.silence = 3 * time.Second
		p, gw := byHand(t, wt, echo)
		f := gw.accept(t)
		f.ask(t, "POST", helloPath, `{"v":1}`)
		closedBy(t, f.Conn)
		p.says(t, errSilent.Error())
	})
	t.Run("bad polls", func(t *testing.T) {
		for _, r := range [][2]string{{"GET", "?after=-1"}, {"GET", ""}, {"GET", "?after=x"}, {"POST", "?after=0"}} {
			_, gw := byHand(t, quick(), echo)
			f := gw.accept(t)
			f.ask(t, "POST", helloPath, `{"v":1}`)
			if status, _ := f.ask(t, r[0], reportPath+r[1], ""); status != 400 {
				t.Errorf("%v: status %d", r, status)
			}
			closedBy(t, f.Conn)
		}
	})
}

// TestDataConnectionsNotWanted: a gateway that closes them after hello is not dialed in a tight circle.
func TestDataConnectionsNotWanted(t *testing.T) {
	t.Parallel()
	wt := quick()
	wt.backoff, wt.backoffTo = time.Hour, time.Hour
	_, gw := byHand(t, wt, echo)
	ctl := gw.accept(t)
	ctl.ask(t, "POST", helloPath, `{"v":1}`)
	ctl.ask(t, "GET", reportPath+"?after=0", "")
	for range idleMin {
		f := gw.accept(t)
		f.ask(t, "POST", helloPath, `{"v":1}`)
		_ = f.NetConn().Close()
	}
	for range 5 { // polls that the worker's loop has seen
		ctl.ask(t, "GET", reportPath+"?after=1", "")
	}
	if err := gw.l.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if c, err := gw.l.Accept(); err == nil {
		c.Close()
		t.Error("dialed again at once")
	}
}

// flaky is a listener that runs out of descriptors now and then.
type flaky struct {
	net.Listener
	fail atomic.Int64
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.fail.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &flaky{Listener: inner}
	l.fail.Store(3)
	reports := make(chan *Worker, 100)
	s := NewServer(ServerConfig{
		Identity: newID(t), Admit: func(ID) error { return nil }, Gone: func(*Worker, error) {}, Log: quietLog(t),
		Report: func(w *Worker, _ []byte) error { reports <- w; return nil },
		Attest: func(context.Context, *Challenge) (time.Time, error) { return time.Now().Add(time.Hour), nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, l) }()
	dialGate(t, &gate{Server: s}, inner.Addr().String(), quick(), echo)
	select {
	case <-reports:
	case <-time.After(limit):
		t.Error("no worker came in")
	}
	l.fail.Store(1 << 40) // from now on: Serve must end while it waits
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
