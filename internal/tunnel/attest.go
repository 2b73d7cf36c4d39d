package tunnel

import (
	"context"
	"errors"
	"fmt"
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
	return w.overData(ctx, func(c *h1.Conn) ([]byte, error) {
		return challengeOver(c, challenge, time.Now().Add(w.t.evidence+w.t.answer))
	})
}

// challengeOver is one challenge and its answer. Unless the connection breaks or the answer is too long, it can be used
// afterwards.
func challengeOver(c *h1.Conn, challenge []byte, until time.Time) ([]byte, error) {
	if len(challenge) > ChallengeMax {
		return nil, fmt.Errorf("challenge has %d bytes, at most %d", len(challenge), ChallengeMax)
	}
	status, answer, err := post(c, attestPath, challenge, EvidenceMax, until)
	switch {
	case err != nil:
		return nil, fmt.Errorf("challenging worker: %w", err)
	case status != http.StatusOK:
		return nil, refusedBy(ErrNoEvidence, status, answer, "it can't attest itself")
	}
	return answer, nil
}

// attest answers a challenge, at the worker. export is nil on data connections.
func (s *session) attest(w http.ResponseWriter, r *http.Request, export Exporter) {
	challenge, ok := readAsked(w, r, ChallengeMax, s.d.cfg.Attest != nil)
	if !ok {
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
	if err != nil {
		s.d.cfg.Log.Warn("evidence not made", "gateway", s.d.cfg.Address, "error", err)
	}
	answerAsked(w, "application/json", answer, err)
}

// answerAsked answers what the gateway asked the worker itself: with 200, or with an error's words.
func answerAsked(w http.ResponseWriter, kind string, answer []byte, err error) {
	status := http.StatusOK
	if err != nil {
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
