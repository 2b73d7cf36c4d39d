package clerk

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"cocoon/billing/tally"
	"cocoon/internal/receipt"
)

// attempts is how many attempts a request can have: they differ in the last digit of their names.
const attempts = "0123456789abcdef"

// Receipt is a receipt as 'cocoon receipts verify' reads it, with the worker's keyset and the proof that it is in the
// log. Its name is its ID or its request's, which for the first attempt stands for the attempt that was paid. The error
// is ErrAbsent if there is none.
func (c *Clerk) Receipt(name string) ([]byte, error) {
	r, err := c.find(name)
	if errors.Is(err, ErrAbsent) && c.pipe.flush(context.Background()) { // the answer was faster than the disk
		r, err = c.find(name)
	}
	if err != nil {
		return nil, err
	}
	proof, err := c.c.Log.Prove(r.ID())
	if err != nil {
		return nil, err
	}
	item := receipt.Item{Signed: r, Proof: proof.Append(nil)}
	if item.Keyset, err = c.keysets.text(r.Keyset); err != nil && !errors.Is(err, ErrKeyset) {
		return nil, err
	}
	return item.Append(nil), nil
}

// Evidence is the evidence that proved a worker's keyset, as 'cocoon receipts verify --evidence' reads it. The error is
// ErrAbsent if the keyset was not attested here, or is forgotten.
func (c *Clerk) Evidence(keyset receipt.Digest) ([]byte, error) {
	text, err := c.keysets.document(keyset)
	if errors.Is(err, ErrKeyset) {
		err = fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return text, err
}

func (c *Clerk) find(name string) (*receipt.Signed, error) {
	if id, err := receipt.ParseDigest(name); err == nil {
		return c.at(c.c.Log.Find(id))
	}
	if _, err := RequestID(name); err != nil {
		return nil, fmt.Errorf("%w: %q is no receipt's name, and no request's", ErrAbsent, name[:min(len(name), 80)])
	}
	first, err := c.at(c.c.Log.FindRequest(name))
	stem, ok := strings.CutSuffix(name, attempts[:1])
	if !ok || err == nil && first.Status != receipt.Error || err != nil && !errors.Is(err, ErrAbsent) {
		return first, err
	}
	for _, digit := range attempts[1:] {
		r, failed := c.at(c.c.Log.FindRequest(stem + string(digit)))
		switch {
		case failed == nil && (first == nil || r.Status != receipt.Error):
			first, err = r, nil
		case failed != nil && !errors.Is(failed, ErrAbsent):
			return nil, failed
		}
	}
	return first, err
}

// at is the receipt at an index that was looked for.
func (c *Clerk) at(index int64, err error) (*receipt.Signed, error) {
	if errors.Is(err, tally.ErrAbsent) {
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if err != nil {
		return nil, err
	}
	return c.c.Log.Get(index)
}
