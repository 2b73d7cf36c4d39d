// Package gateway is the OpenAI surface: it checks a request, leases a worker for it and relays the answer.
package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"cocoon/attest/collateral"
	"cocoon/attest/nvgpu"
	"cocoon/billing/ledger"
	"cocoon/billing/ton"
	"cocoon/billing/treasury"
	"cocoon/gateway/accounts"
	"cocoon/internal/daemon"
	"cocoon/internal/front"
	"cocoon/internal/tunnel"
	"cocoon/router"
)

// Limits that no configuration changes.
const (
	headerMax      = 64 << 10         // bytes of a request's head; SDKs send under 2 KiB
	bodyMax        = 32 << 20         // bytes of a request body: images as base64 are 20 MiB and more
	headerTimeout  = 10 * time.Second // for a request's head; slower clients only hold connections
	keepAliveIdle  = 2 * time.Minute  // an idle client connection; longer than the SDKs' own pools keep them
	refreshPeriod  = time.Second / 2  // enrolments and the policy are looked at this often: a revocation counts within a second
	IdentityFile   = "identity.pem"   // in the data folder
	certificateAge = time.Minute      // the TLS certificate's files are looked at this often
	promptSlots    = 1 << 18          // blocks of prompts that are remembered, of 1 KiB: 18 MiB of memory once they are there
)

// Server is a gateway. New makes it, Listen opens its data folder and sockets, Run serves until its context ends.
type Server struct {
	cfg     Config
	log     *slog.Logger
	version string
	began   time.Time // what the router's clock counts from

	identity *tunnel.Identity
	tag      [4]byte // in the names of this gateway's requests
	money    *money
	gate     gate
	table    *router.Table[*member]
	shared   bool         // other gateways route to the same workers
	seed     maphash.Seed // of models' names
	tenants  func(ledger.Account) tenant
	supply   supply
	tunnel   *tunnel.Server
	memory   memory
	calls    sync.Pool // of *call, each empty
	retries  retryBudget
	metrics  *metrics
	registry *prometheus.Registry
	market   *openMarket
	cert     atomic.Pointer[tls.Certificate]

	appraiser *appraiser
	basis     basis
	self      self

	apps, ops, workers net.Listener
}

// New makes a gateway; it touches nothing outside yet.
func New(cfg Config, log *slog.Logger, reg *prometheus.Registry, version string) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, version: version, registry: reg, began: time.Now(),
		shared: shared(cfg.LedgerURL()), seed: maphash.MakeSeed(),
	}
	s.table = router.New[*member](router.Config{FeePPM: cfg.FeePPM, Seed: rand.Uint64(), Shared: s.shared, Slots: promptSlots})
	s.tenants = func(a ledger.Account) tenant { return tenantOf(s.money.secret, a) }
	s.gate = gate{workers: OpenWorkers(cfg.DataDir), auto: cfg.Enrolment == "auto"}
	s.gate.states.Store(&map[tunnel.ID]string{})
	s.memory.limit = int64(cfg.Limits.BufferedMiB) << 20
	s.retries.balance.Store(retryStart)
	s.metrics = newMetrics(reg, s)
	s.market = newOpenMarket(reg, s)
	return s, nil
}

// Listen opens the data folder and binds all three sockets.
func (s *Server) Listen() (err error) {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if s.identity, err = tunnel.LoadIdentity(filepath.Join(s.cfg.DataDir, IdentityFile)); err != nil {
		return fmt.Errorf("loading the gateway's identity: %w", err)
	}
	if err := s.loadCertificate(); err != nil {
		return err
	}
	if err := s.gate.reload(); err != nil {
		return err
	}
	from := s.cfg.Collateral.Config(s.cfg.DataDir, s.log)
	from.Signatures = nvgpu.NewSignatureCache(signaturesKept)
	store, err := collateral.New(from)
	if err != nil {
		return err
	}
	s.appraiser = newAppraiser(store, from.Signatures)
	if err := s.openRegistry(context.Background()); err != nil {
		return err
	}
	if err := s.loadPolicy(); err != nil {
		return err
	}
	s.prepareSelf()
	s.tag = tagOf(s.ID())
	if s.money, err = openMoney(context.Background(), &s.cfg, s.ID(), s.log); err != nil {
		return err
	}
	s.tunnel = tunnel.NewServer(tunnel.ServerConfig{
		Identity: s.identity, Admit: s.gate.admit, Attest: s.attest, Report: s.report, Gone: s.gone,
		Log: s.log,
	})
	for _, l := range []struct {
		field, addr string
		to          *net.Listener
	}{{"listen", s.cfg.Listen, &s.apps}, {"ops_listen", s.cfg.OpsListen, &s.ops}, {"worker_listen", s.cfg.WorkerListen, &s.workers}} {
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			s.Close()
			return fmt.Errorf("%s: %w", l.field, err)
		}
	}
	return nil
}

// Close closes what Listen opened, for a server that will not Run.
func (s *Server) Close() {
	if s.money != nil {
		if err := s.money.close(); err != nil {
			s.log.Error("closing the ledger failed", "err", err)
		}
	}
	for _, l := range []net.Listener{s.apps, s.ops, s.workers} {
		if l != nil {
			_ = l.Close() // nothing was served on it
		}
	}
}

// Addr is where apps connect, after Listen.
func (s *Server) Addr() net.Addr { return s.apps.Addr() }

// OpsAddr is the operator's listener, after Listen.
func (s *Server) OpsAddr() net.Addr { return s.ops.Addr() }

// WorkerAddr is where workers dial in, after Listen.
func (s *Server) WorkerAddr() net.Addr { return s.workers.Addr() }

// ID is the gateway's identity that workers pin, after Listen.
func (s *Server) ID() tunnel.ID { return s.identity.ID() }

// Deposit is how an account's money comes in from the chain.
type Deposit struct {
	Address ton.Address
	Memo    string // of the account
	Capital string // memo of the operator's own money, for fees
}

// Deposit says how an account pays in, after Listen; false without the chain.
func (s *Server) Deposit(account string) (Deposit, bool) {
	v := s.money.vault
	if v == nil {
		return Deposit{}, false
	}
	d := v.treasury.Deposit(account)
	return Deposit{d.Address, d.Memo, treasury.MemoCapital}, true
}

// Book has the accounts and API keys, after Listen.
func (s *Server) Book() *accounts.Book { return s.money.book }

// Run serves until ctx ends; then running requests have daemon.Grace to finish.
func (s *Server) Run(ctx context.Context) error {
	s.log.Info("gateway serves", "apps", s.Addr().String(), "ops", s.OpsAddr().String(), "workers", s.WorkerAddr().String(),
		"id", s.ID().String(), "version", s.version)
	apps := s.apps
	if s.cfg.TLS != nil {
		apps = tls.NewListener(apps, &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		})
	}
	group, ctx := errgroup.WithContext(ctx)
	// Workers stay until the last request is answered: their listener ends after the apps'.
	tunnels, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stop()
		routes := s.routes()
		server := s.httpServer(routes)
		if s.cfg.TLS == nil && s.cfg.FrontEnd == FrontOwn {
			return front.Serve(ctx, front.Config{Hot: chatPath, Handler: routes, Server: server}, apps)
		}
		return daemon.Serve(ctx, server, apps)
	})
	group.Go(func() error { return daemon.Serve(ctx, s.httpServer(s.opsRoutes()), s.ops) })
	group.Go(func() error { return s.tunnel.Serve(tunnels, s.workers) })
	group.Go(func() error { return s.money.run(tunnels) })
	group.Go(func() error { return s.money.book.Run(ctx) })
	group.Go(func() error { return s.refresh(ctx) })
	group.Go(func() error { return s.tend(ctx) })
	group.Go(func() error { return s.tellDemand(ctx) })
	group.Go(func() error { return s.appraiser.store.Run(ctx) })
	if s.basis.feed != nil {
		group.Go(func() error { return s.watchRegistry(ctx) })
	}
	if s.self.responder != nil {
		group.Go(func() error { s.watchSelf(ctx); return nil })
	}
	return group.Wait()
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: keepAliveIdle,
		ReadTimeout:    s.cfg.Limits.BodyTimeout, // also for what is left of a body after an early answer
		MaxHeaderBytes: headerMax - 4<<10,        // net/http adds 4 KiB
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// refresh sees what the operator's commands changed in the data folder.
func (s *Server) refresh(ctx context.Context) error {
	workers, policy := s.gate.workers.store.stamp(), stampOf(s.cfg.Policy)
	tick := time.NewTicker(refreshPeriod)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if now := s.gate.workers.store.stamp(); now != workers {
			if err := s.gate.reload(); err != nil {
				s.log.Error("reading enrolled workers failed; the last ones stay", "err", err)
			} else {
				s.tunnel.Recheck()
				workers = now
			}
		}
		if now := stampOf(s.cfg.Policy); now != policy {
			if err := s.loadPolicy(); err != nil {
				s.log.Error("reading the appraisal policy failed; the last one stays", "err", err)
			} else {
				policy = now
			}
		}
		if turn%int(certificateAge/refreshPeriod) == 0 {
			if err := s.loadCertificate(); err != nil {
				s.log.Error("reading the TLS certificate failed; the last one stays", "err", err)
			}
		}
	}
}

func (s *Server) loadCertificate() error {
	if s.cfg.TLS == nil {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(s.cfg.TLS.CertFile, s.cfg.TLS.KeyFile)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	s.cert.Store(&cert)
	return nil
}
