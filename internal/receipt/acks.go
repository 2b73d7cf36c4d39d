package receipt

import (
	"encoding/json"
	"fmt"

	"cocoon/internal/strictjson"
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
)

// acksVersion is of the message's form.
const acksVersion = 1

// Acks is what a gateway tells a worker about receipts that it has. The worker lets both kinds go.
type Acks struct {
	Settled []Digest  // IDs; the gateway has them on disk, and they are paid
	Refused []Refusal // never to be paid
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
}

// Marshal is the text in JSON. What is beyond AcksMax and RefusedMax is left out, and a reason is cut to WhyMax: the
// worker presents what it hears nothing of again.
func (a *Acks) Marshal() []byte {
	m := acksJSON{V: acksVersion, Settled: []Digest{}, Refused: []Refusal{}}
	for _, r := range a.Refused[:min(len(a.Refused), RefusedMax)] {
		m.Refused = append(m.Refused, Refusal{r.ID, plain(r.Why)})
	}
	m.Settled = append(m.Settled, a.Settled[:min(len(a.Settled), AcksMax-len(m.Refused))]...)
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
	return &Acks{m.Settled, m.Refused}, nil
}
