package accounts

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// Key is an API key at work. It stays the same object while its settings change, so that its counts go on.
type Key struct {
	ID string // 12 hex digits: names the key, is of no use to anybody

	account string
	now     func() time.Time
	sum     func(ctx context.Context, q ledger.UsageQuery) (nanoton.Amount, error) // asks the ledger
	set     atomic.Pointer[settings]
	running atomic.Int64
	budget  budget
}

// settings is what holds for a key at a time. It is replaced, never changed, but for the limiters' counts.
type settings struct {
	record     *Record
	account    *Account // nil: there is none
	limits     Limits   // the key's, its account's or the gateway's
	requests   *rate.Limiter
	tokens     *rate.Limiter
	ledgerName ledger.Account
	provider   atomic.Pointer[any] // what ProviderOf made of the record's
	kept       atomic.Pointer[any] // what KeptOf made of the account
}

// apply makes a record and its account count.
func (k *Key) apply(r *Record, a *Account, d Limits) {
	s := &settings{record: r, account: a, limits: r.Limits, ledgerName: ledger.Account("customer:" + r.Account)}
	if a != nil {
		s.limits = s.limits.or(a.Limits)
	}
	s.limits = s.limits.or(d)
	old := k.set.Load()
	if old == nil {
		old = &settings{}
	}
	now := k.now()
	s.requests = limiter(old.requests, s.limits.RequestsPerMinute, now)
	s.tokens = limiter(old.tokens, s.limits.TokensPerMinute, now)
	k.set.Store(s)
	k.budget.change(r.Budget, r.Reset)
}

// limiter lets so many a minute pass, all of them at once if there were none for a minute; nil if any number may.
func limiter(old *rate.Limiter, perMinute int64, now time.Time) *rate.Limiter {
	if perMinute == 0 {
		return nil
	}
	limit := rate.Limit(float64(perMinute) / 60)
	switch {
	case old == nil:
		return rate.NewLimiter(limit, int(perMinute))
	case old.Burst() != int(perMinute):
		old.SetLimitAt(now, limit)
		old.SetBurstAt(now, int(perMinute))
	}
	return old
}

// Account is whose money the key spends.
func (k *Key) Account() ledger.Account { return k.set.Load().ledgerName }

// Record is what is stored of the key. It is not to be changed.
func (k *Key) Record() *Record { return k.set.Load().record }

// Limits gives the limits that count: the key's own, or else its account's, or else the gateway's.
func (k *Key) Limits() Limits { return k.set.Load().limits }

// Running is how many requests run now.
func (k *Key) Running() int64 { return k.running.Load() }

// Can says whether the key has a scope.
func (k *Key) Can(scope string) bool { return slices.Contains(k.set.Load().record.Scopes, scope) }

// Allows says whether the key may ask this model.
func (k *Key) Allows(model string) bool {
	patterns := k.set.Load().record.Models
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return matches(p, model) })
}

// matches compares a name with a pattern, in which "*" stands for any characters or none.
func matches(pattern, name string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	name, ok := strings.CutPrefix(name, first)
	for ok && star {
		var part string
		part, rest, star = strings.Cut(rest, "*")
		if !star { // the last part is at the end
			return strings.HasSuffix(name, part)
		}
		_, name, ok = strings.Cut(name, part)
	}
	return false
}

// Cap gives the most that the key pays for a million tokens, as Pays sees it: of the prompt, of what is cached of it, and
// of the answer. One below zero is no bound.
func (k *Key) Cap() (in, cached, out nanoton.Amount) {
	bound := func(a nanoton.Amount) nanoton.Amount {
		if a == 0 {
			return -1
		}
		return a
	}
	c := k.set.Load().record.Cap
	return bound(c.In), bound(c.In), bound(c.Out)
}

// ProviderOf gives what read makes of a key's default wishes, nil if it has none. The text is read once each time that the
// key changes, or another T is asked for, so that a request costs no reading. It is not to be changed.
func ProviderOf[T any](k *Key, read func(provider json.RawMessage) T) *T {
	s := k.set.Load()
	if len(s.record.Provider) == 0 {
		return nil
	}
	if p := s.provider.Load(); p != nil {
		if t, ok := (*p).(*T); ok {
			return t
		}
	}
	t := new(read(s.record.Provider))
	s.provider.Store(new(any(t)))
	return t
}

// KeptOf gives what f makes of the name of the key's account. It is made once each time that the key changes, or another T is
// asked for. It is not to be changed.
func KeptOf[T any](k *Key, f func(account ledger.Account) T) *T {
	s := k.set.Load()
	if p := s.kept.Load(); p != nil {
		if t, ok := (*p).(*T); ok {
			return t
		}
	}
	t := new(f(s.ledgerName))
	s.kept.Store(new(any(t)))
	return t
}

// What a Denial is about.
const (
	DenySuspended  = "suspended"  // the account; Reason says why
	DenyConcurrent = "concurrent" // requests running
	DenyRequests   = "requests"   // a minute
	DenyTokens     = "tokens"     // a minute
)

// Denial says why a key may not ask now.
type Denial struct {
	What   string
	Limit  int64         // that is reached
	Wait   time.Duration // when it would pass; 0 of a suspended account
	Reason string        // of the suspension
}

// Error says it to the customer.
func (d *Denial) Error() string {
	switch {
	case d.What == DenySuspended:
		return "this account is suspended: " + d.Reason
	case d.What == DenyConcurrent:
		return fmt.Sprintf("this key has %d requests running, which is its limit; wait for one to end", d.Limit)
	case d.What == DenyTokens:
		return fmt.Sprintf("this key's limit of %d tokens a minute is reached; try again in %s", d.Limit, d.Wait)
	}
	return fmt.Sprintf("this key's limit of %d requests a minute is reached; try again in %s", d.Limit, d.Wait)
}

// Enter counts a request that may take so many tokens; nil if it may go on, and Leave must be called then. One that is
// denied counts for nothing.
//
// The tokens are a guess. A request that may take more than a minute's worth waits for a whole minute's worth, and Used
// charges the rest: a guess that is too high must not keep it out for good.
func (k *Key) Enter(now time.Time, tokens int64) *Denial {
	s := k.set.Load()
	if a := s.account; a != nil && !a.Suspended.IsZero() {
		return &Denial{What: DenySuspended, Reason: a.Reason}
	}
	n := k.running.Add(1)
	d := s.enter(now, n, tokens)
	if d != nil {
		k.running.Add(-1)
	}
	return d
}

// enter charges the nth of the requests that run.
func (s *settings) enter(now time.Time, n, tokens int64) *Denial {
	if most := s.limits.Concurrent; most > 0 && n > most {
		return &Denial{What: DenyConcurrent, Limit: most, Wait: time.Second}
	}
	if s.requests != nil && !s.requests.AllowN(now, 1) {
		return &Denial{What: DenyRequests, Limit: s.limits.RequestsPerMinute, Wait: until(s.requests, now, 1)}
	}
	if s.tokens == nil {
		return nil
	}
	tokens = min(max(tokens, 0), s.limits.TokensPerMinute)
	if s.tokens.AllowN(now, int(tokens)) {
		return nil
	}
	if s.requests != nil {
		s.requests.ReserveN(now, -1) // gives it back
	}
	return &Denial{What: DenyTokens, Limit: s.limits.TokensPerMinute, Wait: until(s.tokens, now, tokens)}
}

// Leave ends a request that Enter let pass.
func (k *Key) Leave() { k.running.Add(-1) }

// debtMax bounds what one request may take of a key's tokens in advance, in minutes' worths: it should not lock the key
// for longer.
const debtMax = 10

// Used corrects what Enter charged for a request once its tokens are known.
func (k *Key) Used(tokens, estimate int64) {
	s := k.set.Load()
	if s.tokens == nil {
		return
	}
	most := s.limits.TokensPerMinute
	more, now := tokens-min(max(estimate, 0), most), k.now()
	for more = min(more, debtMax*most); more != 0; more -= min(more, most) { // no more than its burst at a time
		s.tokens.ReserveN(now, int(min(more, most))) // below zero it gives back
	}
}

// until is when a limiter will let n more pass, in whole milliseconds, rounded up.
func until(l *rate.Limiter, now time.Time, n int64) time.Duration {
	lack := float64(n) - l.TokensAt(now)
	if lack <= 0 {
		return 0
	}
	ms := math.Ceil(lack / float64(l.Limit()) * 1000)
	return time.Duration(ms) * time.Millisecond
}

// Headers sets OpenAI's rate limit headers, for the limits that there are.
func (k *Key) Headers(h http.Header, now time.Time) {
	s := k.set.Load()
	if s.requests != nil {
		h["X-Ratelimit-Limit-Requests"] = []string{strconv.FormatInt(s.limits.RequestsPerMinute, 10)}
		h["X-Ratelimit-Remaining-Requests"] = []string{remaining(s.requests, now)}
		h["X-Ratelimit-Reset-Requests"] = []string{until(s.requests, now, s.limits.RequestsPerMinute).String()}
	}
	if s.tokens != nil {
		h["X-Ratelimit-Limit-Tokens"] = []string{strconv.FormatInt(s.limits.TokensPerMinute, 10)}
		h["X-Ratelimit-Remaining-Tokens"] = []string{remaining(s.tokens, now)}
		h["X-Ratelimit-Reset-Tokens"] = []string{until(s.tokens, now, s.limits.TokensPerMinute).String()}
	}
}

func remaining(l *rate.Limiter, now time.Time) string {
	return strconv.FormatInt(int64(max(l.TokensAt(now), 0)), 10)
}
