package tab

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/billing/ton"
	"cocoon/billing/ton/contracts"
	"cocoon/internal/nanoton"
	"cocoon/internal/strictjson"
)

// KitFormat names the JSON form of a Kit.
const KitFormat = "cocoon-tab-1"

// kitMax bounds a kit's text, bytes; one takes about 5 kB.
const kitMax = 64 << 10

// kitValue goes with the messages of a kit's links: many times what they cost, and it comes back with the rest.
const kitValue = nanoton.PerTON / 20

// Kit is all that an owner needs to take his money out without the gateway: any wallet opens the links. It is as public
// as the contract. In JSON, times are Unix seconds and amounts nanoTON.
type Kit struct {
	Format   string      `json:"format"` // KitFormat
	Address  ton.Address `json:"address"`
	CodeHash string      `json:"code_hash"` // hex; of the contract's source, which is published
	Terms    KitTerms    `json:"terms"`
	Init     []byte      `json:"init"` // BoC of the StateInit, base64: the tab can be closed before it is deployed
	// Links are for the owner's wallet: Close, and when the delay is over, Finish.
	Close  string `json:"close"`
	Finish string `json:"finish"`
}

// KitTerms are Terms in JSON.
type KitTerms struct {
	Owner             ton.Address    `json:"owner"`
	Payee             ton.Address    `json:"payee"`
	Signer            []byte         `json:"signer"` // base64
	Salt              uint64         `json:"salt,string"`
	CloseDelaySeconds int64          `json:"close_delay_seconds"`
	Base              nanoton.Amount `json:"base"`
	Rate              nanoton.Amount `json:"rate"`
	Since             int64          `json:"since"`
}

// NewKit makes the kit of a tab. The error is ErrTerms.
func NewKit(t Terms) (Kit, error) {
	address, err := t.Address()
	if err != nil {
		return Kit{}, err
	}
	state, err := t.Init()
	if err != nil {
		return Kit{}, err
	}
	packed, err := tlb.ToCell(state)
	if err != nil {
		return Kit{}, fmt.Errorf("packing a tab's state: %w", err)
	}
	k := Kit{
		Format: KitFormat, Address: address, CodeHash: contracts.TabHash, Init: packed.ToBOC(),
		Terms: KitTerms{
			Owner: t.Owner, Payee: t.Payee, Signer: t.Signer, Salt: t.Salt, Base: t.Base, Rate: t.Rate,
			CloseDelaySeconds: int64(t.CloseDelay / time.Second), Since: int64(stamp(t.Since)),
		},
	}
	k.Close = ton.PayLink(address, kitValue, "", CloseBody().ToBOC(), k.Init)
	k.Finish = ton.PayLink(address, kitValue, "", FinishBody().ToBOC(), k.Init)
	return k, nil
}

// Tab returns the terms that the kit is of.
func (k Kit) Tab() Terms {
	t := k.Terms
	return Terms{
		Owner: t.Owner, Payee: t.Payee, Signer: t.Signer, Salt: t.Salt, Base: t.Base, Rate: t.Rate,
		CloseDelay: time.Duration(t.CloseDelaySeconds) * time.Second, Since: moment(uint64(t.Since)),
	}
}

// ParseKit reads the JSON of a Kit. All in it must follow from its terms: a kit whose links pay somebody else is ErrKit.
func ParseKit(text []byte) (Kit, error) {
	if len(text) > kitMax {
		return Kit{}, fmt.Errorf("%w: %d bytes", ErrKit, len(text))
	}
	var k Kit
	if err := strictjson.Decode(text, &k); err != nil {
		return Kit{}, fmt.Errorf("%w: %w", ErrKit, err)
	}
	if d := k.Terms.CloseDelaySeconds; d < 0 || d > int64(CloseDelayMax/time.Second) || k.Terms.Since < 0 {
		return Kit{}, fmt.Errorf("%w: a time is out of range", ErrKit)
	}
	want, err := NewKit(k.Tab())
	if err != nil {
		return Kit{}, fmt.Errorf("%w: %w", ErrKit, err)
	}
	got, err := json.Marshal(k)
	if err != nil {
		return Kit{}, fmt.Errorf("%w: %w", ErrKit, err)
	}
	right, err := json.Marshal(want)
	if err != nil {
		return Kit{}, fmt.Errorf("%w: %w", ErrKit, err)
	}
	if string(got) != string(right) {
		return Kit{}, fmt.Errorf("%w: its parts are not of one tab, or of another contract", ErrKit)
	}
	return k, nil
}
