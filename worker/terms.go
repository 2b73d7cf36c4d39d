package worker

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"

	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// priceGrace is how long a request may still come at a price that was replaced: gateways hear of a new one within a
// second, and a request may wait for a connection or be tried elsewhere first.
const priceGrace = 60 * time.Second

// unmetError is about a gateway's terms: the request is as it should be, and another worker may serve it.
type unmetError struct{ says *openai.Error }

// Error says it in one line.
func (u *unmetError) Error() string { return u.says.Error() }

// Unwrap is what the gateway hears.
func (u *unmetError) Unwrap() error { return u.says }

// Codes of unmet terms.
const (
	codeTerms    = "terms_not_met"   // nothing that would pass by itself
	codePrice    = "price_not_asked" // the newest sheet has the price
	codeReceipts = "receipts_full"   // to acknowledge helps
)

func notMet(code, format string, args ...any) error {
	e := openai.NewError(http.StatusServiceUnavailable, code, format, args...)
	e.RetryAfter = time.Second
	return &unmetError{e}
}

// agree checks a gateway's terms for a model, and gives what all receipts of the request say alike.
func (w *Worker) agree(t receipt.Deal, o *offer.Offer, now time.Time) (receipt.Receipt, error) {
	known, ok := w.prover.find(t.Keyset, now)
	if !ok {
		return receipt.Receipt{}, notMet(receipt.KeysetNotServed, "The worker has no such keyset.")
	}
	m, ok := known.model(o.Model)
	if !ok || m.WeightsDigest != o.WeightsDigest || m.Engine != o.Engine {
		return receipt.Receipt{}, notMet(receipt.KeysetNotServed, "The worker serves this model otherwise than that keyset says.")
	}
	if !w.asked.accepts(o.Model, t.Price, now) {
		return receipt.Receipt{}, notMet(codePrice, "The worker does not ask that price.")
	}
	switch t.Mode {
	case receipt.Gateway, receipt.Unprotected, receipt.Simulated:
	default:
		return receipt.Receipt{}, notMet(codeTerms, "The worker does not serve requests in that mode.")
	}
	if t.Mode == receipt.Gateway && w.simulated() {
		return receipt.Receipt{}, notMet(codeTerms, "The worker's machine is simulated: the mode has to say so.")
	}
	r := receipt.Receipt{
		Worker: receipt.Digest(w.ID()), Epoch: known.Epoch, Keyset: t.Keyset, Model: o.Model, Mode: t.Mode, Price: t.Price,
		Weights: weightsOf(m.WeightsDigest), Engine: engineOf(m.Engine),
	}
	return r, nil
}

// simulated tells whether this machine is known to be a simulated one.
func (w *Worker) simulated() bool {
	r := w.config.Simulated
	return len(r.SNP)+len(r.TDX) > 0
}

// weightsOf is a keyset's weights_digest as receipts have it.
func weightsOf(text string) (d receipt.Digest) {
	digits, ok := strings.CutPrefix(text, "sha256:")
	if b, err := hex.DecodeString(digits); ok && err == nil && len(b) == len(d) {
		d = receipt.Digest(b)
	}
	return d
}

// asked is what each model was offered at of late. The zero value is for use.
type asked struct {
	mu     sync.Mutex
	models map[string][]asking
}

// asking is a price and when it was replaced; zero if it was not.
type asking struct {
	price    offer.Price
	replaced time.Time
}

// publish takes what is offered from now on. A model that is left out keeps its price.
func (a *asked) publish(offers []offer.Offer, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.models == nil {
		a.models = make(map[string][]asking)
	}
	for _, o := range offers {
		var kept []asking
		for _, old := range a.models[o.Model] {
			switch {
			case old.price == o.Price:
				continue // it is the new one
			case old.replaced.IsZero():
				old.replaced = now
			case now.Sub(old.replaced) > priceGrace:
				continue
			}
			kept = append(kept, old)
		}
		a.models[o.Model] = append(kept, asking{price: o.Price})
	}
}

// accepts tells whether a request for a model may come at a price.
func (a *asked) accepts(model string, p offer.Price, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range a.models[model] {
		if one.price == p && (one.replaced.IsZero() || now.Sub(one.replaced) <= priceGrace) {
			return true
		}
	}
	return false
}

// receiptFrame is a receipt as an event of a stream.
func receiptFrame(b, wire []byte) []byte {
	for line := range bytes.Lines(wire) {
		b = append(append(b, "data: "...), line...)
	}
	return append(b, '\n')
}
