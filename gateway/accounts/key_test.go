package accounts

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cocoon/billing/ledger"
)

// loose makes a key that no ledger knows, for what needs none.
func loose(c *clock, s Settings, a Account) *Key {
	k := &Key{ID: "0123456789ab", account: "x", now: c.now}
	k.apply(&Record{Account: "x", Settings: s}, &a, Limits{})
	return k
}

func TestConcurrent(t *testing.T) {
	c := newClock()
	k := loose(c, Settings{Limits: Limits{Concurrent: 2}}, Account{})
	for range 2 {
		if d := k.Enter(c.now(), 0); d != nil {
			t.Fatal(d)
		}
	}
	d := k.Enter(c.now(), 0)
	if d == nil || d.What != DenyConcurrent || d.Limit != 2 || d.Wait <= 0 || k.Running() != 2 {
		t.Fatalf("the third: %+v", d)
	}
	k.Leave()
	if d := k.Enter(c.now(), 0); d != nil {
		t.Fatal(d)
	}
}

func TestRequestsAMinute(t *testing.T) {
	c := newClock()
	k := loose(c, Settings{Limits: Limits{RequestsPerMinute: 30}}, Account{})
	for i := range 30 {
		if d := k.Enter(c.now(), 0); d != nil {
			t.Fatalf("request %d: %v", i, d)
		}
	}
	d := k.Enter(c.now(), 0)
	if d == nil || d.What != DenyRequests || d.Limit != 30 || d.Wait != 2*time.Second || k.Running() != 30 {
		t.Fatalf("the 31st: %+v", d)
	}
	c.add(d.Wait - time.Millisecond)
	if k.Enter(c.now(), 0) == nil {
		t.Fatal("passes before its time")
	}
	c.add(time.Millisecond)
	if d := k.Enter(c.now(), 0); d != nil {
		t.Fatalf("does not pass when it was told to: %v", d)
	}
	c.add(time.Hour)
	if n := passes(k, c); n != 30 {
		t.Fatalf("%d pass after an hour, want a minute's worth", n)
	}
	k.apply(&Record{Settings: Settings{Limits: Limits{RequestsPerMinute: 60}}}, &Account{}, Limits{})
	c.add(time.Second)
	if n := passes(k, c); n != 1 {
		t.Fatalf("%d pass within a second of the new limit, want 1", n)
	}
	k.apply(&Record{}, &Account{}, Limits{})
	for range 1000 {
		if d := k.Enter(c.now(), math.MaxInt64); d != nil {
			t.Fatalf("without a limit: %v", d)
		}
	}
}

// passes is how many requests pass at once.
func passes(k *Key, c *clock) (n int) {
	for ; k.Enter(c.now(), 0) == nil; n++ {
		k.Leave()
	}
	return n
}

func TestTokensAMinute(t *testing.T) {
	c := newClock()
	k := loose(c, Settings{Limits: Limits{TokensPerMinute: 600, RequestsPerMinute: 10}}, Account{})
	enter := func(tokens int64) *Denial {
		d := k.Enter(c.now(), tokens)
		if d == nil {
			k.Leave()
		}
		return d
	}
	if d := enter(500); d != nil {
		t.Fatal(d)
	}
	d := enter(200)
	if d == nil || d.What != DenyTokens || d.Wait != 10*time.Second {
		t.Fatalf("beyond the limit: %+v", d)
	}
	h := http.Header{}
	k.Headers(h, c.now())
	if h.Get("x-ratelimit-remaining-requests") != "9" {
		t.Fatal("a request that was denied for its tokens counts as one")
	}
	k.Used(100, 500)
	if d := enter(500); d != nil {
		t.Fatalf("what was not used did not come back: %v", d)
	}
	k.Used(1700, 500) // 1200 more than was charged, with 0 left
	if d := enter(1); d == nil || d.Wait.Round(100*time.Millisecond) != 120100*time.Millisecond {
		t.Fatalf("after a request that took more: %+v", d)
	}
	c.add(121 * time.Second)
	if d := enter(1); d != nil {
		t.Fatal(d)
	}
	c.add(time.Hour)
	if d := enter(1_000_000); d != nil {
		t.Fatalf("a guess above a minute's worth never passes: %v", d)
	}
	k.Used(600, 1_000_000)
	if d := enter(1); d == nil || d.Wait > time.Second {
		t.Fatalf("charged for more than was used: %+v", d)
	}
	k.Used(math.MaxInt32, 0)
	if d := enter(1); d == nil || d.Wait > (debtMax+1)*time.Minute {
		t.Fatalf("one request locks the key for %v", d.Wait)
	}
	k.Used(0, math.MaxInt64)
	k.Used(-5, -5)
}

func TestHeaders(t *testing.T) {
	c := newClock()
	h := http.Header{}
	loose(c, Settings{Limits: Limits{Concurrent: 5}}, Account{}).Headers(h, c.now())
	if len(h) != 0 {
		t.Fatalf("headers of a key without these limits: %v", h)
	}
	k := loose(c, Settings{Limits: Limits{RequestsPerMinute: 500, TokensPerMinute: 6000}}, Account{})
	if d := k.Enter(c.now(), 5999); d != nil {
		t.Fatal(d)
	}
	k.Headers(h, c.now())
	want := http.Header{
		"X-Ratelimit-Limit-Requests": {"500"}, "X-Ratelimit-Remaining-Requests": {"499"}, "X-Ratelimit-Reset-Requests": {"120ms"},
		"X-Ratelimit-Limit-Tokens": {"6000"}, "X-Ratelimit-Remaining-Tokens": {"1"}, "X-Ratelimit-Reset-Tokens": {"59.99s"},
	}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Fatalf("headers (-want +got):\n%s", diff)
	}
	k.Used(6000*7, 5999)
	k.Headers(h, c.now())
	if h.Get("X-Ratelimit-Reset-Tokens") != "7m0s" || h.Get("X-Ratelimit-Remaining-Tokens") != "0" {
		t.Fatalf("in debt: %v", h)
	}
	c.add(time.Hour)
	k.Headers(h, c.now())
	for _, name := range []string{"X-Ratelimit-Reset-Tokens", "X-Ratelimit-Reset-Requests"} {
		if d, err := time.ParseDuration(h.Get(name)); err != nil || d != 0 {
			t.Fatalf("%s: %q", name, h.Get(name))
		}
	}
}

// TestLimiterModel compares what passes with a count in whole numbers.
func TestLimiterModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newClock()
		limits := Limits{
			RequestsPerMinute: rapid.Int64Range(1, 90).Draw(t, "rpm"), TokensPerMinute: rapid.Int64Range(1, 5000).Draw(t, "tpm"),
			Concurrent: rapid.Int64Range(1, 8).Draw(t, "concurrent"),
		}
		k := loose(c, Settings{Limits: limits}, Account{})
		// In tokens (requests) times milliseconds a minute, so that they are whole.
		const minute = 60_000
		requests, tokens, running := limits.RequestsPerMinute*minute, limits.TokensPerMinute*minute, int64(0)
		var open []int64
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			ms := rapid.Int64Range(0, 3000).Draw(t, "wait")
			c.add(time.Duration(ms) * time.Millisecond)
			requests = min(requests+ms*limits.RequestsPerMinute, limits.RequestsPerMinute*minute)
			tokens = min(tokens+ms*limits.TokensPerMinute, limits.TokensPerMinute*minute)
			if len(open) > 0 && rapid.Bool().Draw(t, "leave") {
				used := rapid.Int64Range(0, 2*limits.TokensPerMinute).Draw(t, "used")
				k.Used(used, open[0])
				k.Leave()
				tokens = min(tokens-(used-min(open[0], limits.TokensPerMinute))*minute, limits.TokensPerMinute*minute)
				open, running = open[1:], running-1
				continue
			}
			n := rapid.Int64Range(0, 2*limits.TokensPerMinute).Draw(t, "tokens")
			charge := min(n, limits.TokensPerMinute)
			want := ""
			switch {
			case running == limits.Concurrent:
				want = DenyConcurrent
			case requests < minute:
				want = DenyRequests
			case tokens < charge*minute:
				want = DenyTokens
			}
			got := ""
			d := k.Enter(c.now(), n)
			if d != nil {
				got = d.What
			}
			if got != want && !near(requests, minute) && !near(tokens, charge*minute) {
				t.Fatalf("got %q, want %q: requests %d, tokens %d of %d", got, want, requests, tokens, charge*minute)
			}
			if got == "" {
				requests, tokens, running, open = requests-minute, tokens-charge*minute, running+1, append(open, n)
			}
			if k.Running() != running {
				t.Fatalf("%d running, want %d", k.Running(), running)
			}
		}
	})
}

// near says that rounding decides.
func near(a, b int64) bool { return a-b > -2 && a-b < 2 }

// TestManyAtOnce: what passes is exactly the limits, whoever asks at the same time.
func TestManyAtOnce(t *testing.T) {
	c := newClock()
	k := loose(c, Settings{Limits: Limits{RequestsPerMinute: 300, TokensPerMinute: 1000, Concurrent: 50}}, Account{})
	var passed, most atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 100 {
				if k.Enter(c.now(), 5) != nil {
					continue
				}
				passed.Add(1)
				if n := k.Running(); n > most.Load() {
					most.Store(n)
				}
				k.Leave()
			}
		})
	}
	wg.Wait()
	if passed.Load() != 200 || most.Load() > 50+16 || k.Running() != 0 {
		t.Fatalf("%d passed, %d at once", passed.Load(), most.Load())
	}
}

func TestAllows(t *testing.T) {
	for _, tc := range []struct {
		patterns, name string
		want           bool
	}{
		{"", "anything", true},
		{"llama3", "llama3", true},
		{"llama3", "llama3:1b", false},
		{"llama*", "llama3:1b", true},
		{"llama*", "meta/llama", false},
		{"*", "a/b", true},
		{"meta-llama/*", "meta-llama/Llama-3/x", true},
		{"*-instruct", "a-instruct", true},
		{"*-instruct", "a-instruct-2", false},
		{"a*b*c", "abc", true},
		{"a*b*c", "aXbYc", true},
		{"a*b*c", "acb", false},
		{"a*a", "a", false},
		{"a*ab", "ab", false},
		{"x,llama*", "llama", true},
		{"LLAMA*", "llama", false},
		{"[a]", "a", false},
	} {
		s := Settings{}
		if tc.patterns != "" {
			s.Models = strings.Split(tc.patterns, ",")
		}
		if got := loose(newClock(), s, Account{}).Allows(tc.name); got != tc.want {
			t.Errorf("%q allows %q: %v", tc.patterns, tc.name, got)
		}
	}
}

func TestMatchesIsTheRegexp(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab*")), 0, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		pattern := text.Draw(t, "pattern")
		name := strings.ReplaceAll(text.Draw(t, "name"), "*", "/")
		re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$")
		if got := matches(pattern, name); got != re.MatchString(name) {
			t.Fatalf("%q and %q: %v", pattern, name, got)
		}
	})
}

// BenchmarkEnter is what each request pays: without limits nearly nothing.
func BenchmarkEnter(b *testing.B) {
	c := newClock()
	for name, l := range map[string]Limits{"unlimited": {}, "limited": {RequestsPerMinute: LimitMax, TokensPerMinute: LimitMax, Concurrent: 10}} {
		b.Run(name, func(b *testing.B) {
			k := loose(c, Settings{Limits: l}, Account{})
			now := c.now()
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Microsecond)
				if k.Enter(now, 1) == nil {
					k.Used(1, 1)
					k.Leave()
				}
			}
		})
	}
}

// library is a ledger with many keys.
type library struct {
	Store
	keys []ledger.Document
}

func newLibrary(b *testing.B, n int) library {
	account, err := json.Marshal(Account{V: version, Name: DefaultAccount})
	must(b, err)
	l := library{keys: []ledger.Document{{Kind: kindAccount, ID: DefaultAccount, Version: 1, Body: account}}}
	for i := range n {
		_, hash := newText()
		body, err := json.Marshal(Record{
			V: version, ID: hash[:12], Account: DefaultAccount, Created: time.Now().UTC(), Hashes: []Hash{{SHA256: hash}},
			Settings: Settings{
				Name: fmt.Sprintf("key %d", i), Scopes: []string{ScopeInference, ScopeAccount}, Models: []string{"llama*"},
				Limits: Limits{RequestsPerMinute: 60},
			},
		})
		must(b, err)
		l.keys = append(l.keys, ledger.Document{Kind: kindKey, ID: hash[:12], Version: int64(i + 2), Body: body})
	}
	return l
}

func (l library) DocumentsOf(_ context.Context, kind string, after int64, f func(ledger.Document) error) error {
	for _, d := range l.keys[after:] {
		if d.Kind != kind {
			continue
		}
		if err := f(d); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkBook has 100,000 keys: what reading them all takes, and making the map anew after each change, and a look-up.
func BenchmarkBook(b *testing.B) {
	l := newLibrary(b, 100_000)
	open := func() *Book {
		book, err := Open(b.Context(), Config{Store: l})
		must(b, err)
		return book
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b.Run("open", func(b *testing.B) {
		var book *Book
		before := heap()
		for b.Loop() {
			book = open()
		}
		b.ReportMetric(float64(heap()-before)/float64(len(l.keys)), "heap-B/key")
		runtime.KeepAlive(book)
	})
	book := open()
	b.Run("change", func(b *testing.B) {
		for b.Loop() {
			book.rebuild()
		}
	})
	b.Run("look up", func(b *testing.B) {
		hash, err := hex.DecodeString(book.Keys("")[0].Record().Hashes[0].SHA256)
		must(b, err)
		b.ReportAllocs()
		for b.Loop() {
			if book.Key([32]byte(hash)) == nil {
				b.Fatal("gone")
			}
		}
	})
}
