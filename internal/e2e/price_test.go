package e2e_test

import (
	"strings"
	"testing"
)

// TestPriceLive changes a worker's price while a request runs: that one is billed at the price it was held at, the next
// one at the new price.
func TestPriceLive(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const counts = `{"prompt_tokens":30,"completion_tokens":7,"total_tokens":37}`
	before := s.g.books(t)
	p := s.g.begin(t, prompt("m", "hi"))
	running := s.engine.next(t)
	out, problem, code := command(t, "cocoon-worker", "price", "set", "--in", "2000000", "--cached", "1000000", "--out", "0.004 TON", "--config", s.w.config)
	if code != 0 {
		t.Fatalf("price set: exit code %d\n%s%s", code, out, problem)
	}
	eventually(t, decisionMax, "the new price is listed", func() bool {
		return strings.Contains(s.g.get(t, "/cocoon/v1/prices?model=m").body, `"ask_nanoton_per_mtok":{"in":2000000,"cached":1000000,"out":4000000}`)
	})
	running.usageOf(t, counts, 1)
	p.wait(t)
	s.g.settled(t)
	now, want := s.g.books(t), cost(30, 0, 7)
	if got := (paid{before.customer - now.customer, now.worker - before.worker}); got != want {
		t.Errorf("the request that ran: paid %+v, want the old price's %+v", got, want)
	}
	before = now
	p = s.g.begin(t, prompt("m", "hi"))
	s.engine.next(t).usageOf(t, counts, 1)
	p.wait(t)
	s.g.settled(t)
	now, want = s.g.books(t), paid{(30*2_100_000 + 7*4_200_000 + 999_999) / 1_000_000, 30*2 + 7*4}
	if got := (paid{before.customer - now.customer, now.worker - before.worker}); got != want {
		t.Errorf("the next request: paid %+v, want the new price's %+v", got, want)
	}
	if out, _, code = command(t, "cocoon-worker", "price", "--config", s.w.config); code != 0 || !strings.Contains(out, "0.004 TON") {
		t.Errorf("price show: exit code %d\n%s", code, out)
	}
	s.g.audits(t)
}
