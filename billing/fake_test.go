package billing

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

var errDown = errors.New("database is down")

// fake is a ledger in memory, with faults.
type fake struct {
	mu       sync.Mutex
	balances map[ledger.Account]nanoton.Amount
	done     map[ledger.ID]ledger.Transfer
	used     map[ledger.UsageLine]ledger.UsageLine // by itself without its numbers
	dead     map[string]bool                       // gateways whose allotments were taken back
	calls    int                                   // of anything that requests may wait for
	posts    int

	down      bool // everything fails
	persisted bool // the next Post fails but persists
	slow      time.Duration
}

func newFake() *fake {
	return &fake{
		balances: map[ledger.Account]nanoton.Amount{}, used: map[ledger.UsageLine]ledger.UsageLine{},
		done: map[ledger.ID]ledger.Transfer{}, dead: map[string]bool{},
	}
}

func (f *fake) enter() (func(), error) {
	f.mu.Lock()
	slow, down := f.slow, f.down
	f.mu.Unlock()
	time.Sleep(slow)
	f.mu.Lock()
	if down {
		f.mu.Unlock()
		return nil, errDown
	}
	return f.mu.Unlock, nil
}

func mayOwe(a ledger.Account) bool { return !strings.Contains(string(a), ":") }

func (f *fake) move(from, to ledger.Account, n nanoton.Amount) {
	f.balances[from] -= n
	f.balances[to] += n
}

func (f *fake) Post(_ context.Context, transfers []ledger.Transfer) error {
	leave, err := f.enter()
	if err != nil {
		return err
	}
	defer leave()
	f.posts++
	was, wasDone := maps.Clone(f.balances), maps.Clone(f.done)
	var used []ledger.UsageLine
	for _, t := range transfers {
		err := t.Check()
		if old, ok := f.done[t.ID]; ok && err == nil {
			if old.Ref != t.Ref || !old.At.Equal(t.At) || !slices.Equal(old.Legs, t.Legs) {
				err = &ledger.Refusal{Reason: ledger.ErrConflict, ID: t.ID}
			} else {
				continue
			}
		}
		for _, leg := range t.Legs {
			if f.balances[leg.Account] += leg.Amount; err == nil && f.balances[leg.Account] < 0 && !mayOwe(leg.Account) {
				err = &ledger.Refusal{Reason: ledger.ErrOverdrawn, ID: t.ID, Account: leg.Account}
			}
		}
		f.done[t.ID] = t
		used = append(used, t.Usage...)
		if err != nil {
			f.balances, f.done = was, wasDone
			return err
		}
	}
	for _, u := range used {
		count(f.used, u)
	}
	if f.persisted {
		f.persisted = false
		return errDown
	}
	return nil
}

// count adds to a sum.
func count(used map[ledger.UsageLine]ledger.UsageLine, u ledger.UsageLine) {
	k := ledger.UsageLine{Day: u.Day, Customer: u.Customer, Key: u.Key, Item: u.Item, User: u.User}
	sum := used[k]
	u.Requests += sum.Requests
	u.Cost += sum.Cost
	for i := range u.Counts {
		u.Counts[i] += sum.Counts[i]
	}
	used[k] = u
}

func (f *fake) Balance(_ context.Context, a ledger.Account) (nanoton.Amount, error) {
	leave, err := f.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	f.calls++
	return f.balances[a], nil
}

func (f *fake) Allotted(ctx context.Context, customer ledger.Account) (map[ledger.Account]nanoton.Amount, error) {
	all, err := f.Balances(ctx, "allotment:")
	end := strings.TrimPrefix(string(customer), "customer")
	maps.DeleteFunc(all, func(a ledger.Account, _ nanoton.Amount) bool { return !strings.HasSuffix(string(a), end) })
	return all, err
}

func (f *fake) Balances(_ context.Context, prefix string) (map[ledger.Account]nanoton.Amount, error) {
	leave, err := f.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	all := map[ledger.Account]nanoton.Amount{}
	for a, n := range f.balances {
		if strings.HasPrefix(string(a), prefix) {
			all[a] = n
		}
	}
	return all, nil
}

func (f *fake) Has(_ context.Context, ids ...ledger.ID) ([]bool, error) {
	leave, err := f.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	has := make([]bool, len(ids))
	for i, id := range ids {
		_, has[i] = f.done[id]
	}
	return has, nil
}

func (f *fake) Allot(_ context.Context, a ledger.Allotment) (nanoton.Amount, error) {
	leave, err := f.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	f.calls++
	delete(f.dead, a.Gateway)
	to := source(a.Gateway, a.Customer)
	f.move(a.Customer, to, min(a.Want, f.balances[a.Customer]))
	return f.balances[to], nil
}

func (f *fake) Release(_ context.Context, gateway string, customer ledger.Account) error {
	leave, err := f.enter()
	if err != nil {
		return err
	}
	defer leave()
	from := source(gateway, customer)
	f.move(from, customer, f.balances[from])
	return nil
}

func (f *fake) Heartbeat(_ context.Context, gateway string, _ time.Time) error {
	leave, err := f.enter()
	if err != nil {
		return err
	}
	defer leave()
	if f.dead[gateway] {
		return ledger.ErrReclaimed
	}
	return nil
}

func (f *fake) Reclaim(context.Context, time.Time) ([]ledger.Reclaimed, error) {
	_, err := f.enter()
	if err == nil {
		f.mu.Unlock()
	}
	return nil, err
}

// kill takes a gateway's allotments back, as others do after its lease has ended.
func (f *fake) kill(gateway string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[gateway] = true
	prefix := "allotment:" + gateway + ":"
	for a, n := range f.balances {
		if name, ok := strings.CutPrefix(string(a), prefix); ok {
			f.move(a, ledger.Account("customer:"+name), n)
		}
	}
}

// deposit gives a customer money from the chain.
func (f *fake) deposit(to ledger.Account, n nanoton.Amount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.move("chain", to, n)
}

func (f *fake) balance(a ledger.Account) nanoton.Amount {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.balances[a]
}

// set changes what is wrong with it.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
