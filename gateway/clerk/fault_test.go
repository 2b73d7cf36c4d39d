package clerk

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/billing"
)

// TestFaults is the table of what the clerk writes: each write fails, or fails but persists, or the process is killed
// before it, or after it. The request is paid once in the end, or void, and nothing is left over.
func TestFaults(t *testing.T) {
	for _, name := range []string{
		"settle", "void", "sync holds", "write receipts", "sync receipts",
	} {
		for i := range 4 {
			after, killed := i&1 != 0, i&2 != 0
			t.Run(fmt.Sprintf("%s, persists %v, killed %v", name, after, killed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					o, w := newOffice(t, 1_000_000), newWorker(t, 1)
					w.meet(o.clerk)
					b, j := o.begin(w, w.terms(1))
					final := j.final(7)
					take(t, b, final)
					want := cost(7)
					o.faults.set(func(f *faults) { f.fail, f.after = name, after })
					if b.Close(Done); name == "void" {
						b, _ = o.begin(w, w.terms(2))
						b.Close(Failed)
					}
					sleep(60 * time.Millisecond) // it has failed, and is not tried again yet
					o.faults.mu.Lock()
					hit := o.faults.fail == ""
					o.faults.mu.Unlock()
					if !hit {
						t.Fatalf("it was not done: %v", o.faults.counts)
					}
					if killed {
						o.crash()
					}
					if !killed || name != "sync holds" && name != "write receipts" && name != "sync receipts" {
						w.kept = nil // it is gone for good: what has come into the log pays all the same
					}
					defer o.clerk.Attach(w.id, w.link())()
					sleep(time.Minute)
					if s := o.clerk.Stats(); !killed && s.Retries == 0 {
						t.Errorf("%+v", s)
					}
					o.close()
					if got := o.paid(); got["user-1"] != want || len(got) != 1 || o.balance(alice) != 1_000_000-want {
						t.Errorf("paid %v\n%s", got, o.lines.String())
					}
				})
			})
		}
	}
}

// A hold that fails holds nothing, and one that was on disk all the same is void after a restart.
func TestHoldFails(t *testing.T) {
	for _, after := range []bool{false, true} {
		inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
			o.faults.set(func(f *faults) { f.fail, f.after = "hold", after })
			if _, err := o.clerk.Hold(context.Background(), w.terms(1), 100); !errors.Is(err, errFault) {
				t.Error(err)
			}
			if s := o.clerk.Stats(); s.Open != 0 {
				t.Errorf("%+v", s)
			}
			o.crash()
			defer o.clerk.Attach(w.id, w.link())()
			sleep(time.Minute)
		})
	}
}

// While the disk fails requests wait, in bounded number, and nothing is lost.
func TestBacklog(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		b, j := o.begin(w, w.terms(1))
		take(t, b, j.final(7))
		o.faults.set(func(f *faults) { f.dead = true })
		b.Close(Done)
		sleep(time.Hour)
		if s := o.clerk.Stats(); s.Queued != 1 || s.Retries < 100 || s.Settled != 0 {
			t.Errorf("%+v", s)
		}
		o.clerk.waiting.Add(BacklogMax - 1)
		if _, err := o.clerk.Hold(context.Background(), w.terms(2), 100); !errors.Is(err, ErrBacklog) {
			t.Error(err)
		}
		o.clerk.waiting.Add(1 - BacklogMax)
		o.faults.set(func(f *faults) { f.dead = false })
		sleep(10 * time.Second)
		if s := o.clerk.Stats(); s.Queued != 0 || s.Settled != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A hold that was voided behind the clerk's back is not paid, and its receipt is refused.
func TestVoidedElsewhere(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		defer o.clerk.Attach(w.id, w.link())()
		b, j := o.begin(w, w.terms(1))
		take(t, b, j.final(7))
		if err := o.desk.Void(context.Background(), b.id); err != nil {
			t.Fatal(err)
		}
		b.Close(Done)
		sleep(3 * time.Second)
		if s := o.clerk.Stats(); s.Voided[NoHold] != 1 || w.refused[b.t.Request] == "" {
			t.Errorf("%+v", s)
		}
		id, err := RequestID(w.terms(2).Request)
		if err == nil {
			err = o.desk.Hold(context.Background(), billing.Hold{Request: id, Account: alice, Ceiling: 1, Note: []byte("x")})
		}
		if err != nil {
			t.Fatal(err)
		}
		o.crash() // what is left over with another's note waits for its deadline
		sleep(21 * time.Minute)
	})
}
