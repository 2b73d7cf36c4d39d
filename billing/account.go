package billing

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

const (
	// aheadFactor is how many times the recent demand (about two seconds of holds) an allotment is filled to; half of it
	// is where the refill begins.
	aheadFactor = 8
	demandMax   = math.MaxInt64 / 16
)

// errGone says that an account left memory meanwhile: look it up again.
var errGone = errors.New("billing: account left memory")

// account is what the Desk knows of a customer's account.
type account struct {
	name   ledger.Account
	source ledger.Account // what settlements are posted from: the account, or this gateway's allotment of it

	mu       sync.Mutex     // guards what follows; held for arithmetic only
	base     nanoton.Amount // what the ledger says source has, if known; changed only by who has Desk.sql
	held     nanoton.Amount // by open requests
	unposted nanoton.Amount // settled, not in the ledger yet
	leaving  nanoton.Amount // by a withdrawal that is under way
	unsure   nanoton.Amount // by withdrawals whose outcome is not known, until sureAt
	known    bool
	gone     bool           // not in the map any more
	drained  bool           // the customer had no more when an allotment was last asked for
	asks     uint64         // questions to the ledger that have begun
	demand   nanoton.Amount // recent holds, halved every tick
	filling  bool           // a refill is on its way
	touched  bool           // by a hold, since used was set
	used     time.Time      // by a hold: see usedUntil
	checked  time.Time      // when base was read
	credited bool           // money came in since base was read
	sureAt   time.Time      // when it is in the ledger what became of them

	// Owned by the poster: what is settled, on its way into a batch, and how many of it there will be.
	queue   []*request
	waiting int
}

// accountParts are the locks of the accounts in memory: many more than cores.
const accountParts = 16

// accounts are those in memory, by name.
type accounts struct {
	seed maphash.Seed
	part [accountParts]struct {
		mu sync.RWMutex
		by map[ledger.Account]*account // guarded by mu
	}
}

func newAccounts() *accounts {
	as := &accounts{seed: maphash.MakeSeed()}
	for i := range as.part {
		as.part[i].by = map[ledger.Account]*account{}
	}
	return as
}

// load returns an account that is in memory, or nil.
func (as *accounts) load(name ledger.Account) *account {
	p := &as.part[maphash.String(as.seed, string(name))%accountParts]
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.by[name]
}

// add puts an account into memory, unless one of its name is there, and returns the one that is.
func (as *accounts) add(a *account) *account {
	p := &as.part[maphash.String(as.seed, string(a.name))%accountParts]
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.by[a.name]; was != nil {
		return was
	}
	p.by[a.name] = a
	return a
}

// remove takes an account out of memory.
func (as *accounts) remove(name ledger.Account) {
	p := &as.part[maphash.String(as.seed, string(name))%accountParts]
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.by, name)
}

// all gives the accounts in memory. What comes or goes meanwhile may be among them or not.
func (as *accounts) all(yield func(*account) bool) {
	for i := range as.part {
		p := &as.part[i]
		p.mu.RLock()
		some := slices.Collect(maps.Values(p.by))
		p.mu.RUnlock()
		for _, a := range some {
			if !yield(a) {
				return
			}
		}
	}
}

// free is what can be held. The lock is held.
func (a *account) free() nanoton.Amount {
	return minus(minus(minus(a.base, a.held), a.unposted), a.leaving+a.unsure)
}

// ahead is what an allotment should have free. The lock is held.
func (a *account) ahead() nanoton.Amount { return min(a.demand, demandMax/aheadFactor) * aheadFactor }

// unhold ends a hold, of which cost was settled.
func (a *account) unhold(ceiling, cost nanoton.Amount) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held -= ceiling
	a.unposted += cost
}

// account returns an account that is in memory, or puts it there.
func (d *Desk) account(name ledger.Account) *account {
	if a := d.accounts.load(name); a != nil {
		return a
	}
	return d.accounts.add(&account{name: name, source: source(d.c.Gateway, name), used: time.Now()})
}

// source is what a gateway posts a customer's settlements from.
func source(gateway string, customer ledger.Account) ledger.Account {
	if gateway == "" {
		return customer
	}
	return ledger.Account("allotment:" + gateway + ":" + strings.TrimPrefix(string(customer), "customer:"))
}

// customer is whose settlements are posted from an account; empty if none are.
func customer(source ledger.Account) ledger.Account {
	kind, name, _ := strings.Cut(string(source), ":")
	switch kind {
	case "customer":
		return source
	case "allotment":
		_, name, _ = strings.Cut(name, ":")
		return ledger.Account("customer:" + name)
	}
	return ""
}

// usedUntil is when something was held of the account, or a moment later. Holds do not look at the clock for it: who
// asks does. The lock is held.
func (a *account) usedUntil() time.Time {
	if a.touched {
		a.touched, a.used = false, time.Now()
	}
	return a.used
}

// reserve holds money of an account: of the one in memory, or nil if it is not known there. It returns the one that it is.
func (d *Desk) reserve(ctx context.Context, a *account, h *Hold) (*account, error) {
	for ; ; a = nil {
		if a == nil {
			a = d.account(h.Account)
		}
		a.mu.Lock()
		a.touched = true
		a.demand = min(a.demand, demandMax) + min(h.Ceiling, demandMax)
		ok, asks := d.take(a, h.Ceiling), a.asks
		low := ok && d.c.Gateway != "" && !a.filling && !a.drained && a.free() < a.ahead()/2
		a.filling = a.filling || low
		a.mu.Unlock()
		if low {
			d.refill(a)
		}
		if ok {
			return a, nil
		}
		if err := d.ask(ctx, a, h.Ceiling, asks); !errors.Is(err, errGone) {
			return a, err
		}
	}
}

// take holds an amount if it is surely there. The account's lock is held.
func (d *Desk) take(a *account, amount nanoton.Amount) bool {
	if a.gone || !a.known || a.free() < amount || d.lapsed() {
		return false
	}
	a.held += amount
	return true
}

// refill asks the keeper to fill an allotment; if it has too much to do, the next hold tries again.
func (d *Desk) refill(a *account) {
	select {
	case d.refills <- a:
	default:
		a.mu.Lock()
		a.filling = false
		a.mu.Unlock()
	}
}

// ask holds an amount that does not seem to be there, after it asked the ledger. Requests that wait together share one
// answer, if its question began after they came: asks is what the account had counted then.
func (d *Desk) ask(ctx context.Context, a *account, amount nanoton.Amount, asks uint64) error {
	if err := d.acquire(ctx); err != nil {
		return err
	}
	defer d.release()
	for range 10 { // others take from what arrives: again, while the customer has more
		a.mu.Lock()
		isGone, took := a.gone, d.take(a, amount)
		answered := a.known && a.asks != asks && (d.c.Gateway == "" || a.drained) && !d.lapsed()
		a.mu.Unlock()
		if isGone {
			return errGone
		}
		if took {
			return nil
		}
		if answered {
			return d.short(ctx, a, amount)
		}
		if err := d.refresh(ctx, a, amount); err != nil {
			return unavailable(ctx, err)
		}
	}
	return fmt.Errorf("%w: too many requests want the money of %s", ErrUnavailable, a.name)
}

// acquire waits for the right to talk to the ledger about balances, askMax at most.
func (d *Desk) acquire(ctx context.Context) error {
	select {
	case <-d.sql:
		return nil
	default:
	}
	timer := time.NewTimer(askMax)
	defer timer.Stop()
	select {
	case <-d.sql:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: it has not answered for %v", ErrUnavailable, askMax)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *Desk) release() { d.sql <- struct{}{} }

// unavailable is the error of a question to the ledger that failed; the caller's own end is no fault of the ledger.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// refresh reads the balance of an account; with allotments it also asks for what amount lacks and some ahead. The
// caller has sql.
func (d *Desk) refresh(ctx context.Context, a *account, amount nanoton.Amount) error {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	if d.c.Gateway != "" && d.lapsed() {
		d.forgetBalances()
	}
	a.mu.Lock()
	a.asks++
	credited := a.credited
	a.credited = false // if it is set meanwhile it stays
	before := a.base
	want := max(0, minus(amount, a.free()), minus(a.ahead(), a.free()))
	a.mu.Unlock()
	began := time.Now()
	base, err := d.fetch(ctx, a, want)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.credited = a.credited || credited
		return err
	}
	a.base, a.known, a.checked = base, true, began
	a.drained = minus(base, before) < want
	return nil
}

// fetch asks the ledger.
func (d *Desk) fetch(ctx context.Context, a *account, want nanoton.Amount) (nanoton.Amount, error) {
	if d.c.Gateway == "" {
		return d.c.Ledger.Balance(ctx, a.source)
	}
	lease := time.Since(d.start) + d.c.Lease
	var id ledger.ID
	_, _ = rand.Read(id[:]) // never fails
	base, err := d.c.Ledger.Allot(ctx, ledger.Allotment{
		ID: id, Gateway: d.c.Gateway, Customer: a.name, Want: want, Until: time.Now().Add(d.c.Lease),
	})
	if err == nil {
		d.renewed(lease)
	}
	return base, err
}

// short says why an account that was just asked for lacks an amount, or holds it after all. The caller has sql.
func (d *Desk) short(ctx context.Context, a *account, amount nanoton.Amount) error {
	if d.uncertain { // what failed to post may be counted twice
		return fmt.Errorf("%w: the last post failed", ErrUnavailable)
	}
	if a.limbo() {
		return fmt.Errorf("%w: whether a withdrawal took place is not known", ErrUnavailable)
	}
	e := &FundsError{Account: a.name, Needed: amount}
	if d.c.Gateway != "" {
		asking, cancel := context.WithTimeout(ctx, askMax)
		defer cancel()
		all, err := d.c.Ledger.Allotted(asking, a.name)
		if err != nil {
			return unavailable(ctx, err)
		}
		delete(all, a.source)
		for _, balance := range all {
			e.Elsewhere += balance
		}
	}
	if d.takeAfterAll(a, e) {
		return nil
	}
	if errors.Is(e, ErrElsewhere) {
		// It is too little here, and may be too little everywhere: back with it, so that who asks next has all of it.
		if err := d.giveBackOne(ctx, a, 0); err != nil {
			d.log.Warn("releasing an allotment failed", "account", string(a.name), "error", err)
		}
	}
	return e
}

// takeAfterAll tells whether the account has the amount after all, and holds it then; else it completes the error.
func (d *Desk) takeAfterAll(a *account, e *FundsError) (took bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d.take(a, e.Needed) { // something was freed meanwhile
		return true
	}
	e.Balance, e.Held = a.base-a.unposted, a.held
	return false
}

// lapsed says whether this gateway's allotments may have been taken back.
func (d *Desk) lapsed() bool {
	return d.c.Gateway != "" && time.Since(d.start) >= time.Duration(d.lease.Load())
}

// renewed notes a lease that is good until end, counted from start.
func (d *Desk) renewed(end time.Duration) {
	for was := d.lease.Load(); int64(end) > was; was = d.lease.Load() {
		if d.lease.CompareAndSwap(was, int64(end)) {
			return
		}
	}
}

// forgetBalances makes every account ask again. The caller has sql.
func (d *Desk) forgetBalances() {
	for a := range d.accounts.all {
		a.forget()
	}
}

// forget makes the account ask again. The caller has sql.
func (a *account) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.base, a.known = 0, false
}

// minus subtracts and stops at the ends of the range.
func minus(a, b nanoton.Amount) nanoton.Amount {
	c := a - b
	switch {
	case b > 0 && c > a:
		return math.MinInt64
	case b < 0 && c < a:
		return math.MaxInt64
	}
	return c
}
