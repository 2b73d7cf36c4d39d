package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"cocoon/internal/h1"
)

func TestMarket(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	p := newPeer(t, g, g.addr(), echo)
	p.t = quick()
	heard := make(chan string, 10)
	p.cfg.Market = func(text []byte) error {
		if string(text) == "bad" {
			return errors.New("not \x1b[31msense")
		}
		heard <- string(text)
		return nil
	}
	p.start(t)
	w := g.next(t).w
	for _, text := range []string{"", "x", strings.Repeat("m", MarketMax)} {
		if err := w.Market(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := <-heard; got != text {
			t.Errorf("heard %d bytes, want %d", len(got), len(text))
		}
		if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
			t.Errorf("a request beside it: %q, %v", text, err)
		}
	}
	if err := w.Market(t.Context(), []byte("bad")); !errors.Is(err, ErrNoMarket) || !strings.Contains(err.Error(), "it says: not [31msense") {
		t.Errorf("got %v", err)
	}
	if err := w.Market(t.Context(), make([]byte, MarketMax+1)); err == nil || errors.Is(err, ErrNoMarket) {
		t.Errorf("sent one that is too long: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Market(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.stop()
	g.next(t)
	if err := w.Market(t.Context(), nil); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

// TestMarketOfNoUse: a worker that takes none says so, and its connection serves on.
func TestMarketOfNoUse(t *testing.T) {
	t.Parallel()
	_, _, w := pairOf(t, 1, quick(), quick(), echo)
	for range 3 {
		if err := w.Market(t.Context(), []byte("x")); !errors.Is(err, ErrNoMarket) || !strings.Contains(err.Error(), "no use") {
			t.Fatalf("got %v", err)
		}
		if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
			t.Fatalf("%q, %v", text, err)
		}
	}
}

// TestHostileMarket: a worker's answers that are none end its connection and nothing else.
func TestHostileMarket(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"too long":     fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", wordsMax+1),
		"cut":          "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"noise":        "garbage\r\n\r\n",
		"other status": "HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := answers(t, quick(), answer, true)
			if err := w.Market(t.Context(), nil); err == nil || errors.Is(err, h1.ErrStale) {
				t.Errorf("got %v", err)
			}
			if !w.Open() {
				t.Error("the session is over")
			}
		})
	}
	t.Run("silence", func(t *testing.T) {
		tm := quick()
		g := serveGate(t, tm)
		id := newID(t)
		ctl, w := control(t, g, id)
		dataOf(t, g, id, ctl)
		eventually(t, "it is there", func() bool { _, idle := w.counts(); return idle == 1 })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := w.Market(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		eventually(t, "the connection is closed", func() bool { all, _ := w.counts(); return all == 0 })
	})
}
