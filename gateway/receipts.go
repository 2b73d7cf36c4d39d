package gateway

import (
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"

	"cocoon/gateway/clerk"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
)

// showReceipt answers GET /cocoon/v1/receipts/{id} with what 'cocoon receipts verify' reads: the receipt, the keyset of
// its signer, and the proof that it is in the log. The ID is a request's or a receipt's; both are too long to guess, so
// whoever has one may see it.
func (s *Server) showReceipt(w http.ResponseWriter, r *http.Request) {
	s.showKept(w, "receipt", func(c *clerk.Clerk) ([]byte, error) { return c.Receipt(chi.URLParam(r, "id")) }, "text/plain; charset=utf-8")
}

// showEvidence answers GET /cocoon/v1/evidence/{keyset}: what this gateway judged when it met the keyset.
func (s *Server) showEvidence(w http.ResponseWriter, r *http.Request) {
	s.showKept(w, "evidence", func(c *clerk.Clerk) ([]byte, error) {
		keyset, err := receipt.ParseDigest(chi.URLParam(r, "keyset"))
		if err != nil {
			return nil, clerk.ErrAbsent
		}
		return c.Evidence(keyset)
	}, "application/json")
}

// showLogKey answers GET /cocoon/v1/log-key: the public key of the log of receipts, as 'cocoon receipts verify --log-key'
// takes it.
func (s *Server) showLogKey(w http.ResponseWriter, _ *http.Request) {
	s.showKept(w, "log", func(*clerk.Clerk) ([]byte, error) { return []byte(s.money.logKey + "\n"), nil }, "text/plain; charset=utf-8")
}

func (s *Server) showKept(w http.ResponseWriter, what string, read func(*clerk.Clerk) ([]byte, error), contentType string) {
	if s.money.clerk == nil {
		s.refuse(w, openai.NewError(http.StatusNotFound, "no_billing", "this gateway does not bill: there are no receipts"))
		return
	}
	text, err := read(s.money.clerk)
	switch {
	case errors.Is(err, clerk.ErrAbsent):
		s.refuse(w, openai.NewError(http.StatusNotFound, what+"_not_found", "no such %s here; a receipt is here some seconds after the answer", what))
		return
	case err != nil:
		s.log.Error("reading what was kept failed", "what", what, "err", err)
		s.refuse(w, openai.NewError(http.StatusInternalServerError, "internal_error", "internal error"))
		return
	}
	s.metrics.answered(http.StatusOK)
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(text) // the client may be gone
}
