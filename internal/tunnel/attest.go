package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"cocoon/internal/h1"
)

// Limits on attestation. Sizes are in bytes: what is in it is not this package's business.
const (
	// ChallengeMax bounds what a gateway sends: a nonce and a few words.
	ChallengeMax = 4 << 10
	// EvidenceMax bounds what a worker answers: a machine of 8 GPUs with all endorsements has 300 KiB.
	EvidenceMax = 1 << 20
	// staleMax bounds the data connections in a row that the worker has closed a moment before they are used.
	staleMax = 3
)

// ErrNoEvidence means that the worker did not answer a challenge with evidence; its words follow, if it has any.
var ErrNoEvidence = errors.New("worker gave no evidence")

// Exporter derives a secret of one TLS connection, the same at both its ends (RFC 8446 7.5).
type Exporter func(label string, context []byte, length int) ([]byte, error)

// Challenge is a worker that a gateway is to attest.
type Challenge struct {
	Worker *Worker
	// First says that the session was not attested before.
	First bool
	// Export is of the control connection, the one that Ask uses.
	Export Exporter
	// Ask sends a challenge to the worker and waits for its answer. It may be called again, after it has returned, until
	// Attest does. The error is ErrNoEvidence with the worker's words, or that of the connection.
	Ask func(challenge []byte) (answer []byte, err error)
}

// Reattest asks for the worker to be attested again at the session's next turn, which comes within 10 s. From now until
// that attestation has ended no report is handed over, but one whose handing over has begun.
func (w *Worker) Reattest() { w.again.Store(true) }

// due says whether the session must be attested before anything else.
func (w *Worker) due() bool { return w.again.Load() || !time.Now().Before(w.next) }

// ensure attests the worker if that is due. After an error the session is over, and the worker has been told why.
func (w *Worker) ensure(ctx context.Context) error {
	for w.due() {
		if err := w.verdict(ctx); err != nil {
			w.refuse(fmt.Errorf("attesting worker: %w", err), err)
			return err
		}
	}
	return nil
}

// verdict asks the gateway once whether the worker is to be trusted. ctx ends with the session.
func (w *Worker) verdict(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.t.verdict)
	defer cancel()
	w.asked = true
	w.again.Store(false) // a Reattest from here on is not answered by this
	cs := w.control.ConnectionState()
	next, err := w.attest(ctx, &Challenge{
		Worker: w, First: w.next.IsZero(), Export: cs.ExportKeyingMaterial,
		Ask: func(challenge []byte) ([]byte, error) {
			until, _ := ctx.Deadline()
			return challengeOver(w.control.h1, challenge, earlier(until, time.Now().Add(w.t.evidence+w.t.answer)))
		},
	})
	switch {
	case err != nil:
		return err
	case w.cause() != nil:
		return ErrGone
	case !next.After(time.Now()):
		return errors.New("the attestation has expired already")
	}
	w.next = next
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attested = true
	return nil
}

// Evidence sends a challenge over a data connection and returns the worker's answer. There the worker has no connection
// to bind it to: it is for relaying. Errors: as those of Take and of Challenge.Ask.
func (w *Worker) Evidence(ctx context.Context, challenge []byte) ([]byte, error) {
	for tries := staleMax; ; tries-- {
		c, err := w.Take(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := w.evidenceFrom(ctx, c, challenge)
		if !errors.Is(err, h1.ErrStale) || tries == 0 {
			return answer, err
		}
	}
}

func (w *Worker) evidenceFrom(ctx context.Context, c *h1.Conn, challenge []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Net().Close() }) // ends the exchange
	answer, err := challengeOver(c, challenge, time.Now().Add(w.t.evidence+w.t.answer))
	if !stop() {
		_ = c.Net().Close() // it is closed now or soon
		return nil, ctx.Err()
	}
	w.Give(c)
	return answer, err
}

// challengeOver is one challenge and its answer. Unless the connection breaks or the answer is too long, it can be used
// afterwards.
func challengeOver(c *h1.Conn, challenge []byte, until time.Time) ([]byte, error) {
	if len(challenge) > ChallengeMax {
		return nil, fmt.Errorf("challenge has %d bytes, at most %d", len(challenge), ChallengeMax)
	}
	if err := c.Net().SetDeadline(until); err != nil {
		return nil, fmt.Errorf("challenging worker: %w", err)
	}
	resp, err := c.Do(&h1.Request{
		Method: "POST", Path: attestPath, Host: host, Header: "Content-Type: application/json\r\n", Body: challenge,
	})
	if err != nil {
		return nil, fmt.Errorf("challenging worker: %w", err)
	}
	limit := int64(EvidenceMax)
	if resp.Status != http.StatusOK {
		limit = wordsMax
	}
	answer, err := readBody(resp, limit)
	switch {
	case err != nil:
		return nil, fmt.Errorf("challenging worker: %w", err)
	case resp.Status == http.StatusOK:
		return answer, nil
	case resp.Status == http.StatusNotFound:
		return nil, fmt.Errorf("%w: it can't attest itself", ErrNoEvidence)
	case resp.Status == http.StatusServiceUnavailable:
		return nil, fmt.Errorf("%w: it says: %s", ErrNoEvidence, printable(string(answer)))
	default:
		return nil, fmt.Errorf("%w: status %d", ErrNoEvidence, resp.Status)
	}
}

// attest answers a challenge, at the worker. export is nil on data connections.
func (s *session) attest(w http.ResponseWriter, r *http.Request, export Exporter) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusBadRequest)
		return
	}
	challenge, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ChallengeMax))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge)
		return
	}
	if s.d.cfg.Attest == nil {
		w.WriteHeader(http.StatusNotFound) // and the connection stays, on which the gateway says what it thinks of that
		return
	}
	if export != nil {
		s.hear(s.d.t.verdict+s.d.t.silence, false) // the gateway waits for us, then it thinks: no poll comes meanwhile
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.d.t.evidence)
	defer cancel()
	answer, err := s.d.cfg.Attest(ctx, export, challenge)
	if err == nil && len(answer) > EvidenceMax {
		err = fmt.Errorf("evidence has %d bytes, at most %d", len(answer), EvidenceMax)
	}
	status, kind := http.StatusOK, "application/json"
	if err != nil {
		s.d.cfg.Log.Warn("evidence not made", "gateway", s.d.cfg.Address, "error", err)
		status, kind, answer = http.StatusServiceUnavailable, "text/plain; charset=utf-8", []byte(printable(err.Error()))
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	_, _ = w.Write(answer) // a peer that is gone closes the connection
}

// printable makes a peer's or a callback's words fit for a terminal and a log: wordsMax bytes at most.
func printable(words string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(clip(words, wordsMax), ""))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
