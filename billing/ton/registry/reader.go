package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cocoon/billing/ton"
	"cocoon/internal/config"
	"cocoon/internal/durable"
)

// Defaults of a Reader.
const (
	// DefaultMaxAge is how long a kept copy may take the place of the chain. Registries whose delay is longer than that
	// announce every change in time even to those who read such a copy.
	DefaultMaxAge = 72 * time.Hour
	// DefaultWait is how long the chain may take to answer before it is out of reach.
	DefaultWait = 20 * time.Second
)

// futureMax is how far a copy may be dated in the future: clocks differ, but not by more.
const futureMax = 5 * time.Minute

// Names in a Reader's folder.
const (
	chainDir   = "chain"
	copySuffix = ".proof.json"
)

// Errors of copies.
var (
	// ErrNoCopy says that the chain is out of reach, and there is no copy that may take its place.
	ErrNoCopy = errors.New("no copy of the registry can be used")
	// ErrOlder says that the chain, as its servers tell it, is older than the copy that was read from it before.
	ErrOlder = errors.New("older than the copy that was read before")
)

// Config says which registry to read, and how.
type Config struct {
	Network []byte           // global.config.json: liteservers, init block. Required
	Address ton.Address      // of the registry. Required
	Dir     string           // keeps the copy and the chain client's state; empty: nothing is kept
	MaxAge  time.Duration    // oldest copy that may take the chain's place; zero: DefaultMaxAge; negative: none
	Wait    time.Duration    // for the chain; zero: DefaultWait
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: nothing is logged
}

// Reader reads a registry from the chain, with proofs, and keeps what it read together with the proof: the validators'
// signatures from the network's init block to the block it was read at, so that the copy says by itself that it is
// genuine and of what time. When the chain is out of reach, a copy that is not too old takes its place. A Reader is used
// by one goroutine at a time; several processes may share its folder.
type Reader struct {
	c      Config
	client *ton.Client // nil: not connected yet
}

// Copy is a registry as it was read.
type Copy struct {
	*Registry
	Kept bool          // read from the kept copy
	Why  error         // why the chain could not be asked; nil unless Kept
	Age  time.Duration // of the block, by our clock
	// Note says what went wrong besides, for people; empty: nothing. For one that a copy could not be kept.
	Note string
}

// NewReader checks the configuration. It asks nobody yet.
func NewReader(c Config) (*Reader, error) {
	if len(c.Network) == 0 || c.Address.IsZero() {
		return nil, errors.New("registry: the network's config and the registry's address are required")
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.Wait == 0 {
		c.Wait = DefaultWait
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Reader{c: c}, nil
}

// Close ends the connections.
func (r *Reader) Close() error {
	if r.client == nil {
		return nil
	}
	err := r.client.Close()
	r.client = nil
	return err
}

// Read reads the registry: from the chain, else from the kept copy. Errors: ErrNoRegistry, if it is proven that there is
// none at the address; ErrNoCopy, with what is wrong with both.
func (r *Reader) Read(ctx context.Context) (*Copy, error) {
	kept, damaged := r.load()
	got, note, err := r.ask(ctx, kept)
	if err == nil {
		got.Note = note
		return got, nil
	}
	if errors.Is(err, ErrNoRegistry) || ctx.Err() != nil {
		return nil, err
	}
	r.c.Log.Warn("registry out of reach", "registry", r.c.Address.String(), "error", err)
	if damaged == nil && kept != nil {
		var age time.Duration
		if age, damaged = r.fresh(kept.State.At.Time); damaged == nil {
			reg, err2 := ParseState(&kept.State)
			if err2 != nil {
				return nil, fmt.Errorf("kept copy: %w", err2)
			}
			return &Copy{Registry: reg, Kept: true, Why: err, Age: age}, nil
		}
	}
	if damaged == nil {
		damaged = errors.New("none was kept")
	}
	return nil, fmt.Errorf("%w: %w; and the chain is out of reach: %w", ErrNoCopy, damaged, err)
}

// fresh is a copy's age, or says that it is too old.
func (r *Reader) fresh(at time.Time) (time.Duration, error) {
	age := r.c.Now().Sub(at)
	switch {
	case age > r.c.MaxAge:
		return 0, fmt.Errorf("the kept one is of %s, %s ago: it counts for %s", stamp(at), age.Round(time.Second),
			max(r.c.MaxAge, 0))
	case age < -futureMax:
		return 0, fmt.Errorf("the kept one is of %s, in the future: is this machine's clock right?", stamp(at))
	}
	return age, nil
}

// ask reads from the chain, and keeps what it read. The note says why it could not be kept.
func (r *Reader) ask(ctx context.Context, kept *ton.Proof) (*Copy, string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.c.Wait)
	defer cancel()
	if err := r.connect(ctx); err != nil {
		return nil, "", err
	}
	h, err := r.client.Head(ctx)
	if err != nil {
		return nil, "", err
	}
	if kept != nil && h.Seqno < kept.State.At.Seqno {
		return nil, "", fmt.Errorf("%w: block %d, and the copy is of block %d", ErrOlder, h.Seqno, kept.State.At.Seqno)
	}
	var st ton.State
	var note string
	p, err := r.client.Prove(ctx, r.c.Network, h, r.c.Address, kept)
	switch {
	case errors.Is(err, ton.ErrProofTooLong):
		note = "no copy is kept for times when the chain is out of reach: " + err.Error()
		st, err = r.client.Account(ctx, h, r.c.Address)
	case err == nil:
		st = p.State
	}
	if err != nil {
		return nil, "", err
	}
	reg, err := ParseState(&st)
	if err != nil {
		return nil, "", err
	}
	if p != nil {
		if err := r.save(p); err != nil {
			note = err.Error()
		}
	}
	return &Copy{Registry: reg, Age: r.c.Now().Sub(h.Time)}, note, nil
}

// connect opens the chain client, once.
func (r *Reader) connect(ctx context.Context) error {
	if r.client != nil {
		return nil
	}
	c := ton.Config{Network: r.c.Network, Now: r.c.Now, Log: r.c.Log}
	if r.c.Dir != "" {
		c.Dir = filepath.Join(r.c.Dir, chainDir)
	}
	client, err := ton.Open(ctx, c)
	if errors.Is(err, durable.ErrLocked) { // another process reads, too: trust begins at the init block, and at the copy
		c.Dir = ""
		client, err = ton.Open(ctx, c)
	}
	if err != nil {
		return err
	}
	r.client = client
	return nil
}

// path is the copy's file; empty: none is kept.
func (r *Reader) path() string {
	if r.c.Dir == "" {
		return ""
	}
	return filepath.Join(r.c.Dir, r.c.Address.String()+copySuffix)
}

// load reads the kept copy and checks its proof. Nil without an error: there is none.
func (r *Reader) load() (*ton.Proof, error) {
	if r.path() == "" {
		return nil, nil
	}
	text, err := config.ReadFile(r.path(), ton.ProofMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var p *ton.Proof
	if err == nil {
		p, err = ton.ParseProof(r.c.Network, text)
	}
	if err == nil && p.State.Address != r.c.Address {
		err = fmt.Errorf("it is of the account %s", p.State.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("the kept one is damaged or forged, %s: %w", r.path(), err)
	}
	return p, nil
}

// save keeps a copy.
func (r *Reader) save(p *ton.Proof) error {
	if r.path() == "" {
		return nil
	}
	text, err := p.Encode()
	if err == nil {
		if err = os.MkdirAll(r.c.Dir, 0o700); err == nil {
			err = durable.Replace(r.path(), text)
		}
	}
	if err != nil {
		return fmt.Errorf("keeping a copy of the registry: %w", err)
	}
	return nil
}
