package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"cocoon/billing/treasury"
	"cocoon/gateway/accounts"
	"cocoon/gateway/wish"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/strictjson"
)

const (
	// pageDefault and pageMax bound the accounts or keys of one answer.
	pageDefault = 1000
	pageMax     = 10_000
)

// adminAPI is what the operator can do over HTTP, on the ops listener: no key is asked for there. The commands do the same.
type adminAPI struct {
	accountAPI
	host string // of the ops listener, as configured
}

// routes is everything below /admin/v1.
func (a *adminAPI) routes() http.Handler {
	r := chi.NewRouter()
	pages := http.NewCrossOriginProtection()
	pages.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a.refuse(w, openai.NewError(http.StatusForbidden, "cross_origin", "web pages of others may not call the admin API"))
	}))
	r.Use(a.local, pages.Handler, timed)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		a.refuse(w, openai.NewError(http.StatusNotFound, "unknown_url", "no such endpoint: %s %s", r.Method, clip(r.URL.Path, 200)))
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		a.refuse(w, openai.NewError(http.StatusMethodNotAllowed, "method_not_allowed", "%s does not take %s", clip(r.URL.Path, 200), r.Method))
	})
	r.Get("/accounts", a.listAccounts)
	r.Post("/accounts", a.createAccount)
	r.Get("/accounts/{id}", a.showAccount)
	r.Patch("/accounts/{id}", a.limitAccount)
	r.Post("/accounts/{id}/suspend", a.suspendAccount)
	r.Post("/accounts/{id}/resume", a.resumeAccount)
	r.Post("/accounts/{id}/grant", a.grant)
	r.Get("/keys", a.listKeys)
	r.Post("/keys", a.createKey)
	r.Get("/keys/{id}", a.showKey)
	r.Patch("/keys/{id}", a.updateKey)
	r.Post("/keys/{id}/rotate", a.rotateKey)
	r.Post("/keys/{id}/revoke", a.revokeKey)
	r.Get("/treasury", a.showTreasury)
	r.Get("/payouts", a.listPayouts)
	r.Post("/payouts/{id}/hold", a.changePayout(treasury.Hold))
	r.Post("/payouts/{id}/cancel", a.changePayout(treasury.Cancel))
	r.Post("/payouts/{id}/release", a.changePayout(func(ctx context.Context, l treasury.Documents, id, _ string) error {
		return treasury.Release(ctx, l, id)
	}))
	r.Get("/usage", func(w http.ResponseWriter, r *http.Request) {
		q, err := readReport(r.URL.Query())
		if err != nil {
			a.refuse(w, err)
			return
		}
		a.report(w, r, q)
	})
	return r
}

// local keeps web pages out: a page of a stranger that the operator's browser shows can send requests to loopback, and
// can give a name of its own to this address, but it can't make the browser call it by a number.
func (a *adminAPI) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if host != a.host && host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil {
			a.refuse(w, openai.NewError(http.StatusForbidden, "wrong_host", "call the admin API by its address, as localhost, or by the name in ops_listen"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// timed bounds what a request asks of the database.
func timed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// adminAccount is what the operator sees of an account.
type adminAccount struct {
	Name      string          `json:"name"`
	Created   time.Time       `json:"created"`
	Suspended *time.Time      `json:"suspended"`
	Reason    string          `json:"reason,omitempty"`
	Limits    accounts.Limits `json:"limits"`
	Balance   int64           `json:"balance_nanoton"`
	Held      *int64          `json:"held_nanoton,omitempty"` // not in lists
}

func viewAccount(a accounts.Account, balance nanoton.Amount) adminAccount {
	return adminAccount{
		Name: a.Name, Created: a.Created, Suspended: given(a.Suspended), Reason: a.Reason, Limits: a.Limits, Balance: int64(balance),
	}
}

func (a *adminAPI) listAccounts(w http.ResponseWriter, r *http.Request) {
	balances, err := a.book.Balances(r.Context())
	if err != nil {
		a.fail(w, err)
		return
	}
	list, more, e := page(r.URL.Query(), a.book.Accounts(), func(v accounts.Account) string { return v.Name })
	if e != nil {
		a.refuse(w, e)
		return
	}
	views := []adminAccount{}
	for _, v := range list {
		views = append(views, viewAccount(v, balances[v.Name]))
	}
	a.answer(w, listView{"list", views, more})
}

// listView is a page of a list; the next one is after its last.
type listView struct {
	Object string `json:"object"`
	Data   any    `json:"data"`
	More   bool   `json:"has_more"`
}

// page cuts from a list what the parameters after and limit ask for.
func page[T any](values url.Values, list []T, id func(T) string) (cut []T, more bool, e *openai.Error) {
	if after := values.Get("after"); after != "" {
		i := slices.IndexFunc(list, func(v T) bool { return id(v) == after })
		if i < 0 {
			return nil, false, openai.BadRequest("after", "the list has no such ID")
		}
		list = list[i+1:]
	}
	limit := pageDefault
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > pageMax {
			return nil, false, openai.BadRequest("limit", "want a number from 1 to %d", pageMax)
		}
		limit = n
	}
	return list[:min(len(list), limit)], len(list) > limit, nil
}

// tell answers with an account.
func (a *adminAPI) tell(w http.ResponseWriter, r *http.Request, name string, err error) {
	if err != nil {
		a.fail(w, err)
		return
	}
	account, err := a.book.Account(name)
	if err != nil {
		a.fail(w, err)
		return
	}
	v, err := a.view(r.Context(), name)
	if err != nil {
		a.fail(w, err)
		return
	}
	answer := viewAccount(account, nanoton.Amount(v.Balance))
	answer.Held = &v.Held
	a.answer(w, answer)
}

func (a *adminAPI) createAccount(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Name   string          `json:"name"`
		Limits accounts.Limits `json:"limits"`
	}
	if a.read(w, r, &in) {
		_, err := a.book.CreateAccount(r.Context(), in.Name, in.Limits)
		a.tell(w, r, in.Name, err)
	}
}

func (a *adminAPI) showAccount(w http.ResponseWriter, r *http.Request) {
	a.tell(w, r, chi.URLParam(r, "id"), nil)
}

func (a *adminAPI) limitAccount(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Limits accounts.Limits `json:"limits"`
	}
	if a.read(w, r, &in) {
		name := chi.URLParam(r, "id")
		a.tell(w, r, name, a.book.LimitAccount(r.Context(), name, in.Limits))
	}
}

func (a *adminAPI) suspendAccount(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Reason string `json:"reason"`
	}
	if a.read(w, r, &in) {
		name := chi.URLParam(r, "id")
		a.tell(w, r, name, a.book.SuspendAccount(r.Context(), name, in.Reason))
	}
}

func (a *adminAPI) resumeAccount(w http.ResponseWriter, r *http.Request) {
	if a.read(w, r, &struct{}{}) {
		name := chi.URLParam(r, "id")
		a.tell(w, r, name, a.book.ResumeAccount(r.Context(), name))
	}
}

func (a *adminAPI) grant(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Amount nanoton.Amount `json:"amount_nanoton"`
		ID     string         `json:"id"`
	}
	if a.read(w, r, &in) {
		name := chi.URLParam(r, "id")
		a.tell(w, r, name, a.book.Grant(r.Context(), name, in.Amount, in.ID))
	}
}

func (a *adminAPI) listKeys(w http.ResponseWriter, r *http.Request) {
	list, more, e := page(r.URL.Query(), a.book.Keys(r.URL.Query().Get("account")), func(k *accounts.Key) string { return k.ID })
	if e != nil {
		a.refuse(w, e)
		return
	}
	views := []keyView{}
	for _, k := range list {
		views = append(views, viewKey(k, false))
	}
	a.answer(w, listView{"list", views, more})
}

// newKeyView is the answer that shows a key's text, this once.
type newKeyView struct {
	Text string `json:"key"`
	keyView
}

func (a *adminAPI) createKey(w http.ResponseWriter, r *http.Request) {
	in := struct {
		Account string `json:"account"`
		accounts.Settings
	}{Account: accounts.DefaultAccount}
	if !a.read(w, r, &in) {
		return
	}
	if _, e := wish.Parse(in.Provider); e != nil {
		a.refuse(w, e)
		return
	}
	text, key, err := a.book.CreateKey(r.Context(), in.Account, in.Settings)
	if err != nil {
		a.fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	a.answer(w, newKeyView{text.Reveal(), viewKey(key, false)})
}

// tellKey answers with a key.
func (a *adminAPI) tellKey(w http.ResponseWriter, id string, err error) {
	if err != nil {
		a.fail(w, err)
		return
	}
	key, err := a.book.Find(id)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, viewKey(key, true))
}

func (a *adminAPI) showKey(w http.ResponseWriter, r *http.Request) {
	a.tellKey(w, chi.URLParam(r, "id"), nil)
}

// updateKey changes what the body names; all else stays.
func (a *adminAPI) updateKey(w http.ResponseWriter, r *http.Request) {
	text, ok := a.body(w, r)
	if !ok {
		return
	}
	id := chi.URLParam(r, "id")
	var refused *openai.Error
	err := a.book.UpdateKey(r.Context(), id, func(s *accounts.Settings) error {
		if err := strictjson.Decode(text, s); err != nil {
			return fmt.Errorf("the body is %w: %w", accounts.ErrInvalid, err)
		}
		if _, refused = wish.Parse(s.Provider); refused != nil {
			return refused
		}
		return nil
	})
	if refused != nil {
		a.refuse(w, refused)
		return
	}
	a.tellKey(w, id, err)
}

func (a *adminAPI) rotateKey(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Grace int64 `json:"grace_seconds"`
	}
	if !a.read(w, r, &in) {
		return
	}
	grace := time.Duration(min(max(in.Grace, -1), int64(accounts.GraceMax/time.Second)+1)) * time.Second // no overflow
	id := chi.URLParam(r, "id")
	text, err := a.book.RotateKey(r.Context(), id, grace)
	if err != nil {
		a.fail(w, err)
		return
	}
	key, err := a.book.Find(id)
	if err != nil {
		a.fail(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	a.answer(w, newKeyView{text.Reveal(), viewKey(key, true)})
}

func (a *adminAPI) revokeKey(w http.ResponseWriter, r *http.Request) {
	if a.read(w, r, &struct{}{}) {
		id := chi.URLParam(r, "id")
		a.tellKey(w, id, a.book.RevokeKey(r.Context(), id))
	}
}
