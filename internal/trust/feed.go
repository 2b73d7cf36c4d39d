package trust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cocoon/billing/ton"
	"cocoon/billing/ton/registry"
	"cocoon/internal/config"
)

// MaxAgeMin is the shortest Source.MaxAge: daemons read every few minutes or every hour, and the chain may be slow for once.
const MaxAgeMin = 2 * time.Hour

// dirName is the folder of the kept copy, in a daemon's data folder.
const dirName = "registry"

// Source is a section of a daemon's configuration: the registry that it goes by.
type Source struct {
	// Address is the registry's account on the chain. Required.
	Address string `yaml:"address"`
	// Network is the file of the chain's global configuration, with its liteservers: none of them can lie, since all is
	// proved, and the more of them are yours, the fewer can cut you off. Required.
	Network string `yaml:"network"`
	// MaxAge is how long what was read counts, from the time of the block it was read at. When the chain has been out of
	// reach for longer, nothing is trusted until it is back. At least 2h. Default 72h.
	MaxAge time.Duration `yaml:"max_age"`

	// Every is how often it is read, zero: as often as the daemon thinks right. For tests, which then may have any MaxAge.
	// Not of the file.
	Every time.Duration `yaml:"-"`
}

// Check names what is wrong with the section.
func (s *Source) Check() error {
	switch _, err := ton.ParseAddress(s.Address); {
	case err != nil:
		return fmt.Errorf("address: %w", err)
	case s.Network == "":
		return errors.New("network: missing; name the file of the network's global configuration")
	case s.MaxAge < 0, s.MaxAge > 0 && s.MaxAge < MaxAgeMin && s.Every == 0:
		return fmt.Errorf("max_age: %s, want %s or more", s.MaxAge, MaxAgeMin)
	}
	return nil
}

// Feed is a registry that a daemon follows: the newest copy that it has read. It holds no connection between two reads.
// Its methods may be called from many goroutines, but Read from one at a time.
type Feed struct {
	c   registry.Config
	log *slog.Logger

	mu   sync.Mutex
	copy *registry.Copy
	away bool // the chain was out of reach at the last read
}

// Open reads the registry for the first time: from the chain, else from the copy in the data folder, which several
// processes may share. The error says why neither was of use: those of [registry.Reader.Read].
func (s *Source) Open(ctx context.Context, dataDir string, log *slog.Logger) (*Feed, error) {
	a, err := ton.ParseAddress(s.Address)
	if err != nil {
		return nil, fmt.Errorf("registry.address: %w", err)
	}
	network, err := config.ReadFile(s.Network, config.Max)
	if err != nil {
		return nil, fmt.Errorf("registry.network: %w", err)
	}
	c := registry.Config{Network: network, Address: a, Dir: filepath.Join(dataDir, dirName), MaxAge: s.MaxAge}
	if c.MaxAge == 0 {
		c.MaxAge = registry.DefaultMaxAge
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &Feed{c: c, log: log}
	if err := f.read(ctx); err != nil {
		return nil, err
	}
	return f, nil
}

// Read reads the registry again. If that fails, the copy that was read before goes on to count, until it Ends.
func (f *Feed) Read(ctx context.Context) {
	err := f.read(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = true
	f.log.Error("reading the registry failed: its last copy counts until it is too old, and then nothing is trusted",
		"counts_until", f.ends(), "err", err)
}

func (f *Feed) read(ctx context.Context) error {
	from, err := registry.NewReader(f.c)
	if err != nil {
		return err
	}
	defer from.Close() // it only asked
	c, err := from.Read(ctx)
	if err != nil {
		return fmt.Errorf("reading the registry: %w", err)
	}
	f.take(c)
	return nil
}

// take has a copy count, unless a newer one does.
func (f *Feed) take(c *registry.Copy) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.copy == nil || c.At.Seqno >= f.copy.At.Seqno {
		f.copy = c
	}
	switch {
	case c.Kept && !f.away:
		f.log.Warn("the chain is out of reach: going by the last copy of the registry", "registry", c.Address.String(),
			"block", f.copy.At.Seqno, "of", f.copy.At.Time, "counts_until", f.ends(), "err", c.Why)
	case !c.Kept && f.away:
		f.log.Info("the registry is read from the chain again", "block", c.At.Seqno, "of", c.At.Time)
	}
	if c.Note != "" {
		f.log.Warn("registry", "note", c.Note)
	}
	f.away = c.Kept
}

// Away tells whether the chain was out of reach at the last read.
func (f *Feed) Away() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away
}

// Ends is when the copy no longer counts: Source.MaxAge after the time of its block.
func (f *Feed) Ends() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ends()
}

func (f *Feed) ends() time.Time { return f.copy.At.Time.Add(f.c.MaxAge) }

// Trust is New by the newest copy, with a policy that ends by itself when that no longer counts: its NotAfter is no later.
func (f *Feed) Trust(base []byte, at time.Time) (*Trust, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := New(f.copy, base, at)
	if err != nil {
		return nil, err
	}
	t.until(f.ends())
	return t, nil
}

// Tell logs what the registry says.
func (t *Trust) Tell(log *slog.Logger) {
	c := t.From
	if c == nil {
		return
	}
	names := slices.Sorted(maps.Keys(t.Releases))
	log.Info("releases come from the registry", "registry", c.Address.String(), "block", c.At.Seqno, "of", c.At.Time,
		"releases", names, "gateways", len(t.Gateways), "pending", len(c.Pending))
	if len(names) == 0 {
		log.Warn("the registry has no release that holds: no machine is admitted")
	}
	for _, fault := range t.Faults {
		log.Warn("a document of the registry counts for nothing", "err", fault)
	}
	for _, fault := range c.Faults {
		log.Warn("an entry of the registry counts for nothing", "fault", fault)
	}
}
