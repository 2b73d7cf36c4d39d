package rates

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"time"

	"cocoon/internal/nanoton"
)

const (
	microMin  = 100             // $0.0001 for a TON: below that something else is quoted
	microMax  = 100_000_000_000 // $100,000
	version   = 1               // of a stored rate
	hashBytes = 6               // of a rate's ID: it only tells apart what two gateways found in one second

	perMicro  = 1_000_000_000             // nanoTON x microUSD per TON in a microUSD
	perDollar = perMicro * microPerDollar // and in a dollar
	// microPerDollar is how many microUSD a dollar has.
	microPerDollar = 1_000_000
)

// Rate is what a TON is worth.
type Rate struct {
	ID       string    // "r-<unix seconds>-<hex>"
	MicroUSD int64     // millionths of a US dollar for one TON
	At       time.Time // when it was found, to the second; a rate stays the current one while it is confirmed
	Sources  []Quote   // of which it is the median
	Stale    bool      // no quorum confirms it now; not stored
}

// USD gives what an amount is worth in dollars, with six decimals: "0.004512", "-1.500000". It is exact but for the last
// decimal, which is rounded to the nearest, halves away from zero.
func (r Rate) USD(a nanoton.Amount) string {
	sign, n := "", uint64(a)
	if a < 0 {
		sign, n = "-", -uint64(a)
	}
	// n is 2^63 and the rate 10^11 at most: the product has 128 bits, and the dollars fit easily.
	high, low := bits.Mul64(n, uint64(min(max(r.MicroUSD, 0), microMax)))
	dollars, rest := bits.Div64(high, low, perDollar)
	micro := (rest + perMicro/2) / perMicro
	dollars, micro = dollars+micro/microPerDollar, micro%microPerDollar
	if dollars == 0 && micro == 0 {
		sign = ""
	}
	return fmt.Sprintf("%s%d.%06d", sign, dollars, micro)
}

// PerMTok gives a price of nanoTON per million tokens in dollars per million tokens, as USD does.
func (r Rate) PerMTok(price nanoton.Amount) string { return r.USD(price) }

// record is a stored rate.
type record struct {
	V        int       `json:"v"`
	At       time.Time `json:"at"`
	MicroUSD int64     `json:"micro_usd_per_ton"`
	Sources  []Quote   `json:"sources"`
}

// newRate makes a rate of quotes, and the text to store.
func newRate(micro int64, at time.Time, quotes []Quote) (*Rate, []byte, error) {
	r := record{V: version, At: at.UTC().Truncate(time.Second), MicroUSD: micro, Sources: quotes}
	body, err := json.Marshal(r)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(body)
	id := fmt.Sprintf("r-%d-%s", r.At.Unix(), hex.EncodeToString(sum[:hashBytes]))
	return &Rate{ID: id, MicroUSD: micro, At: r.At, Sources: quotes}, body, nil
}

// middle gives the median of quotes that are sorted by price; of two in the middle the mean, rounded down.
func middle(quotes []Quote) int64 {
	n := len(quotes)
	if n%2 == 1 {
		return quotes[n/2].MicroUSD
	}
	return (quotes[n/2-1].MicroUSD + quotes[n/2].MicroUSD) / 2 // both are at most microMax
}

// apart says whether a differs from b by more than so many thousandths of b. Both are 0 to microMax.
func apart(a, b, ppt int64) bool { return max(a-b, b-a)*1000 > b*ppt }
