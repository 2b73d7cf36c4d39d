package worker

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"cocoon/attest"
	"cocoon/internal/openai"
	"cocoon/internal/tunnel"
	"cocoon/worker/engine"
)

// Results of a check.
const (
	Pass = "PASS"
	Info = "INFO" // neither good nor bad
	Warn = "WARN" // works, but not as you may want
	Fail = "FAIL"
)

// Times of the checks.
const (
	probeTimeout = 3 * time.Minute  // the model may have to be loaded
	helloTimeout = 8 * time.Second  // to the gateway's first words: dial, handshake, hello
	clockSkewMax = 60 * time.Second // beyond it evidence and signed requests look expired
	helloBodyMax = 4 << 10          // bytes of a gateway's first words
	refusedMax   = 512              // bytes of why it does not admit us
	shownMax     = 8                // models named in a line
)

// Check is one line of the doctor's report.
type Check struct {
	// Name says what was looked at.
	Name string
	// Result is Pass, Warn or Fail.
	Result string
	// Detail says what was found, and after a Fail or Warn what to do.
	Detail string
}

// doctor collects checks.
type doctor struct {
	config Config
	tell   func(Check)
	failed bool
}

func (d *doctor) add(result, name, format string, args ...any) {
	d.failed = d.failed || result == Fail
	d.tell(Check{Name: name, Result: result, Detail: fmt.Sprintf(format, args...)})
}

// Hardware is the confidential machine that the doctor is to look at.
type Hardware struct {
	// Found is what was looked for, and found or not.
	Found []Check
	// Attester is the machine, nil if there is none: then Missing says why.
	Attester attest.Attester
	Missing  error
}

// Doctor checks everything that a worker needs and tells each finding as it comes. It makes the worker's key if there is
// none yet, and disturbs no running worker. It is true if nothing failed.
func Doctor(ctx context.Context, c Config, h Hardware, tell func(Check)) bool {
	d := &doctor{config: c, tell: tell}
	d.checkConfig()
	id := d.checkKey()
	listed := d.checkRegistry(ctx)
	if listed {
		d.checkMachine(ctx, h, id)
	}
	d.checkEngine(ctx)
	pins, err := d.config.check()
	if err != nil || !listed {
		return false // told by checkConfig or checkRegistry
	}
	for i, g := range d.config.Gateways {
		d.checkGateway(ctx, g, pins[i], id)
	}
	return !d.failed
}

func (d *doctor) checkConfig() {
	if _, err := d.config.check(); err != nil {
		d.add(Fail, "config", "%v", err)
		return
	}
	d.add(Pass, "config", "%d gateways, %d models listed", len(d.config.Gateways), len(d.config.Models))
	free := d.config.Price.In == 0 && d.config.Price.Out == 0
	for _, m := range d.config.Models {
		free = free && (m.Price == nil || m.Price.In == 0 && m.Price.Out == 0)
	}
	if p, err := LoadPrices(d.config.DataDir); err == nil { // checkEngine says what is wrong with it
		free = free && p.All == nil && len(p.Models) == 0
	}
	if free {
		d.add(Warn, "price", "all prices are 0: answers are given away. Set price.in and price.out, nanoTON per million tokens, or use 'cocoon-worker price set'")
	}
	u, err := engine.ParseURL(d.config.Engine.URL)
	if err != nil || u.Scheme == "https" || u.Hostname() == "localhost" {
		return
	}
	if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.IsLoopback() {
		d.add(Warn, "engine url", "prompts travel to %s in the clear: keep that network your own, or use https", u.Hostname())
	}
}

// checkRegistry takes what is trusted from the registry; false if there is one, and nothing can be taken from it.
func (d *doctor) checkRegistry(ctx context.Context) bool {
	const name = "registry"
	if d.config.Registry == nil {
		return true
	}
	if _, err := d.config.check(); err != nil {
		return false // told by checkConfig
	}
	c, err := Resolve(ctx, d.config, slog.New(slog.DiscardHandler))
	if err != nil {
		d.add(Fail, name, "%v", err)
		return false
	}
	d.config = c
	t, feed := c.basis.first, c.basis.feed
	if feed.Away() {
		d.add(Warn, name, "the chain is out of reach: going by the copy of %s, which counts until %s. Check registry.network and "+
			"that this machine may connect out", t.From.At.Time.Format(time.RFC3339), feed.Ends().Format(time.RFC3339))
	}
	for _, fault := range t.Faults {
		d.add(Warn, name, "%v", fault)
	}
	d.add(Pass, name, "%d releases hold as of block %d of %s, and all %d gateways are listed", len(t.Releases), t.From.At.Seqno,
		t.From.At.Time.Format(time.RFC3339), len(c.Gateways))
	return true
}

// checkKey looks at the identity file, and returns the certificate in it.
func (d *doctor) checkKey() *tls.Certificate {
	const name = "key file"
	if d.config.DataDir == "" {
		return nil // told by checkConfig
	}
	path := identityPath(d.config.DataDir)
	info, err := os.Stat(path)
	made := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !made:
		d.add(Fail, name, "%v. Run the doctor as the user that runs the worker", err)
		return nil
	case err == nil && info.Mode().Perm()&0o077 != 0:
		d.add(Fail, name, "%s: others can read it, mode %#o. Run: chmod 600 %s", path, info.Mode().Perm(), path)
		return nil
	}
	identity, err := tunnel.LoadIdentity(path)
	if err != nil {
		d.add(Fail, name, "%v. Restore it from a backup, or delete it: the worker is a new one then, to be approved again", err)
		return nil
	}
	cert, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		d.add(Fail, name, "%v", err)
		return nil
	}
	how := "parses, mode 0600"
	if made {
		how = "was not there and is made now"
	}
	d.add(Pass, name, "%s %s; this worker's ID is %s", path, how, identity.ID())
	return &cert
}

// checkEngine looks at the engine, its models and its answers.
func (d *doctor) checkEngine(ctx context.Context) {
	key, err := d.config.Engine.key()
	if err != nil {
		d.add(Fail, "engine key", "%v", err)
		return
	}
	e, status, err := d.openEngine(ctx, key)
	if err != nil {
		d.add(Fail, "engine", "%s: %v. %s", d.config.Engine.URL, err, engineHint(err))
		return
	}
	defer e.Close()
	slots, queue := d.config.limits(status)
	d.add(Pass, "engine", "%s at %s, %d models that chat; %d requests at once, %d more may wait",
		status.Engine, d.config.Engine.URL, len(status.Models), slots, queue)
	if strings.HasPrefix(status.Engine, "ollama") && d.config.Engine.Slots == 0 {
		d.add(Warn, "engine slots", "engine.slots is not set, so 1. Set it to Ollama's OLLAMA_NUM_PARALLEL, which Ollama does not tell")
	}
	d.checkClock(ctx)
	prices, err := LoadPrices(d.config.DataDir)
	if err != nil {
		d.add(Fail, "price", "%v. Put it right, or remove it", err)
		return
	}
	cat := d.config.build(e, status, prices, slog.New(slog.DiscardHandler))
	d.checkModels(cat)
	if len(cat.offers) > 0 {
		d.probe(ctx, cat)
	}
}

func (d *doctor) openEngine(ctx context.Context, key string) (engine.Engine, engine.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	e, err := engine.Open(ctx, engine.Config{
		URL: d.config.Engine.URL, Kind: d.config.Engine.Kind, Key: key,
		IdleTimeout: d.config.Engine.IdleTimeout, AnswerTimeout: d.config.Engine.AnswerTimeout,
	})
	if err != nil {
		return nil, engine.Status{}, err
	}
	status, err := e.Status(ctx)
	if err != nil {
		e.Close()
	}
	return e, status, err
}

func engineHint(err error) string {
	if errors.Is(err, engine.ErrDown) {
		return "Start the engine, or correct engine.url"
	}
	return "See the engine's own log; check engine.url, engine.kind and engine.key_file"
}

// checkModels compares what is configured with what is there.
func (d *doctor) checkModels(cat *catalog) {
	const name = "models"
	var shown []string
	for _, o := range cat.offers[:min(len(cat.offers), shownMax)] {
		shown = append(shown, fmt.Sprintf("%s (%d tokens)", o.Model, o.ContextTokens))
	}
	if more := len(cat.offers) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	if len(shown) > 0 {
		d.add(Pass, name, "offered: %s", strings.Join(shown, ", "))
	} else {
		d.add(Fail, name, "none to offer. Load a chat model into the engine, or correct models")
	}
	for _, want := range d.config.Models {
		if _, ok := cat.names[want.Name]; ok {
			continue
		}
		m, there := find(cat.status.Models, cmp.Or(want.EngineName, want.Name))
		switch {
		case !there:
			d.add(Fail, name, "%s is configured, but not at the engine. It has: %s", want.Name, namesOf(cat.status.Models))
		case m.ContextTokens == 0 && want.ContextTokens == 0:
			d.add(Fail, name, "%s: the engine does not tell its window. Set context_tokens of this model", want.Name)
		default:
			d.add(Fail, name, "%s can't be offered under this name or with these settings", want.Name)
		}
	}
	if len(d.config.Models) > 0 {
		return
	}
	for _, m := range cat.status.Models {
		if _, ok := cat.names[publicName(m.Name)]; !ok {
			d.add(Warn, name, "%s is not offered: the engine does not tell its window. List it under models with context_tokens", m.Name)
		}
	}
}

func namesOf(models []engine.Model) string {
	var names []string
	for _, m := range models[:min(len(models), shownMax)] {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// probe asks the first model for one token, streamed, as gateways do.
func (d *doctor) probe(ctx context.Context, cat *catalog) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	o := cat.offers[0]
	name := "probe of " + o.Model
	body, err := json.Marshal(map[string]any{
		"model": o.Model, "stream": true, "max_tokens": 1,
		"messages": []map[string]string{{"role": "user", "content": "Say yes."}},
	})
	if err != nil {
		d.add(Fail, name, "%v", err)
		return
	}
	head, err := openai.ReadHead(body)
	if err != nil {
		d.add(Fail, name, "%v", err)
		return
	}
	start := time.Now()
	usage, err := cat.engine.Chat(ctx, &engine.Request{Public: o.Model, Model: cat.names[o.Model], Head: &head, Body: body}, discard{})
	if err != nil {
		d.add(Fail, name, "%v. Requests of clients would fail the same way; see the engine's log", err)
		return
	}
	d.add(Pass, name, "answered in %v: %d tokens in, %d out", time.Since(start).Round(time.Millisecond), usage.Prompt, usage.Completion)
}

// discard is an output for probes.
type discard struct{}

// Count implements engine.Output.
func (discard) Count(openai.Usage) {}

// Event implements engine.Output.
func (discard) Event([]byte, bool) error { return nil }

// End implements engine.Output.
func (discard) End([]byte, bool) error { return nil }

// Answer implements engine.Output.
func (discard) Answer([]byte, bool) error { return nil }

// checkClock compares our clock with the engine's, the only other one we can ask. On one machine both are the same, so
// a pass proves little, but a difference is real.
func (d *doctor) checkClock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, d.config.Engine.URL, nil)
	if err != nil {
		return // told by checkConfig
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return // the engine was told of
	}
	defer resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		d.add(Warn, "clock", "not checked: the engine sends no date. See that this machine's time is synchronised (NTP)")
		return
	}
	skew := time.Since(at).Round(time.Second)
	if skew.Abs() > clockSkewMax {
		d.add(Fail, "clock", "differs from the engine's by %v. Synchronise the time (NTP) of both machines", skew)
		return
	}
	d.add(Pass, "clock", "within %v of the engine's, which says nothing if that is this machine", clockSkewMax)
}

// checkGateway connects as the worker does, hears the gateway's first words, and leaves before a session begins: a
// session would take the place of a running worker's.
func (d *doctor) checkGateway(ctx context.Context, g Gateway, pin *tunnel.ID, cert *tls.Certificate) {
	name := "gateway " + g.Address
	if cert == nil {
		d.add(Fail, name, "not checked without the key")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", g.Address)
	if err != nil {
		d.add(Fail, name, "%v. Check the address, and that this machine may connect out to it", err)
		return
	}
	defer raw.Close()
	host, _, _ := net.SplitHostPort(g.Address) // checked with the configuration
	conn := tls.Client(raw, gatewayTLS(host, pin, cert))
	if err := conn.HandshakeContext(ctx); err != nil {
		d.add(Fail, name, "TLS: %v. %s", err, tlsHint(err, pin))
		return
	}
	refused, err := firstWords(ctx, conn)
	switch {
	case err != nil:
		d.add(Fail, name, "TLS and key are right, but then: %v. Is this the gateway's worker_listen address?", err)
	case refused != "":
		d.add(Fail, name, "connected, but not admitted: %s", refused)
	case pin == nil:
		d.add(Pass, name, "connected and admitted; no pin set, its certificate is good for %s", host)
	default:
		d.add(Pass, name, "connected and admitted; its key is the pinned one")
	}
}

// errPin means that somebody else's key is at the gateway's address.
var errPin = errors.New("the key there is not the pinned one")

// gatewayTLS is what package tunnel uses to dial a gateway.
func gatewayTLS(host string, pin *tunnel.ID, cert *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		ServerName:           host,
		NextProtos:           []string{"cocoon-worker/1"},
		InsecureSkipVerify:   pin != nil, // VerifyConnection checks the pin instead
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if pin == nil {
				return nil
			}
			if got := tunnel.ID(sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)); got != *pin {
				return fmt.Errorf("%w: it is %s", errPin, got)
			}
			return nil
		},
	}
}

func tlsHint(err error, pin *tunnel.ID) string {
	switch {
	case errors.Is(err, errPin):
		return "If the gateway's operator confirms that key, put it into pin; if not, this is not your gateway"
	case pin == nil:
		return "Ask the gateway's operator for its ID and set pin, unless its certificate is to be a public one"
	}
	return "Is this the gateway's worker_listen address?"
}

// firstWords reads the hello with which a gateway begins each connection; refused is why we are not admitted.
func firstWords(ctx context.Context, conn net.Conn) (refused string, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(conn, helloBodyMax)))
	if err != nil {
		return "", errors.New("the gateway said nothing that we know")
	}
	defer req.Body.Close()
	var hello struct {
		V       int    `json:"v"`
		Refused string `json:"refused"`
	}
	if err := json.NewDecoder(req.Body).Decode(&hello); err != nil || hello.V != 1 {
		return "", errors.New("the gateway's first words are of no version that we know")
	}
	return printable(hello.Refused), nil
}

// printable makes a gateway's words fit for a terminal.
func printable(s string) string {
	s = s[:min(len(s), refusedMax)]
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
