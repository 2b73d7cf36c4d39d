package worker

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine/enginetest"
	"cocoon/worker/receipts"
)

// ledger is a till alone, with what it logs.
type ledger struct {
	*till
	dir string
	log bytes.Buffer
	key ed25519.PrivateKey
	reg *prometheus.Registry
	n   int
}

func newLedger(t testing.TB, size int64) *ledger {
	t.Helper()
	l := &ledger{dir: t.TempDir(), key: ed25519.NewKeyFromSeed(make([]byte, 32)), reg: prometheus.NewRegistry()}
	m, err := newMetrics(l.reg, new(gate), func() *till { return l.till })
	if err != nil {
		t.Fatal(err)
	}
	l.open(t, size, m)
	t.Cleanup(func() { _ = l.till.close() })
	return l
}

func (l *ledger) open(t testing.TB, size int64, m *metrics) {
	t.Helper()
	store, err := receipts.Open(receipts.Config{Dir: l.dir, Max: size})
	if err != nil {
		t.Fatal(err)
	}
	if l.till, err = newTill(store, l.key, slog.New(slog.NewTextHandler(&l.log, nil)), m); err != nil {
		t.Fatal(err)
	}
}

// sample is a receipt of a request of its own.
func (l *ledger) sample() receipt.Receipt {
	l.n++
	return receipt.Receipt{
		Request: fmt.Sprintf("req_%032x", l.n), Worker: receipt.Digest{1}, Keyset: receipt.Digest{2}, Req: receipt.Digest{3},
		Model: strings.Repeat("m", 200), Mode: receipt.Gateway, Kind: receipt.Final, Status: receipt.OK,
		Tokens: offer.Usage{In: 1_000_000}, Price: offer.Price{In: 7}, Start: int64(1000 + l.n), End: int64(2000 + l.n),
	}
}

func (l *ledger) must(t *testing.T, r receipt.Receipt) *receipt.Signed {
	t.Helper()
	s, err := l.sign(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// exchanged is what a presenter gives for acknowledgements.
func exchanged(t *testing.T, p *presenter, l *till, acks receipt.Acks) (requests []string) {
	t.Helper()
	text, err := p.exchange(t.Context(), l, acks.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if len(text) == 0 {
		return nil
	}
	items, err := receipt.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range items {
		requests = append(requests, i.Request)
	}
	return requests
}

func TestPresent(t *testing.T) {
	l := newLedger(t, 0)
	p := &presenter{name: "gw"}
	names := func(got []string, want ...receipt.Receipt) {
		t.Helper()
		same := len(got) == len(want)
		for i := range min(len(got), len(want)) {
			same = same && got[i] == want[i].Request
		}
		if !same {
			t.Errorf("presented %v, want %d", got, len(want))
		}
	}
	names(exchanged(t, p, l.till, receipt.Acks{}))
	one, two, three := l.sample(), l.sample(), l.sample()
	first := l.must(t, one)
	interim := two
	interim.Kind = receipt.Interim
	if err := l.begin(two.Request); err != nil {
		t.Fatal(err)
	}
	begun := l.must(t, interim)
	second := l.must(t, three)
	l.sent(second.ID())
	names(exchanged(t, p, l.till, receipt.Acks{}), one) // two runs, three's acknowledgement is on its way
	l.unsent(second.ID())
	names(exchanged(t, p, l.till, receipt.Acks{}), one, three)
	l.sent(second.ID())
	if text, err := p.present(t.Context(), l.till, time.Now().Add(ackPatience)); err != nil || !bytes.Contains(text, []byte(three.Request)) {
		t.Errorf("%v, not presented after a while: %s", err, text)
	}
	two.Seq, two.Prev = 1, begun.ID()
	last := l.must(t, two)
	l.end(two.Request)
	names(exchanged(t, p, l.till, receipt.Acks{Settled: []receipt.Digest{first.ID(), {9}}}), two)
	if n := testutil.ToFloat64(l.metrics.earned); n != 7 {
		t.Errorf("%v earned", n)
	}
	if l.unpaid().Finals != 2 || l.unpaid().Sum != 14 || l.unpaid().Oldest.UnixMilli() != two.End {
		t.Errorf("unpaid: %+v", l.unpaid())
	}
	names(exchanged(t, p, l.till, receipt.Acks{Refused: []receipt.Refusal{{ID: last.ID(), Why: "no hold"}, {ID: receipt.Digest{8}}}}))
	if n := testutil.ToFloat64(l.metrics.unpaid); n != 2 {
		t.Errorf("%v refused", n)
	}
	if log := l.log.String(); !strings.Contains(log, "no hold") || !strings.Contains(log, two.Request) || !strings.Contains(log, "gateway=gw") {
		t.Errorf("log: %s", log)
	}
	if n := testutil.ToFloat64(l.metrics.earned); n != 7 {
		t.Errorf("%v earned after a refusal", n)
	}
	for _, bad := range []string{"", "{}", `{"v":2,"settled":[],"refused":[]}`} {
		if _, err := p.exchange(t.Context(), l.till, []byte(bad)); !errors.Is(err, receipt.ErrForm) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := p.exchange(t.Context(), nil, nil); err == nil {
		t.Error("a worker that does not run presents receipts")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	l.unsent(second.ID())
	if _, err := p.exchange(ended, l.till, new(receipt.Acks).Marshal()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestPresentAfterRestart: what an earlier run left is there, interim receipts too, and settling them is earned.
func TestPresentAfterRestart(t *testing.T) {
	l := newLedger(t, 0)
	done, cut := l.sample(), l.sample()
	cut.Kind = receipt.Interim
	first, second := l.must(t, done), l.must(t, cut)
	if err := l.till.close(); err != nil {
		t.Fatal(err)
	}
	l.open(t, 0, l.metrics)
	p := new(presenter)
	if got := exchanged(t, p, l.till, receipt.Acks{}); len(got) != 2 {
		t.Errorf("presented %v", got)
	}
	if u := l.unpaid(); u.Finals != 1 || u.Interims != 1 || u.Sum != 7 {
		t.Errorf("unpaid: %+v", u)
	}
	if err := l.begin(done.Request); err == nil {
		t.Error("a request of the same name is served again")
	}
	if got := exchanged(t, p, l.till, receipt.Acks{Settled: []receipt.Digest{first.ID(), second.ID()}}); len(got) != 0 {
		t.Errorf("presented %v", got)
	}
	if n := testutil.ToFloat64(l.metrics.earned); n != 14 {
		t.Errorf("%v earned", n)
	}
}

// TestPresentMany: a gateway that is away leaves more than fits an answer, and the others get theirs all the same.
func TestPresentMany(t *testing.T) {
	l := newLedger(t, 0)
	const count = 1500 // of 1.1 KB and more
	ids := make(map[string]receipt.Digest)
	signed := make(chan *receipt.Signed, count)
	for range count {
		r := l.sample()
		go func() {
			s, err := l.sign(r)
			if err != nil {
				t.Error(err)
			}
			signed <- s
		}()
	}
	for range count {
		if s := <-signed; s != nil {
			ids[s.Request] = s.ID()
		}
	}
	p := new(presenter)
	seen := make(map[string]int)
	var acks receipt.Acks
	for round := range 6 {
		got := exchanged(t, p, l.till, acks)
		acks = receipt.Acks{}
		for i, name := range got {
			if seen[name]++; i%10 == 0 { // one in ten is this gateway's
				acks.Settled = append(acks.Settled, ids[name])
			}
		}
		if size := len(got); size > 1000 || round == 0 && size < 400 {
			t.Errorf("round %d: %d receipts", round, size)
		}
	}
	if len(seen) != count {
		t.Errorf("%d of %d presented", len(seen), count)
	}
	text, err := new(presenter).exchange(t.Context(), l.till, new(receipt.Acks).Marshal())
	if err != nil || len(text) > tunnel.ReceiptsMax {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// TestTillFull: a worker whose gateways don't acknowledge takes no more work that they would have to pay.
func TestTillFull(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	l := newLedger(t, receipts.MinMax)
	l.till.key, l.till.metrics = p.worker.prover.keys.receipt, p.worker.metrics
	p.worker.till.Store(l.till)
	served := map[string]bool{}
	full := false
	for range 40 {
		name := p.name()
		s := p.serve(t, name, chatBody("ok", len(served)%2 == 0))
		switch {
		case s.status == 200 && len(s.receipts) == 1 && s.receipts[0].Kind == receipt.Final:
			served[name] = true
		case s.status == 503 && strings.Contains(string(s.body), codeReceipts), s.status == 200 && strings.Contains(string(s.body), codeReceipts):
			full = true
		default:
			t.Fatalf("%d %d receipts %s", s.status, len(s.receipts), s.body)
		}
	}
	before := len(p.fake.Requests())
	if !full || len(served) < 5 || len(served) > 30 || before > len(served)+1 {
		t.Errorf("full %t, %d served, %d at the engine", full, len(served), before)
	}
	if n := strings.Count(l.log.String(), "no room for receipts"); n != 1 {
		t.Errorf("it says %d times that it is full", n)
	}
	if resp, text := p.ask(t, chatBody("ok", true)); resp.StatusCode != 200 {
		t.Errorf("unpaid ones are served all the same: %s", text)
	}
	kept := p.kept(t)
	if len(kept) != len(served) {
		t.Errorf("%d kept", len(kept))
	}
	if exchanged(t, new(presenter), l.till, receipt.Acks{Settled: []receipt.Digest{{7}}}); !l.full.Load() {
		t.Error("nothing was acknowledged, and it takes work")
	}
	for _, s := range kept {
		exchanged(t, new(presenter), l.till, receipt.Acks{Settled: []receipt.Digest{s.ID()}})
		break
	}
	if s := p.serve(t, p.name(), chatBody("ok", true)); s.status != 200 || len(s.receipts) != 1 {
		t.Errorf("after an acknowledgement: %d, %d receipts", s.status, len(s.receipts))
	}
}

// TestInterimInTime: a slow answer has a receipt every two seconds.
func TestInterimInTime(t *testing.T) {
	l := newLedger(t, 0)
	r := l.sample()
	r.Tokens = offer.Usage{}
	m, err := newMeter(l.till, r, []byte("body"), time.Now().Add(-time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newMeter(l.till, r, []byte("body"), time.Now()); err == nil {
		t.Error("one request is metered twice")
	}
	step := func(tokens int64) *receipt.Signed {
		m.counts.Out = tokens
		m.delivered()
		return m.wait()
	}
	if s := step(0); s != nil {
		t.Error("a receipt for no tokens")
	}
	first := step(1) // the last one was a minute ago
	if first == nil || first.Kind != receipt.Interim || first.Tokens.Out != 1 || first.TTFT < 60_000 {
		t.Fatalf("first: %+v", first)
	}
	if s := step(255); s != nil {
		t.Error("a second one too soon")
	}
	if m.tried = m.tried.Add(-interimGap); step(255) == nil {
		t.Error("none after a while")
	}
	if m.tried = m.tried.Add(-interimGap); step(255) != nil {
		t.Error("one for the same tokens")
	}
	if step(255+256) == nil {
		t.Error("none after many tokens")
	}
	m.leave("", openai.Usage{})
	if len(l.running) != 0 {
		t.Error("it runs on")
	}
}

// TestCountersign: a gateway gets one signature for receipts of this run, and for nothing else.
func TestCountersign(t *testing.T) {
	p := newPaid(t, enginetest.VLLM, nil)
	var all []*receipt.Signed
	for range 3 {
		s := p.serve(t, p.name(), chatBody("ok", false))
		all = append(all, s.receipts...)
	}
	gw, l, by := &presenter{name: "gw"}, p.worker.till.Load(), p.worker.prover
	signature, err := gw.countersign(l, by, receipt.CountersignBody(p.terms.Keyset, all))
	if err != nil {
		t.Fatal(err)
	}
	key := by.keys.receipt.Public().(ed25519.PublicKey)
	err = receipt.NewVerifier(key).Share(all, [ed25519.SignatureSize]byte(signature))
	if err != nil || len(all) != 3 || all[2].Verify(key) != nil {
		t.Errorf("%v, %v", all, err)
	}
	old := newLedger(t, 0) // of an earlier run: another key signed them, under another keyset
	kept := []*receipt.Signed{old.must(t, old.sample()), old.must(t, old.sample())}
	for name, body := range map[string][]byte{
		"not kept":       receipt.CountersignBody(p.terms.Keyset, append(kept, all...)),
		"another keyset": receipt.CountersignBody(receipt.Digest{2}, all),
		"twice":          receipt.CountersignBody(p.terms.Keyset, append(all, all[0])),
	} {
		if signature, err := gw.countersign(l, by, body); !errors.Is(err, tunnel.ErrAbsent) || signature != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := gw.countersign(old.till, by, receipt.CountersignBody(kept[0].Keyset, kept)); !errors.Is(err, tunnel.ErrAbsent) {
		t.Errorf("of an earlier run: %v", err)
	}
	for _, body := range [][]byte{nil, {1}, make([]byte, 95), make([]byte, tunnel.CountersignMax)} {
		if signature, err := gw.countersign(l, by, body); !errors.Is(err, receipt.ErrForm) || signature != nil {
			t.Errorf("%d bytes: %v", len(body), err)
		}
	}
	gw.countersigning.Lock() // it is at it
	if _, err := gw.countersign(l, by, receipt.CountersignBody(p.terms.Keyset, all)); !errors.Is(err, errCountersigning) {
		t.Errorf("two at a time: %v", err)
	}
	gw.countersigning.Unlock()
	if size := (1 + receipt.CountersignMax) * len(receipt.Digest{}); size > tunnel.CountersignMax {
		t.Errorf("the tunnel takes %d bytes, and there may be %d", tunnel.CountersignMax, size)
	}
}
