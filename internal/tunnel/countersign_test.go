package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// signer is a peer that countersigns so, and runs.
func signer(t testing.TB, g *gate, sign func(context.Context, []byte) ([]byte, error)) *Worker {
	t.Helper()
	p := newPeer(t, g, g.addr(), echo)
	p.cfg.Countersign = sign
	p.start(t)
	return g.next(t).w
}

func TestCountersign(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	w := signer(t, g, func(_ context.Context, body []byte) ([]byte, error) {
		switch string(body) {
		case "absent":
			return nil, fmt.Errorf("%w, really", ErrAbsent)
		case "fail":
			return nil, errors.New("no\x1b[31m key")
		case "short":
			return make([]byte, CountersignatureSize-1), nil
		case "long":
			return make([]byte, CountersignatureSize+1), nil
		}
		return bytes.Repeat(body[:1], CountersignatureSize), nil
	})
	for range 2 {
		for _, body := range []string{"s", strings.Repeat("m", CountersignMax)} {
			got, err := w.Countersign(t.Context(), []byte(body))
			if want := strings.Repeat(body[:1], CountersignatureSize); err != nil || string(got) != want {
				t.Errorf("%.10s: %q, %v", body, got, err)
			}
		}
		for body, want := range map[string]string{
			"absent": "keeps no such receipts", "fail": "it says: no[31m key", "short": "has 63 bytes", "long": "has 65 bytes",
		} {
			got, err := w.Countersign(t.Context(), []byte(body))
			if !errors.Is(err, ErrNoCountersignature) || !strings.Contains(err.Error(), want) || got != nil {
				t.Errorf("%s: %q, %v", body, got, err)
			}
		}
	}
	if _, err := w.Countersign(t.Context(), make([]byte, CountersignMax+1)); err == nil {
		t.Error("sent what is too long")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Countersign(ended, []byte("s")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestNoCountersigner: a worker that does not countersign says so, and its connection serves on.
func TestNoCountersigner(t *testing.T) {
	t.Parallel()
	_, _, w := pairOf(t, 1, quick(), quick(), echo)
	for range 3 {
		if _, err := w.Countersign(t.Context(), []byte("x")); !errors.Is(err, ErrNoCountersignature) {
			t.Fatalf("got %v", err)
		}
		if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
			t.Fatalf("%q, %v", text, err)
		}
	}
}

// TestHostileCountersigner: a worker's answers that are no signature end its connection at most, and nothing else.
func TestHostileCountersigner(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"too long":        "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n" + strings.Repeat("s", 65),
		"too long in all": chunkedHead + "41\r\n" + strings.Repeat("s", 65) + "\r\n0\r\n\r\n",
		"too short":       "HTTP/1.1 200 OK\r\nContent-Length: 63\r\n\r\n" + strings.Repeat("s", 63),
		"empty":           "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"cut":             "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\nabc",
		"noise":           "garbage\r\n\r\n",
		"words too long":  fmt.Sprintf("HTTP/1.1 503 No\r\nContent-Length: %d\r\n\r\n%s", wordsMax+1, strings.Repeat("w", wordsMax+1)),
		"other status":    "HTTP/1.1 302 Go\r\nContent-Length: 0\r\n\r\n",
		"silence":         "",
		"half":            "HTTP/1.1 200 OK\r\nContent-Le",
	} {
		t.Run(name, func(t *testing.T) {
			tm := quick()
			slow := name == "silence" || name == "half"
			if slow {
				tm.sign = 50 * time.Millisecond
			}
			w := answers(t, tm, answer, !slow)
			if got, err := w.Countersign(t.Context(), []byte("x")); err == nil || got != nil {
				t.Errorf("%q, %v", got, err)
			}
			if all, _ := w.counts(); slow && all != 0 {
				t.Error("the connection is still there")
			}
			if !w.Open() {
				t.Error("the session is over")
			}
		})
	}
	t.Run("no connection", func(t *testing.T) {
		tm := quick()
		tm.sign = 20 * time.Millisecond
		g := serveGate(t, tm)
		_, w := control(t, g, newID(t))
		if _, err := w.Countersign(t.Context(), []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
