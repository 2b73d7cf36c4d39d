package rates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/billing/ledger"
	"cocoon/internal/nanoton"
)

func TestMedian(t *testing.T) {
	m := newMarket(t, 5)
	m.want(0, false)
	m.says("3.00", "3.03", "3.01", "9", "3.02") // one is far off
	m.round()
	r := m.want(3_015_000, false)
	if len(r.Sources) != 4 || r.Sources[0].Source != "x0" || r.Sources[3].Source != "x1" {
		t.Errorf("of %v", r.Sources)
	}
	if got := r.USD(1_500_000); got != "0.004523" { // 0.0045225
		t.Errorf("USD = %s", got)
	}
	m.says("3.00", "3.03", "3.06", "9", "0.1") // the two last are off, the others agree
	m.round()
	m.want(3_030_000, false)
	m.says("3.00", "", "", "", "") // the other quotes still count
	m.round()
	m.want(3_030_000, false)
	if why := m.f.Failing(); len(why) != 4 || why["x1"] != "status 503" {
		t.Errorf("failing: %v", why)
	}
}

// Without a quorum the last rate stays, marked as stale, for half an hour, and then there is none.
func TestNoQuorum(t *testing.T) {
	m := newMarket(t, 4)
	m.says("3", "3.01", "3.02")
	m.round()
	m.want(3_010_000, false)
	m.says("3", "3.01")
	m.round()
	m.want(3_010_000, false) // x2 said it lately
	m.now = m.now.Add(DefaultMaxAge)
	m.round()
	m.want(3_010_000, true)
	m.says("3", "4", "5", "6") // many, but none agrees
	m.round()
	m.want(3_010_000, true)
	m.now = m.now.Add(DefaultKeep - 3*DefaultMaxAge)
	m.want(3_010_000, true)
	m.now = m.now.Add(3 * DefaultMaxAge)
	m.want(0, false)
	m.says("7", "7", "7")
	m.round()
	m.want(7_000_000, false) // so late it is no jump
	m.now = m.now.Add(DefaultMaxAge + 1)
	m.want(7_000_000, true) // nobody asks any more
}

// A rate that jumps needs two rounds in a row, with new quotes in both.
func TestJump(t *testing.T) {
	m := newMarket(t, 3)
	m.says("3", "3", "3")
	m.round()
	m.says("3.29", "3.29", "3.29")
	m.round()
	m.want(3_290_000, false) // less than 10 %
	m.says("3.5", "3.5", "3.5")
	m.round()
	m.want(3_290_000, true)
	m.says("2.5", "2.5", "2.5") // another one
	m.round()
	m.want(3_290_000, true)
	m.says()
	m.round()
	m.want(3_290_000, true) // the quotes are those of the round before
	m.says("2.5", "2.51", "2.5")
	m.round()
	m.want(2_500_000, false)
	m.says()
	m.round()
	m.want(2_500_000, false) // no jump from there
	m.says("3.29", "3.29", "3.29")
	m.round()
	m.want(2_500_000, true)
	m.says("2.5", "2.5", "2.5")
	m.round()
	m.want(2_500_000, false)
	m.now = m.now.Add(jumpWithin)
	m.says("5", "5", "5")
	m.round()
	m.want(5_000_000, false) // slower than that it is none
}

// A rate stays the same while the median hardly moves, for ten minutes; each is stored as it was shown.
func TestStored(t *testing.T) {
	m := newMarket(t, 3)
	m.says("3", "3.01", "3.02")
	m.round()
	first := m.want(3_010_000, false)
	if !strings.HasPrefix(first.ID, fmt.Sprintf("r-%d-", m.now.Unix())) {
		t.Errorf("ID %s", first.ID)
	}
	m.says("3", "3.011", "3.02")
	m.round()
	if r := m.want(3_010_000, false); r.ID != first.ID {
		t.Errorf("another rate, %s after %s", r.ID, first.ID)
	}
	for range int(renewAfter / DefaultEvery) {
		m.round()
	}
	second := m.want(3_011_000, false)
	for _, want := range []Rate{first, second} {
		got, err := m.f.Rate(t.Context(), want.ID)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		if micro, kept := agree(got.Sources, 1); micro != got.MicroUSD || len(kept) != 3 {
			t.Errorf("computed again it is %d of %v", micro, kept)
		}
	}
	if _, err := m.f.Rate(t.Context(), "r-1-00"); !errors.Is(err, ErrNoRate) {
		t.Errorf("got %v", err)
	}
	m.open() // again, after a crash
	m.want(3_011_000, true)
	m.says("6", "6", "6")
	m.round()
	m.want(3_011_000, true) // a jump, still
	m.says("3.011", "3.011", "3.011")
	m.round()
	if r := m.want(3_011_000, false); r.ID != second.ID {
		t.Errorf("another rate, %s after %s", r.ID, second.ID)
	}
	m.now = m.now.Add(DefaultKeep + time.Minute)
	m.open()
	m.want(0, false)

	m.now = first.At.Add(DefaultRetain + time.Second)
	if err := m.f.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.f.Rate(t.Context(), first.ID); !errors.Is(err, ErrNoRate) {
		t.Errorf("an old rate: %v", err)
	}
	if _, err := m.f.Rate(t.Context(), second.ID); err != nil {
		t.Errorf("one that is not as old: %v", err)
	}
}

// What can't be stored is not shown; what another program stored is left alone.
func TestStoreFails(t *testing.T) {
	m := newMarket(t, 3)
	shelf := m.c.Store.(*ledger.Ledger)
	for id, body := range map[string]string{
		"r-1": `{"v":2,"micro":1}`, "r-2": `x`, "r-3": `{"v":1,"at":"2026-11-26T12:00:00Z","micro_usd_per_ton":-5,"sources":null}`,
	} {
		if _, err := shelf.PutDocument(t.Context(), ledger.Document{Kind: kind, ID: id, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	m.open()
	m.want(0, false)
	if _, err := m.f.Rate(t.Context(), "r-2"); err == nil || errors.Is(err, ErrNoRate) {
		t.Errorf("got %v", err)
	}
	m.says("3", "3", "3")
	if err := shelf.Close(); err != nil {
		t.Fatal(err)
	}
	m.round()
	m.want(0, false)
	if _, err := Open(t.Context(), m.c); err == nil {
		t.Error("opened without its store")
	}
	m.c.Store = nil
	m.open()
	m.round()
	r := m.want(3_000_000, false)
	if _, err := m.f.Rate(t.Context(), r.ID); !errors.Is(err, ErrNoRate) {
		t.Errorf("got %v", err)
	}
}

func TestRun(t *testing.T) {
	m := newMarket(t, 3)
	m.says("3", "3", "3")
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{}, 1)
	m.c.Every, m.c.MaxAge = time.Millisecond, time.Hour
	m.open()
	m.exchanges[2].does(func(w http.ResponseWriter, r *http.Request) {
		text(`{"data":[{"last":"3"}]}`)(w, r)
		select {
		case asked <- struct{}{}:
		default:
		}
	})
	done := make(chan error, 1)
	go func() { done <- m.f.Run(ctx) }()
	for range 3 {
		<-asked
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	m.want(3_000_000, false)
}

func TestConfig(t *testing.T) {
	good := func() Config {
		c := Config{}
		for _, name := range []string{"a", "b", "c", "d"} {
			c.Sources = append(c.Sources, Source{Name: name, URL: "https://" + name + ".test/{symbol}", Path: "{symbol}.0", Symbol: "TON"})
		}
		return c
	}
	f, err := Open(t.Context(), good())
	if err != nil {
		t.Fatal(err)
	}
	if f.c.Quorum != 3 || f.Coin() != "TON" || f.sources[1].url != "https://b.test/TON" || f.sources[1].path[0] != "TON" {
		t.Errorf("%+v", f.sources)
	}
	for name, change := range map[string]func(c *Config){
		"none":         func(c *Config) { c.Sources = nil },
		"many":         func(c *Config) { c.Sources = make([]Source, sourcesMax+1) },
		"twice":        func(c *Config) { c.Sources[1].Name = "a" },
		"name":         func(c *Config) { c.Sources[1].Name = "A b" },
		"no name":      func(c *Config) { c.Sources[1].Name = "" },
		"no symbol":    func(c *Config) { c.Sources[1].Symbol = "" },
		"scheme":       func(c *Config) { c.Sources[1].URL = "file:///etc/passwd?key=secret" },
		"no host":      func(c *Config) { c.Sources[1].URL = "https:///x?key=secret" },
		"no URL":       func(c *Config) { c.Sources[1].URL = "https://a.test/%zz?key=secret" },
		"path":         func(c *Config) { c.Sources[1].Path = "a..b" },
		"long path":    func(c *Config) { c.Sources[1].Path = strings.Repeat("a.", pathMax) + "a" },
		"quorum":       func(c *Config) { c.Quorum = 5 },
		"below quorum": func(c *Config) { c.Quorum = -1 },
		"time":         func(c *Config) { c.Keep = -1 },
		"age":          func(c *Config) { c.MaxAge = time.Second },
		"coin":         func(c *Config) { c.Coin = "A B" },
	} {
		c := good()
		change(&c)
		if _, err := Open(t.Context(), c); !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A key in a URL is in no log and no error.
func TestKeyIsNotLogged(t *testing.T) {
	m := newMarket(t, 3)
	var logs strings.Builder
	m.c.Log = slog.New(slog.NewTextHandler(&logs, nil))
	m.exchanges[0].does(redirects)
	m.c.Sources[0].URL = m.exchanges[0].url + "/?key=hunter2"
	m.c.Sources[1].URL = "http://127.0.0.1:1/?key=hunter2"
	m.c.Sources[2].URL = m.exchanges[2].url + "/?key=hunter2"
	m.open()
	m.round()
	if why := fmt.Sprint(m.f.Failing()); len(m.f.Failing()) != 3 || strings.Contains(logs.String()+why, "hunter2") {
		t.Errorf("%s\n%s", why, logs.String())
	}
}

func ExampleRate_USD() {
	r := Rate{MicroUSD: 3_008_000}
	fmt.Println(r.USD(1_500_000), r.USD(-2*nanoton.PerTON), r.PerMTok(50_000_000))
	// Output: 0.004512 -6.016000 0.150400
}
