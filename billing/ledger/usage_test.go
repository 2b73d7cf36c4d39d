package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"cocoon/internal/nanoton"
)

func usage(t fataler, l *Ledger, q UsageQuery) []UsageLine {
	t.Helper()
	var all []UsageLine
	err := l.Usage(context.Background(), q, func(u UsageLine) error {
		all = append(all, u)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// count is a transfer of nothing that counts lines.
func count(name string, lines ...UsageLine) Transfer {
	t := pay(name, "customer:ann", "fees", 0)
	t.Usage = lines
	return t
}

func line(day, customer, key, user string, n int64) UsageLine {
	return UsageLine{
		Day: day, Customer: Account("customer:" + customer), Key: key, Item: "m", User: user,
		Requests: n, Counts: [4]int64{n, 2 * n, 3 * n, 4 * n}, Cost: nanoton.Amount(5 * n),
	}
}

const day1, day2, day3 = "2026-11-26", "2026-11-27", "2027-01-01"

func TestUsage(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		mustPost(t, l, count("a", line(day2, "ann", "k", "u", 1), line(day1, "bob", "k", "u", 1)),
			count("b", line(day2, "ann", "k", "u", 2), line(day2, "ann", "k", "", 7), line(day3, "ann", "", "ü", 1)))
		mustPost(t, l, count("b", line(day2, "ann", "k", "u", 2), line(day2, "ann", "k", "", 7)), // again: counts once
			count("c", line(day2, "ann", "k2", "u", 4), line(day2, "ann", "k", "u", 4)))
		mustPost(t, l, count("c", line(day2, "ann", "k", "u", 100))) // the usage is no part of what it is
		all := []UsageLine{
			line(day1, "bob", "k", "u", 1), line(day2, "ann", "k", "", 7), line(day2, "ann", "k", "u", 7),
			line(day2, "ann", "k2", "u", 4), line(day3, "ann", "", "ü", 1),
		}
		for _, c := range []struct {
			q    UsageQuery
			want []UsageLine
		}{
			{UsageQuery{}, all},
			{UsageQuery{Customer: "customer:ann"}, all[1:]},
			{UsageQuery{Customer: "customer:ann", Key: "k"}, all[1:3]},
			{UsageQuery{Key: "k"}, all[:3]},
			{UsageQuery{From: day2}, all[1:]},
			{UsageQuery{To: day2}, all[:4]},
			{UsageQuery{From: day2, To: day2, Customer: "customer:ann"}, all[1:4]},
			{UsageQuery{From: day3, To: day1}, nil},
			{UsageQuery{Customer: "customer:nobody"}, nil},
		} {
			if got := usage(t, l, c.q); !slices.Equal(got, c.want) {
				t.Errorf("%+v: %v, want %v", c.q, got, c.want)
			}
		}
		stop := errors.New("stop")
		if err := l.Usage(t.Context(), UsageQuery{}, func(UsageLine) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		for _, q := range []UsageQuery{{From: "yesterday"}, {To: "2026-11-31"}, {Customer: "customer:"}} {
			if err := l.Usage(t.Context(), q, func(UsageLine) error { return nil }); !errors.Is(err, ErrInvalid) {
				t.Errorf("%+v: %v", q, err)
			}
		}
		refused := count("d", line(day1, "ann", "k", "u", 1))
		refused.Legs = []Leg{{"customer:ann", -1}, {"fees", 1}}
		if err := l.Post(t.Context(), []Transfer{refused}); !errors.Is(err, ErrOverdrawn) {
			t.Errorf("got %v", err)
		}
		if got := usage(t, l, UsageQuery{}); !slices.Equal(got, all) {
			t.Errorf("a refused transfer counts: %v", got)
		}
		wantSound(t, l)
	})
}

func TestUsageInvalid(t *testing.T) {
	l := mustOpen(t, backends[0].url(t))
	for name, change := range map[string]func(u *UsageLine){
		"day":           func(u *UsageLine) { u.Day = "2026-1-1" },
		"customer":      func(u *UsageLine) { u.Customer = "fees" },
		"long key":      func(u *UsageLine) { u.Key = strings.Repeat("k", UsageKeyMax+1) },
		"long item":     func(u *UsageLine) { u.Item = strings.Repeat("k", UsageItemMax+1) },
		"long user":     func(u *UsageLine) { u.User = strings.Repeat("k", UsageUserMax+1) },
		"NUL":           func(u *UsageLine) { u.User = "a\x00" },
		"no UTF-8":      func(u *UsageLine) { u.User = "a\xff" },
		"no requests":   func(u *UsageLine) { u.Requests = 0 },
		"many requests": func(u *UsageLine) { u.Requests = UsageRequestsMax + 1 },
		"negative":      func(u *UsageLine) { u.Counts[3] = -1 },
		"too many":      func(u *UsageLine) { u.Counts[0] = UsageCountMax + 1 },
		"cost":          func(u *UsageLine) { u.Cost = -1 },
	} {
		u := line(day1, "ann", "k", "u", 1)
		change(&u)
		if err := l.Post(t.Context(), []Transfer{count("x", u)}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := count("x", slices.Repeat([]UsageLine{line(day1, "ann", "k", "u", 1)}, UsageLinesMax+1)...)
	if err := l.Post(t.Context(), []Transfer{many}); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many lines: %v", err)
	}
}

// A customer that names ever more users gets so many rows a day and no more; nothing is lost from the sums.
func TestUsageIsBounded(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		const posts, lines, each = 9, 4, 300
		for p := range posts {
			batch := make([]Transfer, 0, lines)
			for n := range lines {
				var all []UsageLine
				for i := range each {
					all = append(all, line(day1, "ann", "k", fmt.Sprintf("%05d", (p*lines+n)*each+i), 1))
				}
				batch = append(batch, count(fmt.Sprint(p, n), all...))
			}
			mustPost(t, l, batch...)
		}
		again := line(day1, "ann", "k", "00007", 1)
		mustPost(t, l, count("last", again, line(day1, "bob", "k", "new", 1), line(day1, "ann", "k2", "new", 1), line(day2, "ann", "k", "new", 1)))
		all := usage(t, l, UsageQuery{Customer: "customer:ann", To: day1})
		sums := map[string]int64{}
		for _, u := range all {
			sums[u.Key+u.User] += u.Requests
		}
		const users = posts * lines * each
		want := map[string]int64{"kother": users - UsageRowsMax, "k2other": 1, "k00007": 2, "k00000": 1}
		for name, n := range want {
			if sums[name] != n {
				t.Errorf("%s has %d requests, want %d", name, sums[name], n)
			}
		}
		if len(all) != UsageRowsMax+2 {
			t.Errorf("%d rows", len(all))
		}
		for _, q := range []UsageQuery{{Customer: "customer:bob"}, {From: day2}} {
			if got := usage(t, l, q); len(got) != 1 || got[0].User != "new" {
				t.Errorf("%+v: %v", q, got)
			}
		}
	})
}

// Gateways count the same customer's users at the same time.
func TestUsageConcurrently(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		one, two := mustOpen(t, url), mustOpen(t, url)
		var wg sync.WaitGroup
		for g, l := range []*Ledger{one, two, one, two} {
			wg.Go(func() {
				for i := range 20 {
					lines := []UsageLine{line(day1, "ann", "k", fmt.Sprint(i%3), 1), line(day1, "ann", "k", fmt.Sprint(g), 1), line(day2, "bob", "k", "", 1)}
					if g%2 == 0 {
						slices.Reverse(lines)
					}
					one := count(fmt.Sprint(g, " ", i), lines...)
					if err := l.Post(t.Context(), []Transfer{one}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		sum := int64(0)
		for _, u := range usage(t, one, UsageQuery{}) {
			sum += u.Requests
		}
		if sum != 4*20*3 {
			t.Errorf("%d requests", sum)
		}
	})
}
