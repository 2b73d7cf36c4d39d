package worker

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// termsHeader is the request header in which a gateway says what it will pay by: the keyset that it attested, who can
// read the request, and the price that it holds money at. Without it the request is not paid, and not metered.
const termsHeader = "Cocoon-Terms"

// priceGrace is how long a request may still come at a price that was replaced: gateways hear of a new one within a
// second, and a request may wait for a connection or be tried elsewhere first.
const priceGrace = 60 * time.Second

// terms are what a gateway says.
type terms struct {
	keyset receipt.Digest
	mode   receipt.Mode
	price  offer.Price
}

// errTerms marks a header that no gateway of ours sends.
var errTerms = errors.New("want: keyset, mode, and the prices in, cached and out")

// String is the header's value.
func (t terms) String() string {
	return fmt.Sprintf("%s %s %d %d %d", t.keyset, t.mode, int64(t.price.In), int64(t.price.Cached), int64(t.price.Out))
}

// parseTerms reads the header's value, which has one spelling.
func parseTerms(text string) (terms, error) {
	fields := strings.Split(text, " ")
	if len(fields) != 5 {
		return terms{}, errTerms
	}
	t := terms{mode: receipt.Mode(fields[1])}
	var err error
	if t.keyset, err = receipt.ParseDigest(fields[0]); err != nil {
		return terms{}, errTerms
	}
	for i, into := range []*nanoton.Amount{&t.price.In, &t.price.Cached, &t.price.Out} {
		n, err := strconv.ParseInt(fields[2+i], 10, 64)
		if err != nil {
			return terms{}, errTerms
		}
		*into = nanoton.Amount(n)
	}
	if t.price.Validate() != nil || t.String() != text {
		return terms{}, errTerms
	}
	return t, nil
}

// unmetError is about a gateway's terms: the request is as it should be, and another worker may serve it.
type unmetError struct{ says *openai.Error }

// Error says it in one line.
func (u *unmetError) Error() string { return u.says.Error() }

// Unwrap is what the gateway hears.
func (u *unmetError) Unwrap() error { return u.says }

// Codes of unmet terms.
const (
	codeTerms    = "terms_not_met"     // nothing that would pass by itself
	codeKeyset   = "keyset_not_served" // to be attested again helps
	codePrice    = "price_not_asked"   // the newest sheet has the price
	codeReceipts = "receipts_full"     // to acknowledge helps
)

func notMet(code, format string, args ...any) error {
	e := openai.NewError(http.StatusServiceUnavailable, code, format, args...)
	e.RetryAfter = time.Second
	return &unmetError{e}
}

// agree checks a gateway's terms for a model, and gives what all receipts of the request say alike.
func (w *Worker) agree(t terms, o *offer.Offer, now time.Time) (receipt.Receipt, error) {
	known, ok := w.prover.find(t.keyset, now)
	if !ok {
		return receipt.Receipt{}, notMet(codeKeyset, "The worker has no such keyset.")
	}
	m, ok := known.model(o.Model)
	if !ok || m.WeightsDigest != o.WeightsDigest || m.Engine != o.Engine {
		return receipt.Receipt{}, notMet(codeKeyset, "The worker serves this model otherwise than that keyset says.")
	}
	if !w.asked.accepts(o.Model, t.price, now) {
		return receipt.Receipt{}, notMet(codePrice, "The worker does not ask that price.")
	}
	switch t.mode {
	case receipt.Gateway, receipt.Unprotected, receipt.Simulated:
	default:
		return receipt.Receipt{}, notMet(codeTerms, "The worker does not serve requests in that mode.")
	}
	if t.mode == receipt.Gateway && w.simulated() {
		return receipt.Receipt{}, notMet(codeTerms, "The worker's machine is simulated: the mode has to say so.")
	}
	r := receipt.Receipt{
		Worker: receipt.Digest(w.ID()), Epoch: known.Epoch, Keyset: t.keyset, Model: o.Model, Mode: t.mode, Price: t.price,
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
