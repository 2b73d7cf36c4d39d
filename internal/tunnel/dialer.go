package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// DialerConfig is what a worker's side needs. All fields but Pin, Attest, Receipts, Countersign and Market
// are required.
type DialerConfig struct {
	// Identity is what the gateway knows the worker by.
	Identity *Identity
	// Address is the gateway's, host:port.
	Address string
	// Pin is the gateway's ID. Without one its certificate must be good for the host name of Address.
	Pin *ID
	// Handler serves the gateway's requests. It sees those of data connections only, and none below
	// /.well-known/cocoon/. A request's context ends with its connection, and with the session.
	Handler http.Handler
	// Report returns at once if the report is newer than after, else when it is or when ctx ends, then with
	// version == after. The first version is 1. A report is JSON, at most ReportMax bytes.
	Report func(ctx context.Context, after uint64) (version uint64, report []byte)
	// Attest answers a gateway's challenge of at most ChallengeMax bytes, hostile ones included, with at most EvidenceMax
	// bytes, within 30 s. export is of the control connection if the challenge came on that; nil on a data connection.
	// An error's words go to the gateway. Calls may overlap. Without Attest no gateway takes the worker.
	Attest func(ctx context.Context, export Exporter, challenge []byte) ([]byte, error)
	// Receipts takes a gateway's acknowledgements, at most AcksMax bytes, hostile ones included, and returns the receipts to
	// present, at most ReceiptsMax bytes, within 10 s. An error's words go to the gateway. Calls may overlap. Nil: the
	// worker keeps none, and says so.
	Receipts func(ctx context.Context, acks []byte) ([]byte, error)
	// Countersign signs receipts again that a gateway names, in at most CountersignMax bytes, hostile ones included: with
	// CountersignatureSize bytes, and at once. ErrAbsent tells the gateway that there are no such receipts; another error's
	// words go to it. Calls may overlap. Nil: the worker does not, and says so.
	Countersign func(ctx context.Context, body []byte) ([]byte, error)
	// Market takes what a gateway tells of demand, at most MarketMax bytes, hostile ones included; it returns at once. An
	// error's words go to the gateway. Calls may overlap. Nil: the worker takes none, and says so.
	Market func(text []byte) error
	// Capacity is how many data connections are wanted at most, so how many requests at once. It may change.
	Capacity func() int
	Log      *slog.Logger
}

// Dialer is the worker's side: it keeps a session with one gateway.
type Dialer struct {
	cfg   DialerConfig
	t     timings
	roots *x509.CertPool // nil: the system's

	mu     sync.Mutex
	status Status
}

// Status is how a Dialer stands with its gateway.
type Status struct {
	Connected bool
	// Since is when Connected last changed, or when Run began.
	Since time.Time
	// LastError is why the last session ended or could not begin, "" if there was no such thing yet.
	LastError string
}

// NewDialer does nothing yet; see Run.
func NewDialer(cfg DialerConfig) *Dialer { return &Dialer{cfg: cfg, t: defaults()} }

// Status is the state now.
func (d *Dialer) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

func (d *Dialer) setStatus(connected bool, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.status.Connected != connected || d.status.Since.IsZero() {
		d.status.Connected, d.status.Since = connected, time.Now()
	}
	if why != nil {
		d.status.LastError = why.Error()
	}
}

// Run keeps a session with the gateway until ctx ends, and connects again when one breaks. Then running requests may
// finish for some seconds; it returns when nothing of it runs any more. The error is nil, or that of the Address.
func (d *Dialer) Run(ctx context.Context) error {
	name, _, err := net.SplitHostPort(d.cfg.Address)
	if err != nil {
		return fmt.Errorf("gateway address: %w", err)
	}
	config := clientTLS(d.cfg.Identity, name, d.cfg.Pin)
	config.RootCAs = d.roots
	d.setStatus(false, nil)
	var serving sync.WaitGroup
	defer serving.Wait()
	for failures := 0; ; failures++ {
		began := time.Now()
		err := newSession(d, config, &serving).run(ctx)
		if ctx.Err() != nil {
			d.setStatus(false, nil)
			return nil
		}
		d.setStatus(false, err)
		if time.Since(began) > d.t.backoffTo {
			failures = 0 // it worked for a while: what broke it is news
		}
		wait := backoff(d.t, failures)
		d.cfg.Log.Warn("gateway not connected", "gateway", d.cfg.Address, "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// dial makes a TLS connection to the gateway, hello not said.
func (d *Dialer) dial(ctx context.Context, config *tls.Config) (*tls.Conn, net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.t.hello)
	defer cancel()
	dialer := net.Dialer{KeepAliveConfig: keepAlive()}
	raw, err := dialer.DialContext(ctx, "tcp", d.cfg.Address)
	if err != nil {
		return nil, nil, fmt.Errorf("dialing gateway: %w", err)
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // failed already
		return nil, nil, fmt.Errorf("shaking hands with gateway: %w", err)
	}
	return conn, raw, nil
}

// backoff doubles with each failure in a row. The wait is a random part of it, so that workers that lost a gateway at
// once do not come back at once.
func backoff(t timings, failures int) time.Duration {
	most := t.backoff
	for range min(failures, 30) {
		most = min(2*most, t.backoffTo)
	}
	return rand.N(most) + 1
}

// refusedError has the gateway's words.
func refusedError(words string) error {
	return fmt.Errorf("%w: %s", ErrRefused, printable(words))
}
