//go:build linux

package load

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cocoon/internal/bench/mock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a mock engine for one test.
func engine(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- new(mock.Raw).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// serve is an HTTP server for one test.
func serve(t *testing.T, h http.HandlerFunc) (address string) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func config(mode, address, model string) Config {
	return Config{
		Mode: mode, Address: address, Key: "k", Conns: 4, Rate: 500, Length: 200 * time.Millisecond, Chunks: 5,
		Body: []byte(`{"model":"` + model + `","stream":` + map[bool]string{true: "true", false: "false"}[mode == Streams ||
			mode == Hold] + `,"messages":[]}`),
		Want: mock.Answer(1024),
	}
}

func TestClosed(t *testing.T) {
	r, err := Run(t.Context(), config(Closed, engine(t), "mock"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests < 4 || r.Wrong != 0 || r.Lost != 0 || uint64(r.Requests) != r.Latency.N {
		t.Errorf("%+v", r)
	}
	if r.Seconds < 0.1 || r.Seconds > 10 {
		t.Errorf("%v seconds for a load of 0.2", r.Seconds)
	}
}

func TestWarmUpIsInNoLatency(t *testing.T) {
	c := config(Closed, engine(t), "mock")
	c.Warm = time.Hour
	r, err := Run(t.Context(), c)
	if err != nil || r.Requests == 0 || r.Latency.N != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOpenSendsAllThatIsDue(t *testing.T) {
	address := engine(t)
	c := config(Open, address, "mock")
	first, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// A Poisson process of 500/s over 0.2 s: 100 requests, 10 standard deviation.
	if first.Requests < 50 || first.Requests > 150 || first.Wrong+first.Lost != 0 {
		t.Errorf("%+v", first)
	}
	again, err := Run(t.Context(), c)
	if err != nil || again.Requests != first.Requests {
		t.Errorf("%d requests, then %d, %v: the arrivals are to be the same", first.Requests, again.Requests, err)
	}
}

func TestOpenCountsTheWaitForAConnection(t *testing.T) {
	c := config(Open, engine(t), "mock-w20")
	c.Conns = 1 // 50 a second at most, 500 a second are due
	c.Length = 100 * time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Late < r.Requests/2 || r.Latency.Max < 200e3 {
		t.Errorf("late %d of %d, slowest %v us: the wait is not in the latency", r.Late, r.Requests, r.Latency.Max)
	}
}

// Peers may close a connection after each answer: that is no loss.
func TestPeerThatClosesConnections(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = w.Write(mock.Answer(1024))
	})
	for _, mode := range []string{Closed, Open} {
		r, err := Run(t.Context(), config(mode, address, "mock"))
		if err != nil || r.Requests < 10 || r.Wrong+r.Lost != 0 {
			t.Errorf("%s: %+v, %v", mode, r, err)
		}
	}
}

func TestWrongAnswers(t *testing.T) {
	answer := string(mock.Answer(1024))
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	for name, h := range map[string]struct {
		serve   http.HandlerFunc
		because string
	}{
		"status": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			_, _ = io.WriteString(w, "busy")
		}, "status 503"},
		"short":       {text(answer[:1000]), "1000 bytes"},
		"long":        {text(answer + "}"), "1025 bytes"},
		"other bytes": {text(answer[:1023] + "]"), "1024 bytes"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			for range 1000 {
				if _, err := io.WriteString(w, answer); err != nil {
					return
				}
			}
		}, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			address := serve(t, h.serve)
			for _, mode := range []string{Closed, Open} {
				r, err := Run(t.Context(), config(mode, address, "mock"))
				if err != nil || r.Wrong == 0 || r.Requests != 0 || !strings.Contains(r.Because, h.because) {
					t.Errorf("%s: %+v, %v", mode, r, err)
				}
			}
		})
	}
}

// Every third answer is cut in the middle.
func TestCutAnswersAreLost(t *testing.T) {
	var n atomic.Int64
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1024")
		_, _ = w.Write(mock.Answer(1024)[:512])
		if n.Add(1)%3 == 0 {
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(mock.Answer(1024)[512:])
	})
	for _, mode := range []string{Closed, Open} {
		r, err := Run(t.Context(), config(mode, address, "mock"))
		if err != nil || r.Lost == 0 || r.Requests == 0 || r.Wrong != 0 || r.Because == "" {
			t.Errorf("%s: %+v, %v", mode, r, err)
		}
	}
}

func TestManyLossesEndTheLoad(t *testing.T) {
	address := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c := config(Closed, address, "mock")
	c.Length = time.Minute
	r, err := Run(t.Context(), c)
	if err != nil || r.Lost < lossesMax || r.Lost > lossesMax+int64(c.Conns) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := Run(t.Context(), config(Closed, l.Addr().String(), "mock")); err == nil {
		t.Error("no error though nobody listens")
	}
	if _, err := Run(t.Context(), config("other", l.Addr().String(), "mock")); err == nil {
		t.Error("no error for a mode that is none")
	}
}

func TestStreams(t *testing.T) {
	c := config(Streams, engine(t), "mock-n5-d2")
	c.Conns, c.Ramp = 20, 20*time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if r.Requests != 20 || r.Chunks != 100 || r.Wrong+r.Lost != 0 || r.Latency.N != 20 || r.Delay.N != 100 {
		t.Errorf("%+v", r)
	}
}

func TestHold(t *testing.T) {
	c := config(Hold, engine(t), "mock-n1000-d50")
	c.Conns, c.Length = 20, time.Minute
	release := make(chan struct{})
	c.Holding, c.Release = func() { close(release) }, release
	r, err := Run(t.Context(), c)
	if err != nil || r.Open != 20 || r.Wrong+r.Lost != 0 || r.Chunks < 20 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestHoldCountsStreamsThatEnd(t *testing.T) {
	var n atomic.Int64
	gone := make(chan struct{})
	defer close(gone)
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if n.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, chunk("1764000000000000001"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	})
	c := config(Hold, address, "mock")
	c.Length = time.Minute
	release := make(chan struct{})
	c.Holding, c.Release = func() { close(release) }, release
	r, err := Run(t.Context(), c)
	if err != nil || r.Open != 3 || r.Lost != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func chunk(stamp string) string {
	return `data: {"choices":[{"delta":{"content":"@` + stamp + ` token"},"finish_reason":null}]}` + "\n\n"
}

func TestScanner(t *testing.T) {
	const (
		finish = `data: {"choices":[{"delta":{},"finish_reason":"stop"}]}` + "\n\n"
		usage  = `data: {"choices":[],"usage":{"prompt_tokens":1}}` + "\n\n"
		done   = "data: [DONE]\n\n"
	)
	one, two := chunk("1764000000000000001"), chunk("1764000000000000002")
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"right":            {one + two + finish + done, true},
		"comments":         {": wait\n\n" + one + two + ":\n\n" + finish + done, true},
		"CR LF":            {strings.ReplaceAll(one+two+finish+done, "\n", "\r\n"), true},
		"lost chunk":       {one + finish + done, false},
		"doubled chunk":    {one + two + two + finish + done, false},
		"swapped chunks":   {two + one + finish + done, false},
		"no finish":        {one + two + done, false},
		"no [DONE]":        {one + two + finish, false},
		"usage unasked":    {one + two + finish + usage + done, false},
		"error event":      {one + `data: {"error":{"message":"m"}}` + "\n\n" + done, false},
		"after [DONE]":     {one + two + finish + done + finish, false},
		"half an event":    {one + two + finish + done + "data: {", false},
		"not a data field": {"event: x\n" + one + two + finish + done, false},
		"an endless line":  {"data: " + strings.Repeat("x", lineMax+1), false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 7, 100, len(c.text)} { // however the bytes arrive
				s := scanner{delay: func(int64) {}}
				err := func() error {
					for text := c.text; text != ""; text = text[min(size, len(text)):] {
						if err := s.feed([]byte(text[:min(size, len(text))])); err != nil {
							return err
						}
					}
					return s.end(2)
				}()
				if (err == nil) != c.ok || (err != nil && !isWrong(err)) {
					t.Errorf("in pieces of %d: %v", size, err)
				}
			}
		})
	}
}
