package collateral

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/attest"
)

// When an item is renewed.
const (
	// checkEvery is how old what the vendor may change his mind about gets: AMD's lists live a year, Intel's collateral a
	// month, and a TCB recovery should be known the next day.
	checkEvery = 24 * time.Hour
	// renewMin keeps us from asking all the time for what is near its end because the vendor has no newer one.
	renewMin = time.Hour
	// idleMax is how long an item is renewed that nobody wants.
	idleMax = 7 * 24 * time.Hour
	// refreshEvery is how often Run looks: failures are tried again after backoffMin at the earliest.
	refreshEvery  = time.Minute
	refreshAtOnce = 8
)

// due tells whether the item is to be renewed: past two thirds of what it had to live when it was fetched, or earlier
// if it is of a kind that changes.
func (e *entry) due(now time.Time) bool {
	if e.data == nil {
		return true
	}
	age := e.facts.until.Sub(e.fetched) / 3 * 2
	if e.want.renews() {
		age = min(age, checkEvery)
	}
	return !now.Before(e.fetched.Add(max(age, renewMin))) || !now.Before(e.facts.until)
}

// idle tells whether nobody has wanted the entry for long.
func (e *entry) idle(now time.Time) bool { return now.Sub(e.used) >= idleMax }

// Refresh renews what is due: long before it ends, so that a service may be out for a while. What nobody has wanted for
// a week is left to end. It returns the failures, joined; the old items stay as good as they are.
func (s *Store) Refresh(ctx context.Context, now time.Time) error {
	var mu sync.Mutex
	var errs []error
	var group errgroup.Group
	group.SetLimit(refreshAtOnce)
	for _, w := range s.dueNow(now) {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if _, err := s.fetch(ctx, w, now); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	return errors.Join(append(errs, ctx.Err())...)
}

// dueNow returns what is to be fetched, and forgets what has ended and isn't wanted. Collateral of TDX stays: there it
// matters most that nothing older comes back, and models of platforms are few.
func (s *Store) dueNow(now time.Time) []*want {
	s.mu.Lock()
	var due []*want
	var gone []*entry
	for key, e := range s.entries {
		switch {
		case !e.idle(now):
			if e.due(now) {
				due = append(due, &e.want)
			}
		case e.data == nil || !now.Before(e.facts.until) && e.want.Kind != attest.TDXCollateral:
			gone = append(gone, e)
			s.drop(key)
		}
	}
	s.mu.Unlock()
	for _, e := range gone {
		s.removeFile(&e.want)
	}
	return due
}

// Run refreshes until ctx ends. Failures are logged when they begin and when they end.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		_ = s.Refresh(ctx, time.Now()) // logged, and in Status
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Status is what there is to know of one item.
type Status struct {
	Kind    attest.Kind
	Name    string // for people
	Fetched time.Time
	Expires time.Time // zero: it isn't there
	// Err is why it couldn't be fetched or renewed, since when, and Retry when that is tried again. Nil: all is well.
	Err          error
	Since, Retry time.Time
}

// Status lists what is kept, and what was wanted and is missing, by name. What has ended is missing.
func (s *Store) Status(now time.Time) []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]Status{}
	for key, e := range s.entries {
		st := Status{Kind: e.want.Kind, Name: e.want.title(), Fetched: e.fetched}
		if e.valid(now) {
			st.Expires = e.facts.until
		}
		all[key] = st
	}
	for key, t := range s.troubles {
		st, ok := all[key]
		if !ok {
			st = Status{Kind: t.want.Kind, Name: t.want.title()}
		}
		st.Err, st.Since, st.Retry = t.err, t.since, t.until
		all[key] = st
	}
	list := slices.Collect(maps.Values(all))
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return list
}
