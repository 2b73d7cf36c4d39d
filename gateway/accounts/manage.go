package accounts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
	"cocoon/internal/secret"
)

// CreateAccount makes an account, with the Config's test money.
func (b *Book) CreateAccount(ctx context.Context, name string, l Limits) (Account, error) {
	a := Account{V: version, Name: name, Created: b.moment(), Limits: l}
	if err := errors.Join(a.Ledger().Check(), l.check()); err != nil {
		return Account{}, err
	}
	if _, err := b.store.Document(ctx, kindAccount, name); err == nil {
		return Account{}, fmt.Errorf("%w: %s", ErrExists, name)
	} else if !errors.Is(err, ledger.ErrNoDocument) {
		return Account{}, err
	}
	if b.cfg.TestMoney > 0 { // before the account, so that there is none without it
		err := b.grant(ctx, a, b.cfg.TestMoney, "a new account's")
		if err != nil && !errors.Is(err, ledger.ErrConflict) { // it has some already
			return Account{}, err
		}
	}
	if err := b.put(ctx, ledger.Document{Kind: kindAccount, ID: name}, a); errors.Is(err, ledger.ErrChanged) {
		return Account{}, fmt.Errorf("%w: %s", ErrExists, name)
	} else if err != nil {
		return Account{}, err
	}
	return a, b.refresh(ctx)
}

// SuspendAccount keeps an account's keys from asking, and tells whoever tries why.
func (b *Book) SuspendAccount(ctx context.Context, name, reason string) error {
	if reason == "" || !printable(reason, ReasonMax) {
		return fmt.Errorf("reason %w: want 1 to %d printable bytes", ErrInvalid, ReasonMax)
	}
	return b.changeAccount(ctx, name, func(a *Account) {
		a.Reason = reason
		if a.Suspended.IsZero() {
			a.Suspended = b.moment()
		}
	})
}

// ResumeAccount ends a suspension.
func (b *Book) ResumeAccount(ctx context.Context, name string) error {
	return b.changeAccount(ctx, name, func(a *Account) { a.Suspended, a.Reason = time.Time{}, "" })
}

// LimitAccount sets the limits of each of the account's keys that has none of its own.
func (b *Book) LimitAccount(ctx context.Context, name string, l Limits) error {
	if err := l.check(); err != nil {
		return err
	}
	return b.changeAccount(ctx, name, func(a *Account) { a.Limits = l })
}

// Grant gives an account test money, once for each id.
func (b *Book) Grant(ctx context.Context, name string, amount nanoton.Amount, id string) error {
	if err := b.need(ctx, name); err != nil {
		return err
	}
	a, err := b.Account(name)
	switch {
	case err != nil:
		return err
	case amount <= 0 || amount > amountMax:
		return fmt.Errorf("grant %w: %v, want more than 0 and at most %v", ErrInvalid, amount, amountMax)
	case id == "" || len(id) > NameMax || !ascii(id):
		return fmt.Errorf("id of a grant %w: want 1 to %d printable ASCII characters", ErrInvalid, NameMax)
	}
	return b.grant(ctx, a, amount, "by hand: "+id)
}

// grant posts test money. Its time is the account's, so that the same again is the same transfer.
func (b *Book) grant(ctx context.Context, a Account, amount nanoton.Amount, ref string) error {
	return b.store.Post(ctx, []ledger.Transfer{{
		ID:   sha256.Sum256([]byte("cocoon/test-money/v1\x00" + a.Name + "\x00" + ref)),
		Kind: "test-money", At: a.Created, Ref: ref,
		Legs: []ledger.Leg{{Account: "test", Amount: -amount}, {Account: a.Ledger(), Amount: amount}},
	}})
}

// CreateKey makes a key of an account. If it names no scope it has all but [ScopeWithdraw]. This is the only time that
// the text is there to see.
func (b *Book) CreateKey(ctx context.Context, account string, s Settings) (secret.Key, *Key, error) {
	if len(s.Scopes) == 0 {
		s.Scopes = []string{ScopeInference, ScopeAccount}
	}
	s.tidy()
	if err := s.Check(); err != nil {
		return secret.Key{}, nil, err
	}
	if err := b.need(ctx, account); err != nil {
		return secret.Key{}, nil, err
	}
	for range putTries {
		text, hash := newText()
		r := Record{V: version, ID: hash[:12], Account: account, Created: b.moment(), Hashes: []Hash{{SHA256: hash}}, Settings: s}
		err := b.put(ctx, ledger.Document{Kind: kindKey, ID: r.ID}, r)
		if errors.Is(err, ledger.ErrChanged) {
			continue // another key has this ID: a chance of 2^-48 for each
		}
		if err == nil {
			err = b.refresh(ctx)
		}
		if err != nil {
			return secret.Key{}, nil, err
		}
		k, err := b.Find(r.ID)
		return text, k, err
	}
	return secret.Key{}, nil, ErrBusy
}

// need finds an account that may be new. The default one is made when it is first needed.
func (b *Book) need(ctx context.Context, name string) error {
	if _, err := b.Account(name); err == nil {
		return nil
	}
	if err := b.refresh(ctx); err != nil {
		return err
	}
	_, err := b.Account(name)
	if err != nil && name == DefaultAccount {
		if _, err = b.CreateAccount(ctx, name, Limits{}); errors.Is(err, ErrExists) {
			err = b.refresh(ctx) // another one made it
		}
	}
	return err
}

// UpdateKey changes a key's settings; it counts for the next request.
func (b *Book) UpdateKey(ctx context.Context, id string, change func(*Settings) error) error {
	return b.changeKey(ctx, id, func(r *Record) error {
		if err := change(&r.Settings); err != nil {
			return err
		}
		r.tidy()
		return r.Settings.Check()
	})
}

// RotateKey gives a key a new text. Its old ones work for the grace, its budget and counts go on.
func (b *Book) RotateKey(ctx context.Context, id string, grace time.Duration) (secret.Key, error) {
	if grace < 0 || grace > GraceMax {
		return secret.Key{}, fmt.Errorf("grace %w: %v, want 0 to %v", ErrInvalid, grace, GraceMax)
	}
	text, hash := newText()
	err := b.changeKey(ctx, id, func(r *Record) error {
		if !r.Revoked.IsZero() {
			return fmt.Errorf("%w: %s was revoked", ErrNoKey, id)
		}
		now, end := b.moment(), b.moment().Add(grace)
		r.Hashes = slices.DeleteFunc(r.Hashes, func(h Hash) bool { return !h.Until.IsZero() && !now.Before(h.Until) })
		for i := range r.Hashes {
			if h := &r.Hashes[i]; h.Until.IsZero() || h.Until.After(end) {
				h.Until = end
			}
		}
		if grace == 0 {
			r.Hashes = nil
		}
		if len(r.Hashes) == hashesMax {
			return fmt.Errorf("rotation %w: %d older texts of this key still work", ErrInvalid, hashesMax)
		}
		r.Hashes = append(r.Hashes, Hash{SHA256: hash})
		return nil
	})
	if err != nil {
		return secret.Key{}, err
	}
	return text, nil
}

// RevokeKey ends a key for good; to revoke it again changes nothing.
func (b *Book) RevokeKey(ctx context.Context, id string) error {
	return b.changeKey(ctx, id, func(r *Record) error {
		if r.Revoked.IsZero() {
			r.Revoked = b.moment()
		}
		return nil
	})
}

func newText() (secret.Key, string) {
	text := secret.NewKey()
	hash := text.Hash()
	return text, hex.EncodeToString(hash[:])
}

// moment is now, as it is stored.
func (b *Book) moment() time.Time { return b.now().UTC().Truncate(time.Second) }

func (b *Book) changeAccount(ctx context.Context, name string, change func(*Account)) error {
	return b.change(ctx, kindAccount, name, func(d ledger.Document) (any, error) {
		a, err := readAccount(d)
		change(&a)
		return a, err
	})
}

func (b *Book) changeKey(ctx context.Context, id string, change func(*Record) error) error {
	return b.change(ctx, kindKey, id, func(d ledger.Document) (any, error) {
		r, err := readKey(d)
		if err == nil {
			err = change(&r)
		}
		return r, err
	})
}

// change replaces a document with what f makes of it, from the newest one, and makes that count here.
func (b *Book) change(ctx context.Context, kind, id string, f func(ledger.Document) (any, error)) error {
	for range putTries {
		d, err := b.store.Document(ctx, kind, id)
		switch {
		case errors.Is(err, ledger.ErrNoDocument) && kind == kindKey:
			return fmt.Errorf("%w: %.40q", ErrNoKey, id)
		case errors.Is(err, ledger.ErrNoDocument):
			return fmt.Errorf("%w: %.80q", ErrNoAccount, id)
		case err != nil:
			return err
		}
		body, err := f(d)
		if err != nil {
			return err
		}
		if err := b.put(ctx, d, body); errors.Is(err, ledger.ErrChanged) {
			continue
		} else if err != nil {
			return err
		}
		return b.refresh(ctx)
	}
	return ErrBusy
}

// put writes a document's new body.
func (b *Book) put(ctx context.Context, d ledger.Document, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	d.Body = text
	_, err = b.store.PutDocument(ctx, d)
	return err
}

func ascii(s string) bool {
	return printable(s, len(s)) && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c > '~' })
}
