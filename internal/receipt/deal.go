package receipt

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// DealHeader is the header of a request in which a gateway tells the worker what it is asked to serve on. Without it the
// request is not paid, and not metered.
const DealHeader = "Cocoon-Terms"

// KeysetNotServed is the code of a worker's error when a deal's keyset is not one that it serves the model under.
const KeysetNotServed = "keyset_not_served"

// Deal is what a gateway will pay by: the keyset that it attested, who can read the request, and the worker's price that
// it holds money at.
type Deal struct {
	Keyset Digest
	Mode   Mode
	Price  offer.Price
}

// errDeal marks text that no gateway of ours sends.
var errDeal = errors.New("want: keyset, mode, and the prices in, cached and out")

// String is the value of DealHeader.
func (d Deal) String() string {
	b := make([]byte, 0, 160)
	b = append(hex.AppendEncode(b, d.Keyset[:]), ' ')
	b = append(append(b, d.Mode...), ' ')
	b = append(strconv.AppendInt(b, int64(d.Price.In), 10), ' ')
	b = append(strconv.AppendInt(b, int64(d.Price.Cached), 10), ' ')
	return string(strconv.AppendInt(b, int64(d.Price.Out), 10))
}

// ParseDeal reads what String writes, and nothing in another spelling. The mode may be any word.
func ParseDeal(text string) (Deal, error) {
	fields := strings.Split(text, " ")
	if len(fields) != 5 {
		return Deal{}, errDeal
	}
	d := Deal{Mode: Mode(fields[1])}
	var err error
	if d.Keyset, err = ParseDigest(fields[0]); err != nil {
		return Deal{}, errDeal
	}
	for i, into := range []*nanoton.Amount{&d.Price.In, &d.Price.Cached, &d.Price.Out} {
		n, err := strconv.ParseInt(fields[2+i], 10, 64)
		if err != nil {
			return Deal{}, errDeal
		}
		*into = nanoton.Amount(n)
	}
	if d.Price.Validate() != nil || d.String() != text {
		return Deal{}, errDeal
	}
	return d, nil
}
