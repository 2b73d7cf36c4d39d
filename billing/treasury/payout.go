package treasury

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/ton/wallet"
	"cocoon/internal/nanoton"
)

// IDMax is how long a payout's ID may be: it travels as the payment's comment.
const IDMax = 24

// State is where a payout stands.
type State string

// The states of a payout, in their order. Of the last two there is no way on.
const (
	Asked   State = "asked"   // wanted; the money is still in its account
	Queued  State = "queued"  // the money is set aside in "payouts"
	Batched State = "batched" // in a signed message that is in the ledger, and may be on the chain
	Paid    State = "paid"    // the chain shows the payment
	Refused State = "refused" // the account had not enough
)

// Payout is money on its way to an address.
type Payout struct {
	ID      string         `json:"id"`      // 1 to IDMax of a-z 0-9; its maker's, made before asking; see PayoutID
	Account ledger.Account `json:"account"` // whose money it is; "cold": a sweep to the cold address
	To      ton.Address    `json:"to"`
	Amount  nanoton.Amount `json:"nano"`
	Reason  string         `json:"reason"` // for people: up to 64 printable ASCII characters
	// Body is what the message carries to a contract in place of the ID, and Init deploys it: bags of cells; nil: none.
	Body  []byte    `json:"body,omitempty"`
	Init  []byte    `json:"init,omitempty"`
	State State     `json:"state"`
	Why   string    `json:"why,omitempty"`   // what went wrong last
	Held  string    `json:"held,omitempty"`  // why the operator holds it; empty: not held
	Asked time.Time `json:"asked"`           // by the asking gateway's clock
	Query uint32    `json:"query,omitempty"` // of the batch that it is or was in
	LT    uint64    `json:"lt,omitempty"`    // of the transaction that paid it
	Hash  string    `json:"hash,omitempty"`

	version int64
}

// final says whether nothing happens to it any more.
func (p *Payout) final() bool { return p.State == Paid || p.State == Refused }

// sweep says whether it moves our own money to the cold address.
func (p *Payout) sweep() bool { return p.Account == accountCold }

// same says whether two payouts ask for the same.
func (p *Payout) same(q *Payout) bool {
	return p.ID == q.ID && p.Account == q.Account && p.To == q.To && p.Amount == q.Amount && bytes.Equal(p.Body, q.Body) &&
		bytes.Equal(p.Init, q.Init)
}

// PayoutID derives a payout's ID from what makes it the only one of its kind.
func PayoutID(parts ...string) string {
	h := sha256.New()
	h.Write([]byte("cocoon/payout/v1"))
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:IDMax]
}

// check says what is wrong with a payout that somebody asks for.
func (p *Payout) check() error {
	printable := func(r rune) bool { return r < ' ' || r > '~' }
	switch {
	case p.ID == "" || len(p.ID) > IDMax || strings.Trim(p.ID, "abcdefghijklmnopqrstuvwxyz0123456789") != "":
		return fmt.Errorf("payout's ID %w: %.60q", ErrInvalid, p.ID)
	case p.To.IsZero():
		return fmt.Errorf("payout's address %w: none", ErrInvalid)
	case p.Amount <= 0:
		return fmt.Errorf("payout's amount %w: %v", ErrInvalid, p.Amount)
	case len(p.Reason) > commentMax || strings.ContainsFunc(p.Reason, printable):
		return fmt.Errorf("payout's reason %w: %.100q", ErrInvalid, p.Reason)
	}
	if _, err := p.transfer(); err != nil {
		return fmt.Errorf("payout's message %w: %w", ErrInvalid, err)
	}
	if err := p.Account.Check(); err != nil {
		return err
	}
	switch p.Account.Kind() {
	case "customer", "worker", "fees", "network", "transit":
		return nil
	}
	return fmt.Errorf("payout's account %w: nothing is paid out of %s", ErrInvalid, p.Account)
}

// transfer is the payout as the wallet takes it. Nobody's wallet may bounce it: what came back could not be told from a
// deposit.
func (p *Payout) transfer() (wallet.Transfer, error) {
	t := wallet.Transfer{To: p.To, Amount: p.Amount}
	if p.Body == nil {
		t.Comment = p.ID
	}
	return t.Carry(p.Body, p.Init)
}

// mark is what a payout's message is known by on the chain: its ID as comment, or the hash of what it carries.
func (p *Payout) mark() string {
	t, err := p.transfer()
	if err != nil || t.Body == nil {
		return p.ID
	}
	m := ton.Message{To: p.To, Amount: p.Amount, Body: t.Body}
	return bodyMark(&m)
}

// markOf is the mark of a message that was sent.
func markOf(m *ton.Message) string {
	if m.Comment != "" {
		return m.Comment
	}
	return bodyMark(m)
}

func bodyMark(m *ton.Message) string {
	return fmt.Sprintf("body %s %d %x", m.To.Raw(), m.Amount, m.BodyHash())
}

// legs are what moves the money of a payout aside.
func (p *Payout) legs() []ledger.Leg {
	return []ledger.Leg{{Account: p.Account, Amount: -p.Amount}, {Account: accountPayouts, Amount: p.Amount}}
}

// aside is the transfer that moves it.
func (p *Payout) aside() ledger.Transfer {
	return ledger.Transfer{
		ID: sha256.Sum256([]byte("cocoon/payout/aside/v1\x00" + p.ID)), Kind: "payout", At: p.Asked,
		Ref: "payout " + p.ID, Legs: p.legs(),
	}
}

// document is the change to what p says now.
func (p *Payout) document() (ledger.Document, error) { return document(kindPayout, p.ID, p.version, p) }

// Ask wants a payout: its ID, Account, To, Amount and Reason; the rest is set. It is in the ledger when Ask returns, and
// asking again for the same changes nothing. The account may still turn out to have too little: the payout is then
// refused. Errors are ErrInvalid, ErrTooSmall, ErrTaken, or the ledger's, after which it may have been asked or not.
func (t *Treasury) Ask(ctx context.Context, p Payout) error {
	if err := p.check(); err != nil {
		return err
	}
	if p.To == t.address {
		return fmt.Errorf("payout's address %w: the treasury's own", ErrInvalid)
	}
	if p.Amount < t.c.PayoutMin {
		return fmt.Errorf("%w: %v, the least is %v", ErrTooSmall, p.Amount, t.c.PayoutMin)
	}
	return Ask(ctx, t.c.Ledger, p)
}

// Ask is [Treasury.Ask] for the operator, who may ask for any amount, and for his own money: of the accounts "fees" and
// "network" no more is paid out than both have together.
func Ask(ctx context.Context, l Documents, p Payout) error {
	if err := p.check(); err != nil {
		return err
	}
	p = Payout{
		ID: p.ID, Account: p.Account, To: p.To, Amount: p.Amount, Reason: p.Reason, Body: p.Body, Init: p.Init, State: Asked,
		Asked: time.Now().UTC(),
	}
	d, err := p.document()
	if err != nil {
		return err
	}
	if _, err = l.Commit(ctx, nil, []ledger.Document{d}); !errors.Is(err, ledger.ErrChanged) {
		return err
	}
	before, err := Find(ctx, l, p.ID)
	if err == nil && !before.same(&p) {
		err = fmt.Errorf("payout %s: %w", p.ID, ErrTaken)
	}
	return err
}

// readPayout reads one from its document.
func readPayout(d ledger.Document) (p Payout, err error) {
	err = decode(d, &p)
	p.version = d.Version
	return p, err
}

// Find gives a payout, or ErrUnknown.
func Find(ctx context.Context, l Documents, id string) (Payout, error) {
	d, err := l.Document(ctx, kindPayout, id)
	if errors.Is(err, ledger.ErrNoDocument) {
		return Payout{}, fmt.Errorf("payout %.60q: %w", id, ErrUnknown)
	}
	if err != nil {
		return Payout{}, err
	}
	return readPayout(d)
}

// Filter says which payouts to list. Its zero value is all.
type Filter struct {
	Account ledger.Account // empty: of all accounts
	Open    bool           // only those that are neither paid nor refused
}

// Payouts lists payouts, oldest first.
func Payouts(ctx context.Context, l Documents, f Filter) ([]Payout, error) {
	var all []Payout
	err := l.DocumentsOf(ctx, kindPayout, 0, func(d ledger.Document) error {
		if d.Body == nil {
			return nil
		}
		p, err := readPayout(d)
		if err == nil && (f.Account == "" || f.Account == p.Account) && !(f.Open && p.final()) {
			all = append(all, p)
		}
		return err
	})
	slices.SortFunc(all, older)
	return all, err
}

// older orders payouts by when they were asked for.
func older(a, b Payout) int {
	if c := a.Asked.Compare(b.Asked); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// Hold keeps a payout from leaving until Release. One that is in a signed message leaves all the same, unless that
// expires. why is for the lists: 1 to 64 printable ASCII characters.
func Hold(ctx context.Context, l Documents, id, why string) error {
	if clean(why) != why || why == "" {
		return fmt.Errorf("reason %w: %.100q", ErrInvalid, why)
	}
	return setHeld(ctx, l, id, why)
}

// Release ends a Hold.
func Release(ctx context.Context, l Documents, id string) error { return setHeld(ctx, l, id, "") }

func setHeld(ctx context.Context, l Documents, id, why string) error {
	return edit(ctx, l, kindPayout, id, func(p *Payout, version int64) ([]ledger.Transfer, []ledger.Document, error) {
		if version == 0 {
			return nil, nil, fmt.Errorf("payout %.60q: %w", id, ErrUnknown)
		}
		if p.final() {
			return nil, nil, fmt.Errorf("payout %s: %w: it is %s", id, ErrFinal, p.State)
		}
		p.Held = why
		return nil, nil, nil
	})
}

// HoldAll stops all payouts until ReleaseAll: no message is signed or sent. What was sent before may still be executed.
func HoldAll(ctx context.Context, l Documents, why string) error {
	if clean(why) != why || why == "" {
		return fmt.Errorf("reason %w: %.100q", ErrInvalid, why)
	}
	return setHold(ctx, l, why)
}

// ReleaseAll ends HoldAll. Payouts that are held one by one stay so.
func ReleaseAll(ctx context.Context, l Documents) error { return setHold(ctx, l, "") }

func setHold(ctx context.Context, l Documents, why string) error {
	return edit(ctx, l, kindChain, chainID, func(r *record, version int64) ([]ledger.Transfer, []ledger.Document, error) {
		if version == 0 {
			return nil, nil, fmt.Errorf("treasury: %w: no gateway has run with one on this ledger", ErrUnknown)
		}
		r.Hold = why
		return nil, nil, nil
	})
}

// Cancel takes a payout back: its money returns to its account, and it ends as refused. It must be asked or queued, not
// in a signed message: ErrFinal.
func Cancel(ctx context.Context, l Documents, id, why string) error {
	if clean(why) != why || why == "" {
		return fmt.Errorf("reason %w: %.100q", ErrInvalid, why)
	}
	return edit(ctx, l, kindPayout, id, func(p *Payout, version int64) ([]ledger.Transfer, []ledger.Document, error) {
		switch {
		case version == 0:
			return nil, nil, fmt.Errorf("payout %.60q: %w", id, ErrUnknown)
		case p.State != Asked && p.State != Queued:
			return nil, nil, fmt.Errorf("payout %s: %w: it is %s", id, ErrFinal, p.State)
		case p.Account == accountSuspense:
			return nil, nil, fmt.Errorf("payout %s: %w: it sends back what came from nobody known", id, ErrFinal)
		}
		moved := p.State == Queued && !p.sweep()
		p.State, p.Why = Refused, "taken back: "+why
		if !moved {
			return nil, nil, nil
		}
		legs := p.legs()
		legs[0].Amount, legs[1].Amount = legs[1].Amount, legs[0].Amount
		return []ledger.Transfer{{
			ID: sha256.Sum256([]byte("cocoon/payout/back/v1\x00" + p.ID)), Kind: "payout", At: time.Now().UTC(),
			Ref: "payout " + p.ID + " taken back", Legs: legs,
		}}, nil, nil
	})
}
