package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"cocoon/internal/nanoton"
	"cocoon/internal/ollama"
	"cocoon/worker"
	"cocoon/worker/engine"
)

const (
	// usualOllama is where an Ollama listens unless told otherwise.
	usualOllama = "http://127.0.0.1:11434"
	// probeTimeout bounds the first question to an engine; one with hundreds of models takes seconds.
	probeTimeout = 20 * time.Second
)

// engineProcess is the engine behind the worker: ours, or one that was there.
type engineProcess struct {
	url, kind string
	name      string          // for people
	slots     int             // how many requests it runs at once; 0: let the worker find out
	done      <-chan struct{} // closed when it has ended; nil if it isn't ours
	why       func() error    // it has ended
	stop      func()
}

// namedEngine is the engine at the URL that the user gave, once it has answered; nil if the URL is empty.
func namedEngine(ctx context.Context, url string) (*engineProcess, error) {
	if url == "" {
		return nil, nil
	}
	e := foreign(url)
	if err := e.probe(ctx); err != nil {
		return nil, fmt.Errorf("%w; or leave out --engine and COCOON_ENGINE_URL, and one is started here", err)
	}
	return e, nil
}

// findEngine is the engine that the user named, else the usual Ollama, else one of our own.
func (n *network) findEngine(ctx context.Context) (*engineProcess, error) {
	if n.engine != nil {
		return n.engine, nil
	}
	e := foreign(usualOllama)
	err := e.probe(ctx)
	if err == nil {
		return e, nil
	}
	if !errors.Is(err, engine.ErrDown) {
		n.screen.say(err.Error() + "; starting an engine of our own")
	}
	return n.ownEngine(ctx)
}

// foreign is an engine that somebody else runs.
func foreign(url string) *engineProcess {
	e := &engineProcess{url: url, kind: engine.KindOllama, name: "Ollama at " + url, stop: func() {}}
	if strings.HasSuffix(strings.TrimRight(url, "/"), "/v1") {
		e.kind, e.name = engine.KindOpenAI, "OpenAI-compatible at "+url
	}
	return e
}

// probe asks the engine for its models; the error says what to do.
func (e *engineProcess) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	eng, err := engine.Open(ctx, engine.Config{URL: e.url, Kind: e.kind})
	if err != nil {
		return fmt.Errorf("engine %s: %w", e.url, err)
	}
	status, err := eng.Status(ctx)
	switch {
	case errors.Is(err, engine.ErrDown):
		return fmt.Errorf("no engine answers at %s (%w): start it, or correct the address", e.url, err)
	case err != nil:
		return fmt.Errorf("engine %s does not serve (%w): see its log", e.url, err)
	case len(status.Models) == 0:
		return fmt.Errorf("engine %s has no model that can chat: load one first, for Ollama with 'ollama pull NAME'", e.url)
	}
	return nil
}

// ownEngine builds an Ollama if need be and starts it.
func (n *network) ownEngine(ctx context.Context) (*engineProcess, error) {
	binary, err := ollama.Build(ctx, n.opts.bin, n.screen.say)
	if err != nil {
		return nil, fmt.Errorf("%w; or name an engine that runs already with --engine", err)
	}
	dir := filepath.Join(n.opts.data, "engine")
	s, err := ollama.Start(ctx, ollama.Config{Binary: binary, Dir: dir, Parallel: ownSlots})
	if err != nil {
		return nil, err
	}
	return &engineProcess{
		url: s.URL(), kind: engine.KindOllama, slots: ownSlots,
		name: "Ollama " + ollama.Version + " at " + s.URL() + ", started by cocoon-dev",
		done: s.Done(), stop: s.Stop,
		why: func() error { return fmt.Errorf("the engine died: %w; start cocoon-dev again", s.Err()) },
	}, nil
}

// ownSlots is how many requests our own engine runs at once: a tiny model gains nothing from more.
const ownSlots = 4

// queueMax is how many requests wait in the worker for a free slot: a developer would rather wait than be turned away.
const queueMax = 64

// devPrice is what small models are sold for: a few hundredths of a TON for a million tokens.
func devPrice() worker.Price {
	cached := nanoton.Amount(5_000_000)
	return worker.Price{In: 20_000_000, Cached: &cached, Out: 60_000_000}
}

// workerConfig is one worker on the engine, that dials our gateway and no other.
func (n *network) workerConfig(e *engineProcess) worker.Config {
	cfg := worker.DefaultConfig()
	cfg.Name = "dev"
	cfg.DataDir = filepath.Join(n.opts.data, "worker")
	cfg.Gateways = []worker.Gateway{{Address: n.gateway.WorkerAddr().String(), Pin: n.gateway.ID().String()}}
	cfg.Engine.URL, cfg.Engine.Kind, cfg.Engine.Slots, cfg.Engine.Queue = e.url, e.kind, e.slots, queueMax
	cfg.Price, cfg.Payout = devPrice(), n.purse.wants()
	cfg.Policy, cfg.Simulated, cfg.Collateral.Offline = n.tee.policy, rootsOf(n.tee.vendor), true
	return cfg
}
