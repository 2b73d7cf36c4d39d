package ton

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"

	"cocoon/internal/nanoton"
)

// PayLink is a ton://transfer link, which wallets open with everything filled in, and which fits into a QR code: to whom,
// how much (0: the payer says it), and a comment, or else a body for a contract, as a bag of cells, and the contract's
// initial state if it is not there yet. Wallets take a comment or a body, not both: with a body the comment is left out.
func PayLink(to Address, amount nanoton.Amount, comment string, body, init []byte) string {
	var params []string
	add := func(name, value string) {
		if value != "" {
			// Some wallets do not take a plus for a blank.
			params = append(params, name+"="+strings.ReplaceAll(url.QueryEscape(value), "+", "%20"))
		}
	}
	if amount > 0 {
		add("amount", strconv.FormatInt(int64(amount), 10))
	}
	if len(body) == 0 {
		add("text", comment)
	}
	add("bin", base64.URLEncoding.EncodeToString(body))
	add("init", base64.URLEncoding.EncodeToString(init))
	link := "ton://transfer/" + to.String()
	if len(params) == 0 {
		return link
	}
	return link + "?" + strings.Join(params, "&")
}
