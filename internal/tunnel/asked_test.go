package tunnel

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
)

// TestAskedByHand is what the worker answers a gateway that asks it for something itself as it likes.
func TestAskedByHand(t *testing.T) {
	t.Parallel()
	for path, test := range map[string]struct {
		limit int
		serve func(c *DialerConfig, calls *atomic.Int64)
		want  string // to "x"
	}{
		receiptsPath: {AcksMax, func(c *DialerConfig, calls *atomic.Int64) {
			c.Receipts = func(_ context.Context, acks []byte) ([]byte, error) {
				calls.Add(1)
				return bytes.ToUpper(acks), nil
			}
		}, "X"},
		countersign: {CountersignMax, func(c *DialerConfig, calls *atomic.Int64) {
			c.Countersign = func(_ context.Context, body []byte) ([]byte, error) {
				calls.Add(1)
				return bytes.Repeat(body[:1], CountersignatureSize), nil
			}
		}, strings.Repeat("x", CountersignatureSize)},
		marketPath: {MarketMax, func(c *DialerConfig, calls *atomic.Int64) {
			c.Market = func([]byte) error {
				calls.Add(1)
				return nil
			}
		}, ""},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			p, gw := byHand(t, quick(), echo)
			p.stop()
			var calls atomic.Int64
			test.serve(&p.cfg, &calls)
			p.start(t)
			next := func() *fake {
				f := gw.accept(t)
				for f.Handshake() != nil { // of the first start, or the worker did not wait
					f = gw.accept(t)
				}
				return f
			}
			ctl := next()
			ctl.ask(t, "POST", helloPath, `{"v":1}`)
			ctl.ask(t, "GET", reportPath+"?after=0", "")
			early := next()
			if status, _ := early.ask(t, "POST", path, "x"); status != 403 {
				t.Errorf("before hello: %d", status)
			}
			closedBy(t, early.Conn)
			data := func() *fake {
				f := next()
				f.ask(t, "POST", helloPath, `{"v":1}`)
				return f
			}
			f := data()
			for range 2 { // and requests are served between
				if status, text := f.ask(t, "POST", path, "x"); status != 200 || text != test.want {
					t.Fatalf("%d %q", status, text)
				}
				if status, text := f.ask(t, "POST", "/v1/x", "hi"); status != 200 || text != "hi" {
					t.Fatalf("%d %q", status, text)
				}
			}
			if status, _ := f.ask(t, "POST", path, strings.Repeat("x", test.limit+1)); status != 413 {
				t.Errorf("too long: %d", status)
			}
			closedBy(t, f.Conn)
			f = data()
			if status, _ := f.ask(t, "GET", path, ""); status != 400 {
				t.Errorf("GET: %d", status)
			}
			closedBy(t, f.Conn)
			if status, _ := ctl.ask(t, "POST", path, "x"); status != 404 {
				t.Errorf("on the control connection: %d", status)
			}
			closedBy(t, ctl.Conn)
			if n := calls.Load(); n != 2 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}
