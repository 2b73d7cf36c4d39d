// Package worker sells an engine's tokens: it offers the engine's models to gateways and answers the requests that
// they send through the tunnel.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/internal/daemon"
	"cocoon/internal/durable"
	"cocoon/internal/tunnel"
	"cocoon/router/offer"
	"cocoon/worker/engine"
)

// spareConns is how many data connections are wanted beyond those of requests: a worker whose slots are all taken still
// exchanges receipts and gives evidence.
const spareConns = 2

// Times of the worker's own loops.
const (
	refreshGap    = 10 * time.Second       // between looks at an engine that is well
	retryGap      = 2 * time.Second        // between looks at one that is not
	suspectGap    = 500 * time.Millisecond // before a look that a failed request asks for: it may fail many
	statusTimeout = 5 * time.Second        // an engine that takes longer is of no use
	failuresMax   = 2                      // looks in a row that fail before the models are withdrawn; one may be bad luck
	drainNotice   = 300 * time.Millisecond // for gateways to hear that the worker stops, before its connections end
	headerTimeout = 10 * time.Second       // for a request's head on the ops listener
)

// Worker serves gateways. Its methods may be called from many goroutines.
type Worker struct {
	config   Config
	identity *tunnel.Identity
	engine   engine.Config
	dialers  []*tunnel.Dialer
	log      *slog.Logger
	gatherer prometheus.Gatherer
	metrics  *metrics
	gate     gate
	board    *board
	prover   *prover
	till     atomic.Pointer[till] // nil while it does not run
	asked    asked
	catalog  atomic.Pointer[catalog]
	foreign  atomic.Pointer[offer.Load] // load at the engine that is not ours
	doubt    chan struct{}              // a request failed by the engine's fault
	looked   chan struct{}              // closed after the first look at the engine
	stopping atomic.Bool

	publishing sync.Mutex // over changes of the catalog
	prices     *Prices    // locked by publishing
	draining   atomic.Bool
	markets    markets

	// Of the loop that looks at the engine.
	opened      engine.Engine
	failures    int
	lastForeign offer.Load
}

// New makes a worker; nothing runs until Run. It reads the identity, or makes one, in Config.DataDir. The attester is the
// confidential machine that it runs in. A configuration that names a registry is one that Resolve has returned.
func New(c Config, a attest.Attester, log *slog.Logger, reg *prometheus.Registry) (*Worker, error) {
	pins, err := c.check()
	if err != nil {
		return nil, err
	}
	if c.Registry != nil && c.basis == nil {
		return nil, errors.New("registry: the configuration names one, and was not resolved")
	}
	key, err := c.Engine.key()
	if err != nil {
		return nil, err
	}
	w := &Worker{config: c, log: log, gatherer: reg, doubt: make(chan struct{}, 1), looked: make(chan struct{})}
	w.engine = engine.Config{
		URL: c.Engine.URL, Kind: c.Engine.Kind, Key: key,
		IdleTimeout: c.Engine.IdleTimeout, AnswerTimeout: c.Engine.AnswerTimeout,
	}
	if w.prices, err = LoadPrices(c.DataDir); err != nil {
		return nil, err
	}
	if w.identity, err = tunnel.LoadIdentity(identityPath(c.DataDir)); err != nil {
		return nil, err
	}
	if w.prover, err = newProver(&w.config, w.identity.ID(), a, log); err != nil {
		return nil, err
	}
	w.prover.models = w.attestedModels
	w.catalog.Store(&catalog{})
	w.foreign.Store(&offer.Load{})
	w.board = newBoard(c.Name, w.load)
	w.gate.changed = w.board.touch
	w.gate.slots, w.gate.queue = c.limits(engine.Status{})
	if w.metrics, err = newMetrics(reg, &w.gate, w.till.Load); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	return w, w.addDialers(pins, reg)
}

func identityPath(dataDir string) string { return filepath.Join(dataDir, "identity.pem") }

// addDialers makes one for each gateway.
func (w *Worker) addDialers(pins []*tunnel.ID, reg prometheus.Registerer) error {
	handler := w.handler()
	for i, g := range w.config.Gateways {
		p := &presenter{name: g.Address}
		d := tunnel.NewDialer(tunnel.DialerConfig{
			Receipts: func(ctx context.Context, acks []byte) ([]byte, error) { return p.exchange(ctx, w.till.Load(), acks) },
			Countersign: func(_ context.Context, body []byte) ([]byte, error) {
				return p.countersign(w.till.Load(), w.prover, body)
			},
			Identity: w.identity, Address: g.Address, Pin: pins[i], Handler: handler,
			Report: w.board.report, Attest: w.prover.answer, Log: w.log,
			Capacity: func() int { return w.gate.capacity() + spareConns },
			Market:   w.marketOf(g.Address),
		})
		w.dialers = append(w.dialers, d)
		connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cocoon_worker_gateway_connected", Help: "1 if the gateway is connected.",
			ConstLabels: prometheus.Labels{"gateway": g.Address},
		}, func() float64 {
			if d.Status().Connected {
				return 1
			}
			return 0
		})
		if err := reg.Register(connected); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// ID is the name by which gateways know the worker of a configuration. Its key is made if there is none yet.
func ID(c Config) (tunnel.ID, error) {
	identity, err := tunnel.LoadIdentity(identityPath(c.DataDir))
	if err != nil {
		return tunnel.ID{}, err
	}
	return identity.ID(), nil
}

// ID is the name by which gateways know this worker.
func (w *Worker) ID() tunnel.ID { return w.identity.ID() }

// load is how busy the engine is: with our requests, and with others' as far as it tells.
func (w *Worker) load() offer.Load {
	running, queued := w.gate.load()
	others := w.foreign.Load()
	return offer.Load{Running: running + others.Running, Queued: queued + others.Queued}
}

// Run serves until ctx ends, then tells gateways, lets running requests finish for a short while, and returns nil.
// Another error means that the ops listener could not be opened or failed.
func (w *Worker) Run(ctx context.Context) error {
	lock, err := durable.Lock(filepath.Join(w.config.DataDir, "lock"))
	if err != nil {
		return fmt.Errorf("%w: two workers on one data_dir would push each other out at gateways", err)
	}
	defer lock.Close()
	if err := clearDrain(w.config.DataDir); err != nil {
		return err
	}
	till, err := openTill(w.config.DataDir, w.prover.keys.receipt, w.log, w.metrics)
	if err != nil {
		return err
	}
	if till.purse, err = openPurse(&w.config, w.board, w.log); err != nil {
		return errors.Join(err, till.close())
	}
	w.till.Store(till)
	return errors.Join(w.run(ctx), till.close())
}

// run is Run once the worker has its data folder for itself.
func (w *Worker) run(ctx context.Context) (err error) {
	var ops net.Listener
	if w.config.OpsListen != "" {
		if ops, err = new(net.ListenConfig).Listen(ctx, "tcp", w.config.OpsListen); err != nil {
			return fmt.Errorf("opening ops listener: %w", err)
		}
	}
	// The connections outlive ctx by drainNotice, so that gateways hear of the end on them.
	late, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		defer cut()
		w.log.Info("worker stops")
		w.stopping.Store(true)
		w.board.end()
		time.Sleep(drainNotice)
		return nil
	})
	group.Go(func() error { w.board.run(late); return nil })
	group.Go(func() error { w.watch(ctx); return nil })
	group.Go(func() error { w.watchFiles(ctx); return nil })
	group.Go(func() error { w.claims(ctx); return nil })
	group.Go(func() error { return w.prover.store.Run(ctx) })
	group.Go(func() error { return w.serve(ctx, late, group) })
	if ops != nil {
		srv := &http.Server{Handler: w.opsHandler(), ReadHeaderTimeout: headerTimeout}
		group.Go(func() error { return daemon.Serve(ctx, srv, ops) })
	}
	w.log.Info("worker runs", "id", w.ID(), "name", w.config.Name, "gateways", len(w.dialers))
	err = group.Wait()
	if w.opened != nil {
		w.opened.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// watch looks at the engine: at once, then every refreshGap, sooner after a failure or a doubt.
func (w *Worker) watch(ctx context.Context) {
	for first := true; ctx.Err() == nil; first = false {
		gap := refreshGap
		if !w.refresh(ctx) {
			gap = retryGap
		}
		if first {
			close(w.looked)
		}
		select {
		case <-ctx.Done():
		case <-time.After(gap):
		case <-w.doubt:
			select {
			case <-ctx.Done():
			case <-time.After(suspectGap):
			}
		}
	}
}

// suspect asks for an early look at the engine.
func (w *Worker) suspect() {
	select {
	case w.doubt <- struct{}{}:
	default:
	}
}

// refresh looks at the engine once and publishes what it finds; false if the engine is not well.
func (w *Worker) refresh(ctx context.Context) bool {
	status, err := w.look(ctx)
	if ctx.Err() != nil {
		return false
	}
	if err == nil {
		w.found(status)
		return true
	}
	w.failures++
	if w.failures == 1 || w.failures == failuresMax {
		w.log.Warn("engine is not well", "err", err, "failures", w.failures)
	}
	if w.failures < failuresMax && !errors.Is(err, engine.ErrDown) {
		return false
	}
	w.withdraw()
	return false
}

// look opens the engine if need be, and asks how it is.
func (w *Worker) look(ctx context.Context) (engine.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if w.opened == nil {
		e, err := engine.Open(ctx, w.engine)
		if err != nil {
			return engine.Status{}, err
		}
		w.opened = e
	}
	return w.opened.Status(ctx)
}

// found publishes a sound engine.
func (w *Worker) found(s engine.Status) {
	w.publishing.Lock()
	defer w.publishing.Unlock()
	before := w.catalog.Load()
	cat := w.config.build(w.opened, s, w.prices, w.log)
	if w.failures > 0 || before.engine == nil || len(before.offers) != len(cat.offers) {
		w.log.Info("engine serves", "engine", s.Engine, "models", len(cat.offers), "of", len(s.Models))
	}
	w.failures = 0
	w.gate.resize(w.config.limits(s))
	w.noteForeign(s)
	w.publish(cat)
	w.metrics.engineUp.Set(1)
}

// withdraw offers nothing until the engine is back.
func (w *Worker) withdraw() {
	w.publishing.Lock()
	w.publish(&catalog{})
	w.publishing.Unlock()
	w.metrics.engineUp.Set(0)
	if w.opened != nil && (w.engine.Kind == "" || w.engine.Kind == engine.KindAuto) {
		w.opened.Close() // who comes back may be of another kind
		w.opened = nil
	}
}

// noteForeign keeps the load that is not ours: the engine's own figures less our requests. Both move while they are
// read, so that only what two looks agree on counts.
func (w *Worker) noteForeign(s engine.Status) {
	var now offer.Load
	if s.HasLoad {
		running, _ := w.gate.load()
		total := s.Running + s.Queued - running
		now.Running = min(max(total, 0), max(s.Running, 0))
		now.Queued = max(total-now.Running, 0)
	}
	w.foreign.Store(&offer.Load{
		Running: min(now.Running, w.lastForeign.Running), Queued: min(now.Queued, w.lastForeign.Queued),
	})
	w.lastForeign = now
	w.board.touch()
}

// opsHandler serves the operator's listener.
func (w *Worker) opsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+marketPath, w.serveMarkets)
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) {
		status, text := w.health()
		rw.WriteHeader(status)
		_, _ = rw.Write([]byte(text + "\n")) // whoever asked may be gone
	})
	return mux
}

// health is 200 when requests can reach the engine, so not while the worker drains.
func (w *Worker) health() (int, string) {
	offers := len(w.catalog.Load().offers)
	connected := 0
	for _, d := range w.dialers {
		if d.Status().Connected {
			connected++
		}
	}
	text := fmt.Sprintf("%d models offered, %d of %d gateways connected", offers, connected, len(w.dialers))
	if w.draining.Load() {
		running, waiting := w.gate.load()
		return http.StatusServiceUnavailable, fmt.Sprintf("%s; it drains: %d requests run, %d wait", text, running, waiting)
	}
	if offers == 0 || connected == 0 {
		return http.StatusServiceUnavailable, text
	}
	return http.StatusOK, text
}
