package treasury

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
	"cocoon/internal/strictjson"
)

// Kinds of documents in the ledger.
const (
	kindChain    = "chain"    // one, ID chainID: where the scanner is, and what all gateways share
	kindPayout   = "payout"   // by the payout's ID
	kindBatch    = "batch"    // by query number; deleted when it is settled
	kindSuspense = "suspense" // by transaction, and message for what went out
	kindPayee    = "payee"    // by worker; the gateway writes them
	kindPayday   = "payday"   // by worker: how many payouts its earnings made
	chainID      = "treasury"
)

const (
	// outflowWindow is what Config.OutflowMax is for.
	outflowWindow = time.Hour
	// outflowStep is how finely the window is remembered: what left counts up to that much longer than an hour.
	outflowStep = 5 * time.Minute
	// editsMax bounds how often a command tries to change a document that a gateway changes all the time.
	editsMax = 50
	// commentMax bounds what is kept of a stranger's comment: enough to see a mistyped memo.
	commentMax = 64
)

// flow is what left in one outflowStep.
type flow struct {
	At   int64          `json:"at"` // seconds since 1970: the step's beginning, by the chain's clock
	Nano nanoton.Amount `json:"nano"`
}

// place is a [ton.Cursor] as it is stored.
type place struct {
	LT   uint64 `json:"lt"`
	Hash string `json:"hash"` // hex
}

func placeOf(c ton.Cursor) place {
	return place{LT: c.LT, Hash: fmt.Sprintf("%x", c.Hash)}
}

// record is the chain document: every change that the chain makes to the ledger writes it, and so does every batch, so
// that of two gateways one is first and the other reads anew.
type record struct {
	Wallet  ton.Address `json:"wallet"`
	Cursor  place       `json:"cursor"`
	Query   uint32      `json:"next_query"` // never used yet
	At      int64       `json:"at"`         // chain's time at the last change, seconds since 1970
	Quiet   int64       `json:"quiet"`      // until then messages of a lost ledger may be on their way
	Hold    string      `json:"hold,omitempty"`
	Outflow []flow      `json:"outflow,omitempty"`
	Settled int64       `json:"settled"` // all payouts whose documents are of this version or older are final
}

// left gives what may leave now, by the chain's clock.
func (r *record) left(limit nanoton.Amount, now time.Time) nanoton.Amount {
	for _, f := range r.Outflow {
		if now.Sub(time.Unix(f.At, 0)) < outflowWindow+outflowStep {
			limit -= f.Nano
		}
	}
	return limit
}

// spend remembers that an amount leaves, and forgets what left long ago.
func (r *record) spend(amount nanoton.Amount, now time.Time) {
	var kept []flow
	step := now.Truncate(outflowStep).Unix()
	for _, f := range r.Outflow {
		if now.Sub(time.Unix(f.At, 0)) < outflowWindow+outflowStep && f.At != step {
			kept = append(kept, f)
		} else if f.At == step {
			amount += f.Nano
		}
	}
	r.Outflow = append(kept, flow{At: step, Nano: amount})
}

// batch is a signed message and what it pays.
type batch struct {
	Query   uint32         `json:"query"`
	Created int64          `json:"created"` // seconds since 1970, signed
	Expires int64          `json:"expires"` // no block from then on can execute it
	Need    nanoton.Amount `json:"need"`    // balance that it may take
	Payouts []string       `json:"payouts"`
	Message []byte         `json:"message"`
	Started bool           `json:"started,omitempty"` // its first transaction was seen: the second comes, so it does not expire

	version int64
}

func batchID(query uint32) string { return fmt.Sprintf("%08d", query) }

// Payee is the document that says where a worker's earnings go, kind "payee", ID the 64 hex digits of its account. The
// gateway writes it; the treasury reads it.
type Payee struct {
	Address ton.Address    `json:"address"`
	Min     nanoton.Amount `json:"min_nanoton"`   // pay from here on; at least Config.PayoutMin
	Every   int64          `json:"every_seconds"` // at most that often
}

// payday is how far the payouts of a worker's earnings are: their IDs come from the worker and a number, so that no crash
// makes one of them twice.
type payday struct {
	Number int64 `json:"number"` // of the next one
	At     int64 `json:"at"`     // when the last one was made, by the chain's clock
	Now    bool  `json:"now,omitempty"`

	version int64
}

// Suspense is money that came or went without the ledger knowing why.
type Suspense struct {
	// ID is the 64 hex digits of the transaction; for what went out, a dash and the message's number follow.
	ID      string         `json:"id"`
	Out     bool           `json:"out,omitempty"` // it left the wallet by a message that the ledger does not know
	Peer    ton.Address    `json:"peer"`          // who sent it, or got it
	Amount  nanoton.Amount `json:"nano"`
	At      time.Time      `json:"at"`
	Why     string         `json:"why"`
	Comment string         `json:"comment,omitempty"` // printable ASCII of its beginning
	Query   uint32         `json:"query,omitempty"`   // of the batch it left in
	Done    string         `json:"done,omitempty"`    // what became of it; empty: nothing yet

	version int64
}

// clean gives the printable ASCII of the beginning of what a stranger wrote.
func clean(comment string) string {
	comment = comment[:min(len(comment), commentMax)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, comment)
}

// document makes the change of a document; v nil deletes.
func document(kind, id string, version int64, v any) (ledger.Document, error) {
	d := ledger.Document{Kind: kind, ID: id, Version: version}
	if v == nil {
		return d, nil
	}
	var err error
	if d.Body, err = json.Marshal(v); err != nil {
		return d, fmt.Errorf("writing a %s: %w", kind, err)
	}
	return d, nil
}

// decode reads a document's body.
func decode(d ledger.Document, v any) error {
	if err := strictjson.Decode(d.Body, v); err != nil {
		return fmt.Errorf("document %s %s: %w", d.Kind, d.ID, err)
	}
	return nil
}

// Documents is what commands need of the ledger.
type Documents interface {
	Commit(ctx context.Context, transfers []ledger.Transfer, documents []ledger.Document) (versions []int64, err error)
	Document(ctx context.Context, kind, id string) (ledger.Document, error)
	DocumentsOf(ctx context.Context, kind string, after int64, f func(ledger.Document) error) error
}

// edit reads a document into v, has f change it, and writes it with the transfers that f gives; again if others were
// faster. f may see a document that there is not, with version 0.
func edit[T any](
	ctx context.Context, l Documents, kind, id string, f func(v *T, version int64) ([]ledger.Transfer, []ledger.Document, error),
) error {
	var err error
	for range editsMax {
		var v T
		var d ledger.Document
		d, err = l.Document(ctx, kind, id)
		if err == nil {
			err = decode(d, &v)
		} else if errors.Is(err, ledger.ErrNoDocument) {
			err = nil
		}
		if err != nil {
			return err
		}
		transfers, more, err2 := f(&v, d.Version)
		if err2 != nil {
			return err2
		}
		changed, err2 := document(kind, id, d.Version, v)
		if err2 != nil {
			return err2
		}
		if _, err = l.Commit(ctx, transfers, append(more, changed)); !errors.Is(err, ledger.ErrChanged) {
			return err
		}
	}
	return err
}

// cursor is where the scanner is.
func (r *record) cursor() (ton.Cursor, error) {
	c := ton.Cursor{LT: r.Cursor.LT}
	if c.LT == 0 {
		return c, nil
	}
	if n, err := hex.Decode(c.Hash[:], []byte(r.Cursor.Hash)); err != nil || n != len(c.Hash) || len(r.Cursor.Hash) != 64 {
		return c, fmt.Errorf("the cursor in the ledger %w: %.80q", ErrInvalid, r.Cursor.Hash)
	}
	return c, nil
}
