package worker

import (
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/attest/collateral"
	"cocoon/internal/receipt"
	"cocoon/internal/trust"
	"cocoon/internal/tunnel"
)

// Times of a keyset.
const (
	keysetLife  = 24 * time.Hour
	keysetRenew = keysetLife / 2   // younger than that it is used again
	checkLife   = 10 * time.Minute // of a pass under the own policy
	keysetSkew  = time.Minute      // it is good from before it was made, for verifiers whose clocks are behind
	keysetsMax  = 64               // that gateways may still name: each has up to 64 KiB, and models seldom change
)

// keys are made at start and never leave this process's memory: the evidence proves that only measured software of this
// machine has them.
type keys struct {
	receipt ed25519.PrivateKey // signs receipts
	sealing hpke.PrivateKey    // opens requests that are sealed to this worker
}

func newKeys() (keys, error) {
	_, receipt, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keys{}, fmt.Errorf("making the receipt key: %w", err)
	}
	sealing, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return keys{}, fmt.Errorf("making the sealing key: %w", err)
	}
	return keys{receipt, sealing}, nil
}

// prover answers gateways' challenges.
type prover struct {
	id        tunnel.ID
	keys      keys
	trust     atomic.Pointer[trust.Trust] // in the worker's own policy; nil: it has none
	store     *collateral.Store
	responder *channel.Responder
	models    func() []attest.Model

	mu     sync.Mutex
	keyset attest.Keyset
	text   []byte
	given  []given // keysets of this run, the newest last

	checking sync.Mutex
	checked  time.Time // the own policy's last pass is good until then
}

func newProver(c *Config, id tunnel.ID, a attest.Attester, log *slog.Logger) (*prover, error) {
	k, err := newKeys()
	if err != nil {
		return nil, err
	}
	p := &prover{id: id, keys: k, models: func() []attest.Model { return nil }}
	own, err := c.ownTrust()
	if err != nil {
		return nil, err
	}
	p.trust.Store(own)
	if p.store, err = collateral.New(c.Collateral.Config(c.DataDir, log)); err != nil {
		return nil, err
	}
	p.store.Simulate(c.Simulated)
	p.responder = &channel.Responder{Attester: a, Keyset: p.current, Endorse: func(ctx context.Context, e *attest.Evidence) []attest.Item {
		items, err := p.store.Items(ctx, e, time.Now())
		if err != nil {
			log.Warn("collateral for this machine's evidence is missing; gateways may have it", "err", err)
		}
		return items
	}}
	return p, nil
}

// given is a keyset that gateways may have attested.
type given struct {
	digest receipt.Digest
	attest.Keyset
}

// model is what the keyset says about a model.
func (g *given) model(name string) (attest.Model, bool) {
	i := slices.IndexFunc(g.Models, func(m attest.Model) bool { return m.Name == name })
	if i < 0 {
		return attest.Model{}, false
	}
	return g.Models[i], true
}

// find finds a keyset of this run that is good now.
func (p *prover) find(d receipt.Digest, now time.Time) (given, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.given, func(g given) bool { return g.digest == d })
	if i < 0 || !now.Before(p.given[i].NotAfter) {
		return given{}, false
	}
	return p.given[i], true
}

// attestedModels is what the keyset says that the worker serves.
func (w *Worker) attestedModels() []attest.Model {
	var list []attest.Model
	for _, o := range w.catalog.Load().offers {
		list = append(list, attest.Model{Name: o.Model, WeightsDigest: o.WeightsDigest, Engine: o.Engine})
	}
	return list
}

// current is the keyset now: a new one if the models changed or the last is half through its life.
func (p *prover) current() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	models, now := p.models(), time.Now().UTC().Truncate(time.Second)
	var policy attest.Digest
	if t := p.trust.Load(); t != nil {
		policy = t.Policy.Digest()
	}
	if p.text != nil && now.Before(p.keyset.NotAfter.Add(-keysetRenew)) && policy == p.keyset.Policy &&
		reflect.DeepEqual(models, p.keyset.Models) {
		return p.text
	}
	public := p.keys.sealing.PublicKey()
	p.keyset = attest.Keyset{
		V: attest.Version, Role: attest.Worker, ID: attest.Digest(p.id), TLS: attest.Digest(p.id),
		Epoch:     max(p.keyset.Epoch+1, uint64(now.Unix())), // up over restarts too
		NotBefore: now.Add(-keysetSkew), NotAfter: now.Add(keysetLife - keysetSkew), Models: models,
		HPKE:    &attest.HPKEKey{KEM: public.KEM().ID(), Public: public.Bytes()},
		Receipt: p.keys.receipt.Public().(ed25519.PublicKey), Policy: policy,
	}
	text, err := json.Marshal(&p.keyset)
	if err != nil {
		panic("worker: internal error: " + err.Error()) // strings, numbers and times
	}
	p.text = text
	if len(p.given) == keysetsMax {
		p.given = slices.Delete(p.given, 0, 1)
	}
	p.given = append(p.given, given{sha256.Sum256(text), p.keyset})
	return text
}

// errOwnPolicy means that this machine does not pass its own policy: it asks nobody to trust it.
var errOwnPolicy = errors.New("this worker's own policy refuses its machine")

// answer implements tunnel.DialerConfig.Attest.
func (p *prover) answer(ctx context.Context, export tunnel.Exporter, challenge []byte) ([]byte, error) {
	if err := p.check(ctx); err != nil {
		return nil, err
	}
	return p.responder.Answer(ctx, export, challenge)
}

// check holds this machine's evidence against the worker's own policy, if it has one: a GPU proves to the software that
// uses it that it is what it should be, and gateways have measured that software. A pass is good for checkLife.
func (p *prover) check(ctx context.Context) error {
	own := p.trust.Load()
	if own == nil {
		return nil
	}
	p.checking.Lock()
	defer p.checking.Unlock()
	now := time.Now()
	if now.Before(p.checked) {
		return nil
	}
	r, err := p.appraise(ctx, own)
	if r == nil {
		return fmt.Errorf("%w: %w", errOwnPolicy, err)
	}
	if why := r.Refusal(err); why != "" {
		return fmt.Errorf("%w: %s", errOwnPolicy, why)
	}
	p.checked = now.Add(min(checkLife, r.Expires.Sub(now)))
	return nil
}

// appraise judges fresh evidence of this machine. There may be a result with an error: then collateral was missing.
func (p *prover) appraise(ctx context.Context, by *trust.Trust) (*attest.Result, error) {
	e, err := p.responder.Own(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	known, missing := p.store.Complete(ctx, e, now)
	r := by.Policy.Appraise(e, known, attest.Setting{Role: attest.Worker, Nonce: e.Nonce, ID: attest.Digest(p.id), Now: now})
	by.Weigh(r)
	if missing != nil && !r.Verdict.Admits() {
		return r, missing
	}
	return r, nil
}
