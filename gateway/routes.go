package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"cocoon/gateway/accounts"
	"cocoon/internal/openai"
	"cocoon/internal/secret"
)

// Header names in the form that net/http keeps them, so that setting one is a map write.
const (
	headerRequestID = "X-Request-Id"
	headerMode      = "Cocoon-Mode"
	headerWorker    = "Cocoon-Worker"
	headerTime      = "Openai-Processing-Ms"
	headerReceipt   = "Cocoon-Receipt"
	headerCost      = "Cocoon-Cost-Nanoton"
	headerMaxTokens = "Cocoon-Max-Tokens"
	headerUser      = "Cocoon-User"
)

const chatPath = "/v1/chat/completions"

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, openai.NewError(http.StatusNotFound, "unknown_url", "no such endpoint: %s %s", r.Method, clip(r.URL.Path, 200)))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, openai.NewError(http.StatusMethodNotAllowed, "method_not_allowed", "%s does not take %s", clip(r.URL.Path, 200), r.Method))
	})
	r.Post(chatPath, func(w http.ResponseWriter, r *http.Request) { s.chat(w, r, new(lines)) })
	r.Get("/v1/models", s.withKey(s.listModels))
	r.Get("/v1/models/*", s.withKey(s.showModel))
	account := s.accountAPI()
	r.Get("/cocoon/v1/account", s.with(accounts.ScopeAccount, account.show))
	r.Get("/cocoon/v1/account/withdrawals", s.with(accounts.ScopeAccount, account.withdrawals))
	r.Post("/cocoon/v1/account/withdrawals", s.with(accounts.ScopeWithdraw, account.withdraw))
	r.Get("/cocoon/v1/account/tab", s.with(accounts.ScopeAccount, account.showTab(false)))
	r.Get("/cocoon/v1/account/tab/kit", s.with(accounts.ScopeAccount, account.showTab(true)))
	r.Post("/cocoon/v1/account/tab", s.with(accounts.ScopeWithdraw, account.openTab))
	r.Get("/cocoon/v1/usage", s.with(accounts.ScopeAccount, account.usage))
	r.Get("/cocoon/v1/prices", s.listPrices)
	r.Get("/cocoon/v1/stats", s.listStats)
	r.Get("/cocoon/v1/generation/{id}", s.with("", s.showGeneration))
	r.Get("/v1/generation", s.with("", s.showGeneration))
	r.Get("/cocoon/v1/receipts/{id}", s.withKey(s.showReceipt))
	r.Get("/cocoon/v1/evidence/{keyset}", s.showEvidence)
	r.Get("/cocoon/v1/log-key", s.showLogKey)
	r.Get("/cocoon/v1/attestation", s.showAttestation)
	r.Get("/cocoon/v1/workers", s.listWorkers)
	r.Get("/healthz", healthy)
	r.Get("/readyz", s.ready)
	return s.outermost(r)
}

// outermost gives every answer its request ID and turns a panic into a 500. What nearly all requests ask for does not
// go through the mux, which copies the request.
func (s *Server) outermost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, l := w.Header(), new(lines)
		l.set(h, headerRequestID, s.newRequestID())
		l.set(h, headerMode, s.mode(nil))
		if len(r.TransferEncoding) > 0 {
			// It may have come with a Content-Length, which net/http drops: where the next request begins is then a
			// matter of opinion (RFC 9112 6.1), so there is none.
			h["Connection"] = []string{"close"}
		}
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares the same way
				panic(v)
			}
			// The value of a panic can quote a request: the stack alone goes to the log.
			s.log.Error("a handler panicked", "request", h[headerRequestID][0], "stack", string(debug.Stack()))
			s.refuse(w, openai.NewError(http.StatusInternalServerError, "internal_error", "internal error"))
		}()
		if r.Method == http.MethodPost && r.URL.Path == chatPath {
			s.chat(w, r, l)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// lines is room for the values of an answer's headers: one piece of memory where each would be one. It serves one answer
// only: net/http reads it when the handler has returned.
type lines struct {
	values [8]string
	n      int // of them
}

// set gives a header its one value.
func (l *lines) set(h http.Header, key, value string) {
	if l.n == len(l.values) {
		h[key] = []string{value}
		return
	}
	l.values[l.n] = value
	h[key] = l.values[l.n : l.n+1 : l.n+1]
	l.n++
}

// newRequestID is 92 random bits, which nobody can guess, and the gateway's mark, by which it knows its own requests when
// a worker speaks of one later. The last digit counts the attempts.
func (s *Server) newRequestID() string {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:8], rand.Uint64())
	copy(b[8:12], s.tag[:])
	binary.LittleEndian.PutUint32(b[12:], rand.Uint32())
	var text [4 + 32]byte
	copy(text[:], "req_")
	hex.Encode(text[4:], b[:])
	text[len(text)-1] = '0'
	return string(text[:])
}

// refuse answers with an error and counts it.
func (s *Server) refuse(w http.ResponseWriter, e *openai.Error) {
	s.metrics.answered(e.Status)
	e.Write(w)
}

// authenticate finds the key that a request came with, which must have the scope if one is named.
func (s *Server) authenticate(r *http.Request, scope string) (*accounts.Key, *openai.Error) {
	text, ok := bearer(r.Header.Get("Authorization"))
	if !ok {
		return nil, openai.NewError(http.StatusUnauthorized, "invalid_api_key",
			"no API key: send the header 'Authorization: Bearer ck-...'")
	}
	key := s.money.book.Key(secret.Hash(text))
	if key == nil {
		return nil, openai.NewError(http.StatusUnauthorized, "invalid_api_key", "%s", s.whyNoKey(text))
	}
	if scope != "" && !key.Can(scope) {
		return nil, openai.NewError(http.StatusForbidden, "scope_missing", "this API key lacks the scope %q", scope)
	}
	return key, nil
}

// whyNoKey says what is wrong with a key that is not in the ring, without repeating any of it.
func (s *Server) whyNoKey(text string) string {
	if _, err := secret.ParseKey(text); err != nil {
		return "wrong API key: " + err.Error()
	}
	return "wrong API key: it is well formed, but this gateway does not know it, or it was revoked or has expired"
}

func bearer(header string) (string, bool) {
	const scheme = "bearer "
	if len(header) <= len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return "", false
	}
	return strings.TrimSpace(header[len(scheme):]), true
}

// withKey lets only requests with a live key pass.
func (s *Server) withKey(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.authenticate(r, ""); err != nil {
			s.refuse(w, err)
			return
		}
		next(w, r)
	}
}

// with lets only requests pass with a live key, which has the scope if one is named.
func (s *Server) with(scope string, next func(http.ResponseWriter, *http.Request, *accounts.Key)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key, err := s.authenticate(r, scope)
		if err != nil {
			s.refuse(w, err)
			return
		}
		next(w, r, key)
	}
}

// accountAPI answers about accounts.
func (s *Server) accountAPI() *accountAPI {
	a := &accountAPI{
		book: s.money.book, shared: shared(s.cfg.LedgerURL()), log: s.log, refuse: s.refuse, answer: s.writeJSON,
		reports: make(chan struct{}, reportsMax), vault: s.money.vault, rate: s.money.rate,
	}
	if s.money.desk != nil {
		a.desk = s.money.desk.Balance
	}
	return a
}

// opsRoutes is the operator's listener: no key is asked for.
func (s *Server) opsRoutes() http.Handler {
	r := chi.NewRouter()
	host, _, _ := net.SplitHostPort(s.cfg.OpsListen) // it was checked
	r.Mount("/admin/v1", (&adminAPI{*s.accountAPI(), host}).routes())
	if s.cfg.Dev != nil {
		r.Mount("/dev", s.cfg.Dev)
	}
	r.Get("/healthz", healthy)
	r.Get("/readyz", s.ready)
	r.Handle("/metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	r.HandleFunc("/debug/pprof/*", pprof.Index)
	r.HandleFunc("/debug/pprof/profile", pprof.Profile)
	r.HandleFunc("/debug/pprof/trace", pprof.Trace)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	return r
}

// healthy says that the process serves.
func healthy(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") }

// ready says whether a request could be served: some worker offers some model.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if len(s.table.Models()) == 0 {
		plain(w, http.StatusServiceUnavailable, "no worker offers a model\n")
		return
	}
	plain(w, http.StatusOK, "ok\n")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone
}

// clip cuts text that a client sent before it goes into a message.
func clip(s string, n int) string { return s[:min(len(s), n)] }
