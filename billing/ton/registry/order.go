package registry

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/strictjson"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Numbers of messages and orders in the contract.
const (
	opSigned  = 0x2e610001
	opApply   = 0x2e610002
	opOrder   = 0x2e610010
	opPropose = 0x2e610011
	opCancel  = 0x2e610012
)

// ProposalMax bounds a proposal's file, bytes: the order with its document in base64, and signatures.
const ProposalMax = 64 << 10

// Errors of orders and proposals.
var (
	ErrOrder     = errors.New("no order for a registry")
	ErrSignature = errors.New("signature does not fit")
	ErrTooFew    = errors.New("too few signatures")
)

// Order is what signers sign: a change, or to cancel one. It counts once, at one registry, in its turn.
type Order struct {
	Registry   ton.Address
	Seqno      uint32    // Registry.Seqno at the time
	ValidUntil time.Time // in whole seconds
	Change     *Change   // what is proposed; nil: to cancel
	Cancel     uint32    // the change to cancel
}

// cell is the order in the contract's form. Its hash is what is signed.
func (o *Order) cell() (*cell.Cell, error) {
	until, err := unix(o.ValidUntil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	if o.Registry.IsZero() || until == 0 {
		return nil, fmt.Errorf("%w: it names no registry, or has no end", ErrOrder)
	}
	b := cell.BeginCell().MustStoreUInt(opOrder, 32).MustStoreAddr(o.Registry.Std()).MustStoreUInt(uint64(o.Seqno), 32).
		MustStoreUInt(until, 32)
	if o.Change == nil {
		return b.MustStoreUInt(opCancel, 32).MustStoreUInt(uint64(o.Cancel), 32).EndCell(), nil
	}
	change, err := o.Change.cell()
	if err != nil {
		return nil, err
	}
	return b.MustStoreUInt(opPropose, 32).MustStoreRef(change).EndCell(), nil
}

func parseOrder(c *cell.Cell) (*Order, error) {
	s, err := c.BeginParse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	r := reader{s: s}
	o := new(Order)
	if op := r.uint(32); op != opOrder {
		return nil, fmt.Errorf("%w: it begins with %#x", ErrOrder, op)
	}
	std, err := s.LoadAddr()
	if err == nil {
		o.Registry, err = ton.FromStd(std)
	}
	if err != nil || o.Registry.IsZero() {
		return nil, fmt.Errorf("%w: it is for no registry: %w", ErrOrder, errors.Join(err))
	}
	o.Seqno, o.ValidUntil = uint32(r.uint(32)), fromUnix(r.uint(32))
	var change *cell.Cell
	switch op := r.uint(32); op {
	case opPropose:
		change = r.ref()
	case opCancel:
		o.Cancel = uint32(r.uint(32))
	default:
		r.fail(fmt.Errorf("it wants %#x", op))
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	if change != nil {
		if o.Change, err = parseChange(change); err != nil {
			return nil, err
		}
	}
	if again, err := o.cell(); err != nil || !bytes.Equal(again.Hash(), c.Hash()) {
		return nil, fmt.Errorf("%w: it has another form than this program gives to orders", ErrOrder)
	}
	return o, nil
}

// String says what the order does, on one line, without the document.
func (o *Order) String() string {
	what := fmt.Sprintf("cancel the pending change %d", o.Cancel)
	if o.Change != nil {
		what = o.Change.String()
	}
	return fmt.Sprintf("order %d to the registry %s, valid until %s: %s", o.Seqno, o.Registry, stamp(o.ValidUntil), what)
}

// Signer signs with an Ed25519 key.
type Signer interface {
	Public() ed25519.PublicKey
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Proposal is an order on its way from signer to signer.
type Proposal struct {
	Order      *Order
	signatures []signature // by signer, each of which fits
	root       *cell.Cell
}

type signature struct {
	Signer    hexBytes `json:"signer"`
	Signature hexBytes `json:"signature"`
}

// hexBytes are bytes in hexadecimal.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(b)), nil }

func (b *hexBytes) UnmarshalText(text []byte) error {
	v, err := hex.DecodeString(string(text))
	*b = v
	return err
}

// file is a proposal as JSON. Everything of it is in the order's cells, so that nothing can say otherwise.
type file struct {
	What       string      `json:"what"`
	V          int         `json:"v"`
	Order      []byte      `json:"order"`
	Signatures []signature `json:"signatures"`
}

const fileWhat = "an order for a Cocoon registry: 'cocoon-gateway registry sign' shows what it does, and signs it"

// NewProposal has an order without signatures. The error is ErrOrder or ErrChange.
func NewProposal(o *Order) (*Proposal, error) {
	root, err := o.cell()
	if err != nil {
		return nil, err
	}
	return &Proposal{Order: o, root: root}, nil
}

// ParseProposal reads a proposal's file, and checks its signatures.
func ParseProposal(text []byte) (*Proposal, error) {
	if len(text) > ProposalMax {
		return nil, fmt.Errorf("%w: the file has more than %d bytes", ErrOrder, ProposalMax)
	}
	var f file
	if err := strictjson.Decode(text, &f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	if f.V != 1 || len(f.Signatures) > SignersMax {
		return nil, fmt.Errorf("%w: version %d with %d signatures, want version 1 with %d at most", ErrOrder, f.V,
			len(f.Signatures), SignersMax)
	}
	root, err := cell.FromBOC(f.Order)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrder, err)
	}
	o, err := parseOrder(root)
	if err != nil {
		return nil, err
	}
	p := &Proposal{Order: o, root: root}
	for _, s := range f.Signatures {
		if err := p.add(s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Encode is the proposal's file.
func (p *Proposal) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(file{What: fileWhat, V: 1, Order: p.root.ToBOC(), Signatures: p.signatures}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding a proposal: %w", err)
	}
	return append(text, '\n'), nil
}

// Sign adds a signer's signature. One that is there already is no error.
func (p *Proposal) Sign(ctx context.Context, s Signer) error {
	sig, err := s.Sign(ctx, p.root.Hash())
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	return p.add(signature{hexBytes(s.Public()), sig})
}

func (p *Proposal) add(s signature) error {
	if len(s.Signer) != ed25519.PublicKeySize || !ed25519.Verify(ed25519.PublicKey(s.Signer), p.root.Hash(), s.Signature) {
		return fmt.Errorf("%w: that of %.80x is not of this order", ErrSignature, []byte(s.Signer))
	}
	at, there := slices.BinarySearchFunc(p.signatures, s, func(a, b signature) int { return bytes.Compare(a.Signer, b.Signer) })
	if !there {
		p.signatures = slices.Insert(p.signatures, at, s)
	}
	return nil
}

// Signed are the keys that signed, in ascending order.
func (p *Proposal) Signed() []ed25519.PublicKey {
	var out []ed25519.PublicKey
	for _, s := range p.signatures {
		out = append(out, ed25519.PublicKey(s.Signer))
	}
	return out
}

// Check tells why the registry would refuse the order, as far as its state at r.At says: another registry, not its turn,
// expired, no such change, no room, and last too few signers (ErrTooFew). What the rent takes is not looked at.
func (p *Proposal) Check(r *Registry) error {
	o := p.Order
	switch {
	case o.Registry != r.Address:
		return fmt.Errorf("%w: it is for %s, not for %s", ErrOrder, o.Registry, r.Address)
	case o.Seqno != r.Seqno:
		return fmt.Errorf("%w: it has the number %d, and the registry waits for %d: propose it anew", ErrOrder, o.Seqno, r.Seqno)
	case r.At.Time.After(o.ValidUntil):
		return fmt.Errorf("%w: it was valid until %s, and the chain's time is %s", ErrOrder, stamp(o.ValidUntil), stamp(r.At.Time))
	}
	switch {
	case o.Change == nil && !slices.ContainsFunc(r.Pending, func(w Pending) bool { return w.ID == o.Cancel }):
		return fmt.Errorf("%w: no change %d is pending", ErrOrder, o.Cancel)
	case o.Change != nil && len(r.Pending) >= PendingMax:
		return fmt.Errorf("%w: %d changes are pending already, no more may be", ErrOrder, len(r.Pending))
	case o.Change != nil:
		if err := o.Change.fits(r); err != nil {
			return err
		}
	}
	if n := len(p.votes(r)); n < r.Threshold {
		return fmt.Errorf("%w: %d of the registry's signers signed, %d must", ErrTooFew, n, r.Threshold)
	}
	return nil
}

// fits tells why the registry would take the order and then drop the change.
func (c *Change) fits(r *Registry) error {
	if c.Put != nil {
		if _, there := r.Entry(c.Put.Title); !there && len(r.Entries)+len(r.Faults)+len(r.Pending) >= EntriesMax {
			return fmt.Errorf("%w: the registry has %d entries and %d changes pending, and holds %d", ErrChange, len(r.Entries)+
				len(r.Faults), len(r.Pending), EntriesMax)
		}
	}
	if c.Delay != 0 && c.Delay < r.Floor {
		return fmt.Errorf("%w: delay %s, and the floor is %s", ErrChange, c.Delay, r.Floor)
	}
	return nil
}

// vote is a signature as the contract wants it.
type vote struct {
	signer    int // place in its list
	signature []byte
}

// votes are the signatures that count at the registry, in its order.
func (p *Proposal) votes(r *Registry) []vote {
	var out []vote
	for _, s := range p.signatures {
		if i := slices.IndexFunc(r.Signers, func(k ed25519.PublicKey) bool { return bytes.Equal(k, s.Signer) }); i >= 0 {
			out = append(out, vote{i, s.Signature})
		}
	}
	return out
}

// Message is the external message with the order, for a registry whose state is r. It has as many signatures as the
// contract wants, no more. The error is what Check says.
func (p *Proposal) Message(r *Registry) ([]byte, error) {
	if err := p.Check(r); err != nil {
		return nil, err
	}
	body, err := signedBody(p.root, p.votes(r)[:r.Threshold])
	if err != nil {
		return nil, err
	}
	return ton.ExternalTo(r.Address, nil, body)
}

// signedBody has an order and signatures, the first one outermost.
func signedBody(order *cell.Cell, votes []vote) (*cell.Cell, error) {
	var next *cell.Cell
	for _, v := range slices.Backward(votes) {
		b := cell.BeginCell().MustStoreUInt(uint64(v.signer), 8).MustStoreSlice(v.signature, 512)
		if err := b.StoreMaybeRef(next); err != nil {
			return nil, fmt.Errorf("signatures: %w", err)
		}
		next = b.EndCell()
	}
	b := cell.BeginCell().MustStoreUInt(opSigned, 32).MustStoreRef(order)
	if err := b.StoreRef(next); err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	return b.EndCell(), nil
}

// ApplyBody is the body of a message, from anyone, that has a change applied when its time has come.
func ApplyBody(id uint32) *cell.Cell {
	return cell.BeginCell().MustStoreUInt(opApply, 32).MustStoreUInt(uint64(id), 32).EndCell()
}

// ApplyMessage is the external message that has a change applied. The registry pays for it.
func ApplyMessage(registry ton.Address, id uint32) ([]byte, error) {
	return ton.ExternalTo(registry, nil, ApplyBody(id))
}
