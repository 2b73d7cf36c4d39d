package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cocoon/internal/h1"
)

// Sizes of a countersignature, bytes.
const (
	// CountersignMax bounds what a gateway sends: a thousand IDs, binary.
	CountersignMax = 33 << 10
	// CountersignatureSize is what a worker answers: one signature.
	CountersignatureSize = 64
)

var (
	// ErrNoCountersignature means that the worker did not sign; its words follow, if it has any.
	ErrNoCountersignature = errors.New("worker did not countersign")
	// ErrAbsent is a worker's answer to a gateway that names receipts which it does not keep.
	ErrAbsent = errors.New("no such receipts")
)

// Countersign has the worker sign receipts again, over a data connection, within 2 s, and returns CountersignatureSize bytes,
// which are not verified. Nothing depends on it: each receipt has a signature of its own. Errors: as those of Take,
// ErrNoCountersignature, or that of the connection.
func (w *Worker) Countersign(ctx context.Context, body []byte) ([]byte, error) {
	if len(body) > CountersignMax {
		return nil, fmt.Errorf("receipts to countersign have %d bytes, at most %d", len(body), CountersignMax)
	}
	ctx, cancel := context.WithTimeout(ctx, w.t.sign)
	defer cancel()
	return w.overData(ctx, func(c *h1.Conn) ([]byte, error) {
		status, answer, err := post(c, countersign, body, CountersignatureSize, time.Now().Add(w.t.sign))
		switch {
		case err != nil:
		case status != http.StatusOK:
			err = refusedBy(ErrNoCountersignature, status, answer, "it keeps no such receipts")
		case len(answer) != CountersignatureSize:
			err = fmt.Errorf("%w: %d bytes are no signature", ErrNoCountersignature, len(answer))
		}
		if err != nil {
			return nil, fmt.Errorf("having receipts countersigned: %w", err)
		}
		return answer, nil
	})
}

// countersign signs receipts again, at the worker.
func (s *session) countersign(w http.ResponseWriter, r *http.Request) {
	body, ok := readAsked(w, r, CountersignMax, s.d.cfg.Countersign != nil)
	if !ok {
		return
	}
	answer, err := s.d.cfg.Countersign(r.Context(), body)
	if errors.Is(err, ErrAbsent) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if err == nil && len(answer) != CountersignatureSize {
		err = fmt.Errorf("a countersignature has %d bytes, want %d", len(answer), CountersignatureSize)
	}
	if err != nil {
		s.d.cfg.Log.Warn("receipts not countersigned", "gateway", s.d.cfg.Address, "error", err)
	}
	answerAsked(w, "application/octet-stream", answer, err)
}
