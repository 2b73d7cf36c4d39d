package accounts

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/billing/ledger"
	"cocoon/router/offer"
)

func TestReport(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	b := s.open(s.config(l))
	for _, u := range []ledger.UsageLine{
		{Day: "2026-11-25", Customer: "customer:a", Key: "k1", Item: "m", User: "=cmd()", Requests: 2, Counts: [4]int64{10, 4, 5, 1}, Cost: 100},
		{Day: "2026-11-26", Customer: "customer:a", Key: "k1", Item: "m", Requests: 1, Counts: [4]int64{1, 0, 2, 0}, Cost: 1_500_000_000},
		{Day: "2026-11-26", Customer: "customer:a", Key: "k2", Item: "n", User: "bob, \"b\"", Requests: 1, Counts: [4]int64{7, 0, 7, 7}, Cost: 3},
		{Day: "2026-11-26", Customer: "customer:b", Key: "k3", Item: "m", Requests: 9, Cost: 9},
	} {
		spend(t, l, u)
	}
	ctx := t.Context()
	for _, tc := range []struct {
		q    Query
		want string // rows as CSV, without the line of names
	}{
		{Query{}, "13,18,4,14,8,1500000112,1.500000112\n"},
		{Query{Account: "a"}, "4,18,4,14,8,1500000103,1.500000103\n"},
		{Query{Account: "a", By: []string{ByDay}}, "2026-11-25,2,10,4,5,1,100,0.0000001\n2026-11-26,2,8,0,9,7,1500000003,1.500000003\n"},
		{Query{By: []string{ByModel, ByAccount}}, "a,m,3,11,4,7,1,1500000100,1.5000001\na,n,1,7,0,7,7,3,0.000000003\nb,m,9,0,0,0,0,9,0.000000009\n"},
		{Query{Account: "a", Key: "k2", By: []string{ByUser, ByKey}}, "k2,\"bob, \"\"b\"\"\",1,7,0,7,7,3,0.000000003\n"},
		{Query{Account: "a", To: "2026-11-25", By: []string{ByUser}}, "'=cmd(),2,10,4,5,1,100,0.0000001\n"},
		{Query{From: "2026-11-27", By: []string{ByDay}}, ""},
	} {
		rows, total, err := b.Report(ctx, tc.q)
		must(t, err)
		var out strings.Builder
		must(t, WriteCSV(&out, tc.q.By, rows))
		head, got, _ := strings.Cut(out.String(), "\n")
		if got != tc.want || !strings.HasSuffix(head, "requests,input_tokens,cached_tokens,output_tokens,reasoning_tokens,cost_nanoton,cost_ton") {
			t.Errorf("%+v:\n%s\n%s", tc.q, head, got)
		}
		var sum Row
		for _, r := range rows {
			sum.Requests += r.Requests
			sum.Cost += r.Cost
			sum.Tokens = offer.Usage{
				In: sum.Tokens.In + r.Tokens.In, Cached: sum.Tokens.Cached + r.Tokens.Cached,
				Out: sum.Tokens.Out + r.Tokens.Out, Reasoning: sum.Tokens.Reasoning + r.Tokens.Reasoning,
			}
		}
		if diff := cmp.Diff(sum, total); diff != "" {
			t.Errorf("total (-want +got):\n%s", diff)
		}
	}
	for _, q := range []Query{
		{From: "yesterday"},
		{To: "2026-1-1"},
		{From: "2026-02-30"},
		{By: []string{"hour"}},
		{By: []string{ByDay, ByDay}},
		{By: []string{""}},
		{Account: "a b"},
	} {
		if _, _, err := b.Report(ctx, q); !errors.Is(err, ErrInvalid) && !errors.Is(err, ledger.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// crowd is a ledger with a line for each of many end users.
type crowd struct {
	Store
	users int
}

func (c crowd) Usage(_ context.Context, _ ledger.UsageQuery, f func(ledger.UsageLine) error) error {
	for i := range c.users {
		if err := f(ledger.UsageLine{Day: "2026-11-26", User: fmt.Sprint(i), Requests: 1}); err != nil {
			return err
		}
	}
	return nil
}

func TestReportIsBounded(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	b := s.open(s.config(crowd{l, RowsMax + 1}))
	_, _, err := b.Report(t.Context(), Query{By: []string{ByUser}})
	wantErr(t, err, ErrTooMany)
	rows, total, err := b.Report(t.Context(), Query{By: []string{ByDay}})
	must(t, err)
	if len(rows) != 1 || total.Requests != RowsMax+1 {
		t.Fatalf("%d rows of %d requests", len(rows), total.Requests)
	}
}

func TestValidUser(t *testing.T) {
	for name, want := range map[string]bool{"": false, "bob": true, "é": true, "a\nb": false, "\xff": false, strings.Repeat("x", 129): false} {
		if got := ValidUser(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
