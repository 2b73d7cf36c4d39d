package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/internal/openai"
	"cocoon/router"
)

// Limits of what strangers can ask for: evidence costs its machine up to a second, and needs no key.
const (
	relayGap     = 2 * time.Second  // between two pieces of evidence of one machine; who asks meanwhile shares the next
	relayMax     = 4096             // nonces that wait for a machine
	relayedMax   = 8                // workers whose evidence one answer holds: up to 1 MiB each
	relayTimeout = 30 * time.Second // for all of them
	askedAtOnce  = 64               // requests for evidence at once; more get a 429
	keysetLife   = 12 * time.Hour   // of the gateway's own keyset
	selfPeriod   = 5 * time.Minute  // between looks at its own evidence
)

// Modes: who can read a request, in every answer's Cocoon-Mode.
const (
	modeGateway     = "gateway"     // the gateway and the worker, each in an attested machine
	modeSimulated   = "simulated"   // some machine is a simulation: nothing is confidential
	modeUnprotected = "unprotected" // the worker is attested, the gateway is not: its operator can read
)

// self is the gateway's own evidence.
type self struct {
	responder *channel.Responder // nil: it runs in no confidential machine
	batch     channel.Batcher
	asking    atomic.Int64
	verdict   atomic.Pointer[attest.Verdict] // by its own policy
	epoch     uint64
}

func (s *Server) prepareSelf() {
	none := attest.Rejected
	s.self.verdict.Store(&none)
	if s.cfg.Attester == nil {
		return
	}
	s.self.epoch = uint64(time.Now().Unix())
	s.self.responder = &channel.Responder{Attester: s.cfg.Attester, Keyset: s.keyset, Endorse: s.endorse}
	s.self.batch = channel.Batcher{Gap: relayGap, Max: relayMax, Make: unbound(
		func(ctx context.Context, request []byte) ([]byte, error) {
			return s.self.responder.Answer(ctx, nil, request)
		},
	)}
}

// endorse staples what vendors say about this machine.
func (s *Server) endorse(ctx context.Context, e *attest.Evidence) []attest.Item {
	items, err := s.appraiser.store.Items(ctx, e, time.Now())
	if err != nil {
		s.log.Warn("collateral for the gateway's own evidence is missing", "err", err)
	}
	return items
}

// unbound makes the request for evidence that is not of one connection.
func unbound(ask func(context.Context, []byte) ([]byte, error)) func(context.Context, attest.Digest) ([]byte, error) {
	return func(ctx context.Context, nonce attest.Digest) ([]byte, error) {
		return ask(ctx, channel.Request{V: attest.Version, Nonce: nonce}.Marshal())
	}
}

// keyset is what the gateway says of itself: which key it shows to apps.
func (s *Server) keyset() []byte {
	now := time.Now().UTC().Truncate(time.Second)
	k := attest.Keyset{
		V: attest.Version, Role: attest.Gateway, ID: attest.Digest(s.ID()), Epoch: s.self.epoch,
		NotBefore: now, NotAfter: now.Add(keysetLife), Policy: s.appraiser.policy().Digest(),
	}
	if cert := s.cert.Load(); cert != nil {
		k.TLS = sha256.Sum256(cert.Leaf.RawSubjectPublicKeyInfo)
	}
	text, err := json.Marshal(&k)
	if err != nil {
		panic("gateway: internal error: " + err.Error()) // strings, numbers and times
	}
	return text
}

// watchSelf holds the gateway's own evidence against its own policy, so that it claims no more than is true.
func (s *Server) watchSelf(ctx context.Context) {
	for ctx.Err() == nil {
		verdict, err := s.appraiseSelf(ctx)
		if old := s.self.verdict.Swap(&verdict); *old != verdict || err != nil && ctx.Err() == nil {
			s.log.Info("the gateway's own attestation", "verdict", string(verdict), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(selfPeriod):
		}
	}
}

func (s *Server) appraiseSelf(ctx context.Context) (attest.Verdict, error) {
	e, err := s.self.responder.Own(ctx)
	if err != nil {
		return attest.Rejected, err
	}
	r, err := s.appraise(ctx, e, attest.Setting{Role: attest.Gateway, Nonce: e.Nonce, ID: attest.Digest(s.ID())})
	if err != nil {
		return attest.Rejected, err
	}
	return r.Verdict, nil
}

// mode is who can read what passes through here to a worker; nil stands for no worker.
func (s *Server) mode(m *member) string {
	own := *s.self.verdict.Load()
	switch {
	case m != nil && m.result.Load().Verdict == attest.Simulated, own == attest.Simulated:
		return modeSimulated
	case own == attest.Verified:
		return modeGateway
	}
	return modeUnprotected
}

// showAttestation answers GET /cocoon/v1/attestation?nonce=.
func (s *Server) showAttestation(w http.ResponseWriter, r *http.Request) {
	nonce, e := nonceOf(r)
	switch {
	case e != nil:
	case nonce.IsZero():
		e = openai.BadRequest("nonce", "nonce is missing: send 32 random bytes as 64 lower-case hex digits")
	case s.self.responder == nil:
		e = openai.NewError(http.StatusNotImplemented, "not_attested",
			"this gateway runs in no confidential machine: its operator can read unsealed requests")
	}
	if e != nil {
		s.refuse(w, e)
		return
	}
	s.relaying(w, r, func(ctx context.Context) {
		relayed, err := s.relayed(ctx, &s.self.batch, nonce)
		if err != nil {
			s.refuse(w, errNoEvidence(err))
			return
		}
		s.writeJSON(w, channel.Attestation{V: attest.Version, Relayed: *relayed})
	})
}

// relaying bounds how many askers wait for evidence, and how long.
func (s *Server) relaying(w http.ResponseWriter, r *http.Request, answer func(context.Context)) {
	defer s.self.asking.Add(-1)
	if s.self.asking.Add(1) > askedAtOnce {
		s.refuse(w, errNoEvidence(channel.ErrBusy))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), relayTimeout)
	defer cancel()
	answer(ctx)
}

func errNoEvidence(err error) *openai.Error {
	if errors.Is(err, channel.ErrBusy) {
		e := openai.NewError(http.StatusTooManyRequests, "attestation_busy", "too many ask for evidence at once")
		e.RetryAfter = relayGap
		return e
	}
	return openai.NewError(http.StatusServiceUnavailable, "no_evidence", "the machine gave no evidence in time")
}

func (s *Server) relayed(ctx context.Context, b *channel.Batcher, nonce attest.Digest) (*channel.Relayed, error) {
	text, proof, err := b.Get(ctx, nonce)
	if err != nil {
		s.log.Debug("no evidence to relay", "err", err)
		return nil, err
	}
	return &channel.Relayed{Evidence: text, Proof: proof}, nil
}

// nonceOf reads the query's nonce; zero if there is none.
func nonceOf(r *http.Request) (attest.Digest, *openai.Error) {
	text := r.URL.Query().Get("nonce")
	if text == "" {
		return attest.Digest{}, nil
	}
	nonce, err := attest.ParseDigest(text)
	if err != nil {
		return nonce, openai.BadRequest("nonce", "nonce: %v", err)
	}
	return nonce, nil
}

// listWorkers answers GET /cocoon/v1/workers?model=&worker=&nonce=: the attested workers, with fresh evidence if a
// nonce is given.
func (s *Server) listWorkers(w http.ResponseWriter, r *http.Request) {
	nonce, e := nonceOf(r)
	if e != nil {
		s.refuse(w, e)
		return
	}
	members := s.choose(r.URL.Query().Get("worker"), r.URL.Query().Get("model"))
	list := channel.Listing{V: attest.Version, Workers: make([]channel.ListedWorker, len(members))}
	if nonce.IsZero() {
		for i, m := range members {
			list.Workers[i] = s.listed(m)
		}
		s.writeJSON(w, list)
		return
	}
	list.More = max(0, len(members)-relayedMax)
	members = members[:len(members)-list.More]
	list.Workers = list.Workers[:len(members)]
	s.relaying(w, r, func(ctx context.Context) {
		var asked sync.WaitGroup
		for i, m := range members {
			asked.Go(func() { list.Workers[i] = s.withEvidence(ctx, m, nonce) })
		}
		asked.Wait()
		s.writeJSON(w, list)
	})
}

// choose is the members that a query is about, in random order, so that none is always left out.
func (s *Server) choose(id, model string) []*member {
	now := time.Now()
	members := slices.DeleteFunc(s.appraiser.all(), func(m *member) bool {
		return !m.holds(now) || id != "" && m.ID().String() != id || model != "" && !slices.Contains(s.supply.last(router.ID(m.ID())).models, model)
	})
	rand.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return members
}

func (s *Server) listed(m *member) channel.ListedWorker {
	r := m.result.Load()
	sheet := s.supply.last(router.ID(m.ID()))
	return channel.ListedWorker{
		ID: attest.Digest(m.ID()), Name: sheet.name, Models: sheet.models, Verdict: r.Verdict, Policy: r.Policy, At: r.At, Expires: r.Expires,
	}
}

func (s *Server) withEvidence(ctx context.Context, m *member, nonce attest.Digest) channel.ListedWorker {
	l := s.listed(m)
	relayed, err := s.relayed(ctx, &m.relay, nonce)
	if err != nil {
		l.Error = errNoEvidence(err).Message
		return l
	}
	l.Relayed = relayed
	return l
}
