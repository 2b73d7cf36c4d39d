package worker

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/worker/receipts"
)

// ackPatience is how long a gateway gets to acknowledge a receipt that was sent with an answer, before it is presented:
// gateways do within a second or two.
const ackPatience = 5 * time.Second

// till keeps the worker's receipts until gateways acknowledge them, which is when they are paid.
type till struct {
	store   *receipts.Store
	key     ed25519.PrivateKey
	log     *slog.Logger
	metrics *metrics
	full    atomic.Bool // the store has no room until a receipt is acknowledged
	purse   *purse      // nil: there is no address that vouchers could be for

	mu       sync.Mutex
	running  map[string]struct{} // requests that receipts are made for now
	claims   map[receipt.Digest]claim
	requests map[string]receipt.Digest // of claims
}

// claim is a receipt that is not acknowledged: a final one, or one that was the request's last when it was presented.
type claim struct {
	request string
	final   bool
	cost    nanoton.Amount
	end     int64     // milliseconds since 1970
	sent    time.Time // with an answer; zero if it was not
}

func receiptsPath(dataDir string) string { return filepath.Join(dataDir, "receipts") }

// openTill opens the receipts of a data folder.
func openTill(dataDir string, key ed25519.PrivateKey, log *slog.Logger, m *metrics) (*till, error) {
	store, err := receipts.Open(receipts.Config{Dir: receiptsPath(dataDir), Log: log})
	if err != nil {
		return nil, err
	}
	t, err := newTill(store, key, log, m)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return t, nil
}

func newTill(store *receipts.Store, key ed25519.PrivateKey, log *slog.Logger, m *metrics) (*till, error) {
	t := &till{
		store: store, key: key, log: log, metrics: m,
		running: map[string]struct{}{}, claims: map[receipt.Digest]claim{}, requests: map[string]receipt.Digest{},
	}
	for s, err := range store.Unacknowledged() {
		if err != nil {
			return nil, err
		}
		t.claim(s) // no request runs
	}
	return t, nil
}

func (t *till) close() error { return t.store.Close() }

// claim notes a receipt.
func (t *till) claim(s *receipt.Signed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.claims[s.ID()]; known {
		return
	}
	t.claims[s.ID()] = claim{request: s.Request, final: s.Kind == receipt.Final, cost: s.Cost, end: s.End}
	t.requests[s.Request] = s.ID()
}

// begin makes a request known. The error is an unmetError: there is no room for its receipts, or there are some already.
func (t *till) begin(request string) error {
	if t.full.Load() {
		return notMet(codeReceipts, "The worker's gateways have to acknowledge its receipts first.")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, runs := t.running[request]
	_, signed := t.requests[request]
	if runs || signed {
		return notMet(codeTerms, "The worker has served a request of this name.")
	}
	t.running[request] = struct{}{}
	return nil
}

// end lets a request's receipts be presented.
func (t *till) end(request string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, request)
}

// sign works out what a receipt costs, signs and keeps it.
func (t *till) sign(r receipt.Receipt) (*receipt.Signed, error) {
	var err error
	if r.Cost, err = r.Price.Cost(r.Tokens); err != nil {
		return nil, err
	}
	s, err := t.store.Sign(r, t.key)
	if err != nil {
		t.failed(&r, err)
		return nil, err
	}
	if r.Kind == receipt.Final {
		t.claim(s)
		t.log.Debug("final receipt", "id", s.ID(), "request", s.Request, "nanoton", int64(s.Cost))
	}
	t.metrics.signed.WithLabelValues(string(r.Kind)).Inc()
	return s, nil
}

func (t *till) failed(r *receipt.Receipt, err error) {
	if !errors.Is(err, receipts.ErrFull) {
		t.log.Error("receipt not kept", "request", r.Request, "kind", r.Kind, "err", err)
		return
	}
	if !t.full.Swap(true) {
		t.log.Error("no room for receipts: requests that are paid are refused until gateways acknowledge", "err", err)
	}
}

// sent notes that a final receipt goes out with the answer: its acknowledgement is soon on its way.
func (t *till) sent(id receipt.Digest) { t.note(id, time.Now()) }

// unsent notes that it did not arrive.
func (t *till) unsent(id receipt.Digest) { t.note(id, time.Time{}) }

func (t *till) note(id receipt.Digest, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.claims[id]; ok {
		c.sent = at
		t.claims[id] = c
	}
}

// presenter is one gateway's side of the till.
type presenter struct {
	name string // for the log

	mu   sync.Mutex
	skip int // receipts that the last answer had no room for come first

	countersigning sync.Mutex // one at a time
}

// exchange takes a gateway's acknowledgements and gives the receipts to present (tunnel.DialerConfig.Receipts).
func (p *presenter) exchange(ctx context.Context, t *till, text []byte) ([]byte, error) {
	acks, err := receipt.ParseAcks(text)
	if err != nil {
		return nil, err
	}
	if err := t.acknowledge(acks, p.name); err != nil {
		return nil, err
	}
	if acks.Voucher != nil && t.purse != nil {
		t.purse.keep(p.name, acks.Voucher)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.skip = max(0, p.skip-len(acks.Settled)-len(acks.Refused)) // they were among those
	return p.present(ctx, t, time.Now())
}

// errCountersigning means that the gateway asked again before it had its answer.
var errCountersigning = errors.New("this worker signs receipts again for one request at a time")

// countersign signs receipts again that a gateway names (tunnel.DialerConfig.Countersign), if they are of this run: the
// key is.
func (p *presenter) countersign(t *till, by *prover, body []byte) ([]byte, error) {
	keyset, ids, err := receipt.ParseCountersign(body)
	if err != nil {
		return nil, err
	}
	if !p.countersigning.TryLock() {
		return nil, errCountersigning
	}
	defer p.countersigning.Unlock()
	if _, ok := by.find(keyset, time.Now()); !ok {
		return nil, tunnel.ErrAbsent
	}
	signature, err := t.store.Countersign(keyset, ids, t.key)
	switch {
	case errors.Is(err, receipts.ErrAbsent):
		return nil, tunnel.ErrAbsent
	case err != nil:
		return nil, err
	}
	return signature[:], nil
}

// present gives the receipts of requests that do not run any more, oldest first, as many as an answer may hold. Those
// that found no room come the next time: some may be other gateways', and stay for long.
func (p *presenter) present(ctx context.Context, t *till, now time.Time) ([]byte, error) {
	list := t.store.Unacknowledged() // before what runs, so that no interim receipt goes out whose final one is there
	t.mu.Lock()
	running := maps.Clone(t.running)
	t.mu.Unlock()
	var out []byte
	at := 0
	for s, err := range list {
		if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, runs := running[s.Request]; runs || t.awaited(s.ID(), now) {
			continue
		}
		if at++; at <= p.skip {
			continue
		}
		wire := s.Wire()
		if len(out)+len(wire) > tunnel.ReceiptsMax {
			p.skip = at - 1
			return out, nil
		}
		out = append(out, wire...)
		t.claim(s)
	}
	p.skip = 0
	return out, nil
}

// awaited tells whether a receipt was sent with an answer a moment ago.
func (t *till) awaited(id receipt.Digest, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.claims[id]
	return ok && now.Sub(c.sent) < ackPatience
}

// acknowledge lets receipts go that a gateway has settled or refused.
func (t *till) acknowledge(acks *receipt.Acks, gateway string) error {
	ids := make([]receipt.Digest, 0, len(acks.Settled)+len(acks.Refused))
	ids = append(ids, acks.Settled...)
	for _, r := range acks.Refused {
		ids = append(ids, r.ID)
	}
	if len(ids) == 0 {
		return nil
	}
	if err := t.store.Ack(ids...); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.ContainsFunc(ids, func(id receipt.Digest) bool { _, known := t.claims[id]; return known }) {
		t.full.Store(false)
	}
	for _, id := range acks.Settled {
		if c, ok := t.drop(id); ok {
			t.metrics.earned.Add(float64(c.cost))
		}
	}
	for _, r := range acks.Refused {
		c, _ := t.drop(r.ID)
		t.metrics.unpaid.Inc()
		t.log.Warn("gateway refuses a receipt", "gateway", gateway, "receipt", r.ID, "request", c.request, "nanoton", int64(c.cost), "why", r.Why)
	}
	return nil
}

// drop takes a claim out. t.mu is held.
func (t *till) drop(id receipt.Digest) (claim, bool) {
	c, ok := t.claims[id]
	if ok {
		delete(t.claims, id)
		delete(t.requests, c.request)
	}
	return c, ok
}

// unpaid is the state now.
func (t *till) unpaid() Unpaid {
	s := t.store.Stats()
	t.mu.Lock()
	defer t.mu.Unlock()
	u := Unpaid{Interims: s.Receipts - s.Finals}
	for _, c := range t.claims {
		if c.final {
			u.add(c.cost, c.end)
		}
	}
	return u
}

// engineOf is an engine's name as receipts have it.
func engineOf(name string) receipt.Digest {
	if name == "" {
		return receipt.Digest{}
	}
	return sha256.Sum256([]byte(name))
}
