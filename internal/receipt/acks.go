package receipt

import (
	"encoding/json"
	"fmt"

	"cocoon/internal/nanoton"
	"cocoon/internal/strictjson"
	"cocoon/router/offer"
)

// Limits of acknowledgements. Together they keep the text below AcksSize.
const (
	// AcksMax bounds the receipts of one message, settled and refused.
	AcksMax = 1000
	// RefusedMax bounds the refused ones among them: they are longer, and rare.
	RefusedMax = 200
	// WhyMax bounds a reason, bytes: one sentence.
	WhyMax = 200
	// AcksSize bounds the text, bytes.
	AcksSize = 128 << 10
	// VoucherMax bounds the signed body of a voucher, bytes: one has about 250.
	VoucherMax = 1 << 10
)

// acksVersion is of the message's form.
const acksVersion = 1

// Acks is what a gateway tells a worker about receipts that it has. The worker lets both kinds go.
type Acks struct {
	Settled []Digest  // IDs; the gateway has them on disk, and they are paid
	Refused []Refusal // never to be paid
	// Voucher is the newest that the gateway signed for what it owes the worker; nil: there is none, or none that is new.
	Voucher *Voucher
}

// Voucher is a signed promise of a gateway that a contract on the chain (a tab) pays the worker's address, whatever
// becomes of the gateway. What it says is for the reader to check; here only its form is.
type Voucher struct {
	Body  []byte       `json:"body"` // what the contract takes: a bag of cells, 1 to VoucherMax bytes
	Terms VoucherTerms `json:"terms"`
}

// VoucherTerms are what the tab was made with. They make its address.
type VoucherTerms struct {
	Owner             string         `json:"owner"` // addresses are of printable ASCII, AddressMax bytes at most
	Payee             string         `json:"payee"`
	Signer            Digest         `json:"signer"` // the gateway's metering key, Ed25519
	Salt              uint64         `json:"salt"`
	CloseDelaySeconds int64          `json:"close_delay_seconds"`
	BaseNanoTON       nanoton.Amount `json:"base_nanoton"` // the most that may be drawn: base, and rate each second since
	RateNanoTON       nanoton.Amount `json:"rate_nanoton"`
	Since             int64          `json:"since"` // seconds since 1970
}

// check tells whether the voucher has the right form.
func (v *Voucher) check() error {
	if len(v.Body) == 0 || len(v.Body) > VoucherMax {
		return fmt.Errorf("%w: a voucher of %d bytes, want 1 to %d", ErrForm, len(v.Body), VoucherMax)
	}
	for _, a := range []string{v.Terms.Owner, v.Terms.Payee} {
		if a == "" || len(a) > offer.AddressMax || a != plain(a) {
			return fmt.Errorf("%w: a voucher's address is empty, too long or not printable", ErrForm)
		}
	}
	return nil
}

// Refusal is a receipt that a gateway will not pay.
type Refusal struct {
	ID  Digest `json:"id"`
	Why string `json:"why"` // printable ASCII
}

// acksJSON is the form on the wire.
type acksJSON struct {
	V       int       `json:"v"`
	Settled []Digest  `json:"settled"`
	Refused []Refusal `json:"refused"`
	Voucher *Voucher  `json:"voucher,omitempty"`
}

// Marshal is the text in JSON. What is beyond AcksMax and RefusedMax is left out, and a reason is cut to WhyMax: the
// worker presents what it hears nothing of again. A voucher of another form than ParseAcks takes is left out.
func (a *Acks) Marshal() []byte {
	m := acksJSON{V: acksVersion, Settled: []Digest{}, Refused: []Refusal{}}
	for _, r := range a.Refused[:min(len(a.Refused), RefusedMax)] {
		m.Refused = append(m.Refused, Refusal{r.ID, plain(r.Why)})
	}
	m.Settled = append(m.Settled, a.Settled[:min(len(a.Settled), AcksMax-len(m.Refused))]...)
	if a.Voucher != nil && a.Voucher.check() == nil {
		m.Voucher = a.Voucher
	}
	text, err := json.Marshal(&m)
	if err != nil { // digests and plain text always are JSON
		panic(err)
	}
	return text
}

// plain is a reason as it may stand in the text: bytes that JSON would write in a longer way are question marks.
func plain(why string) string {
	b := []byte(why[:min(len(why), WhyMax)])
	for i, c := range b {
		if !plainByte(c) {
			b[i] = '?'
		}
	}
	return string(b)
}

func plainByte(c byte) bool {
	return c >= ' ' && c <= '~' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
}

// ParseAcks reads what Marshal made. Errors are ErrForm.
func ParseAcks(text []byte) (*Acks, error) {
	if len(text) > AcksSize {
		return nil, fmt.Errorf("%w: acknowledgements of %d bytes, at most %d", ErrForm, len(text), AcksSize)
	}
	var m acksJSON
	if err := strictjson.Decode(text, &m); err != nil {
		return nil, fmt.Errorf("%w: acknowledgements: %w", ErrForm, err)
	}
	switch {
	case m.V != acksVersion:
		return nil, fmt.Errorf("%w: acknowledgements of version %d, want %d", ErrForm, m.V, acksVersion)
	case len(m.Settled)+len(m.Refused) > AcksMax || len(m.Refused) > RefusedMax:
		return nil, fmt.Errorf("%w: %d acknowledgements and %d refusals, at most %d, of those %d refusals",
			ErrForm, len(m.Settled), len(m.Refused), AcksMax, RefusedMax)
	}
	for _, r := range m.Refused {
		if r.Why != plain(r.Why) {
			return nil, fmt.Errorf("%w: a reason is not printable, or longer than %d bytes", ErrForm, WhyMax)
		}
	}
	if m.Voucher != nil {
		if err := m.Voucher.check(); err != nil {
			return nil, err
		}
	}
	return &Acks{m.Settled, m.Refused, m.Voucher}, nil
}
