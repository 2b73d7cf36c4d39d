package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"cocoon/attest"
	"cocoon/attest/channel"
	"cocoon/internal/strictjson"
)

// Limits on what a gateway may do to us.
const (
	answerMax     = 9 * attest.EvidenceMax // evidence of eight workers, and what the gateway says of them
	answerHeadMax = 64 << 10
	answerTimeout = 2 * time.Minute // a machine takes up to 30 s for its evidence, and others may be before us
	listedMax     = 8               // workers with evidence in one answer
	listedNameMax = 64              // characters of a worker's name that are shown
)

// gateway is the gateway that is asked. Nothing that it says is trusted.
type gateway struct {
	base   *url.URL
	client *http.Client
	roots  *x509.CertPool // of the WebPKI; nil: the system's
}

func newGateway(text string) (*gateway, error) {
	base, err := gatewayURL(text)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		// Any certificate will do for the connection: the evidence says whose key it must be, which is more than
		// certification authorities can say. The handshake proves that the other side has that key.
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12},
		MaxResponseHeaderBytes: answerHeadMax,
		DisableCompression:     true,
		DisableKeepAlives:      true,
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &gateway{
		base:   base,
		client: &http.Client{Transport: transport, CheckRedirect: refuse, Timeout: answerTimeout},
	}, nil
}

// absentError is a gateway's word that it has no evidence to give.
type absentError struct {
	status  int
	message string
}

func (e *absentError) Error() string {
	return fmt.Sprintf("the gateway answered %d: %s", e.status, e.message)
}

// get asks for JSON and decodes it into v. The state is that of the TLS connection on which the answer came, nil if it
// was plain HTTP.
func (g *gateway) get(ctx context.Context, path string, query url.Values, v any) (*tls.ConnectionState, error) {
	u := g.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, reaching(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerMax+1))
	switch {
	case err != nil:
		return nil, reaching(err)
	case len(body) > answerMax:
		return nil, fmt.Errorf("garbage from the gateway: its answer is longer than %d MiB", answerMax>>20)
	case resp.StatusCode != http.StatusOK:
		return nil, refusal(resp, body)
	}
	if err := strictjson.Decode(body, v); err != nil {
		return nil, fmt.Errorf("garbage from the gateway: %w; is %s a Cocoon gateway?", err, g.base.Redacted())
	}
	return resp.TLS, nil
}

// reaching says in a person's words why there is no answer.
func reaching(err error) error {
	if sent, ok := errors.AsType[*url.Error](err); ok {
		if sent.Timeout() {
			return fmt.Errorf("the gateway gave no answer in time: %w", sent.Err)
		}
		err = sent.Err
	}
	return fmt.Errorf("reaching the gateway: %w", err)
}

// refusal is the error that an answer other than 200 means.
func refusal(resp *http.Response, body []byte) error {
	var answer struct {
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Error == nil {
		if to := resp.Header.Get("Location"); to != "" {
			return fmt.Errorf("the gateway answered %d and sends us to %q: name the right URL yourself", resp.StatusCode, to)
		}
		return fmt.Errorf("the gateway answered %d, and not in OpenAI's words: is the URL right?", resp.StatusCode)
	}
	e := &absentError{resp.StatusCode, answer.Error.Message}
	if e.status == http.StatusNotFound || e.status == http.StatusNotImplemented {
		return e
	}
	return errors.New(e.Error())
}

// itself asks the gateway for its own evidence.
func (g *gateway) itself(ctx context.Context) ([]*machine, error) {
	m := &machine{role: attest.Gateway, name: g.base.Host, nonce: attest.NewNonce()}
	var answer channel.Attestation
	state, err := g.get(ctx, "cocoon/v1/attestation", url.Values{"nonce": {m.nonce.String()}}, &answer)
	if absent, ok := errors.AsType[*absentError](err); ok {
		m.absent = absent.Error()
		return []*machine{m}, nil
	}
	switch {
	case err != nil:
		return nil, err
	case answer.V != attest.Version:
		return nil, fmt.Errorf("garbage from the gateway: version %d of its answer, want %d", answer.V, attest.Version)
	}
	m.evidence, m.proof = answer.Evidence, &answer.Proof
	if state != nil {
		m.tls = sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
		m.notes = append(m.notes, g.webPKI(state))
	}
	return []*machine{m}, nil
}

// webPKI says whether the gateway's certificate is also one that a browser would take.
func (g *gateway) webPKI(state *tls.ConnectionState) string {
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	host := g.base.Hostname()
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: g.roots, Intermediates: intermediates,
	})
	if err != nil {
		return fmt.Sprintf("WebPKI does not vouch for the certificate (%v): the evidence alone says whose key it is", err)
	}
	return fmt.Sprintf("WebPKI vouches for the certificate too: it is good for %s", host)
}

// workers asks the gateway for evidence of one worker, or of those that serve a model.
func (g *gateway) workers(ctx context.Context, worker, model string) (machines []*machine, more int, err error) {
	nonce := attest.NewNonce()
	query := url.Values{"nonce": {nonce.String()}}
	var want attest.Digest
	if worker != "" {
		if want, err = attest.ParseDigest(worker); err != nil {
			return nil, 0, fmt.Errorf("--worker: %w, as cocoon-worker id prints them: %w", err, errUsage)
		}
		query.Set("worker", worker)
	} else {
		query.Set("model", model)
	}
	var answer channel.Listing
	_, err = g.get(ctx, "cocoon/v1/workers", query, &answer)
	nobody := &machine{role: attest.Worker, id: want, nonce: nonce}
	if absent, ok := errors.AsType[*absentError](err); ok {
		nobody.absent = absent.Error()
		return []*machine{nobody}, 0, nil
	}
	if err == nil {
		err = checkListing(&answer, want)
	}
	if err != nil {
		return nil, 0, err
	}
	for i := range answer.Workers {
		machines = append(machines, listed(&answer.Workers[i], nonce, model))
	}
	if len(machines) == 0 {
		nobody.absent = "the gateway lists no such worker that is attested"
		machines = append(machines, nobody)
	}
	return machines, answer.More, nil
}

// checkListing refuses answers that are none to the question. want is zero if any worker will do.
func checkListing(l *channel.Listing, want attest.Digest) error {
	seen := make(map[attest.Digest]bool)
	for _, w := range l.Workers {
		switch {
		case w.ID.IsZero():
			return errors.New("garbage from the gateway: it lists a worker without an ID")
		case seen[w.ID]:
			return fmt.Errorf("garbage from the gateway: it lists worker %s twice", w.ID)
		case !want.IsZero() && w.ID != want:
			return fmt.Errorf("garbage from the gateway: asked for worker %s, it answers with %s", want, w.ID)
		}
		seen[w.ID] = true
	}
	switch {
	case l.V != attest.Version:
		return fmt.Errorf("garbage from the gateway: version %d of its answer, want %d", l.V, attest.Version)
	case len(l.Workers) > listedMax:
		return fmt.Errorf("garbage from the gateway: it lists %d workers with evidence, at most %d", len(l.Workers), listedMax)
	case l.More < 0 || !want.IsZero() && l.More > 0:
		return fmt.Errorf("garbage from the gateway: it left out %d workers", l.More)
	}
	return nil
}

// listed is a worker of a listing.
func listed(w *channel.ListedWorker, nonce attest.Digest, model string) *machine {
	m := &machine{
		role: attest.Worker, id: w.ID, name: printable(w.Name, listedNameMax), model: model, nonce: nonce, notes: []string{gpuNote},
	}
	switch {
	case w.Relayed != nil:
		m.evidence, m.proof = w.Evidence, &w.Proof
	case w.Error != "":
		m.absent = "the gateway got none: " + w.Error
	default:
		m.absent = "the gateway sent none"
	}
	return m
}

// gpuNote says what no worker's evidence can prove.
const gpuNote = "its GPUs answer this very challenge, but no GPU's report can say which machine it is plugged into: that they " +
	"are in this one rests on the measured software, which takes no others"
