package collateral

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/attest"
)

// Limits on what is kept. A fleet of 100 machines with 8 GPUs has some 1500 items, 10 MB.
const (
	entriesMax  = 8192
	bytesMax    = 32 << 20
	dataMax     = 6 << 20 // one item: TDX collateral with a revocation list of intelCRLMax in hexadecimal
	troublesMax = 1024
)

// fetchMax is how long getting one item may take: Intel's has four parts.
const fetchMax = 20 * time.Second

// entry is what is known of one want. An entry is replaced, never changed, but for used.
type entry struct {
	want    want
	data    []byte // nil: wanted, and nobody was asked yet
	facts   *facts // nil with data
	fetched time.Time
	used    time.Time // last time that somebody wanted it; guarded by Store.mu
}

// valid tells whether the item can be handed out.
func (e *entry) valid(now time.Time) bool {
	return e.data != nil && !now.Before(e.facts.from) && now.Before(e.facts.until)
}

// cached returns the item that w asks for, if it is here and valid.
func (s *Store) cached(w *want, now time.Time) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[w.key()]
	if e == nil {
		return nil
	}
	e.used = now
	if !e.valid(now) {
		return nil
	}
	return e
}

// known tells what the cache has to say to an item from elsewhere: an error if it has seen a newer one.
func (s *Store) known(w *want, f *facts) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[w.key()]; e != nil && e.data != nil && f.older(e.facts) {
		return fmt.Errorf("older than the one fetched at %s", stamp(e.fetched))
	}
	return nil
}

// remind has Refresh get an item that a peer had stapled: what it says may change before it ends, and the peer would be
// the last to tell.
func (s *Store) remind(w *want, now time.Time) {
	if !w.renews() || s.askable(w) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := w.key()
	if s.entries[key] == nil && len(s.entries) < entriesMax {
		s.entries[key] = &entry{want: *w, used: now}
	}
}

// fetch gets an item from its service, or from whoever is just getting it.
func (s *Store) fetch(ctx context.Context, w *want, now time.Time) (*entry, error) {
	flight := s.flights.DoChan(w.key(), func() (any, error) {
		// It is for all who wait, so it doesn't end when the first of them goes.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchMax)
		defer cancel()
		return s.fetchOnce(ctx, w, now)
	})
	select {
	case r := <-flight:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*entry), nil
	case <-ctx.Done():
		return nil, &MissingError{Item: w.title(), Err: fmt.Errorf("waiting for %s: %w", s.service(w).name, ctx.Err())}
	}
}

// fetchOnce asks, unless the answer came while we waited for our turn, or it is too early after a failure.
func (s *Store) fetchOnce(ctx context.Context, w *want, now time.Time) (*entry, error) {
	if e := s.cached(w, now); e != nil && !e.due(now) {
		return e, nil
	}
	if err := s.askable(w); err != nil {
		return nil, &MissingError{Item: w.title(), Err: err}
	}
	if err := s.failing(w, now); err != nil {
		return nil, err
	}
	data, f, err := s.download(ctx, w, now)
	if err != nil {
		return nil, s.failed(w, now, err)
	}
	e := &entry{want: *w, data: data, facts: f, fetched: now, used: now}
	if err := s.put(e); err != nil {
		return nil, s.failed(w, now, s.service(w).refused(err))
	}
	return e, nil
}

// failing returns the last failure while it is too early to try again.
func (s *Store) failing(w *want, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.troubles[w.key()]; t != nil && t.blocked(now) {
		return t.missing()
	}
	return nil
}

// failed notes a failure, unless it is a service's whose outage is known.
func (s *Store) failed(w *want, now time.Time, err error) error {
	if down, ok := errors.AsType[*downError](err); ok {
		return &MissingError{Item: w.title(), Since: down.trouble.since, Retry: down.trouble.until, Err: err}
	}
	s.mu.Lock()
	key := w.key()
	t := s.troubles[key]
	if t == nil {
		if len(s.troubles) >= troublesMax { // of invented chips, most likely
			clear(s.troubles)
		}
		t = &trouble{want: w}
		s.troubles[key] = t
	}
	t.fail(now, err, 0)
	missing, first := t.missing(), t.n == 1
	s.mu.Unlock()
	if first {
		s.log.Warn("collateral is missing", "item", w.title(), "err", err)
	}
	return missing
}

func (t *trouble) missing() error {
	return &MissingError{Item: t.want.title(), Since: t.since, Retry: t.until, Err: t.err}
}

// put keeps an item, unless a newer one is known, and writes it to disk.
func (s *Store) put(e *entry) error {
	if len(e.data) > dataMax {
		return fmt.Errorf("an item of %d bytes, at most %d", len(e.data), dataMax)
	}
	if err := s.known(&e.want, e.facts); err != nil {
		return err
	}
	s.mu.Lock()
	gone := s.insert(e)
	trouble := s.troubles[e.want.key()]
	delete(s.troubles, e.want.key())
	s.mu.Unlock()
	if trouble != nil {
		s.log.Info("collateral is there again", "item", e.want.title(), "missing_since", trouble.since)
	}
	for _, old := range gone {
		s.removeFile(&old.want)
	}
	if err := s.writeFile(e); err != nil { // it serves from memory all the same
		s.log.Warn("collateral is not kept on disk", "item", e.want.title(), "err", err)
	}
	return nil
}

// insert puts an entry in its place; it returns those that had to go: least recently wanted first. Store.mu is held.
func (s *Store) insert(e *entry) (gone []*entry) {
	key := e.want.key()
	s.drop(key)
	for len(s.entries) >= entriesMax || s.size+int64(len(e.data)) > bytesMax {
		var oldest string
		for k, other := range s.entries {
			if oldest == "" || other.used.Before(s.entries[oldest].used) {
				oldest = k
			}
		}
		gone = append(gone, s.entries[oldest])
		s.drop(oldest)
	}
	s.entries[key] = e
	s.size += int64(len(e.data))
	return gone
}

// drop forgets an entry. Store.mu is held.
func (s *Store) drop(key string) {
	if e := s.entries[key]; e != nil {
		s.size -= int64(len(e.data))
		delete(s.entries, key)
	}
}

// item is the entry as collateral.
func (e *entry) item() attest.Item { return attest.Item{Kind: e.want.Kind, Data: e.data} }
