// Package receipt is what a worker signs about a request: what it served, how many tokens that took, and what it costs.
//
// A receipt is text of one spelling (docs/protocol.md, section 6), signed by the worker's attested receipt key. This
// package writes, reads and checks it. Whether the key is an attested machine's is for package attest.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"cocoon/internal/nanoton"
	"cocoon/router/offer"
)

// Limits of a receipt.
const (
	// WireMax bounds a receipt with its signature, bytes: all numbers at their longest and the longest name make 1,500,
	// and the longest path of a batch 820.
	WireMax = 2560
	// ModelMax bounds a model's name, bytes: an offer's limit.
	ModelMax = offer.NameMax
	// SeqMax bounds the receipts of one request: one for each token, if need be.
	SeqMax = offer.TokensMax
	// timeMax is the last millisecond of the year 9999: later ones have no date.
	timeMax = 253_402_300_799_999
	// requestDigits is the length of the number in a request's name.
	requestDigits = 32
	// digestText is the length of a digest's text.
	digestText = 2 * sha256.Size
)

// Labels of the format.
const (
	idLabel       = "cocoon/receipt/v1\x00"
	head          = "cocoon-receipt/v1\n"
	batchHead     = "batch "
	signatureHead = "signature "
	signatureText = 88 // 64 bytes in base64
	signatureLine = len(signatureHead) + signatureText + 1
)

// Mode is who could read the request (Cocoon-Mode).
type Mode string

// The modes.
const (
	Sealed    Mode = "sealed"    // only the worker
	Gateway   Mode = "gateway"   // the gateway too
	Simulated Mode = "simulated" // some hardware on the way is simulated: nothing is proved
	// Unprotected: the worker is attested, but its gateway runs in no TEE, where others can read too.
	Unprotected Mode = "unprotected"
)

// Kind says whether more receipts of the request follow.
type Kind string

// The kinds.
const (
	Interim Kind = "interim" // of an answer that is being made
	Final   Kind = "final"   // of one that is over
)

// Status is how the request ended. An interim receipt's is OK.
type Status string

// The statuses.
const (
	OK          Status = "ok"
	ClientAbort Status = "client_abort" // whoever asked went away
	Length      Status = "length"       // the answer reached the most tokens allowed
	Error       Status = "error"        // the worker's fault, or it refused: nothing is to be paid
)

// Digest is a SHA-256. Its text is 64 lower-case hex digits. All zeros stand for none.
type Digest [sha256.Size]byte

// String is the digest in hex.
func (d Digest) String() string { return string(appendHex(make([]byte, 0, digestText), d[:])) }

// IsZero tells whether there is none.
func (d Digest) IsZero() bool { return d == Digest{} }

// ParseDigest reads 64 lower-case hex digits.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != digestText {
		return Digest{}, fmt.Errorf("%w: a digest of %d characters, want 64", ErrForm, len(s))
	}
	var b [digestText]byte
	copy(b[:], s)
	if !d.parse(b[:]) {
		return Digest{}, fmt.Errorf("%w: a digest that is not 64 lower-case hex digits", ErrForm)
	}
	return d, nil
}

// MarshalText is the digest in hex.
func (d Digest) MarshalText() ([]byte, error) { return appendHex(nil, d[:]), nil }

// UnmarshalText is ParseDigest.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

// Errors that callers tell apart.
var (
	// ErrForm marks what is no receipt, or one that contradicts itself.
	ErrForm = errors.New("malformed receipt")
	// ErrSignature marks a receipt that another key signed, or none.
	ErrSignature = errors.New("the receipt's signature does not verify")
)

// MismatchError says which field of a receipt is not as it must be.
type MismatchError struct {
	Field     string // as the receipt's text names it
	Got, Want string
}

// Error says it in one line.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("receipt: %s: got %s, want %s", e.Field, e.Got, e.Want)
}

// Receipt is what a worker says about a request that it serves or served. Counts are cumulative: a later receipt of the
// request replaces an earlier one.
type Receipt struct {
	// Request is the name that the gateway gave it: req_ and 32 lower-case hex digits.
	Request string
	// Route is the SHA-256 of a sealed request's route; zero if there is none.
	Route Digest
	// Worker, Epoch and Keyset name the signer: its ID, and the epoch and SHA-256 of its keyset.
	Worker Digest
	Epoch  uint64
	Keyset Digest
	// Model is the name asked for: printable ASCII without blanks, quotes and backslashes. Weights is their SHA-256 and
	// Engine that of the engine's name as the keyset has them; zero if the keyset does not.
	Model           string
	Weights, Engine Digest
	Mode            Mode
	// Seq counts a request's receipts from 0.
	Seq    uint64
	Kind   Kind
	Status Status
	Tokens offer.Usage
	// Price is what the request was taken at, nanoTON per million tokens, and Cost what Tokens cost at it, rounded up.
	Price offer.Price
	Cost  nanoton.Amount
	// Req and Resp are the SHA-256 of the bodies as they came and went over the connection, receipts left out. Of a
	// sealed request that is of what is sealed: with a hash of the text, a guess at it could be tried.
	Req, Resp Digest
	// Prev is the ID of the request's receipt before this one; zero for the first.
	Prev Digest
	// TTFT is the time from the start to the first token, milliseconds; 0 if there was none.
	TTFT int64
	// Start and End are when the request came and when this was signed, milliseconds since 1970.
	Start, End int64
}

// Validate checks the receipt's form: ranges, names, and what rules itself out. Arithmetic and Check look at the rest.
func (r *Receipt) Validate() error {
	if err := r.problem(); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	return nil
}

func (r *Receipt) problem() error {
	switch {
	case !validRequest(r.Request):
		return errors.New("request is not req_ and 32 lower-case hex digits")
	case r.Worker.IsZero() || r.Keyset.IsZero() || r.Req.IsZero():
		return errors.New("no worker, keyset or req")
	case !validModel(r.Model):
		return errors.New("model is not a name of printable ASCII")
	case r.Mode != Sealed && r.Mode != Gateway && r.Mode != Simulated && r.Mode != Unprotected:
		return errors.New("unknown mode")
	case r.Mode == Sealed && r.Route.IsZero():
		return errors.New("a sealed request without a route")
	case r.Seq > SeqMax:
		return fmt.Errorf("seq %d, at most %d", r.Seq, int64(SeqMax))
	case r.Prev.IsZero() != (r.Seq == 0):
		return errors.New("the first receipt of a request has no prev, and each other has one")
	case r.Cost < 0:
		return errors.New("negative cost")
	case r.Start < 1 || r.End < r.Start || r.End > timeMax:
		return errors.New("start and end are not in order, or not dates")
	case r.TTFT < 0 || r.TTFT > r.End-r.Start:
		return errors.New("ttft_ms is not between start and end")
	}
	if err := r.ending(); err != nil {
		return err
	}
	if err := r.Tokens.Validate(); err != nil {
		return err
	}
	return r.Price.Validate()
}

// ending checks kind and status, and what they say about the counts.
func (r *Receipt) ending() error {
	switch r.Kind {
	case Interim:
		if r.Status != OK {
			return errors.New("an interim receipt's status is ok")
		}
	case Final:
	default:
		return errors.New("unknown kind")
	}
	switch r.Status {
	case OK, ClientAbort, Length:
	case Error:
		if r.Tokens != (offer.Usage{}) || r.Cost != 0 {
			return errors.New("an error has no tokens and no cost")
		}
	default:
		return errors.New("unknown status")
	}
	return nil
}

func validRequest(s string) bool {
	digits, ok := strings.CutPrefix(s, "req_")
	return ok && len(digits) == requestDigits && isHex(digits)
}

func validModel(s string) bool {
	if s == "" || len(s) > ModelMax {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// Arithmetic checks that the cost is what the tokens cost at the price: no less and no more.
func (r *Receipt) Arithmetic() error {
	cost, err := r.Price.Cost(r.Tokens)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	if cost != r.Cost {
		return mismatch("cost", int64(r.Cost), int64(cost))
	}
	return nil
}

// Terms are what was agreed on before the request was served. A zero digest demands a zero one.
type Terms struct {
	Request         string
	Route           Digest
	Worker, Keyset  Digest
	Epoch           uint64
	Model           string
	Weights, Engine Digest
	Mode            Mode
	Price           offer.Price    // at which the money was held: no less and no more
	InMax, OutMax   int64          // tokens
	Ceiling         nanoton.Amount // of the cost
}

// Check checks that the receipt is about what was agreed on, within its caps, and rightly added up. The error is a
// MismatchError that names the first field which is off.
func (r *Receipt) Check(t Terms) error {
	if err := r.differ(&t); err != nil {
		return err
	}
	switch {
	case r.Tokens.In > t.InMax:
		return atMost("tokens in", r.Tokens.In, t.InMax)
	case r.Tokens.Out > t.OutMax:
		return atMost("tokens out", r.Tokens.Out, t.OutMax)
	case r.Cost > t.Ceiling:
		return atMost("cost", int64(r.Cost), int64(t.Ceiling))
	}
	return r.Arithmetic()
}

// terms are what the receipt says was agreed on; of caps it says nothing.
func (r *Receipt) terms() *Terms {
	return &Terms{
		Request: r.Request, Route: r.Route, Worker: r.Worker, Keyset: r.Keyset, Epoch: r.Epoch, Model: r.Model,
		Weights: r.Weights, Engine: r.Engine, Mode: r.Mode, Price: r.Price,
	}
}

// differ names the first difference to what was agreed on, caps aside.
func (r *Receipt) differ(want *Terms) error {
	switch {
	case r.Request != want.Request:
		return mismatch("request", r.Request, want.Request)
	case r.Route != want.Route:
		return mismatch("route", r.Route, want.Route)
	case r.Worker != want.Worker:
		return mismatch("worker", r.Worker, want.Worker)
	case r.Epoch != want.Epoch:
		return mismatch("epoch", r.Epoch, want.Epoch)
	case r.Keyset != want.Keyset:
		return mismatch("keyset", r.Keyset, want.Keyset)
	case r.Model != want.Model:
		return mismatch("model", r.Model, want.Model)
	case r.Weights != want.Weights:
		return mismatch("weights", r.Weights, want.Weights)
	case r.Engine != want.Engine:
		return mismatch("engine", r.Engine, want.Engine)
	case r.Mode != want.Mode:
		return mismatch("mode", r.Mode, want.Mode)
	case r.Price.In != want.Price.In:
		return mismatch("price in", int64(r.Price.In), int64(want.Price.In))
	case r.Price.Cached != want.Price.Cached:
		return mismatch("price cached", int64(r.Price.Cached), int64(want.Price.Cached))
	case r.Price.Out != want.Price.Out:
		return mismatch("price out", int64(r.Price.Out), int64(want.Price.Out))
	}
	return nil
}

func mismatch(field string, got, want any) error {
	return &MismatchError{field, fmt.Sprint(got), fmt.Sprint(want)}
}

func atMost(field string, got, most int64) error {
	return &MismatchError{field, fmt.Sprint(got), fmt.Sprintf("at most %d", most)}
}

// Signed is a receipt with its signature. It is made by Sign, SignBatch, Parse and ParseRecord, and changed by Share alone.
type Signed struct {
	Receipt
	id        Digest
	signature [ed25519.SignatureSize]byte
	place     place
}

// Is tells whether data begins as a receipt does.
func Is(data []byte) bool { return bytes.HasPrefix(data, []byte(head)) }

// Split takes the receipt off the end of an answer that is not streamed: behind its JSON stand a line end and the wire
// form, and no JSON has a line end followed by such words. wire is nil if there is none.
func Split(answer []byte) (body, wire []byte) {
	from := max(0, len(answer)-WireMax-1)
	if i := bytes.Index(answer[from:], []byte("\n"+head)); i >= 0 {
		return answer[:from+i], answer[from+i+1:]
	}
	return answer, nil
}

// Sign signs a receipt that is valid and rightly added up.
func Sign(r Receipt, key ed25519.PrivateKey) (*Signed, error) {
	s, err := SignBatch([]Receipt{r}, key)
	if err != nil {
		return nil, err
	}
	return s[0], nil
}

// ID is what people call the receipt by: the SHA-256 of its text. It does not depend on the signature.
func (r *Receipt) ID() Digest { return digest(r.append(make([]byte, 0, WireMax))) }

// ID is the receipt's, known without hashing it again.
func (s *Signed) ID() Digest { return s.id }

// Verify checks the signature. The error is ErrSignature.
func (s *Signed) Verify(key ed25519.PublicKey) error { return verify(key, s.over(), &s.signature) }

func verify(key ed25519.PublicKey, over Digest, signature *[ed25519.SignatureSize]byte) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, over[:], signature[:]) {
		return ErrSignature
	}
	return nil
}

// over is what is signed: the ID, or of a batch what stands for all IDs of it.
func (s *Signed) over() Digest {
	if s.place.size == 0 {
		return s.id
	}
	return s.place.over(&s.id)
}

// digest hashes a receipt's text for the one purpose that a receipt key signs for.
func digest[T []byte | string](text T) Digest {
	b := make([]byte, 0, len(idLabel)+textUsual) // on the stack, nearly always
	return sha256.Sum256(append(append(b, idLabel...), text...))
}
