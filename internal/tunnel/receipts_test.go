package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/internal/h1"
)

// keeper is a peer that exchanges receipts so, and runs.
func keeper(t testing.TB, g *gate, wt timings, exchange func(context.Context, []byte) ([]byte, error)) *peer {
	t.Helper()
	p := newPeer(t, g, g.addr(), echo)
	p.cfg.Receipts, p.t = exchange, wt
	p.start(t)
	return p
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	let := make(chan struct{})
	var running atomic.Int64
	p := keeper(t, g, quick(), func(ctx context.Context, acks []byte) ([]byte, error) {
		running.Add(1)
		defer running.Add(-1)
		select {
		case <-let:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		switch string(acks) {
		case "none":
			return nil, nil
		case "fail":
			return nil, errors.New("disk is\x1b[31m full")
		case "most":
			return bytes.Repeat([]byte("r"), ReceiptsMax), nil
		case "more":
			return bytes.Repeat([]byte("r"), ReceiptsMax+1), nil
		}
		return fmt.Appendf(nil, "of %d bytes", len(acks)), nil
	})
	w := g.next(t).w
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := w.Receipts(ctx, nil)
		got <- err
	}()
	eventually(t, "it runs", func() bool { return running.Load() == 1 })
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the worker stops", func() bool { return running.Load() == 0 })
	close(let)
	for acks, want := range map[string]string{
		"": "of 0 bytes", "x": "of 1 bytes", "none": "", "most": strings.Repeat("r", ReceiptsMax),
		strings.Repeat("a", AcksMax): fmt.Sprintf("of %d bytes", AcksMax),
	} {
		if text, err := w.Receipts(t.Context(), []byte(acks)); err != nil || string(text) != want {
			t.Errorf("%.10s: %.40q, %v", acks, text, err)
		}
	}
	for acks, want := range map[string]string{"fail": "it says: disk is[31m full", "more": "at most"} {
		if _, err := w.Receipts(t.Context(), []byte(acks)); !errors.Is(err, ErrNoReceipts) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", acks, err)
		}
	}
	if _, err := w.Receipts(t.Context(), make([]byte, AcksMax+1)); err == nil {
		t.Error("sent acknowledgements that are too long")
	}
	var all sync.WaitGroup
	for i := range 40 { // beside requests
		all.Go(func() {
			if i%2 == 0 {
				if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
					t.Errorf("%q, %v", text, err)
				}
			} else if text, err := w.Receipts(t.Context(), make([]byte, i)); err != nil || string(text) != fmt.Sprintf("of %d bytes", i) {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	all.Wait()
	if n, idle := w.counts(); n != idle || n == 0 {
		t.Errorf("%d data connections, %d idle", n, idle)
	}
	p.stop()
	g.next(t)
	if _, err := w.Receipts(t.Context(), nil); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

// TestReceiptsOfNoKeeper: a worker without receipts says so, and its connection serves on.
func TestReceiptsOfNoKeeper(t *testing.T) {
	t.Parallel()
	_, _, w := pairOf(t, 1, quick(), quick(), echo)
	for range 3 {
		if _, err := w.Receipts(t.Context(), []byte("x")); !errors.Is(err, ErrNoReceipts) || !strings.Contains(err.Error(), "keeps none") {
			t.Fatalf("got %v", err)
		}
		if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
			t.Fatalf("%q, %v", text, err)
		}
	}
}

// TestHostileReceipts: a worker's answers that are none end its connection and nothing else.
func TestHostileReceipts(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"too long":        fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", ReceiptsMax+1),
		"too long in all": chunkedHead + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", ReceiptsMax+1, strings.Repeat("r", ReceiptsMax+1)),
		"cut":             "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"noise":           "garbage\r\n\r\n",
		"words too long":  fmt.Sprintf("HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s", wordsMax+1, strings.Repeat("w", wordsMax+1)),
		"other status":    "HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := answers(t, quick(), answer, true)
			text, err := w.Receipts(t.Context(), nil)
			if err == nil || errors.Is(err, h1.ErrStale) || text != nil {
				t.Errorf("%q, %v", text, err)
			}
			if !w.Open() {
				t.Error("the session is over")
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		tm := quick()
		tm.receipts = 50*time.Millisecond - tm.answer // so much in all
		g := serveGate(t, tm)
		id := newID(t)
		ctl, w := control(t, g, id)
		dataOf(t, g, id, ctl)
		eventually(t, "it is there", func() bool { _, idle := w.counts(); return idle == 1 })
		if _, err := w.Receipts(t.Context(), nil); err == nil {
			t.Error("it answered")
		}
		if all, _ := w.counts(); all != 0 {
			t.Error("the connection is still there")
		}
	})
}

// TestReceiptsInTime: a callback that hangs is cut off, and the gateway hears of it.
func TestReceiptsInTime(t *testing.T) {
	t.Parallel()
	wt := quick()
	wt.receipts = 20 * time.Millisecond
	g := serveGate(t, quick())
	keeper(t, g, wt, func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	w := g.next(t).w
	if _, err := w.Receipts(t.Context(), nil); !errors.Is(err, ErrNoReceipts) || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("got %v", err)
	}
}
