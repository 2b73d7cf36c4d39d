package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	"cocoon/internal/config"
	"cocoon/internal/receipt"
	"cocoon/internal/trust"
	"cocoon/internal/tunnel"
	"cocoon/router"
	"cocoon/router/offer"
)

// Limits of appraisal.
const (
	// renewBefore is how long before its end a verdict is renewed: time for some tries that fail.
	renewBefore = 2 * time.Minute
	// renewRetry is between tries to renew a verdict that still holds.
	renewRetry = 20 * time.Second
	// signaturesKept bounds the cache of NVIDIA's intermediate signatures, 40 bytes each: those of thousands of releases.
	signaturesKept = 64 << 10
)

// errRefused is what a worker hears that the policy does not admit.
var errRefused = errors.New("attestation refused")

// member is an attested worker's session.
type member struct {
	*tunnel.Worker
	result atomic.Pointer[attest.Result]  // of the last appraisal, which admitted it
	keyset atomic.Pointer[receipt.Digest] // that it was appraised with; receipts name it
	deal   atomic.Pointer[dealLine]       // the last one that it was told: hardly ever another
	sheet  atomic.Pointer[offer.Sheet]    // its last one, with offers that were not attested, too
	detach func()                         // ends the exchange of receipts
	barred atomic.Pointer[error]          // why a new policy refuses it; its session ends at its next turn
	relay  channel.Batcher                // its evidence for clients
	deaf   atomic.Bool                    // it takes nothing about demand
	names  []string                       // its ID as a header's value, which all answers share
}

// holds tells whether the worker may be given work.
func (m *member) holds(now time.Time) bool {
	return m.barred.Load() == nil && now.Before(m.result.Load().Expires)
}

// outgrownMin is how old an appraisal has to be to be repeated on its worker's word: each costs milliseconds.
const outgrownMin = time.Minute

// outgrown has a worker attested anew that says that its keyset is another one now.
func (m *member) outgrown(now time.Time) {
	if now.Sub(m.result.Load().At) >= outgrownMin {
		m.Reattest()
	}
}

// appraiser judges workers' evidence.
type appraiser struct {
	trust atomic.Pointer[trust.Trust] // replaced whole
	store *collateral.Store
	cache *nvgpu.SignatureCache
	slots chan struct{} // appraisals at once: most of the machine stays with the requests

	mu      sync.Mutex
	members map[*tunnel.Worker]*member
}

func newAppraiser(store *collateral.Store, signatures *nvgpu.SignatureCache) *appraiser {
	return &appraiser{
		store: store, cache: signatures, members: map[*tunnel.Worker]*member{},
		slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
}

// policy is the one that counts now.
func (a *appraiser) policy() *attest.Policy { return a.trust.Load().Policy }

func (a *appraiser) member(w *tunnel.Worker) *member {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.members[w]
}

func (a *appraiser) all() []*member {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.members))
}

// admit makes a member of a worker that was appraised for the first time.
func (a *appraiser) admit(w *tunnel.Worker, p *proved, detach func()) {
	m := &member{Worker: w, detach: detach, names: []string{router.ID(w.ID()).String()}}
	m.result.Store(p.result)
	m.keyset.Store(&p.keyset)
	m.relay = channel.Batcher{Make: unbound(w.Evidence), Gap: relayGap, Max: relayMax}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members[w] = m
}

func (a *appraiser) forget(m *member) {
	m.detach()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.members, m.Worker)
}

// attest has a worker prove what it is, before its first report and again before the verdict ends. The error ends the
// session, and goes to the worker.
func (s *Server) attest(ctx context.Context, c *tunnel.Challenge) (again time.Time, err error) {
	m := s.appraiser.member(c.Worker)
	if m != nil && m.barred.Load() != nil {
		return time.Time{}, *m.barred.Load() // also if the policy has changed back: it may come again
	}
	p, err := s.challenge(ctx, c)
	now := time.Now()
	switch {
	case err == nil && m == nil:
		s.log.Info("worker admitted", "worker", c.Worker.ID().String(), "verdict", string(p.result.Verdict),
			"policy", p.result.Policy, "until", p.result.Expires)
		s.appraiser.admit(c.Worker, p, s.money.attach(c.Worker))
	case err == nil:
		m.result.Store(p.result)
		m.keyset.Store(&p.keyset)
		s.offer(m)
	case m != nil && !errors.Is(err, errRefused) && m.holds(now.Add(renewRetry)):
		s.log.Warn("renewing a worker's attestation failed; its last verdict still holds", "worker", c.Worker.ID().String(),
			"until", m.result.Load().Expires, "err", err)
		return now.Add(renewRetry), nil
	default:
		s.log.Warn("worker refused", "worker", c.Worker.ID().String(), "err", err)
		s.bar(m, err)
		return now, err
	}
	return renewal(now, p.result.Expires), nil
}

// proved is what a worker proved.
type proved struct {
	result *attest.Result
	keyset receipt.Digest
}

// renewal is when a verdict is renewed: a while before its end, or halfway there if that is soon.
func renewal(now, expires time.Time) time.Time {
	left := expires.Sub(now)
	return now.Add(max(left-renewBefore, left/2))
}

// challenge asks for evidence over the control connection and appraises it.
func (s *Server) challenge(ctx context.Context, c *tunnel.Challenge) (*proved, error) {
	ch, err := channel.NewChallenge(c.Export)
	if err != nil {
		return nil, err
	}
	answer, err := c.Ask(ch.Request())
	if err != nil {
		return nil, fmt.Errorf("asking the worker for its evidence: %w", err)
	}
	evidence, err := ch.Open(answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	id := attest.Digest(c.Worker.ID())
	result, err := s.appraise(ctx, evidence, attest.Setting{
		Role: attest.Worker, Nonce: ch.Nonce, Binder: ch.Binder, TLS: id, ID: id,
	})
	if err != nil {
		return nil, err
	}
	keyset, err := s.money.meet(evidence, ch.Binder)
	if err != nil {
		return nil, fmt.Errorf("keeping the worker's keyset: %w", err)
	}
	return &proved{result, keyset}, nil
}

// appraise judges evidence under the policy now; an error that is errRefused names the first check that decided.
func (s *Server) appraise(ctx context.Context, e *attest.Evidence, set attest.Setting) (*attest.Result, error) {
	select {
	case s.appraiser.slots <- struct{}{}:
		defer func() { <-s.appraiser.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	start := time.Now()
	known, missing := s.appraiser.store.Complete(ctx, e, start)
	set.Now, set.Cache = time.Now(), s.appraiser.cache
	rules := s.appraiser.trust.Load()
	result := rules.Policy.Appraise(e, known, set)
	rules.Weigh(result)
	s.metrics.appraised(result, time.Since(start))
	if why := result.Refusal(missing); why != "" {
		return nil, fmt.Errorf("%w: %s", errRefused, why)
	}
	return result, nil
}

// bar gives a worker no more work.
func (s *Server) bar(m *member, why error) {
	if m == nil {
		return
	}
	m.barred.Store(&why)
	s.table.Remove(s.clock(), router.ID(m.ID()), m)
}

// loadPolicy reads the policy's file and has it count at once, with the registry's releases if there is a registry.
func (s *Server) loadPolicy() error {
	text, err := config.ReadFile(s.cfg.Policy, config.Max)
	if err != nil {
		return err
	}
	s.basis.mu.Lock()
	defer s.basis.mu.Unlock()
	if err := s.goBy(text); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Policy, err)
	}
	s.basis.policy = text
	return nil
}

// goBy has the text of a policy count, with what the registry said last: a worker that is refused by what is known of it
// gets no more work from here on, and if anything changed every worker is asked for fresh evidence.
func (s *Server) goBy(policy []byte) error {
	now := time.Now()
	t, err := s.basis.trust(policy, now)
	if err != nil {
		return err
	}
	p := t.Policy
	s.appraiser.store.Simulate(p.Roots())
	if old := s.appraiser.trust.Swap(t); old != nil && old.Equal(t) {
		return nil
	}
	if now.Before(p.NotBefore) || !now.Before(p.NotAfter) {
		s.log.Warn("the appraisal policy does not hold now: no worker is admitted", "policy", p.Name, "from", p.NotBefore, "to", p.NotAfter)
	}
	s.log.Info("appraisal policy loaded", "policy", p.Name, "digest", p.Digest().String(), "until", p.NotAfter)
	t.Tell(s.log)
	for _, m := range s.appraiser.all() {
		r := p.Rejudge(m.result.Load(), now)
		t.Weigh(r)
		if why := r.Refusal(nil); why != "" {
			err := fmt.Errorf("%w: %s", errRefused, why)
			s.log.Warn("the new policy refuses a worker", "worker", m.ID().String(), "err", err)
			s.metrics.appraised(r, 0)
			s.bar(m, err)
		}
		m.Reattest()
	}
	return nil
}
