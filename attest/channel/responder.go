package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"cocoon/attest"
)

// Challenges at once at one machine, the one being answered included; evidence takes up to a few seconds. Each kind has
// its own bound, so that one verifier's many relayed challenges can't keep others' bound ones out.
const (
	boundMax   = 64 // one for each connection to a verifier
	relayedMax = 4  // then a bound one still has its answer within 30 s
)

// Responder answers challenges with the evidence of the machine that it runs on: one at a time at the hardware, the
// others wait.
type Responder struct {
	// Attester is the machine. Required.
	Attester attest.Attester
	// Keyset is the JSON of the machine's attest.Keyset now. Required.
	Keyset func() []byte
	// Endorse gathers what vendors say about the machine, to be sent along. Nil: verifiers find that themselves.
	Endorse func(context.Context, *attest.Evidence) []attest.Item

	once           sync.Once
	hardware       chan struct{} // has room for one: who asks the hardware
	bound, relayed atomic.Int64  // challenges now
}

// Answer answers a request with the JSON of attest.Evidence. export is of the connection that the request came on, nil
// if evidence can't be bound to that. Errors: ErrBusy, that of ctx, or what is wrong in words fit for the verifier.
func (r *Responder) Answer(ctx context.Context, export Exporter, request []byte) ([]byte, error) {
	req, err := ParseRequest(request)
	if err != nil {
		return nil, err
	}
	var bind attest.Digest // zero: to no connection
	now, most := &r.relayed, int64(relayedMax)
	if req.Bind {
		if bind, err = binder(export, req.Nonce); err != nil {
			return nil, err
		}
		now, most = &r.bound, boundMax
	}
	defer now.Add(-1)
	if now.Add(1) > most {
		return nil, ErrBusy
	}
	e, err := r.collect(ctx, req.Nonce, bind)
	if err != nil {
		return nil, err
	}
	if r.Endorse != nil {
		e.Endorsements = union(e.Endorsements, r.Endorse(ctx, e))
	}
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("writing evidence: %w", err)
	}
	if _, err := attest.ParseEvidence(text); err != nil { // better heard here than from a verifier
		return nil, fmt.Errorf("the machine made evidence that nobody can read: %w", err)
	}
	return text, nil
}

// Own answers a challenge of the machine's own, bound to no connection, for it to judge itself. The evidence is over the
// fresh nonce that it holds.
func (r *Responder) Own(ctx context.Context) (*attest.Evidence, error) {
	c := Challenge{Nonce: attest.NewNonce()}
	text, err := r.Answer(ctx, nil, Request{V: attest.Version, Nonce: c.Nonce}.Marshal())
	if err != nil {
		return nil, err
	}
	return c.Open(text)
}

// union adds the items that are not there yet.
func union(items, more []attest.Item) []attest.Item {
	for _, m := range more {
		if !slices.ContainsFunc(items, m.Equal) {
			items = append(items, m)
		}
	}
	return items
}

// collect asks the hardware when its turn has come.
func (r *Responder) collect(ctx context.Context, nonce, bind attest.Digest) (*attest.Evidence, error) {
	if r.Attester == nil || r.Keyset == nil {
		return nil, errors.New("the machine can't attest itself")
	}
	r.once.Do(func() { r.hardware = make(chan struct{}, 1) })
	select {
	case r.hardware <- struct{}{}:
		defer func() { <-r.hardware }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the machine's evidence: %w", ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("waiting for the machine's evidence: %w", err)
	}
	return attest.Collect(ctx, r.Attester, r.Keyset(), nonce, bind)
}
