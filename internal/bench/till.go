//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cocoon/internal/bench/mock"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
)

// mockEngine is what the mock's workers say that their engine is.
const mockEngine = "mock"

// feePPM is the fee of the gateways that are measured, parts per million: the default.
const feePPM = 50_000

// mockPrice is what the mock asks, nanoTON per million tokens: 0.05, 0.005 and 0.15 TON.
func mockPrice() offer.Price {
	return offer.Price{In: 50_000_000, Cached: 5_000_000, Out: 150_000_000}
}

// mockUsage is what every answer of the mock took.
func mockUsage() offer.Usage {
	return offer.Usage{In: mock.PromptTokens, Out: mock.CompletionTokens}
}

// mockCost is what an answer of the mock costs a customer.
func mockCost() nanoton.Amount {
	cost, err := mockPrice().WithFee(feePPM).Cost(mockUsage())
	if err != nil {
		panic(err) // both are constants
	}
	return cost
}

// till signs a worker's receipts, each by itself: a real one has several share a signature when they come together, and
// keeps them, which takes a disk's time. The mock does not wait, so that our gateway has the same load with billing and
// without.
type till struct {
	worker, keyset receipt.Digest
	key            ed25519.PrivateKey
}

// meter reads what a gateway asks for a receipt on.
func (t *till) meter(r *http.Request) (mock.Sign, error) {
	text := r.Header.Get(receipt.DealHeader)
	if text == "" {
		return nil, nil
	}
	deal, err := receipt.ParseDeal(text)
	if err != nil {
		return nil, err
	}
	if deal.Keyset != t.keyset {
		return nil, errors.New("the terms are of no keyset of this worker")
	}
	terms := receipt.Receipt{
		Request: r.Header.Get("Cocoon-Request"), Worker: t.worker, Epoch: mockEpoch, Keyset: t.keyset, Mode: deal.Mode, Price: deal.Price,
		Engine: sha256.Sum256([]byte(mockEngine)), Kind: receipt.Final, Status: receipt.OK, Tokens: mockUsage(),
	}
	if terms.Price != mockPrice() {
		return nil, errors.New("the terms' price is not the worker's")
	}
	return func(s *mock.Served) ([]byte, error) { return t.receipt(terms, s) }, nil
}

// receipt makes an answer's receipt.
func (t *till) receipt(r receipt.Receipt, s *mock.Served) ([]byte, error) {
	var err error
	if r.Cost, err = r.Price.Cost(r.Tokens); err != nil {
		return nil, err
	}
	r.Model, r.Req, r.Resp = s.Model, s.Req, s.Resp
	r.Start, r.End, r.TTFT = s.Start.UnixMilli(), time.Now().UnixMilli(), s.First.Sub(s.Start).Milliseconds()
	r.TTFT = min(r.TTFT, r.End-r.Start) // which are cut to whole milliseconds
	signed, err := receipt.Sign(r, t.key)
	if err != nil {
		return nil, err
	}
	return signed.Wire(), nil
}

// countersign signs receipts again. The mock keeps none, and takes the gateway's word for it that they are its own.
func (t *till) countersign(_ context.Context, body []byte) ([]byte, error) {
	keyset, ids, err := receipt.ParseCountersign(body)
	if err != nil || keyset != t.keyset {
		return nil, errors.Join(tunnel.ErrAbsent, err)
	}
	signature, err := receipt.SignIDs(ids, t.key)
	return signature[:], err
}

// exchange takes a gateway's acknowledgements. The mock keeps nothing that it could present.
func exchange(acks []byte) error {
	a, err := receipt.ParseAcks(acks)
	if err == nil && len(a.Refused) > 0 {
		err = fmt.Errorf("receipt %s was refused: %s", a.Refused[0].ID, a.Refused[0].Why)
	}
	return err
}
