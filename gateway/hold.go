package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strconv"
	"time"

	"cocoon/billing"
	"cocoon/gateway/accounts"
	"cocoon/gateway/clerk"
	"cocoon/internal/nanoton"
	"cocoon/internal/openai"
	"cocoon/internal/receipt"
	"cocoon/router"
	"cocoon/router/offer"
)

const (
	// templateTokens is what an engine's chat template may add to the text of a request: default system prompts and the
	// words around tools are a few hundred tokens.
	templateTokens = 1024
	// clampMin is the shortest answer, tokens, that an account's last money is spent on.
	clampMin = 16
	// clampTries bounds the holds that are tried for less: others may take the money in between.
	clampTries = 3
	// heldRetry is what clients are told to wait when the money is there, but not here.
	heldRetry = time.Second
)

// need is what an attempt may cost at most.
type need struct {
	price   offer.Price // the customer's
	in, out int64       // tokens, of all answers
	ceiling nanoton.Amount
}

// need is what the request needs at a worker. A token is a byte of text at least; what pictures and sounds take nobody
// can tell from their size.
func (c *call) need(l *router.Grant) (need, error) {
	window := int64(l.Offer.ContextTokens)
	n := need{price: l.Price, in: window, out: window}
	if !c.media {
		n.in = min(window, int64(len(c.body.bytes()))+templateTokens)
	}
	if c.head.Limit > 0 {
		n.out = min(window, c.head.Limit)
	}
	n.out *= c.head.N
	err := n.setCeiling()
	return n, err
}

func (n *need) setCeiling() (err error) {
	n.ceiling, err = n.price.Ceiling(n.in, n.out)
	return err
}

// hold holds the money for the attempt at hand. What is there for a shorter answer is spent on that.
func (c *call) hold() *failure {
	if c.s.money.clerk == nil {
		return nil
	}
	n, err := c.need(&c.up.lease.Grant)
	if err != nil {
		return errFault("price", err)
	}
	for try := 1; ; try++ {
		err := c.holdOnce(&n)
		if err == nil {
			return nil
		}
		if try == clampTries || c.parked != nil || !c.clamp(&n, err) {
			return c.unheld(err)
		}
	}
}

// holdOnce tries to hold what is needed, of the key's budget and of the account.
func (c *call) holdOnce(n *need) error {
	if err := c.key.Reserve(n.ceiling); err != nil {
		return err
	}
	t := c.agreed(n)
	bill, err := c.s.money.clerk.Hold(c.r.Context(), &t, n.ceiling)
	if err != nil {
		c.key.Release(n.ceiling, 0)
		return err
	}
	c.bill, c.terms = bill, c.up.lease.Handle.dealLine(t.Deal())
	return nil
}

// dealLine is what a worker is told of a request's terms: a header's line, after the end of the one before.
type dealLine struct {
	deal receipt.Deal
	text string
}

// dealLine is that of a deal with this worker.
func (m *member) dealLine(d receipt.Deal) string {
	if last := m.deal.Load(); last != nil && last.deal == d {
		return last.text
	}
	line := &dealLine{d, "\r\n" + receipt.DealHeader + ": " + d.String()}
	m.deal.Store(line)
	return line.text
}

// agreed is what the attempt is held at.
func (c *call) agreed(n *need) clerk.Terms {
	l := &c.up.lease
	key, ceiling := c.key, n.ceiling
	return clerk.Terms{
		Request: c.attemptID(), Account: key.Account(), Key: key.ID, User: c.user(),
		Worker: receipt.Digest(l.Worker), Keyset: *l.Handle.keyset.Load(), Model: c.want.Model,
		Mode: receipt.Mode(c.s.mode(l.Handle)), Ask: l.Offer.Price, Price: n.price,
		InMax: n.in, OutMax: n.out, Req: sha256.Sum256(c.body.bytes()),
		Closed: func(cost nanoton.Amount, _ offer.Usage) { key.Release(ceiling, cost) },
	}
}

// attemptID is the request's name with the number of the attempt: each is a request of its own to worker and ledger.
func (c *call) attemptID() string {
	if c.attempts == 0 {
		return c.id
	}
	return c.id[:len(c.id)-1] + strconv.Itoa(c.attempts)
}

// user is the end user that the client names, in the body or in a header. As in a body, a header that names none is no fault.
func (c *call) user() string {
	if c.head.User != "" {
		return c.head.User
	}
	if h := c.r.Header[headerUser]; len(h) == 1 && accounts.ValidUser(h[0]) {
		return h[0]
	}
	return ""
}

// clamp makes do with what is there; false if that is too little.
func (c *call) clamp(n *need, why error) bool {
	var free nanoton.Amount
	if funds, ok := errors.AsType[*billing.FundsError](why); ok && errors.Is(why, billing.ErrFunds) {
		free = funds.Balance - funds.Held
	} else if budget, ok := errors.AsType[*accounts.BudgetError](why); ok {
		free = budget.Budget - budget.Spent - budget.Reserved
	} else {
		return false
	}
	each := n.price.Affords(free, n.in) / c.head.N
	if each < clampMin || each*c.head.N >= n.out {
		return false
	}
	n.out = each * c.head.N
	c.body.set(c.head.WithLimit(c.body.bytes(), each))
	c.w.Header()[headerMaxTokens] = []string{strconv.FormatInt(each, 10)}
	return n.setCeiling() == nil
}

// unheld says why there is no hold.
func (c *call) unheld(err error) *failure {
	f := &failure{outcome: router.Served, reason: "funds", final: true, cause: err}
	switch {
	case c.r.Context().Err() != nil:
		return errClientGone()
	case errors.Is(err, billing.ErrFunds):
		funds, _ := errors.AsType[*billing.FundsError](err) // nothing else is ErrFunds
		f.err = errFunds(funds)
	case errors.Is(err, clerk.ErrKeyset): // it is being attested anew
		return &failure{outcome: router.WorkerBusy, reason: "keyset", err: errBusy(), cause: err}
	case errors.Is(err, billing.ErrElsewhere), errors.Is(err, billing.ErrUnavailable), errors.Is(err, billing.ErrBacklog),
		errors.Is(err, clerk.ErrBacklog), errors.Is(err, accounts.ErrUnread), errors.Is(err, context.DeadlineExceeded):
		f.reason = "ledger"
		f.err = openai.NewError(http.StatusServiceUnavailable, "billing_unavailable", "your balance can't be asked for at the moment; try again soon")
		f.err.RetryAfter = heldRetry
	default:
		if budget, ok := errors.AsType[*accounts.BudgetError](err); ok {
			f.reason, f.err = "budget", errBudget(budget)
			break
		}
		f.reason = "ledger"
		f.err = openai.NewError(http.StatusInternalServerError, "billing_failed", "the request could not be booked, so it was not served")
	}
	return f
}

// errFunds is a 402: the money is not there, however often a client tries.
func errFunds(funds *billing.FundsError) *openai.Error {
	e := openai.NewError(http.StatusPaymentRequired, "insufficient_balance",
		"the account has too little money for this request: balance %v, held for running requests %v, needed %v for the longest answer; "+
			"lower max_tokens, wait for running requests, or add money", funds.Balance, funds.Held, funds.Needed)
	e.NoRetry = true
	return e
}

// errBudget is a 402 of the key's own limit; the account may have money.
func errBudget(b *accounts.BudgetError) *openai.Error {
	e := openai.NewError(http.StatusPaymentRequired, "key_budget_exceeded",
		"this API key's budget does not cover this request: budget %v, spent %v, held for running requests %v, needed %v", b.Budget, b.Spent, b.Reserved, b.Needed)
	if !b.Resets.IsZero() {
		e.Message += "; it starts anew at " + b.Resets.UTC().Format(time.RFC3339)
	}
	e.NoRetry = true
	return e
}

// closeBill ends the attempt's bill by how the attempt ended, and says what it costs, if that is known.
func (c *call) closeBill(f *failure) (cost nanoton.Amount, known bool) {
	if c.bill == nil {
		return 0, false
	}
	cost, _, known = c.bill.Final()
	c.bill.Relayed(c.stream.relayed, c.stream.bytes)
	how := clerk.Done
	switch {
	case f == nil:
	case f.outcome == router.ClientGone && c.up.asked:
		how = clerk.Left
	case c.delivered && (f.reason == "connection" || f.reason == "no_finish"):
		how = clerk.Cut
	default:
		how = clerk.Failed
	}
	if how == clerk.Failed || how == clerk.Done && !known {
		cost, known = 0, true // it is void
	}
	c.bill.Close(how)
	c.bill, c.terms = nil, ""
	return cost, known
}

// takeReceipt takes a receipt that came with the answer.
func (c *call) takeReceipt(wire []byte) *failure {
	if c.bill == nil {
		return nil // nobody asked for it
	}
	if err := c.bill.Take(wire); err != nil {
		return errFault("receipt", err)
	}
	return nil
}
