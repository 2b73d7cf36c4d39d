package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cocoon/billing/ledger"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
	"cocoon/internal/secret"
)

// shell runs commands on one data folder, as a shell would.
type shell struct {
	t    *testing.T
	data string
}

func (s *shell) try(words ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	var out, problem strings.Builder
	status = run(append(words, "--data", s.data), &out, &problem)
	return status, out.String(), problem.String()
}

func (s *shell) do(words ...string) string {
	s.t.Helper()
	status, out, problem := s.try(words...)
	if status != 0 || problem != "" {
		s.t.Fatalf("%q: status %d: %s", words, status, problem)
	}
	return out
}

func (s *shell) shows(out string, patterns ...string) {
	s.t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(out) {
			s.t.Errorf("no %s in:\n%s", p, out)
		}
	}
}

func TestKeysCommand(t *testing.T) {
	s := &shell{t, filepath.Join(t.TempDir(), "data")}
	first := strings.TrimSpace(s.do("keys", "create", "bench"))
	if _, err := secret.ParseKey(first); err != nil {
		t.Fatalf("keys create: %q: %v", first, err)
	}
	id := regexp.MustCompile(`(?m)^(\w{12})\s+bench\s+default\s+\S+\s+live\s+-\s+-$`).FindStringSubmatch(s.do("keys", "list"))
	if id == nil {
		t.Fatalf("keys list:\n%s", s.do("keys", "list"))
	}
	s.shows(s.do("keys", "update", id[1], "--budget", "2.5", "--reset=weekly", "--models", "llama*,qwen3", "--rpm", "60", "--concurrent", "4",
		"--price-cap-out", "0.3", "--expires", "90d", "--scopes", "inference"),
		`^id +`+id[1]+`$`, `^state +live$`, `^models +llama\*, qwen3$`, `^limits +60 requests/min, 4 at once$`, `^scopes +inference$`,
		`^budget +2\.5 TON \(2500000000 nanoTON\), reset weekly$`, `^spent of it +0 TON`, `^starts anew +20\d\d-`, `in -, out 0\.3 TON \(300000000 nanoTON\)`)
	s.shows(s.do("keys", "update", id[1], "--budget", "none", "--models", "all", "--rpm", "none", "--expires", "never", "--name", "new name"),
		`^name +new name$`, `^models +all$`, `^budget +-$`, `^limits +4 at once$`, `^expires +-$`)
	s.shows(s.do("keys", "update", id[1], "--provider", `{"sort": "price", "only": ["Berlin"]}`), `^provider +\{"sort":"price","only":\["Berlin"\]\}$`)
	s.shows(s.do("keys", "update", id[1], "--rpm", "5"), `^provider +\{"sort"`)
	if status, _, problem := s.try("keys", "update", id[1], "--provider", `{"max_price":{"prompt":"cheap"}}`); status != 2 ||
		!strings.Contains(problem, "--provider: provider.max_price.prompt is not a number") {
		t.Errorf("a wish that is none: status %d, %s", status, problem)
	}
	s.shows(s.do("keys", "update", id[1], "--provider", "none"), `^provider +-$`)
	second := strings.TrimSpace(s.do("keys", "rotate", id[1], "--grace", "1h"))
	s.shows(s.do("keys", "show", id[1]), `^an older text works until +20`)
	for _, key := range []string{first, second} {
		if !s.live(key) {
			t.Error("a key does not work in the grace of its rotation")
		}
	}
	s.do("keys", "revoke", id[1])
	s.shows(s.do("keys", "list", "--account", "default"), `^`+id[1]+` .* revoked 20`)
	if s.live(first) || s.live(second) {
		t.Error("a revoked key works")
	}
	out, err := os.ReadFile(filepath.Join(s.data, "ledger.db"))
	if err != nil || strings.Contains(string(out), first[3:20]) || strings.Contains(string(out), second[3:20]) {
		t.Errorf("the file has a key: %v", err)
	}
}

// live says whether a gateway would take the key.
func (s *shell) live(key string) (live bool) {
	s.t.Helper()
	err := withBook(&options{data: s.data}, func(_ context.Context, b *accounts.Book) error {
		live = b.Key(secret.Hash(key)) != nil
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return live
}

func TestAccountsCommand(t *testing.T) {
	s := &shell{t, t.TempDir()}
	s.shows(s.do("accounts", "create", "acme", "--tpm", "1000"), `^name +acme$`, `^balance +0 TON \(0 nanoTON\)$`, `^limits of each key +1000 tokens/min$`)
	s.do("keys", "create", "--name", "app", "--account", "acme")
	for range 2 {
		s.shows(s.do("accounts", "grant", "acme", "1.5", "--id", "a"), `^balance +1\.5 TON \(1500000000 nanoTON\)$`)
	}
	s.shows(s.do("accounts", "suspend", "acme", "--reason", "unpaid bills"), `^suspended +20.*: unpaid bills$`)
	s.shows(s.do("accounts", "list"), `^acme +1\.5 TON +1500000000 +20\S+ +20\S+: unpaid bills$`)
	s.shows(s.do("accounts", "resume", "acme"), `^suspended +-$`, `^keys +1, 1 of them live$`)
	s.shows(s.do("accounts", "limit", "acme", "--rpm", "5"), `^limits of each key +5 requests/min, 1000 tokens/min$`)
	for _, words := range [][]string{
		{"accounts", "create", "acme"},
		{"accounts", "create", "a b"},
		{"accounts", "show", "nobody"},
		{"accounts", "suspend", "acme"},
		{"accounts", "grant", "acme", "1", "--id", "a"},
		{"accounts", "grant", "acme", "1"},
		{"keys", "list", "--account", "nobody"},
		{"keys", "create", "x", "--account", "nobody"},
		{"keys", "create", "x", "--reset", "hourly", "--budget", "1"},
		{"keys", "show", "nosuchkey"},
		{"keys", "revoke", "nosuchkey"},
		{"keys", "rotate", "nosuchkey"},
		{"usage", "--by", "hour"},
		{"usage", "--from", "today"},
	} {
		if status, out, problem := s.try(words...); status != 1 || out != "" || problem == "" {
			t.Errorf("%q: status %d: %s%s", words, status, out, problem)
		}
	}
	for _, words := range [][]string{
		{"accounts"},
		{"accounts", "burn", "acme"},
		{"accounts", "create"},
		{"accounts", "create", "a", "b"},
		{"accounts", "grant", "acme", "much", "--id", "b"},
		{"accounts", "grant", "acme", "0.0000000001", "--id", "b"},
		{"accounts", "create", "x", "--rpm", "many"},
		{"accounts", "create", "x", "--budget", "1"},
		{"keys"},
		{"keys", "sell", "x"},
		{"keys", "create"},
		{"keys", "create", "a", "b"},
		{"keys", "create", "a", "--name", "b"},
		{"keys", "create", "a", "--budget", "-1"},
		{"keys", "create", "a", "--expires", "soon"},
		{"keys", "create", "a", "--expires", "-3h"},
		{"keys", "list", "--grace", "1h"},
		{"keys", "rotate", "x", "--grace", "x"},
		{"workers", "list", "--account", "acme"},
		{"usage", "acme"},
		{"usage", "--colour"},
	} {
		if status, out, problem := s.try(words...); status != 2 || out != "" || problem == "" {
			t.Errorf("%q: status %d: %s%s", words, status, out, problem)
		}
	}
}

func TestUsageCommand(t *testing.T) {
	s := &shell{t, t.TempDir()}
	s.do("accounts", "create", "acme")
	l, err := ledger.Open(t.Context(), "sqlite:"+filepath.Join(s.data, "ledger.db")) // as a gateway that runs
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, u := range []ledger.UsageLine{
		{Day: "2026-11-25", Customer: "customer:acme", Key: "k", Item: "m", Counts: [4]int64{10, 4, 5, 1}, Cost: 100},
		{Day: "2026-11-26", Customer: "customer:acme", Key: "k", Item: "m", Counts: [4]int64{1, 0, 2, 0}, Cost: 1_500_000_000},
		{Day: "2026-11-26", Customer: "customer:b", Key: "k2", Item: "m", User: "=1+1", Cost: 9},
	} {
		u.Requests = 1
		err := l.Post(t.Context(), []ledger.Transfer{{
			ID: ledger.ID{1, byte(i)}, Kind: "settle", At: time.Now(), Ref: "x", Usage: []ledger.UsageLine{u},
			Legs: []ledger.Leg{{Account: "test", Amount: -u.Cost}, {Account: "fees", Amount: u.Cost}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.shows(s.do("usage"), `^DAY +REQUESTS`, `^2026-11-25 +1 +10 +4 +5 +1 +100 +0\.0000001$`, `^total +3 +11 +4 +7 +1 +1500000109 +1\.500000109$`)
	s.shows(s.do("usage", "--account", "acme", "--by", "model,key", "--to", "2026-11-25"), `^m +k +1 `, `^total +1 `)
	if out := s.do("usage", "--csv", "--by", "account,user", "--from", "2026-11-26"); out != "account,user,requests,input_tokens,cached_tokens,output_tokens,"+
		"reasoning_tokens,cost_nanoton,cost_ton\nacme,,1,1,0,2,0,1500000000,1.5\nb,'=1+1,1,0,0,0,0,9,0.000000009\n" {
		t.Errorf("CSV:\n%s", out)
	}
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 5, time.FixedZone("east", 3600))
	for text, want := range map[string]string{
		"never": "0001-01-01T00:00:00Z", "90d": "2027-02-24T11:00:00Z", "12h": "2026-11-26T23:00:00Z", "2026-12-31": "2026-12-31T00:00:00Z",
		"2026-12-31T12:00:00+02:00": "2026-12-31T10:00:00Z", "": "", "0d": "", "-1d": "", "40000d": "", "1.5d": "", "0s": "", "-1h": "", "2026-02-30": "",
	} {
		got, err := expiry(text, now)
		if (err != nil) != (want == "") || err == nil && got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
		}
	}
}

func TestTON(t *testing.T) {
	for text, want := range map[string]nanoton.Amount{"1.5": 1.5e9, "1 TON": 1e9, "0.000000001": 1} {
		if got, err := readTON(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "TON", "1e9", "1,5", "1.0000000001", "99999999999"} {
		if got, err := readTON(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
