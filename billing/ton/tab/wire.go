package tab

import (
	"fmt"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/receipt"
)

// Wire is the terms as vouchers and the ledger's documents have them.
func (t Terms) Wire() receipt.VoucherTerms {
	w := receipt.VoucherTerms{
		Owner: t.Owner.String(), Payee: t.Payee.String(), Salt: t.Salt, CloseDelaySeconds: int64(t.CloseDelay / time.Second),
		BaseNanoTON: t.Base, RateNanoTON: t.Rate,
	}
	copy(w.Signer[:], t.Signer)
	if !t.Since.IsZero() {
		w.Since = t.Since.Unix()
	}
	return w
}

// FromWire inverts [Terms.Wire]. The error is ErrTerms.
func FromWire(w receipt.VoucherTerms) (t Terms, err error) {
	if t.Owner, err = ton.ParseAddress(w.Owner); err != nil {
		return Terms{}, fmt.Errorf("%w: owner: %w", ErrTerms, err)
	}
	if t.Payee, err = ton.ParseAddress(w.Payee); err != nil {
		return Terms{}, fmt.Errorf("%w: payee: %w", ErrTerms, err)
	}
	if w.CloseDelaySeconds < 0 || w.CloseDelaySeconds > int64(CloseDelayMax/time.Second) || w.Since < 0 {
		return Terms{}, fmt.Errorf("%w: a time is out of range", ErrTerms)
	}
	t.Signer, t.Salt, t.Base, t.Rate = w.Signer[:], w.Salt, w.BaseNanoTON, w.RateNanoTON
	t.CloseDelay = time.Duration(w.CloseDelaySeconds) * time.Second
	if w.Since != 0 {
		t.Since = time.Unix(w.Since, 0).UTC()
	}
	return t, nil
}
