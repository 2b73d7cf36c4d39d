package billing

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

// Requests whose IDs begin alike are settled at once as others are, each of them once, and in one order by all.
func TestSettleAllAlike(t *testing.T) {
	f := newFake()
	f.deposit(alice, 1000)
	d := desk(t, Config{Ledger: f})
	var all []Settlement
	for n := range byte(4) {
		id := ledger.ID{1, 2, 3, 4, 5, 6, 7, n & 1, 31: 4 - n} // the eighth byte is where the place is
		if err := d.Hold(t.Context(), Hold{Request: id, Account: alice, Ceiling: 10}); err != nil {
			t.Fatal(err)
		}
		all = append(all, charge(id, workerA, 5, 4, 1))
	}
	all = append(all, all...)
	all = append(all, charge(all[1].Request, workerB, 5, 4, 1))
	order := make([]place, len(all))
	for i := range all {
		order[i] = all[i].place(i)
	}
	sortPlaces(order, all)
	for n := 1; n < len(order); n++ {
		a, b := order[n-1].i(), order[n].i()
		if c := all[a].Request.Compare(all[b].Request); c > 0 || c == 0 && a > b {
			t.Errorf("%s comes before %s", all[a].Request, all[b].Request)
		}
	}
	for i, err := range d.SettleAll(t.Context(), all) {
		if last := i == len(all)-1; err != nil != last || last && !errors.Is(err, ErrConflict) {
			t.Errorf("%d: %v", i, err)
		}
	}
	post(t, d)
	if f.balance(workerA) != 16 || f.balance(workerB) != 0 || f.balance("fees") != 4 {
		t.Errorf("workers have %v and %v, the fees %v", f.balance(workerA), f.balance(workerB), f.balance("fees"))
	}
}

// Should a request ever have the hash of another one, it is turned away: neither gets what is the other's.
func TestSameHash(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	first, second := hold(t, d, 10), testID()
	r := d.at(d.hash(first)).requests[d.hash(first)]
	d.at(d.hash(second)).requests[d.hash(second)] = r
	if err := d.Hold(t.Context(), Hold{Request: second, Account: alice, Ceiling: 10}); !errors.Is(err, ErrConflict) {
		t.Errorf("held: %v", err)
	}
	if err := d.Settle(t.Context(), charge(second, workerA, 1, 1, 0)); !errors.Is(err, ErrUnknown) {
		t.Errorf("settled: %v", err)
	}
	if err := d.Void(t.Context(), second); !errors.Is(err, ErrUnknown) {
		t.Errorf("voided: %v", err)
	}
	if _, ok := d.Lookup(second); ok {
		t.Error("it is open")
	}
	settle(t, d, first, 10, 0)
}

// An account that is known by heart has the rest of a hold checked all the same.
func TestInvalidOnKnownAccount(t *testing.T) {
	f := newFake()
	f.deposit(alice, 100)
	d := desk(t, Config{Ledger: f})
	hold(t, d, 10)
	for _, h := range []Hold{
		{Account: alice},
		{Request: testID(), Account: alice, Ceiling: -1},
		{Request: testID(), Account: alice, Note: make([]byte, NoteMax+1)},
	} {
		if err := d.Hold(context.Background(), h); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", h, err)
		}
	}
	a, b := charge(hold(t, d, 1), workerA, 1, 1, 0), charge(hold(t, d, 1), "", 1, 1, 0)
	c := charge(hold(t, d, 1), "", 0, 0, 0)
	errs := d.SettleAll(t.Context(), []Settlement{c, b, a, b, charge(testID(), "worker:x", 1, 1, 0)})
	for i, want := range []error{nil, ErrInvalid, nil, ErrInvalid, ErrInvalid} {
		if !errors.Is(errs[i], want) {
			t.Errorf("settlement %d: %v, want %v", i, errs[i], want)
		}
	}
}

// Many workers and lines in one batch add up as few do.
func TestSumsOfMany(t *testing.T) {
	at := time.UnixMilli(1)
	for _, many := range []int{1, numberedFew, numberedFew + 1, 50} {
		sums := newSums(alice)
		for i := range 10 * many {
			s := charge(ledger.ID{}, ledger.Account(fmt.Sprintf("worker:%064d", i%many)), 3, 2, 1)
			s.Line = Line{User: fmt.Sprint(i % many), Counts: [4]int64{1}}
			sums.add(&s, at)
		}
		got := transfer(ledger.ID{1}, at, alice, sums)
		if len(got.Legs) != many+2 || len(got.Usage) != many || got.Check() != nil {
			t.Fatalf("%d legs and %d lines for %d workers: %v", len(got.Legs), len(got.Usage), many, got.Check())
		}
		for i, leg := range got.Legs[1 : many+1] {
			u := got.Usage[i]
			if leg.Amount != 20 || leg.Account != ledger.Account(fmt.Sprintf("worker:%064d", i)) || u.Requests != 10 ||
				u.Cost != 30 || u.User != fmt.Sprint(i) {
				t.Errorf("%+v, %+v", leg, u)
			}
		}
		if cost := got.Legs[0].Amount; cost != nanoton.Amount(-30*many) {
			t.Errorf("it costs %v", cost)
		}
	}
}
