// Package rates is the Feed: what a TON is worth in US dollars, by several sources that need not be trusted one by one.
//
// It is a view. Prices and balances are nanoTON; dollars are shown beside them, and nothing is charged by them. Every
// round asks all sources, takes the answers that are not old, and needs a quorum of them within 2 % of their median.
// The median of those is the rate. If it jumps, it needs a second round that says the same. Without a quorum the last
// rate stays for a while, marked as stale, and then there is none.
//
// A rate has an ID and is stored with the quotes that it was made of before anybody sees it, so that what was shown can
// be computed again: [Feed.Rate] and [Rate.USD] give the same digits later. It stays the same while the median moves by
// less than 0.2 %, for ten minutes at most, so that there are some hundred rates a day and not thousands.
package rates

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cocoon/billing/ledger"
)

const (
	// DefaultQuorum is how many sources must agree: with two, one of them that lies could not be told from the other.
	DefaultQuorum = 3
	// DefaultMaxAge is how old a quote may be that counts: a source may miss some rounds.
	DefaultMaxAge = 2 * time.Minute
	// DefaultEvery is the time between rounds: free interfaces allow a few questions a minute.
	DefaultEvery = 30 * time.Second
	// DefaultKeep is how long the last rate is shown without a quorum.
	DefaultKeep = 30 * time.Minute
	// DefaultRetain is how long a rate's quotes are stored: bills are disputed within a quarter.
	DefaultRetain = 90 * 24 * time.Hour

	sourcesMax = 16               // each is asked every round
	coinMax    = 12               // characters of a ticker
	nameMax    = 32               // bytes of a source's name
	renewAfter = 10 * time.Minute // a rate that is as old is replaced by the same, so that its ID says when
	jumpWithin = 5 * time.Minute  // what is compared with to see a jump
	pruneMax   = 500              // rates deleted at once, a second of SQL
)

// In parts per thousand of what it is compared with.
const (
	movedPPT = 2   // a median that differs more makes a new rate; sources differ by more among themselves
	apartPPT = 20  // a quote that differs more from the median does not count
	jumpPPT  = 100 // a median that differs more from what was lately needs a second round
)

var (
	// ErrConfig says what is wrong with a configuration.
	ErrConfig = errors.New("rates: not valid")
	// ErrNoRate says that a rate is not stored, or not any more.
	ErrNoRate = errors.New("rates: there is no such rate")
)

// Source is where a price of the coin in US dollars is asked for: an answer in JSON to a GET.
type Source struct {
	Name string // 1 to 32 of a-z 0-9 . -
	// URL is http:// or https://; "{symbol}" in it, and in Path, stands for Symbol. It may hold a key: it is never logged.
	URL string
	// Path leads to the price in the answer: members and indexes, such as "data.0.last". See [ParsePath].
	Path   string
	Symbol string // what the source calls the coin: "TONUSDT", "GRAMUSDT"
}

// Store is what the Feed needs of *ledger.Ledger.
type Store interface {
	PutDocument(ctx context.Context, d ledger.Document) (int64, error)
	Document(ctx context.Context, kind, id string) (ledger.Document, error)
	DocumentsOf(ctx context.Context, kind string, after int64, f func(ledger.Document) error) error
}

// Config is what a Feed is made of.
type Config struct {
	Coin    string        // the ticker to show; it was renamed before. Empty: "TON"
	Sources []Source      // 1 to 16, by different operators
	Quorum  int           // zero: DefaultQuorum, or all sources if there are fewer
	MaxAge  time.Duration // of a quote; zero: DefaultMaxAge
	Every   time.Duration // a round; zero: DefaultEvery
	Keep    time.Duration // how long the last rate stays without a quorum; zero: DefaultKeep
	Retain  time.Duration // how long rates are stored; the ledger keeps the names of older ones. Zero: DefaultRetain
	Store   Store         // nil: rates are not stored, and can't be looked up
	// Transport makes the connections; nil: one with the system's roots and proxy.
	Transport http.RoundTripper
	Log       *slog.Logger     // nil: nothing is logged
	Now       func() time.Time // nil: time.Now
}

// Quote is what a source said.
type Quote struct {
	Source   string    `json:"source"`
	MicroUSD int64     `json:"micro_usd_per_ton"`
	At       time.Time `json:"at"` // when its answer came, by our clock
}

// Feed asks for rates. Its methods may be called concurrently.
type Feed struct {
	c       Config
	log     *slog.Logger
	client  *http.Client
	sources []source
	stored  []stored // by version; owned by Run

	mu        sync.Mutex
	quotes    []Quote   // guarded by mu: the latest of each source, by its place; zero: none yet
	failing   []string  // guarded by mu: why a source's last answer did not count; empty: it did
	rate      *Rate     // guarded by mu: the current one, never changed; nil: none yet
	confirmed time.Time // guarded by mu: when a round last agreed with it
	good      bool      // guarded by mu: the last round did
	past      []median  // guarded by mu: of the rounds that were accepted, as far back as jumpWithin
	before    *median   // guarded by mu: of the round before, accepted or not; nil: it had no quorum
}

// median is a round's.
type median struct {
	micro int64
	at    time.Time
}

// Open checks a configuration and reads the last rate from the store. Run asks for others.
func Open(ctx context.Context, c Config) (*Feed, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	f := &Feed{
		c: c, log: c.Log, quotes: make([]Quote, len(c.Sources)), failing: make([]string, len(c.Sources)),
		client: &http.Client{Transport: c.Transport, Timeout: fetchMax, CheckRedirect: redirect},
	}
	for i, s := range c.Sources {
		one, err := s.compile()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(f.sources, func(other source) bool { return other.name == one.name }) {
			return nil, fmt.Errorf("%w: source %s is there twice", ErrConfig, s.Name)
		}
		f.sources = append(f.sources, one)
		f.quotes[i].Source = s.Name
	}
	if c.Store == nil {
		return f, nil
	}
	if err := f.load(ctx); err != nil {
		return nil, fmt.Errorf("reading rates: %w", err)
	}
	return f, nil
}

// complete fills in what is left out and checks the rest.
func (c *Config) complete() error {
	if c.Coin == "" {
		c.Coin = "TON"
	}
	if c.Quorum == 0 {
		c.Quorum = min(DefaultQuorum, len(c.Sources))
	}
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{{&c.MaxAge, DefaultMaxAge}, {&c.Every, DefaultEvery}, {&c.Keep, DefaultKeep}, {&c.Retain, DefaultRetain}} {
		if *d.value == 0 {
			*d.value = d.usual
		}
		if *d.value < 0 {
			return fmt.Errorf("%w: a time of %v", ErrConfig, *d.value)
		}
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case len(c.Coin) > coinMax || strings.ContainsFunc(c.Coin, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("%w: coin %.40q", ErrConfig, c.Coin)
	case len(c.Sources) == 0 || len(c.Sources) > sourcesMax:
		return fmt.Errorf("%w: %d sources, want 1 to %d", ErrConfig, len(c.Sources), sourcesMax)
	case c.Quorum < 1 || c.Quorum > len(c.Sources):
		return fmt.Errorf("%w: a quorum of %d of %d sources", ErrConfig, c.Quorum, len(c.Sources))
	case c.MaxAge < c.Every:
		return fmt.Errorf("%w: quotes that are older than %v don't count, and a round is every %v", ErrConfig, c.MaxAge, c.Every)
	}
	return nil
}

// Coin is the ticker to show.
func (f *Feed) Coin() string { return f.c.Coin }

// Run asks the sources, at once and then every Config.Every, until the context is done, and returns nil.
func (f *Feed) Run(ctx context.Context) error {
	defer f.client.CloseIdleConnections()
	ticker := time.NewTicker(f.c.Every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f.round(ctx)
		if err := f.prune(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("deleting old rates failed, trying again", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// Now gives the rate to show, or false if there is none: none was found, or the last one is older than Config.Keep.
func (f *Feed) Now() (Rate, bool) {
	now := f.c.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	age := now.Sub(f.confirmed)
	if f.rate == nil || age > f.c.Keep {
		return Rate{}, false
	}
	r := *f.rate
	r.Sources = slices.Clone(r.Sources)
	r.Stale = !f.good || age > f.c.MaxAge
	return r, true
}

// Failing gives, by the names of the sources, why the last answer of each did not count. Those that did are not in it.
func (f *Feed) Failing() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]string{}
	for i, why := range f.failing {
		if why != "" {
			all[f.sources[i].name] = why
		}
	}
	return all
}
