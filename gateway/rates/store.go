package rates

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/strictjson"
)

// kind is that of the rates' documents.
const kind = "rate"

// stored is a rate in the store, as far as it is needed to delete it.
type stored struct {
	id      string
	version int64
	at      time.Time
}

// load reads what rates are stored, and goes on with the newest if it is not too old.
func (f *Feed) load(ctx context.Context) error {
	now := f.c.Now()
	return f.c.Store.DocumentsOf(ctx, kind, 0, func(d ledger.Document) error {
		if d.Body == nil {
			return nil
		}
		r, err := parse(d)
		if err != nil { // by a newer program, perhaps
			f.log.Warn("a stored rate is not read", "error", err)
			return nil
		}
		f.stored = append(f.stored, stored{d.ID, d.Version, r.At})
		if now.Before(r.At) || now.Sub(r.At) > max(f.c.Keep, jumpWithin) {
			return nil
		}
		if f.rate == nil || !r.At.Before(f.rate.At) {
			f.rate, f.confirmed = r, r.At
		}
		f.past = append(f.past, median{r.MicroUSD, r.At})
		return nil
	})
}

// parse reads a stored rate.
func parse(d ledger.Document) (*Rate, error) {
	var r record
	if err := strictjson.Decode(d.Body, &r); err != nil {
		return nil, fmt.Errorf("rate %s: %w", d.ID, err)
	}
	if r.V != version || r.MicroUSD < microMin || r.MicroUSD > microMax {
		return nil, fmt.Errorf("rate %s is of version %d, with %d microUSD per TON", d.ID, r.V, r.MicroUSD)
	}
	return &Rate{ID: d.ID, MicroUSD: r.MicroUSD, At: r.At, Sources: r.Sources}, nil
}

// save stores a rate. That it is there already is as good: its ID comes from its content.
func (f *Feed) save(ctx context.Context, r *Rate, body []byte) error {
	if f.c.Store == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchMax)
	defer cancel()
	version, err := f.c.Store.PutDocument(ctx, ledger.Document{Kind: kind, ID: r.ID, Body: body})
	if errors.Is(err, ledger.ErrChanged) {
		return nil
	}
	if err != nil {
		return err
	}
	f.stored = append(f.stored, stored{r.ID, version, r.At})
	return nil
}

// prune deletes some rates that are older than Config.Retain. Others on the same store may do the same.
func (f *Feed) prune(ctx context.Context) error {
	until := f.c.Now().Add(-f.c.Retain)
	for range pruneMax {
		if len(f.stored) == 0 || !f.stored[0].at.Before(until) {
			return nil
		}
		old := f.stored[0]
		_, err := f.c.Store.PutDocument(ctx, ledger.Document{Kind: kind, ID: old.id, Version: old.version})
		if err != nil && !errors.Is(err, ledger.ErrChanged) {
			return err
		}
		f.stored = f.stored[1:]
	}
	return nil
}

// Rate gives a rate by its ID, as it was, or [ErrNoRate].
func (f *Feed) Rate(ctx context.Context, id string) (Rate, error) {
	if f.c.Store == nil {
		return Rate{}, fmt.Errorf("%w: %.80q", ErrNoRate, id)
	}
	d, err := f.c.Store.Document(ctx, kind, id)
	if errors.Is(err, ledger.ErrNoDocument) {
		return Rate{}, fmt.Errorf("%w: %.80q", ErrNoRate, id)
	}
	if err != nil {
		return Rate{}, err
	}
	r, err := parse(d)
	if err != nil {
		return Rate{}, err
	}
	return *r, nil
}
