package clerk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// inBubble runs a test with an office and a worker that it met.
func inBubble(t *testing.T, f func(t *testing.T, o *office, w *fakeWorker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		o, w := newOffice(t, 1_000_000), newWorker(t, 1)
		w.meet(o.clerk)
		f(t, o, w)
		o.close()
	})
}

// spoiled are receipts that are not what was agreed on, by what is wrong.
func spoiled() map[string]func(*receipt.Receipt) {
	return map[string]func(*receipt.Receipt){
		"request": func(r *receipt.Receipt) { r.Request = "req_" + strings.Repeat("0", 32) },
		"worker":  func(r *receipt.Receipt) { r.Worker[0] ^= 1 },
		"epoch":   func(r *receipt.Receipt) { r.Epoch++ },
		"keyset":  func(r *receipt.Receipt) { r.Keyset[0] ^= 1 },
		"model":   func(r *receipt.Receipt) { r.Model = "plain" },
		"weights": func(r *receipt.Receipt) { r.Weights = receipt.Digest{} },
		"engine":  func(r *receipt.Receipt) { r.Engine = receipt.Digest{} },
		"mode":    func(r *receipt.Receipt) { r.Mode = receipt.Simulated },
		"route":   func(r *receipt.Receipt) { r.Route = receipt.Digest{1} },
		"price in": func(r *receipt.Receipt) {
			r.Price.In++
		},
		"tokens in":            func(r *receipt.Receipt) { r.Tokens.In = 101 },
		"tokens out":           func(r *receipt.Receipt) { r.Tokens.Out = 1001 },
		"cost to the customer": func(r *receipt.Receipt) { r.Tokens = offer.Usage{In: 100, Out: 1000} },
		"req":                  func(r *receipt.Receipt) { r.Req[0] ^= 1 },
		"start": func(r *receipt.Receipt) {
			r.Start -= 2 * time.Hour.Milliseconds()
		},
		"end": func(r *receipt.Receipt) { r.End += 13 * time.Hour.Milliseconds() },
	}
}

// A receipt that comes in band is taken only if all of it is as agreed; the error names what is not.
func TestTakeRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		n := 0
		for what, change := range spoiled() {
			n++
			b, err := o.clerk.Hold(context.Background(), w.terms(n), 5100) // 100 in and 1,000 out cost 5,200
			if err != nil {
				t.Fatal(err)
			}
			j := w.job(&b.t)
			err = b.Take(j.sign(receipt.Final, receipt.OK, offer.Usage{In: 10, Out: 7}, change).Wire())
			if m, ok := errors.AsType[*receipt.MismatchError](err); !ok || m.Field != what {
				t.Errorf("%s: %v", what, err)
			}
			if _, _, ok := b.Final(); ok {
				t.Errorf("%s: it is in hand", what)
			}
			b.Close(Failed)
		}
		b, j := o.begin(w, w.terms(99))
		good := j.final(7).Wire()
		for what, wire := range map[string][]byte{
			"empty": nil, "half": good[:len(good)/2], "two": append(bytes.Clone(good), good...),
			"long": bytes.Repeat([]byte("x"), receipt.WireMax+1), "no signature": good[:bytes.LastIndexByte(good[:len(good)-1], '\n')],
		} {
			if err := b.Take(wire); !errors.Is(err, receipt.ErrForm) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := b.Take(good); err != nil {
			t.Errorf("the good one: %v", err)
		}
		if err := b.Take(good); err != nil {
			t.Errorf("again: %v", err)
		}
		if err := b.Take(w.job(&b.t).final(8).Wire()); !errors.Is(err, receipt.ErrFork) {
			t.Errorf("another one: %v", err)
		}
		if c, u, ok := b.Final(); !ok || c != cost(7) || u.Out != 7 {
			t.Errorf("%d, %+v, %v", c, u, ok)
		}
		b.Close(Done)
		sleep(time.Second)
		s := o.clerk.Stats()
		if s.Settled != 1 || s.Voided[WorkerFault] != int64(n) || s.Refused[BadTerms] != int64(n) || s.Refused[BadForm] != 5 ||
			s.Refused[BadChain] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// What a worker presents is paid only if all of it is as agreed, too. It hears why not, and the hold waits on.
func TestPresentRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		n := 0
		names := map[int]string{}
		for what, change := range spoiled() {
			n++
			names[n] = what
			b, err := o.clerk.Hold(context.Background(), w.terms(n), 5100)
			if err != nil {
				t.Fatal(err)
			}
			b.Close(Left)
			w.job(&b.t).sign(receipt.Final, receipt.OK, offer.Usage{In: 10, Out: 7}, change)
		}
		foreign := w.terms(50)
		foreign.Request = "req_" + strings.Repeat("1", 32) // another gateway's
		w.job(foreign).final(7)
		unknown := w.terms(51)
		w.job(unknown).final(7)
		nothing := w.terms(52)
		w.job(nothing).sign(receipt.Final, receipt.Error, offer.Usage{})
		b, j := o.begin(w, w.terms(53))
		take(t, b, j.interim(5))
		b.Close(Left)
		j.next.Prev[0] ^= 1
		j.final(7) // another story

		detach := o.clerk.Attach(w.id, w.link())
		sleep(3 * time.Second)
		for i := 1; i <= n; i++ {
			request := w.terms(i).Request
			why := w.refused[request]
			switch names[i] {
			case "request":
				continue
			case "worker":
				ok := strings.HasPrefix(why, "it is another worker's")
				if !ok {
					t.Errorf("%s: %q", names[i], why)
				}
			case "keyset":
				if !strings.HasPrefix(why, "this gateway has not attested its keyset") {
					t.Errorf("%s: %q", names[i], why)
				}
			default:
				if !strings.HasPrefix(why, "it is not what was agreed on: receipt: "+names[i]+": got") {
					t.Errorf("%s: %q", names[i], why)
				}
			}
		}
		if w.settled[nothing.Request] != 1 || w.refused[unknown.Request] == "" || !strings.Contains(w.refused[b.t.Request], "does not fit") {
			t.Errorf("%v, %q, %q", w.settled, w.refused[unknown.Request], w.refused[b.t.Request])
		}
		if len(w.kept) != 2 { // of another gateway, and with a request that can't be ours
			t.Errorf("%d receipts are kept", len(w.kept))
		}
		if s := o.clerk.Stats(); s.Waiting != n+1 || s.Settled != 0 {
			t.Errorf("%+v", s)
		}
		sleep(DefaultPatience + 2*time.Second)
		if s := o.clerk.Stats(); s.Waiting != 0 || s.Settled != 1 || s.Interim != 1 { // that of the other story
			t.Errorf("%+v", s)
		}
		detach()
	})
}

// A worker that answers nonsense, or nothing, is asked again, less often, and hears its acknowledgements in the end.
func TestExchangeFails(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		var answer []byte
		detach := o.clerk.Attach(w.id, Link{Exchange: func(ctx context.Context, acks []byte) ([]byte, error) {
			w.mu.Lock()
			said := answer
			w.mu.Unlock()
			if said != nil {
				w.asked++
				return said, nil
			}
			return w.exchange(ctx, acks)
		}})
		defer detach()
		sleep(25 * time.Second)
		if w.asked != 3 {
			t.Errorf("an idle worker is asked %d times in 25 s", w.asked)
		}
		for _, bad := range [][]byte{[]byte("hello"), bytes.Repeat([]byte("x"), AnswerMax+1), nil} {
			w.mu.Lock()
			answer, w.asked, w.broken = bad, 0, errFault
			w.mu.Unlock()
			n := len(w.settled) + 1
			b, j := o.begin(w, w.terms(n))
			take(t, b, j.final(7))
			b.Close(Done)
			sleep(time.Minute)
			if w.asked < 5 || w.asked > 15 {
				t.Errorf("asked %d times in a minute", w.asked)
			}
			w.mu.Lock()
			answer, w.broken = nil, nil
			w.mu.Unlock()
			sleep(15 * time.Second)
			if w.settled[b.t.Request] != 1 || len(w.kept) != 0 {
				t.Errorf("settled %v, kept %d", w.settled, len(w.kept))
			}
		}
	})
}

// Many acknowledgements go in several messages, one right after the other.
func TestManyAcks(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		const n = 2*receipt.AcksMax + 300
		rs := make([]receipt.Receipt, n)
		for i := range rs {
			rs[i] = w.job(w.terms(i)).next
			rs[i].Kind = receipt.Final
		}
		made, err := receipt.SignBatch(rs, w.key)
		if err != nil {
			t.Fatal(err)
		}
		defer o.clerk.Attach(w.id, w.link())()
		o.clerk.mu.Lock()
		w.mu.Lock()
		w.kept = made
		for _, r := range made {
			o.clerk.worker(w.id).peer.settled(r.ID())
		}
		w.mu.Unlock()
		o.clerk.mu.Unlock()
		sleep(2 * time.Second)
		if len(w.kept) != 0 || w.asked > 5 {
			t.Errorf("kept %d after %d exchanges", len(w.kept), w.asked)
		}
	})
}

// A receipt whose acknowledgement was lost comes again, and is acknowledged again; nobody pays twice.
func TestDuplicate(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		b, j := o.begin(w, w.terms(1))
		final := j.final(7)
		take(t, b, final)
		b.Close(Done)
		sleep(time.Second)
		for i := range 3 {
			detach := o.clerk.Attach(w.id, w.link())
			sleep(3 * time.Second)
			if w.settled[b.t.Request] != i+1 {
				t.Errorf("acknowledged %d times, want %d", w.settled[b.t.Request], i+1)
			}
			detach()
			w.keep(final)
			if i == 1 {
				o.crash()
			}
		}
		if got := o.paid(); got["user-1"] != cost(7) {
			t.Error(got)
		}
	})
}

// A receipt for more than the answer can have is paid, and the operator hears of it.
func TestImplausible(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		for n, c := range []struct {
			out, reasoning int64
			events         int
			bytes          int64
			bad            bool
		}{
			{100, 0, 100, 22_000, false},
			{100, 90, 10, 2_000, false},   // reasoning that is not shown
			{900, 0, 1, 3_000, false},     // a call of a tool in one event
			{900, 0, 0, 3_000, false},     // a whole answer
			{900, 0, 30, 30 * 200, true},  // far more than was sent
			{900, 0, 100, 100 * 20, true}, // eight tokens an event, and some
			{64, 0, 0, 0, false},
		} {
			b, j := o.begin(w, w.terms(n))
			take(t, b, j.sign(receipt.Final, receipt.OK, offer.Usage{In: 10, Out: c.out, Reasoning: c.reasoning}))
			b.Relayed(c.events, c.bytes-10)
			b.Relayed(0, 10)
			if got := b.implausible(b.final()); got != c.bad {
				t.Errorf("%+v: %v", c, got)
			}
			b.Close(Done)
		}
		sleep(time.Second)
		if s := o.clerk.Stats().Workers[w.id]; s.Implausible != 2 || s.Settled != 7 || s.Events != 241 {
			t.Errorf("%+v", s)
		}
	})
}

// Terms that are none, and keysets that are not there, hold nothing.
func TestHoldRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, o *office, w *fakeWorker) {
		for what, c := range map[string]struct {
			change func(*Terms)
			want   error
		}{
			"name":            {func(t *Terms) { t.Request = "req_x" }, ErrInvalid},
			"capitals":        {func(t *Terms) { t.Request = "req_" + strings.Repeat("A", 32) }, ErrInvalid},
			"key":             {func(t *Terms) { t.Key = strings.Repeat("k", KeyMax+1) }, ErrInvalid},
			"user":            {func(t *Terms) { t.User = strings.Repeat("k", UserMax+1) }, ErrInvalid},
			"req":             {func(t *Terms) { t.Req = receipt.Digest{} }, ErrInvalid},
			"cap":             {func(t *Terms) { t.OutMax = -1 }, ErrInvalid},
			"below the ask":   {func(t *Terms) { t.Price.Cached = 0 }, ErrInvalid},
			"price":           {func(t *Terms) { t.Price.Out = offer.PriceMax + 1 }, ErrInvalid},
			"keyset":          {func(t *Terms) { t.Keyset[0] ^= 1 }, ErrKeyset},
			"worker":          {func(t *Terms) { t.Worker[0] ^= 1 }, ErrKeyset},
			"model":           {func(t *Terms) { t.Model = "other" }, ErrKeyset},
			"mode is nothing": {func(t *Terms) { t.Mode = "" }, ErrInvalid},
		} {
			terms := w.terms(1)
			c.change(terms)
			if b, err := o.clerk.Hold(context.Background(), terms, 100); b != nil || !errors.Is(err, c.want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if s := o.desk.Stats(); s.Open != 0 {
			t.Errorf("%d holds", s.Open)
		}
	})
}

// A note gives the terms back, and is short enough for every request.
func TestNote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := func(name string, least nanoton.Amount) nanoton.Amount {
			return nanoton.Amount(rapid.Int64Range(int64(least), int64(offer.PriceMax)).Draw(t, name))
		}
		text := func(name string, most int) string {
			return string(rapid.SliceOfN(rapid.Byte(), 0, most).Draw(t, name))
		}
		in := Terms{
			Request: fmt.Sprintf("req_%032x", rapid.Uint64().Draw(t, "request")), Account: alice,
			Key: text("key", KeyMax), User: text("user", UserMax), Model: text("model", 256),
			Worker: receipt.Digest{1}, Keyset: receipt.Digest{2}, Req: receipt.Digest{3}, Mode: receipt.Unprotected,
			Ask:   offer.Price{In: amount("in", 0), Cached: amount("cached", 0), Out: amount("out", 0)},
			InMax: rapid.Int64Range(0, offer.TokensMax).Draw(t, "in max"), OutMax: rapid.Int64Range(0, offer.TokensMax).Draw(t, "out max"),
		}
		in.Price = offer.Price{In: amount("in", in.Ask.In), Cached: amount("cached", in.Ask.Cached), Out: amount("out", in.Ask.Out)}
		id, err := RequestID(in.Request)
		if err != nil {
			t.Fatal(err)
		}
		note := in.note()
		out, err := parseNote(id, alice, note)
		if err != nil || len(note) > 700 {
			t.Fatalf("%v; %d bytes", err, len(note))
		}
		in.Closed, out.Closed = nil, nil
		if fmt.Sprintf("%+v", in) != fmt.Sprintf("%+v", *out) {
			t.Fatalf("%+v\n%+v", in, *out)
		}
	})
}

func FuzzNote(f *testing.F) {
	f.Add(newWorker(f, 1).terms(1).note())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, note []byte) {
		if terms, err := parseNote(ledger.ID{}, alice, note); err == nil {
			if again, err := parseNote(ledger.ID{}, alice, terms.note()); err != nil || fmt.Sprint(*again) != fmt.Sprint(*terms) {
				t.Fatalf("%v, %v", err, again)
			}
		}
	})
}
