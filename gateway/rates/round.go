package rates

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// round asks all sources and takes over what they say together.
func (f *Feed) round(ctx context.Context) {
	began := f.c.Now()
	var wg sync.WaitGroup
	for i := range f.sources {
		wg.Go(func() { f.askOne(ctx, i) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return // what did not answer was not given the time
	}
	now := f.c.Now()
	micro, kept := f.agree(now)
	ok := f.believe(micro, now, kept, began)
	if ok {
		ok = f.accept(ctx, micro, now, kept)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.good != ok {
		f.log.Info("the rate has a quorum, or has none any more", "quorum", ok, "quotes", len(kept))
	}
	if f.good = ok; ok {
		f.confirmed = now
	}
}

// askOne asks a source and notes what it says, or that it fails: its quote before counts until it is old.
func (f *Feed) askOne(ctx context.Context, i int) {
	s := f.sources[i]
	micro, err := f.ask(ctx, s)
	if err != nil && ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.failing[i]
	if err != nil {
		f.failing[i] = err.Error()
		if was == "" {
			f.log.Warn("a source of rates fails", "source", s.name, "error", err)
		}
		return
	}
	f.failing[i], f.quotes[i] = "", Quote{Source: s.name, MicroUSD: micro, At: f.c.Now().UTC()}
	if was != "" {
		f.log.Info("a source of rates is back", "source", s.name)
	}
}

// agree gives the median of the quotes that agree, and those, by price; nil if there is no quorum of them.
func (f *Feed) agree(now time.Time) (int64, []Quote) {
	var fresh []Quote
	f.mu.Lock()
	for _, q := range f.quotes {
		if age := now.Sub(q.At); q.MicroUSD != 0 && age <= f.c.MaxAge {
			fresh = append(fresh, q)
		}
	}
	f.mu.Unlock()
	return agree(fresh, f.c.Quorum)
}

func agree(quotes []Quote, quorum int) (int64, []Quote) {
	if len(quotes) < quorum {
		return 0, nil
	}
	quotes = slices.Clone(quotes)
	slices.SortStableFunc(quotes, func(a, b Quote) int { return cmp.Compare(a.MicroUSD, b.MicroUSD) })
	of := middle(quotes)
	quotes = slices.DeleteFunc(quotes, func(q Quote) bool { return apart(q.MicroUSD, of, apartPPT) })
	if len(quotes) < quorum {
		return 0, nil
	}
	return middle(quotes), quotes
}

// believe says whether the median of what was kept may be the rate now. One that jumps needs a round before it that said
// the same, and a quorum of quotes that are of this round.
func (f *Feed) believe(micro int64, now time.Time, kept []Quote, began time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.before
	if f.before = nil; kept == nil {
		return false
	}
	f.before = &median{micro, now}
	f.past = slices.DeleteFunc(f.past, func(m median) bool { return now.Sub(m.at) > jumpWithin })
	jumps := slices.ContainsFunc(f.past, func(m median) bool { return apart(micro, m.micro, jumpPPT) })
	if jumps && apart(micro, f.past[len(f.past)-1].micro, apartPPT) {
		anew := 0
		for _, q := range kept {
			if !q.At.Before(began) {
				anew++
			}
		}
		if before == nil || apart(micro, before.micro, apartPPT) || anew < f.c.Quorum {
			f.log.Warn("the rate jumps; it needs a second round", "micro_usd_per_ton", micro)
			return false
		}
	}
	f.past = append(f.past, median{micro, now})
	return true
}

// accept makes the median the rate, unless it is near the current one, and says whether it could be stored.
func (f *Feed) accept(ctx context.Context, micro int64, now time.Time, kept []Quote) bool {
	f.mu.Lock()
	is := f.rate
	f.mu.Unlock()
	if is != nil && !apart(micro, is.MicroUSD, movedPPT) && now.Sub(is.At) < renewAfter && !now.Before(is.At) {
		return true
	}
	r, body, err := newRate(micro, now, kept)
	if err == nil {
		err = f.save(ctx, r, body)
	}
	if err != nil {
		if ctx.Err() == nil {
			f.log.Error("storing a rate failed", "rate", micro, "error", err)
		}
		return false // nobody sees what could not be looked up later
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rate = r
	return true
}
