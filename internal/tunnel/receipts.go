package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"cocoon/internal/h1"
)

// Limits of an exchange of receipts. Sizes are in bytes: what is in it is not this package's business.
const (
	// AcksMax bounds what a gateway sends: a thousand IDs in hex, and some reasons.
	AcksMax = 128 << 10
	// ReceiptsMax bounds what a worker answers: some thousand receipts. It has more to say the next time.
	ReceiptsMax = 1 << 20
)

// ErrNoReceipts means that the worker did not answer with receipts; its words follow, if it has any. What was
// acknowledged may or may not have reached it.
var ErrNoReceipts = errors.New("worker gave no receipts")

// Receipts acknowledges receipts to the worker, over a data connection, and returns those that it presents; nil or
// empty if there are none. It may have to be said again after an error. Errors: as those of Take, ErrNoReceipts, or that
// of the connection.
func (w *Worker) Receipts(ctx context.Context, acks []byte) ([]byte, error) {
	if len(acks) > AcksMax {
		return nil, fmt.Errorf("acknowledgements have %d bytes, at most %d", len(acks), AcksMax)
	}
	return w.overData(ctx, func(c *h1.Conn) ([]byte, error) {
		status, answer, err := post(c, receiptsPath, acks, ReceiptsMax, time.Now().Add(w.t.receipts+w.t.answer))
		if err == nil && status != http.StatusOK {
			err = refusedBy(ErrNoReceipts, status, answer, "it keeps none")
		}
		if err != nil {
			return nil, fmt.Errorf("exchanging receipts: %w", err)
		}
		return answer, nil
	})
}

// overData has ask use a data connection; again if the worker had closed that one a moment ago.
func (w *Worker) overData(ctx context.Context, ask func(c *h1.Conn) ([]byte, error)) ([]byte, error) {
	for tries := staleMax; ; tries-- {
		c, err := w.Take(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := w.overOne(ctx, c, ask)
		if !errors.Is(err, h1.ErrStale) || tries == 0 {
			return answer, err
		}
	}
}

func (w *Worker) overOne(ctx context.Context, c *h1.Conn, ask func(c *h1.Conn) ([]byte, error)) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Net().Close() }) // ends the exchange
	answer, err := ask(c)
	if !stop() {
		_ = c.Net().Close() // it is closed now or soon
		return nil, ctx.Err()
	}
	w.Give(c)
	return answer, err
}

// post sends the worker itself a request, and reads its answer: limit bytes at most of a good one. Unless the connection
// breaks or the answer is too long, it can be used afterwards.
func post(c *h1.Conn, path string, body []byte, limit int64, until time.Time) (status int, answer []byte, err error) {
	if err := c.Net().SetDeadline(until); err != nil {
		return 0, nil, err
	}
	resp, err := c.Do(&h1.Request{
		Method: "POST", Path: path, Host: host, Header: "Content-Type: application/json\r\n", Body: body,
	})
	if err != nil {
		return 0, nil, err
	}
	status = resp.Status
	if status != http.StatusOK {
		limit = wordsMax
	}
	answer, err = readBody(resp, limit)
	return status, answer, err
}

// refusedBy is an answer of the worker that is not 200, as an error. lacks is what a 404 means.
func refusedBy(sentinel error, status int, answer []byte, lacks string) error {
	switch status {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", sentinel, lacks)
	case http.StatusServiceUnavailable:
		return fmt.Errorf("%w: it says: %s", sentinel, printable(string(answer)))
	default:
		return fmt.Errorf("%w: status %d", sentinel, status)
	}
}

// receipts takes acknowledgements and presents receipts, at the worker.
func (s *session) receipts(w http.ResponseWriter, r *http.Request) {
	acks, ok := readAsked(w, r, AcksMax, s.d.cfg.Receipts != nil)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.d.t.receipts)
	defer cancel()
	answer, err := s.d.cfg.Receipts(ctx, acks)
	if err == nil && len(answer) > ReceiptsMax {
		err = fmt.Errorf("receipts have %d bytes, at most %d", len(answer), ReceiptsMax)
	}
	if err != nil {
		s.d.cfg.Log.Warn("receipts not exchanged", "gateway", s.d.cfg.Address, "error", err)
	}
	answerAsked(w, "text/plain; charset=utf-8", answer, err)
}

// readAsked reads the body of what the gateway asks the worker itself; false if it can't be, or the worker does not serve
// that, and then it is answered.
func readAsked(w http.ResponseWriter, r *http.Request, limit int64, serves bool) (body []byte, ok bool) {
	if r.Method != http.MethodPost {
		refuse(w, http.StatusBadRequest)
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge)
		return nil, false
	}
	if !serves {
		w.WriteHeader(http.StatusNotFound) // and the connection stays: there is more to say or to serve on it
	}
	return body, serves
}
