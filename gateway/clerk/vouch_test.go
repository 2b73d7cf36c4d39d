package clerk

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/receipt"
)

// serve serves requests from n on whose receipts come at the same time, and gives their names.
func (o *office) serve(w *fakeWorker, n, requests int) (names []string) {
	o.t.Helper()
	var bills []*Bill
	for i := range requests {
		b, j := o.begin(w, w.terms(n+i))
		take(o.t, b, j.final(7))
		bills, names = append(bills, b), append(names, b.t.Request)
	}
	for _, b := range bills { // which serve others from here on
		b.Close(Done)
	}
	return names
}

// logged is the receipt of a request in the log; nil if there is none.
func (o *office) logged(request string) *receipt.Signed {
	o.t.Helper()
	at, err := o.log.FindRequest(request)
	if err != nil {
		return nil
	}
	r, err := o.log.Get(at)
	if err != nil {
		o.t.Fatal(err)
	}
	return r
}

// Receipts that come together cost one verification, and each can be verified by itself afterwards. Few are not worth it.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, w := newOffice(t, 10_000_000), newWorker(t, 1)
		w.meet(o.clerk)
		defer o.close()
		defer o.clerk.Attach(w.id, w.link())()
		many := o.serve(w, 1, shareMax+shareMin)
		few := o.serve(w, 1000, 0)
		sleep(3 * time.Second)
		if s := o.clerk.Stats(); s.Shared != shareMax+shareMin || s.Single != 0 || w.signs != 2 {
			t.Errorf("shared %d, single %d, asked %d times", s.Shared, s.Single, w.signs)
		}
		few = append(few, o.serve(w, 1000, shareMin-1)...)
		sleep(3 * time.Second)
		if s := o.clerk.Stats(); s.Single != shareMin-1 || w.signs != 2 {
			t.Errorf("single %d, asked %d times", s.Single, w.signs)
		}
		for _, name := range append(many, few...) {
			r := o.logged(name)
			if r == nil {
				t.Fatalf("%s is not in the log", name)
			}
			if err := r.Verify(w.public()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if w.settled[name] != 1 {
				t.Errorf("%s: the worker heard of it %d times", name, w.settled[name])
			}
		}
	})
}

// A worker whose receipts bear no good signature is not paid for them. One that signs them together is.
func TestForged(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		defer o.clerk.Attach(w.id, w.link())()
		good := w.key
		w.setKey(key(50))
		few := o.serve(w, 1, shareMin-1)
		sleep(3 * time.Second)
		for _, name := range few {
			if why := w.refused[name]; !strings.Contains(why, "signature") || o.logged(name) != nil {
				t.Errorf("%s: %q", name, why)
			}
		}
		if s := o.clerk.Stats(); s.Voided[BadSignature] != shareMin-1 || s.Refused[BadSignature] != shareMin-1 || s.Settled != 0 {
			t.Errorf("%+v", s)
		}
		forged := o.serve(w, 100, shareMin)[0] // asked for one signature, it gives one of the wrong key
		sleep(3 * time.Second)
		if s := o.clerk.Stats(); s.Voided[BadSignature] != 2*shareMin-1 || s.Shared != 0 || w.signs != 1 {
			t.Errorf("asked %d times, %+v", w.signs, s)
		}
		sleep(aloneFor)
		late := o.serve(w, 200, shareMin)
		w.setKey(good)
		sleep(3 * time.Second)
		for _, name := range late {
			if r := o.logged(name); r == nil || r.Verify(w.public()) != nil {
				t.Errorf("%s: what is in the log can't be verified", name)
			}
		}
		if s := o.clerk.Stats(); s.Settled != shareMin || s.Shared != shareMin || o.logged(forged) != nil {
			t.Errorf("%+v", s)
		}
	})
}

// Whatever a worker does instead of signing, its receipts are settled by their own signatures, and it is left alone.
func TestShareFails(t *testing.T) {
	for what, sign := range map[string]func(context.Context, []byte) ([]byte, error){
		"does not know how": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("404") },
		"garbage":           func(context.Context, []byte) ([]byte, error) { return make([]byte, 64), nil },
		"short":             func(context.Context, []byte) ([]byte, error) { return make([]byte, 63), nil },
		"hangs":             func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(what, func(t *testing.T) {
			inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
				w.sign = sign
				defer o.clerk.Attach(w.id, w.link())()
				o.serve(w, 1, 20)
				sleep(5 * time.Second)
				o.serve(w, 100, 20)
				sleep(5 * time.Second)
				if s := o.clerk.Stats(); s.Single != 40 || s.Settled != 40 || s.Shared != 0 || w.signs != 1 {
					t.Errorf("asked %d times, %+v", w.signs, s)
				}
				w.mu.Lock()
				w.sign = nil
				w.mu.Unlock()
				sleep(aloneFor)
				o.serve(w, 200, 20)
				sleep(5 * time.Second)
				if s := o.clerk.Stats(); s.Shared != 20 || w.signs != 2 {
					t.Errorf("asked %d times, %+v", w.signs, s)
				}
			})
		})
	}
}

// Who waits for the money does not wait for a worker that hangs.
func TestShareInAHurry(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		w.sign = func(ctx context.Context, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
		detach := o.clerk.Attach(w.id, w.link())
		o.serve(w, 1, 20)
		time.AfterFunc(500*time.Millisecond, detach) // it goes in the middle
		sleep(time.Second)
		if s := o.clerk.Stats(); s.Single != 20 || s.Settled != 20 {
			t.Errorf("%+v", s)
		}
	})
}
