package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/internal/secret"
)

func TestKeyLives(t *testing.T) {
	s := newShelf(t)
	operator, gateway := s.book(), s.book() // two processes on one ledger
	ctx := t.Context()
	text, k, err := operator.CreateKey(ctx, DefaultAccount, Settings{Name: "first"})
	must(t, err)
	if operator.Key(text.Hash()) != k || k.Account() != "customer:default" || !k.Can(ScopeInference) || !k.Can(ScopeAccount) {
		t.Fatal("the key that was made is not there")
	}
	if gateway.Key(text.Hash()) != nil {
		t.Fatal("found without having asked")
	}
	must(t, gateway.refresh(ctx))
	seen := gateway.Key(text.Hash())
	if seen == nil || seen.ID != k.ID || gateway.Key([32]byte{1}) != nil {
		t.Fatal("the other process does not see the key, or sees others")
	}
	must(t, operator.UpdateKey(ctx, k.ID, func(s *Settings) error { s.Models = []string{"a*"}; return nil }))
	must(t, gateway.refresh(ctx))
	if gateway.Key(text.Hash()) != seen || seen.Allows("b") || !seen.Allows("abc") {
		t.Fatal("a change does not count for the same key")
	}
	must(t, operator.RevokeKey(ctx, k.ID))
	first := k.Record().Revoked
	s.c.add(time.Hour)
	must(t, operator.RevokeKey(ctx, k.ID))
	must(t, gateway.refresh(ctx))
	if gateway.Key(text.Hash()) != nil || operator.Key(text.Hash()) != nil || !k.Record().Revoked.Equal(first) {
		t.Fatal("a revoked key works, or was revoked twice")
	}
	if list := gateway.Keys(DefaultAccount); len(list) != 1 || list[0] != seen {
		t.Fatal("a revoked key is not listed")
	}
	_, err = operator.RotateKey(ctx, k.ID, 0)
	wantErr(t, err, ErrNoKey)
	wantErr(t, operator.RevokeKey(ctx, "nosuchkey"), ErrNoKey)
	if later := s.book(); later.Key(text.Hash()) != nil || len(later.Keys("")) != 1 {
		t.Fatal("a new process sees it otherwise")
	}
}

func TestKeyExpires(t *testing.T) {
	s := newShelf(t)
	b := s.book()
	text, _, err := b.CreateKey(t.Context(), DefaultAccount, Settings{Name: "x", Expires: s.c.now().Add(time.Hour)})
	must(t, err)
	s.c.add(time.Hour - 1)
	if b.Key(text.Hash()) == nil {
		t.Fatal("expired early")
	}
	s.c.add(1)
	if b.Key(text.Hash()) != nil {
		t.Fatal("works after its end")
	}
}

func TestRotation(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.book(), t.Context()
	first, k, err := b.CreateKey(ctx, DefaultAccount, Settings{Name: "x", Budget: ton})
	must(t, err)
	must(t, k.Reserve(ton))
	second, err := b.RotateKey(ctx, k.ID, time.Hour)
	must(t, err)
	if b.Key(first.Hash()) != k || b.Key(second.Hash()) != k {
		t.Fatal("both texts should be the same key during the grace")
	}
	if k.Reserve(1) == nil {
		t.Fatal("a rotation forgets what is reserved")
	}
	s.c.add(30 * time.Minute)
	third, err := b.RotateKey(ctx, k.ID, 24*time.Hour)
	must(t, err)
	s.c.add(30 * time.Minute)
	if b.Key(first.Hash()) != nil || b.Key(second.Hash()) != k || b.Key(third.Hash()) != k {
		t.Fatal("the first text's grace does not end when it should")
	}
	fourth, err := b.RotateKey(ctx, k.ID, 0)
	must(t, err)
	if b.Key(second.Hash()) != nil || b.Key(third.Hash()) != nil || b.Key(fourth.Hash()) != k {
		t.Fatal("without a grace only the newest text works")
	}
	for range hashesMax - 1 {
		_, err = b.RotateKey(ctx, k.ID, time.Hour)
		must(t, err)
	}
	_, err = b.RotateKey(ctx, k.ID, time.Hour)
	wantErr(t, err, ErrInvalid)
	_, err = b.RotateKey(ctx, k.ID, GraceMax+1)
	wantErr(t, err, ErrInvalid)
	s.c.add(2 * time.Hour)
	_, err = b.RotateKey(ctx, k.ID, time.Hour)
	must(t, err)
}

func TestAccounts(t *testing.T) {
	s := newShelf(t)
	b, ctx := s.book(), t.Context()
	_, err := b.CreateAccount(ctx, "acme", Limits{RequestsPerMinute: 5})
	must(t, err)
	_, err = b.CreateAccount(ctx, "acme", Limits{})
	wantErr(t, err, ErrExists)
	_, err = b.CreateAccount(ctx, "no blanks", Limits{})
	wantErr(t, err, ledger.ErrInvalid)
	_, err = b.CreateAccount(ctx, "x", Limits{Concurrent: -1})
	wantErr(t, err, ErrInvalid)
	_, _, err = b.CreateKey(ctx, "nobody", Settings{Name: "x"})
	wantErr(t, err, ErrNoAccount)
	wantErr(t, b.SuspendAccount(ctx, "nobody", "x"), ErrNoAccount)
	wantErr(t, b.SuspendAccount(ctx, "acme", ""), ErrInvalid)

	text, k, err := b.CreateKey(ctx, "acme", Settings{Name: "x"})
	must(t, err)
	if k.Limits().RequestsPerMinute != 5 {
		t.Fatal("the account's limit does not count")
	}
	must(t, b.LimitAccount(ctx, "acme", Limits{RequestsPerMinute: 7}))
	if k.Limits().RequestsPerMinute != 7 {
		t.Fatal("the account's new limit does not count")
	}
	must(t, b.UpdateKey(ctx, k.ID, func(s *Settings) error { s.Limits.RequestsPerMinute = 3; return nil }))
	if k.Limits().RequestsPerMinute != 3 {
		t.Fatal("the key's own limit does not count")
	}
	must(t, b.SuspendAccount(ctx, "acme", "unpaid bills"))
	if d := b.Key(text.Hash()).Enter(s.c.now(), 1); d == nil || d.What != DenySuspended || !strings.Contains(d.Error(), "unpaid bills") {
		t.Fatalf("suspended: %v", d)
	}
	must(t, b.ResumeAccount(ctx, "acme"))
	if d := k.Enter(s.c.now(), 1); d != nil {
		t.Fatal(d)
	}
}

// TestManyWriters: no change is lost when two processes change the same key.
func TestManyWriters(t *testing.T) {
	s := newShelf(t)
	s.c.t = time.Now()
	b := s.book()
	k := s.key(b, Settings{Models: []string{"m"}})
	var wg sync.WaitGroup
	for _, b := range []*Book{b, s.book()} {
		for range 3 {
			wg.Go(func() {
				for range 4 {
					for {
						err := b.UpdateKey(context.Background(), k.ID, func(s *Settings) error {
							s.Models = append(s.Models, "m")
							return nil
						})
						if err == nil {
							break
						}
						if !errors.Is(err, ErrBusy) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
	}
	wg.Wait()
	must(t, b.refresh(t.Context()))
	if n := len(k.Record().Models); n != 1+2*3*4 {
		t.Fatalf("%d changes are there, want 24", n-1)
	}
}

// TestUnreadable: what this version can't read does not count, and is said.
func TestUnreadable(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	b, ctx := s.open(s.config(l)), t.Context()
	text, k, err := b.CreateKey(ctx, DefaultAccount, Settings{Name: "x"})
	must(t, err)
	good, err := l.Document(ctx, kindKey, k.ID)
	must(t, err)
	change := func(f func(m map[string]any)) {
		t.Helper()
		var m map[string]any
		must(t, json.Unmarshal(good.Body, &m))
		f(m)
		d, err := l.Document(ctx, kindKey, k.ID)
		must(t, err)
		d.Body, err = json.Marshal(m)
		must(t, err)
		_, err = l.PutDocument(ctx, d)
		must(t, err)
		must(t, b.refresh(ctx))
	}
	for name, f := range map[string]func(m map[string]any){
		"version":  func(m map[string]any) { m["v"] = 2 },
		"member":   func(m map[string]any) { m["needs_approval"] = true },
		"ID":       func(m map[string]any) { m["id"] = "000000000000" },
		"hash":     func(m map[string]any) { m["hashes"] = []any{map[string]any{"sha256": "ab"}} },
		"no hash":  func(m map[string]any) { m["hashes"] = []any{} },
		"account":  func(m map[string]any) { m["account"] = "a b" },
		"scope":    func(m map[string]any) { m["scopes"] = []any{"root"} },
		"no scope": func(m map[string]any) { delete(m, "scopes") },
		"budget":   func(m map[string]any) { m["budget_nanoton"] = -1 },
		"reset":    func(m map[string]any) { m["reset"] = "hourly" },
		"missing":  func(m map[string]any) { m["account"] = "nobody" },
	} {
		change(f)
		if b.Key(text.Hash()) != nil {
			t.Errorf("a key with a bad %s works", name)
		}
		change(func(map[string]any) {})
		if b.Key(text.Hash()) == nil {
			t.Errorf("a good key does not work after a bad %s", name)
		}
	}
	if !strings.Contains(s.logs.String(), "can't be read") {
		t.Error("nothing is logged")
	}
	account, err := l.Document(ctx, kindAccount, DefaultAccount)
	must(t, err)
	account.Body = nil
	_, err = l.PutDocument(ctx, account)
	must(t, err)
	must(t, b.refresh(ctx))
	if b.Key(text.Hash()) != nil {
		t.Error("a key without an account works")
	}
	d, err := l.Document(ctx, kindKey, k.ID)
	must(t, err)
	d.Body = nil
	_, err = l.PutDocument(ctx, d)
	must(t, err)
	must(t, b.refresh(ctx))
	if len(b.Keys("")) != 0 {
		t.Error("a deleted key is listed")
	}
}

// TestRun: a running gateway sees a revocation, and goes on after the ledger was away.
func TestRun(t *testing.T) {
	s := newShelf(t)
	operator := s.book()
	text, k, err := operator.CreateKey(t.Context(), DefaultAccount, Settings{Name: "x"})
	must(t, err)
	gateway := s.open(Config{Store: s.ledger()})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- gateway.Run(ctx) }()
	must(t, operator.RevokeKey(t.Context(), k.ID))
	for end := time.Now().Add(20 * pollPeriod); gateway.Key(text.Hash()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) { // more than that is not for a busy machine
			t.Fatal("a revoked key works on")
		}
	}
	stop()
	must(t, <-done)
}

func TestTestMoney(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	c := s.config(l)
	c.TestMoney = 5 * ton
	b, ctx := s.open(c), t.Context()
	s.key(b, Settings{})
	balance := func() int64 {
		t.Helper()
		n, err := b.Balance(ctx, DefaultAccount)
		must(t, err)
		return int64(n)
	}
	if n := balance(); n != int64(5*ton) {
		t.Fatalf("a new account has %d", n)
	}
	// A crash between money and account: the money does not come twice, whatever its amount is now.
	d, err := l.Document(ctx, kindAccount, DefaultAccount)
	must(t, err)
	d.Body = nil
	_, err = l.PutDocument(ctx, d)
	must(t, err)
	c.TestMoney = 7 * ton
	b = s.open(c)
	s.c.add(time.Hour)
	_, err = b.CreateAccount(ctx, DefaultAccount, Limits{})
	must(t, err)
	if n := balance(); n != int64(5*ton) {
		t.Fatalf("an account that was made twice has %d", n)
	}
	must(t, b.Grant(ctx, DefaultAccount, ton, "a"))
	must(t, b.Grant(ctx, DefaultAccount, ton, "a"))
	wantErr(t, b.Grant(ctx, DefaultAccount, 2*ton, "a"), ledger.ErrConflict)
	must(t, b.Grant(ctx, DefaultAccount, 2*ton, "b"))
	wantErr(t, b.Grant(ctx, "nobody", ton, "c"), ErrNoAccount)
	wantErr(t, b.Grant(ctx, DefaultAccount, 0, "c"), ErrInvalid)
	wantErr(t, b.Grant(ctx, DefaultAccount, ton, ""), ErrInvalid)
	wantErr(t, b.Grant(ctx, DefaultAccount, ton, "é"), ErrInvalid)
	if n := balance(); n != int64(8*ton) {
		t.Fatalf("balance %d, want 8 TON", n)
	}
}

// TestBalanceWithAllotments: money that a gateway holds for a customer is the customer's.
func TestBalanceWithAllotments(t *testing.T) {
	s := newShelf(t)
	l := s.ledger()
	b, ctx := s.open(s.config(l)), t.Context()
	for _, name := range []string{"bob", "b", "ob"} {
		_, err := b.CreateAccount(ctx, name, Limits{})
		must(t, err)
		must(t, b.Grant(ctx, name, 10*ton, "x"))
	}
	for _, gateway := range []string{"bob", "g2"} {
		_, err := l.Allot(ctx, ledger.Allotment{ID: ledger.ID{gateway[0]}, Gateway: gateway, Customer: "customer:bob", Want: ton, Until: time.Now().Add(time.Hour)})
		must(t, err)
	}
	all, err := b.Balances(ctx)
	must(t, err)
	for _, name := range []string{"bob", "b", "ob"} {
		one, err := b.Balance(ctx, name)
		must(t, err)
		if one != 10*ton || all[name] != 10*ton {
			t.Errorf("%s has %v and %v", name, one, all[name])
		}
	}
}

// TestNoSecret: no file and no log has a key's text.
func TestNoSecret(t *testing.T) {
	s := newShelf(t)
	b := s.book()
	text, k, err := b.CreateKey(t.Context(), DefaultAccount, Settings{Name: "x"})
	must(t, err)
	again, err := b.RotateKey(t.Context(), k.ID, time.Hour)
	must(t, err)
	all := []byte(s.logs.String())
	files, err := filepath.Glob(strings.TrimPrefix(s.url, "sqlite:") + "*")
	must(t, err)
	for _, f := range files {
		content, err := os.ReadFile(f)
		must(t, err)
		all = append(all, content...)
	}
	for _, key := range []secret.Key{text, again} {
		if len(files) == 0 || bytes.Contains(all, []byte(key.Reveal()[3:20])) {
			t.Fatal("a key is in a file or a log")
		}
	}
}

// A key that names no scope can't take money out; one that does can do that alone.
func TestScopeWithdraw(t *testing.T) {
	b := newShelf(t).book()
	_, usual, err := b.CreateKey(t.Context(), "default", Settings{Name: "usual"})
	must(t, err)
	_, cashier, err := b.CreateKey(t.Context(), "default", Settings{Name: "cashier", Scopes: []string{ScopeWithdraw}})
	must(t, err)
	if !usual.Can(ScopeInference) || !usual.Can(ScopeAccount) || usual.Can(ScopeWithdraw) {
		t.Errorf("usual: %v", usual.Record().Scopes)
	}
	if cashier.Can(ScopeInference) || cashier.Can(ScopeAccount) || !cashier.Can(ScopeWithdraw) {
		t.Errorf("cashier: %v", cashier.Record().Scopes)
	}
}

func TestSettingsCheck(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, change := range map[string]func(s *Settings){
		"no name":       func(s *Settings) { s.Name = "" },
		"long name":     func(s *Settings) { s.Name = long },
		"odd name":      func(s *Settings) { s.Name = "a\nb" },
		"not UTF-8":     func(s *Settings) { s.Name = "a\xff" },
		"no scope":      func(s *Settings) { s.Scopes = nil },
		"other scope":   func(s *Settings) { s.Scopes = []string{ScopeInference, "all"} },
		"scope twice":   func(s *Settings) { s.Scopes = []string{ScopeAccount, ScopeAccount} },
		"no pattern":    func(s *Settings) { s.Models = []string{""} },
		"long pattern":  func(s *Settings) { s.Models = []string{long} },
		"many patterns": func(s *Settings) { s.Models = make([]string, ModelsMax+1) },
		"budget":        func(s *Settings) { s.Budget = amountMax + 1 },
		"cap":           func(s *Settings) { s.Cap.Out = -1 },
		"limit":         func(s *Settings) { s.Limits.TokensPerMinute = LimitMax + 1 },
	} {
		s := Settings{Name: "x", Scopes: []string{ScopeInference}}
		must(t, s.Check())
		change(&s)
		if err := s.Check(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
