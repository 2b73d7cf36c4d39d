package vouchers

import (
	"testing"
	"time"

	"cocoon/billing/ton/tab"
)

func TestPolicy(t *testing.T) {
	p := Policy{Gone: 72 * time.Hour, Least: perTON}
	k := Kept{Voucher: tab.Voucher{ValidUntil: now.Add(30 * 24 * time.Hour)}}
	old := Kept{Voucher: tab.Voucher{ValidUntil: now.Add(ExpiryMargin - time.Second)}}
	for name, test := range map[string]struct {
		k    Kept
		o    Outlook
		gone time.Duration
		due  bool
	}{
		"all is well":                {k, Outlook{Claim: 9 * perTON}, time.Hour, false},
		"gone":                       {k, Outlook{Claim: perTON}, 72 * time.Hour, true},
		"gone, not worth it":         {k, Outlook{Claim: perTON - 1}, 999 * time.Hour, false},
		"gone, nothing to have":      {k, Outlook{Claim: 0, Why: "all of it was paid already"}, 999 * time.Hour, false},
		"closing":                    {k, Outlook{Claim: 1, CloseAt: now}, 0, true},
		"closing, nothing to have":   {k, Outlook{CloseAt: now, Why: "closed"}, 0, false},
		"about to expire":            {old, Outlook{Claim: perTON}, 0, true},
		"about to expire, too small": {old, Outlook{Claim: perTON - 1}, 0, false},
	} {
		if why := p.Due(test.k, test.o, test.gone, now); (why != "") != test.due {
			t.Errorf("%s: %q", name, why)
		}
	}
}
