package vouchers

import (
	"time"

	"cocoon/internal/nanoton"
)

// ExpiryMargin is how long before its end a voucher is claimed that no newer one has replaced: time for the chain, or for
// whoever runs the worker, to come back.
const ExpiryMargin = 3 * 24 * time.Hour

// Policy says when a voucher is claimed without anybody asking. While all is well none is: payouts come by themselves, and
// each claim costs the tab fees.
type Policy struct {
	Gone  time.Duration  // the gateway was out of reach for so long
	Least nanoton.Amount // less is not claimed, unless the tab is closing
}

// Due says why a voucher is to be claimed now; empty: it is not. gone is how long its gateway has been out of reach.
func (p Policy) Due(k Kept, o Outlook, gone time.Duration, now time.Time) string {
	switch {
	case o.Why != "" || o.Claim <= 0:
		return ""
	case !o.CloseAt.IsZero():
		return "the gateway is closing the tab"
	case o.Claim < p.Least:
		return ""
	case gone >= p.Gone:
		return "the gateway has been out of reach for " + gone.Round(time.Minute).String()
	case now.After(k.Voucher.ValidUntil.Add(-ExpiryMargin)):
		return "the voucher is about to expire"
	}
	return ""
}
