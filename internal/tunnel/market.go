package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"cocoon/internal/h1"
)

// MarketMax bounds what a gateway tells a worker of demand, bytes: a hundred models with a dozen prices each.
const MarketMax = 64 << 10

// ErrNoMarket means that the worker did not take what it was told of demand; its words follow, if it has any. One that
// takes none at all says so the next time as well.
var ErrNoMarket = errors.New("worker takes no market")

// Market tells the worker of demand, over a data connection. Nothing depends on it: after an error it can be told again,
// or the next time. Errors: as those of Take, ErrNoMarket, or that of the connection.
func (w *Worker) Market(ctx context.Context, text []byte) error {
	if len(text) > MarketMax {
		return fmt.Errorf("market has %d bytes, at most %d", len(text), MarketMax)
	}
	_, err := w.overData(ctx, func(c *h1.Conn) ([]byte, error) {
		status, answer, err := post(c, marketPath, text, wordsMax, time.Now().Add(w.t.answer))
		if err == nil && status != http.StatusOK {
			err = refusedBy(ErrNoMarket, status, answer, "it has no use for it")
		}
		if err != nil {
			return nil, fmt.Errorf("telling worker of demand: %w", err)
		}
		return nil, nil
	})
	return err
}

// market takes what the gateway tells of demand, at the worker.
func (s *session) market(w http.ResponseWriter, r *http.Request) {
	text, ok := readAsked(w, r, MarketMax, s.d.cfg.Market != nil)
	if !ok {
		return
	}
	err := s.d.cfg.Market(text)
	if err != nil {
		s.d.cfg.Log.Warn("market not taken", "gateway", s.d.cfg.Address, "error", err)
	}
	answerAsked(w, "text/plain; charset=utf-8", nil, err)
}
