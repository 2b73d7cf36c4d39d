package clerk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/router/offer"
)

// Limits of terms, bytes: those of a line in the ledger's usage.
const (
	KeyMax  = 64
	UserMax = 128
)

// Terms are what a request is served on: what its hold remembers, and its receipts must say.
type Terms struct {
	Request   string         // req_ and 32 hex digits
	Account   ledger.Account // the customer's
	Key, User string         // what the usage is counted under: at most KeyMax and UserMax bytes
	Worker    receipt.Digest
	Keyset    receipt.Digest // that this gateway attested
	Model     string         // as the keyset names it
	Mode      receipt.Mode
	Ask       offer.Price // the worker's
	Price     offer.Price // the customer's: no part is less than the worker's
	// InMax and OutMax are the most tokens that the request can take.
	InMax, OutMax int64
	Req           receipt.Digest // SHA-256 of the body as it is sent to the worker
	// Closed is called once when it is decided what the request costs, with 0 if it is void. It must not wait. It does not
	// survive a restart. Nil: nobody is told.
	Closed func(cost nanoton.Amount, u offer.Usage)
}

// Deal is what the worker is told of them.
func (t *Terms) Deal() receipt.Deal {
	return receipt.Deal{Keyset: t.Keyset, Mode: t.Mode, Price: t.Ask}
}

// requestSize is that of a request's name in bytes: its 32 hex digits.
const requestSize = 16

// RequestID is what the Desk knows a request by: its 16 bytes, and zeros.
func RequestID(request string) (ledger.ID, error) {
	var id ledger.ID
	if len(request) != 4+2*requestSize || request[:4] != "req_" {
		return id, fmt.Errorf("%w: the request's name is not req_ and 32 hex digits", ErrInvalid)
	}
	for _, c := range []byte(request[4:]) {
		if c >= 'A' && c <= 'F' {
			return id, fmt.Errorf("%w: the request's name is not in lower case", ErrInvalid)
		}
	}
	if _, err := hex.Decode(id[:], []byte(request[4:])); err != nil {
		return ledger.ID{}, fmt.Errorf("%w: the request's name is not req_ and 32 hex digits", ErrInvalid)
	}
	return id, nil
}

// requestName is what RequestID reads.
func requestName(id ledger.ID) string { return "req_" + hex.EncodeToString(id[:requestSize]) }

// check says what is wrong with terms.
func (t *Terms) check() error {
	switch {
	case len(t.Key) > KeyMax || len(t.User) > UserMax:
		return fmt.Errorf("%w: key of %d bytes, user of %d", ErrInvalid, len(t.Key), len(t.User))
	case t.Worker.IsZero() || t.Keyset.IsZero() || t.Req.IsZero():
		return fmt.Errorf("%w: no worker, keyset or req", ErrInvalid)
	case t.Mode == "":
		return fmt.Errorf("%w: no mode", ErrInvalid)
	case t.InMax < 0 || t.InMax > offer.TokensMax || t.OutMax < 0 || t.OutMax > offer.TokensMax:
		return fmt.Errorf("%w: caps of %d and %d tokens", ErrInvalid, t.InMax, t.OutMax)
	case t.Price.In < t.Ask.In || t.Price.Cached < t.Ask.Cached || t.Price.Out < t.Ask.Out:
		return fmt.Errorf("%w: the customer's price is less than the worker's", ErrInvalid)
	}
	if err := errors.Join(t.Ask.Validate(), t.Price.Validate()); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// noteVersion is the first byte of a hold's note. The rest: worker[32] keyset[32] req[32], then uvarints: the worker's
// price in, cached, out, the customer's, the caps; then texts with their length before them: mode, model, key, user.
const noteVersion = 1

// noteRoom is for all but the texts of a note, unless prices and caps are very large.
const noteRoom = 1 + 3*32 + 8*5 + 4*2

// note is the terms as the hold keeps them: at most 700 bytes.
func (t *Terms) note() []byte {
	texts := len(t.Mode) + len(t.Model) + len(t.Key) + len(t.User)
	b := append(make([]byte, 0, noteRoom+texts), noteVersion)
	b = append(append(append(b, t.Worker[:]...), t.Keyset[:]...), t.Req[:]...)
	for _, n := range [...]int64{
		int64(t.Ask.In), int64(t.Ask.Cached), int64(t.Ask.Out),
		int64(t.Price.In), int64(t.Price.Cached), int64(t.Price.Out), t.InMax, t.OutMax,
	} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	for _, s := range [...]string{string(t.Mode), t.Model, t.Key, t.User} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b
}

// errNote says that a hold's note is none of the clerk's.
var errNote = errors.New("clerk: the hold's note can't be read")

// parseNote reads what note wrote, and nothing else.
func parseNote(id ledger.ID, account ledger.Account, note []byte) (*Terms, error) {
	if len(note) == 0 || note[0] != noteVersion {
		return nil, fmt.Errorf("%w: unknown version", errNote)
	}
	r := noteReader{rest: note[1:]}
	t := &Terms{Request: requestName(id), Account: account}
	for _, d := range []*receipt.Digest{&t.Worker, &t.Keyset, &t.Req} {
		copy(d[:], r.take(uint64(len(d))))
	}
	for _, p := range []*offer.Price{&t.Ask, &t.Price} {
		p.In, p.Cached, p.Out = nanoton.Amount(r.number()), nanoton.Amount(r.number()), nanoton.Amount(r.number())
	}
	t.InMax, t.OutMax = r.number(), r.number()
	t.Mode, t.Model, t.Key, t.User = receipt.Mode(r.text()), r.text(), r.text(), r.text()
	if r.short || len(r.rest) != 0 {
		return nil, fmt.Errorf("%w: wrong length", errNote)
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNote, err)
	}
	return t, nil
}

// noteReader takes fields off a note.
type noteReader struct {
	rest  []byte
	short bool
}

func (r *noteReader) take(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.short, r.rest = true, nil
		return nil
	}
	field := r.rest[:n]
	r.rest = r.rest[n:]
	return field
}

func (r *noteReader) number() int64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || v > 1<<62 {
		r.short, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return int64(v)
}

func (r *noteReader) text() string { return string(r.take(uint64(r.number()))) }
