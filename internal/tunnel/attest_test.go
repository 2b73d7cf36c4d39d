package tunnel

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/internal/h1"
)

const testLabel = "EXPERIMENTAL-cocoon-test"

// attests has the gateway attest by fn.
func (g *gate) attests(fn func(ctx context.Context, c *Challenge) (time.Time, error)) {
	g.attest.Store(&fn)
}

func hourLater() time.Time { return time.Now().Add(time.Hour) }

// secretOf answers a challenge with a secret of its connection.
func secretOf(_ context.Context, export Exporter, challenge []byte) ([]byte, error) {
	if export == nil {
		return fmt.Appendf(nil, "%s: none", challenge), nil
	}
	secret, err := export(testLabel, challenge, 32)
	return fmt.Appendf(nil, "%s: %x", challenge, secret), err
}

// attester is a peer that answers so, and runs.
func attester(t testing.TB, g *gate, wt timings, answer func(context.Context, Exporter, []byte) ([]byte, error)) *peer {
	t.Helper()
	p := newPeer(t, g, g.addr(), echo)
	p.cfg.Attest, p.t = answer, wt
	p.start(t)
	return p
}

// TestChallenge: both ends of the control connection derive the same secrets, those of another connection are others,
// and on a data connection there is none.
func TestChallenge(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	var answers sync.Map // by worker
	g.attests(func(_ context.Context, c *Challenge) (time.Time, error) {
		for _, challenge := range []string{"one", "two"} {
			want, err := c.Export(testLabel, []byte(challenge), 32)
			if err != nil {
				return time.Time{}, err
			}
			got, err := c.Ask([]byte(challenge))
			if err != nil {
				return time.Time{}, err
			}
			if string(got) != challenge+": "+hex.EncodeToString(want) {
				t.Errorf("%s: got %s, want the secret %x", challenge, got, want)
			}
			answers.Store(c.Worker.ID(), string(got))
		}
		return hourLater(), nil
	})
	a, b := attester(t, g, quick(), secretOf), attester(t, g, quick(), secretOf)
	for range 2 {
		w := g.next(t).w
		got, err := w.Evidence(t.Context(), []byte("three"))
		if err != nil || string(got) != "three: none" {
			t.Errorf("on a data connection: %q, %v", got, err)
		}
	}
	one, _ := answers.Load(a.cfg.Identity.ID())
	other, _ := answers.Load(b.cfg.Identity.ID())
	if one == nil || other == nil || one == other {
		t.Errorf("two connections answer %v and %v", one, other)
	}
}

// TestAttestedBeforeAnything: until then no report is asked for and no data connection accepted.
func TestAttestedBeforeAnything(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	began, let := make(chan *Worker, 1), make(chan struct{})
	g.attests(func(ctx context.Context, c *Challenge) (time.Time, error) {
		if !c.First {
			t.Error("not the first")
		}
		began <- c.Worker
		select {
		case <-let:
		case <-ctx.Done():
		}
		_, err := c.Ask([]byte("challenge"))
		return hourLater(), err
	})
	id := newID(t)
	ctl := newFake(t, g, id)
	ctl.hear(t)
	ctl.say(t, `{"v":1,"kind":"control","session":"`+fakeSession+`"}`)
	w := <-began
	early := dataOf(t, g, id, ctl)
	if said := closedBy(t, early.Conn); len(said) > 0 {
		t.Errorf("before attestation: the gateway said %q", said)
	}
	if all, _ := w.counts(); all != 0 || !w.Open() {
		t.Errorf("%d data connections, session open %v", all, w.Open())
	}
	close(let)
	if r := ctl.hear(t); r.Method != "POST" || r.URL.Path != attestPath {
		t.Fatalf("first request %s %s", r.Method, r.URL)
	}
	ctl.say(t, "evidence")
	if r := ctl.hear(t); r.URL.Path != reportPath {
		t.Fatalf("second request %s %s", r.Method, r.URL)
	}
	ctl.say(t, `{"version":1,"report":{}}`)
	g.next(t)
	dataOf(t, g, id, ctl)
	c, err := w.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.Give(c)
}

// dataOf is a data connection of ctl's session, by hand.
func dataOf(t testing.TB, g *gate, id *Identity, ctl *fake) *fake {
	t.Helper()
	f := newFake(t, g, id)
	secret, err := exporter(ctl.Conn)
	if err != nil {
		t.Fatal(err)
	}
	data, err := exporter(f.Conn)
	if err != nil {
		t.Fatal(err)
	}
	f.hear(t)
	f.say(t, fmt.Sprintf(`{"v":1,"kind":"data","session":%q,"proof":%q}`, fakeSession, proof(secret, data)))
	return f
}

// afterPoll reads the gateway's next request that is not a poll.
func (f *fake) afterPoll(t testing.TB) *http.Request {
	t.Helper()
	for {
		r := f.hear(t)
		if r.URL.Path != reportPath {
			return r
		}
		if _, err := io.WriteString(f, "HTTP/1.1 204 No\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusedAtFirst(t *testing.T) {
	t.Parallel()
	ask := func(_ context.Context, c *Challenge) (time.Time, error) {
		_, err := c.Ask([]byte("challenge"))
		return hourLater(), err
	}
	tests := map[string]struct {
		attest func(context.Context, *Challenge) (time.Time, error)
		answer func(context.Context, Exporter, []byte) ([]byte, error)
		want   string
	}{
		"by the gateway": {
			attest: func(context.Context, *Challenge) (time.Time, error) {
				return hourLater(), errors.New("cpu.tcb:\x1b got 3")
			},
			want: "refused by gateway: cpu.tcb: got 3",
		},
		"verdict that has ended": {
			attest: func(context.Context, *Challenge) (time.Time, error) { return time.Time{}, nil },
			want:   "expired already",
		},
		"no attester": {attest: ask, want: "refused by gateway: worker gave no evidence: it can't attest itself"},
		"the worker fails": {
			attest: ask, want: "refused by gateway: worker gave no evidence: it says: the GPU is gone",
			answer: func(context.Context, Exporter, []byte) ([]byte, error) {
				return nil, errors.New("the GPU\x1b\n is gone")
			},
		},
		"at length": {
			attest: ask, want: "no evidence: it says: xxx",
			answer: func(context.Context, Exporter, []byte) ([]byte, error) {
				return nil, errors.New(strings.Repeat("x", 1<<20))
			},
		},
		"too much evidence": {
			attest: ask, want: fmt.Sprintf("evidence has %d bytes, at most %d", EvidenceMax+1, EvidenceMax),
			answer: func(context.Context, Exporter, []byte) ([]byte, error) { return make([]byte, EvidenceMax+1), nil },
		},
		"challenge too long": {
			attest: func(_ context.Context, c *Challenge) (time.Time, error) {
				_, err := c.Ask(make([]byte, ChallengeMax+1))
				return hourLater(), err
			},
			answer: secretOf, want: "challenge has",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := serveGate(t, quick())
			g.attests(tt.attest)
			p := attester(t, g, quick(), tt.answer)
			p.says(t, tt.want)
			if s := p.Status(); s.Connected || len(g.events) > 0 || len(s.LastError) > 2*wordsMax {
				t.Errorf("status %.2000q, %d events", fmt.Sprint(s), len(g.events))
			}
		})
	}
}

func TestGatewayWithoutAttest(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	g.cfg.Attest = nil // before anybody connects
	p := attester(t, g, quick(), secretOf)
	p.says(t, "refused by gateway: the gateway can't attest workers")
	if len(g.events) > 0 || len(g.sessions) > 0 {
		t.Errorf("%d events, %d sessions", len(g.events), len(g.sessions))
	}
}

// TestMost: the most that may be asked and answered passes.
func TestMost(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	most := bytes.Repeat([]byte("e"), EvidenceMax)
	g.attests(func(_ context.Context, c *Challenge) (time.Time, error) {
		got, err := c.Ask(make([]byte, ChallengeMax))
		if err == nil && !bytes.Equal(got, most) {
			err = fmt.Errorf("%d bytes", len(got))
		}
		return hourLater(), err
	})
	attester(t, g, quick(), func(_ context.Context, _ Exporter, challenge []byte) ([]byte, error) {
		if len(challenge) != ChallengeMax {
			t.Errorf("challenge of %d bytes", len(challenge))
		}
		return most, nil
	})
	g.next(t)
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	var calls atomic.Int64
	g.attests(func(_ context.Context, c *Challenge) (time.Time, error) {
		if n := calls.Add(1); c.First != (n == 1) {
			t.Errorf("call %d: first is %v", n, c.First)
		}
		_, err := c.Ask([]byte("again"))
		return time.Now().Add(time.Millisecond), err
	})
	p := attester(t, g, quick(), secretOf)
	w := g.next(t).w
	eventually(t, "it is attested again and again", func() bool { return calls.Load() > 3 })
	p.set(`{"n":2}`) // and reports still come
	if e := g.next(t); e.w != w || e.report != `{"n":2}` {
		t.Errorf("heard %+v", e)
	}
}

// TestReattest: from the call to the end of the attestation no report is handed over, not even one that is under way.
func TestReattest(t *testing.T) {
	t.Parallel()
	wt := quick()
	wt.poll = limit // so that one is under way
	g, p, w := pair(t, quick(), wt, echo)
	began, let := make(chan struct{}, 10), make(chan struct{})
	g.attests(func(ctx context.Context, c *Challenge) (time.Time, error) {
		began <- struct{}{}
		select {
		case <-let:
		case <-ctx.Done():
		}
		return hourLater(), nil
	})
	eventually(t, "a poll is under way", func() bool { return p.polls.Load() == 2 })
	w.Reattest()
	p.set(`{"n":2}`)
	<-began
	p.set(`{"n":3}`)
	if got, err := call(t.Context(), w, "/", []byte("hi")); got != "200 hi" || err != nil { // work goes on
		t.Errorf("%q, %v", got, err)
	}
	if len(g.events) > 0 {
		t.Errorf("heard %+v before the attestation has ended", <-g.events)
	}
	w.Reattest() // in the middle of one: another follows
	let <- struct{}{}
	<-began
	if len(g.events) > 0 {
		t.Errorf("heard %+v before the second attestation has ended", <-g.events)
	}
	let <- struct{}{}
	for e := g.next(t); e.report != `{"n":3}`; e = g.next(t) {
		if e.report != `{"n":2}` {
			t.Fatalf("heard %+v", e)
		}
	}
	if w.due() || !w.Open() {
		t.Errorf("due %v, open %v", w.due(), w.Open())
	}
}

func TestRefusedAtRenewal(t *testing.T) {
	t.Parallel()
	b := &busy{let: make(chan struct{})}
	g, p, w := pair(t, quick(), quick(), b.serve)
	got := running(t, w, b)
	g.attests(func(context.Context, *Challenge) (time.Time, error) { return hourLater(), errors.New("revoked") })
	p.set(`{"n":2}`)
	w.Reattest()
	e := g.next(t)
	if e.report != "" { // it was being handed over
		e = g.next(t)
	}
	if e.w != w || e.why == nil || !strings.Contains(e.why.Error(), "attesting worker: revoked") || w.Open() {
		t.Errorf("heard %+v, open %v", e, w.Open())
	}
	if err := <-got; err == nil {
		t.Error("the request was answered")
	}
	if _, err := w.Evidence(t.Context(), []byte("challenge")); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	p.says(t, "refused by gateway: revoked")
}

// TestRefusedAtOnce: a worker that does not listen to why it is refused gains no time for its data connections.
func TestRefusedAtOnce(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.patience = limit
	g := serveGate(t, tm)
	id := newID(t)
	ctl, w := control(t, g, id)
	data := dataOf(t, g, id, ctl)
	eventually(t, "the data connection is there", func() bool { all, _ := w.counts(); return all == 1 })
	g.attests(func(context.Context, *Challenge) (time.Time, error) { return hourLater(), errors.New("revoked") })
	w.Reattest()
	if r := ctl.afterPoll(t); r.URL.Path != helloPath || len(g.events) > 0 {
		t.Errorf("heard %s, %d events", r.URL, len(g.events))
	}
	closedBy(t, data.Conn)
	_ = ctl.Close() // instead of an answer
	if e := g.next(t); e.w != w || !strings.Contains(e.why.Error(), "revoked") {
		t.Errorf("heard %+v", e)
	}
}

func TestHostileEvidence(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", EvidenceMax)
	status := func(line, words string) string {
		return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", line, len(words), words)
	}
	tests := map[string]struct{ answer, want string }{
		"too long, said so": {fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", EvidenceMax+1), "at most"},
		"too long":          {chunkedHead + strings.Repeat(fmt.Sprintf("%x\r\n%s\r\n", len(huge), huge), 2), "more than"},
		"long words":        {status("503 Busy", strings.Repeat("x", wordsMax+1)), "at most"},
		"words":             {status("503 Busy", "come\x00 back\xff\x1b[31m"), "it says: come back[31m"},
		"no attester":       {status("404 Not Found", ""), "can't attest"},
		"other status":      {status("301 Moved", "here"), "status 301"},
		"half":              {"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "unexpected EOF"},
		"no HTTP":           {"evidence\r\n\r\n", "malformed"},
		"interim for ever":  {strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100), "1xx"},
		"nothing":           {"", "closed before"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := serveGate(t, quick())
			f, w := control(t, g, newID(t))
			asked := make(chan error, 1)
			g.attests(func(_ context.Context, c *Challenge) (time.Time, error) {
				answer, err := c.Ask([]byte("challenge"))
				if err == nil {
					t.Errorf("accepted %.40q", answer)
				}
				asked <- err
				return hourLater(), err
			})
			w.Reattest()
			if r := f.afterPoll(t); r.URL.Path != attestPath {
				t.Fatalf("heard %s", r.URL)
			}
			_, _ = io.WriteString(f, tt.answer) // the gateway may close in the middle of it
			_ = f.CloseWrite()                  // likewise
			if err := <-asked; err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 2*wordsMax {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if e := g.next(t); e.w != w || e.why == nil || w.Open() {
				t.Errorf("heard %+v, open %v", e, w.Open())
			}
		})
	}
}

// TestSlowEvidence: each side has a bound of its own on how long it takes.
func TestSlowEvidence(t *testing.T) {
	t.Parallel()
	short := quick()
	short.evidence, short.answer = 50*time.Millisecond, 50*time.Millisecond
	tests := map[string]struct {
		gate, worker   timings
		asked, stopped error // at the gateway, at the worker
	}{
		"gateway": {short, quick(), os.ErrDeadlineExceeded, context.Canceled},
		"worker":  {quick(), short, ErrNoEvidence, context.DeadlineExceeded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := serveGate(t, tt.gate)
			asked, stopped := make(chan error, 100), make(chan error, 100)
			g.attests(func(_ context.Context, c *Challenge) (time.Time, error) {
				_, err := c.Ask([]byte("challenge"))
				asked <- err
				return hourLater(), err
			})
			attester(t, g, tt.worker, func(ctx context.Context, _ Exporter, _ []byte) ([]byte, error) {
				<-ctx.Done()
				stopped <- ctx.Err()
				return nil, ctx.Err()
			})
			if err := <-asked; !errors.Is(err, tt.asked) {
				t.Errorf("the gateway: %v, want %v", err, tt.asked)
			}
			if err := <-stopped; !errors.Is(err, tt.stopped) {
				t.Errorf("the worker: %v, want %v", err, tt.stopped)
			}
		})
	}
}

// TestSessionEndsAttestation: nothing waits for a verdict over a worker that is gone, and none lets it in.
func TestSessionEndsAttestation(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(g *gate){
		"recheck": func(g *gate) { words := "no"; g.refuse.Store(&words); g.Recheck() },
		"stop":    func(g *gate) { go g.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			g := serveGate(t, quick())
			began, ended := make(chan struct{}, 100), make(chan struct{}, 100)
			g.attests(func(ctx context.Context, _ *Challenge) (time.Time, error) {
				began <- struct{}{}
				<-ctx.Done()
				ended <- struct{}{}
				return hourLater(), nil // all the same
			})
			attester(t, g, quick(), secretOf)
			<-began
			end(g)
			<-ended
			g.stop()
			if len(g.events) > 0 {
				t.Errorf("heard %+v", <-g.events)
			}
			if asked := 1 + len(began); int(g.gone.Load()) != asked {
				t.Errorf("heard of %d ends after %d attestations", g.gone.Load(), asked)
			}
		})
	}
}

// TestSessionEndsRenewal: a report that waits for the verdict is not taken either.
func TestSessionEndsRenewal(t *testing.T) {
	t.Parallel()
	wt := quick()
	wt.poll = limit
	g, p, w := pair(t, quick(), wt, echo)
	began := make(chan struct{}, 100)
	g.attests(func(ctx context.Context, _ *Challenge) (time.Time, error) {
		began <- struct{}{}
		<-ctx.Done()
		return hourLater(), nil // all the same
	})
	eventually(t, "a poll is under way", func() bool { return p.polls.Load() == 2 })
	w.Reattest()
	p.set(`{"n":2}`)
	<-began
	words := "no"
	g.refuse.Store(&words)
	g.Recheck()
	if e := g.next(t); e.w != w || !errors.Is(e.why, ErrRefused) {
		t.Errorf("heard %+v", e)
	}
}

// TestVerdictInTime: the gateway's callback has a bound on its time.
func TestVerdictInTime(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.verdict = 20 * time.Millisecond
	g := serveGate(t, tm)
	g.attests(func(ctx context.Context, c *Challenge) (time.Time, error) {
		if c.First {
			_, err := c.Ask([]byte("challenge")) // which ends with the verdict's time, not later
			return hourLater(), err
		}
		return hourLater(), nil
	})
	p := attester(t, g, quick(), func(ctx context.Context, _ Exporter, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	p.says(t, "closed the connection before it knew us")
}

// TestChallengeByHand is what the worker answers a gateway that asks as it likes.
func TestChallengeByHand(t *testing.T) {
	t.Parallel()
	type answerer func(context.Context, Exporter, []byte) ([]byte, error)
	start := func(t *testing.T, answer answerer, wt timings) (*peer, *hand, *fake) {
		p, gw := byHand(t, wt, echo)
		p.stop()
		p.cfg.Attest = answer
		p.start(t)
		for {
			f := gw.accept(t)
			if f.Handshake() == nil { // not that of the first start
				f.ask(t, "POST", helloPath, `{"v":1}`)
				return p, gw, f
			}
		}
	}
	t.Run("order", func(t *testing.T) {
		p, gw, ctl := start(t, secretOf, quick())
		for range 2 {
			if status, text := ctl.ask(t, "POST", attestPath, "x"); status != 200 || len(text) != len("x: ")+64 {
				t.Fatalf("%d %q", status, text)
			}
		}
		if p.Status().Connected {
			t.Error("a challenge is no poll")
		}
		ctl.ask(t, "GET", reportPath+"?after=0", "")
		eventually(t, "the worker is connected", func() bool { return p.Status().Connected })
		data := gw.accept(t)
		data.ask(t, "POST", helloPath, `{"v":1}`)
		for range 2 {
			if status, text := data.ask(t, "POST", attestPath, "x"); status != 200 || text != "x: none" {
				t.Fatalf("%d %q", status, text)
			}
			if status, text := data.ask(t, "POST", "/v1/x", "hi"); status != 200 || text != "hi" {
				t.Fatalf("%d %q", status, text)
			}
		}
		if status, _ := data.ask(t, "POST", attestPath, strings.Repeat("x", ChallengeMax+1)); status != 413 {
			t.Errorf("too long: %d", status)
		}
		closedBy(t, data.Conn)
		if status, _ := ctl.ask(t, "GET", attestPath, ""); status != 400 {
			t.Errorf("GET: %d", status)
		}
		closedBy(t, ctl.Conn)
	})
	t.Run("no attester", func(t *testing.T) {
		_, _, ctl := start(t, nil, quick())
		for range 2 { // the connection stays
			if status, _ := ctl.ask(t, "POST", attestPath, "x"); status != 404 {
				t.Errorf("status %d", status)
			}
		}
	})
	t.Run("before hello", func(t *testing.T) {
		_, gw, ctl := start(t, secretOf, quick())
		ctl.ask(t, "GET", reportPath+"?after=0", "")
		f := gw.accept(t)
		if status, text := f.ask(t, "POST", attestPath, "x"); status != 403 || text != "" {
			t.Errorf("%d %q", status, text)
		}
	})
	t.Run("silence", func(t *testing.T) {
		wt := quick()
		wt.silence, wt.verdict = 2*time.Second, limit
		slow := func(ctx context.Context, _ Exporter, _ []byte) ([]byte, error) {
			time.Sleep(wt.silence * 3 / 2) // as hardware does
			return []byte("evidence"), nil
		}
		_, _, ctl := start(t, slow, wt)
		if status, text := ctl.ask(t, "POST", attestPath, "x"); status != 200 || text != "evidence" {
			t.Fatalf("%d %q", status, text)
		}
		time.Sleep(wt.silence * 3 / 2) // as an appraisal does
		if status, _ := ctl.ask(t, "GET", reportPath+"?after=0", ""); status != 200 {
			t.Errorf("the session is over: %d", status)
		}
		closedBy(t, ctl.Conn) // but from there on it counts as ever
	})
	t.Run("no poll after it", func(t *testing.T) {
		wt := quick()
		wt.silence, wt.verdict = time.Second, time.Second
		p, _, ctl := start(t, secretOf, wt)
		ctl.ask(t, "POST", attestPath, "x")
		closedBy(t, ctl.Conn)
		p.says(t, errSilent.Error())
	})
}

func TestEvidence(t *testing.T) {
	t.Parallel()
	g := serveGate(t, quick())
	let := make(chan struct{})
	var running atomic.Int64
	p := attester(t, g, quick(), func(ctx context.Context, export Exporter, challenge []byte) ([]byte, error) {
		running.Add(1)
		defer running.Add(-1)
		select {
		case <-let:
			return secretOf(ctx, export, challenge)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	w := g.next(t).w
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error)
	go func() {
		_, err := w.Evidence(ctx, []byte("x"))
		got <- err
	}()
	eventually(t, "it runs", func() bool { return running.Load() == 1 })
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the worker stops", func() bool { return running.Load() == 0 })
	close(let)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if i%4 == 0 {
				w.Reattest()
			}
			if i%2 == 0 {
				if text, err := call(t.Context(), w, "/", []byte("hi")); err != nil || text != "200 hi" {
					t.Errorf("%q, %v", text, err)
				}
				return
			}
			challenge := fmt.Sprint("challenge ", i)
			if text, err := w.Evidence(t.Context(), []byte(challenge)); err != nil || string(text) != challenge+": none" {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
	all.Wait()
	if _, err := w.Evidence(t.Context(), make([]byte, ChallengeMax+1)); err == nil {
		t.Error("sent a challenge that is too long")
	}
	if n, idle := w.counts(); n != idle || n == 0 {
		t.Errorf("%d data connections, %d idle", n, idle)
	}
	if _, err := w.Evidence(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.stop()
	g.next(t)
	if _, err := w.Evidence(t.Context(), []byte("x")); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
}

// TestEvidenceOfStaleConnections: some that the worker has just closed cost a try each, an endless row of them ends.
func TestEvidenceOfStaleConnections(t *testing.T) {
	t.Parallel()
	tm := quick()
	tm.take = time.Millisecond
	g := serveGate(t, tm)
	id := newID(t)
	ctl, w := control(t, g, id)
	const count = staleMax + 3
	for range count {
		f := dataOf(t, g, id, ctl)
		go func() { // it takes the request, and closes
			_, _ = http.ReadRequest(f.r)
			_ = f.NetConn().Close()
		}()
	}
	eventually(t, "they are there", func() bool { _, idle := w.counts(); return idle == count })
	if _, err := w.Evidence(t.Context(), []byte("x")); !errors.Is(err, h1.ErrStale) {
		t.Errorf("got %v, want ErrStale", err)
	}
	if all, _ := w.counts(); all != count-staleMax-1 {
		t.Errorf("%d connections left", all)
	}
}
