package clerk

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// row is a way for a request to end.
type row struct {
	name string
	do   func(o *office, w *fakeWorker, b *Bill, j *job)
	away bool // the worker is not attached
	wait time.Duration
	// What the customer pays, and what the worker hears: "settled", "refused", or "" for neither.
	cost  nanoton.Amount
	hears string
	uses  bool // the request is counted
}

// rows are all ways.
func rows(t *testing.T) []row {
	return []row{
		{"normal", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			take(t, b, j.final(7))
			b.Close(Done)
		}, false, 3 * time.Second, cost(7), "settled", true},
		{"reasoning, cached, length", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.sign(receipt.Final, receipt.Length, offer.Usage{In: 10, Cached: 4, Out: 900, Reasoning: 890}))
			b.Close(Done)
		}, false, 3 * time.Second, 2*6 + 4 + 5*900, "settled", true},
		{"no receipt", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			b.Close(Done)
		}, false, 3 * time.Second, 0, "", false},
		{"final one never sent", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			j.final(7)
			b.Close(Done)
		}, false, 13 * time.Second, 0, "refused", false},
		{"worker's error", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			take(t, b, j.sign(receipt.Final, receipt.Error, offer.Usage{}))
			b.Close(Failed)
		}, false, 3 * time.Second, 0, "settled", false},
		{"worker's error, not sent", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			j.sign(receipt.Final, receipt.Error, offer.Usage{})
			b.Close(Failed)
		}, false, 13 * time.Second, 0, "settled", false},
		{"answer of no use", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.final(7))
			b.Close(Failed)
		}, false, 3 * time.Second, 0, "refused", false},
		{"never asked", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			b.Close(Failed)
		}, true, 3 * time.Second, 0, "", false},
		{"cut, final in hand", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.final(7))
			b.Close(Cut)
		}, false, 3 * time.Second, cost(7), "settled", true},
		{"cut, final later", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			b.Close(Cut)
			sleep(5 * time.Second)
			j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{In: 10, Out: 5})
		}, false, 3 * time.Second, cost(5), "settled", true},
		{"cut, worker died", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			b.Close(Cut)
			w.die()
		}, false, 3 * time.Second, 0, "refused", false},
		{"cut, worker says nothing", func(o *office, w *fakeWorker, b *Bill, j *job) {
			b.Close(Cut)
		}, false, 32 * time.Second, 0, "", false},
		{"cut, worker stays away", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			b.Close(Cut)
		}, true, DefaultPatience + 2*time.Second, 0, "", false},
		{"left, final later", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			b.Close(Left)
			j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{In: 10, Out: 5})
		}, false, 3 * time.Second, cost(5), "settled", true},
		{"left before the first byte", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			b.Close(Left)
			j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{})
		}, false, 3 * time.Second, 0, "settled", true},
		{"left, worker died and is back", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			j.interim(4)
			b.Close(Left)
			w.die()
		}, false, 3 * time.Second, cost(4), "settled", true},
		{"left, worker stays away", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			b.Close(Left)
		}, true, DefaultPatience + 2*time.Second, cost(3), "", true},
		{"left, worker stays away, no interim", func(o *office, _ *fakeWorker, b *Bill, j *job) {
			b.Close(Left)
		}, true, DefaultPatience + 2*time.Second, 0, "", false},
		{"left, bad interim", func(o *office, w *fakeWorker, b *Bill, j *job) {
			j.w = newWorker(t, 1)
			j.w.key = key(50)
			take(t, b, j.interim(3))
			b.Close(Left)
		}, true, DefaultPatience + 2*time.Second, 0, "", false},
		{"gateway died, final later", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			o.crash()
			o.clerk.Attach(w.id, w.link())
			j.sign(receipt.Final, receipt.ClientAbort, offer.Usage{In: 10, Out: 5})
		}, false, 3 * time.Second, cost(5), "settled", true},
		{"gateway died, final was in hand", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.final(7))
			o.faults.set(func(f *faults) { f.dead = true })
			b.Close(Done)
			o.crash()
			o.clerk.Attach(w.id, w.link())
		}, false, 3 * time.Second, cost(7), "settled", true},
		{"gateway and worker died", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			o.crash()
			o.clerk.Attach(w.id, w.link())
			w.die()
		}, false, 3 * time.Second, 0, "refused", false},
		{"gateway died, worker stays away", func(o *office, w *fakeWorker, b *Bill, j *job) {
			take(t, b, j.interim(3))
			o.crash()
		}, true, 21 * time.Minute, 0, "", false},
	}
}

// TestOutcomes is the table of what a request costs, row by row.
func TestOutcomes(t *testing.T) {
	for _, r := range rows(t) {
		t.Run(r.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, w := newOffice(t, 1_000_000), newWorker(t, 1)
				w.meet(o.clerk)
				if !r.away {
					defer o.clerk.Attach(w.id, w.link())()
				}
				terms := w.terms(1)
				called, closed := 0, nanoton.Amount(-1)
				terms.Closed = func(cost nanoton.Amount, _ offer.Usage) { called++; closed = cost }
				b, j := o.begin(w, terms)
				r.do(o, w, b, j)
				sleep(r.wait)
				if died := strings.Contains(r.name, "gateway"); called != 1 && !died || called == 1 && closed != r.cost && !died {
					t.Errorf("closed %d times, with %d, want %d", called, closed, r.cost)
				}
				o.close()
				spent, uses := o.paid()["user-1"]
				if spent != r.cost || uses != r.uses || o.balance(alice) != 1_000_000-r.cost {
					t.Errorf("the customer pays %d, want %d; counted: %v", spent, r.cost, uses)
				}
				if got := o.balance(workerAccount(w.id)) + o.balance("fees"); got != r.cost {
					t.Errorf("worker and fees get %d, want %d", got, r.cost)
				}
				hears := ""
				if w.settled[terms.Request] > 0 {
					hears = "settled"
				}
				if w.refused[terms.Request] != "" {
					hears += "refused"
				}
				if hears != r.hears {
					t.Errorf("the worker hears %q (%s), want %q\n%s", hears, w.refused[terms.Request], r.hears, o.lines.String())
				}
			})
		})
	}
}

// TestRetry: a request's second attempt is a request of its own, and its receipt is found by the first one's name.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOffice(t, 1_000_000), newWorker(t, 1)
		w.meet(o.clerk)
		defer o.clerk.Attach(w.id, w.link())()
		first, second := w.terms(1), w.terms(1)
		second.Request = first.Request[:len(first.Request)-1] + "1"
		b, j := o.begin(w, first)
		take(t, b, j.sign(receipt.Final, receipt.Error, offer.Usage{}))
		b.Close(Failed)
		b, j = o.begin(w, second)
		final := j.final(7)
		take(t, b, final)
		b.Close(Done)
		for _, name := range []string{first.Request, second.Request, final.ID().String()} {
			text, err := o.clerk.Receipt(name) // at once: it waits for the disk
			if err != nil {
				t.Fatal(err)
			}
			items, err := receipt.Read(text)
			if err != nil || len(items) != 1 || items[0].ID() != final.ID() || items[0].Proof == nil || items[0].Keyset == nil {
				t.Errorf("%s: %d receipts, %v", name, len(items), err)
			}
		}
		for _, name := range []string{"", "x", "req_", strings.Repeat("0", 64), w.terms(2).Request} {
			if _, err := o.clerk.Receipt(name); !errors.Is(err, ErrAbsent) {
				t.Errorf("%q: %v", name, err)
			}
		}
		sleep(3 * time.Second)
		o.close()
		if got := o.paid(); got["user-1"] != cost(7) || len(got) != 1 {
			t.Error(got)
		}
	})
}

// TestLastMoney: an account's next request is not refused for money that its last one no longer needs.
func TestLastMoney(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOffice(t, 5300), newWorker(t, 1)
		w.meet(o.clerk)
		b, j := o.begin(w, w.terms(1))
		take(t, b, j.final(1))
		b.Close(Done)
		start := time.Now()
		b, _ = o.begin(w, w.terms(2))
		if took := time.Since(start); took >= gather {
			t.Errorf("it waited %v", took)
		}
		b.Close(Failed)
		sleep(time.Second)
		o.close()
	})
}
