package front

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLife: to whoever holds it, it is what context.WithCancel makes.
func TestLife(t *testing.T) {
	for name, begin := range map[string]func() (context.Context, func()){
		"ours":    func() (context.Context, func()) { l := new(life); return l, l.end },
		"context": func() (context.Context, func()) { return context.WithCancel(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testContext(t, begin) })
		})
	}
}

func testContext(t *testing.T, begin func() (context.Context, func())) {
	ctx, end := begin()
	if _, ok := ctx.Deadline(); ok || ctx.Err() != nil || ctx.Value("key") != nil {
		t.Error("not a new context")
	}
	select {
	case <-ctx.Done():
		t.Error("done before its end")
	default:
	}
	var ran [4]atomic.Int32
	var stops [4]func() bool
	for i := range ran[:3] {
		stops[i] = context.AfterFunc(ctx, func() { ran[i].Add(1) })
	}
	if !stops[1]() || stops[1]() {
		t.Error("the second was not stopped once")
	}
	child, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	gone, cancelGone := context.WithCancel(ctx)
	cancelGone()
	end()
	end()
	synctest.Wait()
	stops[3] = context.AfterFunc(ctx, func() { ran[3].Add(1) })
	synctest.Wait()
	for i, want := range []int32{1, 0, 1, 1} {
		if n := ran[i].Load(); n != want || stops[i]() {
			t.Errorf("function %d ran %d times, want %d, or could be stopped", i, n, want)
		}
	}
	for _, c := range []context.Context{ctx, child, gone} {
		if <-c.Done(); !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(c), context.Canceled) {
			t.Errorf("its end: %v", c.Err())
		}
	}
}

// TestLifeStopped: what was stopped is not held on to, however often.
func TestLifeStopped(t *testing.T) {
	l := new(life)
	keep := l.AfterFunc(func() {})
	for range 1000 {
		if !l.AfterFunc(func() { t.Error("ran") })() {
			t.Fatal("not stopped")
		}
	}
	if len(l.more) != 0 {
		t.Errorf("%d are held", len(l.more))
	}
	if l.first.f == nil || !keep() {
		t.Error("the first is gone")
	}
	l.end()
}

// TestLifeRace: each function runs or was stopped, never both and never neither.
func TestLifeRace(t *testing.T) {
	for range 200 {
		l := new(life)
		var stopped, ran atomic.Int32
		var all sync.WaitGroup
		const each = 4
		for range each {
			all.Go(func() {
				done := make(chan struct{})
				if l.AfterFunc(func() { ran.Add(1); close(done) })() {
					stopped.Add(1)
				} else {
					<-done
				}
				<-l.Done()
			})
		}
		all.Go(l.end)
		all.Wait()
		if n := stopped.Load() + ran.Load(); n != each {
			t.Fatalf("%d stopped and %d ran, of %d", stopped.Load(), ran.Load(), each)
		}
	}
}

func TestLifeAllocates(t *testing.T) {
	f := func() {}
	if n := testing.AllocsPerRun(1000, func() {
		var l life
		stop := l.AfterFunc(f)
		stop()
		l.end()
	}); n > 2 { // itself, and stop
		t.Errorf("%v allocations", n)
	}
}

// TestExchangeAllocates: a request costs its head, and one piece of memory for all that belongs to it.
func TestExchangeAllocates(t *testing.T) {
	f := start(t, tcp(t), func(w http.ResponseWriter, r *http.Request) {
		stop := r.Context().(*life).AfterFunc(func() {})
		_, _ = io.Copy(w, r.Body) // the client reads it, or the test fails
		stop()
	})
	c := f.dial(t)
	request := []byte("POST " + hot + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok")
	var answer [4 << 10]byte
	n := testing.AllocsPerRun(300, func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Conn.Read(answer[:]); err != nil || !bytes.HasSuffix(answer[:n], []byte("ok")) {
			t.Fatalf("%q, %v", answer[:n], err)
		}
	})
	if n > 8 { // the fixture's handlers make some
		t.Errorf("%v allocations", n)
	}
	t.Logf("%v allocations", n)
}
