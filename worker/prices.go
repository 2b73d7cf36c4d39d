package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"cocoon/internal/config"
	"cocoon/internal/durable"
	"cocoon/internal/strictjson"
	"cocoon/router/offer"
)

const (
	// pricesMax bounds prices.json, bytes: a price for each of 256 models of the longest name, with spaces.
	pricesMax = 256 << 10
	// filesGap is how often the running worker looks at the files by which commands tell it something.
	filesGap = 500 * time.Millisecond
	// pricesVersion is the file's form.
	pricesVersion = 1
)

// Prices is prices.json in a worker's data folder: prices that were set with "cocoon-worker price". They go before those
// of worker.yaml, and count within a second.
type Prices struct {
	V int `json:"v"`
	// All is for models without a price of their own, here or in worker.yaml; nil: that of worker.yaml.
	All *offer.Price `json:"all,omitempty"`
	// Models have prices of their own, by the name that clients ask for.
	Models map[string]offer.Price `json:"models,omitempty"`
}

func pricesPath(dataDir string) string { return filepath.Join(dataDir, "prices.json") }

// LoadPrices reads the prices of a data folder. Without a file there are none.
func LoadPrices(dataDir string) (*Prices, error) {
	text, err := config.ReadFile(pricesPath(dataDir), pricesMax)
	if errors.Is(err, fs.ErrNotExist) {
		return &Prices{V: pricesVersion}, nil
	}
	p := new(Prices)
	if err == nil {
		if err = strictjson.Decode(text, p); err == nil {
			err = p.check()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prices: %s: %w", pricesPath(dataDir), err)
	}
	return p, nil
}

func (p *Prices) check() error {
	if p.V != pricesVersion {
		return fmt.Errorf("version %d, want %d", p.V, pricesVersion)
	}
	if len(p.Models) > offer.OffersMax {
		return fmt.Errorf("%d models, at most %d", len(p.Models), offer.OffersMax)
	}
	if p.All != nil {
		if err := p.All.Validate(); err != nil {
			return err
		}
	}
	for name, price := range p.Models {
		if !word(name) {
			return fmt.Errorf("%q is no model's name", clip(name))
		}
		if err := price.Validate(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// ChangePrices changes the prices of a data folder, which a running worker takes up within a second. One process does
// so at a time; another gets durable.ErrLocked.
func ChangePrices(dataDir string, change func(*Prices)) (*Prices, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making data_dir: %w", err)
	}
	lock, err := durable.Lock(pricesPath(dataDir) + ".lock")
	if err != nil {
		return nil, fmt.Errorf("changing prices: %w", err)
	}
	defer lock.Close()
	p, err := LoadPrices(dataDir)
	if err != nil {
		return nil, err
	}
	change(p)
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("prices: %w", err)
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("prices: %w", err)
	}
	return p, durable.Replace(pricesPath(dataDir), append(text, '\n'))
}

// Asked is the price of a model, and where it stands. The more special one goes first, and of two as special that of
// prices.json.
func (c *Config) Asked(p *Prices, model string) (price offer.Price, from string) {
	if price, ok := p.Models[model]; ok {
		return price, "prices.json, this model's own"
	}
	for _, m := range c.Models {
		if m.Name == model && m.Price != nil {
			return m.Price.offered(), "worker.yaml, this model's own"
		}
	}
	if p.All != nil {
		return *p.All, "prices.json"
	}
	return c.Price.offered(), "worker.yaml"
}

// watchFiles does what commands write in the data folder, until ctx ends.
func (w *Worker) watchFiles(ctx context.Context) {
	tick := time.NewTicker(filesGap)
	defer tick.Stop()
	var prices, drain saidOnce
	var d drainer
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		prices.say(w.log, "the prices stay as they are", w.reprice())
		drain.say(w.log, "whether the worker drains stays as it is", d.look(w))
	}
}

// saidOnce is an error that was logged; it is not logged again until it is another, or was none in between.
type saidOnce string

func (s *saidOnce) say(log *slog.Logger, what string, err error) {
	if err == nil {
		*s = ""
	} else if words := saidOnce(err.Error()); words != *s {
		*s = words
		log.Error(what, "err", err)
	}
}

// reprice takes up the prices of the data folder if they are others.
func (w *Worker) reprice() error {
	p, err := LoadPrices(w.config.DataDir)
	if err != nil {
		return err
	}
	w.publishing.Lock()
	defer w.publishing.Unlock()
	if reflect.DeepEqual(p, w.prices) {
		return nil
	}
	w.prices = p
	w.log.Info("new prices")
	if now := w.catalog.Load(); now.engine != nil {
		w.publish(w.config.build(now.engine, now.status, p, w.log))
	}
	return nil
}

// publish makes a catalog the one that requests are served from and gateways see. w.publishing is held.
func (w *Worker) publish(c *catalog) {
	w.catalog.Store(c)
	w.asked.publish(c.offers, time.Now())
	w.board.set(c.offers)
}
