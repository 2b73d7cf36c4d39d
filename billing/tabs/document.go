package tabs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/internal/nanoton"
	"cocoon/internal/receipt"
	"cocoon/internal/strictjson"
)

// recordVersion is of the documents' form.
const recordVersion = 1

// record is a tab's document: where its history was read to, and what that came to.
type record struct {
	V       int                  `json:"v"`
	Terms   receipt.VoucherTerms `json:"terms"`
	Address ton.Address          `json:"address"`

	LT      uint64         `json:"lt"`      // of the last transaction that is in the ledger
	Hash    receipt.Digest `json:"hash"`    // its hash
	Active  bool           `json:"active"`  // the contract is there, not only its address
	Balance nanoton.Amount `json:"balance"` // after that transaction
	Drawn   nanoton.Amount `json:"drawn"`   // by the contract, in all
	DrawnAt int64          `json:"drawn_at"`
	CloseAt int64          `json:"close_at,omitempty"` // seconds since 1970; zero: not closing
	Base    nanoton.Amount `json:"base"`               // the owner's limit: base, and rate each second since
	Rate    nanoton.Amount `json:"rate"`
	Since   int64          `json:"since"`

	Signed  nanoton.Amount `json:"signed"` // the highest cumulative amount that a voucher was signed for
	Voucher *voucher       `json:"voucher,omitempty"`

	// Of a customer.
	Locked      nanoton.Amount `json:"locked,omitempty"`      // of his money: in suspense, not to be spent
	Unexplained nanoton.Amount `json:"unexplained,omitempty"` // of that: drawn, though the ledger knows no spending
	Owed        nanoton.Amount `json:"owed,omitempty"`        // to fees, which advanced it

	// Of a worker.
	Asked   nanoton.Amount `json:"asked,omitempty"`   // of the treasury, for collateral, in all
	Funded  nanoton.Amount `json:"funded,omitempty"`  // what arrived of it, in all
	Orders  int            `json:"orders,omitempty"`  // how often it was asked
	Order   nanoton.Amount `json:"order,omitempty"`   // the last time
	Advance nanoton.Amount `json:"advance,omitempty"` // paid and not owed: kept back from later earnings
	Lost    nanoton.Amount `json:"lost,omitempty"`    // owed by our own signature, though the ledger does not know why
}

// voucher is a signed one.
type voucher struct {
	Body       []byte         `json:"body"` // a bag of cells
	Cumulative nanoton.Amount `json:"cumulative"`
	At         int64          `json:"at"`    // the chain's time of signing, seconds since 1970
	Until      int64          `json:"until"` // valid, by the chain's clock
}

// cursor is where the history was read to.
func (r *record) cursor() ton.Cursor { return ton.Cursor{LT: r.LT, Hash: r.Hash} }

// pot is a record as a version of its document has it.
type pot struct {
	key
	record
	version int64
	stopped string // why it is left alone; not in the document, so that a restart looks again
}

// parse reads a document.
func parse(d ledger.Document) (*pot, error) {
	t := &pot{key: key{d.Kind, d.ID}, version: d.Version}
	if err := strictjson.Decode(d.Body, &t.record); err != nil {
		return nil, fmt.Errorf("document %s %s: %w", d.Kind, d.ID, err)
	}
	if t.V != recordVersion {
		return nil, fmt.Errorf("document %s %s: its form is %d, this program knows %d", d.Kind, d.ID, t.V, recordVersion)
	}
	return t, nil
}

// document is the tab as it is to be written in place of the version that it was read from.
func (t *pot) document() (ledger.Document, error) {
	body, err := json.Marshal(&t.record)
	if err != nil {
		return ledger.Document{}, err
	}
	return ledger.Document{Kind: t.kind, ID: t.id, Version: t.version, Body: body}, nil
}

// clone is a copy to be changed.
func (t *pot) clone() *pot {
	c := *t
	return &c
}

// read reads a tab's document; ErrNone if there is none.
func (k *Keeper) read(ctx context.Context, name key) (*pot, error) {
	d, err := k.c.Ledger.Document(ctx, name.kind, name.id)
	if errors.Is(err, ledger.ErrNoDocument) {
		return nil, fmt.Errorf("%s: %w", name.party(), ErrNone)
	}
	if err != nil {
		return nil, err
	}
	return parse(d)
}

// refresh reads the documents that changed since the last time.
func (k *Keeper) refresh(ctx context.Context) error {
	k.reading.Lock()
	defer k.reading.Unlock()
	for _, kind := range []string{TabKind, CollateralKind} {
		err := k.c.Ledger.DocumentsOf(ctx, kind, k.seen[kind], func(d ledger.Document) error {
			if err := k.take(d); err != nil {
				return err
			}
			k.seen[kind] = d.Version
			return nil
		})
		if err != nil {
			return fmt.Errorf("reading documents: %w", err)
		}
	}
	return nil
}

// take takes note of a document.
func (k *Keeper) take(d ledger.Document) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := key{d.Kind, d.ID}
	if d.Body == nil {
		delete(k.tabs, name)
		return nil
	}
	t, err := parse(d)
	if err != nil {
		return err
	}
	old := k.tabs[name]
	if old != nil && old.version >= t.version {
		return nil
	}
	if old != nil {
		t.stopped = old.stopped
	}
	k.tabs[name] = t
	return nil
}

// commit posts a transfer, if there is one, with the tab's document. The tab that was given has the new version then. After
// an error it may have happened or not: read the document again.
func (k *Keeper) commit(ctx context.Context, t *pot, transfers ...ledger.Transfer) error {
	d, err := t.document()
	if err != nil {
		return err
	}
	versions, err := k.c.Ledger.Commit(ctx, transfers, []ledger.Document{d})
	if err != nil {
		return err
	}
	t.version = versions[0]
	return nil
}

// change reads a tab, has f change it, and writes it with what f posts; again if somebody else changed it meanwhile, or if
// an account lacked what f counted on. f may return errDone: there is nothing to write.
func (k *Keeper) change(ctx context.Context, name key, f func(t *pot) ([]ledger.Transfer, error)) (*pot, error) {
	for attempt := 0; ; attempt++ {
		t, err := k.read(ctx, name)
		if err != nil {
			return nil, err
		}
		transfers, err := f(t)
		if errors.Is(err, errDone) {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		err = k.commit(ctx, t, transfers...)
		if err == nil {
			return t, nil
		}
		if attempt == attemptsMax || !errors.Is(err, ledger.ErrChanged) && !errors.Is(err, ledger.ErrOverdrawn) {
			return nil, err
		}
	}
}

// errDone says that there is nothing to write.
var errDone = errors.New("nothing to write")
