package gateway

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"rsc.io/qr"

	"cocoon/billing/tabs"
	"cocoon/billing/ton"
	"cocoon/billing/treasury"
	"cocoon/gateway/accounts"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
)

// withdrawalIDMax bounds the name that a customer gives a withdrawal, bytes: a UUID with words around it.
const withdrawalIDMax = 64

// depositView says how a customer pays in. A payment without the memo is nobody's.
type depositView struct {
	Address string `json:"address"`
	Memo    string `json:"memo"`
	Link    string `json:"link"`         // ton://transfer/... with both
	QR      string `json:"qr,omitempty"` // of the link, a picture as a data: URL
}

// pictureOf is a text as a QR code, PNG in a data: URL; empty if it is too long for one.
func pictureOf(text string) string {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return ""
	}
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(code.PNG())
}

// tabView is a customer's tab.
type tabView struct {
	Address string     `json:"address"`
	Owner   string     `json:"owner"`
	Balance int64      `json:"balance_nanoton"`
	Drawn   int64      `json:"drawn_nanoton"`
	Locked  int64      `json:"locked_nanoton"` // of the balance: not to be spent
	CloseAt *time.Time `json:"closing_at,omitempty"`
	Stopped string     `json:"stopped,omitempty"` // why it is left alone
}

func viewTab(t *tabs.Tab) *tabView {
	return &tabView{
		Address: t.Address.String(), Owner: t.Terms.Owner.String(), Balance: int64(t.Balance), Drawn: int64(t.Drawn),
		Locked: int64(t.Locked), CloseAt: given(t.CloseAt), Stopped: t.Stopped,
	}
}

// withdrawalView is money on its way out.
type withdrawalView struct {
	ID     string    `json:"id"` // of the payout; its payment carries it as comment
	To     string    `json:"to"`
	Amount int64     `json:"nanoton"`
	State  string    `json:"state"`
	Why    string    `json:"why,omitempty"`
	Held   string    `json:"held,omitempty"`
	Asked  time.Time `json:"asked"`
	LT     uint64    `json:"lt,omitempty"`
	Hash   string    `json:"hash,omitempty"`
}

func viewWithdrawal(p *treasury.Payout) withdrawalView {
	return withdrawalView{
		ID: p.ID, To: p.To.String(), Amount: int64(p.Amount), State: string(p.State), Why: p.Why, Held: p.Held, Asked: p.Asked,
		LT: p.LT, Hash: p.Hash,
	}
}

// onChain adds to an account what the chain has of it.
func (a *accountAPI) onChain(ctx context.Context, account accounts.Account, v *accountView) error {
	if a.vault == nil {
		return nil
	}
	d := a.vault.treasury.Deposit(account.Name)
	v.Deposit = &depositView{d.Address.String(), d.Memo, d.Link, pictureOf(d.Link)}
	if a.vault.tabs == nil {
		return nil
	}
	t, err := a.vault.tabs.Tab(ctx, account.Ledger())
	switch {
	case errors.Is(err, tabs.ErrNone):
		return nil
	case err != nil:
		return err
	}
	v.Tab = viewTab(&t)
	return nil
}

// noChain refuses where there is nothing of the chain.
func (a *accountAPI) noChain(w http.ResponseWriter) bool {
	if a.vault != nil {
		return false
	}
	a.refuse(w, openai.NewError(http.StatusNotFound, "no_chain", "this gateway is not connected to the chain"))
	return true
}

// withdraw answers POST /cocoon/v1/account/withdrawals: money goes to an address. The customer names the withdrawal, so
// that asking again changes nothing.
func (a *accountAPI) withdraw(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	var in struct {
		ID     string         `json:"id"`
		To     string         `json:"to"`
		Amount nanoton.Amount `json:"nanoton"`
	}
	if a.noChain(w) || !a.read(w, r, &in) {
		return
	}
	to, err := ton.ParseAddress(in.To)
	if err != nil {
		a.refuse(w, openai.BadRequest("to", "not an address on TON"))
		return
	}
	if in.ID == "" || len(in.ID) > withdrawalIDMax {
		a.refuse(w, openai.BadRequest("id", "want a name of 1 to %d bytes that you choose, the same if you ask again", withdrawalIDMax))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	p := treasury.Payout{
		ID:      treasury.PayoutID("withdrawal", key.Record().Account, in.ID),
		Account: key.Account(), To: to, Amount: in.Amount, Reason: "withdrawal",
	}
	if err := a.vault.treasury.Ask(ctx, p); err != nil {
		a.fail(w, err)
		return
	}
	if p, err = treasury.Find(ctx, a.vault.ledger, p.ID); err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, viewWithdrawal(&p))
}

// withdrawals answers GET /cocoon/v1/account/withdrawals, oldest first.
func (a *accountAPI) withdrawals(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	if a.noChain(w) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	list, err := treasury.Payouts(ctx, a.vault.ledger, treasury.Filter{Account: key.Account()})
	if err != nil {
		a.fail(w, err)
		return
	}
	stopped := a.vault.treasury.Status().Stopped != ""
	views := make([]withdrawalView, 0, len(list))
	for i := range list {
		v := viewWithdrawal(&list[i])
		if stopped && v.Why == "" && (list[i].State == treasury.Asked || list[i].State == treasury.Queued) {
			v.Why = "payouts are stopped for the moment"
		}
		views = append(views, v)
	}
	a.answer(w, listView{"list", views, false})
}

// openTab answers POST /cocoon/v1/account/tab: the customer's money may be in a contract of his own from here on. What is
// sent back out of it goes to the owner whom this call names, so it takes the scope to withdraw.
func (a *accountAPI) openTab(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
	var in struct {
		Owner string         `json:"owner"`
		Limit nanoton.Amount `json:"limit_nanoton"`
	}
	if a.noTabs(w) || !a.read(w, r, &in) {
		return
	}
	owner, err := ton.ParseAddress(in.Owner)
	if err != nil {
		a.refuse(w, openai.BadRequest("owner", "not an address on TON"))
		return
	}
	limit := a.vault.cfg.TabMax
	if in.Limit < 0 || in.Limit > limit {
		a.refuse(w, openai.BadRequest("limit_nanoton", "want 0 to %d; you can raise it on the chain", int64(limit)))
		return
	}
	if in.Limit > 0 {
		limit = in.Limit
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	t, err := a.vault.tabs.Open(ctx, key.Account(), owner, limit, 0)
	if err != nil {
		a.fail(w, err)
		return
	}
	a.answer(w, viewTab(&t))
}

// showTab answers GET /cocoon/v1/account/tab, and with kit true its recovery kit.
func (a *accountAPI) showTab(kit bool) func(http.ResponseWriter, *http.Request, *accounts.Key) {
	return func(w http.ResponseWriter, r *http.Request, key *accounts.Key) {
		if a.noTabs(w) {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
		defer cancel()
		t, err := a.vault.tabs.Tab(ctx, key.Account())
		switch {
		case err != nil:
			a.fail(w, err)
		case kit:
			a.answer(w, t.Kit)
		default:
			a.answer(w, viewTab(&t))
		}
	}
}

func (a *accountAPI) noTabs(w http.ResponseWriter) bool {
	if a.noChain(w) {
		return true
	}
	if a.vault.tabs != nil && a.vault.cfg.TabMax > 0 {
		return false
	}
	a.refuse(w, openai.NewError(http.StatusNotFound, "no_tabs", "this gateway has no tabs"))
	return true
}

// treasuryView is what the operator sees of the treasury.
type treasuryView struct {
	Address    string     `json:"address"`
	Head       uint32     `json:"head_seqno"`
	At         *time.Time `json:"head_at"`
	Error      string     `json:"error,omitempty"`
	Balance    int64      `json:"balance_nanoton"` // on the chain, proven
	Books      int64      `json:"books_nanoton"`   // by the ledger
	Difference int64      `json:"difference_nanoton"`
	Network    int64      `json:"network_nanoton"` // for the network's fees; below zero: paid from others' money
	Stopped    string     `json:"stopped,omitempty"`
	Waiting    string     `json:"waiting,omitempty"`
	Asked      int        `json:"asked"`
	Queued     int        `json:"queued"`
	Batched    int        `json:"batched"`
	Held       int        `json:"held"`
	Owed       int64      `json:"owed_nanoton"`
	Suspense   int        `json:"suspense"`
	Unmatched  int        `json:"unmatched"`
	Capital    string     `json:"capital_memo"` // the comment of money that the operator puts in for fees
}

// showTreasury answers GET /admin/v1/treasury.
func (a *adminAPI) showTreasury(w http.ResponseWriter, _ *http.Request) {
	if a.noChain(w) {
		return
	}
	s := a.vault.treasury.Status()
	a.answer(w, treasuryView{
		Address: s.Address.String(), Head: s.Head, At: given(s.At), Error: s.Error, Balance: int64(s.Balance), Books: int64(s.Books),
		Difference: int64(s.Difference), Network: int64(s.Network), Stopped: s.Stopped, Waiting: s.Waiting, Asked: s.Asked,
		Queued: s.Queued, Batched: s.Batched, Held: s.Held, Owed: int64(s.Owed), Suspense: s.Suspense, Unmatched: s.Unmatched,
		Capital: treasury.MemoCapital,
	})
}

// listPayouts answers GET /admin/v1/payouts, with open=1 those that are not done.
func (a *adminAPI) listPayouts(w http.ResponseWriter, r *http.Request) {
	if a.noChain(w) {
		return
	}
	list, err := treasury.Payouts(r.Context(), a.vault.ledger, treasury.Filter{Open: r.URL.Query().Get("open") == "1"})
	if err != nil {
		a.fail(w, err)
		return
	}
	cut, more, e := page(r.URL.Query(), list, func(p treasury.Payout) string { return p.ID })
	if e != nil {
		a.refuse(w, e)
		return
	}
	type view struct {
		Account string `json:"account"`
		Reason  string `json:"reason"`
		withdrawalView
	}
	views := make([]view, 0, len(cut))
	for i := range cut {
		views = append(views, view{string(cut[i].Account), cut[i].Reason, viewWithdrawal(&cut[i])})
	}
	a.answer(w, listView{"list", views, more})
}

// changePayout answers POST /admin/v1/payouts/{id}/hold, /release and /cancel.
func (a *adminAPI) changePayout(change func(ctx context.Context, l treasury.Documents, id, why string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Why string `json:"why"`
		}
		if a.noChain(w) || !a.read(w, r, &in) {
			return
		}
		id := chi.URLParam(r, "id")
		if err := change(r.Context(), a.vault.ledger, id, in.Why); err != nil {
			a.fail(w, err)
			return
		}
		p, err := treasury.Find(r.Context(), a.vault.ledger, id)
		if err != nil {
			a.fail(w, err)
			return
		}
		a.answer(w, viewWithdrawal(&p))
	}
}
