package tunnel

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/internal/h1"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	g, p, w := pair(t, quick(), quick(), echo)
	if w.ID() != p.cfg.Identity.ID() || !w.Open() {
		t.Errorf("worker %s, open %v", w.ID(), w.Open())
	}
	for _, n := range []int{0, 1, 5000, 1 << 20} {
		body := strings.Repeat("x", n)
		got, err := call(context.Background(), w, "/echo", []byte(body))
		if err != nil || got != "200 "+body {
			t.Fatalf("%d bytes: %.40q, %v", n, got, err)
		}
	}
	p.set(`{"n":2}`)
	if e := g.next(t); e.report != `{"n":2}` {
		t.Errorf("second report %+v", e)
	}
	if s := p.Status(); !s.Connected || s.Since.IsZero() || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

// busy is a handler that holds requests until it is let go, and counts them.
type busy struct {
	in   atomic.Int64
	most atomic.Int64
	gone atomic.Int64 // requests whose context ended
	let  chan struct{}
}

func (b *busy) serve(w http.ResponseWriter, r *http.Request) {
	n := b.in.Add(1)
	defer b.in.Add(-1)
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	select {
	case <-b.let:
		echo(w, r)
	case <-r.Context().Done():
		b.gone.Add(1)
	}
}

func TestManyRequestsFewConnections(t *testing.T) {
	t.Parallel()
	const capacity, requests = 64, 200
	b := &busy{let: make(chan struct{})}
	_, p, w := pair(t, quick(), quick(), b.serve)
	p.capacity.Store(capacity)
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if got, err := call(context.Background(), w, "/", []byte("hi")); err != nil || got != "200 hi" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	eventually(t, "all capacity is in use", func() bool { return b.in.Load() == capacity })
	for range requests {
		if all, _ := w.counts(); all > capacity {
			t.Fatalf("%d data connections", all)
		}
		b.let <- struct{}{}
	}
	wg.Wait()
	if all, idle := w.counts(); all > capacity || idle != all || b.most.Load() > capacity {
		t.Errorf("%d data connections, %d idle, %d requests at once", all, idle, b.most.Load())
	}
}

func TestDoubling(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	_, p, w := pair(t, quick(), quick(), b.serve)
	p.capacity.Store(40)
	conns := func(n int) {
		t.Helper()
		eventually(t, "the connections are as many as they should be", func() bool {
			all, _ := w.counts()
			return all == n
		})
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(b.let)
	running := 0
	start := func(n int) {
		for ; running < n; running++ {
			wg.Go(func() {
				if _, err := call(context.Background(), w, "/", nil); err != nil {
					t.Error(err)
				}
			})
		}
		eventually(t, "they run", func() bool { return b.in.Load() == int64(n) })
	}
	conns(4)
	start(1)
	conns(5)
	start(4)
	conns(8)
	start(8)
	conns(16)
	start(16)
	conns(32)
	start(30)
	conns(40)
	p.capacity.Store(50)
	start(31)
	conns(50)
}

func TestSurplusIsClosed(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.surplus = 200 * time.Millisecond
	b := &busy{let: make(chan struct{})}
	_, _, w := pair(t, quick(), tm, b.serve)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := call(context.Background(), w, "/", nil); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "they run", func() bool { return b.in.Load() == 20 })
	close(b.let)
	wg.Wait()
	eventually(t, "only four are left, at the gateway too", func() bool {
		all, idle := w.counts()
		return all == idleMin && idle == idleMin
	})
	for range 50 { // and they work
		if _, err := call(context.Background(), w, "/", nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTakeLooksAtOldConnections(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.pollGap, tm.answer = time.Hour, time.Hour // no sweep after the first
	wt := quick()
	wt.silence = time.Hour
	_, _, w := pairOf(t, 2, tm, wt, echo)
	c, err := w.Take(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w.Give(c)
	eventually(t, "both are there", func() bool { _, idle := w.counts(); return idle == 2 })
	w.mu.Lock()
	w.sweeps++ // they were idle before it
	top := w.idle[len(w.idle)-1]
	for _, d := range w.idle {
		_ = d.raw.(interface{ CloseRead() error }).CloseRead() // the same to see as the peer's FIN
	}
	w.mu.Unlock()
	if quiet(top.raw) {
		t.Error("a closed connection looks alive")
	}
	if _, err := w.Take(context.Background()); err != nil { // the worker has dialed another
		t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, there := w.conns[top]; there {
		t.Error("it is still there")
	}
}

func TestTakeWaits(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	g, _, w := pairOf(t, 2, quick(), quick(), b.serve)
	var held []*h1.Conn
	for range 2 {
		c, err := w.Take(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	w.t.take = time.Millisecond // nobody else takes now
	if _, err := w.Take(context.Background()); !errors.Is(err, ErrNoConn) {
		t.Errorf("got %v, want ErrNoConn", err)
	}
	w.t.take = limit
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Take(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	got := make(chan error)
	take := func() {
		_, err := w.Take(context.Background())
		got <- err
	}
	waiting := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.waiting)
	}
	go take()
	eventually(t, "it waits", func() bool { return waiting() == 1 })
	w.Give(held[0])
	if err := <-got; err != nil {
		t.Error(err)
	}
	go take()
	eventually(t, "it waits", func() bool { return waiting() == 1 })
	words := "go away"
	g.refuse.Store(&words)
	g.Recheck()
	if err := <-got; !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	if _, err := held[1].Do(&h1.Request{Method: "GET", Path: "/", Host: "w"}); err == nil {
		t.Error("a taken connection outlives its session")
	}
	w.Give(held[1])
}

func TestGive(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	_, _, w := pair(t, quick(), quick(), b.serve)
	eventually(t, "four are there", func() bool { all, _ := w.counts(); return all == 4 })
	c, err := w.Take(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	w.Give(c)
	w.Give(c) // once too often
	if all, idle := w.counts(); all != 4 || idle != 4 {
		t.Errorf("%d connections, %d idle", all, idle)
	}
	if c, err = w.Take(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := c.Net().SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Do(&h1.Request{Method: "GET", Path: "/", Host: "w"}); err == nil {
		t.Fatal("no deadline")
	}
	eventually(t, "it runs", func() bool { return b.in.Load() == 1 })
	w.Give(c) // in the middle of a request: closed, and the worker notices
	eventually(t, "the request's context ends", func() bool { return b.gone.Load() == 1 })
	if c, err = w.Take(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := c.Net().SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	w.Give(c)
	close(b.let)
	for range 10 { // no deadline is left behind
		if _, err := call(context.Background(), w, "/", nil); err != nil {
			t.Fatal(err)
		}
	}
	if c, err = w.Take(context.Background()); err != nil {
		t.Fatal(err)
	}
	_ = c.Net().Close() // instead of Give
	eventually(t, "a new one comes", func() bool { all, idle := w.counts(); return all == 4 && idle == 4 })
}

func TestRunningRequestsFinish(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	_, p, w := pair(t, quick(), quick(), b.serve)
	got := make(chan string)
	go func() {
		text, err := call(context.Background(), w, "/", []byte("late"))
		if err != nil {
			text = err.Error()
		}
		got <- text
	}()
	eventually(t, "it runs", func() bool { return b.in.Load() == 1 })
	eventually(t, "all connections are there", func() bool { _, idle := w.counts(); return idle == idleMin })
	stopped := make(chan struct{})
	go func() {
		p.stop()
		close(stopped)
	}()
	eventually(t, "nothing idle is left", func() bool {
		w.sweep()
		all, idle := w.counts()
		return all == 1 && idle == 0
	})
	select {
	case <-stopped:
		t.Fatal("the worker did not wait")
	default:
	}
	close(b.let)
	if text := <-got; text != "200 late" {
		t.Errorf("got %q", text)
	}
	<-stopped
	if s := p.Status(); s.Connected {
		t.Errorf("status %+v", s)
	}
}

func TestEndlessRequestsAreCut(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.grace = 20 * time.Millisecond
	b := &busy{let: make(chan struct{})}
	g, p, w := pair(t, quick(), tm, b.serve)
	got := make(chan error)
	go func() {
		c, err := w.Take(context.Background())
		if err == nil {
			_, err = c.Do(&h1.Request{Method: "GET", Path: "/", Host: "w"})
		}
		got <- err
	}()
	eventually(t, "it runs", func() bool { return b.in.Load() == 1 })
	p.stop()
	if err := <-got; err == nil {
		t.Error("answered")
	}
	if b.gone.Load() != 1 || b.in.Load() != 0 {
		t.Errorf("%d requests saw their context end, %d still run", b.gone.Load(), b.in.Load())
	}
	if e := g.next(t); e.w != w || e.why == nil {
		t.Errorf("heard %+v", e)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	_, _, w := pair(b, defaults(), defaults(), func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		echo(rw, r)
	})
	body := []byte(`{"model":"tiny","messages":[{"role":"user","content":"` + strings.Repeat("x", 400) + `"}]}`)
	req := h1.Request{
		Method: "POST", Path: "/v1/chat/completions", Host: "w",
		Header: "Content-Type: application/json\r\nCocoon-Request: 0123456789abcdef\r\n", Body: body,
	}
	buf := make([]byte, 4096)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		c, err := w.Take(ctx)
		if err != nil {
			b.Fatal(err)
		}
		resp, err := c.Do(&req)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = resp.Read(buf)
		}
		w.Give(c)
	}
}

// BenchmarkTake is the pool alone.
func BenchmarkTake(b *testing.B) {
	_, _, w := pair(b, defaults(), defaults(), echo)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		c, err := w.Take(ctx)
		if err != nil {
			b.Fatal(err)
		}
		w.Give(c)
	}
}

// TestLack checks that connections are dialed that only the gateway knows to be too few: it holds all, and the worker
// sees none at work.
func TestLack(t *testing.T) {
	t.Parallel()
	_, _, w := pair(t, quick(), quick(), echo)
	eventually(t, "the first ones are idle", func() bool { _, idle := w.counts(); return idle == idleMin })
	var held []*h1.Conn
	for range idleMin {
		c, err := w.Take(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	var wg sync.WaitGroup
	taken := make(chan *h1.Conn, 8)
	for range cap(taken) {
		wg.Go(func() {
			c, err := w.Take(context.Background())
			if err != nil {
				t.Error(err)
			}
			taken <- c
		})
	}
	eventually(t, "eight wait", func() bool { return w.lack.Load() == 8 })
	resp, err := held[0].Do(&h1.Request{
		Method: "GET", Path: "/", Host: host, Header: LackHeader + ": " + strconv.Itoa(w.Lack()) + "\r\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp); err != nil {
		t.Fatal(err)
	}
	wg.Wait() // none has given one back
	if n := w.Lack(); n != 0 {
		t.Errorf("Lack() = %d after it was asked, want 0", n)
	}
	close(taken)
	for c := range taken {
		w.Give(c)
	}
	for _, c := range held {
		w.Give(c)
	}
}
