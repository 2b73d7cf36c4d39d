package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cocoon/billing/ledger"
	"cocoon/billing/tabs"
	"cocoon/billing/ton/tab"
	"cocoon/billing/treasury"
	"cocoon/gateway/accounts"
	"cocoon/gateway/rates"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/strictjson"
)

const (
	// reportsMax bounds the reports of usage that are made at once: each reads the database.
	reportsMax = 4
	// reportDays is how many days a customer's report goes back who does not say from when.
	reportDays = 30
	// askTimeout bounds what the account and admin answers ask of the database.
	askTimeout = 30 * time.Second
	// askBodyMax bounds a request, bytes: a key with all its patterns has 20 KiB.
	askBodyMax = 1 << 20
)

// accountAPI answers customers who ask about their account, and is half of the operator's.
type accountAPI struct {
	book *accounts.Book
	// desk says what a request would find: it is ahead of the ledger. Nil without billing.
	desk func(ledger.Account) (balance, held nanoton.Amount, ok bool)
	// shared says that other gateways spend from the ledger too; then the desk knows its own part only.
	shared  bool
	vault   *vault                         // nil: no chain
	rate    func() (*rates.Rate, *usdView) // nil: no dollars
	log     *slog.Logger
	refuse  func(http.ResponseWriter, *openai.Error)
	answer  func(http.ResponseWriter, any)
	reports chan struct{} // one place for each report at once; reportsMax
}

// accountView is what the answer says of an account.
type accountView struct {
	Account   string `json:"account"`
	Balance   int64  `json:"balance_nanoton"` // with what is held
	Held      int64  `json:"held_nanoton"`    // by requests that run at this gateway
	Available int64  `json:"available_nanoton"`
	Suspended string `json:"suspended,omitempty"` // why
	// Deposit is where money goes in; nil without the chain. Tab is the customer's own contract, if he has one.
	Deposit *depositView `json:"deposit,omitempty"`
	Tab     *tabView     `json:"tab,omitempty"`
	USD     *usdBalance  `json:"usd,omitempty"`
}

// keyView is what answers say of a key.
type keyView struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Account string          `json:"account"`
	Created time.Time       `json:"created"`
	Expires *time.Time      `json:"expires"`
	Revoked *time.Time      `json:"revoked"`
	Older   []time.Time     `json:"older_texts_until,omitempty"` // after a rotation
	Scopes  []string        `json:"scopes"`
	Models  []string        `json:"models"` // patterns; empty: all
	Limits  accounts.Limits `json:"limits"` // that count, wherever they are set
	Running int64           `json:"running"`
	Budget  *budgetView     `json:"budget"`
	Cap     accounts.Cap    `json:"price_cap_nanoton_per_mtok"`
	// Provider is what its requests wish of a worker unless they say otherwise; see package wish.
	Provider json.RawMessage `json:"provider,omitempty"`
}

// budgetView is how a key's budget stands.
type budgetView struct {
	Limit    int64      `json:"limit_nanoton"`
	Reset    string     `json:"reset"`
	Resets   *time.Time `json:"resets"`
	Spent    *int64     `json:"spent_nanoton,omitempty"`    // not in lists
	Reserved *int64     `json:"reserved_nanoton,omitempty"` // not in lists
}

// viewKey describes a key. How its budget stands may have to be asked for, so lists leave it out.
func viewKey(k *accounts.Key, budget bool) keyView {
	r := k.Record()
	v := keyView{
		ID: k.ID, Name: r.Name, Account: r.Account, Created: r.Created, Expires: given(r.Expires), Revoked: given(r.Revoked),
		Scopes: r.Scopes, Models: r.Models, Limits: k.Limits(), Running: k.Running(), Cap: r.Cap,
		Provider: r.Provider,
	}
	if v.Models == nil {
		v.Models = []string{}
	}
	for _, h := range r.Hashes[:len(r.Hashes)-1] {
		v.Older = append(v.Older, h.Until)
	}
	if r.Budget > 0 {
		v.Budget = &budgetView{Limit: int64(r.Budget), Reset: cmp.Or(r.Reset, accounts.ResetNone)}
	}
	if budget && v.Budget != nil {
		b := k.Budget()
		v.Budget.Resets, v.Budget.Spent, v.Budget.Reserved = given(b.Resets), new(int64(b.Spent)), new(int64(b.Reserved))
	}
	return v
}

// given is nil for no time.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// show answers GET /cocoon/v1/account: the account and the key that asks.
func (a *accountAPI) show(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	v, err := a.view(ctx, key.Record().Account)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, struct {
		accountView
		Key keyView `json:"key"`
	}{v, viewKey(key, true)})
}

// view describes an account.
func (a *accountAPI) view(ctx context.Context, name string) (accountView, error) {
	account, err := a.book.Account(name)
	if err != nil {
		return accountView{}, err
	}
	v := accountView{Account: name, Suspended: account.Reason}
	known := false
	if a.desk != nil {
		var balance, held nanoton.Amount
		balance, held, known = a.desk(account.Ledger())
		v.Balance, v.Held = int64(balance), int64(held)
	}
	if !known || a.shared {
		balance, err := a.book.Balance(ctx, name)
		if err != nil {
			return v, err
		}
		v.Balance = int64(balance)
	}
	v.Available = max(v.Balance-v.Held, 0)
	if a.rate != nil {
		if r, view := a.rate(); r != nil {
			v.USD = &usdBalance{*view, r.USD(nanoton.Amount(v.Balance)), r.USD(nanoton.Amount(v.Available))}
		}
	}
	return v, a.onChain(ctx, account, &v)
}

// usage answers GET /cocoon/v1/usage: the account's, of all its keys.
func (a *accountAPI) usage(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	q, err := readReport(r.URL.Query())
	if err == nil && q.Account != "" {
		err = openai.BadRequest("account", "a key sees its own account only")
	}
	if err != nil {
		a.refuse(w, err)
		return
	}
	q.Account = key.Record().Account
	if q.From == "" {
		q.From = time.Now().UTC().AddDate(0, 0, -reportDays).Format(time.DateOnly)
	}
	a.report(w, r, q)
}

// reportQuery is a report and the form that it is asked for in.
type reportQuery struct {
	accounts.Query
	csv bool
}

// readReport reads a report's parameters: account, key, from, to, by and format.
func readReport(values url.Values) (q reportQuery, e *openai.Error) {
	for name, all := range values {
		v := all[0]
		switch {
		case len(all) > 1:
			return q, openai.BadRequest(clip(name, 40), "given more than once")
		case name == "account":
			q.Account = v
		case name == "key":
			q.Key = v
		case name == "from":
			q.From = v
		case name == "to":
			q.To = v
		case name == "by":
			q.By = strings.Split(v, ",")
		case name == "format" && (v == "csv" || v == "json"):
			q.csv = v == "csv"
		case name == "format":
			return q, openai.BadRequest(name, "want json or csv")
		default:
			return q, openai.BadRequest(clip(name, 40), "no such parameter; there are from, to, by, key and format")
		}
	}
	if q.By == nil {
		q.By = []string{accounts.ByDay}
	}
	if err := q.Check(); err != nil {
		return q, openai.BadRequest("", "%v", err)
	}
	return q, nil
}

// read decodes a request's JSON; false if it was refused.
func (a *accountAPI) read(w http.ResponseWriter, r *http.Request, v any) bool {
	text, ok := a.body(w, r)
	if !ok {
		return false
	}
	if err := strictjson.Decode(text, v); err != nil {
		a.refuse(w, openai.BadRequest("", "the body: %v", err))
		return false
	}
	return true
}

func (a *accountAPI) body(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		a.refuse(w, openai.NewError(http.StatusUnsupportedMediaType, "unsupported_media_type", "send JSON, with Content-Type: application/json"))
		return nil, false
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, askBodyMax))
	if err != nil {
		a.refuse(w, openai.NewError(http.StatusRequestEntityTooLarge, "request_too_large", "the body does not arrive, or is larger than %d MiB", askBodyMax>>20))
		return nil, false
	}
	return text, true
}

// usageRow is a row of a report.
type usageRow struct {
	Day       string `json:"day,omitempty"`
	Account   string `json:"account,omitempty"`
	Model     string `json:"model,omitempty"`
	Key       string `json:"key,omitempty"`
	User      string `json:"user,omitempty"`
	Requests  int64  `json:"requests"`
	Input     int64  `json:"input_tokens"` // cached ones too
	Cached    int64  `json:"cached_tokens"`
	Output    int64  `json:"output_tokens"` // reasoning too
	Reasoning int64  `json:"reasoning_tokens"`
	Cost      int64  `json:"cost_nanoton"`
}

func viewRow(r accounts.Row) usageRow {
	return usageRow{
		Day: r.Day, Account: r.Account, Model: r.Model, Key: r.Key, User: r.User, Requests: r.Requests,
		Input: r.Tokens.In, Cached: r.Tokens.Cached, Output: r.Tokens.Out, Reasoning: r.Tokens.Reasoning, Cost: int64(r.Cost),
	}
}

// report answers with usage.
func (a *accountAPI) report(w http.ResponseWriter, r *http.Request, q reportQuery) {
	select {
	case a.reports <- struct{}{}:
		defer func() { <-a.reports }()
	default:
		e := openai.NewError(http.StatusServiceUnavailable, "server_is_overloaded", "others ask for their usage at this moment; try again soon")
		e.RetryAfter = time.Second
		a.refuse(w, e)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	rows, total, err := a.book.Report(ctx, q.Query)
	if err != nil {
		a.fail(w, err)
		return
	}
	if q.csv {
		h := w.Header()
		h.Set("Content-Type", "text/csv; charset=utf-8")
		h.Set("Content-Disposition", `attachment; filename="usage.csv"`)
		_ = accounts.WriteCSV(w, q.By, rows) // the client may be gone
		return
	}
	list := make([]usageRow, 0, len(rows))
	for i := range rows {
		list = append(list, viewRow(rows[i]))
	}
	a.answer(w, struct {
		Object string     `json:"object"`
		From   string     `json:"from,omitempty"`
		To     string     `json:"to,omitempty"`
		By     []string   `json:"by"`
		Data   []usageRow `json:"data"`
		Total  usageRow   `json:"total"`
	}{"list", q.From, q.To, q.By, list, viewRow(total)})
}

// fail says what an error of the book means.
func (a *accountAPI) fail(w http.ResponseWriter, err error) {
	e := openai.NewError(http.StatusServiceUnavailable, "ledger_unavailable", "the ledger can't be asked at the moment; try again soon")
	e.RetryAfter = time.Second
	switch {
	case errors.Is(err, accounts.ErrNoAccount), errors.Is(err, accounts.ErrNoKey), errors.Is(err, treasury.ErrUnknown), errors.Is(err, tabs.ErrNone):
		e = openai.NewError(http.StatusNotFound, "not_found", "%v", err)
	case errors.Is(err, accounts.ErrExists), errors.Is(err, accounts.ErrBusy), errors.Is(err, treasury.ErrTaken), errors.Is(err, treasury.ErrFinal),
		errors.Is(err, tabs.ErrOwner):
		e = openai.NewError(http.StatusConflict, "conflict", "%v", err)
	case errors.Is(err, ledger.ErrConflict):
		e = openai.NewError(http.StatusConflict, "conflict", "another amount was granted under this id")
	case errors.Is(err, accounts.ErrInvalid), errors.Is(err, ledger.ErrInvalid), errors.Is(err, accounts.ErrTooMany), errors.Is(err, treasury.ErrInvalid),
		errors.Is(err, treasury.ErrTooSmall), errors.Is(err, tab.ErrTerms):
		e = openai.BadRequest("", "%v", err)
	default:
		a.log.Error("asking the ledger failed", "err", err)
	}
	a.refuse(w, e)
}
