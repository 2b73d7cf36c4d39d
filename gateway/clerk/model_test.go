package clerk

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// step is one of a script: what happens to a request, or to all.
type step struct {
	kind  string
	out   int64
	pause time.Duration
	late  bool // the request's end comes with the next step
}

// kinds of steps; those of a request say how it goes.
func kinds() []string {
	return []string{
		"done", "done", "done", "unsent", "failed", "useless", "cut in hand", "cut", "cut died", "left", "left died",
		"left in hand", "crash", "away", "back", "fault",
	}
}

// world is a script at work, and what it must come to.
type world struct {
	t      *testing.T
	o      *office
	w      *fakeWorker
	detach func()
	wants  map[string][]nanoton.Amount // what a request may have cost, by its user; nothing stands for not counted
	ends   []func()
	n      int
}

// oneOf notes what a request may come to.
func (m *world) oneOf(costs ...nanoton.Amount) { m.wants[fmt.Sprint("user-", m.n)] = costs }

// crashed: what was not on disk by then may be decided anew, by the worker's receipts alone.
func (m *world) crashed() {
	open := map[string]bool{}
	for i := range m.o.clerk.shards {
		sh := &m.o.clerk.shards[i]
		sh.mu.Lock()
		for _, b := range sh.bills {
			open[b.t.User] = true
		}
		sh.mu.Unlock()
	}
	for user := range open {
		if last := m.finals()[user]; last != nil {
			m.wants[user] = append(m.wants[user], nanoton.Amount(2*last.Tokens.In+5*last.Tokens.Out))
		} else {
			m.wants[user] = append(m.wants[user], 0)
		}
	}
}

// finals are the final receipts that the worker keeps.
func (m *world) finals() map[string]*receipt.Signed {
	all := map[string]*receipt.Signed{}
	for _, r := range m.w.kept {
		if r.Kind == receipt.Final {
			all["user-"+fmt.Sprint(number(r.Request))] = r
		}
	}
	return all
}

// number is what terms named a request by.
func number(request string) (n int) {
	_, _ = fmt.Sscanf(request[len(request)-8:len(request)-1], "%x", &n)
	return n
}

func (m *world) do(s step) {
	for _, end := range m.ends {
		end()
	}
	m.ends = nil
	switch s.kind {
	case "crash":
		m.crashed()
		m.o.crash()
		if m.detach != nil {
			m.detach = m.o.clerk.Attach(m.w.id, m.w.link())
		}
	case "away":
		if m.detach != nil {
			m.detach()
			m.detach = nil
		}
	case "back":
		if m.detach == nil {
			m.detach = m.o.clerk.Attach(m.w.id, m.w.link())
		}
	case "fault":
		names := []string{"settle", "void", "write receipts", "sync receipts", "write hashes", "write offsets"}
		m.o.faults.set(func(f *faults) { f.fail, f.after = names[int(s.out)%len(names)], s.late })
	default:
		m.request(s)
	}
	sleep(s.pause)
}

// request is one, as its kind says.
func (m *world) request(s step) {
	m.n++
	b, j := m.o.begin(m.w, m.w.terms(m.n))
	end := func(f func()) {
		if s.late {
			m.ends = append(m.ends, f)
		} else {
			f()
		}
	}
	interim := func() { take(m.t, b, j.interim(s.out)) }
	abort := func(out int64) { j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{In: 10, Out: out}) }
	full := cost(s.out + 1)
	m.oneOf(full)
	switch s.kind {
	case "done":
		take(m.t, b, j.final(s.out+1))
		b.Close(Done)
	case "unsent":
		j.w.die() // nothing of it was signed
		b.Close(Done)
		m.oneOf()
	case "failed":
		take(m.t, b, j.sign(receipt.Final, receipt.Error, offer.Usage{}))
		b.Close(Failed)
		m.oneOf()
	case "useless":
		take(m.t, b, j.final(s.out+1))
		b.Close(Failed)
		m.oneOf()
	case "cut in hand", "left in hand":
		interim()
		take(m.t, b, j.final(s.out+1))
		b.Close(map[bool]Ending{true: Cut, false: Left}[s.kind == "cut in hand"])
	case "cut", "left":
		interim()
		b.Close(map[bool]Ending{true: Cut, false: Left}[s.kind == "cut"])
		end(func() { abort(s.out + 1) })
		m.oneOf(full)
	case "cut died":
		interim()
		b.Close(Cut)
		end(m.w.die)
		m.oneOf()
	case "left died":
		interim()
		b.Close(Left)
		end(m.w.die)
		m.oneOf(cost(s.out))
	}
}

// end lets everything come to its end, and compares.
func (m *world) end() {
	for _, f := range m.ends {
		f()
	}
	m.w.die()
	m.o.faults.set(func(f *faults) { f.fail = "" })
	if m.detach == nil {
		m.detach = m.o.clerk.Attach(m.w.id, m.w.link())
	}
	sleep(25 * time.Minute)
	m.detach()
	m.o.close()
	paid, total := m.o.paid(), nanoton.Amount(0)
	for user, wants := range m.wants {
		got, counted := paid[user]
		total += got
		ok := len(wants) == 0 && !counted
		for _, want := range wants {
			ok = ok || got == want && (counted || want == 0)
		}
		if !ok {
			m.t.Errorf("%s pays %d (counted: %v), want one of %v", user, got, counted, wants)
		}
	}
	if got := m.o.balance(workerAccount(m.w.id)) + m.o.balance("fees"); got != total || m.o.balance(alice) != 1_000_000-total {
		m.t.Errorf("worker and fees have %d, alice %d, and was paid %d", got, m.o.balance(alice), total)
	}
	if len(m.w.kept) != 0 {
		m.t.Errorf("the worker keeps %d receipts", len(m.w.kept))
	}
	for request := range m.w.settled {
		user := "user-" + fmt.Sprint(number(request))
		if _, counted := paid[user]; !counted && m.w.refused[request] != "" {
			m.t.Errorf("%s is settled and refused", user)
		}
	}
}

// TestModel: whatever happens to requests, gateway, worker and disk, each request is paid as the table of outcomes
// says, once, and nothing is left over.
func TestModel(t *testing.T) {
	checks := 0
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				kind: rapid.SampledFrom(kinds()).Draw(t, "kind"), out: rapid.Int64Range(0, 900).Draw(t, "out"),
				pause: rapid.SampledFrom([]time.Duration{0, time.Millisecond, 50 * time.Millisecond, 3 * time.Second, 15 * time.Second}).Draw(t, "pause"),
				late:  rapid.Bool().Draw(t, "late"),
			}
		}), 1, 14).Draw(rt, "script")
		if checks++; raced && checks > 20 { // each takes five times as long
			return
		}
		ok := t.Run(fmt.Sprint(checks), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &world{t: t, o: newOffice(t, 1_000_000), w: newWorker(t, 1), wants: map[string][]nanoton.Amount{}}
				m.w.meet(m.o.clerk)
				m.detach = m.o.clerk.Attach(m.w.id, m.w.link())
				for _, s := range script {
					m.do(s)
				}
				m.end()
				if t.Failed() {
					t.Log(strings.ReplaceAll(m.o.lines.String(), "\n", "\n\t"))
				}
			})
		})
		if !ok {
			rt.Fatal("see above")
		}
	})
}
