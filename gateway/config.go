package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/attest/collateral"
	"cocoon/billing"
	"cocoon/internal/config"
	"cocoon/internal/nanoton"
	"cocoon/internal/trust"
	"cocoon/router/offer"
)

// Config is gateway.yaml. A field left out takes the default named at it; an unknown field is an error.
type Config struct {
	// Listen is where apps connect: host:port. Put a public address here only together with TLS, or behind
	// a proxy that ends TLS on this machine. Default 127.0.0.1:8080.
	Listen string `yaml:"listen"`
	// OpsListen is where metrics, health and profiles are served: no key is asked for there, so keep it on
	// loopback or a private network. Default 127.0.0.1:9090.
	OpsListen string `yaml:"ops_listen"`
	// WorkerListen is where workers dial in, TLS 1.3 with the gateway's own pinned identity. Workers must be
	// able to reach it from wherever they are. Default :8443.
	WorkerListen string `yaml:"worker_listen"`
	// DataDir holds everything the gateway keeps: its identity, enrolled workers, the journal and log of receipts, and
	// unless Ledger is elsewhere accounts, keys and money. Back it up; whoever reads it can pose as this gateway. Required.
	DataDir string `yaml:"data_dir"`
	// Ledger is the database of accounts, keys and money. Empty: an SQLite file in DataDir. Several gateways share one
	// PostgreSQL: "postgres://user@host/database"; its password is better in PGPASSWORD or a passfile than here.
	Ledger string `yaml:"ledger"`
	// Name is this gateway's on a shared ledger: no two may have the same, 1 to 64 of A-Z a-z 0-9 . _ - + @. Part of the
	// customers' money is allotted to it while it runs. Required with a ledger on PostgreSQL, of no use without.
	Name string `yaml:"name"`
	// Billing "on": money is held before a worker is asked, and the worker is paid by its signed receipt. "off": nobody
	// is charged or paid, and workers sign nothing; for a gateway whose workers are your own. Keys and their limits count
	// either way. Default on.
	Billing string `yaml:"billing"`
	// FeePPM is this gateway's share on top of the workers' prices, parts per million: 50000 is 5 %. It counts from the
	// next start. Default 50000.
	FeePPM int64 `yaml:"fee_ppm"`
	// KeepJournal is how long the journal of requests is kept for audits: some 700 bytes a request. Default 2160h, 90 days.
	KeepJournal time.Duration `yaml:"keep_journal"`
	// TestMoney is what each new account is given to begin with, nanoTON. It is worth nothing: for development only.
	// Default 0.
	TestMoney nanoton.Amount `yaml:"test_money_nanoton"`
	// TON connects the ledger to the chain: deposits in, payouts out. Without it the only money is what the operator
	// grants. It needs billing. Default none.
	TON *TONConfig `yaml:"ton"`
	// PublicStats shows anybody how this gateway's models were served lately (GET /cocoon/v1/stats): requests, failures,
	// latencies, tokens and cost of 5 minutes, 30 minutes and 24 hours, and each worker's part. Where few customers ask for a
	// model, that says how much they use it. Otherwise it takes a key. Prices are public either way. Default false.
	PublicStats bool `yaml:"public_stats"`
	// MarketEvery is how often each worker is told what is asked of its models, and what other prices would have won: some
	// kilobytes a worker. At least 1s. Default 1m.
	MarketEvery time.Duration `yaml:"market_every"`
	// USD shows prices and balances in dollars too. Default none.
	USD *USDConfig `yaml:"usd"`
	// Enrolment says how a worker that was never seen gets in. "approve": it waits until the operator runs
	// "cocoon-gateway workers approve ID". "auto": at once; for development only. Default approve.
	Enrolment string `yaml:"enrolment"`
	// Policy is the file of the appraisal policy: which workers have proved enough to read prompts. configs/policy.yaml is
	// the one to start from. It is read again when it changes, and counts at once. Required.
	Policy string `yaml:"policy"`
	// Registry has the releases in Policy replaced by those that a registry on the chain lists, as they come and go. Default
	// none.
	Registry *trust.Source `yaml:"registry"`
	// Collateral is where what vendors say about hardware is fetched: certificates, revocation lists, TCB levels,
	// reference values. What is fetched is kept in DataDir.
	Collateral collateral.Services `yaml:"collateral"`
	// TEE says whether the gateway itself runs in a confidential machine. "auto": if there is one. "required": the gateway
	// does not start without one. "none": it is not looked for. Without one every answer's Cocoon-Mode is unprotected: the
	// operator could read what is not sealed. Default auto.
	TEE string `yaml:"tee"`
	// FrontEnd is what reads apps' plain HTTP: "own" serves chat requests that are written the plain way at half of
	// net/http's cost and memory, and leaves all others to it; "net/http" serves everything. With tls it is always
	// net/http. Default own.
	FrontEnd string `yaml:"front_end"`
	// TLS serves Listen over HTTPS with this certificate. Without it apps speak plain HTTP. Default none.
	TLS *TLSConfig `yaml:"tls"`
	// Limits bounds what one client can take. Each has a default that suits a machine with 2 cores.
	Limits Limits `yaml:"limits"`
	// LogLevel is debug, info, warn or error. No level logs a prompt, an answer or a key. Default info.
	LogLevel slog.Level `yaml:"log_level"`

	// Dev is served below /dev on the ops listener: the development network's own. Not of the file.
	Dev http.Handler `yaml:"-"`
	// Attester is the confidential machine that the gateway runs in, nil if in none. Not of the file.
	Attester attest.Attester `yaml:"-"`
}

// Front ends.
const (
	FrontOwn     = "own"
	FrontNetHTTP = "net/http"
)

// Billing choices.
const (
	BillingOn  = "on"
	BillingOff = "off"
)

// feeDefault is 5 %.
const feeDefault = 50_000

// TEE choices.
const (
	TEEAuto     = "auto"
	TEERequired = "required"
	TEENone     = "none"
)

// TLSConfig names the files of a certificate chain and its key, both PEM.
type TLSConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Limits bounds clients and engines.
type Limits struct {
	// ConcurrentPerKey is how many requests one API key may have running; one more gets a 429. Default 1024.
	ConcurrentPerKey int `yaml:"concurrent_per_key"`
	// BufferedMiB is how much memory request bodies and unfinished events may take in all; beyond it new
	// requests get a 503 with Retry-After. Default 256.
	BufferedMiB int `yaml:"buffered_mib"`
	// BodyTimeout is how long a client may take to send its request, head and body; then it gets a 408. Default 60s.
	BodyTimeout time.Duration `yaml:"body_timeout"`
	// FirstByteTimeout is how long a worker may stay silent before the first byte of its answer: queue and
	// prefill together, and for answers that are not streamed the whole generation. Then the request moves
	// to another worker or ends with a 504. Default 10m, as long as OpenAI's own clients wait.
	FirstByteTimeout time.Duration `yaml:"first_byte_timeout"`
	// IdleTimeout is how long a stream may pause between two events; then it ends with an error event.
	// Default 60s.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// KeepAlive is the silence after which a waiting stream gets an SSE comment, so that proxies and clients
	// don't give up. The first one commits status 200. Default 15s; below 10s some clients count comments
	// as a fault.
	KeepAlive time.Duration `yaml:"keep_alive"`
}

// DefaultConfig is the configuration of an empty file.
func DefaultConfig() Config {
	return Config{
		Listen: "127.0.0.1:8080", OpsListen: "127.0.0.1:9090", WorkerListen: ":8443", Enrolment: "approve", TEE: TEEAuto, FrontEnd: FrontOwn,
		Billing: BillingOn, FeePPM: feeDefault, KeepJournal: billing.DefaultKeep, MarketEvery: time.Minute,
		Limits: Limits{
			ConcurrentPerKey: 1024, BufferedMiB: 256, BodyTimeout: time.Minute,
			FirstByteTimeout: 10 * time.Minute, IdleTimeout: time.Minute, KeepAlive: 15 * time.Second,
		},
	}
}

// LoadConfig reads and checks gateway.yaml. A dataDir that is not empty takes the place of the file's. The error names
// the field and what is wrong with it.
func LoadConfig(path, dataDir string) (Config, error) {
	c := DefaultConfig()
	if err := config.Load(path, "configs/gateway.yaml", &c); err != nil {
		return Config{}, err
	}
	c.DataDir = cmp.Or(dataDir, c.DataDir)
	if err := c.validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Config) validate() error {
	for name, addr := range map[string]string{"listen": c.Listen, "ops_listen": c.OpsListen, "worker_listen": c.WorkerListen} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%s: want host:port: %w", name, err)
		}
	}
	switch {
	case c.DataDir == "":
		return errors.New("data_dir: missing; name a folder of this gateway's own")
	case c.Enrolment != "approve" && c.Enrolment != "auto":
		return fmt.Errorf("enrolment: %q, want approve or auto", c.Enrolment)
	case c.Policy == "":
		return errors.New("policy: missing; name the appraisal policy's file, configs/policy.yaml is the one to start from")
	case !slices.Contains([]string{TEEAuto, TEERequired, TEENone}, c.TEE):
		return fmt.Errorf("tee: %q, want auto, required or none", c.TEE)
	case !slices.Contains([]string{FrontOwn, FrontNetHTTP}, c.FrontEnd):
		return fmt.Errorf("front_end: %q, want own or net/http", c.FrontEnd)
	case c.Billing != BillingOn && c.Billing != BillingOff:
		return fmt.Errorf("billing: %q, want on or off", c.Billing)
	case c.FeePPM < 0 || c.FeePPM > offer.FeeMax:
		return fmt.Errorf("fee_ppm: %d, want 0 to %d parts per million", c.FeePPM, offer.FeeMax)
	case c.KeepJournal <= 0:
		return errors.New("keep_journal: must be above zero")
	case c.MarketEvery < time.Second:
		return errors.New("market_every: must be at least 1s")
	case c.TestMoney < 0:
		return errors.New("test_money_nanoton: must not be negative")
	case c.Ledger != "" && !shared(c.Ledger):
		return errors.New("ledger: want postgres://user@host/database, or nothing for a file in data_dir")
	case c.Ledger != "" && c.Name == "":
		return errors.New("name: missing; several gateways may share a ledger on PostgreSQL, so each needs a name of its own")
	case c.TLS != nil && (c.TLS.CertFile == "" || c.TLS.KeyFile == ""):
		return errors.New("tls: needs both cert_file and key_file")
	}
	if err := c.Collateral.Check(); err != nil {
		return fmt.Errorf("collateral.%w", err)
	}
	if c.Registry != nil {
		if err := c.Registry.Check(); err != nil {
			return fmt.Errorf("registry.%w", err)
		}
	}
	if c.TON != nil {
		if c.Billing == BillingOff {
			return errors.New("ton: needs billing: on")
		}
		if err := c.TON.validate(); err != nil {
			return fmt.Errorf("ton.%w", err)
		}
	}
	if c.USD != nil {
		if err := c.USD.validate(); err != nil {
			return fmt.Errorf("usd.%w", err)
		}
	}
	return c.Limits.validate()
}

// shared tells a ledger that several gateways may use.
func shared(ledger string) bool {
	return strings.HasPrefix(ledger, "postgres://") || strings.HasPrefix(ledger, "postgresql://")
}

// LedgerURL is where the ledger is, as package ledger opens it.
func (c *Config) LedgerURL() string {
	if c.Ledger != "" {
		return c.Ledger
	}
	return "sqlite:" + filepath.Join(c.DataDir, "ledger.db")
}

func (l *Limits) validate() error {
	for name, v := range map[string]int64{
		"concurrent_per_key": int64(l.ConcurrentPerKey), "buffered_mib": int64(l.BufferedMiB), "body_timeout": int64(l.BodyTimeout),
		"first_byte_timeout": int64(l.FirstByteTimeout), "idle_timeout": int64(l.IdleTimeout), "keep_alive": int64(l.KeepAlive),
	} {
		if v <= 0 {
			return fmt.Errorf("limits.%s: must be above zero", name)
		}
	}
	if l.BufferedMiB < bodyMax>>20 {
		return fmt.Errorf("limits.buffered_mib: %d is below one request body of %d MiB", l.BufferedMiB, bodyMax>>20)
	}
	return nil
}
