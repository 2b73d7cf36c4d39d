package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"cocoon/attest"
	"cocoon/gateway"
	"cocoon/gateway/accounts"
	"cocoon/internal/daemon"
	"cocoon/internal/secret"
	"cocoon/internal/terminal"
	"cocoon/worker"
)

const (
	// drainTime is what running requests get at the end before the engine ends under them: with the engine's own
	// grace of 3 s everything is over in the 5 s that are promised.
	drainTime = 1500 * time.Millisecond
	// readyPeriod is how often the gateway is asked whether it can serve.
	readyPeriod = 50 * time.Millisecond
	// patience is the silence before the user is told what is being waited for.
	patience = 15 * time.Second
	// callTimeout bounds a request to our own gateway.
	callTimeout = 10 * time.Second
)

// network is all that runs in this process.
type network struct {
	opts    options
	screen  screen
	log     *slog.Logger
	key     secret.Key
	gateway *gateway.Server
	tee     *hardware
	purse   *purse
	engine  *engineProcess // that the user named; nil if there is to be another
}

// start runs the network until ctx ends, which is no error. Errors are one line for the user.
func start(ctx context.Context, opts options, s screen) error {
	folder, err := openFolder(opts.data)
	if err != nil {
		return err
	}
	defer folder.close()
	if err := portsFree(opts); err != nil {
		return err
	}
	n := &network{opts: opts, screen: s, log: newLogger(ctx, folder.log, s.err)}
	if n.engine, err = namedEngine(ctx, opts.engine); err != nil {
		return unlessDone(ctx, err)
	}
	if n.tee, err = openHardware(opts.data); err != nil {
		return err
	}
	if n.purse, err = openPurse(filepath.Join(opts.data, "chain"), n.log); err != nil {
		return err
	}
	defer n.purse.close()
	if err := n.listen(); err != nil {
		return err
	}
	if n.key, err = folder.apiKey(ctx, n.gateway.Book()); err != nil {
		n.gateway.Close()
		return err
	}
	if terminal.Is(s.out) {
		defer context.AfterFunc(ctx, func() { s.say("stopping") })()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := n.gateway.Run(ctx); err != nil {
			return fmt.Errorf("the gateway failed: %w", err)
		}
		return nil
	})
	group.Go(func() error { return n.serve(ctx, folder) })
	return group.Wait()
}

// unlessDone is nil when the user ended it while something was built, asked or started.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listen makes the gateway and takes its ports, before minutes go into an engine.
func (n *network) listen() error {
	cfg := gateway.DefaultConfig()
	cfg.Listen, cfg.OpsListen, cfg.WorkerListen = n.opts.listen, n.opts.ops, "127.0.0.1:0"
	cfg.DataDir = filepath.Join(n.opts.data, "gateway")
	cfg.Enrolment, cfg.Policy = "auto", n.tee.policy
	cfg.TON, cfg.Dev = n.purse.ton(), n.purse.faucet()
	cfg.Collateral.Offline = true // simulated vendors have no services: their machines bring everything
	machine, err := n.tee.machine(attest.Gateway)
	if err != nil {
		return err
	}
	cfg.Attester = machine
	n.gateway, err = gateway.New(cfg, n.log, prometheus.NewRegistry(), daemon.Version(version))
	if err != nil {
		return err
	}
	return n.gateway.Listen()
}

// serve brings up what is behind the gateway, says when it is ready, and ends it with ctx.
func (n *network) serve(ctx context.Context, folder *folder) error {
	eng, err := n.findEngine(ctx)
	if err != nil {
		return unlessDone(ctx, err)
	}
	defer eng.stop()
	machine, err := n.tee.machine(attest.Worker)
	if err != nil {
		return err
	}
	w, err := worker.New(n.workerConfig(eng), machine, n.log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(ended)
		if err := w.Run(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the worker failed: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		select {
		case <-eng.done:
			return eng.why()
		case <-ctx.Done():
		}
		select {
		case <-ended:
		case <-time.After(drainTime):
		}
		eng.stop()
		return nil
	})
	group.Go(func() error { return n.announce(ctx, folder, eng) })
	return group.Wait()
}

// announce waits until requests can be served and tells the user and scripts so.
func (n *network) announce(ctx context.Context, folder *folder, eng *engineProcess) error {
	if !n.awaitReady(ctx, eng) {
		return nil
	}
	if ok, err := n.fund(ctx, accounts.DefaultAccount); err != nil {
		return fmt.Errorf("paying into the account: %w", err)
	} else if !ok && ctx.Err() == nil {
		n.log.Warn("the first deposit was not credited yet")
	}
	env := environment{
		baseURL: "http://" + dialable(n.gateway.Addr()) + "/v1",
		opsURL:  "http://" + dialable(n.gateway.OpsAddr()),
		key:     n.key,
	}
	if err := folder.writeEnv(env); err != nil {
		return err
	}
	models, err := n.models(ctx, env)
	if err != nil && ctx.Err() == nil {
		n.log.Warn("listing models failed", "err", err)
	}
	n.screen.ready(env, welcome{engine: eng.name, models: models, treasury: n.treasury(), chain: n.purse.config, worker: n.purse.payout.String(), env: filepath.Join(n.opts.data, envName), policy: n.tee.policy})
	return nil
}

// awaitReady is false when ctx ended first.
func (n *network) awaitReady(ctx context.Context, eng *engineProcess) bool {
	url := "http://" + dialable(n.gateway.OpsAddr()) + "/readyz"
	tick := time.NewTicker(readyPeriod)
	defer tick.Stop()
	for told := time.Now(); ; {
		if resp, err := get(ctx, url, ""); err == nil {
			_ = resp.Body.Close() // not read
			if resp.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		if time.Since(told) > patience {
			told = time.Now()
			log := filepath.Join(n.opts.data, logName)
			n.screen.say("waiting for the worker to offer a model of " + eng.name + "; see " + log)
		}
	}
}

// get is a GET on a connection of its own, without the environment's proxy.
func get(ctx context.Context, url, bearer string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: callTimeout}
	return client.Do(req)
}

// dialable is an address as clients on this machine reach it.
func dialable(a net.Addr) string {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(tcp.Port))
}

// newLogger writes everything to the log file, and warnings to the screen too: until ctx ends, for when all ends at
// once each part warns that the others are gone.
func newLogger(ctx context.Context, file, screen *os.File) *slog.Logger {
	return slog.New(slog.NewMultiHandler(
		daemon.Logger(file, slog.LevelInfo).Handler(), until{ctx, daemon.Logger(screen, slog.LevelWarn).Handler()},
	))
}

// until is a log handler that falls silent when its context ends.
type until struct {
	ctx context.Context //nolint:containedctx // it is about that context, not about a call's
	slog.Handler
}

// Enabled is false once the context has ended.
func (u until) Enabled(ctx context.Context, level slog.Level) bool {
	return u.ctx.Err() == nil && u.Handler.Enabled(ctx, level)
}

// WithAttrs keeps the context.
func (u until) WithAttrs(attrs []slog.Attr) slog.Handler {
	return until{u.ctx, u.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the context.
func (u until) WithGroup(name string) slog.Handler { return until{u.ctx, u.Handler.WithGroup(name)} }
