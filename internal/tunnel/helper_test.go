package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/internal/h1"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil { // most of their time they wait for a time limit to pass
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// limit is when a test gives up; nothing waits for it that works, also on a busy machine.
const limit = time.Minute

// quick is the protocol with its waits shortened a hundredfold where a test would have to sit them out.
func quick() timings {
	t := defaults()
	t.poll = 50 * time.Millisecond
	t.pollGap = 5 * time.Millisecond
	t.linger = 20 * time.Millisecond
	t.backoff = 5 * time.Millisecond
	t.backoffTo = 50 * time.Millisecond
	t.take = limit // dials take a while on a busy machine
	return t
}

func newID(t testing.TB) *Identity {
	t.Helper()
	id, err := LoadIdentity(filepath.Join(t.TempDir(), "id.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func quietLog(t testing.TB) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testWriter shows the log of a test that fails.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	w.t.Logf("%s", p)
	return len(p), nil
}

// gate is a gateway's side that runs.
type gate struct {
	*Server
	l       net.Listener
	events  chan event
	refuse  atomic.Pointer[string]
	invalid atomic.Pointer[string]
	attest  atomic.Pointer[func(ctx context.Context, c *Challenge) (time.Time, error)]
	stop    func()

	reported sync.Map     // *Worker -> true: a report of it was taken
	gone     atomic.Int32 // workers that never came so far
}

// event is what the gateway heard: a report, or that a worker is gone whose report was taken.
type event struct {
	w      *Worker
	report string
	why    error
}

func (g *gate) addr() string { return g.l.Addr().String() }

// serveGate runs a gateway's side until the test ends.
func serveGate(t testing.TB, tm timings) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{l: l, events: make(chan event, 1000)}
	g.Server = NewServer(ServerConfig{
		Identity: newID(t),
		Admit: func(ID) error {
			if words := g.refuse.Load(); words != nil {
				return errors.New(*words)
			}
			return nil
		},
		Attest: func(ctx context.Context, c *Challenge) (time.Time, error) {
			if attest := g.attest.Load(); attest != nil {
				return (*attest)(ctx, c)
			}
			return time.Now().Add(time.Hour), nil // unasked
		},
		Report: func(w *Worker, report []byte) error {
			if words := g.invalid.Load(); words != nil {
				return errors.New(*words)
			}
			g.reported.Store(w, true)
			g.events <- event{w: w, report: string(report)}
			return nil
		},
		Gone: func(w *Worker, why error) {
			if _, ok := g.reported.Load(w); !ok {
				g.gone.Add(1)
				return
			}
			g.events <- event{w: w, why: why}
		},
		Log: quietLog(t),
	})
	g.t = tm
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Serve(ctx, l); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	g.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(g.stop)
	return g
}

// next is the next thing that the gateway hears.
func (g *gate) next(t testing.TB) event {
	t.Helper()
	select {
	case e := <-g.events:
		return e
	case <-time.After(limit):
		t.Fatal("the gateway hears nothing")
		return event{}
	}
}

// peer is a worker's side that runs.
type peer struct {
	*Dialer
	capacity atomic.Int64
	polls    atomic.Int64
	stop     func()
	done     chan struct{}

	mu      sync.Mutex
	version uint64
	report  string
	changed chan struct{}
}

func (p *peer) set(report string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version++
	p.report = report
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) get(ctx context.Context, after uint64) (uint64, []byte) {
	p.polls.Add(1)
	for {
		p.mu.Lock()
		version, report, changed := p.version, p.report, p.changed
		p.mu.Unlock()
		if version > after {
			return version, []byte(report)
		}
		select {
		case <-ctx.Done():
			return after, nil
		case <-changed:
		}
	}
}

// dialGate runs a worker's side that dials addr, until the test ends.
func dialGate(t testing.TB, g *gate, addr string, tm timings, h http.HandlerFunc) *peer {
	t.Helper()
	p := newPeer(t, g, addr, h)
	p.t = tm
	p.start(t)
	return p
}

// newPeer is a worker's side that does not run yet.
func newPeer(t testing.TB, g *gate, addr string, h http.HandlerFunc) *peer {
	t.Helper()
	p := &peer{changed: make(chan struct{}), version: 1, report: `{"n":1}`}
	p.capacity.Store(64)
	pin := g.cfg.Identity.ID()
	p.Dialer = NewDialer(DialerConfig{
		Identity: newID(t), Address: addr, Pin: &pin, Handler: h, Report: p.get,
		Capacity: func() int { return int(p.capacity.Load()) },
		Log:      quietLog(t),
	})
	return p
}

// says waits until the worker's last error has those words.
func (p *peer) says(t testing.TB, words string) {
	t.Helper()
	eventually(t, "the worker says "+words, func() bool { return strings.Contains(p.Status().LastError, words) })
}

func (p *peer) start(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.Run(ctx); err != nil {
			t.Errorf("worker: %v", err)
		}
	}()
	p.stop = func() {
		cancel()
		<-p.done
	}
	t.Cleanup(p.stop)
}

// pair is a gateway and a worker that has reported once.
func pair(t testing.TB, gt, wt timings, h http.HandlerFunc) (*gate, *peer, *Worker) {
	t.Helper()
	g := serveGate(t, gt)
	p := dialGate(t, g, g.addr(), wt, h)
	e := g.next(t)
	if e.w == nil || e.report != `{"n":1}` {
		t.Fatalf("first event %+v", e)
	}
	return g, p, e.w
}

// pairOf is the same with so many data connections at most.
func pairOf(t testing.TB, capacity int64, gt, wt timings, h http.HandlerFunc) (*gate, *peer, *Worker) {
	t.Helper()
	g := serveGate(t, gt)
	p := newPeer(t, g, g.addr(), h)
	p.t = wt
	p.capacity.Store(capacity)
	p.start(t)
	return g, p, g.next(t).w
}

// call is one request over the worker; it may be repeated on a stale connection, as the gateway does.
func call(ctx context.Context, w *Worker, path string, body []byte) (string, error) {
	for {
		c, err := w.Take(ctx)
		if err != nil {
			return "", err
		}
		resp, err := c.Do(&h1.Request{Method: "POST", Path: path, Host: "w", Body: body})
		if errors.Is(err, h1.ErrStale) {
			w.Give(c)
			continue
		}
		if err != nil {
			w.Give(c)
			return "", err
		}
		text, err := io.ReadAll(resp)
		got := fmt.Sprintf("%d %s", resp.Status, text) // resp is the next taker's after Give
		w.Give(c)
		return got, err
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, _ = w.Write(body) // a failed write shows at the client
}

// eventually waits for what another goroutine is about to make true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// counts of a worker's connections at the gateway.
func (w *Worker) counts() (all, idle int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns), len(w.idle)
}

// stranger makes a TLS connection of the worker's kind to the gateway, with what spoil changes.
func stranger(t testing.TB, g *gate, id *Identity, spoil func(*tls.Config)) *tls.Conn {
	t.Helper()
	pin := g.cfg.Identity.ID()
	config := clientTLS(id, "127.0.0.1", &pin)
	if spoil != nil {
		spoil(config)
	}
	c, err := tls.Dial("tcp", g.addr(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
