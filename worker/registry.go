package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/internal/config"
	"cocoon/internal/trust"
	"cocoon/internal/tunnel"
)

// Times of the registry.
const (
	registryPeriod = time.Hour
	registryRetry  = 5 * time.Minute // while the chain is out of reach
)

// basis is the registry that the worker goes by.
type basis struct {
	feed   *trust.Feed
	policy []byte // the text of the worker's own policy, nil if it has none
	first  *trust.Trust
}

// Resolve reads the registry of the configuration, if it names one: from the chain, else from the copy in DataDir. What it
// returns is for New: each gateway has the pin that the registry lists for its address, and the worker's own policy has
// the registry's releases. A gateway that is not listed, or not with the pin that is configured, is an error. The logger
// hears later what becomes of the registry, too.
func Resolve(ctx context.Context, c Config, log *slog.Logger) (Config, error) {
	if _, err := c.check(); err != nil || c.Registry == nil {
		return c, err
	}
	var b basis
	var err error
	if c.Policy != "" {
		if b.policy, err = config.ReadFile(c.Policy, config.Max); err != nil {
			return c, fmt.Errorf("policy: %w", err)
		}
	}
	if b.feed, err = c.Registry.Open(ctx, c.DataDir, log); err != nil {
		return c, fmt.Errorf("gateways are to be listed in a registry: %w", err)
	}
	if b.first, err = b.feed.Trust(b.policy, time.Now()); err != nil {
		return c, fmt.Errorf("policy: %s: %w", c.Policy, err)
	}
	c.Gateways = slices.Clone(c.Gateways)
	for i := range c.Gateways {
		pin, err := pinOf(b.first, c.Gateways[i])
		if err != nil {
			return c, fmt.Errorf("gateways[%d]: %w", i, err)
		}
		c.Gateways[i].Pin = pin.String()
	}
	c.basis = &b
	return c, nil
}

// errNotListed means that a gateway is not one that the registry lists.
var errNotListed = errors.New("the registry does not list this gateway")

// pinOf is the key that the registry lists for a gateway.
func pinOf(t *trust.Trust, g Gateway) (tunnel.ID, error) {
	found := t.At(g.Address)
	pin, err := tunnel.ParseID(g.Pin)
	var ids []string
	for _, l := range found {
		if err == nil && tunnel.ID(l.ID) == pin {
			return pin, nil
		}
		ids = append(ids, l.ID.String())
	}
	switch {
	case len(found) == 0:
		return tunnel.ID{}, fmt.Errorf("%w: %s has none whose workers dial %s", errNotListed, t.From.Address, g.Address)
	case g.Pin != "":
		return tunnel.ID{}, fmt.Errorf("%w: %s has at %s the ID %s, and pin is %s", errNotListed, t.From.Address, g.Address,
			ids[0], g.Pin)
	case len(found) > 1:
		return tunnel.ID{}, fmt.Errorf("the registry has %d gateways at %s: name the one that you mean with pin, one of %v",
			len(found), g.Address, ids)
	}
	return tunnel.ID(found[0].ID), nil
}

// link runs one gateway's dialer, for as long as it may.
type link struct {
	gateway Gateway
	dialer  *tunnel.Dialer
	stop    context.CancelFunc // nil: it does not run
	ended   chan struct{}      // closed when its last run has ended; nil: there was none
}

func (l *link) start(ctx context.Context, group *errgroup.Group) {
	before, ended := l.ended, make(chan struct{})
	l.ended = ended
	ctx, l.stop = context.WithCancel(ctx)
	group.Go(func() error {
		defer close(ended)
		if before != nil {
			<-before
		}
		return l.dialer.Run(ctx)
	})
}

// serve dials the gateways in late once the engine was looked at, and goes by the registry until ctx ends.
func (w *Worker) serve(ctx, late context.Context, group *errgroup.Group) error {
	select {
	case <-w.looked: // so that the first keyset names the models
	case <-ctx.Done():
		return nil
	}
	var links []*link
	for i, d := range w.dialers {
		links = append(links, &link{gateway: w.config.Gateways[i], dialer: d})
	}
	for _, l := range links {
		l.start(late, group)
	}
	b := w.config.basis
	if b == nil {
		return nil
	}
	b.first.Tell(w.log)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(b.pause(w.config.Registry.Every)):
		}
		b.feed.Read(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.goBy(late, links, group)
	}
}

// pause is how long to wait before the registry is read again: not beyond its copy's end.
func (b *basis) pause(every time.Duration) time.Duration {
	every = cmp.Or(every, registryPeriod)
	if b.feed.Away() {
		every = min(every, registryRetry)
	}
	if left := time.Until(b.feed.Ends()); left > 0 {
		every = min(every, left)
	}
	return every
}

// goBy has what the registry says now count: for the worker's own policy, and for which gateways it serves. When the copy
// of the registry is too old, that is none.
func (w *Worker) goBy(late context.Context, links []*link, group *errgroup.Group) {
	b, now := w.config.basis, time.Now()
	t, err := b.feed.Trust(b.policy, now)
	if err != nil {
		w.log.Error("the registry and the worker's own policy don't go together; the last one stays until it ends", "err", err)
		return
	}
	if w.config.Policy != "" {
		if old := w.prover.trust.Swap(t); !old.Equal(t) {
			t.Tell(w.log)
		}
	}
	for _, l := range links {
		_, err := pinOf(t, l.gateway)
		if err == nil && !now.Before(b.feed.Ends()) {
			err = fmt.Errorf("%w any more for all we know: its copy is too old", errNotListed)
		}
		switch {
		case err == nil && l.stop == nil:
			w.log.Info("the registry lists the gateway again", "gateway", l.gateway.Address)
			l.start(late, group)
		case err != nil && l.stop != nil:
			w.log.Error("THE GATEWAY IS DROPPED until the registry lists it", "gateway", l.gateway.Address, "err", err)
			l.stop()
			l.stop = nil
		}
	}
}

// ownTrust is what the worker holds its own machine against; nil: nothing.
func (c *Config) ownTrust() (*trust.Trust, error) {
	switch {
	case c.Policy == "":
		return nil, nil
	case c.basis != nil:
		return c.basis.first, nil
	}
	p, err := attest.LoadPolicy(c.Policy)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return trust.Alone(p), nil
}
