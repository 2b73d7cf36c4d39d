package ledger

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/nanoton"
)

func TestPost(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		settle := Transfer{
			ID: idOf("settle"), Kind: "settle", At: epoch.Add(time.Second), Ref: "request 1",
			Legs: []Leg{{"customer:ann", -30}, {workerAccount(1), 27}, {"fees", 3}, {"customer:ann", 0}},
		}
		mustPost(t, l)
		mustPost(t, l, pay("in", "chain", "customer:ann", 100), settle)
		want := map[Account]nanoton.Amount{"chain": -100, "customer:ann": 70, workerAccount(1): 27, "fees": 3}
		wantBalances(t, l, want)

		// Again, alone and in company, in another time zone: no effect.
		local := settle
		local.At = settle.At.In(time.FixedZone("x", 3600))
		mustPost(t, l, local)
		mustPost(t, l, settle, pay("in", "chain", "customer:ann", 100), settle)
		wantBalances(t, l, want)

		mustPost(t, l, settle, pay("more", "test", "customer:bob", 1), settle)
		want["test"], want["customer:bob"] = -1, 1
		wantBalances(t, l, want)

		if report := wantSound(t, l); report != (Report{Accounts: 6, Transfers: 3, Legs: 8}) {
			t.Errorf("report %+v", report)
		}
		has, err := l.Has(t.Context(), idOf("in"), idOf("out"), idOf("settle"), ID{})
		if err != nil || !slices.Equal(has, []bool{true, false, true, false}) {
			t.Errorf("Has = %v, %v", has, err)
		}
		if balance, err := l.Balance(t.Context(), "customer:ann"); balance != 70 || err != nil {
			t.Errorf("Balance = %d, %v", balance, err)
		}
		if balance, err := l.Balance(t.Context(), "customer:nobody"); balance != 0 || err != nil {
			t.Errorf("Balance of an unknown account = %d, %v", balance, err)
		}
		if _, err := l.Balance(t.Context(), "customer:"); !errors.Is(err, ErrInvalid) {
			t.Errorf("Balance of no name: %v", err)
		}
		some, err := l.Balances(t.Context(), "customer:a")
		if diff := cmp.Diff(map[Account]nanoton.Amount{"customer:ann": 70}, some); diff != "" || err != nil {
			t.Errorf("Balances: %v, %s", err, diff)
		}
		again := mustOpen(t, url)
		wantBalances(t, again, want)
	})
}

func TestPostRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		posted := pay("in", "chain", "customer:ann", 100)
		mustPost(t, l, posted, pay("most", "test", "fees", math.MaxInt64-10))
		before, _ := l.Balances(t.Context(), "")

		changed := func(change func(*Transfer)) Transfer {
			other := posted
			other.Legs = slices.Clone(posted.Legs)
			change(&other)
			return other
		}
		good := pay("good", "chain", "customer:bob", 1)
		for name, c := range map[string]struct {
			batch   []Transfer
			reason  error
			id      ID
			account Account
		}{
			"amount": {[]Transfer{good, changed(func(t *Transfer) { t.Legs[0].Amount, t.Legs[1].Amount = -101, 101 })}, ErrConflict, posted.ID, ""},
			"kind":   {[]Transfer{good, changed(func(t *Transfer) { t.Kind = "other" })}, ErrConflict, posted.ID, ""},
			"ref":    {[]Transfer{good, changed(func(t *Transfer) { t.Ref = "" })}, ErrConflict, posted.ID, ""},
			"time":   {[]Transfer{good, changed(func(t *Transfer) { t.At = t.At.Add(1) })}, ErrConflict, posted.ID, ""},
			"accounts": {
				[]Transfer{good, changed(func(t *Transfer) { t.Legs[0].Account, t.Legs[1].Account = "test", "suspense" })},
				ErrConflict, posted.ID, "",
			},
			"legs swapped":  {[]Transfer{changed(func(t *Transfer) { slices.Reverse(t.Legs) })}, ErrConflict, posted.ID, ""},
			"in the batch":  {[]Transfer{good, {ID: good.ID, Kind: "x", At: epoch, Legs: good.Legs}}, ErrConflict, good.ID, ""},
			"customer":      {[]Transfer{good, pay("over", "customer:ann", "suspense", 101)}, ErrOverdrawn, idOf("over"), "customer:ann"},
			"new worker":    {[]Transfer{good, pay("over", workerAccount(1), "payouts", 1)}, ErrOverdrawn, idOf("over"), workerAccount(1)},
			"allotment":     {[]Transfer{good, pay("over", "allotment:g:ann", "chain", 1)}, ErrOverdrawn, idOf("over"), "allotment:g:ann"},
			"overflow":      {[]Transfer{good, pay("much", "chain", "fees", 11)}, ErrOverflow, idOf("much"), "fees"},
			"the other way": {[]Transfer{pay("less", "test", "chain", 20)}, ErrOverflow, idOf("less"), "test"},
			"one at a time": {
				[]Transfer{pay("spend", "customer:ann", "fees", 1), pay("first", "customer:ann", "chain", 100), pay("then", "chain", "customer:ann", 100)},
				ErrOverdrawn, idOf("first"), "customer:ann",
			},
		} {
			err := l.Post(t.Context(), c.batch)
			refusal, ok := errors.AsType[*Refusal](err)
			if !ok || !errors.Is(err, c.reason) || refusal.ID != c.id || refusal.Account != c.account {
				t.Errorf("%s: %v", name, err)
			} else if !strings.Contains(err.Error(), c.id.String()) || !strings.Contains(err.Error(), string(c.account)) {
				t.Errorf("%s: the error does not name its reason: %v", name, err)
			}
		}
		after, _ := l.Balances(t.Context(), "")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a refused batch had an effect:\n%s", diff)
		}
		wantSound(t, l)
	})
}

func TestPostInvalid(t *testing.T) {
	l := mustOpen(t, "sqlite:"+t.TempDir()+"/ledger.db")
	for name, change := range map[string]func(*Transfer){
		"no ID":           func(t *Transfer) { t.ID = ID{} },
		"no kind":         func(t *Transfer) { t.Kind = "" },
		"kind":            func(t *Transfer) { t.Kind = "Kind" },
		"long kind":       func(t *Transfer) { t.Kind = strings.Repeat("k", KindMax+1) },
		"no time":         func(t *Transfer) { t.At = time.Time{} },
		"far time":        func(t *Transfer) { t.At = time.Unix(1<<40, 0) },
		"long ref":        func(t *Transfer) { t.Ref = strings.Repeat("r", RefMax+1) },
		"ref of no ASCII": func(t *Transfer) { t.Ref = "\x00" },
		"broken ref":      func(t *Transfer) { t.Ref = "\xff" },
		"no legs":         func(t *Transfer) { t.Legs = nil },
		"one leg":         func(t *Transfer) { t.Legs = []Leg{{"fees", 0}} },
		"many legs":       func(t *Transfer) { t.Legs = make([]Leg, LegsMax+1) },
		"no account":      func(t *Transfer) { t.Legs[0].Account = "" },
		"sum":             func(t *Transfer) { t.Legs[0].Amount-- },
		"sum overflows":   func(t *Transfer) { t.Legs[0].Amount, t.Legs[1].Amount = math.MinInt64, math.MinInt64 },
	} {
		bad := pay("in", "chain", "customer:ann", 100)
		change(&bad)
		err := l.Post(t.Context(), []Transfer{pay("ok", "chain", "fees", 1), bad})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := l.Post(t.Context(), make([]Transfer, BatchMax+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
	wantBalances(t, l, map[Account]nanoton.Amount{})
}

func TestEach(t *testing.T) {
	onBoth(t, func(t *testing.T, url string) {
		l := mustOpen(t, url)
		const n = 2*pageRows + 7
		var batch []Transfer
		for i := range n {
			to := Account("customer:ann")
			if i%3 == 0 {
				to = "customer:bob"
			}
			one := pay(string(rune('a'+i%26))+idOf(string(rune(i))).String(), "chain", to, nanoton.Amount(i+1))
			one.At = epoch.Add(time.Duration((i*7919)%50) * time.Second) // out of order, many at once
			one.Legs = append(one.Legs, Leg{"chain", 0})                 // the same account twice
			batch = append(batch, one)
		}
		mustPost(t, l, batch...)
		for _, c := range []struct {
			account Account
			from    time.Time
		}{
			{"chain", time.Time{}},
			{"chain", epoch},
			{"chain", epoch.Add(25 * time.Second)},
			{"customer:bob", epoch.Add(3*time.Second + 1)},
			{"customer:ann", epoch.Add(time.Hour)},
			{"customer:nobody", epoch},
			{"chain", time.Unix(1<<40, 0)},
		} {
			var want, got []Transfer
			for _, one := range batch {
				ours := slices.ContainsFunc(one.Legs, func(leg Leg) bool { return leg.Account == c.account })
				if ours && !one.At.Before(c.from) {
					one.At = one.At.UTC()
					want = append(want, one)
				}
			}
			slices.SortStableFunc(want, func(a, b Transfer) int { return a.At.Compare(b.At) })
			err := l.Each(t.Context(), c.account, c.from, func(one Transfer) error {
				got = append(got, one)
				return nil
			})
			same := func(a, b Transfer) bool { return a.digest() == b.digest() && a.At.Location() == b.At.Location() }
			if !slices.EqualFunc(want, got, same) || err != nil {
				t.Fatalf("Each(%s, %v): %v, %d and %d transfers", c.account, c.from, err, len(want), len(got))
			}
		}
		calls, stop := 0, errors.New("enough")
		err := l.Each(t.Context(), "chain", epoch, func(one Transfer) error {
			if calls++; calls == 3 {
				return stop
			}
			_, err := l.Balance(t.Context(), one.Legs[1].Account) // f may use the ledger
			return err
		})
		if err != stop || calls != 3 { //nolint:errorlint // as it was returned
			t.Errorf("Each ended with %v after %d calls", err, calls)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{
		"", "ledger.db", "sqlite:", "sqlite::memory:", "mysql://x", "postgres://u:s3cret@h:port/db", "postgres://u:s3c%zzret@h/db",
		"sqlite:/dev/null/x/ledger.db", "postgres://u:s3cret@127.0.0.1:1/db?connect_timeout=1",
	} {
		_, err := Open(t.Context(), url)
		if err == nil || strings.Contains(err.Error(), "s3c") {
			t.Errorf("Open(%q): %v", url, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, "sqlite:"+t.TempDir()+"/ledger.db"); !errors.Is(err, context.Canceled) {
		t.Errorf("Open with a context that is done: %v", err)
	}
}

func TestSQLitePath(t *testing.T) {
	path := t.TempDir() + "/a b?c#d%20é.db"
	mustPost(t, mustOpen(t, "sqlite:"+path), pay("in", "chain", "fees", 1))
	wantBalances(t, mustOpen(t, "sqlite:"+path), map[Account]nanoton.Amount{"chain": -1, "fees": 1})
}

func TestNames(t *testing.T) {
	hex := strings.Repeat("0f", 32)
	for name, want := range map[string]bool{
		"chain": true, "suspense": true, "fees": true, "network": true, "payouts": true, "test": true, "worker:" + hex: true,
		"customer:a": true, "customer:Ann.B-c_d+1@example.org": true, "customer:" + strings.Repeat("x", NameMax): true,
		"allotment:g-1.example:ann@x": true,
		"transit":                     true, "cold": true, "tab:ann@x": true, "collateral:" + hex: true,
		"transit:a": false, "cold:": false, "tab": false, "tab:": false, "tab:a:b": false, "collateral": false, "collateral:a": false,
		"": false, "customer": false, "customer:": false, "chain:": false, "chain:x": false, "Chain": false, "other": false,
		"customer:a:b": false, "customer:a b": false, "customer:é": false, "customer:" + strings.Repeat("x", NameMax+1): false,
		"customer:a\n": false, "customer:a/b": false, "customer:\x7f": false, "worker:" + hex[1:]: false,
		"worker:" + strings.ToUpper(hex): false, "worker:" + hex + "0": false, "allotment:g": false, "allotment::c": false,
		"allotment:g:": false, "allotment:g:c:d": false,
	} {
		if err := Account(name).Check(); (err == nil) != want {
			t.Errorf("Account(%q).Check() = %v", name, err)
		}
	}
	if a, err := AllotmentAccount("g", "customer:ann"); a != "allotment:g:ann" || err != nil {
		t.Errorf("AllotmentAccount = %q, %v", a, err)
	}
	for _, c := range [][2]string{{"", "customer:ann"}, {"g:", "customer:ann"}, {"g", "ann"}, {"g", "fees"}, {"g", "customer:"}} {
		if a, err := AllotmentAccount(c[0], Account(c[1])); !errors.Is(err, ErrInvalid) {
			t.Errorf("AllotmentAccount(%q, %q) = %q, %v", c[0], c[1], a, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(idOf("x").String())
	f.Add(strings.ToUpper(idOf("x").String()))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && id.String() != s || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("ParseID(%q) = %s, %v", s, id, err)
		}
		var read ID
		if err2 := read.UnmarshalText([]byte(s)); (err == nil) != (err2 == nil) || read != id {
			t.Fatalf("UnmarshalText(%q) = %s, %v", s, read, err2)
		}
	})
}

func FuzzAccount(f *testing.F) {
	for _, s := range []string{"chain", "customer:ann", "allotment:g:ann", "worker:" + idOf("x").String(), "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a := Account(s)
		if a.Check() != nil {
			return
		}
		if kind := a.Kind(); kind != s && !strings.HasPrefix(s, kind+":") || s >= nameEnd {
			t.Fatalf("%q has kind %q", s, kind)
		}
		if _, err := AllotmentAccount("g", a); (err == nil) != (a.Kind() == "customer") {
			t.Fatalf("an allotment of %q: %v", s, err)
		}
	})
}

func TestAdd(t *testing.T) {
	for _, c := range []struct {
		a, b nanoton.Amount
		ok   bool
	}{
		{0, 0, true},
		{1, -1, true},
		{math.MaxInt64, 0, true},
		{math.MaxInt64, 1, false},
		{math.MaxInt64, math.MinInt64, true},
		{math.MinInt64, 0, true},
		{math.MinInt64, -1, false},
		{math.MinInt64, math.MinInt64, false},
		{math.MaxInt64, math.MaxInt64, false},
		{5, 0, true},
		{-5, 0, true},
		{0, math.MinInt64, true},
	} {
		if sum, ok := add(c.a, c.b); ok != c.ok || ok && sum-c.b != c.a {
			t.Errorf("add(%d, %d) = %d, %v", c.a, c.b, sum, ok)
		}
	}
}
