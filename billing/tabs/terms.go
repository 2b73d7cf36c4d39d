package tabs

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/tab"
	"cocoon/internal/receipt"
)

// wireTerms are a tab's terms as documents and vouchers have them.
func wireTerms(t tab.Terms) receipt.VoucherTerms {
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

// termsOf inverts wireTerms.
func termsOf(w receipt.VoucherTerms) (t tab.Terms, err error) {
	if t.Owner, err = ton.ParseAddress(w.Owner); err != nil {
		return tab.Terms{}, fmt.Errorf("owner: %w", err)
	}
	if t.Payee, err = ton.ParseAddress(w.Payee); err != nil {
		return tab.Terms{}, fmt.Errorf("payee: %w", err)
	}
	t.Signer, t.Salt, t.Base, t.Rate = w.Signer[:], w.Salt, w.BaseNanoTON, w.RateNanoTON
	t.CloseDelay = time.Duration(w.CloseDelaySeconds) * time.Second
	if w.Since != 0 {
		t.Since = time.Unix(w.Since, 0).UTC()
	}
	return t, nil
}

// saltOf tells the tabs of one owner apart: by whom they are for, and by the gateway or network.
func saltOf(name string, k key) uint64 {
	sum := sha256.Sum256([]byte("cocoon/tabs/salt/v1\x00" + name + "\x00" + k.kind + "\x00" + k.id))
	return binary.BigEndian.Uint64(sum[:])
}
