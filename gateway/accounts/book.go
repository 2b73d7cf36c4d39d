package accounts

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/strictjson"
)

// Kinds of documents.
const (
	kindAccount = "account"
	kindKey     = "key"
)

// version is that of both documents' bodies.
const version = 1

const (
	// pollPeriod is how often the ledger is asked for changes: a revocation counts within a second.
	pollPeriod = time.Second / 2
	// pollTimeout bounds one such question; the next one asks for the same.
	pollTimeout = 10 * time.Second
	// putTries bounds how often a change is made again because somebody else made one to the same document.
	putTries = 10
)

// Book is all accounts and keys of a ledger. Its methods may be called concurrently.
type Book struct {
	cfg   Config
	store Store
	log   *slog.Logger
	now   func() time.Time
	ring  atomic.Pointer[map[[32]byte]entry] // replaced whole, so that a look-up takes no lock

	polling sync.Mutex       // held by the one that reads changes
	seen    map[string]int64 // version of the last document read of each kind; of polling

	mu       sync.Mutex // held for short
	accounts map[string]*Account
	keys     map[string]*Key
}

// entry is one text of a key that works.
type entry struct {
	key   *Key
	until int64 // Unix nanoseconds; 0: for good
}

// Open reads all accounts and keys.
func Open(ctx context.Context, c Config) (*Book, error) {
	b := &Book{
		cfg: c, store: c.Store, log: c.Log, now: c.Now,
		accounts: map[string]*Account{}, keys: map[string]*Key{}, seen: map[string]int64{},
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.now == nil {
		b.now = time.Now
	}
	b.ring.Store(&map[[32]byte]entry{})
	return b, b.refresh(ctx)
}

// Run sees what others change, and what keys with a budget spend at other gateways, until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	polls, budgets := time.NewTicker(pollPeriod), time.NewTicker(spendPeriod)
	defer polls.Stop()
	defer budgets.Stop()
	reading := make(chan struct{}, 1) // so that slow sums do not keep a revocation from counting
	var sums sync.WaitGroup
	defer sums.Wait()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-polls.C:
			err := b.refreshWithin(ctx)
			if err != nil && !failing && ctx.Err() == nil {
				b.log.Error("reading accounts and keys failed; the last ones stay", "err", err)
			} else if err == nil && failing {
				b.log.Info("accounts and keys can be read again")
			}
			failing = err != nil
		case <-budgets.C:
			select {
			case reading <- struct{}{}:
				sums.Go(func() { b.readSpending(ctx); <-reading })
			default:
			}
		}
	}
}

func (b *Book) refreshWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return b.refresh(ctx)
}

// Key finds a live key by the SHA-256 of its text; nil if there is none, or if it was revoked or has expired.
func (b *Book) Key(hash [32]byte) *Key {
	e, ok := (*b.ring.Load())[hash]
	if !ok || e.until != 0 && b.now().UnixNano() >= e.until {
		return nil
	}
	return e.key
}

// Account finds an account.
func (b *Book) Account(name string) (Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[name]; a != nil {
		return *a, nil
	}
	return Account{}, fmt.Errorf("%w: %.80q", ErrNoAccount, name)
}

// Accounts gives all accounts, by name.
func (b *Book) Accounts() []Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Account, 0, len(b.accounts))
	for _, a := range b.accounts {
		all = append(all, *a)
	}
	slices.SortFunc(all, func(a, c Account) int { return cmp.Compare(a.Name, c.Name) })
	return all
}

// Find gives a key by its ID, a dead one too.
func (b *Book) Find(id string) (*Key, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k := b.keys[id]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%w: %.40q", ErrNoKey, id)
}

// Keys gives the keys of an account, of all accounts if that is empty: oldest first, dead ones too.
func (b *Book) Keys(account string) []*Key {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []*Key
	for _, k := range b.keys {
		if account == "" || k.account == account {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, c *Key) int {
		return cmp.Or(a.Record().Created.Compare(c.Record().Created), cmp.Compare(a.ID, c.ID))
	})
	return all
}

// refresh takes over what has changed in the ledger.
func (b *Book) refresh(ctx context.Context) error {
	b.polling.Lock()
	defer b.polling.Unlock()
	var changed []ledger.Document
	for _, kind := range []string{kindAccount, kindKey} { // the ledger has documents of others, more than fit here
		err := b.store.DocumentsOf(ctx, kind, b.seen[kind], func(d ledger.Document) error {
			changed = append(changed, d)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(changed) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	touched := map[string]bool{} // accounts
	for _, d := range changed {
		b.seen[d.Kind] = d.Version
		switch d.Kind {
		case kindAccount:
			touched[d.ID] = true
			b.takeAccount(d)
		case kindKey:
			b.takeKey(d)
		}
	}
	for _, k := range b.keys {
		if touched[k.account] {
			k.apply(k.Record(), b.accounts[k.account], b.cfg.Limits)
		}
	}
	b.rebuild()
	return nil
}

// takeAccount takes over one account. One that can't be read is none, and its keys are dead.
func (b *Book) takeAccount(d ledger.Document) {
	delete(b.accounts, d.ID)
	if d.Body == nil {
		return
	}
	a, err := readAccount(d)
	if err != nil {
		b.log.Error("an account can't be read and counts as missing", "account", d.ID, "err", err)
		return
	}
	b.accounts[a.Name] = &a
}

// takeKey takes over one key. One that can't be read is none.
func (b *Book) takeKey(d ledger.Document) {
	if d.Body == nil {
		delete(b.keys, d.ID)
		return
	}
	r, err := readKey(d)
	if err != nil {
		b.log.Error("a key can't be read and counts as missing", "key", d.ID, "err", err)
		delete(b.keys, d.ID)
		return
	}
	k := b.keys[d.ID]
	if k == nil || k.account != r.Account {
		k = &Key{ID: r.ID, account: r.Account, now: b.now, sum: b.sum}
		b.keys[d.ID] = k
	}
	k.apply(&r, b.accounts[r.Account], b.cfg.Limits)
}

// rebuild makes the map of live keys.
func (b *Book) rebuild() {
	ring := make(map[[32]byte]entry, len(b.keys))
	for _, k := range b.keys {
		s := k.set.Load()
		if s.account == nil || !s.record.Revoked.IsZero() {
			continue
		}
		for _, h := range s.record.Hashes {
			var hash [32]byte
			_, _ = hex.Decode(hash[:], []byte(h.SHA256)) // readKey has looked
			ring[hash] = entry{k, earliest(h.Until, s.record.Expires)}
		}
	}
	b.ring.Store(&ring)
}

// earliest gives the first of two ends in Unix nanoseconds; 0 if there is none.
func earliest(a, b time.Time) int64 {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero() || !b.IsZero() && b.Before(a):
		return b.UnixNano()
	}
	return a.UnixNano()
}

func readAccount(d ledger.Document) (a Account, err error) {
	if err := strictjson.Decode(d.Body, &a); err != nil {
		return a, fmt.Errorf("reading the document: %w", err)
	}
	switch {
	case a.V != version:
		return a, fmt.Errorf("version %d of the document, want %d", a.V, version)
	case a.Name != d.ID:
		return a, errors.New("the document has another's name")
	}
	return a, errors.Join(a.Ledger().Check(), a.Limits.check())
}

func readKey(d ledger.Document) (r Record, err error) {
	if err := strictjson.Decode(d.Body, &r); err != nil {
		return r, fmt.Errorf("reading the document: %w", err)
	}
	switch {
	case r.V != version:
		return r, fmt.Errorf("version %d of the document, want %d", r.V, version)
	case r.ID != d.ID:
		return r, errors.New("the document has another's ID")
	case len(r.Hashes) == 0 || len(r.Hashes) > hashesMax:
		return r, fmt.Errorf("%d hashes, want 1 to %d", len(r.Hashes), hashesMax)
	}
	for _, h := range r.Hashes {
		if sum, err := hex.DecodeString(h.SHA256); err != nil || len(sum) != 32 {
			return r, errors.New("a hash is not 64 hex digits")
		}
	}
	return r, errors.Join(ledger.Account("customer:"+r.Account).Check(), r.Settings.Check())
}
